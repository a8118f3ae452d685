/* Runs seeds in child processes, several at a time, and tells those that fail: a seed that aborts, hangs or
 * upsets a sanitizer is a failure as any other. */
#ifndef TESTS_SIM_JOBS_H
#define TESTS_SIM_JOBS_H

#include <stdbool.h>
#include <stdint.h>

enum { SIM_JOBS_MAX = 64, SIM_COUNTS_MAX = 32 };

struct sim_outcome {
    bool is_bad;
    char why[320];
    uint64_t digest; /* of the trace, where there is one */
    unsigned long counts[SIM_COUNTS_MAX];
};
struct sim_jobs {
    uint64_t first, n; /* seeds */
    unsigned jobs, seeds_per_child, seconds_per_seed;
    unsigned seconds;     /* start no further child after so long; 0: no limit */
    bool expects_failure; /* end with the first one, and be silent about it */
    bool leaves_memory;   /* what a child has not freed at its end is no fault */
    void (*run)(void *user, uint64_t seed, struct sim_outcome *out); /* in the child */
    void *user;
};
struct sim_totals {
    unsigned long n_run, n_bad;
    unsigned long counts[SIM_COUNTS_MAX];
};
void sim_jobs_run(const struct sim_jobs *o, struct sim_totals *out);

#endif
