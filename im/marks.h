/* What clients have acknowledged, on its way to the log: stored messages that are not pending any more, and
 * the counts and state of sessions that can be resumed. From level 3 on one proposal per shard takes all of
 * it, at most once a second unless there is much. Shard's thread. */
#ifndef IM_MARKS_H
#define IM_MARKS_H

#include "im/mail.h"
#include "im/session.h"

struct marks {
    struct shard *shard;
    struct list sessions; /* struct session_sm: the row is to be written */
    unsigned n_sent;      /* messages that were sent and not marked, over all users */
    uint64_t next_ms;     /* not before */
    bool in_flight, scheduled;
    struct deferred run;
};

void marks_init(struct shard *s);
void marks_fini(struct shard *s);
/* Messages of Q were sent; the session's row is to be written. */
void marks_of_queue(struct mailqueue *q);
void marks_of_session(struct session *s);
/* Now, of this user alone. */
void marks_propose_of(struct mailqueue *q);
void marks_tick(struct shard *s);

#endif
