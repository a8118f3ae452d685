/* Counters and gauges for /metrics. One enum from metrics.def; atomic relaxed cells, any thread. */
#ifndef BASE_METRICS_H
#define BASE_METRICS_H

#include "base/buf.h"
#include <stdint.h>

enum metric {
#define X(id, kind, name, help) METRIC_##id,
#include "base/metrics.def"
#undef X
    N_METRICS
};

/* How long the turns of one event loop take, from the end of its sleep to the next: what else waits for it
 * meanwhile. Written by the loop's thread alone; the longest is of this minute and the one before, so that a
 * peak goes again. */
struct metrics_turns {
    char name[16];
    uint64_t minute; /* of max_us; the loop's alone */
    _Atomic uint64_t max_us, last_max_us, n, n_slow;
};
enum { METRICS_MAX_LOOPS = 72, METRICS_SLOW_TURN_US = 50000 };

struct metrics {
    _Atomic int64_t value[N_METRICS];
    _Atomic unsigned n_loops;
    struct metrics_turns loops[METRICS_MAX_LOOPS];
};
void metrics_add(struct metrics *m, enum metric id, int64_t delta); /* m may be NULL */
void metrics_set(struct metrics *m, enum metric id, int64_t value);
/* A loop's record; NULL: M is NULL, or there are too many. */
struct metrics_turns *metrics_add_loop(struct metrics *m, const char *name);
void metrics_turn(struct metrics_turns *t, uint64_t end_us, uint64_t took_us); /* t may be NULL */
int64_t metrics_get(const struct metrics *m, enum metric id);
/* Prometheus text format, version 0.0.4, with process CPU, memory, open files and the turns of the loops. */
void metrics_render(const struct metrics *m, struct buf *out);

#endif
