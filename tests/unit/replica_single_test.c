/* One node: bootstrap, open, start, register, propose, apply, answer, feed, restart. */
#include "replica_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static void test_propose(void **state)
{
    struct cluster *c = cluster_new();
    struct tnode *n = node_start(c, 1);
    struct replica_status s;
    assert_ptr_equal(cluster_leader(c), n);
    propose_alarm_until_done(n, "first");
    struct proposal_outcome o = propose_alarm(n, "second");
    assert_int_equal(o.code, 0);
    assert_int_equal(o.value, 2);
    assert_true(o.index > 0);
    assert_int_equal(replica_applied_index(n->r), o.index);
    char *text = alarm_text(n, 2);
    assert_string_equal(text, "second");
    mem_free(text);
    replica_get_status(n->r, &s);
    assert_int_equal(s.role, REPLICA_LEADER);
    assert_int_equal(s.member, REPLICA_VOTER);
    assert_int_equal(s.epoch, 1);
    assert_int_equal(s.n_voters, 1);
    assert_true(atomic_load(&n->n_events) > 0);
    assert_true(atomic_load(&n->n_changes) > 0);
    uint64_t index = 0;
    assert_int_equal(barrier(n, 0, &index), 0);
    assert_true(index >= o.index);
    cluster_free(c);
}

static void test_restart(void **state)
{
    struct cluster *c = cluster_new();
    struct replica_status s;
    for (unsigned life = 1; life <= 3; life++) {
        struct tnode *n = node_start(c, 1);
        char text[32];
        snprintf(text, sizeof(text), "life %u", life);
        await((replica_get_status(n->r, &s), s.epoch == life), "a session of its own in each life");
        propose_alarm_until_done(n, text);
        assert_int_equal(n_alarms(n), life);
        node_stop(n);
    }
    cluster_free(c);
}

/* Many at once: order per thread, window, and all are answered once. */
struct flood {
    struct tnode *n;
    atomic_uint n_done, n_bad;
    _Atomic uint64_t last_index;
};

static void on_flood(void *user, const struct proposal_result *result)
{
    struct flood *f = user;
    if (result->code != 0 || result->index < atomic_load(&f->last_index) ||
        result->index > atomic_load(&f->n->feed_applied))
        atomic_fetch_add(&f->n_bad, 1);
    atomic_store(&f->last_index, result->index);
    atomic_fetch_add(&f->n_done, 1);
}

static void test_flood(void **state)
{
    enum { N = 20000 };
    struct cluster *c = cluster_new();
    struct tnode *n = node_start(c, 1);
    struct flood f = {.n = n};
    unsigned n_limit = 0;
    propose_alarm_until_done(n, "first");
    uint64_t begin = clock_monotonic_us();
    for (unsigned i = 0; i < N;) {
        Imp__AlarmRaise body = IMP__ALARM_RAISE__INIT;
        Imp__Command command = IMP__COMMAND__INIT;
        char text[32];
        snprintf(text, sizeof(text), "flood %u", i);
        body.text = text;
        command.body_case = IMP__COMMAND__BODY_ALARM_RAISE;
        command.alarm_raise = &body;
        int code = proposal_submit(n->r, &command, n->loop, 0, on_flood, &f);
        if (code == ERR_LIMIT) {
            n_limit++;
            unsigned before = atomic_load(&f.n_done);
            await(atomic_load(&f.n_done) != before, "room in the window");
        } else {
            assert_int_equal(code, 0);
            i++;
        }
    }
    await(atomic_load(&f.n_done) == N, "all answers");
    print_message("%u proposals in %llu ms, %u times full\n", N,
                  (unsigned long long)(clock_monotonic_us() - begin) / 1000, n_limit);
    assert_int_equal(atomic_load(&f.n_bad), 0);
    assert_true(n_limit > 0);
    assert_int_equal(n_alarms(n), N + 1);
    for (unsigned i = 0; i < N; i += 997) {
        char want[32], *text = alarm_text(n, i + 2);
        snprintf(want, sizeof(want), "flood %u", i);
        assert_string_equal(text, want);
        mem_free(text);
    }
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_propose),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_flood),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
