/* sim --seeds N [--seed S] [--guards-off MASK] [--options MASK] [--jobs N] [--seconds N] [--expect-failure]
 * [--verbose]
 *
 * Runs seeds S .. S + N - 1 in child processes, and prints those that fail. With --expect-failure
 * it is a success if one does: this keeps the guards honest. */
#include "sim.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS_PER_SEED = 60, SEEDS_PER_CHILD = 25, MAX_JOBS = 64, MAX_SHOWN = 10 };

struct options {
    uint64_t first, n;
    unsigned guards_off, sim_options;
    bool has_options, expects_failure, is_verbose;
    unsigned jobs, seconds;
};
struct outcome {
    char why[256];
    bool is_bad;
    struct sim_counts counts;
};
/* A child runs some seeds, one after the other, and tells the outcome of each. */
struct job {
    pid_t pid;
    int fd;
    uint64_t next, end; /* the seed it is at, and where it stops */
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
    sim_fini(s);
    bool is_bad = s->is_bad;
    memcpy(out->why, s->why, sizeof(out->why));
    out->counts = s->counts;
    mem_free(s);
    return is_bad;
}

static void run_child(const struct options *o, const struct job *j, int fd)
{
    if (o->expects_failure && !freopen("/dev/null", "w", stderr))
        _exit(2);
    for (uint64_t seed = j->next; seed < j->end; seed++) {
        struct outcome out;
        memset(&out, 0, sizeof(out));
        alarm(SECONDS_PER_SEED);
        out.is_bad = run_seed(o, seed, &out);
        fflush(stdout);
        if (write(fd, &out, sizeof(out)) != sizeof(out))
            _exit(2);
    }
    close(fd);
    exit(0); /* not _exit: leaks are looked for */
}

static void start_job(const struct options *o, struct job *j)
{
    int fds[2];
    if (pipe(fds)) {
        perror("pipe");
        exit(2);
    }
    fflush(stdout);
    j->pid = fork();
    if (j->pid < 0) {
        perror("fork");
        exit(2);
    }
    if (j->pid == 0) {
        close(fds[0]);
        run_child(o, j, fds[1]);
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

static void report(struct totals *t, uint64_t seed, const char *why)
{
    if (t->n_bad++ < MAX_SHOWN)
        printf("seed %llu: %s\n", (unsigned long long)seed, why);
}

/* The child has ended: all is told, or the seed that it was at has ended it. */
static void end_job(struct job *j, struct totals *t)
{
    int status;
    close(j->fd);
    waitpid(j->pid, &status, 0);
    j->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && j->next == j->end)
        return;
    if (j->next == j->end) {
        report(t, j->end - 1, "a sanitizer objects at the end (a leak?) of this or a seed shortly before it");
        return;
    }
    report(t, j->next++,
           !WIFSIGNALED(status)          ? "a sanitizer objects"
           : WTERMSIG(status) == SIGALRM ? "hangs"
                                         : strsignal(WTERMSIG(status)));
    t->n_run++;
}

/* The next outcome of a child. False: it has ended. */
static bool read_outcome(struct job *j, struct totals *t)
{
    struct outcome out;
    if (read(j->fd, &out, sizeof(out)) != (ssize_t)sizeof(out))
        return false;
    add_counts(&t->counts, &out.counts);
    t->n_run++;
    if (out.is_bad)
        report(t, j->next, out.why);
    j->next++;
    return true;
}

static void run_all(const struct options *o, struct totals *t)
{
    struct job jobs[MAX_JOBS];
    uint64_t next = o->first, end = o->first + o->n;
    time_t began = time(NULL);
    memset(jobs, 0, sizeof(jobs));
    for (bool is_any = true; is_any;) {
        is_any = false;
        for (unsigned i = 0; i < o->jobs; i++) {
            struct job *j = &jobs[i];
            bool is_enough = o->expects_failure && t->n_bad;
            if (!j->pid && !is_enough) {
                if (o->seconds && time(NULL) - began >= (time_t)o->seconds)
                    end = next;
                if (j->next == j->end) {
                    j->next = next;
                    j->end = end - next < SEEDS_PER_CHILD ? end : next + SEEDS_PER_CHILD;
                    next = j->end;
                }
                if (j->next < j->end)
                    start_job(o, j);
            }
            if (!j->pid)
                continue;
            is_any = true;
            if (is_enough) {
                kill(j->pid, SIGKILL);
                waitpid(j->pid, NULL, 0);
                close(j->fd);
                j->pid = 0;
            } else if (!read_outcome(j, t)) {
                end_job(j, t);
            }
        }
    }
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
        case 't':
            o->seconds = (unsigned)strtoul(optarg, NULL, 0);
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
                    "[--seconds N] "
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
