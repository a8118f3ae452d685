/* A deterministic simulation of the hand-over of users between homes (cluster/handover.c): real protocol
 * state on N nodes over a model of everything below it: a log that every loop of every node applies at its
 * own pace, shards that serve users, hold and pass on what comes for them, links that are late, break and
 * come back, nodes that stand still past their lease, are taken down, die, are drained and come back. All of
 * it is drawn from the seed.
 *
 * Checked at every step: at most one node may act for a user. Messages carry numbers: nothing is delivered
 * twice; with links that hold, nothing per sender and recipient comes out of order; without deaths, nothing
 * is lost. In the end, with all faults over, every user can be served by its home.
 *
 * --off MASK takes one of the rules away, --expect-failure wants a seed that fails then. */
#include "base/buf.h"
#include "base/err.h"
#include "base/mem.h"
#include "cluster/handover.h"
#include "replication/home.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 4, SHARDS = 2, USERS = 10, LOG_MAX = 1 << 16, PING_MS = 250, HOLD_MS = 1000, DOWN_MS = 1500 };
enum { OFF_FLOOR = 1, OFF_SINCE = 2, OFF_DETACH = 4, OFF_LEASE_EPOCH = 8, OFF_ROUTED = 16, OFF_LEAVING = 32 };

enum command { ASSIGN, REGISTER, UP, DOWN, DRAIN, UNDRAIN, LEFT, OTHER };
struct entry {
    enum command command;
    uint32_t node, user;
};
struct view {
    uint64_t index;
    struct {
        uint32_t home;
        uint64_t home_index;
    } users[USERS];
    struct {
        uint64_t epoch, up_index;
        bool up, leaving, drained;
    } nodes[N + 1];
};

enum kind { ENVELOPE, ASK, FLOOR, ANSWER, FRAME };
struct item {
    struct item *next;
    enum kind kind;
    uint32_t from, to;                           /* nodes */
    uint64_t epoch, due_ms, after, index, order; /* ORDER: in which the sender's shard sent it */
    unsigned phase, sender, user, number;
    bool forwarded;
    size_t n;
    uint8_t data[];
};
struct queue {
    struct item *first, **last;
};

struct shard {
    struct view view;
    uint64_t floor, next_floor, floor_at, n_sent;
    struct queue inbox, held[USERS]; /* by ORDER */
    bool serves[USERS];
    uint64_t since[USERS], busy_until[USERS]; /* a proposal is in flight until then */
    bool asked[N_HANDOVER_PHASES];
    uint64_t asked_index[N_HANDOVER_PHASES];
};
struct link {
    struct queue wire;
    bool up;
    uint64_t back_ms;
};
struct node {
    uint32_t id;
    bool alive, in_flight;
    uint64_t paused_until, starts_ms;
    struct view control;
    uint64_t epoch; /* of its proposer session */
    uint64_t lease_until, lease_epoch, ping_ms;
    bool cut_off; /* from the leader */
    struct handover handover;
    struct queue inbox; /* of the control loop */
    unsigned n_answers[N_HANDOVER_PHASES];
    uint64_t answer_index;
    struct shard shards[SHARDS];
    struct link out[N + 1];
};

static struct {
    uint64_t seed, state, now_ms;
    unsigned off;
    bool chaos, breaks, deaths;
    struct entry log[LOG_MAX + 1];
    struct view committed;
    struct node nodes[N + 1];
    uint64_t granted_ms[N + 1];
    unsigned sent[N + 1][USERS], got[N + 1][USERS];
    uint64_t n_moves, n_taken, n_downs, n_delivered, n_forwarded;
} S;

static bool failed;
static uint64_t rnd(uint64_t n)
{
    S.state ^= S.state << 13;
    S.state ^= S.state >> 7;
    S.state ^= S.state << 17;
    return (S.state * 0x2545f4914f6cdd1dull >> 33) % n;
}
static bool chance(unsigned per_million)
{
    return rnd(1000000) < per_million;
}
#define check(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition) && !failed) {                                                                       \
            failed = true;                                                                                   \
            fprintf(stderr, "seed %llu, %llu ms: ", (unsigned long long)S.seed,                              \
                    (unsigned long long)S.now_ms);                                                           \
            fprintf(stderr, __VA_ARGS__);                                                                    \
            fprintf(stderr, "\n");                                                                           \
        }                                                                                                    \
    } while (0)

/* ---- queues ---- */

static struct item *item_new(enum kind kind, size_t n)
{
    struct item *i = mem_zalloc(sizeof(*i) + n);
    i->kind = kind;
    i->n = n;
    return i;
}
static void push(struct queue *q, struct item *i)
{
    i->next = NULL;
    if (!q->first)
        q->last = &q->first;
    *q->last = i;
    q->last = &i->next;
}
static struct item *pop(struct queue *q)
{
    struct item *i = q->first;
    if (i)
        q->first = i->next;
    return i;
}
static void push_sorted(struct queue *q, struct item *i)
{
    struct item **at = &q->first;
    while (*at && (*at)->order <= i->order)
        at = &(*at)->next;
    i->next = *at;
    *at = i;
}
static void empty(struct queue *q)
{
    for (struct item *i; (i = pop(q));)
        mem_free(i);
}

/* ---- the log ---- */

static void set_up(struct view *v, uint32_t node, bool up)
{
    if (v->nodes[node].up != up)
        v->nodes[node].up_index = v->index;
    v->nodes[node].up = up;
}

static void apply(struct view *v)
{
    const struct entry *e = &S.log[++v->index];
    switch (e->command) {
    case ASSIGN:
        if (v->users[e->user].home != e->node)
            v->users[e->user].home_index = v->index;
        v->users[e->user].home = e->node;
        break;
    case REGISTER:
    case DOWN:
        set_up(v, e->node, false);
        v->nodes[e->node].leaving = false;
        v->nodes[e->node].epoch++;
        break;
    case UP:
        if (!v->nodes[e->node].leaving && !v->nodes[e->node].drained)
            set_up(v, e->node, true);
        break;
    case DRAIN:
        v->nodes[e->node].drained = true;
        if (v->nodes[e->node].up) {
            set_up(v, e->node, false);
            v->nodes[e->node].leaving = !(S.off & OFF_LEAVING);
        }
        break;
    case UNDRAIN:
        v->nodes[e->node].drained = false;
        break;
    case LEFT:
        v->nodes[e->node].leaving = false;
        break;
    case OTHER:
        break;
    }
}

static void commit(enum command command, uint32_t node, uint32_t user)
{
    if (S.committed.index == LOG_MAX)
        return;
    S.log[S.committed.index + 1] = (struct entry){command, node, user};
    apply(&S.committed);
}

static bool may_move_homes(uint64_t index)
{
    return S.log[index].command != OTHER;
}

static uint32_t home_in(const struct view *v, unsigned user, uint64_t *since)
{
    struct home_node nodes[N];
    for (uint32_t i = 1; i <= N; i++)
        nodes[i - 1] = (struct home_node){i, v->nodes[i].up, v->nodes[i].up_index};
    uint32_t home = home_choose(v->users[user].home, user, nodes, N);
    *since = home_since(v->users[user].home, v->users[user].home_index, user, home, nodes, N);
    return home;
}

/* ---- what the protocol asks for ---- */

static void op_ask(void *user, enum handover_phase phase, uint64_t index)
{
    struct node *n = user;
    n->n_answers[phase] = 0;
    if (phase == HANDOVER_RELEASED)
        n->answer_index = 0;
    for (unsigned s = 0; s < SHARDS; s++) {
        struct item *i = item_new(ASK, 0);
        i->phase = phase;
        i->index = index;
        push(&n->shards[s].inbox, i);
    }
}

static void transmit(struct node *n, struct item *i)
{
    struct link *l = &n->out[i->to];
    i->epoch = n->epoch;
    i->from = n->id;
    i->due_ms = S.now_ms + rnd(3) + (S.chaos && chance(30000) ? rnd(800) : 0);
    push(&l->wire, i);
}

static int op_send(void *user, uint32_t node, const void *frame, size_t n_bytes)
{
    struct node *n = user;
    if (!n->out[node].up || !n->epoch)
        return ERR_UNAVAILABLE;
    struct item *i = item_new(FRAME, n_bytes);
    memcpy(i->data, frame, n_bytes);
    i->to = node;
    transmit(n, i);
    return 0;
}

static bool op_hears(void *user, uint32_t node)
{
    struct node *n = user;
    return !(S.off & OFF_ROUTED) && S.nodes[node].out[n->id].up;
}

static void op_floor(void *user, uint64_t floor, uint64_t at)
{
    struct node *n = user;
    /* Behind what was passed on, not past it. */
    for (unsigned s = 0; s < SHARDS; s++) {
        struct item *i = item_new(FLOOR, 0);
        i->index = floor;
        i->after = at;
        push(&n->shards[s].inbox, i);
    }
}

/* ---- shards ---- */

static bool has_lease(const struct node *n, const struct shard *s)
{
    return n->lease_until > S.now_ms &&
           (n->lease_epoch == s->view.nodes[n->id].epoch || (S.off & OFF_LEASE_EPOCH));
}

static struct shard *shard_of(struct node *n, unsigned user)
{
    return &n->shards[user % SHARDS];
}

static bool may_serve(struct node *n, struct shard *s, unsigned user, uint64_t *since)
{
    return home_in(&s->view, user, since) == n->id && *since <= s->view.index &&
           (handover_allows(s->floor, *since) || (S.off & OFF_FLOOR)) && has_lease(n, s);
}

static void drop_users(struct node *n, struct shard *s)
{
    for (unsigned u = 0; u < USERS; u++) {
        uint64_t since;
        bool ours = s->serves[u] && home_in(&s->view, u, &since) == n->id;
        if (ours && (since == s->since[u] || (S.off & OFF_SINCE)))
            continue;
        if (s->serves[u] && (S.off & OFF_DETACH))
            continue;
        s->serves[u] = false;
    }
}

static bool is_released(const struct node *n, const struct shard *s)
{
    uint64_t since;
    for (unsigned u = 0; u < USERS; u++)
        if ((!s->serves[u] && s->busy_until[u] > S.now_ms) ||
            (s->held[u].first && home_in(&s->view, u, &since) != n->id))
            return false;
    return true;
}

static void to_control(struct node *n, struct item *i)
{
    push(&n->inbox, i);
}

/* Where the sending or passing shard believes the home to be. Takes I. */
static void route(struct node *n, struct shard *s, struct item *i)
{
    uint64_t since;
    uint32_t home = home_in(&s->view, i->user, &since);
    if (!home) {
        check(S.deaths, "no home");
        mem_free(i);
        return;
    }
    if (home == n->id) {
        push(&shard_of(n, i->user)->inbox, i);
        return;
    }
    if (s->view.index > i->after)
        i->after = s->view.index;
    i->to = home;
    to_control(n, i);
}

static void deliver(struct item *i)
{
    unsigned *got = &S.got[i->sender][i->user];
    check(i->number != *got, "message %u of %u to user %u is delivered twice", i->number, i->sender, i->user);
    check(S.breaks || S.deaths || i->number == *got + 1, "message %u of %u to user %u comes after %u",
          i->number, i->sender, i->user, *got);
    check(i->number > *got || S.breaks || S.deaths, "out of order");
    if (i->number > *got)
        *got = i->number;
    S.n_delivered++;
    S.n_forwarded += i->forwarded;
    mem_free(i);
}

/* False: it must wait. */
static bool handle_envelope(struct node *n, struct shard *s, struct item *i)
{
    uint64_t since;
    if (i->epoch && i->epoch < s->view.nodes[i->from].epoch) { /* its sender's node was taken down */
        mem_free(i);
        return true;
    }
    if (i->after > s->view.index || !has_lease(n, s))
        return false;
    if (home_in(&s->view, i->user, &since) != n->id) {
        i->forwarded = true;
        i->epoch = 0;
        route(n, s, i);
        return true;
    }
    if (!s->serves[i->user] && !may_serve(n, s, i->user, &since))
        return false;
    deliver(i);
    return true;
}

static void advance_held(struct node *n, struct shard *s)
{
    for (unsigned u = 0; u < USERS; u++) {
        struct queue *q = &s->held[u];
        for (struct item *i; (i = q->first);) {
            struct item *rest = i->next;
            if (!handle_envelope(n, s, i))
                break;
            q->first = rest;
        }
    }
}

static void receive(struct node *n, struct shard *s, struct item *i)
{
    if (s->held[i->user].first || !handle_envelope(n, s, i))
        push_sorted(&s->held[i->user], i);
}

static void answer_asks(struct node *n, struct shard *s)
{
    for (unsigned phase = 0; phase < N_HANDOVER_PHASES; phase++) {
        if (!s->asked[phase] || s->view.index < s->asked_index[phase] ||
            (phase == HANDOVER_RELEASED && !is_released(n, s)))
            continue;
        s->asked[phase] = false;
        struct item *i = item_new(ANSWER, 0);
        i->phase = phase;
        i->index = s->view.index;
        to_control(n, i);
    }
}

static void step_shard(struct node *n, struct shard *s)
{
    if (s->view.index < S.committed.index && chance(S.chaos ? 300000 : 900000)) {
        for (unsigned k = 1 + (unsigned)rnd(6); k-- && s->view.index < S.committed.index;)
            apply(&s->view);
        drop_users(n, s);
    }
    for (struct item *i; chance(800000) && (i = pop(&s->inbox));) {
        if (i->kind == ENVELOPE) {
            receive(n, s, i);
            continue;
        }
        if (i->kind == FLOOR) {
            s->next_floor = i->index;
            s->floor_at = i->after;
        } else {
            s->asked[i->phase] = true;
            s->asked_index[i->phase] = i->index;
        }
        mem_free(i);
    }
    if (s->view.index >= s->floor_at)
        s->floor = s->next_floor;
    advance_held(n, s);
    unsigned u = (unsigned)rnd(USERS);
    uint64_t since;
    if (shard_of(n, u) == s && !s->serves[u] && may_serve(n, s, u, &since)) {
        s->serves[u] = true;
        s->since[u] = since;
        S.n_taken++;
    }
    if (s->serves[u] && has_lease(n, s) && chance(100000))
        s->busy_until[u] = S.now_ms + 1 + rnd(40);
    answer_asks(n, s);
}

/* One sender per node, on one shard of it. */
static void send_message(struct node *n)
{
    unsigned user = (unsigned)rnd(USERS);
    struct shard *s = &n->shards[n->id % SHARDS];
    uint64_t since;
    if (!has_lease(n, s) || !s->view.nodes[n->id].up || !home_in(&s->view, user, &since))
        return;
    struct item *i = item_new(ENVELOPE, 0);
    i->sender = n->id;
    i->user = user;
    i->number = ++S.sent[n->id][user];
    i->after = s->view.index;
    i->order = ++s->n_sent;
    route(n, s, i);
}

/* ---- the control loop ---- */

static void tell_nodes(struct node *n)
{
    struct handover_node rows[N];
    for (uint32_t i = 1; i <= N; i++)
        rows[i - 1] = (struct handover_node){i, n->control.nodes[i].epoch, n->control.nodes[i].up,
                                             n->control.nodes[i].leaving, n->control.nodes[i].up_index};
    handover_set_nodes(&n->handover, S.now_ms, rows, N);
}

static void break_link(struct link *l)
{
    l->up = false;
    l->back_ms = S.now_ms + 50 + rnd(600);
    empty(&l->wire);
}

static void new_epoch(struct node *n)
{
    n->epoch = n->control.nodes[n->id].epoch;
    handover_set_epoch(&n->handover, n->epoch);
    for (uint32_t i = 1; i <= N; i++) {
        break_link(&n->out[i]);
        break_link(&S.nodes[i].out[n->id]);
    }
}

static void own_row(struct node *n)
{
    const struct view *v = &n->control;
    if (v->nodes[n->id].epoch != n->epoch)
        new_epoch(n);
    if (n->in_flight || v->index < S.committed.index ||
        v->nodes[n->id].epoch != S.committed.nodes[n->id].epoch)
        return;
    if (v->nodes[n->id].leaving && n->handover.released >= v->nodes[n->id].up_index)
        commit(LEFT, n->id, 0);
    else if (!v->nodes[n->id].up && !v->nodes[n->id].leaving && !v->nodes[n->id].drained)
        commit(UP, n->id, 0);
}

static void on_answer(struct node *n, const struct item *i)
{
    if (i->phase == HANDOVER_RELEASED && i->index > n->answer_index)
        n->answer_index = i->index;
    if (++n->n_answers[i->phase] == SHARDS)
        handover_answered(&n->handover, S.now_ms, (enum handover_phase)i->phase, n->answer_index);
}

static void step_control(struct node *n)
{
    if (n->control.index < S.committed.index && chance(S.chaos ? 300000 : 900000)) {
        bool changed = false;
        for (unsigned k = 1 + (unsigned)rnd(6); k-- && n->control.index < S.committed.index;) {
            apply(&n->control);
            changed |= may_move_homes(n->control.index);
        }
        tell_nodes(n);
        if (changed)
            handover_moved(&n->handover, S.now_ms, n->control.index);
    }
    own_row(n);
    for (struct item *i; chance(800000) && (i = pop(&n->inbox));) {
        if (i->kind == ANSWER) {
            on_answer(n, i);
            mem_free(i);
        } else if (n->out[i->to].up) {
            transmit(n, i);
        } else {
            check(S.breaks || S.deaths, "no link");
            mem_free(i);
        }
    }
    if (S.now_ms % 50 == n->id)
        handover_tick(&n->handover, S.now_ms);
}

static void arrive(struct node *n, uint32_t from, struct item *i)
{
    if (i->epoch < n->control.nodes[from].epoch) { /* of an epoch that has ended */
        mem_free(i);
    } else if (i->kind == FRAME) {
        handover_on_frame(&n->handover, S.now_ms, from, i->epoch, i->data, i->n);
        mem_free(i);
    } else {
        push(&shard_of(n, i->user)->inbox, i);
    }
}

static void step_links(struct node *n)
{
    for (uint32_t from = 1; from <= N; from++) {
        struct link *l = &S.nodes[from].out[n->id];
        while (l->up && l->wire.first && l->wire.first->due_ms <= S.now_ms)
            arrive(n, from, pop(&l->wire));
    }
    for (uint32_t to = 1; to <= N; to++) {
        struct link *l = &n->out[to];
        if (l->up || to == n->id || S.now_ms < l->back_ms || !n->epoch || !S.nodes[to].alive)
            continue;
        l->up = true;
        handover_link_up(&n->handover, to);
    }
}

/* ---- leases, life and death ---- */

static void step_lease(struct node *n)
{
    const struct view *c = &S.committed;
    bool running = n->alive && S.now_ms >= n->paused_until && !n->cut_off;
    bool serves = c->nodes[n->id].up || c->nodes[n->id].leaving;
    if (!serves)
        S.granted_ms[n->id] = S.now_ms;
    else if (running && S.now_ms >= n->ping_ms && n->epoch == c->nodes[n->id].epoch &&
             (n->control.nodes[n->id].up || n->control.nodes[n->id].leaving)) {
        n->ping_ms = S.now_ms + PING_MS;
        n->lease_until = S.now_ms + HOLD_MS;
        n->lease_epoch = n->epoch;
        S.granted_ms[n->id] = S.now_ms;
    } else if (S.now_ms - S.granted_ms[n->id] >= DOWN_MS) {
        commit(DOWN, n->id, 0);
        S.n_downs++;
        S.granted_ms[n->id] = S.now_ms;
    }
}

static void free_node(struct node *n)
{
    empty(&n->inbox);
    for (uint32_t i = 0; i <= N; i++)
        empty(&n->out[i].wire);
    for (unsigned s = 0; s < SHARDS; s++) {
        empty(&n->shards[s].inbox);
        for (unsigned u = 0; u < USERS; u++)
            empty(&n->shards[s].held[u]);
    }
}

static void start_node(struct node *n, uint32_t id)
{
    free_node(n);
    *n = (struct node){.id = id, .alive = true};
    for (uint32_t i = 1; i <= N; i++)
        break_link(&S.nodes[i].out[id]), break_link(&n->out[i]);
    commit(REGISTER, id, 0);
    S.granted_ms[id] = S.now_ms;
    handover_init(&n->handover, id, &(struct handover_ops){op_ask, op_send, op_hears, op_floor, n});
    n->control = S.committed;
    for (unsigned s = 0; s < SHARDS; s++)
        n->shards[s].view = S.committed;
    tell_nodes(n);
    handover_moved(&n->handover, S.now_ms, n->control.index);
}

static void kill_node(struct node *n)
{
    n->alive = false;
    n->starts_ms = S.now_ms + 100 + rnd(4000);
    for (uint32_t i = 1; i <= N; i++) {
        break_link(&n->out[i]);
        break_link(&S.nodes[i].out[n->id]);
    }
}

static unsigned n_well(void)
{
    unsigned n = 0;
    for (uint32_t i = 1; i <= N; i++)
        n += S.nodes[i].alive && S.now_ms >= S.nodes[i].paused_until && !S.nodes[i].cut_off &&
             !S.committed.nodes[i].drained;
    return n;
}

static void make_chaos(void)
{
    struct node *n = &S.nodes[1 + rnd(N)];
    if (chance(20000)) {
        unsigned user = (unsigned)rnd(USERS);
        for (unsigned k = 1 + (unsigned)rnd(3); k--; S.n_moves++)
            commit(ASSIGN, 1 + (uint32_t)rnd(N), user);
    }
    if (chance(30000))
        commit(OTHER, 0, 0);
    if (chance(1500) && n_well() > 2)
        commit(S.committed.nodes[n->id].drained ? UNDRAIN : DRAIN, n->id, 0);
    if (chance(2000) && S.now_ms > n->paused_until + 500)
        n->paused_until = S.now_ms + rnd(S.deaths ? 4000 : 700);
    if (S.deaths && chance(700) && n_well() > 2)
        kill_node(n);
    if (S.deaths && chance(1000))
        n->cut_off = !n->cut_off;
    if (S.breaks && chance(3000))
        break_link(&n->out[1 + rnd(N)]);
}

static void check_homes(void)
{
    for (unsigned u = 0; u < USERS; u++) {
        uint32_t home = 0;
        for (uint32_t i = 1; i <= N; i++) {
            struct node *n = &S.nodes[i];
            struct shard *s = shard_of(n, u);
            if (!n->alive || !s->serves[u] || !has_lease(n, s))
                continue;
            check(!home, "user %u is at home on nodes %u and %u", u, home, i);
            home = i;
        }
    }
}

static void step(void)
{
    S.now_ms++;
    if (S.chaos)
        make_chaos();
    for (uint32_t i = 1; i <= N; i++) {
        struct node *n = &S.nodes[i];
        step_lease(n);
        if (!n->alive && S.now_ms >= n->starts_ms)
            start_node(n, i);
        if (!n->alive || S.now_ms < n->paused_until)
            continue;
        step_links(n);
        step_control(n);
        for (unsigned s = 0; s < SHARDS; s++)
            step_shard(n, &n->shards[s]);
        if (S.now_ms > 1000 && S.now_ms < 20000 && chance(300000))
            send_message(n);
        check_homes();
    }
}

static void check_end(void)
{
    for (unsigned u = 0; u < USERS; u++) {
        uint64_t since;
        uint32_t home = home_in(&S.committed, u, &since);
        if (!home)
            continue;
        struct node *n = &S.nodes[home];
        check(may_serve(n, shard_of(n, u), u, &since), "user %u is not served in the end", u);
        for (uint32_t i = 1; i <= N && !S.breaks && !S.deaths; i++)
            check(S.sent[i][u] == S.got[i][u], "%u of %u messages from %u to user %u came", S.got[i][u],
                  S.sent[i][u], i, u);
    }
}

static void run(uint64_t seed, unsigned off)
{
    memset(&S, 0, sizeof(S));
    S.seed = seed;
    S.off = off;
    S.state = seed * 0x9e3779b97f4a7c15ull + 1;
    S.breaks = seed % 3 != 0;
    S.deaths = seed % 3 == 2;
    for (uint32_t i = 1; i <= N; i++)
        start_node(&S.nodes[i], i);
    for (unsigned u = 0; u < USERS; u++)
        commit(ASSIGN, 1 + u % N, u);
    while (S.now_ms < 1000)
        step();
    S.chaos = true;
    while (S.now_ms < 15000 && !failed)
        step();
    S.chaos = false;
    for (uint32_t i = 1; i <= N; i++) {
        S.nodes[i].paused_until = 0;
        S.nodes[i].cut_off = false;
        if (S.committed.nodes[i].drained)
            commit(UNDRAIN, i, 0);
    }
    while (S.now_ms < 22000 && !failed)
        step();
    check_end();
    for (uint32_t i = 1; i <= N; i++)
        free_node(&S.nodes[i]);
}

int main(int argc, char **argv)
{
    uint64_t seeds = argc > 1 ? strtoull(argv[1], NULL, 10) : 20,
             first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    unsigned off = argc > 4 && !strcmp(argv[3], "--off") ? (unsigned)strtoul(argv[4], NULL, 0) : 0;
    bool expect_failure = argc > 5 && !strcmp(argv[5], "--expect-failure");
    uint64_t moves = 0, taken = 0, downs = 0, delivered = 0, forwarded = 0;
    for (uint64_t seed = first; seed < first + seeds && !failed; seed++) {
        run(seed, off);
        moves += S.n_moves;
        taken += S.n_taken;
        downs += S.n_downs;
        delivered += S.n_delivered;
        forwarded += S.n_forwarded;
    }
    printf(
        "%llu seeds: %llu moves, %llu users taken, %llu node_down, %llu messages, %llu of them passed on\n",
        (unsigned long long)seeds, (unsigned long long)moves, (unsigned long long)taken,
        (unsigned long long)downs, (unsigned long long)delivered, (unsigned long long)forwarded);
    if (expect_failure)
        return failed ? 0 : 1;
    return !failed && moves && taken && downs && forwarded ? 0 : 1;
}
