/* XMPP service of a node: client listeners on every shard, relay, home. Control loop. */
#ifndef XMPP_XMPP_H
#define XMPP_XMPP_H

#include "base/err.h"
#include "cluster/link.h"
#include "im/shard.h"

struct xmpp;

/* What the edge needs from above: certificates, password checks (AXL, LDAP). Defined by the edge. */
struct c2s_edge_options;

struct xmpp_options {
    struct im *im;
    struct links *links; /* NULL in tests: xmpp_on_relay is called by the test */
    const struct c2s_edge_options *edge;
};
/* Between im_new and im_start. */
int xmpp_new(struct xmpp **out, const struct xmpp_options *o, struct err_ctx *err);
void xmpp_free(struct xmpp *x); /* after im_stop */

/* LINK_RELAY frames and the end of a link: control loop. Registered with links by xmpp_new. */
void xmpp_on_relay(void *xmpp, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes);
void xmpp_on_link_down(void *xmpp, uint32_t node);

struct im *xmpp_im(const struct xmpp *x);
struct log *xmpp_log(const struct xmpp *x);

#endif
