/* A deterministic simulation of leases: real holders, grantors and confirmation rounds over a model of
 * elections, with processes that stand still, messages that are late or lost, and clocks that run up to 5 %
 * apart.
 *
 * Checked: when a node_down commits, the lease of that node and epoch is over on its own clock, at that very
 * moment; nobody holds a lease for an epoch that has ended; with everything healthy all hold leases and
 * nobody is taken down. */
#include "base/mem.h"
#include "replication/confirm.h"
#include "replication/lease.h"
#include "sim_queue.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 5, ELECTION_MS = 600, CHAOS_MS = 60000, CALM_MS = 20000 };

enum kind { PING, GRANT, ASK, OK };
struct msg {
    struct sim_timed timed;
    enum kind kind;
    uint32_t from, to;
    uint64_t a, b;
};

struct node {
    uint32_t id;
    uint64_t now_us;       /* its clock: runs a little slow or fast */
    int64_t rate;          /* in parts per million off */
    uint64_t paused_until; /* by the simulation's clock */
    uint64_t term;
    uint32_t leader; /* as it sees it */
    uint64_t mark;
    struct lease_holder holder;
    struct lease_grantor grantor;
    struct confirm confirm;
    uint64_t known_epoch; /* as applied here */
};

struct down {
    uint32_t node;
    uint64_t epoch, term, commit_us;
};

static struct {
    uint64_t seed, now_us, term, marks;
    struct sim_random random;
    struct sim_queue queue; /* microseconds */
    uint32_t leader;
    bool chaos;
    struct node nodes[N + 1];
    uint64_t epochs[N + 1];
    bool up[N + 1];
    struct down pending[64];
    unsigned n_pending;
    uint64_t term_applied_us; /* when the first entry of this term is applied at the leader */
    uint64_t n_downs, n_grants, n_elections;
} S;

static uint64_t rnd(uint64_t n)
{
    return sim_random_below(&S.random, n);
}
static bool chance(unsigned per_million)
{
    return sim_random_chance(&S.random, per_million);
}
#define check(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "seed %llu, %llu us: ", (unsigned long long)S.seed,                              \
                    (unsigned long long)S.now_us);                                                           \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static uint64_t ms(const struct node *n)
{
    return n->now_us / 1000;
}

static void post(enum kind kind, uint32_t from, uint32_t to, uint64_t a, uint64_t b)
{
    if (S.chaos && chance(30000))
        return;
    uint64_t delay = 200 + rnd(1000);
    if (S.chaos && chance(50000))
        delay += rnd(1500000);
    struct msg *m = mem_new(struct msg);
    *m = (struct msg){.kind = kind, .from = from, .to = to, .a = a, .b = b};
    sim_queue_add(&S.queue, &m->timed, S.now_us + delay);
}

/* ---- ops ---- */

static uint64_t want_round(void *user)
{
    return confirm_want(&((struct node *)user)->confirm);
}
static void grant(void *user, uint32_t node, uint64_t ping)
{
    struct node *n = user;
    S.n_grants++;
    if (node == n->id)
        lease_holder_on_grant(&n->holder, ping);
    else
        post(GRANT, n->id, node, ping, 0);
}
static bool submit_down(void *user, uint32_t node, uint64_t epoch, uint64_t term)
{
    struct node *n = user;
    if (S.n_pending == n_elements(S.pending))
        return false;
    /* A deposed leader's submission never commits: the log of another has taken over. */
    if (n->id == S.leader && term == S.term)
        S.pending[S.n_pending++] =
            (struct down){node, epoch, term, S.now_us + 500 + rnd(S.chaos ? 300000 : 2000)};
    return true;
}
static const struct lease_ops lease_ops = {want_round, grant, submit_down};

static void ask(void *user, uint32_t voter, uint64_t term, uint64_t round)
{
    post(ASK, ((struct node *)user)->id, voter, term, round);
}
static void confirmed(void *user, uint64_t round)
{
    struct node *n = user;
    lease_grantor_on_round(&n->grantor, ms(n), round);
}
static const struct confirm_ops confirm_ops = {ask, confirmed};

/* ---- the model ---- */

static void set_nodes(struct node *n, bool ready)
{
    struct lease_node rows[N];
    for (uint32_t id = 1; id <= N; id++)
        rows[id - 1] = (struct lease_node){id, S.epochs[id], S.up[id]};
    lease_grantor_set_nodes(&n->grantor, rows, N, ready);
}

static void learn(struct node *n, uint64_t term, uint32_t leader)
{
    if (term < n->term || (term == n->term && n->leader == leader))
        return;
    n->term = term;
    n->leader = leader;
    n->mark = ++S.marks;
    uint64_t lead = leader == n->id ? term : 0;
    confirm_lead(&n->confirm, lead);
    lease_grantor_lead(&n->grantor, ms(n), lead);
}

/* A majority that runs elects one of its own; the others hear of it later. */
static void elect(void)
{
    uint32_t ids[N], n = 0;
    for (uint32_t id = 1; id <= N; id++)
        if (S.now_us >= S.nodes[id].paused_until)
            ids[n++] = id;
    if (n <= N / 2)
        return;
    while (n > N / 2 + 1 && chance(500000)) {
        uint32_t drop = (uint32_t)rnd(n);
        ids[drop] = ids[--n];
    }
    S.term++;
    S.leader = ids[rnd(n)];
    S.n_elections++;
    S.n_pending = 0; /* those of the old term come too late: the FSM refuses them */
    S.term_applied_us = S.now_us + 1000 + rnd(S.chaos ? 500000 : 3000);
    for (uint32_t i = 0; i < n; i++)
        learn(&S.nodes[ids[i]], S.term, S.leader);
}

static void commit_downs(void)
{
    for (unsigned i = 0; i < S.n_pending;) {
        struct down d = S.pending[i];
        if (d.commit_us > S.now_us) {
            i++;
            continue;
        }
        S.pending[i] = S.pending[--S.n_pending];
        if (d.epoch != S.epochs[d.node])
            continue;
        struct node *n = &S.nodes[d.node];
        check(n->holder.epoch != d.epoch || lease_holder_until(&n->holder) <= ms(n),
              "node %u (epoch %llu) is taken down and holds a lease for %llu ms", d.node,
              (unsigned long long)d.epoch, (unsigned long long)(lease_holder_until(&n->holder) - ms(n)));
        check(S.chaos, "node %u is taken down in calm", d.node);
        S.epochs[d.node]++;
        S.up[d.node] = false;
        S.n_downs++;
    }
}

static void deliver(const struct msg *m)
{
    struct node *n = &S.nodes[m->to];
    switch (m->kind) {
    case PING:
        lease_grantor_on_ping(&n->grantor, m->from, m->a, m->b);
        break;
    case GRANT:
        lease_holder_on_grant(&n->holder, m->a);
        break;
    case ASK:
        if (m->a > n->term)
            learn(n, m->a, m->from);
        if (n->term == m->a && n->leader == m->from)
            post(OK, n->id, m->from, m->a, m->b);
        break;
    case OK:
        confirm_on_ok(&n->confirm, m->from, m->a, m->b);
        break;
    }
}

static void step_node(struct node *n)
{
    uint64_t ping;
    /* Applies what has committed: its own epoch, and the members. */
    if (!S.up[n->id] && (!S.chaos || chance(5000))) {
        S.epochs[n->id]++; /* registers anew, and comes up */
        S.up[n->id] = true;
    }
    if (!S.chaos || chance(10000))
        n->known_epoch = S.epochs[n->id];
    lease_holder_set(&n->holder, true, n->known_epoch, n->leader ? n->mark : 0);
    if (lease_holder_tick(&n->holder, ms(n), ms(n), &ping)) {
        if (n->leader == n->id)
            lease_grantor_on_ping(&n->grantor, n->id, n->holder.epoch, ping);
        else
            post(PING, n->id, n->leader, n->holder.epoch, ping);
    }
    set_nodes(n, n->id == S.leader && n->term == S.term && S.now_us >= S.term_applied_us);
    confirm_pump(&n->confirm, ms(n), 60);
    if (ms(n) / 50 != (n->now_us - 1000) / 1000 / 50)
        lease_grantor_tick(&n->grantor, ms(n));
}

static void step(void)
{
    S.now_us += 1000;
    for (uint32_t id = 1; id <= N; id++)
        S.nodes[id].now_us += (uint64_t)(1000 + S.nodes[id].rate * 1000 / 1000000);
    commit_downs();
    if (S.chaos && chance(400))
        elect();
    if (S.chaos && chance(300))
        S.nodes[1 + rnd(N)].paused_until = S.now_us + rnd(4000000);
    for (struct sim_timed *t; (t = sim_queue_pop(&S.queue, S.now_us));) {
        struct msg *m = container_of(t, struct msg, timed);
        uint64_t paused_until = S.nodes[m->to].paused_until;
        if (S.now_us < paused_until) {
            sim_queue_add(&S.queue, t, paused_until);
            continue;
        }
        deliver(m);
        mem_free(m);
    }
    for (uint32_t id = 1; id <= N; id++)
        if (S.now_us >= S.nodes[id].paused_until)
            step_node(&S.nodes[id]);
}

static void drop_messages(void)
{
    for (struct sim_timed *t; (t = sim_queue_first(&S.queue));) {
        sim_queue_remove(&S.queue, t);
        mem_free(container_of(t, struct msg, timed));
    }
}

static void run(uint64_t seed)
{
    memset(&S, 0, sizeof(S));
    S.seed = seed;
    sim_random_init(&S.random, seed);
    S.now_us = 10000000;
    S.chaos = true;
    uint32_t voters[N];
    for (uint32_t id = 1; id <= N; id++)
        voters[id - 1] = id;
    for (uint32_t id = 1; id <= N; id++) {
        struct node *n = &S.nodes[id];
        n->id = id;
        n->now_us = S.now_us + rnd(5000000);
        n->rate = (int64_t)rnd(100001) - 50000;
        S.epochs[id] = 1;
        S.up[id] = true;
        lease_holder_init(&n->holder, ELECTION_MS, 1);
        lease_grantor_init(&n->grantor, &lease_ops, n, ELECTION_MS);
        confirm_init(&n->confirm, &confirm_ops, n, id);
        confirm_set_voters(&n->confirm, voters, N);
    }
    elect();
    uint64_t end = S.now_us + CHAOS_MS * 1000ull;
    while (S.now_us < end)
        step();
    /* Calm: everybody runs and hears of the last leader; after five seconds nothing may happen any more. */
    for (uint32_t id = 1; id <= N; id++)
        S.nodes[id].paused_until = 0;
    elect();
    for (unsigned i = 0; i < 5000; i++)
        step();
    S.chaos = false;
    for (uint32_t id = 1; id <= N; id++)
        S.nodes[id].paused_until = 0;
    elect();
    for (uint32_t id = 1; id <= N; id++)
        learn(&S.nodes[id], S.term, S.leader);
    drop_messages();
    end = S.now_us + CALM_MS * 1000ull;
    while (S.now_us < end) {
        step();
        for (uint32_t id = 1; id <= N && S.now_us > end - 10000000; id++)
            check(lease_holder_until(&S.nodes[id].holder) > ms(&S.nodes[id]), "node %u has no lease in calm",
                  id);
    }
    drop_messages();
    sim_queue_fini(&S.queue);
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20,
             first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint64_t downs = 0, grants = 0, elections = 0;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        run(seed);
        downs += S.n_downs;
        grants += S.n_grants;
        elections += S.n_elections;
    }
    printf("%llu seeds: %llu leases, %llu node_down, %llu elections\n", (unsigned long long)seeds,
           (unsigned long long)grants, (unsigned long long)downs, (unsigned long long)elections);
    return downs > 0 && grants > 0 && elections > 0 ? 0 : 1;
}
