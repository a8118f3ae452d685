/* What clients have acknowledged, on its way to the log: stored messages that are not pending any more, and
 * the counts and state of sessions that can be resumed. From level 3 on one proposal per shard takes all of
 * it, at most once a second unless there is much. Clients that wait for their count wait less: the fewer they
 * are, the less (docs/adr/0035). Shard's thread. */
#ifndef IM_MARKS_H
#define IM_MARKS_H

#include "im/mail.h"
#include "im/session.h"

struct marks {
    struct shard *shard;
    struct list sessions; /* struct session_sm: the row is to be written */
    unsigned n_sent;      /* messages that were sent and not marked, over all users */
    uint64_t next_ms;     /* not before, */
    uint64_t next_hurried_ms; /* and those whose clients wait, at the head of the list, not before */
    unsigned n_hurried;
    bool in_flight, scheduled;
    struct deferred run;
};

void marks_init(struct shard *s);
void marks_fini(struct shard *s);
/* Messages of Q were sent; the session's row is to be written. */
void marks_of_queue(struct mailqueue *q);
void marks_of_session(struct session *s);
/* The same; its client waits for it. */
void marks_hurry(struct session *s);
void marks_forget(struct session_sm *sm);
/* Now, of this user alone. */
void marks_propose_of(struct mailqueue *q);
void marks_tick(struct shard *s);

#endif
