#include "base/htab.h"
#include "base/mem.h"
#include "base/tls_impl.h"
#include <assert.h>
#include <ctype.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { MAX_CHAIN_BYTES = 32 * 1024 }; /* of the peer's certificates */

/* RFC 7525/9325: forward secrecy and AEAD only. */
static const char tls12_ciphers[] = "ECDHE+AESGCM:ECDHE+CHACHA20";
static const char groups[] = "X25519:P-256:P-384";

void tls_error_text(char *out, size_t n_bytes, const char *otherwise)
{
    unsigned long code = ERR_get_error();
    const char *reason = code ? ERR_reason_error_string(code) : NULL;
    snprintf(out, n_bytes, "%s", reason ? reason : otherwise);
    ERR_clear_error();
}

static int fail(struct err_ctx *err, int code, const char *what)
{
    char reason[160];
    tls_error_text(reason, sizeof(reason), "no reason given");
    return err_set(err, code, "%s: %s", what, reason);
}

/* An encrypted key must not make OpenSSL ask on the terminal. */
static int no_password(char *out, int n, int for_writing, void *user)
{
    return 0;
}

static int use_certificate(SSL_CTX *ctx, const char *pem, struct err_ctx *err)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    X509 *leaf = PEM_read_bio_X509(in, NULL, no_password, NULL);
    int rc = ERR_OK;
    if (!leaf || SSL_CTX_use_certificate(ctx, leaf) != 1)
        rc = fail(err, ERR_TLS, "certificate");
    X509_free(leaf);
    for (X509 *ca; rc == ERR_OK && (ca = PEM_read_bio_X509(in, NULL, no_password, NULL));) {
        if (SSL_CTX_add0_chain_cert(ctx, ca) != 1) {
            X509_free(ca);
            rc = fail(err, ERR_TLS, "certificate chain");
        }
    }
    ERR_clear_error(); /* the end of the text counts as an error */
    BIO_free(in);
    return rc;
}

static int use_key(SSL_CTX *ctx, const char *pem, struct err_ctx *err)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, no_password, NULL);
    BIO_free(in);
    int rc = ERR_OK;
    if (!key || SSL_CTX_use_PrivateKey(ctx, key) != 1 || SSL_CTX_check_private_key(ctx) != 1)
        rc = fail(err, ERR_TLS, "private key");
    EVP_PKEY_free(key);
    return rc;
}

static int use_ca(SSL_CTX *ctx, const char *pem, bool server, struct err_ctx *err)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    unsigned n = 0;
    for (X509 *ca; (ca = PEM_read_bio_X509(in, NULL, no_password, NULL)); n++) {
        X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), ca);
        if (server)
            SSL_CTX_add_client_CA(ctx, ca);
        X509_free(ca);
    }
    BIO_free(in);
    if (n == 0)
        return fail(err, ERR_TLS, "CA bundle");
    ERR_clear_error();
    return ERR_OK;
}

/* RFC 7301 §3.2: with protocols on both sides and none in common, the server answers no_application_protocol.
 */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *n_out, const unsigned char *in,
                   unsigned n_in, void *arg)
{
    const struct tls_ctx *ctx = arg;
    int rc = SSL_select_next_proto((unsigned char **)out, n_out, ctx->alpn, ctx->n_alpn, in, n_in);
    return rc == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static int use_alpn(struct tls_ctx *ctx, const char *const *names, struct err_ctx *err)
{
    size_t n = 0;
    for (const char *const *name = names; *name; name++) {
        size_t length = strlen(*name);
        if (length == 0 || length >= sizeof(((struct tls_peer *)0)->alpn))
            return err_set(err, ERR_INVALID, "ALPN name \"%s\"", *name);
        ctx->alpn = mem_realloc(ctx->alpn, n + 1 + length);
        ctx->alpn[n] = (unsigned char)length;
        memcpy(ctx->alpn + n + 1, *name, length);
        n += 1 + length;
    }
    ctx->n_alpn = (unsigned)n;
    if (n == 0)
        return ERR_OK;
    if (ctx->server)
        SSL_CTX_set_alpn_select_cb(ctx->ssl, on_alpn, ctx);
    else if (SSL_CTX_set_alpn_protos(ctx->ssl, ctx->alpn, ctx->n_alpn) != 0)
        return fail(err, ERR_TLS, "ALPN");
    return ERR_OK;
}

static int set_protocol(SSL_CTX *ssl, const struct tls_options *o, struct err_ctx *err)
{
    SSL_CTX_set_options(ssl, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION |
                                 SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA |
                                 SSL_OP_IGNORE_UNEXPECTED_EOF);
    SSL_CTX_set_mode(ssl, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_max_cert_list(ssl, MAX_CHAIN_BYTES);
    /* Tickets hold the state at the client. A context that verifies its peers does so at every connection. */
    SSL_CTX_set_session_cache_mode(ssl, SSL_SESS_CACHE_OFF);
    if (o->server && o->ca_pem) {
        SSL_CTX_set_options(ssl, SSL_OP_NO_TICKET);
        SSL_CTX_set_num_tickets(ssl, 0);
    } else if (o->server) {
        SSL_CTX_set_num_tickets(ssl, 1);
    }
    if (SSL_CTX_set_min_proto_version(ssl, o->tls13_only ? TLS1_3_VERSION : TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(ssl, tls12_ciphers) != 1 || SSL_CTX_set1_groups_list(ssl, groups) != 1 ||
        SSL_CTX_set_session_id_context(ssl, (const unsigned char *)"imp", 3) != 1)
        return fail(err, ERR_TLS, "TLS parameters");
    return ERR_OK;
}

/* Between nodes: a machine whose clock is behind (it has just started without a battery, or was set back)
 * must find the others all the same. Our own CA dates nothing ahead, so "not yet valid" says only that a
 * clock is wrong; what has expired stays refused. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    if (ok || X509_STORE_CTX_get_error(store) != X509_V_ERR_CERT_NOT_YET_VALID)
        return ok;
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

int tls_take_any(int ok, X509_STORE_CTX *store)
{
    on_verify(ok, store);
    return 1; /* the result stays in the connection */
}

static int set_verification(struct tls_ctx *ctx, const struct tls_options *o, struct err_ctx *err)
{
    ctx->verifies_peer = o->ca_pem || (o->system_ca && !o->server);
    ctx->checks_name = o->system_ca && !o->server;
    if (o->require_peer_cert && !o->ca_pem)
        return err_set(err, ERR_INVALID, "peer certificates required without a CA bundle");
    if (o->ca_pem) {
        int rc = use_ca(ctx->ssl, o->ca_pem, o->server, err);
        if (rc != ERR_OK)
            return rc;
    }
    if (ctx->checks_name && SSL_CTX_set_default_verify_paths(ctx->ssl) != 1)
        return fail(err, ERR_TLS, "the system's CA certificates");
    int mode = ctx->verifies_peer ? SSL_VERIFY_PEER : SSL_VERIFY_NONE;
    if (o->require_peer_cert)
        mode |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    int (*otherwise)(int, X509_STORE_CTX *) = o->ca_pem && o->tls13_only ? on_verify : NULL;
    SSL_CTX_set_verify(ctx->ssl, mode, o->judged ? tls_take_any : otherwise);
    return ERR_OK;
}

int tls_ctx_new(struct tls_ctx **out, const struct tls_options *o, struct err_ctx *err)
{
    if (!o->cert_pem != !o->key_pem || (o->server && !o->cert_pem))
        return err_set(err, ERR_INVALID, "certificate and private key are needed, both");
    ERR_clear_error();
    struct tls_ctx *ctx = mem_new(struct tls_ctx);
    atomic_init(&ctx->refs, 1);
    ctx->server = o->server;
    ctx->ssl = SSL_CTX_new(o->server ? TLS_server_method() : TLS_client_method());
    ctx->bio = stream_tls_bio_method();
    int rc = ctx->ssl && ctx->bio ? ERR_OK : fail(err, ERR_TLS, "TLS context");
    if (rc == ERR_OK)
        rc = set_protocol(ctx->ssl, o, err);
    if (rc == ERR_OK && o->cert_pem)
        rc = use_certificate(ctx->ssl, o->cert_pem, err);
    if (rc == ERR_OK && o->key_pem)
        rc = use_key(ctx->ssl, o->key_pem, err);
    if (rc == ERR_OK)
        rc = set_verification(ctx, o, err);
    if (rc == ERR_OK && o->alpn)
        rc = use_alpn(ctx, o->alpn, err);
    if (rc != ERR_OK) {
        tls_ctx_unref(ctx);
        return rc;
    }
    if (o->server)
        SSL_CTX_set_tlsext_servername_callback(ctx->ssl, stream_tls_on_server_name);
    *out = ctx;
    return ERR_OK;
}

struct tls_ctx *tls_ctx_ref(struct tls_ctx *ctx)
{
    atomic_fetch_add_explicit(&ctx->refs, 1, memory_order_relaxed);
    return ctx;
}

void tls_ctx_unref(struct tls_ctx *ctx)
{
    if (!ctx || atomic_fetch_sub_explicit(&ctx->refs, 1, memory_order_acq_rel) != 1)
        return;
    SSL_CTX_free(ctx->ssl);
    BIO_meth_free(ctx->bio);
    mem_free(ctx->alpn);
    mem_free(ctx);
}

struct tls_sni {
    _Atomic unsigned refs;
    struct tls_ctx *fallback;
    struct htab domains;
};

struct sni_entry {
    struct hnode node;
    struct tls_ctx *ctx;
    char domain[256];
};

static bool entry_is(const struct hnode *node, const void *key, size_t n_bytes)
{
    const struct sni_entry *e = container_of(node, struct sni_entry, node);
    return strlen(e->domain) == n_bytes && memcmp(e->domain, key, n_bytes) == 0;
}

/* Lower case, without the dot of the root. Returns the length, 0 if it is not a name we could have. */
static size_t canonical(char out[256], const char *domain)
{
    size_t n = strlen(domain);
    if (n > 0 && domain[n - 1] == '.')
        n--;
    if (n > 255)
        return 0;
    for (size_t i = 0; i < n; i++)
        out[i] = (char)tolower((unsigned char)domain[i]);
    out[n] = '\0';
    return n;
}

struct tls_sni *tls_sni_new(struct tls_ctx *fallback)
{
    struct tls_sni *sni = mem_new(struct tls_sni);
    atomic_init(&sni->refs, 1);
    sni->fallback = tls_ctx_ref(fallback);
    htab_init(&sni->domains, entry_is);
    return sni;
}

void tls_sni_add(struct tls_sni *sni, const char *domain, struct tls_ctx *ctx)
{
    char name[256];
    size_t n = canonical(name, domain);
    assert(ctx->server);
    if (n == 0)
        return;
    struct hnode *old = htab_find(&sni->domains, name, n);
    struct sni_entry *e = old ? container_of(old, struct sni_entry, node) : mem_new(struct sni_entry);
    tls_ctx_unref(e->ctx);
    e->ctx = tls_ctx_ref(ctx);
    if (old)
        return;
    memcpy(e->domain, name, n + 1);
    htab_add(&sni->domains, &e->node, e->domain, n);
}

struct tls_ctx *tls_sni_find(const struct tls_sni *sni, const char *domain)
{
    char name[256];
    size_t n = domain ? canonical(name, domain) : 0;
    struct hnode *node = n ? htab_find(&sni->domains, name, n) : NULL;
    return node ? container_of(node, struct sni_entry, node)->ctx : sni->fallback;
}

struct tls_ctx *tls_sni_fallback(const struct tls_sni *sni)
{
    return sni->fallback;
}

struct tls_sni *tls_sni_ref(struct tls_sni *sni)
{
    atomic_fetch_add_explicit(&sni->refs, 1, memory_order_relaxed);
    return sni;
}

void tls_sni_unref(struct tls_sni *sni)
{
    if (!sni || atomic_fetch_sub_explicit(&sni->refs, 1, memory_order_acq_rel) != 1)
        return;
    htab_for_each(node, &sni->domains)
    {
        struct sni_entry *e = container_of(node, struct sni_entry, node);
        htab_remove(&sni->domains, node);
        tls_ctx_unref(e->ctx);
        mem_free(e);
    }
    htab_fini(&sni->domains);
    tls_ctx_unref(sni->fallback);
    mem_free(sni);
}

int tls_setup_server(struct ssl_ctx_st *ctx, struct err_ctx *err)
{
    const struct tls_options o = {.server = true};
    return set_protocol(ctx, &o, err);
}

int tls_sni_show(const struct tls_sni *sni, struct ssl_st *ssl, struct err_ctx *err)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    const struct tls_ctx *ctx = name ? tls_sni_find(sni, name) : tls_sni_fallback(sni);
    STACK_OF(X509) *chain = NULL;
    SSL_CTX_get0_chain_certs(ctx->ssl, &chain);
    SSL_certs_clear(ssl);
    ERR_clear_error();
    if (SSL_use_certificate(ssl, SSL_CTX_get0_certificate(ctx->ssl)) != 1 ||
        SSL_use_PrivateKey(ssl, SSL_CTX_get0_privatekey(ctx->ssl)) != 1 ||
        (chain && SSL_set1_chain(ssl, chain) != 1))
        return fail(err, ERR_TLS, "certificate");
    return ERR_OK;
}
