/* What every simulation rests on: one virtual clock, one queue of events, one source of randomness. Events at
 * the same time fire in the order they were put there, so that a seed is a whole run. */
#ifndef TESTS_SIM_QUEUE_H
#define TESTS_SIM_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_random {
    uint64_t state;
};
void sim_random_init(struct sim_random *r, uint64_t seed);
uint64_t sim_random_u64(struct sim_random *r);
uint64_t sim_random_below(struct sim_random *r, uint64_t n); /* 0 .. n - 1 */
bool sim_random_chance(struct sim_random *r, unsigned per_million);

/* Embedded in what is to happen. Zero-initialised: not in a queue. */
struct sim_timed {
    uint64_t at, seq;
    size_t slot; /* 1 + place in the heap, 0: not queued */
};
struct sim_queue {
    uint64_t now; /* in the unit of the simulation: it never goes back */
    uint64_t next_seq;
    struct sim_timed **heap;
    size_t n, cap;
};
void sim_queue_fini(struct sim_queue *q);                                  /* the events stay their owners' */
void sim_queue_add(struct sim_queue *q, struct sim_timed *e, uint64_t at); /* AT in the past: now */
void sim_queue_remove(struct sim_queue *q, struct sim_timed *e);           /* not queued: nothing */
static inline bool sim_queue_has(const struct sim_timed *e)
{
    return e->slot != 0;
}
struct sim_timed *sim_queue_first(const struct sim_queue *q); /* NULL: empty */
/* Takes the first event out and moves the clock to it; NULL, with the clock at UNTIL, if none is due by then.
 */
struct sim_timed *sim_queue_pop(struct sim_queue *q, uint64_t until);

#endif
