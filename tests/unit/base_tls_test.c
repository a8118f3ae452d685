/* TLS on streams: both versions, STARTTLS, certificates, ALPN, SNI, channel binding, time-outs. */
#include "base/stream_impl.h"
#include "stream_fixture.h"
#include <arpa/inet.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SMALL = 100000 };

static char pattern(size_t i)
{
    return (char)(i * 11 + (i >> 7) * 3);
}
static void assert_pattern(const struct buf *b, size_t n)
{
    assert_int_equal(b->n, n);
    for (size_t i = 0; i < n; i++)
        if (b->data[i] != pattern(i))
            fail_msg("byte %zu differs", i);
}
static void write_pattern(struct stream *s, size_t from, size_t n)
{
    char *data = mem_alloc(n);
    for (size_t i = 0; i < n; i++)
        data[i] = pattern(from + i);
    stream_write(s, data, n);
    mem_free(data);
}
static bool both_got_small(struct fixture *f)
{
    return f->client.got.n >= SMALL && f->server.got.n >= SMALL;
}

static void echo_with(bool tls13_only, bool mutual)
{
    struct fixture *f = fixture_new();
    make_contexts(f, tls13_only, mutual);
    connect_pair(f);
    start_tls(f, "server.example");
    assert_true(stream_is_tls(f->client.s) && stream_is_tls(f->server.s));
    assert_string_equal(stream_sni(f->server.s), "server.example");
    for (size_t at = 0, n; at < SMALL; at += n) {
        n = at % 7001 + 1;
        if (n > SMALL - at)
            n = SMALL - at;
        write_pattern(f->client.s, at, n);
        write_pattern(f->server.s, at, n);
    }
    run_until(f, both_got_small);
    assert_pattern(&f->client.got, SMALL);
    assert_pattern(&f->server.got, SMALL);
    assert_int_equal(metrics_get(&f->metrics, METRIC_TLS_HANDSHAKES), 1);
    stream_write(f->server.s, "end", 3);
    stream_close(f->server.s);
    run_until(f, both_closed);
    assert_int_equal(f->client.got.n, SMALL + 3);
    assert_int_equal(f->client.code, ERR_CLOSED);
    assert_int_equal(f->server.code, ERR_CANCELED);
    fixture_free(f);
}

static void echo_over_tls(void **state)
{
    echo_with(false, false);
}
static void echo_over_mutual_tls13(void **state)
{
    echo_with(true, true);
}

/* --- STARTTLS --- */

static void starttls_on_request(struct end *e, const uint8_t *data, size_t n_bytes)
{
    struct fixture *f = container_of(e, struct fixture, server);
    assert_memory_equal(data, "starttls", 8);
    stream_write(e->s, "proceed", 7);
    stream_start_tls_server(e->s, f->sni, 5000);
    e->on_data = NULL;
    if (n_bytes > 8)
        stream_push_back(e->s, data + 8, n_bytes - 8);
}
static void starttls_on_proceed(struct end *e, const uint8_t *data, size_t n_bytes)
{
    struct fixture *f = container_of(e, struct fixture, client);
    assert_int_equal(n_bytes, 7);
    e->on_data = NULL;
    stream_start_tls_client(e->s, f->client_ctx, "server.example", 5000);
    stream_write(e->s, "early", 5); /* goes inside */
}
static bool server_got_5(struct fixture *f)
{
    return f->server.got.n >= 5 && both_open(f);
}

static void starttls(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    connect_pair(f);
    f->server.on_data = starttls_on_request;
    f->client.on_data = starttls_on_proceed;
    stream_write(f->client.s, "starttls", 8);
    run_until(f, server_got_5);
    assert_string_equal(f->server.got.data, "early");
    stream_close(f->client.s);
    run_until(f, both_closed);
    fixture_free(f);
}

/* The attack of 2011: a command injected in clear, to be carried out inside TLS. */
static void clear_bytes_behind_starttls(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    connect_pair(f);
    f->server.on_data = starttls_on_request;
    stream_write(f->client.s, "starttls<auth/>", 15); /* one segment */
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->server.got.n, 0);
    if (f->client.s)
        stream_abort(f->client.s);
    run_until(f, both_closed);

    fixture_free(f);
}

static void inject_then_start(struct end *e, const uint8_t *data, size_t n_bytes)
{
    static const char injected[] = "<auth mechanism='PLAIN'>AGEAYg==</auth>";
    assert_int_equal(send(*(int *)e->user, injected, sizeof(injected), MSG_NOSIGNAL), sizeof(injected));
    starttls_on_request(e, data, n_bytes);
}

/* The same in a segment of its own, which is in the socket when the handshake starts. */
static void clear_bytes_after_starttls(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    int fd = raw_connect(f);
    run_until(f, accepted);
    f->server.user = &fd;
    f->server.on_data = inject_then_start;
    assert_int_equal(send(fd, "starttls", 8, MSG_NOSIGNAL), 8);
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->server.got.n, 0);
    assert_int_equal(f->server.n_open, 0);
    assert_int_equal(metrics_get(&f->metrics, METRIC_TLS_FAILURES), 1);
    close(fd);
    fixture_free(f);
}

static void half_a_handshake_times_out(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    int fd = raw_connect(f);
    run_until(f, accepted);
    stream_start_tls_server(f->server.s, f->sni, 150);
    /* A record header that promises a ClientHello of 512 bytes, and a bit of it. */
    assert_int_equal(send(fd, "\x16\x03\x01\x02\x00\x01\x00\x01", 8, MSG_NOSIGNAL), 8);
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_TIMEOUT);
    assert_int_equal(f->server.n_open, 0);
    char c;
    assert_true(recv(fd, &c, 1, 0) <= 0);
    close(fd);

    /* And one that ends in the middle. */
    f->server = (struct end){0};
    fd = raw_connect(f);
    run_until(f, accepted);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    assert_int_equal(send(fd, "\x16\x03", 2, MSG_NOSIGNAL), 2);
    close(fd);
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_CLOSED);

    /* Closing our side during a handshake is orderly, too. */
    f->server = (struct end){0};
    fd = raw_connect(f);
    run_until(f, accepted);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_write(f->server.s, "never", 5);
    stream_close(f->server.s);
    close(fd);
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_CANCELED);
    fixture_free(f);
}

static void assert_hello_refused(struct fixture *f, const char *bytes, size_t n)
{
    f->server = (struct end){0};
    int fd = raw_connect(f);
    run_until(f, accepted);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    for (size_t i = 0; i < n; i++) /* in segments of one byte */
        assert_int_equal(send(fd, bytes + i, 1, MSG_NOSIGNAL), 1);
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    close(fd);
}

/* A client hello that claims to be huge, and what is none, end the connection at the header. */
static void bad_client_hello(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    assert_hello_refused(f, "\x16\x03\x01\x40\x00\x01\x01\xff\xff", 9);
    assert_hello_refused(f, "\x16\x03\x01\x40\x00\x02\x00\x01\x00", 9);
    assert_hello_refused(f, "\x16\x03\x01\x00\x01\x01\x16\x03\x01", 9);
    assert_hello_refused(f, "GET / HTTP/1.1", 14);
    fixture_free(f);
}

/* Key updates that want an answer, from a peer that does not read. */
static void flood_of_key_updates(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, true, false);
    connect_pair(f);
    start_tls(f, NULL);
    /* What the server would have to send first fills the kernel's buffers and its queue. */
    stream_pause(f->client.s);
    struct blob *b = blob_new(NULL, 32 << 20);
    memset(b->data, 0, b->n);
    stream_write_blob(f->server.s, b, 0);
    blob_unref(b);
    SSL *ssl = f->client.s->ssl;
    for (unsigned i = 0; i < 20000 && f->server.s; i++) {
        assert_int_equal(SSL_key_update(ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        stream_write(f->client.s, "x", 1);
        stream_flush(f->client.s);
    }
    run_until(f, server_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_non_null(strstr(f->server.detail, "does not read"));
    stream_abort(f->client.s);
    run_until(f, both_closed);
    fixture_free(f);
}

static void tls12(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    SSL_CTX_set_max_proto_version(f->client_ctx->ssl, TLS1_2_VERSION);
    connect_pair(f);
    start_tls(f, "server.example");
    uint8_t binding[64];
    size_t n = sizeof(binding);
    assert_int_equal(stream_tls_binding(f->server.s, TLS_BIND_EXPORTER, binding, &n), ERR_UNSUPPORTED);
    assert_int_equal(stream_tls_binding(f->server.s, TLS_BIND_SERVER_END_POINT, binding, &n), 0);
    write_pattern(f->client.s, 0, SMALL);
    write_pattern(f->server.s, 0, SMALL);
    run_until(f, both_got_small);
    assert_pattern(&f->server.got, SMALL);
    assert_pattern(&f->client.got, SMALL);
    stream_close(f->client.s);
    run_until(f, both_closed);

    /* A context for TLS 1.3 only refuses it. */
    struct tls_ctx *old = f->server_ctx;
    tls_sni_unref(f->sni);
    tls_ctx_unref(f->client_ctx);
    make_contexts(f, true, false);
    tls_ctx_unref(old);
    SSL_CTX_set_min_proto_version(f->client_ctx->ssl, TLS1_2_VERSION);
    SSL_CTX_set_max_proto_version(f->client_ctx->ssl, TLS1_2_VERSION);
    buf_fini(&f->client.got);
    buf_fini(&f->server.got);
    f->client = f->server = (struct end){0};
    connect_pair(f);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_start_tls_client(f->client.s, f->client_ctx, NULL, 5000);
    run_until(f, both_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->client.code, ERR_TLS);
    assert_int_equal(f->server.n_open, 0);
    fixture_free(f);
}

/* --- certificates --- */

static void wrong_ca_is_refused(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, true, true);
    struct test_ca other;
    char *cert, *key;
    struct err_ctx err = {0};
    test_ca_make(&other, "test CA"); /* of the same name */
    test_cert_make(&cert, &key, &other, "intruder", NULL, "SHA256");

    /* The client's certificate is of another CA. */
    struct tls_options o = {.tls13_only = true, .ca_pem = f->ca.pem, .cert_pem = cert, .key_pem = key};
    tls_ctx_unref(f->client_ctx);
    assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
    connect_pair(f);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_start_tls_client(f->client.s, f->client_ctx, NULL, 5000);
    run_until(f, both_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->server.n_open, 0);
    assert_int_equal(f->client.code, ERR_TLS);
    assert_non_null(strstr(f->server.detail, "certificate"));

    /* It shows none. */
    o.cert_pem = o.key_pem = NULL;
    tls_ctx_unref(f->client_ctx);
    assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
    f->client = f->server = (struct end){0};
    connect_pair(f);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_start_tls_client(f->client.s, f->client_ctx, NULL, 5000);
    run_until(f, both_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->server.n_open, 0);

    /* The client trusts another CA. */
    o.ca_pem = other.pem;
    tls_ctx_unref(f->client_ctx);
    assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
    f->client = f->server = (struct end){0};
    connect_pair(f);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_start_tls_client(f->client.s, f->client_ctx, NULL, 5000);
    run_until(f, both_closed);
    assert_int_equal(f->client.code, ERR_TLS);
    assert_int_equal(f->client.n_open, 1); /* of the connection only */
    assert_int_equal(f->server.code, ERR_TLS);

    mem_free(cert);
    mem_free(key);
    test_ca_free(&other);
    fixture_free(f);
}

static void names_of_the_peer(void **state)
{
    struct fixture *f = fixture_new();
    struct tls_peer peer, back;
    make_contexts(f, true, true);
    connect_pair(f);
    stream_tls_peer(f->client.s, &peer);
    assert_false(peer.has_cert);
    start_tls(f, NULL);
    stream_tls_peer(f->client.s, &peer);
    assert_true(peer.has_cert && peer.verified);
    assert_string_equal(peer.common_name, "server.example");
    assert_string_equal(peer.uris[0], "urn:imp:c:1");
    assert_string_equal(peer.uris[1], "urn:imp:n:2");
    assert_string_equal(peer.alpn, "");
    stream_tls_peer(f->server.s, &back);
    assert_true(back.verified);
    assert_memory_equal(back.fingerprint, peer.fingerprint, 32);
    assert_null(stream_sni(f->server.s));
    stream_abort(f->client.s);
    run_until(f, both_closed);

    /* A client that does not verify sees the fingerprint, but no names. */
    struct tls_options o = {.tls13_only = true};
    char *cert, *key;
    struct err_ctx err = {0};
    test_cert_make(&cert, &key, &f->ca, "x", NULL, "SHA256");
    struct tls_options so = {.server = true, .cert_pem = cert, .key_pem = key};
    tls_ctx_unref(f->client_ctx);
    tls_ctx_unref(f->server_ctx);
    tls_sni_unref(f->sni);
    assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
    assert_int_equal(tls_ctx_new(&f->server_ctx, &so, &err), 0);
    f->sni = tls_sni_new(f->server_ctx);
    f->client = f->server = (struct end){0};
    connect_pair(f);
    start_tls(f, NULL);
    stream_tls_peer(f->client.s, &peer);
    assert_true(peer.has_cert);
    assert_false(peer.verified);
    assert_string_equal(peer.common_name, "");
    stream_tls_peer(f->server.s, &back);
    assert_false(back.has_cert);
    stream_abort(f->client.s);
    run_until(f, both_closed);
    mem_free(cert);
    mem_free(key);
    fixture_free(f);
}

static struct tls_ctx *server_named(struct fixture *f, const char *name, const char *hash,
                                    const char *const *alpn)
{
    char *cert, *key;
    struct err_ctx err = {0};
    struct tls_ctx *ctx = NULL;
    test_cert_make(&cert, &key, &f->ca, name, NULL, hash);
    struct tls_options o = {.server = true, .cert_pem = cert, .key_pem = key, .alpn = alpn};
    if (tls_ctx_new(&ctx, &o, &err) != 0)
        fail_msg("%s", err.text);
    mem_free(cert);
    mem_free(key);
    return ctx;
}

static void assert_served(struct fixture *f, const char *asked, const char *expected)
{
    struct tls_peer peer;
    f->client = f->server = (struct end){0};
    connect_pair(f);
    start_tls(f, asked);
    stream_tls_peer(f->client.s, &peer);
    assert_string_equal(peer.common_name, expected);
    stream_abort(f->client.s);
    run_until(f, both_closed);
}

static void certificate_by_server_name(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    struct tls_ctx *a = server_named(f, "cert of a", "SHA256", NULL);
    struct tls_ctx *b = server_named(f, "cert of b", "SHA256", NULL);
    tls_sni_add(f->sni, "a.example", b);
    tls_sni_add(f->sni, "a.example.", a); /* the later one counts */
    tls_sni_add(f->sni, "B.example", b);
    tls_ctx_unref(a);
    tls_ctx_unref(b);
    assert_served(f, "A.EXAMPLE", "cert of a");
    assert_served(f, "b.example", "cert of b");
    assert_served(f, "c.example", "server.example");
    assert_served(f, "127.0.0.1", "server.example");
    assert_served(f, NULL, "server.example");
    fixture_free(f);
}

static void alpn(void **state)
{
    static const char *const both[] = {"imp-raft/1", "imp-link/1", NULL},
                             *const link[] = {"imp-link/1", NULL}, *const web[] = {"h2", NULL};
    struct fixture *f = fixture_new();
    struct err_ctx err = {0};
    struct tls_peer peer;
    f->server_ctx = server_named(f, "x", "SHA256", both);
    f->sni = tls_sni_new(f->server_ctx);
    struct tls_options o = {.ca_pem = f->ca.pem, .alpn = link};
    assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
    connect_pair(f);
    start_tls(f, NULL);
    stream_tls_peer(f->client.s, &peer);
    assert_string_equal(peer.alpn, "imp-link/1");
    stream_tls_peer(f->server.s, &peer);
    assert_string_equal(peer.alpn, "imp-link/1");
    stream_abort(f->client.s);
    run_until(f, both_closed);

    o.alpn = web;
    tls_ctx_unref(f->client_ctx);
    assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
    f->client = f->server = (struct end){0};
    connect_pair(f);
    stream_start_tls_server(f->server.s, f->sni, 5000);
    stream_start_tls_client(f->client.s, f->client_ctx, NULL, 5000);
    run_until(f, both_closed);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->client.code, ERR_TLS);
    assert_non_null(strstr(f->client.detail, "no application protocol"));
    fixture_free(f);
}

static void channel_binding(void **state)
{
    static const struct {
        const char *hash;
        size_t n;
    } cases[] = {{"SHA256", 32}, {"SHA384", 48}};
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct fixture *f = fixture_new();
        struct err_ctx err = {0};
        f->server_ctx = server_named(f, "x", cases[i].hash, NULL);
        f->sni = tls_sni_new(f->server_ctx);
        struct tls_options o = {.ca_pem = f->ca.pem};
        assert_int_equal(tls_ctx_new(&f->client_ctx, &o, &err), 0);
        connect_pair(f);
        uint8_t a[64], b[64];
        size_t n_a = sizeof(a), n_b = sizeof(b);
        assert_int_equal(stream_tls_binding(f->client.s, TLS_BIND_EXPORTER, a, &n_a), ERR_UNSUPPORTED);
        start_tls(f, NULL);
        assert_int_equal(stream_tls_binding(f->client.s, TLS_BIND_EXPORTER, a, &n_a), 0);
        assert_int_equal(stream_tls_binding(f->server.s, TLS_BIND_EXPORTER, b, &n_b), 0);
        assert_int_equal(n_a, 32);
        assert_int_equal(n_b, 32);
        assert_memory_equal(a, b, 32);
        n_a = 31;
        assert_int_equal(stream_tls_binding(f->client.s, TLS_BIND_EXPORTER, a, &n_a), ERR_LIMIT);
        n_a = n_b = 64;
        assert_int_equal(stream_tls_binding(f->client.s, TLS_BIND_SERVER_END_POINT, a, &n_a), 0);
        assert_int_equal(stream_tls_binding(f->server.s, TLS_BIND_SERVER_END_POINT, b, &n_b), 0);
        assert_int_equal(n_a, cases[i].n);
        assert_int_equal(n_b, cases[i].n);
        assert_memory_equal(a, b, n_a);
        struct tls_peer peer;
        stream_tls_peer(f->client.s, &peer);
        if (cases[i].n == 32)
            assert_memory_equal(a, peer.fingerprint, 32);
        n_a = 16;
        assert_int_equal(stream_tls_binding(f->client.s, TLS_BIND_SERVER_END_POINT, a, &n_a), ERR_LIMIT);
        stream_abort(f->client.s);
        run_until(f, both_closed);
        fixture_free(f);
    }
}

static void bad_options(void **state)
{
    struct test_ca ca;
    char *cert, *key, *cert2, *key2;
    struct err_ctx err = {0};
    struct tls_ctx *ctx = NULL;
    test_ca_make(&ca, "ca");
    test_cert_make(&cert, &key, &ca, "a", NULL, "SHA256");
    test_cert_make(&cert2, &key2, &ca, "b", NULL, "SHA256");
    static const char *const empty[] = {"", NULL};
    const struct tls_options bad[] = {
        {.server = true},
        {.server = true, .cert_pem = cert},
        {.server = true, .cert_pem = cert, .key_pem = key2},
        {.server = true, .cert_pem = "no", .key_pem = key},
        {.server = true, .cert_pem = cert, .key_pem = "no"},
        {.server = true, .cert_pem = cert, .key_pem = key, .require_peer_cert = true},
        {.server = true, .cert_pem = cert, .key_pem = key, .alpn = empty},
        {.ca_pem = "no"},
    };
    for (size_t i = 0; i < n_elements(bad); i++) {
        err.text[0] = '\0';
        assert_true(tls_ctx_new(&ctx, &bad[i], &err) < 0);
        assert_true(err.text[0] != '\0');
        assert_null(ctx);
    }
    assert_int_equal(tls_ctx_new(&ctx, &bad[2], &err), ERR_TLS);
    assert_non_null(strstr(err.text, "private key"));
    mem_free(cert);
    mem_free(key);
    mem_free(cert2);
    mem_free(key2);
    test_ca_free(&ca);
}

/* --- flow --- */

static void pause_every_time(struct end *e, const uint8_t *data, size_t n_bytes)
{
    buf_add(&e->got, data, n_bytes);
    stream_pause(e->s);
}
static bool resume_and_look(struct fixture *f)
{
    if (f->server.s)
        stream_resume(f->server.s);
    return f->server.got.n >= SMALL;
}

/* Records that were read from the socket while the owner pauses wait, encrypted. */
static void paused_in_the_middle_of_input(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    connect_pair(f);
    start_tls(f, NULL);
    f->server.on_data = pause_every_time;
    for (size_t at = 0; at < SMALL; at += 1000) {
        write_pattern(f->client.s, at, 1000);
        if (at % 5000 == 0)
            stream_set_water(f->client.s, 1, 2);
    }
    run_until(f, resume_and_look);
    assert_pattern(&f->server.got, SMALL);
    stream_close(f->client.s);
    stream_close(f->server.s);
    run_until(f, both_closed);
    fixture_free(f);
}

static void garbage_into(struct end *e, const uint8_t *data, size_t n_bytes)
{
    buf_add(&e->got, data, n_bytes);
}
static bool server_got_3(struct fixture *f)
{
    return f->server.got.n >= 3;
}

/* A record that does not verify ends the connection with an alert, and nothing of it is passed on. */
static void tampered_record(void **state)
{
    struct fixture *f = fixture_new();
    make_contexts(f, false, false);
    connect_pair(f);
    start_tls(f, NULL);
    f->server.on_data = garbage_into;
    stream_write(f->client.s, "one", 3);
    run_until(f, server_got_3);
    static const char forged[] = "\x17\x03\x03\x00\x20"
                                 "0123456789abcdef0123456789abcdef";
    out_add(f->client.s->hub, &f->client.s->wire, forged, sizeof(forged) - 1);
    stream_mark_dirty(f->client.s);
    run_until(f, both_closed);
    assert_int_equal(f->server.got.n, 3);
    assert_int_equal(f->server.code, ERR_TLS);
    assert_int_equal(f->client.code, ERR_TLS);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(echo_over_tls),
        cmocka_unit_test(echo_over_mutual_tls13),
        cmocka_unit_test(tls12),
        cmocka_unit_test(starttls),
        cmocka_unit_test(clear_bytes_behind_starttls),
        cmocka_unit_test(clear_bytes_after_starttls),
        cmocka_unit_test(half_a_handshake_times_out),
        cmocka_unit_test(bad_client_hello),
        cmocka_unit_test(flood_of_key_updates),
        cmocka_unit_test(wrong_ca_is_refused),
        cmocka_unit_test(names_of_the_peer),
        cmocka_unit_test(certificate_by_server_name),
        cmocka_unit_test(alpn),
        cmocka_unit_test(channel_binding),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(paused_in_the_middle_of_input),
        cmocka_unit_test(tampered_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
