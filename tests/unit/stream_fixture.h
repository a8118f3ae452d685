/* A loop, a listener on 127.0.0.1, and streams whose events are recorded. */
#ifndef TESTS_STREAM_FIXTURE_H
#define TESTS_STREAM_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/stream.h"
#include "test_certs.h"
#include <cmocka.h>

struct end {
    struct stream *s; /* NULL once closed */
    struct buf got;
    unsigned n_open, n_drain, n_close, n_end;
    int code;
    char detail[400];
    void (*on_data)(struct end *e, const uint8_t *data, size_t n_bytes); /* instead of recording it */
    void (*on_open)(struct end *e);
    void *user;
};
extern const struct stream_events end_events, end_events_half; /* half: with on_end */

struct fixture {
    struct loop *loop;
    struct listener *listener;
    struct end client, server;
    struct test_ca ca;
    struct tls_ctx *server_ctx, *client_ctx;
    struct tls_sni *sni;
    struct metrics metrics;
    struct loop_hook hook;
    struct timer deadline;
    bool (*condition)(struct fixture *f);
    bool late;
};

struct fixture *fixture_new(void);
void fixture_free(struct fixture *f);
/* Runs the loop until the condition holds; fails the test after 20 s. */
void run_until(struct fixture *f, bool (*condition)(struct fixture *f));
/* A connected pair in clear. */
void connect_pair(struct fixture *f);
/* Contexts of f->ca; MUTUAL: both show certificates and verify. */
void make_contexts(struct fixture *f, bool tls13_only, bool mutual);
/* Handshake on both ends, and wait until both are open. */
void start_tls(struct fixture *f, const char *server_name);
/* A client that is a plain socket. */
int raw_connect(struct fixture *f);
bool accepted(struct fixture *f);
bool server_closed(struct fixture *f);
bool both_closed(struct fixture *f);
bool both_open(struct fixture *f); /* n_open of the client as of a connection, plus TLS on both */

#endif
