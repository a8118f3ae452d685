/* Inside of struct loop: for loop.c, loop_turn.c, timer.c and the stream files only, and for a simulation in
 * place of loop.c. */
#ifndef BASE_LOOP_IMPL_H
#define BASE_LOOP_IMPL_H

#include "base/loop.h"
#include "base/metrics.h"
#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

struct stream_hub;

struct loop {
    uv_loop_t uv;
    int wakeup_fd; /* an eventfd, see loop_wake */
    uv_poll_t wakeup;
    uv_prepare_t prepare;
    uv_check_t check; /* after the poll */
    uv_idle_t again;  /* runs while a turn left work over, so that poll does not sleep */
    uv_timer_t clock;
    struct log *log;
    char name[16];
    struct metrics_turns *turns; /* NULL: not counted */
    uint64_t woke_ms;            /* when this turn began, 0: before the first */

    pthread_t thread;
    bool has_thread;
    _Atomic bool running, stopping;
    _Atomic(pthread_t) owner; /* valid while running */

    /* A stack that senders push to; the loop takes it as a whole, after each poll, and turns it over. Who
     * finds it empty and the loop asleep wakes the loop. On a cache line of its own, since all senders write
     * to it. */
    _Alignas(64) _Atomic(struct letter *) mailbox;
    _Atomic bool asleep; /* or about to be; true before it runs */
    _Alignas(64) struct list hooks;
    struct list deferred;

    struct timer **heap; /* binary, by (due_ms, seq) */
    unsigned n_timers, heap_cap;
    uint64_t timer_seq, armed_ms; /* when `clock` fires, 0: stopped */

    /* Of stream.c: made at the first stream, flushed last in each turn, told when the loop is freed. */
    struct stream_hub *streams;
    void (*streams_flush)(struct stream_hub *hub);
    void (*streams_free)(struct stream_hub *hub);
};

struct letter *loop_take_mail(struct loop *l); /* in the order posted, NULL: none */
void loop_deliver_mail(struct loop *l);
void loop_run_deferred(struct loop *l);
bool loop_settle(struct loop *l); /* the end of a turn; false: there is more to do, the loop must not sleep */
void timer_run_due(struct loop *l);
void timer_arm(struct loop *l); /* sets the one uv timer to the earliest */

#endif
