/* An event loop and the thread it runs on, timers, and the mailbox by which threads talk.
 *
 * Everything but loop_post and loop_stop is called on the loop's own thread (or before it runs). uv.h is included
 * only in base/ and in protocols/http/ (through loop_uv). */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include "base/list.h"
#include "base/log.h"
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct metrics;
struct uv_loop_s;

int loop_new(struct loop **out, const char *name, struct log *log);
/* After loop_run returned. Streams that are still on it end with on_close(ERR_CANCELED), undelivered letters are
 * discarded, work on the pool is waited for and its done() called, running timers are stopped. */
void loop_free(struct loop *l);
void loop_run(struct loop *l);                 /* until loop_stop */
void loop_stop(struct loop *l);                /* any thread; ends loop_run after the current turn */
int loop_start_thread(struct loop *l);         /* loop_run on a new thread named after the loop */
void loop_join_thread(struct loop *l);
bool loop_is_current(const struct loop *l);    /* is the caller on this loop's thread? for asserts */
uint64_t loop_now_ms(const struct loop *l);    /* CLOCK_MONOTONIC at the start of this turn */
struct uv_loop_s *loop_uv(struct loop *l);
struct log *loop_log(struct loop *l);
void loop_set_metrics(struct loop *l, struct metrics *m); /* tells how long its turns take; before it runs */

/* Mailbox. A letter is embedded in the sender's heap struct and belongs to the loop once posted. Letters of one
 * sender are delivered in order, after the turn's input, with at most one wake-up per turn. discard (may be NULL)
 * is called instead of deliver if the loop ends first. */
struct letter {
    struct letter *next;
    void (*deliver)(struct letter *letter);
    void (*discard)(struct letter *letter);
};
void loop_post(struct loop *l, struct letter *letter); /* any thread */

/* Called just before the loop may sleep (flush batches, reset read transactions): after the turn's deferred work, and
 * again if that or a hook deferred more. The output of the streams is written after the hooks. */
struct loop_hook {
    struct list link;
    void (*fn)(struct loop_hook *hook);
};
void loop_add_before_poll(struct loop *l, struct loop_hook *hook); /* runs in the order added */
void loop_remove_before_poll(struct loop_hook *hook);

/* Work to do later in this same turn, once, in order (frees that must wait until the stack has unwound). */
struct deferred {
    struct list link; /* list_init before the first use */
    void (*fn)(struct deferred *d);
};
void loop_defer(struct loop *l, struct deferred *d); /* nothing happens when it waits already */
void loop_cancel_deferred(struct deferred *d);

/* Timers: embedded, synchronous to stop and free (no uv handle each). Zero-initialised is stopped. */
struct timer {
    void (*fn)(struct timer *t);
    struct loop *loop;
    uint64_t due_ms, seq;
    unsigned repeat_ms;
    unsigned slot; /* 1 + place in the heap, 0 when stopped */
};
void timer_init(struct timer *t, struct loop *l, void (*fn)(struct timer *t));
void timer_start(struct timer *t, unsigned after_ms, unsigned repeat_ms); /* restarts a running one; repeat 0: once */
void timer_stop(struct timer *t);
bool timer_is_on(const struct timer *t);

/* Blocking work on the thread pool: work() there, then done() on the loop. Ends exactly once. */
struct work {
    void (*work)(struct work *w);
    void (*done)(struct work *w);
    void *handle; /* of the loop */
};
void loop_run_work(struct loop *l, struct work *w);

#endif
