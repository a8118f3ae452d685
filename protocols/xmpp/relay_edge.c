/* The edge's end of a relayed client stream: TCP, TLS and framing stay here. */
#include "base/clock.h"
#include "protocols/xmpp/relay.h"
#include <string.h>

enum { RETRY_MS = 50, LEAVE_MS = 2000, LOW_WATER = 16 << 10, HIGH_WATER = 32 << 10 };

struct relay_edge {
    struct hnode node; /* in xs->relays_edge by id */
    uint64_t id, uid;
    struct xmpp_shard *xs;
    uint32_t home;
    struct stream *stream;
    struct xml_stream *parser;
    struct buf up;                        /* for the home, waits for credit */
    size_t credit;                        /* that the home gave */
    uint64_t n_down, n_taken, n_credited; /* bytes for the client: written, taken, told the home as taken */
    struct list owing;                    /* in xs->relays_owing, while taken is not told */
    struct deferred later, ack;
    struct timer retry, leave;
    unsigned n_ack_rounds;
    char *domain;
    bool opened; /* the client has the header of its stream */
    bool peer_ended;
    bool leaving, left;  /* the home is to close it; it has been told so */
    bool paused, closed; /* closed: the home is gone or has closed it */
};

static bool has_id(const struct hnode *node, const void *key, size_t n_bytes)
{
    (void)n_bytes;
    uint64_t id;
    memcpy(&id, key, sizeof id);
    return container_of(node, struct relay_edge, node)->id == id;
}

static void run_later(struct relay_edge *r)
{
    if (list_is_empty(&r->later.link))
        loop_defer(r->xs->shard->loop, &r->later);
}

static void run_ack(struct relay_edge *r)
{
    /* Deferred work of the next round runs after this turn's output was written. */
    r->n_ack_rounds = 0;
    if (list_is_empty(&r->ack.link))
        loop_defer(r->xs->shard->loop, &r->ack);
}

/* Soon, and again if the link does not take it now: without it the home sends nothing more in the end. */
static void owe(struct relay_edge *r)
{
    if (list_is_empty(&r->owing))
        list_append(&r->xs->relays_owing, &r->owing);
    if (!timer_is_on(&r->xs->credit))
        timer_start(&r->xs->credit, RELAY_CREDIT_UP_MS, 0);
}

/* Tells the home what the client's socket has taken: the rest is delivered to others. */
static void send_credit(struct relay_edge *r)
{
    list_remove(&r->owing);
    if (r->n_taken <= r->n_credited)
        return;
    uint8_t n[4];
    uint32_t v = (uint32_t)(r->n_taken - r->n_credited);
    for (int i = 0; i < 4; i++)
        n[i] = (uint8_t)(v >> (8 * i));
    if (relay_send(r->xs->shard, r->home, RELAY_UP_CREDIT, r->id, r->uid, n, sizeof n) == 0)
        r->n_credited = r->n_taken;
    else
        owe(r);
}

static void note_taken(struct relay_edge *r)
{
    uint64_t queued = stream_queued(r->stream);
    uint64_t taken = queued < r->n_down ? r->n_down - queued : 0;
    if (taken > r->n_taken)
        r->n_taken = taken;
    if (r->n_taken - r->n_credited >= RELAY_CREDIT_UP) {
        send_credit(r);
    } else if (r->n_taken > r->n_credited) {
        owe(r);
    }
}

static void on_credit(struct timer *t)
{
    struct xmpp_shard *xs = container_of(t, struct xmpp_shard, credit);
    struct relay_edge *r;
    struct list due; /* who still owes then is in the list again */
    list_init(&due);
    list_for_each(r, &xs->relays_owing, struct relay_edge, owing)
    {
        list_remove(&r->owing);
        list_append(&due, &r->owing);
    }
    list_for_each(r, &due, struct relay_edge, owing) send_credit(r);
}

/* The stream lives. */
static void send_gone(struct relay_edge *r)
{
    note_taken(r);
    send_credit(r);
    relay_send(r->xs->shard, r->home, RELAY_GONE, r->id, r->uid, NULL, 0);
}

/* ---- up: to the home ---- */

static void pause(struct relay_edge *r)
{
    if (r->paused)
        return;
    r->paused = true;
    xml_stream_pause(r->parser);
    stream_pause(r->stream);
}

static void close_with(struct relay_edge *r, const char *condition);
static void parse_error(struct relay_edge *r, enum xml_error error);
static void detach(struct relay_edge *r);

static void flush(struct relay_edge *r)
{
    struct shard *s = r->xs->shard;
    if (r->closed)
        return;
    if (!relay_send_queued(s, r->home, RELAY_UP, r->id, r->uid, &r->up, &r->credit))
        timer_start(&r->retry, RETRY_MS, 0);
    if (r->leaving && !r->left && !r->up.n) {
        r->left = relay_send(s, r->home, RELAY_LEAVE, r->id, r->uid, NULL, 0) == 0;
        if (!r->left)
            timer_start(&r->retry, RETRY_MS, 0);
    }
    if (r->left)
        return; /* what the client says from here on is not taken: its stream ends */
    if (r->up.n) {
        pause(r);
    } else if (r->paused) {
        r->paused = false;
        stream_resume(r->stream);
        enum xml_error error = xml_stream_resume(r->parser);
        if (error != XML_OK)
            parse_error(r, error);
    }
    /* The client has sent all it will, and the home has it. */
    if (r->peer_ended && !r->closed && !r->paused && !r->up.n) {
        send_gone(r);
        detach(r);
        stream_close(r->stream);
    }
}

static void on_later(struct deferred *d)
{
    flush(container_of(d, struct relay_edge, later));
}

static void on_retry(struct timer *t)
{
    flush(container_of(t, struct relay_edge, retry));
}

static void add_attr(struct buf *out, const char *name, const char *value)
{
    if (!value)
        return;
    buf_addf(out, "' %s='", name);
    xml_escape(out, value, strlen(value));
}

/* What the home looks at; that it is a stream is seen here. */
static void on_header(void *user, const struct xml *header)
{
    struct relay_edge *r = user;
    if (!xml_is(header, "stream", NS_STREAM)) {
        send_gone(r);
        close_with(r, strcmp(header->name, "stream") == 0 ? "invalid-namespace" : "bad-format");
        return;
    }
    const char *ns = xml_stream_default_ns(r->parser);
    buf_adds(&r->up, "<stream:stream xmlns:stream='" NS_STREAM "' xmlns='");
    xml_escape(&r->up, ns, strlen(ns));
    add_attr(&r->up, "to", xml_attr(header, "to"));
    add_attr(&r->up, "from", xml_attr(header, "from"));
    add_attr(&r->up, "version", xml_attr(header, "version"));
    add_attr(&r->up, "xml:lang", xml_attr_ns(header, "lang", XML_NS_XML));
    buf_adds(&r->up, "'>");
    run_later(r);
}

static void on_stanza(void *user, struct xml_stanza *stanza)
{
    struct relay_edge *r = user;
    if (stanza->raw_self_contained)
        buf_add(&r->up, stanza->raw, stanza->n_raw);
    else
        xml_write(&r->up, stanza->root, xml_stream_default_ns(r->parser));
    run_later(r);
    if (r->up.n > RELAY_WINDOW)
        pause(r);
}

static void on_end(void *user)
{
    struct relay_edge *r = user;
    buf_adds(&r->up, "</stream:stream>");
    run_later(r);
}

static const struct xml_stream_events xml_events = {on_header, on_stanza, on_end};

/* ---- the end ---- */

/* Nothing is exchanged with the home any more. */
static void detach(struct relay_edge *r)
{
    if (r->closed)
        return;
    r->closed = true;
    htab_remove(&r->xs->relays_edge, &r->node);
    timer_stop(&r->retry);
    timer_stop(&r->leave);
    loop_cancel_deferred(&r->later);
    loop_cancel_deferred(&r->ack);
    list_remove(&r->owing);
    xml_stream_stop(r->parser);
}

static void close_with(struct relay_edge *r, const char *condition)
{
    if (r->closed)
        return;
    struct buf out = {0};
    if (!r->opened)
        c2s_bare_header(&out, r->domain);
    c2s_stream_error(&out, condition, NULL);
    detach(r);
    stream_write(r->stream, out.data, out.n);
    stream_close(r->stream);
    buf_fini(&out);
}

static void parse_error(struct relay_edge *r, enum xml_error error)
{
    if (r->closed)
        return;
    send_gone(r);
    close_with(r, c2s_xml_error_condition(error));
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct relay_edge *r = user;
    if (r->closed || r->left)
        return;
    enum xml_error error = xml_stream_feed(r->parser, data, n_bytes);
    if (error != XML_OK)
        parse_error(r, error);
}

static void on_drain(void *user)
{
    struct relay_edge *r = user;
    if (!r->closed)
        run_ack(r);
}

static void on_end_of_input(void *user)
{
    struct relay_edge *r = user;
    r->peer_ended = true;
    if (r->closed)
        stream_close(r->stream);
    else
        run_later(r);
}

static void on_leave_timeout(struct timer *t)
{
    struct relay_edge *r = container_of(t, struct relay_edge, leave);
    send_gone(r);
    close_with(r, "system-shutdown");
}

static void on_close(void *user, int code, const char *detail)
{
    struct relay_edge *r = user;
    (void)code, (void)detail;
    if (!r->closed) {
        send_credit(r); /* what is known; what was queued is not taken by anybody any more */
        relay_send(r->xs->shard, r->home, RELAY_GONE, r->id, r->uid, NULL, 0);
    }
    detach(r);
    r->xs->shard->n_busy--;
    xml_stream_free(r->parser);
    buf_fini(&r->up);
    mem_free(r->domain);
    mem_free(r);
}

static const struct stream_events stream_events = {.on_data = on_data,
                                                   .on_drain = on_drain,
                                                   .on_end = on_end_of_input,
                                                   .on_close = on_close,
                                                   .on_sent = on_drain};

/* ---- down: to the client ---- */

static void on_ack(struct deferred *d)
{
    struct relay_edge *r = container_of(d, struct relay_edge, ack);
    note_taken(r);
    if (r->n_taken < r->n_down && r->n_ack_rounds++ < 1)
        loop_defer(r->xs->shard->loop, &r->ack);
}

void relay_edge_frame(struct xmpp_shard *xs, const struct relay_frame *f)
{
    struct hnode *node = htab_find(&xs->relays_edge, &f->relay, sizeof f->relay);
    struct relay_edge *r = node ? container_of(node, struct relay_edge, node) : NULL;
    if (!r && f->op == RELAY_DOWN) /* the client has left, and the home did not hear of it */
        relay_send(xs->shard, f->node, RELAY_GONE, f->relay, f->uid, NULL, 0);
    if (!r || r->home != f->node)
        return;
    struct reader in;
    reader_init(&in, f->data, f->n);
    switch (f->op) {
    case RELAY_DOWN:
        r->opened = true;
        stream_write(r->stream, f->data, f->n);
        r->n_down += f->n;
        run_ack(r);
        break;
    case RELAY_DOWN_CREDIT:
        r->credit += read_u32(&in);
        if (r->credit > RELAY_WINDOW)
            r->credit = RELAY_WINDOW;
        run_later(r);
        break;
    case RELAY_CLOSE:
        detach(r);
        stream_write(r->stream, f->data, f->n);
        stream_close(r->stream);
        break;
    default:
        detach(r);
        stream_abort(r->stream);
        break;
    }
}

/* ---- beginning ---- */

void relay_edge_open(struct shard *at, uint32_t home_node, struct stream *stream, struct xml_stream *parser,
                     struct c2s_login *login)
{
    struct xmpp_shard *xs = at->xmpp;
    struct relay_edge *r = mem_new(struct relay_edge);
    r->id = (uint64_t)at->index << 56 | (++xs->next_relay & ((UINT64_C(1) << 56) - 1));
    r->uid = login->uid;
    r->xs = xs;
    r->home = home_node;
    r->stream = stream;
    r->parser = parser;
    r->credit = RELAY_WINDOW;
    r->domain = mem_strdup(login->domain);
    r->opened = login->sasl2;
    list_init(&r->later.link);
    list_init(&r->ack.link);
    list_init(&r->owing);
    r->later.fn = on_later;
    r->ack.fn = on_ack;
    timer_init(&r->retry, at->loop, on_retry);
    timer_init(&r->leave, at->loop, on_leave_timeout);
    htab_add(&xs->relays_edge, &r->node, &r->id, sizeof r->id);
    at->n_busy++;
    struct xml_limits limits = xml_limits_default;
    limits.stanza_bytes = at->settings.stanza_bytes;
    xml_stream_set_limits(parser, &limits);
    xml_stream_set_events(parser, &xml_events, r);
    xml_stream_set_scratch(parser, &xs->scratch);
    stream_set_handler(stream, &stream_events, r);
    stream_set_water(stream, LOW_WATER, HIGH_WATER);
    struct buf out = {0};
    relay_login_encode(&out, login);
    if (relay_send(at, home_node, RELAY_OPEN, r->id, r->uid, out.data, out.n) < 0)
        close_with(r, "remote-connection-failed");
    buf_fini(&out);
    c2s_login_free(login);
    /* What the client sent right behind its last SASL step is in the parser still; it goes on by itself. */
    pause(r);
    run_later(r);
}

void relay_edge_stop(struct xmpp_shard *xs)
{
    htab_for_each(node, &xs->relays_edge)
    {
        struct relay_edge *r = container_of(node, struct relay_edge, node);
        send_gone(r);
        close_with(r, "system-shutdown");
    }
}

void relay_edge_leave(struct xmpp_shard *xs)
{
    htab_for_each(node, &xs->relays_edge)
    {
        struct relay_edge *r = container_of(node, struct relay_edge, node);
        if (r->leaving)
            continue;
        r->leaving = true;
        timer_start(&r->leave, LEAVE_MS, 0);
        run_later(r);
    }
}

void relay_link_down(struct xmpp_shard *xs, uint32_t node)
{
    htab_for_each(at, &xs->relays_edge)
    {
        struct relay_edge *r = container_of(at, struct relay_edge, node);
        if (r->home != node)
            continue;
        send_gone(r); /* the way there may be whole still */
        close_with(r, "remote-connection-failed");
    }
    relay_home_link_down(xs, node);
}

void relay_shard_init(struct xmpp_shard *xs)
{
    htab_init(&xs->relays_edge, has_id);
    list_init(&xs->relays_owing);
    timer_init(&xs->credit, xs->shard->loop, on_credit);
    xs->next_relay = random_u64() >> 12;
    relay_home_init(xs);
}

void relay_shard_fini(struct xmpp_shard *xs)
{
    htab_fini(&xs->relays_edge);
    timer_stop(&xs->credit);
    relay_home_fini(xs);
}
