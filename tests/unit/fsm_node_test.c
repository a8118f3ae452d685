/* State machine: bootstrap, joining, sessions, up and down, cluster-wide rows. */
#include "fsm_fixture.h"
#include "replication/home.h"

static void test_bootstrap(void **state)
{
    struct world w;
    world_open(&w);
    const Imp__ClusterRow *c = world_cluster(&w);
    assert_int_equal(c->publisher, 1);
    assert_int_equal(c->publisher_epoch, 1);
    assert_int_equal(c->feature_level, 1);
    assert_string_equal(c->default_domain, "example.com");
    assert_int_equal(world_node(&w, 1)->state, IMP__NODE_STATE__NODE_MEMBER);
    assert_int_equal(world_rows(&w, TABLE_CA), 1);
    Imp__Bootstrap again = IMP__BOOTSTRAP__INIT;
    REFUSED(&w, ERR_EXISTS, APPLY(&w, BOOTSTRAP, bootstrap, &again));
    Imp__Command unknown = IMP__COMMAND__INIT;
    REFUSED(&w, ERR_UNSUPPORTED, world_apply(&w, &unknown));
    world_close(&w);
}

struct joiner {
    uint8_t token[32], key[32];
    Imp__NodeJoin join;
};

static void joiner_init(struct joiner *j, const char *token, const char *key, const char *name)
{
    memset(j, 0, sizeof *j);
    snprintf((char *)j->token, sizeof j->token, "%s", token);
    snprintf((char *)j->key, sizeof j->key, "%s", key);
    imp__node_join__init(&j->join);
    j->join.token_hash = BYTES(j->token, 32);
    j->join.public_key_hash = BYTES(j->key, 32);
    j->join.name = (char *)name;
    j->join.address = (char *)"10.0.0.9";
    j->join.cluster_port = 7800;
    j->join.release = (char *)"1.0";
}

static void add_token(struct world *w, const char *token, uint64_t ttl_ms)
{
    uint8_t hash[32] = {0};
    snprintf((char *)hash, sizeof hash, "%s", token);
    Imp__TokenAdd b = IMP__TOKEN_ADD__INIT;
    b.hash = BYTES(hash, 32);
    b.expires_ms = w->time_ms + ttl_ms;
    DONE(APPLY(w, TOKEN_ADD, token_add, &b));
    REFUSED(w, ERR_EXISTS, APPLY(w, TOKEN_ADD, token_add, &b));
}

static void test_join(void **state)
{
    struct world w;
    struct joiner j, k;
    world_open(&w);
    Imp__TokenAdd bad = IMP__TOKEN_ADD__INIT;
    REFUSED(&w, ERR_INVALID, APPLY(&w, TOKEN_ADD, token_add, &bad));
    add_token(&w, "t1", 1000);
    joiner_init(&j, "wrong", "k1", "n2");
    REFUSED(&w, ERR_AUTH, APPLY(&w, NODE_JOIN, node_join, &j.join));
    joiner_init(&j, "t1", "k1", "n2");
    j.join.release = (char *)"0.9";
    REFUSED(&w, ERR_VERSION, APPLY(&w, NODE_JOIN, node_join, &j.join));
    j.join.release = (char *)"1.0";
    j.join.name = (char *)"n1";
    REFUSED(&w, ERR_EXISTS, APPLY(&w, NODE_JOIN, node_join, &j.join));
    j.join.name = (char *)"a.b";
    REFUSED(&w, ERR_INVALID, APPLY(&w, NODE_JOIN, node_join, &j.join));
    j.join.name = (char *)"n2";
    j.join.address = (char *)"10.0.0.1";
    REFUSED(&w, ERR_EXISTS, APPLY(&w, NODE_JOIN, node_join, &j.join));
    j.join.address = (char *)"10.0.0.2";
    assert_int_equal(DONE(APPLY(&w, NODE_JOIN, node_join, &j.join)).value, 2);
    assert_int_equal(world_node(&w, 2)->state, IMP__NODE_STATE__NODE_JOINING);

    /* The same key finishes, after the expiry too; another key does not. */
    joiner_init(&k, "t1", "k2", "n3");
    REFUSED(&w, ERR_DENIED, APPLY(&w, NODE_JOIN, node_join, &k.join));
    w.time_ms += 100000;
    assert_int_equal(DONE(APPLY(&w, NODE_JOIN, node_join, &j.join)).value, 2);
    add_token(&w, "t2", 1000);
    world_tick(&w, 1000);
    joiner_init(&k, "t2", "k2", "n3");
    REFUSED(&w, ERR_TIMEOUT, APPLY(&w, NODE_JOIN, node_join, &k.join));

    /* Never seen and its token over: it may be dropped, and the id is not given again. */
    Imp__NodeExpire expire = IMP__NODE_EXPIRE__INIT;
    expire.node = 1;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_EXPIRE, node_expire, &expire));
    expire.node = 2;
    DONE(APPLY(&w, NODE_EXPIRE, node_expire, &expire));
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, NODE_EXPIRE, node_expire, &expire));
    assert_null(world_node(&w, 2));
    assert_int_equal(world_rows(&w, TABLE_NODE_TOMBSTONE), 1);
    REFUSED(&w, ERR_DENIED, APPLY(&w, NODE_JOIN, node_join, &j.join));
    add_token(&w, "t3", 1000);
    joiner_init(&k, "t3", "k1", "n2");
    assert_int_equal(DONE(APPLY(&w, NODE_JOIN, node_join, &k.join)).value, 3);
    expire.node = 3;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_EXPIRE, node_expire, &expire));
    Imp__NodeSeen seen = IMP__NODE_SEEN__INIT;
    seen.node = 3;
    DONE(APPLY(&w, NODE_SEEN, node_seen, &seen));
    world_tick(&w, 100000);
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_EXPIRE, node_expire, &expire));
    world_close(&w);
}

static void test_remove_and_update(void **state)
{
    struct world w;
    world_open(&w);
    uint32_t n2 = world_join(&w, "n2", false), n3 = world_join(&w, "n3", false);
    Imp__NodeRemove rm = IMP__NODE_REMOVE__INIT;
    rm.node = 1;
    REFUSED(&w, ERR_DENIED, APPLY(&w, NODE_REMOVE, node_remove, &rm));
    rm.node = 77;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, NODE_REMOVE, node_remove, &rm));
    world_add_user(&w, "a");
    world_add_user(&w, "b");
    rm.node = n2;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_REMOVE, node_remove, &rm));
    Imp__NodeEvacuate ev = IMP__NODE_EVACUATE__INIT;
    ev.node = n2;
    assert_int_equal(DONE(APPLY(&w, NODE_EVACUATE, node_evacuate, &ev)).value, 0);
    world_check_homes(&w);
    world_set(&w, "node.n2.watcher.timeout", "20");
    Imp__ServiceSet service = IMP__SERVICE_SET__INIT;
    service.node = n2;
    service.service = (char *)"xmpp";
    DONE(APPLY(&w, SERVICE_SET, service_set, &service));
    world_register(&w, n2);
    DONE(APPLY(&w, NODE_REMOVE, node_remove, &rm));
    assert_int_equal(world_rows(&w, TABLE_SETTING), 0);
    assert_int_equal(world_rows(&w, TABLE_SERVICE), 0);
    assert_int_equal(world_rows(&w, TABLE_PROPOSER), 0);
    assert_int_equal(world_rows(&w, TABLE_NODE_BY_NAME), 2);

    Imp__NodeUpdate up = IMP__NODE_UPDATE__INIT;
    up.node = n3;
    up.address = (char *)"10.0.0.1";
    REFUSED(&w, ERR_EXISTS, APPLY(&w, NODE_UPDATE, node_update, &up));
    up.address = (char *)"10.0.0.3";
    DONE(APPLY(&w, NODE_UPDATE, node_update, &up));
    assert_string_equal(world_node(&w, n3)->address, "10.0.0.3");
    assert_int_equal(world_node(&w, n3)->cluster_port, 7800);
    world_close(&w);
}

/* ---- sessions ---- */

static Imp__Command hash_point_command(Imp__HashPoint *b)
{
    Imp__Command c = IMP__COMMAND__INIT;
    imp__hash_point__init(b);
    c.body_case = IMP__COMMAND__BODY_HASH_POINT;
    c.hash_point = b;
    return c;
}

static bool executes(struct world *w, uint32_t node, uint64_t epoch, uint64_t seq)
{
    Imp__HashPoint b;
    Imp__Command c = hash_point_command(&b);
    bool executed;
    world_execute(w, node, epoch, seq, &c, &executed);
    return executed;
}

static void test_exactly_once(void **state)
{
    struct world w;
    world_open(&w);
    assert_false(executes(&w, 1, 0, 1)); /* not registered */
    uint64_t epoch = world_register(&w, 1);
    assert_int_equal(epoch, 1);
    assert_false(executes(&w, 1, epoch, 2)); /* a gap */
    assert_true(executes(&w, 1, epoch, 1));
    assert_false(executes(&w, 1, epoch, 1)); /* a repeat */
    assert_true(executes(&w, 1, epoch, 2));
    assert_false(executes(&w, 1, epoch + 1, 3));
    assert_false(executes(&w, 2, epoch, 3));
    assert_false(executes(&w, 0, 0, 0)); /* this command needs a session */

    /* A refusal is a result: the sequence is used up. */
    Imp__AlarmAck ack = IMP__ALARM_ACK__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_ALARM_ACK;
    c.alarm_ack = &ack;
    bool executed;
    assert_int_equal(world_execute(&w, 1, epoch, 3, &c, &executed).code, ERR_NOTFOUND);
    assert_true(executed);
    assert_true(executes(&w, 1, epoch, 4));

    /* The same command twice is executed once: rows show it. */
    Imp__UserAdd add = IMP__USER_ADD__INIT;
    imp__command__init(&c);
    add.localpart = (char *)"once";
    c.body_case = IMP__COMMAND__BODY_USER_ADD;
    c.user_add = &add;
    struct fsm_result r = world_execute(&w, 1, epoch, 5, &c, &executed);
    assert_true(executed && r.code == 0);
    world_execute(&w, 1, epoch, 5, &c, &executed);
    assert_false(executed);
    assert_int_equal(world_rows(&w, TABLE_USER), 1);
    world_close(&w);
}

static void test_register(void **state)
{
    struct world w;
    uint8_t nonce[16] = "a";
    world_open(&w);
    Imp__NodeRegister b = IMP__NODE_REGISTER__INIT;
    b.node = 1;
    REFUSED(&w, ERR_INVALID, APPLY(&w, NODE_REGISTER, node_register, &b));
    b.nonce = BYTES(nonce, 16);
    b.expected_epoch = 5;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_REGISTER, node_register, &b));
    b.expected_epoch = 0;
    assert_int_equal(DONE(APPLY(&w, NODE_REGISTER, node_register, &b)).value, 1);
    assert_true(executes(&w, 1, 1, 1));
    assert_int_equal(DONE(APPLY(&w, NODE_REGISTER, node_register, &b)).value,
                     1); /* a repeat changes nothing */
    assert_false(executes(&w, 1, 1, 1));
    assert_true(executes(&w, 1, 1, 2));
    nonce[0] = 'b';
    REFUSED(&w, ERR_CONFLICT,
            APPLY(&w, NODE_REGISTER, node_register, &b)); /* a second life expects an epoch gone by */
    b.expected_epoch = 1;
    assert_int_equal(DONE(APPLY(&w, NODE_REGISTER, node_register, &b)).value, 2);
    assert_false(executes(&w, 1, 1, 3));
    assert_true(executes(&w, 1, 2, 1));
    b.node = 9;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, NODE_REGISTER, node_register, &b));
    /* Inside a session it is a no-op: it would end the session it came in. */
    Imp__Command c = IMP__COMMAND__INIT;
    b.node = 1;
    c.body_case = IMP__COMMAND__BODY_NODE_REGISTER;
    c.node_register = &b;
    bool executed;
    world_execute(&w, 1, 2, 2, &c, &executed);
    assert_false(executed);
    world_close(&w);
}

/* What the node itself says came over an authenticated link: it is no longer dropped when its token expires.
 */
static void test_register_is_seen(void **state)
{
    struct world w;
    struct joiner j;
    world_open(&w);
    add_token(&w, "t", 1000);
    joiner_init(&j, "t", "k", "n2");
    uint32_t node = DONE(APPLY(&w, NODE_JOIN, node_join, &j.join)).value;
    world_register(&w, node);
    world_tick(&w, 100000);
    Imp__NodeExpire expire = IMP__NODE_EXPIRE__INIT;
    expire.node = node;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_EXPIRE, node_expire, &expire));
    world_close(&w);
}

static void test_up_and_down(void **state)
{
    struct world w;
    world_open(&w);
    uint32_t n2 = world_join(&w, "n2", false), witness = world_join(&w, "w", true);
    world_up(&w, 1);
    world_up(&w, n2);
    Imp__NodeUp up = IMP__NODE_UP__INIT;
    up.node = witness;
    up.epoch = world_register(&w, witness);
    REFUSED(&w, ERR_DENIED, APPLY(&w, NODE_UP, node_up, &up));
    up.node = n2;
    up.epoch = 7;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_UP, node_up, &up));

    Imp__NodeDown down = IMP__NODE_DOWN__INIT;
    down.node = n2;
    down.epoch = 2;
    down.term = w.term;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_DOWN, node_down, &down));
    down.epoch = 1;
    down.term = w.term + 1;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_DOWN, node_down, &down));
    assert_true(world_node(&w, n2)->up);
    assert_true(executes(&w, n2, 1, 1));
    down.term = w.term;
    assert_int_equal(DONE(APPLY(&w, NODE_DOWN, node_down, &down)).value, 2);
    assert_false(world_node(&w, n2)->up);
    assert_false(executes(&w, n2, 1, 2)); /* its session ended with the epoch */
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_DOWN, node_down, &down));
    world_up(&w, n2);
    assert_int_equal(world_node(&w, n2)->epoch, 3);
    assert_true(executes(&w, n2, 3, 1));

    Imp__NodeDrain drain = IMP__NODE_DRAIN__INIT;
    drain.node = n2;
    drain.drained = true;
    DONE(APPLY(&w, NODE_DRAIN, node_drain, &drain));
    assert_false(world_node(&w, n2)->up);
    up.epoch = 3;
    REFUSED(&w, ERR_DENIED, APPLY(&w, NODE_UP, node_up, &up));
    assert_true(world_node(&w, n2)->handing_over);
    drain.node = 1; /* the other is drained, the third a witness */
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_DRAIN, node_drain, &drain));
    drain.node = n2;
    drain.drained = false;
    DONE(APPLY(&w, NODE_DRAIN, node_drain, &drain));
    REFUSED(&w, ERR_AGAIN, APPLY(&w, NODE_UP, node_up, &up)); /* it has not handed over its users */
    Imp__NodeRemove rm = IMP__NODE_REMOVE__INIT;
    rm.node = n2;
    REFUSED(&w, ERR_AGAIN, APPLY(&w, NODE_REMOVE, node_remove, &rm));
    Imp__NodeLeft left = IMP__NODE_LEFT__INIT;
    left.node = n2;
    left.epoch = 2;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, NODE_LEFT, node_left, &left));
    left.epoch = 3;
    DONE(APPLY(&w, NODE_LEFT, node_left, &left));
    DONE(APPLY(&w, NODE_UP, node_up, &up));
    REFUSED(&w, ERR_AGAIN, APPLY(&w, NODE_REMOVE, node_remove, &rm));
    /* Leaving ends with the epoch, too. */
    drain.drained = true;
    DONE(APPLY(&w, NODE_DRAIN, node_drain, &drain));
    down.epoch = 3;
    down.term = w.term;
    DONE(APPLY(&w, NODE_DOWN, node_down, &down));
    assert_false(world_node(&w, n2)->handing_over);
    assert_int_equal(world_node(&w, n2)->epoch, 4);
    DONE(APPLY(&w, NODE_REMOVE, node_remove, &rm));
    world_close(&w);
}

static void test_home_choice(void **state)
{
    struct home_node nodes[] = {{1, true, 0}, {2, true, 0}, {3, false, 0}, {4, true, 0}}, back[4];
    int n[5] = {0};
    assert_int_equal(home_choose(0, 5, nodes, 4), 0);
    for (uint64_t uid = 1; uid <= 3000; uid++) {
        assert_int_equal(home_choose(2, uid, nodes, 4), 2);
        uint32_t at = home_choose(3, uid, nodes, 4);
        assert_true(at == 1 || at == 2 || at == 4);
        n[at]++;
        for (int i = 0; i < 4; i++)
            back[i] = nodes[3 - i];
        assert_int_equal(home_choose(3, uid, back, 4), at);
    }
    assert_true(n[1] > 800 && n[2] > 800 && n[4] > 800);
    for (int i = 0; i < 4; i++)
        nodes[i].up = false;
    assert_int_equal(home_choose(3, 1, nodes, 4), 0);
}

/* SINCE against the truth: a random history, in which the choice is watched at every index. */
static void test_home_since(void **state)
{
    struct home_node nodes[] = {{1, true, 0}, {2, true, 0}, {3, true, 0}, {4, true, 0}};
    uint32_t home = 1, at = 1, random = 12345;
    uint64_t home_index = 0, truth = 0, n_moves = 0, n_needless = 0;
    for (uint64_t index = 1; index < 20000; index++) {
        random = random * 1103515245 + 12345;
        unsigned what = random >> 16 & 7;
        if (what < 4) {
            nodes[what].up = !nodes[what].up;
            nodes[what].up_index = index;
        } else if (what == 4 && home != 1 + (random >> 20 & 3)) {
            home = 1 + (random >> 20 & 3);
            home_index = index;
        }
        uint32_t now = home_choose(home, 77, nodes, 4);
        n_moves += now != at;
        if (now != at)
            truth = index;
        at = now;
        uint64_t since = home_since(home, home_index, 77, at, nodes, 4);
        assert_true(!at || since >= truth);
        assert_true(since <= index);
        n_needless += at && since > truth;
    }
    assert_true(n_moves > 3000 && n_needless < 20000 / 3);
}

/* ---- cluster ---- */

static void test_cluster_rows(void **state)
{
    struct world w;
    world_open(&w);
    uint32_t n2 = world_join(&w, "n2", false), witness = world_join(&w, "w", true);
    Imp__PublisherSet p = IMP__PUBLISHER_SET__INIT;
    p.node = witness;
    REFUSED(&w, ERR_DENIED, APPLY(&w, PUBLISHER_SET, publisher_set, &p));
    p.node = 9;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, PUBLISHER_SET, publisher_set, &p));
    p.node = n2;
    assert_int_equal(DONE(APPLY(&w, PUBLISHER_SET, publisher_set, &p)).value, 2);
    assert_int_equal(DONE(APPLY(&w, PUBLISHER_SET, publisher_set, &p)).value, 2);
    assert_int_equal(world_cluster(&w)->publisher, n2);

    Imp__FeatureLevel level = IMP__FEATURE_LEVEL__INIT;
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, FEATURE_LEVEL, feature_level, &level));
    level.level = 1000; /* more in fsm_level_test.c */
    REFUSED(&w, ERR_CONFLICT, APPLY(&w, FEATURE_LEVEL, feature_level, &level));

    Imp__DomainAdd domain = IMP__DOMAIN_ADD__INIT;
    domain.domain = (char *)"a@b";
    REFUSED(&w, ERR_INVALID, APPLY(&w, DOMAIN_ADD, domain_add, &domain));
    domain.domain = (char *)"example.com";
    REFUSED(&w, ERR_EXISTS, APPLY(&w, DOMAIN_ADD, domain_add, &domain));
    domain.domain = (char *)"example.org";
    assert_int_equal(DONE(APPLY(&w, DOMAIN_ADD, domain_add, &domain)).value, 2);

    Imp__CaRow ca = IMP__CA_ROW__INIT;
    Imp__CaAdd add = IMP__CA_ADD__INIT;
    add.ca = &ca;
    add.generation = 1;
    REFUSED(&w, ERR_INVALID, APPLY(&w, CA_ADD, ca_add, &add));
    ca.cert_pem = (char *)"PEM";
    ca.sealed_key = BYTES("k", 1);
    ca.active = true;
    REFUSED(&w, ERR_EXISTS, APPLY(&w, CA_ADD, ca_add, &add));
    add.generation = 2;
    DONE(APPLY(&w, CA_ADD, ca_add, &add));
    struct store_iter i;
    int n_active = 0, n = 0;
    store_iter_init(&i, world_read(&w), TABLE_CA, NULL);
    while (store_iter_next(&i)) {
        n_active += ((Imp__CaRow *)store_iter_row(&i, &w.arena))->active;
        n++;
    }
    assert_int_equal(n, 2);
    assert_int_equal(n_active, 1);
    world_close(&w);
}

static struct fsm_result change(struct world *w, const char *key, const char *value, const char *sealed,
                                bool unset)
{
    Imp__SettingChange good = IMP__SETTING_CHANGE__INIT, c = IMP__SETTING_CHANGE__INIT, *list[] = {&good, &c};
    Imp__SettingsApply b = IMP__SETTINGS_APPLY__INIT;
    good.key = (char *)"axl.user"; /* all or nothing: a good one before it must not stay */
    good.value = (char *)value;
    c.key = (char *)key;
    c.value = (char *)value;
    c.unset = unset;
    if (sealed)
        c.sealed = BYTES(sealed, strlen(sealed));
    b.n_changes = 2;
    b.changes = list;
    return APPLY(w, SETTINGS_APPLY, settings_apply, &b);
}

static struct fsm_result compare_and_set(struct world *w, const char *value, const char *expected,
                                         bool expected_unset)
{
    Imp__SettingChange good = IMP__SETTING_CHANGE__INIT, c = IMP__SETTING_CHANGE__INIT, *list[] = {&good, &c};
    Imp__SettingsApply b = IMP__SETTINGS_APPLY__INIT;
    good.key = (char *)"axl.user"; /* not changed when the other is refused */
    good.value = (char *)value;
    c.key = (char *)"axl.interval";
    c.value = (char *)value;
    c.compare = true;
    c.expected = (char *)expected;
    c.expected_unset = expected_unset;
    b.n_changes = 2;
    b.changes = list;
    return APPLY(w, SETTINGS_APPLY, settings_apply, &b);
}

static void test_compare_and_set(void **state)
{
    struct world w;
    world_open(&w);
    REFUSED(&w, ERR_CONFLICT, compare_and_set(&w, "20", "10", false));
    assert_int_equal(world_rows(&w, TABLE_SETTING), 0);
    DONE(compare_and_set(&w, "20", "10", true));                      /* the default, as the proposer says */
    REFUSED(&w, ERR_CONFLICT, compare_and_set(&w, "30", "10", true)); /* no longer unset */
    REFUSED(&w, ERR_CONFLICT, compare_and_set(&w, "30", "", false));
    DONE(compare_and_set(&w, "30", "20", false));
    Imp__SettingChange c = IMP__SETTING_CHANGE__INIT, *list[] = {&c};
    Imp__SettingsApply b = IMP__SETTINGS_APPLY__INIT;
    c.key = (char *)"axl.password";
    c.sealed = BYTES("s", 1);
    c.compare = c.expected_unset = true;
    b.n_changes = 1;
    b.changes = list;
    REFUSED(&w, ERR_INVALID, APPLY(&w, SETTINGS_APPLY, settings_apply, &b));
    world_close(&w);
}

static void test_settings(void **state)
{
    struct world w;
    world_open(&w);
    REFUSED(&w, ERR_NOTFOUND, change(&w, "no.such", "1", NULL, false));
    REFUSED(&w, ERR_INVALID, change(&w, "watcher.timeout", "soon", NULL, false));
    REFUSED(&w, ERR_INVALID, change(&w, "axl.password", "secret", NULL, false));
    REFUSED(&w, ERR_INVALID, change(&w, "watcher.timeout", "20", "sealed", false));
    REFUSED(&w, ERR_NOTFOUND, change(&w, "node.n9.watcher.timeout", "20", NULL, false));
    DONE(change(&w, "watcher.timeout", "20", NULL, false));
    DONE(change(&w, "node.n1.watcher.timeout", "30", NULL, false));
    DONE(change(&w, "axl.password", "", "sealed", false));
    assert_int_equal(world_rows(&w, TABLE_SETTING), 4);
    DONE(change(&w, "watcher.timeout", "", NULL, true));
    assert_int_equal(world_rows(&w, TABLE_SETTING), 3);

    Imp__ServiceSet service = IMP__SERVICE_SET__INIT;
    service.node = 1;
    REFUSED(&w, ERR_INVALID, APPLY(&w, SERVICE_SET, service_set, &service));
    service.service = (char *)"xmpp";
    service.node = 8;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, SERVICE_SET, service_set, &service));
    Imp__CertSet cert = IMP__CERT_SET__INIT;
    cert.domain = (char *)"example.com";
    REFUSED(&w, ERR_INVALID, APPLY(&w, CERT_SET, cert_set, &cert));
    Imp__CertRow row = IMP__CERT_ROW__INIT;
    row.chain_pem = (char *)"PEM";
    row.sealed_key = BYTES("k", 1);
    cert.cert = &row;
    DONE(APPLY(&w, CERT_SET, cert_set, &cert));
    cert.remove = true;
    DONE(APPLY(&w, CERT_SET, cert_set, &cert));
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, CERT_SET, cert_set, &cert));
    world_close(&w);
}

static struct fsm_result raise_alarm(struct world *w, const char *name, uint32_t node, const char *text,
                                     bool notice)
{
    Imp__AlarmRaise b = IMP__ALARM_RAISE__INIT;
    b.name = (char *)name;
    b.node = node;
    b.severity = 2;
    b.text = (char *)text;
    b.notice = notice;
    return APPLY(w, ALARM_RAISE, alarm_raise, &b);
}

static void test_alarms(void **state)
{
    struct world w;
    world_open(&w);
    REFUSED(&w, ERR_INVALID, raise_alarm(&w, "", 1, "x", false));
    uint64_t id = DONE(raise_alarm(&w, "DiskLow", 1, "10 %", false)).value;
    assert_int_equal(DONE(raise_alarm(&w, "DiskLow", 1, "9 %", false)).value, id);
    assert_int_not_equal(DONE(raise_alarm(&w, "DiskLow", 2, "9 %", false)).value, id);
    DONE(raise_alarm(&w, "NodeDown", 1, "down", false));
    DONE(raise_alarm(&w, "ReplicationEstablished", 1, "up", true));
    assert_int_equal(world_rows(&w, TABLE_ALARM), 4);
    assert_int_equal(world_rows(&w, TABLE_ALARM_OPEN), 3);
    Imp__AlarmAck ack = IMP__ALARM_ACK__INIT;
    ack.id = 99;
    REFUSED(&w, ERR_NOTFOUND, APPLY(&w, ALARM_ACK, alarm_ack, &ack));
    ack.id = id;
    DONE(APPLY(&w, ALARM_ACK, alarm_ack, &ack));
    Imp__AlarmClear clear = IMP__ALARM_CLEAR__INIT;
    clear.node = 1;
    clear.name = (char *)"Other";
    assert_int_equal(DONE(APPLY(&w, ALARM_CLEAR, alarm_clear, &clear)).value, 0);
    clear.name = (char *)"";
    assert_int_equal(DONE(APPLY(&w, ALARM_CLEAR, alarm_clear, &clear)).value, 2);
    assert_int_equal(world_rows(&w, TABLE_ALARM_OPEN), 1);
    struct key k = key_of_u64(id);
    const Imp__AlarmRow *row = store_find_row(world_read(&w), TABLE_ALARM, &k, &w.arena);
    assert_true(row->acked && row->cleared_ms);
    assert_int_equal(row->count, 2);
    assert_string_equal(row->text, "9 %");
    /* There are never many more than a thousand. */
    for (int i = 0; i < 1200; i++)
        raise_alarm(&w, "Again", 3, "x", true);
    assert_true(world_rows(&w, TABLE_ALARM) <= 1001);
    world_close(&w);
}

static void test_audit_and_time(void **state)
{
    struct world w;
    world_open(&w);
    Imp__Audited audited = IMP__AUDITED__INIT;
    Imp__UserLock lock = IMP__USER_LOCK__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    audited.who = (char *)"root";
    audited.command = (char *)"user lock x";
    lock.uid = 77;
    c.audited = &audited;
    c.body_case = IMP__COMMAND__BODY_USER_LOCK;
    c.user_lock = &lock;
    assert_int_equal(world_apply(&w, &c).code, ERR_NOTFOUND);
    struct store_iter i;
    store_iter_init(&i, world_read(&w), TABLE_AUDIT, NULL);
    assert_true(store_iter_next(&i));
    const Imp__AuditRow *row = store_iter_row(&i, &w.arena);
    assert_string_equal(row->who, "root");
    assert_string_equal(row->result, "there is no such user");
    assert_int_equal(row->time_ms, w.time_ms);
    store_iter_fini(&i);
    /* Time does not go back. */
    uint64_t before = w.time_ms;
    w.time_ms -= 500;
    c.audited = NULL;
    uint64_t id = DONE(raise_alarm(&w, "A", 1, "x", false)).value;
    struct key k = key_of_u64(id);
    assert_int_equal(((Imp__AlarmRow *)store_find_row(world_read(&w), TABLE_ALARM, &k, &w.arena))->raised_ms,
                     before);
    world_close(&w);
}

/* Users are given to who speaks; the text of a refusal is part of the audit's row, so the old one stays. */
static void check_assign_to_joined(unsigned level, const char *text)
{
    struct world w;
    struct joiner j;
    Imp__UserAssign b = IMP__USER_ASSIGN__INIT;
    world_open(&w);
    if (level > 1)
        world_raise_to(&w, level);
    add_token(&w, "t1", 1000);
    joiner_init(&j, "t1", "k1", "n2");
    b.node = DONE(APPLY(&w, NODE_JOIN, node_join, &j.join)).value;
    struct fsm_result r = APPLY(&w, USER_ASSIGN, user_assign, &b);
    assert_int_equal(r.code, ERR_NOTFOUND);
    assert_string_equal(r.text, text);
    b.node = 9;
    r = APPLY(&w, USER_ASSIGN, user_assign, &b);
    assert_string_equal(r.text, "node 9 is not a member");
    world_close(&w);
}

static void test_assign_to_one_that_only_joined(void **state)
{
    check_assign_to_joined(1, "node 2 is not a member");
    check_assign_to_joined(
        3, "n2 has joined, but was never heard of: start it (impnode run), then assign users to it");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_assign_to_one_that_only_joined),
        cmocka_unit_test(test_bootstrap),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_exactly_once),
        cmocka_unit_test(test_remove_and_update),
        cmocka_unit_test(test_register),
        cmocka_unit_test(test_up_and_down),
        cmocka_unit_test(test_register_is_seen),
        cmocka_unit_test(test_home_choice),
        cmocka_unit_test(test_home_since),
        cmocka_unit_test(test_cluster_rows),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_compare_and_set),
        cmocka_unit_test(test_alarms),
        cmocka_unit_test(test_audit_and_time),
    };
    return cmocka_run_group_tests_name("fsm_node", tests, NULL, NULL);
}
