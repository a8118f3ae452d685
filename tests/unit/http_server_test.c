/* The HTTPS server, asked by libcurl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "protocols/http/http_server.h"
#include "test_certs.h"
#include <arpa/inet.h>
#include <cmocka.h>
#include <curl/curl.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BIG = 190 * 1000 }; /* the last of its chunks is more than 4096 bytes */

struct scene {
    struct test_ca ca;
    char *cert, *key, *cert2, *key2;
    struct log *log;
    struct loop *loop;
    struct http_server *server;
    unsigned port;
    struct http_exchange *held;
    unsigned n_gone;
    int is_held;
    struct tls_sni *sni;
};

static void on_held_gone(void *user)
{
    struct scene *s = user;
    s->held = NULL;
    __atomic_add_fetch(&s->n_gone, 1, __ATOMIC_RELEASE);
}
static bool is_proxy(void *user, const char *address)
{
    return !strcmp(address, "127.0.0.1") || !strcmp(address, "192.0.2.7");
}

static void on_ok(void *user, const struct http_request *r, struct http_exchange *x,
                  struct http_answer *answer)
{
    (void)user;
    buf_adds(&answer->body, "ok\n");
}
static void on_not_ready(void *user, const struct http_request *r, struct http_exchange *x,
                         struct http_answer *answer)
{
    (void)user;
    answer->status = 503;
    answer->content_type = "application/json";
    buf_adds(&answer->body, "{\"ready\":false}");
}
static void on_big(void *user, const struct http_request *r, struct http_exchange *x,
                   struct http_answer *answer)
{
    (void)user;
    for (int i = 0; i < BIG; i++)
        buf_addc(&answer->body, (char)('a' + i % 26));
}
static void on_echo(void *user, const struct http_request *r, struct http_exchange *x,
                    struct http_answer *answer)
{
    answer->allow_origin = r->origin;
    buf_addf(&answer->body, "%s ", r->address);
    buf_add(&answer->body, r->body, r->n_body);
}
/* The first waits for the second. */
static void on_held(void *user, const struct http_request *r, struct http_exchange *x,
                    struct http_answer *answer)
{
    struct scene *s = user;
    if (s->held) {
        struct http_answer a = {.status = 200, .content_type = "text/plain"};
        buf_adds(&a.body, "first");
        http_exchange_answer(s->held, &a);
        s->held = NULL;
        buf_adds(&answer->body, "second");
        return;
    }
    s->held = x;
    __atomic_store_n(&s->is_held, 1, __ATOMIC_RELEASE);
    http_exchange_hold(x, on_held_gone, s);
}
/* What the request's connection can be bound to. */
static void on_binding(void *user, const struct http_request *r, struct http_exchange *x,
                       struct http_answer *answer)
{
    uint8_t out[TLS_BINDING_MAX];
    for (int i = 0; i < N_TLS_BINDINGS; i++) {
        size_t n = sizeof(out);
        if (r->tls && tls_bind(r->tls, false, (enum tls_binding)i, out, &n) == 0)
            for (size_t k = 0; k < n; k++)
                buf_addf(&answer->body, "%02x", out[k]);
        buf_addc(&answer->body, ' ');
    }
}
static const struct http_route routes[] = {
    {.path = "/ok", .methods = HTTP_GET, .max_body = 0, .handle = on_ok},
    {.path = "/not", .methods = HTTP_GET, .max_body = 0, .handle = on_not_ready},
    {.path = "/big", .methods = HTTP_GET, .max_body = 0, .handle = on_big},
    {.path = "/echo", .methods = HTTP_POST | HTTP_OPTIONS, .max_body = 300000, .handle = on_echo},
    {.path = "/binding", .methods = HTTP_GET, .max_body = 0, .handle = on_binding},
    {.path = "/held", .methods = HTTP_POST, .max_body = 1000, .handle = on_held},
    {.path = NULL}};

static unsigned free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(sa);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static struct tls_sni *make_sni(const char *cert, const char *key)
{
    struct tls_ctx *ctx = NULL;
    assert_int_equal(
        tls_ctx_new(&ctx, &(struct tls_options){.server = true, .cert_pem = cert, .key_pem = key}, NULL), 0);
    struct tls_sni *sni = tls_sni_new(ctx);
    tls_ctx_unref(ctx);
    return sni;
}

static int start(void **state)
{
    static struct scene
        scenes[5]; /* libwebsockets ends on later turns of the loop: what it holds stays reachable */
    static unsigned n;
    assert_true(n < n_elements(scenes));
    struct scene *s = &scenes[n++];
    struct err_ctx err = {0};
    *state = s;
    test_ca_make(&s->ca, "test CA");
    test_cert_make(&s->cert, &s->key, &s->ca, "first", "DNS:example.com", "SHA256");
    test_cert_make(&s->cert2, &s->key2, &s->ca, "second", "DNS:other.example", "SHA256");
    s->sni = make_sni(s->cert, s->key);
    s->log = log_new(2, LOG_TEXT, LOG_ERROR, "");
    assert_int_equal(loop_new(&s->loop, "http", s->log), 0);
    s->port = free_port();
    struct http_server_options o = {.loop = s->loop,
                                    .log = s->log,
                                    .address = "127.0.0.1",
                                    .port = s->port,
                                    .max_connections = 100,
                                    .max_per_address = 100,
                                    .sni = s->sni,
                                    .is_proxy = is_proxy,
                                    .groups = {{routes, s}}};
    assert_int_equal(http_server_open(&s->server, &o, &err), 0);
    struct http_server *second = NULL;
    assert_int_equal(http_server_open(&second, &o, &err),
                     ERR_IO); /* the port is taken: nothing is broken by it */
    assert_null(second);
    assert_int_equal(loop_start_thread(s->loop), 0);
    return 0;
}

struct call {
    struct letter letter;
    struct scene *s;
    volatile int done;
};
static void on_swap(struct letter *l)
{
    struct call *c = container_of(l, struct call, letter);
    struct tls_sni *sni = make_sni(c->s->cert2, c->s->key2);
    http_server_set_sni(c->s->server, sni);
    tls_sni_unref(sni);
    __atomic_store_n(&c->done, 1, __ATOMIC_RELEASE);
}
static void on_end(struct letter *l)
{
    struct call *c = container_of(l, struct call, letter);
    http_server_close(c->s->server);
    loop_stop(c->s->loop);
}
static int stop(void **state)
{
    struct scene *s = *state;
    struct call c = {{NULL, on_end, NULL}, s, 0};
    loop_post(s->loop, &c.letter);
    loop_join_thread(s->loop);
    tls_sni_unref(s->sni);
    test_ca_free(&s->ca);
    mem_free(s->cert);
    mem_free(s->key);
    mem_free(s->cert2);
    mem_free(s->key2);
    return 0;
}

static char *pem_of(BIO *bio)
{
    char *data;
    long n = BIO_get_mem_data(bio, &data);
    char *pem = mem_strndup(data, (size_t)n);
    BIO_free(bio);
    return pem;
}

static void make_rsa(struct scene *s)
{
    EVP_PKEY *key = EVP_RSA_gen(2048);
    X509 *cert = X509_new();
    X509_set_version(cert, X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), 77);
    X509_gmtime_adj(X509_getm_notBefore(cert), -60);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_set_pubkey(cert, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const uint8_t *)"rsa", -1,
                               -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(s->ca.cert));
    X509_EXTENSION *san = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, "DNS:other.example");
    X509_add_ext(cert, san, -1);
    X509_EXTENSION_free(san);
    assert_true(X509_sign(cert, s->ca.key, EVP_sha256()) > 0);
    BIO *cert_bio = BIO_new(BIO_s_mem()), *key_bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_X509(cert_bio, cert), 1);
    assert_int_equal(PEM_write_bio_PrivateKey(key_bio, key, NULL, NULL, 0, NULL, NULL), 1);
    s->cert2 = pem_of(cert_bio);
    s->key2 = pem_of(key_bio);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static size_t on_body(char *data, size_t size, size_t n, void *user)
{
    buf_add(user, data, size * n);
    return size * n;
}

static const char *extra_header;

/* Status, or -curl's code. */
static long ask(struct scene *s, const char *host, const char *path, const char *post, struct buf *body,
                char type[64])
{
    char url[128], to[128];
    long status = 0;
    snprintf(url, sizeof(url), "https://%s:%u%s", host, s->port, path);
    snprintf(to, sizeof(to), "%s:%u:127.0.0.1", host, s->port);
    struct curl_slist *resolve = curl_slist_append(NULL, to);
    struct curl_blob ca = {s->ca.pem, strlen(s->ca.pem), CURL_BLOB_COPY};
    CURL *c = curl_easy_init();
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_RESOLVE, resolve);
    curl_easy_setopt(c, CURLOPT_CAINFO_BLOB, &ca);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, body);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, 20L);
    if (post)
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, post);
    struct curl_slist *headers = curl_slist_append(NULL, "Expect:");
    if (extra_header)
        headers = curl_slist_append(headers, extra_header);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    CURLcode rc = curl_easy_perform(c);
    curl_slist_free_all(headers);
    const char *t = NULL;
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(c, CURLINFO_CONTENT_TYPE, &t);
    struct curl_header *allow;
    if (status == 405) /* RFC 9110 §15.5.6; TYPE is this then */
        t = curl_easy_header(c, "allow", 0, CURLH_HEADER, -1, &allow) == CURLHE_OK ? allow->value : "";
    snprintf(type, 64, "%s", t ? t : "");
    curl_easy_cleanup(c);
    curl_slist_free_all(resolve);
    return rc ? -(long)rc : status;
}

static void answers(void **state)
{
    struct scene *s = *state;
    struct buf body = {0};
    char type[64];
    assert_int_equal(ask(s, "example.com", "/ok", NULL, &body, type), 200);
    assert_string_equal(body.data, "ok\n");
    buf_reset(&body);
    assert_int_equal(ask(s, "example.com", "/not", NULL, &body, type), 503);
    assert_string_equal(type, "application/json");
    assert_string_equal(body.data, "{\"ready\":false}");
    buf_reset(&body);
    assert_int_equal(ask(s, "example.com", "/nothing", NULL, &body, type), 404);
    buf_reset(&body);
    assert_int_equal(ask(s, "example.com", "/ok", "x=1", &body, type), 405);
    assert_string_equal(type, "GET, HEAD");
    buf_reset(&body);
    assert_int_equal(ask(s, "example.com", "/big", NULL, &body, type), 200);
    assert_int_equal(body.n, BIG);
    for (int i = 0; i < BIG; i += 997)
        assert_int_equal(body.data[i], 'a' + i % 26);
    buf_fini(&body);
}

static void certificate_is_swapped(void **state)
{
    struct scene *s = *state;
    struct buf body = {0};
    char type[64];
    struct call c = {{NULL, on_swap, NULL}, s, 0};
    mem_free(s->cert2);
    mem_free(s->key2);
    make_rsa(s); /* of another kind than the first one: it must not stay beside it */
    assert_true(ask(s, "other.example", "/ok", NULL, &body, type) < 0); /* it names another host */
    loop_post(s->loop, &c.letter);
    while (!__atomic_load_n(&c.done, __ATOMIC_ACQUIRE))
        usleep(1000);
    assert_int_equal(ask(s, "other.example", "/ok", NULL, &body, type), 200);
    buf_fini(&body);
}

struct ask {
    pthread_t thread;
    struct scene *s;
    const char *body;
    struct buf answer;
    long status;
};
static void *in_thread(void *arg)
{
    struct ask *a = arg;
    char type[64];
    a->status = ask(a->s, "example.com", "/held", a->body, &a->answer, type);
    return NULL;
}

/* A POST's body goes to the handler, its answer may come later, and who waits for too long goes. */
static void posts_and_holds(void **state)
{
    struct scene *s = *state;
    struct buf body = {0}, big = {0};
    char type[64];
    assert_int_equal(ask(s, "example.com", "/echo", "x=1", &body, type), 200);
    assert_string_equal(body.data, "127.0.0.1 x=1");
    buf_fini(&body);
    for (int i = 0; i < 290000; i++)
        buf_addc(&big, (char)('a' + i % 26));
    assert_int_equal(ask(s, "example.com", "/echo", big.data, &body, type), 200);
    assert_int_equal(body.n, 10 + big.n);
    assert_memory_equal(body.data + 10, big.data, big.n);
    buf_fini(&body);
    for (int i = 0; i < 20000; i++)
        buf_addc(&big, 'x');
    assert_int_not_equal(ask(s, "example.com", "/echo", big.data, &body, type), 200); /* over the limit */
    buf_fini(&body);
    buf_fini(&big);
    struct ask first = {.s = s, .body = "1"}, second = {.s = s, .body = "2"};
    assert_int_equal(pthread_create(&first.thread, NULL, in_thread, &first), 0);
    while (!__atomic_load_n(&s->is_held, __ATOMIC_ACQUIRE))
        usleep(1000);
    in_thread(&second);
    pthread_join(first.thread, NULL);
    assert_string_equal(first.answer.data, "first");
    assert_string_equal(second.answer.data, "second");
    buf_fini(&first.answer);
    buf_fini(&second.answer);
}

/* X-Forwarded-For of a trusted proxy: the last address that is not a proxy's own, whatever the client wrote
 * before. */
static void believes_proxies_only(void **state)
{
    static const struct {
        const char *said, *address;
    } cases[] = {
        {"X-Forwarded-For: 198.51.100.9", "198.51.100.9 x"},
        {"X-Forwarded-For: 203.0.113.1, 198.51.100.9", "198.51.100.9 x"},
        {"X-Forwarded-For: 203.0.113.1, 198.51.100.9,192.0.2.7", "198.51.100.9 x"},
        {"X-Forwarded-For: 203.0.113.1, nonsense", "127.0.0.1 x"},
        {"X-Forwarded-For: ", "127.0.0.1 x"},
        {"X-Forwarded-For: 2001:db8::1", "2001:db8::1 x"},
    };
    struct scene *s = *state;
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct buf body = {0};
        char type[64];
        extra_header = cases[i].said;
        assert_int_equal(ask(s, "example.com", "/echo", "x", &body, type), 200);
        assert_string_equal(body.data, cases[i].address);
        buf_fini(&body);
    }
    /* two lengths are how requests are smuggled */
    struct buf body = {0};
    char type[64];
    extra_header = "Transfer-Encoding: chunked";
    assert_int_not_equal(ask(s, "example.com", "/echo", "x", &body, type), 200);
    extra_header = NULL;
    buf_fini(&body);
}

static void add_hex(struct buf *out, const uint8_t *data, size_t n)
{
    for (size_t i = 0; i < n; i++)
        buf_addf(out, "%02x", data[i]);
    buf_addc(out, ' ');
}

/* RFC 9266, RFC 5929: both ends of a connection have the same; behind a proxy the client has other TLS. */
static void connection_is_bound(void **state)
{
    static const char request[] = "GET /binding HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n";
    struct scene *s = *state;
    for (int proxied = 0; proxied < 2; proxied++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port)},
                           from = {.sin_family = AF_INET};
        /* 127.0.0.1 is a proxy of is_proxy */
        inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
        inet_pton(AF_INET, proxied ? "127.0.0.1" : "127.0.0.9", &from.sin_addr);
        int fd = socket(AF_INET, SOCK_STREAM, 0), n;
        assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(to)), 0);
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        SSL *ssl = SSL_new(ctx);
        SSL_set_fd(ssl, fd);
        SSL_set_tlsext_host_name(ssl, "example.com");
        assert_int_equal(SSL_connect(ssl), 1);
        struct buf want = {0}, answer = {0};
        for (int i = 0; i < N_TLS_BINDINGS; i++) {
            uint8_t data[TLS_BINDING_MAX];
            size_t n_data = sizeof(data);
            assert_int_equal(tls_bind(ssl, true, (enum tls_binding)i, data, &n_data), 0);
            add_hex(&want, data, proxied ? 0 : n_data);
        }
        char piece[1000];
        assert_int_equal(SSL_write(ssl, request, sizeof(request) - 1), sizeof(request) - 1);
        while ((n = SSL_read(ssl, piece, sizeof(piece))) > 0)
            buf_add(&answer, piece, (size_t)n);
        buf_addc(&answer, '\0');
        const char *body = strstr(answer.data, "\r\n\r\n");
        assert_non_null(body);
        assert_int_equal(strlen(body + 4), want.n);
        assert_memory_equal(body + 4, want.data, want.n);
        buf_fini(&want);
        buf_fini(&answer);
        SSL_free(ssl);
        SSL_CTX_free(ctx);
        close(fd);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(answers, start, stop),
        cmocka_unit_test_setup_teardown(certificate_is_swapped, start, stop),
        cmocka_unit_test_setup_teardown(posts_and_holds, start, stop),
        cmocka_unit_test_setup_teardown(believes_proxies_only, start, stop),
        cmocka_unit_test_setup_teardown(connection_is_bound, start, stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
