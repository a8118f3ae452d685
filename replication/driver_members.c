/* Submitting, membership, leadership, and what can be asked. */
#include "replication/driver_core.h"

#include "base/err.h"
#include <string.h>

/* ---- submitting ---- */

static int map_refusal(int rc)
{
    switch (rc) {
    case RAFT_NOTLEADER:
    case RAFT_LEADERSHIPLOST:
        return ERR_NOTLEADER;
    case RAFT_NOSPACE:
        return ERR_NOSPACE;
    case RAFT_CANTCHANGE:
        return ERR_CONFLICT;
    case RAFT_BADID:
    case RAFT_NOTFOUND:
        return ERR_NOTFOUND;
    default:
        return ERR_INTERNAL;
    }
}

int driver_submit_entries(struct driver *d, enum rlog_type type, struct blob *const *payloads, unsigned n)
{
    struct raft_entry core[DRIVER_SUBMIT_MAX];
    struct rlog_entry given[DRIVER_SUBMIT_MAX];
    struct raft_event event = {.type = RAFT_SUBMIT};
    uint64_t bytes = 0;
    memset(core, 0, n * sizeof(*core));
    for (unsigned i = 0; i < n; i++) {
        given[i] = (struct rlog_entry){raft_current_term(&d->r), type, payloads[i]};
        core[i].term = given[i].term;
        core[i].type = (enum raft_entry_type)type;
        core[i].buf.base = payloads[i]->data;
        core[i].buf.len = payloads[i]->n;
        core[i].batch = payloads[i];
        bytes += payloads[i]->n;
    }
    event.submit.entries = core;
    event.submit.n = n;
    d->given = given;
    d->given_core = core;
    d->n_given = n;
    int rc = driver_try_step(d, &event);
    d->given = NULL;
    d->given_core = NULL;
    d->n_given = 0;
    if (d->is_dead)
        return ERR_INTERNAL;
    if (rc)
        return map_refusal(rc);
    *(struct driver_submitted *)deque_push(&d->submitted) =
        (struct driver_submitted){.index = driver_last(d), .bytes = bytes};
    d->n_uncommitted_bytes += bytes;
    return 0;
}

static int try_submit(struct driver *d, struct blob *const *payloads, unsigned n, uint64_t *first,
                      uint64_t *term)
{
    if (raft_state(&d->r) != RAFT_LEADER)
        return ERR_NOTLEADER;
    if (rlog_is_disk_low(d->config.log))
        return ERR_NOSPACE;
    if (d->n_uncommitted_bytes > DRIVER_UNCOMMITTED_BYTES || driver_is_transferring(d))
        return ERR_AGAIN;
    if (n == 0 || n > DRIVER_SUBMIT_MAX)
        return ERR_LIMIT;
    for (unsigned i = 0; i < n; i++)
        if (payloads[i]->n == 0 || payloads[i]->n > RLOG_MAX_ENTRY)
            return ERR_LIMIT;
    uint64_t at = driver_last(d) + 1;
    int rc = driver_submit_entries(d, RLOG_COMMAND, payloads, n);
    if (rc)
        return rc;
    if (first)
        *first = at;
    if (term)
        *term = raft_current_term(&d->r);
    return 0;
}

int driver_submit(struct driver *d, uint64_t now_ms, struct blob *const *payloads, unsigned n,
                  uint64_t *first, uint64_t *term)
{
    if (!driver_enter(d, now_ms))
        return ERR_CLOSED;
    int rc = try_submit(d, payloads, n, first, term);
    driver_leave(d);
    return rc;
}

/* ---- membership ---- */

static bool answers(const struct driver *d, uint64_t id)
{
    if (id == d->config.id)
        return true;
    for (unsigned i = 0; i < d->n_links; i++)
        if (d->links[i].id == id)
            return d->links[i].heard_ms && d->now - d->links[i].heard_ms < d->config.timing.election_ms;
    return false;
}

static bool has_quorum(const struct driver *d, const struct configuration *c)
{
    unsigned n = 0;
    for (unsigned i = 0; i < c->n; i++)
        n += c->servers[i].role == CONFIGURATION_VOTER && answers(d, c->servers[i].id);
    return n > configuration_n_voters(c) / 2;
}

/* One change at a time, and none before an entry of the own term is committed: the change of an earlier
 * leader might still be decided otherwise (single-server changes, raft-dev 2015). */
static int check_change(const struct driver *d, struct err_ctx *err)
{
    struct driver *m = (struct driver *)d;
    if (raft_state(&m->r) != RAFT_LEADER)
        return err_set(err, ERR_NOTLEADER, "this node does not lead");
    if (driver_is_transferring(d))
        return err_set(err, ERR_CONFLICT, "leadership is being handed over");
    if (d->r.configuration_uncommitted_index)
        return err_set(err, ERR_CONFLICT, "another change of the membership is under way");
    if (driver_term_of(d, raft_commit_index(&d->r)) != raft_current_term(&d->r))
        return err_set(err, ERR_AGAIN, "the new leader has not committed anything yet");
    if (rlog_is_disk_low(d->config.log))
        return err_set(err, ERR_NOSPACE, "the leader's disk is nearly full");
    return 0;
}

/* A promotion raises the majority, so every voter to be must answer: a silent one is demoted first. Standbys
 * have no part in a majority; a silent one stops nobody (docs/adr/0007-voters.md). */
static int check_answers(const struct driver *d, const struct configuration *before,
                         const struct configuration *after, bool is_promotion, struct err_ctx *err)
{
    if (!driver_has_guard(d, DRIVER_GUARD_ANSWERS))
        return 0;
    if (!has_quorum(d, before) || !has_quorum(d, after))
        return err_set(err, ERR_UNAVAILABLE, "no majority of the voters answers before and after the change");
    for (unsigned i = 0; is_promotion && i < after->n; i++)
        if (after->servers[i].role == CONFIGURATION_VOTER && !answers(d, after->servers[i].id))
            return err_set(err, ERR_UNAVAILABLE,
                           "the voter %llu does not answer; a standby becomes a voter only while all voters "
                           "answer: start it or remove it first",
                           (unsigned long long)after->servers[i].id);
    return 0;
}

/* 11 (client.c:121): a change among other entries that is refused leaves those in the core's list: it goes
 * alone. */
static int submit_change(struct driver *d, const struct configuration *conf, struct err_ctx *err)
{
    struct buf b = {0};
    configuration_encode(&b, conf);
    struct blob *payload = blob_new(b.data, b.n);
    int rc = driver_submit_entries(d, RLOG_CHANGE, &payload, 1);
    blob_unref(payload);
    buf_fini(&b);
    return rc ? err_set(err, rc, "the change was refused: %s", err_text(rc)) : 0;
}

enum change { CHANGE_ADD, CHANGE_PROMOTE, CHANGE_DEMOTE, CHANGE_REMOVE };

static int plan_change(const struct driver *d, struct configuration *c, enum change change, uint64_t id,
                       struct err_ctx *err)
{
    const struct configuration_server *s = configuration_find(c, id);
    uint64_t match = 0;
    if (change == CHANGE_ADD) {
        int rc = configuration_add(c, id, CONFIGURATION_STANDBY);
        return rc ? err_set(err, rc, "node %llu cannot be added: %s", (unsigned long long)id, err_text(rc))
                  : 0;
    }
    if (!s)
        return err_set(err, ERR_NOTFOUND, "node %llu is not a member", (unsigned long long)id);
    if (id == d->config.id && change != CHANGE_PROMOTE)
        return err_set(err, ERR_DENIED, "a leader does not remove itself; hand leadership over first");
    switch (change) {
    case CHANGE_PROMOTE:
        if (s->role == CONFIGURATION_VOTER)
            return err_set(err, ERR_EXISTS, "node %llu is a voter already", (unsigned long long)id);
        if (configuration_n_voters(c) >= CONFIGURATION_MAX_VOTERS)
            return err_set(err, ERR_LIMIT, "there are %d voters already", CONFIGURATION_MAX_VOTERS);
        if (driver_match_index(d, id, &match) || match + DRIVER_PROMOTE_LAG < driver_last(d))
            return err_set(err, ERR_AGAIN, "node %llu has not caught up: it has entry %llu of %llu",
                           (unsigned long long)id, (unsigned long long)match,
                           (unsigned long long)driver_last(d));
        return configuration_set_role(c, id, CONFIGURATION_VOTER);
    case CHANGE_DEMOTE:
        if (s->role != CONFIGURATION_VOTER)
            return err_set(err, ERR_EXISTS, "node %llu is a standby already", (unsigned long long)id);
        return configuration_set_role(c, id, CONFIGURATION_STANDBY);
    case CHANGE_ADD:
    case CHANGE_REMOVE:
        break;
    }
    return configuration_remove(c, id);
}

static int change_membership(struct driver *d, uint64_t now_ms, enum change change, uint64_t id,
                             struct err_ctx *err)
{
    struct configuration before, after;
    if (!driver_enter(d, now_ms))
        return err_set(err, ERR_CLOSED, "replication has stopped");
    int rc = check_change(d, err);
    if (!rc) {
        driver_from_core_conf(&before, &d->r.configuration);
        after = before;
        rc = plan_change(d, &after, change, id, err);
    }
    if (!rc)
        rc = check_answers(d, &before, &after, change == CHANGE_PROMOTE, err);
    if (!rc)
        rc = submit_change(d, &after, err);
    driver_leave(d);
    return rc;
}

int driver_add_standby(struct driver *d, uint64_t now_ms, uint64_t id, struct err_ctx *err)
{
    return change_membership(d, now_ms, CHANGE_ADD, id, err);
}
int driver_promote(struct driver *d, uint64_t now_ms, uint64_t id, struct err_ctx *err)
{
    return change_membership(d, now_ms, CHANGE_PROMOTE, id, err);
}
int driver_demote(struct driver *d, uint64_t now_ms, uint64_t id, struct err_ctx *err)
{
    return change_membership(d, now_ms, CHANGE_DEMOTE, id, err);
}
int driver_remove(struct driver *d, uint64_t now_ms, uint64_t id, struct err_ctx *err)
{
    return change_membership(d, now_ms, CHANGE_REMOVE, id, err);
}

/* ---- queries: the core's are not const, but change nothing ---- */

static struct raft *core_of(const struct driver *d)
{
    return (struct raft *)&d->r;
}

enum driver_role driver_get_role(const struct driver *d)
{
    switch (raft_state(core_of(d))) {
    case RAFT_LEADER:
        return DRIVER_LEADER;
    case RAFT_CANDIDATE:
        return DRIVER_CANDIDATE;
    default:
        return DRIVER_FOLLOWER;
    }
}

uint64_t driver_get_term(const struct driver *d)
{
    return raft_current_term(&d->r);
}

uint64_t driver_get_leader(const struct driver *d)
{
    raft_id id = 0;
    const char *address = NULL;
    raft_leader(core_of(d), &id, &address);
    return id;
}

uint64_t driver_get_commit(const struct driver *d)
{
    uint64_t commit = raft_commit_index(&d->r), durable = rlog_durable(d->config.log);
    return commit < durable ? commit : durable;
}

int driver_match_index(const struct driver *d, uint64_t id, uint64_t *match)
{
    raft_index index;
    int rc = raft_match_index(&d->r, id, &index);
    if (rc)
        return map_refusal(rc);
    *match = index;
    return 0;
}

void driver_get_status(const struct driver *d, struct driver_status *out)
{
    memset(out, 0, sizeof(*out));
    out->role = driver_get_role(d);
    out->term = raft_current_term(&d->r);
    out->leader = driver_get_leader(d);
    out->commit = raft_commit_index(&d->r);
    out->durable = rlog_durable(d->config.log);
    out->applied = d->applied;
    out->last = driver_last(d);
    out->first = rlog_first(d->config.log);
    out->snapshot_index = d->snapshot.index;
    out->is_installing = d->is_installing;
    out->is_transferring = driver_is_transferring(d);
    out->pending_change = d->r.configuration_uncommitted_index;
    out->is_term_committed =
        out->role == DRIVER_LEADER && driver_term_of(d, out->commit) == out->term && out->commit > 0;
    driver_from_core_conf(&out->conf, &d->r.configuration);
    out->is_voter = configuration_is_voter(&out->conf, d->config.id);
    if (out->role != DRIVER_LEADER)
        return;
    for (unsigned i = 0; i < out->conf.n; i++) {
        uint64_t id = out->conf.servers[i].id;
        driver_match_index(d, id, &out->peers[i].match);
        if (id == d->config.id)
            out->peers[i].heard_ms = d->now;
        for (unsigned k = 0; k < d->n_links; k++) {
            if (d->links[k].id != id)
                continue;
            out->peers[i].heard_ms = d->links[k].heard_ms;
            out->peers[i].installs = driver_link_installs(d, &d->links[k]);
        }
    }
}

void driver_get_stats(const struct driver *d, struct driver_stats *out)
{
    *out = d->stats;
}

/* ---- without a driver ---- */

static int append_offline(struct rlog *log, struct vote *vote, uint64_t term,
                          const struct rlog_entry *entries, unsigned n, struct err_ctx *err)
{
    /* The term first: a log that knows a term that the vote file does not is refused. */
    int rc = vote_save(vote, term, 0);
    if (rc)
        return err_set(err, rc, "cannot write the vote file: %s", err_text(rc));
    rlog_append(log, rlog_last(log) + 1, entries, n);
    rc = rlog_sync(log);
    if (rc)
        return err_set(err, rc, "cannot write the log: %s", err_text(rc));
    rlog_poll(log);
    return 0;
}

static struct blob *encode_conf(const struct configuration *conf)
{
    struct buf b = {0};
    configuration_encode(&b, conf);
    struct blob *payload = blob_new(b.data, b.n);
    buf_fini(&b);
    return payload;
}

int driver_bootstrap(struct rlog *log, struct vote *vote, const struct configuration *conf,
                     struct blob *const *commands, unsigned n, struct err_ctx *err)
{
    if (rlog_last(log) >= rlog_first(log) || rlog_first(log) != 1 || vote->term)
        return err_set(err, ERR_EXISTS, "there is a log already");
    struct rlog_entry *entries = mem_calloc(n + 1, sizeof(*entries));
    entries[0] = (struct rlog_entry){1, RLOG_CHANGE, encode_conf(conf)};
    for (unsigned i = 0; i < n; i++)
        entries[i + 1] = (struct rlog_entry){1, RLOG_COMMAND, commands[i]};
    int rc = append_offline(log, vote, 1, entries, n + 1, err);
    blob_unref(entries[0].payload);
    mem_free(entries);
    return rc;
}

int driver_force_configuration(struct rlog *log, struct vote *vote, const struct configuration *conf,
                               struct blob *const *commands, unsigned n, struct err_ctx *err)
{
    uint64_t term = rlog_term(log, rlog_last(log));
    if (vote->term > term)
        term = vote->term;
    term++;
    struct rlog_entry *entries = mem_calloc(n + 1, sizeof(*entries));
    entries[0] = (struct rlog_entry){term, RLOG_CHANGE, encode_conf(conf)};
    for (unsigned i = 0; i < n; i++)
        entries[i + 1] = (struct rlog_entry){term, RLOG_COMMAND, commands[i]};
    int rc = append_offline(log, vote, term, entries, n + 1, err);
    blob_unref(entries[0].payload);
    mem_free(entries);
    return rc;
}
