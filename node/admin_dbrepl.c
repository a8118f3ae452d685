/* impcli dbreplication runtimestate|setrepltimeout: the state of replication, with fresh facts and their age.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "base/release.h"
#include "node/admin_calls.h"
#include "node/admin_handlers.h"
#include "node/repair.h"
#include "node/service.h"
#include "node/watcher.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <string.h>

enum { MAX_NODES = 64, WATCH_INTERVAL_MS = 2000 };

/* ---- what a node says of itself ---- */

static json_t *own_status(const struct admin_env *env)
{
    struct replica_status st;
    replica_get_status(env->replica, &st);
    char copy[REPLICA_INSTALL_TEXT] = "";
    if (st.installing)
        replica_install_text(&st, copy, sizeof copy);
    return json_pack("{s:b, s:I, s:I, s:I, s:b, s:I, s:I, s:I, s:s, s:s, s:i, s:b, s:b, s:s, s:s, s:I}",
                     "damaged", st.is_fenced, "applied", (json_int_t)st.applied_index, "commit",
                     (json_int_t)st.commit_index, "last", (json_int_t)st.last_index, "installing",
                     st.installing, "install_done", (json_int_t)st.install_done, "install_total",
                     (json_int_t)st.install_total, "install_rate", (json_int_t)st.install_rate,
                     "install_text", copy, "release", release_name(), "level", (int)level_known(),
                     "established", watcher_is_released(env->watcher) && !env->watcher->timed_out, "member",
                     st.member != REPLICA_NOT_MEMBER, "reason", env->watcher->reason, "services",
                     services_summary(env->services), "term", (json_int_t)st.term);
}

void admin_call_status(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                       size_t n_bytes)
{
    json_t *o = own_status(user);
    char *text = json_dumps(o, JSON_COMPACT);
    link_answer(request, 0, text, text ? strlen(text) : 0);
    free(text);
    json_decref(o);
}

/* ---- the picture of all nodes ---- */

struct picture_node {
    Imp__NodeRow *row;
    json_t *status;       /* NULL: no answer */
    uint64_t answered_ms; /* CLOCK_MONOTONIC */
    double ping_ms;
};
struct picture {
    struct admin_gather gather;
    struct picture_node nodes[MAX_NODES];
    unsigned n;
    uint64_t asked_us;
    Imp__ClusterRow *cluster;
    struct replica_status st;
    const char *only;   /* one node's name, or NULL */
    struct timer timer; /* --watch */
    bool watching, gone, busy;
};

/* State 3: its copy of the tables is wrong, as it says itself or, while it takes part in nothing, as others
 * know. False: it is not. */
static bool is_differing(const struct picture_node *n, bool alarm, char *text, size_t size)
{
    bool damaged = json_is_true(json_object_get(n->status, "damaged"));
    bool installing = json_is_true(json_object_get(n->status, "installing"));
    const char *copy = json_string_value(json_object_get(n->status, "install_text"));
    if (!damaged && (!alarm || installing))
        return false;
    if (!n->status)
        snprintf(text, size, "Tables Differ: takes part in nothing until it has a fresh copy");
    else if (installing)
        snprintf(text, size, "Tables Differ: receiving a fresh copy: %s", copy ? copy : "");
    else
        snprintf(text, size, "Tables Differ: see impcli alarm list");
    return true;
}

/* Fills state and text of one node: see the state codes of the contract in docs/operations.md. */
static int state_of(const struct picture *p, const struct picture_node *n, char *text, size_t size,
                    unsigned timeout_s)
{
    if (!n->status) {
        uint64_t heard = 0, now = clock_monotonic_ms();
        for (unsigned i = 0; i < p->st.n_peers; i++)
            if (p->st.peers[i].node == n->row->id)
                heard = p->st.peers[i].last_heard_ms;
        /* never heard of: as long as this node can know */
        uint64_t silent_s = (now - (heard ? heard : p->gather.call->env->opened_ms)) / 1000;
        if (n->row->state == IMP__NODE_STATE__NODE_JOINING) {
            snprintf(text, size, "Initializing: joined, not started yet");
            return 0;
        }
        if (silent_s < timeout_s) {
            snprintf(text, size, "Setting Up: no answer for %llu s", (unsigned long long)silent_s);
            return 1;
        }
        snprintf(text, size, "Unreachable for %llu s%s", (unsigned long long)silent_s,
                 heard ? "" : ", since this node started");
        return 4;
    }
    bool installing = json_is_true(json_object_get(n->status, "installing"));
    json_int_t applied = json_integer_value(json_object_get(n->status, "applied"));
    if (installing) {
        const char *copy = json_string_value(json_object_get(n->status, "install_text"));
        snprintf(text, size, "Setting Up: receiving snapshot, %s", copy ? copy : "");
        return 1;
    }
    if (!json_is_true(json_object_get(n->status, "member"))) {
        snprintf(text, size, "Initializing: not in the replication group yet");
        return 0;
    }
    if (json_is_true(json_object_get(n->status, "established"))) {
        snprintf(text, size, "Setup Completed");
        return 2;
    }
    const char *reason = json_string_value(json_object_get(n->status, "reason"));
    snprintf(text, size, "Setting Up: log applied up to %lld%s%s", (long long)applied,
             reason && *reason ? ", " : "", reason ? reason : "");
    return 1;
}

static const char *raft_text(const struct picture *p, uint32_t self, uint32_t node)
{
    enum replica_member m = node == self ? p->st.member : REPLICA_NOT_MEMBER;
    if (node == p->st.leader)
        return "leader";
    for (unsigned i = 0; i < p->st.n_peers; i++)
        if (p->st.peers[i].node == node)
            m = p->st.peers[i].member;
    return m == REPLICA_VOTER ? "voter" : m == REPLICA_STANDBY ? "standby" : "-";
}

static bool has_open_alarm(struct admin_call *call, const char *name, uint32_t node)
{
    struct key key;
    key_init(&key);
    key_str(&key, name);
    key_u32(&key, node);
    return store_has(admin_read(call), TABLE_ALARM_OPEN, &key);
}

static json_t *node_json(struct picture *p, struct picture_node *n)
{
    struct admin_call *call = p->gather.call;
    const struct admin_env *env = call->env;
    char text[REPLICA_INSTALL_TEXT + 40];
    unsigned timeout_s = (unsigned)setting_int(admin_read(call), NULL, SETTING_REPLICATION_TIMEOUT);
    int state = state_of(p, n, text, sizeof text, timeout_s);
    if (is_differing(n, has_open_alarm(call, "TablesDiffer", n->row->id), text, sizeof text))
        state = 3;
    json_int_t applied = n->status ? json_integer_value(json_object_get(n->status, "applied")) : 0;
    json_int_t queue =
        n->status && (json_int_t)p->st.commit_index > applied ? (json_int_t)p->st.commit_index - applied : 0;
    const char *role = n->row->witness                                     ? "witness"
                       : p->cluster && p->cluster->publisher == n->row->id ? "publisher"
                                                                           : "subscriber";
    const char *services = n->status ? json_string_value(json_object_get(n->status, "services")) : "stopped";
    const char *release =
        n->status ? json_string_value(json_object_get(n->status, "release")) : n->row->release;
    int level = n->status ? (int)json_integer_value(json_object_get(n->status, "level")) : (int)n->row->level;
    json_int_t age = n->status ? (json_int_t)(clock_monotonic_ms() - n->answered_ms) : -1;
    bool up = n->status != NULL;
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:f, s:b, s:b, s:b, s:I, s:i, s:I, s:s, s:i, s:s, s:I}",
                     "name", n->row->name, "address", n->row->address, "role", role, "raft",
                     raft_text(p, env->node_id, n->row->id), "state", state, "state_text", text, "ping_ms",
                     n->ping_ms, "db", up, "rpc", up, "monitor", up, "queue", queue, "group_id",
                     (int)n->row->id, "applied_index", applied, "release", release ? release : "", "level",
                     level, "services", services ? services : "stopped", "age_ms", age);
}

static json_t *picture_json(struct picture *p)
{
    struct admin_call *call = p->gather.call;
    char id[33] = "", time[ADMIN_TIME_BYTES];
    json_t *nodes = json_array();
    for (unsigned i = 0; i < p->n; i++)
        if (!p->only || strcmp(p->only, p->nodes[i].row->name) == 0)
            json_array_append_new(nodes, node_json(p, &p->nodes[i]));
    for (size_t i = 0; p->cluster && i < p->cluster->cluster_id.len && i < 16; i++)
        snprintf(id + 2 * i, 3, "%02x", p->cluster->cluster_id.data[i]);
    clock_format_utc(time, clock_wall_ms(), 0);
    return json_pack("{s:{s:s, s:s, s:s, s:i, s:s, s:s, s:I, s:I, s:s}, s:o}", "cluster", "id", id, "domain",
                     p->cluster ? p->cluster->default_domain : "", "release", release_name(), "level",
                     p->cluster ? (int)p->cluster->feature_level : 0, "leader",
                     admin_node_name(call, p->st.leader), "publisher",
                     admin_node_name(call, p->cluster ? p->cluster->publisher : 0), "term",
                     (json_int_t)p->st.term, "commit_index", (json_int_t)p->st.commit_index, "checked_at",
                     time, "nodes", nodes);
}

static const char *str(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* The layout that administrators and their scripts know. */
static void picture_text(struct picture *p, json_t *o, struct buf *out)
{
    json_t *c = json_object_get(o, "cluster"), *nodes = json_object_get(o, "nodes"), *n;
    size_t i;
    char ping[16], group[16], age[24];
    buf_addf(out, "Server Time: %s\n\n", str(c, "checked_at"));
    buf_addf(out, "Cluster Replication State: leader %s, publisher %s, term %lld, commit index %lld\n",
             *str(c, "leader") ? str(c, "leader") : "(none: no majority of the voters answers)",
             str(c, "publisher"), (long long)json_integer_value(json_object_get(c, "term")),
             (long long)json_integer_value(json_object_get(c, "commit_index")));
    buf_addf(out, "     Facts below were asked for just now; AGE is how old each one is\n\n");
    buf_addf(out, "DB Version: imp_%s (feature level %lld)\n\n", str(c, "release"),
             (long long)json_integer_value(json_object_get(c, "level")));
    buf_addf(out, "Repltimeout set to: %llds\n\n\n",
             setting_int(admin_read(p->gather.call), NULL, SETTING_REPLICATION_TIMEOUT));
    buf_addf(out, "Cluster Detailed View from %s (%zu Servers):\n\n", p->gather.call->env->node_name,
             json_array_size(nodes));
    buf_adds(
        out,
        "                                      PING      DB/RPC/   REPL.    Replication    REPLICATION "
        "SETUP\n"
        "SERVER-NAME         IP ADDRESS        (msec)    DbMon?    QUEUE    Group ID       (RTMT) & Details\n"
        "-----------         ----------        ------    -------   -----    -----------    "
        "------------------\n");
    json_array_foreach(nodes, i, n)
    {
        bool up = json_is_true(json_object_get(n, "rpc"));
        json_int_t age_ms = json_integer_value(json_object_get(n, "age_ms"));
        if (up)
            snprintf(ping, sizeof ping, "%.3f", json_real_value(json_object_get(n, "ping_ms")));
        else
            snprintf(ping, sizeof ping, "-");
        if (age_ms >= 0)
            snprintf(age, sizeof age, "%lld ms", (long long)age_ms);
        else
            snprintf(age, sizeof age, "no answer");
        snprintf(group, sizeof group, "(g_%lld)",
                 (long long)json_integer_value(json_object_get(n, "group_id")));
        buf_addf(out, "%-19s %-17s %-9s %-9s %-8lld %-14s (%lld) %s\n", str(n, "name"), str(n, "address"),
                 ping, up ? "Y/Y/Y" : "N/N/N", (long long)json_integer_value(json_object_get(n, "queue")),
                 group, (long long)json_integer_value(json_object_get(n, "state")), str(n, "state_text"));
    }
    buf_adds(out, "\nSERVER-NAME         ROLE        RAFT      SERVICES   RELEASE     LEVEL  AGE\n");
    json_array_foreach(nodes, i, n)
    {
        json_int_t age_ms = json_integer_value(json_object_get(n, "age_ms"));
        snprintf(age, sizeof age, age_ms >= 0 ? "%lld ms" : "no answer", (long long)age_ms);
        buf_addf(out, "%-19s %-11s %-9s %-10s %-11s %-6lld %s\n", str(n, "name"), str(n, "role"),
                 str(n, "raft"), str(n, "services"), str(n, "release"),
                 (long long)json_integer_value(json_object_get(n, "level")), age);
    }
}

static void picture_start(struct picture *p);

static void on_picture_timer(struct timer *t)
{
    picture_start(container_of(t, struct picture, timer));
}

/* Nobody reads the answer any more. */
static void picture_end(struct picture *p)
{
    struct admin_call *call = p->gather.call;
    timer_stop(&p->timer);
    mem_free(p);
    admin_fail(call, "the front end left");
}

static void on_picture_gone(struct admin_call *call)
{
    struct picture *p = call->state;
    p->gone = true;
    if (!p->busy) /* else on_picture_all comes */
        picture_end(p);
}

static void on_picture_all(struct admin_gather *g)
{
    struct picture *p = container_of(g, struct picture, gather);
    struct admin_call *call = g->call;
    struct buf text = {0};
    p->busy = false;
    for (unsigned i = 0; i < p->n; i++)
        if (p->nodes[i].row->id == call->env->node_id) {
            p->nodes[i].status = own_status(call->env);
            p->nodes[i].answered_ms = clock_monotonic_ms();
        }
    json_t *o = picture_json(p);
    picture_text(p, o, &text);
    for (unsigned i = 0; i < p->n; i++)
        json_decref(p->nodes[i].status);
    if (!p->watching) {
        mem_free(p);
        admin_reply(call, o, &text);
    } else if (p->gone) {
        json_decref(o);
        buf_fini(&text);
        picture_end(p);
    } else {
        admin_reply_more(call, o, &text);
        timer_start(&p->timer, WATCH_INTERVAL_MS, 0);
    }
}

static void on_picture_reply(struct admin_gather *g, uint32_t node, int code, const uint8_t *data,
                             size_t n_bytes)
{
    struct picture *p = container_of(g, struct picture, gather);
    for (unsigned i = 0; i < p->n; i++) {
        if (p->nodes[i].row->id != node || code)
            continue;
        p->nodes[i].status = json_loadb((const char *)data, n_bytes, 0, NULL);
        p->nodes[i].answered_ms = clock_monotonic_ms();
        p->nodes[i].ping_ms = (double)(clock_monotonic_us() - p->asked_us) / 1000;
    }
}

static void picture_start(struct picture *p)
{
    struct admin_call *call = p->gather.call;
    struct store_iter it;
    struct key key;
    p->n = 0;
    p->busy = true;
    admin_rewind(call); /* the rows of the picture before */
    replica_get_status(call->env->replica, &p->st);
    key_init(&key);
    p->cluster = store_find_row(admin_read(call), TABLE_CLUSTER, &key, &call->arena);
    store_iter_init(&it, admin_read(call), TABLE_NODE, &key);
    bool has_self = false;
    while (p->n < MAX_NODES && store_iter_next(&it)) {
        Imp__NodeRow *row = store_iter_row(&it, &call->arena);
        if (!row)
            continue;
        p->nodes[p->n++] = (struct picture_node){.row = row};
        has_self |= row->id == call->env->node_id;
    }
    store_iter_fini(&it);
    if (!has_self && p->n < MAX_NODES) /* the store has not caught up so far */
        p->nodes[p->n++] = (struct picture_node){.row = admin_self(call)};
    p->asked_us = clock_monotonic_us();
    admin_gather(&p->gather, "status", NULL, 0);
}

void admin_dbrepl_runtimestate(struct admin_call *call)
{
    if (call->n_args && !admin_find_node(call, call->args[0]))
        return;
    struct picture *p = mem_new(struct picture); /* the arena is emptied at every round */
    p->only = call->n_args ? call->args[0] : NULL;
    p->gather = (struct admin_gather){.call = call, .on_reply = on_picture_reply, .on_all = on_picture_all};
    p->watching = admin_option(call, "watch") != NULL;
    timer_init(&p->timer, call->env->loop, on_picture_timer);
    call->state = p;
    if (p->watching)
        call->on_gone = on_picture_gone;
    picture_start(p);
}

/* ---- time-out ---- */

static void on_timeout_set(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "Repltimeout set to: %ss", call->args[0]);
}

void admin_dbrepl_setrepltimeout(struct admin_call *call)
{
    const char *key = setting_defs[SETTING_REPLICATION_TIMEOUT].key;
    admin_set_setting(call, key, call->args[0], on_timeout_set);
}

/* ---- a fresh copy ---- */

void admin_dbrepl_repair(struct admin_call *call)
{
    struct replica_status st;
    Imp__NodeRow *n = admin_find_node(call, call->args[0]);
    if (!n)
        return;
    replica_get_status(call->env->replica, &st);
    bool is_other = n->id != call->env->node_id;
    if (is_other && !links_can_call(call->env->links, n->id) && call->env->repair &&
        repair_allow(call->env->repair, n->id)) {
        admin_acted(
            call, "%s is damaged and waits: it gets a fresh copy now; see impcli dbreplication runtimestate",
            n->name);
    } else if (is_other) {
        admin_forward(call, n->id);
    } else if (st.leader == 0 || st.n_peers == 0) {
        admin_fail(call, "%s",
                   st.n_peers ? "no leader is known: a majority of the voters must be reachable first"
                              : "there is no other member to take a copy from");
    } else {
        replica_take_copy(call->env->replica);
        admin_acted(call, "%s takes a fresh copy and restarts with it; see impcli dbreplication runtimestate",
                    n->name);
    }
}

void admin_dbrepl_reset(struct admin_call *call)
{
    admin_dbrepl_repair(call);
}
