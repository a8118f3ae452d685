/* What goes to other nodes: as far as a link takes it, the rest waits here, in order. A new link is told the
 * whole presence of this shard's sessions first. */
#include "im/link_frames.h"
#include "im/presence.h"
#include "im/router_impl.h"
#include "im/session.h"
#include "im/sm_session.h"
#include "im/user.h"

enum {
    BLOCK_MS = 10000,    /* for a node that takes nothing */
    PEER_MAX = 16 << 20, /* bytes queued for one node, beyond what the link holds */
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

static void free_envelopes(struct list *l)
{
    for (struct list *item; (item = list_first(l));) {
        list_remove(item);
        envelope_free(list_entry(item, struct envelope, link));
    }
}

void router_free_nodes(struct router *r)
{
    struct peer *p;
    list_for_each(p, &r->peers, struct peer, link)
    {
        free_envelopes(&p->queue);
        mem_free(p->sync_ids);
        mem_free(p);
    }
}

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
        router_refuse(s, e, STANZA_REMOTE_SERVER_TIMEOUT, NULL);
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

void router_send_to_node(struct shard *s, uint32_t node, struct envelope *e, struct session *from)
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
        router_send_to_node(s, node, e, NULL);
}

void router_forget_queued(struct shard *s, uint64_t session)
{
    struct peer *p;
    struct envelope *e;
    list_for_each(p, &s->router->peers, struct peer, link)
    {
        list_for_each(e, &p->queue, struct envelope, link)
        {
            if (!held_is_of(e, session))
                continue;
            if (s->router->again_at == &e->link)
                s->router->again_at = e->link.next;
            list_remove(&e->link);
            p->n_bytes -= e->n_bytes;
            envelope_free(e);
        }
    }
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

/* Gives the queue to the link as far as it takes it. */
static void advance_peer(struct shard *s, struct peer *p)
{
    const struct im_backend *b = im_backend(s->im);
    uint64_t now = loop_now_ms(s->loop);
    for (struct list *item; (item = list_first(&p->queue));) {
        struct envelope *e = list_entry(item, struct envelope, link);
        if (router_is_outlived(s, e)) {
            list_remove(item);
            p->n_bytes -= e->n_bytes;
            router_refuse_outlived(s, e);
            continue;
        }
        int rc = p->down ? ERR_UNAVAILABLE : send_frame(s, p->node, e);
        if (rc < 0) {
            p->down = rc == ERR_UNAVAILABLE;
            if (now - e->queued_ms < BLOCK_MS)
                break;
            list_remove(item);
            p->n_bytes -= e->n_bytes;
            router_refuse(s, e, STANZA_REMOTE_SERVER_TIMEOUT, NULL);
            continue;
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
        } else if (sm_park(s, e)) {
            envelope_free(e);
        } else {
            router_route(s, e, NULL);
        }
    }
}

void router_homes_changed(struct shard *s)
{
    s->router->homes_changed = true;
}

void router_advance_nodes(struct shard *s)
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
