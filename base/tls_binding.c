/* Channel binding data of a TLS connection, whoever has it: a stream, or the HTTPS server's library. */
#include "base/tls_impl.h"
#include <openssl/err.h>
#include <openssl/x509.h>

static X509 *leaf_of(SSL *ssl, bool is_client)
{
    return is_client ? SSL_get0_peer_certificate(ssl) : SSL_get_certificate(ssl);
}

/* RFC 5929 §4.1: the hash of the server's certificate by the hash function of its signature, SHA-256 instead
 * of MD5 and SHA-1. Undefined where the signature has none of its own (Ed25519). */
static int server_end_point(SSL *ssl, bool is_client, uint8_t *out, size_t *n_bytes)
{
    X509 *leaf = leaf_of(ssl, is_client);
    int hash_nid = NID_undef;
    if (!leaf || X509_get_signature_info(leaf, &hash_nid, NULL, NULL, NULL) != 1 || hash_nid == NID_undef)
        return ERR_UNSUPPORTED;
    if (hash_nid == NID_md5 || hash_nid == NID_sha1 || hash_nid == NID_md5_sha1)
        hash_nid = NID_sha256;
    const EVP_MD *hash = EVP_get_digestbynid(hash_nid);
    if (!hash)
        return ERR_UNSUPPORTED;
    unsigned n = (unsigned)EVP_MD_get_size(hash);
    if (*n_bytes < n)
        return ERR_LIMIT;
    if (X509_digest(leaf, hash, out, &n) != 1)
        return ERR_UNSUPPORTED;
    *n_bytes = n;
    return ERR_OK;
}

/* RFC 9266 §4. Below TLS 1.3 the exporter binds only with the extended master secret: not offered there. */
static int exporter(SSL *ssl, uint8_t *out, size_t *n_bytes)
{
    static const char label[] = "EXPORTER-Channel-Binding";
    enum { N = 32 };
    if (SSL_version(ssl) < TLS1_3_VERSION)
        return ERR_UNSUPPORTED;
    if (*n_bytes < N)
        return ERR_LIMIT;
    if (SSL_export_keying_material(ssl, out, N, label, sizeof(label) - 1, NULL, 0, 0) != 1)
        return ERR_TLS;
    *n_bytes = N;
    return ERR_OK;
}

bool tls_can_bind(struct ssl_st *ssl, bool is_client, enum tls_binding type)
{
    int hash = NID_undef;
    if (type == TLS_BIND_EXPORTER)
        return SSL_version(ssl) >= TLS1_3_VERSION;
    X509 *leaf = leaf_of(ssl, is_client);
    return leaf && X509_get_signature_info(leaf, &hash, NULL, NULL, NULL) == 1 && hash != NID_undef;
}

int tls_bind(struct ssl_st *ssl, bool is_client, enum tls_binding type, uint8_t *out, size_t *n_bytes)
{
    int rc = type == TLS_BIND_EXPORTER ? exporter(ssl, out, n_bytes)
                                       : server_end_point(ssl, is_client, out, n_bytes);
    ERR_clear_error();
    return rc;
}
