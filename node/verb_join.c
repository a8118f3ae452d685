#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/release.h"
#include "cluster/join.h"
#include "node/enrol.h"
#include "node/verbs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned default_port = 7800;

/* HOST, HOST:PORT, [IPv6] or [IPv6]:PORT. */
static bool parse_host(const char *text, char host[256], unsigned *port)
{
    const char *end = *text == '[' ? strchr(text, ']') : NULL;
    if (*text == '[' && !end)
        return false;
    const char *from = end ? text + 1 : text, *colon = end ? end + 1 : strchr(text, ':');
    if (!end && colon && strchr(colon + 1, ':'))
        colon = NULL; /* an IPv6 address without brackets */
    size_t n = end ? (size_t)(end - from) : colon ? (size_t)(colon - from) : strlen(from);
    if (!n || n > 255 || (end && *colon && *colon != ':'))
        return false;
    memcpy(host, from, n);
    host[n] = '\0';
    *port = default_port;
    if (!colon || !*colon)
        return true;
    char *rest;
    unsigned long v = strtoul(colon + 1, &rest, 10);
    *port = (unsigned)v;
    return colon[1] && !*rest && v >= 1 && v <= 65535;
}

static int read_token(struct token *t, const char *text)
{
    char line[256] = "";
    if (!strcmp(text, "-")) {
        if (!fgets(line, sizeof(line), stdin))
            return ERR_MALFORMED;
        text = line;
    }
    int rc = token_parse(t, text);
    mem_wipe(line, sizeof(line));
    return rc;
}

static void on_progress(void *user, const char *text)
{
    (void)user;
    printf("%s\n", text);
    fflush(stdout);
}

static int store_result(const struct join_result *r, const struct options *o, const struct datadir *d,
                        struct err_ctx *err)
{
    int rc = seal_ring_store(&r->ring, d, err);
    if (!rc)
        rc = datadir_write(d, ENROL_CERT, r->cert_pem, strlen(r->cert_pem), 0644, err);
    if (!rc)
        rc = datadir_write(d, ENROL_CA, r->ca_pem, strlen(r->ca_pem), 0644, err);
    if (!rc)
        rc = enrol_write_config(&o->config, d, err);
    if (rc)
        return rc;
    struct datadir_identity id = {.node = r->node};
    memcpy(id.cluster_id, r->cluster_id, 16);
    snprintf(id.name, sizeof(id.name), "%s", o->config.name);
    return datadir_write_identity(d, &id, err);
}

static int ask(struct options *o, const struct datadir *d, const char *host, unsigned port,
               const struct token *token)
{
    struct err_ctx err = {0};
    char *key = NULL, address[CONFIG_TEXT_MAX + 1];
    if (enrol_key(&key, d, &err))
        return verb_fail("%s", err.text);
    const struct join_request request = {
        .host = host,
        .port = port,
        .token = token,
        .key_pem = key,
        .name = o->config.name,
        .address = enrol_address(&o->config, address),
        .public_name = o->config.public_name,
        .release = release_name(),
        .cluster_port = o->config.listen_cluster.port,
        .xmpp_port = o->config.listen_xmpp.off ? 0 : o->config.listen_xmpp.port,
        .witness = o->config.witness,
        .on_progress = on_progress,
    };
    struct join_result *result = mem_new(struct join_result);
    struct log *log = log_new(2, LOG_TEXT, LOG_WARNING, o->config.name);
    int rc = join_ask(result, &request, log, &err);
    if (rc) {
        rc = verb_fail("%s%s", rc == ERR_UNAVAILABLE && strchr(err.text, ':') ? "no member reachable: " : "",
                       err.text);
    } else if (store_result(result, o, d, &err)) {
        rc = verb_fail("%s; run the same command again", err.text);
    } else {
        printf("Joined as node %u (%s). The cluster has %u members:\n", result->node, o->config.name,
               result->n_members);
        for (unsigned i = 0; i < result->n_members; i++)
            printf("  %u %s %s:%u\n", result->members[i].id, result->members[i].name,
                   result->members[i].address, result->members[i].port);
    }
    join_result_fini(result);
    mem_free(result);
    log_free(log);
    identity_free_key(key);
    return rc;
}

int verb_join(struct options *o)
{
    static const char *const allowed[] = {
        "keys",         ENROL_CONFIG,        ENROL_CERT,        ENROL_CA,        "identity",
        "identity.tmp", ENROL_CONFIG ".tmp", ENROL_CERT ".tmp", ENROL_CA ".tmp", NULL};
    struct err_ctx err = {0};
    struct token token;
    char host[256];
    unsigned port;
    if (config_check(&o->config, &err))
        return verb_fail("%s", err.text);
    if (!parse_host(o->host, host, &port))
        return verb_fail("'%s' is not HOST[:PORT]", o->host);
    if (read_token(&token, o->token))
        return verb_fail("the token is not valid: it was mistyped or cut; it begins with 'imp1-'");
    struct datadir d;
    struct datadir_identity id;
    int rc = datadir_open(&d, o->data, 0, NULL);
    bool done = !rc && !datadir_read_identity(&d, &id, NULL);
    if (!rc)
        datadir_close(&d);
    if (done && strcmp(id.name, o->config.name))
        return verb_fail("%s is the data directory of node %s already", d.path, id.name);
    if (done) {
        printf("%s has joined already, as node %u.\n", id.name, id.node);
    } else {
        if (datadir_create(&d, o->data, allowed, &err))
            return verb_fail("%s", err.text);
        rc = ask(o, &d, host, port, &token);
        datadir_close(&d);
        if (rc)
            return rc;
    }
    mem_wipe(&token, sizeof(token));
    if (o->run)
        return verb_run(o);
    printf("\nNext: impnode run --data %s\n", o->data);
    return 0;
}
