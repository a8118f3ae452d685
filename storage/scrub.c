/* The scrub reads a whole table in short transactions while the writer goes on, and still compares with an
 * exact hash: the writer notes what it changes, and before each slice the notes of commits that the slice's
 * snapshot holds are added to the sum, as far as they lie before the place that the walk has reached. So the
 * sum is always that of the rows up to there at the snapshot of the last slice. */
#include "base/clock.h"
#include "storage/store_internal.h"
#include <assert.h>
#include <string.h>
#include <time.h>

enum { WALK_PAGE_BYTES = 4096 };
enum { SLICE_US = 15 * 1000, PAUSE_US = 45 * 1000, ROWS_PER_LOOK = 64, NOTES_MAX = 1 << 18, TRIES = 3 };

struct note {
    uint64_t txn_id;
    struct store_hash old, now;
    bool had, has;
    struct key_copy {
        uint16_t n;
        uint8_t *bytes;
    } key;
};

struct store_scrub {
    enum table table;
    struct note *notes;
    size_t n_notes, cap;
    bool too_many;
};

/* ---- the writer's side ---- */

void scrub_note(struct store *s, uint64_t txn_id, enum table table, const MDB_val *key,
                const struct store_hash *old, const struct store_hash *now)
{
    pthread_mutex_lock(&s->scrub_lock);
    struct store_scrub *c = s->scrub;
    if (c && c->table == table && c->n_notes == NOTES_MAX)
        c->too_many = true;
    if (c && c->table == table && !c->too_many) {
        if (c->n_notes == c->cap) {
            c->cap = c->cap ? 2 * c->cap : 256;
            c->notes = mem_realloc(c->notes, c->cap * sizeof *c->notes);
        }
        struct note *n = &c->notes[c->n_notes++];
        *n = (struct note){.txn_id = txn_id, .had = old, .has = now};
        if (old)
            n->old = *old;
        if (now)
            n->now = *now;
        n->key.n = key->mv_size;
        n->key.bytes = mem_dup(key->mv_data, key->mv_size);
    }
    pthread_mutex_unlock(&s->scrub_lock);
}

/* Its id is given to the next transaction. */
void scrub_forget(struct store *s, uint64_t txn_id)
{
    pthread_mutex_lock(&s->scrub_lock);
    struct store_scrub *c = s->scrub;
    while (c && c->n_notes && c->notes[c->n_notes - 1].txn_id == txn_id)
        mem_free(c->notes[--c->n_notes].key.bytes);
    pthread_mutex_unlock(&s->scrub_lock);
}

/* ---- the walk ---- */

int walk_start(struct walk *w, MDB_txn *txn, MDB_dbi dbi, enum table table)
{
    memset(w, 0, sizeof *w);
    w->txn = txn;
    w->dbi = dbi;
    w->table = table;
    return 0;
}

void walk_fini(struct walk *w)
{
    buf_fini(&w->scratch);
}

/* Rows in order do not prove that a look-up finds them: it goes through the pages above. Asked for the first
 * and the last key of each page of rows, they are all passed. */
static int walk_find(struct walk *w, const MDB_val *key, struct err_ctx *err)
{
    MDB_val k = *key, value;
    int rc = mdb_get(w->txn, w->dbi, &k, &value);
    return rc ? err_set(err, ERR_CORRUPT, "table %s: a row is there but is not found (%s)",
                        table_name(w->table), mdb_strerror(rc))
              : 0;
}

static int walk_place(struct walk *w, const MDB_val *key, struct err_ctx *err)
{
    size_t shorter = key->mv_size < w->at.n ? key->mv_size : w->at.n;
    int c = w->started ? memcmp(key->mv_data, w->at.bytes, shorter) : 1;
    if (c < 0 || (c == 0 && key->mv_size <= w->at.n))
        return err_set(err, ERR_CORRUPT, "table %s: rows are out of order", table_name(w->table));
    uintptr_t page = (uintptr_t)key->mv_data / WALK_PAGE_BYTES;
    MDB_val last = {w->at.n, w->at.bytes};
    int rc = 0;
    if (page != w->page) {
        rc = walk_find(w, key, err);
        if (!rc && w->page && w->started && w->page_txn == mdb_txn_id(w->txn))
            rc = walk_find(w, &last, err);
    }
    w->page = page;
    w->page_txn = mdb_txn_id(w->txn);
    return rc;
}

static int walk_row(struct walk *w, const MDB_val *key, const MDB_val *value, struct err_ctx *err)
{
    const void *row;
    size_t n;
    MDB_val unused;
    struct store_hash h;
    if (key->mv_size > KEY_MAX || row_check(key, value, &row, &n))
        return err_set(err, ERR_CORRUPT, "wrong checksum of a row in table %s", table_name(w->table));
    int rc = walk_place(w, key, err);
    if (rc)
        return rc;
    row_layout(&w->scratch, key, row, n, &unused);
    row_hash(&w->scratch, &h);
    hash_add(&w->sum.hash, &h);
    w->sum.n_rows++;
    w->at.n = key->mv_size;
    memcpy(w->at.bytes, key->mv_data, key->mv_size);
    w->started = true;
    return 0;
}

static int walk_rows(struct walk *w, MDB_cursor *c, uint64_t until_us, struct err_ctx *err)
{
    MDB_val key = {w->at.n, w->at.bytes}, value;
    int rc = mdb_cursor_get(c, &key, &value, w->started ? MDB_SET_RANGE : MDB_FIRST);
    if (!rc && w->started && key.mv_size == w->at.n && !memcmp(key.mv_data, w->at.bytes, w->at.n))
        rc = mdb_cursor_get(c, &key, &value, MDB_NEXT);
    for (unsigned n = 1; !rc; n++) {
        int code = walk_row(w, &key, &value, err);
        if (code || (until_us && n % ROWS_PER_LOOK == 0 && clock_monotonic_us() >= until_us))
            return code;
        rc = mdb_cursor_get(c, &key, &value, MDB_NEXT);
    }
    w->at_end = rc == MDB_NOTFOUND;
    return w->at_end
               ? 0
               : err_set(err, store_mdb_error(rc), "table %s: %s", table_name(w->table), mdb_strerror(rc));
}

int walk_slice(struct walk *w, uint64_t until_us, struct err_ctx *err)
{
    MDB_cursor *c;
    int rc = mdb_cursor_open(w->txn, w->dbi, &c);
    if (rc)
        return err_set(err, store_mdb_error(rc), "table %s: %s", table_name(w->table), mdb_strerror(rc));
    rc = walk_rows(w, c, until_us, err);
    mdb_cursor_close(c);
    return rc;
}

int walk_compare(const struct walk *w, MDB_dbi meta, struct err_ctx *err)
{
    struct table_sum stored = {0};
    struct key k;
    hash_row_key(&k, w->table);
    MDB_val key = {k.n, k.bytes}, value;
    const void *row;
    size_t n;
    int rc = mdb_get(w->txn, meta, &key, &value);
    if (rc && rc != MDB_NOTFOUND)
        return err_set(err, store_mdb_error(rc), "hash of table %s: %s", table_name(w->table),
                       mdb_strerror(rc));
    if (!rc && (row_check(&key, &value, &row, &n) || hash_row_decode(row, n, &stored)))
        return err_set(err, ERR_CORRUPT, "the hash row of table %s is damaged", table_name(w->table));
    if (stored.n_rows != w->sum.n_rows || stored.hash.lo != w->sum.hash.lo ||
        stored.hash.hi != w->sum.hash.hi)
        return err_set(err, ERR_CORRUPT, "table %s: %llu rows do not give the stored hash of %llu rows",
                       table_name(w->table), (unsigned long long)w->sum.n_rows,
                       (unsigned long long)stored.n_rows);
    return 0;
}

/* ---- the scrub's side ---- */

static bool is_before(const struct note *n, const struct walk *w)
{
    size_t shorter = n->key.n < w->at.n ? n->key.n : w->at.n;
    int c = memcmp(n->key.bytes, w->at.bytes, shorter);
    return w->started && (c < 0 || (c == 0 && n->key.n <= w->at.n));
}

/* Takes in the notes of all commits that the snapshot of the next slice holds. False: notes were lost. */
static bool take_notes(struct store *s, struct walk *w)
{
    uint64_t snapshot = mdb_txn_id(w->txn);
    pthread_mutex_lock(&s->scrub_lock);
    struct store_scrub *c = s->scrub;
    size_t i = 0;
    for (; i < c->n_notes && c->notes[i].txn_id <= snapshot; i++) {
        struct note *n = &c->notes[i];
        if (is_before(n, w)) {
            if (n->had)
                hash_sub(&w->sum.hash, &n->old);
            if (n->has)
                hash_add(&w->sum.hash, &n->now);
            w->sum.n_rows += n->has - n->had;
        }
        mem_free(n->key.bytes);
    }
    c->n_notes -= i;
    if (i && c->n_notes)
        memmove(c->notes, c->notes + i, c->n_notes * sizeof *c->notes);
    bool complete = !c->too_many;
    pthread_mutex_unlock(&s->scrub_lock);
    return complete;
}

static void scrub_begin(struct store *s, enum table table)
{
    struct store_scrub *c = mem_new(struct store_scrub);
    c->table = table;
    pthread_mutex_lock(&s->scrub_lock);
    s->scrub = c;
    atomic_store(&s->scrub_on, true);
    pthread_mutex_unlock(&s->scrub_lock);
    /* A transaction under way may have changed rows before it could note them. */
    pthread_mutex_lock(&s->lock);
    uint64_t n_ended = s->n_ended;
    s->n_waiting++;
    while (s->is_writing && s->n_ended == n_ended)
        pthread_cond_wait(&s->changed, &s->lock);
    s->n_waiting--;
    pthread_mutex_unlock(&s->lock);
}

static void scrub_end(struct store *s)
{
    pthread_mutex_lock(&s->scrub_lock);
    struct store_scrub *c = s->scrub;
    s->scrub = NULL;
    atomic_store(&s->scrub_on, false);
    pthread_mutex_unlock(&s->scrub_lock);
    for (size_t i = 0; i < c->n_notes; i++)
        mem_free(c->notes[i].key.bytes);
    mem_free(c->notes);
    mem_free(c);
}

/* ERR_AGAIN: the table changed faster than notes can be kept. */
static int scrub_once(struct store *s, enum table table, MDB_txn *txn, struct err_ctx *err)
{
    struct walk w;
    int rc = walk_start(&w, txn, s->dbi[table], table);
    for (bool first = true; !rc; first = false) {
        if (!first && atomic_load(&s->scrub_cancel)) {
            rc = err_set(err, ERR_CANCELED, "scrub canceled");
            break;
        }
        if (!first) {
            mdb_txn_reset(txn);
            nanosleep(&(struct timespec){.tv_nsec = PAUSE_US * 1000}, NULL);
        }
        int mrc = mdb_txn_renew(txn);
        if (mrc)
            rc = err_set(err, store_mdb_error(mrc), "read transaction: %s", mdb_strerror(mrc));
        else if (!take_notes(s, &w))
            rc = err_set(err, ERR_AGAIN, "table %s changes too fast", table_name(table));
        else
            rc = walk_slice(&w, clock_monotonic_us() + SLICE_US, err);
        if (w.at_end)
            break;
    }
    if (!rc && table_scope(table) != SCOPE_LOCAL)
        rc = walk_compare(&w, s->dbi[TABLE_META], err);
    mdb_txn_reset(txn);
    walk_fini(&w);
    return rc;
}

int store_scrub_table(struct store *s, enum table table, struct err_ctx *err)
{
    MDB_txn *txn;
    int mrc = mdb_txn_begin(s->env, NULL, MDB_RDONLY, &txn);
    if (mrc)
        return err_set(err, store_mdb_error(mrc), "read transaction: %s", mdb_strerror(mrc));
    mdb_txn_reset(txn);
    int rc = ERR_AGAIN;
    pthread_mutex_lock(&s->scrub_turn);
    for (int i = 0; i < TRIES && rc == ERR_AGAIN; i++) {
        scrub_begin(s, table);
        rc = scrub_once(s, table, txn, err);
        scrub_end(s);
    }
    pthread_mutex_unlock(&s->scrub_turn);
    mdb_txn_abort(txn);
    return rc;
}
