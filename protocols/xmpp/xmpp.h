/* XMPP on a node: what every shard keeps for it, relay and home. Control loop. */
#ifndef XMPP_XMPP_H
#define XMPP_XMPP_H

#include "base/err.h"
#include "cluster/link.h"
#include "im/shard.h"

struct xmpp;

struct xmpp_options {
    struct im *im;
    struct links *links; /* NULL in tests: the test calls xmpp_on_relay and xmpp_on_link_down */
};
/* The home's part and the relay; the edge (accept, TLS, SASL) opens its listeners by itself and ends in
 * c2s_hand_over.
 */
/* Between im_new and im_start. */
int xmpp_new(struct xmpp **out, const struct xmpp_options *o, struct err_ctx *err);
void xmpp_free(struct xmpp *x); /* after im_stop */

/* LINK_RELAY frames and the end of a link: control loop. Registered with links by xmpp_new. */
void xmpp_on_relay(void *xmpp, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes);
void xmpp_on_link_down(void *xmpp, uint32_t node);

struct im *xmpp_im(const struct xmpp *x);
struct log *xmpp_log(const struct xmpp *x);

#endif
