#include "cluster/link.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/link_session.h"
#include <stdio.h>
#include <string.h>

enum { BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 1000, FRAME_OVERHEAD = 64 };

struct link_peer *link_peer_find(const struct links *l, uint32_t node)
{
    return node && node < LINK_MAX_NODES ? atomic_load_explicit(&l->peers[node], memory_order_acquire) : NULL;
}

/* ---- sending: any thread ---- */

struct frame_letter {
    struct letter letter;
    struct links *links;
    struct link_peer *peer;
    uint64_t generation;
    uint8_t type;
    size_t n;
    uint8_t data[];
};

static void refresh_queued(struct link_peer *p)
{
    size_t n = p->out && p->out->state == SESSION_OPEN ? stream_queued(p->out->stream) : 0;
    atomic_store_explicit(&p->in_stream, n, memory_order_relaxed);
}

static void free_letter(struct letter *letter)
{
    struct frame_letter *f = container_of(letter, struct frame_letter, letter);
    mem_free(f);
}

static void deliver_letter(struct letter *letter)
{
    struct frame_letter *f = container_of(letter, struct frame_letter, letter);
    struct link_peer *p = f->peer;
    if (p->out && p->out->id == f->generation && link_session_carries_frames(p->out)) {
        link_session_write(p->out, f->type, f->data, f->n);
        metrics_add(f->links->metrics, METRIC_LINK_FRAMES_OUT, 1);
        refresh_queued(p);
    }
    atomic_fetch_sub_explicit(&p->posted, f->n + FRAME_OVERHEAD, memory_order_relaxed);
    mem_free(f);
}

int link_send(struct links *l, uint32_t node, enum link_frame type, const void *data, size_t n_bytes)
{
    struct link_peer *p = link_peer_find(l, node);
    if (!p || !atomic_load_explicit(&p->up, memory_order_acquire))
        return ERR_UNAVAILABLE;
    if (n_bytes >= LINK_FRAME_MAX || link_queued(l, node) + n_bytes > LINK_HARD_BYTES)
        return ERR_LIMIT;
    struct frame_letter *f = mem_try_alloc(sizeof(*f) + n_bytes);
    if (!f)
        return ERR_LIMIT;
    *f = (struct frame_letter){.letter = {.deliver = deliver_letter, .discard = free_letter},
                               .links = l,
                               .peer = p,
                               .generation = atomic_load_explicit(&p->generation, memory_order_acquire),
                               .type = (uint8_t)type,
                               .n = n_bytes};
    memcpy(f->data, data, n_bytes);
    atomic_fetch_add_explicit(&p->posted, n_bytes + FRAME_OVERHEAD, memory_order_relaxed);
    loop_post(l->loop, &f->letter);
    return 0;
}

size_t link_queued(struct links *l, uint32_t node)
{
    struct link_peer *p = link_peer_find(l, node);
    return p ? atomic_load_explicit(&p->posted, memory_order_relaxed) +
                   atomic_load_explicit(&p->in_stream, memory_order_relaxed)
             : 0;
}

bool link_is_congested(struct links *l, uint32_t node)
{
    return link_queued(l, node) > LINK_SOFT_BYTES;
}

bool link_is_up(struct links *l, uint32_t node)
{
    struct link_peer *p = link_peer_find(l, node);
    return p && atomic_load_explicit(&p->up, memory_order_acquire);
}

bool links_hears(const struct links *l, uint32_t node)
{
    const struct link_peer *p = link_peer_find(l, node);
    return p && p->in && link_session_carries_frames(p->in);
}

/* ---- sessions ---- */

static void set_up(struct link_session *s, bool up)
{
    struct links *l = s->links;
    struct link_peer *p = link_peer_find(l, s->node);
    if (!p || p->out != s || s->announced == up)
        return;
    s->announced = up;
    atomic_store_explicit(&p->generation, s->id, memory_order_release);
    atomic_store_explicit(&p->up, up, memory_order_release);
    struct link_watch *w;
    list_for_each(w, &l->watches, struct link_watch, link)
    {
        if (up && w->on_up)
            w->on_up(w->user, s->node, s->epoch);
        if (!up && w->on_down)
            w->on_down(w->user, s->node);
    }
}

/* The peer has got through to us: do not wait out the back-off, or for TCP to repeat what the network
 * swallowed. */
static void revive_out(struct link_peer *p)
{
    struct link_session *s = p->out;
    uint64_t now = loop_now_ms(p->links->loop);
    if (s && now > s->heard_ms + 2 * p->links->ping_ms)
        link_session_end(s, "it did not answer, and has dialled itself");
    if (!p->out && timer_is_on(&p->retry)) {
        p->backoff_ms = 0;
        timer_stop(&p->retry);
        link_session_dial(p);
    }
}

void link_on_session_open(struct link_session *s)
{
    struct link_peer *p = link_peer_find(s->links, s->node);
    if (!s->dialled) {
        if (p && p->in && p->in != s)
            link_session_end(p->in, "a newer connection took its place");
        if (p) {
            p->in = s;
            s->announced = link_session_carries_frames(s);
            revive_out(p);
        }
        return;
    }
    if (p) {
        p->backoff_ms = 0;
        *p->last_error = '\0';
        log_info(s->links->log, "link to node %u (%s:%u) is up%s", s->node, p->address, p->port,
                 link_session_carries_frames(s) ? "" : ", for calls");
    }
    if (link_session_carries_frames(s))
        set_up(s, true);
}

static void tell_in_down(struct link_session *s)
{
    struct link_watch *w;
    if (!s->announced)
        return;
    s->announced = false;
    list_for_each(w, &s->links->watches, struct link_watch, link)
    {
        if (w->on_in_down)
            w->on_in_down(w->user, s->node);
    }
}

static void schedule(struct link_peer *p)
{
    if (p->links->freed || !p->member || p->out || timer_is_on(&p->retry))
        return;
    unsigned wait = p->backoff_ms;
    p->backoff_ms = wait ? wait * 2 : BACKOFF_MIN_MS;
    if (p->backoff_ms > BACKOFF_MAX_MS)
        p->backoff_ms = BACKOFF_MAX_MS;
    /* Spread over half of it, so that nodes do not knock in step. */
    timer_start(&p->retry, wait / 2 + (unsigned)(random_u64() % (wait / 2 + 1)), 0);
}

void link_on_session_closed(struct link_session *s)
{
    set_up(s, false);
    struct link_peer *p = link_peer_find(s->links, s->node);
    link_call_session_lost(s);
    if (!p)
        return;
    if (p->in == s) {
        p->in = NULL;
        tell_in_down(s);
    }
    if (p->out == s) {
        p->out = NULL;
        atomic_store_explicit(&p->in_stream, 0, memory_order_relaxed);
        schedule(p);
    }
}

void link_on_frame(struct link_session *s, unsigned type, const uint8_t *data, size_t n_bytes)
{
    struct links *l = s->links;
    metrics_add(l->metrics, METRIC_LINK_FRAMES_IN, 1);
    if (type == LINK_CALL && !s->dialled) {
        link_call_on_request(s, data, n_bytes);
        return;
    }
    if (type == LINK_REPLY && s->dialled) {
        link_call_on_reply(s, data, n_bytes);
        return;
    }
    if (s->dialled || type >= N_LINK_FRAMES || type <= LINK_REPLY) {
        link_session_end(s, "a frame of unknown type");
        return;
    }
    if (link_session_carries_frames(s) && l->handlers[type].fn)
        l->handlers[type].fn(l->handlers[type].user, s->node, s->epoch, data, n_bytes);
}

static void on_retry(struct timer *t)
{
    struct link_peer *p = container_of(t, struct link_peer, retry);
    if (p->member && !p->out && !p->links->freed)
        link_session_dial(p);
}

/* ---- control ---- */

static void on_before_poll(struct loop_hook *hook)
{
    struct links *l = container_of(hook, struct links, before_poll);
    struct link_session *s;
    list_for_each(s, &l->sessions, struct link_session, link)
    {
        struct link_peer *p = link_peer_find(l, s->node);
        if (p && p->out == s)
            refresh_queued(p);
    }
}

struct links *links_new(const struct links_options *o)
{
    struct links *l = mem_new(struct links);
    l->loop = o->loop;
    l->log = o->log;
    l->metrics = o->metrics;
    l->node_id = o->node_id;
    memcpy(l->cluster_id, o->cluster_id, 16);
    memcpy(l->start_nonce, o->start_nonce, 16);
    snprintf(l->release, sizeof(l->release), "%s", o->release);
    l->tls = tls_ctx_ref(o->tls_client);
    l->connect_ms = o->connect_ms ? o->connect_ms : 3000;
    l->ping_ms = o->ping_ms ? o->ping_ms : 1000;
    l->dead_ms = o->dead_ms ? o->dead_ms : 3500;
    l->on_seen = o->on_seen;
    l->key_of = o->key_of;
    l->user = o->user;
    list_init(&l->sessions);
    list_init(&l->watches);
    list_init(&l->methods);
    list_init(&l->calls);
    l->before_poll.fn = on_before_poll;
    loop_add_before_poll(l->loop, &l->before_poll);
    return l;
}

static void end_all(struct links *l, const char *why)
{
    struct link_session *s;
    list_for_each(s, &l->sessions, struct link_session, link) link_session_end(s, why);
}

static void release(struct letter *letter)
{
    struct links *l = container_of(letter, struct links, last);
    for (unsigned i = 0; i < LINK_MAX_NODES; i++)
        mem_free(atomic_load(&l->peers[i]));
    mem_free(l);
}

/* As the last letter: frames that were posted before it still look at their peer. */
void link_release(struct links *l)
{
    l->last = (struct letter){.deliver = release, .discard = release};
    loop_post(l->loop, &l->last);
}

void links_free(struct links *l)
{
    l->freed = true;
    loop_remove_before_poll(&l->before_poll);
    end_all(l, "this node stops");
    link_call_cancel_all(l);
    for (unsigned i = 0; i < LINK_MAX_NODES; i++) {
        struct link_peer *p = atomic_load(&l->peers[i]);
        if (p)
            timer_stop(&p->retry);
    }
    struct link_watch *w;
    list_for_each(w, &l->watches, struct link_watch, link) mem_free(w);
    struct link_method *m;
    list_for_each(m, &l->methods, struct link_method, link) mem_free(m);
    list_init(&l->watches);
    list_init(&l->methods);
    tls_ctx_unref(l->tls);
    l->tls = NULL;
    if (list_is_empty(&l->sessions))
        link_release(l);
}

void links_set_tls(struct links *l, struct tls_ctx *tls_client)
{
    struct tls_ctx *old = l->tls;
    l->tls = tls_ctx_ref(tls_client);
    tls_ctx_unref(old);
}

void links_set_epoch(struct links *l, uint64_t epoch)
{
    if (l->epoch == epoch)
        return;
    l->epoch = epoch;
    end_all(l, "this node has a new epoch");
}

static struct link_peer *add_peer(struct links *l, uint32_t node)
{
    struct link_peer *p = mem_new(struct link_peer);
    p->links = l;
    p->node = node;
    timer_init(&p->retry, l->loop, on_retry);
    atomic_store_explicit(&l->peers[node], p, memory_order_release);
    return p;
}

static void update_peer(struct links *l, const struct member *m)
{
    if (m->id >= LINK_MAX_NODES || m->id == l->node_id)
        return;
    struct link_peer *p = link_peer_find(l, m->id);
    if (!p)
        p = add_peer(l, m->id);
    bool moved = strcmp(p->address, m->address) || p->port != m->cluster_port;
    snprintf(p->address, sizeof(p->address), "%s", m->address);
    p->port = m->cluster_port;
    p->row_epoch = m->epoch;
    p->member = true;
    if (p->out && moved)
        link_session_end(p->out, "its address has changed");
    /* All of them: one may have been accepted before we knew of the member. */
    struct link_session *s;
    list_for_each(s, &l->sessions, struct link_session,
                  link) if (s->node == m->id && s->state == SESSION_OPEN && s->epoch && s->epoch < m->epoch)
        link_session_end(s, "its epoch has ended");
    if (!p->out)
        schedule(p);
}

void links_set_members(struct links *l, const struct members *m)
{
    for (unsigned i = 0; i < m->n; i++)
        update_peer(l, &m->list[i]);
    for (unsigned i = 0; i < LINK_MAX_NODES; i++) {
        struct link_peer *p = atomic_load(&l->peers[i]);
        if (!p || !p->member || members_find(m, p->node))
            continue;
        p->member = false;
        timer_stop(&p->retry);
        struct link_session *s;
        list_for_each(s, &l->sessions, struct link_session, link) if (s->node == p->node)
            link_session_end(s, "it is no longer a member");
    }
}

void links_accept(struct links *l, struct stream *s, uint32_t node)
{
    link_session_accept(l, s, node);
    if (l->on_seen)
        l->on_seen(l->user, node);
}

void links_handle(struct links *l, enum link_frame type, link_frame_fn *fn, void *user)
{
    if (type < N_LINK_FRAMES)
        l->handlers[type] = (struct link_handler){fn, user};
}

static void add_watch(struct links *l, struct link_watch watch)
{
    struct link_watch *w = mem_new(struct link_watch);
    *w = watch;
    list_append(&l->watches, &w->link);
}

void links_watch(struct links *l, void (*on_up)(void *user, uint32_t node, uint64_t epoch),
                 void (*on_down)(void *user, uint32_t node), void *user)
{
    add_watch(l, (struct link_watch){.on_up = on_up, .on_down = on_down, .user = user});
}

void links_watch_in(struct links *l, void (*fn)(void *user, uint32_t node), void *user)
{
    add_watch(l, (struct link_watch){.on_in_down = fn, .user = user});
}

uint32_t links_ping_us(const struct links *l, uint32_t node)
{
    struct link_peer *p = link_peer_find(l, node);
    return p && p->out && p->out->state == SESSION_OPEN ? p->rtt_us : 0;
}

bool links_can_call(const struct links *l, uint32_t node)
{
    struct link_peer *p = link_peer_find(l, node);
    return node == l->node_id || (p && p->out && p->out->state == SESSION_OPEN);
}
