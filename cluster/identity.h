/* Keys and certificates of the cluster: its CA, the nodes' certificates, and the default client-facing one.
 * P-256 throughout. PEM strings are NUL-terminated, on the heap; keys are wiped with identity_free_key. Any
 * thread.
 *
 * A node's certificate carries the cluster id and the node id only: CN = node id, subjectAltName URIs
 * imp:cluster:<32 hex digits> and imp:node:<id>. Addresses live in the member table. */
#ifndef CLUSTER_IDENTITY_H
#define CLUSTER_IDENTITY_H

#include "base/buf.h"
#include "base/err.h"
#include "base/tls.h"
#include <stdint.h>

enum { IDENTITY_NODE_DAYS = 365, IDENTITY_CA_DAYS = 3652, IDENTITY_PEM_MAX = 64 * 1024 };

int identity_new_key(char **key_pem, struct err_ctx *err);
void identity_free_key(char *key_pem); /* may be NULL */
/* SHA-256 of the key's SubjectPublicKeyInfo. */
int identity_key_hash(uint8_t out[32], const char *key_pem, struct err_ctx *err);

int identity_new_ca(char **cert_pem, const char *key_pem, const uint8_t cluster_id[16], unsigned generation,
                    uint64_t now_ms, struct err_ctx *err);
/* PKCS#10, signed by the key: proof of possession. Its subject is empty: the signer says who somebody is. */
int identity_new_request(struct buf *out_der, const char *key_pem, struct err_ctx *err);
/* The request's own signature and kind of key (P-256 only); KEY_HASH as above. */
int identity_check_request(const void *der, size_t n_bytes, uint8_t key_hash[32], struct err_ctx *err);

struct identity_ca {
    const char *cert_pem, *key_pem;
    uint64_t life_ms; /* of what it signs; 0: a year */
};
int identity_sign_node(char **cert_pem, const struct identity_ca *ca, const void *request_der,
                       size_t n_request, const uint8_t cluster_id[16], uint32_t node, uint64_t now_ms,
                       struct err_ctx *err);
/* A server certificate for clients of DOMAIN (also *.DOMAIN), with the public key of KEY_PEM. */
int identity_sign_domain(char **cert_pem, const struct identity_ca *ca, const char *key_pem,
                         const char *domain, uint64_t now_ms, struct err_ctx *err);

struct identity_cert {
    uint8_t cluster_id[16];
    uint32_t node; /* 0: not a node's certificate */
    uint64_t not_before_ms, not_after_ms;
    uint8_t fingerprint[32]; /* SHA-256 of the certificate */
    uint8_t key_hash[32];
    char subject[256];
};
int identity_read_cert(struct identity_cert *out, const char *cert_pem,
                       struct err_ctx *err); /* the first in the PEM */
/* Was the first certificate of CERT_PEM signed by the first of CA_PEM, and is it in force? */
int identity_check_signed(const char *cert_pem, const char *ca_pem, uint64_t now_ms, struct err_ctx *err);
/* The same, whatever the time. */
bool identity_is_issued(const char *cert_pem, const char *ca_pem);
/* Does the key belong to the first certificate of the chain, and is the chain in order (each signed by the
 * next)? */
int identity_check_chain(const char *chain_pem, const char *key_pem, uint64_t *not_after_ms,
                         struct err_ctx *err);
/* Two thirds of the lifetime are over. */
int identity_needs_renewal(const struct identity_cert *cert, uint64_t now_ms);

/* The node that a peer's certificate names, whoever signed it. ERR_AUTH with a reason: none, another cluster's. */
int identity_claimed_by_peer(uint32_t *node, const struct tls_peer *peer, const uint8_t cluster_id[16],
                             struct err_ctx *err);
/* The node that a peer is (docs/adr/0008-key-rotation.md). A member is known by its key, by the member table: whose CA
 * signed, and until when, does not matter. Whom the table does not know needs a certificate of the CA that signs now
 * (the context's). ERR_AUTH with a reason. */
typedef const uint8_t *identity_key_fn(void *user, uint32_t node); /* hash of its key, 32 bytes; NULL: not known */
int identity_of_peer(uint32_t *node, const struct tls_peer *peer, const uint8_t cluster_id[16],
                     identity_key_fn *key_of /* may be NULL */, void *user, struct err_ctx *err);

#endif
