/* What is committed goes to the state machine; what it has stored goes to the core; snapshots. */
#include "replication/driver_core.h"

#include "base/err.h"

enum { HAND_OUT = 256 };

void driver_abandon_read(struct driver_read **read)
{
    if (*read)
        (*read)->driver = NULL;
    *read = NULL;
}

/* ---- handing out ---- */

static void hand_out(struct driver *d, const struct rlog_entry *entries, unsigned n)
{
    uint64_t first = d->handed + 1;
    struct driver_submitted *s = deque_push(&d->handed_bytes);
    s->index = d->handed = d->handed + n;
    s->bytes = 0;
    for (unsigned i = 0; i < n; i++)
        s->bytes += entries[i].payload->n;
    d->n_handed_bytes += s->bytes;
    d->config.ops->apply(d->config.user, first, entries, n);
}

/* Only up to the own durable index: the core commits before our disk has the entry, and a store ahead of its
 * own log could not be told from a damaged log after a crash. */
static uint64_t apply_limit(const struct driver *d)
{
    uint64_t limit = driver_get_commit(d), window = d->applied + DRIVER_APPLY_ENTRIES;
    if (d->is_installing || d->n_handed_bytes >= DRIVER_APPLY_BYTES)
        return d->handed;
    return limit < window ? limit : window;
}

static void on_read(struct rlog_read *read)
{
    struct driver_read *dr = container_of(read, struct driver_read, read);
    struct driver *d = dr->driver;
    if (d) {
        d->apply_read = NULL;
        if (!read->code && !d->is_dead && !d->is_installing && read->first == d->handed + 1)
            hand_out(d, read->entries, read->n);
    }
    mem_free(dr); /* the pump of this call goes on */
}

static void start_read(struct driver *d, uint64_t limit)
{
    struct driver_read *dr = mem_new(struct driver_read);
    uint64_t n = limit - d->handed;
    dr->driver = d;
    dr->read.first = d->handed + 1;
    dr->read.n = n < RLOG_MAX_READ ? (unsigned)n : RLOG_MAX_READ;
    dr->read.done = on_read;
    d->apply_read = dr;
    d->stats.n_reads++;
    rlog_read(d->config.log, &dr->read);
}

void driver_pump(struct driver *d)
{
    uint64_t limit;
    while (!d->is_dead && !d->apply_read && (limit = apply_limit(d)) > d->handed) {
        struct rlog_entry entries[HAND_OUT];
        unsigned n = 0;
        size_t bytes = 0;
        int rc = 0;
        while (n < HAND_OUT && d->handed + n < limit && bytes < DRIVER_APPLY_BYTES / 4) {
            rc = rlog_get(d->config.log, d->handed + 1 + n, &entries[n]);
            if (rc)
                break;
            bytes += entries[n++].payload->n;
        }
        if (n)
            hand_out(d, entries, n);
        else if (rc == ERR_AGAIN)
            start_read(d, limit);
        else
            driver_fatal(d, "entry %llu is committed, but not in the log", (unsigned long long)d->handed + 1);
    }
}

bool driver_awaits_apply(const struct driver *d)
{
    return !d->apply_read && driver_get_commit(d) > d->handed;
}

/* ---- applied ---- */

void driver_applied(struct driver *d, uint64_t now_ms, uint64_t index)
{
    if (!driver_enter(d, now_ms))
        return;
    assert(index >= d->applied && index <= d->handed);
    uint64_t from = d->applied + 1;
    d->applied = index;
    while (d->handed_bytes.n) {
        struct driver_submitted *s = deque_at(&d->handed_bytes, 0);
        if (s->index > index)
            break;
        d->n_handed_bytes -= s->bytes;
        deque_drop_front(&d->handed_bytes, 1);
    }
    /* The core cares for the newest one only: there is at most one uncommitted. */
    uint64_t at = index >= from ? rlog_find_change(d->config.log, from, index, &d->conf) : 0;
    if (at) {
        struct raft_event event = {.type = RAFT_CONFIGURATION};
        d->conf_index = at;
        event.configuration.index = at;
        if (driver_to_core_conf(&event.configuration.conf, &d->conf))
            driver_fatal(d, "out of memory");
        driver_step(d, &event);
    }
    driver_leave(d);
}

/* ---- snapshots ---- */

bool driver_snapshot_taken(struct driver *d, uint64_t now_ms, const struct driver_snapshot *meta,
                           uint64_t keep_from)
{
    if (!driver_enter(d, now_ms))
        return false;
    bool is_taken =
        !d->is_installing && meta->index > d->snapshot.index && rlog_term(d->config.log, meta->index);
    if (is_taken && (rlog_term(d->config.log, meta->index) != meta->term || meta->index > d->applied)) {
        driver_fatal(d, "the durable point at %llu is not of this log", (unsigned long long)meta->index);
        is_taken = false;
    }
    if (is_taken) {
        struct raft_event event = {.type = RAFT_SNAPSHOT};
        assert(keep_from >= 1 && keep_from <= meta->index + 1);
        uint64_t trailing = meta->index + 1 - keep_from;
        if (trailing > UINT32_MAX)
            trailing = UINT32_MAX;
        event.snapshot.metadata.index = meta->index;
        event.snapshot.metadata.term = meta->term;
        event.snapshot.metadata.configuration_index = meta->conf_index;
        event.snapshot.trailing = (unsigned)trailing;
        if (driver_to_core_conf(&event.snapshot.metadata.configuration, &meta->conf))
            driver_fatal(d, "out of memory");
        d->snapshot = *meta;
        driver_step(d, &event);
        rlog_compact(d->config.log, keep_from);
    }
    driver_leave(d);
    return is_taken;
}

bool driver_link_installs(const struct driver *d, const struct driver_link *link)
{
    unsigned limit_ms = d->config.install_timeout_ms ? d->config.install_timeout_ms : DRIVER_INSTALL_MS;
    uint64_t match = 0, heard_ms = link->heard_ms > link->install_ms ? link->heard_ms : link->install_ms;
    return link->install_index && !driver_match_index(d, link->id, &match) && match < link->install_index &&
           d->now - link->install_ms < limit_ms && d->now - heard_ms < DRIVER_INSTALL_AWAY_MS;
}

uint64_t driver_install_floor(const struct driver *d)
{
    uint64_t floor = 0;
    for (unsigned i = 0; i < d->n_links; i++)
        if (driver_link_installs(d, &d->links[i]) && (!floor || d->links[i].install_index < floor))
            floor = d->links[i].install_index;
    return floor;
}

void driver_installed(struct driver *d, uint64_t now_ms, const struct driver_snapshot *meta)
{
    if (!driver_enter(d, now_ms))
        return;
    assert(d->is_installing && meta->index >= d->installing_meta.index);
    rlog_reset(d->config.log, meta->index);
    if (rlog_sync(d->config.log))
        driver_fatal(d, "the log cannot be written");
    rlog_poll(d->config.log);
    driver_abandon_read(&d->apply_read);
    d->is_installing = false;
    d->snapshot = *meta;
    d->conf = meta->conf;
    d->conf_index = meta->conf_index;
    d->applied = d->handed = d->reported = meta->index;
    d->n_handed_bytes = 0;
    deque_drop_front(&d->handed_bytes, d->handed_bytes.n);
    if (meta->index == d->installing_meta.index) {
        struct raft_event event = {.type = RAFT_PERSISTED_SNAPSHOT};
        event.persisted_snapshot.metadata.index = meta->index;
        event.persisted_snapshot.metadata.term = meta->term;
        event.persisted_snapshot.metadata.configuration_index = meta->conf_index;
        event.persisted_snapshot.last = true;
        if (driver_to_core_conf(&event.persisted_snapshot.metadata.configuration, &meta->conf))
            driver_fatal(d, "out of memory");
        driver_step(d, &event);
        driver_sync_links(d);
    } else if (!d->is_dead) {
        /* The core expects the very snapshot it was promised; a fresh one takes what there is. */
        driver_rebuild(d);
    }
    driver_leave(d);
}
