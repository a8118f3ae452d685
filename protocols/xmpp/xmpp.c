#include "protocols/xmpp/xmpp.h"
#include "base/clock.h"
#include "im/homes.h"
#include "protocols/xmpp/caps.h"
#include "protocols/xmpp/caps_outside.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/mam.h"
#include "protocols/xmpp/relay.h"
#include "protocols/xmpp/service.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/sm.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

enum { TICK_MS = 1000 };

struct xmpp {
    struct im *im;
    struct log *log;
    void (*admin)(void *user, const struct xmpp_admin_request *r);
    void *admin_user;
    unsigned n;
    struct xmpp_shard shards[];
};

struct im *xmpp_im(const struct xmpp *x)
{
    return x->im;
}

void xmpp_admin(const struct xmpp *x, const struct xmpp_admin_request *r)
{
    if (x->admin)
        x->admin(x->admin_user, r);
    else
        r->on_done(r->user, false, "this node has no administration");
}

struct log *xmpp_log(const struct xmpp *x)
{
    return x->log;
}

/* ---- SASL success ---- */

static void ignore_data(void *user, const uint8_t *data, size_t n_bytes)
{
    (void)user, (void)data, (void)n_bytes;
}

static void ignore_close(void *user, int code, const char *detail)
{
    (void)user, (void)code, (void)detail;
}

static const struct stream_events ignore = {.on_data = ignore_data, .on_close = ignore_close};

/* The client reads this as the answer to its new stream header (RFC 6120 §4.9.1.2); with SASL2 the stream is
 * open. */
static void turn_away(struct stream *stream, struct xml_stream *parser, struct c2s_login *login,
                      const char *condition, const char *text)
{
    struct buf out = {0};
    if (!login->sasl2)
        c2s_bare_header(&out, login->domain);
    c2s_stream_error(&out, condition, text);
    stream_set_handler(stream, &ignore, NULL);
    stream_write(stream, out.data, out.n);
    stream_close(stream);
    buf_fini(&out);
    xml_stream_free(parser);
    c2s_login_free(login);
}

static bool is_drained(const struct shard *s)
{
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self && self->drained;
}

/* Where a client finds its home NODE itself. A web client needs a URL (RFC 7395 §3.6.1, XEP-0124 §17.2): that
 * of the node, if it has one of its own, else its stream is relayed all the same. */
static bool find_other(struct shard *at, struct stream *stream, const struct member *node, char out[1024])
{
    int kind = stream_tunnel_kind(stream);
    if (!kind) {
        snprintf(out, 1024, node->xmpp_port && node->xmpp_port != 5222 ? "%s:%u" : "%s", node->public_name,
                 node->xmpp_port);
        return true;
    }
    const struct member *self = members_find(at->members, im_node_id(at->im));
    enum setting url = kind == C2S_BOSH ? SETTING_WEB_BOSH_URL : SETTING_WEB_WEBSOCKET_URL;
    struct arena a;
    arena_init(&a);
    const char *theirs = setting_string(shard_txn(at), node->name, url, &a);
    const char *ours = setting_string(shard_txn(at), self ? self->name : NULL, url, &a);
    bool other = *theirs && strcmp(theirs, ours) != 0;
    snprintf(out, 1024, "%s", theirs);
    arena_fini(&a);
    return other;
}

void c2s_hand_over(struct shard *at, struct stream *stream, struct xml_stream *parser,
                   struct c2s_login *login)
{
    struct im *im = at->im;
    const struct im_backend *b = im_backend(im);
    login->edge_node = im_node_id(im);
    uint32_t home = shard_home_of(at, login->uid);
    login->route_index = at->route_index;
    const struct member *node = members_find(at->members, home);
    char host[1024];
    if (at->stopping || is_drained(at)) {
        turn_away(stream, parser, login, "system-shutdown", NULL);
    } else if (!home || !node) {
        turn_away(stream, parser, login, "resource-constraint", "no node serves this account now");
    } else if (home == im_node_id(im)) {
        c2s_local_open(at, im_shard_of(im, login->uid), stream, parser, login);
    } else if (at->settings.redirect && find_other(at, stream, node, host)) {
        turn_away(stream, parser, login, "see-other-host", host);
    } else if (!b->link_is_up(b->user, home)) {
        turn_away(stream, parser, login, "resource-constraint",
                  "the node of this account cannot be reached now");
    } else {
        relay_edge_open(at, home, stream, parser, login);
    }
}

/* ---- shards ---- */

static void on_tick(struct timer *t)
{
    struct xmpp_shard *xs = container_of(t, struct xmpp_shard, tick);
    c2s_local_park(xs);
    home_check_times(xs);
    sm_shard_tick(xs);
    if (is_drained(xs->shard))
        relay_edge_leave(xs);
    home_bind_again(xs);
    service_tick(xs);
}

static void on_homes(struct shard_watcher *w)
{
    home_bind_again(container_of(w, struct xmpp_shard, watcher));
}

static void on_settings(struct shard_watcher *w)
{
    service_on_settings(container_of(w, struct xmpp_shard, watcher));
}

static void on_lease(struct shard_watcher *w, enum shard_lease lease)
{
    (void)lease;
    homes_touch(container_of(w, struct xmpp_shard, watcher)->shard);
}

static void on_stop(struct shard_watcher *w)
{
    struct xmpp_shard *xs = container_of(w, struct xmpp_shard, watcher);
    struct c2s_home *h;
    list_for_each(h, &xs->unbound, struct c2s_home, unbound) home_fail(h, "system-shutdown", NULL);
    relay_edge_stop(xs);
    timer_stop(&xs->tick);
}

int xmpp_new(struct xmpp **out, const struct xmpp_options *o, struct err_ctx *err)
{
    (void)err;
    unsigned n = im_n_shards(o->im);
    struct xmpp *x = mem_zalloc(sizeof *x + n * sizeof(struct xmpp_shard));
    x->im = o->im;
    x->log = log_category(im_log(o->im), "xmpp");
    x->n = n;
    x->admin = o->admin;
    x->admin_user = o->admin_user;
    for (unsigned i = 0; i < n; i++) {
        struct xmpp_shard *xs = &x->shards[i];
        xs->xmpp = x;
        xs->shard = im_shard(o->im, i);
        xs->shard->xmpp = xs;
        list_init(&xs->active);
        list_init(&xs->asking);
        arena_init(&xs->scratch);
        list_init(&xs->unbound);
        list_init(&xs->binding);
        list_init(&xs->detached);
        list_init(&xs->closing);
        list_init(&xs->orphans);
        list_init(&xs->inlined);
        relay_shard_init(xs);
        service_init(xs);
        timer_init(&xs->tick, xs->shard->loop, on_tick);
        timer_start(&xs->tick, TICK_MS, TICK_MS);
        xs->watcher.on_stop = on_stop;
        xs->watcher.on_homes = on_homes;
        xs->watcher.on_lease = on_lease;
        xs->watcher.on_settings = on_settings;
        shard_watch(xs->shard, &xs->watcher);
    }
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        if ((*f)->user_hook)
            im_add_hook(o->im, (*f)->user_hook);
    if (o->links) {
        links_handle(o->links, LINK_RELAY, xmpp_on_relay, x);
        links_watch(o->links, NULL, xmpp_on_link_down, x);
        links_watch_in(o->links, xmpp_on_link_down, x);
    }
    *out = x;
    return 0;
}

void xmpp_free(struct xmpp *x)
{
    if (!x)
        return;
    for (unsigned i = 0; i < x->n; i++) {
        mam_shard_fini(&x->shards[i]);
        relay_shard_fini(&x->shards[i]);
        service_fini(&x->shards[i]);
        sm_shard_fini(&x->shards[i]);
        caps_cache_free(x->shards[i].caps);
        caps_outside_free(x->shards[i].caps_outside);
        arena_fini(&x->shards[i].scratch);
    }
    mem_free(x);
}

static void on_shard_link_down(void *arg, struct shard *s)
{
    relay_link_down(s->xmpp, (uint32_t)(uintptr_t)arg);
}

void xmpp_on_link_down(void *user, uint32_t node)
{
    struct xmpp *x = user;
    for (unsigned i = 0; i < x->n; i++)
        shard_call(x->shards[i].shard, on_shard_link_down, (void *)(uintptr_t)node);
}
