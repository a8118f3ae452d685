/* Message carbons (XEP-0280): which messages are copied to which sessions of a user. Shard's thread.
 *
 * A user without a session that has enabled them has user->carbons NULL, and nothing here is called for it. */
#ifndef IM_CARBONS_H
#define IM_CARBONS_H

#include "im/envelope.h"
#include "im/session.h"
#include "im/user.h"

/* §4, §5; idempotent. */
void carbons_enable(struct session *s, bool on);

/* E was sent by session FROM (id) of U: to the other sessions (§8). EXTRA_XML (may be NULL) goes into the copy,
 * such as the stanza-id under which it is archived. Only while carbons_are_on. */
void carbons_send(struct user *u, uint64_t from, const struct envelope *e, const char *extra_xml);
/* E was received by the N sessions TO of U: to the others (§7). */
void carbons_receive(struct user *u, const struct envelope *e, struct session *const *to, size_t n,
                     const char *extra_xml);

/* Is there a session of U that has enabled them? */
static inline bool carbons_are_on(const struct user *u)
{
    return u->carbons != NULL;
}

#endif
