/* Life of a stream: polling, input, closing, the move to another loop. */
#include "base/stream_impl.h"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void hub_flush(struct stream_hub *hub)
{
    /* A stream may come back into the list while the others are written; it has its turn in the next round.
     */
    struct list batch;
    list_init(&batch);
    for (struct list *item; (item = list_first(&hub->dirty));) {
        list_remove(item);
        list_append(&batch, item);
    }
    for (struct list *item; (item = list_first(&batch));) {
        list_remove(item);
        struct stream *s = list_entry(item, struct stream, dirty);
        if (!s->blocked)
            stream_flush(s);
    }
}

static void hub_free(struct stream_hub *hub)
{
    for (struct list *item; (item = list_first(&hub->all));) {
        struct stream *s = list_entry(item, struct stream, link);
        stream_abort(s);
        loop_cancel_deferred(&s->deferred);
        stream_give_close(s);
    }
    stream_hub_trim(hub);
    mem_free(hub);
}

struct stream_hub *stream_hub_of(struct loop *l)
{
    if (l->streams)
        return l->streams;
    struct stream_hub *hub = mem_alloc(sizeof(*hub));
    hub->loop = l;
    hub->spare = NULL;
    hub->n_spare = 0;
    list_init(&hub->all);
    list_init(&hub->dirty);
    l->streams = hub;
    l->streams_flush = hub_flush;
    l->streams_free = hub_free;
    return hub;
}

/* --- polling --- */

static void free_poll(uv_handle_t *handle)
{
    mem_free(handle);
}

void stream_detach(struct stream *s)
{
    if (!s->poll)
        return;
    /* Takes the socket out of the poll set before it returns, so the socket may be closed or polled
     * elsewhere. */
    uv_close((uv_handle_t *)s->poll, free_poll);
    s->poll = NULL;
    s->mask = 0;
}

bool stream_can_read(const struct stream *s)
{
    return (s->state == STREAM_OPEN || s->state == STREAM_HANDSHAKE) && !s->paused && !s->held && !s->moving;
}

static void on_poll(uv_poll_t *handle, int status, int events);

static int wanted_events(const struct stream *s)
{
    int mask = 0;
    if (!s->ended && (stream_can_read(s) || s->state == STREAM_CLOSING || s->state == STREAM_LINGER))
        mask |= UV_READABLE;
    if (s->blocked || s->state == STREAM_CONNECTING)
        mask |= UV_WRITABLE;
    return mask;
}

static void set_poll(struct stream *s, int mask)
{
    if (mask == s->mask)
        return;
    s->mask = (uint8_t)mask;
    if (mask)
        uv_poll_start(s->poll, mask, on_poll);
    else
        uv_poll_stop(s->poll);
}

/* A paused stream stays in the poll set until input comes that it cannot take: most are resumed before. */
void stream_update_poll(struct stream *s)
{
    if (!s->poll)
        return;
    int mask = wanted_events(s);
    if (!s->ended && mask == (s->mask & ~UV_READABLE))
        return;
    set_poll(s, mask);
}

int stream_attach(struct stream *s, int fd)
{
    s->fd = fd;
    s->poll = mem_new(uv_poll_t);
    if (uv_poll_init_socket(&s->loop->uv, s->poll, fd) != 0) {
        mem_free(s->poll);
        s->poll = NULL;
        return ERR_SYSTEM;
    }
    s->poll->data = s;
    return ERR_OK;
}

/* Input that nobody wants any more is read all the same: closing a socket with unread input sends RST, which
 * may destroy our last bytes on their way (RFC 1122 §4.2.2.13). */
static void discard_input(struct stream *s)
{
    ssize_t n = recv(s->fd, s->hub->in, sizeof(s->hub->in), MSG_DONTWAIT);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    s->ended = true;
    if (s->state == STREAM_LINGER || n < 0)
        stream_fail(s, s->code, "%s", s->detail);
    else
        stream_update_poll(s);
}

static void read_input(struct stream *s)
{
    struct stream_hub *hub = s->hub;
    ssize_t n;
    do
        n = recv(s->fd, hub->in, sizeof(hub->in), MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK)
            stream_fail(s, ERR_IO, "read: %s", strerror(errno));
        return;
    }
    if (n == 0) {
        stream_on_end(s, s->state == STREAM_HANDSHAKE ? "closed by the peer during the TLS handshake"
                                                      : "closed by the peer");
        return;
    }
    metrics_add(s->metrics, METRIC_STREAM_BYTES_IN, n);
    if (s->ssl) {
        s->rd = hub->in;
        s->rd_end = hub->in + n;
        stream_tls_pump(s);
    } else {
        stream_give_data(s, hub->in, (size_t)n);
    }
}

/* What was read before and held back goes first. */
static void pump_saved(struct stream *s)
{
    if (s->back.n && stream_can_read(s)) {
        struct buf back = s->back;
        s->back = (struct buf){0};
        stream_give_data(s, (const uint8_t *)back.data, back.n);
        buf_fini(&back);
    }
    if (s->in.n && stream_can_read(s)) {
        s->rd = (const uint8_t *)s->in.data;
        s->rd_end = s->rd + s->in.n;
        stream_tls_pump(s);
    }
}

static void on_readable(struct stream *s)
{
    if (s->state == STREAM_CLOSING || s->state == STREAM_LINGER) {
        discard_input(s);
        return;
    }
    pump_saved(s);
    if (stream_can_read(s) && !s->in.n)
        read_input(s);
}

void stream_broken(struct stream *s, int error)
{
    out_clear(s->hub, &s->wire);
    out_clear(s->hub, &s->plain);
    for (int i = 0; i < 64 && stream_can_read(s) && !s->ended; i++)
        on_readable(s);
    socklen_t n = sizeof(error);
    if (s->fd >= 0 && error == 0)
        getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &n);
    stream_fail(s, ERR_IO, "connection: %s", error ? strerror(error) : "broken");
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct stream *s = handle->data;
    if (status < 0)
        s->mask = 0; /* libuv has stopped the handle */
    else if ((events & UV_READABLE) && !(wanted_events(s) & UV_READABLE))
        set_poll(s, wanted_events(s));
    if (s->state == STREAM_CONNECTING) {
        stream_connect_ready(s);
        return;
    }
    if (status < 0) {
        stream_broken(s, 0);
        return;
    }
    if (events & UV_WRITABLE) {
        s->blocked = false;
        stream_flush(s);
    }
    if ((events & UV_READABLE) && s->state != STREAM_CLOSED)
        on_readable(s);
    if (s->state != STREAM_CLOSED)
        stream_update_poll(s);
}

/* --- events to the owner --- */

void stream_give_data(struct stream *s, const uint8_t *data, size_t n_bytes)
{
    if (s->events)
        s->events->on_data(s->user, data, n_bytes);
}

void stream_opened(struct stream *s)
{
    timer_stop(&s->timer);
    s->state = STREAM_OPEN;
    stream_mark_dirty(s);
    stream_update_poll(s);
    if (s->events && s->events->on_open)
        s->events->on_open(s->user);
}

void stream_on_end(struct stream *s, const char *detail)
{
    s->ended = true;
    stream_update_poll(s);
    if (s->state == STREAM_OPEN && s->events && s->events->on_end)
        s->events->on_end(s->user);
    else if (s->state == STREAM_HANDSHAKE)
        stream_fail(s, ERR_CLOSED, "%s", detail);
    else
        stream_finish(s, ERR_CLOSED, "%s", detail);
}

/* The last event; the stream is gone after it. */
void stream_give_close(struct stream *s)
{
    metrics_add(s->metrics, METRIC_STREAMS_OPEN, -1);
    list_remove(&s->link);
    list_remove(&s->dirty);
    if (s->events)
        s->events->on_close(s->user, s->code, s->detail);
    mem_free(s->detail);
    mem_free(s->move);
    mem_free(s);
}

static bool takes_drain(const struct stream *s)
{
    return s->state <= STREAM_HANDSHAKE && s->events && s->events->on_drain;
}

static void on_deferred(struct deferred *d)
{
    struct stream *s = container_of(d, struct stream, deferred);
    unsigned todo = s->todo;
    if (todo & TODO_MOVE) {
        stream_depart(s);
        return;
    }
    s->todo = 0;
    if (todo & TODO_CLOSE) {
        stream_give_close(s);
        return;
    }
    if ((todo & TODO_DRAIN) && takes_drain(s))
        s->events->on_drain(s->user);
    if ((todo & TODO_PUMP) && !(s->todo & TODO_MOVE)) {
        pump_saved(s);
        stream_tunnel_pumped(s);
        if (s->state != STREAM_CLOSED)
            stream_update_poll(s);
    }
}

void stream_todo(struct stream *s, unsigned bit)
{
    s->todo |= (uint8_t)bit;
    if (s->loop && list_is_empty(&s->deferred.link))
        loop_defer(s->loop, &s->deferred);
}

void stream_mark_dirty(struct stream *s)
{
    if (!s->blocked && list_is_empty(&s->dirty))
        list_append(&s->hub->dirty, &s->dirty);
}

/* --- the end --- */

static void set_reason(struct stream *s, int code, const char *format, va_list args)
{
    if (s->detail)
        return;
    struct err_ctx text;
    vsnprintf(text.text, sizeof(text.text), format, args);
    s->code = code;
    s->detail = mem_strdup(text.text);
}

static void set_closed(struct stream *s)
{
    if (s->state == STREAM_CLOSED)
        return;
    if (s->state == STREAM_HANDSHAKE)
        metrics_add(s->metrics, METRIC_TLS_FAILURES, 1);
    timer_stop(&s->timer);
    stream_connect_forget(s);
    stream_detach(s);
    stream_tunnel_detach(s);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
    s->state = STREAM_CLOSED;
    list_remove(&s->dirty);
    out_clear(s->hub, &s->wire);
    out_clear(s->hub, &s->plain);
    buf_fini(&s->in);
    buf_fini(&s->back);
    stream_tls_free(s);
    stream_todo(s, TODO_CLOSE);
}

void stream_fail(struct stream *s, int code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_reason(s, code, format, args);
    va_end(args);
    set_closed(s);
}

void stream_finish(struct stream *s, int code, const char *format, ...)
{
    if (s->state >= STREAM_CLOSING)
        return;
    va_list args;
    va_start(args, format);
    set_reason(s, code, format, args);
    va_end(args);
    if (s->state <= STREAM_CONNECTING) {
        set_closed(s);
        return;
    }
    if (s->state == STREAM_HANDSHAKE) {
        metrics_add(s->metrics, METRIC_TLS_FAILURES, 1);
        out_clear(s->hub, &s->plain); /* cannot be encrypted any more */
        stream_tls_free(s);
    }
    buf_fini(&s->in);
    buf_fini(&s->back);
    s->state = STREAM_CLOSING;
    timer_start(&s->timer, STREAM_CLOSE_MS, 0);
    stream_mark_dirty(s);
    stream_update_poll(s);
}

void stream_close(struct stream *s)
{
    assert(loop_is_current(s->loop));
    stream_finish(s, ERR_CANCELED, "closed here");
}

void stream_abort(struct stream *s)
{
    assert(loop_is_current(s->loop));
    if (s->fd >= 0 && s->state != STREAM_LINGER) {
        /* RST: the kernel forgets at once what a peer that does not read has not taken. */
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    stream_fail(s, ERR_CANCELED, "aborted here");
}

static void on_timeout(struct timer *t)
{
    struct stream *s = container_of(t, struct stream, timer);
    switch (s->state) {
    case STREAM_RESOLVING:
    case STREAM_CONNECTING:
        stream_connect_timeout(s);
        break;
    case STREAM_HANDSHAKE:
        stream_fail(s, ERR_TIMEOUT, "TLS handshake not done within %u ms", s->timeout_ms);
        break;
    default:
        stream_fail(s, s->code, "%s", s->detail ? s->detail : "");
    }
}

/* --- making --- */

struct stream *stream_make(struct loop *l, const struct stream_events *events, void *user)
{
    assert(loop_is_current(l));
    struct stream *s = mem_new(struct stream);
    s->loop = l;
    s->hub = stream_hub_of(l);
    s->events = events;
    s->user = user;
    s->fd = -1;
    s->state = STREAM_OPEN;
    list_init(&s->dirty);
    list_append(&s->hub->all, &s->link);
    timer_init(&s->timer, l, on_timeout);
    s->deferred.fn = on_deferred;
    list_init(&s->deferred.link);
    return s;
}

void stream_note_peer(struct stream *s)
{
    struct sockaddr_storage ss = {0};
    socklen_t n = sizeof(ss);
    if (getpeername(s->fd, (struct sockaddr *)&ss, &n) != 0)
        return;
    if (ss.ss_family == AF_INET) {
        const struct sockaddr_in *in4 = (const struct sockaddr_in *)&ss;
        inet_ntop(AF_INET, &in4->sin_addr, s->address, sizeof(s->address));
        s->peer_port = ntohs(in4->sin_port);
    } else if (ss.ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&ss;
        s->peer_port = ntohs(in6->sin6_port);
        if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) /* IPv4 at a listener for both */
            inet_ntop(AF_INET, in6->sin6_addr.s6_addr + 12, s->address, sizeof(s->address));
        else
            inet_ntop(AF_INET6, &in6->sin6_addr, s->address, sizeof(s->address));
    }
}

struct stream *stream_new(struct loop *l, int fd, const struct stream_events *events, void *user)
{
    struct stream *s = stream_make(l, events, user);
    int rc = stream_attach(s, fd);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one,
               sizeof(one)); /* fails on a unix socket, which does no harm */
    stream_note_peer(s);
    if (rc != ERR_OK)
        stream_fail(s, ERR_IO, "the socket cannot be polled");
    else
        stream_update_poll(s);
    return s;
}

void stream_set_metrics(struct stream *s, struct metrics *m)
{
    metrics_add(s->metrics, METRIC_STREAMS_OPEN, -1);
    s->metrics = m;
    metrics_add(m, METRIC_STREAMS_OPEN, 1);
}

void stream_set_handler(struct stream *s, const struct stream_events *events, void *user)
{
    s->events = events;
    s->user = user;
}

/* --- flow control --- */

void stream_pause(struct stream *s)
{
    assert(loop_is_current(s->loop));
    s->paused = true;
    stream_update_poll(s);
}

void stream_resume(struct stream *s)
{
    assert(loop_is_current(s->loop));
    if (!s->paused && !s->held)
        return;
    s->paused = s->held = false;
    if (s->back.n || s->in.n || s->tunnel)
        stream_todo(s, TODO_PUMP);
    stream_update_poll(s);
}

void stream_push_back(struct stream *s, const void *data, size_t n_bytes)
{
    assert(loop_is_current(s->loop));
    if (n_bytes == 0 || s->state > STREAM_HANDSHAKE)
        return;
    if (s->state == STREAM_HANDSHAKE) {
        stream_fail(s, ERR_TLS, "input in clear behind the start of TLS");
        return;
    }
    buf_add(&s->back, data, n_bytes);
    s->held = true;
    stream_update_poll(s);
}

/* --- questions --- */

const char *stream_peer_address(const struct stream *s)
{
    return s->address;
}

unsigned stream_peer_port(const struct stream *s)
{
    return s->peer_port;
}

struct loop *stream_loop(const struct stream *s)
{
    return s->loop;
}
