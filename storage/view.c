/* A view: one moment of the store that is kept for a while, to compare its rows with those of other nodes at
 * the same index. LMDB reuses none of its pages meanwhile, so the file may grow: views are for somebody who
 * looks for a difference, and their owner ends them soon. */
#include "storage/store_internal.h"
#include <string.h>

struct store_view {
    struct store *store;
    pthread_mutex_t lock; /* one walk at a time */
    MDB_txn *txn;         /* NULL: closed */
    atomic_bool is_closing;
    atomic_uint n_refs;
};

struct store_view *store_view_new(struct store *s)
{
    struct store_view *v = mem_new(struct store_view);
    v->store = s;
    pthread_mutex_init(&v->lock, NULL);
    atomic_init(&v->n_refs, 1);
    if (mdb_txn_begin(s->env, NULL, MDB_RDONLY, &v->txn))
        v->txn = NULL;
    return v;
}

struct store_view *store_view_ref(struct store_view *v)
{
    atomic_fetch_add(&v->n_refs, 1);
    return v;
}

void store_view_unref(struct store_view *v)
{
    if (!v || atomic_fetch_sub(&v->n_refs, 1) != 1)
        return;
    store_view_close(v);
    pthread_mutex_destroy(&v->lock);
    mem_free(v);
}

void store_view_close(struct store_view *v)
{
    atomic_store(&v->is_closing, true);
    pthread_mutex_lock(&v->lock);
    if (v->txn)
        mdb_txn_abort(v->txn);
    v->txn = NULL;
    pthread_mutex_unlock(&v->lock);
}

static int compare(const MDB_val *key, const struct key *k)
{
    size_t n = key->mv_size < k->n ? key->mv_size : k->n;
    int c = memcmp(key->mv_data, k->bytes, n);
    return c ? c : (key->mv_size > k->n) - (key->mv_size < k->n);
}

typedef bool visit_fn(void *user, const MDB_val *key, const MDB_val *value); /* false: enough */

static int walk_cursor(struct store_view *v, MDB_cursor *c, const struct store_span *span, visit_fn *visit,
                       void *user)
{
    MDB_val key = {span->from.n, (void *)span->from.bytes}, value;
    int rc = mdb_cursor_get(c, &key, &value, span->from.n ? MDB_SET_RANGE : MDB_FIRST);
    while (!rc && (!span->to.n || compare(&key, &span->to) < 0)) {
        if (atomic_load(&v->is_closing))
            return ERR_CLOSED;
        if (!visit(user, &key, &value))
            return 0;
        rc = mdb_cursor_get(c, &key, &value, MDB_NEXT);
    }
    return rc == MDB_NOTFOUND ? 0 : store_mdb_error(rc);
}

static int walk(struct store_view *v, enum table table, const struct store_span *span, visit_fn *visit,
                void *user)
{
    MDB_cursor *c;
    pthread_mutex_lock(&v->lock);
    int rc = v->txn ? store_mdb_error(mdb_cursor_open(v->txn, v->store->dbi[table], &c)) : ERR_CLOSED;
    if (!rc) {
        rc = walk_cursor(v, c, span, visit, user);
        mdb_cursor_close(c);
    }
    pthread_mutex_unlock(&v->lock);
    return rc;
}

/* As the row is there: a wrong checksum gives another hash too. */
static void hash_stored(struct buf *scratch, const MDB_val *key, const MDB_val *value, struct store_hash *out)
{
    MDB_val unused;
    size_t n = value->mv_size < ROW_CRC_BYTES ? 0 : value->mv_size - ROW_CRC_BYTES;
    const void *row;
    size_t n_row;
    row_layout(scratch, key, value->mv_data, n, &unused);
    row_hash(scratch, out);
    if (row_check(key, value, &row, &n_row))
        out->hi = ~out->hi;
}

struct ranges {
    struct buf scratch;
    const struct key *bounds;
    unsigned n, at;
    struct store_range *out;
};

static bool add_to_range(void *user, const MDB_val *key, const MDB_val *value)
{
    struct ranges *r = user;
    struct store_hash h;
    while (r->at < r->n && compare(key, &r->bounds[r->at]) >= 0)
        r->at++;
    hash_stored(&r->scratch, key, value, &h);
    hash_add(&r->out[r->at].hash, &h);
    r->out[r->at].n_rows++;
    return true;
}

int store_view_ranges(struct store_view *v, enum table table, const struct store_span *span,
                      const struct key *bounds, unsigned n, struct store_range *out)
{
    struct ranges r = {.bounds = bounds, .n = n, .out = out};
    memset(out, 0, (n + 1) * sizeof(*out));
    int rc = walk(v, table, span, add_to_range, &r);
    buf_fini(&r.scratch);
    return rc;
}

struct split {
    uint64_t n_rows, every;
    struct key *bounds;
    unsigned max, n;
};

static bool count_row(void *user, const MDB_val *key, const MDB_val *value)
{
    ((struct split *)user)->n_rows++;
    return true;
}

static bool split_at(void *user, const MDB_val *key, const MDB_val *value)
{
    struct split *s = user;
    if (s->n_rows++ && s->n_rows % s->every == 1 && key->mv_size <= KEY_MAX) {
        struct key *k = &s->bounds[s->n++];
        k->n = (uint16_t)key->mv_size;
        memcpy(k->bytes, key->mv_data, key->mv_size);
    }
    return s->n < s->max;
}

int store_view_split(struct store_view *v, enum table table, const struct store_span *span,
                     struct key *bounds, unsigned max, unsigned *n)
{
    struct split s = {.bounds = bounds, .max = max};
    int rc = walk(v, table, span, count_row, &s);
    s.every = s.n_rows / (max + 1) + 1;
    s.n_rows = 0;
    if (!rc && s.every > 1)
        rc = walk(v, table, span, split_at, &s);
    *n = s.n;
    return rc;
}

struct rows {
    struct buf scratch;
    store_view_row_fn *fn;
    void *user;
};

static bool give_row(void *user, const MDB_val *key, const MDB_val *value)
{
    struct rows *r = user;
    struct store_hash h;
    hash_stored(&r->scratch, key, value, &h);
    return r->fn(r->user, key->mv_data, key->mv_size, &h);
}

int store_view_rows(struct store_view *v, enum table table, const struct store_span *span,
                    store_view_row_fn *fn, void *user)
{
    struct rows r = {.fn = fn, .user = user};
    int rc = walk(v, table, span, give_row, &r);
    buf_fini(&r.scratch);
    return rc;
}
