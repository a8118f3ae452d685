/* TLS of a stream. The BIO reads from the loop's input buffer and writes to the stream's output queue, so
 * OpenSSL never sees the socket, and an idle connection holds neither buffer. */
#include "base/stream_impl.h"
#include "base/tunnel.h"
#include <arpa/inet.h>
#include <assert.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

static int bio_read(BIO *bio, char *out, size_t n_bytes, size_t *n_read)
{
    struct stream *s = BIO_get_data(bio);
    size_t left = (size_t)(s->rd_end - s->rd);
    BIO_clear_retry_flags(bio);
    if (left == 0) {
        BIO_set_retry_read(bio);
        *n_read = 0;
        return 0;
    }
    *n_read = n_bytes < left ? n_bytes : left;
    memcpy(out, s->rd, *n_read);
    s->rd += *n_read;
    return 1;
}

static int bio_write(BIO *bio, const char *data, size_t n_bytes, size_t *n_written)
{
    struct stream *s = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    out_add(s->hub, &s->wire, data, n_bytes);
    stream_mark_dirty(s);
    *n_written = n_bytes;
    return 1;
}

static long bio_ctrl(BIO *bio, int command, long n, void *p)
{
    return command == BIO_CTRL_FLUSH || command == BIO_CTRL_DUP;
}

static int bio_create(BIO *bio)
{
    BIO_set_init(bio, 1);
    return 1;
}

BIO_METHOD *stream_tls_bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOURCE_SINK, "imp stream");
    if (!m)
        return NULL;
    BIO_meth_set_read_ex(m, bio_read);
    BIO_meth_set_write_ex(m, bio_write);
    BIO_meth_set_ctrl(m, bio_ctrl);
    BIO_meth_set_create(m, bio_create);
    return m;
}

/* Before each call, so that SSL_get_error reads no error of somebody else on this thread. Mostly there is
 * none, and to see that is much cheaper than to clear the queue. */
static void clear_errors(void)
{
    if (__builtin_expect(ERR_peek_error() != 0, 0))
        ERR_clear_error();
}

static struct stream *stream_of(SSL *ssl)
{
    return BIO_get_data(SSL_get_rbio(ssl));
}

/* RFC 6066 §3. An unknown name gets the default certificate, which the client may then refuse. */
int stream_tls_on_server_name(SSL *ssl, int *alert, void *arg)
{
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    struct stream *s = stream_of(ssl);
    if (!name || !s->sni)
        return SSL_TLSEXT_ERR_NOACK;
    const struct tls_ctx *ctx = tls_sni_find(s->sni, name);
    if (ctx != s->ctx) {
        SSL_set_SSL_CTX(ssl, ctx->ssl);
        SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ctx->ssl), NULL);
    }
    return SSL_TLSEXT_ERR_OK;
}

/* --- the handshake --- */

static void fail_tls(struct stream *s, const char *what)
{
    char reason[256];
    long verify = SSL_get_verify_result(s->ssl);
    tls_error_text(reason, sizeof(reason), "protocol error");
    bool by_certificate = verify != X509_V_OK && (SSL_get_verify_mode(s->ssl) & SSL_VERIFY_PEER);
    /* Our alert is in the queue already and goes out; nothing else can be encrypted any more. */
    out_clear(s->hub, &s->plain);
    stream_finish(s, ERR_TLS, "%s: %s%s%s", what, reason, by_certificate ? ", " : "",
                  by_certificate ? X509_verify_cert_error_string(verify) : "");
    stream_tls_free(s);
}

/* RFC 8446 §5.1 and §4: a record's header (type, version, length) and in it the one of the handshake message.
 * A client that has said nothing yet gets no more memory than an honest one needs. */
static bool is_hello_ok(struct stream *s)
{
    for (const uint8_t *p = s->rd; p < s->rd_end && s->n_hello < sizeof(s->hello); p++)
        s->hello[s->n_hello++] = *p;
    const uint8_t *h = s->hello;
    if (s->n_hello < sizeof(s->hello))
        return true;
    unsigned record = (unsigned)h[3] << 8 | h[4];
    unsigned message = (unsigned)h[6] << 16 | (unsigned)h[7] << 8 | h[8];
    return h[0] == SSL3_RT_HANDSHAKE && record >= 4 && record <= STREAM_RECORD_BYTES &&
           h[5] == SSL3_MT_CLIENT_HELLO && message <= STREAM_HELLO_BYTES;
}

static void handshake(struct stream *s)
{
    if (!s->is_client && s->n_hello < sizeof(s->hello) && !is_hello_ok(s)) {
        stream_fail(s, ERR_TLS, "TLS handshake: no acceptable ClientHello");
        return;
    }

    clear_errors();
    int rc = SSL_do_handshake(s->ssl);
    if (rc == 1) {
        metrics_add(s->metrics, METRIC_TLS_HANDSHAKES, 1);
        tls_sni_unref(s->sni);
        s->sni = NULL;
        stream_opened(s);
        return;
    }
    switch (SSL_get_error(s->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        return;
    case SSL_ERROR_ZERO_RETURN:
        stream_on_end(s, "closed by the peer during the TLS handshake");
        return;
    default:
        fail_tls(s, "TLS handshake");
    }
}

static void start(struct stream *s, struct tls_ctx *ctx, unsigned timeout_ms)
{
    s->ctx = tls_ctx_ref(ctx);
    s->state = STREAM_HANDSHAKE;
    s->timeout_ms = timeout_ms;
    timer_start(&s->timer, timeout_ms, 0);
    clear_errors();
    BIO *bio = BIO_new(ctx->bio);
    s->ssl = SSL_new(ctx->ssl);
    if (!bio || !s->ssl) {
        BIO_free(bio);
        stream_fail(s, ERR_NOMEM, "TLS state");
        return;
    }
    BIO_set_data(bio, s);
    SSL_set_bio(s->ssl, bio, bio);
    if (s->back.n) /* pushed back before: it came in clear */
        stream_fail(s, ERR_TLS, "input in clear before the start of TLS");
}

static bool may_start(const struct stream *s)
{
    assert(loop_is_current(s->loop));
    assert(s->state != STREAM_RESOLVING && s->state != STREAM_CONNECTING && s->state != STREAM_HANDSHAKE);
    assert(!s->ssl || s->state != STREAM_OPEN);
    return s->state == STREAM_OPEN; /* else on_close is on its way */
}

void stream_start_tls_server(struct stream *s, struct tls_sni *sni, unsigned timeout_ms)
{
    if (!may_start(s))
        return;
    s->sni = tls_sni_ref(sni);
    start(s, tls_sni_fallback(sni), timeout_ms);
    if (s->state == STREAM_HANDSHAKE) {
        SSL_set_accept_state(s->ssl);
        stream_update_poll(s);
    }
}

static bool is_address(const char *name)
{
    unsigned char out[16];
    return inet_pton(AF_INET, name, out) == 1 || inet_pton(AF_INET6, name, out) == 1;
}

static bool set_server_name(struct stream *s, const char *name)
{
    bool address = is_address(name);
    if (!address && SSL_set_tlsext_host_name(s->ssl, name) != 1)
        return false;
    if (!s->ctx->checks_name)
        return true;
    X509_VERIFY_PARAM *param = SSL_get0_param(s->ssl);
    SSL_set_hostflags(s->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return address ? X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1 : SSL_set1_host(s->ssl, name) == 1;
}

void stream_start_tls_client(struct stream *s, struct tls_ctx *ctx, const char *server_name,
                             unsigned timeout_ms)
{
    if (!may_start(s))
        return;
    s->is_client = true;
    start(s, ctx, timeout_ms);
    if (s->state != STREAM_HANDSHAKE)
        return;
    SSL_set_connect_state(s->ssl);
    if ((server_name && !set_server_name(s, server_name)) || (!server_name && ctx->checks_name)) {
        stream_fail(s, ERR_TLS, "\"%s\" is no server name", server_name ? server_name : "");
        return;
    }
    stream_update_poll(s);
    handshake(s); /* its first message */
}

/* --- data --- */

/* One record's text to the owner; false when there is no more. */
static bool read_record(struct stream *s)
{
    size_t n = 0, queued = s->wire.n_bytes;
    clear_errors();
    int rc = SSL_read_ex(s->ssl, s->hub->plain, sizeof(s->hub->plain), &n);
    /* Each KeyUpdate asks for an answer (RFC 8446 §4.6.3): a peer that sends them and reads nothing must not
     * fill our memory. */
    s->replied += (unsigned)(s->wire.n_bytes - queued);
    if (s->replied > STREAM_REPLY_BYTES) {
        stream_fail(s, ERR_TLS, "TLS: the peer makes us answer and does not read");
        return false;
    }
    if (rc == 1) {
        stream_give_data(s, s->hub->plain, n);
        return true;
    }
    switch (SSL_get_error(s->ssl, rc)) {
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_ZERO_RETURN:
        stream_on_end(s, "closed by the peer");
        break;
    default:
        fail_tls(s, "TLS");
    }
    return false;
}

/* Input that the owner did not want yet waits in s->in, still encrypted. */
static void set_aside(struct stream *s)
{
    size_t left = (size_t)(s->rd_end - s->rd);
    bool is_saved = s->in.n && (const char *)s->rd_end == s->in.data + s->in.n;
    if (s->state >= STREAM_CLOSING || s->ended || left == 0)
        buf_fini(&s->in);
    else if (is_saved)
        buf_cut(&s->in, s->in.n - left);
    else
        buf_add(&s->in, s->rd, left);
    s->rd = s->rd_end = NULL;
}

void stream_tls_pump(struct stream *s)
{
    while (stream_can_read(s) && !s->ended) {
        if (s->state == STREAM_HANDSHAKE) {
            handshake(s);
            if (s->state == STREAM_HANDSHAKE)
                break;
        } else if (!read_record(s)) {
            break;
        } else if (s->rd == s->rd_end && s->ssl && !SSL_has_pending(s->ssl)) {
            break; /* spares the call that would say so */
        }
    }
    set_aside(s);
}

void stream_tls_encrypt(struct stream *s)
{
    if (s->state == STREAM_HANDSHAKE)
        return;
    while (s->plain.first && s->wire.n_bytes < STREAM_WIRE_BYTES) {
        const struct chunk *c = s->plain.first;
        size_t n = 0;
        clear_errors();
        if (SSL_write_ex(s->ssl, out_bytes(c), c->n, &n) != 1) {
            char reason[160];
            tls_error_text(reason, sizeof(reason), "write refused");
            stream_fail(s, ERR_TLS, "TLS: %s", reason);
            return;
        }
        out_drop(s->hub, &s->plain, n);
    }
}

void stream_tls_notify(struct stream *s)
{
    if (!s->ssl || s->notified)
        return;
    s->notified = true;
    clear_errors();
    if (SSL_is_init_finished(s->ssl))
        SSL_shutdown(s->ssl);
    clear_errors();
}

void stream_tls_free(struct stream *s)
{
    SSL_free(s->ssl); /* the BIO goes with it */
    s->ssl = NULL;
    tls_sni_unref(s->sni);
    s->sni = NULL;
    tls_ctx_unref(s->ctx);
    s->ctx = NULL;
    s->rd = s->rd_end = NULL;
}

/* --- questions --- */

bool stream_is_tls(const struct stream *s)
{
    return s->encrypted || (s->ssl && s->state != STREAM_HANDSHAKE);
}

const char *stream_sni(const struct stream *s)
{
    return s->ssl ? SSL_get_servername(s->ssl, TLSEXT_NAMETYPE_host_name) : NULL;
}

/* A name with a NUL in it, or one that does not fit, is none: half a name could be somebody else's. */
static void copy_name(char out[256], const ASN1_STRING *name)
{
    const unsigned char *data = ASN1_STRING_get0_data(name);
    int n = ASN1_STRING_length(name);
    if (n <= 0 || n > 255 || memchr(data, '\0', (size_t)n))
        return;
    memcpy(out, data, (size_t)n);
    out[n] = '\0';
}

static void note_names(struct tls_peer *out, X509 *leaf)
{
    const X509_NAME *subject = X509_get_subject_name(leaf);
    int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);
    if (at >= 0 && X509_NAME_get_index_by_NID(subject, NID_commonName, at) < 0)
        copy_name(out->common_name, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));

    GENERAL_NAMES *names = X509_get_ext_d2i(leaf, NID_subject_alt_name, NULL, NULL);
    size_t n_uris = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names) && n_uris < n_elements(out->uris); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type == GEN_URI)
            copy_name(out->uris[n_uris++], name->d.uniformResourceIdentifier);
    }
    GENERAL_NAMES_free(names);
}

void stream_tls_peer(const struct stream *s, struct tls_peer *out)
{
    memset(out, 0, sizeof(*out));
    if (!s->ssl || !stream_is_tls(s))
        return;
    const unsigned char *alpn;
    unsigned n_alpn;
    SSL_get0_alpn_selected(s->ssl, &alpn, &n_alpn);
    if (n_alpn < sizeof(out->alpn))
        memcpy(out->alpn, alpn ? alpn : (const unsigned char *)"", n_alpn);
    X509 *leaf = SSL_get0_peer_certificate(s->ssl);
    if (!leaf)
        return;
    out->has_cert = true;
    unsigned n = sizeof(out->fingerprint);
    X509_digest(leaf, EVP_sha256(), out->fingerprint, &n);
    out->verified =
        (SSL_get_verify_mode(s->ssl) & SSL_VERIFY_PEER) && SSL_get_verify_result(s->ssl) == X509_V_OK;
    uint8_t *der = NULL;
    int n_der = i2d_X509_PUBKEY(X509_get_X509_PUBKEY(leaf), &der);
    if (n_der <= 0 || EVP_Digest(der, (size_t)n_der, out->key_hash, NULL, EVP_sha256(), NULL) != 1)
        memset(out->key_hash, 0, sizeof(out->key_hash));
    OPENSSL_free(der);
    if (out->verified || SSL_get_verify_callback(s->ssl) == tls_take_any)
        note_names(out, leaf);
    clear_errors();
}

static bool has_own_tls(const struct stream *s)
{
    return s->ssl && stream_is_tls(s);
}

bool stream_tls_can_bind(const struct stream *s, enum tls_binding type)
{
    if (s->tunnel)
        return tunnel_binding(s->tunnel, type)->n > 0;
    return has_own_tls(s) && tls_can_bind(s->ssl, s->is_client, type);
}

int stream_tls_binding(const struct stream *s, enum tls_binding type, uint8_t *out, size_t *n_bytes)
{
    if (!s->tunnel)
        return has_own_tls(s) ? tls_bind(s->ssl, s->is_client, type, out, n_bytes) : ERR_UNSUPPORTED;
    const struct tunnel_binding *b = tunnel_binding(s->tunnel, type);
    if (b->n == 0)
        return ERR_UNSUPPORTED;
    if (*n_bytes < b->n)
        return ERR_LIMIT;
    memcpy(out, b->data, b->n);
    *n_bytes = b->n;
    return ERR_OK;
}
