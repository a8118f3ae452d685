#include "replication/fsm/fsm_internal.h"
#include <string.h>

struct key fsm_key_none(void)
{
    struct key k;
    key_init(&k);
    return k;
}

struct key fsm_key_u32(uint32_t v)
{
    struct key k;
    key_init(&k);
    key_u32(&k, v);
    return k;
}

struct key fsm_key_u64(uint64_t v)
{
    struct key k;
    key_init(&k);
    key_u64(&k, v);
    return k;
}

struct key fsm_key_u64_u64_u32(uint64_t a, uint64_t b, uint32_t c)
{
    struct key k;
    key_init(&k);
    key_u64(&k, a);
    key_u64(&k, b);
    key_u32(&k, c);
    return k;
}

struct key fsm_key_u64_str(uint64_t v, const char *s)
{
    struct key k;
    key_init(&k);
    key_u64(&k, v);
    key_str(&k, s);
    return k;
}

struct key fsm_key_u32_str(uint32_t v, const char *s)
{
    struct key k;
    key_init(&k);
    key_u32(&k, v);
    key_str(&k, s);
    return k;
}

struct key fsm_key_str(const char *s)
{
    struct key k;
    key_init(&k);
    key_str(&k, s);
    return k;
}

void fsm_put_id(struct fsm *f, enum table table, const struct key *k, uint64_t id)
{
    Imp__IdRow row = IMP__ID_ROW__INIT;
    row.id = id;
    store_put_row(f->txn, table, k, &row);
}

uint64_t fsm_find_id(struct fsm *f, enum table table, const struct key *k)
{
    const Imp__IdRow *row = store_find_row(f->txn, table, k, f->arena);
    return row ? row->id : 0;
}

void fsm_put_empty(struct fsm *f, enum table table, const struct key *k)
{
    Imp__EmptyRow row = IMP__EMPTY_ROW__INIT;
    store_put_row(f->txn, table, k, &row);
}

bool fsm_has_rows(struct fsm *f, enum table table)
{
    struct store_hash hash;
    uint64_t n_rows;
    store_table_hash(f->txn, table, &hash, &n_rows);
    return n_rows != 0;
}

uint64_t fsm_count(struct fsm *f, enum table table, const struct key *k)
{
    const Imp__CountRow *row = store_find_row(f->txn, table, k, f->arena);
    return row ? row->n : 0;
}

void fsm_count_add(struct fsm *f, enum table table, const struct key *k, int64_t delta)
{
    Imp__CountRow row = IMP__COUNT_ROW__INIT;
    row.n = fsm_count(f, table, k) + (uint64_t)delta;
    if (row.n)
        store_put_row(f->txn, table, k, &row);
    else
        store_delete(f->txn, table, k);
}

void fsm_delete_prefix(struct fsm *f, enum table table, const struct key *prefix)
{
    struct store_iter i;
    struct key k;
    store_iter_init(&i, f->txn, table, prefix);
    while (store_iter_next(&i)) {
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(f->txn, table, &k);
    }
}

bool fsm_is_text(const char *s, size_t min, size_t max)
{
    size_t n = strnlen(s, max + 1);
    if (n < min || n > max)
        return false;
    for (; *s; s++) {
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    }
    return true;
}
