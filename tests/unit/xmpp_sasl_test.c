#include "base/base64.h"
#include "base/buf.h"
#include "base/mem.h"
#include "protocols/xmpp/sasl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#ifdef IMP_HAVE_GSASL
#include <gsasl.h>
#endif

#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* tables of cases */

#define E32 "EEEEEEEEEEEEEEEEEEEEEEEEEEEEEEEE"
#define P32 "PPPPPPPPPPPPPPPPPPPPPPPPPPPPPPPP"
/* the client's last message in the example of XEP-0474 */
#define FINAL_0474                                                                                            \
    "Yz1jRDEwYkhNdFpYaHdiM0owWlhJc0xGUklTVk1nU1ZNZ1JrRkxSU0JEUWlCRVFWUkIscj0xMkM0Q0Q1Qy1FMzhFLTRBOTgtOEY2RC0x" \
    "NUMzOEY1MUNDQzZhMDkxMTdhNi1hYzUwLTRmMmYtOTNmMS05Mzc5OWMyYmRkZjYseD0xOUM2NTMyRi0xQ0Y0LTRBMjctQTE4RC1EQzlD" \
    "RUE0MUJCQjMscD1NL1NJRGpUK2RmY3hVaDg5alpFeXBSdkZ4QjQ9"

/* ---- a server with one user ---- */

struct server {
    struct sasl_env env;
    struct credential credential;
    bool has_exporter, has_end_point;
    int n_lookups;
};

static int find(void *user, const char *localpart, struct credential *out)
{
    struct server *s = user;
    s->n_lookups++;
    if (strcmp(localpart, "user") != 0)
        return ERR_NOTFOUND;
    *out = s->credential;
    return 0;
}

static int bind_channel(void *user, enum tls_binding type, uint8_t *out, size_t *n)
{
    struct server *s = user;
    if (type == TLS_BIND_EXPORTER ? !s->has_exporter : !s->has_end_point)
        return ERR_UNSUPPORTED;
    *n = 32;
    memset(out, type == TLS_BIND_EXPORTER ? 'E' : 'P', 32);
    return 0;
}

static void server_init(struct server *s)
{
    static const uint8_t salt1[] = {0x41, 0x25, 0xc2, 0x47, 0xe4, 0x3a, 0xb1, 0xe9, 0x3c, 0x6d, 0xff, 0x76};
    uint8_t salt256[18];
    *s = (struct server){.env = {.user = s,
                                 .domain = "example.com",
                                 .tls = true,
                                 .secret = "secret",
                                 .iterations = 4096,
                                 .binding = bind_channel,
                                 .find_credential = find},
                         .has_exporter = true,
                         .has_end_point = true};
    long n = base64_decode(salt256, "W22ZaJ0SNY7soEsUEjb6gQ==", 24);
    assert_int_equal(n, 16);
    assert_int_equal(
        scram_derive(&s->credential.keys[CREDENTIAL_SHA1], CREDENTIAL_SHA1, "pencil", salt1, 12, 4096), 0);
    assert_int_equal(
        scram_derive(&s->credential.keys[CREDENTIAL_SHA256], CREDENTIAL_SHA256, "pencil", salt256, 16, 4096),
        0);
    assert_int_equal(
        scram_derive(&s->credential.keys[CREDENTIAL_SHA512], CREDENTIAL_SHA512, "pencil", salt256, 16, 4096),
        0);
}

static struct sasl *start(struct server *s, const char *mechanism)
{
    const struct sasl_mechanism *m = sasl_mechanism_find(mechanism);
    assert_non_null(m);
    return sasl_new(&s->env, m);
}

static enum sasl_result step(struct sasl *x, const char *text, struct sasl_answer *a)
{
    /* exactly sized, so that AddressSanitizer sees a read past the end */
    size_t n = strlen(text);
    char *exact = mem_dup(text, n);
    enum sasl_result r = sasl_step(x, exact, n, a);
    mem_free(exact);
    return r;
}

/* ---- vectors ---- */

static void run_vector(const char *mechanism, const char *nonce, const char *const text[4])
{
    struct server s;
    struct sasl_answer a;
    server_init(&s);
    s.env.fixed_nonce = nonce;
    struct sasl *x = start(&s, mechanism);
    assert_int_equal(step(x, text[0], &a), SASL_CONTINUE);
    assert_int_equal(a.n_bytes, strlen(text[1]));
    assert_memory_equal(a.data, text[1], a.n_bytes);
    assert_int_equal(step(x, text[2], &a), SASL_SUCCESS);
    assert_int_equal(a.n_bytes, strlen(text[3]));
    assert_memory_equal(a.data, text[3], a.n_bytes);
    assert_string_equal(a.localpart, "user");
    assert_int_equal(step(x, text[2], &a), SASL_FAILURE);
    sasl_free(x);
}

static void test_rfc5802(void **state)
{
    run_vector("SCRAM-SHA-1", "3rfcNHYJY1ZVvWVs7j",
               (const char *const[]){"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
                                     "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
                                     "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,"
                                     "p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
                                     "v=rmF9pqV8S7suAoZWja4dJRkFsKQ="});
}

static void test_rfc7677(void **state)
{
    run_vector("SCRAM-SHA-256", "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
               (const char *const[]){"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
                                     "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                                     "s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
                                     "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
                                     "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
                                     "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="});
}

/* The channel data of the next example. */
static int bind_fake(void *user, enum tls_binding type, uint8_t *out, size_t *n)
{
    static const char data[] = "THIS IS FAKE CB DATA";
    *n = sizeof data - 1;
    memcpy(out, data, *n);
    return type == TLS_BIND_EXPORTER ? 0 : ERR_UNSUPPORTED;
}

/* XEP-0474 §6, whole: what was advertised is hashed into the challenge and signed. */
static void test_xep0474(void **state)
{
    struct server s;
    struct sasl_answer a;
    server_init(&s);
    s.env.fixed_nonce = "a09117a6-ac50-4f2f-93f1-93799c2bddf6";
    s.env.binding = bind_fake;
    s.env.advertised = "SCRAM-SHA-1\x1eSCRAM-SHA-1-PLUS\x1f"
                       "tls-exporter\x1etls-server-end-point";
    struct sasl *x = start(&s, "SCRAM-SHA-1-PLUS");
    assert_int_equal(step(x, "p=tls-exporter,,n=user,r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6", &a), SASL_CONTINUE);
    static const char first[] = "r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6a09117a6-ac50-4f2f-93f1-93799c2bddf6,"
                                "s=QSXCR+Q6sek8bf92,i=4096,h=G6k/rBLDqgOhRRaCuuatSDFkJ08=";
    assert_int_equal(a.n_bytes, sizeof first - 1);
    assert_memory_equal(a.data, first, a.n_bytes);
    char final[512], other[512];
    long n = base64_decode((uint8_t *)final, FINAL_0474, strlen(FINAL_0474));
    assert_true(n > 0 && n < (long)sizeof final);
    final[n] = 0;
    assert_int_equal(step(x, final, &a), SASL_SUCCESS);
    assert_int_equal(a.n_bytes, 30);
    assert_memory_equal(a.data, "v=MQrMPvv7yv4x4Cq4W4Ih25EqS2c=", 30);
    assert_true(a.channel_bound && a.n_stored_key == 20);
    sasl_free(x);
    /* somebody has shortened the list on its way: the client's proof is over another hash */
    s.env.advertised = "SCRAM-SHA-1";
    x = start(&s, "SCRAM-SHA-1-PLUS");
    assert_int_equal(step(x, "p=tls-exporter,,n=user,r=12C4CD5C-E38E-4A98-8F6D-15C38F51CCC6", &a), SASL_CONTINUE);
    snprintf(other, sizeof other, "%s", final);
    assert_int_equal(step(x, other, &a), SASL_FAILURE);
    assert_string_equal(a.condition, "not-authorized");
    sasl_free(x);
}

/* ---- hashed tokens ---- */

static unsigned find_tokens(void *user, const char *localpart, const char *mechanism,
                            struct sasl_token out[SASL_TOKENS])
{
    if (strcmp(localpart, "user") != 0 || strcmp(mechanism, "HT-SHA-256-NONE") == 0)
        return 0;
    strcpy(out[0].text, "new token");
    strcpy(out[1].text, "old token");
    memset(out[0].nonce, 'n', SASL_NONCE_BYTES);
    memset(out[1].nonce, 'o', SASL_NONCE_BYTES);
    out[1].expired = user && ((struct server *)user)->n_lookups == -1;
    return 2;
}

static size_t token_message(char *out, const char *name, const char *token, const char *who, const char *binding)
{
    uint8_t mac[CREDENTIAL_MAX_KEY];
    size_t n = strlen(name) + 1;
    memcpy(out, name, n);
    credential_hmac2(CREDENTIAL_SHA256, (const uint8_t *)token, strlen(token), who, strlen(who), binding,
                     strlen(binding), mac);
    memcpy(out + n, mac, 32);
    return n + 32;
}

/* draft-schmaus-kitten-sasl-ht §3: name, token, binding and mechanism must all be right. */
static void test_tokens(void **state)
{
    static const struct {
        const char *mechanism, *name, *token, *who, *binding;
        const char *condition; /* NULL: success, with the token that begins with */
        char nonce;
    } cases[] = {
        {"HT-SHA-256-EXPR", "user", "new token", "Initiator", E32, NULL, 'n'},
        {"HT-SHA-256-EXPR", "USER", "old token", "Initiator", E32, NULL, 'o'},
        {"HT-SHA-256-ENDP", "user", "new token", "Initiator", P32, NULL, 'n'},
        {"HT-SHA-256-ENDP", "user", "new token", "Initiator", E32, "not-authorized"},
        {"HT-SHA-256-EXPR", "user", "new token", "Initiator", "", "not-authorized"},
        {"HT-SHA-256-EXPR", "user", "new token", "Responder", E32, "not-authorized"},
        {"HT-SHA-256-EXPR", "user", "no token", "Initiator", E32, "not-authorized"},
        {"HT-SHA-256-EXPR", "nobody", "new token", "Initiator", E32, "not-authorized"},
        {"HT-SHA-256-NONE", "user", "new token", "Initiator", "", "not-authorized"},
        {"HT-SHA-256-EXPR", "", "new token", "Initiator", E32, "malformed-request"},
    };
    char message[256], want[64];
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct server s;
        struct sasl_answer a;
        server_init(&s);
        s.env.find_tokens = find_tokens;
        struct sasl *x = start(&s, cases[i].mechanism);
        size_t n = token_message(message, cases[i].name, cases[i].token, cases[i].who, cases[i].binding);
        enum sasl_result r = sasl_step(x, message, n, &a);
        if ((r == SASL_SUCCESS) != !cases[i].condition)
            fail_msg("case %zu: %d", i, r);
        if (r == SASL_FAILURE) {
            assert_string_equal(a.condition, cases[i].condition);
        } else {
            assert_int_equal(a.token[0], cases[i].nonce);
            size_t n_want = token_message(want, "", cases[i].token, "Responder", cases[i].binding);
            assert_int_equal(a.n_bytes, n_want - 1);
            assert_memory_equal(a.data, want + 1, a.n_bytes);
            assert_true(a.channel_bound);
        }
        assert_int_equal(sasl_step(x, message, n, &a), SASL_FAILURE); /* once only */
        sasl_free(x);
    }
}

/* Out of date: said only to who has it (XEP-0484 §5). Shorter, longer, without TLS: refused. */
static void test_tokens_refused(void **state)
{
    struct server s;
    struct sasl_answer a;
    char message[256];
    server_init(&s);
    s.env.find_tokens = find_tokens;
    s.n_lookups = -1;
    size_t n = token_message(message, "user", "old token", "Initiator", E32);
    struct sasl *x = start(&s, "HT-SHA-256-EXPR");
    assert_int_equal(sasl_step(x, message, n, &a), SASL_FAILURE);
    assert_string_equal(a.condition, "credentials-expired");
    sasl_free(x);
    for (size_t k = 0; k < n; k++) {
        char *exact = mem_dup(message, k);
        x = start(&s, "HT-SHA-256-EXPR");
        assert_int_equal(sasl_step(x, exact, k, &a), SASL_FAILURE);
        assert_string_equal(a.condition, "malformed-request");
        sasl_free(x);
        mem_free(exact);
    }
    s.env.tls = false;
    s.env.plain_in_clear = true;
    x = start(&s, "HT-SHA-256-EXPR");
    assert_int_equal(sasl_step(x, message, n, &a), SASL_FAILURE);
    assert_string_equal(a.condition, "encryption-required");
    sasl_free(x);
    s.env.tls = true;
    s.has_exporter = false;
    x = start(&s, "HT-SHA-256-EXPR");
    assert_int_equal(sasl_step(x, message, n, &a), SASL_FAILURE);
    sasl_free(x);
}

/* ---- an own client, to make every kind of message ---- */

struct client {
    const char *mechanism, *gs2, *name, *password;
    const char *binding; /* appended to cbind-input */
    const char *c, *nonce_suffix;
    bool spoil_proof;
};

static enum sasl_result log_in(struct server *s, const struct client *c, struct sasl_answer *a,
                               char *first_answer)
{
    enum credential_hash hash = strstr(c->mechanism, "256")   ? CREDENTIAL_SHA256
                                : strstr(c->mechanism, "512") ? CREDENTIAL_SHA512
                                                              : CREDENTIAL_SHA1;
    size_t n = credential_key_bytes(hash);
    char bare[256], first[512], nonce[128], salt64[128], without[512], final[1024], auth[2048], c64[256];
    unsigned iterations;
    struct sasl *x = start(s, c->mechanism);
    snprintf(bare, sizeof(bare), "n=%s,r=clientnonce", c->name);
    snprintf(first, sizeof(first), "%s%s", c->gs2, bare);
    enum sasl_result r = step(x, first, a);
    if (first_answer)
        snprintf(first_answer, 256, "%.*s", (int)a->n_bytes, a->data ? a->data : "");
    if (r != SASL_CONTINUE) {
        sasl_free(x);
        return r;
    }
    char server_first[512];
    snprintf(server_first, sizeof(server_first), "%.*s", (int)a->n_bytes, a->data);
    assert_int_equal(sscanf(server_first, "r=%127[^,],s=%127[^,],i=%u", nonce, salt64, &iterations), 3);
    uint8_t salt[128];
    long n_salt = base64_decode(salt, salt64, strlen(salt64));
    assert_true(n_salt > 0);
    struct buf input = {0};
    buf_adds(&input, c->gs2);
    if (c->binding)
        buf_adds(&input, c->binding);
    base64_encode(c64, input.data, input.n);
    buf_fini(&input);
    snprintf(without, sizeof(without), "c=%s,r=%s%s", c->c ? c->c : c64, nonce,
             c->nonce_suffix ? c->nonce_suffix : "");
    int n_auth = snprintf(auth, sizeof(auth), "%s,%s,%s", bare, server_first, without);

    /* ClientKey is not kept by scram_derive: by its definition here. */
    struct scram_keys keys;
    uint8_t salted[CREDENTIAL_MAX_KEY], client_key[CREDENTIAL_MAX_KEY], signature[CREDENTIAL_MAX_KEY], proof[CREDENTIAL_MAX_KEY];
    assert_int_equal(scram_derive(&keys, hash, c->password, salt, (size_t)n_salt, iterations), 0);
    {
        uint8_t block[160], u[CREDENTIAL_MAX_KEY];
        memcpy(block, salt, (size_t)n_salt);
        memcpy(block + n_salt, "\0\0\0\1", 4);
        credential_hmac(hash, (const uint8_t *)c->password, strlen(c->password), block, (size_t)n_salt + 4,
                        u);
        memcpy(salted, u, n);
        for (unsigned i = 1; i < iterations; i++) {
            credential_hmac(hash, (const uint8_t *)c->password, strlen(c->password), u, n, u);
            for (size_t k = 0; k < n; k++)
                salted[k] ^= u[k];
        }
    }
    credential_hmac(hash, salted, n, "Client Key", 10, client_key);
    credential_hmac(hash, keys.stored_key, n, auth, (size_t)n_auth, signature);
    for (size_t i = 0; i < n; i++)
        proof[i] = client_key[i] ^ signature[i];
    if (c->spoil_proof)
        proof[n - 1] ^= 1;
    char proof64[BASE64_LENGTH(CREDENTIAL_MAX_KEY) + 1];
    base64_encode(proof64, proof, n);
    snprintf(final, sizeof(final), "%s,p=%s", without, proof64);
    r = step(x, final, a);
    if (r == SASL_SUCCESS) {
        uint8_t want[CREDENTIAL_MAX_KEY], got[CREDENTIAL_MAX_KEY + 8];
        credential_hmac(hash, keys.server_key, n, auth, (size_t)n_auth, want);
        assert_memory_equal(a->data, "v=", 2);
        assert_int_equal(base64_decode(got, a->data + 2, a->n_bytes - 2), n);
        assert_memory_equal(got, want, n);
        assert_string_equal(a->localpart, "user");
    } else {
        assert_int_equal(r, SASL_FAILURE);
        assert_non_null(a->condition);
    }
    sasl_free(x);
    return r;
}


/* mechanism x channel binding x authzid x password (attack "authzid / identity switch") */
static void test_matrix(void **state)
{
    static const struct {
        struct client client;
        bool plus_offered;
        const char *condition; /* NULL: success */
    } cases[] = {
        {{"SCRAM-SHA-256", "n,,", "user", "pencil"}, true, NULL},
        {{"SCRAM-SHA-1", "n,,", "user", "pencil"}, true, NULL},
        {{"SCRAM-SHA-256", "n,,", "USER", "pencil"}, true, NULL},
        {{"SCRAM-SHA-512", "n,,", "user", "pencil"}, true, NULL},
        {{"SCRAM-SHA-512", "n,,", "user", "Pencil"}, true, "not-authorized"},
        {{"SCRAM-SHA-512-PLUS", "p=tls-exporter,,", "user", "pencil", E32}, true, NULL},
        {{"SCRAM-SHA-512-PLUS", "p=tls-exporter,,", "user", "pencil", P32}, true, "not-authorized"},
        {{"SCRAM-SHA-256", "y,,", "user", "pencil"}, false, NULL},
        {{"SCRAM-SHA-256", "y,,", "user", "pencil"}, true, "not-authorized"}, /* downgrade */
        {{"SCRAM-SHA-256", "n,a=user@example.com,", "user", "pencil"}, true, NULL},
        {{"SCRAM-SHA-256", "n,a=User@Example.com.,", "user", "pencil"}, true, NULL},
        {{"SCRAM-SHA-256", "n,a=other@example.com,", "user", "pencil"}, true, "invalid-authzid"},
        {{"SCRAM-SHA-256", "n,a=user@example.org,", "user", "pencil"}, true, "invalid-authzid"},
        {{"SCRAM-SHA-256", "n,a=user@example.com/r,", "user", "pencil"}, true, "invalid-authzid"},
        {{"SCRAM-SHA-256", "n,a=example.com,", "user", "pencil"}, true, "invalid-authzid"},
        {{"SCRAM-SHA-256", "n,a=user,", "user", "pencil"}, true, "invalid-authzid"},
        {{"SCRAM-SHA-256", "n,,", "user", "Pencil"}, true, "not-authorized"},
        {{"SCRAM-SHA-256", "n,,", "nobody", "pencil"}, true, "not-authorized"},
        {{"SCRAM-SHA-256", "n,,", "user", "pencil", .spoil_proof = true}, true, "not-authorized"},
        {{"SCRAM-SHA-256", "n,,", "user", "pencil", .nonce_suffix = "x"}, true, "not-authorized"},
        {{"SCRAM-SHA-256", "n,,", "user", "pencil", .c = "eSws"}, true, "not-authorized"},
        {{"SCRAM-SHA-256", "p=tls-exporter,,", "user", "pencil", E32},
         true,
         "not-authorized"}, /* not -PLUS */
        {{"SCRAM-SHA-256-PLUS", "n,,", "user", "pencil"}, true, "not-authorized"},
        {{"SCRAM-SHA-256-PLUS", "y,,", "user", "pencil"}, true, "not-authorized"},
        {{"SCRAM-SHA-256-PLUS", "p=tls-exporter,,", "user", "pencil", E32}, true, NULL},
        {{"SCRAM-SHA-1-PLUS", "p=tls-exporter,,", "user", "pencil", E32}, true, NULL},
        {{"SCRAM-SHA-256-PLUS", "p=tls-server-end-point,,", "user", "pencil", P32}, true, NULL},
        {{"SCRAM-SHA-256-PLUS", "p=tls-exporter,,", "user", "pencil", P32},
         true,
         "not-authorized"}, /* in the middle */
        {{"SCRAM-SHA-256-PLUS", "p=tls-exporter,,", "user", "pencil", ""}, true, "not-authorized"},
        {{"SCRAM-SHA-256-PLUS", "p=tls-unique,,", "user", "pencil", E32}, true, "not-authorized"},
        {{"SCRAM-SHA-256-PLUS", "p=tls-exporter,a=user@example.com,", "user", "pencil", E32}, true, NULL},
        {{"SCRAM-SHA-256-PLUS", "p=tls-exporter,a=a@example.com,", "user", "pencil", E32},
         true,
         "invalid-authzid"},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct server s;
        struct sasl_answer a;
        server_init(&s);
        s.env.plus_offered = cases[i].plus_offered;
        enum sasl_result r = log_in(&s, &cases[i].client, &a, NULL);
        if ((r == SASL_SUCCESS) != !cases[i].condition)
            fail_msg("case %zu: %d %s", i, r, a.condition ? a.condition : "");
        if (r == SASL_FAILURE)
            assert_string_equal(a.condition, cases[i].condition);
        if (r == SASL_SUCCESS)
            assert_int_equal(a.channel_bound, strstr(cases[i].client.mechanism, "PLUS") != NULL);
    }
}

/* Without the binding on our side a -PLUS exchange fails, it does not crash. */
static void test_no_binding(void **state)
{
    static const struct client c = {"SCRAM-SHA-256-PLUS", "p=tls-exporter,,", "user", "pencil", E32};
    struct server s;
    struct sasl_answer a;
    server_init(&s);
    s.has_exporter = false;
    assert_int_equal(log_in(&s, &c, &a, NULL), SASL_FAILURE);
    s.env.binding = NULL;
    assert_int_equal(log_in(&s, &c, &a, NULL), SASL_FAILURE);
}

/* Unknown users look like known ones: same salt each time, another for another name, usual length and count.
 */
static void test_unknown_user(void **state)
{
    struct server s;
    struct sasl_answer a;
    char one[256], two[256], other[256], known[256];
    server_init(&s);
    struct client c = {"SCRAM-SHA-256", "n,,", "ghost", "pencil"};
    assert_int_equal(log_in(&s, &c, &a, one), SASL_FAILURE);
    assert_string_equal(a.condition, "not-authorized");
    assert_int_equal(log_in(&s, &c, &a, two), SASL_FAILURE);
    c.name = "Ghost2";
    log_in(&s, &c, &a, other);
    c.name = "user";
    c.password = "wrong";
    assert_int_equal(log_in(&s, &c, &a, known), SASL_FAILURE);
    assert_string_equal(a.condition, "not-authorized");
    assert_string_equal(strstr(one, ",s="), strstr(two, ",s="));
    assert_string_not_equal(strstr(one, ",s="), strstr(other, ",s="));
    assert_int_equal(strlen(one), strlen(known));
    assert_string_not_equal(one, two); /* the nonce */
    s.env.secret[0] ^= 1;
    c.name = "ghost";
    log_in(&s, &c, &a, two);
    assert_string_not_equal(strstr(one, ",s="), strstr(two, ",s="));
    /* a name that cannot be one, too */
    c.name = "a b";
    assert_int_equal(log_in(&s, &c, &a, one), SASL_FAILURE);
    assert_string_equal(a.condition, "not-authorized");
    assert_int_equal(strlen(one), strlen(known));
}

static void test_malformed(void **state)
{
    static const char *const firsts[] = {
        "",
        "n",
        "n,",
        "n,,",
        "n,,n=",
        "n,,n=user",
        "n,,n=user,",
        "n,,n=,r=abc",
        "n,,n=user,r=",
        "n,,r=abc,n=user",
        "n,,m=x,n=user,r=abc",
        "x,,n=user,r=abc",
        "n,x,n=user,r=abc",
        "n,a=,n=user,r=abc",
        "n,a=user@example.com",
        "n,,n=us=er,r=abc",
        "n,,n=us=2,r=abc",
        "n,,n=us=2c,r=abc",
        "n,,n=user,r=a\x01",
        "n,,n=user,r=a\xff",
        "p,,n=user,r=abc",
        "p=,,n=user,r=abc",
        ",,n=user,r=abc",
        "n,a=%,n=user,r=abc",
    };
    static const char *const finals[] = {
        "",
        "c",
        "c=",
        "c=biws",
        "c=biws,",
        "c=biws,r=",
        "c=biws,r=R",
        "c=biws,r=R,",
        "c=biws,r=R,p=",
        "c=biws,r=R,p=v0X8v3Bz",
        "c=biws,r=R,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=,",
        "c=biws,r=R,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=,x=y",
        "c=biws,r=R,p=v0X8v3Bz2T0CJGbJQyF0X+HI4T",
        "r=R,c=biws,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "c=biws,r=R,x,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "c=biws,r=R,p=v0X8v3Bz2T0CJGbJQyF0X+HI4TsA=",
    };
    struct server s;
    struct sasl_answer a;
    server_init(&s);
    for (size_t i = 0; i < n_elements(firsts); i++) {
        struct sasl *x = start(&s, "SCRAM-SHA-1");
        if (step(x, firsts[i], &a) != SASL_FAILURE)
            fail_msg("first %s", firsts[i]);
        assert_non_null(a.condition);
        sasl_free(x);
    }
    for (size_t i = 0; i < n_elements(finals); i++) {
        struct sasl *x = start(&s, "SCRAM-SHA-1");
        assert_int_equal(step(x, "n,,n=user,r=abc", &a), SASL_CONTINUE);
        if (step(x, finals[i], &a) != SASL_FAILURE)
            fail_msg("final %s", finals[i]);
        assert_non_null(a.condition);
        sasl_free(x);
    }
    /* NULs and sizes */
    struct sasl *x = start(&s, "SCRAM-SHA-1");
    assert_int_equal(sasl_step(x, "n,,n=us\0er,r=abc", 16, &a), SASL_FAILURE);
    sasl_free(x);
    char *big = mem_alloc(SASL_MAX_MESSAGE + 1);
    memset(big, 'a', SASL_MAX_MESSAGE + 1);
    memcpy(big, "n,,n=user,r=", 12);
    for (size_t n = SASL_MAX_MESSAGE; n <= SASL_MAX_MESSAGE + 1; n++) {
        x = start(&s, "SCRAM-SHA-1");
        assert_int_equal(sasl_step(x, big, n, &a), SASL_FAILURE);
        sasl_free(x);
    }
    mem_free(big);
}

/* Extensions after the nonce are ignored, optional ones before the proof, too (RFC 5802 §5.1). */
static void test_no_initial_response(void **state)
{
    struct server s;
    struct sasl_answer a;
    server_init(&s);
    struct sasl *x = start(&s, "SCRAM-SHA-1");
    assert_int_equal(sasl_step(x, NULL, 0, &a), SASL_CONTINUE);
    assert_int_equal(a.n_bytes, 0);
    assert_int_equal(step(x, "n,,n=user,r=abc,x=ignored", &a), SASL_CONTINUE);
    assert_true(a.n_bytes > 0);
    sasl_free(x);
}

/* ---- PLAIN ---- */

static void test_plain(void **state)
{
    static const struct {
        const char *data;
        size_t n;
        const char *condition; /* NULL: pending */
    } cases[] = {
        {"\0user\0pencil", 12, NULL},
        {"\0USER\0pencil", 12, NULL},
        {"user@example.com\0user\0pencil", 28, NULL},
        {"other@example.com\0user\0pencil", 29, "invalid-authzid"},
        {"other\0user\0pencil", 17, "invalid-authzid"},
        {"\0user\0", 6, "malformed-request"}, /* unauthenticated bind */
        {"\0\0pencil", 8, "malformed-request"},
        {"user\0pencil", 11, "malformed-request"},
        {"\0user\0pen\0cil", 13, "malformed-request"},
        {"", 0, "malformed-request"},
        {"\0a b\0pencil", 11, "not-authorized"},
        {"\0us\xff\0pencil", 11, "not-authorized"},
    };
    struct server s;
    server_init(&s);
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct sasl_answer a;
        struct sasl *x = start(&s, "PLAIN");
        enum sasl_result r = sasl_step(x, cases[i].data, cases[i].n, &a);
        if (cases[i].condition) {
            if (r != SASL_FAILURE || strcmp(a.condition, cases[i].condition) != 0)
                fail_msg("case %zu: %s", i, a.condition ? a.condition : "no failure");
        } else {
            assert_int_equal(r, SASL_PENDING);
            assert_string_equal(a.localpart, "user");
            assert_string_equal(a.password, "pencil");
            const char *password = a.password;
            assert_int_equal(sasl_resume(x, SASL_CHECK_OK, &a), SASL_SUCCESS);
            assert_string_equal(a.localpart, "user");
            assert_string_equal(password, ""); /* wiped */
            assert_int_equal(sasl_resume(x, SASL_CHECK_OK, &a), SASL_FAILURE);
        }
        sasl_free(x);
    }
    static const struct {
        enum sasl_check check;
        const char *condition;
    } checks[] = {{SASL_CHECK_WRONG, "not-authorized"},
                  {SASL_CHECK_LOCKED, "account-disabled"},
                  {SASL_CHECK_UNAVAILABLE, "temporary-auth-failure"}};
    for (size_t i = 0; i < n_elements(checks); i++) {
        struct sasl_answer a;
        struct sasl *x = start(&s, "PLAIN");
        assert_int_equal(sasl_step(x, "\0user\0x", 7, &a), SASL_PENDING);
        /* nothing may be sent while a check is under way */
        assert_int_equal(sasl_resume(x, checks[i].check, &a), SASL_FAILURE);
        assert_string_equal(a.condition, checks[i].condition);
        sasl_free(x);
    }
    struct sasl_answer a;
    struct sasl *x = start(&s, "PLAIN");
    assert_int_equal(sasl_step(x, "\0user\0x", 7, &a), SASL_PENDING);
    assert_int_equal(sasl_step(x, "\0user\0x", 7, &a), SASL_FAILURE);
    sasl_free(x);
    s.env.tls = false;
    x = start(&s, "PLAIN");
    assert_int_equal(sasl_step(x, "\0user\0pencil", 12, &a), SASL_FAILURE);
    assert_string_equal(a.condition, "encryption-required");
    sasl_free(x);
}

static void test_offers(void **state)
{
    static const struct {
        struct sasl_offer offer;
        const char *names;
    } cases[] = {
        {{.tls = true, .local_passwords = true, .plain = true, .bind_exporter = true},
         "SCRAM-SHA-256-PLUS SCRAM-SHA-256 SCRAM-SHA-1-PLUS SCRAM-SHA-1 PLAIN "},
        {{.tls = true, .local_passwords = true}, "SCRAM-SHA-256 SCRAM-SHA-1 "},
        {{.tls = true, .plain = true, .bind_exporter = true}, "PLAIN "},
        {{.tls = false, .local_passwords = true, .plain = true, .bind_exporter = true},
         "SCRAM-SHA-256 SCRAM-SHA-1 "},
        {{0}, ""},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct buf names = {0};
        buf_adds(&names, "");
        const struct sasl_mechanism *m;
        for (unsigned k = 0; (m = sasl_mechanism_at(k)); k++)
            if (sasl_mechanism_is_offered(m, &cases[i].offer))
                buf_addf(&names, "%s ", sasl_mechanism_name(m));
        assert_string_equal(names.data ? names.data : "", cases[i].names);
        buf_fini(&names);
    }
    assert_null(sasl_mechanism_find("DIGEST-MD5"));
    assert_null(sasl_mechanism_find(""));
}

static void test_credential(void **state)
{
    struct credential c;
    struct err_ctx err = {0};
    assert_int_equal(credential_new(&c, "p\xc3\xa4ss", 5, 4096, &err), 0);
    assert_true(credential_check(&c, "pa\xcc\x88ss", 6)); /* the same after NFC */
    assert_false(credential_check(&c, "pass", 4));
    assert_false(credential_check(&c, "", 0));
    assert_false(credential_check(NULL, "p\xc3\xa4ss", 5));
    assert_int_equal(credential_new(&c, "", 0, 4096, &err), ERR_MALFORMED);
    assert_int_equal(credential_new(&c, "x", 1, 0, &err), ERR_INVALID);
    struct credential zero = {0};
    assert_false(credential_check(&zero, "x", 1));
    struct scram_keys keys;
    uint8_t salt[65] = {0};
    assert_int_equal(scram_derive(&keys, CREDENTIAL_SHA1, "x", salt, 65, 1), ERR_INVALID);
    assert_int_equal(scram_derive(&keys, CREDENTIAL_SHA1, "x", salt, 0, 1), ERR_INVALID);
    assert_int_equal(scram_derive(&keys, CREDENTIAL_SHA1, "x", salt, 8, CREDENTIAL_MAX_ITERATIONS + 1),
                     ERR_INVALID);
}

static void test_base64(void **state)
{
    static const char *const good[] = {"", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};
    static const char *const bad[] = {"Z",        "Zg",    "Zg=",   "Zh==",   "Zm9=", "Z===", "====",
                                      "Zg==Zg==", "Zm9v ", " Zm9v", "Zm\n9v", "Zm9-", "=Zm9"};
    char out[32];
    uint8_t bytes[32];
    for (size_t i = 0; i < n_elements(good); i++) {
        assert_int_equal(base64_encode(out, "foobar", i), strlen(good[i]));
        assert_string_equal(out, good[i]);
        assert_int_equal(base64_decode(bytes, good[i], strlen(good[i])), i);
        assert_memory_equal(bytes, "foobar", i);
    }
    for (size_t i = 0; i < n_elements(bad); i++)
        if (base64_decode(bytes, bad[i], strlen(bad[i])) != ERR_MALFORMED)
            fail_msg("%s", bad[i]);
}

/* ---- GNU SASL as the client ---- */

#ifdef IMP_HAVE_GSASL
static int on_property(Gsasl *g, Gsasl_session *session, Gsasl_property property)
{
    const char *binding = gsasl_session_hook_get(session);
    if (property == GSASL_CB_TLS_EXPORTER && binding)
        return gsasl_property_set(session, property, binding) == GSASL_OK ? GSASL_OK : GSASL_NO_CALLBACK;
    return GSASL_NO_CALLBACK;
}

static enum sasl_result peer(struct server *s, const char *mechanism, const char *password,
                             const char *authzid)
{
    Gsasl *g;
    Gsasl_session *session;
    char binding[64];
    enum sasl_result r = SASL_CONTINUE;
    struct sasl_answer a = {.data = ""};
    base64_encode(binding, E32, 32);
    assert_int_equal(gsasl_init(&g), GSASL_OK);
    gsasl_callback_set(g, on_property);
    assert_int_equal(gsasl_client_start(g, mechanism, &session), GSASL_OK);
    gsasl_session_hook_set(session, strstr(mechanism, "PLUS") ? binding : NULL);
    assert_int_equal(gsasl_property_set(session, GSASL_AUTHID, "user"), GSASL_OK);
    assert_int_equal(gsasl_property_set(session, GSASL_PASSWORD, password), GSASL_OK);
    if (authzid)
        assert_int_equal(gsasl_property_set(session, GSASL_AUTHZID, authzid), GSASL_OK);
    struct sasl *x = start(s, mechanism);
    int rc = GSASL_NEEDS_MORE;
    while (r == SASL_CONTINUE) {
        char *output = NULL;
        size_t n = 0;
        char *input = mem_strndup(a.data, a.n_bytes);
        rc = gsasl_step(session, input, a.n_bytes, &output, &n);
        mem_free(input);
        assert_true(rc == GSASL_OK || rc == GSASL_NEEDS_MORE);
        r = sasl_step(x, output ? output : "", n, &a);
        if (r == SASL_PENDING)
            r = sasl_resume(x, strcmp(a.password, "pencil") == 0 ? SASL_CHECK_OK : SASL_CHECK_WRONG, &a);
        gsasl_free(output);
    }
    if (r == SASL_SUCCESS && a.n_bytes > 0) { /* the client checks the server's signature */
        char *output = NULL;
        size_t n = 0;
        rc = gsasl_step(session, a.data, a.n_bytes, &output, &n);
        gsasl_free(output);
        assert_int_equal(rc, GSASL_OK);
    }
    sasl_free(x);
    gsasl_finish(session);
    gsasl_done(g);
    return r;
}

static void test_gsasl(void **state)
{
    static const char *const names[] = {"SCRAM-SHA-256", "SCRAM-SHA-1", "SCRAM-SHA-256-PLUS",
                                        "SCRAM-SHA-1-PLUS", "PLAIN"};
    for (size_t i = 0; i < n_elements(names); i++) {
        struct server s;
        server_init(&s);
        s.env.advertised = "PLAIN\x1eSCRAM-SHA-1"; /* XEP-0474: an attribute that the peer does not know */
        assert_int_equal(peer(&s, names[i], "pencil", NULL), SASL_SUCCESS);
        assert_int_equal(peer(&s, names[i], "pencil", "user@example.com"), SASL_SUCCESS);
        assert_int_equal(peer(&s, names[i], "pencil", "root@example.com"), SASL_FAILURE);
        assert_int_equal(peer(&s, names[i], "Pencil", NULL), SASL_FAILURE);
    }
}
#else
static void test_gsasl(void **state)
{
    skip();
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc5802),
        cmocka_unit_test(test_rfc7677),
        cmocka_unit_test(test_xep0474),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_tokens_refused),
        cmocka_unit_test(test_matrix),
        cmocka_unit_test(test_no_binding),
        cmocka_unit_test(test_unknown_user),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_no_initial_response),
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_offers),
        cmocka_unit_test(test_credential),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_gsasl),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
