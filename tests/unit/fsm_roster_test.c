/* State machine: rosters, subscriptions (RFC 6121 appendix A), messages, removal of users. */
#include "base/clock.h"
#include "base/mem.h"
#include "fsm_fixture.h"

#define ALICE "alice@example.com"
#define BOB "bob@example.com"
#define FAR "carol@far.example"

static struct fsm_result subscribe(struct world *w, const char *from, const char *to, Imp__SubscribeType type)
{
    Imp__Subscribe b = IMP__SUBSCRIBE__INIT;
    b.from = (char *)from;
    b.to = (char *)to;
    b.type = type;
    b.stanza = BYTES("<presence type='subscribe'/>", 28);
    return APPLY(w, SUBSCRIBE, subscribe, &b);
}
#define SUBSCRIBE_ IMP__SUBSCRIBE_TYPE__SUBSCRIBE
#define SUBSCRIBED_ IMP__SUBSCRIBE_TYPE__SUBSCRIBED
#define UNSUBSCRIBE_ IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE
#define UNSUBSCRIBED_ IMP__SUBSCRIBE_TYPE__UNSUBSCRIBED

/* "both", "to+in", "from+out" ...; "-": no item. */
static const char *state_of(struct world *w, uint64_t uid, const char *contact, char out[40])
{
    static const char *const names[] = {"none", "to", "from", "both"};
    const Imp__RosterRow *r = world_roster(w, uid, contact);
    if (!r || r->removed)
        return strcpy(out, "-");
    snprintf(out, 40, "%s%s%s", names[r->subscription], r->ask ? "+out" : "", r->pending_in.len ? "+in" : "");
    return out;
}

#define STATE(w, uid, contact, expected)                                                                     \
    do {                                                                                                     \
        char state_[40];                                                                                     \
        assert_string_equal(state_of((w), (uid), (contact), state_), (expected));                            \
    } while (0)

static uint32_t n_items(struct world *w, uint64_t uid)
{
    struct key k = key_of_u64(uid);
    const Imp__RosterMetaRow *m = store_find_row(world_read(w), TABLE_ROSTER_META, &k, &w->arena);
    return m ? m->n_items : 0;
}

static struct fsm_result roster_set(struct world *w, uint64_t uid, const char *contact, const char *name,
                                    const char *group1, const char *group2)
{
    Imp__RosterSet b = IMP__ROSTER_SET__INIT;
    char *groups[] = {(char *)group1, (char *)group2};
    b.uid = uid;
    b.contact = (char *)contact;
    b.name = (char *)name;
    b.n_groups = !!group1 + !!group2;
    b.groups = groups;
    return APPLY(w, ROSTER_SET, roster_set, &b);
}

static struct fsm_result roster_remove(struct world *w, uint64_t uid, const char *contact)
{
    Imp__RosterRemove b = IMP__ROSTER_REMOVE__INIT;
    b.uid = uid;
    b.contact = (char *)contact;
    return APPLY(w, ROSTER_REMOVE, roster_remove, &b);
}

static void test_roster_set(void **state)
{
    struct world w;
    char long_name[1200];
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice");
    world_add_user(&w, "bob");
    memset(long_name, 'n', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    REFUSED(&w, ERR_NOTFOUND, roster_set(&w, 99, BOB, "", NULL, NULL));
    REFUSED(&w, ERR_INVALID, roster_set(&w, alice, ALICE, "", NULL, NULL));
    REFUSED(&w, ERR_INVALID, roster_set(&w, alice, "bob@example.com/r", "", NULL, NULL));
    REFUSED(&w, ERR_INVALID, roster_set(&w, alice, BOB, "", "", NULL));
    REFUSED(&w, ERR_INVALID, roster_set(&w, alice, BOB, "", "g", "g"));
    REFUSED(&w, ERR_INVALID, roster_set(&w, alice, BOB, long_name, NULL, NULL));
    DONE(roster_set(&w, alice, BOB, "", "g", "h"));
    const Imp__RosterRow *r = world_roster(&w, alice, BOB);
    assert_string_equal(r->name, "bob"); /* the display name */
    assert_true(r->auto_name && r->in_roster);
    assert_int_equal(r->n_groups, 2);
    assert_int_equal(r->version, w.index);
    DONE(roster_set(&w, alice, BOB, "Bobby", NULL, NULL));
    assert_false(world_roster(&w, alice, BOB)->auto_name);
    world_set(&w, "limits.roster_items", "2");
    DONE(roster_set(&w, alice, FAR, "", NULL, NULL));
    REFUSED(&w, ERR_LIMIT, roster_set(&w, alice, "x@far.example", "", NULL, NULL));
    REFUSED(&w, ERR_LIMIT, subscribe(&w, ALICE, "x@far.example", SUBSCRIBE_));
    DONE(roster_set(&w, alice, FAR, "Carol", NULL, NULL)); /* a change needs no room */
    assert_int_equal(n_items(&w, alice), 2);
    REFUSED(&w, ERR_NOTFOUND, roster_remove(&w, alice, "x@far.example"));
    DONE(roster_remove(&w, alice, FAR));
    assert_true(world_roster(&w, alice, FAR)->removed); /* a mark for roster versioning */
    REFUSED(&w, ERR_NOTFOUND, roster_remove(&w, alice, FAR));
    assert_int_equal(n_items(&w, alice), 1);
    DONE(roster_set(&w, alice, FAR, "", NULL, NULL));
    assert_false(world_roster(&w, alice, FAR)->removed);
    assert_int_equal(n_items(&w, alice), 2);
    assert_int_equal(world_rows(&w, TABLE_ROSTER_BY_CONTACT), 2);
    world_close(&w);
}

static void test_removed_marks(void **state)
{
    struct world w;
    char contact[40];
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice");
    for (int i = 0; i < 65; i++) {
        snprintf(contact, sizeof contact, "c%d@far.example", i);
        DONE(roster_set(&w, alice, contact, "", NULL, NULL));
        assert_int_equal(n_items(&w, alice), 1);
        DONE(roster_remove(&w, alice, contact));
    }
    assert_int_equal(world_rows(&w, TABLE_ROSTER), 0); /* too many: all forgotten */
    struct key k = key_of_u64(alice);
    const Imp__RosterMetaRow *m = store_find_row(world_read(&w), TABLE_ROSTER_META, &k, &w.arena);
    assert_int_equal(m->oldest_removed, w.index);
    assert_int_equal(m->n_removed, 0);
    assert_int_equal(m->n_items, 0);
    world_close(&w);
}

static void test_subscribe_both_ways(void **state)
{
    struct world w;
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    REFUSED(&w, ERR_INVALID, subscribe(&w, ALICE, ALICE, SUBSCRIBE_));
    REFUSED(&w, ERR_NOTFOUND, subscribe(&w, ALICE, "nobody@example.com", SUBSCRIBE_));
    REFUSED(&w, ERR_NOTFOUND, subscribe(&w, FAR, "dave@far.example", SUBSCRIBE_));

    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, SUBSCRIBE_)).value, FSM_SUB_ROUTE | FSM_SUB_CHANGED);
    STATE(&w, alice, BOB, "none+out");
    STATE(&w, bob, ALICE, "none+in");
    assert_false(world_roster(&w, bob, ALICE)->in_roster);
    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, SUBSCRIBE_)).value, 0); /* pending already: not again */
    assert_int_equal(DONE(subscribe(&w, BOB, ALICE, SUBSCRIBED_)).value,
                     FSM_SUB_ROUTE | FSM_SUB_CHANGED | FSM_SUB_GRANTED);
    STATE(&w, alice, BOB, "to");
    STATE(&w, bob, ALICE, "from");
    assert_true(world_roster(&w, bob, ALICE)->in_roster);
    assert_int_equal(DONE(subscribe(&w, BOB, ALICE, SUBSCRIBED_)).value, 0);
    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, SUBSCRIBE_)).value,
                     FSM_SUB_AUTO_SUBSCRIBED | FSM_SUB_GRANTED);
    DONE(subscribe(&w, BOB, ALICE, SUBSCRIBE_));
    STATE(&w, alice, BOB, "to+in");
    STATE(&w, bob, ALICE, "from+out");
    DONE(subscribe(&w, ALICE, BOB, SUBSCRIBED_));
    STATE(&w, alice, BOB, "both");
    STATE(&w, bob, ALICE, "both");

    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, UNSUBSCRIBE_)).value,
                     FSM_SUB_ROUTE | FSM_SUB_CHANGED | FSM_SUB_REVOKED);
    STATE(&w, alice, BOB, "from");
    STATE(&w, bob, ALICE, "to");
    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, UNSUBSCRIBED_)).value,
                     FSM_SUB_ROUTE | FSM_SUB_CHANGED | FSM_SUB_REVOKED);
    STATE(&w, alice, BOB, "none");
    STATE(&w, bob, ALICE, "none");
    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, UNSUBSCRIBED_)).value, 0);
    world_close(&w);
}

static void test_subscribe_denied_and_approved(void **state)
{
    struct world w;
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    DONE(subscribe(&w, ALICE, BOB, SUBSCRIBE_));
    /* Denied: nobody ever saw anybody, so nothing is revoked, and no item is left on Bob's side. */
    assert_int_equal(DONE(subscribe(&w, BOB, ALICE, UNSUBSCRIBED_)).value, FSM_SUB_ROUTE | FSM_SUB_CHANGED);
    STATE(&w, alice, BOB, "none");
    STATE(&w, bob, ALICE, "-");
    assert_null(world_roster(&w, bob, ALICE));
    /* Approved before asked (§3.4). */
    assert_int_equal(DONE(subscribe(&w, BOB, ALICE, SUBSCRIBED_)).value, FSM_SUB_CHANGED);
    assert_true(world_roster(&w, bob, ALICE)->approved);
    assert_int_equal(DONE(subscribe(&w, ALICE, BOB, SUBSCRIBE_)).value,
                     FSM_SUB_CHANGED | FSM_SUB_AUTO_SUBSCRIBED | FSM_SUB_GRANTED);
    STATE(&w, alice, BOB, "to");
    STATE(&w, bob, ALICE, "from");
    assert_false(world_roster(&w, bob, ALICE)->approved);
    /* With a contact elsewhere only this side is kept here, and the stanza goes on. */
    assert_int_equal(DONE(subscribe(&w, ALICE, FAR, SUBSCRIBE_)).value, FSM_SUB_ROUTE | FSM_SUB_CHANGED);
    assert_int_equal(DONE(subscribe(&w, FAR, ALICE, SUBSCRIBED_)).value,
                     FSM_SUB_ROUTE | FSM_SUB_CHANGED | FSM_SUB_GRANTED);
    STATE(&w, alice, FAR, "to");
    assert_int_equal(DONE(subscribe(&w, FAR, ALICE, SUBSCRIBED_)).value, 0); /* unasked: not delivered */
    world_close(&w);
}

/* Appendix A as a table: sender's state before, stanza, sender's state after; then the same for the receiver.
 */
static void test_appendix_a(void **state)
{
    static const struct {
        const char *before[9], *out[4][9], *in[4][9];
    } a = {
        .before = {"none", "none+out", "none+in", "none+out+in", "to", "to+in", "from", "from+out", "both"},
        .out = {[SUBSCRIBE_] = {"none+out", "none+out", "none+out+in", "none+out+in", "to", "to+in",
                                "from+out", "from+out", "both"},
                [UNSUBSCRIBE_] = {"none", "none", "none+in", "none+in", "none", "none+in", "from", "from",
                                  "from"},
                [SUBSCRIBED_] = {"none", "none+out", "from", "from+out", "to", "both", "from", "from+out",
                                 "both"},
                [UNSUBSCRIBED_] = {"none", "none+out", "none", "none+out", "to", "to", "none", "none+out",
                                   "to"}},
        .in = {[SUBSCRIBE_] = {"none+in", "none+out+in", "none+in", "none+out+in", "to+in", "to+in", "from",
                               "from+out", "both"},
               [UNSUBSCRIBE_] = {"none", "none+out", "none", "none+out", "to", "to", "none", "none+out",
                                 "to"},
               [SUBSCRIBED_] = {"none", "to", "none+in", "to+in", "to", "to+in", "from", "both", "both"},
               [UNSUBSCRIBED_] = {"none", "none", "none+in", "none+in", "none", "none+in", "from", "from",
                                  "from"}},
    };
    struct world w;
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice");
    char contact[40];
    int n = 0;
    for (int from_alice = 0; from_alice < 2; from_alice++) {
        for (int type = 0; type < 4; type++) {
            for (int s = 0; s < 9; s++) {
                const char *before = a.before[s];
                snprintf(contact, sizeof contact, "c%d@far.example", n++);
                DONE(roster_set(&w, alice, contact, "x", NULL, NULL));
                bool sees = strstr(before, "to") == before || strstr(before, "both");
                if (strstr(before, "from") || strstr(before, "both")) {
                    DONE(subscribe(&w, contact, ALICE, SUBSCRIBE_));
                    DONE(subscribe(&w, ALICE, contact, SUBSCRIBED_));
                }
                if (sees || strstr(before, "+out"))
                    DONE(subscribe(&w, ALICE, contact, SUBSCRIBE_));
                if (sees)
                    DONE(subscribe(&w, contact, ALICE, SUBSCRIBED_));
                if (strstr(before, "+in"))
                    DONE(subscribe(&w, contact, ALICE, SUBSCRIBE_));
                STATE(&w, alice, contact, before);
                DONE(from_alice ? subscribe(&w, ALICE, contact, type) : subscribe(&w, contact, ALICE, type));
                STATE(&w, alice, contact, from_alice ? a.out[type][s] : a.in[type][s]);
            }
        }
    }
    world_close(&w);
}

static void test_roster_remove_ends_subscriptions(void **state)
{
    struct world w;
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    DONE(subscribe(&w, ALICE, BOB, SUBSCRIBE_));
    DONE(subscribe(&w, BOB, ALICE, SUBSCRIBED_));
    DONE(subscribe(&w, BOB, ALICE, SUBSCRIBE_));
    DONE(subscribe(&w, ALICE, BOB, SUBSCRIBED_));
    STATE(&w, bob, ALICE, "both");
    struct fsm_result r = DONE(roster_remove(&w, alice, BOB));
    assert_int_equal(r.value, FSM_SUB_ROUTE | FSM_SUB_CHANGED | FSM_SUB_REVOKED);
    assert_int_equal(r.value2, 3); /* an unsubscribe and an unsubscribed go to Bob */
    STATE(&w, alice, BOB, "-");
    STATE(&w, bob, ALICE, "none");
    assert_int_equal(n_items(&w, alice), 0);
    world_close(&w);
}

static void test_user_remove_leaves_nothing(void **state)
{
    enum { N = 450 };
    struct world w;
    char name[40], jid[80];
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice"), others[N];
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "u%d", i);
        snprintf(jid, sizeof jid, "u%d@example.com", i);
        others[i] = world_add_user(&w, name);
        DONE(subscribe(&w, jid, ALICE, SUBSCRIBE_));
        DONE(subscribe(&w, ALICE, jid, SUBSCRIBED_));
    }
    STATE(&w, others[5], ALICE, "to");
    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
    assert_int_equal(world_rows(&w, TABLE_PURGE), 1); /* more than one command does */
    /* A new user of the name does not inherit subscriptions, even in the middle of it. */
    uint64_t again = world_add_user(&w, "alice");
    for (int i = 0; i < N; i++)
        STATE(&w, others[i], ALICE, "none");
    DONE(subscribe(&w, "u7@example.com", ALICE, SUBSCRIBE_));
    DONE(subscribe(&w, ALICE, "u7@example.com", SUBSCRIBED_));
    for (int i = 0; i < 20; i++)
        world_tick(&w, 1);
    assert_int_equal(world_rows(&w, TABLE_PURGE), 0);
    STATE(&w, others[7], ALICE, "to");
    STATE(&w, again, "u7@example.com", "from");
    struct store_iter i;
    struct key prefix = key_of_u64(alice);
    store_iter_init(&i, world_read(&w), TABLE_ROSTER, &prefix);
    assert_false(store_iter_next(&i));
    world_close(&w);
}

static struct fsm_result rewrite(struct world *w, const char *old_jid, const char *new_jid, const char *name,
                                 uint32_t max)
{
    Imp__RosterRewrite b = IMP__ROSTER_REWRITE__INIT;
    b.old_jid = (char *)old_jid;
    b.new_jid = (char *)new_jid;
    b.display_name = (char *)name;
    b.max = max;
    return APPLY(w, ROSTER_REWRITE, roster_rewrite, &b);
}

static void test_rewrite(void **state)
{
    struct world w;
    char jid[80], name[40];
    world_open(&w);
    DONE(world_sync_user(&w, "uuid", "bob", 1));
    uint64_t users[10];
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof name, "u%d", i);
        snprintf(jid, sizeof jid, "u%d@example.com", i);
        users[i] = world_add_user(&w, name);
        DONE(subscribe(&w, jid, BOB, SUBSCRIBE_));
        DONE(subscribe(&w, BOB, jid, SUBSCRIBED_));
    }
    DONE(roster_set(&w, users[3], BOB, "My Bob", NULL, NULL));
    REFUSED(&w, ERR_INVALID, rewrite(&w, "", BOB, "", 0));
    /* A new display name reaches those who did not choose one. */
    assert_true(DONE(rewrite(&w, BOB, BOB, "Robert", 4)).value > 0);
    for (int i = 0; i < 10 && DONE(rewrite(&w, BOB, BOB, "Robert", 4)).value; i++)
        ;
    assert_string_equal(world_roster(&w, users[9], BOB)->name, "Robert");
    assert_string_equal(world_roster(&w, users[3], BOB)->name, "My Bob");
    /* A rename. */
    DONE(world_sync_user(&w, "uuid", "robert", 2));
    assert_int_equal(DONE(rewrite(&w, BOB, "robert@example.com", "Robert", 4)).value, 6);
    assert_int_equal(DONE(rewrite(&w, BOB, "robert@example.com", "Robert", 4)).value, 2);
    assert_int_equal(DONE(rewrite(&w, BOB, "robert@example.com", "Robert", 4)).value, 0);
    for (int i = 0; i < 10; i++) {
        STATE(&w, users[i], BOB, "-");
        STATE(&w, users[i], "robert@example.com", "to");
        assert_int_equal(n_items(&w, users[i]), 1);
    }
    assert_true(world_roster(&w, users[0], BOB)->removed);
    assert_string_equal(world_roster(&w, users[3], "robert@example.com")->name, "My Bob");
    world_close(&w);
}

static void test_vcard(void **state)
{
    struct world w;
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice");
    static uint8_t big[200000];
    Imp__VcardSet b = IMP__VCARD_SET__INIT;
    b.uid = 99;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, VCARD_SET, vcard_set, &b));
    b.uid = alice;
    b.xml = BYTES(big, sizeof big);
    REFUSED(&w, ERR_LIMIT, APPLY(&w, VCARD_SET, vcard_set, &b));
    b.xml = BYTES("<vCard/>", 8);
    DONE(APPLY(&w, VCARD_SET, vcard_set, &b));
    assert_int_equal(world_rows(&w, TABLE_VCARD), 1);
    b.xml.len = 0;
    DONE(APPLY(&w, VCARD_SET, vcard_set, &b));
    assert_int_equal(world_rows(&w, TABLE_VCARD), 0);
    world_close(&w);
}

/* ---- messages ---- */

static struct fsm_result message(struct world *w, uint64_t to, const char *origin, uint32_t home)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = to;
    b.from = (char *)"bob@example.com/r";
    b.to = (char *)ALICE;
    b.stanza = BYTES("<body>hello</body>", 18);
    b.origin = (char *)origin;
    b.session_epoch_node = home;
    return APPLY(w, MESSAGE_STORE, message_store, &b);
}

static struct fsm_result mark(struct world *w, uint64_t uid, uint64_t index)
{
    Imp__MessageRef ref = IMP__MESSAGE_REF__INIT, *refs[] = {&ref};
    Imp__MessageMark b = IMP__MESSAGE_MARK__INIT;
    ref.index = index;
    b.uid = uid;
    b.n_refs = 1;
    b.refs = refs;
    return APPLY(w, MESSAGE_MARK, message_mark, &b);
}

static void test_messages(void **state)
{
    struct world w;
    char origin[40];
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    REFUSED(&w, ERR_NOTFOUND, message(&w, 99, "o", 0));
    struct fsm_result r = DONE(message(&w, alice, "1.1.1.1", 0));
    assert_int_equal(r.value, w.index);
    assert_int_equal(r.value2, 0);
    uint64_t first = r.value;
    r = DONE(message(&w, alice, "1.1.1.1", 0)); /* a repeat */
    assert_int_equal(r.value, first);
    assert_int_equal(r.value2, 1);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), 1);
    DONE(message(&w, bob, "1.1.1.1", 0)); /* another recipient */
    struct key k = key_of_u64(alice);
    key_u64(&k, first);
    key_u32(&k, 0);
    const Imp__MessageIndexRow *index = store_find_row(world_read(&w), TABLE_MESSAGE_INDEX, &k, &w.arena);
    assert_true(index->pending);
    assert_int_equal(index->peer_uid, bob);

    world_set(&w, "xmpp.offline_limit", "3");
    DONE(message(&w, alice, "2", 0));
    uint64_t last = DONE(message(&w, alice, "3", 0)).value;
    REFUSED(&w, ERR_LIMIT, message(&w, alice, "4", 0));
    assert_int_equal(DONE(message(&w, alice, "3", 0)).value2, 1);
    assert_int_equal(DONE(mark(&w, alice, first)).value, 1);
    assert_int_equal(DONE(mark(&w, alice, first)).value, 0);
    assert_int_equal(DONE(mark(&w, bob, last)).value, 0); /* not his */
    DONE(message(&w, alice, "4", 0));
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), 4);
    /* A repeat after the delivery is still known; some time later the origin goes. */
    assert_int_equal(DONE(message(&w, alice, "1.1.1.1", 0)).value2, 1);
    world_set(&w, "xmpp.offline_limit", "1000");
    world_tick(&w, 3600000);
    for (int i = 0; i < 10; i++) {
        snprintf(origin, sizeof origin, "x%d", i);
        DONE(message(&w, alice, origin, 0));
    }
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_ORIGIN), 10);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_ORIGIN_AGE), 10);
    /* Few large ones fill the box, too. */
    static uint8_t large[1 << 20];
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = bob;
    b.from = b.to = (char *)BOB;
    b.stanza = BYTES(large, sizeof large);
    for (int i = 0; i < 31; i++)
        DONE(APPLY(&w, MESSAGE_STORE, message_store, &b));
    REFUSED(&w, ERR_LIMIT, APPLY(&w, MESSAGE_STORE, message_store, &b));
    for (uint64_t i = w.index - 40, end = w.index; i < end; i++)
        DONE(mark(&w, bob, i));

    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), 1); /* Bob's */
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_INDEX), 1);
    assert_int_equal(world_rows(&w, TABLE_USER_STATE), 1);
    world_close(&w);
}

/* What a session wants is refused from a node that is not the user's active home at that index. */
static void test_only_at_home(void **state)
{
    struct world w;
    world_open(&w);
    uint32_t n2 = world_join(&w, "n2", false);
    world_up(&w, 1);
    world_up(&w, n2);
    uint64_t alice = world_add_user(&w, "alice");
    assert_int_equal(world_user(&w, alice)->home, 1);
    Imp__RosterSet b = IMP__ROSTER_SET__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    bool executed;
    b.uid = alice;
    b.contact = (char *)FAR;
    c.body_case = IMP__COMMAND__BODY_ROSTER_SET;
    c.roster_set = &b;
    assert_int_equal(world_execute(&w, n2, 1, 1, &c, &executed).code, ERR_CONFLICT);
    assert_true(executed);
    assert_int_equal(world_rows(&w, TABLE_ROSTER), 0);
    assert_int_equal(world_execute(&w, 1, 1, 1, &c, &executed).code, 0);
    Imp__NodeDown down = IMP__NODE_DOWN__INIT;
    down.node = 1;
    down.epoch = 1;
    down.term = w.term;
    DONE(APPLY(&w, NODE_DOWN, node_down, &down));
    assert_int_equal(world_execute(&w, n2, 1, 2, &c, &executed).code, 0); /* now it is the home */
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roster_set),
        cmocka_unit_test(test_removed_marks),
        cmocka_unit_test(test_subscribe_both_ways),
        cmocka_unit_test(test_subscribe_denied_and_approved),
        cmocka_unit_test(test_appendix_a),
        cmocka_unit_test(test_roster_remove_ends_subscriptions),
        cmocka_unit_test(test_user_remove_leaves_nothing),
        cmocka_unit_test(test_rewrite),
        cmocka_unit_test(test_vcard),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_only_at_home),
    };
    return cmocka_run_group_tests_name("fsm_roster", tests, NULL, NULL);
}
