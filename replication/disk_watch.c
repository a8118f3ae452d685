/* A disk that is nearly full, slow, or does not answer at all: what this node gives up before it hurts
 * others.
 *
 * Nearly full: no new proposals of this node, leadership and lease given up.
 * Slow: a leader applies (and answers) what its own disk has. When the majority has committed something for
 * an election time-out and this disk still has not, the others are better off without it: leadership goes to
 * one of them, and this node is a follower whose disk delays only its own users. Silent: nothing that was
 * written or committed has got any further for a while. The lease goes, so that the node's users are served
 * elsewhere. It all comes back when the disk answers; the process stays, as one that waits for a disk can
 * neither end nor be replaced. A term and vote that cannot be written hold the raft thread itself up: then
 * there are no lease pings either. */
#include "replication/replica_impl.h"

#include <inttypes.h>

enum { FULL_EVERY_MS = 1000, HAND_OVER_EVERY_MS = 10000, SILENT_MS = 5000 };

static void hand_over(struct replica *r, uint64_t now_ms)
{
    if (r->status.role == DRIVER_LEADER && r->status.conf.n > 1 && !r->status.is_transferring)
        driver_transfer(r->driver, now_ms, 0);
}

static void check_full(struct replica *r, uint64_t now_ms)
{
    struct disk_watch *w = &r->disk_watch;
    if (now_ms < w->full_checked_ms + FULL_EVERY_MS)
        return;
    w->full_checked_ms = now_ms;
    bool low = rlog_check_disk(r->rlog);
    if (low != r->is_disk_low) {
        r->is_disk_low = low;
        atomic_store(&r->holds_proposals, low);
        log_at(r->log, low ? LOG_ERROR : LOG_NOTICE, "%s",
               low ? "less than 64 MiB of disk are free: no new proposals, leadership and lease given up"
                   : "enough disk is free again");
    }
    if (low)
        hand_over(r, now_ms);
}

static void check_slow(struct replica *r, uint64_t now_ms)
{
    struct disk_watch *w = &r->disk_watch;
    const struct driver_status *s = &r->status;
    if (s->role != DRIVER_LEADER || s->durable >= w->behind_index || s->is_installing) {
        bool is_behind = s->role == DRIVER_LEADER && s->commit > s->durable;
        w->behind_index = is_behind ? s->commit : 0;
        w->behind_ms = now_ms;
        return;
    }
    if (now_ms < w->behind_ms + r->election_ms || now_ms < w->handed_over_ms + HAND_OVER_EVERY_MS)
        return;
    w->handed_over_ms = now_ms;
    log_warning(r->log,
                "the disk is %" PRIu64 " ms behind those of the other nodes: leadership goes to one of them",
                now_ms - w->behind_ms);
    hand_over(r, now_ms);
}

static void check_silent(struct replica *r, uint64_t now_ms)
{
    struct disk_watch *w = &r->disk_watch;
    const struct driver_status *s = &r->status;
    uint64_t may_apply = s->commit < s->durable ? s->commit : s->durable;
    bool waits = (s->last > s->durable || may_apply > s->applied) && !s->is_installing;
    if (!waits || s->durable != w->durable || s->applied != w->applied) {
        w->durable = s->durable;
        w->applied = s->applied;
        w->progress_ms = now_ms;
    }
    bool silent = waits && now_ms >= w->progress_ms + SILENT_MS;
    if (silent == r->is_disk_silent)
        return;
    r->is_disk_silent = silent;
    if (silent)
        log_error(r->log,
                  "the disk does not answer: a write of the %s has waited for %d s; the lease is given up",
                  s->last > s->durable ? "log" : "store", SILENT_MS / 1000);
    else
        log_notice(r->log, "the disk answers again");
    if (silent)
        hand_over(r, now_ms);
}

void disk_watch_tick(struct replica *r, uint64_t now_ms)
{
    check_full(r, now_ms);
    check_slow(r, now_ms);
    check_silent(r, now_ms);
}
