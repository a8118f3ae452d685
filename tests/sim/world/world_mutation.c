/* Deliberate faults, put between the files of the product by the linker (--wrap): with one of them a seed
 * must fail. */
#include "world_phone.h"

#include "base/xml.h"
#include "cluster/link.h"
#include "im/envelope.h"
#include "im/message.h"
#include "im/repeats.h"
#include "im/shard.h"
#include "im/sm_session.h"
#include "im/stored.h"
#include "protocols/xmpp/sm.h"
#include "replication/confirm.h"
#include "replication/fsm.h"
#include "replication/lease.h"
#include "replication/vote.h"
#include <stdio.h>
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

/* ---- messages ---- */

/* Whoever refuses a message does it by one of these two. */
static void note_refusal(const char *id)
{
    unsigned number;
    if (W->phones && id && sscanf(id, "m%u", &number) == 1)
        mail_refused(number);
}

WRAP(struct envelope *, envelope_bounce, const struct envelope *e, enum stanza_error error, const char *text)
{
    struct envelope *back = __real_envelope_bounce(e, error, text);
    if (back && e->kind == STANZA_MESSAGE)
        note_refusal(e->id);
    return back;
}

WRAP(void, home_refuse, struct c2s_home *h, const struct xml *root, enum stanza_error error, const char *text)
{
    if (!strcmp(root->name, "message"))
        note_refusal(xml_attr(root, "id"));
    __real_home_refuse(h, root, error, text);
}

WRAP(uint64_t, sm_n_counted, const struct session *s)
{
    if (world_has(MUTATION_COUNT_AHEAD))
        return s->sm->n_in;
    return world_has(MUTATION_COUNT_BEFORE_ROW) ? sm_n_settled(s) : __real_sm_n_counted(s);
}

WRAP(bool, sm_take_ack, struct c2s_home *h, uint32_t n)
{
    bool more = world_has(MUTATION_ACK_ONE_MORE) && n - (uint32_t)h->session.sm->n_acked < h->sm->n;
    return __real_sm_take_ack(h, more ? n + 1 : n);
}

WRAP(void, sm_write_again, struct c2s_home *h)
{
    if (!world_has(MUTATION_NOT_WRITTEN_AGAIN))
        __real_sm_write_again(h);
}

WRAP(void, stored_id_element, struct stored_ids *ids, struct buf *out, const struct envelope *e,
     const char *by)
{
    struct envelope other = *e;
    if (world_has(MUTATION_OTHER_ID))
        other.stored_place += (uint32_t)draw(2);
    __real_stored_id_element(ids, out, &other, by);
}

WRAP(void, message_session_available, struct session *s)
{
    if (!world_has(MUTATION_NO_CURSOR))
        __real_message_session_available(s);
}

WRAP(void, message_on_feed, struct shard *s, const struct feed_event *event)
{
    if (!world_has(MUTATION_UNHEARD_ROW) || draw(8))
        __real_message_on_feed(s, event);
}

/* ---- links ---- */

WRAP(void, links_watch_in, struct links *l, void (*fn)(void *user, uint32_t node), void *user)
{
    if (!world_has(MUTATION_ONE_SIDED))
        __real_links_watch_in(l, fn, user);
}

/* ---- without archives ---- */

WRAP(void, sm_refused, struct session *s, uint64_t n_in)
{
    if (world_has(MUTATION_REFUSAL_COUNTED))
        sm_settled(s, n_in);
    else
        __real_sm_refused(s, n_in);
}

WRAP(bool, repeats_is_one, struct shard *s, const struct envelope *e)
{
    return !world_has(MUTATION_REPEATS_TAKEN) && __real_repeats_is_one(s, e);
}
