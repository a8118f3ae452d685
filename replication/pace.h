/* How often what comes one by one is sent on: whoever finds nothing under way waits for nobody; while things
 * are under way, what comes goes together. An entry costs every node messages, a write, a sync, a transaction
 * and the threads that all these wake, whatever is in it. One writer that waits for its answer never meets
 * another one and is never held. Used for proposals on their way to the leader, and for the entries that it
 * makes of them.
 *
 * Messages and marks wait longer than what somebody is kept from going on by; where one of those waits, too,
 * all go with it. */
#ifndef REPLICATION_PACE_H
#define REPLICATION_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    PACE_MS = 2, /* between two sendings; in whole milliseconds of a clock, so one to two of them */
    PACE_MAX_MS =
        4, /* while also the sending before the last one is under way: the cluster is slower than that */
    PACE_PATIENT_MS = 5, /* instead of these two, where all that waits is patient */
    PACE_PATIENT_MAX_MS = 8,
    PACE_BUSY_MS = 20 /* so long after one was sent behind another */
};

struct pace {
    uint64_t first;   /* number of the first thing of the last sending */
    uint64_t sent_ms; /* when */
    uint64_t busy_ms; /* until when sendings are paced */
};

/* May what waits be sent? 0: yes. Else the time to ask again, or sooner if DONE has grown (all up to it is
 * done) or what waits is PATIENT no more. */
static inline uint64_t pace_wait(const struct pace *p, uint64_t now_ms, uint64_t done, bool patient)
{
    uint64_t next_ms = p->sent_ms + (patient ? PACE_PATIENT_MS : PACE_MS);
    uint64_t late_ms = p->sent_ms + (patient ? PACE_PATIENT_MAX_MS : PACE_MAX_MS);
    if (now_ms >= p->busy_ms)
        return 0;
    if (now_ms < next_ms)
        return next_ms;
    return done + 1 < p->first && now_ms < late_ms ? late_ms : 0;
}

/* Things from number FIRST on were sent. MET: several that are patient, so it is worth while to wait for more
 * of them though each sending is done before the next. */
static inline void pace_sent(struct pace *p, uint64_t now_ms, uint64_t first, uint64_t done, bool met)
{
    if (done + 1 < first || (met && now_ms < p->busy_ms))
        p->busy_ms = now_ms + PACE_BUSY_MS;
    p->first = first;
    p->sent_ms = now_ms;
}

#endif
