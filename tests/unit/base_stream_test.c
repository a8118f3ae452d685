/* Streams in clear and what does not depend on TLS. */
#include "base/clock.h"
#include "stream_fixture.h"
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

static void echo(struct end *e, const uint8_t *data, size_t n_bytes)
{
    stream_write(e->s, data, n_bytes);
}

static bool client_got_11(struct fixture *f)
{
    return f->client.got.n >= 11;
}

static void plain_echo(void **state)
{
    struct fixture *f = fixture_new();
    connect_pair(f);
    assert_string_equal(stream_peer_address(f->client.s), "127.0.0.1");
    assert_int_equal(stream_peer_port(f->client.s), listener_port(f->listener));
    assert_string_equal(stream_peer_address(f->server.s), "127.0.0.1");
    assert_false(stream_is_tls(f->server.s));
    f->server.on_data = echo;
    struct blob *b = blob_new("XXX world", 9);
    stream_write(f->client.s, "hello", 5);
    stream_write_blob(f->client.s, b, 3);
    blob_unref(b);
    assert_int_equal(stream_queued(f->client.s), 11); /* nothing goes before the end of the turn */
    run_until(f, client_got_11);
    assert_string_equal(f->client.got.data, "hello world");
    assert_int_equal(metrics_get(&f->metrics, METRIC_STREAM_BYTES_IN), 11);
    assert_int_equal(metrics_get(&f->metrics, METRIC_STREAM_BYTES_OUT), 11);
    assert_int_equal(metrics_get(&f->metrics, METRIC_STREAMS_OPEN), 1);
    stream_write(f->client.s, "last", 4);
    stream_close(f->client.s);
    run_until(f, both_closed);
    assert_int_equal(f->client.code, ERR_CANCELED);
    assert_int_equal(f->server.code, ERR_CLOSED);
    assert_int_equal(metrics_get(&f->metrics, METRIC_STREAM_BYTES_IN), 15); /* close has flushed */
    assert_int_equal(metrics_get(&f->metrics, METRIC_STREAMS_OPEN), 0);
    fixture_free(f);
}

enum { BIG = 3000000 };

static char pattern(size_t i)
{
    return (char)(i * 7 + (i >> 8) * 13 + (i >> 16));
}

static void assert_pattern(const struct buf *b, size_t n)
{
    assert_int_equal(b->n, n);
    for (size_t i = 0; i < n; i++)
        if (b->data[i] != pattern(i))
            fail_msg("byte %zu differs", i);
}

static bool server_got_big(struct fixture *f)
{
    return f->server.got.n >= BIG;
}

static void mixed_chunks_arrive_in_order(void **state)
{
    struct fixture *f = fixture_new();
    connect_pair(f);
    struct blob *all = blob_new(NULL, BIG);
    for (size_t i = 0; i < BIG; i++)
        all->data[i] = pattern(i);
    size_t at = 0;
    for (unsigned i = 0; at < BIG; i++) {
        size_t n = (size_t)i * 37 % 9000 + 1;
        if (n > BIG - at)
            n = BIG - at;
        if (i % 5 == 0) {
            struct blob *b = blob_new(NULL, n + 10);
            memcpy(b->data + 10, all->data + at, n);
            stream_write_blob(f->client.s, b, 10);
            blob_unref(b);
        } else {
            stream_write(f->client.s, all->data + at, n);
        }
        at += n;
    }
    run_until(f, server_got_big);
    assert_pattern(&f->server.got, BIG);
    assert_int_equal(stream_queued(f->client.s), 0);
    blob_unref(all);
    stream_abort(f->client.s);
    run_until(f, both_closed);
    fixture_free(f);
}

static bool queue_stands(struct fixture *f)
{
    /* The kernel has taken what fits its buffers, and no more for a while. */
    static size_t last;
    static unsigned n_same;
    size_t now = stream_queued(f->client.s);
    n_same = now == last ? n_same + 1 : 0;
    last = now;
    return n_same > 3;
}
static void on_tick(struct timer *t)
{
}
static bool drained(struct fixture *f)
{
    return f->client.n_drain > 0;
}

static void slow_reader_and_water_marks(void **state)
{
    struct fixture *f = fixture_new();
    enum { N = 40 << 20 };
    struct timer tick;
    connect_pair(f);
    stream_pause(f->server.s);
    stream_pause(f->server.s);
    stream_set_water(f->client.s, 16384, 65536);
    char *data = mem_zalloc(N);
    stream_write(f->client.s, data, 1000);
    mem_free(data);
    struct blob *b = blob_new(NULL, N);
    memset(b->data, 'x', N);
    stream_write_blob(f->client.s, b, 0);
    blob_unref(b);
    timer_init(&tick, f->loop, on_tick);
    timer_start(&tick, 20, 20);
    run_until(f, queue_stands);
    timer_stop(&tick);
    assert_int_equal(f->server.got.n, 0);
    assert_true(stream_queued(f->client.s) > (N >> 1));
    assert_int_equal(f->client.n_drain, 0);
    stream_resume(f->server.s);
    run_until(f, drained);
    assert_int_equal(f->client.n_drain, 1);
    assert_true(stream_queued(f->client.s) <= 16384);
    /* An abort does not wait for a reader. */
    stream_pause(f->server.s);
    stream_abort(f->client.s);
    stream_abort(f->server.s);
    assert_int_equal(f->client.n_close, 0); /* never from inside */
    run_until(f, both_closed);
    assert_int_equal(f->client.code, ERR_CANCELED);
    fixture_free(f);
}

static bool client_closed(struct fixture *f)
{
    return f->client.n_close;
}

static void connection_refused(void **state)
{
    struct fixture *f = fixture_new();
    unsigned port = listener_port(f->listener);
    listener_close(f->listener);
    f->listener = NULL;
    f->client.s = stream_connect(f->loop, "127.0.0.1", port, 5000, &end_events, &f->client);
    run_until(f, client_closed);
    assert_int_equal(f->client.n_open, 0);
    assert_int_equal(f->client.n_close, 1);
    assert_int_equal(f->client.code, ERR_IO);
    assert_non_null(strstr(f->client.detail, "refused"));

    f->client = (struct end){0};
    f->client.s = stream_connect(f->loop, "no-such-host.invalid", port, 5000, &end_events, &f->client);
    run_until(f, client_closed);
    assert_int_equal(f->client.n_open, 0);
    assert_true(f->client.code == ERR_IO || f->client.code == ERR_TIMEOUT);

    /* Given up while the look-up runs. */
    f->client = (struct end){0};
    f->client.s = stream_connect(f->loop, "other-host.invalid", port, 5000, &end_events, &f->client);
    stream_close(f->client.s);
    run_until(f, client_closed);
    assert_int_equal(f->client.code, ERR_CANCELED);
    fixture_free(f);
}

/* A listener whose backlog is full swallows connections. */
struct swallower {
    int fd, fill[8];
    unsigned port;
};

static void swallower_init(struct swallower *w)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    w->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(w->fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(w->fd, 0), 0);
    getsockname(w->fd, (struct sockaddr *)&a, &n);
    w->port = ntohs(a.sin_port);
    for (size_t i = 0; i < n_elements(w->fill); i++) {
        w->fill[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        (void)!connect(w->fill[i], (struct sockaddr *)&a, sizeof(a));
    }
}

/* From now on it takes what comes. */
static void swallower_heal(struct swallower *w)
{
    for (size_t i = 0; i < n_elements(w->fill); i++)
        close(w->fill[i]);
    assert_int_equal(listen(w->fd, 64), 0);
    for (int fd; (fd = accept(w->fd, NULL, NULL)) >= 0;)
        close(fd);
}

static void connect_times_out(void **state)
{
    struct fixture *f = fixture_new();
    struct swallower w;
    swallower_init(&w);
    uint64_t from = clock_monotonic_ms();
    f->client.s = stream_connect(f->loop, "127.0.0.1", w.port, 200, &end_events, &f->client);
    run_until(f, client_closed);
    assert_int_equal(f->client.code, ERR_TIMEOUT);
    assert_true(clock_monotonic_ms() - from >= 200);
    swallower_heal(&w);
    close(w.fd);
    fixture_free(f);
}

struct healing {
    struct timer timer;
    struct swallower *w;
};

static void on_healing(struct timer *t)
{
    swallower_heal(container_of(t, struct healing, timer)->w);
}

static bool client_open_or_closed(struct fixture *f)
{
    return f->client.n_open || f->client.n_close;
}

/* TCP asks again after 1, 3 and 7 s (newer kernels: 1, 2, 3, 4, 5 and 7): who is back at 5.2 s is found
 * before. */
static void connect_tries_anew(void **state)
{
    struct fixture *f = fixture_new();
    struct swallower w;
    struct healing h = {.w = &w};
    swallower_init(&w);
    timer_init(&h.timer, f->loop, on_healing);
    uint64_t from = clock_monotonic_ms();
    f->client.s = stream_connect(f->loop, "127.0.0.1", w.port, 10000, &end_events, &f->client);
    timer_start(&h.timer, 5200, 0);
    run_until(f, client_open_or_closed);
    assert_int_equal(f->client.n_open, 1);
    uint64_t took = clock_monotonic_ms() - from;
    assert_true(took >= 5200);
    assert_true(took < 6700);
    stream_close(f->client.s);
    run_until(f, client_closed);
    close(w.fd);
    fixture_free(f);
}

static bool server_got_4(struct fixture *f)
{
    return f->server.got.n >= 4;
}
static bool server_ended(struct fixture *f)
{
    return f->server.n_end;
}

static void half_close(void **state)
{
    struct fixture *f = fixture_new();
    connect_pair(f);
    stream_set_handler(f->server.s, &end_events_half, &f->server);
    stream_write(f->client.s, "quit", 4);
    stream_close(f->client.s);
    run_until(f, server_ended);
    assert_true(server_got_4(f));
    assert_int_equal(f->server.n_close, 0);
    assert_int_equal(f->client.n_close, 0); /* waits for us */
    stream_write(f->server.s, "answer", 6);
    stream_close(f->server.s);
    run_until(f, both_closed);
    assert_int_equal(f->server.code, ERR_CANCELED);
    fixture_free(f);
}

/* What the peer sent before it broke the connection is read. */
static void last_words_before_a_reset(void **state)
{
    struct fixture *f = fixture_new();
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)listener_port(f->listener)),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(send(fd, "bye", 3, 0), 3);
    struct linger now = {1, 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
    f->client.n_close = 1;
    run_until(f, both_closed);
    assert_int_equal(f->server.code, ERR_IO);
    assert_string_equal(f->server.got.data ? f->server.got.data : "", "bye");
    f->client.s = NULL;
    fixture_free(f);
}

/* The peer reads everything, and never closes: the stream does not wait for that for ever. */
static void close_waits_for_the_peer_only_so_long(void **state)
{
    struct fixture *f = fixture_new();
    int fd = raw_connect(f);
    run_until(f, accepted);
    uint64_t from = clock_monotonic_ms();
    stream_write(f->server.s, "bye", 3);
    stream_close(f->server.s);
    stream_close(f->server.s);
    stream_write(f->server.s, "no more", 7);
    run_until(f, server_closed);
    assert_true(clock_monotonic_ms() - from >= 1900);
    char text[16];
    assert_int_equal(recv(fd, text, sizeof(text), 0), 3);
    assert_int_equal(recv(fd, text, sizeof(text), 0), 0);
    close(fd);
    fixture_free(f);
}

/* With no descriptor left, a connection is refused at once, and the next one is served when there are some
 * again. */
static void out_of_descriptors(void **state)
{
    struct fixture *f = fixture_new();
    struct rlimit before, none;
    getrlimit(RLIMIT_NOFILE, &before);
    int fd = raw_connect(f), probe = dup(fd);
    close(probe);
    none = before;
    none.rlim_cur = (rlim_t)probe; /* the lowest free one */
    setrlimit(RLIMIT_NOFILE, &none);
    struct timeval wait = {10, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    f->client.s = NULL;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    for (int i = 0; i < 1000 && poll(&p, 1, 0) == 0; i++)
        uv_run(loop_uv(f->loop), UV_RUN_NOWAIT);
    char c;
    assert_true(recv(fd, &c, 1, MSG_DONTWAIT) == 0 || errno == ECONNRESET);
    assert_null(f->server.s);
    setrlimit(RLIMIT_NOFILE, &before);
    close(fd);
    fd = raw_connect(f);
    run_until(f, accepted);
    close(fd);
    run_until(f, server_closed);
    fixture_free(f);
}

static unsigned n_pushed;
static void push_back_once(struct end *e, const uint8_t *data, size_t n_bytes)
{
    if (n_pushed++ == 0) {
        assert_int_equal(n_bytes, 6);
        buf_add(&e->got, data, 2);
        stream_push_back(e->s, data + 2, 4);
    } else {
        buf_add(&e->got, data, n_bytes);
    }
}
static bool was_pushed(struct fixture *f)
{
    return n_pushed == 1;
}
static bool server_got_9(struct fixture *f)
{
    return f->server.got.n >= 9;
}

static void pushed_back_bytes_come_first(void **state)
{
    struct fixture *f = fixture_new();
    connect_pair(f);
    f->server.on_data = push_back_once;
    stream_write(f->client.s, "abcdef", 6);
    run_until(f, was_pushed);
    stream_write(f->client.s, "ghi", 3);
    assert_string_equal(f->server.got.data, "ab");
    stream_resume(f->server.s);
    assert_string_equal(f->server.got.data, "ab"); /* later in the turn */
    run_until(f, server_got_9);
    assert_string_equal(f->server.got.data, "abcdefghi");
    stream_abort(f->client.s);
    run_until(f, both_closed);
    fixture_free(f);
}

static void loop_free_ends_its_streams(void **state)
{
    struct fixture *f = fixture_new();
    connect_pair(f);
    stream_write(f->client.s, "x", 1);
    struct end *client = &f->client, *server = &f->server;
    listener_close(f->listener);
    f->listener = NULL;
    loop_free(f->loop);
    assert_int_equal(client->n_close, 1);
    assert_int_equal(client->code, ERR_CANCELED);
    assert_int_equal(server->n_close, 1);
    assert_int_equal(loop_new(&f->loop, "x", NULL), 0);
    fixture_free(f);
}

static void ignore_accept(void *user, int fd)
{
    close(fd);
    ++*(unsigned *)user;
}

static void listener_errors(void **state)
{
    struct fixture *f = fixture_new();
    struct listener *x = NULL, *y = NULL;
    struct err_ctx err = {0};
    unsigned n = 0, port = listener_port(f->listener);
    assert_int_equal(listener_open(&x, f->loop, "127.0.0.1", port, false, ignore_accept, &n, &err),
                     ERR_EXISTS);
    assert_non_null(strstr(err.text, "in use"));
    assert_int_equal(listener_open(&x, f->loop, "localhost", 0, false, ignore_accept, &n, &err), ERR_INVALID);
    assert_int_equal(listener_open(&x, f->loop, "192.0.2.1", 0, false, ignore_accept, &n, &err),
                     ERR_UNAVAILABLE);
    assert_int_equal(listener_open(&x, f->loop, "", 70000, false, ignore_accept, &n, &err), ERR_INVALID);
    assert_null(x);
    assert_int_equal(listener_open(&x, f->loop, "", 0, true, ignore_accept, &n, &err), 0);
    assert_int_equal(listener_open(&y, f->loop, "", listener_port(x), true, ignore_accept, &n, &err), 0);
    listener_close(x);
    listener_close(y);
    listener_close(NULL);
    fixture_free(f);
}

static unsigned n_unix;
static bool unix_accepted(struct fixture *f)
{
    return n_unix == 1;
}

static void unix_listener(void **state)
{
    struct fixture *f = fixture_new();
    struct err_ctx err = {0};
    char dir[] = "/tmp/imp-test-XXXXXX", path[64], longer[200];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/s", dir);
    struct listener *x = NULL, *y = NULL;
    assert_int_equal(listener_open_unix(&x, f->loop, path, 0660, ignore_accept, &n_unix, &err), 0);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0660);
    assert_int_equal(listener_open_unix(&y, f->loop, path, 0660, ignore_accept, &n_unix, &err), ERR_EXISTS);
    run_until(f, unix_accepted); /* the probe of the second one */
    /* One that is left over from a process that died is replaced. */
    struct stat before = st;
    char other[64];
    snprintf(other, sizeof(other), "%s/t", dir);
    assert_int_equal(rename(path, other), 0);
    listener_close(x);
    assert_int_equal(rename(other, path), 0);
    assert_int_equal(listener_open_unix(&x, f->loop, path, 0600, ignore_accept, &n_unix, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_ino != before.st_ino || st.st_mode != before.st_mode);
    listener_close(x);
    assert_int_not_equal(stat(path, &st), 0);
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(listener_open_unix(&x, f->loop, longer, 0600, ignore_accept, &n_unix, &err),
                     ERR_INVALID);
    assert_int_equal(rmdir(dir), 0);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_echo),
        cmocka_unit_test(mixed_chunks_arrive_in_order),
        cmocka_unit_test(slow_reader_and_water_marks),
        cmocka_unit_test(connection_refused),
        cmocka_unit_test(connect_times_out),
        cmocka_unit_test(connect_tries_anew),
        cmocka_unit_test(half_close),
        cmocka_unit_test(last_words_before_a_reset),
        cmocka_unit_test(close_waits_for_the_peer_only_so_long),
        cmocka_unit_test(out_of_descriptors),
        cmocka_unit_test(pushed_back_bytes_come_first),
        cmocka_unit_test(loop_free_ends_its_streams),
        cmocka_unit_test(listener_errors),
        cmocka_unit_test(unix_listener),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
