/* Between the files of web*.c. Control loop. */
#ifndef XMPP_WEB_IMPL_H
#define XMPP_WEB_IMPL_H

#include "base/htab.h"
#include "base/list.h"
#include "protocols/xmpp/web.h"
#include "protocols/xmpp/web_text.h"

#define WEB_SOCKET_PATH "/xmpp-websocket"
#define WEB_BOSH_PATH "/http-bind"

struct web_settings {
    bool on; /* the feature level has it */
    bool websocket, bosh;
    char origins[1024], proxies[1024];
    char websocket_url[512], bosh_url[512];
    char domain[256]; /* the default one */
    unsigned stanza_bytes_early, stanza_bytes;
    unsigned bosh_wait_s, bosh_inactivity_s;
    unsigned connections, connections_per_address;
};

struct web {
    struct web_options o;
    char *node_name, *public_name;
    bool stopping;
    bool has_settings;
    struct web_settings settings;
    struct list sockets;  /* struct ws */
    struct htab sessions; /* struct bosh_session by sid */
};

const struct web_settings *web_settings(struct web *w);
/* The Origin policy (web.origins); ORIGIN "" is no browser. */
bool web_is_origin_allowed(struct web *w, const struct http_request *r);
/* What a tunnel tells its stream. */
struct tunnel_facts web_facts(const struct http_request *r, enum c2s_tunnel_kind kind);
/* Limits of an element before and after log-in. */
struct xml_limits web_xml_limits(struct web *w, bool logged_in);

/* web_socket.c */
void ws_stop_all(struct web *w);

/* web_bosh.c */
void bosh_handle(void *web, const struct http_request *r, struct http_exchange *x,
                 struct http_answer *answer);
bool bosh_may_go_on(void *web, const struct http_request *r);
void bosh_stop_all(struct web *w);
void bosh_init(struct web *w);
void bosh_fini(struct web *w);

/* web_meta.c */
void web_handle_host_meta(void *web, const struct http_request *r, struct http_exchange *x,
                          struct http_answer *answer);
void web_handle_host_meta_json(void *web, const struct http_request *r, struct http_exchange *x,
                               struct http_answer *answer);

#endif
