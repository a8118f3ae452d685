/* sim_scripts [--guards-off MASK --expect-failure]
 *
 * Scripts instead of chance, for the moments that matter most and that chance meets seldom: a leader dies at
 * each millisecond after it has taken a promotion, or a demotion that leaves one voter, or a command as the
 * only voter with a standby, with its power or without. Afterwards the simulation's own checks hold (no
 * divergence, one leader of a term), and whoever is left elects a leader and goes on. */
#include "sim.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_SEEDS = 6, LAST_MS = 45, ELECT_MS = 10000, SETTLE_MS = 3000 };

struct script {
    const char *name;
    unsigned n_voters, n_standbys;
    enum { PROMOTE, DEMOTE, COMMAND } what;
    unsigned id;      /* who is promoted or demoted */
    bool leader_back; /* it starts again; otherwise the others must do without it */
};
static const struct script scripts[] = {
    {"a standby becomes the second voter", 1, 1, PROMOTE, 2, true},
    {"a standby becomes the third voter", 2, 1, PROMOTE, 3, true},
    {"a standby becomes the fourth voter, the leader stays away", 3, 1, PROMOTE, 4, false},
    {"two voters become one", 2, 0, DEMOTE, 2, true},
    {"three voters become two, the leader comes back", 3, 0, DEMOTE, 3, true},
    {"a command of the only voter, with a standby", 1, 1, COMMAND, 0, true},
};

static struct sim_node *leader_of(struct sim *s)
{
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        if (sim_node_is_running(n) && driver_get_role(n->driver) == DRIVER_LEADER)
            return n;
    }
    return NULL;
}

static struct sim_node *await_leader(struct sim *s)
{
    uint64_t end = s->now + ELECT_MS;
    while (!s->is_bad && s->now < end && !leader_of(s))
        sim_run(s, s->now + 5);
    struct sim_node *leader = leader_of(s);
    if (!leader)
        sim_bad(s, "NO LEADER within %d ms", ELECT_MS);
    return leader;
}

static void submit(struct sim *s, struct sim_node *n)
{
    struct blob *payload = blob_new(NULL, 8);
    memcpy(payload->data, &s->next_value, 8);
    s->next_value++;
    int rc = driver_submit(n->driver, s->now, &payload, 1, NULL, NULL);
    if (rc)
        sim_bad(s, "node %u refuses a command: %s", n->id, err_text(rc));
    blob_unref(payload);
}

/* Until WHAT is accepted: everybody must have answered before. */
static void change(struct sim *s, int (*what)(struct driver *, uint64_t, uint64_t, struct err_ctx *),
                   uint64_t id)
{
    struct err_ctx err = {0};
    for (unsigned i = 0; i < 200 && !s->is_bad; i++) {
        struct sim_node *leader = await_leader(s);
        if (!leader || !what(leader->driver, s->now, id, &err))
            return;
        sim_run(s, s->now + 10);
    }
    sim_bad(s, "the change is refused: %s", err.text);
}

static void set_up(struct sim *s, const struct script *script)
{
    struct configuration conf = {0};
    for (unsigned i = 1; i <= script->n_voters; i++)
        configuration_add(&conf, i, CONFIGURATION_VOTER);
    for (unsigned i = 1; i <= script->n_voters + script->n_standbys; i++) {
        if (i <= script->n_voters)
            sim_node_bootstrap(&s->nodes[i], &conf);
        sim_node_boot(&s->nodes[i]);
    }
    if (script->what == DEMOTE) { /* the one that goes does not lead */
        struct sim_node *leader = await_leader(s);
        sim_run(s, s->now + 300);
        if (leader && leader->id == script->id && !s->is_bad)
            driver_transfer(leader->driver, s->now, 1);
        sim_run(s, s->now + 500);
    }
    for (unsigned i = 0; i < script->n_standbys; i++)
        change(s, driver_add_standby, script->n_voters + 1 + i);
    sim_run(s, s->now + 500);
    struct sim_node *leader = await_leader(s);
    if (leader)
        submit(s, leader);
    sim_run(s, s->now + 300);
}

/* The leader dies AFTER_MS after it has taken what the script says. */
static void play(struct sim *s, const struct script *script, unsigned after_ms, bool power)
{
    set_up(s, script);
    struct sim_node *leader = s->is_bad ? NULL : await_leader(s);
    if (!leader)
        return;
    leader->disk_ms = 1 + after_ms % 20;
    if (script->what == COMMAND)
        submit(s, leader);
    else
        change(s, script->what == PROMOTE ? driver_promote : driver_demote, script->id);
    leader = leader_of(s);
    sim_run(s, s->now + after_ms);
    if (s->is_bad || !leader)
        return;
    sim_node_crash(leader, power);
    if (script->leader_back)
        sim_schedule(s, SIM_BOOT, leader, 1 + sim_draw(s, 1500));
    sim_run(s, s->now + SETTLE_MS);
    for (unsigned i = 0; i < 3 && !s->is_bad; i++) {
        unsigned long before = s->counts.n_commits;
        leader = await_leader(s);
        if (!leader)
            return;
        submit(s, leader);
        sim_run(s, s->now + SETTLE_MS);
        if (!s->is_bad && s->counts.n_commits == before)
            sim_bad(s, "NO PROGRESS afterwards");
    }
    struct driver_status st;
    if (!s->is_bad && (leader = leader_of(s))) {
        driver_get_status(leader->driver, &st);
        if (st.pending_change)
            sim_bad(s, "the change is STUCK");
    }
}

static bool run_one(const struct script *script, uint64_t seed, unsigned after_ms, bool power,
                    unsigned guards, bool quiet)
{
    struct sim *s = mem_new(struct sim);
    sim_init(s, seed * 1000 + after_ms, SIM_REORDER, guards);
    play(s, script, after_ms, power);
    sim_fini(s);
    bool is_bad = s->is_bad;
    if (is_bad && !quiet)
        printf("%s, seed %llu, the leader dies after %u ms%s: %s\n", script->name, (unsigned long long)seed,
               after_ms, power ? " with its power" : "", s->why);
    mem_free(s);
    return is_bad;
}

static unsigned run_script(const struct script *script, unsigned guards, bool quiet)
{
    unsigned n_bad = 0;
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++)
        for (unsigned after_ms = 0; after_ms <= LAST_MS && n_bad < 5; after_ms++)
            n_bad += run_one(script, seed, after_ms, (seed + after_ms) % 3, guards, quiet);
    return n_bad;
}

/* In a child: without a guard the core may abort. */
static bool fails_without(const struct script *script, unsigned guards)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stderr))
            _exit(2);
        bool is_bad = run_script(script, guards, false) != 0;
        fflush(stdout);
        _exit(is_bad);
    }
    return waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"guards-off", required_argument, NULL, 'g'},
                                          {"expect-failure", no_argument, NULL, 'x'},
                                          {NULL, 0, NULL, 0}};
    unsigned guards = DRIVER_GUARD_ALL, n_bad = 0;
    bool expects_failure = false;
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        if (c == 'g')
            guards &= ~(unsigned)strtoul(optarg, NULL, 0);
        else if (c == 'x')
            expects_failure = true;
        else
            return 2;
    }
    for (size_t i = 0; i < n_elements(scripts); i++)
        n_bad +=
            expects_failure ? fails_without(&scripts[i], guards) : run_script(&scripts[i], guards, false);
    printf("%zu scripts, %d deaths each: %u failed\n", n_elements(scripts), N_SEEDS * (LAST_MS + 1), n_bad);
    return expects_failure ? n_bad == 0 : n_bad != 0;
}
