/* The HTTPS server of a node, by libwebsockets on the loop's own uv loop: requests, answered at once or
 * later, and WebSockets. Routes are data. HTTP/1.1 only (over HTTP/2 libwebsockets 4.1 cuts an answer off
 * whose last write is above 4096 bytes); TLS as all our servers for clients. No compression and no WebSocket
 * extensions, so nothing grows by being unpacked.
 *
 * All functions and callbacks on the loop's thread. */
#ifndef HTTP_HTTP_SERVER_H
#define HTTP_HTTP_SERVER_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/tls.h"

struct http_server;
struct http_exchange;
struct http_socket;

/* ---- requests ---- */

enum http_method {
    HTTP_GET = 1, /* HEAD comes with it */
    HTTP_POST = 2,
    HTTP_OPTIONS = 4,
};
/* Borrowed for the call. Strings are "" where the client said nothing. */
struct http_request {
    enum http_method method;
    const char *path, *host, *origin;
    const char *address; /* of the client; where the peer is a trusted proxy, what that says of it */
    unsigned port;
    struct ssl_st
        *tls; /* the client's own connection; NULL where the peer is a trusted proxy: TLS ends there */
    const char *body;
    size_t n_body;
};
struct http_answer {
    int status;               /* 200 when the handler begins */
    const char *content_type; /* "text/plain; charset=utf-8" when the handler begins; copied */
    const char *allow_origin; /* Access-Control-Allow-Origin and what goes with it; NULL: none; copied */
    struct buf body;          /* filled by the handler */
};
struct http_route {
    const char *path; /* exactly */
    unsigned methods; /* enum http_method */
    size_t max_body;  /* of a POST; a longer one gets 413 */
    /* Fills ANSWER, or calls http_exchange_hold(X) and answers later. */
    void (*handle)(void *user, const struct http_request *r, struct http_exchange *x,
                   struct http_answer *answer);
    /* When more than EARLY_BODY bytes of a POST's body come, asked once, with what has come: false: refused.
     * NULL: not asked. */
    size_t early_body;
    bool (*may_go_on)(void *user, const struct http_request *r);
};
/* ON_GONE: the client has left; X must not be used any more. It is not called after http_exchange_answer. */
void http_exchange_hold(struct http_exchange *x, void (*on_gone)(void *user), void *user);
void http_exchange_answer(struct http_exchange *x, struct http_answer *answer); /* takes its body */

/* ---- WebSockets (RFC 6455) ---- */

/* CONN is what on_open gave. */
struct http_socket_events {
    /* The handshake is done. NULL: refused, the socket closes. */
    void *(*on_open)(void *user, struct http_socket *s, const struct http_request *r);
    void (*on_message)(void *conn, const char *data, size_t n_bytes); /* text, whole, valid UTF-8 */
    void (*on_refused)(void *conn, unsigned code); /* a message that is binary (1003) or too big (1009) */
    /* Messages of this weight, in order, have gone to the kernel. */
    void (*on_sent)(void *conn, size_t weight);
    void (*on_close)(void *conn); /* the last call */
};
struct http_socket_route {
    const char *path;
    const char *subprotocol; /* required of the client; static */
    size_t max_message;      /* until http_socket_set_limit */
    /* 0, or the HTTP status with which the handshake is refused. */
    int (*check)(void *user, const struct http_request *r);
    const struct http_socket_events *events;
};
/* One text message; copies. WEIGHT: what on_sent shall count. */
void http_socket_send(struct http_socket *s, const void *data, size_t n_bytes, size_t weight);
void http_socket_set_limit(struct http_socket *s, size_t max_message);
void http_socket_pause(struct http_socket *s, bool paused);   /* read no more */
void http_socket_close(struct http_socket *s, unsigned code); /* what was sent goes out first */

/* ---- the server ---- */

struct http_routes {
    const struct http_route *routes; /* ended by path NULL; NULL: none */
    void *user;
};
enum { HTTP_ROUTE_GROUPS = 4 };
struct http_server_options {
    struct loop *loop;
    struct log *log;
    const char *address; /* numeric; "" = any */
    unsigned port;
    unsigned max_connections, max_per_address;
    struct admission *admission; /* of those that connect; lives longer than the server; NULL: everybody */
    struct tls_sni
        *sni; /* a reference is taken; may be NULL until http_server_set_sni: no handshake succeeds */
    struct http_routes groups[HTTP_ROUTE_GROUPS]; /* live as long as the server */
    const struct http_socket_route *socket;       /* may be NULL */
    void *socket_user;
    /* Is ADDRESS a proxy whose X-Forwarded-For is believed? NULL: none is. */
    bool (*is_proxy)(void *user, const char *address);
    void *proxy_user;
};
/* ERR_IO with text: the port is taken. */
int http_server_open(struct http_server **out, const struct http_server_options *o, struct err_ctx *err);
void http_server_set_sni(struct http_server *s,
                         struct tls_sni *sni); /* for new connections; takes a reference */
void http_server_set_limits(struct http_server *s, unsigned connections, unsigned per_address);
unsigned http_server_n_connections(const struct http_server *s);
/* Ends the connections, over the next turns of the loop; libwebsockets does not tell when it is done, so the
 * struct itself stays until the process ends. Held exchanges and sockets are told at once that they are gone.
 * May be NULL. */
void http_server_close(struct http_server *s);

#endif
