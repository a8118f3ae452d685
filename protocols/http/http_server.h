/* An HTTPS server on a loop, by libwebsockets on the loop's own uv loop. Routes are data. HTTP/1.1; TLS 1.2
 * and 1.3.
 *
 * Requests are small GETs and HEADs here; a body is refused. At most 256 connections, idle ones are closed
 * after 30 s. All functions on the loop's thread. */
#ifndef HTTP_HTTP_SERVER_H
#define HTTP_HTTP_SERVER_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"

struct http_server;

struct http_answer {
    int status;               /* 200 when the handler begins */
    const char *content_type; /* "text/plain; charset=utf-8" when the handler begins; static */
    struct buf body;          /* filled by the handler */
};
struct http_route {
    const char *path; /* exactly */
    void (*handle)(void *user, struct http_answer *answer);
};
struct http_server_options {
    struct loop *loop;
    struct log *log;
    const char *address; /* numeric; "" = any */
    unsigned port;
    const char *cert_pem, *key_pem;  /* chain, leaf first; copied into the TLS library */
    const struct http_route *routes; /* live as long as the server; ended by path NULL */
    void *user;
};
/* ERR_IO with text: the port is taken. */
int http_server_open(struct http_server **out, const struct http_server_options *o, struct err_ctx *err);
/* For new connections. */
int http_server_set_cert(struct http_server *s, const char *cert_pem, const char *key_pem,
                         struct err_ctx *err);
/* Ends the connections, over the next turns of the loop; libwebsockets does not tell when it is done, so the
 * struct itself stays until the process ends. May be NULL. */
void http_server_close(struct http_server *s);

#endif
