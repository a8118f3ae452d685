/* Deliberate faults, put between the files of the product by the linker (--wrap): with one of them a seed
 * must fail. */
#include "world.h"

#include "im/shard.h"

#include "replication/confirm.h"
#include "replication/fsm.h"
#include "replication/lease.h"
#include "replication/vote.h"
#include <string.h>

static const char *const names[N_MUTATIONS] = {
#define X(id, name, help) name,
#include "world_mutations.def"
#undef X
};

const char *world_mutation_name(enum world_mutation m)
{
    return names[m];
}

/* ---- leases ---- */

WRAP(void, lease_holder_init, struct lease_holder *h, unsigned election_ms)
{
    __real_lease_holder_init(h, election_ms);
    if (world_has(MUTATION_LEASE_TOO_LONG))
        h->times.hold_ms *= 3;
}

WRAP(void, lease_grantor_init, struct lease_grantor *g, const struct lease_ops *ops, void *user,
     unsigned election_ms)
{
    __real_lease_grantor_init(g, ops, user, election_ms);
    if (world_has(MUTATION_EARLY_DOWN))
        g->times.down_ms /= 4;
}

/* ---- rounds ---- */

WRAP(void, confirm_pump, struct confirm *c, uint64_t now_ms, unsigned again_ms)
{
    if (world_has(MUTATION_NO_ROUND) && c->term && c->wanted > c->confirmed) {
        c->begun = c->confirmed = c->wanted;
        c->ops->confirmed(c->user, c->confirmed);
        return;
    }
    __real_confirm_pump(c, now_ms, again_ms);
}

/* ---- votes ---- */

WRAP(int, vote_save, struct vote *v, uint64_t term, uint64_t voted_for)
{
    if (world_has(MUTATION_VOTE_NOT_SAVED) && v->term) {
        if (term > v->term && term % 8 == 0)
            return __real_vote_save(v, term, voted_for); /* so that the log is not newer for ever */
        return 0;
    }
    return __real_vote_save(v, term, voted_for);
}

/* ---- the state machine ---- */

static void renumber(struct store_txn *txn, Imp__Proposal *p, struct arena *arena)
{
    struct key k;
    key_init(&k);
    key_u32(&k, p->node);
    const Imp__NodeRow *node = store_find_row(txn, TABLE_NODE, &k, arena);
    const Imp__ProposerRow *session = store_find_row(txn, TABLE_PROPOSER, &k, arena);
    if (!node || !session || session->epoch != node->epoch)
        return;
    bool is_stale = world_has(MUTATION_STALE_EPOCH) && p->epoch < node->epoch;
    bool is_again = world_has(MUTATION_NEW_SEQUENCE) && p->epoch == node->epoch && p->seq < session->next_seq;
    if (is_stale || is_again) {
        p->epoch = session->epoch;
        p->seq = session->next_seq;
    }
}

WRAP(bool, fsm_execute, struct store_txn *txn, const Imp__Proposal *p, const struct fsm_input *in,
     struct arena *arena, struct fsm_result *out)
{
    if (p->node)
        renumber(txn, (Imp__Proposal *)p, arena);
    if (world_has(MUTATION_DOWN_OF_ANY_TERM) && p->command &&
        p->command->body_case == IMP__COMMAND__BODY_NODE_DOWN)
        p->command->node_down->term = in->term;
    return __real_fsm_execute(txn, p, in, arena, out);
}

/* ---- the watcher, homes ---- */

WRAP(bool, watcher_step, struct watcher *w, const struct watcher_input *in)
{
    struct watcher_input changed = *in;
    if (world_has(MUTATION_EARLY_RELEASE)) {
        changed.target_index = changed.applied_index;
        changed.member_known = changed.registered = true; /* else it waits for an entry that is newer still */
    }
    return __real_watcher_step(w, &changed);
}

WRAP(enum home_place, shard_place_of_row, struct shard *s, const Imp__UserRow *row, uint32_t *node, uint64_t *since)
{
    enum home_place place = __real_shard_place_of_row(s, row, node, since);
    return world_has(MUTATION_NO_HAND_OVER) && place == PLACE_ARRIVING ? PLACE_HERE : place;
}
