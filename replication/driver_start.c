/* Starting: what is refused, a fresh core from log and snapshot, and how all of it ends. */
#include "replication/driver_core.h"

#include "base/err.h"
#include <stdio.h>

enum { MAX_INFLIGHT = 1024 };

static void trace(struct raft_tracer *t, int type, const void *info)
{
    const struct driver *d = t->impl;
    const struct raft_tracer_info *i = info;
    if (type == RAFT_TRACER_DIAGNOSTIC)
        log_debug(d->config.out, "core: [%llu] %s", (unsigned long long)d->now, i->diagnostic.message);
}

static void init_core(struct driver *d, unsigned seed)
{
    const struct driver_config *c = &d->config;
    char address[24];
    snprintf(address, sizeof(address), "%llu", (unsigned long long)c->id);
    if (raft_init(&d->r, NULL, NULL, c->id, address)) {
        driver_fatal(d, "out of memory");
        return;
    }
    /* The default tracer formats strings on every event even when nobody reads them, and is not thread-safe.
     */
    d->r.tracer = NULL;
    if (c->trace_core && c->out) {
        d->tracer = (struct raft_tracer){.impl = d, .version = 2, .emit = trace};
        d->r.tracer = &d->tracer;
    }
    raft_seed(&d->r, seed);
    raft_set_pre_vote(&d->r, !c->no_pre_vote);
    raft_set_election_timeout(&d->r, c->timing.election_ms);
    raft_set_heartbeat_timeout(&d->r, c->timing.heartbeat_ms);
    raft_set_install_snapshot_timeout(&d->r,
                                      c->install_timeout_ms ? c->install_timeout_ms : DRIVER_INSTALL_MS);
    raft_set_max_inflight_entries(&d->r, c->max_inflight ? c->max_inflight : MAX_INFLIGHT);
}

/* START wants all entries, but looks into changes only. */
static struct raft_entry *list_entries(const struct driver *d, unsigned *n, struct deque *buffers)
{
    const struct rlog *log = d->config.log;
    uint64_t first = rlog_first(log);
    *n = (unsigned)(rlog_last(log) + 1 - first);
    struct raft_entry *v = *n ? mem_calloc(*n, sizeof(*v)) : NULL;
    for (unsigned i = 0; i < *n; i++) {
        v[i].term = rlog_term(log, first + i);
        v[i].type = RAFT_COMMAND;
        v[i].batch = v;
    }
    struct configuration conf;
    uint64_t to = rlog_last(log);
    for (uint64_t at; to && (at = rlog_find_change(log, first, to, &conf)); to = at - 1) {
        struct buf *b = deque_push(buffers);
        *b = (struct buf){0};
        configuration_encode(b, &conf);
        v[at - first].type = RAFT_CHANGE;
        v[at - first].buf.base = b->data;
        v[at - first].buf.len = b->n;
    }
    return v;
}

/* 1: who is the only voter begins each life in a term of its own. */
static void bump_sole_voter(struct driver *d, uint64_t *term, uint64_t *vote)
{
    struct configuration conf = d->snapshot.conf;
    const struct rlog *log = d->config.log;
    if (rlog_last(log) >= rlog_first(log))
        rlog_find_change(log, d->snapshot.conf_index + 1, rlog_last(log), &conf);
    if (!driver_has_guard(d, DRIVER_GUARD_SOLE_VOTER) || *term == 0 || configuration_n_voters(&conf) != 1 ||
        !configuration_is_voter(&conf, d->config.id))
        return;
    ++*term;
    *vote = d->config.id;
    int rc = vote_save(d->config.vote, *term, *vote);
    if (rc)
        driver_fatal(d, "term and vote cannot be written: %s", err_text(rc));
}

static void start_core(struct driver *d, uint64_t term, uint64_t vote)
{
    struct raft_event event = {.type = RAFT_START};
    struct raft_snapshot_metadata meta = {.index = d->snapshot.index, .term = d->snapshot.term};
    struct deque buffers;
    deque_init(&buffers, sizeof(struct buf));
    /* A copy may come from a later term than the request for it; no server is in a term below that of its
     * log. */
    if (d->snapshot.term > term) {
        term = d->snapshot.term;
        vote = 0;
        int rc = vote_save(d->config.vote, term, vote);
        if (rc)
            driver_fatal(d, "term and vote cannot be written: %s", err_text(rc));
    }
    bump_sole_voter(d, &term, &vote);
    if (d->is_dead)
        return;
    event.start.term = term;
    event.start.voted_for = vote;
    if (d->snapshot.index) {
        meta.configuration_index = d->snapshot.conf_index;
        if (driver_to_core_conf(&meta.configuration, &d->snapshot.conf)) {
            driver_fatal(d, "out of memory");
            return;
        }
        event.start.metadata = &meta;
    }
    event.start.start_index = rlog_first(d->config.log);
    event.start.entries = list_entries(d, &event.start.n_entries, &buffers);
    d->reported = driver_last(d);
    driver_step(d, &event);
    mem_free(event.start.entries);
    for (size_t i = 0; i < buffers.n; i++)
        buf_fini(deque_at(&buffers, i));
    deque_fini(&buffers);
    driver_sync_links(d);
    /* Applied in an earlier life, hence committed, and not applied again: else the core would refuse every
     * further change. */
    if (!d->is_dead && d->conf_index && d->conf_index == d->r.configuration_uncommitted_index) {
        struct raft_event change = {.type = RAFT_CONFIGURATION};
        change.configuration.index = d->conf_index;
        if (driver_to_core_conf(&change.configuration.conf, &d->conf))
            driver_fatal(d, "out of memory");
        driver_step(d, &change);
    }
}

void driver_rebuild(struct driver *d)
{
    uint64_t term = raft_current_term(&d->r), vote = raft_voted_for(&d->r);
    unsigned seed = d->r.random;
    rlog_poll(d->config.log);
    driver_drop_pending(d);
    raft_close(&d->r, NULL);
    init_core(d, seed);
    if (!d->is_dead)
        start_core(d, term, vote);
}

static int check_start(const struct driver_config *c, const struct driver_snapshot *s, uint64_t applied,
                       struct err_ctx *err)
{
    static const char remedy[] = "remove this node from the cluster and join it again";
    uint64_t first = rlog_first(c->log), last = rlog_last(c->log);
    bool is_empty = last < first;
    if (c->vote->term == 0 && (!is_empty || s))
        return err_set(err, ERR_CORRUPT, "the vote file is missing although there is a log; %s", remedy);
    if (!is_empty && rlog_term(c->log, last) > c->vote->term)
        return err_set(err, ERR_CORRUPT, "the vote file is older than the log; %s", remedy);
    if (s && first > s->index + 1)
        return err_set(
            err, ERR_CORRUPT,
            "entries %llu to %llu are missing between the store's last durable point and the log; %s",
            (unsigned long long)s->index + 1, (unsigned long long)first - 1, remedy);
    if (!s && first != 1)
        return err_set(err, ERR_CORRUPT, "the log begins at entry %llu and there is no store; %s",
                       (unsigned long long)first, remedy);
    if (!s && !is_empty && !rlog_find_change(c->log, 1, 1, NULL))
        return err_set(err, ERR_CORRUPT, "the log does not begin with a configuration; %s", remedy);
    uint64_t least = s && s->index > applied ? s->index : applied;
    if (last < least)
        return err_set(err, ERR_CORRUPT,
                       "the log ends at entry %llu, but the store has applied entry %llu: the disk has lost "
                       "data; %s",
                       (unsigned long long)last, (unsigned long long)least, remedy);
    if (s && rlog_term(c->log, s->index) && rlog_term(c->log, s->index) != s->term)
        return err_set(err, ERR_CORRUPT, "log and store do not belong together; %s", remedy);
    return 0;
}

int driver_start(struct driver **out, const struct driver_config *config, uint64_t now_ms,
                 const struct driver_snapshot *snapshot, uint64_t applied, struct err_ctx *err)
{
    assert(config->id && config->timing.election_ms && config->timing.heartbeat_ms);
    int rc = check_start(config, snapshot, applied, err);
    if (rc)
        return rc;
    struct driver *d = mem_new(struct driver);
    d->config = *config;
    d->now = now_ms;
    d->heard_ms = now_ms;
    d->published.role = -1;
    deque_init(&d->submitted, sizeof(struct driver_submitted));
    deque_init(&d->handed_bytes, sizeof(struct driver_submitted));
    if (snapshot) {
        d->snapshot = *snapshot;
        d->conf = snapshot->conf;
        d->conf_index = snapshot->conf_index;
        if (applied < snapshot->index)
            applied = snapshot->index;
    }
    d->applied = d->handed = applied;
    uint64_t at = applied ? rlog_find_change(config->log, d->conf_index + 1, applied, &d->conf) : 0;
    if (at)
        d->conf_index = at;
    init_core(d, config->seed);
    *out = d;
    if (driver_enter(d, now_ms)) {
        start_core(d, config->vote->term, config->vote->voted_for);
        driver_leave(d);
    }
    return 0;
}

void driver_free(struct driver *d)
{
    if (!d)
        return;
    d->is_dead = true;
    driver_drop_pending(d);
    driver_abandon_read(&d->apply_read);
    raft_close(&d->r, NULL);
    deque_fini(&d->submitted);
    deque_fini(&d->handed_bytes);
    mem_free(d);
}
