#include "sim.h"

#include <stdio.h>
#include <string.h>

enum { SAME_NOTHING_MS = 5 };
enum { SEGMENT_BYTES = 16 << 10, BATCH_BYTES = 4 << 10, CACHE_BYTES = 2 << 10 };

static struct driver_snapshot meta_of(const struct sim_store *store)
{
    return (struct driver_snapshot){store->index, store->term, store->conf_index, store->conf};
}

/* ---- callbacks of the log ---- */

static void on_work(void *user)
{
    struct sim_node *n = user;
    if (n->is_disk_scheduled)
        return;
    n->is_disk_scheduled = true;
    sim_schedule(n->s, SIM_DISK, n, sim_draw(n->s, 2));
}

static void on_done(void *user)
{
    struct sim_node *n = user;
    if (n->is_done_scheduled)
        return;
    n->is_done_scheduled = true;
    sim_schedule(n->s, SIM_LOG_DONE, n, sim_draw(n->s, 2));
}

static void on_log_fatal(void *user, int code, const char *text)
{
    struct sim_node *n = user;
    sim_bad(n->s, "node %u: %s", n->id, text);
}

/* ---- callbacks of the driver ---- */

/* 12: with a full window the core tells every follower the same nothing for each new entry. */
static void check_empty(struct sim_node *n, const struct raft_msg *m)
{
    struct sim_empty *last = &n->empty[m->peer];
    struct sim_empty now = {n->s->now, m->term, m->append.prev_index, m->append.commit};
    if (last->term == now.term && last->prev == now.prev && last->commit == now.commit &&
        now.at < last->at + SAME_NOTHING_MS)
        sim_bad(n->s, "node %u tells node %llu the same nothing twice within %llu ms", n->id,
                (unsigned long long)m->peer, (unsigned long long)(now.at - last->at));
    *last = now;
}

/* A leader counts what an answer says. 13: the core's answer to an older term says whatever was on the stack.
 */
static void check_answer(struct sim_node *n, const struct raft_msg *m)
{
    uint64_t stored = rlog_durable(n->log);
    if (m->append_result.rejected)
        return;
    if (n->is_old_term)
        sim_bad(n->s, "node %u says YES to a message of an older term", n->id);
    if (stored < n->point.index)
        stored = n->point.index;
    if (m->append_result.last_index > stored)
        sim_bad(n->s, "node %u says that it has stored %llu, its disk ends at %llu", n->id,
                (unsigned long long)m->append_result.last_index, (unsigned long long)stored);
}

static void on_send(void *user, const struct raft_msg *m)
{
    struct sim_node *n = user;
    struct sim *s = n->s;
    unsigned to = (unsigned)m->peer;
    s->counts.n_messages++;
    if (m->type == RAFT_MSG_APPEND && m->append.n_entries == 0 && to >= 1 && to <= SIM_MAX_NODES)
        check_empty(n, m);
    if (m->type == RAFT_MSG_APPEND_RESULT)
        check_answer(n, m);
    if (to < 1 || to > SIM_MAX_NODES || s->cut[n->id][to] || sim_draw(s, 1000) < s->loss_per_mille)
        return;
    unsigned copies = 1 + (sim_draw(s, 1000) < s->dup_per_mille);
    for (unsigned i = 0; i < copies; i++) {
        unsigned delay = 1 + sim_draw(s, 20);
        if (!(s->options & SIM_REORDER)) {
            if (s->now + delay < s->last_arrival[n->id][to])
                delay = (unsigned)(s->last_arrival[n->id][to] - s->now);
            s->last_arrival[n->id][to] = s->now + delay;
        }
        struct sim_event *e = sim_schedule(s, SIM_MESSAGE, &s->nodes[to], delay);
        e->from = n->id;
        raft_msg_encode(&e->frame, m);
    }
}

static void on_timer(void *user, uint64_t due_ms)
{
    ((struct sim_node *)user)->due_ms = due_ms;
}

static void check_entry(struct sim_node *n, uint64_t index, const struct rlog_entry *e)
{
    struct sim *s = n->s;
    uint64_t value = 0, hash = s->machine->hash(n->live.machine);
    memcpy(&value, e->payload->data, e->payload->n < 8 ? e->payload->n : 8);
    if (index >= SIM_MAX_INDEX) {
        sim_bad(s, "the simulation has outgrown SIM_MAX_INDEX");
        return;
    }
    if (!s->oracle[index].term) {
        s->oracle[index].term = e->term;
        s->oracle[index].value = value;
        s->oracle[index].type = e->type;
        s->oracle[index].hash = hash;
        s->counts.n_commits++;
        return;
    }
    if (s->oracle[index].term != e->term || s->oracle[index].value != value ||
        s->oracle[index].type != e->type)
        sim_bad(s,
                "DIVERGED at %llu: node %u applies %llu of term %llu, another one applied %llu of term %llu",
                (unsigned long long)index, n->id, (unsigned long long)value, (unsigned long long)e->term,
                (unsigned long long)s->oracle[index].value, (unsigned long long)s->oracle[index].term);
    else if (s->oracle[index].hash != hash)
        sim_bad(s, "STATE HASH of node %u differs at %llu", n->id, (unsigned long long)index);
}

static void on_apply(void *user, uint64_t first, const struct rlog_entry *entries, unsigned n_entries)
{
    struct sim_node *n = user;
    struct sim *s = n->s;
    if (first != n->live.index + 1) {
        sim_bad(s, "node %u applies %llu after %llu", n->id, (unsigned long long)first,
                (unsigned long long)n->live.index);
        return;
    }
    for (unsigned i = 0; i < n_entries && !s->is_bad; i++) {
        s->machine->apply(n->live.machine, first + i, &entries[i]);
        n->live.index = first + i;
        n->live.term = entries[i].term;
        if (entries[i].type == RLOG_CHANGE) {
            configuration_decode(&n->live.conf, entries[i].payload->data, entries[i].payload->n);
            n->live.conf_index = first + i;
            s->counts.n_changes++;
        }
        check_entry(n, first + i, &entries[i]);
    }
    sim_schedule(s, SIM_APPLIED, n, sim_draw(s, 4))->index = n->live.index;
}

static void on_state(void *user)
{
    struct sim_node *n = user;
    struct sim *s = n->s;
    if (driver_get_role(n->driver) != DRIVER_LEADER)
        return;
    uint64_t term = driver_get_term(n->driver);
    s->counts.n_elections++;
    sim_say(s, "node %u leads term %llu", n->id, (unsigned long long)term);
    if (term >= SIM_MAX_TERM)
        return;
    unsigned node = s->leaders[term].node, life = s->leaders[term].life;
    if (node && (node != n->id || life != n->life))
        sim_bad(s, "TWO LEADERSHIPS of term %llu: node %u in life %u, node %u in life %u",
                (unsigned long long)term, node, life, n->id, n->life);
    s->leaders[term].node = n->id;
    s->leaders[term].life = n->life;
}

static void on_install(void *user, const struct driver_snapshot *meta, const void *data, size_t n_bytes)
{
    struct sim_node *n = user;
    uint64_t index = 0;
    if (n_bytes == sizeof(index))
        memcpy(&index, data, sizeof(index));
    if (index != meta->index)
        sim_bad(n->s, "node %u: the data of the snapshot at %llu is of %llu", n->id,
                (unsigned long long)meta->index, (unsigned long long)index);
    n->install_index = meta->index;
    sim_schedule(n->s, SIM_INSTALL, n, 1 + sim_draw(n->s, sim_draw(n->s, 3) ? 50 : 3000));
}

static void on_snapshot_data(void *user, uint64_t index, struct buf *out)
{
    buf_add(out, &index, sizeof(index));
}

static void on_fatal(void *user, const char *text)
{
    struct sim_node *n = user;
    n->is_dead = true;
    sim_bad(n->s, "node %u: %s", n->id, text);
}

static const struct driver_ops driver_ops = {
    .send = on_send,
    .set_timer = on_timer,
    .apply = on_apply,
    .state = on_state,
    .install = on_install,
    .snapshot_data = on_snapshot_data,
    .fatal = on_fatal,
};

/* ---- life ---- */

void sim_node_init(struct sim *s, unsigned id)
{
    struct sim_node *n = &s->nodes[id];
    n->s = s;
    n->id = id;
    n->disk_ms = 10;
    sim_disk_init(&n->disk, s->seed * 16 + id);
}

bool sim_node_is_running(const struct sim_node *n)
{
    return n->is_up && !n->is_dead;
}

static int open_log(struct sim_node *n)
{
    struct err_ctx err = {0};
    struct rlog_config c = {
        .disk = &n->disk.disk,
        .segment_bytes = SEGMENT_BYTES,
        .batch_bytes = BATCH_BYTES,
        .cache_bytes = CACHE_BYTES,
        .salt = ((uint64_t)sim_draw(n->s, 1 << 30) << 30) + sim_draw(n->s, 1 << 30),
        .on_done = on_done,
        .on_work = on_work,
        .on_fatal = on_log_fatal,
        .user = n,
    };
    int rc = rlog_open(&n->log, &c, &err);
    if (!rc) {
        rc = vote_open(&n->vote, &n->disk.disk, &err);
        if (rc)
            rlog_close(n->log);
    }
    if (rc) {
        n->log = NULL;
        sim_bad(n->s, "node %u does not start: %s", n->id, err.text);
    }
    return rc;
}

static void close_log(struct sim_node *n)
{
    if (!n->log)
        return;
    rlog_close(n->log);
    vote_close(&n->vote);
    n->log = NULL;
}

void sim_node_bootstrap(struct sim_node *n, const struct configuration *conf)
{
    struct err_ctx err = {0};
    if (open_log(n))
        return;
    if (driver_bootstrap(n->log, &n->vote, conf, NULL, 0, &err))
        sim_bad(n->s, "bootstrap: %s", err.text);
    close_log(n);
}

/* An install left a marker: store, log, marker, in this order, and a crash may come between any two. The
 * marker goes before the node takes part: what it stores from then on must not be reset again. False:
 * crashed. */
static bool finish_install(struct sim_node *n)
{
    struct sim *s = n->s;
    if (!n->marker.machine)
        return true;
    bool may_crash = s->options & SIM_CRASH;
    sim_store_copy(s, &n->point, &n->marker);
    if (may_crash && sim_draw(s, 4) == 0)
        return false;
    rlog_reset(n->log, n->marker.index);
    if (may_crash && sim_draw(s, 4) == 0) {
        rlog_write_begin(n->log);
        return false;
    }
    if (rlog_sync(n->log))
        sim_bad(s, "node %u: the log cannot be reset", n->id);
    rlog_poll(n->log);
    if (may_crash && sim_draw(s, 4) == 0)
        return false;
    sim_store_fini(s, &n->marker);
    s->counts.n_installs++;
    return true;
}

void sim_node_boot(struct sim_node *n)
{
    struct sim *s = n->s;
    struct err_ctx err = {0};
    n->is_up = true;
    n->is_dead = n->is_point_running = n->is_disk_scheduled = n->is_done_scheduled = n->is_log_writing =
        false;
    n->life++;
    n->due_ms = 0;
    memset(n->empty, 0, sizeof(n->empty));
    if (open_log(n))
        return;
    if (!finish_install(n)) {
        n->is_dead = true; /* there is no driver yet */
        sim_schedule(s, SIM_CRASH_NOW, n, 0);
        return;
    }
    sim_store_fini(s, &n->live);
    memset(&n->live, 0, sizeof(n->live));
    if (n->point.machine)
        sim_store_copy(s, &n->live, &n->point);
    else
        n->live.machine = s->machine->make(s->machine_user, n->id);
    n->reported = n->live.index;
    struct driver_config c = {
        .id = n->id,
        .timing = {300, 50},
        .install_timeout_ms = 2000,
        .max_inflight = 8,
        .guards = s->guards,
        .no_pre_vote = sim_draw(s, 4) == 0,
        .seed = sim_draw(s, 1 << 30),
        .log = n->log,
        .vote = &n->vote,
        .ops = &driver_ops,
        .user = n,
        .out = s->log,
        .trace_core = s->log != NULL,
    };
    struct driver_snapshot meta = meta_of(&n->point);
    sim_say(s, "boot %u life %u: term %llu, log %llu..%llu, store %llu", n->id, n->life,
            (unsigned long long)n->vote.term, (unsigned long long)rlog_first(n->log),
            (unsigned long long)rlog_last(n->log), (unsigned long long)n->point.index);
    /* Callbacks come before driver_start returns. */
    if (driver_start(&n->driver, &c, s->now, n->point.machine ? &meta : NULL, n->live.index, &err))
        sim_bad(s, "node %u does not start: %s", n->id, err.text);
}

void sim_node_crash(struct sim_node *n, bool power)
{
    struct sim *s = n->s;
    if (!n->is_up)
        return;
    if (n->driver) {
        struct driver_stats st;
        driver_get_stats(n->driver, &st);
        s->counts.n_reads += st.n_reads;
        s->counts.n_rebuilt += st.n_rebuilt;
        s->counts.n_below += st.n_below_log;
    }
    driver_free(n->driver);
    n->driver = NULL;
    close_log(n);
    sim_store_fini(s, &n->live);
    n->is_up = false;
    n->life++;
    if (power)
        sim_disk_lose_power(&n->disk);
}

/* ---- points ---- */

void sim_node_maybe_point(struct sim_node *n)
{
    struct sim *s = n->s;
    if (!(s->options & SIM_SNAPSHOTS) || !sim_node_is_running(n) || n->is_point_running ||
        n->live.index < n->point.index + 5 || n->reported != n->live.index || sim_draw(s, 10))
        return;
    n->is_point_running = true;
    sim_store_copy(s, &sim_schedule(s, SIM_POINT, n, 1 + sim_draw(s, 60))->store, &n->live);
}

static void fire_point(struct sim_node *n, struct sim_event *e)
{
    struct sim *s = n->s;
    n->is_point_running = false;
    if (e->store.index <= n->point.index)
        return;
    sim_store_copy(s, &n->point, &e->store);
    if (sim_draw(s, 4) == 0)
        return; /* a point that the log does not hear of */
    struct driver_snapshot meta = meta_of(&n->point);
    uint64_t trailing = sim_draw(s, 6);
    uint64_t keep_from = meta.index + 1 > trailing ? meta.index + 1 - trailing : 1;
    if (driver_snapshot_taken(n->driver, s->now, &meta, keep_from ? keep_from : 1))
        s->counts.n_points++;
}

/* ---- installs ---- */

static struct sim_node *find_donor(struct sim_node *n)
{
    struct sim *s = n->s;
    unsigned start = sim_draw(s, SIM_MAX_NODES);
    for (unsigned i = 0; i < SIM_MAX_NODES; i++) {
        struct sim_node *m = &s->nodes[1 + (start + i) % SIM_MAX_NODES];
        if (m != n && sim_node_is_running(m) && m->live.index >= n->install_index)
            return m;
    }
    return NULL;
}

static void fire_install(struct sim_node *n)
{
    struct sim *s = n->s;
    struct sim_node *donor = find_donor(n);
    if (!donor) {
        sim_schedule(s, SIM_INSTALL, n, 20 + sim_draw(s, 100));
        return;
    }
    /* The durable point if it will do, to have both: exactly what was promised, and later. */
    const struct sim_store *source =
        donor->point.machine && donor->point.index >= n->install_index ? &donor->point : &donor->live;
    sim_say(s, "node %u installs %llu (asked %llu) of node %u", n->id, (unsigned long long)source->index,
            (unsigned long long)n->install_index, donor->id);
    if (sim_draw(s, 2)) {
        sim_store_copy(s, &n->marker, source);
        sim_node_crash(n, (s->options & SIM_CRASH) && sim_draw(s, 2));
        sim_schedule(s, SIM_BOOT, n, 1 + sim_draw(s, 100));
        return;
    }
    sim_store_copy(s, &n->live, source);
    sim_store_copy(s, &n->point, source);
    n->reported = n->live.index;
    s->counts.n_installs++;
    struct driver_snapshot meta = meta_of(&n->live);
    driver_installed(n->driver, s->now, &meta);
}

/* ---- events ---- */

static void fire_message(struct sim_node *n, struct sim_event *e)
{
    struct sim *s = n->s;
    struct raft_msg m;
    if (s->cut[e->from][n->id])
        return;
    int rc = raft_msg_decode(&m, e->frame.data, e->frame.n);
    if (rc) {
        sim_bad(s, "a message of node %u cannot be decoded: %s", e->from, err_text(rc));
        return;
    }
    m.peer = e->from;
    uint64_t term = driver_get_term(n->driver);
    bool is_late_vote = m.type == RAFT_MSG_VOTE_RESULT && driver_get_role(n->driver) != DRIVER_CANDIDATE;
    n->is_old_term = m.term < term && (m.type == RAFT_MSG_APPEND || m.type == RAFT_MSG_INSTALL);
    driver_receive(n->driver, s->now, &m);
    n->is_old_term = false;
    /* 10: the core reads what only a candidate has. */
    if (is_late_vote && driver_get_term(n->driver) != term)
        sim_bad(s, "a vote for node %u that came too late has changed its term", n->id);
    raft_msg_fini(&m);
}

/* Writing and syncing are two events, so that a crash can come between them. */
static void fire_disk(struct sim_node *n)
{
    struct sim *s = n->s;
    n->is_disk_scheduled = false;
    if (!n->is_log_writing && rlog_has_work(n->log)) {
        rlog_write_begin(n->log);
        n->is_log_writing = true;
        n->is_disk_scheduled = true;
        sim_schedule(s, SIM_DISK, n, 1 + sim_draw(s, n->disk_ms));
        return;
    }
    if (n->is_log_writing) {
        n->is_log_writing = false;
        rlog_write_finish(n->log);
    }
    if (rlog_has_work(n->log))
        on_work(n);
}

static void fire_running(struct sim_node *n, struct sim_event *e)
{
    struct sim *s = n->s;
    switch (e->kind) {
    case SIM_DISK:
        fire_disk(n);
        break;
    case SIM_LOG_DONE:
        n->is_done_scheduled = false;
        driver_log_done(n->driver, s->now);
        break;
    case SIM_APPLIED:
        if (e->index > n->reported) {
            n->reported = e->index;
            driver_applied(n->driver, s->now, e->index);
        }
        break;
    case SIM_POINT:
        fire_point(n, e);
        break;
    case SIM_INSTALL:
        fire_install(n);
        break;
    case SIM_MESSAGE:
    case SIM_BOOT:
    case SIM_CRASH_NOW:
        break;
    }
}

static struct sim_node *node_of(struct sim *s, struct sim_event *e)
{
    return &s->nodes[e->node];
}

void sim_node_fire(struct sim *s, struct sim_event *e)
{
    struct sim_node *n = node_of(s, e);
    switch (e->kind) {
    case SIM_BOOT:
        if (!n->is_up)
            sim_node_boot(n);
        return;
    case SIM_CRASH_NOW:
        if (n->is_up && e->life == n->life) {
            sim_node_crash(n, sim_draw(s, 2));
            sim_schedule(s, SIM_BOOT, n, 1 + sim_draw(s, 100));
        }
        return;
    case SIM_MESSAGE:
        if (sim_node_is_running(n))
            fire_message(n, e);
        return;
    default:
        if (sim_node_is_running(n) && e->life == n->life)
            fire_running(n, e);
    }
}
