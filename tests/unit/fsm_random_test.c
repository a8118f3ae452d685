/* One random log applied to three stores: command by command, in large transactions, and in transactions of
 * any size with crashes in between, after which the log is applied again from the last durable point. All end
 * with the same hashes, the same results, and counts and indexes that agree. */
#include "base/clock.h"
#include "base/mem.h"
#include "fsm_fixture.h"

enum { N_ENTRIES = 3000, N_NAMES = 14, N_NODES = 6 };

struct entry {
    uint8_t *bytes;
    size_t n;
    uint64_t term;
    struct fsm_result result;
    bool executed;
};

struct generator {
    uint64_t seed, time_ms, term, epoch[N_NODES + 1], seq[N_NODES + 1], next_uid;
    struct arena a;
};

static uint64_t r(struct generator *g, uint64_t n)
{
    return rnd(&g->seed, n);
}

static char *name(struct generator *g)
{
    return arena_printf(&g->a, "u%d", (int)r(g, N_NAMES));
}

static char *jid(struct generator *g)
{
    return arena_printf(&g->a, "%s@%s", name(g), r(g, 5) ? "example.com" : "far.example");
}

static uint64_t uid(struct generator *g)
{
    uint64_t back = 1 + r(g, 20);
    return back < g->next_uid ? g->next_uid - back : 1;
}

static uint32_t node(struct generator *g)
{
    return 1 + r(g, N_NODES);
}

static ProtobufCBinaryData hash32(struct generator *g, int of)
{
    uint8_t *p = arena_zalloc(&g->a, 32);
    p[0] = r(g, of);
    return BYTES(p, 32);
}

#define BODY(CASE, member_, Type, INIT)                                                                      \
    Imp__##Type *b = arena_alloc(&g->a, sizeof *b);                                                          \
    *b = (Imp__##Type)IMP__##INIT##__INIT;                                                                   \
    c->body_case = IMP__COMMAND__BODY_##CASE;                                                                \
    c->member_ = b

static void make_node_command(struct generator *g, Imp__Command *c)
{
    switch (r(g, 9)) {
    case 0: {
        BODY(TOKEN_ADD, token_add, TokenAdd, TOKEN_ADD);
        b->hash = hash32(g, 8);
        b->expires_ms = g->time_ms + r(g, 20000);
        break;
    }
    case 1:
    case 2: {
        BODY(NODE_JOIN, node_join, NodeJoin, NODE_JOIN);
        b->token_hash = hash32(g, 8);
        b->public_key_hash = hash32(g, 4);
        b->name = arena_printf(&g->a, "n%d", (int)r(g, N_NODES));
        b->address = arena_printf(&g->a, "host%d", (int)r(g, N_NODES));
        b->cluster_port = 7800;
        b->release = (char *)"1.0";
        b->witness = r(g, 8) == 0;
        break;
    }
    case 3: {
        BODY(NODE_SEEN, node_seen, NodeSeen, NODE_SEEN);
        b->node = node(g);
        break;
    }
    case 4: {
        BODY(NODE_DRAIN, node_drain, NodeDrain, NODE_DRAIN);
        b->node = node(g);
        b->drained = r(g, 3) == 0;
        break;
    }
    case 5: {
        BODY(NODE_EVACUATE, node_evacuate, NodeEvacuate, NODE_EVACUATE);
        b->node = node(g);
        b->max = r(g, 5);
        break;
    }
    case 6: {
        BODY(NODE_REMOVE, node_remove, NodeRemove, NODE_REMOVE);
        b->node = r(g, 6) ? 99 : node(g);
        break;
    }
    case 7: {
        BODY(NODE_EXPIRE, node_expire, NodeExpire, NODE_EXPIRE);
        b->node = node(g);
        break;
    }
    default: {
        BODY(NODE_UP, node_up, NodeUp, NODE_UP);
        b->node = node(g);
        b->epoch = g->epoch[b->node];
        break;
    }
    }
}

static void make_admin_command(struct generator *g, Imp__Command *c)
{
    static const char *const settings[][2] = {
        {"assignment.mode", "none"},     {"assignment.mode", "balanced"},
        {"assignment.mode", "balanced"}, {"assignment.mode", "active-standby"},
        {"limits.roster_items", "5"},    {"limits.roster_items", "2000"},
        {"xmpp.offline_limit", "3"},     {"xmpp.offline_limit", "nonsense"}};
    switch (r(g, 6)) {
    case 0: {
        BODY(SETTINGS_APPLY, settings_apply, SettingsApply, SETTINGS_APPLY);
        const char *const *kv = settings[r(g, n_elements(settings))];
        Imp__SettingChange *change = arena_alloc(&g->a, sizeof *change),
                           **list = arena_alloc(&g->a, sizeof *list);
        imp__setting_change__init(change);
        change->key = (char *)kv[0];
        change->value = (char *)kv[1];
        *list = change;
        b->n_changes = 1;
        b->changes = list;
        break;
    }
    case 1: {
        BODY(ALARM_RAISE, alarm_raise, AlarmRaise, ALARM_RAISE);
        b->name = (char *)(r(g, 2) ? "DiskLow" : "NodeDown");
        b->node = node(g);
        b->severity = 1 + r(g, 4);
        b->text = name(g);
        b->notice = r(g, 4) == 0;
        break;
    }
    case 2: {
        BODY(ALARM_CLEAR, alarm_clear, AlarmClear, ALARM_CLEAR);
        b->name = (char *)(r(g, 2) ? "DiskLow" : "");
        b->node = node(g);
        break;
    }
    case 3: {
        BODY(PUBLISHER_SET, publisher_set, PublisherSet, PUBLISHER_SET);
        b->node = r(g, 4) ? 1 : node(g);
        break;
    }
    case 4: {
        BODY(SERVICE_SET, service_set, ServiceSet, SERVICE_SET);
        b->node = node(g);
        b->service = (char *)"xmpp";
        b->active = r(g, 2);
        break;
    }
    default: {
        BODY(DOMAIN_ADD, domain_add, DomainAdd, DOMAIN_ADD);
        b->domain = arena_printf(&g->a, "d%d.example", (int)r(g, 3));
        break;
    }
    }
}

static void make_sync_command(struct generator *g, Imp__Command *c)
{
    if (r(g, 4) == 0) {
        BODY(SYNC_REMOVE, sync_remove, SyncRemove, SYNC_REMOVE);
        b->publisher_epoch = 1 + r(g, 2);
        b->run = 1;
        b->n_uuids = 1;
        b->uuids = arena_alloc(&g->a, sizeof *b->uuids);
        b->uuids[0] = arena_printf(&g->a, "uuid%d", (int)r(g, 10));
        return;
    }
    BODY(SYNC_USERS, sync_users, SyncUsers, SYNC_USERS);
    b->publisher_epoch = 1 + r(g, 2);
    b->run = 1;
    b->n_users = 1 + r(g, 4);
    b->users = arena_alloc(&g->a, b->n_users * sizeof *b->users);
    for (size_t i = 0; i < b->n_users; i++) {
        Imp__SyncUser *u = b->users[i] = arena_alloc(&g->a, sizeof *u);
        imp__sync_user__init(u);
        u->uuid = arena_printf(&g->a, "uuid%d", (int)r(g, 10));
        u->userid = u->localpart = name(g);
        u->display_name = name(g);
        u->n_words = 1;
        u->words = arena_alloc(&g->a, sizeof *u->words);
        u->words[0] = name(g);
    }
}

static void make_user_command(struct generator *g, Imp__Command *c)
{
    switch (r(g, 7)) {
    case 0:
    case 1: {
        BODY(USER_ADD, user_add, UserAdd, USER_ADD);
        b->localpart = name(g);
        b->display_name = name(g);
        break;
    }
    case 2: {
        if (r(g, 2)) {
            make_sync_command(g, c);
            break;
        }
        BODY(USER_REMOVE, user_remove, UserRemove, USER_REMOVE);
        b->uid = uid(g);
        break;
    }
    case 3: {
        BODY(USER_LOCK, user_lock, UserLock, USER_LOCK);
        b->uid = uid(g);
        b->locked = r(g, 2);
        break;
    }
    case 4: {
        BODY(USER_ASSIGN, user_assign, UserAssign, USER_ASSIGN);
        b->n_uids = 1;
        b->uids = arena_alloc(&g->a, sizeof *b->uids);
        b->uids[0] = uid(g);
        b->node = r(g, N_NODES + 1);
        break;
    }
    case 5: {
        BODY(USER_BALANCE, user_balance, UserBalance, USER_BALANCE);
        b->max = r(g, 6);
        break;
    }
    default:
        make_sync_command(g, c);
    }
}

static void make_roster_command(struct generator *g, Imp__Command *c)
{
    switch (r(g, 8)) {
    case 0:
    case 1: {
        BODY(ROSTER_SET, roster_set, RosterSet, ROSTER_SET);
        b->uid = uid(g);
        b->contact = jid(g);
        b->name = r(g, 2) ? name(g) : (char *)"";
        break;
    }
    case 2: {
        BODY(ROSTER_REMOVE, roster_remove, RosterRemove, ROSTER_REMOVE);
        b->uid = uid(g);
        b->contact = jid(g);
        break;
    }
    case 3: {
        BODY(ROSTER_REWRITE, roster_rewrite, RosterRewrite, ROSTER_REWRITE);
        b->old_jid = jid(g);
        b->new_jid = r(g, 2) ? b->old_jid : jid(g);
        b->display_name = name(g);
        b->max = r(g, 3);
        break;
    }
    default: {
        BODY(SUBSCRIBE, subscribe, Subscribe, SUBSCRIBE);
        b->from = jid(g);
        b->to = jid(g);
        b->type = r(g, 4);
        b->stanza = BYTES("<presence/>", 11);
        break;
    }
    }
}

static void make_message_command(struct generator *g, Imp__Command *c)
{
    if (r(g, 3)) {
        BODY(MESSAGE_STORE, message_store, MessageStore, MESSAGE_STORE);
        b->to_uid = uid(g);
        b->from = jid(g);
        b->to = jid(g);
        b->stanza = BYTES("<body/>", 1 + r(g, 7));
        b->origin = arena_printf(&g->a, "1.1.%d", (int)r(g, 500));
        return;
    }
    BODY(MESSAGE_MARK, message_mark, MessageMark, MESSAGE_MARK);
    b->uid = uid(g);
    b->n_refs = 20;
    b->refs = arena_alloc(&g->a, b->n_refs * sizeof *b->refs);
    for (size_t i = 0; i < b->n_refs; i++) {
        b->refs[i] = arena_alloc(&g->a, sizeof **b->refs);
        imp__message_ref__init(b->refs[i]);
        b->refs[i]->index = r(g, N_ENTRIES);
        b->refs[i]->place = r(g, 3);
    }
}

/* Registrations and ends of epochs go outside of sessions; everything else in the session of some node,
 * mostly with the next sequence. */
static void make_outside(struct generator *g, Imp__Command *c)
{
    uint32_t id = node(g);
    if (r(g, 3) == 0) {
        BODY(NODE_DOWN, node_down, NodeDown, NODE_DOWN);
        b->node = id;
        b->epoch = g->epoch[id];
        b->term = g->term - (r(g, 3) == 0);
        g->epoch[id] += r(g, 4) != 0;
        return;
    }
    BODY(NODE_REGISTER, node_register, NodeRegister, NODE_REGISTER);
    uint8_t *nonce = arena_zalloc(&g->a, 16);
    nonce[0] = r(g, 200);
    b->node = id;
    b->nonce = BYTES(nonce, 16);
    b->expected_epoch = r(g, 4) ? g->epoch[id] : r(g, 5);
    g->epoch[id] = b->expected_epoch + 1;
    g->seq[id] = 1;
}

static void make_proposal(struct generator *g, Imp__Proposal *p)
{
    static void (*const makers[])(struct generator *, Imp__Command *) = {
        make_node_command,   make_admin_command,  make_user_command,    make_user_command,
        make_roster_command, make_roster_command, make_message_command,
    };
    Imp__Command *c = arena_alloc(&g->a, sizeof *c);
    imp__command__init(c);
    imp__proposal__init(p);
    g->time_ms += r(g, 2000);
    g->time_ms -= r(g, 10) ? 0 : 500; /* clocks of several nodes */
    c->time_ms = g->time_ms;
    p->command = c;
    if (r(g, 12) == 0) {
        make_outside(g, c);
        return;
    }
    p->node = r(g, 3) ? 1 : node(g);
    p->epoch = g->epoch[p->node];
    p->seq = g->seq[p->node] += r(g, 30) != 0;
    p->seq -= r(g, 20) == 0;
    if (r(g, 15) == 0) {
        BODY(NODE_UP, node_up, NodeUp, NODE_UP);
        b->node = p->node;
        b->epoch = g->epoch[p->node];
    } else if (r(g, 30) == 0) {
        BODY(NODE_LEFT, node_left, NodeLeft, NODE_LEFT);
        b->node = p->node;
        b->epoch = g->epoch[p->node];
    } else {
        makers[r(g, n_elements(makers))](g, c);
    }
    if (r(g, 4) == 0) {
        c->audited = arena_alloc(&g->a, sizeof *c->audited);
        imp__audited__init(c->audited);
        c->audited->who = (char *)"root";
        c->audited->command = name(g);
    }
}

/* The next sequence that the session really expects is read from the first store, so that most proposals
 * execute. */
static void follow_session(struct generator *g, struct world *w)
{
    struct arena a;
    arena_init(&a);
    struct store_txn *t = world_read(w);
    struct key k;
    key_init(&k);
    const Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &k, &a);
    g->next_uid = cluster->next_uid;
    for (uint32_t id = 1; id <= N_NODES; id++) {
        key_init(&k);
        key_u32(&k, id);
        const Imp__NodeRow *n = store_find_row(t, TABLE_NODE, &k, &a);
        const Imp__ProposerRow *p = store_find_row(t, TABLE_PROPOSER, &k, &a);
        g->epoch[id] = n ? n->epoch : 0;
        g->seq[id] = p ? p->next_seq - 1 : 0;
    }
    arena_fini(&a);
}

static void apply_entry(struct store_txn *t, const struct entry *e, uint64_t index, struct fsm_result *result,
                        bool *executed)
{
    struct arena a;
    arena_init(&a);
    ProtobufCAllocator allocator;
    arena_protobuf_allocator(&a, &allocator);
    Imp__Proposal *p = imp__proposal__unpack(&allocator, e->n, e->bytes);
    assert_non_null(p);
    struct fsm_input in = {.index = index, .term = e->term, .place = index % 3};
    memset(result, 0, sizeof *result);
    *executed = fsm_execute(t, p, &in, &a, result);
    arena_fini(&a);
}

static void commit_at(struct store_txn *t, uint64_t index)
{
    store_set_position(t, &(struct store_position){.applied_index = index, .applied_term = 1});
    test_commit(t);
}

/* The first store, and with it the log and the results. */
static struct entry *generate(struct world *w, uint64_t seed, unsigned n_executed[2])
{
    struct entry *log = calloc(N_ENTRIES, sizeof *log);
    struct generator g = {.seed = seed, .time_ms = w->time_ms, .term = 1};
    arena_init(&g.a);
    for (int i = 0; i < N_ENTRIES; i++) {
        Imp__Proposal p;
        follow_session(&g, w);
        g.term += r(&g, 50) == 0;
        make_proposal(&g, &p);
        log[i].n = imp__proposal__get_packed_size(&p);
        log[i].bytes = malloc(log[i].n + 1);
        imp__proposal__pack(&p, log[i].bytes);
        log[i].term = g.term;
        struct store_txn *t = store_begin(w->store);
        apply_entry(t, &log[i], i + 2, &log[i].result, &log[i].executed);
        commit_at(t, i + 2);
        n_executed[0] += log[i].executed;
        n_executed[1] += log[i].executed && !log[i].result.code;
        arena_reset(&g.a);
    }
    arena_fini(&g.a);
    return log;
}

static void replay(struct world *w, const struct entry *log, unsigned max_batch, bool crashes, uint64_t *seed)
{
    struct err_ctx err = {0};
    for (int i = 0; i < N_ENTRIES;) {
        int end = i + 1 + rnd(seed, max_batch);
        struct store_txn *t = store_begin(w->store);
        for (; i < end && i < N_ENTRIES; i++) {
            struct fsm_result result;
            bool executed;
            apply_entry(t, &log[i], i + 2, &result, &executed);
            assert_int_equal(executed, log[i].executed);
            if (executed && memcmp(&result, &log[i].result, sizeof result) != 0)
                fail_msg("entry %d: another result", i + 2);
        }
        commit_at(t, i + 1);
        if (crashes && rnd(seed, 10) == 0)
            assert_int_equal(store_make_point(w->store, &err), 0);
        if (crashes && rnd(seed, 12) == 0) {
            store_reader_free(w->reader);
            store_close_dirty(w->store);
            w->store = test_open(w->dir, NULL);
            w->reader = store_reader_new(w->store);
            world_read(w);
            uint64_t applied = store_reader_index(w->reader);
            i = applied < 1 ? 0 : (int)applied - 1;
        }
    }
}

static void one_log(uint64_t seed)
{
    uint64_t other = seed;
    unsigned n_executed[2] = {0};
    print_message("seed %llu\n", (unsigned long long)seed);
    struct world w[3];
    struct err_ctx err = {0};
    for (int i = 0; i < 3; i++) {
        world_open(&w[i]);
        struct store_txn *t = store_begin(w[i].store);
        commit_at(t, 1);
        assert_int_equal(store_make_point(w[i].store, &err), 0);
    }
    struct entry *log = generate(&w[0], seed, n_executed);
    print_message("%d proposals, %u executed, %u of them not refused\n", N_ENTRIES, n_executed[0],
                  n_executed[1]);
    assert_true(n_executed[0] > N_ENTRIES / 10 && n_executed[1] > N_ENTRIES / 50); /* it is about something */
    replay(&w[1], log, 200, false, &other);
    replay(&w[2], log, 30, true, &other);
    for (int i = 1; i < 3; i++) {
        for (int t = 0; t < N_TABLES; t++) {
            struct store_hash a, b;
            if (table_scope(t) == SCOPE_LOCAL)
                continue;
            store_table_hash(world_read(&w[0]), t, &a, NULL);
            store_table_hash(world_read(&w[i]), t, &b, NULL);
            if (memcmp(&a, &b, sizeof a) != 0)
                fail_msg("store %d differs in table %s", i, table_name(t));
        }
    }
    world_check_homes(&w[0]);
    for (int t = 0; t < N_TABLES; t++) {
        if (store_scrub_table(w[2].store, t, &err))
            fail_msg("%s", err.text);
    }
    for (int i = 0; i < N_ENTRIES; i++)
        free(log[i].bytes);
    free(log);
    for (int i = 0; i < 3; i++)
        world_close(&w[i]);
}

/* IMP_SEEDS=n: more of them; IMP_SEED=s: that one. */
static void test_one_log_three_stores(void **state)
{
    const char *fixed = getenv("IMP_SEED"), *many = getenv("IMP_SEEDS");
    for (int n = fixed ? 1 : many ? atoi(many) : 4; n > 0; n--)
        one_log(fixed ? strtoull(fixed, NULL, 10) : random_u64() | 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_log_three_stores)};
    return cmocka_run_group_tests_name("fsm_random", tests, NULL, NULL);
}
