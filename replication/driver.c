/* Events in, updates out: see driver.h for the contract, driver_core.h for what is shared. */
#include "replication/driver_core.h"

#include "base/err.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool driver_has_guard(const struct driver *d, enum driver_guard g)
{
    return d->config.guards & (unsigned)g;
}

void driver_fatal(struct driver *d, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (d->is_dead)
        return;
    d->is_dead = true;
    d->config.ops->fatal(d->config.user, text);
}

/* ---- configurations across the border ---- */

int driver_to_core_conf(struct raft_configuration *out, const struct configuration *c)
{
    raft_configuration_init(out);
    for (unsigned i = 0; i < c->n; i++) {
        char address[24];
        snprintf(address, sizeof(address), "%llu", (unsigned long long)c->servers[i].id);
        int rc = raft_configuration_add(out, c->servers[i].id, address, c->servers[i].role);
        if (rc)
            return rc;
    }
    return 0;
}

void driver_from_core_conf(struct configuration *out, const struct raft_configuration *c)
{
    out->n = 0;
    for (unsigned i = 0; i < c->n; i++)
        configuration_add(out, c->servers[i].id, (enum configuration_role)c->servers[i].role);
}

uint64_t driver_last(const struct driver *d)
{
    uint64_t last = rlog_last(d->config.log);
    return last > d->snapshot.index ? last : d->snapshot.index;
}

uint64_t driver_term_of(const struct driver *d, uint64_t index)
{
    uint64_t term = rlog_term(d->config.log, index);
    return term ? term : index && index == d->snapshot.index ? d->snapshot.term : 0;
}

/* ---- an update, in the order that the core asks for ---- */

void driver_save_vote(struct driver *d)
{
    int rc = vote_save(d->config.vote, raft_current_term(&d->r), raft_voted_for(&d->r));
    if (rc)
        driver_fatal(d, "term and vote cannot be written: %s", err_text(rc));
}

/* Entries of the event are ours already, as blobs; the core's own barrier is not. Returns a reference. */
static struct rlog_entry entry_of(const struct driver *d, const struct raft_entry *e)
{
    if (d->given_core && e >= d->given_core && e < d->given_core + d->n_given) {
        struct rlog_entry own = d->given[e - d->given_core];
        blob_ref(own.payload);
        return own;
    }
    return (struct rlog_entry){e->term, e->type, blob_new(e->buf.base, e->buf.len)};
}

static void take_entries(struct driver *d, const struct raft_update *u)
{
    uint64_t first = u->entries.index;
    unsigned n = u->entries.n;
    const struct raft_entry *batch = u->entries.batch;
    bool is_own = d->given_core && batch >= d->given_core && batch < d->given_core + d->n_given;
    bool has_change = false;
    if (first > driver_last(d) + 1 || first < rlog_first(d->config.log)) {
        driver_fatal(d, "the core appends entry %llu to a log that ends at %llu", (unsigned long long)first,
                     (unsigned long long)driver_last(d));
        return;
    }
    struct rlog_entry *entries = mem_calloc(n, sizeof(*entries));
    for (unsigned i = 0; i < n; i++) {
        entries[i] = entry_of(d, &batch[i]);
        has_change |= entries[i].type == RLOG_CHANGE;
    }
    raft_free(is_own ? d->given_batch : batch[0].batch);
    if (first <= d->reported)
        d->reported = first - 1;
    rlog_append(d->config.log, first, entries, n);
    for (unsigned i = 0; i < n; i++)
        blob_unref(entries[i].payload);
    mem_free(entries);
    if (!has_change)
        return;
    driver_sync_links(d);
    /* 6: a change on followers' disks but lost by its leader leaves neither side a quorum. */
    if (raft_state(&d->r) == RAFT_LEADER && driver_has_guard(d, DRIVER_GUARD_CHANGE_SYNC) &&
        rlog_sync(d->config.log))
        driver_fatal(d, "the log cannot be written");
}

static void begin_install(struct driver *d, struct raft_update *u)
{
    struct raft_snapshot_metadata *meta = &u->snapshot.metadata;
    d->is_installing = true;
    d->installing_meta.index = meta->index;
    d->installing_meta.term = meta->term;
    d->installing_meta.conf_index = meta->configuration_index;
    driver_from_core_conf(&d->installing_meta.conf, &meta->configuration);
    rlog_void_writes(d->config.log);
    d->config.ops->install(d->config.user, &d->installing_meta, u->snapshot.chunk.base,
                           u->snapshot.chunk.len);
    raft_configuration_close(&meta->configuration);
    raft_free(u->snapshot.chunk.base);
}

static bool is_addressed(const struct raft_update *u, raft_id id)
{
    if (!(u->flags & RAFT_UPDATE_MESSAGES))
        return false;
    for (unsigned i = 0; i < u->messages.n; i++)
        if (u->messages.batch[i].server_id == id)
            return true;
    return false;
}

/* A message tells of commits up to its own last entry only. To a follower whose disk is slower than the
 * majority's the commit index is told too early, behind what we know it has; so once more when its answer has
 * come. */
static bool is_untold(struct driver *d, raft_id id)
{
    uint64_t match, commit = raft_commit_index(&d->r);
    const struct driver_link *link = driver_find_link(d, id);
    return link && commit == driver_last(d) && link->told < commit && !driver_match_index(d, id, &match) &&
           match > link->told;
}

/* Followers learn the commit index with the next message, up to a heartbeat later: tell them when nothing
 * else is on its way. At once where somebody waits for it and no entries are about to follow; else the next
 * entries, which tell it too, have a moment to come: with one writer they always do, and a message to each
 * follower and its answer are saved on every write. And a leader's TIMEOUT that leaves a peer out
 * (timeout.c:126) would let it fall out of pipelining. */
static void spread_commit(struct driver *d, const struct raft_update *u)
{
    if (!driver_has_guard(d, DRIVER_GUARD_SPREAD_COMMIT) || raft_state(&d->r) != RAFT_LEADER)
        return;
    bool is_all = raft_commit_index(&d->r) == driver_last(d);
    bool is_drained = is_all && (u->flags & RAFT_UPDATE_COMMIT_INDEX);
    for (unsigned i = 0; i < d->r.configuration.n; i++) {
        raft_id id = d->r.configuration.servers[i].id;
        struct driver_link *link = driver_find_link(d, id);
        bool is_left_out = d->is_timeout_step && !is_addressed(u, id);
        if (!link || (!is_left_out && !is_drained && !is_untold(d, id)))
            continue;
        if (is_left_out || (link->is_awaited && !d->more_follows)) {
            link->is_awaited = link->is_awaited && !is_all;
            driver_spread_commit(d, id);
        } else if (!d->spread_ms) {
            d->spread_ms = d->now + DRIVER_SPREAD_MS;
        }
    }
}

static void spread_late(struct driver *d)
{
    d->spread_ms = 0;
    if (raft_state(&d->r) != RAFT_LEADER)
        return;
    for (unsigned i = 0; i < d->r.configuration.n; i++)
        if (is_untold(d, d->r.configuration.servers[i].id))
            driver_spread_commit(d, d->r.configuration.servers[i].id);
}

void driver_expect_commit(struct driver *d, uint64_t id)
{
    struct driver_link *link = driver_find_link(d, id);
    if (link)
        link->is_awaited = true;
}

void driver_hold_commit(struct driver *d, bool more_follows)
{
    d->more_follows = more_follows;
}

static void handle_state(struct driver *d)
{
    driver_drop_pending(d);
    driver_sync_links(d);
    if (raft_state(&d->r) != RAFT_LEADER)
        return;
    d->stats.n_elections++;
    for (unsigned i = 0; i < d->n_links; i++)
        d->links[i].heard_ms = d->links[i].told = d->links[i].install_index = 0;
}

static void handle(struct driver *d, struct raft_update *u)
{
    if (u->flags & (RAFT_UPDATE_CURRENT_TERM | RAFT_UPDATE_VOTED_FOR))
        driver_save_vote(d);
    if (u->flags & RAFT_UPDATE_STATE)
        handle_state(d);
    if ((u->flags & RAFT_UPDATE_ENTRIES) && !d->is_dead)
        take_entries(d, u);
    if ((u->flags & RAFT_UPDATE_SNAPSHOT) && !d->is_dead)
        begin_install(d, u);
    if (u->flags & RAFT_UPDATE_MESSAGES)
        for (unsigned i = 0; i < u->messages.n && !d->is_dead; i++)
            driver_send(d, &u->messages.batch[i]);
    if (!d->is_dead)
        spread_commit(d, u);
}

int driver_try_step(struct driver *d, struct raft_event *event)
{
    struct raft_update update;
    if (d->is_dead)
        return 0;
    event->time = d->now;
    d->is_timeout_step = event->type == RAFT_TIMEOUT;
    int rc = raft_step(&d->r, event, &update);
    if (rc == 0)
        handle(d, &update);
    d->is_timeout_step = false;
    return rc;
}

void driver_step(struct driver *d, struct raft_event *event)
{
    int rc = driver_try_step(d, event);
    if (rc)
        driver_fatal(d, "the core fails at event %d: %s", (int)event->type, raft_strerror(rc));
}

/* ---- around every call ---- */

bool driver_enter(struct driver *d, uint64_t now_ms)
{
    assert(!d->is_inside); /* a callback has called back */
    if (d->is_dead)
        return false;
    d->is_inside = true;
    if (now_ms > d->now)
        d->now = now_ms;
    return true;
}

/* Reads that must be current, and changes of membership, need a committed entry of the leader's own term; the
 * core writes one only if its log has an uncommitted tail. */
static void ensure_own_entry(struct driver *d)
{
    uint64_t last = driver_last(d);
    if (raft_state(&d->r) != RAFT_LEADER || (last && driver_term_of(d, last) == raft_current_term(&d->r)))
        return;
    static const char nothing[8];
    struct blob *payload = blob_new(nothing, sizeof(nothing));
    driver_submit_entries(d, RLOG_BARRIER, &payload,
                          1); /* refused while leadership is handed over: next time */
    blob_unref(payload);
}

static void forget_committed(struct driver *d)
{
    uint64_t commit = raft_commit_index(&d->r);
    bool is_leader = raft_state(&d->r) == RAFT_LEADER;
    while (d->submitted.n) {
        struct driver_submitted *s = deque_at(&d->submitted, 0);
        if (is_leader && s->index > commit)
            break;
        d->n_uncommitted_bytes -= s->bytes;
        deque_drop_front(&d->submitted, 1);
    }
}

static void publish_state(struct driver *d)
{
    int role = driver_get_role(d);
    uint64_t term = raft_current_term(&d->r), leader = driver_get_leader(d);
    if (d->published.role == role && d->published.term == term && d->published.leader == leader)
        return;
    d->published.role = role;
    d->published.term = term;
    d->published.leader = leader;
    d->config.ops->state(d->config.user);
}

static void set_timer(struct driver *d)
{
    uint64_t due = raft_timeout(&d->r);
    if (d->has_ticked && due < d->ticked_ms + DRIVER_TICK_MS)
        due = d->ticked_ms + DRIVER_TICK_MS;
    if (d->spread_ms && d->spread_ms < due)
        due = d->spread_ms;
    if (due == d->timer_ms)
        return;
    d->timer_ms = due;
    d->config.ops->set_timer(d->config.user, due);
}

void driver_leave(struct driver *d)
{
    d->vote_request = NULL;
    d->is_old_term_message = false;
    if (!d->is_dead)
        ensure_own_entry(d);
    if (!d->is_dead) {
        forget_committed(d);
        driver_pump(d);
        driver_pump_transfer(d);
    }
    if (!d->is_dead)
        publish_state(d);
    if (!d->is_dead)
        set_timer(d);
    d->is_inside = false;
}

/* ---- events ---- */

static void receive_append(struct driver *d, struct raft_msg *msg, struct raft_message *m)
{
    struct raft_append_entries *a = &m->append_entries;
    unsigned n = msg->append.n_entries;
    m->type = RAFT_APPEND_ENTRIES;
    a->version = 0;
    a->term = msg->term;
    a->prev_log_index = msg->append.prev_index;
    a->prev_log_term = msg->append.prev_term;
    a->leader_commit = msg->append.commit;
    a->n_entries = n;
    a->entries = NULL;
    if (n == 0)
        return;
    /* The core frees `batch` of the first entry if it does not take them; the payloads stay ours. */
    void *batch = raft_malloc(1);
    a->entries = mem_calloc(n, sizeof(*a->entries));
    for (unsigned i = 0; i < n; i++) {
        const struct rlog_entry *e = &msg->append.entries[i];
        a->entries[i].term = e->term;
        a->entries[i].type = (enum raft_entry_type)e->type;
        a->entries[i].buf.base = e->payload->data;
        a->entries[i].buf.len = e->payload->n;
        a->entries[i].batch = batch;
    }
    d->given = msg->append.entries;
    d->given_core = a->entries;
    d->n_given = n;
    d->given_batch = batch;
}

static void receive_install(struct driver *d, const struct raft_msg *msg, struct raft_message *m)
{
    struct raft_install_snapshot *s = &m->install_snapshot;
    m->type = RAFT_INSTALL_SNAPSHOT;
    s->version = 0;
    s->term = msg->term;
    s->last_index = msg->install.last_index;
    s->last_term = msg->install.last_term;
    s->conf_index = msg->install.conf_index;
    if (driver_to_core_conf(&s->conf, msg->install.conf)) {
        driver_fatal(d, "out of memory");
        return;
    }
    s->data.len = msg->install.data->n;
    s->data.base = raft_malloc(s->data.len + 1);
    memcpy(s->data.base, msg->install.data->data, s->data.len);
}

static void receive(struct driver *d, struct raft_msg *msg)
{
    char address[24];
    struct raft_message m = {.server_id = msg->peer, .server_address = address};
    snprintf(address, sizeof(address), "%llu", (unsigned long long)msg->peer);
    struct driver_link *link = driver_find_link(d, msg->peer);
    switch (msg->type) {
    case RAFT_MSG_APPEND:
        receive_append(d, msg, &m);
        break;
    case RAFT_MSG_APPEND_RESULT:
        if (link && msg->term == raft_current_term(&d->r))
            link->heard_ms = d->now;
        m.type = RAFT_APPEND_ENTRIES_RESULT;
        m.append_entries_result = (struct raft_append_entries_result){
            .version = 2,
            .term = msg->term,
            .rejected = msg->append_result.rejected,
            .last_log_index = msg->append_result.last_index,
        };
        break;
    case RAFT_MSG_VOTE:
        m.type = RAFT_REQUEST_VOTE;
        m.request_vote = (struct raft_request_vote){
            .version = 2,
            .term = msg->term,
            .candidate_id = msg->vote.candidate,
            .last_log_index = msg->vote.last_index,
            .last_log_term = msg->vote.last_term,
            .disrupt_leader = msg->vote.disrupt,
            .pre_vote = msg->vote.pre_vote,
        };
        break;
    case RAFT_MSG_VOTE_RESULT:
        m.type = RAFT_REQUEST_VOTE_RESULT;
        m.request_vote_result = (struct raft_request_vote_result){
            .version = 2,
            .term = msg->term,
            .vote_granted = msg->vote_result.granted,
            .pre_vote = msg->vote_result.pre_vote,
        };
        break;
    case RAFT_MSG_INSTALL:
        receive_install(d, msg, &m);
        break;
    case RAFT_MSG_TIMEOUT_NOW:
        m.type = RAFT_TIMEOUT_NOW;
        m.timeout_now = (struct raft_timeout_now){
            .version = 0,
            .term = msg->term,
            .last_log_index = msg->timeout_now.last_index,
            .last_log_term = msg->timeout_now.last_term,
        };
        break;
    }
    struct raft_event event = {.type = RAFT_RECEIVE};
    event.receive.message = &m;
    driver_step(d, &event);
    if (msg->type == RAFT_MSG_APPEND)
        mem_free(m.append_entries.entries);
    d->given = NULL;
    d->given_core = NULL;
    d->given_batch = NULL;
    d->n_given = 0;
}

void driver_receive(struct driver *d, uint64_t now_ms, struct raft_msg *msg)
{
    if (!driver_enter(d, now_ms))
        return;
    if (msg->peer != d->config.id && msg->peer != 0 && guards_accept(d, msg) && !d->is_dead)
        receive(d, msg);
    driver_leave(d);
}

void driver_tick(struct driver *d, uint64_t now_ms)
{
    if (!driver_enter(d, now_ms))
        return;
    d->timer_ms = 0; /* what was set has fired */
    if (d->spread_ms && d->now >= d->spread_ms)
        spread_late(d);
    uint64_t due = raft_timeout(&d->r);
    /* Not early: two TIMEOUTs within one round trip make the leader think that its followers are gone. */
    if (d->now >= due && (!d->has_ticked || d->now >= d->ticked_ms + DRIVER_TICK_MS)) {
        d->has_ticked = true;
        d->ticked_ms = d->now;
        if (driver_has_guard(d, DRIVER_GUARD_SOLE_VOTER) && raft_state(&d->r) == RAFT_FOLLOWER &&
            !d->is_installing && d->reported == driver_last(d) && guards_is_sole_voter(d))
            guards_bump_sole_term(d);
        struct raft_event event = {.type = RAFT_TIMEOUT};
        driver_step(d, &event);
    }
    driver_leave(d);
}

void driver_log_done(struct driver *d, uint64_t now_ms)
{
    if (!driver_enter(d, now_ms))
        return;
    rlog_poll(d->config.log);
    uint64_t durable = rlog_durable(d->config.log);
    if (!d->is_dead && !d->is_installing && durable > d->reported) {
        struct raft_event event = {.type = RAFT_PERSISTED_ENTRIES};
        event.persisted_entries.index = durable;
        d->reported = durable;
        driver_step(d, &event);
    }
    driver_leave(d);
}
