#include "fsm_fixture.h"

static const uint8_t some_bytes[32] = "0123456789abcdef0123456789abcde";

void world_open(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->dir = test_dir();
    w->store = test_open(w->dir, NULL);
    w->reader = store_reader_new(w->store);
    arena_init(&w->arena);
    w->term = 1;
    w->time_ms = 1000000;
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    node.id = 1;
    node.name = (char *)"n1";
    node.address = (char *)"10.0.0.1";
    node.cluster_port = 7800;
    node.release = (char *)"1.0";
    Imp__CaRow ca = IMP__CA_ROW__INIT;
    ca.cert_pem = (char *)"CERT";
    ca.sealed_key = BYTES(some_bytes, 32);
    ca.active = true;
    Imp__Bootstrap b = IMP__BOOTSTRAP__INIT;
    b.cluster_id = BYTES(some_bytes, 16);
    b.domain = (char *)"example.com";
    b.node = &node;
    b.ca = &ca;
    DONE(APPLY(w, BOOTSTRAP, bootstrap, &b));
}

void world_close(struct world *w)
{
    store_reader_free(w->reader);
    store_close_dirty(w->store);
    arena_fini(&w->arena);
    test_dir_remove(w->dir);
}

static struct fsm_result run(struct world *w, const Imp__Proposal *p, const Imp__Command *command,
                             bool *executed)
{
    struct fsm_result result;
    struct arena a;
    struct fsm_input in = {.index = ++w->index, .term = w->term, .place = 0};
    memset(&result, 0, sizeof result);
    arena_init(&a);
    struct store_txn *t = store_begin(w->store);
    if (p)
        *executed = fsm_execute(t, p, &in, &a, &result);
    else
        fsm_apply(t, command, &in, &a, &result);
    store_set_position(t, &(struct store_position){.applied_index = w->index, .applied_term = w->term});
    test_commit(t);
    arena_fini(&a);
    return result;
}

struct fsm_result world_apply(struct world *w, Imp__Command *command)
{
    command->time_ms = w->time_ms;
    return run(w, NULL, command, NULL);
}

struct fsm_result world_execute(struct world *w, uint32_t node, uint64_t epoch, uint64_t seq,
                                Imp__Command *command, bool *executed)
{
    Imp__Proposal p = IMP__PROPOSAL__INIT;
    command->time_ms = w->time_ms;
    p.node = node;
    p.epoch = epoch;
    p.seq = seq;
    p.command = command;
    return run(w, &p, command, executed);
}

struct store_txn *world_read(struct world *w)
{
    store_reader_reset(w->reader);
    return store_read_txn(w->reader);
}

struct store_hash world_hash(struct world *w)
{
    struct store_hash h;
    store_state_hash(world_read(w), &h);
    return h;
}

static void *find(struct world *w, enum table table, const struct key *k)
{
    return store_find_row(world_read(w), table, k, &w->arena);
}

Imp__ClusterRow *world_cluster(struct world *w)
{
    struct key k;
    key_init(&k);
    return find(w, TABLE_CLUSTER, &k);
}

Imp__NodeRow *world_node(struct world *w, uint32_t node)
{
    struct key k;
    key_init(&k);
    key_u32(&k, node);
    return find(w, TABLE_NODE, &k);
}

Imp__UserRow *world_user(struct world *w, uint64_t uid)
{
    struct key k = key_of_u64(uid);
    return find(w, TABLE_USER, &k);
}

Imp__RosterRow *world_roster(struct world *w, uint64_t uid, const char *contact)
{
    struct key k = key_of_u64(uid);
    key_str(&k, contact);
    return find(w, TABLE_ROSTER, &k);
}

uint64_t world_count(struct world *w, enum table table, uint32_t node)
{
    struct key k;
    key_init(&k);
    key_u32(&k, node);
    const Imp__CountRow *row = find(w, table, &k);
    return row ? row->n : 0;
}

uint64_t world_rows(struct world *w, enum table table)
{
    struct store_hash h;
    uint64_t n;
    store_table_hash(world_read(w), table, &h, &n);
    return n;
}

void world_check_homes(struct world *w)
{
    uint64_t n_users[70] = {0}, n_pinned[70] = {0}, n = 0;
    struct store_iter i;
    struct arena a;
    arena_init(&a);
    struct store_txn *t = world_read(w);
    store_iter_init(&i, t, TABLE_USER, NULL);
    while (store_iter_next(&i)) {
        const Imp__UserRow *u = store_iter_row(&i, &a);
        bool pinned = u->assigned_by == IMP__ASSIGNED_BY__ASSIGNED_MANUAL;
        assert_true(u->home < 70);
        n_users[u->home]++;
        n_pinned[u->home] += pinned;
        struct key k;
        key_init(&k);
        key_u32(&k, u->home);
        key_u64(&k, u->uid);
        const Imp__HomeRow *row = store_find_row(t, TABLE_USER_BY_HOME, &k, &a);
        assert_non_null(row);
        assert_int_equal(row->pinned, pinned);
        n++;
        arena_reset(&a);
    }
    arena_fini(&a);
    assert_int_equal(world_rows(w, TABLE_USER_BY_HOME), n);
    for (uint32_t node = 0; node < 70; node++) {
        assert_int_equal(world_count(w, TABLE_HOME_COUNT, node), n_users[node]);
        assert_int_equal(world_count(w, TABLE_HOME_PINNED, node), n_pinned[node]);
    }
}

/* ---- usual commands ---- */

uint32_t world_join(struct world *w, const char *name, bool witness)
{
    uint8_t hash[32] = {0}, key[32] = {0};
    char address[100];
    snprintf((char *)hash, sizeof hash, "token %s", name);
    snprintf((char *)key, sizeof key, "key %s", name);
    snprintf(address, sizeof address, "host-%s", name);
    Imp__TokenAdd token = IMP__TOKEN_ADD__INIT;
    token.hash = BYTES(hash, 32);
    token.expires_ms = w->time_ms + 3600000;
    DONE(APPLY(w, TOKEN_ADD, token_add, &token));
    Imp__NodeJoin join = IMP__NODE_JOIN__INIT;
    join.token_hash = BYTES(hash, 32);
    join.public_key_hash = BYTES(key, 32);
    join.name = (char *)name;
    join.address = address;
    join.cluster_port = 7800;
    join.release = (char *)"1.0";
    join.witness = witness;
    uint32_t node = DONE(APPLY(w, NODE_JOIN, node_join, &join)).value;
    Imp__NodeSeen seen = IMP__NODE_SEEN__INIT;
    seen.node = node;
    DONE(APPLY(w, NODE_SEEN, node_seen, &seen));
    return node;
}

uint64_t world_register(struct world *w, uint32_t node)
{
    uint8_t nonce[16] = {0};
    Imp__NodeRegister b = IMP__NODE_REGISTER__INIT;
    memcpy(nonce, &w->index, sizeof w->index);
    b.node = node;
    b.nonce = BYTES(nonce, 16);
    b.expected_epoch = world_node(w, node)->epoch;
    if (world_cluster(w)->feature_level > 1)
        b.level = world_cluster(w)->feature_level;
    return DONE(APPLY(w, NODE_REGISTER, node_register, &b)).value;
}

void world_up(struct world *w, uint32_t node)
{
    Imp__NodeUp b = IMP__NODE_UP__INIT;
    b.node = node;
    b.epoch = world_register(w, node);
    DONE(APPLY(w, NODE_UP, node_up, &b));
}

uint64_t world_add_user(struct world *w, const char *localpart)
{
    Imp__UserAdd b = IMP__USER_ADD__INIT;
    b.localpart = (char *)localpart;
    b.display_name = (char *)localpart;
    return DONE(APPLY(w, USER_ADD, user_add, &b)).value;
}

struct fsm_result world_sync_user(struct world *w, const char *uuid, const char *localpart, uint64_t run_id)
{
    Imp__SyncUser u = IMP__SYNC_USER__INIT, *list[] = {&u};
    Imp__SyncUsers b = IMP__SYNC_USERS__INIT;
    u.uuid = (char *)uuid;
    u.userid = u.localpart = (char *)localpart;
    u.display_name = (char *)localpart;
    b.publisher_epoch = world_cluster(w)->publisher_epoch;
    b.run = run_id;
    b.n_users = 1;
    b.users = list;
    return APPLY(w, SYNC_USERS, sync_users, &b);
}

void world_raise_to(struct world *w, unsigned level)
{
    uint8_t nonce[16] = {(uint8_t)level};
    Imp__NodeRegister r = IMP__NODE_REGISTER__INIT;
    r.node = 1;
    r.nonce = BYTES(nonce, 16);
    r.expected_epoch = world_node(w, 1)->epoch;
    r.level = level;
    r.release = (char *)"1.0";
    DONE(APPLY(w, NODE_REGISTER, node_register, &r));
    Imp__FeatureLevel b = IMP__FEATURE_LEVEL__INIT;
    b.level = level;
    DONE(APPLY(w, FEATURE_LEVEL, feature_level, &b));
}

void world_tick(struct world *w, uint64_t ms)
{
    Imp__HashPoint b = IMP__HASH_POINT__INIT;
    w->time_ms += ms;
    DONE(APPLY(w, HASH_POINT, hash_point, &b));
}

struct fsm_result world_try_set(struct world *w, const char *key, const char *value)
{
    Imp__SettingChange c = IMP__SETTING_CHANGE__INIT, *list[] = {&c};
    Imp__SettingsApply b = IMP__SETTINGS_APPLY__INIT;
    c.key = (char *)key;
    c.value = (char *)value;
    b.n_changes = 1;
    b.changes = list;
    return APPLY(w, SETTINGS_APPLY, settings_apply, &b);
}

void world_set(struct world *w, const char *key, const char *value)
{
    DONE(world_try_set(w, key, value));
}
