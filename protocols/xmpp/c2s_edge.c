#include "protocols/xmpp/c2s_edge_impl.h"
#include "replication/settings.h"

#include <string.h>
#include <unistd.h>

enum { THROTTLE_ENTRIES = 65536, KNOWN_ACCOUNTS = 16384 };

static bool id_equal(const struct hnode *node, const void *key, size_t n)
{
    return container_of(node, struct edge_conn, node)->id == *(const uint64_t *)key;
}

const struct edge_settings *edge_settings(struct edge_shard *es)
{
    if (es->has_settings)
        return &es->settings;
    struct store_txn *t = shard_txn(es->shard);
    const char *node = es->edge->node_name;
    struct arena a;
    arena_init(&a);
    const char *binding = setting_string(t, node, SETTING_XMPP_CHANNEL_BINDING, &a);
    es->settings = (struct edge_settings){
        .bind = strcmp(binding, "off") != 0,
        .bind_strict = strcmp(binding, "strict") == 0,
        .level = es->shard->settings.level,
        .sha512 = setting_bool(t, node, SETTING_XMPP_SCRAM_SHA512),
        .registration = setting_bool(t, node, SETTING_XMPP_REGISTRATION),
        .fast_life_ms = (uint64_t)setting_int(t, node, SETTING_XMPP_FAST_TOKEN_LIFE) * 1000,
        .registrations = (unsigned)setting_int(t, node, SETTING_LIMIT_REGISTRATIONS),
        .require_tls = setting_bool(t, node, SETTING_XMPP_REQUIRE_TLS),
        .plain_in_clear = setting_bool(t, node, SETTING_XMPP_PLAIN_WITHOUT_TLS),
        .ask_backend = setting_string(t, node, SETTING_AUTH_MODE, &a)[0] != 'l', /* not "local" */
        .handshake_ms = (unsigned)setting_int(t, node, SETTING_LIMIT_HANDSHAKE) * 1000,
        .stanza_bytes_early = (unsigned)setting_int(t, node, SETTING_LIMIT_STANZA_BYTES_EARLY),
        .stanza_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_STANZA_BYTES),
        .connections_per_address = (unsigned)setting_int(t, node, SETTING_LIMIT_CONNECTIONS_ADDRESS),
        .unauthenticated = (unsigned)setting_int(t, node, SETTING_LIMIT_UNAUTHENTICATED),
        .logins_per_address = (unsigned)setting_int(t, node, SETTING_LIMIT_LOGINS_ADDRESS),
        .login_failures = (unsigned)setting_int(t, node, SETTING_LIMIT_LOGIN_FAILURES),
    };
    arena_fini(&a);
    es->has_settings = true;
    return &es->settings;
}

static void on_settings(struct shard_watcher *w)
{
    struct edge_shard *es = container_of(w, struct edge_shard, watcher);
    es->has_settings = false;
    edge_offers_forget(es);
}

static void on_stop(struct shard_watcher *w)
{
    struct edge_shard *es = container_of(w, struct edge_shard, watcher);
    for (int i = 0; i < 2; i++) {
        listener_close(es->listeners[i]);
        es->listeners[i] = NULL;
    }
    htab_for_each(node, &es->conns)
    {
        struct edge_conn *c = container_of(node, struct edge_conn, node);
        edge_conn_close(c, "system-shutdown", NULL);
    }
}

static bool may_accept(struct edge_shard *es)
{
    struct c2s_edge *e = es->edge;
    return es->sni && im_is_serving(e->im) && atomic_load(&e->n_waiting) < edge_settings(es)->unauthenticated;
}

static void accept_one(struct edge_shard *es, int fd, bool direct_tls)
{
    if (!may_accept(es)) {
        close(fd);
        return;
    }
    edge_conn_new(es, fd, direct_tls);
}

static void on_accept_starttls(void *user, int fd)
{
    accept_one(user, fd, false);
}
static void on_accept_direct(void *user, int fd)
{
    accept_one(user, fd, true);
}

/* The first shard finds a free port where 0 was asked for; the others share it. */
static int open_listeners(struct edge_shard *es, struct err_ctx *err)
{
    struct c2s_edge *e = es->edge;
    const struct c2s_listen *want[2] = {&e->options.starttls, &e->options.direct_tls};
    for (int i = 0; i < 2; i++) {
        if (want[i]->port < 0)
            continue;
        unsigned port = e->ports[i] ? e->ports[i] : (unsigned)want[i]->port;
        int code = listener_open(&es->listeners[i], es->shard->loop, e->addresses[i], port, true,
                                 i == 0 ? on_accept_starttls : on_accept_direct, es, err);
        if (code != 0)
            return err_prefix(err, code, "clients' port %s:%u", e->addresses[i], port);
        e->ports[i] = listener_port(es->listeners[i]);
    }
    return 0;
}

int c2s_edge_new(struct c2s_edge **out, struct im *im, const struct c2s_edge_options *o,
                 c2s_hand_over_fn *hand_over, struct err_ctx *err)
{
    unsigned n = im_n_shards(im);
    struct c2s_edge *e = mem_zalloc(sizeof(*e) + n * sizeof(e->shards[0]));
    e->im = im;
    e->options = *o;
    e->addresses[0] = mem_strdup(o->starttls.address ? o->starttls.address : "");
    e->addresses[1] = mem_strdup(o->direct_tls.address ? o->direct_tls.address : "");
    e->node_name = mem_strdup(o->node_name);
    e->hand_over = hand_over;
    e->throttle = c2s_throttle_new(THROTTLE_ENTRIES);
    e->known = c2s_known_new(KNOWN_ACCOUNTS);
    e->log = log_category(o->log ? o->log : im_log(im), "xmpp");
    int code = 0;
    for (; e->n_shards < n && code == 0; e->n_shards++) {
        struct edge_shard *es = &e->shards[e->n_shards];
        es->edge = e;
        es->shard = im_shard(im, e->n_shards);
        memcpy(es->secret, o->secret, sizeof(es->secret));
        es->sni = o->sni ? tls_sni_ref(o->sni) : NULL;
        htab_init(&es->conns, id_equal);
        es->watcher = (struct shard_watcher){.on_settings = on_settings, .on_stop = on_stop};
        shard_watch(es->shard, &es->watcher);
        code = open_listeners(es, err);
    }
    if (code != 0) {
        c2s_edge_free(e);
        return code;
    }
    *out = e;
    return 0;
}

void c2s_edge_free(struct c2s_edge *e)
{
    if (!e)
        return;
    for (unsigned i = 0; i < e->n_shards; i++) {
        struct edge_shard *es = &e->shards[i];
        listener_close(es->listeners[0]);
        listener_close(es->listeners[1]);
        list_remove(&es->watcher.link);
        tls_sni_unref(es->sni);
        edge_offers_forget(es);
        mem_wipe(es->secret, sizeof(es->secret));
        htab_fini(&es->conns);
    }
    c2s_throttle_free(e->throttle);
    c2s_known_free(e->known);
    mem_wipe(e->options.secret, sizeof(e->options.secret));
    mem_free(e->addresses[0]);
    mem_free(e->addresses[1]);
    mem_free(e->node_name);
    mem_free(e);
}

struct sni_letter {
    struct edge_shard *es;
    struct tls_sni *sni;
};

static void take_sni(void *arg, struct shard *s)
{
    struct sni_letter *l = arg;
    tls_sni_unref(l->es->sni);
    l->es->sni = l->sni;
    mem_free(l);
}

void c2s_edge_set_sni(struct c2s_edge *e, struct tls_sni *sni)
{
    for (unsigned i = 0; i < e->n_shards; i++) {
        struct sni_letter *l = mem_new(struct sni_letter);
        l->es = &e->shards[i];
        l->sni = tls_sni_ref(sni);
        shard_call(e->shards[i].shard, take_sni, l);
    }
}

static void on_tunnel(void *arg, struct tunnel *t)
{
    struct edge_shard *es = arg;
    if (may_accept(es))
        edge_conn_new_tunnel(es, t);
}

struct tunnel *c2s_edge_open_tunnel(struct c2s_edge *e, struct loop *control,
                                    const struct tunnel_facts *facts, const struct tunnel_events *events,
                                    void *user)
{
    struct edge_shard *es = &e->shards[e->next_tunnel++ % e->n_shards];
    return tunnel_open(control, es->shard->loop, facts, events, user, on_tunnel, es);
}

struct secret_letter {
    struct edge_shard *es;
    uint8_t secret[32];
};

static void take_secret(void *arg, struct shard *s)
{
    struct secret_letter *l = arg;
    memcpy(l->es->secret, l->secret, sizeof(l->secret));
    mem_wipe(l, sizeof(*l));
    mem_free(l);
}

void c2s_edge_set_secret(struct c2s_edge *e, const uint8_t secret[32])
{
    for (unsigned i = 0; i < e->n_shards; i++) {
        struct secret_letter *l = mem_new(struct secret_letter);
        l->es = &e->shards[i];
        memcpy(l->secret, secret, sizeof(l->secret));
        shard_call(e->shards[i].shard, take_secret, l);
    }
}

unsigned c2s_edge_port(const struct c2s_edge *e, bool direct_tls)
{
    return e->ports[direct_tls];
}

unsigned c2s_edge_n_waiting(const struct c2s_edge *e)
{
    return atomic_load(&e->n_waiting);
}
