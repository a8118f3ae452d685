/* Notifications of users' nodes (XEP-0163): who of the people around a user hears of a change, and which of a
 * user's sessions want to. im/ knows a node by its name alone; what an event says the protocol has written.
 *
 * The sender's home knows who has a session somewhere (presence is cached on every node), but not what those
 * sessions want: one envelope goes to each user who is there, to the home, which looks at its sessions.
 * Shard's thread. */
#ifndef IM_EVENTS_H
#define IM_EVENTS_H

#include "im/envelope.h"
#include "im/session.h"
#include "im/shard.h"

/* Names of nodes that somebody wants to hear of; immutable, shared by any threads. */
struct event_nodes;
enum {
    EVENT_NODES_MAX = 128,
    EVENT_NODES_BYTES_MAX = 4096, /* of all names together */
};
/* Names beyond the limits are left out. NULL when there are none. */
struct event_nodes *event_nodes_new(const char *const *names, size_t n);
struct event_nodes *event_nodes_ref(struct event_nodes *nodes);          /* may be NULL */
void event_nodes_unref(struct event_nodes *nodes);                       /* may be NULL */
bool event_nodes_has(const struct event_nodes *nodes, const char *node); /* NODES NULL: no */
bool event_nodes_is_same(const struct event_nodes *a, const struct event_nodes *b);

/* An event of NODE as an envelope from the bare JID of user OF; addressed by those below. INNER: inside of
 * <message/>, for default namespace "jabber:client". */
struct envelope *event_new(uint64_t of, const char *of_jid, const char *node, bool headline,
                           const char *inner, size_t n_bytes, uint64_t after_index);
/* To those of the UIDS who have a session somewhere, wherever their shards and homes are. Takes nothing. */
void events_send(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e);
/* To one user, there or not: the home knows. Takes nothing. */
void events_send_one(struct shard *s, uint64_t uid, const char *jid, const struct envelope *e);
/* To a JID that has subscribed by itself, as any message. Takes nothing. */
void events_send_subscriber(struct shard *s, const char *jid, const struct envelope *e);
/* ENVELOPE_EVENT for a user of this shard, which is its home: to the sessions that want it. Takes E. */
void events_receive(struct shard *s, struct envelope *e);
/* To this session if it wants it. Takes nothing. */
void events_deliver(struct session *s, const struct envelope *e, const char *node);

#endif
