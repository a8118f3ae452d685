#include "replication/message_feed.h"

void message_feed_note(struct message_feed *m, enum table table)
{
    if (table == TABLE_NODE || table == TABLE_HOME_COUNT)
        m->is_known = false;
}

static bool serves(struct store_txn *t, const Imp__NodeRow *node, struct arena *arena)
{
    struct key k;
    key_init(&k);
    key_u32(&k, node->id);
    if (node->up && !node->drained && !node->witness)
        return true;
    const Imp__CountRow *users = store_find_row(t, TABLE_HOME_COUNT, &k, arena);
    return !users || users->n == 0;
}

static bool all_serve(struct store_txn *t)
{
    bool all = true;
    struct arena arena;
    struct store_iter i;
    struct key every;
    key_init(&every);
    arena_init(&arena);
    store_iter_init(&i, t, TABLE_NODE, &every);
    while (all && store_iter_next(&i)) {
        const Imp__NodeRow *node = store_iter_row(&i, &arena);
        all = node && serves(t, node, &arena);
    }
    store_iter_fini(&i);
    arena_fini(&arena);
    return all;
}

bool message_feed_wants(struct message_feed *m, struct store_txn *t, uint64_t index, const struct key *k,
                        bool deleted)
{
    struct key_reader r;
    key_read(&r, k->bytes, k->n);
    uint64_t uid = key_read_u64(&r), stored_at = key_read_u64(&r);
    if (deleted || stored_at != index)
        return false; /* a mark, or what became of it later */
    if (!m->is_known) {
        m->all_serve = all_serve(t);
        m->is_known = true;
    }
    if (!m->all_serve)
        return true; /* others stand in (home_choose) */
    struct key by_home;
    key_init(&by_home);
    key_u32(&by_home, m->node);
    key_u64(&by_home, uid);
    return store_has(t, TABLE_USER_BY_HOME, &by_home);
}
