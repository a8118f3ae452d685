/* The change feed and the answers to proposals: per batch of the apply thread one letter to each registered
 * loop, its events first, then the answers. A loop that has 64 k events queued gets one "reload" instead of
 * more events, but always its answers. The apply thread never waits for a loop. */
#ifndef REPLICATION_FEED_H
#define REPLICATION_FEED_H

#include "replication/proposer.h"
#include "replication/replica.h"

enum { FEED_MAX_QUEUED = 65536, FEED_MAX_LOOPS = 64 };

struct feed;
struct feed_loop;

struct feed *feed_new(void);
void feed_free(struct feed *f); /* letters under way keep it */
void feed_add(struct feed *f, struct loop *loop, const struct feed_handler *handler,
              void *user);                                            /* before it runs */
struct feed_loop *feed_find(struct feed *f, const struct loop *loop); /* NULL: not registered */

/* The batch under way; apply thread. */
void feed_event(struct feed *f, uint64_t index, enum table table, const struct key *key, bool deleted);
void feed_answer(struct feed *f, const struct proposal_call *call, const struct proposal_result *result);
/* After the commit: posts the letters; those with nothing but the index to loops that follow. */
void feed_flush(struct feed *f, uint64_t applied_index);
void feed_follow(struct feed_loop *x, bool on); /* its loop's thread */

/* An answer outside any batch (time-out, close). Any thread. */
void feed_answer_now(const struct proposal_call *call, int code);

#endif
