/* HTTPS: what a node tells about itself (/healthz, /readyz, /metrics, /outage.json), and the way in of XMPP's
 * web clients. */
#include "base/release.h"
#include "node/node_impl.h"
#include "protocols/http/http_server.h"
#include "protocols/xmpp/web.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The process lives and its control loop turns. */
static void on_healthz(void *user, const struct http_request *r, struct http_exchange *x,
                       struct http_answer *answer)
{
    (void)user;
    buf_adds(&answer->body, "ok\n");
}

static void add_reason(json_t *reasons, const char *what, const char *why)
{
    json_array_append_new(reasons, json_sprintf("%s: %s", what, why));
}

static json_t *collect_reasons(struct node *n)
{
    json_t *reasons = json_array();
    if (!watcher_is_released(&n->watcher))
        add_reason(reasons, "replication", n->watcher.reason);
    for (int i = 0; i < N_SERVICES; i++) {
        struct service_status st;
        services_get(n->services, (enum service_id)i, &st);
        if (st.active && st.state != SERVICE_STATE_STARTED)
            add_reason(reasons, service_name((enum service_id)i),
                       *st.reason ? st.reason : service_state_name(st.state));
    }
    if (n->status.is_disk_low)
        add_reason(reasons, "disk", "less than 64 MiB are free");
    if (n->status.is_disk_silent)
        add_reason(reasons, "disk", "it does not answer");
    const struct member *self = control_self(n);
    if (self && self->drained)
        add_reason(reasons, "node", "drained");
    else if (!n->config.witness && replica_lease_until(n->replica) <= clock_boot_ms())
        add_reason(reasons, "lease", "none: no contact to a leader with a majority");
    return reasons;
}

static void on_readyz(void *user, const struct http_request *r, struct http_exchange *x,
                      struct http_answer *answer)
{
    struct node *n = user;
    json_t *reasons = collect_reasons(n);
    bool ready = json_array_size(reasons) == 0;
    json_t *body = json_pack("{s:b, s:s, s:s, s:o}", "ready", ready, "node", n->id.name, "release",
                             release_name(), "reasons", reasons);
    char *text = json_dumps(body, JSON_COMPACT);
    answer->status = ready ? 200 : 503;
    answer->content_type = "application/json";
    buf_adds(&answer->body, text ? text : "{}");
    buf_addc(&answer->body, '\n');
    free(text);
    json_decref(body);
}

/* XEP-0455 §3: what a client shows that gets no answer. Nothing is the matter: an empty object. */
static void on_outage(void *user, const struct http_request *r, struct http_exchange *x,
                      struct http_answer *answer)
{
    struct node *n = user;
    answer->content_type = "application/json";
    answer->allow_origin = "*"; /* a web client comes from elsewhere */
    if (!n->outage_since_ms) {
        buf_adds(&answer->body, "{}\n");
        return;
    }
    char since[32];
    clock_format_utc(since, n->outage_since_ms, 0);
    buf_addf(&answer->body,
             "{\"planned\": false, \"beginning\": \"%s\", \"message\": {\"default\": \"This server cannot "
             "reach the others it works with. Your client can try another one.\"}}\n",
             since);
}

static void on_metrics(void *user, const struct http_request *r, struct http_exchange *x,
                       struct http_answer *answer)
{
    struct node *n = user;
    answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_set(&n->metrics, METRIC_STORE_BYTES, (int64_t)store_size_bytes(n->store));
    metrics_set(&n->metrics, METRIC_STORE_FILE_BYTES, (int64_t)store_file_bytes(n->store));
    metrics_render(&n->metrics, &answer->body);
}

static const struct http_route routes[] = {{.path = "/healthz", .methods = HTTP_GET, .handle = on_healthz},
                                           {.path = "/readyz", .methods = HTTP_GET, .handle = on_readyz},
                                           {.path = "/metrics", .methods = HTTP_GET, .handle = on_metrics},
                                           {.path = "/outage.json", .methods = HTTP_GET, .handle = on_outage},
                                           {.path = NULL}};

static int start_https(void *user, struct err_ctx *err)
{
    struct node *n = user;
    char address[64];
    if (n->config.listen_https.off)
        return 0;
    config_listen_address(&n->config, &n->config.listen_https, address);
    struct http_server_options o = {.loop = n->loop,
                                    .log = log_category(n->log_root, "http"),
                                    .address = address,
                                    .port = n->config.listen_https.port,
                                    .sni = n->client_sni,
                                    .max_connections = 1024,
                                    .max_per_address = 1024,
                                    .admission = n->admission,
                                    .groups = {{routes, n}}};
    if (n->web) {
        o.groups[1] = (struct http_routes){web_routes, n->web};
        o.socket = &web_socket;
        o.socket_user = o.proxy_user = n->web;
        o.is_proxy = web_is_proxy;
        web_http_limits(n->web, &o.max_connections, &o.max_per_address);
    }
    return http_server_open(&n->http, &o, err);
}

static void stop_https(void *user)
{
    struct node *n = user;
    web_stop(n->web);
    http_server_close(n->http);
    n->http = NULL;
}

void health_start(struct node *n)
{
    services_set_functions(n->services, SERVICE_HTTPS, start_https, stop_https, n);
}

void health_set_certs(struct node *n)
{
    if (n->http)
        http_server_set_sni(n->http, n->client_sni);
}

void health_settings_changed(struct node *n)
{
    unsigned connections, per_address;
    if (!n->web)
        return;
    web_settings_changed(n->web);
    web_http_limits(n->web, &connections, &per_address);
    if (n->http)
        http_server_set_limits(n->http, connections, per_address);
}
