#include "cluster/certs.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

void certs_purpose(char out[300], const char *domain)
{
    snprintf(out, 300, "cert:%.255s", domain);
}

static int open_key(char **key_pem, const Imp__CertRow *row, const char *domain, const struct seal_ring *ring,
                    struct err_ctx *err)
{
    char purpose[300];
    struct buf key = {0};
    certs_purpose(purpose, domain);
    int rc = seal_open(ring, purpose, row->sealed_key.data, row->sealed_key.len, &key, err);
    if (!rc)
        *key_pem = mem_strndup(key.data, key.n);
    seal_buf_fini(&key);
    return rc;
}

static int make_ctx(struct tls_ctx **out, const char *cert_pem, const char *key_pem, struct err_ctx *err)
{
    /* XEP-0368 §3: a client that offers protocols must offer this one; with STARTTLS none is usual. */
    static const char *const alpn[] = {"xmpp-client", NULL};
    const struct tls_options o = {.server = true, .cert_pem = cert_pem, .key_pem = key_pem, .alpn = alpn};
    return tls_ctx_new(out, &o, err);
}

static int row_ctx(struct tls_ctx **out, const Imp__CertRow *row, const char *domain,
                   const struct seal_ring *ring, struct err_ctx *err)
{
    char *key = NULL;
    int rc = open_key(&key, row, domain, ring, err);
    if (!rc)
        rc = make_ctx(out, row->chain_pem, key, err);
    identity_free_key(key);
    return rc;
}

static const char *default_domain(struct store_txn *txn, struct arena *a)
{
    struct key k;
    key_init(&k);
    Imp__ClusterRow *cluster = store_find_row(txn, TABLE_CLUSTER, &k, a);
    return cluster ? cluster->default_domain : "";
}

static Imp__CertRow *find_row(struct store_txn *txn, const char *domain, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_str(&k, domain);
    return *domain ? store_find_row(txn, TABLE_CERT, &k, a) : NULL;
}

/* The default domain's, which is told of among all. */
static struct tls_ctx *default_ctx(struct certs_found *found, struct store_txn *txn,
                                   const struct seal_ring *ring, struct arena *a)
{
    struct tls_ctx *ctx = NULL;
    const char *domain = default_domain(txn, a);
    Imp__CertRow *row = find_row(txn, domain, a);
    found->has_default = !*domain || (row && row_ctx(&ctx, row, domain, ring, NULL) == 0);
    return ctx;
}

static void left_out(struct certs_found *found, const char *domain, int rc, const char *why,
                     bool key_may_come, struct log *log)
{
    found->incomplete |= rc == ERR_NOTFOUND;
    if (rc == ERR_NOTFOUND && key_may_come)
        log_info(log, "certificate of %s: waits for the cluster key that it is sealed with", domain);
    else
        log_error(log, "certificate of %s: %s", domain, why);
}

int certs_load(struct tls_sni **out, struct certs_found *found, struct store_txn *txn,
               const struct seal_ring *ring, const struct certs_key *fallback, bool key_may_come,
               struct log *log, struct err_ctx *err)
{
    struct arena a;
    arena_init(&a);
    struct err_ctx detail = {0};
    *found = (struct certs_found){0};
    struct tls_ctx *first = default_ctx(found, txn, ring, &a);
    int rc = first ? 0 : make_ctx(&first, fallback->cert_pem, fallback->key_pem, err);
    struct tls_sni *sni = rc ? NULL : tls_sni_new(first);
    tls_ctx_unref(first);
    struct key all;
    key_init(&all);
    struct store_iter it;
    store_iter_init(&it, txn, TABLE_CERT, &all);
    while (sni && store_iter_next(&it)) {
        struct key_reader r;
        key_read(&r, it.key, it.n_key);
        const char *name = key_read_str(&r, &a);
        Imp__CertRow *row = store_iter_row(&it, &a);
        struct tls_ctx *ctx = NULL;
        if (r.failed || !row)
            continue;
        int code = row_ctx(&ctx, row, name, ring, &detail);
        if (code)
            left_out(found, name, code, detail.text, key_may_come, log);
        else
            tls_sni_add(sni, name, ctx);
        tls_ctx_unref(ctx);
    }
    store_iter_fini(&it);
    arena_fini(&a);
    if (!rc)
        *out = sni;
    return rc;
}

int certs_get_default(char **cert_pem, char **key_pem, struct store_txn *txn, const struct seal_ring *ring,
                      struct err_ctx *err)
{
    struct arena a;
    arena_init(&a);
    const char *domain = default_domain(txn, &a);
    Imp__CertRow *row = find_row(txn, domain, &a);
    int rc = row ? open_key(key_pem, row, domain, ring, err)
                 : err_set(err, ERR_NOTFOUND, "there is no certificate of the default domain");
    if (!rc)
        *cert_pem = mem_strdup(row->chain_pem);
    arena_fini(&a);
    return rc;
}

enum issuer { ISSUER_OTHER, ISSUER_OLD, ISSUER_ACTIVE };

/* One of the cluster's own CAs: then renewal is ours; what was imported is its owner's. */
static enum issuer issuer_of(struct store_txn *txn, const char *chain_pem, struct arena *a)
{
    struct key all;
    key_init(&all);
    struct store_iter it;
    store_iter_init(&it, txn, TABLE_CA, &all);
    enum issuer found = ISSUER_OTHER;
    while (found == ISSUER_OTHER && store_iter_next(&it)) {
        Imp__CaRow *ca = store_iter_row(&it, a);
        if (ca && identity_is_issued(chain_pem, ca->cert_pem))
            found = ca->active ? ISSUER_ACTIVE : ISSUER_OLD;
    }
    store_iter_fini(&it);
    return found;
}

static bool is_due(struct store_txn *txn, const Imp__CertRow *row, uint64_t now_ms, struct arena *a)
{
    struct identity_cert cert;
    enum issuer issuer = issuer_of(txn, row->chain_pem, a);
    return issuer == ISSUER_OLD ||
           (issuer == ISSUER_ACTIVE && !identity_read_cert(&cert, row->chain_pem, NULL) &&
            identity_needs_renewal(&cert, now_ms));
}

bool certs_needs_signing(char *domain, struct store_txn *txn, uint64_t now_ms)
{
    struct arena a;
    arena_init(&a);
    const char *name = default_domain(txn, &a);
    bool found = *name && !find_row(txn, name, &a);
    struct key all;
    key_init(&all);
    struct store_iter it;
    store_iter_init(&it, txn, TABLE_CERT, &all);
    while (!found && store_iter_next(&it)) {
        struct key_reader r;
        key_read(&r, it.key, it.n_key);
        name = key_read_str(&r, &a);
        const Imp__CertRow *row = store_iter_row(&it, &a);
        found = row && !r.failed && is_due(txn, row, now_ms, &a);
    }
    store_iter_fini(&it);
    snprintf(domain, 256, "%s", found ? name : "");
    arena_fini(&a);
    return found;
}

bool certs_has_default(struct store_txn *txn)
{
    struct arena a;
    arena_init(&a);
    const char *name = default_domain(txn, &a);
    bool has = !*name || find_row(txn, name, &a);
    arena_fini(&a);
    return has;
}
