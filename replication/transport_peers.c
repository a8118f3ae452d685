/* Who the peers are, and sending to them by node id. */
#include "replication/transport_impl.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static void drop_unnamed(struct transport *t)
{
    for (unsigned i = 0; i < t->n_peers;) {
        struct peer *p = t->peers[i];
        bool removed = t->config.ops->is_removed(t->config.user, p->node);
        /* Who has spoken to us without being in the table may be joining. */
        if (p->is_member || (!removed && p->in)) {
            i++;
            continue;
        }
        t->peers[i] = t->peers[--t->n_peers];
        transport_drop(p);
    }
}

/* Is that news? */
static bool set(struct where *w, const char *address, uint16_t port)
{
    if (strcmp(w->address, address) == 0 && w->port == port)
        return false;
    snprintf(w->address, sizeof(w->address), "%s", address);
    w->port = port;
    return true;
}

static bool is_at(const struct peer *p, const struct where *w)
{
    return strcmp(p->address, w->address) == 0 && p->port == w->port;
}

bool transport_said(struct peer *p, const char *address, uint16_t port)
{
    return address[0] && set(&p->said, address, port) && !is_at(p, &p->said);
}

void transport_try_next(struct peer *p)
{
    const struct where *all[] = {&p->said, &p->row, &p->hint};
    unsigned n = n_elements(all), at = n - 1;
    for (unsigned i = 0; i < n; i++)
        if (all[i]->address[0] && is_at(p, all[i]))
            at = i;
    for (unsigned i = 1; i <= n; i++) {
        const struct where *w = all[(at + i) % n];
        if (w->address[0] && !is_at(p, w)) {
            transport_set_where(p, w->address, w->port);
            return;
        }
    }
}

void transport_set_peers(struct transport *t, const struct transport_peer *peers, unsigned n)
{
    for (unsigned i = 0; i < t->n_peers; i++)
        t->peers[i]->is_member = false;
    for (unsigned i = 0; i < n; i++) {
        if (peers[i].node == t->config.hello.node)
            continue;
        struct peer *p = transport_find(t, peers[i].node);
        if (!p && !(p = transport_add(t, peers[i].node)))
            break;
        p->is_member = true;
        if (peers[i].hint_address)
            set(&p->hint, peers[i].hint_address, peers[i].hint_port);
        /* a row that says what it said before does not undo what was found since */
        if (set(&p->row, peers[i].address, peers[i].port) && transport_set_where(p, p->row.address, p->row.port))
            transport_redial(p);
    }
    drop_unnamed(t);
}

static bool answers_elsewhere(const struct peer *p)
{
    return p->is_member && p->out && conn_is_open(p->out->conn) && p->row.address[0] && !is_at(p, &p->row);
}

void transport_tell_where(struct transport *t)
{
    struct buf b = {0};
    for (unsigned i = 0; i < t->n_peers; i++) {
        const struct peer *p = t->peers[i];
        size_t n = strlen(p->address);
        if (!answers_elsewhere(p))
            continue;
        buf_add_u32(&b, p->node);
        buf_add_u16(&b, p->port);
        buf_add_u8(&b, (uint8_t)n);
        buf_add(&b, p->address, n);
    }
    for (unsigned i = 0; b.n && i < t->n_peers; i++)
        transport_send(t, t->peers[i]->node, FRAME_WHERE, b.data, b.n);
    buf_fini(&b);
}

/* It is only where to look: who answers there must prove to be the node. */
void transport_on_where(struct transport *t, const uint8_t *body, size_t n_bytes)
{
    struct reader r;
    reader_init(&r, body, n_bytes);
    while (reader_left(&r)) {
        char address[256];
        struct peer *p = transport_find(t, read_u32(&r));
        uint16_t port = read_u16(&r);
        size_t n = read_u8(&r);
        const void *bytes = read_bytes(&r, n);
        if (r.failed || !bytes || memchr(bytes, 0, n))
            return;
        memcpy(address, bytes, n);
        address[n] = 0;
        if (p && !(p->out && conn_is_open(p->out->conn)))
            transport_said(p, address, port); /* tried after the dial that runs */
    }
}

/* Peers that have not applied our row yet know us from our hello alone: without an address in it they could
 * never answer. So those who were greeted with another one, or none, are greeted again. */
void transport_set_address(struct transport *t, const char *address, uint16_t port)
{
    if (strcmp(t->config.hello.address, address) == 0 && t->config.hello.port == port)
        return;
    snprintf(t->config.hello.address, sizeof(t->config.hello.address), "%s", address);
    t->config.hello.port = port;
    for (unsigned i = 0; i < t->n_peers; i++)
        if (t->peers[i]->out)
            transport_redial(t->peers[i]);
}

static struct peer *peer_open(const struct transport *t, uint32_t node)
{
    struct peer *p = transport_find(t, node);
    return p && p->out && conn_is_open(p->out->conn) && !t->stopping ? p : NULL;
}

bool transport_is_up(const struct transport *t, uint32_t node)
{
    return peer_open(t, node) != NULL;
}

void transport_close_from(struct transport *t, uint32_t node)
{
    struct peer *p = transport_find(t, node);
    if (p && p->in)
        conn_abort(p->in->conn);
}

uint64_t transport_generation(const struct transport *t, uint32_t node)
{
    struct peer *p = transport_find(t, node);
    return p ? p->generation : 0;
}

void transport_send(struct transport *t, uint32_t node, enum conn_frame type, const void *body,
                    size_t n_bytes)
{
    struct peer *p = peer_open(t, node);
    if (p)
        conn_send(p->out->conn, type, body, n_bytes);
}

struct buf *transport_begin(struct transport *t, uint32_t node, enum conn_frame type)
{
    struct peer *p = peer_open(t, node);
    return p ? conn_frame_begin(p->out->conn, type) : NULL;
}

void transport_end(struct transport *t, uint32_t node)
{
    struct peer *p = peer_open(t, node);
    assert(p);
    conn_frame_end(p->out->conn);
}

size_t transport_queued(const struct transport *t, uint32_t node)
{
    struct peer *p = peer_open(t, node);
    return p ? conn_queued(p->out->conn) : 0;
}

unsigned transport_get_info(const struct transport *t, struct transport_info *out, unsigned max)
{
    unsigned n = 0;
    for (; n < t->n_peers && n < max; n++) {
        const struct peer *p = t->peers[n];
        out[n] = (struct transport_info){.node = p->node,
                                         .connected = p->out && conn_is_open(p->out->conn),
                                         .heard_ms = p->heard_ms,
                                         .ping_us = p->ping_us,
                                         .has_clock = p->has_clock,
                                         .clock_ms = p->clock_ms,
                                         .release = p->release};
    }
    return n;
}

bool transport_get_address(const struct transport *t, uint32_t node, const char **address, uint16_t *port)
{
    const struct peer *p = transport_find(t, node);
    if (!p || !p->address[0])
        return false;
    *address = p->address;
    *port = p->port;
    return true;
}
