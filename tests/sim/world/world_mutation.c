/* Deliberate faults, put between the files of the product by the linker (--wrap): with one of them a seed
 * must fail. */
#include "world_phone.h"

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

WRAP(void, lease_holder_init, struct lease_holder *h, unsigned election_ms, uint64_t first_ping)
{
    __real_lease_holder_init(h, election_ms, first_ping);
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
    if (world_has(MUTATION_VOTE_NOT_SAVED) && v->term)
        return 0;
    return __real_vote_save(v, term, voted_for);
}

/* ---- the state machine ---- */

struct session_rows {
    struct key key;
    const Imp__NodeRow *node;
    Imp__ProposerRow *session;
};

static bool find_session(struct session_rows *out, struct store_txn *txn, uint32_t node, struct arena *arena)
{
    key_init(&out->key);
    key_u32(&out->key, node);
    out->node = store_find_row(txn, TABLE_NODE, &out->key, arena);
    out->session = store_find_row(txn, TABLE_PROPOSER, &out->key, arena);
    return out->node && out->session;
}

/* As if the session's epoch alone counted, not the node's. */
static bool execute_stale(struct store_txn *txn, const Imp__Proposal *p, const struct fsm_input *in,
                          struct arena *arena, struct fsm_result *out)
{
    struct session_rows rows;
    if (!find_session(&rows, txn, p->node, arena) || rows.node->epoch == p->epoch ||
        rows.session->epoch != p->epoch || rows.session->next_seq != p->seq)
        return false;
    rows.session->next_seq++;
    store_put_row(txn, TABLE_PROPOSER, &rows.key, rows.session);
    fsm_apply(txn, p->command, in, arena, out);
    return true;
}

/* What was executed is executed again, under the next number. */
static void renumber(struct store_txn *txn, Imp__Proposal *p, struct arena *arena)
{
    struct session_rows rows;
    if (find_session(&rows, txn, p->node, arena) && rows.session->epoch == p->epoch &&
        p->seq < rows.session->next_seq)
        p->seq = rows.session->next_seq;
}

WRAP(bool, fsm_execute, struct store_txn *txn, const Imp__Proposal *p, const struct fsm_input *in,
     struct arena *arena, struct fsm_result *out)
{
    if (world_has(MUTATION_NEW_SEQUENCE) && p->node)
        renumber(txn, (Imp__Proposal *)p, arena);
    if (world_has(MUTATION_STALE_EPOCH) && p->node && execute_stale(txn, p, in, arena, out))
        return true;
    bool executed = __real_fsm_execute(txn, p, in, arena, out);
    if (executed && W->phones && in->index > W->committed)
        mail_on_executed(p, in->index, out);
    return executed;
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

WRAP(enum home_place, shard_place_of_row, struct shard *s, const Imp__UserRow *row, uint32_t *node,
     uint64_t *since)
{
    enum home_place place = __real_shard_place_of_row(s, row, node, since);
    return world_has(MUTATION_NO_HAND_OVER) && place == PLACE_ARRIVING ? PLACE_HERE : place;
}
