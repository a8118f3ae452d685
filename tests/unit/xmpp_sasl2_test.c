/* SASL2 at the edge where a script has no hands: channel bindings, tokens over them, upgrades, and what TLS
 * must not allow. The rest is in tests/conversations/login. */
#include "edge_fixture.h"
#include "im/credential_row.h"

#define SASL2 "xmlns='urn:xmpp:sasl:2'"
#define AGENT "<user-agent id='d4565fa7-4d72-4749-b3d3-740edbf87770'/>"

static struct client *tls_client(struct node *n, int max_version)
{
    struct client *c = dial(n, true);
    assert_true(handshake(c, "xmpp-client", max_version));
    say(c, HEADER);
    expect(c, "</stream:features>");
    return c;
}

static void authenticate(struct client *c, const char *mechanism, const void *message, size_t n,
                         const char *more)
{
    char b64[512], text[2048];
    base64_encode(b64, message, n);
    snprintf(text, sizeof text,
             "<authenticate " SASL2 " mechanism='%s'><initial-response>%s</initial-response>" AGENT
             "%s</authenticate>",
             mechanism, b64, more);
    say(c, text);
}

/* What stands between FROM and TO, and is forgotten. */
static void take(struct client *c, const char *from, const char *to, char *out, size_t room)
{
    expect(c, from);
    uint64_t until = now_ms() + DEADLINE_MS;
    while (!has_heard(c, to) && now_ms() < until && !c->closed)
        hear(c, until);
    const char *end = strstr(c->in.data, to);
    assert_non_null(end);
    snprintf(out, room, "%.*s", (int)(end - c->in.data), c->in.data);
    expect(c, to);
}

static size_t token_message(struct client *c, const char *token, const char *who, char *out)
{
    uint8_t binding[32], mac[CREDENTIAL_MAX_KEY];
    assert_int_equal(
        SSL_export_keying_material(c->ssl, binding, 32, "EXPORTER-Channel-Binding", 24, NULL, 0, 0), 1);
    credential_hmac2(CREDENTIAL_SHA256, (const uint8_t *)token, strlen(token), who, strlen(who), binding, 32,
                     mac);
    memcpy(out, "user", 5);
    memcpy(out + 5, mac, 32);
    return 37;
}

/* XEP-0484 §3.3: a token over the exporter is good on the channel that it was proved on, and on no other. */
static void test_token_is_bound(void **state)
{
    struct node *n = node_new(NULL, 2);
    char token[128], message[64], answer[128], want[64];
    struct client *c = tls_client(n, TLS1_3_VERSION);
    authenticate(c, "PLAIN", "\0user\0pencil", 12,
                 "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>");
    take(c, "token='", "'", token, sizeof token);
    expect(c, "<authorization-identifier>user@example.com</authorization-identifier>");
    hang_up(c);
    assert_int_equal(n->n_submitted, 1);

    c = tls_client(n, TLS1_3_VERSION);
    size_t n_message = token_message(c, token, "Initiator", message);
    authenticate(c, "HT-SHA-256-EXPR", message, n_message, "<fast xmlns='urn:xmpp:fast:0'/>");
    take(c, "<additional-data>", "</additional-data>", answer, sizeof answer);
    token_message(c, token, "Responder", want);
    uint8_t got[48];
    assert_int_equal(base64_decode(got, answer, strlen(answer)), 32);
    assert_memory_equal(got, want + 5, 32);
    expect(c, "<authorization-identifier>user@example.com</authorization-identifier>");
    hang_up(c);
    assert_int_equal(n->n_submitted, 2); /* the first use ends what was before */

    c = tls_client(n, TLS1_3_VERSION); /* the same bytes on another channel */
    authenticate(c, "HT-SHA-256-EXPR", message, n_message, "<fast xmlns='urn:xmpp:fast:0'/>");
    expect(c, "<not-authorized");
    n_message = token_message(c, token, "Initiator", message);
    authenticate(c, "HT-SHA-256-EXPR", message, n_message, "<fast xmlns='urn:xmpp:fast:0'/>");
    expect(c, "<success ");
    hang_up(c);
    assert_int_equal(n->n_submitted, 2); /* nothing to write: no round trip through the log */
    node_free(n);
}

/* Without the log a log-in goes on, only there is no token; a count cannot be taken then. */
static void test_token_without_log(void **state)
{
    struct node *n = node_new(NULL, 1);
    char token[128], message[64];
    struct client *c = tls_client(n, TLS1_3_VERSION);
    authenticate(c, "PLAIN", "\0user\0pencil", 12,
                 "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>");
    take(c, "token='", "'", token, sizeof token);
    hang_up(c);
    static const int codes[] = {ERR_UNAVAILABLE, ERR_UNKNOWN_OUTCOME};
    for (size_t i = 0; i < n_elements(codes); i++) {
        n->answer = codes[i];
        c = tls_client(n, TLS1_3_VERSION);
        size_t n_message = token_message(c, token, "Initiator", message);
        authenticate(c, "HT-SHA-256-EXPR", message, n_message, "<fast xmlns='urn:xmpp:fast:0' count='1'/>");
        expect(c, "<temporary-auth-failure");
        authenticate(c, "PLAIN", "\0user\0pencil", 12,
                     "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-EXPR'/>");
        expect(c, "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>");
        hang_up(c);
    }
    n->answer = ERR_CONFLICT; /* the state machine knows the count already */
    c = tls_client(n, TLS1_3_VERSION);
    size_t n_message = token_message(c, token, "Initiator", message);
    authenticate(c, "HT-SHA-256-EXPR", message, n_message, "<fast xmlns='urn:xmpp:fast:0' count='1'/>");
    expect(c, "<not-authorized");
    hang_up(c);
    node_free(n);
}

/* XEP-0480 §3: the account of the fixture has no keys for SHA-512. */
static void test_upgrade(void **state)
{
    struct node *n = node_new(NULL, 2);
    char iterations[16], salt64[64], text[1024], b64[128];
    struct client *c = tls_client(n, TLS1_3_VERSION);
    static const char wanted[] = "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>";
    authenticate(c, "PLAIN", "\0user\0pencil", 12, wanted);
    expect(c, "<continue " SASL2 "><tasks><task>UPGR-SCRAM-SHA-512</task></tasks></continue>");
    say(c, "<task-data " SASL2
           "><hash xmlns='urn:xmpp:scram-upgrade:0'>eA==</hash></task-data>"); /* not begun */
    expect(c, "<malformed-request");
    authenticate(c, "PLAIN", "\0user\0pencil", 12, wanted);
    expect(c, "</continue>");
    say(c, "<next " SASL2 " task='UPGR-SCRAM-SHA-256'/>"); /* another task */
    expect(c, "<malformed-request");
    authenticate(c, "PLAIN", "\0user\0pencil", 12, wanted);
    expect(c, "</continue>");
    say(c, "<next " SASL2 " task='UPGR-SCRAM-SHA-512'/>");
    take(c, "iterations='", "'>", iterations, sizeof iterations);
    take(c, "", "</salt>", salt64, sizeof salt64);
    uint8_t salt[64];
    long n_salt = base64_decode(salt, salt64, strlen(salt64));
    assert_int_equal(n_salt, CREDENTIAL_SALT_BYTES);
    uint8_t salted[64];
    PKCS5_PBKDF2_HMAC("pencil", 6, salt, (int)n_salt, atoi(iterations), EVP_sha512(), 64, salted);
    base64_encode(b64, salted, 64);
    snprintf(text, sizeof text,
             "<task-data " SASL2 "><hash xmlns='urn:xmpp:scram-upgrade:0'>%s</hash></task-data>", b64);
    say(c, text);
    expect(c, "<success " SASL2 "><authorization-identifier>user@example.com<");
    expect(c, "</stream:features>");
    hang_up(c);
    assert_int_equal(n->n_submitted, 1);
    /* what is stored now is what the password gives */
    struct scram_keys keys;
    struct credential stored = {0};
    struct arena a;
    struct key k;
    arena_init(&a);
    key_init(&k);
    key_u64(&k, 1);
    struct store_txn *t = store_begin(n->store);
    assert_true(credential_row_read(&stored, store_find_row(t, TABLE_CREDENTIAL, &k, &a)));
    store_abort(t);
    arena_fini(&a);
    assert_int_equal(
        scram_derive(&keys, CREDENTIAL_SHA512, "pencil", salt, (size_t)n_salt, (unsigned)atoi(iterations)),
        0);
    assert_memory_equal(keys.stored_key, stored.keys[CREDENTIAL_SHA512].stored_key, 64);
    assert_memory_equal(keys.server_key, stored.keys[CREDENTIAL_SHA512].server_key, 64);

    c = tls_client(n, TLS1_3_VERSION); /* nothing to do any more */
    authenticate(c, "PLAIN", "\0user\0pencil", 12, wanted);
    expect(c, "<success " SASL2 ">");
    hang_up(c);
    node_free(n);
}

/* An upgrade in whose course the password was changed is a log-in with an old password. */
static void test_upgrade_refused(void **state)
{
    struct node *n = node_new(NULL, 1);
    struct client *c = tls_client(n, TLS1_3_VERSION);
    n->answer = ERR_CONFLICT;
    authenticate(c, "PLAIN", "\0user\0pencil", 12,
                 "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>");
    expect(c, "</continue>");
    say(c, "<next " SASL2 " task='UPGR-SCRAM-SHA-512'/>");
    expect(c, "</task-data>");
    say(c, "<task-data " SASL2 "><hash xmlns='urn:xmpp:scram-upgrade:0'>"
           "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA==</hash></"
           "task-data>");
    expect(c, "<not-authorized");
    hang_up(c);
    node_free(n);
}

/* The users of the call manager have nothing to be upgraded, and get tokens that spare asking it. */
static void test_backend_user(void **state)
{
    static const char *const settings[] = {"auth.mode", "axl", NULL};
    struct node *n = node_new(settings, 1);
    char token[128], message[64];
    struct client *c = tls_client(n, TLS1_3_VERSION);
    authenticate(c, "PLAIN", "\0axl.user\0right", 15,
                 "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>"
                 "<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>");
    take(c, "token='", "'", token, sizeof token);
    hang_up(c);
    assert_int_equal(n->n_backend, 1);
    c = tls_client(n, TLS1_3_VERSION);
    uint8_t mac[CREDENTIAL_MAX_KEY];
    memcpy(message, "axl.user", 9);
    credential_hmac2(CREDENTIAL_SHA256, (const uint8_t *)token, strlen(token), "Initiator", 9, "", 0, mac);
    memcpy(message + 9, mac, 32);
    authenticate(c, "HT-SHA-256-NONE", message, 41, "<fast xmlns='urn:xmpp:fast:0'/>");
    expect(c, "<authorization-identifier>axl.user@example.com</authorization-identifier>");
    hang_up(c);
    assert_int_equal(n->n_backend, 1);
    node_free(n);
}

/* attack 23: a client cannot make us do one handshake after the other on a connection (CVE-2021-32920). */
static void test_attack_23_renegotiation(void **state)
{
    struct node *n = node_new(NULL, 1);
    struct client *c = tls_client(n, TLS1_2_VERSION);
    assert_int_equal(SSL_version(c->ssl), TLS1_2_VERSION);
    assert_int_equal(SSL_renegotiate(c->ssl), 1);
    assert_int_not_equal(SSL_do_handshake(c->ssl), 1); /* a warning, which ends it at the client */
    assert_int_equal(metrics_get(&n->metrics, METRIC_TLS_HANDSHAKES), 1);
    hang_up(c);
    node_free(n);
}

/* attack 9, XEP-0388 §5: a ticket allows no early data, so that no log-in can be sent twice with it. */
static void test_no_early_data(void **state)
{
    struct node *n = node_new(NULL, 1);
    struct client *c = tls_client(n, TLS1_3_VERSION);
    authenticate(c, "PLAIN", "\0user\0pencil", 12, "");
    expect(c, "<success ");
    SSL_SESSION *session = SSL_get1_session(c->ssl);
    assert_non_null(session);
    assert_true(SSL_SESSION_is_resumable(session));
    assert_int_equal(SSL_SESSION_get_max_early_data(session), 0);
    SSL_SESSION_free(session);
    hang_up(c);
    node_free(n);
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token_is_bound), cmocka_unit_test(test_token_without_log),
        cmocka_unit_test(test_upgrade),        cmocka_unit_test(test_upgrade_refused),
        cmocka_unit_test(test_backend_user),   cmocka_unit_test(test_attack_23_renegotiation),
        cmocka_unit_test(test_no_early_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
