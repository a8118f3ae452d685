#include "cluster/identity.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/datadir.h"
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t day_ms = 24ull * 3600 * 1000;

/* Says WHAT failed with OpenSSL's reason, and empties OpenSSL's queue. */
static int fail(struct err_ctx *err, const char *what)
{
    char text[160] = "unknown reason";
    unsigned long e = ERR_get_error();
    if (e)
        ERR_error_string_n(e, text, sizeof(text));
    ERR_clear_error();
    return err_set(err, ERR_TLS, "%s: %s", what, text);
}

/* ---- PEM ---- */

static char *bio_steal(BIO *bio)
{
    char *data;
    long n = BIO_get_mem_data(bio, &data);
    char *out = n > 0 ? mem_strndup(data, (size_t)n) : NULL;
    BIO_free(bio);
    return out;
}

static BIO *pem_bio(const char *pem)
{
    return strlen(pem) > IDENTITY_PEM_MAX ? NULL : BIO_new_mem_buf(pem, -1);
}

static char *cert_pem_of(X509 *cert)
{
    BIO *bio = BIO_new(BIO_s_mem());
    if (!bio || PEM_write_bio_X509(bio, cert) != 1) {
        BIO_free(bio);
        return NULL;
    }
    return bio_steal(bio);
}

static X509 *read_cert(const char *pem)
{
    BIO *bio = pem_bio(pem);
    X509 *cert = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return cert;
}

static EVP_PKEY *read_key(const char *pem)
{
    BIO *bio = pem_bio(pem);
    EVP_PKEY *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL) : NULL;
    BIO_free(bio);
    return key;
}

/* ---- keys and requests ---- */

int identity_new_key(char **key_pem, struct err_ctx *err)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    BIO *bio = BIO_new(BIO_s_secmem());
    char *pem = NULL;
    if (key && bio && PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) == 1) {
        pem = bio_steal(bio);
        bio = NULL;
    }
    BIO_free(bio);
    EVP_PKEY_free(key);
    if (!pem)
        return fail(err, "cannot make a key");
    *key_pem = pem;
    return 0;
}

void identity_free_key(char *key_pem)
{
    if (key_pem)
        mem_wipe(key_pem, strlen(key_pem));
    mem_free(key_pem);
}

static int hash_of_key(uint8_t out[32], EVP_PKEY *key)
{
    uint8_t *der = NULL;
    int n = i2d_PUBKEY(key, &der);
    int ok = n > 0 && EVP_Digest(der, (size_t)n, out, NULL, EVP_sha256(), NULL) == 1;
    OPENSSL_free(der);
    return ok;
}

int identity_key_hash(uint8_t out[32], const char *key_pem, struct err_ctx *err)
{
    EVP_PKEY *key = read_key(key_pem);
    int ok = key && hash_of_key(out, key);
    EVP_PKEY_free(key);
    return ok ? 0 : fail(err, "cannot read the key");
}

int identity_new_request(struct buf *out_der, const char *key_pem, struct err_ctx *err)
{
    EVP_PKEY *key = read_key(key_pem);
    X509_REQ *req = X509_REQ_new();
    uint8_t *der = NULL;
    int n = -1;
    if (key && req && X509_REQ_set_version(req, X509_REQ_VERSION_1) == 1 &&
        X509_REQ_set_pubkey(req, key) == 1 && X509_REQ_sign(req, key, EVP_sha256()) > 0)
        n = i2d_X509_REQ(req, &der);
    if (n > 0)
        buf_add(out_der, der, (size_t)n);
    OPENSSL_free(der);
    X509_REQ_free(req);
    EVP_PKEY_free(key);
    return n > 0 ? 0 : fail(err, "cannot make a certificate request");
}

static int is_p256(EVP_PKEY *key)
{
    char group[32] = "";
    return EVP_PKEY_get_base_id(key) == EVP_PKEY_EC &&
           EVP_PKEY_get_group_name(key, group, sizeof(group), NULL) == 1 && !strcmp(group, "prime256v1");
}

static X509_REQ *read_request(const void *der, size_t n_bytes)
{
    const uint8_t *p = der;
    if (n_bytes > 4096)
        return NULL;
    X509_REQ *req = d2i_X509_REQ(NULL, &p, (long)n_bytes);
    if (req && p != (const uint8_t *)der + n_bytes) {
        X509_REQ_free(req);
        return NULL;
    }
    return req;
}

int identity_check_request(const void *der, size_t n_bytes, uint8_t key_hash[32], struct err_ctx *err)
{
    X509_REQ *req = read_request(der, n_bytes);
    EVP_PKEY *key = req ? X509_REQ_get0_pubkey(req) : NULL;
    int ok = key && is_p256(key) && X509_REQ_verify(req, key) == 1 && hash_of_key(key_hash, key);
    X509_REQ_free(req);
    ERR_clear_error();
    return ok ? 0 : err_set(err, ERR_MALFORMED, "the certificate request is not valid");
}

/* ---- certificates ---- */

static int set_time(ASN1_TIME *t, uint64_t ms)
{
    return ASN1_TIME_set(t, (time_t)(ms / 1000)) != NULL;
}

static int add_name(X509_NAME *name, const char *field, const char *value)
{
    return X509_NAME_add_entry_by_txt(name, field, MBSTRING_UTF8, (const uint8_t *)value, -1, -1, 0) == 1;
}

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    int ok = e && X509_add_ext(cert, e, -1) == 1;
    X509_EXTENSION_free(e);
    return ok;
}

/* What all certificates share. Begins up to an hour ago: members' clocks differ a little. */
static X509 *new_cert(EVP_PKEY *subject_key, uint64_t now_ms, uint64_t life_ms)
{
    uint64_t ago_ms = life_ms / 10 < 3600 * 1000 ? life_ms / 10 : 3600 * 1000;
    X509 *cert = X509_new();
    uint8_t serial[16];
    random_bytes(serial, sizeof(serial));
    serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, of fixed length */
    BIGNUM *bn = BN_bin2bn(serial, sizeof(serial), NULL);
    int ok = cert && bn && X509_set_version(cert, X509_VERSION_3) == 1 &&
             BN_to_ASN1_INTEGER(bn, X509_get_serialNumber(cert)) &&
             set_time(X509_getm_notBefore(cert), now_ms - ago_ms) &&
             set_time(X509_getm_notAfter(cert), now_ms + life_ms) &&
             X509_set_pubkey(cert, subject_key) == 1;
    BN_free(bn);
    if (!ok) {
        X509_free(cert);
        return NULL;
    }
    return cert;
}

int identity_new_ca(char **cert_pem, const char *key_pem, const uint8_t cluster_id[16], unsigned generation,
                    uint64_t now_ms, struct err_ctx *err)
{
    char hex[33], org[64];
    datadir_hex(hex, cluster_id, 16);
    snprintf(org, sizeof(org), "imp cluster %s", hex);
    char common[64];
    snprintf(common, sizeof(common), "imp CA %.8s generation %u", hex, generation);
    EVP_PKEY *key = read_key(key_pem);
    X509 *cert = key ? new_cert(key, now_ms, IDENTITY_CA_DAYS * day_ms) : NULL;
    char *pem = NULL;
    if (cert && add_name(X509_get_subject_name(cert), "O", org) &&
        add_name(X509_get_subject_name(cert), "CN", common) &&
        X509_set_issuer_name(cert, X509_get_subject_name(cert)) == 1 &&
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") &&
        add_extension(cert, cert, NID_key_usage, "critical,keyCertSign,cRLSign") &&
        add_extension(cert, cert, NID_subject_key_identifier, "hash") &&
        X509_sign(cert, key, EVP_sha256()) > 0)
        pem = cert_pem_of(cert);
    X509_free(cert);
    EVP_PKEY_free(key);
    if (!pem)
        return fail(err, "cannot make the cluster's CA");
    *cert_pem = pem;
    return 0;
}

/* Signs KEY as COMMON_NAME with the subjectAltName SAN. */
static int sign(char **cert_pem, const struct identity_ca *ca, EVP_PKEY *key, const char *common_name,
                const char *san, uint64_t now_ms, struct err_ctx *err)
{
    uint64_t life_ms = ca->life_ms ? ca->life_ms : IDENTITY_NODE_DAYS * day_ms;
    X509 *issuer = read_cert(ca->cert_pem);
    EVP_PKEY *issuer_key = read_key(ca->key_pem);
    X509 *cert = issuer && issuer_key && key ? new_cert(key, now_ms, life_ms) : NULL;
    char *pem = NULL;
    if (cert && add_name(X509_get_subject_name(cert), "CN", common_name) &&
        X509_set_issuer_name(cert, X509_get_subject_name(issuer)) == 1 &&
        add_extension(cert, issuer, NID_basic_constraints, "critical,CA:FALSE") &&
        add_extension(cert, issuer, NID_key_usage, "critical,digitalSignature") &&
        add_extension(cert, issuer, NID_ext_key_usage, "serverAuth,clientAuth") &&
        add_extension(cert, issuer, NID_subject_key_identifier, "hash") &&
        add_extension(cert, issuer, NID_authority_key_identifier, "keyid") &&
        add_extension(cert, issuer, NID_subject_alt_name, san) &&
        X509_sign(cert, issuer_key, EVP_sha256()) > 0)
        pem = cert_pem_of(cert);
    X509_free(cert);
    X509_free(issuer);
    EVP_PKEY_free(issuer_key);
    if (!pem)
        return fail(err, "cannot sign the certificate");
    *cert_pem = pem;
    return 0;
}

int identity_sign_node(char **cert_pem, const struct identity_ca *ca, const void *request_der,
                       size_t n_request, const uint8_t cluster_id[16], uint32_t node, uint64_t now_ms,
                       struct err_ctx *err)
{
    uint8_t hash[32];
    int rc = identity_check_request(request_der, n_request, hash, err);
    if (rc)
        return rc;
    char hex[33], common[16], san[128];
    datadir_hex(hex, cluster_id, 16);
    snprintf(common, sizeof(common), "%u", node);
    snprintf(san, sizeof(san), "URI:imp:cluster:%s,URI:imp:node:%u", hex, node);
    X509_REQ *req = read_request(request_der, n_request);
    rc = sign(cert_pem, ca, req ? X509_REQ_get0_pubkey(req) : NULL, common, san, now_ms, err);
    X509_REQ_free(req);
    return rc;
}

int identity_sign_domain(char **cert_pem, const struct identity_ca *ca, const char *key_pem,
                         const char *domain, uint64_t now_ms, struct err_ctx *err)
{
    /* The value goes through OpenSSL's configuration syntax: nothing but a host name may enter it. */
    size_t n = strlen(domain);
    if (!n || n > 253 ||
        strspn(domain, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != n)
        return err_set(err, ERR_INVALID, "'%s' is not a domain name", domain);
    char san[600], common[65];
    snprintf(san, sizeof(san), "DNS:%s,DNS:*.%s", domain, domain);
    snprintf(common, sizeof(common), "%.64s", domain);
    EVP_PKEY *key = read_key(key_pem);
    int rc = sign(cert_pem, ca, key, common, san, now_ms, err);
    EVP_PKEY_free(key);
    return rc;
}

/* ---- reading and checking ---- */

static int time_of(uint64_t *ms, const ASN1_TIME *t)
{
    struct tm tm;
    if (ASN1_TIME_to_tm(t, &tm) != 1)
        return 0;
    time_t s = timegm(&tm);
    *ms = s < 0 ? 0 : (uint64_t)s * 1000;
    return 1;
}

static void read_uri(struct identity_cert *out, const char *uri)
{
    if (!strncmp(uri, "imp:cluster:", 12)) {
        if (datadir_unhex(out->cluster_id, 16, uri + 12))
            memset(out->cluster_id, 0, 16);
    } else if (!strncmp(uri, "imp:node:", 9)) {
        char *end;
        unsigned long v = strtoul(uri + 9, &end, 10);
        out->node = *end || v > UINT32_MAX ? 0 : (uint32_t)v;
    }
}

static void read_names(struct identity_cert *out, X509 *cert)
{
    X509_NAME_oneline(X509_get_subject_name(cert), out->subject, sizeof(out->subject));
    GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
    for (int i = 0; names && i < sk_GENERAL_NAME_num(names); i++) {
        GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        char uri[128];
        int n = ASN1_STRING_length(name->d.uniformResourceIdentifier);
        if (n <= 0 || n >= (int)sizeof(uri))
            continue;
        memcpy(uri, ASN1_STRING_get0_data(name->d.uniformResourceIdentifier), (size_t)n);
        uri[n] = '\0';
        read_uri(out, uri);
    }
    GENERAL_NAMES_free(names);
}

int identity_read_cert(struct identity_cert *out, const char *cert_pem, struct err_ctx *err)
{
    struct identity_cert c = {0};
    X509 *cert = read_cert(cert_pem);
    unsigned n = 32;
    int ok = cert && time_of(&c.not_before_ms, X509_get0_notBefore(cert)) &&
             time_of(&c.not_after_ms, X509_get0_notAfter(cert)) &&
             X509_digest(cert, EVP_sha256(), c.fingerprint, &n) == 1 && X509_get0_pubkey(cert) &&
             hash_of_key(c.key_hash, X509_get0_pubkey(cert));
    if (ok)
        read_names(&c, cert);
    X509_free(cert);
    ERR_clear_error();
    if (!ok)
        return err_set(err, ERR_MALFORMED, "not a certificate");
    *out = c;
    return 0;
}

bool identity_is_issued(const char *cert_pem, const char *ca_pem)
{
    X509 *cert = read_cert(cert_pem), *ca = read_cert(ca_pem);
    bool ok = cert && ca && X509_check_ca(ca) == 1 && X509_check_issued(ca, cert) == X509_V_OK &&
              X509_verify(cert, X509_get0_pubkey(ca)) == 1;
    X509_free(cert);
    X509_free(ca);
    ERR_clear_error();
    return ok;
}

int identity_check_signed(const char *cert_pem, const char *ca_pem, uint64_t now_ms, struct err_ctx *err)
{
    struct identity_cert info;
    int rc = identity_read_cert(&info, cert_pem, err);
    if (rc)
        return rc;
    if (!identity_is_issued(cert_pem, ca_pem))
        return err_set(err, ERR_AUTH, "the certificate was not signed by this CA");
    if (now_ms < info.not_before_ms || now_ms > info.not_after_ms)
        return err_set(err, ERR_AUTH, "the certificate is not in force; compare the clocks of the machines");
    return 0;
}

int identity_check_chain(const char *chain_pem, const char *key_pem, uint64_t *not_after_ms,
                         struct err_ctx *err)
{
    BIO *bio = pem_bio(chain_pem);
    EVP_PKEY *key = read_key(key_pem);
    X509 *leaf = bio ? PEM_read_bio_X509(bio, NULL, NULL, NULL) : NULL;
    int rc = 0;
    if (!key)
        rc = err_set(err, ERR_MALFORMED, "the private key cannot be read (PEM, without a passphrase)");
    else if (!leaf)
        rc = err_set(err, ERR_MALFORMED, "the certificate cannot be read (PEM)");
    else if (X509_check_private_key(leaf, key) != 1)
        rc = err_set(err, ERR_INVALID, "the private key does not belong to the certificate");
    else if (!time_of(not_after_ms, X509_get0_notAfter(leaf)))
        rc = err_set(err, ERR_MALFORMED, "the certificate's time cannot be read");
    X509 *below = leaf, *next;
    for (int depth = 0; !rc && depth < 10 && (next = PEM_read_bio_X509(bio, NULL, NULL, NULL)); depth++) {
        if (X509_check_issued(next, below) != X509_V_OK)
            rc = err_set(err, ERR_INVALID,
                         "the chain is not in order: certificate %d did not sign the one before", depth + 2);
        if (below != leaf)
            X509_free(below);
        below = next;
    }
    if (below != leaf)
        X509_free(below);
    X509_free(leaf);
    EVP_PKEY_free(key);
    BIO_free(bio);
    ERR_clear_error();
    return rc;
}

int identity_needs_renewal(const struct identity_cert *cert, uint64_t now_ms)
{
    uint64_t life = cert->not_after_ms - cert->not_before_ms;
    return now_ms >= cert->not_before_ms + life / 3 * 2;
}

int identity_claimed_by_peer(uint32_t *node, const struct tls_peer *peer, const uint8_t cluster_id[16],
                             struct err_ctx *err)
{
    if (!peer->has_cert)
        return err_set(err, ERR_AUTH, "the peer has no certificate of this cluster");
    struct identity_cert c = {0};
    for (size_t i = 0; i < n_elements(peer->uris); i++)
        read_uri(&c, peer->uris[i]);
    char common[16];
    snprintf(common, sizeof(common), "%u", c.node);
    if (memcmp(c.cluster_id, cluster_id, 16))
        return err_set(err, ERR_AUTH, "the peer's certificate names another cluster");
    if (!c.node || strcmp(common, peer->common_name))
        return err_set(err, ERR_AUTH, "the peer's certificate is not a node's");
    *node = c.node;
    return 0;
}

int identity_of_peer(uint32_t *node, const struct tls_peer *peer, const uint8_t cluster_id[16],
                     identity_key_fn *key_of, void *user, struct err_ctx *err)
{
    uint32_t claimed;
    int rc = identity_claimed_by_peer(&claimed, peer, cluster_id, err);
    if (rc)
        return rc;
    const uint8_t *key = key_of ? key_of(user, claimed) : NULL;
    if (key && CRYPTO_memcmp(key, peer->key_hash, 32))
        return err_set(err, ERR_AUTH, "the certificate says that it is node %u, but its key is another one", claimed);
    if (!key && !peer->verified)
        return err_set(err, ERR_AUTH, "node %u is not known here, and its certificate is not of this cluster's CA",
                       claimed);
    *node = claimed;
    return 0;
}
