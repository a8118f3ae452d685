#include "im/router.h"
#include "im/carbons.h"
#include "im/events.h"
#include "im/fence.h"
#include "im/held.h"
#include "im/homes.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/link_frames.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/repeats.h"
#include "im/session.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/user.h"
#include <assert.h>
#include <string.h>

enum {
    HOLD_MS = 5000,   /* for after_index, or a former home */
    BLOCK_MS = 10000, /* for a node that takes nothing */
    THROTTLE_MAX_MS = 200,
    INBOX_THROTTLE_MS = 20,
    HELD_MAX = 16 << 20,  /* bytes */
    PEER_MAX = 16 << 20,  /* bytes queued for one node, beyond what the link holds */
    INBOX_SOFT = 1 << 20, /* bytes in another shard's mailbox before senders are slowed */
};

/* Another node, as far as this shard has something for it that its link does not take. */
struct peer {
    struct list link;
    uint32_t node;
    struct list queue; /* struct envelope */
    size_t n_bytes;
    uint64_t blocked_ms; /* since when; 0: not */
    bool down;           /* until router_link_up: what the former link has lost goes first */
    /* The full presence set on its way to it: sessions still to be named. */
    uint32_t generation;
    uint64_t *sync_ids;
    size_t n_sync, at_sync;
};
struct router {
    struct list peers;
    struct held held;      /* waiting for an index, the lease or the former home */
    struct peer *again;    /* its link is new: what is sent again now goes */
    struct list *again_at; /* before this one of its queue */
    bool homes_changed;
    bool advancing, advance_again;
};

void router_init(struct shard *s)
{
    s->router = mem_new(struct router);
    list_init(&s->router->peers);
    held_init(&s->router->held);
}

static void free_envelopes(struct list *l)
{
    for (struct list *item; (item = list_first(l));) {
        list_remove(item);
        envelope_free(list_entry(item, struct envelope, link));
    }
}

void router_fini(struct shard *s)
{
    struct router *r = s->router;
    if (!r)
        return;
    held_fini(&r->held);
    struct peer *p;
    list_for_each(p, &r->peers, struct peer, link)
    {
        free_envelopes(&p->queue);
        mem_free(p->sync_ids);
        mem_free(p);
    }
    mem_free(r);
    s->router = NULL;
}

bool router_is_holding(struct shard *s)
{
    return !held_is_empty(&s->router->held);
}

/* ---- to another shard ---- */

static void deliver_letter(struct letter *letter)
{
    struct envelope *e = container_of(letter, struct envelope, letter);
    struct shard *s = e->shard;
    size_t left = atomic_fetch_sub_explicit(&s->inbox_bytes, e->n_bytes, memory_order_relaxed) - e->n_bytes;
    uint64_t now = loop_now_ms(s->loop);
    if (left > INBOX_SOFT && now != s->throttled_ms && e->session && !(e->flags & ENVELOPE_THROTTLE)) {
        s->throttled_ms = now; /* this shard cannot keep up: one sender per millisecond is slowed */
        router_throttle(s, e, INBOX_THROTTLE_MS);
    }
    router_receive(s, e);
}

static void discard_letter(struct letter *letter)
{
    envelope_free(container_of(letter, struct envelope, letter));
}

void router_post(struct shard *to, struct envelope *e)
{
    e->shard = to;
    e->letter.deliver = deliver_letter;
    e->letter.discard = discard_letter;
    atomic_fetch_add_explicit(&to->inbox_bytes, e->n_bytes, memory_order_relaxed);
    loop_post(to->loop, &e->letter);
}

/* ---- to another node ---- */

static struct peer *find_peer(struct router *r, uint32_t node)
{
    struct peer *p;
    list_for_each(p, &r->peers, struct peer, link) if (p->node == node) return p;
    return NULL;
}

static struct peer *get_peer(struct router *r, uint32_t node)
{
    struct peer *p = find_peer(r, node);
    if (p)
        return p;
    p = mem_new(struct peer);
    p->node = node;
    list_init(&p->queue);
    list_append(&r->peers, &p->link);
    return p;
}

static int send_frame(struct shard *s, uint32_t node, const struct envelope *e)
{
    const struct im_backend *b = im_backend(s->im);
    buf_reset(&s->scratch);
    enum link_frame type = LINK_ENVELOPE;
    if (e->flags & ENVELOPE_BROADCAST) {
        type = LINK_PRESENCE;
        presence_frame_begin(&s->scratch, PRESENCE_FRAME_RESOURCE, (uint16_t)s->index,
                             get_peer(s->router, node)->generation);
    }
    envelope_encode(&s->scratch, e);
    return b->link_send(b->user, node, type, s->scratch.data, s->scratch.n);
}

static void block(struct shard *s, struct peer *p, struct session *from)
{
    if (!p->blocked_ms)
        p->blocked_ms = loop_now_ms(s->loop);
    if (from && !from->blocked_on && loop_now_ms(s->loop) - p->blocked_ms < BLOCK_MS) {
        from->blocked_on = p->node;
        session_pause(from, PAUSE_LINK);
    }
}

static void resume_sessions(struct shard *s, uint32_t node)
{
    /* A resumed session handles what it has queued, which may close it: walk over a copy. */
    size_t n = 0;
    uint64_t *ids = mem_alloc((s->sessions.n + 1) * sizeof *ids);
    htab_for_each(at, &s->sessions)
    {
        struct session *session = container_of(at, struct session, node);
        if (session->blocked_on == node)
            ids[n++] = session->id;
    }
    for (size_t i = 0; i < n; i++) {
        struct session *session = session_find(s, ids[i]);
        if (!session)
            continue;
        session->blocked_on = 0;
        session_resume(session, PAUSE_LINK);
    }
    mem_free(ids);
}

static void queue_for(struct shard *s, struct peer *p, struct envelope *e, struct session *from)
{
    if (p->n_bytes + e->n_bytes > PEER_MAX) {
        router_bounce(s, e, STANZA_REMOTE_SERVER_TIMEOUT, NULL);
        envelope_free(e);
        return;
    }
    e->queued_ms = loop_now_ms(s->loop);
    p->n_bytes += e->n_bytes;
    list_insert_before(s->router->again == p ? s->router->again_at : &p->queue, &e->link);
    block(s, p, from);
}

/* Is there nothing that E must wait behind? */
static bool is_next(const struct router *r, const struct peer *p)
{
    return !p || p->queue.next == (r->again == p ? r->again_at : &p->queue);
}

static void send_to_node(struct shard *s, uint32_t node, struct envelope *e, struct session *from)
{
    const struct im_backend *b = im_backend(s->im);
    struct peer *p = find_peer(s->router, node);
    /* The choice of NODE rests on what was applied here: the other one must know it, too, or would send it
     * on. */
    if (e->after_index < s->route_index)
        e->after_index = s->route_index;
    bool down = p && p->down;
    if (!is_next(s->router, p)) {
        queue_for(s, p, e, from);
        return;
    }
    int rc = down ? ERR_UNAVAILABLE : send_frame(s, node, e);
    if (rc < 0) {
        get_peer(s->router, node)->down = rc == ERR_UNAVAILABLE;
        if (e->flags & ENVELOPE_BROADCAST && rc == ERR_UNAVAILABLE)
            envelope_free(e);
        else
            queue_for(s, get_peer(s->router, node), e, from);
        return;
    }
    envelope_free(e);
    if (from && b->link_is_congested(b->user, node))
        block(s, get_peer(s->router, node), from);
}

void router_send_presence(struct shard *s, uint32_t node, struct envelope *e)
{
    const struct im_backend *b = im_backend(s->im);
    if (!b->link_is_up(b->user, node))
        envelope_free(e);
    else
        send_to_node(s, node, e, NULL);
}

/* ---- where to ---- */

void router_bounce(struct shard *s, const struct envelope *e, enum stanza_error error, const char *text)
{
    struct envelope *back = envelope_bounce(e, error, text);
    if (back)
        router_send(s, back, NULL);
    sm_settle(s, e);
    repeats_forget(s, e); /* the error may get lost with this node: then it is sent again, and is new */
}

static void route(struct shard *s, struct envelope *e, struct session *from)
{
    struct shard *target = im_shard_of(s->im, e->to_uid);
    struct user *u = target == s ? user_find(s, e->to_uid) : NULL;
    uint32_t node = 0;
    /* Sessions of the user on this very shard say that it is the home, without a look at the store. */
    if (!u || list_is_empty(&u->sessions))
        node = shard_home_of(s, e->to_uid);
    if (node && node != im_node_id(s->im)) {
        send_to_node(s, node, e, from);
    } else if (target == s) {
        router_receive(s, e);
    } else {
        router_post(target, e);
        if (from && atomic_load_explicit(&target->inbox_bytes, memory_order_relaxed) > INBOX_SOFT)
            session_throttle(from, 10);
    }
}

/* RFC 6121 §8.5.1 for users that are not there. */
static bool resolve(struct shard *s, struct envelope *e)
{
    struct arena a;
    uint64_t uid;
    switch (shard_find_uid(s, e->to, &uid)) {
    case 0:
        e->to_uid = uid;
        return true;
    case ERR_INVALID:
        router_bounce(s, e, STANZA_REMOTE_SERVER_NOT_FOUND, NULL);
        return false;
    case ERR_CONFLICT: {
        arena_init(&a);
        const char *jid = shard_user_jid(s, uid, &a);
        router_bounce(s, e, STANZA_GONE, jid ? arena_printf(&a, "xmpp:%s", jid) : NULL);
        arena_fini(&a);
        return false;
    }
    default:
        if (e->type == PRESENCE_PROBE && strchr(e->to, '@'))
            presence_deny_probe(s, e);
        else if (e->kind != STANZA_PRESENCE)
            router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
        return false;
    }
}

static uint64_t own_epoch(const struct shard *s)
{
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self ? self->epoch : 0;
}

/* Has this node been declared down since? Then the sender's session, or what was to be done with E here,
 * ended with that epoch: others have taken over, and it would come behind what was sent later. */
static bool is_outlived(const struct shard *s, const struct envelope *e)
{
    return e->epoch_here && e->epoch_here < own_epoch(s);
}

static void refuse_outlived(struct shard *s, struct envelope *e)
{
    router_bounce(s, e, STANZA_REMOTE_SERVER_TIMEOUT, "the node of the account was taken down");
    envelope_free(e);
}

void router_send(struct shard *s, struct envelope *e, struct session *from)
{
    if (!from || !store_out_queue(from, e))
        router_send_now(s, e, from);
}

void router_send_now(struct shard *s, struct envelope *e, struct session *from)
{
    if (from) {
        e->session = from->id;
        from->n_fed += e->n_bytes;
        e->from_uid = from->user->uid;
        if (from->after_index > e->after_index)
            e->after_index = from->after_index;
        carbons_sent(from->user, from->id, e);
    }
    if (!e->to_uid && outside_is(s, e->to)) {
        outside_send(s, e);
        return;
    }
    if (!e->to_uid && !resolve(s, e)) {
        envelope_free(e);
        return;
    }
    e->order_index = s->feed_index;
    e->order = ++s->n_sent;
    e->epoch_here = own_epoch(s);
    if (from)
        fence_note(from, e);
    if (from && e->flags & ENVELOPE_COUNTED)
        sm_sent(from, e);
    route(s, e, from);
}

void router_send_again(struct shard *s, struct envelope *e)
{
    e->epoch_here = own_epoch(s);
    route(s, e, NULL);
}

void router_tell_queued(struct shard *s)
{
    struct peer *p;
    struct envelope *e;
    list_for_each(p, &s->router->peers, struct peer, link)
    {
        list_for_each(e, &p->queue, struct envelope, link)
        {
            if (e->flags & ENVELOPE_COUNTED)
                sm_is_queued(s, e);
        }
    }
}

void router_forward(struct shard *s, struct envelope *e)
{
    repeats_forget(s, e);
    if (is_outlived(s, e)) {
        refuse_outlived(s, e);
        return;
    }
    /* Each hop knows at least as much of the log as the one before; seven moves overtook it otherwise. */
    if ((e->flags & ENVELOPE_HOPS) == ENVELOPE_HOPS) {
        router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, "the account moves between nodes");
        envelope_free(e);
        return;
    }
    e->flags += ENVELOPE_HOP;
    route(s, e, NULL);
}

void router_pass(struct shard *s, struct envelope *e)
{
    route(s, e, NULL);
}

void router_throttle(struct shard *s, const struct envelope *e, unsigned ms)
{
    if (!e->from_uid)
        return;
    struct envelope *t = envelope_new(&(struct envelope_parts){.type = MESSAGE_NORMAL, .to = e->from});
    t->flags = ENVELOPE_THROTTLE | ENVELOPE_NO_BOUNCE;
    t->to_uid = e->from_uid;
    t->session = e->session;
    t->from_uid = ms; /* a throttle has no other use for it */
    route(s, t, NULL);
}

/* ---- arriving ---- */

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

/* Sessions say that it is the home, without a look at the store. */
static enum home_place place_of(struct shard *s, uint64_t uid)
{
    struct user *u = user_find(s, uid);
    return u && !list_is_empty(&u->sessions) ? PLACE_HERE : shard_place_of(s, uid, NULL, NULL);
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
    if (is_outlived(s, e)) {
        refuse_outlived(s, e);
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
        router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, "this node cannot reach the cluster's majority");
        envelope_free(e);
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
        router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, NULL);
        envelope_free(e);
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
                router_bounce(s, e, STANZA_REMOTE_SERVER_TIMEOUT, "this node is behind in replication");
            else
                router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, "the account is moving to another node");
            envelope_free(e);
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
static void advance_held(struct shard *s)
{
    struct router *r = s->router;
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

/* Gives the queue to the link as far as it takes it. */
static void advance_peer(struct shard *s, struct peer *p)
{
    const struct im_backend *b = im_backend(s->im);
    uint64_t now = loop_now_ms(s->loop);
    for (struct list *item; (item = list_first(&p->queue));) {
        struct envelope *e = list_entry(item, struct envelope, link);
        if (is_outlived(s, e)) {
            list_remove(item);
            p->n_bytes -= e->n_bytes;
            refuse_outlived(s, e);
            continue;
        }
        int rc = p->down ? ERR_UNAVAILABLE : send_frame(s, p->node, e);
        if (rc < 0) {
            p->down = rc == ERR_UNAVAILABLE;
            if (now - e->queued_ms < BLOCK_MS)
                break;
            router_bounce(s, e, STANZA_REMOTE_SERVER_TIMEOUT, NULL);
        }
        list_remove(item);
        p->n_bytes -= e->n_bytes;
        envelope_free(e);
    }
    if (list_is_empty(&p->queue) &&
        !(b->link_is_up(b->user, p->node) && b->link_is_congested(b->user, p->node))) {
        p->blocked_ms = 0;
        resume_sessions(s, p->node);
    } else if (p->blocked_ms && now - p->blocked_ms >= BLOCK_MS) {
        resume_sessions(s, p->node); /* their stanzas come back at once from now on */
    }
}

/* Names the sessions that are left, as far as the link takes it; changes meanwhile go out in the same
 * generation. */
static void advance_sync(struct shard *s, struct peer *p)
{
    const struct im_backend *b = im_backend(s->im);
    while (p->at_sync < p->n_sync && !b->link_is_congested(b->user, p->node)) {
        struct session *session = session_find(s, p->sync_ids[p->at_sync]);
        if (session && session->presence) {
            struct envelope *e = envelope_copy(session->presence, NULL);
            e->flags = ENVELOPE_BROADCAST;
            e->from_uid = session->user->uid;
            e->after_index = session->after_index;
            int rc = send_frame(s, p->node, e);
            envelope_free(e);
            if (rc < 0)
                return;
        }
        p->at_sync++;
    }
    if (p->at_sync < p->n_sync)
        return;
    buf_reset(&s->scratch);
    presence_frame_begin(&s->scratch, PRESENCE_FRAME_END, (uint16_t)s->index, p->generation);
    if (b->link_send(b->user, p->node, LINK_PRESENCE, s->scratch.data, s->scratch.n) < 0)
        return;
    mem_free(p->sync_ids);
    p->sync_ids = NULL;
}

/* Addressees of what waits for a node may have another home by now. */
static void reroute(struct shard *s, struct peer *p)
{
    struct list all;
    list_init(&all);
    for (struct list *item; (item = list_first(&p->queue));) {
        list_remove(item);
        list_append(&all, item);
    }
    p->n_bytes = 0;
    for (struct list *item; (item = list_first(&all));) {
        list_remove(item);
        struct envelope *e = list_entry(item, struct envelope, link);
        uint64_t since = e->queued_ms;
        if (e->flags & ENVELOPE_BROADCAST || shard_home_of(s, e->to_uid) == p->node) {
            p->n_bytes += e->n_bytes;
            list_append(&p->queue, &e->link);
            e->queued_ms = since;
        } else {
            route(s, e, NULL);
        }
    }
}

void router_homes_changed(struct shard *s)
{
    s->router->homes_changed = true;
}

void router_advance(struct shard *s)
{
    struct router *r = s->router;
    struct peer *p;
    if (r->homes_changed) {
        r->homes_changed = false;
        list_for_each(p, &r->peers, struct peer, link) if (!list_is_empty(&p->queue)) reroute(s, p);
    }
    list_for_each(p, &r->peers, struct peer, link)
    {
        if (p->sync_ids)
            advance_sync(s, p);
        if (p->blocked_ms || !list_is_empty(&p->queue))
            advance_peer(s, p);
    }
    if (!held_is_empty(&r->held))
        advance_held(s);
}

void router_link_up(struct shard *s, uint32_t node)
{
    struct peer *p = get_peer(s->router, node);
    p->generation = atomic_fetch_add_explicit(&s->im->sync_generation, 1, memory_order_relaxed) + 1;
    mem_free(p->sync_ids);
    p->sync_ids = mem_alloc((s->sessions.n + 1) * sizeof *p->sync_ids);
    p->n_sync = p->at_sync = 0;
    htab_for_each(at, &s->sessions)
    {
        struct session *session = container_of(at, struct session, node);
        if (session->presence)
            p->sync_ids[p->n_sync++] = session->id;
    }
    p->down = false;
    s->router->again = p; /* the former link may have lost it */
    s->router->again_at = p->queue.next;
    sm_send_again(s, node);
    s->router->again = NULL;
    router_advance(s);
}

void router_link_down(struct shard *s, uint32_t node)
{
    struct peer *p = get_peer(s->router, node);
    p->down = true;
    mem_free(p->sync_ids);
    p->sync_ids = NULL;
    struct envelope *e;
    list_for_each(e, &p->queue, struct envelope, link)
    {
        if (!(e->flags & ENVELOPE_BROADCAST))
            continue;
        list_remove(&e->link);
        p->n_bytes -= e->n_bytes;
        envelope_free(e);
    }
}
