/* XEP-0357 for users who have come here: messages were stored of which the feed told nobody, since their home
 * was dead and not declared down yet, or the user was on the way from one home to another (message_untold).
 * Each of those who have a push service is looked at once; a service that its client has left alone hears of
 * the newest message that waits. In steps: a node that takes over many users goes on serving. */
#include "im/message.h"
#include "protocols/xmpp/service.h"

enum {
    STEP_ROWS = 2000, /* of TABLE_PUSH, of all shards and nodes: the look is along its keys */
    STEP_USERS = 100, /* whose messages are read */
};

/* The next ones into UIDS, as far as the step goes: *done is false if it goes on behind them. */
static unsigned find_users(struct service *sv, uint64_t uids[STEP_USERS], bool *done)
{
    struct shard *s = sv->shard;
    unsigned n = 0, n_rows = 0;
    struct key every, from;
    struct store_iter it;
    key_init(&every);
    key_init(&from);
    key_u64(&from, sv->next_taken);
    store_iter_init(&it, shard_txn(s), TABLE_PUSH, &every);
    store_iter_seek(&it, &from);
    for (uint64_t last = 0; !(*done = !store_iter_next(&it)); n_rows++) {
        struct key_reader k;
        uint64_t since;
        key_read(&k, it.key, it.n_key);
        uint64_t uid = sv->next_taken = key_read_u64(&k);
        if (uid == last)
            continue;
        if (n_rows >= STEP_ROWS || n == STEP_USERS)
            break;
        last = uid;
        if (im_shard_of(s->im, uid) != s)
            continue;
        enum home_place place = shard_place_of(s, uid, NULL, &since);
        if (since < sv->taken.since)
            continue;
        if (place == PLACE_ARRIVING)
            break; /* the next step begins here */
        if (place == PLACE_HERE && message_waits(s, uid))
            uids[n++] = uid;
    }
    store_iter_fini(&it);
    return n;
}

void push_taken_tick(struct service *sv)
{
    struct shard *s = sv->shard;
    uint64_t uids[STEP_USERS];
    bool done;
    if (!shard_has_lease(s)) /* nobody is at home here */
        return;
    if (sv->taken.since == UINT64_MAX) {
        sv->taken = s->untold;
        sv->next_taken = 0;
        s->untold.since = UINT64_MAX;
    }
    if (sv->taken.since == UINT64_MAX)
        return;
    unsigned n = find_users(sv, uids, &done);
    for (unsigned i = 0; i < n; i++)
        push_waiting(s, uids[i], sv->taken.oldest_ms);
    if (done)
        sv->taken.since = UINT64_MAX;
}
