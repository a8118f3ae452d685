/* Life of the server: certificates, connections counted by address, what a callback is about. */
#include "base/admission.h"
#include "protocols/http/http_server_impl.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { IDLE_S = 30, MAX_HEADERS = 8192, MAX_HEADS = 1024, MAX_FORWARDED = 1024, SERVICE_BYTES = 32 * 1024 };

struct http_server *http_server_of(struct lws *wsi)
{
    struct lws_context *context = lws_get_context(wsi);
    struct http_server *s = context ? lws_context_user(context) : NULL;
    return s && !s->closing ? s : NULL;
}

/* ---- certificates: libwebsockets would take one alone and cannot replace it, so each handshake asks us ----
 */

static int on_certificate(SSL *ssl, void *user)
{
    struct http_server *s = user;
    struct err_ctx err = {0};
    if (!s->sni)
        return 0;
    if (!tls_sni_show(s->sni, ssl, &err))
        return 1;
    log_error(s->o.log, "HTTPS: %s", err.text);
    return 0;
}

static int set_up_tls(struct http_server *s, SSL_CTX *ctx)
{
    struct err_ctx err = {0};
    if (tls_setup_server(ctx, &err)) {
        log_error(s->o.log, "HTTPS: %s", err.text);
        return -1;
    }
    SSL_CTX_set_cert_cb(ctx, on_certificate, s);
    return 0;
}

void http_server_set_sni(struct http_server *s, struct tls_sni *sni)
{
    tls_sni_unref(s->sni);
    s->sni = tls_sni_ref(sni);
}

/* ---- connections by address ---- */

static bool has_address(const struct hnode *node, const void *key, size_t n)
{
    const struct http_peer *p = container_of(node, struct http_peer, node);
    return strlen(p->address) == n && !memcmp(p->address, key, n);
}

/* "::ffff:1.2.3.4" is an IPv4 client of a listener for both. */
static void peer_address(int fd, char address[64])
{
    static const char mapped[] = "::ffff:";
    char text[64] = "";
    lws_get_peer_simple_fd(fd, text, sizeof(text));
    bool v4 = !strncmp(text, mapped, sizeof(mapped) - 1) && strchr(text, '.');
    snprintf(address, 64, "%s", v4 ? text + sizeof(mapped) - 1 : text);
}

static struct http_peer *find_peer(struct http_server *s, const char *address)
{
    struct hnode *node = htab_find(&s->peers, address, strlen(address));
    return node ? container_of(node, struct http_peer, node) : NULL;
}

static bool has_room(struct http_server *s, int fd)
{
    char address[64];
    peer_address(fd, address);
    if (s->n_connections >= s->o.max_connections)
        return false;
    if (s->o.is_proxy && s->o.is_proxy(s->o.proxy_user, address))
        return true;
    const struct http_peer *p = find_peer(s, address);
    return (!p || p->n < s->o.max_per_address) &&
           admission_take(s->o.admission, address, loop_now_ms(s->o.loop));
}

static void count_peer(struct http_server *s, struct lws *wsi)
{
    char address[64];
    peer_address(lws_get_socket_fd(wsi), address);
    struct http_peer *p = find_peer(s, address);
    if (!p) {
        p = mem_new(struct http_peer);
        snprintf(p->address, sizeof(p->address), "%s", address);
        htab_add(&s->peers, &p->node, p->address, strlen(p->address));
    }
    p->n++;
    s->n_connections++;
    lws_set_opaque_user_data(wsi, p);
}

static void uncount_peer(struct lws *wsi)
{
    struct lws_context *context = lws_get_context(wsi);
    struct http_server *s = context ? lws_context_user(context) : NULL;
    struct http_peer *p = lws_get_opaque_user_data(wsi);
    if (!s || !p)
        return;
    lws_set_opaque_user_data(wsi, NULL);
    s->n_connections--;
    if (--p->n)
        return;
    htab_remove(&s->peers, &p->node);
    mem_free(p);
}

void http_server_set_limits(struct http_server *s, unsigned connections, unsigned per_address)
{
    s->o.max_connections = connections;
    s->o.max_per_address = per_address;
}

unsigned http_server_n_connections(const struct http_server *s)
{
    return s->n_connections;
}

/* ---- what a request says ---- */

static char *copy_header(struct lws *wsi, enum lws_token_indexes token, int max)
{
    int n = lws_hdr_total_length(wsi, token);
    if (n <= 0 || n > max)
        return mem_strdup("");
    char *out = mem_alloc((size_t)n + 1);
    if (lws_hdr_copy(wsi, out, n + 1, token) < 0)
        n = 0;
    out[n] = '\0';
    return out;
}

static bool is_address(const char *text)
{
    uint8_t out[16];
    return inet_pton(AF_INET, text, out) == 1 || inet_pton(AF_INET6, text, out) == 1;
}

/* The last entry of X-Forwarded-For that is not a trusted proxy itself: what stands before it anybody may
 * have written. */
static void read_forwarded(struct http_strings *out, struct http_server *s, struct lws *wsi)
{
    char *list = copy_header(wsi, WSI_TOKEN_X_FORWARDED_FOR, MAX_FORWARDED);
    for (char *end = list + strlen(list); end > list;) {
        *end = '\0';
        char *comma = strrchr(list, ','), *from = comma ? comma + 1 : list;
        from += strspn(from, " \t");
        from[strcspn(from, " \t")] = '\0';
        if (!is_address(from))
            break;
        snprintf(out->address, sizeof(out->address), "%s", from);
        out->port = 0;
        if (!comma || !s->o.is_proxy(s->o.proxy_user, from))
            break;
        end = comma;
    }
    mem_free(list);
}

void http_read_strings(struct http_strings *out, struct http_server *s, struct lws *wsi, const char *path)
{
    *out = (struct http_strings){
        .path = mem_strdup(path),
        .host = copy_header(wsi, WSI_TOKEN_HOST, HTTP_ORIGIN_MAX),
        .origin = copy_header(wsi, WSI_TOKEN_ORIGIN, HTTP_ORIGIN_MAX),
    };
    struct sockaddr_storage from = {0};
    socklen_t n = sizeof(from);
    peer_address(lws_get_socket_fd(wsi), out->address);
    if (!getpeername(lws_get_socket_fd(wsi), (struct sockaddr *)&from, &n))
        out->port = ntohs(from.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&from)->sin6_port
                                                     : ((struct sockaddr_in *)&from)->sin_port);
    if (s->o.is_proxy && s->o.is_proxy(s->o.proxy_user, out->address))
        read_forwarded(out, s, wsi);
    else
        out->tls = lws_get_ssl(wsi);
}

void http_free_strings(struct http_strings *s)
{
    mem_free(s->path);
    mem_free(s->host);
    mem_free(s->origin);
    *s = (struct http_strings){0};
}

struct http_request http_request_of(const struct http_strings *s)
{
    return (struct http_request){.method = HTTP_GET,
                                 .path = s->path,
                                 .host = s->host,
                                 .origin = s->origin,
                                 .address = s->address,
                                 .port = s->port,
                                 .tls = s->tls,
                                 .body = ""};
}

/* ---- callbacks ---- */

static int on_connection(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in, size_t n)
{
    struct http_server *s = http_server_of(wsi);
    switch (reason) {
    case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS:
        return s ? set_up_tls(s, user) : 0;
    case LWS_CALLBACK_FILTER_NETWORK_CONNECTION: /* IN is the new socket, WSI the listening one */
        return !s || !has_room(s, (int)(intptr_t)in);
    case LWS_CALLBACK_SERVER_NEW_CLIENT_INSTANTIATED:
        if (s)
            count_peer(s, wsi);
        return s ? 0 : -1;
    case LWS_CALLBACK_WSI_DESTROY:
        uncount_peer(wsi);
        return 0;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return s ? http_socket_confirm(s, wsi) : -1;
    default:
        return http_exchange_callback(wsi, reason, user, in, n);
    }
}

/* ---- life ---- */

static int make_vhost(struct http_server *s, struct err_ctx *err)
{
    struct lws_context_creation_info info = {0};
    info.port = (int)s->o.port;
    info.iface = *s->address ? s->address : NULL;
    info.protocols = s->protocols;
    info.alpn = "http/1.1";
    info.vhost_name = "https";
    info.options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_CREATE_VHOST_SSL_CTX |
                   LWS_SERVER_OPTION_FAIL_UPON_UNABLE_TO_BIND | LWS_SERVER_OPTION_VALIDATE_UTF8;
    if (strchr(s->address, '.'))
        info.options |= LWS_SERVER_OPTION_DISABLE_IPV6; /* else it takes an IPv4 address for "any" */
    info.keepalive_timeout = IDLE_S;
    if (!lws_create_vhost(s->context, &info))
        return err_set(err, ERR_IO, "cannot listen on %s port %u", *s->address ? s->address : "any address",
                       s->o.port);
    return 0;
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

/* The table of descriptors is as long as the process may have descriptors: with a limit of its own the
 * library would search it for every event. */
static int make_context(struct http_server *s, struct err_ctx *err)
{
    void *loops[] = {loop_uv(s->o.loop)};
    struct lws_context_creation_info info = {0};
    info.port = CONTEXT_PORT_NO_LISTEN;
    info.options = LWS_SERVER_OPTION_EXPLICIT_VHOSTS | LWS_SERVER_OPTION_LIBUV |
                   LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT | LWS_SERVER_OPTION_UV_NO_SIGSEGV_SIGFPE_SPIN |
                   LWS_SERVER_OPTION_VALIDATE_UTF8;
    info.foreign_loops = loops;
    info.user = s;
    info.timeout_secs = IDLE_S;
    info.max_http_header_data = MAX_HEADERS;
    info.max_http_header_pool = MAX_HEADS; /* while a head is read and answered */
    /* A whole TLS record in one read: on a uv loop the library does not come back for what is left of one in
     * OpenSSL's buffer until more comes over the wire. */
    info.pt_serv_buf_size = SERVICE_BYTES;
    lws_set_log_level(0, NULL);
    s->context = lws_create_context(&info);
    return s->context ? 0 : err_set(err, ERR_INTERNAL, "the HTTPS server could not be made");
}

int http_server_open(struct http_server **out, const struct http_server_options *o, struct err_ctx *err)
{
    int rc = check_port(o, err);
    if (rc)
        return rc;
    struct http_server *s = mem_new(struct http_server);
    s->o = *o;
    s->sni = o->sni ? tls_sni_ref(o->sni) : NULL;
    list_init(&s->exchanges);
    list_init(&s->sockets);
    htab_init(&s->peers, has_address);
    snprintf(s->address, sizeof(s->address), "%s", o->address);
    s->protocols[0] = (struct lws_protocols){"http", on_connection, http_exchange_bytes(), 0, 0, NULL, 0};
    if (o->socket)
        s->protocols[1] = (struct lws_protocols){
            o->socket->subprotocol, http_socket_callback, http_socket_bytes(), 0, 0, NULL, 0};
    rc = make_context(s, err);
    if (rc) {
        tls_sni_unref(s->sni);
        mem_free(s);
        return rc;
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
    s->closing = true;
    http_exchange_drop_all(s);
    http_socket_drop_all(s);
    tls_sni_unref(s->sni);
    s->sni = NULL;
    /* With a foreign loop this goes on over the next turns; the struct is small and stays for the callbacks.
     */
    lws_context_destroy(s->context);
}
