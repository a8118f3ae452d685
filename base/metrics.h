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
struct metrics {
    _Atomic int64_t value[N_METRICS];
};
void metrics_add(struct metrics *m, enum metric id, int64_t delta); /* m may be NULL */
void metrics_set(struct metrics *m, enum metric id, int64_t value);
int64_t metrics_get(const struct metrics *m, enum metric id);
/* Prometheus text format, version 0.0.4, with process CPU, resident memory and open files. */
void metrics_render(const struct metrics *m, struct buf *out);

#endif
