/* Domains that are served outside of this software: who serves them is connected to a shard of some node and
 * known on every shard of the cluster. External components (XEP-0114) are such; this file knows nothing of
 * XMPP.
 *
 * A domain may have several endpoints: what one address sends to another one takes the same of them as long
 * as they stay, so its order is kept; different pairs are spread. Endpoints come and go at shard 0 of their
 * node, which tells the other nodes (LINK_OUTSIDE) and, at the beginning of a link session, all of them. */
#ifndef IM_OUTSIDE_H
#define IM_OUTSIDE_H

#include "im/envelope.h"
#include "im/shard.h"

struct outside;

void outside_init(struct shard *s);
void outside_fini(struct shard *s);
/* The domains that may be served (xmpp.components); what is for one without an endpoint comes back as
 * remote-server-timeout, for others as remote-server-not-found. */
void outside_read_settings(struct shard *s);

/* ---- who serves: the shard it is connected to ---- */
/* Takes ENVELOPE, which is for the endpoint ID of this shard; false: there is no such one any more. */
typedef bool outside_deliver_fn(struct shard *s, uint64_t id, struct envelope *e);
/* Before im_start, once. */
void outside_set_deliver(struct im *im, outside_deliver_fn *deliver);
/* An id that is not used twice. */
uint64_t outside_up(struct shard *s, const char *domain);
void outside_down(struct shard *s, uint64_t id);

/* ---- of the router ---- */
/* Is the domain of JID one of those? Costs a test where there are none. */
bool outside_is(const struct shard *s, const char *jid);
bool outside_has_any(const struct shard *s); /* domains that may be served */
/* Sends E, whose addressee outside_is. Takes it. */
void outside_send(struct shard *s, struct envelope *e);
/* Each domain that has an endpoint anywhere, once. */
void outside_list(const struct shard *s, void (*each)(void *user, const char *domain), void *user);

/* ---- links: control loop ---- */
void outside_on_frame(void *im, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes);
void outside_link_up(struct shard *s, uint32_t node);
void outside_link_in_down(struct shard *s, uint32_t node);

#endif
