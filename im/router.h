/* Finds where an envelope goes and takes it there, in order per sender: this shard, another shard of this
 * node, or the addressee's home node. Shard's thread.
 *
 * Nothing is dropped silently: what cannot be delivered goes back as an error, unless it must not be
 * answered. An envelope whose after_index this shard has not seen applied waits, in order, for 5 s at most. A
 * node that cannot be reached or whose link is congested blocks the sessions that feed it (they are not
 * read); after 10 s their stanzas come back with remote-server-timeout. */
#ifndef IM_ROUTER_H
#define IM_ROUTER_H

#include "im/envelope.h"
#include "im/shard.h"

struct session;

void router_init(struct shard *s);
void router_fini(struct shard *s);
/* Takes the envelope. FROM (may be NULL): the session that feeds it, paused while the way is congested.
 * to_uid 0 is looked up. Envelopes to the server's own domain are not handled here: they are dropped with
 * service-unavailable. */
void router_send(struct shard *s, struct envelope *e, struct session *from);
/* The same, past what waits behind messages of the session that are being stored (im/store_out.h). */
void router_send_now(struct shard *s, struct envelope *e, struct session *from);
/* Once more what a session has sent: E has its numbers of then, and goes before what waits for the same node.
 * Takes E. */
void router_send_again(struct shard *s, struct envelope *e);
/* What a session here has sent and is counted for its client is dropped, as far as it waits on this node. */
void router_forget(struct shard *s, uint64_t session);
/* Calls sm_is_queued for what waits here for a node. */
void router_tell_queued(struct shard *s);
/* To the user to_uid, for whom it is no stanza. Takes E. */
void router_pass(struct shard *s, struct envelope *e);
/* Answers E with an error towards its sender, if it may be answered. Takes nothing. */
void router_bounce(struct shard *s, const struct envelope *e, enum stanza_error error, const char *text);
/* An envelope for a user of this shard has arrived from a shard or a node: waits for after_index, then is
 * delivered. */
void router_receive(struct shard *s, struct envelope *e);
/* Was E on its way here when the epoch of the node that sent it ended? Its sessions and resources are gone
 * then. */
bool router_is_void(struct shard *s, const struct envelope *e);
/* E's addressee is at home elsewhere by now, or has come back: goes on from here, in its old place among what
 * its sender sends. Takes E. */
void router_forward(struct shard *s, struct envelope *e);
/* Is anything held for somebody who is at home elsewhere? */
bool router_holds_strays(struct shard *s);
/* Sends a broadcast presence to NODE, in order with this shard's envelopes; dropped while the link is down,
 * since its next session begins with a full set. Takes E. */
void router_send_presence(struct shard *s, uint32_t node, struct envelope *e);
/* E's sender feeds somebody who is too slow: do not read it for MS. */
void router_throttle(struct shard *s, const struct envelope *e, unsigned ms);
/* Posts E, which is for a user of shard TO, there. */
void router_post(struct shard *to, struct envelope *e);
void router_link_up(struct shard *s, uint32_t node);
void router_link_down(struct shard *s, uint32_t node);
/* applied_index rose, the lease came back, a link came up, a home moved, time passed. */
void router_advance(struct shard *s);

#endif
