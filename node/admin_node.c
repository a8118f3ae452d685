/* impcli node ...: members, tokens, roles. */
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/datadir.h"
#include "cluster/members.h"
#include "cluster/token.h"
#include "node/admin_handlers.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* "leader", "voter", "standby", or "-" while the node is not in the Raft configuration. */
static const char *raft_role(const struct replica_status *st, uint32_t self, uint32_t node)
{
    if (node == st->leader)
        return "leader";
    enum replica_member m = REPLICA_NOT_MEMBER;
    if (node == self)
        m = st->member;
    for (unsigned i = 0; i < st->n_peers; i++)
        if (st->peers[i].node == node)
            m = st->peers[i].member;
    return m == REPLICA_VOTER ? "voter" : m == REPLICA_STANDBY ? "standby" : "-";
}

static const char *role_of(const Imp__ClusterRow *cluster, const Imp__NodeRow *n)
{
    return n->witness ? "witness" : cluster && cluster->publisher == n->id ? "publisher" : "subscriber";
}

static Imp__ClusterRow *cluster_row(struct admin_call *call)
{
    struct key key;
    key_init(&key);
    return store_find_row(admin_read(call), TABLE_CLUSTER, &key, &call->arena);
}

static uint64_t count_users(struct admin_call *call, uint32_t node)
{
    struct key key;
    key_init(&key);
    key_u32(&key, node);
    Imp__CountRow *row = store_find_row(admin_read(call), TABLE_HOME_COUNT, &key, &call->arena);
    return row ? row->n : 0;
}

static json_t *node_json(struct admin_call *call, const Imp__ClusterRow *cluster,
                         const struct replica_status *st, const Imp__NodeRow *n)
{
    const char *state = n->lost                                    ? "lost"
                        : n->leaving                               ? "leaving"
                        : n->state == IMP__NODE_STATE__NODE_MEMBER ? "member"
                                                                   : "joining";
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:i, s:b, s:b, s:s, s:I}", "name", n->name, "address",
                     n->address, "role", role_of(cluster, n), "raft",
                     raft_role(st, call->env->node_id, n->id), "release", n->release, "level", (int)n->level,
                     "up", n->up, "drained", n->drained, "state", state, "users",
                     (json_int_t)count_users(call, n->id));
}

void admin_node_list(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"name", "NAME"},       {"address", "ADDRESS"}, {"role", "ROLE"}, {"raft", "RAFT"},
        {"release", "RELEASE"}, {"level", "LEVEL"},     {"up", "UP"},     {"drained", "DRAINED"},
        {"users", "USERS"},     {"state", "STATE"}};
    struct replica_status st;
    struct store_iter it;
    struct key prefix;
    json_t *array = json_array();
    replica_get_status(call->env->replica, &st);
    Imp__ClusterRow *cluster = cluster_row(call);
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_NODE, &prefix);
    while (store_iter_next(&it)) {
        Imp__NodeRow *n = store_iter_row(&it, &call->arena);
        if (n)
            json_array_append_new(array, node_json(call, cluster, &st, n));
    }
    admin_reply_table(call, array, columns, n_elements(columns));
}

void admin_node_show(struct admin_call *call)
{
    struct replica_status st;
    Imp__NodeRow *n = admin_find_node(call, call->args[0]);
    if (!n)
        return;
    replica_get_status(call->env->replica, &st);
    json_t *o = node_json(call, cluster_row(call), &st, n);
    json_object_set_new(o, "id", json_integer(n->id));
    json_object_set_new(o, "cluster_port", json_integer(n->cluster_port));
    json_object_set_new(o, "public_name", json_string(*n->public_name ? n->public_name : n->address));
    json_object_set_new(o, "xmpp_port", json_integer(n->xmpp_port));
    json_object_set_new(o, "joined", admin_json_time(n->joined_ms));
    json_object_set_new(o, "epoch", json_integer((json_int_t)n->epoch));
    struct buf text = {0};
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        char *v =
            json_is_string(value) ? mem_strdup(json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY);
        buf_addf(&text, "%-14s%s\n", key, v);
        free(v);
    }
    admin_reply(call, o, &text);
}

/* ---- tokens ---- */

/* "90", "90s", "15m", "1h", "7d" in milliseconds; 0: not a duration, or outside 1 min .. 30 days. */
static uint64_t parse_duration(const char *s)
{
    char *end;
    if (*s < '0' || *s > '9')
        return 0;
    unsigned long long v = strtoull(s, &end, 10);
    unsigned unit = *end == 'd' ? 86400 : *end == 'h' ? 3600 : *end == 'm' ? 60 : 1;
    if ((*end && (end[1] || !strchr("smhd", *end))) || v > 30 * 86400)
        return 0;
    uint64_t seconds = v * unit;
    return seconds < 60 || seconds > 30 * 86400 ? 0 : seconds * 1000;
}

struct token_state {
    char text[TOKEN_TEXT_MAX];
    uint64_t expires_ms;
};

static void on_token_added(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    struct token_state *state = call->state;
    if (!admin_accepted(call, result))
        return;
    struct buf text = {0};
    buf_addf(&text, "%s\n", state->text);
    json_t *o = json_pack("{s:s, s:o}", "token", state->text, "expires", admin_json_time(state->expires_ms));
    mem_wipe(state->text, sizeof state->text);
    admin_reply(call, o, &text);
}

/* The state machine's time is ahead of the clock if all clocks were ahead once; a token is void by that time.
 */
static uint64_t now_of(struct admin_call *call)
{
    struct key k;
    key_init(&k);
    uint64_t wall = clock_wall_ms();
    const Imp__CountRow *row = store_find_row(admin_read(call), TABLE_CLOCK, &k, &call->arena);
    return row && row->n > wall ? row->n : wall;
}

void admin_node_token(struct admin_call *call)
{
    const char *ttl = admin_option(call, "ttl");
    uint64_t ms = parse_duration(ttl ? ttl : "1h");
    if (ms == 0) {
        admin_fail(call, "--ttl '%s': a duration like 30m, 1h or 7d, from 1m to 30d", ttl);
        return;
    }
    struct token_state *state = call->state = arena_zalloc(&call->arena, sizeof *state);
    uint8_t hash[32];
    state->expires_ms = now_of(call) + ms;
    struct token token;
    token_init(&token, call->env->ca_fingerprint, state->expires_ms);
    state->expires_ms = token.expires_ms;
    token_write(&token, state->text);
    token_hash(hash, token.secret);
    mem_wipe(&token, sizeof token);
    Imp__TokenAdd body = IMP__TOKEN_ADD__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.hash = (ProtobufCBinaryData){sizeof hash, hash};
    body.expires_ms = state->expires_ms;
    command.body_case = IMP__COMMAND__BODY_TOKEN_ADD;
    command.token_add = &body;
    admin_propose(call, &command, on_token_added);
}

struct node_state {
    uint32_t node;
    const char *name;
};

static struct node_state *node_state_new(struct admin_call *call, const Imp__NodeRow *n)
{
    struct node_state *state = arena_zalloc(&call->arena, sizeof *state);
    state->node = n->id;
    state->name = n->name;
    call->state = state;
    return state;
}

/* ---- removal: the member shall leave, then the leader moves its users and takes it out; here that is waited
 * for ---- */

enum { LEAVE_POLL_MS = 100, LEAVE_WAIT_MS = 60 * 1000, ROTATION_WAIT_MS = 10 * 1000 };

struct leave {
    struct admin_call *call;
    struct timer timer;
    uint64_t until_ms;
    uint32_t node;
    char name[NODE_NAME_MAX + 1];
};

static void leave_end(struct leave *w)
{
    timer_stop(&w->timer);
    w->call->on_gone = NULL;
    mem_free(w);
}

/* This node itself no longer receives the log once it is out of the configuration: the others tell it. */
static bool has_left(const struct leave *w)
{
    const struct admin_env *env = w->call->env;
    struct key key;
    key_init(&key);
    key_u32(&key, w->node);
    bool is_self = w->node == env->node_id;
    return !store_has(admin_read(w->call), TABLE_NODE, &key) ||
           (is_self && env->was_removed && *env->was_removed);
}

static void on_leave_poll(struct timer *t)
{
    struct leave *w = container_of(t, struct leave, timer);
    struct admin_call *call = w->call;
    char name[NODE_NAME_MAX + 1];
    snprintf(name, sizeof name, "%s", w->name);
    if (has_left(w)) {
        leave_end(w);
        admin_done(call, "%s is removed; its data directory is of no use any more: delete it on that machine",
                   name);
    } else if (clock_monotonic_ms() >= w->until_ms) {
        leave_end(w);
        admin_fail(call,
                   "%s is being removed, which goes on by itself, but takes longer than %d s: impcli node "
                   "list shows "
                   "its users and its part in Raft, impcli dbreplication runtimestate what is not well",
                   name, LEAVE_WAIT_MS / 1000);
    }
}

static void on_leave_gone(struct admin_call *call)
{
    leave_end(call->state);
    admin_fail(call, "the front end left");
}

static void on_leaving(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    const struct node_state *state = call->state;
    if (!admin_accepted(call, result))
        return;
    struct leave *w = mem_new(struct leave);
    w->call = call;
    w->node = state->node;
    snprintf(w->name, sizeof w->name, "%s", state->name);
    w->until_ms = clock_monotonic_ms() + LEAVE_WAIT_MS;
    timer_init(&w->timer, call->env->loop, on_leave_poll);
    timer_start(&w->timer, LEAVE_POLL_MS, LEAVE_POLL_MS);
    call->state = w;
    call->on_gone = on_leave_gone;
}

/* The voters that stay must have a majority without it: else nothing could be written any more. */
static bool leaves_a_majority(struct admin_call *call, const Imp__NodeRow *n)
{
    struct replica_status st;
    struct buf silent = {0};
    replica_get_status(call->env->replica, &st);
    bool self_votes = st.member == REPLICA_VOTER && n->id != call->env->node_id;
    unsigned n_voters = self_votes, n_answer = self_votes;
    for (unsigned i = 0; i < st.n_peers; i++) {
        if (st.peers[i].member != REPLICA_VOTER || st.peers[i].node == n->id)
            continue;
        n_voters++;
        n_answer += st.peers[i].connected;
        if (!st.peers[i].connected)
            buf_addf(&silent, "%s%s", silent.n ? ", " : "", admin_node_name(call, st.peers[i].node));
    }
    bool ok = !n_voters || n_answer > n_voters / 2;
    if (!ok)
        admin_fail(call,
                   "without %s only %u of %u voters would answer, and nothing could be written any more: "
                   "start or remove "
                   "%s first",
                   n->name, n_answer, n_voters, silent.n ? silent.data : "the others");
    buf_fini(&silent);
    return ok;
}

void admin_node_remove(struct admin_call *call)
{
    Imp__NodeRow *n = admin_find_node(call, call->args[0]);
    if (!n)
        return;
    Imp__ClusterRow *cluster = cluster_row(call);
    if (cluster && cluster->publisher == n->id) {
        admin_fail(call, "%s is the publisher: move the role first with impcli node promote NODE", n->name);
        return;
    }
    if (!leaves_a_majority(call, n))
        return;
    node_state_new(call, n);
    Imp__NodeLeave body = IMP__NODE_LEAVE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = n->id;
    command.body_case = IMP__COMMAND__BODY_NODE_LEAVE;
    command.node_leave = &body;
    admin_propose(call, &command, on_leaving);
}

/* ---- roles ---- */

static void on_promoted(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    const struct node_state *state = call->state;
    if (admin_accepted(call, result))
        admin_done(call, "%s is the publisher now", state->name);
}

void admin_node_promote(struct admin_call *call)
{
    Imp__NodeRow *n = admin_find_node(call, call->args[0]);
    if (!n)
        return;
    node_state_new(call, n);
    Imp__PublisherSet body = IMP__PUBLISHER_SET__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = n->id;
    command.body_case = IMP__COMMAND__BODY_PUBLISHER_SET;
    command.publisher_set = &body;
    admin_propose(call, &command, on_promoted);
}

static void on_transferred(void *user, int code, const char *text)
{
    struct admin_call *call = user;
    const struct node_state *state = call->state;
    if (code == 0)
        admin_acted(call, "leadership goes to %s", state->name);
    else
        admin_fail(call, "leadership did not move to %s: %s", state->name,
                   text && *text ? text : err_text(code));
}

/* The leader does it; any other node asks the leader. */
void admin_node_leader(struct admin_call *call)
{
    struct replica_status st;
    Imp__NodeRow *n = admin_find_node(call, call->args[0]);
    if (!n)
        return;
    node_state_new(call, n);
    replica_get_status(call->env->replica, &st);
    if (st.leader == n->id) {
        admin_done(call, "%s leads already", n->name);
    } else if (st.leader == 0) {
        admin_fail(call, "no leader is known: a majority of the voters must be reachable first");
    } else if (st.role == REPLICA_LEADER) {
        replica_transfer(call->env->replica, n->id, call->env->loop, on_transferred, call);
    } else {
        admin_forward(call, st.leader);
    }
}

/* ---- drain ---- */

static void on_drained(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    const struct node_state *state = call->state;
    if (admin_accepted(call, result))
        admin_done(call, "%s is %s", state->name,
                   call->command == &commands[COMMAND_node_drain]
                       ? "drained: its users are served by other nodes"
                       : "back in service");
}

static void set_drained(struct admin_call *call, bool drained)
{
    Imp__NodeRow *n = admin_find_node(call, call->args[0]);
    if (!n)
        return;
    node_state_new(call, n);
    Imp__NodeDrain body = IMP__NODE_DRAIN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = n->id;
    body.drained = drained;
    command.body_case = IMP__COMMAND__BODY_NODE_DRAIN;
    command.node_drain = &body;
    admin_propose(call, &command, on_drained);
}

void admin_node_drain(struct admin_call *call)
{
    set_drained(call, true);
}

void admin_node_undrain(struct admin_call *call)
{
    set_drained(call, false);
}

/* ---- keys: the leader draws the new one; then it is waited until all members have key and certificate ----
 */

struct rotation {
    struct admin_call *call;
    struct timer timer;
    uint64_t until_ms;
    uint8_t key_id[8];
};

static void rotation_end(struct rotation *w)
{
    timer_stop(&w->timer);
    w->call->on_gone = NULL;
    mem_free(w);
}

static void on_rotation_gone(struct admin_call *call)
{
    rotation_end(call->state);
    admin_fail(call, "the front end left");
}

static bool is_rotated(const struct rotation *w, const Imp__ClusterRow *cluster)
{
    const Imp__KeysRow *keys = cluster ? cluster->keys : NULL;
    return keys && (keys->phase == IMP__KEYS_PHASE__KEYS_DONE || keys->key_id.len != sizeof w->key_id ||
                    memcmp(keys->key_id.data, w->key_id, sizeof w->key_id) != 0);
}

static void list_late(const struct rotation *w, struct buf *names)
{
    struct members *m = members_read(admin_read(w->call), 0);
    for (unsigned i = 0; i < m->n; i++)
        if (!m->list[i].lost &&
            (!m->list[i].has_key || memcmp(m->list[i].key_id, w->key_id, sizeof w->key_id) != 0))
            buf_addf(names, "%s%s", names->n ? ", " : "", m->list[i].name);
    members_free(m);
}

static void on_rotation_poll(struct timer *t)
{
    struct rotation *w = container_of(t, struct rotation, timer);
    struct admin_call *call = w->call;
    struct buf late = {0};
    if (is_rotated(w, cluster_row(call))) {
        rotation_end(w);
        admin_done(
            call,
            "all members have the new cluster key and certificates of the new CA, nothing is sealed with the "
            "old key, and the old CA is not trusted any more; clients that trust the cluster's CA need the "
            "new ca.pem");
        return;
    }
    if (clock_monotonic_ms() < w->until_ms)
        return;
    list_late(w, &late);
    rotation_end(w);
    admin_done(call,
               "the change goes on by itself, and ends when every member has key and certificate; without "
               "the new key "
               "still: %s",
               late.n ? late.data : "nobody");
    buf_fini(&late);
}

static void on_rotation_begun(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (!admin_accepted(call, result))
        return;
    struct rotation *w = mem_new(struct rotation);
    w->call = call;
    memcpy(w->key_id, call->state, sizeof w->key_id);
    w->until_ms = clock_monotonic_ms() + ROTATION_WAIT_MS;
    timer_init(&w->timer, call->env->loop, on_rotation_poll);
    timer_start(&w->timer, LEAVE_POLL_MS, LEAVE_POLL_MS);
    call->state = w;
    call->on_gone = on_rotation_gone;
}

void admin_node_rotate_keys(struct admin_call *call)
{
    struct replica_status st;
    struct err_ctx err = {0};
    replica_get_status(call->env->replica, &st);
    if (st.leader == 0) {
        admin_fail(call, "no leader is known: a majority of the voters must be reachable first");
        return;
    }
    if (st.role != REPLICA_LEADER) {
        admin_forward(call, st.leader);
        return;
    }
    uint8_t *key_id = call->state = arena_zalloc(&call->arena, 8);
    if (!call->env->begin_keys || call->env->begin_keys(call->env->node, key_id, &err)) {
        admin_fail(call, "%s", *err.text ? err.text : "not possible here");
        return;
    }
    Imp__KeysBegin body = IMP__KEYS_BEGIN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.key_id = (ProtobufCBinaryData){8, key_id};
    command.body_case = IMP__COMMAND__BODY_KEYS_BEGIN;
    command.keys_begin = &body;
    admin_propose(call, &command, on_rotation_begun);
}
