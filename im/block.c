#include "im/block.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/router.h"
#include "im/user.h"
#include <string.h>

static bool has_row(struct shard *s, uint64_t uid, const char *jid, size_t n)
{
    if (n > KEY_STR_MAX) /* longer than any row */
        return false;
    struct arena a;
    arena_init(&a);
    bool found = jid_row(s, TABLE_BLOCK, uid, jid, n, &a) != NULL;
    arena_fini(&a);
    return found;
}

static bool read_has_list(struct shard *s, uint64_t uid)
{
    struct key prefix;
    key_init(&prefix);
    key_u64(&prefix, uid);
    struct store_iter it;
    store_iter_init(&it, shard_txn(s), TABLE_BLOCK, &prefix);
    bool found = store_iter_next(&it);
    store_iter_fini(&it);
    return found;
}

bool block_has_list(struct shard *s, uint64_t uid)
{
    struct user *u = im_shard_of(s->im, uid) == s ? user_find(s, uid) : NULL;
    if (!u)
        return read_has_list(s, uid);
    if (u->blocks == BLOCKS_UNKNOWN)
        u->blocks = read_has_list(s, uid) ? BLOCKS_SOME : BLOCKS_NONE;
    return u->blocks == BLOCKS_SOME;
}

bool block_matches(struct shard *s, uint64_t uid, const char *jid)
{
    if (!*jid || !block_has_list(s, uid))
        return false;
    size_t n = strlen(jid), n_bare = jid_bare_length(jid);
    const char *at = memchr(jid, '@', n_bare);
    const char *domain = at ? at + 1 : jid;
    return (n > n_bare && has_row(s, uid, jid, n)) || has_row(s, uid, jid, n_bare) ||
           (at && has_row(s, uid, domain, n_bare - (size_t)(domain - jid)));
}

bool block_item_matches(const char *item, const char *jid)
{
    size_t n_bare = jid_bare_length(jid);
    const char *at = memchr(jid, '@', n_bare);
    const char *domain = at ? at + 1 : jid;
    size_t n_domain = n_bare - (size_t)(domain - jid), n = strlen(item);
    return strcmp(item, jid) == 0 || (n == n_bare && memcmp(item, jid, n) == 0) ||
           (n == n_domain && memcmp(item, domain, n) == 0);
}

void block_read(struct shard *s, uint64_t uid, block_item_fn *each, void *user)
{
    struct jid_rows rows;
    jid_rows_init(&rows, s, TABLE_BLOCK, uid);
    while (jid_rows_next(&rows))
        each(user, rows.jid);
    jid_rows_fini(&rows);
}

void block_on_feed(struct shard *s, struct user *u)
{
    (void)s;
    u->blocks = BLOCKS_UNKNOWN;
    user_forget_contacts(u); /* who sees whom depends on it */
    im_hook_on(u, IM_HOOK_BLOCK);
}

/* ---- what comes ---- */

/* XEP-0191 §3.3: who is blocked sees a user who is offline: no answer to presence, and to the rest the one
 * that there would be without anybody connected. */
static void refuse(struct shard *s, const struct envelope *e)
{
    if (e->kind != STANZA_PRESENCE)
        router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
}

enum to_user block_to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                           bool fan_out)
{
    if (e->from_uid == uid)
        return TO_USER_GO_ON;
    if (u && !block_has_list(s, uid)) {
        im_hook_off(u, IM_HOOK_BLOCK);
        return TO_USER_GO_ON;
    }
    if (!block_matches(s, uid, e->from))
        return TO_USER_GO_ON;
    if (!fan_out)
        refuse(s, e);
    return TO_USER_REFUSED;
}
