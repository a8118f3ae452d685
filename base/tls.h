/* TLS configurations. Immutable once made, reference counted, any thread. OpenSSL 3.
 *
 * Certificates and keys are PEM in memory. Server contexts for clients take TLS 1.2 and 1.3 without
 * renegotiation; contexts between nodes take TLS 1.3 only and verify the peer against the given CA bundle,
 * but for the date from which a certificate is valid (clocks may be behind). */
#ifndef BASE_TLS_H
#define BASE_TLS_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tls_ctx;

struct tls_options {
    bool server;
    bool tls13_only;
    const char *cert_pem, *key_pem; /* chain, leaf first; NULL for a client without a certificate */
    const char *ca_pem;             /* bundle to verify the peer against; NULL: the peer is not verified */
    bool require_peer_cert;         /* server: refuse a client without a certificate */
    bool judged; /* whoever uses the stream judges the peer by its tls_peer: the handshake goes on with any
                    certificate */
    const char *const *alpn; /* NULL-terminated; server: accepted protocols, client: offered ones */
    bool system_ca;          /* client: the system's trust store */
};
int tls_ctx_new(struct tls_ctx **out, const struct tls_options *options, struct err_ctx *err);
struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx);
void tls_ctx_unref(struct tls_ctx *ctx); /* may be NULL */

/* Server name selection: a set of contexts by domain, with a default; swapped as a whole on reload. */
struct tls_sni;
struct tls_sni *tls_sni_new(struct tls_ctx *fallback);
void tls_sni_add(struct tls_sni *sni, const char *domain, struct tls_ctx *ctx); /* before it is used */
struct tls_sni *tls_sni_ref(struct tls_sni *sni);
void tls_sni_unref(struct tls_sni *sni);

/* For a TLS connection that another library runs (libwebsockets): the same protocol settings as those of our
 * own servers for clients, and the certificate that SNI has for the name the client asked for. ERR_TLS. */
struct ssl_ctx_st;
struct ssl_st;
int tls_setup_server(struct ssl_ctx_st *ctx, struct err_ctx *err);
int tls_sni_show(const struct tls_sni *sni, struct ssl_st *ssl, struct err_ctx *err); /* in its cert_cb */

/* What a peer proved. */
struct tls_peer {
    char common_name[256]; /* of the leaf certificate, verified unless the context is a judged one; empty
                              without */
    char uris[2][256];     /* subjectAltName URIs, in order; empty where missing */
    char alpn[32];
    uint8_t fingerprint[32]; /* SHA-256 of the leaf, also when it was not verified */
    uint8_t
        key_hash[32]; /* SHA-256 of its SubjectPublicKeyInfo, whose private key the peer has proved to have */
    bool has_cert, verified;
};
enum tls_binding { TLS_BIND_EXPORTER, TLS_BIND_SERVER_END_POINT, N_TLS_BINDINGS }; /* RFC 9266, RFC 5929 §4 */
enum { TLS_BINDING_MAX = 64 };
/* Would tls_bind have something? Cheap. Both: when the handshake is done. */
bool tls_can_bind(struct ssl_st *ssl, bool is_client, enum tls_binding type);
/* Channel binding data; n_bytes in: room in out, out: length. ERR_UNSUPPORTED: none, as the exporter below
 * TLS 1.3. */
int tls_bind(struct ssl_st *ssl, bool is_client, enum tls_binding type, uint8_t *out, size_t *n_bytes);

#endif
