/* Node links over the real plane: two nodes on one loop, mutual TLS, ports of the kernel's choice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/mem.h"
#include "cluster/frame.h"
#include "cluster/home.h"
#include "cluster/identity.h"
#include "cluster/link.h"
#include "cluster/plane.h"
#include <cmocka.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const uint8_t cluster_id[16] = {1, 2, 3};

struct node {
    uint32_t id;
    struct loop *loop;
    char *key, *cert;
    struct tls_ctx *server, *client;
    struct plane *plane;
    struct links *links;
    unsigned n_up, n_down, n_in_down, n_frames;
    uint64_t up_epoch, last_value;
    bool out_of_order, removed_peer;
    int reply_code;
    char reply[64];
    unsigned n_replies;
    struct link_request *held;
};
struct cluster {
    struct loop *loop;
    struct log *log;
    char *ca_key, *ca_cert;
    struct node node[2];
    struct members *members;
};

static void on_raft(void *user, struct stream *s, uint32_t node)
{
    (void)user, (void)node;
    stream_abort(s);
}
static void on_link(void *user, struct stream *s, uint32_t node)
{
    struct node *n = user;
    links_accept(n->links, s, node);
}
static void on_join(void *user, struct stream *s)
{
    (void)user;
    stream_abort(s);
}
static bool is_removed(void *user, uint32_t node)
{
    struct node *n = user;
    (void)node;
    return n->removed_peer;
}
static void on_up(void *user, uint32_t node, uint64_t epoch)
{
    struct node *n = user;
    assert_int_not_equal(node, n->id);
    n->n_up++;
    n->up_epoch = epoch;
}
static void on_down(void *user, uint32_t node)
{
    struct node *n = user;
    (void)node;
    n->n_down++;
}
static void on_in_down(void *user, uint32_t node)
{
    struct node *n = user;
    assert_int_not_equal(node, n->id);
    n->n_in_down++;
}
static void on_envelope(void *user, uint32_t from, uint64_t epoch, const uint8_t *data, size_t n_bytes)
{
    struct node *n = user;
    struct reader r;
    (void)from, (void)epoch;
    reader_init(&r, data, n_bytes);
    uint64_t value = read_u64(&r);
    n->out_of_order |= r.failed || value != n->last_value + 1;
    n->last_value = value;
    n->n_frames++;
}
static void on_echo(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                    size_t n_bytes)
{
    (void)user, (void)from;
    link_answer(request, 0, data, n_bytes);
}
static void on_silent(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                      size_t n_bytes)
{
    struct node *n = user;
    (void)from, (void)data, (void)n_bytes;
    n->held = request;
}
static void on_reply(void *user, int code, const uint8_t *data, size_t n_bytes)
{
    struct node *n = user;
    n->n_replies++;
    n->reply_code = code;
    snprintf(n->reply, sizeof(n->reply), "%.*s", (int)n_bytes, n_bytes ? (const char *)data : "");
}

struct waiter {
    struct timer timer;
    struct cluster *c;
    bool (*is_done)(struct cluster *c);
    uint64_t until_ms;
    bool ok;
};
static void on_wait(struct timer *t)
{
    struct waiter *w = container_of(t, struct waiter, timer);
    w->ok = w->is_done(w->c);
    if (w->ok || clock_monotonic_ms() > w->until_ms)
        loop_stop(w->c->loop);
}
static void wait_for(struct cluster *c, bool (*is_done)(struct cluster *c))
{
    struct waiter w = {.c = c, .is_done = is_done, .until_ms = clock_monotonic_ms() + 20000};
    timer_init(&w.timer, c->loop, on_wait);
    timer_start(&w.timer, 1, 1);
    loop_run(c->loop);
    timer_stop(&w.timer);
    assert_true(w.ok);
}

static void start_node(struct cluster *c, struct node *n, uint32_t id)
{
    struct err_ctx err = {0};
    n->id = id;
    n->loop = c->loop;
    struct buf req = {0};
    assert_int_equal(identity_new_key(&n->key, &err), 0);
    assert_int_equal(identity_new_request(&req, n->key, &err), 0);
    assert_int_equal(identity_sign_node(&n->cert, &(struct identity_ca){.cert_pem = c->ca_cert, .key_pem = c->ca_key}, req.data,
                                        req.n, cluster_id, id, clock_wall_ms(), &err),
                     0);
    buf_fini(&req);
    assert_int_equal(plane_tls(&n->server, NULL, n->cert, n->key, c->ca_cert, &err), 0);
    assert_int_equal(plane_tls(&n->client, LINK_ALPN, n->cert, n->key, c->ca_cert, &err), 0);
    struct links_options lo = {.loop = c->loop,
                               .log = c->log,
                               .node_id = id,
                               .release = "1",
                               .tls_client = n->client,
                               .ping_ms = 50,
                               .dead_ms = 5000};
    memcpy(lo.cluster_id, cluster_id, 16);
    n->links = links_new(&lo);
    links_handle(n->links, LINK_ENVELOPE, on_envelope, n);
    links_handle_call(n->links, "echo", on_echo, n);
    links_handle_call(n->links, "silent", on_silent, n);
    links_watch(n->links, on_up, on_down, n);
    links_watch_in(n->links, on_in_down, n);
    struct plane_options po = {.loop = c->loop,
                               .log = c->log,
                               .address = "127.0.0.1",
                               .tls = n->server,
                               .on_raft = on_raft,
                               .on_link = on_link,
                               .on_join = on_join,
                               .is_removed = is_removed,
                               .user = n};
    memcpy(po.cluster_id, cluster_id, 16);
    assert_int_equal(plane_open(&n->plane, &po, &err), 0);
}

static int setup(void **state)
{
    struct cluster *c = mem_new(struct cluster);
    *state = c;
    c->log = log_new(2, LOG_TEXT, LOG_ERROR, "");
    assert_int_equal(loop_new(&c->loop, "test", c->log), 0);
    assert_int_equal(identity_new_key(&c->ca_key, NULL), 0);
    assert_int_equal(identity_new_ca(&c->ca_cert, c->ca_key, cluster_id, 1, clock_wall_ms(), NULL), 0);
    c->members = mem_zalloc(sizeof(*c->members) + 2 * sizeof(struct member));
    c->members->n = 2;
    for (uint32_t i = 0; i < 2; i++) {
        start_node(c, &c->node[i], i + 1);
        c->members->list[i] = (struct member){.id = i + 1, .cluster_port = plane_port(c->node[i].plane)};
        snprintf(c->members->list[i].address, 256, "127.0.0.1");
    }
    return 0;
}

static bool settled(struct cluster *c)
{
    static unsigned n;
    (void)c;
    return ++n % 100 == 0;
}

static int teardown(void **state)
{
    struct cluster *c = *state;
    for (int i = 0; i < 2; i++) {
        struct node *n = &c->node[i];
        plane_close(n->plane);
        if (n->held)
            link_answer(n->held, 0, NULL, 0);
        links_free(n->links);
        tls_ctx_unref(n->server);
        tls_ctx_unref(n->client);
        identity_free_key(n->key);
        mem_free(n->cert);
    }
    wait_for(c, settled);
    loop_free(c->loop);
    log_free(c->log);
    identity_free_key(c->ca_key);
    mem_free(c->ca_cert);
    mem_free(c->members);
    mem_free(c);
    return 0;
}

static void link_up(struct cluster *c)
{
    for (int i = 0; i < 2; i++) {
        links_set_epoch(c->node[i].links, 10 + (uint64_t)i);
        links_set_members(c->node[i].links, c->members);
    }
}
static bool both_up(struct cluster *c)
{
    return link_is_up(c->node[0].links, 2) && link_is_up(c->node[1].links, 1);
}
static bool first_down(struct cluster *c)
{
    return !link_is_up(c->node[0].links, 2);
}
static bool replied(struct cluster *c)
{
    return c->node[0].n_replies == 1;
}
static bool can_call(struct cluster *c)
{
    return links_can_call(c->node[0].links, 2);
}

static void test_calls_without_epoch(void **state)
{
    struct cluster *c = *state;
    links_set_members(c->node[0].links, c->members);
    links_set_members(c->node[1].links, c->members);
    wait_for(c, can_call);
    assert_int_equal(c->node[0].n_up, 0);
    assert_int_equal(link_send(c->node[0].links, 2, LINK_ENVELOPE, "x", 1), ERR_UNAVAILABLE);
    link_call(c->node[0].links, 2, "echo", "hello", 5, 5000, on_reply, &c->node[0]);
    wait_for(c, replied);
    assert_int_equal(c->node[0].reply_code, 0);
    assert_string_equal(c->node[0].reply, "hello");
    c->node[0].n_replies = 0;
    link_call(c->node[0].links, 2, "no such method", NULL, 0, 5000, on_reply, &c->node[0]);
    wait_for(c, replied);
    assert_int_equal(c->node[0].reply_code, ERR_UNSUPPORTED);
    c->node[0].n_replies = 0;
    link_call(c->node[0].links, 2, "silent", NULL, 0, 50, on_reply, &c->node[0]);
    wait_for(c, replied);
    assert_int_equal(c->node[0].reply_code, ERR_TIMEOUT);
    c->node[0].n_replies = 0;
    link_call(c->node[0].links, 1, "echo", "self", 4, 5000, on_reply, &c->node[0]);
    wait_for(c, replied);
    assert_string_equal(c->node[0].reply, "self");
    c->node[0].n_replies = 0;
    link_call(c->node[0].links, 77, "echo", "x", 1, 5000, on_reply, &c->node[0]);
    wait_for(c, replied);
    assert_int_equal(c->node[0].reply_code, ERR_UNAVAILABLE);
}

enum { N_FRAMES = 20000 };
static void *send_frames(void *user)
{
    struct node *n = user;
    for (uint64_t i = 1; i <= N_FRAMES;) {
        struct buf b = {0};
        buf_add_u64(&b, i);
        int rc = link_send(n->links, 2, LINK_ENVELOPE, b.data, b.n);
        buf_fini(&b);
        if (!rc)
            i++;
        else if (rc != ERR_LIMIT)
            break;
    }
    return NULL;
}
static bool all_frames(struct cluster *c)
{
    return c->node[1].n_frames == N_FRAMES;
}
static void test_frames_in_order(void **state)
{
    struct cluster *c = *state;
    link_up(c);
    wait_for(c, both_up);
    assert_int_equal(c->node[0].up_epoch, 11);
    assert_int_equal(c->node[1].up_epoch, 10);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, send_frames, &c->node[0]), 0);
    wait_for(c, all_frames);
    pthread_join(thread, NULL);
    assert_false(c->node[1].out_of_order);
    wait_for(c, settled);
    assert_int_equal(link_queued(c->node[0].links, 2), 0);
    assert_true(links_ping_us(c->node[0].links, 2) > 0);
}

/* The connection of node 1 to node 2 breaks, and that of node 2 to node 1 does not. */
static bool in_is_down(struct cluster *c)
{
    return c->node[1].n_in_down == 1 && c->node[0].n_down == 1;
}
static bool first_up_again(struct cluster *c)
{
    return c->node[0].n_up == 2 && links_hears(c->node[1].links, 1);
}
static void test_one_way(void **state)
{
    struct cluster *c = *state;
    link_up(c);
    wait_for(c, both_up);
    snprintf(c->members->list[1].address, 256, "127.0.0.77"); /* nobody is there */
    links_set_members(c->node[0].links, c->members);
    wait_for(c, in_is_down);
    assert_int_equal(c->node[1].n_down, 0);
    assert_int_equal(c->node[0].n_in_down, 0);
    assert_true(link_is_up(c->node[1].links, 1));
    assert_false(links_hears(c->node[1].links, 1));
    snprintf(c->members->list[1].address, 256, "127.0.0.1");
    links_set_members(c->node[0].links, c->members);
    wait_for(c, first_up_again);
    assert_int_equal(c->node[1].n_in_down, 1);
}

static void test_ended_epoch(void **state)
{
    struct cluster *c = *state;
    link_up(c);
    wait_for(c, both_up);
    /* node_down of node 2 is applied at node 1: the sessions of its epoch end, and it cannot come back with
     * it. */
    c->members->list[1].epoch = 12;
    links_set_members(c->node[0].links, c->members);
    wait_for(c, first_down);
    assert_int_equal(c->node[0].n_down, 1);
    assert_int_equal(link_send(c->node[0].links, 2, LINK_ENVELOPE, "x", 1), ERR_UNAVAILABLE);
    wait_for(c, settled);
    assert_int_equal(c->node[0].n_up, 1);
    links_set_epoch(c->node[1].links, 12);
    wait_for(c, both_up);
    assert_int_equal(c->node[0].up_epoch, 12);
}

static bool second_up(struct cluster *c)
{
    return link_is_up(c->node[1].links, 1);
}
static bool second_down(struct cluster *c)
{
    return !second_up(c);
}

/* Node 1 has not applied yet that node 2 is a member when node 2 dials it; then it applies that, and its node_down. */
static void test_ended_epoch_of_a_stranger(void **state)
{
    struct cluster *c = *state;
    links_set_epoch(c->node[0].links, 10);
    links_set_epoch(c->node[1].links, 11);
    links_set_members(c->node[1].links, c->members);
    wait_for(c, second_up);
    c->members->list[1].epoch = 12;
    links_set_members(c->node[0].links, c->members);
    wait_for(c, second_down);
}

static void test_removed_and_stranger(void **state)
{
    struct cluster *c = *state;
    c->node[1].removed_peer = true;
    link_up(c);
    wait_for(c, settled);
    wait_for(c, settled);
    assert_int_equal(c->node[0].n_up, 0); /* node 2 refuses node 1 */
    c->node[1].removed_peer = false;
    wait_for(c, both_up);
    /* Somebody else answers at that address: the certificate names another node. */
    c->members->list[1].cluster_port = plane_port(c->node[0].plane);
    links_set_members(c->node[0].links, c->members);
    wait_for(c, first_down);
    wait_for(c, settled);
    assert_false(link_is_up(c->node[0].links, 2));
}

/* ---- frames from pieces ---- */

static bool count_frame(void *user, const uint8_t *body, size_t n_bytes)
{
    unsigned *n = user;
    assert_int_equal(n_bytes, *n % 7 + 1);
    assert_int_equal(body[n_bytes - 1], *n & 255);
    ++*n;
    return true;
}
static void test_frame_reader(void **state)
{
    (void)state;
    struct buf all = {0};
    for (unsigned i = 0; i < 50; i++) {
        buf_add_u32(&all, i % 7 + 1);
        for (unsigned k = 0; k < i % 7 + 1; k++)
            buf_add_u8(&all, (uint8_t)i);
    }
    for (size_t piece = 1; piece < 40; piece++) {
        struct frame_reader r;
        unsigned n = 0;
        frame_reader_init(&r, 7);
        r.is_secret = piece % 2;
        for (size_t at = 0; at < all.n; at += piece) {
            size_t left = all.n - at;
            assert_int_equal(
                frame_reader_feed(&r, (uint8_t *)all.data + at, left < piece ? left : piece, count_frame, &n),
                0);
        }
        assert_int_equal(n, 50);
        frame_reader_fini(&r);
    }
    struct frame_reader r;
    unsigned n = 0;
    frame_reader_init(&r, 6);
    assert_int_equal(frame_reader_feed(&r, (const uint8_t *)"\7\0\0\0", 4, count_frame, &n), ERR_LIMIT);
    assert_int_equal(frame_reader_feed(&r, (const uint8_t *)"\0\0\0\0", 4, count_frame, &n), ERR_MALFORMED);
    frame_reader_fini(&r);
    buf_fini(&all);
}

static void test_home(void **state)
{
    (void)state;
    struct members *m = mem_zalloc(sizeof(*m) + 4 * sizeof(struct member));
    m->n = 4;
    for (uint32_t i = 0; i < 4; i++)
        m->list[i] = (struct member){.id = i + 1, .up = true};
    unsigned count[5] = {0};
    for (uint64_t uid = 1; uid <= 3000; uid++) {
        m->list[0].up = true;
        assert_int_equal(home_active(m, 1, 0, uid, NULL), 1);
        m->list[0].up = false;
        uint32_t other = home_active(m, 1, 0, uid, NULL);
        count[other]++;
        /* A fourth node's death moves only its own users. */
        m->list[3].up = false;
        if (other != 4)
            assert_int_equal(home_active(m, 1, 0, uid, NULL), other);
        m->list[3].up = true;
    }
    for (int i = 2; i <= 4; i++)
        assert_in_range(count[i], 850, 1150);
    assert_int_equal(home_active(m, 0, 0, 5, NULL), 0);
    for (int i = 0; i < 4; i++)
        m->list[i].witness = true;
    assert_int_equal(home_active(m, 1, 0, 5, NULL), 0);
    mem_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame_reader),
        cmocka_unit_test(test_home),
        cmocka_unit_test_setup_teardown(test_calls_without_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_frames_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ended_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_way, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ended_epoch_of_a_stranger, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed_and_stranger, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
