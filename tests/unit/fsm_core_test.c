/* State machine from level 3 on: subscriptions (the tables of RFC 6121 appendix A, whole), versions of
 * rosters, block lists (XEP-0191). */
#include "base/mem.h"
#include "fsm_fixture.h"
#include "replication/levels.h"
#include <stdio.h>
#include <string.h>

#define ALICE "alice@example.com"
#define BOB "bob@example.com"
#define FAR "carol@far.example"

static void open_world(struct world *w)
{
    world_open(w);
    world_raise_to(w, LEVEL_3);
}

enum {
    SUB = IMP__SUBSCRIBE_TYPE__SUBSCRIBE,
    SUBD = IMP__SUBSCRIBE_TYPE__SUBSCRIBED,
    UNSUB = IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE,
    UNSUBD = IMP__SUBSCRIBE_TYPE__UNSUBSCRIBED
};

static struct fsm_result subscribe(struct world *w, const char *from, const char *to, int type)
{
    Imp__Subscribe b = IMP__SUBSCRIBE__INIT;
    b.from = (char *)from;
    b.to = (char *)to;
    b.type = (Imp__SubscribeType)type;
    b.stanza = BYTES("<presence type='subscribe'/>", 28);
    return APPLY(w, SUBSCRIBE, subscribe, &b);
}

/* ---- appendix A ---- */

enum state { NONE, NONE_OUT, NONE_IN, NONE_OUT_IN, TO, TO_IN, FROM, FROM_OUT, BOTH, N_STATES };
static const char *const names[N_STATES] = {"none",  "none+out", "none+in",  "none+out+in", "to",
                                            "to+in", "from",     "from+out", "both"};

static enum state state_of(struct world *w, uint64_t uid)
{
    const Imp__RosterRow *r = world_roster(w, uid, FAR);
    if (!r || r->removed)
        return NONE;
    bool in = r->pending_in.len > 0;
    switch (r->subscription) {
    case IMP__SUBSCRIPTION__SUB_NONE:
        return r->ask ? (in ? NONE_OUT_IN : NONE_OUT) : in ? NONE_IN : NONE;
    case IMP__SUBSCRIPTION__SUB_TO:
        return in ? TO_IN : TO;
    case IMP__SUBSCRIPTION__SUB_FROM:
        return r->ask ? FROM_OUT : FROM;
    default:
        return BOTH;
    }
}

/* Brings alice's side to the state by what she and a contact of another domain send. */
static void enter(struct world *w, enum state to)
{
    bool sees = to == TO || to == TO_IN || to == BOTH, seen = to == FROM || to == FROM_OUT || to == BOTH;
    if (sees) {
        DONE(subscribe(w, ALICE, FAR, SUB));
        DONE(subscribe(w, FAR, ALICE, SUBD));
    }
    if (seen) {
        DONE(subscribe(w, FAR, ALICE, SUB));
        DONE(subscribe(w, ALICE, FAR, SUBD));
    }
    if (to == NONE_OUT || to == NONE_OUT_IN || to == FROM_OUT)
        DONE(subscribe(w, ALICE, FAR, SUB));
    if (to == NONE_IN || to == NONE_OUT_IN || to == TO_IN)
        DONE(subscribe(w, FAR, ALICE, SUB));
}

struct row {
    bool routed; /* outbound: routed; inbound: delivered */
    enum state after;
};

static void check(const char *table, bool outbound, int type, const struct row rows[N_STATES])
{
    for (enum state s = 0; s < N_STATES; s++) {
        struct world w;
        open_world(&w);
        uint64_t alice = world_add_user(&w, "alice");
        enter(&w, s);
        assert_int_equal(state_of(&w, alice), s);
        uint64_t flags = DONE(subscribe(&w, outbound ? ALICE : FAR, outbound ? FAR : ALICE, type)).value;
        enum state after = state_of(&w, alice);
        if (!(flags & FSM_SUB_ROUTE) == rows[s].routed || after != rows[s].after)
            fail_msg("%s, \"%s\": %s, \"%s\"", table, names[s],
                     flags & FSM_SUB_ROUTE ? "goes on" : "does not go on", names[after]);
        world_close(&w);
    }
}

static void test_tables_of_appendix_a(void **state)
{
    (void)state;
    static const struct row table_2[N_STATES] = {{1, NONE_OUT},    {1, NONE_OUT}, {1, NONE_OUT_IN},
                                                 {1, NONE_OUT_IN}, {1, TO},       {1, TO_IN},
                                                 {1, FROM_OUT},    {1, FROM_OUT}, {1, BOTH}};
    static const struct row table_3[N_STATES] = {{1, NONE},    {1, NONE}, {1, NONE_IN},
                                                 {1, NONE_IN}, {1, NONE}, {1, NONE_IN},
                                                 {1, FROM},    {1, FROM}, {1, FROM}};
    static const struct row table_4[N_STATES] = {{0, NONE},     {0, NONE_OUT}, {1, FROM},
                                                 {1, FROM_OUT}, {0, TO},       {1, BOTH},
                                                 {0, FROM},     {0, FROM_OUT}, {0, BOTH}};
    static const struct row table_5[N_STATES] = {{0, NONE},     {0, NONE_OUT}, {1, NONE},
                                                 {1, NONE_OUT}, {0, TO},       {1, TO},
                                                 {1, NONE},     {1, NONE_OUT}, {1, TO}};
    static const struct row table_6[N_STATES] = {{1, NONE_IN},     {1, NONE_OUT_IN}, {0, NONE_IN},
                                                 {0, NONE_OUT_IN}, {1, TO_IN},       {0, TO_IN},
                                                 {0, FROM},        {0, FROM_OUT},    {0, BOTH}};
    static const struct row table_7[N_STATES] = {{0, NONE},     {0, NONE_OUT}, {1, NONE},
                                                 {1, NONE_OUT}, {0, TO},       {1, TO},
                                                 {1, NONE},     {1, NONE_OUT}, {1, TO}};
    static const struct row table_8[N_STATES] = {{0, NONE},  {1, TO},   {0, NONE_IN}, {1, TO_IN}, {0, TO},
                                                 {0, TO_IN}, {0, FROM}, {1, BOTH},    {0, BOTH}};
    static const struct row table_9[N_STATES] = {{0, NONE},    {1, NONE}, {0, NONE_IN},
                                                 {1, NONE_IN}, {1, NONE}, {1, NONE_IN},
                                                 {0, FROM},    {1, FROM}, {1, FROM}};
    check("table 2", true, SUB, table_2);
    check("table 3", true, UNSUB, table_3);
    check("table 4", true, SUBD, table_4);
    check("table 5", true, UNSUBD, table_5);
    check("table 6", false, SUB, table_6);
    check("table 7", false, UNSUB, table_7);
    check("table 8", false, SUBD, table_8);
    check("table 9", false, UNSUBD, table_9);
}

/* Table 4 note 1, table 5 note 1, §3.4.2. */
static void test_pre_approval(void **state)
{
    (void)state;
    static const enum state may[] = {NONE, NONE_OUT, TO};
    for (size_t i = 0; i < n_elements(may); i++) {
        struct world w;
        open_world(&w);
        uint64_t alice = world_add_user(&w, "alice");
        enter(&w, may[i]);
        DONE(subscribe(&w, ALICE, FAR, SUBD));
        assert_true(world_roster(&w, alice, FAR)->approved);
        DONE(subscribe(&w, ALICE, FAR, UNSUBD));
        assert_false(world_roster(&w, alice, FAR)->approved);
        DONE(subscribe(&w, ALICE, FAR, SUBD));
        uint64_t flags = DONE(subscribe(&w, FAR, ALICE, SUB)).value;
        assert_int_equal(flags & (FSM_SUB_ROUTE | FSM_SUB_AUTO_SUBSCRIBED), FSM_SUB_AUTO_SUBSCRIBED);
        static const enum state after[] = {FROM, FROM_OUT, BOTH};
        assert_int_equal(state_of(&w, alice), after[i]);
        world_close(&w);
    }
}

/* Table 8: who sees the contact already is not told again. */
static void test_what_changes_nothing(void **state)
{
    (void)state;
    struct world w;
    open_world(&w);
    world_add_user(&w, "alice");
    uint64_t bob = world_add_user(&w, "bob");
    DONE(subscribe(&w, ALICE, BOB, SUB));
    DONE(subscribe(&w, BOB, ALICE, SUBD));
    assert_int_equal(world_roster(&w, bob, ALICE)->subscription, IMP__SUBSCRIPTION__SUB_FROM);
    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, SUB)).value, 0);
    world_close(&w);
}

/* §8.5.1: for who asks, nobody and somebody who does not answer are one. */
static void test_nobody_of_that_name(void **state)
{
    (void)state;
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice");
    DONE(subscribe(&w, ALICE, "nobody@example.com", SUB));
    assert_true(world_roster(&w, alice, "nobody@example.com")->ask);
    DONE(subscribe(&w, ALICE, "nobody@example.com", UNSUB));
    assert_false(world_roster(&w, alice, "nobody@example.com")->ask);
    world_close(&w);
}

/* ---- versions: §2.6.3 ---- */

static void test_versions(void **state)
{
    (void)state;
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    Imp__RosterSet b = IMP__ROSTER_SET__INIT;
    b.uid = alice;
    b.contact = (char *)"a@far.example";
    DONE(APPLY(&w, ROSTER_SET, roster_set, &b));
    uint64_t first = world_roster(&w, alice, "a@far.example")->version;
    b.contact = (char *)"b@far.example";
    w.index--; /* in the same log entry */
    DONE(APPLY(&w, ROSTER_SET, roster_set, &b));
    uint64_t second = world_roster(&w, alice, "b@far.example")->version;
    assert_int_equal(second, first + 1);
    struct key k = key_of_u64(alice);
    const Imp__RosterMetaRow *m = store_find_row(world_read(&w), TABLE_ROSTER_META, &k, &w.arena);
    assert_int_equal(m->version, second);
    /* A request that waits is not seen on the roster: no new version, though the item is there. */
    b.contact = (char *)BOB;
    DONE(APPLY(&w, ROSTER_SET, roster_set, &b));
    uint64_t before = world_roster(&w, alice, BOB)->version;
    DONE(subscribe(&w, BOB, ALICE, SUB));
    assert_true(world_roster(&w, alice, BOB)->pending_in.len > 0);
    assert_int_equal(world_roster(&w, alice, BOB)->version, before);
    /* What a stanza of the contact changed says which, so that the push can follow it. */
    DONE(subscribe(&w, ALICE, BOB, SUBD));
    const Imp__RosterRow *r = world_roster(&w, bob, ALICE);
    assert_int_equal(r->told_index, w.index);
    assert_int_equal(r->told, SUBD);
    assert_int_equal(world_roster(&w, alice, BOB)->told_index, 0);
    assert_true(world_roster(&w, alice, BOB)->version > before);
    world_close(&w);
}

/* ---- block lists ---- */

static struct fsm_result block(struct world *w, uint64_t uid, const char *a, const char *b)
{
    char *jids[] = {(char *)a, (char *)b};
    Imp__BlockSet body = IMP__BLOCK_SET__INIT;
    body.uid = uid;
    body.n_block_jid = b ? 2 : 1;
    body.block_jid = jids;
    return APPLY(w, BLOCK_SET, block_set, &body);
}

static struct fsm_result unblock(struct world *w, uint64_t uid, const char *jid)
{
    char *jids[] = {(char *)jid};
    Imp__BlockSet body = IMP__BLOCK_SET__INIT;
    body.uid = uid;
    body.unblock_all = !jid;
    body.n_unblock_jid = !!jid;
    body.unblock_jid = jids;
    return APPLY(w, BLOCK_SET, block_set, &body);
}

static void test_block_list(void **state)
{
    (void)state;
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    Imp__BlockSet nothing = IMP__BLOCK_SET__INIT;
    nothing.uid = alice;
    REFUSED(&w, ERR_INVALID, APPLY(&w, BLOCK_SET, block_set, &nothing));
    REFUSED(&w, ERR_NOTFOUND, block(&w, 999, BOB, NULL));
    REFUSED(&w, ERR_INVALID, block(&w, alice, "", NULL));
    world_set(&w, "limits.blocked_per_user", "2");
    assert_int_equal(DONE(block(&w, alice, BOB, "far.example")).value, 2);
    assert_int_equal(DONE(block(&w, alice, BOB, BOB)).value, 2); /* there already: needs no room */
    REFUSED(&w, ERR_LIMIT, block(&w, alice, "x@y.example", NULL));
    assert_int_equal(DONE(unblock(&w, alice, "nobody@here.example")).value, 2);
    assert_int_equal(DONE(unblock(&w, alice, "far.example")).value, 1);
    /* Who is blocked asks in vain, and does not see that; the other way round nothing changes here. */
    assert_int_equal(DONE(subscribe(&w, BOB, ALICE, SUB)).value & FSM_SUB_ROUTE, 0);
    assert_null(world_roster(&w, alice, BOB));
    assert_true(world_roster(&w, bob, ALICE)->ask);
    assert_int_equal(DONE(unblock(&w, alice, NULL)).value, 0);
    assert_int_equal(DONE(subscribe(&w, BOB, ALICE, SUB)).value & FSM_SUB_ROUTE, FSM_SUB_ROUTE);
    assert_int_equal(world_rows(&w, TABLE_BLOCK), 0);
    /* By domain. */
    DONE(block(&w, bob, "example.com", NULL));
    DONE(subscribe(&w, ALICE, BOB, SUB));
    assert_int_equal(world_roster(&w, bob, ALICE)->pending_in.len, 0);
    world_close(&w);
}

static void test_reports(void **state)
{
    (void)state;
    struct world w;
    open_world(&w);
    uint64_t alice = world_add_user(&w, "alice");
    char *jids[] = {(char *)BOB}, *ids[] = {(char *)"17-0"};
    Imp__AbuseReport report = IMP__ABUSE_REPORT__INIT, *reports[] = {&report};
    report.jid = (char *)BOB;
    report.reason = (char *)"urn:xmpp:reporting:spam";
    report.text = (char *)"Never came trouble to my house like this.";
    report.n_ids = 1;
    report.ids = ids;
    Imp__BlockSet body = IMP__BLOCK_SET__INIT;
    body.uid = alice;
    body.n_block_jid = body.n_reports = 1;
    body.block_jid = jids;
    body.reports = reports;
    for (int i = 0; i < 120; i++)
        DONE(APPLY(&w, BLOCK_SET, block_set, &body));
    assert_int_equal(world_rows(&w, TABLE_ABUSE_REPORT), 100); /* the oldest go */
    report.reason = (char *)"";
    REFUSED(&w, ERR_INVALID, APPLY(&w, BLOCK_SET, block_set, &body));
    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
    assert_int_equal(world_rows(&w, TABLE_ABUSE_REPORT), 0);
    assert_int_equal(world_rows(&w, TABLE_BLOCK), 0);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables_of_appendix_a),
        cmocka_unit_test(test_pre_approval),
        cmocka_unit_test(test_what_changes_nothing),
        cmocka_unit_test(test_nobody_of_that_name),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_block_list),
        cmocka_unit_test(test_reports),
    };
    return cmocka_run_group_tests_name("fsm_core", tests, NULL, NULL);
}
