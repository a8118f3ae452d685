/* State machine at level 3: messages that both parties keep, sessions that can be resumed, repeats. */
#include "fsm_fixture.h"
#include "replication/levels.h"

struct cast {
    struct world w;
    uint64_t alice, bob;
};

static void setup(struct cast *c)
{
    world_open(&c->w);
    world_raise_to(&c->w, 3);
    c->alice = world_add_user(&c->w, "alice");
    c->bob = world_add_user(&c->w, "bob");
}

/* From Alice to Bob. */
static Imp__MessageStore message(const struct cast *c)
{
    Imp__MessageStore b = IMP__MESSAGE_STORE__INIT;
    b.to_uid = c->bob;
    b.from_uid = c->alice;
    b.from = (char *)"alice@example.com/r";
    b.to = (char *)"bob@example.com";
    b.stanza = BYTES("<message><body>hello</body></message>", 37);
    return b;
}

static struct fsm_result store(struct cast *c, const Imp__MessageStore *b)
{
    return APPLY(&c->w, MESSAGE_STORE, message_store, (Imp__MessageStore *)b);
}

static const Imp__MessageIndexRow *index_row(struct cast *c, uint64_t uid, uint64_t index)
{
    struct key k = key_of_u64(uid);
    key_u64(&k, index);
    key_u32(&k, 0);
    return store_find_row(world_read(&c->w), TABLE_MESSAGE_INDEX, &k, &c->w.arena);
}

static const Imp__UserStateRow *state_of(struct cast *c, uint64_t uid)
{
    struct key k = key_of_u64(uid);
    return store_find_row(world_read(&c->w), TABLE_USER_STATE, &k, &c->w.arena);
}

static uint64_t open_session(struct cast *c, uint64_t uid, const char *resource)
{
    static const uint8_t hash[32] = {7};
    Imp__SessionOpen b = IMP__SESSION_OPEN__INIT;
    b.uid = uid;
    b.id_hash = BYTES(hash, 32);
    b.resource = (char *)resource;
    b.timeout_s = 300;
    return DONE(APPLY(&c->w, SESSION_OPEN, session_open, &b)).value;
}

static const Imp__SessionRow *session_row(struct cast *c, uint64_t uid, uint64_t session)
{
    struct key k = key_of_u64(uid);
    key_u64(&k, session);
    key_u32(&k, 0);
    return store_find_row(world_read(&c->w), TABLE_SESSION, &k, &c->w.arena);
}

/* One message and the session's counts. */
static struct fsm_result mark(struct cast *c, uint64_t uid, uint64_t session, uint64_t n_in, uint64_t n_out,
                              uint64_t index)
{
    Imp__MessageRef ref = IMP__MESSAGE_REF__INIT, *refs[] = {&ref};
    Imp__SessionMarkItem item = IMP__SESSION_MARK_ITEM__INIT, *items[] = {&item};
    Imp__SessionMark b = IMP__SESSION_MARK__INIT;
    ref.index = index;
    item.uid = uid;
    item.session = session;
    item.n_in = n_in;
    item.n_out = n_out;
    item.n_messages = index ? 1 : 0;
    item.messages = refs;
    b.n_items = 1;
    b.items = items;
    return APPLY(&c->w, SESSION_MARK, session_mark, &b);
}

static void test_kept_by_both(void **state)
{
    struct cast c;
    setup(&c);
    Imp__MessageStore b = message(&c);
    b.pending = b.archive_to = b.archive_from = true;
    uint64_t at = DONE(store(&c, &b)).value;
    const Imp__MessageIndexRow *to = index_row(&c, c.bob, at), *from = index_row(&c, c.alice, at);
    assert_true(to->pending && to->archived && !to->outgoing && !to->message);
    assert_true(!from->pending && from->archived && from->outgoing && !from->message);
    assert_string_equal(to->peer, "alice@example.com");
    assert_string_equal(from->peer, "bob@example.com");
    assert_int_equal(to->peer_uid, c.alice);
    assert_int_equal(from->peer_uid, c.bob);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE), 1);
    assert_int_equal(state_of(&c, c.bob)->first_index, at);
    assert_null(state_of(&c, c.alice));
    assert_int_equal(DONE(mark(&c, c.bob, 0, 0, 0, at)).value, 1);
    assert_int_equal(DONE(mark(&c, c.bob, 0, 0, 0, at)).value, 0);
    assert_false(index_row(&c, c.bob, at)->pending);
    assert_null(state_of(&c, c.bob));
    /* The body goes with the last who has it. */
    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = c.alice;
    DONE(APPLY(&c.w, USER_REMOVE, user_remove, &rm));
    world_tick(&c.w, 1000);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE), 1);
    rm.uid = c.bob;
    DONE(APPLY(&c.w, USER_REMOVE, user_remove, &rm));
    world_tick(&c.w, 1000);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE), 0);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE_INDEX), 0);
    world_close(&c.w);
}

static void test_kept_by_one(void **state)
{
    struct cast c;
    setup(&c);
    Imp__MessageStore b = message(&c);
    b.archive_from = true; /* nobody waits for it */
    uint64_t at = DONE(store(&c, &b)).value;
    assert_null(index_row(&c, c.bob, at));
    assert_memory_equal(index_row(&c, c.alice, at)->message->stanza.data, b.stanza.data, b.stanza.len);
    b.to_uid = 0; /* nobody here */
    at = DONE(store(&c, &b)).value;
    assert_true(index_row(&c, c.alice, at)->outgoing);
    b = message(&c);
    b.to_uid = c.alice; /* to oneself: one row */
    b.pending = b.archive_to = b.archive_from = true;
    at = DONE(store(&c, &b)).value;
    assert_true(index_row(&c, c.alice, at)->message && index_row(&c, c.alice, at)->pending);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE), 0);
    b = message(&c);
    b.pending = true; /* kept until it is delivered */
    at = DONE(store(&c, &b)).value;
    assert_false(index_row(&c, c.bob, at)->archived);
    DONE(mark(&c, c.bob, 0, 0, 0, at));
    assert_null(index_row(&c, c.bob, at));
    b = message(&c);
    b.from_uid = 99; /* removed meanwhile */
    b.archive_from = b.pending = true;
    at = DONE(store(&c, &b)).value;
    assert_int_equal(index_row(&c, c.bob, at)->peer_uid, 0);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE), 0);
    world_close(&c.w);
}

/* A cursor begins at the first pending row, not at what was kept before. */
static void test_first_pending(void **state)
{
    enum { N = 200 };
    struct cast c;
    uint64_t at[N];
    setup(&c);
    Imp__MessageStore b = message(&c);
    b.pending = b.archive_to = b.archive_from = true;
    for (int i = 0; i < N; i++)
        at[i] = DONE(store(&c, &b)).value;
    assert_int_equal(state_of(&c, c.bob)->first_index, at[0]);
    for (int i = 0; i < N - 1; i++) {
        DONE(mark(&c, c.bob, 0, 0, 0, at[i]));
        assert_int_equal(state_of(&c, c.bob)->first_index, at[i + 1]);
    }
    assert_int_equal(state_of(&c, c.bob)->n_pending, 1);
    assert_int_equal(state_of(&c, c.bob)->pending_bytes, b.stanza.len);
    world_close(&c.w);
}

static void test_repeats(void **state)
{
    struct cast c;
    setup(&c);
    uint64_t session = open_session(&c, c.alice, "r");
    Imp__MessageStore b = message(&c);
    b.pending = true;
    b.session = session;
    b.n_in = 1;
    struct fsm_result r = DONE(store(&c, &b));
    assert_int_equal(fsm_stored_n_in(r.value2), 1);
    assert_false(fsm_stored_is_repeat(r.value2));
    r = DONE(store(&c, &b));
    assert_true(fsm_stored_is_repeat(r.value2));
    assert_int_equal(state_of(&c, c.bob)->n_pending, 1);
    /* 2 and 3 go another way; 4 and 6 are stored before that is known. */
    b.n_in = 4;
    assert_int_equal(fsm_stored_n_in(DONE(store(&c, &b)).value2), 1);
    b.n_in = 6;
    b.n_settled = 2;
    assert_int_equal(fsm_stored_n_in(DONE(store(&c, &b)).value2), 2);
    assert_int_equal(session_row(&c, c.alice, session)->n_above, 2);
    assert_true(fsm_stored_is_repeat(DONE(store(&c, &b)).value2));
    b.n_in = 4;
    assert_true(fsm_stored_is_repeat(DONE(store(&c, &b)).value2));
    DONE(mark(&c, c.alice, session, 3, 7, 0));
    assert_int_equal(session_row(&c, c.alice, session)->n_in, 4);
    assert_int_equal(session_row(&c, c.alice, session)->n_out, 7);
    b.n_in = 5;
    assert_int_equal(fsm_stored_n_in(DONE(store(&c, &b)).value2), 6);
    assert_int_equal(session_row(&c, c.alice, session)->n_above, 0);
    DONE(mark(&c, c.alice, session, 3, 2, 0)); /* counts never fall */
    assert_int_equal(session_row(&c, c.alice, session)->n_in, 6);
    assert_int_equal(session_row(&c, c.alice, session)->n_out, 7);
    assert_int_equal(world_rows(&c.w, TABLE_MESSAGE_REPEAT), 0);
    world_close(&c.w);
}

static void test_sessions_come_and_go(void **state)
{
    struct cast c;
    setup(&c);
    uint64_t first = open_session(&c, c.alice, "r"), other = open_session(&c, c.alice, "s");
    uint64_t second = open_session(&c, c.alice, "r");
    assert_null(session_row(&c, c.alice, first)); /* its resource is taken */
    Imp__SessionRef ref = IMP__SESSION_REF__INIT, *refs[] = {&ref};
    Imp__SessionClose b = IMP__SESSION_CLOSE__INIT;
    ref.uid = c.alice;
    ref.session = second;
    b.n_sessions = 1;
    b.sessions = refs;
    b.keep = true;
    DONE(mark(&c, c.alice, second, 5, 0, 0));
    assert_int_equal(DONE(APPLY(&c.w, SESSION_CLOSE, session_close, &b)).value, 1);
    assert_int_equal(DONE(APPLY(&c.w, SESSION_CLOSE, session_close, &b)).value, 0);
    assert_int_equal(session_row(&c, c.alice, second)->n_in, 5);
    assert_int_equal(DONE(mark(&c, c.alice, second, 9, 0, 0)).value2,
                     1); /* nothing is taken of it any more */
    b.keep = false;
    ref.session = other;
    DONE(APPLY(&c.w, SESSION_CLOSE, session_close, &b));
    assert_null(session_row(&c, c.alice, other));
    for (int i = 0; i < 63; i++) {
        char resource[20];
        snprintf(resource, sizeof resource, "r%d", i);
        open_session(&c, c.alice, resource);
    }
    assert_int_equal(world_rows(&c.w, TABLE_SESSION), 64); /* with the one that has ended */
    open_session(&c, c.alice, "last");
    assert_null(session_row(&c, c.alice, second));
    static const uint8_t hash[32];
    Imp__SessionOpen o = IMP__SESSION_OPEN__INIT;
    o.uid = c.alice;
    o.id_hash = BYTES(hash, 32);
    o.resource = (char *)"more";
    o.timeout_s = 1;
    REFUSED(&c.w, ERR_LIMIT, APPLY(&c.w, SESSION_OPEN, session_open, &o));
    o.resource = (char *)"";
    REFUSED(&c.w, ERR_INVALID, APPLY(&c.w, SESSION_OPEN, session_open, &o));
    Imp__UserRemove rm = IMP__USER_REMOVE__INIT;
    rm.uid = c.alice;
    DONE(APPLY(&c.w, USER_REMOVE, user_remove, &rm));
    assert_int_equal(world_rows(&c.w, TABLE_SESSION), 0);
    world_close(&c.w);
}

/* What a session does counts only where its user is at home. */
static void test_only_at_home(void **state)
{
    struct cast c;
    setup(&c);
    world_up(&c.w, 1);
    uint32_t n2 = world_join(&c.w, "n2", false);
    world_up(&c.w, n2);
    uint64_t session = open_session(&c, c.alice, "r");
    Imp__UserAssign assign = IMP__USER_ASSIGN__INIT;
    uint64_t uids[] = {c.alice};
    assign.n_uids = 1;
    assign.uids = uids;
    assign.node = n2;
    DONE(APPLY(&c.w, USER_ASSIGN, user_assign, &assign));
    uint64_t epoch = world_node(&c.w, 1)->epoch;
    bool executed;
    Imp__MessageStore b = message(&c);
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    command.message_store = &b;
    b.pending = true;
    b.session = session;
    b.n_in = 1;
    assert_int_equal(world_execute(&c.w, 1, epoch, 1, &command, &executed).code, ERR_CONFLICT);
    assert_true(executed);
    b.at_recipient = true; /* the recipient's home may, whoever has the sender */
    assert_int_equal(world_execute(&c.w, 1, epoch, 2, &command, &executed).code, 0);
    assert_int_equal(session_row(&c, c.alice, session)->n_in, 1);
    Imp__SessionMarkItem item = IMP__SESSION_MARK_ITEM__INIT, *items[] = {&item};
    Imp__SessionMark m = IMP__SESSION_MARK__INIT;
    m.n_items = 1;
    m.items = items;
    item.uid = c.alice;
    item.session = session;
    item.n_in = 9;
    command.body_case = IMP__COMMAND__BODY_SESSION_MARK;
    command.session_mark = &m;
    assert_int_equal(world_execute(&c.w, 1, epoch, 3, &command, &executed).value2, 1);
    assert_int_equal(session_row(&c, c.alice, session)->n_in, 1);
    epoch = world_node(&c.w, n2)->epoch;
    assert_int_equal(world_execute(&c.w, n2, epoch, 1, &command, &executed).value2, 0);
    assert_int_equal(session_row(&c, c.alice, session)->n_in, 9);
    world_close(&c.w);
}

/* XEP-0191 §3.2: what comes behind the block in the log, whatever the sender's home knew; in no archive, on
 * neither side. */
static void test_blocked(void **state)
{
    static const char *const jids[] = {"alice@example.com", "alice@example.com/r", "example.com"};
    (void)state;
    for (size_t i = 0; i < sizeof jids / sizeof jids[0]; i++) {
        struct cast c;
        setup(&c);
        Imp__MessageStore b = message(&c);
        b.pending = b.archive_to = b.archive_from = true;
        DONE(store(&c, &b));
        Imp__BlockSet block = IMP__BLOCK_SET__INIT;
        char *list[] = {(char *)jids[i]};
        block.uid = c.bob;
        block.n_block_jid = 1;
        block.block_jid = list;
        DONE(APPLY(&c.w, BLOCK_SET, block_set, &block));
        assert_int_equal(store(&c, &b).code, ERR_DENIED);
        assert_int_equal(world_rows(&c.w, TABLE_MESSAGE_INDEX), 2);
        b.to_uid = c.alice;
        b.from_uid = c.bob;
        b.from = (char *)"bob@example.com/r";
        DONE(store(&c, &b)); /* the other way is the sender's home to refuse */
        world_close(&c.w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kept_by_both),
        cmocka_unit_test(test_kept_by_one),
        cmocka_unit_test(test_first_pending),
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_sessions_come_and_go),
        cmocka_unit_test(test_only_at_home),
        cmocka_unit_test(test_blocked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
