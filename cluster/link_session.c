#include "cluster/link_session.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/identity.h"
#include "plane.pb-c.h"
#include <stdio.h>
#include <string.h>

static void on_open(void *user);
static void on_data(void *user, const uint8_t *data, size_t n_bytes);
static void on_close(void *user, int code, const char *detail);
static const struct stream_events events = {.on_open = on_open, .on_data = on_data, .on_close = on_close};

bool link_session_carries_frames(const struct link_session *s)
{
    return s->state == SESSION_OPEN && s->epoch && s->our_epoch;
}

void link_session_write(struct link_session *s, unsigned type, const void *data, size_t n_bytes)
{
    struct buf head = {0};
    buf_add_u32(&head, (uint32_t)n_bytes + 1);
    buf_add_u8(&head, (uint8_t)type);
    stream_write(s->stream, head.data, head.n);
    if (n_bytes)
        stream_write(s->stream, data, n_bytes);
    buf_fini(&head);
}

static void write_hello(struct link_session *s)
{
    struct links *l = s->links;
    Imp__LinkHello hello = IMP__LINK_HELLO__INIT;
    hello.cluster_id = (ProtobufCBinaryData){sizeof(l->cluster_id), l->cluster_id};
    hello.start_nonce = (ProtobufCBinaryData){sizeof(l->start_nonce), l->start_nonce};
    hello.node = l->node_id;
    hello.epoch = s->our_epoch = l->epoch;
    hello.release = l->release;
    uint8_t body[256];
    if (imp__link_hello__get_packed_size(&hello) > sizeof(body))
        return;
    link_session_write(s, LINK_HELLO, body, imp__link_hello__pack(&hello, body));
}

static void on_tick(struct timer *t)
{
    struct link_session *s = container_of(t, struct link_session, tick);
    uint64_t now = loop_now_ms(s->links->loop);
    if (now - s->heard_ms > s->links->dead_ms) {
        link_session_end(s, "it no longer answers");
        return;
    }
    if (s->dialled && s->state == SESSION_OPEN) {
        struct buf b = {0};
        buf_add_u64(&b, clock_monotonic_us());
        link_session_write(s, LINK_PING, b.data, b.n);
        buf_fini(&b);
    }
}

static struct link_session *session_new(struct links *l, uint32_t node, bool dialled)
{
    struct link_session *s = mem_new(struct link_session);
    s->links = l;
    s->id = ++l->next_session;
    s->node = node;
    s->dialled = dialled;
    s->heard_ms = loop_now_ms(l->loop);
    frame_reader_init(&s->reader, LINK_FRAME_MAX);
    timer_init(&s->tick, l->loop, on_tick);
    list_append(&l->sessions, &s->link);
    return s;
}

void link_session_dial(struct link_peer *p)
{
    struct links *l = p->links;
    struct link_session *s = session_new(l, p->node, true);
    s->state = SESSION_CONNECTING;
    p->out = s;
    s->stream = stream_connect(l->loop, p->address, p->port, l->connect_ms, &events, s);
}

struct link_session *link_session_accept(struct links *l, struct stream *stream, uint32_t node)
{
    struct link_session *s = session_new(l, node, false);
    s->state = SESSION_GREETING;
    s->stream = stream;
    stream_set_handler(stream, &events, s);
    timer_start(&s->tick, l->ping_ms, l->ping_ms);
    return s;
}

struct link_session *link_session_find(struct links *l, uint64_t id)
{
    struct link_session *s;
    list_for_each(s, &l->sessions, struct link_session, link) if (s->id == id) return s;
    return NULL;
}

static void detach(struct link_session *s, const char *why)
{
    struct link_peer *p = link_peer_find(s->links, s->node);
    timer_stop(&s->tick);
    s->state = SESSION_CLOSING;
    if (p && p->out == s) {
        if (strcmp(p->last_error, why))
            log_info(s->links->log, "link to node %u (%s:%u): %s", s->node, p->address, p->port, why);
        snprintf(p->last_error, sizeof(p->last_error), "%s", why);
    }
    link_on_session_closed(s);
}

void link_session_end(struct link_session *s, const char *why)
{
    if (s->state == SESSION_CLOSING)
        return;
    detach(s, why);
    stream_abort(s->stream);
}

static void on_close(void *user, int code, const char *detail)
{
    struct link_session *s = user;
    struct links *l = s->links;
    if (s->state != SESSION_CLOSING)
        detach(s, detail && *detail ? detail : err_text(code));
    list_remove(&s->link);
    frame_reader_fini(&s->reader);
    mem_free(s);
    if (l->freed && list_is_empty(&l->sessions))
        link_release(l);
}

static void on_secured(struct link_session *s)
{
    struct tls_peer peer;
    struct err_ctx err = {0};
    uint32_t node = 0;
    stream_tls_peer(s->stream, &peer);
    if (identity_of_peer(&node, &peer, s->links->cluster_id, s->links->key_of, s->links->user, &err)) {
        link_session_end(s, err.text);
        return;
    }
    if (node != s->node) {
        snprintf(err.text, sizeof(err.text), "node %u answers there", node);
        link_session_end(s, err.text);
        return;
    }
    if (strcmp(peer.alpn, LINK_ALPN)) {
        link_session_end(s, "it does not speak " LINK_ALPN);
        return;
    }
    s->state = SESSION_GREETING;
    s->heard_ms = loop_now_ms(s->links->loop);
    timer_start(&s->tick, s->links->ping_ms, s->links->ping_ms);
    write_hello(s);
    if (s->links->on_seen)
        s->links->on_seen(s->links->user, s->node);
}

static void on_open(void *user)
{
    struct link_session *s = user;
    if (s->state == SESSION_CONNECTING) {
        s->state = SESSION_SECURING;
        stream_start_tls_client(s->stream, s->links->tls, NULL, s->links->connect_ms);
    } else if (s->state == SESSION_SECURING) {
        on_secured(s);
    }
}

static void on_hello(struct link_session *s, const uint8_t *data, size_t n_bytes)
{
    struct links *l = s->links;
    Imp__LinkHello *hello = imp__link_hello__unpack(NULL, n_bytes, data);
    const char *why = NULL;
    if (!hello)
        why = "malformed hello";
    else if (hello->cluster_id.len != 16 || memcmp(hello->cluster_id.data, l->cluster_id, 16))
        why = "hello of another cluster";
    else if (hello->node != s->node)
        why = "hello of another node";
    else if (hello->start_nonce.len != 16)
        why = "hello without a start nonce";
    if (!why) {
        struct link_peer *p = link_peer_find(l, s->node);
        if (hello->epoch && p && hello->epoch < p->row_epoch)
            why = "its epoch has ended";
        s->epoch = hello->epoch;
    }
    if (hello)
        imp__link_hello__free_unpacked(hello, NULL);
    if (why) {
        link_session_end(s, why);
        return;
    }
    if (!s->dialled)
        write_hello(s);
    s->state = SESSION_OPEN;
    link_on_session_open(s);
}

static void on_pong(struct link_session *s, const uint8_t *data, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint64_t sent = read_u64(&r), now = clock_monotonic_us();
    struct link_peer *p = link_peer_find(s->links, s->node);
    if (!r.failed && p && sent <= now && now - sent < 60000000)
        p->rtt_us = (uint32_t)(now - sent);
}

static bool on_frame(void *user, const uint8_t *body, size_t n_bytes)
{
    struct link_session *s = user;
    unsigned type = body[0];
    const uint8_t *data = body + 1;
    size_t n = n_bytes - 1;
    if (s->state == SESSION_GREETING) {
        if (type == LINK_HELLO)
            on_hello(s, data, n);
        else
            link_session_end(s, "a frame before the hello");
    } else if (type == LINK_PING) {
        link_session_write(s, LINK_PONG, data, n > 8 ? 8 : n);
    } else if (type == LINK_PONG) {
        on_pong(s, data, n);
    } else {
        link_on_frame(s, type, data, n);
    }
    return s->state != SESSION_CLOSING;
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct link_session *s = user;
    if (s->state == SESSION_CLOSING)
        return;
    s->heard_ms = loop_now_ms(s->links->loop);
    int rc = frame_reader_feed(&s->reader, data, n_bytes, on_frame, s);
    if (rc && rc != ERR_CANCELED)
        link_session_end(s, rc == ERR_LIMIT ? "a frame is too large" : "malformed frame");
}
