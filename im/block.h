/* Who is kept away from a user: the user's block list (XEP-0191). Shard's thread.
 *
 * The list is rows in the store, which every node has; a user in memory remembers only whether there are any.
 * So a user without a list costs nothing, one with a list a few look-ups per stanza. */
#ifndef IM_BLOCK_H
#define IM_BLOCK_H

#include "im/hooks.h"
#include "im/shard.h"

/* Is JID (prepared) on the list? By XEP-0191 §5: full JID, bare JID, domain. The user's own address never is.
 */
bool block_matches(struct shard *s, uint64_t uid, const char *jid);
bool block_has_list(struct shard *s, uint64_t uid);
typedef void block_item_fn(void *user, const char *jid);
void block_read(struct shard *s, uint64_t uid, block_item_fn *each, void *user);
/* Would the row ITEM of a list match JID? */
bool block_item_matches(const char *item, const char *jid);

/* im_hook.to_user of IM_HOOK_BLOCK. */
enum to_user block_to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                           bool fan_out);
/* TABLE_BLOCK of a user in memory: what is remembered of it is void. */
void block_on_feed(struct shard *s, struct user *u);

#endif
