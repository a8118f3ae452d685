#include "protocols/http/http_server.h"
#include "base/mem.h"
#include <arpa/inet.h>
#include <errno.h>
#include <libwebsockets.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_CONNECTIONS = 256, IDLE_S = 30, MAX_HEADERS = 8192 };

/* Per connection, in libwebsockets' memory. */
struct exchange {
    struct http_answer answer;
    size_t sent;
    bool head, counted;
    bool closes; /* a body comes that nobody reads: the connection ends with the answer */
};
struct http_server {
    struct http_server_options o;
    char address[64];
    struct lws_context *context;
    struct identity {
        X509 *leaf;
        STACK_OF(X509) * chain;
        EVP_PKEY *key;
    } identity; /* shown to new connections */
    unsigned n_connections;
};

/* ---- certificates: libwebsockets would take one alone and cannot replace it, so each handshake asks us ----
 */

static void identity_fini(struct identity *i)
{
    X509_free(i->leaf);
    EVP_PKEY_free(i->key);
    sk_X509_pop_free(i->chain, X509_free);
    *i = (struct identity){0};
}

static int identity_load(struct identity *out, const char *cert_pem, const char *key_pem, struct err_ctx *err)
{
    struct identity i = {.chain = sk_X509_new_null()};
    BIO *certs = BIO_new_mem_buf(cert_pem, -1), *key = BIO_new_mem_buf(key_pem, -1);
    i.leaf = certs ? PEM_read_bio_X509(certs, NULL, NULL, NULL) : NULL;
    i.key = key ? PEM_read_bio_PrivateKey(key, NULL, NULL, NULL) : NULL;
    bool ok = i.chain && i.leaf && i.key && X509_check_private_key(i.leaf, i.key) == 1;
    X509 *more;
    while (ok && (more = PEM_read_bio_X509(certs, NULL, NULL, NULL)))
        if (!(ok = sk_X509_push(i.chain, more) > 0))
            X509_free(more);
    BIO_free(certs);
    BIO_free(key);
    ERR_clear_error();
    if (!ok) {
        identity_fini(&i);
        return err_set(err, ERR_TLS, "the certificate or its key cannot be used");
    }
    identity_fini(out);
    *out = i;
    return 0;
}

static int on_certificate(SSL *ssl, void *user)
{
    struct http_server *s = user;
    SSL_certs_clear(ssl);
    return s->identity.leaf && SSL_use_certificate(ssl, s->identity.leaf) == 1 &&
           SSL_use_PrivateKey(ssl, s->identity.key) == 1 && SSL_set1_chain(ssl, s->identity.chain) == 1;
}

/* ---- answers ---- */

static const struct http_route *find_route(const struct http_server *s, const char *path)
{
    for (const struct http_route *r = s->o.routes; r->path; r++)
        if (!strcmp(r->path, path))
            return r;
    return NULL;
}

static int write_headers(struct lws *wsi, struct exchange *x)
{
    uint8_t space[LWS_PRE + 1024], *start = space + LWS_PRE, *p = start, *end = space + sizeof(space) - 1;
    if (lws_add_http_common_headers(wsi, (unsigned)x->answer.status, x->answer.content_type, x->answer.body.n,
                                    &p, end) ||
        lws_add_http_header_by_name(wsi, (const uint8_t *)"cache-control:", (const uint8_t *)"no-store", 8,
                                    &p, end) ||
        lws_finalize_write_http_header(wsi, start, &p, end))
        return -1;
    return 0;
}

static int on_request(struct http_server *s, struct lws *wsi, struct exchange *x, const char *path)
{
    x->answer = (struct http_answer){.status = 200, .content_type = "text/plain; charset=utf-8"};
    x->sent = 0;
    x->head = lws_hdr_total_length(wsi, WSI_TOKEN_HEAD_URI) > 0;
    bool get = lws_hdr_total_length(wsi, WSI_TOKEN_GET_URI) > 0;
    const struct http_route *route = find_route(s, path);
    x->closes = !get && !x->head;
    if (x->closes) {
        x->answer.status = 405;
        buf_adds(&x->answer.body, "method not allowed\n");
    } else if (!route) {
        x->answer.status = 404;
        buf_adds(&x->answer.body, "not found\n");
    } else {
        route->handle(s->o.user, &x->answer);
    }
    if (write_headers(wsi, x))
        return -1;
    if (x->head || !x->answer.body.n) {
        buf_fini(&x->answer.body);
        return lws_http_transaction_completed(wsi) ? -1 : 0;
    }
    lws_callback_on_writable(wsi);
    return 0;
}

static int on_writable(struct lws *wsi, struct exchange *x)
{
    enum { CHUNK = 16 * 1024 };
    uint8_t space[LWS_PRE + CHUNK];
    size_t n = x->answer.body.n - x->sent;
    if (!n)
        return 0;
    bool last = n <= CHUNK;
    if (!last)
        n = CHUNK;
    memcpy(space + LWS_PRE, x->answer.body.data + x->sent, n);
    if (lws_write(wsi, space + LWS_PRE, n, last ? LWS_WRITE_HTTP_FINAL : LWS_WRITE_HTTP) != (int)n)
        return -1;
    x->sent += n;
    if (!last) {
        lws_callback_on_writable(wsi);
        return 0;
    }
    buf_fini(&x->answer.body);
    return x->closes || lws_http_transaction_completed(wsi) ? -1 : 0;
}

static int callback(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t len)
{
    struct exchange *x = user;
    struct lws_context *context = lws_get_context(wsi);
    struct http_server *s = context ? lws_context_user(context) : NULL;
    switch (reason) {
    case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
        if (s && SSL_CTX_set_min_proto_version(user, TLS1_2_VERSION) == 1)
            SSL_CTX_set_cert_cb(user, on_certificate, s);
        return 0;
    case LWS_CALLBACK_FILTER_NETWORK_CONNECTION:
        return s && s->n_connections >= MAX_CONNECTIONS;
    case LWS_CALLBACK_HTTP_BIND_PROTOCOL:
        if (s && x && !x->counted) {
            x->counted = true;
            s->n_connections++;
        }
        return 0;
    case LWS_CALLBACK_HTTP_DROP_PROTOCOL:
        if (s && x && x->counted) {
            x->counted = false;
            s->n_connections--;
        }
        return 0;
    case LWS_CALLBACK_HTTP:
        return s && x ? on_request(s, wsi, x, in) : -1;
    case LWS_CALLBACK_HTTP_WRITEABLE:
        return x ? on_writable(wsi, x) : -1;
    case LWS_CALLBACK_HTTP_BODY:
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return 0; /* not looked at */
    case LWS_CALLBACK_CLOSED_HTTP:
        if (x)
            buf_fini(&x->answer.body);
        return 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, len);
    }
}

static const struct lws_protocols protocols[] = {
    {"http", callback, sizeof(struct exchange), 0, 0, NULL, 0},
    {NULL, NULL, 0, 0, 0, NULL, 0},
};

/* ---- life ---- */

static int make_vhost(struct http_server *s, struct err_ctx *err)
{
    struct lws_context_creation_info info = {0};
    info.port = (int)s->o.port;
    info.iface = *s->address ? s->address : NULL;
    info.protocols = protocols;
    info.alpn =
        "http/1.1"; /* over HTTP/2 this library cuts an answer off whose last write is above 4096 bytes */
    info.vhost_name = "https";
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_CREATE_VHOST_SSL_CTX |
                   LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND;
    if (strchr(s->address, '.'))
        info.options |= LWS_SERVER_OPTION_DISABLE_IPV6; /* else it takes an IPv4 address for "any" */
    info.keepalive_timeout = IDLE_S;
    info.timeout_secs = IDLE_S;
    if (!lws_create_vhost(s->context, &info))
        return err_set(err, ERR_IO, "cannot listen on %s port %u", *s->address ? s->address : "any address",
                       s->o.port);
    return 0;
}

int http_server_set_cert(struct http_server *s, const char *cert_pem, const char *key_pem,
                         struct err_ctx *err)
{
    return identity_load(&s->identity, cert_pem, key_pem, err);
}

/* libwebsockets does not survive a port that is taken while it sits on somebody else's loop (its context's
 * teardown closes handles that were never opened), so we look first. */
static int check_port(const struct http_server_options *o, struct err_ctx *err)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)o->port)};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->port)};
    bool is_v4 = inet_pton(AF_INET, o->address, &v4.sin_addr) == 1;
    if (!is_v4 && *o->address && inet_pton(AF_INET6, o->address, &any.sin6_addr) != 1)
        return err_set(err, ERR_INVALID, "'%s' is not an address", o->address);
    int fd = socket(is_v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0)
        return err_set(err, ERR_SYSTEM, "socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    int rc =
        is_v4 ? bind(fd, (struct sockaddr *)&v4, sizeof(v4)) : bind(fd, (struct sockaddr *)&any, sizeof(any));
    if (!rc)
        rc = listen(fd, 1);
    if (rc)
        rc = err_set(err, ERR_IO, "cannot listen on %s port %u: %s", *o->address ? o->address : "any address",
                     o->port, strerror(errno));
    close(fd);
    return rc;
}

int http_server_open(struct http_server **out, const struct http_server_options *o, struct err_ctx *err)
{
    struct identity identity = {0};
    int rc = check_port(o, err);
    if (rc || (rc = identity_load(&identity, o->cert_pem, o->key_pem, err)))
        return rc;
    struct http_server *s = mem_new(struct http_server);
    s->o = *o;
    s->identity = identity;
    snprintf(s->address, sizeof(s->address), "%s", o->address);
    void *loops[] = {loop_uv(o->loop)};
    struct lws_context_creation_info info = {0};
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_LIBUV |
                   LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_UV_NO_SIGSEGV_SIGFPE_SPIN;
    info.foreign_loops = loops;
    info.user = s;
    info.max_http_header_data = MAX_HEADERS;
    info.max_http_header_pool = MAX_CONNECTIONS;
    info.fd_limit_per_thread = MAX_CONNECTIONS + 16;
    info.pcontext = &s->context;
    lws_set_log_level(0, NULL);
    s->context = lws_create_context(&info);
    if (!s->context) {
        identity_fini(&identity);
        mem_free(s);
        return err_set(err, ERR_INTERNAL, "the HTTPS server could not be made");
    }
    rc = make_vhost(s, err);
    if (rc) {
        http_server_close(s);
        return rc;
    }
    *out = s;
    return 0;
}

void http_server_close(struct http_server *s)
{
    if (!s)
        return;
    /* With a foreign loop this goes on over the next turns; the struct is small and stays for the callbacks.
     */
    lws_context_destroy(s->context);
}
