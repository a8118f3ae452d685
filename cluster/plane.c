#include "cluster/plane.h"
#include "base/list.h"
#include "cluster/identity.h"
#include "cluster/join.h"
#include "cluster/link.h"
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { REFUSED_EVERY_MS = 60 * 1000 };

struct handshake {
    struct list link;
    struct plane *plane;
    struct stream *stream;
};
struct plane {
    struct plane_options o;
    struct listener *listener;
    struct tls_sni *sni;
    struct list handshakes;
    unsigned n_handshakes;
    bool closed;
    char last_refused[160];
    uint64_t refused_ms;
};

static void on_open(void *user);
static void on_data(void *user, const uint8_t *data, size_t n_bytes);
static void on_close(void *user, int code, const char *detail);
static const struct stream_events events = {.on_open = on_open, .on_data = on_data, .on_close = on_close};

static void finish(struct handshake *h)
{
    struct plane *p = h->plane;
    list_remove(&h->link);
    mem_free(h);
    p->n_handshakes--;
    if (p->closed && !p->n_handshakes)
        mem_free(p);
}

static void on_close(void *user, int code, const char *detail)
{
    struct handshake *h = user;
    if (!h->plane->closed)
        log_debug(h->plane->o.log, "handshake from %s: %s", stream_peer_address(h->stream),
                  detail && *detail ? detail : err_text(code));
    finish(h);
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    (void)user, (void)data,
        (void)n_bytes; /* nothing is handed out before on_open, which gives the stream away */
}

/* Whoever is refused knocks again and again: a line a minute is enough. */
static void tell_refused(struct handshake *h, const struct tls_peer *peer, const char *why)
{
    struct plane *p = h->plane;
    uint64_t now = loop_now_ms(p->o.loop);
    bool quiet = !strcmp(p->last_refused, why) && now - p->refused_ms < REFUSED_EVERY_MS;
    log_at(p->o.log, quiet ? LOG_DEBUG : LOG_WARNING, "refused %s from %s: %s", peer->alpn,
           stream_peer_address(h->stream), why);
    if (quiet)
        return;
    snprintf(p->last_refused, sizeof(p->last_refused), "%s", why);
    p->refused_ms = now;
}

/* A member by its certificate; 0 when it may not speak. Who claims to be somebody that was removed is told so
 * by the answer to its hello of imp-raft/1, which is all that it is let say: nothing needs to be proved for
 * that. */
static uint32_t check_member(struct handshake *h, const struct tls_peer *peer, bool raft)
{
    struct plane *p = h->plane;
    struct err_ctx err = {0};
    uint32_t node = 0;
    int rc = identity_claimed_by_peer(&node, peer, p->o.cluster_id, &err);
    bool removed = !rc && p->o.is_removed(p->o.user, node);
    if (removed)
        rc = err_set(&err, ERR_DENIED, "node %u was removed from the cluster", node);
    if (!rc)
        rc = identity_of_peer(&node, peer, p->o.cluster_id, p->o.key_of, p->o.user, &err);
    if (rc)
        tell_refused(h, peer, err.text);
    return rc && !(removed && raft) ? 0 : node;
}

static void on_open(void *user)
{
    struct handshake *h = user;
    struct plane *p = h->plane;
    struct stream *s = h->stream;
    struct tls_peer peer;
    stream_tls_peer(s, &peer);
    bool join = !strcmp(peer.alpn, JOIN_ALPN), raft = !strcmp(peer.alpn, PLANE_RAFT_ALPN);
    bool known = join || raft || !strcmp(peer.alpn, LINK_ALPN);
    uint32_t node = known && !join ? check_member(h, &peer, raft) : 0;
    if (p->closed || !known || (!join && !node)) {
        stream_abort(s);
        return;
    }
    finish(h);
    if (join)
        p->o.on_join(p->o.user, s);
    else if (raft)
        p->o.on_raft(p->o.user, s, node);
    else
        p->o.on_link(p->o.user, s, node);
}

/* After a pause of this process hundreds of attempts wait that their peers have given up since; those that
 * still want something are the last of them. */
static bool has_left(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && p.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static void on_accept(void *user, int fd)
{
    struct plane *p = user;
    if (p->n_handshakes >= PLANE_MAX_HANDSHAKES || has_left(fd)) {
        close(fd);
        return;
    }
    struct handshake *h = mem_new(struct handshake);
    h->plane = p;
    list_append(&p->handshakes, &h->link);
    p->n_handshakes++;
    h->stream = stream_new(p->o.loop, fd, &events, h);
    stream_set_metrics(h->stream, p->o.metrics);
    stream_start_tls_server(h->stream, p->sni, PLANE_HANDSHAKE_MS);
}

int plane_open(struct plane **out, const struct plane_options *o, struct err_ctx *err)
{
    struct plane *p = mem_new(struct plane);
    p->o = *o;
    list_init(&p->handshakes);
    p->sni = tls_sni_new(o->tls);
    int rc = listener_open(&p->listener, o->loop, o->address, o->port, false, on_accept, p, err);
    if (rc) {
        tls_sni_unref(p->sni);
        mem_free(p);
        return err_prefix(err, rc, "cluster port");
    }
    *out = p;
    return 0;
}

unsigned plane_port(const struct plane *p)
{
    return listener_port(p->listener);
}

void plane_set_tls(struct plane *p, struct tls_ctx *tls)
{
    struct tls_sni *old = p->sni;
    p->sni = tls_sni_new(tls);
    tls_sni_unref(old);
}

void plane_close(struct plane *p)
{
    if (!p)
        return;
    listener_close(p->listener);
    p->closed = true;
    struct handshake *h;
    list_for_each(h, &p->handshakes, struct handshake, link) stream_abort(h->stream);
    tls_sni_unref(p->sni);
    p->sni = NULL;
    if (!p->n_handshakes)
        mem_free(p);
}

int plane_tls(struct tls_ctx **out, const char *kind, const char *cert_pem, const char *key_pem,
              const char *ca_pem, struct err_ctx *err)
{
    static const char *const all[] = {PLANE_RAFT_ALPN, LINK_ALPN, JOIN_ALPN, NULL};
    const char *const one[] = {kind, NULL};
    const struct tls_options o = {
        .server = !kind,
        .tls13_only = true,
        .cert_pem = cert_pem,
        .key_pem = key_pem,
        .ca_pem = ca_pem,
        .judged = true,
        .alpn = kind ? one : all,
    };
    return tls_ctx_new(out, &o, err);
}
