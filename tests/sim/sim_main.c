/* sim --seeds N [--seed S] [--guards-off MASK] [--options MASK] [--jobs N] [--expect-failure] [--verbose]
 *
 * Runs seeds S .. S + N - 1, each in a process of its own, and prints those that fail. With --expect-failure
 * it is a success if one does: this keeps the guards honest. */
#include "sim.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_PER_SEED = 60, MAX_JOBS = 64, MAX_SHOWN = 10 };

struct options {
    uint64_t first, n;
    unsigned guards_off, sim_options;
    bool has_options, expects_failure, is_verbose;
    unsigned jobs;
};
struct outcome {
    char why[256];
    struct sim_counts counts;
};
struct job {
    pid_t pid;
    int fd;
    uint64_t seed;
};
struct totals {
    unsigned long n_bad, n_run;
    struct sim_counts counts;
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

static int run_seed(const struct options *o, uint64_t seed, struct outcome *out)
{
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
    bool is_bad = s->is_bad;
    sim_fini(s);
    memcpy(out->why, s->why, sizeof(out->why));
    out->counts = s->counts;
    mem_free(s);
    return is_bad;
}

static void start_job(const struct options *o, struct job *j, uint64_t seed)
{
    int fds[2];
    if (pipe(fds)) {
        perror("pipe");
        exit(2);
    }
    fflush(stdout);
    j->seed = seed;
    j->pid = fork();
    if (j->pid < 0) {
        perror("fork");
        exit(2);
    }
    if (j->pid == 0) {
        struct outcome out;
        memset(&out, 0, sizeof(out));
        alarm(SECONDS_PER_SEED);
        close(fds[0]);
        if (o->expects_failure && !freopen("/dev/null", "w", stderr))
            _exit(2);
        int rc = run_seed(o, seed, &out);
        fflush(stdout);
        if (write(fds[1], &out, sizeof(out)) != sizeof(out))
            _exit(2);
        close(fds[1]);
        exit(rc); /* not _exit: leaks are looked for */
    }
    close(fds[1]);
    j->fd = fds[0];
}

static void add_counts(struct sim_counts *to, const struct sim_counts *from)
{
    to->n_commits += from->n_commits;
    to->n_elections += from->n_elections;
    to->n_crashes += from->n_crashes;
    to->n_installs += from->n_installs;
    to->n_points += from->n_points;
    to->n_changes += from->n_changes;
    to->n_reads += from->n_reads;
    to->n_rebuilt += from->n_rebuilt;
    to->n_below += from->n_below;
    to->n_messages += from->n_messages;
}

static void end_job(struct job *j, struct totals *t)
{
    struct outcome out;
    int status;
    memset(&out, 0, sizeof(out));
    ssize_t n = read(j->fd, &out, sizeof(out));
    close(j->fd);
    waitpid(j->pid, &status, 0);
    j->pid = 0;
    t->n_run++;
    add_counts(&t->counts, &out.counts);
    bool is_good = n == (ssize_t)sizeof(out) && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (is_good)
        return;
    if (t->n_bad++ >= MAX_SHOWN)
        return;
    if (WIFSIGNALED(status))
        printf("seed %llu: %s%s\n", (unsigned long long)j->seed,
               WTERMSIG(status) == SIGALRM ? "hangs" : strsignal(WTERMSIG(status)), out.why);
    else
        printf("seed %llu: %s\n", (unsigned long long)j->seed, out.why[0] ? out.why : "a sanitizer objects");
}

static void run_all(const struct options *o, struct totals *t)
{
    struct job jobs[MAX_JOBS];
    memset(jobs, 0, sizeof(jobs));
    for (uint64_t i = 0; i < o->n; i++) {
        struct job *j = &jobs[i % o->jobs];
        if (j->pid)
            end_job(j, t);
        if (o->expects_failure && t->n_bad)
            break;
        start_job(o, j, o->first + i);
    }
    for (unsigned i = 0; i < o->jobs; i++)
        if (jobs[i].pid)
            end_job(&jobs[i], t);
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"seeds", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"guards-off", required_argument, NULL, 'g'},
        {"options", required_argument, NULL, 'o'},
        {"jobs", required_argument, NULL, 'j'},
        {"expect-failure", no_argument, NULL, 'x'},
        {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'n':
            o->n = strtoull(optarg, NULL, 0);
            break;
        case 's':
            o->first = strtoull(optarg, NULL, 0);
            break;
        case 'g':
            o->guards_off = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'o':
            o->sim_options = (unsigned)strtoul(optarg, NULL, 0);
            o->has_options = true;
            break;
        case 'j':
            o->jobs = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'x':
            o->expects_failure = true;
            break;
        case 'v':
            o->is_verbose = true;
            break;
        default:
            fprintf(stderr,
                    "usage: %s [--seeds N] [--seed S] [--guards-off MASK] [--options MASK] [--jobs N] "
                    "[--expect-failure] [--verbose]\n",
                    argv[0]);
            return c == 'h' ? 0 : 2;
        }
    }
    if (o->jobs < 1 || o->jobs > MAX_JOBS || o->n < 1) {
        fprintf(stderr, "%s: --jobs is 1 to %d, --seeds at least 1\n", argv[0], MAX_JOBS);
        return 2;
    }
    return -1;
}

int main(int argc, char **argv)
{
    struct options o = {.first = 1, .n = 1, .jobs = 2};
    struct totals t = {0};
    int rc = parse(&o, argc, argv);
    if (rc >= 0)
        return rc;
    run_all(&o, &t);
    const struct sim_counts *c = &t.counts;
    printf(
        "%lu seeds from %llu: %lu failed; %lu commits, %lu messages, %lu elections, %lu crashes, %lu points, "
        "%lu installs, %lu changes applied, %lu disk reads, %lu rebuilt cores, %lu below the log\n",
        t.n_run, (unsigned long long)o.first, t.n_bad, c->n_commits, c->n_messages, c->n_elections,
        c->n_crashes, c->n_points, c->n_installs, c->n_changes, c->n_reads, c->n_rebuilt, c->n_below);
    return o.expects_failure ? t.n_bad == 0 : t.n_bad != 0;
}
