/* WebSockets: whole text messages in and out. */
#include "protocols/http/http_server_impl.h"
#include <string.h>

enum { MAX_WRITES = 16 }; /* of one socket in a turn */

struct out_message {
    struct list link;
    size_t n, weight;
    uint8_t space[]; /* LWS_PRE bytes for the library, then the message */
};

/* In libwebsockets' memory, which it clears. */
struct http_socket {
    struct http_server *server;
    struct lws *wsi;
    struct list link; /* in server->sockets */
    void *conn;       /* NULL: nobody listens (any more) */
    struct buf in;
    size_t max_message;
    struct list out;
    size_t written; /* weight of what was given to the library, which may hold some of it still */
    unsigned close_code;
    struct deferred close_later;
    bool open, closing, closed, refused;
};

size_t http_socket_bytes(void)
{
    return sizeof(struct http_socket);
}

/* Not in one of its callbacks: on a uv loop libwebsockets 4.1 closes what fails there twice, and the second
 * time cuts the closing handshake (RFC 6455 §7.1.2) short. */
static void on_close_later(struct deferred *d)
{
    struct http_socket *k = container_of(d, struct http_socket, close_later);
    k->closed = true;
    lws_close_reason(k->wsi, (enum lws_close_status)k->close_code, NULL, 0);
    lws_set_timeout(k->wsi, PENDING_TIMEOUT_USER_OK, LWS_TO_KILL_SYNC);
}

/* ---- the handshake ---- */

static bool has_token(struct lws *wsi, enum lws_token_indexes token, const char *name)
{
    char list[256];
    int n = lws_hdr_copy(wsi, list, sizeof(list), token);
    if (n <= 0)
        return false;
    for (char *at = list, *item; (item = strsep(&at, ","));) {
        item += strspn(item, " \t");
        item[strcspn(item, " \t")] = '\0';
        if (!strcmp(item, name))
            return true;
    }
    return false;
}

int http_socket_confirm(struct http_server *s, struct lws *wsi)
{
    const struct http_socket_route *route = s->o.socket;
    char path[256], version[8];
    struct http_strings strings;
    if (lws_hdr_copy(wsi, path, sizeof(path), WSI_TOKEN_GET_URI) <= 0 || !route || strcmp(path, route->path))
        return http_refuse(wsi, 404, NULL, NULL);
    /* RFC 6455 §4.2.2, §4.4 */
    if (lws_hdr_copy(wsi, version, sizeof(version), WSI_TOKEN_VERSION) <= 0 || strcmp(version, "13"))
        return http_refuse(wsi, 426, "sec-websocket-version:", "13");
    if (!has_token(wsi, WSI_TOKEN_PROTOCOL, route->subprotocol))
        return http_refuse(wsi, 400, NULL, NULL);
    http_read_strings(&strings, s, wsi, path);
    struct http_request r = http_request_of(&strings);
    int status = route->check(s->o.socket_user, &r);
    http_free_strings(&strings);
    return status ? http_refuse(wsi, (unsigned)status, NULL, NULL) : 0;
}

static int on_open(struct http_server *s, struct lws *wsi, struct http_socket *k)
{
    struct http_strings strings;
    k->server = s;
    k->wsi = wsi;
    k->max_message = s->o.socket->max_message;
    k->open = true;
    list_init(&k->out);
    list_init(&k->close_later.link);
    k->close_later.fn = on_close_later;
    list_append(&s->sockets, &k->link);
    http_read_strings(&strings, s, wsi, s->o.socket->path);
    struct http_request r = http_request_of(&strings);
    k->conn = s->o.socket->events->on_open(s->o.socket_user, k, &r);
    http_free_strings(&strings);
    if (!k->conn)
        http_socket_close(k, LWS_CLOSE_STATUS_POLICY_VIOLATION);
    return 0;
}

/* ---- in ---- */

static const struct http_socket_events *events_of(const struct http_socket *k)
{
    return k->server->o.socket->events;
}

static void refuse(struct http_socket *k, unsigned code)
{
    if (k->refused)
        return;
    k->refused = true;
    buf_fini(&k->in);
    if (k->conn)
        events_of(k)->on_refused(k->conn, code);
}

static void on_receive(struct http_socket *k, const char *data, size_t n)
{
    bool last = lws_is_final_fragment(k->wsi) && !lws_remaining_packet_payload(k->wsi);
    if (k->refused || k->closing || !k->conn)
        return;
    if (lws_frame_is_binary(k->wsi)) {
        refuse(k, LWS_CLOSE_STATUS_UNACCEPTABLE_OPCODE);
        return;
    }
    if (k->in.n + n > k->max_message) {
        refuse(k, LWS_CLOSE_STATUS_MESSAGE_TOO_LARGE);
        return;
    }
    if (last && !k->in.n) { /* the usual case: one frame that came in one piece */
        events_of(k)->on_message(k->conn, data, n);
        return;
    }
    buf_add(&k->in, data, n);
    if (!last)
        return;
    struct buf whole = k->in;
    k->in = (struct buf){0};
    events_of(k)->on_message(k->conn, whole.data, whole.n);
    buf_fini(&whole);
}

void http_socket_set_limit(struct http_socket *k, size_t max_message)
{
    k->max_message = max_message;
}

void http_socket_pause(struct http_socket *k, bool paused)
{
    if (k->open)
        lws_rx_flow_control(k->wsi, !paused);
}

/* ---- out ---- */

void http_socket_send(struct http_socket *k, const void *data, size_t n_bytes, size_t weight)
{
    if (!k->open || k->closing)
        return;
    struct out_message *m = mem_alloc(sizeof(*m) + LWS_PRE + n_bytes);
    m->n = n_bytes;
    m->weight = weight;
    memcpy(m->space + LWS_PRE, data, n_bytes);
    list_append(&k->out, &m->link);
    lws_callback_on_writable(k->wsi);
}

void http_socket_close(struct http_socket *k, unsigned code)
{
    if (!k->open || k->closing)
        return;
    k->closing = true;
    k->close_code = code;
    lws_callback_on_writable(k->wsi);
}

/* What the library could not write at once it holds: that counts as sent when the next call comes. */
static void tell_sent(struct http_socket *k)
{
    size_t n = k->written;
    if (!n || lws_partial_buffered(k->wsi))
        return;
    k->written = 0;
    if (k->conn)
        events_of(k)->on_sent(k->conn, n);
}

static int on_writable(struct http_socket *k)
{
    tell_sent(k);
    for (int i = 0; i < MAX_WRITES && !list_is_empty(&k->out) && !lws_send_pipe_choked(k->wsi); i++) {
        struct out_message *m = list_entry(list_first(&k->out), struct out_message, link);
        list_remove(&m->link);
        int rc = lws_write(k->wsi, m->space + LWS_PRE, m->n, LWS_WRITE_TEXT);
        k->written += m->weight;
        mem_free(m);
        if (rc < 0)
            return -1;
    }
    tell_sent(k);
    if (!list_is_empty(&k->out) || k->written) {
        lws_callback_on_writable(k->wsi);
        return 0;
    }
    if (k->closing && !k->closed)
        loop_defer(k->server->o.loop, &k->close_later);
    return 0;
}

/* ---- the end ---- */

static void gone(struct http_socket *k)
{
    if (!k->open)
        return;
    void *conn = k->conn;
    k->open = false;
    k->conn = NULL;
    list_remove(&k->link);
    loop_cancel_deferred(&k->close_later);
    buf_fini(&k->in);
    struct out_message *m;
    list_for_each(m, &k->out, struct out_message, link)
    {
        list_remove(&m->link);
        mem_free(m);
    }
    if (conn)
        events_of(k)->on_close(conn);
}

/* The loop may not turn again: what can be written is written now. */
static void write_last(struct http_socket *k)
{
    struct out_message *m;
    list_for_each(m, &k->out, struct out_message, link)
    {
        if (lws_send_pipe_choked(k->wsi) ||
            lws_write(k->wsi, m->space + LWS_PRE, m->n, LWS_WRITE_TEXT) < (int)m->n)
            return;
    }
}

void http_socket_drop_all(struct http_server *s)
{
    struct http_socket *k;
    list_for_each(k, &s->sockets, struct http_socket, link)
    {
        write_last(k);
        gone(k);
    }
}

int http_socket_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n)
{
    struct http_server *s = http_server_of(wsi);
    struct http_socket *k = user;
    bool live = s && k && k->open;
    switch (reason) {
    case LWS_CALLBACK_ESTABLISHED:
        return s && k ? on_open(s, wsi, k) : -1;
    case LWS_CALLBACK_RECEIVE:
        if (live)
            on_receive(k, in, n);
        return live ? 0 : -1;
    case LWS_CALLBACK_SERVER_WRITEABLE:
        return live ? on_writable(k) : -1;
    case LWS_CALLBACK_CLOSED:
        if (k)
            gone(k);
        return 0;
    default:
        return 0;
    }
}
