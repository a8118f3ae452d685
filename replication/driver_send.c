/* Messages out: translation, entries from the log (or from its disk), splitting, and the empty AppendEntries.
 */
#include "replication/driver_core.h"

#include <string.h>

struct driver_link *driver_find_link(struct driver *d, uint64_t id)
{
    for (unsigned i = 0; i < d->n_links; i++)
        if (d->links[i].id == id)
            return &d->links[i];
    return NULL;
}

static void clear_link(struct driver_link *link)
{
    driver_abandon_read(&link->read);
    deque_fini(&link->pending);
}

void driver_drop_pending(struct driver *d)
{
    for (unsigned i = 0; i < d->n_links; i++)
        clear_link(&d->links[i]);
}

void driver_sync_links(struct driver *d)
{
    const struct raft_configuration *c = &d->r.configuration;
    for (unsigned i = 0; i < d->n_links;) {
        bool is_member = false;
        for (unsigned k = 0; k < c->n; k++)
            is_member |= c->servers[k].id == d->links[i].id;
        if (is_member) {
            i++;
            continue;
        }
        clear_link(&d->links[i]);
        d->links[i] = d->links[--d->n_links];
    }
    for (unsigned k = 0; k < c->n && d->n_links < CONFIGURATION_MAX; k++) {
        if (c->servers[k].id == d->config.id || driver_find_link(d, c->servers[k].id))
            continue;
        struct driver_link *link = &d->links[d->n_links++];
        memset(link, 0, sizeof(*link));
        link->id = c->servers[k].id;
        deque_init(&link->pending, sizeof(struct driver_range));
    }
}

/* ---- AppendEntries ---- */

static void emit(struct driver *d, struct driver_link *link, uint64_t prev, struct rlog_entry *entries,
                 unsigned n)
{
    struct raft_msg m = {.type = RAFT_MSG_APPEND, .peer = link->id, .term = raft_current_term(&d->r)};
    m.append.prev_index = prev;
    m.append.prev_term = prev ? driver_term_of(d, prev) : 0;
    m.append.commit = raft_commit_index(&d->r);
    m.append.entries = entries;
    m.append.n_entries = n;
    if (prev && !m.append.prev_term) {
        driver_fatal(d, "the core sends from entry %llu, which the log does not have",
                     (unsigned long long)prev);
        return;
    }
    if (n == 0) {
        /* 12 (replication.c:69): with the window full, every submit sends every follower an empty message. */
        if (driver_has_guard(d, DRIVER_GUARD_EMPTY_FLOOD) && link->empty_ms && link->empty_prev == prev &&
            link->empty_commit == m.append.commit && d->now - link->empty_ms < DRIVER_EMPTY_MS) {
            d->stats.n_empty_dropped++;
            return;
        }
        link->empty_ms = d->now;
        link->empty_prev = prev;
        link->empty_commit = m.append.commit;
        d->stats.n_empty_sent++;
    }
    link->told = m.append.commit < prev + n ? m.append.commit : prev + n;
    d->stats.n_append_sent++;
    d->config.ops->send(d->config.user, &m);
}

void driver_spread_commit(struct driver *d, uint64_t id)
{
    uint64_t match;
    struct driver_link *link = driver_find_link(d, id);
    if (!link || driver_match_index(d, id, &match) || match == 0 || driver_term_of(d, match) == 0)
        return;
    d->stats.n_commit_spread++;
    emit(d, link, match, NULL, 0);
}

/* How many of the entries may travel in one message: by count, by bytes, and so that a change opens its
 * message (5, replication.c:851: any other place is noted under the index of the message's first new entry).
 */
static bool has_room(const struct driver *d, unsigned n, size_t bytes, const struct rlog_entry *next)
{
    if (n == 0)
        return true;
    if (n >= RAFT_MSG_SPLIT_ENTRIES || bytes + next->payload->n > RAFT_MSG_SPLIT_BYTES)
        return false;
    return next->type != RLOG_CHANGE || !driver_has_guard(d, DRIVER_GUARD_CHANGE_FIRST);
}

static void start_read(struct driver *d, struct driver_link *link);

/* Sends what is in memory of PREV+1 .. PREV+N; the rest goes into link->pending. */
static void send_range(struct driver *d, struct driver_link *link, uint64_t prev, unsigned n)
{
    while (n && !d->is_dead) {
        unsigned k = 0;
        size_t bytes = 0;
        int rc = 0;
        struct rlog_entry e;
        for (; k < n; k++) {
            rc = rlog_get(d->config.log, prev + 1 + k, &e);
            if (rc || !has_room(d, k, bytes, &e))
                break;
            d->scratch[k] = e;
            bytes += e.payload->n;
        }
        if (rc && rc != ERR_AGAIN) {
            driver_fatal(d, "the core wants entry %llu, which the log does not have",
                         (unsigned long long)(prev + 1 + k));
            return;
        }
        if (k == 0) {
            *(struct driver_range *)deque_push(&link->pending) = (struct driver_range){prev, n};
            start_read(d, link);
            return;
        }
        emit(d, link, prev, d->scratch, k);
        prev += k;
        n -= k;
    }
}

/* Compaction may have overtaken a send that waited for the disk; to the core it is then as if it were lost.
 */
static bool is_known(const struct driver *d, uint64_t prev)
{
    return (prev == 0 && rlog_first(d->config.log) == 1) || driver_term_of(d, prev);
}

/* Also a range whose sending was put off goes on in order: later ones wait behind it. */
static void send_pending(struct driver *d, struct driver_link *link)
{
    while (link->pending.n && !link->read && !d->is_dead) {
        struct driver_range range = *(struct driver_range *)deque_at(&link->pending, 0);
        if (!is_known(d, range.prev)) {
            deque_fini(&link->pending);
            return;
        }
        deque_drop_front(&link->pending, 1);
        struct deque rest = link->pending;
        deque_init(&link->pending, sizeof(struct driver_range));
        send_range(d, link, range.prev, range.n);
        for (size_t i = 0; i < rest.n; i++)
            *(struct driver_range *)deque_push(&link->pending) = *(struct driver_range *)deque_at(&rest, i);
        deque_fini(&rest);
    }
}

static void on_read(struct rlog_read *read)
{
    struct driver_read *sr = container_of(read, struct driver_read, read);
    struct driver *d = sr->driver;
    struct driver_link *link = d ? driver_find_link(d, sr->peer) : NULL;
    if (!link || d->is_dead) {
        if (link)
            link->read = NULL;
        mem_free(sr);
        return;
    }
    assert(link->read == sr);
    link->read = NULL;
    struct driver_range *range = deque_at(&link->pending, 0);
    if (read->code || sr->term != raft_current_term(&d->r) || raft_state(&d->r) != RAFT_LEADER ||
        !is_known(d, range->prev)) {
        deque_fini(&link->pending);
        mem_free(sr);
        return;
    }
    unsigned done = 0;
    while (done < read->n) {
        unsigned k = 0;
        size_t bytes = 0;
        while (done + k < read->n && has_room(d, k, bytes, &read->entries[done + k]))
            bytes += read->entries[done + k++].payload->n;
        emit(d, link, range->prev, read->entries + done, k);
        range->prev += k;
        range->n -= k;
        done += k;
    }
    if (range->n == 0)
        deque_drop_front(&link->pending, 1);
    mem_free(sr);
    send_pending(d, link);
}

static void start_read(struct driver *d, struct driver_link *link)
{
    const struct driver_range *range = deque_at(&link->pending, 0);
    struct driver_read *sr = mem_new(struct driver_read);
    sr->driver = d;
    sr->peer = link->id;
    sr->term = raft_current_term(&d->r);
    sr->read.first = range->prev + 1;
    sr->read.n = range->n < RLOG_MAX_READ ? range->n : RLOG_MAX_READ;
    sr->read.done = on_read;
    link->read = sr;
    d->stats.n_reads++;
    rlog_read(d->config.log, &sr->read);
}

static void send_append(struct driver *d, const struct raft_message *m)
{
    const struct raft_append_entries *a = &m->append_entries;
    struct driver_link *link = driver_find_link(d, m->server_id);
    if (!link)
        return;
    if (link->pending.n == 0) {
        if (a->n_entries)
            send_range(d, link, a->prev_log_index, a->n_entries);
        else
            emit(d, link, a->prev_log_index, NULL, 0);
    } else if (a->n_entries == 0) {
        /* It must not overtake: its prev is behind entries that are still on their way from the disk. */
        driver_spread_commit(d, link->id);
    } else if (link->pending.n < DRIVER_PENDING_SENDS) {
        *(struct driver_range *)deque_push(&link->pending) =
            (struct driver_range){a->prev_log_index, a->n_entries};
    }
}

/* ---- the others ---- */

static void send_install(struct driver *d, const struct raft_message *m)
{
    const struct raft_install_snapshot *s = &m->install_snapshot;
    if (s->last_index != d->snapshot.index) {
        driver_fatal(d, "the core sends snapshot %llu, ours is %llu", s->last_index,
                     (unsigned long long)d->snapshot.index);
        return;
    }
    struct driver_link *link = driver_find_link(d, m->server_id);
    if (link && !driver_link_installs(d, link)) {
        link->install_index = s->last_index;
        link->install_ms = d->now;
    }
    struct buf data = {0};
    d->config.ops->snapshot_data(d->config.user, d->snapshot.index, &data);
    assert(data.n <= RAFT_MSG_MAX_SNAPSHOT);
    struct raft_msg out = {.type = RAFT_MSG_INSTALL, .peer = m->server_id, .term = s->term};
    out.install.last_index = s->last_index;
    out.install.last_term = s->last_term;
    out.install.conf_index = d->snapshot.conf_index;
    out.install.conf = &d->snapshot.conf;
    out.install.data = blob_new(data.data, data.n);
    d->config.ops->send(d->config.user, &out);
    blob_unref(out.install.data);
    buf_fini(&data);
}

void driver_send(struct driver *d, struct raft_message *m)
{
    struct raft_msg out = {.peer = m->server_id};
    guards_fix_result(d, m);
    if (d->is_dead)
        return;
    switch (m->type) {
    case RAFT_APPEND_ENTRIES:
        send_append(d, m);
        return;
    case RAFT_INSTALL_SNAPSHOT:
        send_install(d, m);
        return;
    case RAFT_APPEND_ENTRIES_RESULT:
        out.type = RAFT_MSG_APPEND_RESULT;
        out.term = m->append_entries_result.term;
        out.append_result.rejected = m->append_entries_result.rejected;
        out.append_result.last_index = m->append_entries_result.last_log_index;
        break;
    case RAFT_REQUEST_VOTE:
        out.type = RAFT_MSG_VOTE;
        out.term = m->request_vote.term;
        out.vote.candidate = m->request_vote.candidate_id;
        out.vote.last_index = m->request_vote.last_log_index;
        out.vote.last_term = m->request_vote.last_log_term;
        out.vote.disrupt = m->request_vote.disrupt_leader;
        out.vote.pre_vote = m->request_vote.pre_vote;
        break;
    case RAFT_REQUEST_VOTE_RESULT:
        out.type = RAFT_MSG_VOTE_RESULT;
        out.term = m->request_vote_result.term;
        out.vote_result.granted = m->request_vote_result.vote_granted;
        out.vote_result.pre_vote = m->request_vote_result.pre_vote;
        break;
    case RAFT_TIMEOUT_NOW:
        out.type = RAFT_MSG_TIMEOUT_NOW;
        out.term = m->timeout_now.term;
        out.timeout_now.last_index = m->timeout_now.last_log_index;
        out.timeout_now.last_term = m->timeout_now.last_log_term;
        break;
    }
    d->config.ops->send(d->config.user, &out);
}
