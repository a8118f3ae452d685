/* Proposer sessions, up and down, drain (architecture: Exactly once; Lease). */
#include "replication/fsm/fsm_internal.h"
#include "replication/home.h"
#include <string.h>

enum { NONCE_BYTES = 16, NODES_MAX = 64 };

static Imp__NodeRow *member(struct fsm *f, uint32_t id)
{
    Imp__NodeRow *node = fsm_find_node(f, id);
    if (!node)
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", id);
    return node;
}

/* Since when it is as it is decides which homes have to be handed over (replication/home.h). */
void fsm_set_up(struct fsm *f, Imp__NodeRow *node, bool up)
{
    if (!!node->up == up)
        return;
    node->up = up;
    node->up_index = f->in->index;
}

void fsm_do_node_register(struct fsm *f, const void *body)
{
    const Imp__NodeRegister *b = body;
    Imp__NodeRow *node = member(f, b->node);
    if (!node)
        return;
    struct key k = fsm_key_u32(b->node);
    const Imp__ProposerRow *old = store_find_row(f->txn, TABLE_PROPOSER, &k, f->arena);
    if (b->nonce.len != NONCE_BYTES || !fsm_is_text(b->release, 0, 63)) {
        fsm_refuse(f, ERR_INVALID, "the nonce is not %d bytes long, or the release is no name", NONCE_BYTES);
        return;
    }
    if (old && old->epoch == node->epoch && old->nonce.len == NONCE_BYTES &&
        !memcmp(old->nonce.data, b->nonce.data, NONCE_BYTES)) {
        f->out->value = old->epoch; /* the same registration again */
        return;
    }
    if (b->expected_epoch != node->epoch) {
        fsm_refuse(f, ERR_CONFLICT, "the epoch of %s is %llu", node->name, (unsigned long long)node->epoch);
        f->out->value = node->epoch;
        return;
    }
    unsigned level = b->level ? b->level : LEVEL_FIRST;
    if (level < f->level) {
        fsm_refuse(f, ERR_VERSION, "the cluster is at feature level %u, this release knows %u", f->level,
                   level);
        return;
    }
    node->epoch++;
    fsm_set_up(f, node, false);
    node->handing_over = false; /* its earlier life is over */
    node->level = level;
    if (*b->release)
        node->release = b->release;
    node->state = IMP__NODE_STATE__NODE_MEMBER; /* this came over an authenticated link, too */
    fsm_put_node(f, node);
    Imp__ProposerRow row = IMP__PROPOSER_ROW__INIT;
    row.epoch = node->epoch;
    row.nonce = b->nonce;
    row.next_seq = 1;
    store_put_row(f->txn, TABLE_PROPOSER, &k, &row);
    f->out->value = node->epoch;
}

void fsm_do_node_up(struct fsm *f, const void *body)
{
    const Imp__NodeUp *b = body;
    Imp__NodeRow *node = member(f, b->node);
    if (!node)
        return;
    if (node->epoch != b->epoch) {
        fsm_refuse(f, ERR_CONFLICT, "the epoch of %s is %llu", node->name, (unsigned long long)node->epoch);
    } else if (node->witness || node->drained) {
        fsm_refuse(f, ERR_DENIED, "%s is %s", node->name, node->witness ? "a witness" : "drained");
    } else if (node->handing_over) {
        fsm_refuse(f, ERR_AGAIN, "%s has not handed over all of its users yet", node->name);
    } else if (!node->up) {
        fsm_set_up(f, node, true);
        fsm_put_node(f, node);
    }
}

void fsm_do_node_down(struct fsm *f, const void *body)
{
    const Imp__NodeDown *b = body;
    Imp__NodeRow *node = member(f, b->node);
    if (!node)
        return;
    if (node->epoch != b->epoch) {
        fsm_refuse(f, ERR_CONFLICT, "the epoch of %s is %llu", node->name, (unsigned long long)node->epoch);
    } else if (f->in->term != b->term) {
        /* Submitted by a leader whose term is over: the new one may have given a lease since. */
        fsm_refuse(f, ERR_CONFLICT, "this is of term %llu", (unsigned long long)b->term);
    } else {
        fsm_set_up(f, node, false);
        node->handing_over = false;
        node->epoch++; /* ends the proposer session and the links of the old one */
        fsm_put_node(f, node);
        f->out->value = node->epoch;
    }
}

bool fsm_can_take_users(struct fsm *f, uint32_t except)
{
    bool found = false;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    while (!found && store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, f->arena);
        found = row && row->id != except && row->state == IMP__NODE_STATE__NODE_MEMBER && !row->witness &&
                !row->drained;
    }
    store_iter_fini(&i);
    return found;
}

/* It holds a lease, and users until it says that it has handed them over. */
void fsm_hand_over(struct fsm *f, Imp__NodeRow *node)
{
    if (node->up)
        node->handing_over = true;
    fsm_set_up(f, node, false);
}

void fsm_do_node_drain(struct fsm *f, const void *body)
{
    const Imp__NodeDrain *b = body;
    Imp__NodeRow *node = member(f, b->node);
    if (!node)
        return;
    if (node->leaving || node->lost) {
        fsm_refuse(f, ERR_CONFLICT, "%s is %s", node->name, node->leaving ? "being removed" : "lost");
        return;
    }
    if (node->drained == !!b->drained)
        return;
    if (b->drained && !fsm_can_take_users(f, node->id)) {
        fsm_refuse(f, ERR_CONFLICT, "no other node can take the users of %s", node->name);
        return;
    }
    node->drained = b->drained;
    if (node->drained)
        fsm_hand_over(f, node);
    fsm_put_node(f, node);
}

void fsm_do_node_left(struct fsm *f, const void *body)
{
    const Imp__NodeLeft *b = body;
    Imp__NodeRow *node = member(f, b->node);
    if (!node)
        return;
    if (node->epoch != b->epoch) {
        fsm_refuse(f, ERR_CONFLICT, "the epoch of %s is %llu", node->name, (unsigned long long)node->epoch);
    } else if (node->handing_over) {
        node->handing_over = false;
        fsm_put_node(f, node);
    }
}

/* ---- homes ---- */

static uint32_t active_home(struct fsm *f, const Imp__UserRow *user)
{
    const Imp__NodeRow *home = user->home ? fsm_find_node(f, user->home) : NULL;
    if (home && home->up)
        return user->home;
    struct home_node nodes[NODES_MAX];
    size_t n = 0;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    while (n < NODES_MAX && store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, f->arena);
        if (row)
            nodes[n++] = (struct home_node){row->id, row->up, row->up_index};
    }
    store_iter_fini(&i);
    return home_choose(user->home, user->uid, nodes, n);
}

bool fsm_has_home(struct fsm *f, const Imp__UserRow *user)
{
    if (!f->proposer)
        return true;
    /* The usual case, without a look at the others. */
    const Imp__NodeRow *home = user->home == f->proposer ? fsm_find_node(f, user->home) : NULL;
    return home && home->up ? true : active_home(f, user) == f->proposer;
}

bool fsm_is_at_home(struct fsm *f, const Imp__UserRow *user)
{
    if (fsm_has_home(f, user))
        return true;
    fsm_refuse(f, ERR_CONFLICT, "the user is at home on another node now");
    return false;
}
