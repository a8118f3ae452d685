/* This node's certificate and contexts, and the certificates that clients see. */
#include "cluster/certs.h"
#include "node/enrol.h"
#include "node/node_impl.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const uint64_t day_ms = 24ull * 3600 * 1000;
enum { EXPIRING_DAYS = 30, CHECK_MAX_MS = 60 * 60 * 1000, SIGNED_EVERY_MS = 60 * 1000 };

static int read_pem(char **out, struct node *n, const char *name, struct err_ctx *err)
{
    struct buf b = {0};
    int rc = datadir_read(&n->dir, name, &b, IDENTITY_PEM_MAX, err);
    if (!rc && !b.n)
        rc = err_set(err, ERR_CORRUPT, "%s/%s is damaged: it is empty", n->dir.path, name);
    if (!rc)
        *out = mem_strndup(b.data, b.n);
    seal_buf_fini(&b);
    return rc;
}

/* Members are known by their keys; for the others only the CA that signs now counts, the first of the bundle.
 */
static char *trusted_ca(const struct node *n)
{
    static const char end[] = "-----END CERTIFICATE-----\n";
    const char *first_end = strstr(n->ca_pem, end);
    return mem_strndup(n->ca_pem,
                       first_end ? (size_t)(first_end - n->ca_pem) + sizeof(end) - 1 : strlen(n->ca_pem));
}

static int make_contexts(struct node *n, struct err_ctx *err)
{
    struct tls_ctx *server = NULL, *link = NULL, *raft = NULL;
    char *ca = trusted_ca(n);
    int rc = plane_tls(&server, NULL, n->cert_pem, n->key_pem, ca, err);
    if (!rc)
        rc = plane_tls(&link, LINK_ALPN, n->cert_pem, n->key_pem, ca, err);
    if (!rc)
        rc = plane_tls(&raft, PLANE_RAFT_ALPN, n->cert_pem, n->key_pem, ca, err);
    mem_free(ca);
    if (rc) {
        tls_ctx_unref(server);
        tls_ctx_unref(link);
        return rc;
    }
    tls_ctx_unref(n->tls_server);
    tls_ctx_unref(n->tls_link);
    tls_ctx_unref(n->tls_raft);
    n->tls_server = server;
    n->tls_link = link;
    n->tls_raft = raft;
    return 0;
}

int node_tls_load(struct node *n, struct err_ctx *err)
{
    int rc = read_pem(&n->key_pem, n, ENROL_KEY, err);
    if (!rc)
        rc = read_pem(&n->cert_pem, n, ENROL_CERT, err);
    if (!rc)
        rc = read_pem(&n->ca_pem, n, ENROL_CA, err);
    if (rc)
        return rc;
    struct identity_cert cert, ca;
    if ((rc = identity_read_cert(&ca, n->ca_pem, err)))
        return err_prefix(err, rc, "%s/%s is damaged", n->dir.path, ENROL_CA);
    if ((rc = identity_read_cert(&cert, n->cert_pem, err)))
        return err_prefix(err, rc, "%s/%s is damaged", n->dir.path, ENROL_CERT);
    if (cert.node != n->id.node || memcmp(cert.cluster_id, n->id.cluster_id, 16))
        return err_set(err, ERR_CORRUPT, "%s/%s is not this node's certificate", n->dir.path, ENROL_CERT);
    if (cert.not_after_ms < clock_wall_ms())
        log_error(n->log, "this node's certificate has expired: it renews it as soon as it has caught up, "
                          "unless the clock is "
                          "wrong");
    if ((rc = make_contexts(n, err)))
        return err_prefix(err, rc, "%s/%s is damaged, or does not fit %s", n->dir.path, ENROL_KEY,
                          ENROL_CERT);
    return 0;
}

/* New contexts for connections to come. */
static void renew_contexts(struct node *n)
{
    struct err_ctx err = {0};
    if (make_contexts(n, &err)) {
        log_error(n->log, "new certificates cannot be used: %s", err.text);
        return;
    }
    if (n->plane)
        plane_set_tls(n->plane, n->tls_server);
    links_set_tls(n->links, n->tls_link);
    if (n->replica)
        replica_set_tls_client(n->replica, n->tls_raft);
}

void node_tls_on_certs(struct node *n)
{
    struct err_ctx err = {0};
    struct tls_sni *sni;
    bool key_may_come = !watcher_is_released(&n->watcher) || keys_is_waiting(n);
    if (certs_load(&sni, &n->certs_found, control_read(n), &n->ring,
                   &(struct certs_key){n->cert_pem, n->key_pem}, key_may_come, n->log, &err)) {
        log_error(n->log, "client-facing certificates: %s", err.text);
        return;
    }
    tls_sni_unref(n->client_sni);
    n->client_sni = sni;
    feature_set_certs(n);
}

/* ---- this node's own certificate ---- */

static int sign_own(struct node *n, const struct join_ca *ca, char **cert, struct err_ctx *err)
{
    struct buf request = {0};
    struct identity_ca signer = join_ca_signer(ca);
    int rc = identity_new_request(&request, n->key_pem, err);
    if (!rc)
        rc = identity_sign_node(cert, &signer, request.data, request.n, n->id.cluster_id, n->id.node,
                                clock_wall_ms(), err);
    if (!rc)
        rc = datadir_write(&n->dir, ENROL_CERT, *cert, strlen(*cert), 0644, err);
    buf_fini(&request);
    return rc;
}

static void renew_own(struct node *n)
{
    struct join_ca ca = {0};
    struct err_ctx err = {0};
    char *cert = NULL;
    int rc = join_ca_read(&ca, control_read(n), &n->ring, &err);
    if (!rc)
        rc = sign_own(n, &ca, &cert, &err);
    if (rc) {
        log_error(n->log, "this node's certificate could not be renewed: %s", err.text);
        mem_free(cert);
    } else {
        mem_free(n->cert_pem);
        n->cert_pem = cert;
        n->ca_generation = ca.generation;
        renew_contexts(n);
        log_notice(n->log, "this node's certificate was renewed");
    }
    join_ca_fini(&ca);
}

/* Every thirtieth of its life, but once an hour at least. */
static void plan_next_check(struct node *n, const struct identity_cert *cert)
{
    uint64_t life = cert->not_after_ms - cert->not_before_ms, every = life / 30;
    n->certs_every_ms = every < 1000 ? 1000 : every < CHECK_MAX_MS ? (unsigned)every : CHECK_MAX_MS;
}

/* The bundle follows the store, and our certificate the CA that signs now. Without the key that opens the
 * CA's that waits until another member has given it (keys.c). */
void node_tls_on_ca(struct node *n)
{
    struct join_ca ca = {0};
    struct err_ctx err = {0};
    n->default_checked_ms = 0;
    int rc = join_ca_read(&ca, control_read(n), &n->ring, &err);
    if (rc && rc != ERR_NOTFOUND)
        log_warning(n->log, "the cluster's CA: %s", err.text);
    if (ca.bundle_pem && strcmp(ca.bundle_pem, n->ca_pem)) {
        mem_free(n->ca_pem);
        n->ca_pem = mem_strdup(ca.bundle_pem);
        if (datadir_write(&n->dir, ENROL_CA, n->ca_pem, strlen(n->ca_pem), 0644, &err))
            log_error(n->log, "%s", err.text);
        log_notice(n->log, "the cluster's CA certificates have changed");
        renew_contexts(n);
    }
    struct identity_cert info;
    if (ca.cert_pem && !identity_read_cert(&info, ca.cert_pem, NULL))
        memcpy(n->ca_fingerprint, info.fingerprint, sizeof(n->ca_fingerprint));
    bool is_its = ca.cert_pem && identity_is_issued(n->cert_pem, ca.cert_pem);
    if (is_its)
        n->ca_generation = ca.generation;
    join_ca_fini(&ca);
    if (!is_its && !rc)
        renew_own(n);
}

static uint64_t soonest_domain_cert(struct node *n)
{
    uint64_t soonest = UINT64_MAX;
    struct arena a;
    arena_init(&a);
    struct key all;
    key_init(&all);
    struct store_iter it;
    store_iter_init(&it, control_read(n), TABLE_CERT, &all);
    while (store_iter_next(&it)) {
        Imp__CertRow *row = store_iter_row(&it, &a);
        if (row && row->not_after_ms && row->not_after_ms < soonest)
            soonest = row->not_after_ms;
    }
    store_iter_fini(&it);
    arena_fini(&a);
    return soonest;
}

/* A sixth of the life of what we sign: half of what is left at the renewal. */
static uint64_t warn_before_ms(const struct identity_cert *own)
{
    uint64_t sixth = (own->not_after_ms - own->not_before_ms) / 6, most = EXPIRING_DAYS * day_ms;
    return sixth < most ? sixth : most;
}

void node_tls_check(struct node *n)
{
    struct identity_cert cert;
    uint64_t now = clock_wall_ms();
    if (identity_read_cert(&cert, n->cert_pem, NULL))
        return;
    if (identity_needs_renewal(&cert, now) && n->members->n)
        renew_own(n);
    identity_read_cert(&cert, n->cert_pem, NULL);
    plan_next_check(n, &cert);
    uint64_t domain = soonest_domain_cert(n), warn = warn_before_ms(&cert);
    uint64_t soonest = cert.not_after_ms < domain ? cert.not_after_ms : domain;
    if (soonest < now + warn)
        alarms_raise(n->alarms, ALARM_CERTIFICATE_EXPIRING, n->id.node,
                     "a certificate of %s expires in %" PRIu64 " days; see 'impcli cert list'", n->id.name,
                     soonest > now ? (soonest - now) / day_ms : 0);
    else
        alarms_clear(n->alarms, ALARM_CERTIFICATE_EXPIRING, n->id.node);
}

/* ---- the default domain's certificate, signed by the cluster's CA ---- */

static void on_proposed(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    n->cert_in_flight = false;
    if (result->code)
        log_warning(n->log, "the default certificate was not stored: %s",
                    result->text && *result->text ? result->text : err_text(result->code));
}

static int make_default(struct node *n, const char *domain, Imp__CertRow *row, struct buf *sealed,
                        char **cert, struct err_ctx *err)
{
    struct join_ca ca = {0};
    struct identity_cert info;
    char *key = NULL, purpose[300];
    certs_purpose(purpose, domain);
    int rc = join_ca_read(&ca, control_read(n), &n->ring, err);
    struct identity_ca signer = join_ca_signer(&ca);
    if (!rc)
        rc = identity_new_key(&key, err);
    if (!rc)
        rc = identity_sign_domain(cert, &signer, key, domain, clock_wall_ms(), err);
    if (!rc)
        rc = identity_read_cert(&info, *cert, err);
    if (!rc)
        rc = seal(&n->ring, purpose, key, strlen(key), sealed, err);
    if (!rc) {
        row->chain_pem = *cert;
        row->sealed_key = (ProtobufCBinaryData){sealed->n, (uint8_t *)sealed->data};
        row->not_after_ms = info.not_after_ms;
    }
    identity_free_key(key);
    join_ca_fini(&ca);
    return rc;
}

void node_tls_propose_default(struct node *n)
{
    char domain[256];
    uint64_t now_ms = clock_monotonic_ms();
    if (n->status.role != REPLICA_LEADER || n->cert_in_flight || !n->status.epoch)
        return;
    /* To parse a certificate five times a second would be most of what an idle node does. */
    uint64_t every_ms = n->certs_every_ms < SIGNED_EVERY_MS ? n->certs_every_ms : SIGNED_EVERY_MS;
    bool is_looked_at = n->default_checked_ms && now_ms < n->default_checked_ms + every_ms;
    if (is_looked_at && certs_has_default(control_read(n)))
        return;
    if (!certs_needs_signing(domain, control_read(n), clock_wall_ms())) {
        n->default_checked_ms = now_ms;
        return;
    }
    struct err_ctx err = {0};
    struct buf sealed = {0};
    char *cert = NULL;
    Imp__CertRow row = IMP__CERT_ROW__INIT;
    Imp__CertSet set = IMP__CERT_SET__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    if (!make_default(n, domain, &row, &sealed, &cert, &err)) {
        set.domain = domain;
        set.cert = &row;
        command.body_case = IMP__COMMAND__BODY_CERT_SET;
        command.cert_set = &set;
        n->cert_in_flight = !control_submit(n, &command, on_proposed, n);
    } else {
        log_warning(n->log, "no certificate could be made for %s: %s", domain, err.text);
    }
    buf_fini(&sealed);
    mem_free(cert);
}
