/* base/stream.h and base/tls.h over a network in memory that behaves as TCP does: bytes arrive in order or
 * not at all. A cut or a lost packet holds up what is behind it; a connection over a cut stands until
 * somebody's patience ends; a process that ends resets its connections, a machine that loses power does not.
 * Clients are the other ends of streams of node 0, which has no process and no loop. */
#include "base/buf.h"
#include "base/loop_impl.h"
#include "cluster/link.h"
#include "world_phone.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RTO_US = 200 * MS, GIVE_UP_US = 20 * SECOND, OFFERED_FD = 1 << 30, SOCKET_BYTES = 64 << 10 };

struct tls_ctx {
    unsigned refs;
    char alpn[32];
};

struct listener {
    struct loop *loop;
    void (*on_accept)(void *user, int fd);
    void *user;
    unsigned port;
};

enum packet_kind { PACKET_OPEN, PACKET_DATA, PACKET_FIN, PACKET_RST };
struct packet {
    struct packet *next;
    enum packet_kind kind;
    uint64_t due, sent;
    struct buf bytes;
};

enum state { DIALLING, PLAIN, SECURING, OPEN, CLOSING, GONE };

struct stream {
    struct list all, ready, dirty;
    struct world_node *node;
    unsigned life;
    uint32_t peer_node;
    char alpn[32];
    struct loop *loop;
    const struct stream_events *events;
    void *user;
    enum state state;
    bool is_client, is_paused, is_ending;
    struct stream *peer;
    /* to be told in the next turn, in this order */
    void (*arrived)(void *user);
    struct listener *listener; /* accepted by it, but not taken yet */
    bool has_opened, has_drained;
    struct buf in;
    bool has_eof;
    int close_code;
    char detail[96];
    /* on their way to the peer */
    struct buf out;
    struct packet *first, *last;
    size_t queued, low, high;
    bool is_above;
    struct world_event wire;
    /* dialling */
    struct world_event step;
    uint64_t deadline;
    uint32_t to;
    struct world_event turn; /* of a client, which has no loop */
};

/* ---- contexts: what a certificate says is known anyway ---- */

struct tls_ctx *world_tls(const char *alpn)
{
    struct tls_ctx *c = mem_new(struct tls_ctx);
    c->refs = 1;
    snprintf(c->alpn, sizeof(c->alpn), "%s", alpn);
    return c;
}
int tls_ctx_new(struct tls_ctx **out, const struct tls_options *options, struct err_ctx *err)
{
    *out = world_tls(options->alpn ? options->alpn[0] : "");
    return 0;
}
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
    ctx->refs++;
    return ctx;
}
void tls_ctx_unref(struct tls_ctx *ctx)
{
    if (ctx && --ctx->refs == 0)
        mem_free(ctx);
}

struct tls_sni {
    unsigned refs;
};
struct tls_sni *tls_sni_new(struct tls_ctx *fallback)
{
    (void)fallback;
    struct tls_sni *sni = mem_new(struct tls_sni);
    sni->refs = 1;
    return sni;
}
void tls_sni_add(struct tls_sni *sni, const char *domain, struct tls_ctx *ctx)
{
    (void)sni, (void)domain, (void)ctx;
}
struct tls_sni *tls_sni_ref(struct tls_sni *sni)
{
    sni->refs++;
    return sni;
}
void tls_sni_unref(struct tls_sni *sni)
{
    if (sni && --sni->refs == 0)
        mem_free(sni);
}

/* ---- telling the owner, in a turn of its loop ---- */

static bool lives(const struct stream *s)
{
    return s->state != GONE && s->life == s->node->life && s->node->is_alive;
}

static void on_client_turn(struct world_event *e);

static void tell(struct stream *s)
{
    if (!lives(s))
        return;
    if (!s->loop) {
        if (!sim_queue_has(&s->turn.timed))
            world_schedule(&s->turn, NULL, 'x', 1 + draw(50), on_client_turn);
        return;
    }
    if (list_is_empty(&s->ready))
        list_append(world_loop_ready(s->loop), &s->ready);
    world_loop_wake(s->loop);
}

static void drop_packets(struct stream *s)
{
    for (struct packet *p = s->first, *next; p; p = next) {
        next = p->next;
        buf_fini(&p->bytes);
        mem_free(p);
    }
    s->first = s->last = NULL;
    s->queued = 0;
    sim_queue_remove(&W->queue, &s->wire.timed);
}

/* The process lets go of it; what is on its way still arrives. The struct stays: the peer points to it. */
static void leave(struct stream *s)
{
    s->state = GONE;
    list_remove(&s->ready);
    list_remove(&s->dirty);
    list_remove(&s->all);
    sim_queue_remove(&W->queue, &s->step.timed);
    sim_queue_remove(&W->queue, &s->turn.timed);
    buf_fini(&s->in);
    buf_fini(&s->out);
}

static void end(struct stream *s, int code, const char *detail)
{
    if (s->close_code || s->state == GONE)
        return;
    s->close_code = code;
    snprintf(s->detail, sizeof(s->detail), "%s", detail);
    tell(s);
}

static void deliver_data(struct stream *s)
{
    struct buf data = s->in;
    s->in = (struct buf){0};
    if (s->events && s->events->on_data && s->state != CLOSING)
        s->events->on_data(s->user, (const uint8_t *)data.data, data.n);
    buf_fini(&data);
}

static void close_now(struct stream *s)
{
    const struct stream_events *events = s->events;
    void *user = s->user;
    int code = s->close_code;
    leave(s);
    if (events && events->on_close)
        events->on_close(user, code, s->detail);
}

/* The number stands for a socket that the process of the listener now has. */
static void offer(struct stream *s)
{
    struct listener *x = s->listener;
    s->listener = NULL;
    W->offered = s;
    x->on_accept(x->user, OFFERED_FD);
    if (W->offered) /* closed by whoever was offered it */
        stream_abort(s);
    W->offered = NULL;
}

static void deliver(struct stream *s, struct loop *l)
{
    if (s->arrived) {
        void (*arrived)(void *user) = s->arrived;
        s->arrived = NULL;
        arrived(s->user);
        if (s->loop != l)
            return;
    }
    if (s->listener) {
        offer(s);
        return;
    }
    if (s->has_opened && !s->close_code) {
        s->has_opened = false;
        if (s->events && s->events->on_open)
            s->events->on_open(s->user);
    }
    if (s->has_drained && !s->close_code) {
        s->has_drained = false;
        if (s->events && s->events->on_drain)
            s->events->on_drain(s->user);
    }
    while (s->in.n && !s->is_paused && !s->close_code && s->loop == l && !s->arrived)
        deliver_data(s);
    if (s->loop != l || s->arrived)
        return;
    if (s->has_eof && !s->in.n && !s->close_code && s->events && s->events->on_end && s->state != CLOSING) {
        s->has_eof = false;
        s->events->on_end(s->user);
    } else if (s->has_eof && !s->in.n && !s->close_code) {
        end(s, ERR_CLOSED, "the peer has closed the connection");
    }
    if (s->close_code)
        close_now(s);
}

/* What is ready now. The list stays where it is: the process may end within any of it. */
static void deliver_all(struct loop *l)
{
    struct list *ready = world_loop_ready(l), *item;
    unsigned n = 0;
    for (item = ready->next; item != ready; item = item->next)
        n++;
    for (; n && (item = list_first(ready)); n--) {
        list_remove(item);
        deliver(list_entry(item, struct stream, ready), l);
    }
}
void (*const world_stream_deliver)(struct loop *l) = deliver_all;

static void on_client_turn(struct world_event *e)
{
    deliver(container_of(e, struct stream, turn), NULL);
}

/* ---- the wire ---- */

static bool is_cut(const struct stream *from)
{
    return W->cut[from->node->id][from->peer_node];
}

static uint64_t draw_delay(const struct stream *s)
{
    uint64_t us = W->latency_us / 2 + draw(W->latency_us + 1);
    if (sim_random_chance(&W->random, W->loss_per_million))
        us += RTO_US + draw(RTO_US);
    return us;
}

static void on_wire(struct world_event *e);

static void arm_wire(struct stream *s, uint64_t at)
{
    s->wire.tag = 'p';
    s->wire.fire = on_wire;
    s->wire.node = NULL;
    sim_queue_add(&W->queue, &s->wire.timed, at);
}

static void put_packet(struct stream *s, enum packet_kind kind, struct buf *bytes)
{
    struct packet *p = mem_new(struct packet);
    p->kind = kind;
    p->sent = W->queue.now;
    p->due = W->queue.now + draw_delay(s);
    if (s->last && p->due < s->last->due)
        p->due = s->last->due;
    if (bytes) {
        p->bytes = *bytes;
        *bytes = (struct buf){0};
        s->queued += p->bytes.n;
    }
    if (s->last)
        s->last->next = p;
    else
        s->first = p;
    s->last = p;
    if (s->first == p)
        arm_wire(s, p->due);
}

static void take_packet(struct stream *to, struct packet *p)
{
    switch (p->kind) {
    case PACKET_OPEN:
        to->state = OPEN;
        to->has_opened = true;
        sim_queue_remove(&W->queue, &to->step.timed);
        break;
    case PACKET_DATA:
        buf_add(&to->in, p->bytes.data, p->bytes.n);
        break;
    case PACKET_FIN:
        to->has_eof = true;
        break;
    case PACKET_RST:
        end(to, ERR_IO, "connection reset by peer");
        break;
    }
    tell(to);
}

static void drained(struct stream *s, size_t n)
{
    s->queued -= n;
    if (s->is_above && s->queued <= s->low) {
        s->is_above = false;
        s->has_drained = true;
        tell(s);
    }
}

static void on_wire(struct world_event *e)
{
    struct stream *s = container_of(e, struct stream, wire), *to = s->peer;
    struct packet *p = s->first;
    if (!p)
        return;
    bool is_lost = is_cut(s) || (to && !lives(to) && to->node->is_off);
    if (is_lost && W->queue.now < p->sent + GIVE_UP_US) {
        arm_wire(s, W->queue.now + RTO_US + draw(RTO_US));
        return;
    }
    if (is_lost || !to || !lives(to)) {
        /* Nobody is there any more: a reset comes back, unless that is lost. */
        drop_packets(s);
        if (lives(s) && (is_lost || !W->cut[s->peer_node][s->node->id]))
            end(s, ERR_IO, is_lost ? "connection timed out" : "connection reset by peer");
        return;
    }
    s->first = p->next;
    if (!s->first)
        s->last = NULL;
    drained(s, p->bytes.n);
    take_packet(to, p);
    buf_fini(&p->bytes);
    mem_free(p);
    if (s->first)
        arm_wire(s, s->first->due);
}

/* The output of a turn. */
static void flush(struct stream *s)
{
    list_remove(&s->dirty);
    if (s->out.n && s->state != GONE && s->peer)
        put_packet(s, PACKET_DATA, &s->out);
    if (s->is_ending) {
        s->is_ending = false;
        if (s->peer)
            put_packet(s, PACKET_FIN, NULL);
        end(s, ERR_CANCELED, "closed by us");
    }
    if (s->peer && sim_random_chance(&W->random, W->reset_per_million)) {
        put_packet(s, PACKET_RST, NULL);
        end(s, ERR_IO, "connection reset by the network");
    }
}

void world_break_a_link(void)
{
    struct stream *s, *which = NULL;
    unsigned n = 0;
    list_for_each(s, &W->streams, struct stream, all)
    {
        if (lives(s) && s->is_client && s->state == OPEN && s->peer && !strcmp(s->alpn, LINK_ALPN) &&
            draw(++n) == 0)
            which = s;
    }
    if (!which)
        return;
    world_say("the link from node %u to node %u breaks", which->node->id, which->peer_node);
    put_packet(which, PACKET_RST, NULL);
    end(which, ERR_IO, "connection reset by the network");
}

struct stream_hub {
    struct list dirty;
};

static void flush_all(struct stream_hub *hub)
{
    for (struct list *item; (item = list_first(&hub->dirty));)
        flush(list_entry(item, struct stream, dirty));
}

static void mark_dirty(struct stream *s)
{
    struct loop *l = s->loop;
    if (!l) {
        flush(s);
        return;
    }
    if (!l->streams) {
        l->streams = mem_new(struct stream_hub);
        list_init(&l->streams->dirty);
        l->streams_flush = flush_all;
    }
    if (list_is_empty(&s->dirty))
        list_append(&l->streams->dirty, &s->dirty);
}

/* ---- making connections ---- */

static struct stream *make(struct world_node *n, struct loop *l, const struct stream_events *events,
                           void *user)
{
    struct stream *s = mem_new(struct stream);
    s->node = n;
    s->life = n->life;
    s->loop = l;
    s->events = events;
    s->user = user;
    s->high = SIZE_MAX;
    list_init(&s->ready);
    list_init(&s->dirty);
    list_append(&W->streams, &s->all);
    return s;
}

/* TLS and the log-in are over. */
struct stream *world_dial_from_outside(struct world_node *n, struct loop *l,
                                       const struct stream_events *events, void *user,
                                       struct stream **at_node)
{
    struct stream *s = make(&W->nodes[0], NULL, events, user), *t = make(n, l, NULL, NULL);
    s->state = t->state = OPEN;
    s->peer = t;
    t->peer = s;
    s->peer_node = n->id;
    t->is_paused = true;
    *at_node = t;
    return s;
}

/* The handshake needs the other process to run: it takes the connection in a turn of its control loop. */
static void meet(struct stream *s, struct world_node *target)
{
    struct stream *t = make(target, target->listener->loop, NULL, NULL);
    t->state = SECURING;
    t->peer_node = s->node->id;
    t->listener = target->listener;
    snprintf(t->alpn, sizeof(t->alpn), "%s", s->alpn);
    t->peer = s;
    s->peer = t;
    tell(t);
}

struct stream *stream_new(struct loop *l, int fd, const struct stream_events *events, void *user)
{
    struct stream *s = W->offered;
    W->offered = NULL;
    s->events = events;
    s->user = user;
    return s;
}

void stream_start_tls_server(struct stream *s, struct tls_sni *sni, unsigned timeout_ms)
{
    s->state = OPEN;
    s->has_opened = true;
    put_packet(s, PACKET_OPEN, NULL);
    tell(s);
}

int listener_open(struct listener **out, struct loop *l, const char *address, unsigned port, bool reuse_port,
                  void (*on_accept)(void *user, int fd), void *user, struct err_ctx *err)
{
    struct listener *x = mem_new(struct listener);
    *x = (struct listener){l, on_accept, user, port};
    world_loop_node(l)->listener = *out = x;
    return 0;
}

unsigned listener_port(const struct listener *x)
{
    return x->port;
}

void listener_close(struct listener *x)
{
    (void)x;
}

static void on_step(struct world_event *e)
{
    struct stream *s = container_of(e, struct stream, step);
    struct world_node *target = &W->nodes[s->to];
    bool is_reachable =
        s->to && !W->cut[s->node->id][s->to] && !W->cut[s->to][s->node->id] && !target->is_off;
    if (W->queue.now >= s->deadline) {
        if (s->peer)
            put_packet(s, PACKET_RST, NULL);
        end(s, ERR_TIMEOUT, "no answer in time");
        return;
    }
    uint64_t again = W->queue.now + 250 * MS;
    if (is_reachable && !(target->is_alive && target->listener)) {
        end(s, ERR_IO, "connection refused");
    } else if (is_reachable && s->state == DIALLING) {
        s->state = PLAIN;
        s->has_opened = true;
        tell(s);
    } else {
        if (is_reachable && s->state == SECURING && !s->peer)
            meet(s, target);
        sim_queue_add(&W->queue, &s->step.timed, again < s->deadline ? again : s->deadline);
    }
}

static void dial(struct stream *s, unsigned timeout_ms)
{
    s->deadline = W->queue.now + (uint64_t)timeout_ms * MS;
    world_schedule(&s->step, s->node, 'd', draw_delay(s) + draw_delay(s), on_step);
}

struct stream *stream_connect(struct loop *l, const char *host, unsigned port, unsigned timeout_ms,
                              const struct stream_events *events, void *user)
{
    struct stream *s = make(world_loop_node(l), l, events, user);
    unsigned number = 0;
    s->is_client = true;
    s->state = DIALLING;
    if (sscanf(host, "10.0.0.%u", &number) == 1 && number < WORLD_HOSTS && port == WORLD_PORT)
        s->to = s->peer_node = W->hosts[number]; /* 0: nobody has started it yet */
    dial(s, timeout_ms);
    return s;
}

void stream_start_tls_client(struct stream *s, struct tls_ctx *ctx, const char *server_name,
                             unsigned timeout_ms)
{
    s->state = SECURING;
    snprintf(s->alpn, sizeof(s->alpn), "%s", ctx->alpn);
    dial(s, timeout_ms);
}

void stream_set_handler(struct stream *s, const struct stream_events *events, void *user)
{
    s->events = events;
    s->user = user;
}

/* ---- the rest of stream.h, as far as nodes use it among themselves ---- */

void stream_write(struct stream *s, const void *data, size_t n_bytes)
{
    if (s->state == GONE || s->state == CLOSING || s->close_code)
        return;
    buf_add(&s->out, data, n_bytes);
    if (s->queued + s->out.n > s->high)
        s->is_above = true;
    mark_dirty(s);
}

void stream_write_blob(struct stream *s, struct blob *b, size_t from)
{
    stream_write(s, b->data + from, b->n - from);
}

void stream_end_record(struct stream *s)
{
    (void)s;
}

/* What is on its way to a client is with the kernel, as far as its buffer goes. */
size_t stream_queued(const struct stream *s)
{
    size_t n_kernel = s->peer_node ? 0 : SOCKET_BYTES;
    return (s->queued > n_kernel ? s->queued - n_kernel : 0) + s->out.n;
}

void stream_set_water(struct stream *s, size_t low, size_t high)
{
    s->low = low;
    s->high = high;
}

void stream_pause(struct stream *s)
{
    s->is_paused = true;
}

void stream_resume(struct stream *s)
{
    s->is_paused = false;
    if (s->in.n || s->has_eof)
        tell(s);
}

void stream_close(struct stream *s)
{
    if (s->state == GONE || s->state == CLOSING)
        return;
    s->state = CLOSING;
    s->is_ending = true;
    mark_dirty(s);
}

void stream_abort(struct stream *s)
{
    if (s->state == GONE || s->close_code)
        return;
    s->state = CLOSING;
    buf_reset(&s->out);
    drop_packets(s);
    if (s->peer)
        put_packet(s, PACKET_RST, NULL);
    end(s, ERR_CANCELED, "closed by us");
}

void stream_set_metrics(struct stream *s, struct metrics *m)
{
    (void)s, (void)m;
}

void stream_move(struct stream *s, struct loop *to, void (*arrived)(void *user))
{
    if (!list_is_empty(&s->dirty))
        flush(s);
    list_remove(&s->ready);
    s->loop = to;
    s->arrived = arrived;
    tell(s);
}

bool stream_is_tls(const struct stream *s)
{
    return s->state == OPEN;
}

void stream_tls_peer(const struct stream *s, struct tls_peer *out)
{
    char hex[33];
    memset(out, 0, sizeof(*out));
    datadir_hex(hex, W->cluster_id, 16);
    snprintf(out->common_name, sizeof(out->common_name), "%u", s->peer_node);
    snprintf(out->uris[0], sizeof(out->uris[0]), "imp:cluster:%s", hex);
    snprintf(out->uris[1], sizeof(out->uris[1]), "imp:node:%u", s->peer_node);
    snprintf(out->alpn, sizeof(out->alpn), "%s", s->alpn);
    world_key_of(W->nodes[s->peer_node].host, out->key_hash);
    out->has_cert = out->verified = true;
}

const char *stream_peer_address(const struct stream *s)
{
    return "10.0.0.0";
}

int stream_tunnel_kind(const struct stream *s)
{
    (void)s;
    return 0;
}

struct loop *stream_loop(const struct stream *s)
{
    return s->loop;
}

/* ---- the end of a process ---- */

void world_streams_end(struct world_node *n, bool power)
{
    struct stream *s;
    list_for_each(s, &W->streams, struct stream, all)
    {
        if (s->node != n || s->state == GONE)
            continue;
        leave(s);
        if (power)
            drop_packets(s); /* nobody sends them again */
        else if (s->peer)
            put_packet(s, PACKET_RST, NULL);
    }
}
