/* XMPP over HTTPS: WebSocket (RFC 7395), BOSH (XEP-0124, XEP-0206) and how clients find them (XEP-0156).
 *
 * On the control loop, which owns the HTTP connections; each session is a tunnel (base/tunnel.h) to the edge
 * on a shard, so that log-in, limits, relaying to another node and everything behind are the same as over
 * TCP. */
#ifndef XMPP_WEB_H
#define XMPP_WEB_H

#include "protocols/http/http_server.h"
#include "protocols/xmpp/c2s_edge.h"

struct web;

struct web_options {
    struct loop *loop;
    struct c2s_edge *edge;
    struct metrics *metrics;
    struct log *log;
    const char *node_name;   /* for settings of this node alone */
    const char *public_name; /* what clients are told, and the port of HTTPS: where no URL is set */
    unsigned https_port;
    struct store_txn *(*read)(void *user); /* the store as of now */
    void *user;
};
struct web *web_new(const struct web_options *o);
void web_free(struct web *w); /* after http_server_close; may be NULL */
void web_settings_changed(struct web *w);

/* For the HTTP server: routes, their user is W. */
extern const struct http_route web_routes[];
extern const struct http_socket_route web_socket;
bool web_is_proxy(void *web, const char *address);
void web_http_limits(struct web *w, unsigned *connections, unsigned *per_address);

/* No new sessions, and those there are end with system-shutdown; before http_server_close, which drops what
 * does not go out at once. */
void web_stop(struct web *w);

#endif
