/* sim --seeds N [--seed S] [--guards-off MASK] [--options MASK] [--jobs N] [--seconds N] [--expect-failure]
 * [--verbose]
 *
 * Runs seeds S .. S + N - 1 in child processes, and prints those that fail. With --expect-failure
 * it is a success if one does: this keeps the guards honest. */
#include "sim.h"
#include "sim_jobs.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECONDS_PER_SEED = 60, SEEDS_PER_CHILD = 25 };

struct options {
    struct sim_jobs jobs;
    unsigned guards_off, sim_options;
    bool has_options, is_verbose;
};

/* Half of the seeds start with one voter; most have all faults, some only a few. */
static unsigned options_of(const struct options *o, uint64_t seed)
{
    if (o->has_options)
        return o->sim_options;
    unsigned options = SIM_ALL;
    if (seed % 2)
        options &= ~(unsigned)SIM_ONE_VOTER;
    if (seed % 3 == 0)
        options &= ~(unsigned)SIM_WILD;
    if (seed % 4 < 2)
        options &= ~(unsigned)SIM_CHURN;
    if (seed % 5 == 0)
        options &= ~(unsigned)SIM_REORDER;
    if (seed % 7 == 0)
        options &= ~(unsigned)SIM_SNAPSHOTS;
    if (seed % 11 == 0)
        options &= ~(unsigned)SIM_MEMBERS;
    if (seed % 13 == 0)
        options &= ~(unsigned)SIM_LOSS;
    return options;
}

static void run_seed(void *user, uint64_t seed, struct sim_outcome *out)
{
    const struct options *o = user;
    struct sim *s = mem_new(struct sim);
    unsigned options = options_of(o, seed);
    unsigned guards = DRIVER_GUARD_ALL & ~o->guards_off;
    if (options & SIM_WILD)
        guards &= ~(unsigned)DRIVER_GUARD_ANSWERS;
    sim_init(s, seed, options, guards);
    s->is_verbose = o->is_verbose;
    if (o->is_verbose)
        s->log = log_new(STDOUT_FILENO, LOG_TEXT, LOG_DEBUG, "");
    sim_scenario(s);
    sim_fini(s);
    _Static_assert(sizeof(s->counts) <= sizeof(out->counts), "SIM_COUNTS_MAX");
    out->is_bad = s->is_bad;
    memcpy(out->why, s->why, sizeof(s->why));
    memcpy(out->counts, &s->counts, sizeof(s->counts));
    mem_free(s);
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"seeds", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"guards-off", required_argument, NULL, 'g'},
        {"options", required_argument, NULL, 'o'},
        {"jobs", required_argument, NULL, 'j'},
        {"seconds", required_argument, NULL, 't'},
        {"expect-failure", no_argument, NULL, 'x'},
        {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'n':
            o->jobs.n = strtoull(optarg, NULL, 0);
            break;
        case 's':
            o->jobs.first = strtoull(optarg, NULL, 0);
            break;
        case 'g':
            o->guards_off = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'o':
            o->sim_options = (unsigned)strtoul(optarg, NULL, 0);
            o->has_options = true;
            break;
        case 'j':
            o->jobs.jobs = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            o->jobs.seconds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'x':
            o->jobs.expects_failure = true;
            break;
        case 'v':
            o->is_verbose = true;
            break;
        default:
            fprintf(stderr,
                    "usage: %s [--seeds N] [--seed S] [--guards-off MASK] [--options MASK] [--jobs N] "
                    "[--seconds N] "
                    "[--expect-failure] [--verbose]\n",
                    argv[0]);
            return c == 'h' ? 0 : 2;
        }
    }
    if (o->jobs.jobs < 1 || o->jobs.jobs > SIM_JOBS_MAX || o->jobs.n < 1) {
        fprintf(stderr, "%s: --jobs is 1 to %d, --seeds at least 1\n", argv[0], SIM_JOBS_MAX);
        return 2;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct options o = {.jobs = {.first = 1,
                                 .n = 1,
                                 .jobs = 2,
                                 .seeds_per_child = SEEDS_PER_CHILD,
                                 .seconds_per_seed = SECONDS_PER_SEED,
                                 .run = run_seed}};
    struct sim_totals t;
    struct sim_counts c;
    int rc = parse(&o, argc, argv);
    if (rc >= 0)
        return rc;
    o.jobs.user = &o;
    sim_jobs_run(&o.jobs, &t);
    memcpy(&c, t.counts, sizeof(c));
    printf(
        "%lu seeds from %llu: %lu failed; %lu commits, %lu messages, %lu elections, %lu crashes, %lu points, "
        "%lu installs, %lu changes applied, %lu disk reads, %lu rebuilt cores, %lu below the log\n",
        t.n_run, (unsigned long long)o.jobs.first, t.n_bad, c.n_commits, c.n_messages, c.n_elections,
        c.n_crashes, c.n_points, c.n_installs, c.n_changes, c.n_reads, c.n_rebuilt, c.n_below);
    return o.jobs.expects_failure ? t.n_bad == 0 : t.n_bad != 0;
}
