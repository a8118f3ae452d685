/* Feature levels: when the cluster's is raised, what is gated by it, and what level 2 does. */
#include "fsm_fixture.h"
#include "replication/levels.h"
#include "replication/settings.h"

static struct fsm_result raise_to(struct world *w, unsigned level)
{
    Imp__FeatureLevel b = IMP__FEATURE_LEVEL__INIT;
    b.level = level;
    return APPLY(w, FEATURE_LEVEL, feature_level, &b);
}

static struct fsm_result register_at(struct world *w, uint32_t node, unsigned level, const char *release)
{
    uint8_t nonce[16] = {0};
    Imp__NodeRegister b = IMP__NODE_REGISTER__INIT;
    memcpy(nonce, &w->index, sizeof w->index);
    nonce[15] = 1;
    b.node = node;
    b.nonce = BYTES(nonce, 16);
    b.expected_epoch = world_node(w, node)->epoch;
    b.level = level;
    b.release = (char *)release;
    return APPLY(w, NODE_REGISTER, node_register, &b);
}

static void to_level_2(struct world *w)
{
    DONE(register_at(w, 1, 2, "2.0"));
    DONE(raise_to(w, 2));
    assert_int_equal(world_cluster(w)->feature_level, 2);
}

/* ---- raising ---- */

static struct fsm_result raise_with_key(struct world *w, unsigned level, const char *key)
{
    Imp__FeatureLevel b = IMP__FEATURE_LEVEL__INIT;
    b.level = level;
    b.message_key = BYTES((uint8_t *)key, strlen(key));
    return APPLY(w, FEATURE_LEVEL, feature_level, &b);
}

/* The key of messages' ids comes with level 3, once. */
static void test_key_of_messages(void **state)
{
    static const char first[] = "0123456789abcdef", second[] = "fedcba9876543210";
    struct world w;
    world_open(&w);
    DONE(register_at(&w, 1, 3, "3.0"));
    DONE(raise_with_key(&w, 2, first));
    assert_int_equal(world_cluster(&w)->message_key.len, 0);
    DONE(raise_with_key(&w, 3, first));
    assert_int_equal(world_cluster(&w)->message_key.len, 16);
    assert_memory_equal(world_cluster(&w)->message_key.data, first, 16);
    DONE(raise_with_key(&w, 3, second));
    assert_memory_equal(world_cluster(&w)->message_key.data, first, 16);
    world_close(&w);

    world_open(&w);
    DONE(register_at(&w, 1, 3, "3.0"));
    DONE(raise_with_key(&w, 3, "short"));
    assert_int_equal(world_cluster(&w)->message_key.len, 0);
    world_close(&w);
}

static void test_raised_when_all_know_it(void **state)
{
    struct world w;
    world_open(&w);
    assert_int_equal(world_cluster(&w)->feature_level, 1);
    uint32_t n2 = world_join(&w, "n2", false), n3 = world_join(&w, "n3", false);
    DONE(register_at(&w, 1, 2, "2.0"));
    DONE(register_at(&w, n2, 2, "2.0"));
    assert_string_equal(world_node(&w, n2)->release, "2.0");
    assert_int_equal(world_node(&w, n2)->level, 2);
    REFUSED(&w, ERR_CONFLICT, raise_to(&w, 2)); /* n3 has never registered */
    DONE(register_at(&w, n3, 1, "1.0"));
    REFUSED(&w, ERR_CONFLICT, raise_to(&w, 2));
    DONE(register_at(&w, n3, 2, "2.0"));
    REFUSED(&w, ERR_CONFLICT, raise_to(&w, 3));
    DONE(
        register_at(&w, n2, 1, "1.0")); /* it went back: that is allowed as long as the level is not raised */
    REFUSED(&w, ERR_CONFLICT, raise_to(&w, 2));
    DONE(register_at(&w, n2, 2, "2.0"));
    world_set(&w, "cluster.hold_feature_level", "true");
    REFUSED(&w, ERR_DENIED, raise_to(&w, 2));
    world_set(&w, "cluster.hold_feature_level", "false");
    DONE(raise_to(&w, 2));
    DONE(raise_to(&w, 2));
    assert_int_equal(world_cluster(&w)->feature_level, 2);
    REFUSED(&w, ERR_CONFLICT, raise_to(&w, 1));
    REFUSED(&w, ERR_VERSION, register_at(&w, n2, 1, "1.0"));
    world_close(&w);
}

/* A level that this program does not know is a result like any other; the apply thread ends the node. */
static void test_unknown_level_is_applied(void **state)
{
    struct world w;
    world_open(&w);
    DONE(register_at(&w, 1, level_known() + 5, "9.0"));
    DONE(raise_to(&w, level_known() + 5));
    struct arena a;
    struct err_ctx err = {0};
    arena_init(&a);
    unsigned level = fsm_level(world_read(&w), &a);
    assert_int_equal(level, level_known() + 5);
    assert_int_equal(level_refuse(level, &err), ERR_VERSION);
    assert_non_null(strstr(err.text, "install the release"));
    assert_int_equal(level_refuse(level_known(), &err), 0);
    arena_fini(&a);
    world_close(&w);
}

/* ---- the gate ---- */

static uint64_t next_seq(struct world *w)
{
    struct key k;
    key_init(&k);
    key_u32(&k, 1);
    const Imp__ProposerRow *row = store_find_row(world_read(w), TABLE_PROPOSER, &k, &w->arena);
    return row->next_seq;
}

/* Leaves the same state as a command that nobody knows: the sequence is used up, and nothing else. */
static void test_command_below_its_level(void **state)
{
    struct world a, b;
    struct world *worlds[] = {&a, &b};
    for (int i = 0; i < 2; i++) {
        struct world *w = worlds[i];
        world_open(w);
        DONE(register_at(w, 1, 2, "2.0"));
        Imp__MessageMigrate migrate = IMP__MESSAGE_MIGRATE__INIT;
        Imp__Audited audited = IMP__AUDITED__INIT;
        Imp__Command c = IMP__COMMAND__INIT;
        audited.who = (char *)"root";
        audited.command = (char *)"something";
        c.audited = &audited;
        if (i == 0) { /* else the body is one of a later release */
            c.body_case = IMP__COMMAND__BODY_MESSAGE_MIGRATE;
            c.message_migrate = &migrate;
            assert_int_equal(fsm_command_level(&c), 2);
        }
        bool executed;
        struct fsm_result r = world_execute(w, 1, 1, 1, &c, &executed);
        assert_true(executed);
        assert_int_equal(r.code, ERR_UNSUPPORTED);
        if (i == 0)
            assert_non_null(strstr(r.text, "once all nodes have release 0.2.0"));
        assert_int_equal(next_seq(w), 2);
        assert_int_equal(world_rows(w, TABLE_AUDIT), 0);
    }
    struct store_hash ha = world_hash(&a), hb = world_hash(&b);
    assert_memory_equal(&ha, &hb, sizeof ha);
    DONE(raise_to(&a, 2));
    Imp__MessageMigrate migrate = IMP__MESSAGE_MIGRATE__INIT;
    DONE(APPLY(&a, MESSAGE_MIGRATE, message_migrate, &migrate));
    world_close(&a);
    world_close(&b);
}

/* The refusal's text may stand in an audit row: it is the one of a release that does not know the setting. */
static void test_setting_below_its_level(void **state)
{
    struct world w;
    world_open(&w);
    struct fsm_result unknown = world_try_set(&w, "xmpp.offline_bytez", "70000"),
                      early = world_try_set(&w, "xmpp.offline_bytes", "70000");
    assert_int_equal(early.code, ERR_NOTFOUND);
    assert_int_equal(unknown.code, ERR_NOTFOUND);
    unknown.text[strlen("there is no setting 'xmpp.offline_byte")] = 's';
    assert_string_equal(early.text, unknown.text);
    assert_int_equal(world_rows(&w, TABLE_SETTING), 0);
    to_level_2(&w);
    DONE(world_try_set(&w, "xmpp.offline_bytes", "70000"));
    world_close(&w);
}

/* ---- level 2: messages ---- */

static struct fsm_result message(struct world *w, uint64_t to, const char *origin)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = to;
    b.from = (char *)"bob@example.com/r";
    b.to = (char *)"alice@example.com";
    b.stanza = BYTES("<body>hello</body>", 18);
    b.origin = (char *)origin;
    return APPLY(w, MESSAGE_STORE, message_store, &b);
}

static uint64_t mark(struct world *w, uint64_t uid, uint64_t index)
{
    Imp__MessageRef ref = IMP__MESSAGE_REF__INIT, *refs[] = {&ref};
    Imp__MessageMark b = IMP__MESSAGE_MARK__INIT;
    ref.index = index;
    b.uid = uid;
    b.n_refs = 1;
    b.refs = refs;
    return DONE(APPLY(w, MESSAGE_MARK, message_mark, &b)).value;
}

static const Imp__MessageIndexRow *index_row(struct world *w, uint64_t uid, uint64_t index)
{
    struct key k = key_of_u64(uid);
    key_u64(&k, index);
    key_u32(&k, 0);
    return store_find_row(world_read(w), TABLE_MESSAGE_INDEX, &k, &w->arena);
}

static void count_change(void *user, enum table t, const struct key *k, bool deleted)
{
    *(unsigned *)user += !deleted;
}

static unsigned puts_of_message(struct world *w, uint64_t to, const char *origin)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    struct fsm_input in = {.index = ++w->index, .term = w->term};
    struct fsm_result r;
    struct arena a;
    unsigned n = 0;
    b.to_uid = to;
    b.from = b.to = (char *)"alice@example.com";
    b.stanza = BYTES("<body/>", 7);
    b.origin = (char *)origin;
    c.time_ms = w->time_ms;
    c.body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    c.message_store = &b;
    arena_init(&a);
    struct store_txn *t = store_begin(w->store);
    store_set_observer(t, count_change, &n);
    fsm_apply(t, &c, &in, &a, &r);
    assert_int_equal(r.code, 0);
    test_commit(t);
    arena_fini(&a);
    return n;
}

static void test_three_puts(void **state)
{
    struct world w;
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice");
    assert_int_equal(puts_of_message(&w, alice, "a"), 5);
    to_level_2(&w);
    assert_int_equal(puts_of_message(&w, alice, "b"), 3);
    world_close(&w);
}

static void test_messages_of_level_2(void **state)
{
    struct world w;
    world_open(&w);
    to_level_2(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    uint64_t first = DONE(message(&w, alice, "1.1")).value;
    struct fsm_result r = DONE(message(&w, alice, "1.1"));
    assert_int_equal(r.value, first);
    assert_int_equal(r.value2, 1);
    assert_int_equal(DONE(message(&w, bob, "1.1")).value2, 0); /* another recipient */
    const Imp__MessageIndexRow *row = index_row(&w, alice, first);
    assert_true(row->pending);
    assert_int_equal(row->peer_uid, bob);
    assert_string_equal(row->message->to, "alice@example.com");
    assert_memory_equal(row->message->stanza.data, "<body>hello</body>", 18);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), 0);
    assert_int_equal(mark(&w, alice, first), 1);
    assert_int_equal(mark(&w, alice, first), 0);
    assert_null(index_row(&w, alice, first));
    assert_int_equal(world_rows(&w, TABLE_USER_STATE), 1); /* Bob's */
    /* A repeat after the delivery is known for a quarter of an hour at least, also over the turn of one. */
    for (int minute = 0; minute < 15; minute++) {
        assert_int_equal(DONE(message(&w, alice, "1.1")).value2, 1);
        world_tick(&w, 60000);
    }
    world_tick(&w, 30 * 60000);
    for (int i = 0; i < 10; i++) {
        char origin[20];
        snprintf(origin, sizeof origin, "x%d", i);
        DONE(message(&w, alice, origin));
    }
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_REPEAT), 10);
    /* The bytes of one user are a setting. */
    DONE(world_try_set(&w, "xmpp.offline_bytes", "65536"));
    static uint8_t large[60000];
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = bob;
    b.from = b.to = (char *)"bob@example.com";
    b.stanza = BYTES(large, sizeof large);
    DONE(APPLY(&w, MESSAGE_STORE, message_store, &b));
    REFUSED(&w, ERR_LIMIT, APPLY(&w, MESSAGE_STORE, message_store, &b));
    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = alice;
    DONE(APPLY(&w, USER_REMOVE, user_remove, &rm));
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_INDEX), 2); /* Bob's */
    world_close(&w);
}

/* Messages and origins of level 1 are read, repeated, marked, and brought over. */
static void test_old_messages(void **state)
{
    enum { N = 30 };
    struct world w;
    uint64_t index[N];
    char origin[20];
    world_open(&w);
    uint64_t alice = world_add_user(&w, "alice"), bob = world_add_user(&w, "bob");
    for (int i = 0; i < N; i++) {
        snprintf(origin, sizeof origin, "o%d", i);
        index[i] = DONE(message(&w, i % 2 ? bob : alice, origin)).value;
    }
    to_level_2(&w);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), N);
    assert_int_equal(DONE(message(&w, alice, "o0")).value, index[0]);
    assert_int_equal(mark(&w, alice, index[0]), 1);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), N - 1);
    DONE(message(&w, alice, "new"));

    Imp__MessageMigrate m = IMP__MESSAGE_MIGRATE__INIT;
    unsigned steps = 0;
    m.max = 7;
    do {
        uint64_t before = world_rows(&w, TABLE_MESSAGE);
        struct fsm_result r = DONE(APPLY(&w, MESSAGE_MIGRATE, message_migrate, &m));
        assert_true(before - world_rows(&w, TABLE_MESSAGE) <= 7);
        m.from_uid = r.value;
        m.from_index = r.value2;
        assert_true(++steps < 20);
    } while (m.from_uid);
    assert_int_equal(steps, 5);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE), 0);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_INDEX), N);
    const Imp__MessageIndexRow *row = index_row(&w, bob, index[1]);
    assert_memory_equal(row->message->stanza.data, "<body>hello</body>", 18);
    assert_string_equal(row->message->origin, "o1");
    for (int i = 1; i < N; i++)
        assert_int_equal(mark(&w, i % 2 ? bob : alice, index[i]), 1);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_INDEX), 1);
    assert_int_equal(world_rows(&w, TABLE_USER_STATE), 1);
    /* Old origins go with age. */
    world_tick(&w, 3600000);
    for (int i = 0; i < N / 2 + 1; i++) {
        snprintf(origin, sizeof origin, "n%d", i);
        DONE(message(&w, alice, origin));
    }
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_ORIGIN), 0);
    assert_int_equal(world_rows(&w, TABLE_MESSAGE_ORIGIN_AGE), 0);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_of_messages),          cmocka_unit_test(test_raised_when_all_know_it),
        cmocka_unit_test(test_unknown_level_is_applied), cmocka_unit_test(test_command_below_its_level),
        cmocka_unit_test(test_setting_below_its_level),  cmocka_unit_test(test_three_puts),
        cmocka_unit_test(test_messages_of_level_2),      cmocka_unit_test(test_old_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
