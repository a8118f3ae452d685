#include "replication/lease.h"

#include <string.h>

void lease_times_for(struct lease_times *out, unsigned election_ms)
{
    out->ping_ms = election_ms * 5 / 12;
    out->hold_ms = election_ms * 5 / 3;
    out->down_ms = election_ms * 5 / 2;
}

/* ---- the node that asks ---- */

void lease_holder_init(struct lease_holder *h, unsigned election_ms, uint64_t first_ping)
{
    memset(h, 0, sizeof(*h));
    lease_times_for(&h->times, election_ms);
    h->next_ping = first_ping ? first_ping : 1; /* 0 is no ping */
}

void lease_holder_set(struct lease_holder *h, bool want, uint64_t epoch, uint64_t leader_mark)
{
    if (!want || epoch != h->epoch) {
        h->until_boot_ms = 0;
        memset(h->sent, 0, sizeof(h->sent));
    }
    if (leader_mark != h->leader_mark || (want && !h->want) || epoch != h->epoch)
        h->ping_due_ms = 0; /* at once */
    h->want = want;
    h->epoch = epoch;
    h->leader_mark = leader_mark;
}

bool lease_holder_tick(struct lease_holder *h, uint64_t now_ms, uint64_t boot_ms, uint64_t *ping)
{
    if (!h->want || h->epoch == 0 || h->leader_mark == 0 || now_ms < h->ping_due_ms)
        return false;
    h->ping_due_ms = now_ms + h->times.ping_ms;
    *ping = h->next_ping++;
    unsigned slot = *ping % (sizeof(h->sent) / sizeof(h->sent[0]));
    h->sent[slot].ping = *ping;
    h->sent[slot].sent_boot_ms = boot_ms;
    return true;
}

void lease_holder_on_grant(struct lease_holder *h, uint64_t ping)
{
    unsigned slot = ping % (sizeof(h->sent) / sizeof(h->sent[0]));
    /* A ping of an earlier epoch was forgotten in lease_holder_set. */
    if (ping == 0 || h->sent[slot].ping != ping || !h->want)
        return;
    uint64_t until = h->sent[slot].sent_boot_ms + h->times.hold_ms;
    if (until > h->until_boot_ms)
        h->until_boot_ms = until;
}

uint64_t lease_holder_until(const struct lease_holder *h)
{
    return h->until_boot_ms;
}

/* ---- the leader that grants ---- */

void lease_grantor_init(struct lease_grantor *g, const struct lease_ops *ops, void *user,
                        unsigned election_ms)
{
    memset(g, 0, sizeof(*g));
    g->ops = ops;
    g->user = user;
    lease_times_for(&g->times, election_ms);
}

void lease_grantor_lead(struct lease_grantor *g, uint64_t now_ms, uint64_t term)
{
    if (term == g->term)
        return;
    g->term = term;
    g->elected_ms = g->ticked_ms = now_ms;
    g->is_ready = false;
    for (unsigned i = 0; i < g->n_nodes; i++)
        g->nodes[i] = (struct lease_grant){.row = g->nodes[i].row};
}

static struct lease_grant *find(struct lease_grantor *g, uint32_t node)
{
    for (unsigned i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].row.node == node)
            return &g->nodes[i];
    return NULL;
}

void lease_grantor_set_nodes(struct lease_grantor *g, const struct lease_node *nodes, unsigned n,
                             bool is_ready)
{
    struct lease_grant next[LEASE_MAX_NODES];
    if (n > LEASE_MAX_NODES)
        n = LEASE_MAX_NODES;
    for (unsigned i = 0; i < n; i++) {
        const struct lease_grant *before = find(g, nodes[i].node);
        next[i] = before ? *before : (struct lease_grant){0};
        next[i].row = nodes[i];
        /* It has come up since: it has as long as after an election to get its first lease. */
        if (g->term && nodes[i].up && (!before || !before->row.up || before->row.epoch != nodes[i].epoch)) {
            next[i].answered_ms = g->ticked_ms;
            next[i].down_round = 0;
        }
    }
    memcpy(g->nodes, next, n * sizeof(next[0]));
    g->n_nodes = n;
    g->is_ready = is_ready && g->term;
}

static bool may_grant(const struct lease_grantor *g, const struct lease_grant *x, uint64_t epoch)
{
    return g->is_ready && x->row.epoch == epoch && epoch != 0 && x->down_epoch != epoch;
}

void lease_grantor_on_ping(struct lease_grantor *g, uint32_t node, uint64_t epoch, uint64_t ping)
{
    struct lease_grant *x = g->term ? find(g, node) : NULL;
    if (!x || !may_grant(g, x, epoch))
        return;
    /* With a slow majority the oldest is kept: it is answered first. */
    if (x->n_pending == LEASE_MAX_PENDING)
        x->n_pending--;
    x->pending[x->n_pending].epoch = epoch;
    x->pending[x->n_pending].ping = ping;
    x->pending[x->n_pending].round = g->ops->want_round(g->user);
    x->n_pending++;
}

static uint64_t deadline(const struct lease_grantor *g, const struct lease_grant *x)
{
    uint64_t from = x->answered_ms > g->elected_ms ? x->answered_ms : g->elected_ms;
    return from + g->times.down_ms;
}

static void submit_down(struct lease_grantor *g, struct lease_grant *x, uint64_t now_ms)
{
    x->down_round = 0;
    if (!g->ops->node_down(g->user, x->row.node, x->row.epoch, g->term))
        return;
    x->down_epoch = x->row.epoch;
    x->down_ms = now_ms;
    x->n_pending = 0;
}

void lease_grantor_on_round(struct lease_grantor *g, uint64_t now_ms, uint64_t round)
{
    if (!g->term)
        return;
    for (unsigned i = 0; i < g->n_nodes; i++) {
        struct lease_grant *x = &g->nodes[i];
        unsigned n_left = 0;
        for (unsigned j = 0; j < x->n_pending; j++) {
            if (x->pending[j].round > round) {
                x->pending[n_left++] = x->pending[j];
            } else if (may_grant(g, x, x->pending[j].epoch)) {
                x->answered_ms = now_ms;
                x->down_round = 0;
                g->ops->grant(g->user, x->row.node, x->pending[j].ping);
            }
        }
        x->n_pending = n_left;
        if (x->down_round && round >= x->down_round && now_ms >= deadline(g, x))
            submit_down(g, x, now_ms);
    }
}

void lease_grantor_tick(struct lease_grantor *g, uint64_t now_ms)
{
    if (!g->term)
        return;
    /* If this thread stood still, pings may wait unread: nobody is late because of us. */
    uint64_t stood_ms = now_ms - g->ticked_ms;
    g->ticked_ms = now_ms;
    if (stood_ms > g->times.ping_ms) {
        g->elected_ms += stood_ms;
        for (unsigned i = 0; i < g->n_nodes; i++)
            if (g->nodes[i].answered_ms)
                g->nodes[i].answered_ms += stood_ms;
        return;
    }
    if (!g->is_ready)
        return;
    for (unsigned i = 0; i < g->n_nodes; i++) {
        struct lease_grant *x = &g->nodes[i];
        if (!x->row.up || now_ms < deadline(g, x))
            continue;
        if (x->down_epoch == x->row.epoch && now_ms < x->down_ms + 2 * g->times.down_ms)
            continue; /* on its way; again only if it was lost, which in one term it cannot be for long */
        /* First prove that we still lead: without a majority nobody is answered, and nobody is to blame. */
        if (!x->down_round)
            x->down_round = g->ops->want_round(g->user);
    }
}
