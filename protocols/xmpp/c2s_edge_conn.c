/* One connection before it has logged in: its stream, parser and time-outs. */
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <string.h>

enum {
    EARLY_DEPTH = 8,
    EARLY_ATTRS = 32,
    EARLY_ELEMENTS = 64,
};

static const struct stream_events stream_events;

static struct xml_stream *new_parser(struct edge_conn *c)
{
    const struct xml_limits limits = {.stanza_bytes = edge_settings(c->es)->stanza_bytes_early,
                                      .depth = EARLY_DEPTH,
                                      .attrs = EARLY_ATTRS,
                                      .elements = EARLY_ELEMENTS};
    return xml_stream_new(&limits, &edge_xml_events, c);
}

/* TLS, log-in and all, in limits.handshake_timeout. */
static void on_deadline(struct timer *t)
{
    struct edge_conn *c = container_of(t, struct edge_conn, deadline);
    if (c->state == EDGE_TLS || c->state == EDGE_CLOSING)
        stream_abort(c->stream);
    else
        edge_conn_close(c, "connection-timeout", NULL);
}

static struct edge_conn *make(struct edge_shard *es)
{
    struct edge_conn *c = mem_new(struct edge_conn);
    c->es = es;
    c->id = ++es->next_id;
    return c;
}

/* Of one address: not too fast, which is said elsewhere, and not too many. */
static bool may_come(struct edge_conn *c, bool is_tunnel)
{
    struct c2s_edge *e = c->es->edge;
    unsigned max = edge_settings(c->es)->connections_per_address;
    uint64_t now_ms = loop_now_ms(c->es->shard->loop);
    if (!is_tunnel && !admission_take(e->options.admission, c->address, now_ms))
        return false;
    if (c2s_throttle_connect(e->throttle, c->address, max, now_ms))
        return true;
    log_debug(e->log, "%s has %u connections that have not logged in", c->address, max);
    return false;
}

static void begin(struct edge_conn *c, bool is_tunnel)
{
    struct edge_shard *es = c->es;
    const struct edge_settings *set = edge_settings(es);
    snprintf(c->address, sizeof(c->address), "%s", stream_peer_address(c->stream));
    stream_set_metrics(c->stream, im_metrics(es->edge->im));
    timer_init(&c->deadline, es->shard->loop, on_deadline);
    timer_init(&c->delay, es->shard->loop, edge_on_delay);
    if (!may_come(c, is_tunnel)) {
        stream_set_handler(c->stream, NULL, NULL);
        stream_abort(c->stream);
        mem_free(c);
        return;
    }
    htab_add(&es->conns, &c->node, &c->id, sizeof(c->id));
    atomic_fetch_add(&es->edge->n_waiting, 1);
    es->shard->n_busy++;
    c->xml = new_parser(c);
    xml_frame_init(&c->frame);
    timer_start(&c->deadline, set->handshake_ms, 0);
    c->state = c->direct_tls ? EDGE_TLS : EDGE_OPENING;
    if (c->direct_tls)
        stream_start_tls_server(c->stream, es->sni, set->handshake_ms);
}

void edge_conn_new(struct edge_shard *es, int fd, bool direct_tls)
{
    struct edge_conn *c = make(es);
    c->direct_tls = direct_tls;
    c->stream = stream_new(es->shard->loop, fd, &stream_events, c);
    begin(c, false);
}

void edge_conn_new_tunnel(struct edge_shard *es, struct tunnel *t)
{
    struct edge_conn *c = make(es);
    c->stream = tunnel_accept(t, &stream_events, c);
    begin(c, true); /* the HTTPS port has let it in */
}

struct edge_conn *edge_conn_find(struct edge_shard *es, uint64_t id)
{
    struct hnode *node = htab_find(&es->conns, &id, sizeof(id));
    return node ? container_of(node, struct edge_conn, node) : NULL;
}

/* Without the stream and the parser: they may live on. */
static void forget(struct edge_conn *c)
{
    struct c2s_edge *e = c->es->edge;
    htab_remove(&c->es->conns, &c->node);
    atomic_fetch_sub(&e->n_waiting, 1);
    c->es->shard->n_busy--;
    c2s_throttle_disconnect(e->throttle, c->address);
    timer_stop(&c->deadline);
    timer_stop(&c->delay);
    edge_login_fini(c);
    c2s_login_free(c->login);
    buf_fini(&c->early);
    mem_free(c->domain);
    mem_free(c->from);
    mem_free(c);
}

void edge_conn_write(struct edge_conn *c, const char *text)
{
    stream_write(c->stream, text, strlen(text));
}

void edge_conn_close(struct edge_conn *c, const char *condition, const char *text)
{
    if (c->state == EDGE_CLOSING)
        return;
    if (c->state == EDGE_TLS) {
        c->state = EDGE_CLOSING;
        stream_abort(c->stream);
        return;
    }
    log_debug(c->es->edge->log, "%s: %s%s%s", c->address, condition, text ? ": " : "", text ? text : "");
    if (!c->header_sent)
        edge_write_header(c, NULL);
    struct buf out = {0};
    c2s_stream_error(&out, condition, text);
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
    c->state = EDGE_CLOSING;
    timer_stop(&c->delay);
    xml_stream_stop(c->xml);
    stream_close(c->stream);
}

void edge_conn_pause(struct edge_conn *c)
{
    c->paused = true;
    xml_stream_pause(c->xml);
    stream_pause(c->stream);
}

static bool is_waiting(const struct edge_conn *c)
{
    return c->state == EDGE_CHECKING || c->state == EDGE_CLOSING || c->after != AFTER_NOTHING;
}

/* Parses; and on from where it was paused if what it waited for is there. C may be gone afterwards. */
static void feed(struct edge_conn *c, const void *data, size_t n)
{
    c->in_feed = true;
    enum xml_error e = n > 0 ? xml_stream_feed(c->xml, data, n) : XML_OK;
    while (e == XML_OK && c->paused && !is_waiting(c)) {
        c->paused = false;
        stream_resume(c->stream);
        e = xml_stream_resume(c->xml);
    }
    c->in_feed = false;
    /* What a client says next is mostly read without expat, which takes a good part of all that a connection
     * holds that may never log in. */
    if (e == XML_OK && !c->paused && c->state >= EDGE_CLEAR && c->state <= EDGE_TASK)
        xml_stream_park(c->xml);
    if (e != XML_OK)
        edge_conn_close(c, c2s_xml_error_condition(e), xml_error_text(e));
    edge_conn_after(c);
}

void edge_conn_resume(struct edge_conn *c)
{
    if (!c->in_feed)
        feed(c, NULL, 0);
}

static void start_tls(struct edge_conn *c)
{
    /* What came in clear after <starttls/> goes with the old parser (RFC 6120 §5.3.4, CVE-2011-0411). */
    xml_stream_free(c->xml);
    c->xml = new_parser(c);
    xml_frame_init(&c->frame);
    buf_fini(&c->early);
    c->header_sent = false;
    mem_free(c->domain);
    mem_free(c->from);
    c->domain = c->from = NULL;
    c->state = EDGE_TLS;
    stream_start_tls_server(c->stream, c->es->sni, edge_settings(c->es)->handshake_ms);
}

static void hand_over(struct edge_conn *c)
{
    struct c2s_login *login = c->login;
    struct stream *stream = c->stream;
    struct xml_stream *xml = c->xml;
    struct edge_shard *es = c->es;
    struct xml_limits limits = xml_limits_default;
    limits.stanza_bytes = edge_settings(es)->stanza_bytes;
    xml_stream_set_limits(xml, &limits);
    /* it is paused: what came behind the log-in waits in it */
    (void)xml_stream_feed(xml, c->early.data, c->early.n);
    login->lang = *c->lang ? mem_strdup(c->lang) : NULL;
    c->login = NULL;
    forget(c);
    es->edge->hand_over(es->shard, stream, xml, login);
}

void edge_conn_after(struct edge_conn *c)
{
    enum edge_after after = c->in_feed ? AFTER_NOTHING : c->after;
    if (after == AFTER_NOTHING || c->state == EDGE_CLOSING)
        return;
    c->after = AFTER_NOTHING;
    if (after == AFTER_START_TLS)
        start_tls(c);
    else
        hand_over(c);
}

/* ---- the stream's events ---- */

static void on_open(void *user)
{
    struct edge_conn *c = user;
    c->state = EDGE_OPENING;
}

/* Elements go to the parser when they are whole. Until then their bytes are all that is kept, and they are
 * few. */
static void on_data(void *user, const uint8_t *data, size_t n)
{
    struct edge_conn *c = user;
    if (c->state == EDGE_CLOSING)
        return;
    const char *d = (const char *)data;
    size_t whole = xml_frame_scan(&c->frame, EARLY_ATTRS, d, n);
    if (whole == n && !c->early.n) {
        feed(c, d, n);
        return;
    }
    struct buf ready = {0};
    if (whole) {
        ready = c->early;
        c->early = (struct buf){0};
        buf_add(&ready, d, whole);
    }
    buf_add(&c->early, d + whole, n - whole);
    if (c->early.n > edge_settings(c->es)->stanza_bytes_early)
        edge_conn_close(c, c2s_xml_error_condition(XML_TOO_BIG), xml_error_text(XML_TOO_BIG));
    else if (whole)
        feed(c, ready.data, ready.n); /* C may be gone */
    buf_fini(&ready);
}

static void on_end(void *user)
{
    struct edge_conn *c = user;
    c->state = EDGE_CLOSING;
    stream_close(c->stream);
}

static void on_close(void *user, int code, const char *detail)
{
    struct edge_conn *c = user;
    log_debug(c->es->edge->log, "%s: closed before log-in: %s", c->address, detail ? detail : err_text(code));
    xml_stream_free(c->xml);
    forget(c);
}

static const struct stream_events stream_events = {
    .on_open = on_open, .on_data = on_data, .on_end = on_end, .on_close = on_close};
