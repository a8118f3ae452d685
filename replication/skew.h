/* Clocks of the members. The leader's stands in for a command's time that is far from it, so a leader whose
 * own clock is off hands over (architecture: Commands). No state. */
#ifndef REPLICATION_SKEW_H
#define REPLICATION_SKEW_H

#include <stdint.h>

enum {
    SKEW_MAX_MS = 10000, /* from the median of the members */
    SKEW_FOR_MS = 3000, /* so long before anything follows: a clock may be set a moment earlier on one node */
    SKEW_MEMBERS = 65,
};

/* The median of the clocks, relative to ours, in ms (negative: ours is ahead). OTHERS: theirs minus ours, n
 * of them, at most SKEW_MEMBERS - 1; ours is added. */
int64_t skew_median(const int64_t *others, unsigned n);

#endif
