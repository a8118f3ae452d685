/* Presence (RFC 6121 §4): broadcasts, probes, directed presence, and what other nodes said of their users'
 * resources. Subscriptions (§3): the Subscribe command changes both rosters at once; this file routes what
 * follows. Shard's thread. */
#ifndef IM_PRESENCE_H
#define IM_PRESENCE_H

#include "im/envelope.h"
#include "im/session.h"
#include "im/shard.h"

/* From a session, without 'to': initial, updated or unavailable presence. Takes E. PRIORITY: of the stanza.
 */
void presence_update(struct session *s, struct envelope *e, int priority);
/* From a session, with 'to': available or unavailable. Takes E. */
void presence_directed(struct session *s, struct envelope *e);
/* From a session: subscribe, subscribed, unsubscribe, unsubscribed. Takes E; its to is a bare JID. */
void presence_subscription(struct session *s, struct envelope *e);
/* The session ends: unavailable to all that know of it. */
void presence_session_ended(struct session *s);
/* An envelope of kind presence for a user of this shard. Takes E. */
void presence_receive(struct shard *s, struct envelope *e);
/* Presence of a user's resource at another node (ENVELOPE_BROADCAST). Takes E. */
void presence_remote(struct shard *s, struct envelope *e, uint16_t sender, uint32_t generation);
/* A full set of NODE's shard SENDER ended: what it did not name is gone. */
void presence_sync_end(struct shard *s, uint32_t node, uint16_t sender, uint32_t generation);
/* Sends this shard's full set to NODE. */
void presence_sync_node(struct shard *s, uint32_t node);
void presence_node_down(struct shard *s, uint32_t node);
/* May CONTACT (bare) see the presence of UID? */
bool presence_is_visible(struct shard *s, uint64_t uid, const char *contact);

#endif
