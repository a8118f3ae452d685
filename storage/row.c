#define XXH_INLINE_ALL
#include "base/htab.h"
#include "storage/store_internal.h"
#include <string.h>
#include <xxhash.h>

static void put_le(uint8_t *p, uint64_t v, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = v >> (8 * i);
}

static uint64_t get_le(const uint8_t *p, int n)
{
    uint64_t v = 0;
    for (int i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

int row_check(const MDB_val *key, const MDB_val *value, const void **row, size_t *n)
{
    if (value->mv_size < ROW_CRC_BYTES)
        return ERR_CORRUPT;
    size_t n_row = value->mv_size - ROW_CRC_BYTES;
    const uint8_t *p = value->mv_data;
    uint32_t crc = crc32c(crc32c(0, key->mv_data, key->mv_size), p, n_row);
    if (crc != get_le(p + n_row, ROW_CRC_BYTES))
        return ERR_CORRUPT;
    *row = p;
    *n = n_row;
    return 0;
}

void row_layout(struct buf *out, const MDB_val *key, const void *row, size_t n, MDB_val *value)
{
    buf_reset(out);
    uint8_t *p = (uint8_t *)buf_reserve(out, 2 + key->mv_size + n + ROW_CRC_BYTES);
    put_le(p, key->mv_size, 2);
    memcpy(p + 2, key->mv_data, key->mv_size);
    uint8_t *at = p + 2 + key->mv_size;
    if (n)
        memcpy(at, row, n);
    put_le(at + n, crc32c(crc32c(0, key->mv_data, key->mv_size), at, n), ROW_CRC_BYTES);
    out->n = 2 + key->mv_size + n + ROW_CRC_BYTES;
    value->mv_data = at;
    value->mv_size = n + ROW_CRC_BYTES;
}

/* The sum of the rows' hashes does not depend on their order, so it can follow every put and delete. It finds
 * faults and bugs; it is no defence against somebody who may write rows. */
void row_hash(const struct buf *layout, struct store_hash *out)
{
    XXH128_hash_t h = XXH3_128bits(layout->data, layout->n - ROW_CRC_BYTES);
    out->lo = h.low64;
    out->hi = h.high64;
}

void hash_add(struct store_hash *h, const struct store_hash *d)
{
    h->lo += d->lo;
    h->hi += d->hi + (h->lo < d->lo);
}

void hash_sub(struct store_hash *h, const struct store_hash *d)
{
    uint64_t borrow = h->lo < d->lo;
    h->lo -= d->lo;
    h->hi -= d->hi + borrow;
}

void hash_row_key(struct key *k, enum table t)
{
    key_init(k);
    key_bytes(k, "hash.", 5);
    key_str(k, table_name(t));
}

int hash_row_decode(const void *row, size_t n, struct table_sum *out)
{
    Imp__MetaRow *m = imp__meta_row__unpack(NULL, n, row);
    if (!m)
        return ERR_CORRUPT;
    int rc = m->data.len == 16 ? 0 : ERR_CORRUPT;
    if (!rc) {
        out->n_rows = m->value;
        out->hash.lo = get_le(m->data.data, 8);
        out->hash.hi = get_le(m->data.data + 8, 8);
    }
    imp__meta_row__free_unpacked(m, NULL);
    return rc;
}

static void store_hash_bytes(uint8_t out[16], const struct store_hash *h)
{
    put_le(out, h->lo, 8);
    put_le(out + 8, h->hi, 8);
}

/* A transaction's changed sums, written just before it commits. */
static void sum_put(struct store_txn *t, enum table table)
{
    uint8_t bytes[16];
    store_hash_bytes(bytes, &t->sums[table].hash);
    Imp__MetaRow m = IMP__META_ROW__INIT;
    m.value = t->sums[table].n_rows;
    m.data.data = bytes;
    m.data.len = sizeof bytes;
    struct key k;
    hash_row_key(&k, table);
    store_put_row(t, TABLE_META, &k, &m);
}

void sums_flush(struct store_txn *t)
{
    for (int i = 0; i < N_TABLES; i++) {
        if (t->sum_changed[i])
            sum_put(t, i);
    }
}

static int sum_get(struct store_txn *t, enum table table, struct table_sum *out)
{
    memset(out, 0, sizeof *out);
    if (t->is_write) {
        *out = t->sums[table];
        return t->error;
    }
    struct key k;
    hash_row_key(&k, table);
    const void *row;
    size_t n;
    int rc = store_get(t, TABLE_META, &k, &row, &n);
    if (rc == ERR_NOTFOUND)
        return 0; /* no row was ever put */
    if (!rc && (rc = hash_row_decode(row, n, out)))
        txn_fail(t, rc, "hash row of table %s", table_name(table));
    return rc;
}

void store_table_hash(struct store_txn *t, enum table table, struct store_hash *out, uint64_t *n_rows)
{
    struct table_sum sum;
    sum_get(t, table, &sum);
    *out = sum.hash;
    if (n_rows)
        *n_rows = sum.n_rows;
}

void store_hash_row(struct store_hash *sum, enum table table, const void *key, size_t n_key, const void *row,
                    size_t n)
{
    struct key k;
    struct store_hash hash;
    struct buf layout = {0};
    MDB_val value;
    key_init(&k);
    key_bytes(&k, key, n_key > KEY_MAX ? KEY_MAX : n_key);
    MDB_val stored = txn_key(table, &k);
    row_layout(&layout, &stored, row, n, &value);
    row_hash(&layout, &hash);
    hash_add(sum, &hash);
    buf_fini(&layout);
}

/* An empty table adds nothing, so that a release with a further table gives the same hash until rows come in.
 */
void store_state_hash(struct store_txn *t, struct store_hash *out)
{
    uint8_t bytes[N_TABLES * 32];
    size_t n = 0;
    for (int i = 0; i < N_TABLES; i++) {
        struct table_sum sum;
        if (table_scope(i) == SCOPE_LOCAL || sum_get(t, i, &sum) || !sum.n_rows)
            continue;
        put_le(bytes + n, i, 8);
        put_le(bytes + n + 8, sum.n_rows, 8);
        store_hash_bytes(bytes + n + 16, &sum.hash);
        n += 32;
    }
    XXH128_hash_t h = XXH3_128bits(bytes, n);
    out->lo = h.low64;
    out->hi = h.high64;
}
