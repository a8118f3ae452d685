/* The disk of this node, and what the leader sees of the others' disks. */
#include "node/node_impl.h"
#include <inttypes.h>
#include <sys/statvfs.h>

enum {
    FULL_BYTES = 1 << 20,
    FREE_EVERY_MS = 10000,
    STANDS_MS = 5000,
    STANDS_STEPS = 5,
    STUCK_EVERY_MS = 1000,
    STUCK_MS = 5000,
    HEARD_MS = 2000
};

/* DiskLow at the larger of 10 % of the file system and the store's size + 512 MiB (a copy must fit). */
static void check_free(struct node *n)
{
    struct statvfs st;
    if (statvfs(n->dir.path, &st))
        return;
    uint64_t free_bytes = (uint64_t)st.f_bavail * st.f_frsize, total = (uint64_t)st.f_blocks * st.f_frsize;
    uint64_t need = store_size_bytes(n->store) + (512ull << 20);
    if (need < total / 10)
        need = total / 10;
    if (free_bytes < need)
        alarms_raise(n->alarms, ALARM_DISK_LOW, n->id.node,
                     "%s: %" PRIu64 " MiB free where the data of %s is, %" PRIu64 " MiB are wanted",
                     n->dir.path, free_bytes >> 20, n->id.name, need >> 20);
    else
        alarms_clear(n->alarms, ALARM_DISK_LOW, n->id.node);
}

bool disk_check_is_full(const struct node *n)
{
    struct statvfs st;
    return !statvfs(n->dir.path, &st) && (uint64_t)st.f_bavail * st.f_frsize < FULL_BYTES;
}

/* The life before could not say it any more. When there is room again the alarm is over at once, but it is in
 * the history of alarms. */
static void tell_was_full(struct node *n)
{
    if (!n->options.disk_was_full || n->was_full_told || !watcher_is_released(&n->watcher))
        return; /* before that the table of alarms may be of an earlier time */
    n->was_full_told = true;
    n->free_checked_ms = 0; /* look at once whether it is over */
    alarms_raise(n->alarms, ALARM_DISK_LOW, n->id.node, "%s: the disk of %s was full: the node had ended",
                 n->dir.path, n->id.name);
}

/* The raft thread waits for the disk itself when term and vote are written. A pause of the whole process is
 * seen in one step only. */
static void check_standing(struct node *n, uint64_t now_ms)
{
    bool is_late = n->status.published_ms && now_ms > n->status.published_ms + STANDS_MS;
    n->n_late = is_late ? n->n_late + 1 : 0;
    bool stands = n->n_late >= STANDS_STEPS;
    if (stands == n->replication_stands)
        return;
    n->replication_stands = stands;
    log_at(n->log, stands ? LOG_ERROR : LOG_NOTICE, "%s",
           stands ? "replication stands still here: does the disk answer? term and vote could not be written"
                  : "replication goes on here");
}

/* Who answers, but whose log does not grow. Such a node cannot say so itself: what it proposes it would have
 * to apply. */
static bool is_stuck(struct node *n, const struct replica_peer *p, uint64_t now_ms)
{
    struct stuck_peer *x = NULL;
    for (unsigned i = 0; i < n->n_stuck_peers && !x; i++)
        if (n->stuck_peers[i].node == p->node)
            x = &n->stuck_peers[i];
    if (!x && n->n_stuck_peers == n_elements(n->stuck_peers))
        return false;
    if (!x) {
        x = &n->stuck_peers[n->n_stuck_peers++];
        *x = (struct stuck_peer){.node = p->node};
    }
    bool waits = p->connected && p->member != REPLICA_NOT_MEMBER && !p->installs &&
                 p->match_index < n->status.commit_index && now_ms < p->last_heard_ms + HEARD_MS;
    if (!waits || p->match_index != x->match_index || !x->since_ms) {
        x->match_index = p->match_index;
        x->since_ms = now_ms;
    }
    return waits && now_ms >= x->since_ms + STUCK_MS;
}

static void check_peers(struct node *n, uint64_t now_ms)
{
    if (n->status.role != REPLICA_LEADER) {
        for (unsigned i = 0; i < n->n_stuck_peers; i++)
            alarms_forget(n->alarms, ALARM_DISK_SILENT, n->stuck_peers[i].node);
        n->n_stuck_peers = 0;
        return;
    }
    if (now_ms < n->stuck_checked_ms + STUCK_EVERY_MS)
        return;
    n->stuck_checked_ms = now_ms;
    alarms_clear(n->alarms, ALARM_DISK_SILENT, n->id.node); /* who leads takes entries */
    for (unsigned i = 0; i < n->status.n_peers; i++) {
        const struct replica_peer *p = &n->status.peers[i];
        const struct member *m = members_find(n->members, p->node);
        if (m && is_stuck(n, p, now_ms))
            alarms_raise(n->alarms, ALARM_DISK_SILENT, p->node,
                         "%s answers but stores nothing: does its disk? its users are served by other nodes "
                         "meanwhile",
                         m->name);
        else if (p->match_index >= n->status.commit_index || !m)
            alarms_clear(n->alarms, ALARM_DISK_SILENT, p->node);
    }
}

void disk_check_step(struct node *n, uint64_t now_ms)
{
    tell_was_full(n);
    check_standing(n, now_ms);
    check_peers(n, now_ms);
    if (n->free_checked_ms && now_ms - n->free_checked_ms < FREE_EVERY_MS &&
        n->status.is_disk_low == n->disk_was_low)
        return;
    n->free_checked_ms = now_ms;
    n->disk_was_low = n->status.is_disk_low;
    check_free(n);
}
