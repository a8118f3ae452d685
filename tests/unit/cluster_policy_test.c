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
enum { REPLACE_MS = 300 * 1000 };

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

static void check_evacuated(struct scene *t, uint32_t self, uint32_t evacuated, enum member_action action,
                            uint32_t node)
{
    struct member_facts facts = {.self = self,
                                 .now_ms = now_ms,
                                 .led_since_ms = 1,
                                 .replace_after_ms = REPLACE_MS,
                                 .evacuated = evacuated};
    struct member_step step = member_policy(t->m, &t->st, &facts);
    assert_int_equal(step.action, action);
    assert_int_equal(step.node, node);
}

static void check(struct scene *t, uint32_t self, enum member_action action, uint32_t node)
{
    check_evacuated(t, self, 0, action, node);
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

static void silence(struct scene *t, unsigned i, uint64_t for_ms)
{
    t->st.peers[i].connected = false;
    t->st.peers[i].last_heard_ms = now_ms - for_ms;
}

static void set_member(struct scene *t, unsigned i, enum replica_member member)
{
    t->st.n_voters += (member == REPLICA_VOTER) - (t->st.peers[i].member == REPLICA_VOTER);
    t->st.peers[i].member = member;
}

static void five_voters_at_most(void **state)
{
    (void)state;
    struct scene t = seven();
    check(&t, 1, MEMBER_NOTHING, 0);
    /* One that was silent for too long gives its place away, the leader never its own. */
    silence(&t, 2, REPLACE_MS);
    check(&t, 1, MEMBER_NOTHING, 0);
    silence(&t, 2, REPLACE_MS + 1);
    check(&t, 1, MEMBER_DEMOTE, 3);
    check(&t, 3, MEMBER_NOTHING, 0);
    set_member(&t, 2, REPLICA_STANDBY);
    check(&t, 1, MEMBER_PROMOTE, 6);
    set_member(&t, 5, REPLICA_VOTER);
    check(&t, 1, MEMBER_NOTHING, 0);
    /* It comes back: as a standby. */
    t.st.peers[2].connected = true;
    check(&t, 1, MEMBER_NOTHING, 0);
    mem_free(t.m);
}

/* Never heard by this leader: silent for as long as it leads. */
static void a_leader_counts_for_itself(void **state)
{
    (void)state;
    struct scene t = seven();
    silence(&t, 2, now_ms);
    struct member_facts facts = {
        .self = 1, .now_ms = now_ms, .led_since_ms = now_ms - REPLACE_MS, .replace_after_ms = REPLACE_MS};
    assert_int_equal(member_policy(t.m, &t.st, &facts).action, MEMBER_NOTHING);
    facts.led_since_ms--;
    struct member_step step = member_policy(t.m, &t.st, &facts);
    assert_int_equal(step.action, MEMBER_DEMOTE);
    assert_int_equal(step.node, 3);
    mem_free(t.m);
}

static void an_odd_number_votes(void **state)
{
    (void)state;
    struct scene t = make(4);
    for (uint32_t i = 1; i <= 3; i++)
        add_peer(&t, i, REPLICA_VOTER, 1000);
    add_peer(&t, 4, REPLICA_STANDBY, 1000);
    check(&t, 1, MEMBER_NOTHING, 0);
    /* With a fifth both vote. */
    t.m->n = 5;
    t.m->list[4] = (struct member){.id = 5, .seen = true};
    add_peer(&t, 5, REPLICA_STANDBY, 1000);
    check(&t, 1, MEMBER_PROMOTE, 4);
    set_member(&t, 3, REPLICA_VOTER);
    check(&t, 1, MEMBER_PROMOTE, 5);
    /* It goes again: so does the fourth voter, not the witness and not the leader. */
    t.m->n = t.st.n_peers = 4;
    check(&t, 4, MEMBER_DEMOTE, 3);
    t.m->list[3].witness = true;
    check(&t, 1, MEMBER_DEMOTE, 3);
    /* While one of four is silent the number is not what is wrong. */
    silence(&t, 1, 1000);
    check(&t, 1, MEMBER_NOTHING, 0);
    mem_free(t.m);
}

static void three_and_one_replace_a_dead_voter(void **state)
{
    (void)state;
    struct scene t = make(4);
    for (uint32_t i = 1; i <= 3; i++)
        add_peer(&t, i, REPLICA_VOTER, 1000);
    add_peer(&t, 4, REPLICA_STANDBY, 1000);
    silence(&t, 1, REPLACE_MS + 1);
    check(&t, 1, MEMBER_DEMOTE, 2);
    set_member(&t, 1, REPLICA_STANDBY);
    check(&t, 1, MEMBER_PROMOTE, 4);
    set_member(&t, 3, REPLICA_VOTER);
    check(&t, 1, MEMBER_NOTHING, 0);
    /* Without a standby there is nothing to win. */
    struct scene three = make(3);
    for (uint32_t i = 1; i <= 3; i++)
        add_peer(&three, i, REPLICA_VOTER, 1000);
    silence(&three, 1, REPLACE_MS + 1);
    check(&three, 1, MEMBER_NOTHING, 0);
    mem_free(three.m);
    mem_free(t.m);
}

static void who_leaves_is_taken_out(void **state)
{
    (void)state;
    struct scene t = make(3);
    for (uint32_t i = 1; i <= 3; i++)
        add_peer(&t, i, REPLICA_VOTER, 1000);
    t.m->list[2].leaving = true;
    check(&t, 1, MEMBER_DEMOTE, 3);
    check(&t, 3, MEMBER_HAND_OVER, 1);
    set_member(&t, 2, REPLICA_STANDBY);
    check(&t, 1, MEMBER_NOTHING, 0); /* not before its users have gone */
    check_evacuated(&t, 1, 2, MEMBER_NOTHING, 0);
    check_evacuated(&t, 1, 3, MEMBER_REMOVE, 3);
    t.st.n_peers = 2;
    check(&t, 1, MEMBER_NOTHING, 0); /* and does not come back */
    t.m->list[1].lost = true;
    check(&t, 1, MEMBER_DEMOTE, 2);
    set_member(&t, 1, REPLICA_STANDBY);
    check(&t, 1, MEMBER_REMOVE, 2);
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
        cmocka_unit_test(unseen_members_wait),     cmocka_unit_test(promoted_once_caught_up),
        cmocka_unit_test(five_voters_at_most),     cmocka_unit_test(a_leader_counts_for_itself),
        cmocka_unit_test(an_odd_number_votes),     cmocka_unit_test(three_and_one_replace_a_dead_voter),
        cmocka_unit_test(who_leaves_is_taken_out), cmocka_unit_test(removed_members_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
