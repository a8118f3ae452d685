/* XEP-0114: external components. They connect to a port of any node, prove with a secret that they may serve
 * their domain, and from then on get what is addressed to it from the whole cluster. Several may serve one
 * domain.
 *
 * The port is open while xmpp.components names a domain and the service runs; a connection lives on one
 * shard. */
#ifndef XMPP_COMPONENT_H
#define XMPP_COMPONENT_H

#include "base/err.h"
#include "protocols/xmpp/xmpp.h"
#include <stdbool.h>

struct components;

struct components_options {
    struct xmpp *xmpp;
    const char *address; /* numeric, "" = any */
    int port;            /* -1: never listens; 0: any (tests) */
};
/* Between xmpp_new and im_start. */
struct components *components_new(const struct components_options *o);
void components_free(struct components *c); /* after im_stop; may be NULL */
/* The service is started or stopped; any thread. */
void components_set_serving(struct components *c, bool serving);

#endif
