/* Message carbons (XEP-0280): which messages are copied to which sessions of a user. Shard's thread.
 *
 * A user without a session that has enabled them has user->carbons NULL, and nothing here is called for it.
 */
#ifndef IM_CARBONS_H
#define IM_CARBONS_H

#include "im/envelope.h"
#include "im/session.h"
#include "im/user.h"

/* §4, §5; idempotent. */
void carbons_enable(struct session *s, bool on);

/* E was sent by session FROM (id) of U, and is safe: to the other sessions (§8), with the stanza-id of
 * e->stored if that is set. Only while carbons_are_on. */
void carbons_send(struct user *u, uint64_t from, const struct envelope *e);
/* E was received by the N sessions TO of U: to the others (§7). */
void carbons_receive(struct user *u, const struct envelope *e, struct session *const *to, size_t n,
                     const char *extra_xml);

/* Is there a session of U that has enabled them? */
static inline bool carbons_are_on(const struct user *u)
{
    return u->carbons != NULL;
}

/* Of the router, and of the store when it has it. U NULL: none of its sessions is here. */
static inline void carbons_sent(struct user *u, uint64_t from, const struct envelope *e)
{
    if (u && u->carbons && e->kind == STANZA_MESSAGE)
        carbons_send(u, from, e);
}

#endif
