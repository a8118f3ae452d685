#include "storage/store_internal.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t single_key[1] = {0};

MDB_val txn_key(enum table table, const struct key *k)
{
    if (k->n)
        return (MDB_val){k->n, (void *)k->bytes};
    assert(table_info(table)->is_single);
    return (MDB_val){sizeof single_key, (void *)single_key};
}

/* The first error stays. Whatever it is, the store cannot go on: a failed write or damaged data. */
void txn_fail(struct store_txn *t, int code, const char *format, ...)
{
    if (t->error)
        return;
    t->error = code;
    char detail[256];
    va_list ap;
    va_start(ap, format);
    vsnprintf(detail, sizeof detail, format, ap);
    va_end(ap);
    store_fatal(t->store, code, "%s", detail);
}

/* LMDB answers a short write, as a full disk gives, with EIO. */
static int write_error(struct store *s, int rc)
{
    int code = store_mdb_error(rc);
    return code == ERR_IO && store_free_bytes(s) < 1 << 20 ? ERR_NOSPACE : code;
}

static void fail_mdb(struct store_txn *t, int rc, const char *what, enum table table)
{
    txn_fail(t, write_error(t->store, rc), "%s in table %s: %s", what, table_name(table), mdb_strerror(rc));
}

int store_txn_error(const struct store_txn *t)
{
    return t->error;
}

/* ---- write transactions ---- */

static void write_section_enter(struct store *s)
{
    pthread_mutex_lock(&s->lock);
    assert(!s->is_writing);
    s->is_writing = true;
    pthread_mutex_unlock(&s->lock);
}

static void write_section_leave(struct store *s, uint64_t n_bytes)
{
    pthread_mutex_lock(&s->lock);
    s->is_writing = false;
    s->n_ended++;
    if (point_after_commit(s, n_bytes) || s->n_waiting)
        pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

struct store_txn *store_begin(struct store *s)
{
    struct store_txn *t = &s->write_txn;
    struct buf scratch = t->scratch, old_scratch = t->old_scratch;
    memset(t, 0, sizeof *t);
    t->scratch = scratch;
    t->old_scratch = old_scratch;
    t->store = s;
    t->is_write = true;
    memcpy(t->sums, s->sums, sizeof t->sums);
    write_section_enter(s);
    if (atomic_load(&s->is_dead)) {
        t->error = ERR_IO;
        return t;
    }
    int rc = mdb_txn_begin(s->env, NULL, 0, &t->txn);
    if (rc) {
        t->txn = NULL;
        txn_fail(t, store_mdb_error(rc), "begin of a write transaction: %s", mdb_strerror(rc));
    }
    return t;
}

void store_abort(struct store_txn *t)
{
    assert(t->is_write);
    if (t->txn) {
        if (atomic_load(&t->store->scrub_on))
            scrub_forget(t->store, mdb_txn_id(t->txn));
        mdb_txn_abort(t->txn);
    }
    t->txn = NULL;
    write_section_leave(t->store, 0);
}

int store_commit(struct store_txn *t, struct err_ctx *err)
{
    struct store *s = t->store;
    sums_flush(t);
    if (!t->error) {
        int rc = mdb_txn_commit(t->txn); /* ends the transaction in every case */
        t->txn = NULL;
        if (rc)
            txn_fail(t, write_error(s, rc), "commit: %s", mdb_strerror(rc));
    }
    if (t->error) {
        int code = t->error;
        store_abort(t);
        return err_set(err, code, "store transaction failed");
    }
    memcpy(s->sums, t->sums, sizeof s->sums);
    if (t->has_index)
        atomic_store(&s->applied_index, t->index);
    write_section_leave(s, t->n_bytes);
    return 0;
}

void store_set_observer(struct store_txn *t, store_observer_fn *fn, void *user)
{
    t->observer = fn;
    t->observer_user = user;
}

/* ---- readers ---- */

struct store_reader *store_reader_new(struct store *s)
{
    struct store_reader *r = mem_new(struct store_reader);
    r->txn.store = s;
    return r;
}

void store_reader_free(struct store_reader *r)
{
    if (!r)
        return;
    if (r->txn.txn)
        mdb_txn_abort(r->txn.txn);
    mem_free(r);
}

struct store_txn *store_read_txn(struct store_reader *r)
{
    struct store_txn *t = &r->txn;
    if (r->has_snapshot)
        return t;
    t->error = 0;
    int rc = t->txn ? mdb_txn_renew(t->txn) : mdb_txn_begin(t->store->env, NULL, MDB_RDONLY, &t->txn);
    if (rc) {
        txn_fail(t, store_mdb_error(rc), "begin of a read transaction: %s", mdb_strerror(rc));
        return t;
    }
    r->has_snapshot = true;
    r->has_index = false;
    return t;
}

void store_reader_reset(struct store_reader *r)
{
    if (r->has_snapshot)
        mdb_txn_reset(r->txn.txn);
    r->has_snapshot = false;
}

uint64_t store_reader_index(struct store_reader *r)
{
    struct store_txn *t = store_read_txn(r);
    if (!r->has_index) {
        struct store_position p;
        store_get_position(t, &p, NULL);
        r->index = p.applied_index;
        r->has_index = true;
    }
    return r->index;
}

/* ---- rows ---- */

/* A write transaction keeps one cursor per table: reading the old row leaves it on the page that the put
 * needs. */
static MDB_cursor *write_cursor(struct store_txn *t, enum table table)
{
    if (!t->cursors[table]) {
        int rc = mdb_cursor_open(t->txn, t->store->dbi[table], &t->cursors[table]);
        if (rc)
            fail_mdb(t, rc, "cursor", table);
    }
    return t->error ? NULL : t->cursors[table];
}

static int raw_get(struct store_txn *t, enum table table, MDB_val *key, const void **row, size_t *n)
{
    MDB_val value;
    int rc;
    if (t->is_write) {
        MDB_cursor *c = write_cursor(t, table);
        if (!c)
            return t->error;
        rc = mdb_cursor_get(c, key, &value, MDB_SET);
    } else {
        rc = mdb_get(t->txn, t->store->dbi[table], key, &value);
    }
    if (rc == MDB_NOTFOUND)
        return ERR_NOTFOUND;
    if (rc)
        fail_mdb(t, rc, "read", table);
    else if (row_check(key, &value, row, n))
        txn_fail(t, ERR_CORRUPT, "wrong checksum of a row in table %s", table_name(table));
    return t->error;
}

int store_get(struct store_txn *t, enum table table, const struct key *k, const void **row, size_t *n)
{
    if (t->error)
        return t->error;
    MDB_val key = txn_key(table, k);
    return raw_get(t, table, &key, row, n);
}

bool store_has(struct store_txn *t, enum table table, const struct key *k)
{
    const void *row;
    size_t n;
    return store_get(t, table, k, &row, &n) == 0;
}

/* OLD and NOW: hash of the row before and after, NULL for none. */
static void row_changed(struct store_txn *t, enum table table, const struct key *k, const MDB_val *key,
                        const struct store_hash *old, const struct store_hash *now)
{
    t->n_changes++;
    if (table_info(table)->scope == SCOPE_LOCAL)
        return;
    struct table_sum *sum = &t->sums[table];
    if (old)
        hash_sub(&sum->hash, old);
    if (now)
        hash_add(&sum->hash, now);
    sum->n_rows += !!now - !!old;
    t->sum_changed[table] = true;
    if (atomic_load(&t->store->scrub_on))
        scrub_note(t->store, mdb_txn_id(t->txn), table, key, old, now);
    if (t->observer && !table_info(table)->is_quiet)
        t->observer(t->observer_user, table, k, !now);
}

void store_put(struct store_txn *t, enum table table, const struct key *k, const void *row, size_t n)
{
    assert(t->is_write);
    if (t->error)
        return;
    MDB_val key = txn_key(table, k), value;
    const void *old_row;
    size_t n_old;
    struct store_hash old, now;
    int rc = raw_get(t, table, &key, &old_row, &n_old);
    if (rc && rc != ERR_NOTFOUND)
        return;
    bool had = rc == 0;
    if (had && n_old == n && !memcmp(old_row, row, n))
        return; /* no change: no write, no feed event */
    bool hashed = table_info(table)->scope != SCOPE_LOCAL;
    if (had && hashed) {
        row_layout(&t->old_scratch, &key, old_row, n_old, &value);
        row_hash(&t->old_scratch, &old);
    }
    row_layout(&t->scratch, &key, row, n, &value);
    if (hashed)
        row_hash(&t->scratch, &now);
    if ((rc = mdb_cursor_put(t->cursors[table], &key, &value, 0))) {
        fail_mdb(t, rc, "put", table);
        return;
    }
    t->n_bytes += value.mv_size + key.mv_size;
    row_changed(t, table, k, &key, had ? &old : NULL, &now);
}

bool store_delete(struct store_txn *t, enum table table, const struct key *k)
{
    assert(t->is_write);
    if (t->error)
        return false;
    MDB_val key = txn_key(table, k), value;
    const void *row;
    size_t n;
    struct store_hash old;
    if (raw_get(t, table, &key, &row, &n))
        return false;
    if (table_info(table)->scope != SCOPE_LOCAL) {
        row_layout(&t->old_scratch, &key, row, n, &value);
        row_hash(&t->old_scratch, &old);
    }
    int rc = mdb_cursor_del(t->cursors[table], 0);
    if (rc) {
        fail_mdb(t, rc, "delete", table);
        return false;
    }
    row_changed(t, table, k, &key, &old, NULL);
    return true;
}

/* ---- typed rows ---- */

static void *arena_pb_alloc(void *arena, size_t n)
{
    return arena_alloc(arena, n);
}

static void arena_pb_free(void *arena, void *p)
{
    (void)arena, (void)p;
}

void arena_protobuf_allocator(struct arena *a, void *out_allocator)
{
    *(ProtobufCAllocator *)out_allocator = (ProtobufCAllocator){arena_pb_alloc, arena_pb_free, a};
}

void *store_unpack(enum table table, const void *row, size_t n, struct arena *a)
{
    ProtobufCAllocator allocator;
    arena_protobuf_allocator(a, &allocator);
    return protobuf_c_message_unpack(table_info(table)->row, &allocator, n, row);
}

void *store_find_row(struct store_txn *t, enum table table, const struct key *k, struct arena *a)
{
    const void *row;
    size_t n;
    if (store_get(t, table, k, &row, &n))
        return NULL;
    void *message = store_unpack(table, row, n, a);
    if (!message)
        txn_fail(t, ERR_CORRUPT, "a row of table %s is no %s", table_name(table),
                 table_info(table)->row->short_name);
    return message;
}

void store_put_row(struct store_txn *t, enum table table, const struct key *k, const void *message)
{
    const ProtobufCMessage *m = message;
    assert(m->descriptor == table_info(table)->row);
    uint8_t small[1024];
    size_t n = protobuf_c_message_get_packed_size(m);
    uint8_t *packed = n <= sizeof small ? small : mem_alloc(n);
    protobuf_c_message_pack(m, packed);
    store_put(t, table, k, packed, n);
    if (packed != small)
        mem_free(packed);
}

/* ---- position ---- */

/* META row "position": value = applied index; data = term, index of the configuration, configuration. */
enum { POSITION_FIXED_BYTES = 16 };

void position_key(struct key *k)
{
    key_init(k);
    key_str(k, "position");
}

void store_set_position(struct store_txn *t, const struct store_position *p)
{
    struct buf data = {0};
    buf_add_u64(&data, p->applied_term);
    buf_add_u64(&data, p->conf_index);
    if (p->n_conf)
        buf_add(&data, p->conf, p->n_conf);
    Imp__MetaRow m = IMP__META_ROW__INIT;
    m.value = p->applied_index;
    m.data.data = (uint8_t *)data.data;
    m.data.len = data.n;
    struct key k;
    position_key(&k);
    store_put_row(t, TABLE_META, &k, &m);
    buf_fini(&data);
    t->has_index = true;
    t->index = p->applied_index;
}

/* A may be NULL: then the configuration is left out. */
int position_decode(const void *row, size_t n, struct store_position *out, struct arena *a)
{
    Imp__MetaRow *m = imp__meta_row__unpack(NULL, n, row);
    if (!m || m->data.len < POSITION_FIXED_BYTES) {
        if (m)
            imp__meta_row__free_unpacked(m, NULL);
        return ERR_CORRUPT;
    }
    struct reader r;
    reader_init(&r, m->data.data, m->data.len);
    *out = (struct store_position){.applied_index = m->value};
    out->applied_term = read_u64(&r);
    out->conf_index = read_u64(&r);
    out->n_conf = a ? reader_left(&r) : 0;
    if (out->n_conf) {
        out->conf = arena_alloc(a, out->n_conf);
        memcpy(out->conf, r.p, out->n_conf);
    }
    imp__meta_row__free_unpacked(m, NULL);
    return 0;
}

void store_get_position(struct store_txn *t, struct store_position *out, struct arena *a)
{
    *out = (struct store_position){0};
    struct key k;
    position_key(&k);
    const void *row;
    size_t n;
    int rc = store_get(t, TABLE_META, &k, &row, &n);
    if (!rc && position_decode(row, n, out, a))
        txn_fail(t, ERR_CORRUPT, "the position row cannot be read");
}
