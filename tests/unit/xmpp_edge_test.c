/* Log-in at the edge as of RFC 6120; SASL2 is in xmpp_sasl2_test.c. */
#include "edge_fixture.h"
#ifdef IMP_HAVE_GSASL
#include <gsasl.h>
#endif

/* ---- tests ---- */

static void test_starttls_plain(void **state)
{
    struct node *n = node_new(NULL, 2);
    for (int version = 0; version < 2; version++) {
        struct client *c = secure(n, version ? TLS1_2_VERSION : TLS1_3_VERSION);
        expect(c, "<mechanism>PLAIN</mechanism>");
        expect(c, "</stream:features>");
        say_plain(c, "user", "pencil");
        expect(c, "<success ");
        bind_session(c);
        hang_up(c);
    }
    assert_int_equal(n->n_backend, 0);
    node_free(n);
}

static void test_direct_tls(void **state)
{
    struct node *n = node_new(NULL, 1);
    struct client *c = dial(n, true);
    assert_true(handshake(c, "xmpp-client", TLS1_3_VERSION));
    const unsigned char *alpn;
    unsigned n_alpn;
    SSL_get0_alpn_selected(c->ssl, &alpn, &n_alpn);
    assert_int_equal(n_alpn, 11);
    say(c, HEADER);
    expect(c, "<mechanisms");
    assert_false(has_heard(c, "starttls"));
    expect(c, "<channel-binding type='tls-exporter'/>");
    say_plain(c, "user", "pencil");
    expect(c, "<success ");
    bind_session(c);
    hang_up(c);
    c = dial(n, true);
    assert_false(handshake(c, "http/1.1", TLS1_3_VERSION));
    hang_up(c);
    node_free(n);
}

/* All that the client has to say in one write: what follows <auth/> is for the home. */
static void test_pipelined(void **state)
{
    struct node *n = node_new(NULL, 2);
    char message[] = "\0user\0pencil", b64[32], text[1024];
    base64_encode(b64, message, sizeof(message) - 1);
    snprintf(text, sizeof(text),
             "<auth " SASL " mechanism='PLAIN'>%s</auth>" HEADER "<iq type='set' id='b1'><bind "
             "xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>r</resource></bind></iq>",
             b64);
    for (int i = 0; i < 3; i++) {
        struct client *c = secure(n, TLS1_3_VERSION);
        say(c, text);
        expect(c, "<success ");
        expect(c, "user@example.com/r</jid>");
        hang_up(c);
    }
    node_free(n);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *user, *password, *condition;
    } cases[] = {
        {"user", "wrong", "<not-authorized/>"},      {"nobody", "pencil", "<not-authorized/>"},
        {"locked", "pencil", "<account-disabled/>"}, {"locked", "wrong", "<not-authorized/>"},
        {"axl.user", "wrong", "<not-authorized/>"},  {"axl.user", "down", "<temporary-auth-failure/>"},
        {"a b", "pencil", "<not-authorized/>"},
    };
    struct node *n = node_new((const char *const[]){"limits.login_failures", "1000", NULL}, 1);
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct client *c = secure(n, TLS1_3_VERSION);
        say_plain(c, cases[i].user, cases[i].password);
        expect(c, "<failure " SASL ">");
        expect(c, cases[i].condition);
        say_plain(c, "axl.user", "right"); /* another try on the same stream */
        expect(c, "<success ");
        hang_up(c);
    }
    node_free(n);
}

static void test_failures(void **state)
{
    static const struct {
        const char *say, *answer;
    } cases[] = {
        {"<auth " SASL " mechanism='DIGEST-MD5'/>", "<invalid-mechanism/>"},
        {"<auth " SASL "/>", "<invalid-mechanism/>"},
        {"<auth " SASL " mechanism='PLAIN'>!!!</auth>", "<incorrect-encoding/>"},
        {"<auth " SASL " mechanism='PLAIN'>=</auth>", "<malformed-request/>"},
        {"<auth " SASL " mechanism='PLAIN'>AHVzZXIA</auth>", "<malformed-request/>"}, /* no password */
        {"<auth " SASL " mechanism='PLAIN'/>", "<challenge " SASL "/>"},
        {"<auth " SASL " mechanism='SCRAM-SHA-256-PLUS'>biwsbj11c2VyLHI9YWJj</auth>",
         "<not-authorized/>"},                                                                       /* n,, */
        {"<auth " SASL " mechanism='SCRAM-SHA-1'>eSwsbj11c2VyLHI9YWJj</auth>", "<not-authorized/>"}, /* y,, */
        {"<iq type='get' id='1'><query xmlns='jabber:iq:auth'/></iq>", "<not-authorized "},
        {"<message to='user@example.com'/>", "<not-authorized "},
        {"<response " SASL "/>", "<policy-violation "},
        {"<starttls " TLS "/>", "<policy-violation "},
        {"<compress xmlns='http://jabber.org/protocol/compress'/>", "<unsupported-stanza-type "},
        {"<!DOCTYPE x>", "<restricted-xml "},
        {"<a><b></a>", "<not-well-formed "},
        {"<a>\xff</a>", "<unsupported-encoding "},
        {"<x:a/>", "<not-well-formed "},
        {"</stream:stream>", "</stream:stream>"},
    };
    struct node *n = node_new(NULL, 1);
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct client *c = secure(n, TLS1_3_VERSION);
        expect(c, "</stream:features>");
        say(c, cases[i].say);
        expect(c, cases[i].answer);
        hang_up(c);
    }
    struct client *c = secure(n, TLS1_3_VERSION);
    say(c, "<auth " SASL " mechanism='SCRAM-SHA-1'>biwsbj11c2VyLHI9YWJj</auth>");
    expect(c, "<challenge " SASL ">");
    say(c, "<abort " SASL "/>");
    expect(c, "<aborted/>");
    say_plain(c, "user", "pencil");
    expect(c, "<success ");
    hang_up(c);
    node_free(n);
}

/* xmpp.channel_binding: lenient takes "y", off does not offer -PLUS. */
static void test_binding_setting(void **state)
{
    for (int off = 0; off < 2; off++) {
        struct node *n =
            node_new((const char *const[]){"xmpp.channel_binding", off ? "off" : "lenient", NULL}, 1);
        struct client *c = secure(n, TLS1_3_VERSION);
        uint64_t until = now_ms() + DEADLINE_MS;
        while (!has_heard(c, "</stream:features>") && now_ms() < until)
            hear(c, until);
        assert_int_equal(has_heard(c, "-PLUS"), !off);
        assert_int_equal(has_heard(c, "tls-exporter"), !off);
        say(c, "<auth " SASL " mechanism='SCRAM-SHA-1'>eSwsbj11c2VyLHI9YWJj</auth>");
        expect(c, "<challenge " SASL ">");
        hang_up(c);
        node_free(n);
    }
}

/* Everything that must not work, or not hurt, before TLS. */
static void test_in_clear(void **state)
{
    static const struct {
        const char *say, *answer;
    } cases[] = {
        {HEADER "<auth " SASL " mechanism='PLAIN'>AHVzZXIAcGVuY2ls</auth>", "<encryption-required/>"},
        {HEADER "<auth " SASL " mechanism='SCRAM-SHA-1'>biwsbj11c2VyLHI9YWJj</auth>",
         "<encryption-required/>"},
        {HEADER "<presence/>", "<not-authorized "},
        {HEADER "<response " SASL "/>", "<policy-violation "},
        {HEADER "<iq type='set'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>", "<not-authorized "},
        {"<stream:stream to='example.org' version='1.0' xmlns='jabber:client' "
         "xmlns:stream='http://etherx.jabber.org/streams'>",
         "<host-unknown "},
        {"<stream:stream to='example.com' version='1.0' xmlns='jabber:server' "
         "xmlns:stream='http://etherx.jabber.org/streams'>",
         "<invalid-namespace "},
        {"<stream:stream to='example.com' version='1.0' xmlns='jabber:client' xmlns:stream='x'>",
         "<invalid-namespace "},
        {"<stream:stream to='example.com' xmlns='jabber:client' "
         "xmlns:stream='http://etherx.jabber.org/streams'>",
         "<unsupported-version "},
        {"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b 'c'>]>", "<restricted-xml "},
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "<not-well-formed "},
        {"\x16\x03\x01\x02", "<not-well-formed "}, /* TLS on the wrong port */
    };
    struct node *n = node_new(NULL, 1);
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct client *c = dial(n, false);
        say(c, cases[i].say);
        expect(c, "<stream:stream ");
        expect(c, cases[i].answer);
        if (cases[i].answer[strlen(cases[i].answer) - 1] == ' ') {
            expect(c, "</stream:stream>");
            expect_closed(c);
        }
        hang_up(c);
    }
    node_free(n);
}

/* PLAIN without TLS takes two settings. */
static void test_plain_in_clear(void **state)
{
    static const struct {
        const char *require, *plain, *answer;
    } cases[] = {
        {"true", "true", "<encryption-required/>"},
        {"false", "false", "<invalid-mechanism/>"},
        {"false", "true", "<success "},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct node *n = node_new((const char *const[]){"xmpp.require_tls", cases[i].require,
                                                        "xmpp.plain_without_tls", cases[i].plain, NULL},
                                  1);
        struct client *c = dial(n, false);
        say(c, HEADER);
        uint64_t until = now_ms() + DEADLINE_MS;
        while (!has_heard(c, "</stream:features>") && now_ms() < until)
            hear(c, until);
        assert_int_equal(has_heard(c, "<mechanism>PLAIN</mechanism>"), i == 2);
        say(c, "<auth " SASL " mechanism='PLAIN'>AHVzZXIAcGVuY2ls</auth>");
        expect(c, cases[i].answer);
        hang_up(c);
        node_free(n);
    }
}

static void log_in(struct node *n, const char *base64, const char *answer)
{
    struct client *c = dial(n, false);
    say(c, HEADER "<auth " SASL " mechanism='PLAIN'>");
    say(c, base64);
    say(c, "</auth>");
    expect(c, answer);
    hang_up(c);
}

/* A password that was right is known, but only as long as it is the password. */
static void test_known_password(void **state)
{
    static const char pencil[] = "AHVzZXIAcGVuY2ls", eraser[] = "AHVzZXIAZXJhc2Vy";
    struct node *n = node_new(
        (const char *const[]){"xmpp.require_tls", "false", "xmpp.plain_without_tls", "true", NULL}, 2);
    log_in(n, pencil, "<success ");
    log_in(n, pencil, "<success ");
    log_in(n, eraser, "<not-authorized/>");
    log_in(n, pencil, "<success ");
    struct store_txn *t = store_begin(n->store);
    put_credential(t, 1, "eraser");
    assert_int_equal(store_commit(t, NULL), 0);
    log_in(n, pencil, "<not-authorized/>");
    log_in(n, eraser, "<success ");
    log_in(n, eraser, "<success ");
    node_free(n);
}

static void test_known_bounds(void **state)
{
    struct c2s_known *k = c2s_known_new(2), *other = c2s_known_new(2);
    struct credential c = {.keys[CREDENTIAL_SHA256] = {.iterations = 1, .stored_key = {1}}}, changed = c;
    changed.keys[CREDENTIAL_SHA256].stored_key[31] = 1;
    uint8_t mac[4][C2S_KNOWN_MAC], differs[C2S_KNOWN_MAC];
    for (uint64_t uid = 1; uid <= 3; uid++)
        c2s_known_mac(k, uid, &c, "secret", 6, mac[uid]);
    assert_memory_not_equal(mac[1], mac[2], C2S_KNOWN_MAC);
    c2s_known_mac(k, 1, &c, "secret2", 7, differs);
    assert_memory_not_equal(mac[1], differs, C2S_KNOWN_MAC);
    c2s_known_mac(k, 1, &changed, "secret", 6, differs);
    assert_memory_not_equal(mac[1], differs, C2S_KNOWN_MAC);
    c2s_known_mac(other, 1, &c, "secret", 6, differs);
    assert_memory_not_equal(mac[1], differs, C2S_KNOWN_MAC);

    assert_false(c2s_known_has(k, 1, mac[1]));
    c2s_known_add(k, 1, mac[1]);
    c2s_known_add(k, 2, mac[2]);
    assert_true(c2s_known_has(k, 1, mac[1]));
    assert_false(c2s_known_has(k, 1, differs));
    c2s_known_add(k, 3, mac[3]); /* 2 was not used for longest */
    assert_true(c2s_known_has(k, 1, mac[1]));
    assert_false(c2s_known_has(k, 2, mac[2]));
    assert_true(c2s_known_has(k, 3, mac[3]));
    c2s_known_free(other);
    c2s_known_free(k);
}

/* What follows <starttls/> in clear is never taken as said inside TLS (CVE-2011-0411). */
static void test_starttls_injection(void **state)
{
    struct node *n = node_new(NULL, 1);
    struct client *c = dial(n, false);
    say(c, HEADER);
    expect(c, "</stream:features>");
    say(c, "<starttls " TLS "/>" HEADER "<auth " SASL " mechanism='PLAIN'>AHVzZXIAcGVuY2ls</auth>");
    expect(c, "<proceed " TLS "/>");
    if (handshake(c, NULL, TLS1_3_VERSION)) {
        say(c, HEADER);
        expect(c, "<mechanisms ");
        assert_false(has_heard(c, "<success"));
        expect(c, "</stream:features>");
        say(c, "<presence/>");
        expect(c, "<not-authorized ");
    }
    assert_int_equal(metrics_get(&n->metrics, METRIC_XMPP_LOGINS), 0);
    hang_up(c);
    node_free(n);
}

/* Floods end early, with an error, before memory grows. */
static void test_floods(void **state)
{
    static const char *const starts[] = {HEADER "<a>", HEADER "<a b='", HEADER "<a ", "<stream:stream a='"};
    struct node *n = node_new(NULL, 1);
    for (size_t i = 0; i < n_elements(starts); i++) {
        struct client *c = dial(n, false);
        char chunk[4096];
        memset(chunk, i == 2 ? ' ' : 'x', sizeof(chunk));
        say(c, starts[i]);
        size_t sent = 0;
        uint64_t until = now_ms() + DEADLINE_MS;
        while (sent < (100u << 20) && now_ms() < until && send_bytes(c, chunk, sizeof(chunk)))
            sent += sizeof(chunk);
        expect(c, "<policy-violation ");
        expect_closed(c);
        hang_up(c);
    }
    struct client *c = dial(n, false);
    struct buf b = {0};
    buf_adds(&b, HEADER "<a");
    for (unsigned i = 0; i < 100000; i++)
        buf_addf(&b, " a%u=''", i);
    send_bytes(c, b.data, b.n);
    expect(c, "<policy-violation ");
    hang_up(c);
    buf_fini(&b);
    c = secure(n, TLS1_3_VERSION); /* others are unharmed */
    hang_up(c);
    node_free(n);
}

static void test_timeout(void **state)
{
    struct node *n = node_new((const char *const[]){"limits.handshake_timeout", "2", NULL}, 1);
    struct client *idle = dial(n, false), *half = dial(n, false), *tls = dial(n, true);
    struct client *in = secure(n, TLS1_3_VERSION);
    say_plain(in, "user", "pencil");
    expect(in, "<success ");
    say(half, HEADER);
    send_bytes(tls, "\x16\x03\x01\x02\x00\x01", 6); /* half a ClientHello */
    uint64_t start = now_ms();
    expect(idle, "<connection-timeout ");
    expect(half, "<connection-timeout ");
    expect_closed(idle);
    expect_closed(half);
    expect_closed(tls);
    assert_true(now_ms() - start < 8000);
    bind_session(in); /* not the one that has logged in */
    hang_up(in);
    hang_up(idle);
    hang_up(half);
    hang_up(tls);
    node_free(n);
}

static void test_connection_limits(void **state)
{
    struct node *n = node_new((const char *const[]){"limits.connections_per_address", "5", NULL}, 1);
    struct client *c[6];
    for (int i = 0; i < 5; i++) {
        c[i] = dial(n, false);
        say(c[i], HEADER);
        expect(c[i], "</stream:features>");
    }
    c[5] = dial(n, false);
    expect_closed(c[5]);
    hang_up(c[5]);
    hang_up(c[0]);
    uint64_t until = now_ms() + DEADLINE_MS;
    bool again = false;
    while (!again && now_ms() < until) { /* as soon as one has gone another may come */
        c[0] = dial(n, false);
        say(c[0], HEADER);
        while (!c[0]->closed && !has_heard(c[0], "</stream:features>"))
            hear(c[0], until);
        again = !c[0]->closed;
        if (!again)
            hang_up(c[0]);
    }
    assert_true(again);
    for (int i = 0; i < 5; i++)
        hang_up(c[i]);
    node_free(n);
}

static void test_not_serving(void **state)
{
    struct node *n = node_new(NULL, 1);
    im_set_serving(n->im, false);
    struct client *c = dial(n, false);
    expect_closed(c);
    hang_up(c);
    im_set_serving(n->im, true);
    c = secure(n, TLS1_3_VERSION);
    hang_up(c);
    node_free(n);
}

/* After too many failures an account waits; another one, too, from the same address. */
static void test_throttling(void **state)
{
    struct node *n = node_new((const char *const[]){"limits.login_failures", "3", NULL}, 1);
    struct client *c = secure(n, TLS1_3_VERSION);
    for (int i = 0; i < 3; i++) {
        say_plain(c, "user", "wrong");
        expect(c, "<not-authorized/>");
    }
    say_plain(c, "user", "pencil"); /* a minute allows 3: the wait would be 20 s */
    expect(c, "<temporary-auth-failure/>");
    say_plain(c, "user", "pencil");
    expect(c, "<temporary-auth-failure/>");
    expect(c, "<policy-violation ");
    expect_closed(c);
    hang_up(c);
    node_free(n);
    /* a short wait is served */
    n = node_new((const char *const[]){"limits.login_failures", "40", NULL}, 1);
    for (int i = 0; i < 40; i++) {
        if (i % 4 == 0)
            c = secure(n, TLS1_3_VERSION);
        say_plain(c, "user", "wrong");
        expect(c, "<not-authorized/>");
        if (i % 4 == 3)
            hang_up(c);
    }
    c = secure(n, TLS1_3_VERSION);
    uint64_t start = now_ms();
    say_plain(c, "user", "pencil");
    expect(c, "<success ");
    assert_true(now_ms() - start < DEADLINE_MS);
    bind_session(c);
    hang_up(c);
    node_free(n);
}

static void test_throttle(void **state)
{
    struct c2s_throttle *t = c2s_throttle_new(100);
    uint64_t now = 1000000;
    for (int i = 0; i < 10; i++) {
        assert_int_equal(c2s_throttle_wait_ms(t, "192.0.2.1", "u@x", 10, now), 0);
        c2s_throttle_failed(t, "192.0.2.1", "u@x", 10, now);
    }
    unsigned wait = c2s_throttle_wait_ms(t, "192.0.2.1", "u@x", 10, now);
    assert_in_range(wait, 5900, 6100);
    assert_in_range(c2s_throttle_wait_ms(t, "192.0.2.9", "u@x", 10, now), 5900, 6100); /* the account */
    assert_in_range(c2s_throttle_wait_ms(t, "192.0.2.1", "v@x", 10, now), 5900, 6100); /* the address */
    assert_int_equal(c2s_throttle_wait_ms(t, "192.0.2.9", "v@x", 10, now), 0);
    assert_int_equal(c2s_throttle_wait_ms(t, "192.0.2.1", "u@x", 10, now + wait), 0);
    for (int i = 0; i < 1000; i++)
        c2s_throttle_failed(t, "192.0.2.1", "u@x", 10, now);
    assert_in_range(c2s_throttle_wait_ms(t, "192.0.2.1", "u@x", 10, now), 100000, 180000); /* bounded */
    for (int i = 0; i < 600; i++) /* many small steps leak as much as a long one */
        c2s_throttle_wait_ms(t, "192.0.2.1", NULL, 10, now += 300);
    assert_int_equal(c2s_throttle_wait_ms(t, "192.0.2.1", NULL, 10, now), 0);

    for (int i = 0; i < 5; i++)
        assert_true(c2s_throttle_attempt(t, "192.0.2.3", 5, now));
    assert_false(c2s_throttle_attempt(t, "192.0.2.3", 5, now));
    assert_true(c2s_throttle_attempt(t, "192.0.2.3", 0, now));
    assert_true(c2s_throttle_attempt(t, "192.0.2.3", 5, now + 12100));

    assert_true(c2s_throttle_connect(t, "2001:db8::1", 2, now)); /* one /64 */
    assert_true(c2s_throttle_connect(t, "2001:db8::ffff:2", 2, now));
    assert_false(c2s_throttle_connect(t, "2001:db8::3", 2, now));
    assert_true(c2s_throttle_connect(t, "2001:db8:0:1::1", 2, now));
    char address[32];
    for (int i = 0; i < 1000; i++) { /* bounded; connections are not forgotten */
        snprintf(address, sizeof(address), "10.0.%d.%d", i / 250, i % 250);
        c2s_throttle_failed(t, address, NULL, 10, now);
    }
    assert_false(c2s_throttle_connect(t, "2001:db8::3", 2, now));
    c2s_throttle_disconnect(t, "2001:db8::9");
    assert_true(c2s_throttle_connect(t, "2001:db8::3", 2, now));
    c2s_throttle_free(t);
}

/* ---- SCRAM by GNU SASL, bound to the channel ---- */

#ifdef IMP_HAVE_GSASL
static int on_property(Gsasl *g, Gsasl_session *session, Gsasl_property property)
{
    struct client *c = gsasl_session_hook_get(session);
    uint8_t data[32];
    char b64[64];
    if (property != GSASL_CB_TLS_EXPORTER || !c)
        return GSASL_NO_CALLBACK;
    if (SSL_export_keying_material(c->ssl, data, 32, "EXPORTER-Channel-Binding", 24, NULL, 0, 0) != 1)
        return GSASL_NO_CALLBACK;
    base64_encode(b64, data, 32);
    return gsasl_property_set(session, property, b64);
}

static void scram(struct client *c, const char *mechanism, const char *password, bool ok)
{
    Gsasl *g;
    Gsasl_session *s;
    char *out = NULL, text[1024];
    assert_int_equal(gsasl_init(&g), GSASL_OK);
    gsasl_callback_set(g, on_property);
    assert_int_equal(gsasl_client_start(g, mechanism, &s), GSASL_OK);
    gsasl_session_hook_set(s, strstr(mechanism, "PLUS") ? c : NULL);
    gsasl_property_set(s, GSASL_AUTHID, "user");
    gsasl_property_set(s, GSASL_PASSWORD, password);
    gsasl_step64(s, "", &out);
    snprintf(text, sizeof(text), "<auth " SASL " mechanism='%s'>%s</auth>", mechanism, out);
    gsasl_free(out);
    say(c, text);
    expect(c, "<challenge " SASL ">");
    while (!has_heard(c, "</challenge>"))
        hear(c, now_ms() + DEADLINE_MS);
    *strstr(c->in.data, "</challenge>") = '\0';
    assert_int_equal(gsasl_step64(s, c->in.data, &out), GSASL_NEEDS_MORE);
    buf_reset(&c->in);
    snprintf(text, sizeof(text), "<response " SASL ">%s</response>", out);
    gsasl_free(out);
    say(c, text);
    if (ok) {
        expect(c, "<success " SASL ">");
        while (!has_heard(c, "</success>"))
            hear(c, now_ms() + DEADLINE_MS);
        *strstr(c->in.data, "</success>") = '\0';
        assert_int_equal(gsasl_step64(s, c->in.data, &out), GSASL_OK);
        gsasl_free(out);
        buf_reset(&c->in);
    } else {
        expect(c, "<not-authorized/>");
    }
    gsasl_finish(s);
    gsasl_done(g);
}

static void test_scram(void **state)
{
    static const char *const names[] = {"SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS",
                                        "SCRAM-SHA-1"};
    struct node *n = node_new(NULL, 2);
    for (size_t i = 0; i < n_elements(names); i++) {
        struct client *c = secure(n, TLS1_3_VERSION);
        expect(c, "</stream:features>");
        scram(c, names[i], "wrong", false);
        scram(c, names[i], "pencil", true);
        bind_session(c);
        hang_up(c);
    }
    node_free(n);
}
#else
static void test_scram(void **state)
{
    skip();
}
#endif

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starttls_plain),
        cmocka_unit_test(test_direct_tls),
        cmocka_unit_test(test_pipelined),
        cmocka_unit_test(test_scram),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_in_clear),
        cmocka_unit_test(test_plain_in_clear),
        cmocka_unit_test(test_known_password),
        cmocka_unit_test(test_known_bounds),
        cmocka_unit_test(test_starttls_injection),
        cmocka_unit_test(test_floods),
        cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_connection_limits),
        cmocka_unit_test(test_not_serving),
        cmocka_unit_test(test_throttling),
        cmocka_unit_test(test_binding_setting),
        cmocka_unit_test(test_throttle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
