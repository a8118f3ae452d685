/* Between the files of presence only. */
#ifndef IM_PRESENCE_IMPL_H
#define IM_PRESENCE_IMPL_H

#include "im/session.h"

/* To all subscribers, to the user's own available resources and to the other nodes (RFC 6121 §4.2.2, §4.4.2,
 * §4.5.2). Keeps nothing of E. */
void presence_broadcast(struct shard *s, struct user *u, struct envelope *e);
/* What S may see of its user's contacts is delivered to it (RFC 6121 §4.2.2). */
void presence_probe_contacts(struct session *s);
/* S's directed presence to JID is over; false: there was none. */
bool presence_forget_directed(struct session *s, const char *jid);

#endif
