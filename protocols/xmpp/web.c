#include "base/admission.h"
#include "protocols/xmpp/web_impl.h"
#include "replication/settings.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEVEL_WEB = 3 }; /* the feature level that has it */
enum { EARLY_DEPTH = 9, EARLY_ATTRS = 32, EARLY_ELEMENTS = 64 };

/* ---- settings ---- */

static void copy(char *out, size_t n, struct store_txn *t, const char *node, enum setting id)
{
    struct arena a;
    arena_init(&a);
    snprintf(out, n, "%s", setting_string(t, node, id, &a));
    arena_fini(&a);
}

static void read_cluster(struct web_settings *s, struct store_txn *t)
{
    struct arena a;
    struct key none;
    arena_init(&a);
    key_init(&none);
    const Imp__ClusterRow *row = store_find_row(t, TABLE_CLUSTER, &none, &a);
    s->on = row && row->feature_level >= LEVEL_WEB;
    snprintf(s->domain, sizeof(s->domain), "%s", row && row->default_domain ? row->default_domain : "");
    arena_fini(&a);
}

const struct web_settings *web_settings(struct web *w)
{
    struct web_settings *s = &w->settings;
    if (w->has_settings)
        return s;
    struct store_txn *t = w->o.read(w->o.user);
    const char *node = w->node_name;
    read_cluster(s, t);
    s->websocket = setting_bool(t, node, SETTING_WEB_WEBSOCKET);
    s->bosh = setting_bool(t, node, SETTING_WEB_BOSH);
    copy(s->origins, sizeof(s->origins), t, node, SETTING_WEB_ORIGINS);
    copy(s->proxies, sizeof(s->proxies), t, node, SETTING_WEB_PROXIES);
    copy(s->websocket_url, sizeof(s->websocket_url), t, node, SETTING_WEB_WEBSOCKET_URL);
    copy(s->bosh_url, sizeof(s->bosh_url), t, node, SETTING_WEB_BOSH_URL);
    s->stanza_bytes_early = (unsigned)setting_int(t, node, SETTING_LIMIT_STANZA_BYTES_EARLY);
    s->stanza_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_STANZA_BYTES);
    s->bosh_wait_s = (unsigned)setting_int(t, node, SETTING_WEB_BOSH_WAIT);
    s->bosh_inactivity_s = (unsigned)setting_int(t, node, SETTING_WEB_BOSH_INACTIVITY);
    s->connections = (unsigned)setting_int(t, node, SETTING_LIMIT_WEB_CONNECTIONS);
    s->connections_per_address = (unsigned)setting_int(t, node, SETTING_LIMIT_WEB_CONNECTIONS_ADDRESS);
    w->has_settings = true;
    return s;
}

void web_settings_changed(struct web *w)
{
    if (w)
        w->has_settings = false;
}

void web_http_limits(struct web *w, unsigned *connections, unsigned *per_address)
{
    *connections = web_settings(w)->connections;
    *per_address = web_settings(w)->connections_per_address;
}

struct xml_limits web_xml_limits(struct web *w, bool logged_in)
{
    struct xml_limits limits = xml_limits_default;
    if (!logged_in)
        limits = (struct xml_limits){.depth = EARLY_DEPTH, .attrs = EARLY_ATTRS, .elements = EARLY_ELEMENTS};
    limits.stanza_bytes = logged_in ? web_settings(w)->stanza_bytes : web_settings(w)->stanza_bytes_early;
    return limits;
}

/* ---- origins and proxies ---- */

/* Calls MATCH for the words of LIST until one is true. */
static bool any_word(const char *list, bool (*match)(const char *word, const void *arg), const void *arg)
{
    char word[256];
    for (const char *at = list; *at;) {
        at += strspn(at, " ,");
        size_t n = strcspn(at, " ,");
        if (n && n < sizeof(word)) {
            memcpy(word, at, n);
            word[n] = '\0';
            if (match(word, arg))
                return true;
        }
        at += n;
    }
    return false;
}

static bool is_origin(const char *word, const void *request)
{
    const struct http_request *r = request;
    if (!strcmp(word, "*"))
        return true;
    if (!strcmp(word, "same")) {
        const char *host = strstr(r->origin, "://");
        return host && !strcasecmp(host + 3, r->host);
    }
    return !strcasecmp(word, r->origin);
}

bool web_is_origin_allowed(struct web *w, const struct http_request *r)
{
    return !*r->origin || any_word(web_settings(w)->origins, is_origin, r);
}

bool web_is_proxy(void *user, const char *address)
{
    struct web *w = user;
    return *web_settings(w)->proxies && address_is_in_list(w->settings.proxies, address);
}

static void read_binding(struct tunnel_facts *facts, struct ssl_st *tls, enum tls_binding type)
{
    struct tunnel_binding *b = &facts->bindings[type];
    size_t n = sizeof(b->data);
    if (tls_bind(tls, false, type, b->data, &n) == 0)
        b->n = (uint8_t)n;
}

/* A BOSH session has many connections: it can be bound to the certificate that they all show, not to the keys
 * of one of them. */
struct tunnel_facts web_facts(const struct http_request *r, enum c2s_tunnel_kind kind)
{
    struct tunnel_facts facts = {.port = r->port, .tls = true, .kind = kind};
    snprintf(facts.address, sizeof(facts.address), "%s", r->address);
    if (r->tls && kind == C2S_WEBSOCKET)
        read_binding(&facts, r->tls, TLS_BIND_EXPORTER);
    if (r->tls)
        read_binding(&facts, r->tls, TLS_BIND_SERVER_END_POINT);
    return facts;
}

/* ---- life ---- */

struct web *web_new(const struct web_options *o)
{
    struct web *w = mem_new(struct web);
    w->o = *o;
    w->node_name = mem_strdup(o->node_name);
    w->public_name = mem_strdup(o->public_name);
    list_init(&w->sockets);
    bosh_init(w);
    return w;
}

void web_free(struct web *w)
{
    if (!w)
        return;
    bosh_fini(w);
    mem_free(w->node_name);
    mem_free(w->public_name);
    mem_free(w);
}

void web_stop(struct web *w)
{
    if (!w)
        return;
    w->stopping = true;
    ws_stop_all(w);
    bosh_stop_all(w);
    w->stopping = false; /* HTTPS may be started again */
}

const struct http_route web_routes[] = {
    {.path = "/.well-known/host-meta", .methods = HTTP_GET | HTTP_OPTIONS, .handle = web_handle_host_meta},
    {.path = "/.well-known/host-meta.json",
     .methods = HTTP_GET | HTTP_OPTIONS,
     .handle = web_handle_host_meta_json},
    {.path = WEB_BOSH_PATH,
     .methods = HTTP_POST | HTTP_OPTIONS,
     .max_body = 16 << 20,
     .handle = bosh_handle,
     .early_body = 16384,
     .may_go_on = bosh_may_go_on},
    {.path = NULL},
};
