/* An asynchronous HTTPS client on a loop: libcurl's multi interface driven by libuv. The only header about
 * curl; its codes do not leave http_client.c.
 *
 * A client holds the connections (keep-alive), the cookies (in memory) and the trust of one peer or one
 * purpose. Owner: whoever opened it; all functions on the loop's thread. Redirects are not followed and
 * proxies from the environment are not used. Bodies and credentials are never logged. */
#ifndef PROTOCOLS_HTTP_HTTP_CLIENT_H
#define PROTOCOLS_HTTP_HTTP_CLIENT_H

#include "base/err.h"
#include "base/loop.h"
#include <stddef.h>

struct http_client;
struct http_call;

struct http_client_options {
    const char *ca_pem;          /* trust these certificates alone; NULL: the system's store */
    unsigned connect_timeout_ms; /* 0: 10 s */
    unsigned timeout_ms;         /* whole request; 0: 60 s */
    unsigned stall_timeout_s;    /* without a byte; 0: 30 s */
    size_t max_body_bytes;       /* of an answer; 0: 1 MiB */
    unsigned max_connections;    /* at once, to one host; further requests wait; 0: 4 */
};

/* All strings are copied. */
struct http_request {
    const char *url;             /* http: or https: */
    const char *method;          /* NULL: POST with a body, GET without */
    const char *const *headers;  /* "Name: value", NULL-terminated; may be NULL */
    const char *user, *password; /* Basic authentication; NULL: none */
    const char *body;            /* NULL: none */
    size_t n_body;
    unsigned timeout_ms; /* 0: the client's */
};

struct http_response {
    int code; /* 0: an answer came, whatever its status. ERR_CANCELED; ERR_TIMEOUT; ERR_TLS (certificate or
                 handshake); ERR_UNAVAILABLE (no such name, refused); ERR_CLOSED (cut off before the end);
                 ERR_LIMIT (body too big); ERR_INVALID (URL); ERR_IO */
    const char *detail; /* of an error, in words, for a log; "" otherwise */
    int status;         /* 200, ...; 0 without an answer */
    const char *body;   /* NUL-terminated, never NULL */
    size_t n_body;
    unsigned retry_after_s; /* 0: the peer named none */
};
/* Exactly once per request, later than http_client_send. The response is borrowed for the call. */
typedef void http_done_fn(void *user, const struct http_response *response);

int http_client_open(struct http_client **out, struct loop *l, const struct http_client_options *options,
                     struct err_ctx *err);
/* Ends all requests with ERR_CANCELED, then on_closed (may be NULL), exactly once and later; only then the
 * memory goes. Calling it again changes nothing. */
void http_client_close(struct http_client *c, void (*on_closed)(void *user), void *user);

/* Never fails at once: errors come by on_done. The handle is valid until on_done is called. */
struct http_call *http_client_send(struct http_client *c, const struct http_request *request,
                                   http_done_fn *on_done, void *user);
/* on_done follows with ERR_CANCELED, unless it is running. */
void http_call_cancel(struct http_call *call);

#endif
