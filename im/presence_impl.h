/* Between the files of presence only. */
#ifndef IM_PRESENCE_IMPL_H
#define IM_PRESENCE_IMPL_H

#include "im/session.h"
#include "replication/fsm.h"

/* To all subscribers, to the user's own available resources and to the other nodes (RFC 6121 §4.2.2, §4.4.2,
 * §4.5.2). Keeps nothing of E. */
void presence_broadcast(struct shard *s, struct user *u, struct envelope *e);
/* What S may see of its user's contacts is delivered to it (RFC 6121 §4.2.2). */
void presence_probe_contacts(struct session *s);
/* S's directed presence to JID is over; false: there was none. */
bool presence_forget_directed(struct session *s, const char *jid);

/* An envelope of kind presence for a user of this shard that is decided. Takes E. */
void presence_deliver(struct shard *s, struct envelope *e);

/* subscription.c: how the log calls it. */
Imp__SubscribeType subscription_command_type(enum stanza_type type);

/* subscription_outside.c: contacts at external components. */
/* Does E, which a component sent to a user of this shard, wait for the log? Takes it then. */
bool subscription_from_outside(struct shard *s, struct envelope *e);
/* A presence of U goes to those contacts that may see it. */
void subscription_tell_outside(struct shard *s, struct user *u, const struct envelope *presence);
/* U has become available: those whom it may see are asked for theirs (RFC 6121 §4.3.1). */
void subscription_probe_outside(struct shard *s, struct user *u);

#endif
