/* What the leader does about the Raft configuration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "cluster/member_policy.h"
#include <cmocka.h>
#include <string.h>

static const uint64_t now_ms = 1000000;

struct scene {
    struct members *m;
    struct replica_status st;
};

static struct scene make(unsigned n_members)
{
    struct scene t = {.m = mem_zalloc(sizeof(*t.m) + 16 * sizeof(struct member))};
    t.m->n = n_members;
    t.st.last_index = 1000;
    for (unsigned i = 0; i < n_members; i++)
        t.m->list[i] = (struct member){.id = i + 1, .seen = true};
    return t;
}

static void add_peer(struct scene *t, uint32_t node, enum replica_member member, uint64_t match)
{
    t->st.peers[t->st.n_peers++] = (struct replica_peer){
        .node = node, .member = member, .connected = true, .match_index = match, .last_heard_ms = now_ms};
    t->st.n_voters += member == REPLICA_VOTER;
}

static void check(struct scene *t, uint32_t self, enum member_action action, uint32_t node)
{
    struct member_step step = member_policy(t->m, &t->st, self, now_ms);
    assert_int_equal(step.action, action);
    assert_int_equal(step.node, node);
}

static void unseen_members_wait(void **state)
{
    (void)state;
    struct scene t = make(2);
    add_peer(&t, 1, REPLICA_VOTER, 1000);
    t.m->list[1].seen = false;
    check(&t, 1, MEMBER_NOTHING, 0);
    t.m->list[1].seen = true;
    check(&t, 1, MEMBER_ADD_STANDBY, 2);
    mem_free(t.m);
}

static void promoted_once_caught_up(void **state)
{
    (void)state;
    struct scene t = make(2);
    add_peer(&t, 1, REPLICA_VOTER, 1000);
    add_peer(&t, 2, REPLICA_STANDBY, 1000 - MEMBER_PROMOTE_LAG - 1);
    check(&t, 1, MEMBER_NOTHING, 0);
    t.st.peers[1].match_index++;
    check(&t, 1, MEMBER_PROMOTE, 2);
    t.st.peers[1].connected = false;
    check(&t, 1, MEMBER_NOTHING, 0);
    mem_free(t.m);
}

static struct scene seven(void)
{
    struct scene t = make(7);
    for (uint32_t i = 1; i <= 5; i++)
        add_peer(&t, i, REPLICA_VOTER, 1000);
    add_peer(&t, 6, REPLICA_STANDBY, 1000);
    add_peer(&t, 7, REPLICA_STANDBY, 1000);
    return t;
}

static void five_voters_at_most(void **state)
{
    (void)state;
    struct scene t = seven();
    check(&t, 1, MEMBER_NOTHING, 0);
    /* One that was silent for ten minutes gives its place away, the leader never its own. */
    t.st.peers[2].connected = false;
    t.st.peers[2].last_heard_ms = now_ms - MEMBER_SILENT_MS;
    check(&t, 1, MEMBER_NOTHING, 0);
    t.st.peers[2].last_heard_ms--;
    check(&t, 1, MEMBER_DEMOTE, 3);
    check(&t, 3, MEMBER_NOTHING, 0);
    mem_free(t.m);
}

static void removed_members_leave(void **state)
{
    (void)state;
    struct scene t = seven();
    memmove(&t.m->list[2], &t.m->list[3], 4 * sizeof(struct member));
    t.m->n = 6; /* 3 is gone */
    check(&t, 1, MEMBER_DEMOTE, 3);
    t.st.peers[2].member = REPLICA_STANDBY;
    check(&t, 1, MEMBER_REMOVE, 3);
    t.st.peers[2].member = REPLICA_VOTER;
    check(&t, 3, MEMBER_HAND_OVER, 1);
    mem_free(t.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unseen_members_wait),
        cmocka_unit_test(promoted_once_caught_up),
        cmocka_unit_test(five_voters_at_most),
        cmocka_unit_test(removed_members_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
