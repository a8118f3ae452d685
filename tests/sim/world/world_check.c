/* What must hold: at every step, when the faults are over, and of what was acknowledged. */
#include "world_phone.h"

#include "cluster/home.h"
#include "replication/replica_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- after each transaction of an apply thread: equal state at equal index ---- */

void check_applied(struct world_node *n)
{
    struct store_hash hash;
    store_reader_reset(n->look);
    struct store_txn *t = store_read_txn(n->look);
    uint64_t index = store_reader_index(n->look);
    store_state_hash(t, &hash);
    if (index >= WORLD_MAX_INDEX) {
        world_bad("the simulation has outgrown WORLD_MAX_INDEX");
        return;
    }
    world_mix(hash.lo ^ index);
    struct store_hash *known = &W->hashes[index];
    if (!known->lo && !known->hi)
        *known = hash;
    else if (known->lo != hash.lo || known->hi != hash.hi)
        world_bad("the state of node %u at index %" PRIu64 " is not that of another node there", n->id,
                  index);
    if (index > W->committed) {
        W->committed = index;
        mail_on_applied(n);
    }
    store_reader_reset(n->look);
}

/* ---- after each event of a node ---- */

static void check_leader(struct world_node *n)
{
    const struct driver *d = n->node->replica->driver;
    if (driver_get_role(d) != DRIVER_LEADER)
        return;
    uint64_t term = driver_get_term(d);
    if (term >= WORLD_MAX_TERM) {
        world_bad("the simulation has outgrown WORLD_MAX_TERM");
        return;
    }
    if (!W->leaders[term].node) {
        W->leaders[term].node = n->id;
        W->leaders[term].life = n->life;
        W->counts.n_elections++;
        world_say("node %u leads term %" PRIu64, n->id, term);
    } else if (W->leaders[term].node != n->id || W->leaders[term].life != n->life) {
        world_bad("two leaders of term %" PRIu64 ": node %u in life %u, node %u in life %u", term,
                  W->leaders[term].node, W->leaders[term].life, n->id, n->life);
    }
}

/* Released by the time-out the publisher may lag, that is what it is for. */
static void check_watcher(struct world_node *n)
{
    const struct watcher *w = &n->node->watcher;
    if (n->was_released || !watcher_is_released(w))
        return;
    n->was_released = true;
    W->counts.n_releases++;
    uint64_t applied = replica_applied_index(n->node->replica);
    world_say("node %u starts its services at %" PRIu64 " of %" PRIu64, n->id, applied, n->committed_before);
    if (!w->timed_out && applied < n->committed_before)
        world_bad("node %u starts its services at index %" PRIu64 "; %" PRIu64
                  " was committed before its process started",
                  n->id, applied, n->committed_before);
}

static void check_homes(void)
{
    for (unsigned user = 0; user < WORLD_USERS; user++) {
        uint32_t first = 0;
        if (list_is_empty(&W->users[user].sessions))
            continue;
        for (uint32_t id = 1; id <= W->n_nodes; id++) {
            if (!client_serves(&W->nodes[id], user))
                continue;
            if (first)
                world_bad("user %u is at home on node %u and on node %u", user, first, id);
            first = id;
        }
    }
}

void check_step(void)
{
    struct world_node *n = W->current;
    check_leader(n);
    check_watcher(n);
    if (W->options & WORLD_HOMES)
        check_homes();
    if (W->phones)
        phones_check_homes();
}

/* For whoever reads the trace of a seed that failed. */
void check_describe(void)
{
    static const char *const roles[] = {"follower", "candidate", "leader"};
    for (uint32_t id = 1; id <= W->n_nodes; id++) {
        const struct world_node *n = &W->nodes[id];
        if (!n->is_alive || !n->listener) {
            world_say("node %u does not run%s", id, n->is_removed ? ", removed" : "");
            continue;
        }
        const struct members *m = n->node->members;
        struct driver_status st;
        char text[256] = "";
        size_t at = 0;
        driver_get_status(n->node->replica->driver, &st);
        for (unsigned i = 0; i < st.conf.n; i++)
            at += (size_t)snprintf(text + at, sizeof(text) - at, " %s%u",
                                   st.conf.servers[i].role == CONFIGURATION_VOTER ? "voter " : "",
                                   (unsigned)st.conf.servers[i].id);
        at += (size_t)snprintf(text + at, sizeof(text) - at, "; members");
        for (unsigned i = 0; m && i < m->n; i++)
            at += (size_t)snprintf(text + at, sizeof(text) - at, " %u%s", m->list[i].id,
                                   m->list[i].up     ? " up"
                                   : m->list[i].seen ? ""
                                                     : " unseen");
        world_say("node %u: %s of term %" PRIu64 ", leader %u; log to %" PRIu64 ", committed %" PRIu64
                  ", applied %" PRIu64 "; %s; raft%s",
                  id, roles[st.role], st.term, (unsigned)st.leader, st.last, st.commit, st.applied,
                  watcher_is_released(&n->node->watcher) ? "serves" : n->node->watcher.reason, text);
    }
    if (W->phones)
        phones_describe();
}

/* ---- when the faults are over ---- */

#define not_yet(...) return snprintf(why, n_why, __VA_ARGS__), false

static bool is_node_healed(struct world_node *n, const struct world_node *leader, char *why, size_t n_why)
{
    const struct replica *r = n->node->replica;
    struct replica_status st;
    const struct member *m = members_find(leader->node->members, n->id), *self = control_self(n->node);
    replica_get_status(n->node->replica, &st);
    /* Removed before it had applied who the others are: it knows nobody that it could hear it from. */
    if (!m && !n->node->members->n)
        return true;
    if (!m)
        not_yet("node %u lives and is no member", n->id);
    if (st.leader != leader->id)
        not_yet("node %u takes node %u for the leader, which is node %u", n->id, st.leader, leader->id);
    if (replica_applied_index(r) + 16 < replica_applied_index(leader->node->replica))
        not_yet("node %u has applied %" PRIu64 " of %" PRIu64, n->id, replica_applied_index(r),
                replica_applied_index(leader->node->replica));
    if (!watcher_is_released(&n->node->watcher))
        not_yet("node %u: %s", n->id, n->node->watcher.reason);
    if (m->witness)
        return true;
    if (m->drained)
        not_yet("node %u is drained", n->id);
    if (!m->up || !self || !self->up || self->epoch != st.epoch)
        not_yet("node %u is not up", n->id);
    if (strcmp(services_summary(n->node->services), "running"))
        not_yet("the services of node %u are not running", n->id);
    if (replica_lease_until(r) <= world_boot_ms(n))
        not_yet("node %u has no lease", n->id);
    return true;
}

static bool are_alarms_right(const struct world_node *leader, char *why, size_t n_why)
{
    struct replica_status st;
    struct arena a;
    struct store_iter i;
    bool ok = true;
    replica_get_status(leader->node->replica, &st);
    arena_init(&a);
    store_reader_reset(leader->look);
    store_iter_init(&i, store_read_txn(leader->look), TABLE_ALARM_OPEN, NULL);
    while (ok && store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        const char *name = key_read_str(&r, &a);
        uint32_t node = key_read_u32(&r);
        ok = !strcmp(name, "NoRedundancy") && st.n_voters == 2;
        if (!ok)
            snprintf(why, n_why, "alarm %s about node %u is open", name, node);
    }
    store_iter_fini(&i);
    arena_fini(&a);
    store_reader_reset(leader->look);
    return ok;
}

static bool is_user_served(unsigned user)
{
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        if (client_serves(&W->nodes[id], user))
            return true;
    return false;
}

/* Where it should be served, and how far the hand-over to there has come. */
static void describe_user(const struct world_node *leader, unsigned user, char *why, size_t n_why)
{
    struct arena a;
    struct key k;
    uint64_t since = 0;
    arena_init(&a);
    key_init(&k);
    key_u64(&k, W->users[user].uid);
    store_reader_reset(leader->look);
    const Imp__UserRow *row = store_find_row(store_read_txn(leader->look), TABLE_USER, &k, &a);
    uint32_t home =
        row ? home_active(leader->node->members, row->home, row->home_index, row->uid, &since) : 0;
    const struct shard *s = W->nodes[home].is_alive ? im_shard(W->nodes[home].node->im, 0) : NULL;
    snprintf(why, n_why,
             "nobody serves user %u; its home since %" PRIu64 " is node %u, which was handed all to %" PRIu64
             " (next %" PRIu64 ")",
             user, since, home, s ? s->floor : 0, s ? s->next_floor : 0);
    store_reader_reset(leader->look);
    arena_fini(&a);
}

bool check_healed(char *why, size_t n_why)
{
    const struct world_node *leader = world_leader();
    if (!leader || !leader->node->members)
        not_yet("there is no leader");
    const struct members *m = leader->node->members;
    for (unsigned i = 0; i < m->n; i++) {
        if (!W->nodes[m->list[i].id].is_alive)
            not_yet("node %u, a member, does not run", m->list[i].id);
        if (m->list[i].leaving)
            not_yet("node %u still leaves", m->list[i].id);
    }
    struct driver_status st;
    driver_get_status(leader->node->replica->driver, &st);
    unsigned n_voters = configuration_n_voters(&st.conf);
    unsigned n_wanted = m->n >= 5 ? 5 : m->n == 4 ? 3 : m->n;
    if (n_voters != n_wanted || st.conf.n != m->n)
        not_yet("there are %u voters and %u in all, of %u members", n_voters, st.conf.n, m->n);
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        if (W->nodes[id].is_alive && !is_node_healed(&W->nodes[id], leader, why, n_why))
            return false;
    if (!are_alarms_right(leader, why, n_why))
        return false;
    for (unsigned user = 0; user < WORLD_USERS; user++)
        if (W->users[user].uid && !is_user_served(user))
            return describe_user(leader, user, why, n_why), false;
    return true;
}

/* ---- what was acknowledged is there, once; what was said never to execute is not ---- */

static void judge(const struct world_node *n, unsigned number, unsigned times, uint64_t index)
{
    const struct world_op *op = &W->ops[number];
    static const char *const words[] = {"not answered", "acknowledged", "said not to execute",
                                        "of unknown outcome"};
    bool is_good = op->state == OP_DONE    ? times == 1 && index == op->index
                   : op->state == OP_NEVER ? times == 0
                                           : times <= 1;
    if (!is_good)
        world_bad("write %u of node %u, %s at %" PRIu64 ": node %u has it %u times, at %" PRIu64, number,
                  op->node, words[op->state], op->index, n->id, times, index);
}

static void judge_notes(const struct world_node *n)
{
    unsigned *times = mem_calloc(W->n_ops + 1, sizeof(*times));
    uint64_t *index = mem_calloc(W->n_ops + 1, sizeof(*index));
    struct arena a;
    struct store_iter i;
    arena_init(&a);
    store_iter_init(&i, store_read_txn(n->look), TABLE_AUDIT, NULL);
    while (store_iter_next(&i)) {
        const Imp__AuditRow *row = store_iter_row(&i, &a);
        struct key_reader r;
        unsigned number = 0;
        key_read(&r, i.key, i.n_key);
        if (!row || sscanf(row->command, "w%u", &number) != 1 || number >= W->n_ops)
            continue;
        times[number]++;
        index[number] = key_read_u64(&r);
        arena_reset(&a);
    }
    store_iter_fini(&i);
    for (unsigned k = 0; k < W->n_ops; k++)
        if (!W->ops[k].user)
            judge(n, k, times[k], index[k]);
    mem_free(times);
    mem_free(index);
    arena_fini(&a);
}

/* A version is the log index of its change, or the next number where several changes of a roster come close
 * together. */
static uint64_t index_of_version(const struct world_op *op, uint64_t version)
{
    enum { CLOSE = 64 };
    return version >= op->index && version - op->index < CLOSE ? op->index : version;
}

static void judge_roster_items(const struct world_node *n)
{
    struct arena a;
    arena_init(&a);
    for (unsigned k = 0; k < W->n_ops; k++) {
        if (!W->ops[k].user)
            continue;
        struct key key;
        key_init(&key);
        key_u64(&key, W->users[W->ops[k].user - 1].uid);
        key_str(&key, arena_printf(&a, "w%u@elsewhere.example", k));
        const Imp__RosterRow *row = store_find_row(store_read_txn(n->look), TABLE_ROSTER, &key, &a);
        judge(n, k, row != NULL, row ? index_of_version(&W->ops[k], row->version) : 0);
        arena_reset(&a);
    }
    arena_fini(&a);
}

void check_end(void)
{
    const struct world_node *leader = world_leader();
    for (uint32_t id = 1; id <= W->n_nodes; id++) {
        struct world_node *n = &W->nodes[id];
        if (!n->is_alive || !leader || !members_find(leader->node->members, id))
            continue;
        if (replica_applied_index(n->node->replica) != W->committed)
            world_bad("in quiet, node %u has applied %" PRIu64 " of %" PRIu64, id,
                      replica_applied_index(n->node->replica), W->committed);
        store_reader_reset(n->look);
        judge_notes(n);
        judge_roster_items(n);
        store_reader_reset(n->look);
    }
}
