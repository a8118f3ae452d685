/* Tunnels: a stream on one thread, its other end on another; nothing is lost or doubled, also when the stream
 * moves to a third one on the way. Runs under TSan, too. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/tunnel.h"
#include <cmocka.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

enum { N_BYTES = 400 * 1000, N_PIECE = 977, DEADLINE_MS = 20000 };

static char pattern(size_t i)
{
    return (char)(i * 11 + (i >> 7) * 3);
}

struct scene {
    struct log *log;
    struct loop *far, *near, *third; /* all on threads of their own */
    struct tunnel *t;
    struct stream *s;
    bool moves, accepts, aborts, pauses;
    /* far */
    size_t down, up, untaken, most_untaken;
    bool takes;
    /* near */
    size_t got, sent, most_queued;
    unsigned n_sent_events, n_ends;
    _Atomic unsigned n_bad, far_closed, near_closed, in_order;
    _Atomic size_t n_down, n_up;
};

static void check(struct scene *s, const char *data, size_t n, size_t at)
{
    for (size_t i = 0; i < n; i++)
        if (data[i] != pattern(at + i))
            atomic_fetch_add(&s->n_bad, 1);
}

/* ---- near ---- */

static void send_down(struct scene *s)
{
    char piece[N_PIECE];
    while (s->sent < N_BYTES && stream_queued(s->s) < 100 * 1000) {
        size_t n = N_BYTES - s->sent < N_PIECE ? N_BYTES - s->sent : N_PIECE;
        for (size_t i = 0; i < n; i++)
            piece[i] = pattern(s->sent + i);
        stream_write(s->s, piece, n);
        s->sent += n;
    }
}
static void arrived(void *user)
{
    struct scene *s = user;
    if (!loop_is_current(s->third))
        atomic_fetch_add(&s->n_bad, 1);
    stream_resume(s->s);
    send_down(s);
}
static void on_data(void *user, const uint8_t *data, size_t n)
{
    struct scene *s = user;
    check(s, (const char *)data, n, s->got);
    size_t before = s->got;
    s->got += n;
    atomic_store(&s->n_up, s->got);
    if (s->moves && before < N_BYTES / 2 && s->got >= N_BYTES / 2) {
        stream_pause(s->s);
        stream_move(s->s, s->third, arrived);
    }
}
static void on_sent(void *user)
{
    struct scene *s = user;
    s->n_sent_events++;
    send_down(s);
}
static void on_end(void *user)
{
    struct scene *s = user;
    s->n_ends++;
    stream_close(s->s);
}
static void on_close(void *user, int code, const char *detail)
{
    struct scene *s = user;
    atomic_store(&s->near_closed, 1);
}
static const struct stream_events stream_events = {
    .on_data = on_data, .on_end = on_end, .on_close = on_close, .on_sent = on_sent};

static void arrive(void *arg, struct tunnel *t)
{
    struct scene *s = arg;
    if (!s->accepts)
        return;
    s->s = tunnel_accept(t, &stream_events, s);
    if (strcmp(stream_peer_address(s->s), "192.0.2.1") || stream_peer_port(s->s) != 77 ||
        !stream_is_tls(s->s) || stream_tunnel_kind(s->s) != 3)
        atomic_fetch_add(&s->n_bad, 1);
    uint8_t binding[64];
    size_t n = sizeof(binding);
    if (stream_tls_can_bind(s->s, TLS_BIND_EXPORTER) ||
        stream_tls_binding(s->s, TLS_BIND_EXPORTER, binding, &n) != ERR_UNSUPPORTED)
        atomic_fetch_add(&s->n_bad, 1);
    /* what the far end knows of its connection */
    if (!stream_tls_can_bind(s->s, TLS_BIND_SERVER_END_POINT) ||
        stream_tls_binding(s->s, TLS_BIND_SERVER_END_POINT, binding, &n) != 0 || n != 3 ||
        memcmp(binding, "\1\2\3", 3) != 0)
        atomic_fetch_add(&s->n_bad, 1);
    n = 2;
    if (stream_tls_binding(s->s, TLS_BIND_SERVER_END_POINT, binding, &n) != ERR_LIMIT)
        atomic_fetch_add(&s->n_bad, 1);
    if (s->aborts)
        stream_abort(s->s);
    else
        send_down(s);
}

/* ---- far ---- */

static void send_up(struct scene *s)
{
    char piece[N_PIECE];
    while (s->up < N_BYTES && tunnel_room(s->t)) {
        size_t n = N_BYTES - s->up < N_PIECE ? N_BYTES - s->up : N_PIECE;
        for (size_t i = 0; i < n; i++)
            piece[i] = pattern(s->up + i);
        tunnel_write(s->t, piece, n);
        s->up += n;
    }
}
static void on_far_data(void *user, const char *data, size_t n)
{
    struct scene *s = user;
    check(s, data, n, s->down);
    s->down += n;
    s->untaken += n;
    if (s->untaken > TUNNEL_WINDOW)
        atomic_fetch_add(&s->n_bad, 1);
    if (s->takes && (s->untaken > TUNNEL_WINDOW / 2 || s->down == N_BYTES)) {
        tunnel_taken(s->t, s->untaken);
        s->untaken = 0;
    }
    atomic_store(&s->n_down, s->down);
}
static void on_far_room(void *user)
{
    send_up(user);
}
static void on_far_close(void *user, bool in_order)
{
    struct scene *s = user;
    atomic_store(&s->in_order, in_order);
    atomic_store(&s->far_closed, 1);
    tunnel_end(s->t);
    s->t = NULL;
}
static const struct tunnel_events events = {
    .on_data = on_far_data, .on_room = on_far_room, .on_close = on_far_close};

/* ---- driving ---- */

struct call {
    struct letter letter;
    void (*fn)(struct scene *s);
    struct scene *s;
    _Atomic bool done;
};
static void on_call(struct letter *l)
{
    struct call *c = container_of(l, struct call, letter);
    c->fn(c->s);
    atomic_store(&c->done, true);
}
static void call(struct loop *l, void (*fn)(struct scene *s), struct scene *s)
{
    struct call c = {.letter = {.deliver = on_call}, .fn = fn, .s = s};
    loop_post(l, &c.letter);
    while (!atomic_load(&c.done))
        usleep(200);
}
static bool wait_for(_Atomic size_t *value, size_t want)
{
    for (int i = 0; i < DEADLINE_MS && atomic_load(value) < want; i++)
        usleep(1000);
    return atomic_load(value) >= want;
}
static bool wait_flag(_Atomic unsigned *flag)
{
    for (int i = 0; i < DEADLINE_MS && !atomic_load(flag); i++)
        usleep(1000);
    return atomic_load(flag);
}

static void open_it(struct scene *s)
{
    struct tunnel_facts facts = {.address = "192.0.2.1",
                                 .port = 77,
                                 .tls = true,
                                 .kind = 3,
                                 .bindings[TLS_BIND_SERVER_END_POINT] = {3, {1, 2, 3}}};
    s->t = tunnel_open(s->far, s->near, &facts, &events, s, arrive, s);
    send_up(s);
}
static void end_it(struct scene *s)
{
    if (s->t)
        tunnel_end(s->t);
    s->t = NULL;
}
static void close_near(struct scene *s)
{
    stream_close(s->s);
}

static void start(struct scene *s)
{
    s->log = log_new(2, LOG_TEXT, LOG_ERROR, "");
    struct loop **loops[] = {&s->far, &s->near, &s->third};
    for (size_t i = 0; i < n_elements(loops); i++) {
        assert_int_equal(loop_new(loops[i], "t", s->log), 0);
        assert_int_equal(loop_start_thread(*loops[i]), 0);
    }
}
static void stop(struct scene *s)
{
    struct loop *loops[] = {s->near, s->third, s->far};
    for (size_t i = 0; i < n_elements(loops); i++) {
        loop_stop(loops[i]);
        loop_join_thread(loops[i]);
    }
    for (size_t i = 0; i < n_elements(loops); i++)
        loop_free(loops[i]);
    log_free(s->log);
    assert_int_equal(atomic_load(&s->n_bad), 0);
}

static void carry(bool moves)
{
    struct scene s = {.moves = moves, .accepts = true, .takes = true};
    start(&s);
    call(s.far, open_it, &s);
    assert_true(wait_for(&s.n_up, N_BYTES));
    assert_true(wait_for(&s.n_down, N_BYTES));
    call(s.far, end_it, &s);
    assert_true(wait_flag(&s.near_closed));
    assert_int_equal(s.n_ends, 1);
    stop(&s);
}
static void carries_both_ways(void **state)
{
    carry(false);
}
static void moves_without_loss(void **state)
{
    carry(true);
}

/* The near end closes: what was written is there first. */
static void closes_in_order(void **state)
{
    struct scene s = {.accepts = true, .takes = true};
    start(&s);
    call(s.far, open_it, &s);
    assert_true(wait_for(&s.n_down, N_BYTES));
    call(s.near, close_near, &s);
    assert_true(wait_flag(&s.far_closed));
    assert_int_equal(atomic_load(&s.in_order), 1);
    assert_true(wait_flag(&s.near_closed));
    stop(&s);
}

/* A far end that takes nothing gets no more than the window. */
static void window_holds(void **state)
{
    struct scene s = {.accepts = true, .takes = false};
    start(&s);
    call(s.far, open_it, &s);
    assert_true(wait_for(&s.n_down, TUNNEL_WINDOW));
    assert_true(wait_for(&s.n_up, N_BYTES));
    assert_int_equal(atomic_load(&s.n_down), TUNNEL_WINDOW);
    call(s.far, end_it, &s); /* the client is gone: the rest is dropped at once */
    assert_true(wait_flag(&s.near_closed));
    stop(&s);
}

static void refused_and_aborted(void **state)
{
    for (int i = 0; i < 2; i++) {
        struct scene s = {.accepts = i == 1, .aborts = true};
        start(&s);
        call(s.far, open_it, &s);
        assert_true(wait_flag(&s.far_closed));
        assert_int_equal(atomic_load(&s.in_order), 0);
        stop(&s);
    }
}

/* Loops end with notes under way, or with the stream on a third one: nothing leaks (LeakSanitizer). */
static void loops_end_meanwhile(void **state)
{
    for (int i = 0; i < 5; i++) {
        struct scene s = {.moves = true, .accepts = true, .takes = true};
        start(&s);
        call(s.far, open_it, &s);
        wait_for(&s.n_up, (size_t)i * N_BYTES / 5);
        call(s.far, end_it, &s);
        stop(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(carries_both_ways),   cmocka_unit_test(moves_without_loss),
        cmocka_unit_test(closes_in_order),     cmocka_unit_test(window_holds),
        cmocka_unit_test(refused_and_aborted), cmocka_unit_test(loops_end_meanwhile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
