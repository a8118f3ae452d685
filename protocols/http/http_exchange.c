/* One request and its answer.
 *
 *   IDLE -> BODY (a POST's body comes) -> HANDLED (held, or answered at once) -> WRITING -> IDLE, or the end
 *                                                                    \-- a slow reader: FLUSHING --/
 */
#include "base/clock.h"
#include "protocols/http/http_server_impl.h"
#include <stdlib.h>
#include <string.h>

enum exchange_state { EXCHANGE_IDLE, EXCHANGE_BODY, EXCHANGE_HANDLED, EXCHANGE_WRITING, EXCHANGE_FLUSHING };

/* How long libwebsockets may offer bytes of a next request in vain: in time, since the turns of a loop are as
 * many as the node has to do. */
enum { MAX_VAIN_MS = 5000 };

/* Per connection, in libwebsockets' memory, which it clears. */
struct http_exchange {
    struct http_server *server;
    struct lws *wsi;
    enum exchange_state state;
    struct list link; /* in server->exchanges while held */
    const struct http_route *route;
    void *route_user;
    struct http_strings strings;
    enum http_method method;
    struct buf in;
    size_t max_in;
    int status;
    char type[HTTP_TYPE_MAX + 1], allow_origin[HTTP_ORIGIN_MAX + 1];
    struct buf out;
    size_t n_sent;
    void (*on_gone)(void *user);
    void *gone_user;
    uint64_t vain_since_ms; /* 0: nothing waits behind this request */
    bool head, held;
    bool closes; /* a body comes that nobody reads: the connection ends with the answer */
};

size_t http_exchange_bytes(void)
{
    return sizeof(struct http_exchange);
}

static bool add_header(struct lws *wsi, const char *name, const char *value, uint8_t **p, uint8_t *end)
{
    return !lws_add_http_header_by_name(wsi, (const uint8_t *)name, (const uint8_t *)value,
                                        (int)strlen(value), p, end);
}

int http_refuse(struct lws *wsi, unsigned status, const char *header, const char *value)
{
    uint8_t space[LWS_PRE + 1024], *start = space + LWS_PRE, *p = start, *end = space + sizeof(space) - 1;
    if (lws_add_http_common_headers(wsi, status, "text/plain", 0, &p, end) ||
        (header && !add_header(wsi, header, value, &p, end)) ||
        lws_finalize_write_http_header(wsi, start, &p, end))
        return -1;
    return 1;
}

/* ---- the answer ---- */

/* RFC 9110 §15.5.6: what the path takes instead. */
static bool add_allow(const struct http_exchange *x, uint8_t **p, uint8_t *end)
{
    static const struct {
        unsigned method;
        const char *name;
    } names[] = {{HTTP_GET, "GET, HEAD"}, {HTTP_POST, "POST"}, {HTTP_OPTIONS, "OPTIONS"}};
    char text[64] = "";
    for (size_t i = 0; i < n_elements(names); i++) {
        size_t n = strlen(text);
        if (x->route && x->route->methods & names[i].method)
            snprintf(text + n, sizeof text - n, "%s%s", n ? ", " : "", names[i].name);
    }
    return add_header(x->wsi, "allow:", text, p, end);
}

static int write_head(struct http_exchange *x)
{
    uint8_t space[LWS_PRE + 2048], *start = space + LWS_PRE, *p = start, *end = space + sizeof(space) - 1;
    bool ok = !lws_add_http_common_headers(x->wsi, (unsigned)x->status, x->type, x->out.n, &p, end) &&
              add_header(x->wsi, "cache-control:", "no-store", &p, end) &&
              add_header(x->wsi, "x-content-type-options:", "nosniff", &p, end);
    if (ok && x->status == 405)
        ok = add_allow(x, &p, end);
    if (ok && *x->allow_origin)
        ok = add_header(x->wsi, "access-control-allow-origin:", x->allow_origin, &p, end) &&
             add_header(x->wsi, "access-control-allow-methods:", "GET, HEAD, POST, OPTIONS", &p, end) &&
             add_header(x->wsi, "access-control-allow-headers:", "content-type", &p, end) &&
             add_header(x->wsi, "access-control-max-age:", "86400", &p, end) &&
             add_header(x->wsi, "vary:", "origin", &p, end);
    return ok && !lws_finalize_write_http_header(x->wsi, start, &p, end) ? 0 : -1;
}

static void reset(struct http_exchange *x)
{
    http_free_strings(&x->strings);
    if (x->held)
        list_remove(&x->link);
    x->held = false;
    buf_fini(&x->in);
    buf_fini(&x->out);
    x->state = EXCHANGE_IDLE;
}

/* libwebsockets keeps the header table of a connection for a next request whose bytes have come already. It
 * does not say so, but without a table nothing is written to VALUE. */
static bool has_next_request(struct lws *wsi)
{
    char value = 'x';
    (void)lws_hdr_custom_copy(wsi, &value, sizeof(value), "x", 1);
    return value == '\0';
}

/* Requests that were sent without waiting for answers are not taken (RFC 9112 §9.3.2: the client sends them
 * again): a body that waits behind its head is read wrongly by libwebsockets 4.1, beginning with the head,
 * and then for ever. X is gone afterwards. */
static int finish(struct http_exchange *x)
{
    struct lws *wsi = x->wsi;
    if (lws_partial_buffered(wsi)) { /* it would complete the transaction later by itself */
        x->state = EXCHANGE_FLUSHING;
        lws_callback_on_writable(wsi);
        return 0;
    }
    bool closes = x->closes;
    reset(x);
    return closes || lws_http_transaction_completed(wsi) || has_next_request(wsi) ? -1 : 0;
}

static void take_answer(struct http_exchange *x, struct http_answer *answer)
{
    x->status = answer->status;
    snprintf(x->type, sizeof(x->type), "%s", answer->content_type);
    snprintf(x->allow_origin, sizeof(x->allow_origin), "%s",
             answer->allow_origin ? answer->allow_origin : "");
    buf_fini(&x->out);
    x->out = answer->body;
    answer->body = (struct buf){0};
    x->n_sent = 0;
    x->state = EXCHANGE_WRITING;
}

static int begin_answer(struct http_exchange *x)
{
    if (write_head(x))
        return -1;
    if (x->head || !x->out.n)
        return finish(x);
    lws_callback_on_writable(x->wsi);
    return 0;
}

static int answer_text(struct http_exchange *x, int status, const char *text)
{
    struct http_answer a = {.status = status, .content_type = "text/plain; charset=utf-8"};
    buf_adds(&a.body, text);
    take_answer(x, &a);
    return begin_answer(x);
}

static int write_body(struct http_exchange *x)
{
    enum { CHUNK = 16 * 1024 };
    uint8_t space[LWS_PRE + CHUNK];
    size_t n = x->out.n - x->n_sent;
    bool last = n <= CHUNK;
    if (!last)
        n = CHUNK;
    memcpy(space + LWS_PRE, x->out.data + x->n_sent, n);
    if (lws_write(x->wsi, space + LWS_PRE, n, last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) != (int)n)
        return -1;
    x->n_sent += n;
    if (last)
        return finish(x);
    lws_callback_on_writable(x->wsi);
    return 0;
}

/* ---- handlers ---- */

void http_exchange_hold(struct http_exchange *x, void (*on_gone)(void *user), void *user)
{
    x->held = true;
    x->on_gone = on_gone;
    x->gone_user = user;
    list_append(&x->server->exchanges, &x->link);
}

/* The head goes out in the next callback: this may be called in the middle of anything. */
void http_exchange_answer(struct http_exchange *x, struct http_answer *answer)
{
    if (x->held)
        list_remove(&x->link);
    x->held = false;
    take_answer(x, answer);
    x->state = EXCHANGE_HANDLED; /* with an answer */
    lws_callback_on_writable(x->wsi);
}

static struct http_request request_of(const struct http_exchange *x)
{
    struct http_request r = http_request_of(&x->strings);
    r.method = x->method;
    r.body = x->in.n ? x->in.data : "";
    r.n_body = x->in.n;
    return r;
}

static int handle(struct http_exchange *x)
{
    struct http_request r = request_of(x);
    struct http_answer a = {.status = 200, .content_type = "text/plain; charset=utf-8"};
    x->state = EXCHANGE_HANDLED;
    x->status = 0;
    lws_set_timeout(x->wsi, NO_PENDING_TIMEOUT, 0);
    x->route->handle(x->route_user, &r, x, &a);
    buf_fini(&x->in);
    if (x->held || x->status) { /* answered by http_exchange_answer, now or later */
        buf_fini(&a.body);
        return 0;
    }
    take_answer(x, &a);
    return begin_answer(x);
}

static const struct http_route *find_route(const struct http_server *s, const char *path, void **user)
{
    for (size_t i = 0; i < HTTP_ROUTE_GROUPS; i++)
        for (const struct http_route *r = s->o.groups[i].routes; r && r->path; r++)
            if (!strcmp(r->path, path)) {
                *user = s->o.groups[i].user;
                return r;
            }
    return NULL;
}

static enum http_method read_method(struct http_exchange *x)
{
    x->head = lws_hdr_total_length(x->wsi, WSI_TOKEN_HEAD_URI) > 0;
    if (x->head || lws_hdr_total_length(x->wsi, WSI_TOKEN_GET_URI) > 0)
        return HTTP_GET;
    if (lws_hdr_total_length(x->wsi, WSI_TOKEN_POST_URI) > 0)
        return HTTP_POST;
    return lws_hdr_total_length(x->wsi, WSI_TOKEN_OPTIONS_URI) > 0 ? HTTP_OPTIONS : 0;
}

/* RFC 9112 §6.3: two lengths that may disagree are how a request is smuggled past a proxy, so that only
 * Content-Length counts and Transfer-Encoding is refused; a POST without a length, too. -1: none, -2: bad. */
static long long body_length(struct lws *wsi)
{
    char text[24];
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_TRANSFER_ENCODING) > 0)
        return -2;
    int n = lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH);
    if (n <= 0)
        return -1;
    if (n > 12 || lws_hdr_copy(wsi, text, sizeof(text), WSI_TOKEN_HTTP_CONTENT_LENGTH) < 0 ||
        strspn(text, "0123456789") != (size_t)n)
        return -2;
    return atoll(text);
}

static int on_request(struct http_server *s, struct lws *wsi, struct http_exchange *x, const char *path)
{
    reset(x);
    x->server = s;
    x->wsi = wsi;
    x->closes = false;
    x->vain_since_ms = 0;
    list_init(&x->link);
    x->method = read_method(x);
    x->route = find_route(s, path, &x->route_user);
    long long length = body_length(wsi);
    bool wanted = x->route && (x->route->methods & x->method);
    /* what is refused with a body on its way ends with the connection */
    x->closes = length > 0 || length == -2 || (x->method != HTTP_GET && x->method != HTTP_OPTIONS);
    if (length == -2)
        return answer_text(x, 400, "a body needs a Content-Length and no Transfer-Encoding\n");
    if (!x->method || (x->route && !wanted))
        return answer_text(x, 405, "method not allowed\n");
    if (!x->route)
        return answer_text(x, 404, "not found\n");
    if (x->method != HTTP_POST && length > 0)
        return answer_text(x, 400, "no body is taken here\n");
    if (x->method == HTTP_POST && length < 0)
        return answer_text(x, 411, "Content-Length is missing\n");
    if (length > 0 && (unsigned long long)length > x->route->max_body)
        return answer_text(x, 413, "too long\n");
    x->closes = false;
    http_read_strings(&x->strings, s, wsi, path);
    x->max_in = length > 0 ? (size_t)length : 0;
    if (!x->max_in)
        return handle(x);
    x->state = EXCHANGE_BODY;
    return 0;
}

static int on_body(struct http_exchange *x, const char *data, size_t n)
{
    if (x->state != EXCHANGE_BODY)
        return 0;
    if (x->in.n + n > x->max_in)
        return -1;
    size_t early = x->route->early_body;
    bool asks = x->route->may_go_on && x->in.n <= early && x->in.n + n > early;
    buf_add(&x->in, data, n);
    if (!asks)
        return 0;
    struct http_request r = request_of(x);
    if (x->route->may_go_on(x->route_user, &r))
        return 0;
    x->closes = true;
    return answer_text(x, 413, "too long\n");
}

/* It is said again in each turn of the loop while bytes of a next request wait. Where the answer does not
 * come soon, the connection ends: else the loop would turn at full speed until then. */
static int on_body_end(struct http_exchange *x)
{
    if (x->state == EXCHANGE_BODY)
        return handle(x);
    uint64_t now = clock_monotonic_ms();
    if (!x->vain_since_ms)
        x->vain_since_ms = now;
    return now - x->vain_since_ms > MAX_VAIN_MS ? -1 : 0;
}

static int on_writable(struct http_exchange *x)
{
    if (x->state == EXCHANGE_HANDLED && x->status && !x->held) {
        x->state = EXCHANGE_WRITING;
        return begin_answer(x);
    }
    if (x->state == EXCHANGE_FLUSHING)
        return finish(x);
    return x->state == EXCHANGE_WRITING && x->out.n ? write_body(x) : 0;
}

static void gone(struct http_exchange *x)
{
    if (!x->server)
        return;
    bool held = x->held;
    reset(x);
    if (held)
        x->on_gone(x->gone_user);
}

void http_exchange_drop_all(struct http_server *s)
{
    struct http_exchange *x;
    list_for_each(x, &s->exchanges, struct http_exchange, link) gone(x);
}

int http_exchange_callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n)
{
    struct http_server *s = http_server_of(wsi);
    struct http_exchange *x = user;
    switch (reason) {
    case LWS_CALLBACK_HTTP:
        return s && x ? on_request(s, wsi, x, in) : -1;
    case LWS_CALLBACK_HTTP_BODY:
        return s && x ? on_body(x, in, n) : -1;
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return s && x ? on_body_end(x) : 0;
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return s && x ? on_writable(x) : -1;
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
    case LWS_CALLBACK_CLOSED_HTTP:
        if (x)
            gone(x);
        return 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, n);
    }
}
