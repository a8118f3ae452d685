/* The home's end of a relayed client stream: a c2s_conn made of frames. */
#include "im/message.h"
#include "protocols/xmpp/relay.h"
#include <string.h>

enum { RETRY_MS = 50, LOW_BYTES = 32 << 10 };

struct relay_key {
    uint32_t node;
    uint32_t zero; /* no padding in what is hashed */
    uint64_t relay;
};
struct relay_home {
    struct c2s_conn conn;
    struct hnode node; /* in xs->relays_home */
    struct relay_key key;
    uint64_t uid;
    struct xmpp_shard *xs;
    struct xml_stream *parser;
    struct buf down;  /* for the client, waits for credit */
    size_t credit;    /* that the edge gave */
    size_t n_unacked; /* sent and not yet taken by the client's socket */
    uint32_t n_owed;  /* handled, to be credited to the edge */
    struct deferred later;
    struct timer retry;
    bool gone;    /* the client has left; what it had sent is handled first */
    bool leaving; /* the edge is taken out of service: the same, and the client gets what is for it */
    bool paused, ended;
};

static bool has_key(const struct hnode *node, const void *key, size_t n_bytes)
{
    return memcmp(&container_of(node, struct relay_home, node)->key, key, n_bytes) == 0;
}

static struct relay_home *of(const struct c2s_conn *c)
{
    return container_of((struct c2s_conn *)c, struct relay_home, conn);
}

static void run_later(struct relay_home *r)
{
    if (list_is_empty(&r->later.link))
        loop_defer(r->xs->shard->loop, &r->later);
}

static int send(struct relay_home *r, enum relay_op op, const void *data, size_t n_bytes)
{
    return relay_send(r->xs->shard, r->key.node, op, r->key.relay, r->uid, data, n_bytes);
}

/* Out of the table, so that no frame finds it; freed later in the turn. */
static void end(struct relay_home *r)
{
    if (r->ended)
        return;
    r->ended = true;
    r->conn.home = NULL;
    htab_remove(&r->xs->relays_home, &r->node);
    timer_stop(&r->retry);
    xml_stream_stop(r->parser);
    run_later(r);
}

/* ---- the connection's operations ---- */

static void conn_write(struct c2s_conn *c, const void *data, size_t n_bytes)
{
    struct relay_home *r = of(c);
    buf_add(&r->down, data, n_bytes);
    run_later(r);
}

static void conn_write_blob(struct c2s_conn *c, struct blob *b, size_t from)
{
    conn_write(c, b->data + from, b->n - from);
}

static size_t conn_queued(const struct c2s_conn *c)
{
    const struct relay_home *r = of(c);
    return r->down.n + r->n_unacked;
}

static void conn_pause(struct c2s_conn *c)
{
    struct relay_home *r = of(c);
    r->paused = true;
    xml_stream_pause(r->parser);
}

static void conn_resume(struct c2s_conn *c)
{
    struct relay_home *r = of(c);
    r->paused = false;
    run_later(r);
}

static void conn_close(struct c2s_conn *c, const void *final, size_t n_bytes)
{
    struct relay_home *r = of(c);
    /* The last bytes do not wait for credit: the edge has room for what one client may have queued. */
    buf_add(&r->down, final, n_bytes);
    bool sent = true;
    while (sent && r->down.n > RELAY_CHUNK) {
        sent = send(r, RELAY_DOWN, r->down.data, RELAY_CHUNK) == 0;
        buf_cut(&r->down, RELAY_CHUNK);
    }
    if (sent)
        send(r, RELAY_CLOSE, r->down.data, r->down.n);
    else
        send(r, RELAY_ABORT, NULL, 0);
    end(r);
}

static void conn_abort(struct c2s_conn *c)
{
    struct relay_home *r = of(c);
    send(r, RELAY_ABORT, NULL, 0);
    end(r);
}

static const struct c2s_conn_ops conn_ops = {
    .write = conn_write,
    .write_blob = conn_write_blob,
    .queued = conn_queued,
    .pause = conn_pause,
    .resume = conn_resume,
    .close = conn_close,
    .abort = conn_abort,
};

static void give_credit(struct relay_home *r)
{
    if (r->n_owed < RELAY_CREDIT_DOWN || r->paused)
        return;
    uint8_t n[4];
    for (int i = 0; i < 4; i++)
        n[i] = (uint8_t)(r->n_owed >> (8 * i));
    if (send(r, RELAY_DOWN_CREDIT, n, sizeof n) == 0)
        r->n_owed = 0;
    else
        timer_start(&r->retry, RETRY_MS, 0);
}

static void flush(struct relay_home *r)
{
    size_t before = r->credit;
    if (!relay_send_queued(r->xs->shard, r->key.node, RELAY_DOWN, r->key.relay, r->uid, &r->down, &r->credit))
        timer_start(&r->retry, RETRY_MS, 0);
    r->n_unacked += before - r->credit;
}

static void on_later(struct deferred *d)
{
    struct relay_home *r = container_of(d, struct relay_home, later);
    if (r->ended) {
        xml_stream_free(r->parser);
        buf_fini(&r->down);
        r->xs->shard->n_busy--;
        mem_free(r);
        return;
    }
    if (!r->paused)
        c2s_conn_check(&r->conn, xml_stream_resume(r->parser));
    if (r->gone && !r->paused && !r->ended) {
        if (r->conn.home)
            c2s_home_closed(r->conn.home);
        end(r);
    }
    if (r->leaving && !r->paused && !r->ended) {
        if (r->conn.home)
            home_lose(r->conn.home, "system-shutdown", "the node of this connection is taken out of service");
        else
            conn_close(&r->conn, NULL, 0);
    }
    if (r->ended)
        return;
    flush(r);
    give_credit(r);
}

static void on_retry(struct timer *t)
{
    run_later(container_of(t, struct relay_home, retry));
}

/* ---- frames ---- */

static void open_relay(struct xmpp_shard *xs, const struct relay_frame *f, const struct relay_key *key)
{
    struct c2s_login *login = relay_login_decode(f->data, f->n);
    if (!login || login->uid != f->uid || xs->shard->stopping) {
        c2s_login_free(login);
        relay_send(xs->shard, f->node, RELAY_ABORT, f->relay, f->uid, NULL, 0);
        return;
    }
    struct relay_home *r = mem_new(struct relay_home);
    r->conn.ops = &conn_ops;
    r->conn.shard = xs->shard;
    r->xs = xs;
    r->key = *key;
    r->uid = f->uid;
    r->credit = RELAY_WINDOW;
    struct xml_limits limits = xml_limits_default;
    limits.stanza_bytes = xs->shard->settings.stanza_bytes;
    r->parser = xml_stream_new(&limits, &c2s_conn_xml_events, &r->conn);
    xml_stream_set_scratch(r->parser, &xs->scratch);
    r->conn.parser = r->parser;
    list_init(&r->later.link);
    r->later.fn = on_later;
    timer_init(&r->retry, xs->shard->loop, on_retry);
    htab_add(&xs->relays_home, &r->node, &r->key, sizeof r->key);
    xs->shard->n_busy++;
    login->edge_node = f->node;
    /* SASL2: the edge has seen the only stream header there is; stanzas come next. */
    static const char header[] = "<stream:stream xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAM "'>";
    if (login->sasl2)
        xml_stream_feed(r->parser, header, sizeof header - 1);
    c2s_home_start(c2s_home_new(&r->conn, login));
}

static void credited(struct relay_home *r, uint32_t n)
{
    r->n_unacked -= n < r->n_unacked ? n : r->n_unacked;
    r->credit += n;
    if (r->credit > RELAY_WINDOW)
        r->credit = RELAY_WINDOW;
    flush(r);
    message_output_moved(r->xs->shard);
    if (conn_queued(&r->conn) <= LOW_BYTES && r->conn.home)
        c2s_home_drained(r->conn.home);
}

void relay_home_frame(struct xmpp_shard *xs, const struct relay_frame *f)
{
    struct relay_key key = {.node = f->node, .relay = f->relay};
    struct hnode *node = htab_find(&xs->relays_home, &key, sizeof key);
    struct relay_home *r = node ? container_of(node, struct relay_home, node) : NULL;
    if (f->op == RELAY_OPEN) {
        if (!r)
            open_relay(xs, f, &key);
        return;
    }
    if (!r) {
        /* It ended here, and the edge did not hear of it: the client must not talk to nobody. */
        if (f->op == RELAY_UP || f->op == RELAY_UP_CREDIT || f->op == RELAY_LEAVE)
            relay_send(xs->shard, f->node, RELAY_ABORT, f->relay, f->uid, NULL, 0);
        return;
    }
    struct reader in;
    reader_init(&in, f->data, f->n);
    switch (f->op) {
    case RELAY_UP:
        r->conn.home->heard_ms = loop_now_ms(xs->shard->loop);
        r->n_owed += (uint32_t)f->n;
        run_later(r);
        c2s_conn_check(&r->conn, xml_stream_feed(r->parser, f->data, f->n));
        break;
    case RELAY_UP_CREDIT:
        credited(r, read_u32(&in));
        break;
    case RELAY_LEAVE:
        r->leaving = true;
        run_later(r);
        break;
    default: /* GONE */
        r->gone = true;
        run_later(r);
        break;
    }
}

void relay_home_link_down(struct xmpp_shard *xs, uint32_t node)
{
    htab_for_each(at, &xs->relays_home)
    {
        struct relay_home *r = container_of(at, struct relay_home, node);
        if (r->key.node != node)
            continue;
        send(r, RELAY_ABORT, NULL, 0); /* the way there may be whole still */
        if (r->conn.home)
            c2s_home_closed(r->conn.home);
        end(r);
    }
}

void relay_home_init(struct xmpp_shard *xs)
{
    htab_init(&xs->relays_home, has_key);
}

void relay_home_fini(struct xmpp_shard *xs)
{
    htab_fini(&xs->relays_home);
}
