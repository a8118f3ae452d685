/* A client's WebSocket (RFC 7395).
 *
 *   OPENING -- <open/> --> STREAM -- the shard's <success/> --> OPENING ...
 *      \---------------------- <close/>, an error, the end --> CLOSING, until the socket is closed
 *
 * An <open/> that comes while the log-in is still checked (XEP-0509) waits for its success, with all that
 * follows. */
#include "base/clock.h"
#include "base/mem.h"
#include "protocols/xmpp/home.h"
#include "protocols/xmpp/web_impl.h"
#include <string.h>

#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2 "urn:xmpp:sasl:2"

enum {
    CLOSE_NORMAL = 1000,
    CLOSE_GOING_AWAY = 1001,
    CLOSE_UNSUPPORTED = 1003,
    CLOSE_POLICY = 1008,
    CLOSE_TOO_BIG = 1009,
    CLOSE_WAIT_MS = 2000, /* for the client that said <close/> to close its socket */
};
enum ws_state { WS_OPENING, WS_STREAM, WS_CLOSING };

struct ws {
    struct web *web;
    struct list link; /* in web->sockets */
    struct http_socket *socket;
    struct tunnel *tunnel; /* NULL once it has ended */
    enum ws_state state;
    bool logged_in, header_sent, client_closed, paused;
    struct web_split split;
    struct buf early; /* from an <open/> before its time on */
    char *uri;        /* see-other-uri */
    struct timer close_timer;
};

/* ---- to the client ---- */

static void send_buf(struct ws *s, struct buf *b, size_t weight)
{
    http_socket_send(s->socket, b->data, b->n, weight);
    buf_fini(b);
}

static void end_tunnel(struct ws *s)
{
    if (s->tunnel)
        tunnel_end(s->tunnel);
    s->tunnel = NULL;
    web_split_fini(&s->split);
    buf_fini(&s->early);
}

/* An answer to an <open/> of the client that no shard has seen (§3.5). */
static void send_own_header(struct ws *s)
{
    char id[33];
    random_hex(id, 16);
    const char *domain = web_settings(s->web)->domain;
    struct buf out = {0};
    buf_addf(&out, "<open xmlns='" NS_FRAMING "' id='%s' from='", id);
    xml_escape(&out, domain, strlen(domain));
    buf_adds(&out, "' version='1.0' xml:lang='en'/>");
    send_buf(s, &out, 0);
}

static void send_close(struct ws *s)
{
    struct buf out = {0};
    web_write_close(&out, s->uri);
    send_buf(s, &out, 0);
}

/* A stream error of ours, and the end. The session is told that its client is gone. */
static void fail(struct ws *s, const char *condition, unsigned code)
{
    static const char end[] = "</stream:stream>";
    if (s->state == WS_CLOSING)
        return;
    s->state = WS_CLOSING;
    struct buf error = {0}, out = {0};
    if (!s->header_sent)
        send_own_header(s);
    c2s_stream_error(&error, condition, NULL);
    web_write_element(&out, error.data, error.n - (sizeof(end) - 1));
    buf_fini(&error);
    send_buf(s, &out, 0);
    send_close(s);
    http_socket_close(s->socket, code);
    end_tunnel(s);
}

static void flush_early(struct ws *s)
{
    struct buf early = s->early;
    s->early = (struct buf){0};
    if (early.n) {
        s->state = WS_STREAM;
        tunnel_write(s->tunnel, early.data, early.n);
    }
    buf_fini(&early);
}

static void log_in(struct ws *s)
{
    s->logged_in = true;
    http_socket_set_limit(s->socket, web_settings(s->web)->stanza_bytes);
}

static void on_element(struct ws *s, const char *data, size_t n, size_t weight)
{
    struct buf out = {0};
    char condition[64], uri[1024];
    web_read_error(condition, uri, data, n);
    if (*uri) { /* §3.6.1 */
        s->uri = mem_strdup(uri);
        tunnel_taken(s->tunnel, weight);
        return;
    }
    web_write_element(&out, data, n);
    send_buf(s, &out, weight);
    if (s->logged_in)
        return;
    if (web_is(data, n, "success", NS_SASL)) { /* §3.7 */
        s->state = WS_OPENING;
        log_in(s);
        flush_early(s);
    } else if (web_is(data, n, "success", NS_SASL2)) {
        log_in(s);
    } else if (s->early.n && web_is_named(data, n, "failure")) {
        fail(s, "bad-format", CLOSE_POLICY);
    }
}

static void on_end(struct ws *s)
{
    send_close(s);
    s->state = WS_CLOSING;
    if (s->client_closed) /* §3.6: who closes the stream closes the socket */
        timer_start(&s->close_timer, CLOSE_WAIT_MS, 0);
    else
        http_socket_close(s->socket, CLOSE_NORMAL);
}

static void on_item(void *user, enum web_item item, const char *data, size_t n, size_t weight)
{
    struct ws *s = user;
    struct buf out = {0};
    if (s->state == WS_CLOSING)
        return;
    switch (item) {
    case WEB_HEADER:
        s->header_sent = true;
        web_write_open(&out, data, n);
        send_buf(s, &out, weight);
        break;
    case WEB_ELEMENT:
        on_element(s, data, n, weight);
        break;
    case WEB_END:
        on_end(s);
        break;
    }
}

static void on_data(void *user, const char *data, size_t n)
{
    struct ws *s = user;
    web_split_feed(&s->split, data, n, on_item, s);
    if (s->tunnel)
        tunnel_taken(s->tunnel, web_split_advance(&s->split));
}

static void on_close_wait(struct timer *t)
{
    http_socket_close(container_of(t, struct ws, close_timer)->socket, CLOSE_NORMAL);
}

static void on_tunnel_close(void *user, bool in_order)
{
    struct ws *s = user;
    end_tunnel(s);
    if (s->state == WS_CLOSING)
        return;
    s->state = WS_CLOSING;
    http_socket_close(s->socket, in_order ? CLOSE_NORMAL : CLOSE_GOING_AWAY);
}

/* ---- from the client ---- */

static void pause(struct ws *s, bool paused)
{
    if (s->paused == paused)
        return;
    s->paused = paused;
    http_socket_pause(s->socket, paused);
}

static void on_room(void *user)
{
    pause(user, false);
}

static void write_up(struct ws *s, struct buf *b)
{
    if (s->early.n) {
        buf_add(&s->early, b->data, b->n);
        if (s->early.n > web_settings(s->web)->stanza_bytes_early)
            fail(s, "policy-violation", CLOSE_POLICY);
        return;
    }
    tunnel_write(s->tunnel, b->data, b->n);
    if (!tunnel_room(s->tunnel))
        pause(s, true);
}

static void on_open_frame(struct ws *s, const struct web_frame *f)
{
    struct buf out = {0};
    web_write_header(&out, &f->header);
    if (s->state == WS_OPENING) {
        s->state = WS_STREAM;
        write_up(s, &out);
    } else if (!s->logged_in && !s->early.n) {
        buf_add(&s->early, out.data, out.n);
    } else {
        fail(s, "bad-format", CLOSE_POLICY);
    }
    buf_fini(&out);
}

static void on_close_frame(struct ws *s)
{
    static const char end[] = "</stream:stream>";
    s->client_closed = true;
    if (s->state == WS_OPENING) { /* there is no stream to close */
        on_end(s);
        end_tunnel(s);
        return;
    }
    buf_fini(&s->early);
    tunnel_write(s->tunnel, end, sizeof(end) - 1);
}

static void on_message(void *conn, const char *data, size_t n)
{
    struct ws *s = conn;
    struct web_frame f;
    struct arena a;
    struct buf out = {0};
    if (s->state == WS_CLOSING || s->client_closed || !s->tunnel)
        return;
    struct xml_limits limits = web_xml_limits(s->web, s->logged_in);
    arena_init(&a);
    web_read_frame(&f, &a, data, n, &limits);
    switch (f.kind) {
    case WEB_FRAME_BAD:
        fail(s, f.condition, CLOSE_POLICY);
        break;
    case WEB_FRAME_OPEN:
        on_open_frame(s, &f);
        break;
    case WEB_FRAME_CLOSE:
        on_close_frame(s);
        break;
    case WEB_FRAME_ELEMENT:
        if (s->state == WS_OPENING) { /* §3.4 */
            fail(s, "bad-format", CLOSE_POLICY);
            break;
        }
        xml_write(&out, f.root, NS_CLIENT);
        write_up(s, &out);
        break;
    }
    buf_fini(&out);
    arena_fini(&a);
}

static void on_refused(void *conn, unsigned code)
{
    fail(conn, code == CLOSE_TOO_BIG ? "policy-violation" : "bad-format", code);
}

static void on_sent(void *conn, size_t weight)
{
    struct ws *s = conn;
    if (s->tunnel)
        tunnel_taken(s->tunnel, weight);
}

/* ---- life ---- */

static const struct tunnel_events tunnel_events = {
    .on_data = on_data, .on_room = on_room, .on_close = on_tunnel_close};

static int check(void *user, const struct http_request *r)
{
    struct web *w = user;
    const struct web_settings *set = web_settings(w);
    if (!set->on || !set->websocket)
        return 404;
    return web_is_origin_allowed(w, r) ? 0 : 403;
}

static void *on_open(void *user, struct http_socket *socket, const struct http_request *r)
{
    struct web *w = user;
    struct tunnel_facts facts = web_facts(r, C2S_WEBSOCKET);
    struct ws *s = mem_new(struct ws);
    s->web = w;
    s->socket = socket;
    http_socket_set_limit(socket, web_settings(w)->stanza_bytes_early);
    timer_init(&s->close_timer, w->o.loop, on_close_wait);
    s->tunnel = c2s_edge_open_tunnel(w->o.edge, w->o.loop, &facts, &tunnel_events, s);
    list_append(&w->sockets, &s->link);
    return s;
}

static void on_close(void *conn)
{
    struct ws *s = conn;
    timer_stop(&s->close_timer);
    list_remove(&s->link);
    end_tunnel(s);
    mem_free(s->uri);
    mem_free(s);
}

void ws_stop_all(struct web *w)
{
    struct ws *s;
    list_for_each(s, &w->sockets, struct ws, link) fail(s, "system-shutdown", CLOSE_GOING_AWAY);
}

static const struct http_socket_events events = {.on_open = on_open,
                                                 .on_message = on_message,
                                                 .on_refused = on_refused,
                                                 .on_sent = on_sent,
                                                 .on_close = on_close};
const struct http_socket_route web_socket = {
    .path = WEB_SOCKET_PATH, .subprotocol = "xmpp", .max_message = 10000, .check = check, .events = &events};
