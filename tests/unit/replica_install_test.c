/* A node that was away for longer than the log reaches back takes over a copy of the store: by ranges, from a
 * member, then ends and starts again with it. Also cut off in the middle, and twice. */
#include "replica_fixture.h"

#include "base/mem.h"
#include <stdio.h>
#include <string.h>

enum { TEXT_BYTES = 64 << 10 };

static struct cluster *small_log_cluster(void)
{
    struct cluster *c = cluster_new();
    c->log_keep_bytes = 1 << 20;
    node_start(c, 1);
    cluster_grow(c, 3);
    return c;
}

/* More than two segments of log. */
static void write_much(struct tnode *n)
{
    char *text = mem_alloc(TEXT_BYTES);
    memset(text, 'x', TEXT_BYTES - 1);
    text[TEXT_BYTES - 1] = 0;
    for (unsigned i = 0; i < (48u << 20) / TEXT_BYTES; i++)
        propose_alarm_until_done(n, text);
    mem_free(text);
}

static uint64_t last_of(struct tnode *n)
{
    struct replica_status s;
    replica_get_status(n->r, &s);
    return s.last_index;
}

static uint64_t first_of(struct tnode *n)
{
    struct replica_status s;
    replica_get_status(n->r, &s);
    return s.first_index;
}

static void await_compacted(struct cluster *c, uint64_t beyond, const char *text)
{
    for (uint32_t id = 1; id <= 3; id++) {
        struct tnode *n = &c->nodes[id];
        if (!n->r)
            continue;
        /* Something must change for the next durable point. */
        await((propose_alarm(n, text), first_of(n) > beyond), "a compacted log");
    }
}

static void test_install(void **state)
{
    struct cluster *c = small_log_cluster();
    struct tnode *away = &c->nodes[1 + cluster_leader(c)->id % 3];
    uint64_t last = last_of(away);
    node_stop(away);
    write_much(cluster_leader(c));
    await_compacted(c, last + 1, "x");
    node_start(c, away->id);
    await(atomic_load(&away->n_fatal) > 0, "a finished install");
    assert_int_equal(atomic_load(&away->n_exit_again), 1);
    /* Until it has started again it applies nothing. */
    assert_true(replica_applied_index(away->r) < first_of(cluster_leader(c)));
    node_stop(away);
    node_start(c, away->id);
    propose_alarm_until_done(away, "back");
    await_equal(c);
    assert_true(first_of(away) > last + 1);
    /* And it is whole: it can lead, alone with one other. */
    uint32_t other = 1 + away->id % 3;
    node_stop(&c->nodes[other]);
    struct tnode *leader = cluster_leader(c);
    if (leader != away)
        await(transfer(cluster_leader(c), away->id) == 0, "leadership of the copy");
    propose_alarm_until_done(away, "leading");
    node_start(c, other);
    await_equal(c);
    cluster_free(c);
}

/* The process ends before the marker is written: the old state stands, and the next life begins anew. */
static void test_install_interrupted(void **state)
{
    struct cluster *c = small_log_cluster();
    struct tnode *away = &c->nodes[1 + cluster_leader(c)->id % 3];
    struct replica_status s;
    uint64_t last = last_of(away);
    node_stop(away);
    write_much(cluster_leader(c));
    await_compacted(c, last + 1, "x");
    for (unsigned i = 0; i < 2; i++) {
        node_start(c, away->id);
        await((replica_get_status(away->r, &s), s.installing), "an install");
        assert_true(s.applied_index < first_of(cluster_leader(c)));
        node_stop(away);
    }
    node_start(c, away->id);
    await(atomic_load(&away->n_fatal) > 0, "a finished install");
    node_stop(away);
    node_start(c, away->id);
    await_equal(c);
    cluster_free(c);
}

/* The stream is cut every 16 MiB: it goes on where it was, with the same copy. */
static void test_install_cut(void **state)
{
    struct cluster *c = cluster_new();
    c->log_keep_bytes = 1 << 20;
    node_start(c, 1);
    c->cut_after = 16 << 20; /* nodes 2 and 3 */
    cluster_grow(c, 3);
    struct tnode *away = &c->nodes[1], *source = &c->nodes[2];
    if (cluster_leader(c) == away)
        await(transfer(away, 3) == 0, "leadership of node 3");
    uint64_t last = last_of(away);
    node_stop(away);
    write_much(&c->nodes[3]);
    await_compacted(c, last + 1, "x");
    unsigned n_cut = cut_proxy_n_cut(source->proxy) + cut_proxy_n_cut(c->nodes[3].proxy);
    struct replica_status s;
    uint64_t done = 0, total = 0;
    bool went_back = false;
    node_start(c, 1);
    struct await_clock clock = await_begin();
    for (; atomic_load(&away->n_fatal) == 0; await_step(&clock, "a finished install", __FILE__, __LINE__)) {
        replica_get_status(away->r, &s);
        went_back |= total && s.install_done < done;
        done = s.install_done;
        total = s.install_total;
    }
    n_cut = cut_proxy_n_cut(source->proxy) + cut_proxy_n_cut(c->nodes[3].proxy) - n_cut;
    assert_true(n_cut >= 3);
    assert_true(total > 48 << 20);
    assert_false(went_back);
    node_stop(away);
    node_start(c, 1);
    await_equal(c);
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_install),
        cmocka_unit_test(test_install_interrupted),
        cmocka_unit_test(test_install_cut),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
