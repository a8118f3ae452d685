#include "replication/transport_impl.h"

#include "base/clock.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

static const struct conn_events link_events;

struct peer *transport_find(const struct transport *t, uint32_t node)
{
    for (unsigned i = 0; i < t->n_peers; i++)
        if (t->peers[i]->node == node)
            return t->peers[i];
    return NULL;
}

static struct link *link_new(struct transport *t, struct peer *peer, enum link_kind kind)
{
    struct link *x = mem_new(struct link);
    x->t = t;
    x->peer = peer;
    x->kind = kind;
    x->since_ms = loop_now_ms(t->config.loop);
    list_append(&t->links, &x->list);
    return x;
}

static void link_abort(struct link *x)
{
    if (x)
        conn_abort(x->conn);
}

/* ---- dialling ---- */

static void dial(struct peer *p)
{
    struct transport *t = p->t;
    if (t->stopping || p->out || !p->address[0] || !t->config.tls)
        return;
    p->out = link_new(t, p, LINK_OUT);
    p->out->conn = conn_dial(t->config.loop, p->address, p->port, t->config.tls, p->node, t->config.identify,
                             t->config.identify_user, &t->config.hello, &link_events, p->out);
}

static void on_retry(struct timer *timer)
{
    dial(container_of(timer, struct peer, retry));
}

/* The next attempt, later by half to one and a half of the back-off, so that nodes do not knock in step. */
static void retry(struct peer *p, unsigned at_least_ms)
{
    if (p->t->stopping || !p->address[0])
        return;
    unsigned ms = p->backoff_ms > at_least_ms ? p->backoff_ms : at_least_ms;
    timer_start(&p->retry, ms / 2 + (unsigned)(random_u64() % (ms + 1)), 0);
    p->backoff_ms = p->backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : p->backoff_ms * 2;
}

static void on_watch(struct timer *timer);

struct peer *transport_add(struct transport *t, uint32_t node)
{
    if (t->n_peers == TRANSPORT_MAX_PEERS)
        return NULL;
    struct peer *p = mem_new(struct peer);
    p->t = t;
    p->node = node;
    p->backoff_ms = BACKOFF_MIN_MS;
    timer_init(&p->retry, t->config.loop, on_retry);
    timer_init(&p->watch, t->config.loop, on_watch);
    t->peers[t->n_peers++] = p;
    return p;
}

void transport_drop(struct peer *p)
{
    struct link *links[] = {p->out, p->in, p->held};
    for (unsigned i = 0; i < n_elements(links); i++) {
        if (links[i]) {
            links[i]->peer = NULL;
            link_abort(links[i]);
        }
    }
    timer_stop(&p->retry);
    timer_stop(&p->watch);
    mem_free(p);
}

bool transport_set_where(struct peer *p, const char *address, uint16_t port)
{
    if (strcmp(p->address, address) == 0 && p->port == port)
        return false;
    snprintf(p->address, sizeof(p->address), "%s", address);
    p->port = port;
    return true;
}

void transport_redial(struct peer *p)
{
    p->backoff_ms = BACKOFF_MIN_MS;
    timer_stop(&p->retry);
    if (p->out)
        link_abort(p->out); /* its end dials again */
    else
        dial(p);
}

/* The peer has got through to us. Ours to it may still wait for TCP to repeat what the network swallowed. */
static void revive_out(struct peer *p)
{
    uint64_t now = loop_now_ms(p->t->config.loop);
    if (!p->out) {
        if (timer_is_on(&p->retry))
            transport_redial(p);
        return;
    }
    uint64_t since = conn_is_open(p->out->conn) ? p->pong_ms : p->out->since_ms;
    if (now > since + STUCK_MS)
        transport_redial(p);
}

/* ---- hellos ---- */

static void open_out(struct link *x, const struct conn_hello *hello)
{
    struct peer *p = x->peer;
    struct transport *t = x->t;
    p->backoff_ms = BACKOFF_MIN_MS;
    p->generation++;
    p->pong_ms = loop_now_ms(t->config.loop);
    p->has_clock = false;
    snprintf(p->release, sizeof(p->release), "%s", hello->release);
    log_info(t->config.log, "connected to node %u", p->node);
    t->config.ops->on_link(t->config.user, p->node, true);
}

/* Does our connection go to the very process that has just said hello? */
static bool is_to(const struct link *out, const struct conn_hello *hello)
{
    return out && conn_is_open(out->conn) && memcmp(conn_peer_hello(out->conn)->nonce, hello->nonce, 16) == 0;
}

static void take_in(struct link *x)
{
    struct peer *p = x->peer;
    struct transport *t = x->t;
    const struct conn_hello *hello = conn_peer_hello(x->conn);
    if (p->in) {
        p->in->peer = NULL;
        link_abort(p->in);
    }
    if (p->held == x)
        p->held = NULL;
    x->kind = LINK_IN;
    p->in = x;
    snprintf(p->release, sizeof(p->release), "%s", hello->release);
    /* A new life at another place: what is left of ours to the old one only looks alive. */
    bool moved = transport_said(p, hello->address, hello->port);
    if (moved && !is_to(p->out, hello) && transport_set_where(p, p->said.address, p->said.port))
        transport_redial(p);
    else
        revive_out(p);
    if (!p->is_seen) {
        p->is_seen = true;
        t->config.ops->on_peer_seen(t->config.user, p->node);
    }
    conn_welcome(x->conn);
}

/* Two start nonces of one node: either the old process is gone and its connection has not noticed yet, or two
 * copies of the node live. The old one pings twice a second, so it is heard again if it lives. */
static void on_watch(struct timer *timer)
{
    struct peer *p = container_of(timer, struct peer, watch);
    struct link *x = p->held;
    if (!x)
        return;
    if (p->in && conn_heard_ms(p->in->conn) > x->since_ms + WATCH_GRACE_MS) {
        log_error(p->t->config.log, "a second living copy of node %u is refused", p->node);
        p->held = NULL;
        x->peer = NULL;
        conn_refuse(x->conn, REFUSE_COPY, "another process with this node's identity is alive");
    } else {
        take_in(x);
    }
}

static void hold(struct link *x)
{
    struct peer *p = x->peer;
    if (p->held) {
        p->held->peer = NULL;
        link_abort(p->held);
    }
    x->kind = LINK_HELD;
    x->since_ms = loop_now_ms(p->t->config.loop);
    p->held = x;
    timer_start(&p->watch, TRANSPORT_WATCH_MS, 0);
}

static void on_accepted_hello(struct link *x, const struct conn_hello *hello)
{
    struct transport *t = x->t;
    if (t->config.ops->is_removed(t->config.user, hello->node)) {
        conn_refuse(x->conn, REFUSE_REMOVED, "this node was removed from the cluster");
        return;
    }
    if (hello->node == t->config.hello.node) {
        conn_refuse(x->conn, REFUSE_COPY, "this node has the same identity");
        return;
    }
    unsigned ours = t->config.hello.election_ms;
    if (ours && hello->election_ms && hello->election_ms != ours) {
        char text[128];
        snprintf(text, sizeof(text),
                 "timing in impnode.yaml: an election takes %u ms there, %u ms here; all nodes must have the same",
                 hello->election_ms, ours);
        conn_refuse(x->conn, REFUSE_TIMING, text);
        return;
    }
    if (hello->purpose == CONN_COPY) {
        struct conn *c = x->conn;
        list_remove(&x->list);
        mem_free(x);
        t->config.ops->on_copy(t->config.user, c);
        return;
    }
    struct peer *p = transport_find(t, hello->node);
    if (!p)
        p = transport_add(t, hello->node);
    if (!p) {
        conn_abort(x->conn);
        return;
    }
    x->peer = p;
    if (p->in && memcmp(conn_peer_hello(p->in->conn)->nonce, hello->nonce, 16) != 0)
        hold(x);
    else
        take_in(x);
}

static void on_hello(void *user, struct conn *c, const struct conn_hello *hello)
{
    struct link *x = user;
    if (x->t->stopping)
        conn_abort(c);
    else if (x->kind == LINK_OUT && x->peer)
        open_out(x, hello);
    else if (x->kind == LINK_PENDING)
        on_accepted_hello(x, hello);
}

/* ---- frames ---- */

static const uint64_t CLOCK_MAX_MS = 1ull << 50; /* sums of a few do not overflow */

static void on_pong(struct link *x, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    uint64_t sent_us = read_u64(&r), now_us = clock_monotonic_us();
    if (r.failed || sent_us > now_us)
        return;
    x->peer->ping_us = now_us - sent_us > UINT32_MAX ? UINT32_MAX : (uint32_t)(now_us - sent_us);
    x->peer->pong_ms = loop_now_ms(x->t->config.loop);
    uint64_t theirs = read_u64(&r); /* half the way ago */
    x->peer->has_clock = !r.failed && theirs < CLOCK_MAX_MS;
    if (x->peer->has_clock)
        x->peer->clock_ms = (int64_t)(theirs + x->peer->ping_us / 2000) - (int64_t)(now_us / 1000);
}

static void answer_ping(struct conn *c, const uint8_t *body, size_t n_bytes)
{
    uint8_t pong[16] = {0};
    uint64_t wall = clock_wall_ms();
    memcpy(pong, body, n_bytes < 8 ? n_bytes : 8);
    for (unsigned i = 0; i < 8; i++)
        pong[8 + i] = (uint8_t)(wall >> 8 * i);
    conn_send(c, FRAME_PONG, pong, sizeof(pong));
}

static void on_frame(void *user, struct conn *c, enum conn_frame type, const uint8_t *body, size_t n_bytes)
{
    struct link *x = user;
    struct transport *t = x->t;
    if (!x->peer || t->stopping)
        return;
    x->peer->heard_ms = loop_now_ms(t->config.loop);
    if (x->kind == LINK_OUT) {
        if (type == FRAME_PONG)
            on_pong(x, body, n_bytes);
    } else if (type == FRAME_PING) {
        answer_ping(c, body, n_bytes);
    } else if (type == FRAME_WHERE) {
        transport_on_where(t, body, n_bytes);
    } else {
        t->config.ops->on_frame(t->config.user, x->peer->node, type, body, n_bytes);
    }
}

static void on_ping_timer(struct timer *timer)
{
    struct transport *t = container_of(timer, struct transport, pinger);
    uint64_t now = loop_now_ms(t->config.loop);
    uint8_t body[8];
    uint64_t us = clock_monotonic_us();
    for (unsigned i = 0; i < 8; i++)
        body[i] = (uint8_t)(us >> 8 * i);
    transport_tell_where(t);
    for (unsigned i = 0; i < t->n_peers; i++) {
        struct peer *p = t->peers[i];
        if (p->in && now > conn_heard_ms(p->in->conn) + 4 * TRANSPORT_DEAD_MS)
            link_abort(p->in);
        if (!p->out || !conn_is_open(p->out->conn))
            continue;
        if (now > p->pong_ms + TRANSPORT_DEAD_MS)
            link_abort(p->out);
        else
            conn_send(p->out->conn, FRAME_PING, body, sizeof(body));
    }
}

/* ---- ends ---- */

static void check_stopped(struct transport *t)
{
    if (t->stopping && list_is_empty(&t->links) && list_is_empty(&t->stopped.link))
        loop_defer(t->config.loop, &t->stopped);
}

static void on_close(void *user, struct conn *c, unsigned refusal, const char *detail)
{
    struct link *x = user;
    struct transport *t = x->t;
    struct peer *p = x->peer;
    list_remove(&x->list);
    if (p && p->in == x) {
        p->in = NULL;
        if (p->held && !t->stopping) {
            timer_stop(&p->watch);
            take_in(p->held);
        }
    } else if (p && p->held == x) {
        p->held = NULL;
        timer_stop(&p->watch);
    } else if (p && p->out == x) {
        bool was_open = p->generation != 0 && p->pong_ms != 0;
        p->out = NULL;
        if (was_open) {
            p->pong_ms = 0;
            t->config.ops->on_link(t->config.user, p->node, false);
        }
        if (!t->stopping)
            log_at(t->config.log, was_open || refusal ? LOG_NOTICE : LOG_DEBUG,
                   "connection to node %u at %s:%u: %s", p->node, p->address, p->port, detail);
        if (refusal == REFUSE_COPY && !t->stopping)
            t->config.ops->on_second_copy(t->config.user, detail);
        if (refusal == REFUSE_REMOVED && !t->stopping)
            t->config.ops->on_removed(t->config.user, p->node);
        if (!was_open && !refusal)
            transport_try_next(p);
        retry(p, refusal ? BACKOFF_REFUSED_MS : 0);
    } else if (x->kind == LINK_PENDING && !t->stopping) {
        log_info(t->config.log, "connection of node %u: %s", conn_node(c), detail);
    }
    mem_free(x);
    check_stopped(t);
}

static const struct conn_events link_events = {on_hello, on_frame, NULL, on_close};

static void on_arrived(void *user, struct conn *c)
{
    struct transport *t = user;
    struct link *x = link_new(t, NULL, LINK_PENDING);
    x->conn = c;
    conn_begin(c, &t->config.hello, &link_events, x);
    if (t->stopping)
        conn_abort(c);
}

void transport_accept(struct transport *t, struct stream *s, uint32_t node)
{
    conn_accept(s, node, t->config.loop, on_arrived, t);
}

static void on_all_gone(struct deferred *d)
{
    struct transport *t = container_of(d, struct transport, stopped);
    t->on_stopped(t->stopped_user);
}

struct transport *transport_new(const struct transport_config *config)
{
    struct transport *t = mem_new(struct transport);
    t->config = *config;
    t->config.tls = config->tls ? tls_ctx_ref(config->tls) : NULL;
    list_init(&t->links);
    list_init(&t->stopped.link);
    t->stopped.fn = on_all_gone;
    timer_init(&t->pinger, config->loop, on_ping_timer);
    timer_start(&t->pinger, TRANSPORT_PING_MS, TRANSPORT_PING_MS);
    return t;
}

void transport_stop(struct transport *t, void (*on_stopped)(void *user), void *user)
{
    t->stopping = true;
    t->on_stopped = on_stopped;
    t->stopped_user = user;
    timer_stop(&t->pinger);
    struct link *x;
    list_for_each(x, &t->links, struct link, list) conn_abort(x->conn);
    check_stopped(t);
}

void transport_free(struct transport *t)
{
    for (unsigned i = 0; i < t->n_peers; i++)
        transport_drop(t->peers[i]);
    tls_ctx_unref(t->config.tls);
    mem_free(t);
}

void transport_set_tls(struct transport *t, struct tls_ctx *tls)
{
    tls_ctx_unref(t->config.tls);
    t->config.tls = tls_ctx_ref(tls);
}

struct tls_ctx *transport_tls(const struct transport *t)
{
    return t->config.tls;
}
