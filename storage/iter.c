#include "storage/store_internal.h"
#include <assert.h>
#include <string.h>

void store_iter_init(struct store_iter *i, struct store_txn *t, enum table table, const struct key *prefix)
{
    memset(i, 0, sizeof *i);
    i->txn = t;
    i->table = table;
    if (prefix) {
        i->prefix.n = i->at.n = prefix->n;
        memcpy(i->prefix.bytes, prefix->bytes, prefix->n);
        memcpy(i->at.bytes, prefix->bytes, prefix->n);
    }
}

void store_iter_descending(struct store_iter *i)
{
    assert(!i->started);
    i->descending = true;
}

void store_iter_seek(struct store_iter *i, const struct key *from)
{
    i->at.n = from->n;
    memcpy(i->at.bytes, from->bytes, from->n);
    i->started = i->ended = false;
    i->has_from = true;
}

void store_iter_fini(struct store_iter *i)
{
    if (i->cursor)
        mdb_cursor_close(i->cursor);
    i->cursor = NULL;
}

/* The smallest key above all that begin with the prefix; false if there is none. */
static bool prefix_end(const struct key *prefix, struct key *out)
{
    out->n = prefix->n;
    memcpy(out->bytes, prefix->bytes, prefix->n);
    while (out->n && out->bytes[out->n - 1] == 0xff)
        out->n--;
    if (!out->n)
        return false;
    out->bytes[out->n - 1]++;
    return true;
}

static int compare(const MDB_val *key, const struct key *k)
{
    size_t n = key->mv_size < k->n ? key->mv_size : k->n;
    int c = memcmp(key->mv_data, k->bytes, n);
    return c ? c : (key->mv_size > k->n) - (key->mv_size < k->n);
}

/* First key >= K (> K with AFTER). */
static int seek_up(struct store_iter *i, const struct key *k, bool after, MDB_val *key, MDB_val *value)
{
    if (!k->n)
        return mdb_cursor_get(i->cursor, key, value, MDB_FIRST);
    *key = (MDB_val){k->n, (void *)k->bytes};
    int rc = mdb_cursor_get(i->cursor, key, value, MDB_SET_RANGE);
    if (!rc && after && !compare(key, k))
        rc = mdb_cursor_get(i->cursor, key, value, MDB_NEXT);
    return rc;
}

/* Last key < K (<= K with INCLUDING). */
static int seek_down(struct store_iter *i, const struct key *k, bool including, MDB_val *key, MDB_val *value)
{
    *key = (MDB_val){k->n, (void *)k->bytes};
    int rc = mdb_cursor_get(i->cursor, key, value, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND)
        return mdb_cursor_get(i->cursor, key, value, MDB_LAST);
    if (rc || (including && !compare(key, k)))
        return rc;
    return mdb_cursor_get(i->cursor, key, value, MDB_PREV);
}

static int first_step(struct store_iter *i, MDB_val *key, MDB_val *value)
{
    struct key end;
    if (!i->descending)
        return seek_up(i, &i->at, false, key, value);
    if (i->has_from)
        return seek_down(i, &i->at, true, key, value);
    if (prefix_end(&i->prefix, &end))
        return seek_down(i, &end, false, key, value);
    return mdb_cursor_get(i->cursor, key, value, MDB_LAST);
}

static int step(struct store_iter *i, MDB_val *key, MDB_val *value)
{
    if (!i->started)
        return first_step(i, key, value);
    if (i->n_changes == i->txn->n_changes)
        return mdb_cursor_get(i->cursor, key, value, i->descending ? MDB_PREV : MDB_NEXT);
    /* The table has changed under the cursor, which may now stand elsewhere: go on from the key last given.
     */
    return i->descending ? seek_down(i, &i->at, false, key, value) : seek_up(i, &i->at, true, key, value);
}

static bool matches(const struct store_iter *i, const MDB_val *key)
{
    return key->mv_size >= i->prefix.n && !memcmp(key->mv_data, i->prefix.bytes, i->prefix.n);
}

bool store_iter_next(struct store_iter *i)
{
    struct store_txn *t = i->txn;
    MDB_val key, value;
    int rc = t->error || i->ended ? MDB_NOTFOUND : 0;
    if (!rc && !i->cursor)
        rc = mdb_cursor_open(t->txn, t->store->dbi[i->table], (MDB_cursor **)&i->cursor);
    if (!rc)
        rc = step(i, &key, &value);
    if (rc && rc != MDB_NOTFOUND)
        txn_fail(t, store_mdb_error(rc), "iteration over table %s: %s", table_name(i->table),
                 mdb_strerror(rc));
    if (rc || !matches(i, &key)) {
        i->ended = true;
        store_iter_fini(i);
        return false;
    }
    if (row_check(&key, &value, &i->row, &i->n_row)) {
        txn_fail(t, ERR_CORRUPT, "wrong checksum of a row in table %s", table_name(i->table));
        store_iter_fini(i);
        return false;
    }
    i->key = key.mv_data;
    i->n_key = table_info(i->table)->is_single ? 0 : key.mv_size;
    if (t->is_write) {
        i->at.n = key.mv_size;
        memcpy(i->at.bytes, key.mv_data, key.mv_size);
    }
    i->started = true;
    i->n_changes = t->n_changes;
    return true;
}

void *store_iter_row(struct store_iter *i, struct arena *a)
{
    void *message = store_unpack(i->table, i->row, i->n_row, a);
    if (!message)
        txn_fail(i->txn, ERR_CORRUPT, "a row of table %s is no %s", table_name(i->table),
                 table_info(i->table)->row->short_name);
    return message;
}
