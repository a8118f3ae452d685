/* Certificates that clients see: per domain from the CERT table, keys unsealed in memory only. Control loop.
 */
#ifndef CLUSTER_CERTS_H
#define CLUSTER_CERTS_H

#include "base/log.h"
#include "base/tls.h"
#include "cluster/identity.h"
#include "cluster/seal.h"
#include "storage/store.h"

/* "cert:DOMAIN": what a certificate's key is sealed for. Same as `impcli cert import` uses. */
void certs_purpose(char out[300], const char *domain);

struct certs_key {
    const char *cert_pem, *key_pem;
};
struct certs_found {
    bool has_default; /* the default domain's can be used */
    bool incomplete;  /* one is left out for want of its cluster key */
};
/* All of them by server name; the default domain's is the fallback, or FALLBACK where there is none. A row
 * that cannot be used is logged and left out. KEY_MAY_COME: no error is that this node does not have a
 * cluster key, for it has not caught up or waits for one. One reference is the caller's. */
int certs_load(struct tls_sni **out, struct certs_found *found, struct store_txn *txn,
               const struct seal_ring *ring, const struct certs_key *fallback, bool key_may_come,
               struct log *log, struct err_ctx *err);
/* PEM of the default domain's certificate, key and name, for HTTPS; ERR_NOTFOUND. The key is wiped by
 * identity_free_key. */
int certs_get_default(char **cert_pem, char **key_pem, struct store_txn *txn, const struct seal_ring *ring,
                      struct err_ctx *err);
/* A domain that lacks a certificate (the default one), or whose own one, signed by the cluster's CA, is due
 * or of an older CA. DOMAIN has 256 bytes. */
bool certs_needs_signing(char *domain, struct store_txn *txn, uint64_t now_ms);
bool certs_has_default(struct store_txn *txn);

#endif
