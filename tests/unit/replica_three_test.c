/* Three nodes over TLS on 127.0.0.1: growing from one, proposals and reads through followers, a leader that
 * stops, a node that was away. */
#include "replica_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static void test_followers_propose(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    for (unsigned i = 0; i < 30; i++)
        propose_alarm_until_done(&c->nodes[1 + i % 3], "hello");
    await_equal(c);
    assert_int_equal(n_alarms(&c->nodes[1]), 30);
    struct replica_status s;
    replica_get_status(c->nodes[2].r, &s);
    assert_int_equal(s.n_voters, 3);
    assert_int_equal(s.n_peers, 2);
    assert_true(s.peers[0].connected && s.peers[1].connected);
    await((replica_get_status(c->nodes[2].r, &s), s.peers[0].ping_us > 0), "a round trip measured");
    cluster_free(c);
}

/* What was acknowledged anywhere is seen by a read with a barrier anywhere. */
static void test_barrier(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    for (unsigned i = 0; i < 60; i++) {
        struct tnode *writer = &c->nodes[1 + i % 3], *reader = &c->nodes[1 + (i + 1 + i / 3 % 2) % 3];
        propose_alarm_until_done(writer, "x");
        uint64_t index;
        assert_int_equal(barrier(reader, 0, &index), 0);
        assert_int_equal(n_alarms(reader), i + 1);
    }
    cluster_free(c);
}

static void test_leader_stops(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    for (unsigned round = 0; round < 4; round++) {
        struct tnode *leader = cluster_leader(c), *other = &c->nodes[1 + leader->id % 3];
        uint32_t id = leader->id;
        propose_alarm_until_done(leader, "before");
        uint64_t begin = clock_monotonic_ms();
        node_stop(leader);
        propose_alarm_until_done(other, "after");
        print_message("leader %u stopped, next write after %llu ms\n", id,
                      (unsigned long long)(clock_monotonic_ms() - begin));
        node_start(c, id);
        await_equal(c);
        assert_int_equal(n_alarms(other), 2 * (round + 1));
    }
    cluster_free(c);
}

static void test_transfer(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    for (unsigned i = 0; i < 3; i++) {
        struct tnode *leader = cluster_leader(c);
        uint32_t to = 1 + leader->id % 3;
        assert_int_equal(transfer(leader, to), 0);
        await(cluster_leader(c)->id == to, "the new leader");
        propose_alarm_until_done(leader, "after");
    }
    assert_int_equal(transfer(&c->nodes[1 + cluster_leader(c)->id % 3], 0), ERR_NOTLEADER);
    cluster_free(c);
}

/* A node that was away catches up; without a majority nothing is acknowledged. */
static void test_minority(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    struct tnode *leader = cluster_leader(c);
    uint32_t a = 1 + leader->id % 3, b = 1 + a % 3;
    node_stop(&c->nodes[a]);
    for (unsigned i = 0; i < 100; i++)
        propose_alarm_until_done(leader, "two of three");
    node_stop(&c->nodes[b]);
    assert_int_equal(barrier(leader, 300, NULL) == 0, 0);
    node_start(c, a);
    leader = cluster_leader(c);
    propose_alarm_until_done(leader, "again");
    node_start(c, b);
    await_equal(c);
    assert_int_equal(n_alarms(&c->nodes[b]), 101);
    cluster_free(c);
}

/* All crash at once, and every store is back at a durable point that knows no member: the log, which does, is
 * applied only when there is a leader. They find each other by what they were told. */
static void test_all_forget(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    propose_alarm_until_done(&c->nodes[1], "before");
    await_equal(c);
    for (uint32_t id = 1; id <= 3; id++) {
        node_stop(&c->nodes[id]);
        node_forget_store(&c->nodes[id]);
    }
    c->tell_known = true;
    for (uint32_t id = 1; id <= 3; id++)
        node_start(c, id);
    propose_alarm_until_done(cluster_leader(c), "after");
    await_equal(c);
    for (uint32_t id = 1; id <= 3; id++)
        assert_int_equal(n_alarms(&c->nodes[id]), 2);
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_followers_propose), cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_leader_stops),      cmocka_unit_test(test_transfer),
        cmocka_unit_test(test_minority),          cmocka_unit_test(test_all_forget),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
