/* Hashes of tables: noted at a HashPoint on every node, and compared every 1024 entries. And the transport's
 * refusals: a second living copy of a node, and one that was removed. */
#include "replica_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include "replication/apply.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void test_hash_point(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    propose_alarm_until_done(&c->nodes[2], "a row");
    Imp__HashPoint body = IMP__HASH_POINT__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_HASH_POINT;
    command.hash_point = &body;
    struct proposal_outcome o = propose(&c->nodes[2], &command);
    assert_int_equal(o.code, 0);
    struct store_hash hashes[4][N_TABLES];
    uint64_t rows[4][N_TABLES];
    for (uint32_t id = 1; id <= 3; id++) {
        struct replica *r = c->nodes[id].r;
        assert_int_equal(replica_table_hashes(r, o.index + 100000, hashes[id], rows[id]), ERR_AGAIN);
        await(replica_table_hashes(r, o.index, hashes[id], rows[id]) == 0, "the hashes");
        assert_int_equal(replica_table_hashes(r, o.index - 1, hashes[0], rows[0]), ERR_NOTFOUND);
        assert_memory_equal(hashes[id], hashes[1], sizeof(hashes[1]));
        assert_int_equal(rows[id][TABLE_ALARM], 1);
    }
    cluster_free(c);
}

/* Somebody writes into the store of a stopped node. */
static void damage(struct cluster *c, struct tnode *n)
{
    char *dir = mem_printf("%s/store", n->dir);
    struct store_options so = {.dir = dir, .log = c->log};
    struct err_ctx err = {0};
    struct store *s;
    struct key k;
    Imp__AlarmRow row = IMP__ALARM_ROW__INIT;
    assert_int_equal(store_open(&s, &so, &err), 0);
    struct store_txn *t = store_begin(s);
    key_init(&k);
    key_u64(&k, 1);
    row.id = 1;
    row.text = (char *)"not what the others have";
    store_put_row(t, TABLE_ALARM, &k, &row);
    assert_int_equal(store_commit(t, &err), 0);
    assert_int_equal(store_close_clean(s, &err), 0);
    mem_free(dir);
}

static bool is_fenced(struct tnode *n)
{
    struct replica_status s;
    replica_get_status(n->r, &s);
    return s.is_fenced;
}

static void test_tables_differ(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    propose_alarm_until_done(&c->nodes[1], "first");
    await_equal(c);
    struct tnode *odd = &c->nodes[1 + cluster_leader(c)->id % 3];
    node_stop(odd);
    damage(c, odd);
    node_start(c, odd->id);
    /* Nothing is written: where the log has come to rest they are compared too. */
    await(is_fenced(odd), "the odd one to see it");
    for (uint32_t id = 1; id <= 3; id++) {
        await(atomic_load(&c->nodes[id].n_differ) > 0, "a report on each node");
        assert_int_equal(is_fenced(&c->nodes[id]), id == odd->id);
    }
    /* No lease for it in this life. */
    replica_want_lease(odd->r, true);
    assert_int_equal(replica_lease_until(odd->r), 0);
    /* A fresh copy repairs it; it goes on meanwhile, and keeps its log. */
    struct replica_status before, after;
    replica_get_status(odd->r, &before);
    replica_take_copy(odd->r);
    await((propose_alarm(odd, "meanwhile"), atomic_load(&odd->n_exit_again)), "the copy");
    assert_int_equal(atomic_load(&odd->n_fatal), 1);
    node_stop(odd);
    node_start(c, odd->id);
    replica_get_status(odd->r, &after);
    await((replica_get_status(odd->r, &after),
           after.applied_index >= before.applied_index && after.first_index),
          "the node to go on");
    assert_int_equal(after.first_index, before.first_index);
    propose_alarm_until_done(odd, "repaired");
    await_equal(c);
    cluster_free(c);
}

/* Whose tables are not right does not lead; all others are equal and say so. */
static void test_fence(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    propose_alarm_until_done(&c->nodes[1], "first");
    struct tnode *leader = cluster_leader(c);
    for (uint32_t id = 1; id <= 3; id++)
        await(atomic_load(&c->nodes[id].n_equal) > 0, "a comparison without a difference on each node");
    replica_fence(leader->r);
    await(cluster_leader(c) != leader && cluster_leader(c)->r != NULL, "another leader");
    assert_true(is_fenced(leader));
    replica_want_lease(leader->r, true);
    propose_alarm_until_done(leader, "it stores and votes on");
    assert_int_equal(replica_lease_until(leader->r), 0);
    for (uint32_t id = 1; id <= 3; id++)
        assert_int_equal(atomic_load(&c->nodes[id].n_differ), 0);
    cluster_free(c);
}

/* A copied data directory on the same machine would be stopped by its lock; on another it gets as far as the
 * others. */
static void test_second_copy(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    struct tnode *n = &c->nodes[1 + cluster_leader(c)->id % 3], *copy = &c->nodes[4];
    node_stop(n);
    char *command = mem_printf("cp -a %s/. %s/", n->dir, copy->dir);
    assert_int_equal(system(command), 0);
    mem_free(command);
    node_start(c, n->id);
    struct replica_status s;
    await((replica_get_status(n->r, &s), s.epoch != 0), "a session");
    /* Same id, same certificate, another start nonce. */
    struct tnode as = *copy;
    copy->id = n->id;
    copy->client = n->client;
    node_start_as(copy, n->id);
    await(atomic_load(&copy->n_fatal) > 0, "the copy to be refused");
    assert_int_equal(atomic_load(&copy->n_exit_again), 0);
    assert_int_equal(atomic_load(&n->n_fatal), 0);
    propose_alarm_until_done(n, "lives");
    node_stop(copy);
    copy->id = as.id;
    copy->client = as.client;
    cluster_free(c);
}

static void test_removed(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    struct tnode *gone = &c->nodes[1 + cluster_leader(c)->id % 3];
    await(change(cluster_leader(c), REPLICA_DEMOTE, gone->id) == 0, "a demotion");
    await(change(cluster_leader(c), REPLICA_REMOVE, gone->id) == 0, "a removal");
    Imp__NodeRemove body = IMP__NODE_REMOVE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = gone->id;
    command.body_case = IMP__COMMAND__BODY_NODE_REMOVE;
    command.node_remove = &body;
    struct tnode *leader = &c->nodes[1 + gone->id % 3];
    assert_int_equal(propose(leader, &command).code, 0);
    for (uint32_t id = 1; id <= 3; id++) {
        if (id == gone->id)
            continue;
        struct replica_status s;
        await((replica_get_status(c->nodes[id].r, &s), s.n_peers == 1), "the removed node forgotten");
        assert_int_equal(s.n_voters, 2);
    }
    /* It does not disturb, nor does it come back. */
    node_stop(gone);
    node_start(c, gone->id);
    for (unsigned i = 0; i < 50; i++)
        propose_alarm_until_done(leader, "two are enough");
    assert_int_equal(n_alarms(leader), 50);
    assert_true(n_alarms(gone) < 50);
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hash_point), cmocka_unit_test(test_tables_differ),
        cmocka_unit_test(test_fence),      cmocka_unit_test(test_second_copy),
        cmocka_unit_test(test_removed),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
