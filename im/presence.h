/* Presence (RFC 6121 §4): broadcasts, probes, directed presence, and what other nodes said of their users'
 * resources. Subscriptions (§3): the Subscribe command changes both rosters at once; this file routes what
 * follows. Shard's thread. */
#ifndef IM_PRESENCE_H
#define IM_PRESENCE_H

#include "im/envelope.h"
#include "im/roster.h"
#include "im/session.h"
#include "im/shard.h"

/* From a session, without 'to': initial, updated or unavailable presence. Takes E. PRIORITY: of the stanza.
 */
void presence_update(struct session *s, struct envelope *e, int priority);
/* From a session, with 'to': available or unavailable. Takes E. */
void presence_directed(struct session *s, struct envelope *e);
/* From a session: subscribe, subscribed, unsubscribe, unsubscribed. Takes E; its to is a bare JID. */
void presence_subscription(struct session *s, struct envelope *e);
/* The contact was removed from the roster at log index INDEX: it hears unsubscribe, unsubscribed and
 * unavailable as far as there was a subscription (RFC 6121 §2.5.2). */
void presence_contact_removed(struct shard *s, const struct roster_removal *r, uint64_t index);
/* The session ends: unavailable to all that know of it. */
void presence_session_ended(struct session *s);
/* A probe of somebody who may not know, or for nobody: "unsubscribed" (RFC 6121 §4.3.2). */
void presence_deny_probe(struct shard *s, const struct envelope *probe);
/* An envelope of kind presence for a user of this shard. Takes E. */
void presence_receive(struct shard *s, struct envelope *e);
/* Presence of a user's resource at another node (ENVELOPE_BROADCAST). Takes E. */
void presence_remote(struct shard *s, struct envelope *e);
/* A full set of NODE's shard SENDER ended: what it did not name is gone. */
void presence_sync_end(struct shard *s, uint32_t node, uint16_t sender, uint32_t generation);
/* NODE went down, or up again in a new epoch: resources it told in another epoch than the current one are
 * gone. */
void presence_node_down(struct shard *s, uint32_t node);
/* Sends the presence of every resource of user OF, as known on this node, to user TO: as it is, or (GONE)
 * unavailable. Any shard may ask; works on the shard of OF. */
void presence_show(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, bool gone,
                   uint64_t after_index);
/* Hands E to the available sessions of local users UIDS, wherever their shards are. */
void presence_fan_out(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e);
/* May the sender of E send requests to the session: is presence shared in its direction (RFC 6121 §8.5.3.1)?
 */
bool presence_is_shared(struct session *s, const struct envelope *e);
/* Has S sent directed presence to JID, or to the bare JID of it? */
bool presence_has_directed(const struct session *s, const char *jid);
/* Those of them that MATCH: they hear that the session is unavailable, and are forgotten. */
void presence_end_directed(struct session *s, bool (*match)(void *user, const char *jid), void *user);
/* Is CONTACT (bare) subscribed to UID, be it blocked or not? */
bool presence_is_subscribed(struct shard *s, uint64_t uid, const char *contact);
/* May CONTACT (bare) see the presence of UID? */
bool presence_is_visible(struct shard *s, uint64_t uid, const char *contact);

/* Subscriptions with contacts at external components (subscription_outside.c). */
typedef void presence_contact_fn(struct shard *s, const struct user *u, const char *contact, void *arg);
/* Calls EACH for those that may see U now; costs nothing for who has none. After user_subscribers. */
void presence_each_outside(struct shard *s, const struct user *u, presence_contact_fn *each, void *arg);
/* Asks CONTACT for its presence in the name of U, if U is subscribed to it. */
void presence_probe_outside(struct shard *s, const struct user *u, const char *contact);
void subscription_outside_init(struct shard *s);
void subscription_outside_fini(struct shard *s);

#endif
