#include "protocols/xmpp/component.h"
#include "base/clock.h"
#include "base/stream.h"
#include "im/address.h"
#include "im/credential.h"
#include "im/outside.h"
#include "im/router.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/service.h"
#include <openssl/crypto.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define NS_COMPONENT "jabber:component:accept"

enum {
    HANDSHAKE_MS = 15000,
    TICK_MS = 1000,
    WAITING_MAX = 64,    /* connections of a node that have not proved anything */
    INBOX_MAX = 4 << 20, /* bytes posted to a shard above which components are not read */
    INBOX_WAIT_MS = 20,
    EARLY_BYTES = 10000,
    SHA1_BYTES = 20,
};

enum conn_state { CONN_HEADER, CONN_HANDSHAKE, CONN_OPEN, CONN_CLOSING };

struct component_shard;
struct component {
    struct hnode node; /* in cs->by_id while open */
    struct list link;  /* in cs->conns */
    struct component_shard *cs;
    struct stream *stream;
    struct xml_stream *parser;
    struct deferred later;
    struct timer wait; /* until the shards have taken what it sent */
    enum conn_state state;
    bool waits;
    uint64_t id, since_ms;
    char stream_id[33];
    char domain[JID_PART_MAX + 1];
};
struct component_shard {
    struct components *all;
    struct shard *shard;
    struct shard_watcher watcher;
    struct list conns;
    struct htab by_id;
    struct timer tick;
};
struct components {
    struct im *im;
    struct log *log;
    char *address;
    int port;
    _Atomic bool serving;
    _Atomic unsigned n_waiting;
    /* of shard 0 */
    struct listener *listener;
    uint64_t refused_ms; /* the port could not be opened; CLOCK_MONOTONIC */
    unsigned next_shard;
    unsigned n;
    struct component_shard shards[];
};

static bool has_id(const struct hnode *node, const void *key, size_t n_bytes)
{
    (void)n_bytes;
    return memcmp(&container_of(node, struct component, node)->id, key, sizeof(uint64_t)) == 0;
}

/* ---- output ---- */

static void write_text(struct component *c, const char *text)
{
    stream_write(c->stream, text, strlen(text));
}

/* No stanza is handled any more; what is queued is written. */
static void leave(struct component *c)
{
    if (c->state == CONN_CLOSING)
        return;
    if (c->state == CONN_OPEN) {
        outside_down(c->cs->shard, c->id);
        htab_remove(&c->cs->by_id, &c->node);
        log_info(c->cs->all->log, "component %s has left", c->domain);
    } else {
        atomic_fetch_sub(&c->cs->all->n_waiting, 1);
    }
    c->state = CONN_CLOSING;
    timer_stop(&c->wait);
    xml_stream_stop(c->parser);
    stream_close(c->stream);
}

static void write_header(struct component *c)
{
    struct buf out = {0};
    random_hex(c->stream_id, 16);
    buf_addf(&out,
             "<?xml version='1.0'?><stream:stream xmlns='" NS_COMPONENT "' xmlns:stream='" NS_STREAM
             "' id='%s' from='",
             c->stream_id);
    iq_escape(&out, c->domain);
    buf_adds(&out, "'>");
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
}

static void fail(struct component *c, const char *condition, const char *text)
{
    struct buf out = {0};
    if (c->state == CONN_CLOSING)
        return;
    if (c->state == CONN_HEADER) /* RFC 6120 §4.9.1.2 */
        write_header(c);
    c2s_stream_error(&out, condition, text);
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
    leave(c);
}

/* ---- §3: header and handshake ---- */

static void on_header(void *user, const struct xml *header)
{
    struct component *c = user;
    struct shard *s = c->cs->shard;
    const char *to = xml_attr(header, "to");
    if (c->state != CONN_HEADER)
        return;
    if (!to || address_prep_domain(c->domain, to, strlen(to), NULL) < 0)
        c->domain[0] = 0;
    if (!xml_is(header, "stream", NS_STREAM) || strcmp(xml_stream_default_ns(c->parser), NS_COMPONENT) != 0) {
        fail(c, "invalid-namespace", NULL);
    } else if (!*c->domain || !outside_is(s, c->domain) || shard_is_local_domain(s, c->domain)) {
        fail(c, "host-unknown", NULL);
    } else {
        write_header(c);
        c->state = CONN_HANDSHAKE;
    }
}

/* The secret of DOMAIN in "DOMAIN=SECRET ..."; its length, 0: none. */
static const char *find_secret(const char *list, const char *domain, size_t *n)
{
    static const char blanks[] = " \t\r\n";
    size_t n_domain = strlen(domain);
    for (const char *p = list; p && *(p += strspn(p, blanks)); p += strcspn(p, blanks)) {
        if (strncasecmp(p, domain, n_domain) != 0 || p[n_domain] != '=')
            continue;
        p += n_domain + 1;
        *n = strcspn(p, blanks);
        return p;
    }
    *n = 0;
    return "";
}

/* SHA1(stream id + secret) in lower-case hex; without a secret nothing is right, after the same time. */
static bool is_proof(const struct component *c, const char *proof)
{
    size_t n_secret;
    const char *secret =
        find_secret(service_of(c->cs->shard)->secrets[XMPP_SECRET_COMPONENTS], c->domain, &n_secret);
    struct buf text = {0};
    uint8_t digest[CREDENTIAL_MAX_KEY];
    char hex[2 * SHA1_BYTES + 1];
    buf_adds(&text, c->stream_id);
    buf_add(&text, secret, n_secret);
    credential_digest(CREDENTIAL_SHA1, text.data, text.n, digest);
    for (size_t i = 0; i < SHA1_BYTES; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    bool good = strlen(proof) == sizeof hex - 1 && CRYPTO_memcmp(proof, hex, sizeof hex - 1) == 0;
    mem_wipe(text.data, text.n);
    mem_wipe(hex, sizeof hex);
    buf_fini(&text);
    return good && n_secret > 0;
}

static void on_handshake(struct component *c, struct xml_stanza *st)
{
    if (!xml_is(st->root, "handshake", NS_COMPONENT) || !is_proof(c, xml_text(st->root, st->arena))) {
        log_warning(c->cs->all->log, "a component at %s has not proved that it is %s",
                    stream_peer_address(c->stream), c->domain);
        fail(c, "not-authorized", NULL);
        return;
    }
    struct xml_limits limits = xml_limits_default;
    limits.stanza_bytes = c->cs->shard->settings.stanza_bytes;
    xml_stream_set_limits(c->parser, &limits);
    atomic_fetch_sub(&c->cs->all->n_waiting, 1);
    c->state = CONN_OPEN;
    c->id = outside_up(c->cs->shard, c->domain);
    htab_add(&c->cs->by_id, &c->node, &c->id, sizeof c->id);
    write_text(c, "<handshake/>");
    log_info(c->cs->all->log, "component %s is connected from %s", c->domain, stream_peer_address(c->stream));
}

/* ---- stanzas from the component ---- */

/* RFC 6120 §8.3: what is wrong with a stanza of it. */
static void refuse(struct component *c, const struct xml *root, enum stanza_error error)
{
    const char *from = xml_attr(root, "from"), *to = xml_attr(root, "to"), *id = xml_attr(root, "id"),
               *type = xml_attr(root, "type");
    if (type && (strcmp(type, "error") == 0 || strcmp(type, "result") == 0))
        return;
    struct buf out = {0};
    buf_addf(&out, "<%s type='error' from='", root->name);
    iq_escape(&out, error == STANZA_JID_MALFORMED ? c->cs->shard->domain : to);
    buf_adds(&out, "' to='");
    iq_escape(&out, from);
    buf_addc(&out, '\'');
    if (id) {
        buf_adds(&out, " id='");
        iq_escape(&out, id);
        buf_addc(&out, '\'');
    }
    buf_addc(&out, '>');
    stanza_error_write(&out, error, NULL);
    buf_addf(&out, "</%s>", root->name);
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
}

static int find_kind(const struct xml *root)
{
    for (int i = 0; i < N_STANZA_KINDS; i++)
        if (xml_is(root, stanza_kind_name((enum stanza_kind)i), NS_COMPONENT))
            return i;
    return ERR_INVALID;
}

/* §3: the domain of 'from' must be the component's own. */
static bool is_own(const struct component *c, const char *prepared)
{
    size_t n = jid_bare_length(prepared);
    const char *at = memchr(prepared, '@', n), *domain = at ? at + 1 : prepared;
    return strlen(c->domain) == n - (size_t)(domain - prepared) &&
           memcmp(domain, c->domain, strlen(c->domain)) == 0;
}

static void send_on(struct component *c, struct envelope *e)
{
    struct shard *s = c->cs->shard;
    const char *at = strchr(e->to, '@');
    bool here = !*jid_resource(e->to) && shard_is_local_domain(s, at ? at + 1 : e->to);
    if (here && e->kind == STANZA_IQ && (e->type == IQ_GET || e->type == IQ_SET))
        iq_from_outside(s, e); /* RFC 6121 §8.5.2.1.3: on behalf of the account */
    else if (!here || at)
        router_send(s, e, NULL);
    else
        envelope_free(e); /* nobody is there to read it */
}

static void on_stanza(void *user, struct xml_stanza *st)
{
    struct component *c = user;
    struct xml *root = st->root;
    if (c->state == CONN_HANDSHAKE) {
        on_handshake(c, st);
        return;
    }
    if (c->state != CONN_OPEN)
        return;
    const char *from = xml_attr(root, "from"), *to = xml_attr(root, "to");
    char from_jid[JID_MAX + 1], to_jid[JID_MAX + 1];
    int kind = find_kind(root);
    if (kind < 0) {
        fail(c, "unsupported-stanza-type", NULL);
        return;
    }
    if (!from || !to) {
        fail(c, "improper-addressing", NULL);
        return;
    }
    if (jid_prepare(from_jid, from, strlen(from), NULL) < 0 || !is_own(c, from_jid)) {
        fail(c, "invalid-from", NULL);
        return;
    }
    int type = stanza_type_parse((enum stanza_kind)kind, xml_attr(root, "type"));
    if (jid_prepare(to_jid, to, strlen(to), NULL) < 0) {
        refuse(c, root, STANZA_JID_MALFORMED);
        return;
    }
    if (type < 0 || (kind == STANZA_IQ && !xml_attr(root, "id"))) {
        refuse(c, root, STANZA_BAD_REQUEST);
        return;
    }
    stanza_strip_forged(c->cs->shard, root);
    struct blob *payload = stanza_inner(root, NS_COMPONENT);
    struct envelope *e = envelope_new(&(struct envelope_parts){.type = (enum stanza_type)type,
                                                               .from = from_jid,
                                                               .to = to_jid,
                                                               .id = xml_attr(root, "id"),
                                                               .lang = xml_attr_ns(root, "lang", XML_NS_XML),
                                                               .payload = payload});
    blob_unref(payload);
    metrics_add(im_metrics(c->cs->shard->im), METRIC_XMPP_STANZAS_IN, 1);
    send_on(c, e);
}

static void on_end(void *user)
{
    struct component *c = user;
    if (c->state == CONN_CLOSING)
        return;
    write_text(c, "</stream:stream>");
    leave(c);
}

static const struct xml_stream_events xml_events = {on_header, on_stanza, on_end};

/* ---- the connection ---- */

static bool shards_are_full(const struct component *c)
{
    struct im *im = c->cs->all->im;
    for (unsigned i = 0; i < im_n_shards(im); i++)
        if (atomic_load_explicit(&im_shard(im, i)->inbox_bytes, memory_order_relaxed) > INBOX_MAX)
            return true;
    return false;
}

static void on_wait_end(struct timer *t)
{
    struct component *c = container_of(t, struct component, wait);
    if (shards_are_full(c)) {
        timer_start(&c->wait, INBOX_WAIT_MS, 0);
        return;
    }
    stream_resume(c->stream);
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct component *c = user;
    enum xml_error error = xml_stream_feed(c->parser, data, n_bytes);
    if (error != XML_OK) {
        fail(c, c2s_xml_error_condition(error), NULL);
    } else if (c->state == CONN_OPEN && shards_are_full(c)) {
        stream_pause(c->stream);
        timer_start(&c->wait, INBOX_WAIT_MS, 0);
    }
}

static void on_close(void *user, int code, const char *detail)
{
    struct component *c = user;
    (void)code, (void)detail;
    leave(c);
    list_remove(&c->link);
    c->cs->shard->n_busy--;
    xml_stream_free(c->parser);
    mem_free(c);
}

static const struct stream_events stream_events = {.on_data = on_data, .on_close = on_close};

struct accepted {
    struct component_shard *cs;
    int fd;
};

static void begin(void *arg, struct shard *s)
{
    struct accepted *a = arg;
    struct component_shard *cs = a->cs;
    if (s->stopping) {
        close(a->fd);
        atomic_fetch_sub(&cs->all->n_waiting, 1);
        mem_free(a);
        return;
    }
    struct component *c = mem_new(struct component);
    struct xml_limits limits = xml_limits_default;
    limits.stanza_bytes = EARLY_BYTES;
    c->cs = cs;
    c->since_ms = loop_now_ms(s->loop);
    c->parser = xml_stream_new(&limits, &xml_events, c);
    timer_init(&c->wait, s->loop, on_wait_end);
    list_append(&cs->conns, &c->link);
    s->n_busy++;
    c->stream = stream_new(s->loop, a->fd, &stream_events, c);
    mem_free(a);
}

/* On shard 0; the connections are dealt out. */
static void on_accept(void *user, int fd)
{
    struct components *all = user;
    if (!all->serving || atomic_load(&all->n_waiting) >= WAITING_MAX) {
        close(fd);
        return;
    }
    atomic_fetch_add(&all->n_waiting, 1);
    struct accepted *a = mem_new(struct accepted);
    a->cs = &all->shards[all->next_shard++ % all->n];
    a->fd = fd;
    shard_call(a->cs->shard, begin, a);
}

/* ---- stanzas for the component ---- */

static bool deliver(struct shard *s, uint64_t id, struct envelope *e)
{
    struct components *all = s->xmpp->components;
    struct component_shard *cs = &all->shards[s->index];
    struct hnode *node = htab_find(&cs->by_id, &id, sizeof id);
    if (!node)
        return false;
    struct component *c = container_of(node, struct component, node);
    buf_reset(&s->scratch_out);
    envelope_write(&s->scratch_out, e, NULL, NULL);
    stream_write(c->stream, s->scratch_out.data, s->scratch_out.n);
    metrics_add(im_metrics(s->im), METRIC_XMPP_STANZAS_OUT, 1);
    envelope_free(e);
    if (stream_queued(c->stream) > s->settings.output_bytes)
        fail(c, "policy-violation", "stanzas are read too slowly");
    return true;
}

/* ---- the port ---- */

static bool is_wanted(const struct component_shard *cs)
{
    return cs->all->serving && cs->all->port >= 0 && outside_has_any(cs->shard) && !cs->shard->stopping;
}

static void look_at_port(struct component_shard *cs)
{
    struct components *all = cs->all;
    struct err_ctx err = {0};
    if (cs != &all->shards[0])
        return;
    if (all->listener && !is_wanted(cs)) {
        listener_close(all->listener);
        all->listener = NULL;
    } else if (!all->listener && is_wanted(cs)) {
        if (listener_open(&all->listener, cs->shard->loop, all->address, (unsigned)all->port, false,
                          on_accept, all, &err) == 0) {
            all->refused_ms = 0;
            log_info(all->log, "components may connect to port %u", listener_port(all->listener));
        } else if (!all->refused_ms) {
            all->refused_ms = clock_monotonic_ms();
            log_error(all->log, "the port of components cannot be opened: %s", err.text);
        }
    }
}

static void check_conns(struct component_shard *cs)
{
    uint64_t now = loop_now_ms(cs->shard->loop);
    struct component *c;
    list_for_each(c, &cs->conns, struct component, link)
    {
        if (c->state < CONN_OPEN && now - c->since_ms > HANDSHAKE_MS)
            fail(c, "connection-timeout", NULL);
        else if (c->state == CONN_OPEN && !outside_is(cs->shard, c->domain))
            fail(c, "host-gone", NULL);
        else if (!cs->all->serving)
            fail(c, "system-shutdown", NULL);
    }
}

static void look(struct component_shard *cs)
{
    look_at_port(cs);
    check_conns(cs);
}

static void on_tick(struct timer *t)
{
    look(container_of(t, struct component_shard, tick));
}

static void on_settings(struct shard_watcher *w)
{
    look(container_of(w, struct component_shard, watcher));
}

static void on_stop(struct shard_watcher *w)
{
    struct component_shard *cs = container_of(w, struct component_shard, watcher);
    struct component *c;
    timer_stop(&cs->tick);
    look_at_port(cs);
    list_for_each(c, &cs->conns, struct component, link) fail(c, "system-shutdown", NULL);
}

static void on_serving(void *arg, struct shard *s)
{
    struct components *all = arg;
    look(&all->shards[s->index]);
}

void components_set_serving(struct components *all, bool serving)
{
    all->serving = serving;
    for (unsigned i = 0; i < all->n; i++)
        shard_call(all->shards[i].shard, on_serving, all);
}

struct components *components_new(const struct components_options *o)
{
    struct im *im = xmpp_im(o->xmpp);
    unsigned n = im_n_shards(im);
    struct components *all = mem_zalloc(sizeof *all + n * sizeof all->shards[0]);
    all->im = im;
    all->log = xmpp_log(o->xmpp);
    all->address = mem_strdup(o->address);
    all->port = o->port;
    all->n = n;
    for (unsigned i = 0; i < n; i++) {
        struct component_shard *cs = &all->shards[i];
        cs->all = all;
        cs->shard = im_shard(im, i);
        cs->shard->xmpp->components = all;
        list_init(&cs->conns);
        htab_init(&cs->by_id, has_id);
        timer_init(&cs->tick, cs->shard->loop, on_tick);
        timer_start(&cs->tick, TICK_MS, TICK_MS);
        cs->watcher = (struct shard_watcher){.on_settings = on_settings, .on_stop = on_stop};
        shard_watch(cs->shard, &cs->watcher);
    }
    outside_set_deliver(im, deliver);
    return all;
}

void components_free(struct components *all)
{
    if (!all)
        return;
    for (unsigned i = 0; i < all->n; i++)
        htab_fini(&all->shards[i].by_id);
    mem_free(all->address);
    mem_free(all);
}
