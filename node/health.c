/* What a node tells about itself over HTTPS: /healthz, /readyz, /metrics, /outage.json. */
#include "base/release.h"
#include "cluster/certs.h"
#include "node/node_impl.h"
#include "protocols/http/http_server.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The process lives and its control loop turns. */
static void on_healthz(void *user, struct http_answer *answer)
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

static void on_readyz(void *user, struct http_answer *answer)
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
static void on_outage(void *user, struct http_answer *answer)
{
    struct node *n = user;
    answer->content_type = "application/json";
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

static void on_metrics(void *user, struct http_answer *answer)
{
    struct node *n = user;
    answer->content_type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_set(&n->metrics, METRIC_STORE_BYTES, (int64_t)store_size_bytes(n->store));
    metrics_set(&n->metrics, METRIC_STORE_FILE_BYTES, (int64_t)store_file_bytes(n->store));
    metrics_render(&n->metrics, &answer->body);
}

static const struct http_route routes[] = {{"/healthz", on_healthz},
                                           {"/readyz", on_readyz},
                                           {"/metrics", on_metrics},
                                           {"/outage.json", on_outage},
                                           {NULL, NULL}};

/* The default domain's certificate, or this node's own until there is one. */
static void get_cert(struct node *n, char **cert_pem, char **key_pem)
{
    if (!certs_get_default(cert_pem, key_pem, control_read(n), &n->ring, NULL))
        return;
    *cert_pem = mem_strdup(n->cert_pem);
    *key_pem = mem_strdup(n->key_pem);
}

static int start_https(void *user, struct err_ctx *err)
{
    struct node *n = user;
    char address[64], *cert = NULL, *key = NULL;
    if (n->config.listen_https.off)
        return 0;
    config_listen_address(&n->config, &n->config.listen_https, address);
    get_cert(n, &cert, &key);
    int rc = http_server_open(&n->http,
                              &(struct http_server_options){.loop = n->loop,
                                                            .log = log_category(n->log_root, "http"),
                                                            .address = address,
                                                            .port = n->config.listen_https.port,
                                                            .cert_pem = cert,
                                                            .key_pem = key,
                                                            .routes = routes,
                                                            .user = n},
                              err);
    mem_free(n->http_cert);
    n->http_cert = cert;
    identity_free_key(key);
    return rc;
}

static void stop_https(void *user)
{
    struct node *n = user;
    http_server_close(n->http);
    n->http = NULL;
}

void health_start(struct node *n)
{
    services_set_functions(n->services, SERVICE_HTTPS, start_https, stop_https, n);
}

void health_set_certs(struct node *n)
{
    char *cert = NULL, *key = NULL;
    struct err_ctx err = {0};
    if (!n->http)
        return;
    get_cert(n, &cert, &key);
    if (strcmp(cert, n->http_cert)) {
        if (http_server_set_cert(n->http, cert, key, &err))
            log_error(n->log, "HTTPS: %s", err.text);
        mem_free(n->http_cert);
        n->http_cert = mem_strdup(cert);
    }
    mem_free(cert);
    identity_free_key(key);
}
