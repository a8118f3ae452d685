/* LINK_RELAY frames: written, read, and taken from the control loop to the shards. */
#include "protocols/xmpp/relay.h"
#include "protocols/xmpp/xmpp.h"
#include <string.h>

int relay_send(struct shard *s, uint32_t node, enum relay_op op, uint64_t relay, uint64_t uid,
               const void *data, size_t n_bytes)
{
    const struct im_backend *b = im_backend(s->im);
    buf_reset(&s->scratch);
    buf_add_u8(&s->scratch, (uint8_t)op);
    buf_add_u64(&s->scratch, relay);
    buf_add_u64(&s->scratch, uid);
    if (n_bytes)
        buf_add(&s->scratch, data, n_bytes);
    return b->link_send(b->user, node, LINK_RELAY, s->scratch.data, s->scratch.n);
}

bool relay_send_queued(struct shard *s, uint32_t node, enum relay_op op, uint64_t relay, uint64_t uid,
                       struct buf *queue, size_t *credit)
{
    while (queue->n && *credit) {
        size_t n = queue->n < *credit ? queue->n : *credit;
        if (n > RELAY_CHUNK)
            n = RELAY_CHUNK;
        if (relay_send(s, node, op, relay, uid, queue->data, n) < 0)
            return false;
        buf_cut(queue, n);
        *credit -= n;
    }
    return true;
}

static void add_string(struct buf *out, const char *s)
{
    size_t n = strlen(s);
    buf_add_u32(out, (uint32_t)n);
    buf_add(out, s, n);
}

void relay_login_encode(struct buf *out, const struct c2s_login *l)
{
    buf_add_u64(out, l->uid);
    buf_add_u32(out, l->port);
    buf_add_u32(out, l->edge_node);
    buf_add_u64(out, l->since_ms);
    buf_add_u64(out, l->route_index);
    buf_add_u8(out, l->tls);
    buf_add_u8(out, l->channel_bound);
    add_string(out, l->localpart);
    add_string(out, l->domain);
    add_string(out, l->mechanism);
    add_string(out, ""); /* a version of TLS that nobody used */
    add_string(out, l->address);
    if (!l->sasl2) /* from feature level 3 on */
        return;
    buf_add_u8(out, l->has_client);
    buf_add(out, l->client, sizeof l->client);
    add_string(out, l->request ? l->request : "");
    add_string(out, l->success ? l->success : "");
    add_string(out, l->lang ? l->lang : "");
}

static char *read_string(struct reader *r, size_t max)
{
    uint32_t n = read_u32(r);
    const char *s = !r->failed && n <= max ? read_bytes(r, n) : NULL;
    if (!s || memchr(s, 0, n)) {
        r->failed = 1;
        return NULL;
    }
    return mem_strndup(s, n);
}

/* "" is none. */
static char *read_optional(struct reader *r, size_t max)
{
    char *s = read_string(r, max);
    if (s && !*s) {
        mem_free(s);
        s = NULL;
    }
    return s;
}

static void read_sasl2(struct reader *r, struct c2s_login *l)
{
    l->sasl2 = true;
    l->has_client = read_u8(r);
    const uint8_t *client = read_bytes(r, sizeof l->client);
    if (client)
        memcpy(l->client, client, sizeof l->client);
    l->request = read_string(r, RELAY_WINDOW);
    l->success = read_string(r, RELAY_WINDOW);
    l->lang = read_optional(r, C2S_LANG_MAX);
}

struct c2s_login *relay_login_decode(const uint8_t *data, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    struct c2s_login *l = c2s_login_new();
    l->uid = read_u64(&r);
    l->port = (uint16_t)read_u32(&r);
    l->edge_node = read_u32(&r);
    l->since_ms = read_u64(&r);
    l->route_index = read_u64(&r);
    l->tls = read_u8(&r);
    l->channel_bound = read_u8(&r);
    l->localpart = read_string(&r, 1023);
    l->domain = read_string(&r, 1023);
    l->mechanism = read_string(&r, 31);
    mem_free(read_string(&r, 15));
    l->address = read_string(&r, 63);
    if (reader_left(&r))
        read_sasl2(&r, l);
    if (r.failed || reader_left(&r)) {
        c2s_login_free(l);
        return NULL;
    }
    return l;
}

/* ---- arriving: control loop ---- */

static bool is_for_edge(uint8_t op)
{
    return op >= RELAY_DOWN && op <= RELAY_ABORT;
}

static void deliver(struct letter *letter)
{
    struct relay_frame *f = container_of(letter, struct relay_frame, letter);
    if (is_for_edge(f->op))
        relay_edge_frame(f->shard, f);
    else
        relay_home_frame(f->shard, f);
    mem_free(f);
}

static void discard(struct letter *letter)
{
    mem_free(container_of(letter, struct relay_frame, letter));
}

void xmpp_on_relay(void *user, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes)
{
    struct xmpp *x = user;
    struct im *im = xmpp_im(x);
    (void)epoch;
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint8_t op = read_u8(&r);
    uint64_t relay = read_u64(&r), uid = read_u64(&r);
    if (r.failed || op < RELAY_OPEN || op > RELAY_LEAVE ||
        (is_for_edge(op) && relay_edge_shard(relay) >= im_n_shards(im))) {
        log_warning(xmpp_log(x), "node %u sent a relay frame that cannot be read", from_node);
        return;
    }
    size_t n = reader_left(&r);
    struct relay_frame *f = mem_alloc(sizeof *f + n);
    *f = (struct relay_frame){
        .letter = {NULL, deliver, discard}, .node = from_node, .op = op, .relay = relay, .uid = uid, .n = n};
    memcpy(f->data, r.p, n);
    struct shard *s = is_for_edge(op) ? im_shard(im, relay_edge_shard(relay)) : im_shard_of(im, uid);
    f->shard = s->xmpp;
    loop_post(s->loop, &f->letter);
}
