/* The holes of libraft 0.22.1 and what closes them, all outside the library. Numbers are those of the list in
 * docs/adr; file:line is libraft 0.22.1, src/. Each has a seed of the simulation that fails without it. The
 * guards that are not here: 5, 12 (driver_send.c), 6 (driver.c, entries), 11 (driver_members.c), 15
 * (driver.c, messages). */
#include "replication/driver_core.h"

#include <string.h>

/* 1 (convert.c:129, raft.c:236): a single voter elects itself without a new term. It sends entries before
 * they are on its disk; after a crash it would lead again in the same term with other entries at the same
 * indexes. */
bool guards_is_sole_voter(const struct driver *d)
{
    unsigned n = 0;
    bool is_us = false;
    for (unsigned i = 0; i < d->r.configuration.n; i++) {
        const struct raft_server *s = &d->r.configuration.servers[i];
        if (s->role != RAFT_VOTER)
            continue;
        n++;
        is_us |= s->id == d->config.id;
    }
    return n == 1 && is_us;
}

/* A vote request that cannot be granted (it claims an empty log) makes the core take the next term. */
void guards_bump_sole_term(struct driver *d)
{
    struct raft_message m = {.type = RAFT_REQUEST_VOTE, .server_id = UINT64_MAX, .server_address = "0"};
    m.request_vote.version = 2;
    m.request_vote.term = raft_current_term(&d->r) + 1;
    m.request_vote.candidate_id = UINT64_MAX;
    m.request_vote.disrupt_leader = true;
    struct raft_event event = {.type = RAFT_RECEIVE, .time = d->now};
    event.receive.message = &m;
    struct raft_update update;
    if (raft_step(&d->r, &event, &update))
        driver_fatal(d, "the core refused to take a new term");
    else
        driver_save_vote(d); /* the answer goes nowhere */
}

/* 8 (replication.c:684): AppendEntries that begins below our log is appended at its end. What lies up to our
 * snapshot is committed, hence equal: anchor what is left at the snapshot. */
static void fix_below_log(struct driver *d, struct raft_msg *m)
{
    if (!driver_has_guard(d, DRIVER_GUARD_BELOW_LOG) || d->snapshot.index == 0 ||
        m->append.prev_index >= d->snapshot.index || driver_term_of(d, m->append.prev_index))
        return;
    uint64_t below = d->snapshot.index - m->append.prev_index;
    unsigned skip = below < m->append.n_entries ? (unsigned)below : m->append.n_entries;
    for (unsigned i = 0; i < skip; i++)
        blob_unref(m->append.entries[i].payload);
    m->append.n_entries -= skip;
    if (skip)
        memmove(m->append.entries, m->append.entries + skip,
                m->append.n_entries * sizeof(*m->append.entries));
    m->append.prev_index = d->snapshot.index;
    m->append.prev_term = d->snapshot.term;
    d->stats.n_below_log++;
}

/* 7 (membership.c:167): cutting an uncommitted configuration off rolls back to the last one that was *seen*
 * committed, which can be two changes old. Cut the log ourselves, durably, and let a fresh core read what is
 * left. */
static void fix_rollback(struct driver *d, const struct raft_msg *m)
{
    if (!driver_has_guard(d, DRIVER_GUARD_ROLLBACK))
        return;
    if (m->append.prev_index && driver_term_of(d, m->append.prev_index) != m->append.prev_term)
        return;
    for (unsigned i = 0; i < m->append.n_entries; i++) {
        uint64_t index = m->append.prev_index + 1 + i, term = driver_term_of(d, index);
        if (term == 0)
            return;
        if (term == m->append.entries[i].term)
            continue;
        if (index <= raft_commit_index(&d->r) || index <= d->handed) {
            driver_fatal(d, "the leader %llu contradicts the committed entry %llu",
                         (unsigned long long)m->peer, (unsigned long long)index);
            return;
        }
        if (!rlog_find_change(d->config.log, index, UINT64_MAX, NULL))
            return;
        rlog_cut(d->config.log, index);
        if (rlog_sync(d->config.log)) {
            driver_fatal(d, "the log cannot be written");
            return;
        }
        driver_rebuild(d);
        d->stats.n_rebuilt++;
        return;
    }
}

/* 3 (timeout.c:52): a non-voter never forgets its leader, so it would refuse its vote for ever. Tell it that
 * the candidate may disrupt a leader that has been silent for an election time-out (Raft
 * dissertation, 4.2.3). */
static void fix_vote_request(struct driver *d, struct raft_msg *m)
{
    if (driver_has_guard(d, DRIVER_GUARD_FORGET_LEADER) && raft_role(&d->r) != RAFT_VOTER &&
        d->now - d->heard_ms >= d->config.timing.election_ms)
        m->vote.disrupt = true;
}

/* 9 (progress.c:373): a late or repeated refusal of what the peer has since stored aborts the leader. */
static bool is_stale_refusal(const struct driver *d, const struct raft_msg *m)
{
    uint64_t match;
    return driver_has_guard(d, DRIVER_GUARD_STALE_REFUSAL) && m->append_result.rejected &&
           m->term == raft_current_term(&d->r) && !driver_match_index(d, m->peer, &match) &&
           m->append_result.rejected <= match;
}

/* Not a hole: a broken promise. The core would abort on it, and a member that lies (or whose vote file was
 * lost) could end every leader with it. What it sends does not count; both terms end the ordinary way. */
static bool is_second_leader(struct driver *d, const struct raft_msg *m)
{
    if (raft_state(&d->r) != RAFT_LEADER || m->term != raft_current_term(&d->r))
        return false;
    d->stats.n_second_leader++;
    if (d->config.ops->second_leader)
        d->config.ops->second_leader(d->config.user, m->peer, m->term);
    return true;
}

bool guards_accept(struct driver *d, struct raft_msg *m)
{
    uint64_t term = raft_current_term(&d->r);
    if ((m->type == RAFT_MSG_APPEND || m->type == RAFT_MSG_INSTALL) && is_second_leader(d, m))
        return false;
    switch (m->type) {
    case RAFT_MSG_APPEND:
        if (m->term >= term) {
            d->heard_ms = d->now;
            if (!d->is_installing) {
                fix_below_log(d, m);
                fix_rollback(d, m);
            }
        }
        d->is_old_term_message = m->term < raft_current_term(&d->r);
        return true;
    case RAFT_MSG_INSTALL:
        d->is_old_term_message = m->term < term;
        if (m->term >= term)
            d->heard_ms = d->now;
        /* 14: during an install the core forgets to free it. Heartbeats keep the contact. */
        return !(d->is_installing && driver_has_guard(d, DRIVER_GUARD_INSTALL_TWICE));
    case RAFT_MSG_VOTE:
        if (m->vote.candidate != m->peer) /* nobody asks for another's vote */
            return false;
        d->vote_request = m;
        fix_vote_request(d, m);
        return true;
    case RAFT_MSG_VOTE_RESULT:
        /* 10 (recv_request_vote_result.c:32): it reads the candidate's fields in any state. */
        return raft_state(&d->r) == RAFT_CANDIDATE || !driver_has_guard(d, DRIVER_GUARD_VOTE_RESULT);
    case RAFT_MSG_APPEND_RESULT:
        return !is_stale_refusal(d, m);
    case RAFT_MSG_TIMEOUT_NOW:
        return true;
    }
    return false;
}

/* 2 (election.c:208): a server that does not see itself as a voter refuses its vote, so a leader that dies
 * right after appending a promotion leaves a cluster that can never elect again. A server votes by log and
 * term, whatever its own configuration says (Raft dissertation, 4.2.2). */
static void give_own_vote(struct driver *d, struct raft_request_vote_result *result)
{
    const struct raft_msg *q = d->vote_request;
    if (result->vote_granted || raft_role(&d->r) == RAFT_VOTER || raft_state(&d->r) != RAFT_FOLLOWER ||
        d->is_installing)
        return;
    uint64_t last = driver_last(d), last_term = last ? driver_term_of(d, last) : 0;
    if ((driver_get_leader(d) && !q->vote.disrupt) || q->term < raft_current_term(&d->r))
        return;
    if (q->vote.last_term < last_term || (q->vote.last_term == last_term && q->vote.last_index < last))
        return;
    if (!q->vote.pre_vote) {
        raft_id voted_for = raft_voted_for(&d->r);
        if (q->term != raft_current_term(&d->r) || (voted_for && voted_for != q->vote.candidate))
            return;
        d->r.voted_for = q->vote.candidate;
        driver_save_vote(d);
    }
    result->vote_granted = true;
}

void guards_fix_result(struct driver *d, struct raft_message *m)
{
    if (m->type == RAFT_REQUEST_VOTE_RESULT && d->vote_request) {
        struct raft_request_vote_result *v = &m->request_vote_result;
        if (driver_has_guard(d, DRIVER_GUARD_NON_VOTER_VOTE))
            give_own_vote(d, v);
        /* 4 (recv_request_vote.c:116): a refused pre-vote echoes the candidate's term; with the longest log
         * and an old term it would never learn the new one, and never win. */
        if (driver_has_guard(d, DRIVER_GUARD_PRE_VOTE_TERM) && v->pre_vote && !v->vote_granted &&
            v->term < raft_current_term(&d->r))
            v->term = raft_current_term(&d->r);
    }
    /* 13 (recv_install_snapshot.c:73): the answer to an older term has last_log_index unset and can read as
     * success: a sender that leads the new term would take garbage for stored entries. */
    if (m->type == RAFT_APPEND_ENTRIES_RESULT && d->is_old_term_message &&
        driver_has_guard(d, DRIVER_GUARD_OLD_TERM_ANSWER)) {
        if (m->append_entries_result.rejected == 0)
            m->append_entries_result.rejected = 1;
        m->append_entries_result.last_log_index = 0;
    }
}
