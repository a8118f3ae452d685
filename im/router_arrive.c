/* What has arrived for a user of this shard: held, in order, for as long as the log, the lease or a former
 * home keeps it waiting, then delivered. */
#include "im/events.h"
#include "im/fence.h"
#include "im/homes.h"
#include "im/hooks.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/router_impl.h"
#include "im/session.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/user.h"

enum {
    HOLD_MS = 5000, /* for after_index, or a former home */
    THROTTLE_MAX_MS = 200,
    HELD_MAX = 16 << 20, /* bytes */
};

/* RFC 6121 §8.5.2.1.3, §8.5.3.1, §8.5.3.2.3. Bare JIDs were answered at the sender's home. */
static void receive_iq(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    if (im_hooks_to_user(s, e->to_uid, u, e, false)) {
        envelope_free(e);
        return;
    }
    const char *resource = jid_resource(e->to);
    struct session *session = u && *resource ? user_find_session(u, resource) : NULL;
    bool request = e->type == IQ_GET || e->type == IQ_SET;
    if (!session || (request && !presence_is_shared(session, e)))
        router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
    else
        session->ops->deliver(session, e, NULL);
    envelope_free(e);
}

bool router_is_void(struct shard *s, const struct envelope *e)
{
    const struct member *m = e->epoch ? members_find(s->members, e->from_node) : NULL;
    return m && e->epoch < m->epoch;
}

static void deliver(struct shard *s, struct envelope *e)
{
    if (e->flags & ENVELOPE_THROTTLE) {
        /* Of a message that came out of the store only the name is known. */
        struct user *u = e->session ? NULL : user_find(s, e->to_uid);
        struct session *session = u ? user_find_session(u, jid_resource(e->to)) : session_find(s, e->session);
        if (session)
            session_throttle(session,
                             e->from_uid < THROTTLE_MAX_MS ? (unsigned)e->from_uid : THROTTLE_MAX_MS);
        envelope_free(e);
        return;
    }
    if (e->flags & ENVELOPE_SETTLED) {
        struct session *session = session_find(s, e->session);
        if (session && e->flags & ENVELOPE_FENCE)
            store_out_fence(session, e->n_in);
        else if (session)
            sm_settled(session, e->n_in);
        envelope_free(e);
        return;
    }
    if (e->flags & ENVELOPE_FENCE) {
        fence_answer(s, e);
        envelope_free(e);
        return;
    }
    if (e->flags & ENVELOPE_BROADCAST) {
        presence_remote(s, e);
        return;
    }
    if (e->flags & ENVELOPE_EVENT) {
        events_receive(s, e);
        return;
    }
    switch (e->kind) {
    case STANZA_MESSAGE:
        message_receive(s, e);
        break;
    case STANZA_PRESENCE:
        presence_receive(s, e);
        break;
    default:
        receive_iq(s, e);
        break;
    }
}

static enum home_place place_of(struct shard *s, uint64_t uid)
{
    struct user *u = user_find(s, uid);
    return u && user_is_here(u) ? PLACE_HERE : shard_place_of(s, uid, NULL, NULL);
}

/* Delivers or passes on what need not wait. Broadcasts of other nodes and throttles need neither lease nor
 * home. */
static bool take(struct shard *s, struct envelope *e)
{
    bool bound = !(e->flags & (ENVELOPE_BROADCAST | ENVELOPE_THROTTLE | ENVELOPE_SETTLED));
    enum shard_lease lease = shard_check_lease(s);
    if (e->after_index > s->applied_index)
        return false;
    if (e->after_index)
        shard_see(s, e->after_index);
    if (router_is_void(s, e)) {
        envelope_free(e);
        return true;
    }
    if (router_is_outlived(s, e)) {
        router_refuse_outlived(s, e);
        return true;
    }
    enum home_place place = bound ? place_of(s, e->to_uid) : PLACE_HERE;
    if (place == PLACE_ELSEWHERE) {
        router_forward(s, e);
        return true;
    }
    if (bound && (place == PLACE_ARRIVING || lease == LEASE_WAIT))
        return false;
    if (bound && lease >= LEASE_REFUSE && !stanza_type_is_error(e->type)) {
        router_refuse(s, e, STANZA_RESOURCE_CONSTRAINT, "this node cannot reach the cluster's majority");
        return true;
    }
    deliver(s, e);
    return true;
}

void router_receive(struct shard *s, struct envelope *e)
{
    struct router *r = s->router;
    bool in_turn = e->flags & (ENVELOPE_THROTTLE | ENVELOPE_SETTLED) || !held_has(&r->held, held_key(e));
    if (in_turn && take(s, e))
        return;
    if (r->held.n_bytes + e->n_bytes > HELD_MAX) {
        router_refuse(s, e, STANZA_RESOURCE_CONSTRAINT, NULL);
        return;
    }
    e->queued_ms = loop_now_ms(s->loop);
    held_add(&r->held, e);
    homes_touch(s); /* it may wait for an index */
}

static bool has_waited_long(struct shard *s, const struct envelope *e)
{
    if (loop_now_ms(s->loop) - e->queued_ms <= HOLD_MS)
        return false;
    return e->after_index > s->applied_index || place_of(s, e->to_uid) == PLACE_ARRIVING;
}

static void advance_held_of(struct shard *s, uint64_t key)
{
    struct held *held = &s->router->held;
    struct envelope *e;
    while ((e = held_first(held, key))) {
        if (has_waited_long(s, e)) {
            held_take(held, key);
            if (e->after_index > s->applied_index)
                router_refuse(s, e, STANZA_REMOTE_SERVER_TIMEOUT, "this node is behind in replication");
            else
                router_refuse(s, e, STANZA_RESOURCE_CONSTRAINT, "the account is moving to another node");
            continue;
        }
        /* Out while it is looked at: what it causes may be held, too. */
        held_take(held, key);
        if (take(s, e))
            continue;
        held_put_back(held, e);
        return;
    }
}

/* The look at the lease may find that it is back, which comes here again: the one that is looked at is out,
 * and those behind it must not go before it. */
void router_advance_held(struct shard *s)
{
    struct router *r = s->router;
    if (held_is_empty(&r->held))
        return;
    r->advance_again = true;
    if (r->advancing)
        return;
    r->advancing = true;
    while (r->advance_again) {
        r->advance_again = false;
        size_t n;
        uint64_t *keys = held_keys(&r->held, &n);
        for (size_t i = 0; i < n; i++)
            advance_held_of(s, keys[i]);
        mem_free(keys);
    }
    r->advancing = false;
}

bool router_holds_strays(struct shard *s)
{
    if (held_is_empty(&s->router->held))
        return false;
    size_t n;
    uint64_t *keys = held_keys(&s->router->held, &n);
    bool found = false;
    for (size_t i = 0; i < n && !found; i++) {
        const struct envelope *e = held_first(&s->router->held, keys[i]);
        found = !(e->flags & (ENVELOPE_BROADCAST | ENVELOPE_THROTTLE | ENVELOPE_SETTLED)) &&
                shard_place_of(s, keys[i], NULL, NULL) == PLACE_ELSEWHERE;
    }
    mem_free(keys);
    return found;
}

bool router_is_holding(struct shard *s)
{
    return !held_is_empty(&s->router->held);
}
