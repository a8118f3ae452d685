#include "replication/conn.h"

#include "base/clock.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

enum conn_state {
    CONN_CONNECTING, /* TCP, then TLS */
    CONN_HELLO,      /* the peer's hello is awaited */
    CONN_HELD,       /* accepted: its hello is here, welcome or refusal is to come */
    CONN_OPEN,
    CONN_CLOSING,
};

struct conn {
    struct stream *stream;
    struct loop *loop;
    enum conn_state state;
    bool dialled, tls_begun;
    bool taking; /* take_frames is on the stack */
    uint32_t node;
    struct tls_ctx *tls;
    conn_identify_fn *identify;
    void *identify_user;
    struct conn_hello ours, theirs;
    const struct conn_events *events;
    void *user;
    void (*on_arrived)(void *user, struct conn *c);
    struct timer hello_timer;
    struct buf in, out;
    size_t frame_at; /* where the frame being written begins in out */
    uint64_t heard_ms;
    unsigned refusal;
    char detail[160];
};

/* ---- hello ---- */

static void put_string(struct buf *out, const char *s)
{
    size_t n = strlen(s);
    buf_add_u8(out, (uint8_t)n);
    buf_add(out, s, n);
}

static void send_hello(struct conn *c)
{
    struct buf *out = conn_frame_begin(c, FRAME_HELLO);
    buf_add_u16(out, CONN_VERSION);
    buf_add(out, c->ours.cluster_id, 16);
    buf_add_u32(out, c->ours.node);
    buf_add(out, c->ours.nonce, 16);
    buf_add_u8(out, (uint8_t)c->ours.purpose);
    put_string(out, c->ours.release);
    put_string(out, c->ours.address);
    buf_add_u16(out, c->ours.port);
    buf_add_u16(out, c->ours.election_ms);
    conn_frame_end(c);
}

static bool get_string(struct reader *r, char *out, size_t room)
{
    size_t n = read_u8(r);
    const char *s = read_bytes(r, n);
    if (!s || n >= room || memchr(s, 0, n))
        return false;
    memcpy(out, s, n);
    out[n] = 0;
    return true;
}

int conn_decode_hello(struct conn_hello *out, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    memset(out, 0, sizeof(*out));
    if (read_u16(&r) != CONN_VERSION)
        return r.failed ? ERR_MALFORMED : ERR_VERSION;
    const void *cluster = read_bytes(&r, 16);
    out->node = read_u32(&r);
    const void *nonce = read_bytes(&r, 16);
    out->purpose = read_u8(&r);
    if (r.failed || (out->purpose != CONN_MESSAGES && out->purpose != CONN_COPY))
        return ERR_MALFORMED;
    memcpy(out->cluster_id, cluster, 16);
    memcpy(out->nonce, nonce, 16);
    if (!get_string(&r, out->release, sizeof(out->release)) ||
        !get_string(&r, out->address, sizeof(out->address)))
        return ERR_MALFORMED;
    out->port = read_u16(&r);
    if (reader_left(&r) >= 2)
        out->election_ms = read_u16(&r);
    /* More may follow: a later release may say more. */
    return r.failed ? ERR_MALFORMED : 0;
}

static void fail(struct conn *c, const char *detail)
{
    if (c->state == CONN_CLOSING)
        return;
    c->state = CONN_CLOSING;
    timer_stop(&c->hello_timer);
    snprintf(c->detail, sizeof(c->detail), "%s", detail);
    stream_abort(c->stream);
}

static void on_hello(struct conn *c, const uint8_t *body, size_t n_bytes)
{
    int code = conn_decode_hello(&c->theirs, body, n_bytes);
    if (code == ERR_VERSION)
        conn_refuse(c, REFUSE_VERSION, "another version of imp-raft");
    else if (code != 0)
        fail(c, "malformed hello");
    else if (memcmp(c->theirs.cluster_id, c->ours.cluster_id, 16) != 0)
        conn_refuse(c, REFUSE_CLUSTER, "this is another cluster");
    else if (c->theirs.node != c->node)
        conn_refuse(c, REFUSE_IDENTITY, "hello and certificate name different nodes");
    else {
        timer_stop(&c->hello_timer);
        c->state = c->dialled ? CONN_OPEN : CONN_HELD;
        if (c->state == CONN_HELD)
            stream_pause(c->stream);
        c->events->on_hello(c->user, c, &c->theirs);
    }
}

static void on_refuse(struct conn *c, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    c->refusal = read_u8(&r);
    char text[128];
    if (!get_string(&r, text, sizeof(text)) || c->refusal == 0)
        fail(c, "malformed refusal");
    else
        fail(c, text);
}

/* ---- frames ---- */

static void dispatch(struct conn *c, uint8_t type, const uint8_t *body, size_t n_bytes)
{
    c->heard_ms = loop_now_ms(c->loop);
    if (c->state == CONN_OPEN && type != FRAME_HELLO && type != FRAME_REFUSE)
        c->events->on_frame(c->user, c, type, body, n_bytes);
    else if (c->state == CONN_HELLO && type == FRAME_HELLO)
        on_hello(c, body, n_bytes);
    else if (type == FRAME_REFUSE && c->dialled)
        on_refuse(c, body, n_bytes);
    else if (c->state != CONN_CLOSING)
        fail(c, "frame out of order");
}

/* Takes whole frames from DATA; returns how many bytes they were. */
static size_t take_frames(struct conn *c, const uint8_t *data, size_t n_bytes)
{
    size_t at = 0;
    c->taking = true;
    while ((c->state == CONN_HELLO || c->state == CONN_OPEN) && n_bytes - at >= 4) {
        struct reader r;
        reader_init(&r, data + at, 4);
        size_t length = read_u32(&r);
        if (length < 1 || length > (c->state == CONN_OPEN ? CONN_MAX_FRAME : CONN_MAX_HELLO)) {
            fail(c, "frame too long");
            break;
        }
        if (n_bytes - at < 4 + length)
            break;
        const uint8_t *frame = data + at + 4;
        at += 4 + length;
        dispatch(c, frame[0], frame + 1, length - 1);
    }
    c->taking = false;
    return at;
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct conn *c = user;
    if (c->state == CONN_CLOSING)
        return;
    if (c->in.n == 0) {
        size_t used = take_frames(c, data, n_bytes);
        if (used < n_bytes && c->state != CONN_CLOSING)
            buf_add(&c->in, data + used, n_bytes - used);
        return;
    }
    buf_add(&c->in, data, n_bytes);
    size_t used = take_frames(c, (const uint8_t *)c->in.data, c->in.n);
    buf_cut(&c->in, used);
}

struct buf *conn_frame_begin(struct conn *c, enum conn_frame type)
{
    buf_reset(&c->out);
    buf_add_u32(&c->out, 0);
    buf_add_u8(&c->out, (uint8_t)type);
    return &c->out;
}

void conn_frame_end(struct conn *c)
{
    size_t n = c->out.n - 4;
    assert(n <= CONN_MAX_FRAME);
    for (unsigned i = 0; i < 4; i++)
        c->out.data[i] = (char)(n >> 8 * i);
    if (c->state == CONN_CLOSING || c->state == CONN_CONNECTING)
        return;
    stream_write(c->stream, c->out.data, c->out.n);
    if (stream_queued(c->stream) > CONN_MAX_QUEUE)
        fail(c, "the peer does not read: more than 16 MiB queued");
}

void conn_send(struct conn *c, enum conn_frame type, const void *body, size_t n_bytes)
{
    if (c->state != CONN_OPEN)
        return;
    struct buf *out = conn_frame_begin(c, type);
    buf_add(out, body, n_bytes);
    conn_frame_end(c);
}

/* ---- life ---- */

static void on_hello_late(struct timer *t)
{
    fail(container_of(t, struct conn, hello_timer), "no hello in time");
}

static void await_hello(struct conn *c)
{
    c->state = CONN_HELLO;
    timer_start(&c->hello_timer, CONN_HANDSHAKE_MS, 0);
}

static void on_open(void *user)
{
    struct conn *c = user;
    if (c->state != CONN_CONNECTING)
        return;
    if (!c->tls_begun) {
        c->tls_begun = true;
        stream_start_tls_client(c->stream, c->tls, NULL, CONN_HANDSHAKE_MS);
        return;
    }
    struct tls_peer peer;
    uint32_t node;
    stream_tls_peer(c->stream, &peer);
    if (!peer.has_cert || strcmp(peer.alpn, "imp-raft/1") != 0) {
        fail(c, "the peer did not prove to be a node of this cluster");
    } else if (!c->identify(c->identify_user, &peer, &node) || node != c->node) {
        fail(c, "another node answers at this address");
    } else {
        await_hello(c);
        send_hello(c);
    }
}

static void on_drain(void *user)
{
    struct conn *c = user;
    if (c->events->on_drain && c->state == CONN_OPEN)
        c->events->on_drain(c->user, c);
}

static void on_close(void *user, int code, const char *detail)
{
    struct conn *c = user;
    c->state = CONN_CLOSING;
    timer_stop(&c->hello_timer);
    if (c->events) /* not before conn_begin: its loop ended before it arrived */
        c->events->on_close(c->user, c, c->refusal, c->detail[0] ? c->detail : detail);
    if (c->tls)
        tls_ctx_unref(c->tls);
    buf_fini(&c->in);
    buf_fini(&c->out);
    mem_free(c);
}

static const struct stream_events stream_handler = {
    .on_open = on_open, .on_data = on_data, .on_drain = on_drain, .on_close = on_close};

static struct conn *conn_new(uint32_t node, struct loop *l, void *user)
{
    struct conn *c = mem_new(struct conn);
    c->node = node;
    c->loop = l;
    c->user = user;
    return c;
}

struct conn *conn_dial(struct loop *l, const char *host, unsigned port, struct tls_ctx *tls, uint32_t node,
                       conn_identify_fn *identify, void *identify_user, const struct conn_hello *ours,
                       const struct conn_events *events, void *user)
{
    struct conn *c = conn_new(node, l, user);
    c->dialled = true;
    c->ours = *ours;
    c->events = events;
    c->tls = tls_ctx_ref(tls);
    c->identify = identify;
    c->identify_user = identify_user;
    timer_init(&c->hello_timer, l, on_hello_late);
    c->stream = stream_connect(l, host, port, CONN_HANDSHAKE_MS, &stream_handler, c);
    return c;
}

static void arrived(void *user)
{
    struct conn *c = user;
    timer_init(&c->hello_timer, c->loop, on_hello_late);
    c->on_arrived(c->user, c);
}

void conn_accept(struct stream *s, uint32_t node, struct loop *to,
                 void (*on_arrived)(void *user, struct conn *c), void *user)
{
    struct conn *c = conn_new(node, to, user);
    c->stream = s;
    c->on_arrived = on_arrived;
    stream_set_handler(s, &stream_handler, c);
    stream_move(s, to, arrived);
}

void conn_begin(struct conn *c, const struct conn_hello *ours, const struct conn_events *events, void *user)
{
    c->ours = *ours;
    conn_set_handler(c, events, user);
    await_hello(c);
}

void conn_welcome(struct conn *c)
{
    if (c->state != CONN_HELD)
        return;
    c->state = CONN_OPEN;
    c->heard_ms = loop_now_ms(c->loop);
    send_hello(c);
    stream_resume(c->stream);
    if (c->taking)
        return; /* called from on_hello: the caller goes on */
    /* What came along with the hello waits in c->in; the stream tells of new bytes only. */
    size_t used = take_frames(c, (const uint8_t *)c->in.data, c->in.n);
    buf_cut(&c->in, used);
}

void conn_refuse(struct conn *c, enum conn_refusal why, const char *text)
{
    if (c->state == CONN_CLOSING)
        return;
    snprintf(c->detail, sizeof(c->detail), "refused: %s", text);
    if (!c->dialled) {
        struct buf *out = conn_frame_begin(c, FRAME_REFUSE);
        buf_add_u8(out, (uint8_t)why);
        put_string(out, text);
        conn_frame_end(c);
    }
    if (c->state == CONN_CLOSING)
        return;
    c->state = CONN_CLOSING;
    timer_stop(&c->hello_timer);
    stream_close(c->stream);
}

void conn_abort(struct conn *c)
{
    fail(c, "closed by us");
}

uint32_t conn_node(const struct conn *c)
{
    return c->node;
}

void conn_set_handler(struct conn *c, const struct conn_events *events, void *user)
{
    c->events = events;
    c->user = user;
}

bool conn_is_open(const struct conn *c)
{
    return c->state == CONN_OPEN;
}

const struct conn_hello *conn_peer_hello(const struct conn *c)
{
    return &c->theirs;
}

uint64_t conn_heard_ms(const struct conn *c)
{
    return c->heard_ms;
}

size_t conn_queued(const struct conn *c)
{
    return stream_queued(c->stream);
}
