/* stream_move: a connection goes on at another loop, on another thread, and no byte is lost. Runs under TSan,
 * too. */
#include "stream_fixture.h"
#include <stdatomic.h>
#include <string.h>

enum { N_BYTES = 100000, N_PIECE = 977 };

static char pattern(size_t i)
{
    return (char)(i * 11 + (i >> 7) * 3);
}

/* The server's end: it writes a piece for each one it reads, and moves after a quarter. */
struct mover {
    struct fixture *f;
    struct loop *other;
    struct stream *s;
    struct buf got;
    size_t sent, move_at;
    bool tls, moved, close_first;
    unsigned n_wrong_thread, n_arrived, n_close;
    int code;
    struct letter report; /* to the main loop, at the end */
    bool is_reported;
};

static struct loop *home(struct mover *m)
{
    return m->moved ? m->other : m->f->loop;
}

static void send_until(struct stream *s, size_t *sent, size_t n)
{
    char piece[N_PIECE];
    while (*sent < n) {
        size_t k = n - *sent < N_PIECE ? n - *sent : N_PIECE;
        for (size_t i = 0; i < k; i++)
            piece[i] = pattern(*sent + i);
        stream_write(s, piece, k);
        *sent += k;
    }
}

static void on_report(struct letter *letter)
{
    container_of(letter, struct mover, report)->is_reported = true;
}

static void arrived(void *user)
{
    struct mover *m = user;
    m->moved = true;
    m->n_arrived++;
    m->n_wrong_thread += !loop_is_current(m->other) || stream_loop(m->s) != m->other;
    if (m->close_first)
        stream_close(m->s);
    else
        send_until(m->s, &m->sent, N_BYTES / 2);
}

static void mover_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct mover *m = user;
    m->n_wrong_thread += !loop_is_current(home(m));
    buf_add(&m->got, data, n_bytes);
    if (!m->moved && m->got.n >= m->move_at) {
        send_until(m->s, &m->sent, N_BYTES / 4); /* queued: goes along */
        stream_move(m->s, m->other, arrived);
        send_until(m->s, &m->sent, N_BYTES / 4 + 5000);
        m->move_at = SIZE_MAX; /* no data comes before arrived() */
    } else if (m->got.n >= N_BYTES) {
        send_until(m->s, &m->sent, N_BYTES);
    }
}

static void mover_open(void *user)
{
}

static void mover_close(void *user, int code, const char *detail)
{
    struct mover *m = user;
    m->n_wrong_thread += !loop_is_current(home(m));
    m->n_close++;
    m->code = code;
    loop_post(m->f->loop, &m->report);
}

static const struct stream_events mover_events = {
    .on_open = mover_open, .on_data = mover_data, .on_close = mover_close};

static struct mover *current; /* for the condition */
static bool done(struct fixture *f)
{
    if (f->client.s && f->client.got.n == N_BYTES)
        stream_close(f->client.s);
    return current->is_reported && f->client.n_close;
}
static bool closed_both(struct fixture *f)
{
    return current->is_reported && f->client.n_close;
}

static void feed_client(struct end *e)
{
    size_t sent = 0;
    send_until(e->s, &sent, N_BYTES);
}

static void setup(struct mover *m, bool tls)
{
    struct fixture *f = m->f = fixture_new();
    m->report.deliver = on_report;
    m->tls = tls;
    current = m;
    assert_int_equal(loop_new(&m->other, "other", NULL), 0);
    assert_int_equal(loop_start_thread(m->other), 0);
    connect_pair(f);
    if (tls) {
        make_contexts(f, false, false);
        start_tls(f, NULL);
    }
    m->s = f->server.s;
    f->server.s = NULL;
    stream_set_handler(m->s, &mover_events, m);
}

static void teardown(struct mover *m)
{
    loop_stop(m->other);
    loop_join_thread(m->other);
    loop_free(m->other);
    fixture_free(m->f);
    buf_fini(&m->got);
}

static void move_in_traffic(bool tls)
{
    struct mover m = {.move_at = N_BYTES / 4};
    setup(&m, tls);
    feed_client(&m.f->client);
    run_until(m.f, done);
    assert_int_equal(m.n_arrived, 1);
    assert_int_equal(m.n_close, 1);
    assert_int_equal(m.code, ERR_CLOSED);
    assert_int_equal(m.n_wrong_thread, 0);
    assert_int_equal(m.got.n, N_BYTES);
    assert_int_equal(m.f->client.got.n, N_BYTES);
    for (size_t i = 0; i < N_BYTES; i++)
        if (m.got.data[i] != pattern(i) || m.f->client.got.data[i] != pattern(i))
            fail_msg("byte %zu differs", i);
    teardown(&m);
}

static void in_clear(void **state)
{
    move_in_traffic(false);
}
static void under_tls(void **state)
{
    for (int i = 0; i < 5; i++)
        move_in_traffic(true);
}

/* Closed in the same turn as moved, and closed on arrival: on_close comes from the new loop, once. */
static void closed_on_the_way(void **state)
{
    struct mover m = {.move_at = 1};
    setup(&m, true);
    stream_move(m.s, m.other, arrived);
    stream_abort(m.s);
    m.moved = true;
    run_until(m.f, closed_both);
    assert_int_equal(m.n_close, 1);
    assert_int_equal(m.n_arrived, 1);
    assert_int_equal(m.n_wrong_thread, 0);
    teardown(&m);

    m = (struct mover){.move_at = 1, .close_first = true};
    setup(&m, true);
    stream_move(m.s, m.other, arrived);
    run_until(m.f, closed_both);
    assert_int_equal(m.n_close, 1);
    assert_int_equal(m.code, ERR_CANCELED);
    assert_int_equal(m.n_wrong_thread, 0);
    teardown(&m);
}

/* The other loop ends before the stream arrives. */
static void other_loop_ends(void **state)
{
    struct mover m = {.move_at = 1};
    setup(&m, true);
    loop_stop(m.other);
    loop_join_thread(m.other);
    stream_write(m.s, "x", 1);
    stream_move(m.s, m.other, arrived);
    loop_stop(m.f->loop);
    loop_run(m.f->loop);
    loop_free(m.other);
    assert_int_equal(m.n_close, 1);
    assert_int_equal(m.n_arrived, 0);
    assert_int_equal(m.code, ERR_CANCELED);
    assert_int_equal(loop_new(&m.other, "other", NULL), 0);
    run_until(m.f, closed_both);
    teardown(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_clear),
        cmocka_unit_test(under_tls),
        cmocka_unit_test(closed_on_the_way),
        cmocka_unit_test(other_loop_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
