#include "sim_jobs.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SHOWN = 10 };

/* A child runs some seeds, one after the other, and tells the outcome of each. */
struct job {
    pid_t pid;
    int fd;
    uint64_t next, end; /* the seed it is at, and where it stops */
};

static void run_child(const struct sim_jobs *o, const struct job *j, int fd)
{
    if (o->expects_failure && !freopen("/dev/null", "w", stderr))
        _exit(2);
    for (uint64_t seed = j->next; seed < j->end; seed++) {
        struct sim_outcome out;
        memset(&out, 0, sizeof(out));
        alarm(o->seconds_per_seed);
        o->run(o->user, seed, &out);
        fflush(stdout);
        if (write(fd, &out, sizeof(out)) != sizeof(out))
            _exit(2);
    }
    close(fd);
    if (o->leaves_memory)
        _exit(0);
    exit(0); /* leaks are looked for */
}

static void start_job(const struct sim_jobs *o, struct job *j)
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

static void report(struct sim_totals *t, uint64_t seed, const char *why)
{
    if (t->n_bad++ < MAX_SHOWN) {
        printf("seed %llu: %s\n", (unsigned long long)seed, why);
        fflush(stdout);
    }
}

/* The child has ended: all is told, or the seed that it was at has ended it. */
static void end_job(struct job *j, struct sim_totals *t)
{
    int status;
    char text[64];
    close(j->fd);
    waitpid(j->pid, &status, 0);
    j->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0 && j->next == j->end)
        return;
    if (j->next == j->end) {
        report(t, j->end - 1, "a sanitizer objects at the end (a leak?) of this or a seed shortly before it");
        return;
    }
    snprintf(text, sizeof(text), "a sanitizer objects, or the process ended with %d", WEXITSTATUS(status));
    report(t, j->next++,
           !WIFSIGNALED(status)          ? text
           : WTERMSIG(status) == SIGALRM ? "hangs"
                                         : strsignal(WTERMSIG(status)));
    t->n_run++;
}

/* The next outcome of a child. False: it has ended. */
static bool read_outcome(struct job *j, struct sim_totals *t)
{
    struct sim_outcome out;
    if (read(j->fd, &out, sizeof(out)) != (ssize_t)sizeof(out))
        return false;
    for (unsigned i = 0; i < SIM_COUNTS_MAX; i++)
        t->counts[i] += out.counts[i];
    t->n_run++;
    if (out.is_bad)
        report(t, j->next, out.why);
    j->next++;
    return true;
}

static void abandon(struct job *j)
{
    kill(j->pid, SIGKILL);
    waitpid(j->pid, NULL, 0);
    close(j->fd);
    j->pid = 0;
}

void sim_jobs_run(const struct sim_jobs *o, struct sim_totals *t)
{
    struct job jobs[SIM_JOBS_MAX];
    uint64_t next = o->first, end = o->first + o->n;
    time_t began = time(NULL);
    memset(jobs, 0, sizeof(jobs));
    memset(t, 0, sizeof(*t));
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
                    j->end = end - next < o->seeds_per_child ? end : next + o->seeds_per_child;
                    next = j->end;
                }
                if (j->next < j->end)
                    start_job(o, j);
            }
            if (!j->pid)
                continue;
            is_any = true;
            if (is_enough)
                abandon(j);
            else if (!read_outcome(j, t))
                end_job(j, t);
        }
    }
}
