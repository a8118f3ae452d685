/* Output of a stream: a queue of chunks and payload references, written by one sendmsg per turn. */
#include "base/stream_impl.h"
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

enum {
    SMALL_BYTES =
        4096 - 64 - sizeof(struct chunk), /* the first chunk of a queue: kept by the hub for the next one */
    LARGE_BYTES = STREAM_RECORD_BYTES,    /* the others: one full TLS record */
    MAX_SPARE = 256,
    BLOB_MIN_BYTES = 1024, /* a shorter one is copied: a chunk of its own costs more */
    MAX_IOV = 64,
    MAX_PASSES = 4, /* of one stream in a turn */
};

const char *out_bytes(const struct chunk *c)
{
    return (c->blob ? c->blob->data : c->data) + c->pos;
}

static struct chunk *chunk_new(struct stream_hub *hub, size_t cap)
{
    struct chunk *c;
    if (cap == SMALL_BYTES && hub->spare) {
        c = hub->spare;
        hub->spare = c->next;
        hub->n_spare--;
    } else {
        c = mem_alloc(sizeof(*c) + cap);
        c->cap = cap;
    }
    c->next = NULL;
    c->blob = NULL;
    c->sealed = false;
    c->pos = c->n = 0;
    return c;
}

static void chunk_free(struct stream_hub *hub, struct chunk *c)
{
    blob_unref(c->blob);
    if (c->cap != SMALL_BYTES || !hub || hub->n_spare == MAX_SPARE) {
        mem_free(c);
        return;
    }
    c->next = hub->spare;
    hub->spare = c;
    hub->n_spare++;
}

void stream_hub_trim(struct stream_hub *hub)
{
    while (hub->spare) {
        struct chunk *c = hub->spare;
        hub->spare = c->next;
        mem_free(c);
    }
    hub->n_spare = 0;
}

static void append(struct out_queue *q, struct chunk *c)
{
    if (q->last)
        q->last->next = c;
    else
        q->first = c;
    q->last = c;
}

static size_t next_cap(const struct out_queue *q, size_t n_bytes)
{
    if (n_bytes > LARGE_BYTES)
        return n_bytes;
    return q->first || n_bytes > SMALL_BYTES ? LARGE_BYTES : SMALL_BYTES;
}

void out_add(struct stream_hub *hub, struct out_queue *q, const void *data, size_t n_bytes)
{
    const char *from = data;
    q->n_bytes += n_bytes;
    while (n_bytes) {
        struct chunk *c = q->last;
        if (!c || c->blob || c->sealed || c->pos + c->n == c->cap) {
            c = chunk_new(hub, next_cap(q, n_bytes));
            append(q, c);
        }
        size_t room = c->cap - c->pos - c->n;
        size_t n = n_bytes < room ? n_bytes : room;
        memcpy(c->data + c->pos + c->n, from, n);
        c->n += n;
        from += n;
        n_bytes -= n;
    }
}

void out_add_blob(struct stream_hub *hub, struct out_queue *q, struct blob *b, size_t from)
{
    assert(from <= b->n);
    size_t n = b->n - from;
    if (n < BLOB_MIN_BYTES) {
        out_add(hub, q, b->data + from, n);
        return;
    }
    struct chunk *c = chunk_new(hub, 0);
    c->blob = blob_ref(b);
    c->pos = from;
    c->n = n;
    append(q, c);
    q->n_bytes += n;
}

void out_drop(struct stream_hub *hub, struct out_queue *q, size_t n_bytes)
{
    assert(n_bytes <= q->n_bytes);
    q->n_bytes -= n_bytes;
    for (struct chunk *c; (c = q->first);) {
        if (n_bytes < c->n) {
            c->pos += n_bytes;
            c->n -= n_bytes;
            return;
        }
        n_bytes -= c->n;
        q->first = c->next;
        if (!q->first)
            q->last = NULL;
        chunk_free(hub, c);
    }
}

void out_clear(struct stream_hub *hub, struct out_queue *q)
{
    out_drop(hub, q, q->n_bytes);
}

/* One sendmsg of what is in the wire queue; false when there is nothing more to do now. */
static bool send_some(struct stream *s)
{
    struct iovec iov[MAX_IOV];
    size_t n_iov = 0, n_bytes = 0;
    for (struct chunk *c = s->wire.first; c && n_iov < MAX_IOV; c = c->next) {
        iov[n_iov++] = (struct iovec){(void *)out_bytes(c), c->n};
        n_bytes += c->n;
    }
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = n_iov};
    ssize_t n;
    do
        n = sendmsg(s->fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS)
            s->blocked = true;
        else
            stream_broken(s, errno);
        return false;
    }
    metrics_add(s->metrics, METRIC_STREAM_BYTES_OUT, n);
    out_drop(s->hub, &s->wire, (size_t)n);
    s->blocked = (size_t)n < n_bytes;
    return !s->blocked;
}

void stream_flush(struct stream *s)
{
    if (s->tunnel) {
        stream_tunnel_flush(s);
        return;
    }
    bool writes = s->state == STREAM_OPEN || s->state == STREAM_HANDSHAKE || s->state == STREAM_CLOSING;
    for (int pass = 0; writes && !s->blocked; pass++) {
        if (s->ssl)
            stream_tls_encrypt(s);
        if (s->state == STREAM_CLOSING && s->plain.n_bytes == 0)
            stream_tls_notify(s);
        if (s->wire.n_bytes == 0) {
            s->replied = 0;
            break;
        }
        if (pass == MAX_PASSES) {
            s->blocked = true; /* the others' turn; it goes on when the poll says so */
            break;
        }
        if (!send_some(s))
            break;
    }
    if (s->state == STREAM_CLOSED)
        return;
    if (s->above_high && stream_queued(s) <= s->low) {
        s->above_high = false;
        stream_todo(s, TODO_DRAIN);
    }
    if (s->state == STREAM_CLOSING && stream_queued(s) == 0) {
        shutdown(s->fd, SHUT_WR);
        if (s->ended) {
            stream_fail(s, s->code, "%s", s->detail);
            return;
        }
        s->state = STREAM_LINGER;
        timer_start(&s->timer, STREAM_LINGER_MS, 0);
    }
    stream_update_poll(s);
}

size_t stream_queued(const struct stream *s)
{
    return s->wire.n_bytes + s->plain.n_bytes + stream_tunnel_unacked(s);
}

/* In clear there is one queue; under TLS the text waits in its own until the end of the turn, so that many
 * small stanzas make one record. */
static struct out_queue *queue_of(struct stream *s)
{
    return s->ssl ? &s->plain : &s->wire;
}

static void queued(struct stream *s)
{
    if (s->high && stream_queued(s) > s->high)
        s->above_high = true;
    stream_mark_dirty(s);
}

static bool takes_output(const struct stream *s)
{
    return s->state <= STREAM_HANDSHAKE;
}

void stream_write(struct stream *s, const void *data, size_t n_bytes)
{
    assert(loop_is_current(s->loop));
    if (!takes_output(s) || n_bytes == 0)
        return;
    out_add(s->hub, queue_of(s), data, n_bytes);
    queued(s);
}

void stream_write_blob(struct stream *s, struct blob *b, size_t from)
{
    assert(loop_is_current(s->loop));
    if (!takes_output(s))
        return;
    out_add_blob(s->hub, queue_of(s), b, from);
    queued(s);
}

void stream_end_record(struct stream *s)
{
    assert(loop_is_current(s->loop));
    if (takes_output(s) && queue_of(s)->last)
        queue_of(s)->last->sealed = true;
}

void stream_set_water(struct stream *s, size_t low, size_t high)
{
    s->low = low;
    s->high = high;
}
