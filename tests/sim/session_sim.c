/* A deterministic simulation of proposer sessions: real proposers and real packing above a model of Raft (one
 * log, of which a new leader keeps at least what is committed) and of the FSM's session rules. Forwarded
 * proposals and registrations are lost, repeated and reordered; leaders change; nodes restart; epochs are
 * ended by node_down.
 *
 * Checked: every command executes at most once; those of one node in the order submitted; each call is
 * answered exactly once, and what the answer says is true: 0 if and only if it executed at that index,
 * ERR_UNAVAILABLE only if it never does; after healing everything is executed within ten seconds. */
#include "base/arena.h"
#include "base/mem.h"
#include "replication/fsm.h"
#include "replication/pack.h"
#include "replication/proposer.h"
#include "sim_queue.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 3, MAX_LOG = 60000, MAX_CALLS = 60000, CHAOS_MS = 20000, HEAL_MS = 10000 };

struct call {
    uint32_t node;
    unsigned life;
    bool answered, is_lost; /* lost: its process died before the answer */
    int code;
    uint64_t index, executed_at; /* executed_at: 0 never */
};

/* The FSM's view of one node. */
struct session {
    uint64_t epoch, session_epoch, next_seq;
    uint8_t nonce[PROPOSER_NONCE];
    bool has_session;
};
struct machine {
    struct session sessions[N + 1];
};

struct node {
    uint32_t id;
    unsigned life;
    struct proposer *proposer;
    struct machine machine;
    uint64_t applied;
    uint64_t route;
    unsigned last_submitted;
};

struct wire { /* on its way to the leader */
    struct sim_timed timed;
    uint32_t from;
    uint64_t route;
    bool is_register;
    uint64_t epoch, seq;
    uint8_t nonce[PROPOSER_NONCE];
    uint32_t n;
    uint8_t bytes[32];
};

struct entry {
    uint64_t term;
    struct blob *blob;
};

static struct {
    uint64_t seed, now_ms, term;
    struct sim_random random;
    struct sim_queue queue; /* milliseconds */
    uint32_t leader;        /* 0: none */
    struct entry log[MAX_LOG];
    uint64_t last, committed;
    struct pack pack;
    struct node nodes[N + 1];
    struct machine reference;
    uint64_t reference_applied;
    unsigned last_executed[N + 1]; /* call number, per node */
    struct call calls[MAX_CALLS];
    unsigned n_calls;
    uint64_t route_count;
    bool chaos;
    uint64_t n_executed, n_duplicates, n_resent, n_downs, n_leaders, n_restarts, n_unknown, n_ended;
} S;

static uint64_t rnd(uint64_t n)
{
    return sim_random_below(&S.random, n);
}
static bool chance(unsigned per_1000)
{
    return rnd(1000) < per_1000;
}

#define check(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "seed %llu, %llu ms: ", (unsigned long long)S.seed,                              \
                    (unsigned long long)S.now_ms);                                                           \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* ---- what leaves the proposers ---- */

static void put_wire(const struct wire *w)
{
    unsigned copies = S.chaos && chance(30) ? 2 : 1;
    if (S.chaos && chance(50))
        return;
    while (copies--) {
        struct wire *x = mem_dup(w, sizeof(*w));
        sim_queue_add(&S.queue, &x->timed, S.now_ms + (S.chaos ? rnd(chance(100) ? 400 : 8) : 1));
    }
}

static bool send_proposal(void *user, uint64_t epoch, uint64_t seq, const void *command, size_t n_bytes)
{
    struct node *n = user;
    struct wire w = {.from = n->id, .route = n->route, .epoch = epoch, .seq = seq, .n = (uint32_t)n_bytes};
    assert(n_bytes <= sizeof(w.bytes));
    if (S.chaos && chance(5))
        return false;
    memcpy(w.bytes, command, n_bytes);
    put_wire(&w);
    return true;
}

static bool send_register(void *user, const uint8_t nonce[PROPOSER_NONCE], uint64_t expected_epoch)
{
    struct node *n = user;
    struct wire w = {.from = n->id, .route = n->route, .is_register = true, .epoch = expected_epoch};
    memcpy(w.nonce, nonce, PROPOSER_NONCE);
    put_wire(&w);
    return true;
}

static void draw_nonce(void *user, uint8_t nonce[PROPOSER_NONCE])
{
    for (unsigned i = 0; i < PROPOSER_NONCE; i++)
        nonce[i] = (uint8_t)rnd(256);
}

static const struct proposer_ops ops = {send_proposal, send_register, draw_nonce};

/* ---- the leader ---- */

static void pack_command(uint32_t node, uint64_t epoch, uint64_t seq, Imp__Command *command)
{
    uint8_t bytes[128];
    command->time_ms = 1000000 + S.now_ms;
    size_t n = imp__command__pack(command, bytes);
    assert(n <= sizeof(bytes));
    pack_add(&S.pack, 1000000 + S.now_ms, node, epoch, seq, bytes, n);
}

static void arrive(const struct wire *w)
{
    if (!S.leader)
        return;
    if (!w->is_register) {
        pack_add(&S.pack, 1000000 + S.now_ms, w->from, w->epoch, w->seq, w->bytes, w->n);
        return;
    }
    Imp__NodeRegister body = IMP__NODE_REGISTER__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = w->from;
    body.nonce.data = (uint8_t *)w->nonce;
    body.nonce.len = PROPOSER_NONCE;
    body.expected_epoch = w->epoch;
    command.body_case = IMP__COMMAND__BODY_NODE_REGISTER;
    command.node_register = &body;
    pack_command(0, 0, 0, &command);
}

static void node_down(uint32_t node)
{
    Imp__NodeDown body = IMP__NODE_DOWN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = node;
    body.epoch = S.reference.sessions[node].epoch;
    body.term = S.term;
    command.body_case = IMP__COMMAND__BODY_NODE_DOWN;
    command.node_down = &body;
    pack_command(0, 0, 0, &command);
}

static void append(void)
{
    struct blob *entries[8];
    unsigned n = pack_peek(&S.pack, entries, 8);
    for (unsigned i = 0; i < n; i++) {
        check(S.last + 1 < MAX_LOG, "log full");
        S.log[++S.last] = (struct entry){S.term, blob_ref(entries[i])};
    }
    pack_drop(&S.pack, n);
}

/* The new one has everything committed, and any part of what was not. */
static void change_leader(void)
{
    uint64_t keep = S.committed + rnd(S.last - S.committed + 1);
    while (S.last > keep)
        blob_unref(S.log[S.last--].blob);
    pack_clear(&S.pack);
    S.term++;
    S.leader = chance(300) ? 0 : 1 + (uint32_t)rnd(N);
    S.n_leaders++;
}

/* ---- the state machine's session rules, as in fsm.c ---- */

static bool execute(struct machine *m, const Imp__Proposal *p, uint64_t term)
{
    const Imp__Command *c = p->command;
    if (p->node) {
        struct session *s = &m->sessions[p->node];
        if (!s->has_session || s->session_epoch != p->epoch || s->epoch != p->epoch || s->next_seq != p->seq)
            return false;
        s->next_seq++;
        return true;
    }
    if (c->body_case == IMP__COMMAND__BODY_NODE_REGISTER) {
        const Imp__NodeRegister *b = c->node_register;
        struct session *s = &m->sessions[b->node];
        bool same = s->has_session && s->session_epoch == s->epoch &&
                    memcmp(s->nonce, b->nonce.data, PROPOSER_NONCE) == 0;
        if (same || b->expected_epoch != s->epoch)
            return true;
        s->epoch++;
        s->has_session = true;
        s->session_epoch = s->epoch;
        s->next_seq = 1;
        memcpy(s->nonce, b->nonce.data, PROPOSER_NONCE);
    } else if (c->body_case == IMP__COMMAND__BODY_NODE_DOWN) {
        struct session *s = &m->sessions[c->node_down->node];
        if (c->node_down->epoch == s->epoch && c->node_down->term == term)
            s->epoch++;
    }
    return true;
}

static void answer(const struct proposal_call *pc, int code, uint64_t index)
{
    struct call *c = pc->user;
    check(!c->answered, "a call is answered twice");
    check(!c->is_lost, "an answer in another life");
    c->answered = true;
    c->code = code;
    c->index = index;
}

static void on_answer(void *user, const struct proposal_call *call, int code)
{
    answer(call, code, 0);
}

static void tell_rows(struct node *n)
{
    const struct session *s = &n->machine.sessions[n->id];
    struct proposer_rows rows = {.is_member = true,
                                 .epoch = s->epoch,
                                 .has_session = s->has_session,
                                 .session_epoch = s->session_epoch,
                                 .next_seq = s->next_seq};
    memcpy(rows.nonce, s->nonce, PROPOSER_NONCE);
    proposer_on_rows(n->proposer, S.now_ms, &rows, on_answer, n);
}

static void apply_one(struct node *n, const Imp__Proposal *p, uint64_t index, uint64_t term)
{
    uint64_t epoch = n->machine.sessions[n->id].epoch;
    bool executed = execute(&n->machine, p, term);
    if (p->node == n->id) {
        struct proposal_call call;
        bool answered;
        if (proposer_seen(n->proposer, S.now_ms, p->epoch, p->seq, executed, &call, &answered) && !answered)
            answer(&call, 0, index);
    }
    if (n->machine.sessions[n->id].epoch != epoch)
        tell_rows(n);
}

/* What really happened: the committed log run once. */
static void reference_one(const Imp__Proposal *p, uint64_t index, uint64_t term)
{
    bool executed = execute(&S.reference, p, term);
    if (!p->node)
        return;
    S.n_duplicates += !executed;
    if (!executed)
        return;
    unsigned number = (unsigned)p->command->alarm_clear->node;
    struct call *c = &S.calls[number];
    check(c->node == p->node, "a command under another node's name");
    check(c->executed_at == 0, "call %u executes at %llu and at %llu", number,
          (unsigned long long)c->executed_at, (unsigned long long)index);
    check(number > S.last_executed[p->node] || S.last_executed[p->node] == 0, "out of order");
    S.last_executed[p->node] = number;
    c->executed_at = index;
    S.n_executed++;
}

static void run_entry(struct node *n, uint64_t index)
{
    Imp__Entry *e = imp__entry__unpack(NULL, S.log[index].blob->n, (const uint8_t *)S.log[index].blob->data);
    check(e, "packed entry %llu is no entry", (unsigned long long)index);
    for (size_t i = 0; i < e->n_proposals; i++) {
        if (n)
            apply_one(n, e->proposals[i], index, S.log[index].term);
        else
            reference_one(e->proposals[i], index, S.log[index].term);
    }
    imp__entry__free_unpacked(e, NULL);
}

/* ---- nodes ---- */

static void start(struct node *n)
{
    n->life++;
    n->proposer = proposer_new(&ops, n);
    n->route = 0;
    tell_rows(n); /* from the store, which outlives the process */
}

static void restart(struct node *n)
{
    for (unsigned i = 0; i < S.n_calls; i++)
        if (S.calls[i].node == n->id && S.calls[i].life == n->life && !S.calls[i].answered)
            S.calls[i].is_lost = true;
    proposer_free(n->proposer);
    S.n_restarts++;
    start(n);
}

static void submit(struct node *n)
{
    Imp__AlarmClear body = IMP__ALARM_CLEAR__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    uint8_t bytes[32];
    if (S.n_calls == MAX_CALLS)
        return;
    unsigned number = S.n_calls;
    S.calls[number] = (struct call){.node = n->id, .life = n->life};
    body.node = number;
    command.time_ms = 1000000 + S.now_ms + (chance(50) ? 50000 : 0);
    command.body_case = IMP__COMMAND__BODY_ALARM_CLEAR;
    command.alarm_clear = &body;
    size_t n_bytes = imp__command__pack(&command, bytes);
    struct proposal_call call = {.user = &S.calls[number]};
    bool first;
    uint64_t deadline = S.now_ms + (chance(100) ? rnd(300) : 30000);
    if (proposer_submit(n->proposer, S.now_ms, bytes, n_bytes, deadline, &call, &first) == 0)
        S.n_calls++;
}

static void step_node(struct node *n)
{
    uint64_t route = n->route;
    if (S.chaos && chance(2))
        route = 0;
    else if (route == 0 && (!S.chaos || chance(100)))
        route = ++S.route_count;
    n->route = S.leader ? route : 0;
    proposer_set_route(n->proposer, S.now_ms, n->route);
    for (unsigned i = rnd(4); i && chance(S.chaos ? 300 : 50); i--)
        submit(n);
    proposer_pump(n->proposer, S.now_ms, true);
    if (S.now_ms % 50 == 0)
        proposer_tick(n->proposer, S.now_ms, on_answer, n);
    for (uint64_t k = rnd(S.chaos ? 6 : 100); k && n->applied < S.committed; k--)
        run_entry(n, ++n->applied);
    if (S.chaos && chance(1) && chance(200))
        restart(n);
}

static void step(void)
{
    S.now_ms++;
    if (S.chaos ? chance(1) : S.leader == 0) {
        change_leader();
        /* Everybody hears of it, and has a new way there. */
        for (uint32_t id = 1; id <= N; id++)
            S.nodes[id].route = 0;
    }
    for (struct sim_timed *t; (t = sim_queue_pop(&S.queue, S.now_ms));) {
        struct wire *w = container_of(t, struct wire, timed);
        arrive(w);
        mem_free(w);
    }
    if (S.leader) {
        if (S.chaos && chance(1) && chance(300)) {
            node_down(1 + (uint32_t)rnd(N));
            S.n_downs++;
        }
        append();
        if (chance(500))
            S.committed += rnd(S.last - S.committed + 1);
    }
    while (S.reference_applied < S.committed)
        run_entry(NULL, ++S.reference_applied);
    for (uint32_t id = 1; id <= N; id++)
        step_node(&S.nodes[id]);
}

static void run(uint64_t seed)
{
    memset(&S, 0, sizeof(S));
    S.seed = seed;
    sim_random_init(&S.random, seed);
    S.chaos = true;
    pack_init(&S.pack);
    for (uint32_t id = 1; id <= N; id++) {
        S.nodes[id].id = id;
        start(&S.nodes[id]);
    }
    while (S.now_ms < CHAOS_MS)
        step();
    S.chaos = false;
    unsigned n_calls = S.n_calls;
    while (S.now_ms < CHAOS_MS + HEAL_MS)
        step();
    for (unsigned i = 0; i < S.n_calls; i++) {
        const struct call *c = &S.calls[i];
        check(i >= n_calls || c->answered || c->is_lost, "call %u of node %u is not answered", i, c->node);
        if (!c->answered)
            continue;
        check((c->code == 0) <= (c->executed_at != 0), "call %u was acknowledged and did not execute", i);
        check(c->code != 0 || c->index == c->executed_at, "call %u: another index", i);
        check(c->code != ERR_UNAVAILABLE || c->executed_at == 0, "call %u was said not to execute, and did",
              i);
        S.n_unknown += c->code == ERR_UNKNOWN_OUTCOME;
        S.n_ended += c->code == ERR_UNAVAILABLE;
    }
    for (uint32_t id = 1; id <= N; id++) {
        struct proposer_status status;
        proposer_get_status(S.nodes[id].proposer, &status);
        check(status.epoch != 0, "node %u has no session after healing", id);
        S.n_resent += status.n_resent;
        proposer_free(S.nodes[id].proposer);
    }
    for (struct sim_timed *t; (t = sim_queue_pop(&S.queue, UINT64_MAX));)
        mem_free(container_of(t, struct wire, timed));
    sim_queue_fini(&S.queue);
    pack_fini(&S.pack);
    while (S.last)
        blob_unref(S.log[S.last--].blob);
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20,
             first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    uint64_t executed = 0, duplicates = 0, unknown = 0, ended = 0, downs = 0, restarts = 0, leaders = 0;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        run(seed);
        executed += S.n_executed;
        duplicates += S.n_duplicates;
        unknown += S.n_unknown;
        ended += S.n_ended;
        downs += S.n_downs;
        restarts += S.n_restarts;
        leaders += S.n_leaders;
    }
    printf("%llu seeds: %llu executed, %llu copies skipped, %llu unknown, %llu ended with their epoch; %llu "
           "node_down, "
           "%llu restarts, %llu leaders\n",
           (unsigned long long)seeds, (unsigned long long)executed, (unsigned long long)duplicates,
           (unsigned long long)unknown, (unsigned long long)ended, (unsigned long long)downs,
           (unsigned long long)restarts, (unsigned long long)leaders);
    /* A run in which nothing happened proves nothing. */
    return executed > 0 && duplicates > 0 && unknown > 0 && ended > 0 && downs > 0 && restarts > 0 ? 0 : 1;
}
