/* world --seeds N [--seed S] [--jobs N] [--mutation NAME] [--options MASK] [--expect-failure] [--seconds N]
 * [--twice]
 * [--verbose]
 *
 * The simulation of whole nodes. A seed that fails is printed, and gives the same run again: with --verbose
 * every event of note, twice given with the logs of the nodes. --twice runs each seed twice and compares the
 * digests of the traces. With --mutation a fault is put into the product, and with --expect-failure it is a
 * success if a seed fails. */
#include "sim_jobs.h"
#include "world.h"

#include <dirent.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SECONDS_PER_SEED = 120 };

struct options {
    struct sim_jobs jobs;
    unsigned options; /* enum world_option */
    enum world_mutation mutation;
    bool twice;
    unsigned trace;
    char root[64];
};

static void remove_dir(const char *path)
{
    char name[600];
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        if (unlink(name))
            remove_dir(name);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

static void take_counts(struct sim_outcome *out)
{
    _Static_assert(sizeof(struct world_counts) <= sizeof(out->counts), "SIM_COUNTS_MAX");
    memcpy(out->counts, &W->counts, sizeof(W->counts));
    out->is_bad = W->is_bad;
    out->digest = W->digest;
    memcpy(out->why, W->why, sizeof(W->why));
}

/* What the nodes of a seed left in memory is its process's: one seed, one process. */
static void run_once(const struct options *o, uint64_t seed, struct sim_outcome *out)
{
    char root[80];
    snprintf(root, sizeof(root), "%s/%llu.%d", o->root, (unsigned long long)seed, (int)getpid());
    mkdir(root, 0700);
    world_init(seed, o->options, o->mutation, o->trace, root);
    world_scenario();
    world_end();
    take_counts(out);
    remove_dir(root);
}

static void run_twice(const struct options *o, uint64_t seed, struct sim_outcome *out)
{
    struct sim_outcome first;
    int fds[2], status;
    if (pipe(fds))
        abort();
    pid_t pid = fork();
    if (pid == 0) {
        run_once(o, seed, &first);
        _exit(write(fds[1], &first, sizeof(first)) != sizeof(first));
    }
    close(fds[1]);
    bool is_there = pid > 0 && read(fds[0], &first, sizeof(first)) == sizeof(first);
    close(fds[0]);
    waitpid(pid, &status, 0);
    run_once(o, seed, out);
    if (!out->is_bad && (!is_there || first.digest != out->digest)) {
        out->is_bad = true;
        snprintf(out->why, sizeof(out->why), "two runs of the seed differ: %016llx, %016llx",
                 is_there ? (unsigned long long)first.digest : 0, (unsigned long long)out->digest);
    }
}

static void run_seed(void *user, uint64_t seed, struct sim_outcome *out)
{
    const struct options *o = user;
    if (o->twice)
        run_twice(o, seed, out);
    else
        run_once(o, seed, out);
}

static int find_mutation(const char *name)
{
    for (int m = 0; m < N_MUTATIONS; m++)
        if (!strcmp(world_mutation_name((enum world_mutation)m), name))
            return m;
    fprintf(stderr, "no such mutation; there are:\n");
#define X(id, name, help) fprintf(stderr, "  %-18s %s\n", name, help);
#include "world_mutations.def"
#undef X
    return -1;
}

static int usage(const char *program)
{
    fprintf(stderr,
            "usage: %s [--seeds N] [--seed S] [--jobs N] [--seconds N] [--mutation NAME] [--options MASK] "
            "[--expect-failure] "
            "[--twice] [--verbose]\n",
            program);
    return 2;
}

static int parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"seeds", required_argument, NULL, 'n'},    {"seed", required_argument, NULL, 's'},
        {"jobs", required_argument, NULL, 'j'},     {"seconds", required_argument, NULL, 't'},
        {"mutation", required_argument, NULL, 'm'}, {"expect-failure", no_argument, NULL, 'x'},
        {"twice", no_argument, NULL, '2'},          {"verbose", no_argument, NULL, 'v'},
        {"options", required_argument, NULL, 'o'},  {NULL, 0, NULL, 0},
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
        case 'j':
            o->jobs.jobs = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            o->jobs.seconds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'm':
            if (find_mutation(optarg) < 0)
                return 2;
            o->mutation = (enum world_mutation)find_mutation(optarg);
            break;
        case 'o':
            o->options = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'x':
            o->jobs.expects_failure = true;
            break;
        case '2':
            o->twice = true;
            break;
        case 'v':
            o->trace++;
            break;
        default:
            return usage(argv[0]);
        }
    }
    return o->jobs.jobs < 1 || o->jobs.jobs > SIM_JOBS_MAX || o->jobs.n < 1 ? usage(argv[0]) : -1;
}

static void print_totals(const struct options *o, const struct sim_totals *t)
{
    struct world_counts c;
    memcpy(&c, t->counts, sizeof(c));
    printf(
        "%lu seeds from %llu: %lu failed; %lu s of virtual time, %lu events, %lu elections, %lu crashes, %lu "
        "pauses, %lu cuts, %lu installs, %lu joins, %lu removals, %lu moves; writes: %lu acknowledged, %lu "
        "never, "
        "%lu unknown; %lu current reads, %lu log-ins, %lu starts of services; healed after %lu ms, %lu "
        "after more than 5 s\n",
        t->n_run, (unsigned long long)o->jobs.first, t->n_bad, c.virtual_ms / 1000, c.n_events, c.n_elections,
        c.n_crashes, c.n_pauses, c.n_cuts, c.n_installs, c.n_joins, c.n_removals, c.n_moves, c.n_acked,
        c.n_never, c.n_unknown, c.n_reads, c.n_logins, c.n_releases, t->n_run ? c.healed_ms / t->n_run : 0,
        c.n_slow);
    if (o->options & WORLD_PHONES)
        printf("phones: %lu messages, %lu counted, %lu given back, %lu repeats; %lu sessions, %lu resumptions, %lu "
               "sessions lost\n",
               c.n_mails, c.n_counted, c.n_bounced, c.n_repeats, c.n_sessions, c.n_resumed, c.n_lost_sessions);
}

int main(int argc, char **argv)
{
    struct options o = {.jobs = {.first = 1,
                                 .n = 1,
                                 .jobs = 2,
                                 .seeds_per_child = 1,
                                 .seconds_per_seed = SECONDS_PER_SEED,
                                 .leaves_memory = true},
                        .options = WORLD_DEFAULT,
                        .mutation = N_MUTATIONS};
    char shm[] = "/dev/shm/imp-world-XXXXXX", tmp[] = "/tmp/imp-world-XXXXXX";
    struct sim_totals t;
    int rc = parse(&o, argc, argv);
    if (rc >= 0)
        return rc;
    const char *root = mkdtemp(shm);
    if (!root && !(root = mkdtemp(tmp))) {
        perror("mkdtemp");
        return 2;
    }
    snprintf(o.root, sizeof(o.root), "%s", root);
    o.jobs.run = run_seed;
    o.jobs.user = &o;
    sim_jobs_run(&o.jobs, &t);
    remove_dir(root);
    print_totals(&o, &t);
    return o.jobs.expects_failure ? t.n_bad == 0 : t.n_bad != 0;
}
