/* Leases over real time: granted to up nodes only, outlived by node_down, back after a change of leader. */
#include "replica_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include <string.h>

static Imp__NodeRow row_of(struct tnode *reader, uint32_t id)
{
    struct store_reader *r = store_reader_new(reader->store);
    struct arena arena;
    struct key k;
    arena_init(&arena);
    key_init(&k);
    key_u32(&k, id);
    const Imp__NodeRow *row = store_find_row(store_read_txn(r), TABLE_NODE, &k, &arena);
    assert_non_null(row);
    Imp__NodeRow copy = *row; /* numbers only */
    arena_fini(&arena);
    store_reader_free(r);
    return copy;
}

static uint64_t epoch_of(struct tnode *n)
{
    struct replica_status s;
    replica_get_status(n->r, &s);
    return s.epoch;
}

static bool has_lease(struct tnode *n)
{
    return replica_lease_until(n->r) > clock_boot_ms();
}

static void come_up(struct tnode *n)
{
    Imp__NodeUp body = IMP__NODE_UP__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    await(epoch_of(n) != 0, "a session");
    body.node = n->id;
    body.epoch = epoch_of(n);
    command.body_case = IMP__COMMAND__BODY_NODE_UP;
    command.node_up = &body;
    assert_int_equal(propose(n, &command).code, 0);
    replica_want_lease(n->r, true);
    await(has_lease(n), "a lease");
}

static struct cluster *up_cluster(void)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    for (uint32_t id = 1; id <= 3; id++) {
        assert_false(has_lease(&c->nodes[id]));
        come_up(&c->nodes[id]);
    }
    return c;
}

static void test_node_down(void **state)
{
    struct cluster *c = up_cluster();
    struct tnode *leader = cluster_leader(c), *other = &c->nodes[1 + leader->id % 3];
    uint64_t epoch = row_of(leader, other->id).epoch;
    assert_true(row_of(leader, other->id).up);
    assert_int_equal(epoch, epoch_of(other));
    uint64_t until = replica_lease_until(other->r);
    node_stop(other);
    await(!row_of(leader, other->id).up, "node_down");
    /* Its lease was over by then, whenever its last ping was. */
    assert_true(clock_boot_ms() >= until);
    assert_int_equal(row_of(leader, other->id).epoch, epoch + 1);
    assert_true(row_of(leader, leader->id).up && has_lease(leader));
    node_start(c, other->id);
    await(epoch_of(other) == epoch + 2, "a session of its own again");
    assert_false(row_of(leader, other->id).up);
    come_up(other);
    cluster_free(c);
}

/* A node that stops asking goes down, learns it from its own apply, and registers anew. */
static void test_gives_up(void **state)
{
    struct cluster *c = up_cluster();
    for (uint32_t id = 1; id <= 3; id++) {
        struct tnode *n = &c->nodes[id];
        uint64_t epoch = epoch_of(n);
        replica_want_lease(n->r, false);
        assert_int_equal(replica_lease_until(n->r), 0);
        await(epoch_of(n) == epoch + 2, "a new session after node_down");
        propose_alarm_until_done(n, "goes on");
        come_up(n);
    }
    cluster_free(c);
}

/* Whoever leads, the other two keep or get back their leases without going down. */
static void test_leader_change(void **state)
{
    struct cluster *c = up_cluster();
    uint64_t epochs[4] = {0};
    for (uint32_t id = 1; id <= 3; id++)
        epochs[id] = epoch_of(&c->nodes[id]);
    for (unsigned i = 0; i < 4; i++) {
        struct tnode *leader = cluster_leader(c);
        await(transfer(cluster_leader(c), 1 + leader->id % 3) == 0, "a transfer");
        for (uint32_t id = 1; id <= 3; id++)
            await(has_lease(&c->nodes[id]) && replica_lease_until(c->nodes[id].r) > clock_boot_ms() + 500,
                  "a fresh lease");
    }
    for (uint32_t id = 1; id <= 3; id++)
        assert_int_equal(epoch_of(&c->nodes[id]), epochs[id]);
    cluster_free(c);
}

/* Without a majority the leader's own lease ends too, and comes back by itself. */
static void test_minority(void **state)
{
    struct cluster *c = up_cluster();
    struct tnode *leader = cluster_leader(c);
    uint32_t a = 1 + leader->id % 3, b = 1 + a % 3;
    node_stop(&c->nodes[a]);
    node_stop(&c->nodes[b]);
    await(!has_lease(leader), "the end of the lease");
    node_start(c, a);
    await(has_lease(leader), "the lease again");
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_node_down),
        cmocka_unit_test(test_gives_up),
        cmocka_unit_test(test_leader_change),
        cmocka_unit_test(test_minority),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
