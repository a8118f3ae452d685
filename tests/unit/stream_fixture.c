#include "stream_fixture.h"
#include <arpa/inet.h>
#include <sys/socket.h>
#include <stdio.h>
#include <string.h>

static void end_on_open(void *user)
{
    struct end *e = user;
    e->n_open++;
    if (e->on_open)
        e->on_open(e);
}
static void end_on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct end *e = user;
    assert_int_equal(e->n_close, 0);
    assert_true(n_bytes > 0);
    if (e->on_data)
        e->on_data(e, data, n_bytes);
    else
        buf_add(&e->got, data, n_bytes);
}
static void end_on_drain(void *user)
{
    ((struct end *)user)->n_drain++;
}
static void end_on_end(void *user)
{
    ((struct end *)user)->n_end++;
}
static void end_on_close(void *user, int code, const char *detail)
{
    struct end *e = user;
    e->n_close++;
    e->code = code;
    snprintf(e->detail, sizeof(e->detail), "%s", detail);
    e->s = NULL;
}
const struct stream_events end_events = {
    .on_open = end_on_open, .on_data = end_on_data, .on_drain = end_on_drain, .on_close = end_on_close};
const struct stream_events end_events_half = {.on_open = end_on_open,
                                              .on_data = end_on_data,
                                              .on_drain = end_on_drain,
                                              .on_end = end_on_end,
                                              .on_close = end_on_close};

static void on_accept(void *user, int fd)
{
    struct fixture *f = user;
    f->server.s = stream_new(f->loop, fd, &end_events, &f->server);
    stream_set_metrics(f->server.s, &f->metrics);
}

static void on_deadline(struct timer *t)
{
    struct fixture *f = container_of(t, struct fixture, deadline);
    f->late = true;
    loop_stop(f->loop);
}

static void check(struct loop_hook *hook)
{
    struct fixture *f = container_of(hook, struct fixture, hook);
    if (f->condition && f->condition(f)) {
        f->condition = NULL;
        loop_stop(f->loop);
    }
}

struct fixture *fixture_new(void)
{
    struct fixture *f = mem_new(struct fixture);
    struct err_ctx err = {0};
    assert_int_equal(loop_new(&f->loop, "test", NULL), 0);
    f->hook.fn = check;
    loop_add_before_poll(f->loop, &f->hook);
    timer_init(&f->deadline, f->loop, on_deadline);
    if (listener_open(&f->listener, f->loop, "127.0.0.1", 0, false, on_accept, f, &err) != 0)
        fail_msg("%s", err.text);
    test_ca_make(&f->ca, "test CA");
    return f;
}

void fixture_free(struct fixture *f)
{
    listener_close(f->listener);
    loop_free(f->loop);
    tls_sni_unref(f->sni);
    tls_ctx_unref(f->server_ctx);
    tls_ctx_unref(f->client_ctx);
    test_ca_free(&f->ca);
    buf_fini(&f->client.got);
    buf_fini(&f->server.got);
    assert_null(f->client.s);
    assert_null(f->server.s);
    mem_free(f);
}

void run_until(struct fixture *f, bool (*condition)(struct fixture *f))
{
    f->condition = condition;
    f->late = false;
    timer_start(&f->deadline, 20000, 0);
    loop_run(f->loop);
    timer_stop(&f->deadline);
    if (f->late)
        fail_msg(
            "not within 20 s: client open %u closed %u (%s) got %zu, server open %u closed %u (%s) got %zu",
            f->client.n_open, f->client.n_close, f->client.detail, f->client.got.n, f->server.n_open,
            f->server.n_close, f->server.detail, f->server.got.n);
}

static bool connected(struct fixture *f)
{
    return f->client.n_open == 1 && f->server.s;
}

void connect_pair(struct fixture *f)
{
    f->client.s =
        stream_connect(f->loop, "127.0.0.1", listener_port(f->listener), 5000, &end_events, &f->client);
    run_until(f, connected);
}

void make_contexts(struct fixture *f, bool tls13_only, bool mutual)
{
    char *cert, *key;
    struct err_ctx err = {0};
    test_cert_make(&cert, &key, &f->ca, "server.example",
                   "DNS:server.example,URI:urn:imp:c:1,URI:urn:imp:n:2", "SHA256");
    struct tls_options server = {.server = true, .tls13_only = tls13_only, .cert_pem = cert, .key_pem = key};
    struct tls_options client = {.tls13_only = tls13_only, .ca_pem = f->ca.pem};
    if (mutual) {
        server.ca_pem = f->ca.pem;
        server.require_peer_cert = true;
        client.cert_pem = cert;
        client.key_pem = key;
    }
    if (tls_ctx_new(&f->server_ctx, &server, &err) != 0 || tls_ctx_new(&f->client_ctx, &client, &err) != 0)
        fail_msg("%s", err.text);
    f->sni = tls_sni_new(f->server_ctx);
    mem_free(cert);
    mem_free(key);
}

bool both_open(struct fixture *f)
{
    return f->client.n_open == 2 && f->server.n_open == 1;
}

void start_tls(struct fixture *f, const char *server_name)
{
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_start_tls_client(f->client.s, f->client_ctx, server_name, 5000);
    run_until(f, both_open);
}

bool both_closed(struct fixture *f)
{
    return f->client.n_close && f->server.n_close;
}

int raw_connect(struct fixture *f)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)listener_port(f->listener)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

bool accepted(struct fixture *f)
{
    return f->server.s;
}

bool server_closed(struct fixture *f)
{
    return f->server.n_close;
}
