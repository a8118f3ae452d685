#include "im/jid_rows.h"
#include "im/envelope.h"

void *jid_row(struct shard *s, enum table table, uint64_t uid, const char *jid, size_t n, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_str(&k, arena_strndup(a, jid, n));
    return store_find_row(shard_txn(s), table, &k, a);
}

void *jid_row_bare(struct shard *s, enum table table, uint64_t uid, const char *jid, struct arena *a)
{
    return jid_row(s, table, uid, jid, jid_bare_length(jid), a);
}

void jid_rows_init(struct jid_rows *r, struct shard *s, enum table table, uint64_t uid)
{
    struct key prefix;
    key_init(&prefix);
    key_u64(&prefix, uid);
    arena_init(&r->arena);
    store_iter_init(&r->it, shard_txn(s), table, &prefix);
}

bool jid_rows_next(struct jid_rows *r)
{
    while (store_iter_next(&r->it)) {
        struct key_reader k;
        arena_reset(&r->arena);
        key_read(&k, r->it.key, r->it.n_key);
        key_read_u64(&k);
        r->jid = key_read_str(&k, &r->arena);
        if (!k.failed)
            return true;
    }
    return false;
}

void *jid_rows_row(struct jid_rows *r)
{
    return store_iter_row(&r->it, &r->arena);
}

void jid_rows_fini(struct jid_rows *r)
{
    store_iter_fini(&r->it);
    arena_fini(&r->arena);
}
