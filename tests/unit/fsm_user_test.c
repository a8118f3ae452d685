/* State machine: users, sync, assignment. */
#include "base/clock.h"
#include "base/mem.h"
#include "fsm_fixture.h"

static struct fsm_result add_user(struct world *w, const char *domain, const char *localpart,
                                  Imp__CredentialRow *credential)
{
    Imp__UserAdd b = IMP__USER_ADD__INIT;
    char *words[] = {(char *)"alice", (char *)"liddell"};
    b.domain = (char *)domain;
    b.localpart = (char *)localpart;
    b.display_name = (char *)"Alice Liddell";
    b.credential = credential;
    b.n_words = 2;
    b.words = words;
    return APPLY(w, USER_ADD, user_add, &b);
}

static void test_users(void **state)
{
    struct world w;
    world_open(&w);
    Imp__ScramKeys sha256 = IMP__SCRAM_KEYS__INIT;
    Imp__CredentialRow credential = IMP__CREDENTIAL_ROW__INIT;
    static uint8_t bytes[32] = {1};
    REFUSED(&w, ERR_INVALID, add_user(&w, "", "", NULL));
    REFUSED(&w, ERR_INVALID, add_user(&w, "", "a@b", NULL));
    REFUSED(&w, ERR_NOTFOUND, add_user(&w, "example.net", "alice", NULL));
    REFUSED(&w, ERR_INVALID, add_user(&w, "", "alice", &credential));
    sha256.iterations = 4096;
    sha256.salt = BYTES(bytes, 16);
    sha256.stored_key = sha256.server_key = BYTES(bytes, 32);
    credential.sha256 = &sha256;
    struct fsm_result r = DONE(add_user(&w, "example.com", "alice", &credential));
    uint64_t uid = r.value;
    assert_int_equal(r.value2, 1); /* home */
    REFUSED(&w, ERR_EXISTS, add_user(&w, "", "alice", NULL));
    const Imp__UserRow *u = world_user(&w, uid);
    assert_string_equal(u->userid, "alice");
    assert_int_equal(u->assigned_by, IMP__ASSIGNED_BY__ASSIGNED_BALANCED);
    assert_int_equal(world_rows(&w, TABLE_USER_BY_WORD), 2);
    assert_int_equal(world_rows(&w, TABLE_CREDENTIAL), 1);

    Imp__UserLock lock = IMP__USER_LOCK__INIT;
    lock.uid = uid;
    lock.locked = true;
    DONE(APPLY(&w, USER_LOCK, user_lock, &lock));
    assert_true(world_user(&w, uid)->locked);
    Imp__UserPassword password = IMP__USER_PASSWORD__INIT;
    password.uid = uid;
    REFUSED(&w, ERR_INVALID, APPLY(&w, USER_PASSWORD, user_password, &password));
    password.credential = &credential;
    sha256.iterations = 10000;
    DONE(APPLY(&w, USER_PASSWORD, user_password, &password));
    password.uid = 99;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, USER_PASSWORD, user_password, &password));

    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = uid;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, USER_REMOVE, user_remove, &rm));
    static const enum table empty[] = {TABLE_USER,         TABLE_USER_BY_JID, TABLE_USER_BY_WORD,
                                       TABLE_USER_BY_HOME, TABLE_CREDENTIAL,  TABLE_HOME_COUNT,
                                       TABLE_PURGE};
    for (size_t i = 0; i < n_elements(empty); i++)
        assert_int_equal(world_rows(&w, empty[i]), 0);
    assert_int_not_equal(DONE(add_user(&w, "", "alice", NULL)).value, uid);
    world_close(&w);
}

/* ---- assignment ---- */

static struct fsm_result assign(struct world *w, const uint64_t *uids, size_t n, uint32_t node)
{
    Imp__UserAssign b = IMP__USER_ASSIGN__INIT;
    b.n_uids = n;
    b.uids = (uint64_t *)uids;
    b.node = node;
    return APPLY(w, USER_ASSIGN, user_assign, &b);
}

static uint64_t balance(struct world *w, uint32_t max)
{
    uint64_t moves = 0;
    for (int i = 0; i < 10000; i++) {
        Imp__UserBalance b = IMP__USER_BALANCE__INIT;
        b.max = max;
        struct fsm_result r = DONE(APPLY(w, USER_BALANCE, user_balance, &b));
        assert_true(!max || r.value <= max);
        moves += r.value;
        if (!r.value2)
            return moves;
        assert_true(r.value > 0);
    }
    fail_msg("balance does not end");
    return 0;
}

/* Homes differ by one at most, as far as pins allow. */
static void check_balanced(struct world *w, const uint32_t *nodes, size_t n)
{
    uint64_t min = UINT64_MAX, max = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t users = world_count(w, TABLE_HOME_COUNT, nodes[i]);
        min = users < min ? users : min;
        if (users > world_count(w, TABLE_HOME_PINNED, nodes[i]))
            max = users > max ? users : max;
    }
    assert_true(max <= min + 1);
}

static void test_assign_refusals(void **state)
{
    struct world w;
    world_open(&w);
    uint32_t n2 = world_join(&w, "n2", false), witness = world_join(&w, "w", true);
    uint64_t uids[2] = {world_add_user(&w, "a"), 4711};
    REFUSED(&w, ERR_NOTFOUND, assign(&w, uids, 2, n2)); /* all or nothing */
    REFUSED(&w, ERR_DENIED, assign(&w, uids, 1, witness));
    REFUSED(&w, ERR_NOTFOUND, assign(&w, uids, 1, 99));
    static uint64_t many[1001];
    REFUSED(&w, ERR_LIMIT, assign(&w, many, 1001, n2));
    assert_int_equal(DONE(assign(&w, uids, 1, n2)).value, 1);
    assert_int_equal(DONE(assign(&w, uids, 1, n2)).value, 0);
    assert_int_equal(DONE(assign(&w, uids, 1, 0)).value, 1);
    assert_int_equal(world_user(&w, uids[0])->assigned_by, IMP__ASSIGNED_BY__ASSIGNED_NONE);
    assert_int_equal(world_count(&w, TABLE_HOME_COUNT, 0), 1);
    assert_int_equal(balance(&w, 0), 1); /* it gets a home again */
    world_check_homes(&w);
    Imp__NodeDrain drain = IMP__NODE_DRAIN__INIT;
    drain.node = n2;
    drain.drained = true;
    DONE(APPLY(&w, NODE_DRAIN, node_drain, &drain));
    REFUSED(&w, ERR_DENIED, assign(&w, uids, 1, n2));
    Imp__NodeEvacuate ev = IMP__NODE_EVACUATE__INIT;
    ev.node = 1;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_EVACUATE, node_evacuate, &ev));
    world_close(&w);
}

static void test_modes(void **state)
{
    struct world w;
    world_open(&w);
    uint32_t n2 = world_join(&w, "n2", false);
    world_set(&w, "assignment.mode", "none");
    uint64_t a = world_add_user(&w, "a");
    assert_int_equal(world_user(&w, a)->home, 0);
    world_set(&w, "assignment.mode", "active-standby");
    uint64_t b = world_add_user(&w, "b"), c = world_add_user(&w, "c");
    assert_int_equal(world_user(&w, b)->home, 1);
    assert_int_equal(world_user(&w, c)->home, 1);
    assert_int_equal(world_user(&w, c)->assigned_by, IMP__ASSIGNED_BY__ASSIGNED_ACTIVE_STANDBY);
    assert_int_equal(balance(&w, 0), 1);
    assert_int_equal(world_count(&w, TABLE_HOME_COUNT, 1), 3);
    world_set(&w, "assignment.mode", "balanced");
    uint64_t d = world_add_user(&w, "d");
    assert_int_equal(world_user(&w, d)->home, n2);
    assert_int_equal(balance(&w, 0), 1);
    check_balanced(&w, (uint32_t[]){1, n2}, 2);
    world_close(&w);
}

static void test_new_node_and_evacuation(void **state)
{
    struct world w;
    world_open(&w);
    uint64_t uids[90];
    char name[20];
    uint32_t nodes[4] = {1, world_join(&w, "n2", false), world_join(&w, "n3", false)};
    for (int i = 0; i < 90; i++) {
        snprintf(name, sizeof name, "user%d", i);
        uids[i] = world_add_user(&w, name);
    }
    check_balanced(&w, nodes, 3);
    DONE(assign(&w, uids, 10, nodes[1])); /* pinned */
    nodes[3] = world_join(&w, "n4", false);
    assert_int_equal(world_count(&w, TABLE_HOME_COUNT, nodes[3]), 0);
    uint64_t moves = balance(&w, 3);
    assert_true(moves >= 22 && moves <= 30);
    check_balanced(&w, nodes, 4);
    for (int i = 0; i < 10; i++)
        assert_int_equal(world_user(&w, uids[i])->home, nodes[1]);
    /* A drained node is emptied by balance but for its pins, and by evacuation for good. */
    Imp__NodeDrain drain = IMP__NODE_DRAIN__INIT;
    drain.node = nodes[1];
    drain.drained = true;
    DONE(APPLY(&w, NODE_DRAIN, node_drain, &drain));
    balance(&w, 7);
    assert_int_equal(world_count(&w, TABLE_HOME_COUNT, nodes[1]), 10);
    Imp__NodeEvacuate ev = IMP__NODE_EVACUATE__INIT;
    ev.node = nodes[1];
    ev.max = 4;
    assert_int_equal(DONE(APPLY(&w, NODE_EVACUATE, node_evacuate, &ev)).value, 6);
    assert_int_equal(DONE(APPLY(&w, NODE_EVACUATE, node_evacuate, &ev)).value, 2);
    assert_int_equal(DONE(APPLY(&w, NODE_EVACUATE, node_evacuate, &ev)).value, 0);
    world_check_homes(&w);
    check_balanced(&w, (uint32_t[]){1, nodes[2], nodes[3]}, 3);
    world_close(&w);
}

/* Whatever comes: counts agree with users, adds keep an even cluster even, balance makes any cluster even,
 * pins stay. */
static void test_random_assignment(void **state)
{
    uint64_t seed = random_u64() | 1, uids[400], pins[400] = {0};
    print_message("seed %llu\n", (unsigned long long)seed);
    struct world w;
    char name[20];
    int n = 0, n_names = 0;
    world_open(&w);
    uint32_t nodes[3] = {1, world_join(&w, "n2", false), world_join(&w, "n3", false)};
    for (int step = 0; step < 1500; step++) {
        int what = rnd(&seed, 100);
        if (what < 45 && n < 400) {
            snprintf(name, sizeof name, "user%d", n_names++);
            pins[n] = 0;
            uids[n++] = world_add_user(&w, name);
        } else if (what < 75 && n) {
            int at = rnd(&seed, n);
            Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
            rm.uid = uids[at];
            DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
            n--;
            uids[at] = uids[n];
            pins[at] = pins[n];
        } else if (what < 85 && n) {
            int at = rnd(&seed, n);
            uint32_t to = rnd(&seed, 4) ? nodes[rnd(&seed, 3)] : 0;
            DONE(assign(&w, &uids[at], 1, to));
            pins[at] = to;
        } else if (what < 90) {
            balance(&w, 1 + rnd(&seed, 20));
            check_balanced(&w, nodes, 3);
            assert_int_equal(world_count(&w, TABLE_HOME_COUNT, 0), 0);
        }
        if (step % 50 == 0)
            world_check_homes(&w);
    }
    for (int i = 0; i < n; i++) {
        if (pins[i])
            assert_int_equal(world_user(&w, uids[i])->home, pins[i]);
    }
    world_check_homes(&w);
    world_close(&w);
}

/* ---- sync ---- */

static void test_sync(void **state)
{
    struct world w;
    world_open(&w);
    world_join(&w, "n2", false);
    assert_int_equal(DONE(world_sync_user(&w, "u1", "alice", 1)).value, 1);
    assert_int_equal(DONE(world_sync_user(&w, "u2", "bob", 1)).value, 1);
    assert_int_equal(DONE(world_sync_user(&w, "u1", "alice", 1)).value, 0); /* nothing new */
    uint64_t alice = 1, bob = 2;
    assert_int_not_equal(world_user(&w, alice)->home, world_user(&w, bob)->home);

    /* Names that are taken are refused one by one; the rest of the batch is done. */
    world_add_user(&w, "local");
    struct fsm_result r = DONE(world_sync_user(&w, "u3", "local", 1));
    assert_int_equal(r.value2, 1);
    assert_non_null(strstr(r.text, "local"));
    r = DONE(world_sync_user(&w, "u2", "alice", 1));
    assert_int_equal(r.value2, 1);
    assert_string_equal(world_user(&w, bob)->localpart, "bob");
    assert_int_equal(DONE(world_sync_user(&w, "u4", "bad@name", 1)).value2, 1);

    /* A rename keeps uid, home and pin; the old name is gone for 30 days. */
    uint32_t other = world_user(&w, alice)->home == 1 ? 2 : 1;
    DONE(assign(&w, &alice, 1, other));
    assert_int_equal(DONE(world_sync_user(&w, "u1", "alicia", 2)).value, 1);
    const Imp__UserRow *u = world_user(&w, alice);
    assert_string_equal(u->localpart, "alicia");
    assert_int_equal(u->home, other);
    assert_int_equal(u->assigned_by, IMP__ASSIGNED_BY__ASSIGNED_MANUAL);
    assert_int_equal(world_rows(&w, TABLE_USER_GONE), 1);
    REFUSED(&w, ERR_EXISTS, add_user(&w, "", "alice", NULL));
    world_tick(&w, 31ull * 24 * 3600 * 1000);
    DONE(add_user(&w, "", "alice", NULL));
    assert_int_equal(world_rows(&w, TABLE_USER_GONE), 0);
    balance(&w, 0);
    DONE(world_sync_user(&w, "u1", "alicia", 3));
    assert_int_equal(world_user(&w, alice)->home, other);
    world_check_homes(&w);

    /* Fences: an older run, a former publisher. */
    REFUSED(&w, ERR_CONFLICT, world_sync_user(&w, "u9", "late", 2));
    Imp__PublisherSet p = IMP__PUBLISHER_SET__INIT;
    p.node = 2;
    DONE(APPLY(&w, PUBLISHER_SET, publisher_set, &p));
    Imp__SyncRemove rm = IMP__SYNC_REMOVE__INIT;
    char *uuids[] = {(char *)"u1", (char *)"u2", (char *)"u77", (char *)""};
    rm.publisher_epoch = 1;
    rm.run = 3;
    rm.n_uuids = 4;
    rm.uuids = uuids;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, SYNC_REMOVE, sync_remove, &rm));
    Imp__SyncState st = IMP__SYNC_STATE__INIT;
    st.publisher_epoch = 1;
    st.run = 3;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, SYNC_STATE, sync_state, &st));

    Imp__SyncPosition position = IMP__SYNC_POSITION__INIT;
    position.queue_id = (char *)"q1";
    position.next_change = 42;
    rm.publisher_epoch = 2;
    rm.position = &position;
    assert_int_equal(DONE(APPLY(&w, SYNC_REMOVE, sync_remove, &rm)).value, 2);
    assert_null(world_user(&w, alice));
    assert_int_equal(world_rows(&w, TABLE_USER), 2); /* local ones stay */
    st.publisher_epoch = 2;
    st.completed = st.ok = true;
    st.result = (char *)"2 users";
    st.n_users = 2;
    assert_int_equal(DONE(world_sync_user(&w, "u5", "eve", 3)).value, 1);
    DONE(world_sync_user(&w, "u5", "eva", 3));
    assert_int_equal(world_rows(&w, TABLE_USER_GONE), 1);
    world_tick(&w, 31ull * 24 * 3600 * 1000);
    DONE(APPLY(&w, SYNC_STATE, sync_state, &st));
    struct key none;
    key_init(&none);
    const Imp__SyncRow *row = store_find_row(world_read(&w), TABLE_SYNC, &none, &w.arena);
    assert_true(row->first_done && row->completed_ok);
    assert_int_equal(world_rows(&w, TABLE_USER_GONE), 0);
    assert_string_equal(row->queue_id, "q1"); /* kept, as the last command gave none */
    assert_int_equal(row->next_change, 42);
    assert_int_equal(row->run, 3);
    world_check_homes(&w);
    world_close(&w);
}

/* 3,000 users in batches of 1,000, as the agent sends them: even over three nodes, and again the same. */
static void test_sync_many(void **state)
{
    enum { N = 3000, BATCH = 1000 };
    struct world w;
    world_open(&w);
    uint32_t nodes[3] = {1, world_join(&w, "n2", false), world_join(&w, "n3", false)};
    Imp__SyncUser *users = calloc(N, sizeof *users), **list = calloc(N, sizeof *list);
    char(*text)[2][20] = calloc(N, sizeof *text);
    for (int i = 0; i < N; i++) {
        imp__sync_user__init(&users[i]);
        snprintf(text[i][0], 20, "uuid-%d", i);
        snprintf(text[i][1], 20, "user%04d", i);
        users[i].uuid = text[i][0];
        users[i].userid = users[i].localpart = users[i].display_name = text[i][1];
        list[i] = &users[i];
    }
    for (int round = 0; round < 2; round++) {
        struct store_hash before = world_hash(&w), after;
        for (int i = 0; i < N; i += BATCH) {
            Imp__SyncUsers b = IMP__SYNC_USERS__INIT;
            b.publisher_epoch = b.run = 1;
            b.n_users = BATCH;
            b.users = list + i;
            assert_int_equal(DONE(APPLY(&w, SYNC_USERS, sync_users, &b)).value, round ? 0 : BATCH);
        }
        after = world_hash(&w);
        assert_int_equal(memcmp(&before, &after, sizeof before) == 0, round == 1);
    }
    for (int i = 0; i < 3; i++)
        assert_int_equal(world_count(&w, TABLE_HOME_COUNT, nodes[i]), N / 3);
    world_check_homes(&w);
    free(users);
    free(list);
    free(text);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_assign_refusals),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_new_node_and_evacuation),
        cmocka_unit_test(test_random_assignment),
        cmocka_unit_test(test_sync),
        cmocka_unit_test(test_sync_many),
    };
    return cmocka_run_group_tests_name("fsm_user", tests, NULL, NULL);
}
