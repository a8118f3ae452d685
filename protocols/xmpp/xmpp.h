/* XMPP on a node: what every shard keeps for it, relay and home. Control loop. */
#ifndef XMPP_XMPP_H
#define XMPP_XMPP_H

#include "base/err.h"
#include "cluster/link.h"
#include "im/shard.h"

struct xmpp;

/* What an administrator wants done (XEP-0133): a command of impcli, with the same checks and record. */
struct xmpp_admin_request {
    const char *area, *verb;
    const char *const *args;
    size_t n_args;
    const char *option, *option_value; /* NULL: none */
    const char *input;                 /* a secret; NULL: none */
    const char *who;                   /* bare JID */
    /* Exactly once, on the loop REPLY_TO; TEXT says what was done or what is wrong. */
    struct loop *reply_to;
    void (*on_done)(void *user, bool ok, const char *text);
    void *user;
};

struct xmpp_options {
    struct im *im;
    /* Any thread; what R points to is copied. NULL: there is no administration. */
    void (*admin)(void *user, const struct xmpp_admin_request *r);
    void *admin_user;
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

/* Secrets that are shared with other programs, unsealed; "" or NULL: not set. Any thread. */
enum xmpp_secret { XMPP_SECRET_TURN, XMPP_SECRET_COMPONENTS, N_XMPP_SECRETS };
void xmpp_set_secret(struct xmpp *x, enum xmpp_secret which, const char *text);

/* Any shard. */
void xmpp_admin(const struct xmpp *x, const struct xmpp_admin_request *r);

struct im *xmpp_im(const struct xmpp *x);
struct log *xmpp_log(const struct xmpp *x);

#endif
