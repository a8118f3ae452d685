/* Between http_server.c, http_exchange.c and http_socket.c, which share one libwebsockets context. */
#ifndef HTTP_HTTP_SERVER_IMPL_H
#define HTTP_HTTP_SERVER_IMPL_H

#include "base/htab.h"
#include "base/mem.h"
#include "protocols/http/http_server.h"
#include <libwebsockets.h>

enum { HTTP_TYPE_MAX = 95, HTTP_ORIGIN_MAX = 255 };

/* The connections of one address. */
struct http_peer {
    struct hnode node; /* in server->peers */
    unsigned n;
    char address[64];
};

struct http_server {
    struct http_server_options o;
    char address[64];
    struct lws_context *context;
    struct tls_sni *sni;
    struct lws_protocols protocols[3];
    struct list exchanges; /* held */
    struct list sockets;
    struct htab peers;
    unsigned n_connections;
    bool closing;
};

struct http_server *http_server_of(struct lws *wsi); /* NULL: going down */

/* The strings of a request. */
struct http_strings {
    char *path, *host, *origin;
    char address[64];
    unsigned port;
    struct ssl_st *tls; /* the library's; as long as the connection */
};
void http_read_strings(struct http_strings *out, struct http_server *s, struct lws *wsi, const char *path);
void http_free_strings(struct http_strings *out);
struct http_request http_request_of(const struct http_strings *s);
int http_exchange_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n);
size_t http_exchange_bytes(void); /* per connection */
void http_exchange_drop_all(struct http_server *s);
/* An answer without a handler, for what is refused. Its result is that of the callback. */
int http_refuse(struct lws *wsi, unsigned status, const char *header, const char *value);

int http_socket_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n);
size_t http_socket_bytes(void);
/* LWS_CALLBACK_HTTP_CONFIRM_UPGRADE: 0 go on, else answered. */
int http_socket_confirm(struct http_server *s, struct lws *wsi);
void http_socket_drop_all(struct http_server *s);

#endif
