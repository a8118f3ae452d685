/* SCRAM (RFC 5802, RFC 7677) and the channel bindings tls-exporter (RFC 9266) and tls-server-end-point (RFC
 * 5929). */
#include "base/base64.h"
#include "base/buf.h"
#include "base/clock.h"
#include "protocols/xmpp/sasl_mechanism.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_NAME = 3 * JID_PART_MAX, /* a saslname may write ',' and '=' with three characters */
    MAX_BINDING = 128,
    NONCE_BYTES = 18,
    MAX_CLIENT_NONCE = 512,
};

enum scram_state { WANTS_FIRST, WANTS_FINAL };

struct scram {
    enum scram_state state;
    bool known;
    struct scram_keys keys;
    struct buf channel_input;          /* cbind-input: gs2-header, then the binding data */
    struct buf auth;                   /* AuthMessage as far as it is known */
    char nonce[MAX_CLIENT_NONCE + 64]; /* both halves */
    char out[1024];
};

/* A cursor over one message. */
struct field {
    const char *p, *end;
};

/* The value of "K=value" up to ',' or the end; consumes the ','. False when the next attribute is another. */
static bool take(struct field *f, char key, const char **value, size_t *n)
{
    if (f->end - f->p < 2 || f->p[0] != key || f->p[1] != '=')
        return false;
    *value = f->p + 2;
    const char *comma = memchr(*value, ',', (size_t)(f->end - *value));
    *n = (size_t)((comma ? comma : f->end) - *value);
    f->p = comma ? comma + 1 : f->end;
    return true;
}

/* "=2C" and "=3D" (RFC 5802 §5.1). */
static bool unescape(char *out, size_t room, const char *name, size_t n)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == '\0' || n_out + 1 >= room)
            return false;
        if (c == '=') {
            if (n - i < 3)
                return false;
            if (name[i + 1] == '2' && name[i + 2] == 'C')
                c = ',';
            else if (name[i + 1] == '3' && name[i + 2] == 'D')
                c = '=';
            else
                return false;
            i += 2;
        }
        out[n_out++] = c;
    }
    out[n_out] = '\0';
    return n_out > 0;
}

static bool is_printable(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] < 0x21 || s[i] > 0x7e || s[i] == ',')
            return false;
    return n > 0;
}

/* ---- gs2-header: binding flag and authzid ---- */

static int binding_type(const char *name, size_t n)
{
    if (n == 12 && memcmp(name, "tls-exporter", n) == 0)
        return TLS_BIND_EXPORTER;
    if (n == 20 && memcmp(name, "tls-server-end-point", n) == 0)
        return TLS_BIND_SERVER_END_POINT;
    return -1;
}

/* NULL, or the condition of the failure. On success *f stands after the flag's comma. */
static const char *read_flag(struct sasl *s, struct field *f, uint8_t *binding, size_t *n_binding)
{
    const char *value;
    size_t n;
    *n_binding = 0;
    if (f->end - f->p >= 2 && (f->p[0] == 'n' || f->p[0] == 'y') && f->p[1] == ',') {
        /* "y": the client would bind and believes that we cannot. If we offered it, somebody took the offer
         * away. */
        if (s->mechanism->plus || (f->p[0] == 'y' && s->env->plus_offered))
            return "not-authorized";
        f->p += 2;
        return NULL;
    }
    if (!take(f, 'p', &value, &n))
        return "malformed-request";
    int type = binding_type(value, n);
    if (!s->mechanism->plus || type < 0 || !s->env->binding)
        return "not-authorized";
    *n_binding = MAX_BINDING;
    if (s->env->binding(s->env->user, (enum tls_binding)type, binding, n_binding) != 0)
        return "not-authorized";
    return NULL;
}

/* Everything up to client-first-message-bare; keeps cbind-input. AUTHZID has room for JID_MAX + 1. */
static const char *read_gs2(struct sasl *s, struct field *f, char *authzid)
{
    struct scram *x = s->state;
    const char *start = f->p, *value;
    uint8_t binding[MAX_BINDING];
    size_t n, n_binding;
    const char *condition = read_flag(s, f, binding, &n_binding);
    if (condition)
        return condition;
    authzid[0] = '\0';
    if (f->p < f->end && *f->p == ',') {
        f->p++;
    } else if (!take(f, 'a', &value, &n) || f->p[-1] != ',' || !unescape(authzid, JID_MAX + 1, value, n)) {
        return "malformed-request";
    }
    buf_add(&x->channel_input, start, (size_t)(f->p - start));
    buf_add(&x->channel_input, binding, n_binding);
    return NULL;
}

/* ---- first message ---- */

/* Keys of the user, or something that looks like them: the salt is always the same for one name (RFC 5802
 * §9). */
static void find_keys(struct sasl *s, const char *name)
{
    struct scram *x = s->state;
    struct credential credential = {0};
    enum credential_hash hash = s->mechanism->hash;
    x->known = *s->localpart && s->env->find_credential &&
               s->env->find_credential(s->env->user, s->localpart, &credential) == 0 &&
               credential_has(&credential, hash);
    if (x->known)
        x->keys = credential.keys[hash];
    credential_wipe(&credential);
    if (x->known)
        return;
    uint8_t digest[CREDENTIAL_MAX_KEY];
    char text[MAX_NAME + 32];
    int n = snprintf(text, sizeof(text), "scram-salt-%d:%s", (int)hash, *s->localpart ? s->localpart : name);
    credential_hmac(CREDENTIAL_SHA256, s->env->secret, sizeof(s->env->secret), text, (size_t)n, digest);
    x->keys.iterations = s->env->iterations ? s->env->iterations : CREDENTIAL_ITERATIONS;
    x->keys.n_salt = CREDENTIAL_SALT_BYTES;
    memcpy(x->keys.salt, digest, CREDENTIAL_SALT_BYTES);
    random_bytes(x->keys.stored_key, sizeof(x->keys.stored_key));
    random_bytes(x->keys.server_key, sizeof(x->keys.server_key));
}

static void make_nonce(struct sasl *s, const char *client, size_t n_client)
{
    struct scram *x = s->state;
    uint8_t random[NONCE_BYTES];
    memcpy(x->nonce, client, n_client);
    if (s->env->fixed_nonce) {
        snprintf(x->nonce + n_client, sizeof(x->nonce) - n_client, "%s", s->env->fixed_nonce);
        return;
    }
    random_bytes(random, sizeof(random));
    base64_encode(x->nonce + n_client, random, sizeof(random));
}

static enum sasl_result read_first(struct sasl *s, const char *data, size_t n_bytes, struct sasl_answer *out)
{
    struct scram *x = s->state;
    struct field f = {data, data + n_bytes};
    char authzid[JID_MAX + 1], name[MAX_NAME + 1];
    const char *condition = read_gs2(s, &f, authzid);
    if (condition)
        return sasl_fail(s, condition, out);

    const char *bare = f.p, *user, *nonce;
    size_t n_user, n_nonce;
    /* "m=" would be an extension that must be understood (RFC 5802 §5.1): malformed here, too. */
    if (!take(&f, 'n', &user, &n_user) || !take(&f, 'r', &nonce, &n_nonce) || n_nonce > MAX_CLIENT_NONCE ||
        !is_printable(nonce, n_nonce) || !unescape(name, sizeof(name), user, n_user))
        return sasl_fail(s, "malformed-request", out);
    if (address_prep_local(s->localpart, name, strlen(name), NULL) != 0)
        s->localpart[0] = '\0'; /* nobody; found out at the end like any unknown user */
    if (!sasl_is_own_authzid(s, authzid))
        return sasl_fail(s, "invalid-authzid", out);

    find_keys(s, name);
    make_nonce(s, nonce, n_nonce);
    char salt[BASE64_LENGTH(CREDENTIAL_MAX_SALT) + 1];
    base64_encode(salt, x->keys.salt, x->keys.n_salt);
    int n = snprintf(x->out, sizeof(x->out), "r=%s,s=%s,i=%u", x->nonce, salt, (unsigned)x->keys.iterations);
    if (s->env->advertised) { /* XEP-0474 §5.1: signed with the rest, so that nobody can shorten the list */
        uint8_t digest[CREDENTIAL_MAX_KEY];
        credential_digest(s->mechanism->hash, s->env->advertised, strlen(s->env->advertised), digest);
        memcpy(x->out + n, ",h=", 3);
        n += 3;
        n += (int)base64_encode(x->out + n, digest, credential_key_bytes(s->mechanism->hash));
    }
    buf_add(&x->auth, bare, (size_t)(data + n_bytes - bare));
    buf_add(&x->auth, ",", 1);
    buf_add(&x->auth, x->out, (size_t)n);
    buf_add(&x->auth, ",", 1);
    x->state = WANTS_FINAL;
    out->localpart = s->localpart;
    out->data = x->out;
    out->n_bytes = (size_t)n;
    return SASL_CONTINUE;
}

/* ---- final message ---- */

/* c= must be what the first message began with, and our channel's binding data. */
static bool is_channel_input(const struct scram *x, const char *text, size_t n)
{
    if (n != BASE64_LENGTH(x->channel_input.n))
        return false;
    char *expected = mem_alloc(n + 1);
    base64_encode(expected, x->channel_input.data, x->channel_input.n);
    bool ok = CRYPTO_memcmp(text, expected, n) == 0;
    mem_free(expected);
    return ok;
}

static bool is_proof_right(const struct sasl *s, const uint8_t *proof)
{
    const struct scram *x = s->state;
    enum credential_hash hash = s->mechanism->hash;
    size_t n = credential_key_bytes(hash);
    uint8_t signature[CREDENTIAL_MAX_KEY], client_key[CREDENTIAL_MAX_KEY], stored[CREDENTIAL_MAX_KEY];
    credential_hmac(hash, x->keys.stored_key, n, x->auth.data, x->auth.n, signature);
    for (size_t i = 0; i < n; i++)
        client_key[i] = proof[i] ^ signature[i];
    credential_digest(hash, client_key, n, stored);
    bool ok = CRYPTO_memcmp(stored, x->keys.stored_key, n) == 0;
    mem_wipe(client_key, sizeof(client_key));
    return ok && x->known;
}

static enum sasl_result read_final(struct sasl *s, const char *data, size_t n_bytes, struct sasl_answer *out)
{
    struct scram *x = s->state;
    struct field f = {data, data + n_bytes};
    const char *channel, *nonce, *proof = NULL;
    size_t n_channel, n_nonce, n_proof = 0;
    if (!take(&f, 'c', &channel, &n_channel) || !take(&f, 'r', &nonce, &n_nonce) ||
        memchr(data, '\0', n_bytes))
        return sasl_fail(s, "malformed-request", out);
    const char *before_proof = f.p;
    while (f.p < f.end && !proof) { /* extensions may stand in between; the proof is last */
        before_proof = f.p;
        const char *ignored;
        size_t n_ignored;
        if (!take(&f, 'p', &proof, &n_proof) && !take(&f, *f.p, &ignored, &n_ignored))
            return sasl_fail(s, "malformed-request", out);
    }
    uint8_t decoded[CREDENTIAL_MAX_KEY + 8];
    if (!proof || f.p != f.end || n_proof > BASE64_LENGTH(CREDENTIAL_MAX_KEY) || before_proof[-1] != ',' ||
        base64_decode(decoded, proof, n_proof) != (long)credential_key_bytes(s->mechanism->hash))
        return sasl_fail(s, "malformed-request", out);
    size_t n_without = (size_t)(before_proof - 1 - data);
    buf_add(&x->auth, data, n_without);

    size_t n_want = strlen(x->nonce);
    bool ok = n_nonce == n_want && CRYPTO_memcmp(nonce, x->nonce, n_want) == 0;
    ok &= is_channel_input(x, channel, n_channel);
    ok &= is_proof_right(s, decoded);
    mem_wipe(decoded, sizeof(decoded));
    if (!ok)
        return sasl_fail(s, "not-authorized", out);

    uint8_t signature[CREDENTIAL_MAX_KEY];
    size_t n = credential_key_bytes(s->mechanism->hash);
    credential_hmac(s->mechanism->hash, x->keys.server_key, n, x->auth.data, x->auth.n, signature);
    memcpy(x->out, "v=", 2);
    out->data = x->out;
    out->n_bytes = 2 + base64_encode(x->out + 2, signature, n);
    out->channel_bound = s->mechanism->plus;
    out->stored_key = x->keys.stored_key;
    out->n_stored_key = n;
    return sasl_succeed(s, out);
}

static enum sasl_result scram_step(struct sasl *s, const char *data, size_t n_bytes, struct sasl_answer *out)
{
    const struct scram *x = s->state;
    return x->state == WANTS_FIRST ? read_first(s, data, n_bytes, out) : read_final(s, data, n_bytes, out);
}

/* Never pending. */
static enum sasl_result scram_resume(struct sasl *s, enum sasl_check check, struct sasl_answer *out)
{
    return sasl_fail(s, "not-authorized", out);
}

static void scram_fini(struct sasl *s)
{
    struct scram *x = s->state;
    buf_fini(&x->channel_input);
    buf_fini(&x->auth);
}

#define SCRAM(id, text, of_hash, is_plus)                                                                    \
    const struct sasl_mechanism id = {                                                                       \
        .name = text,                                                                                        \
        .needs_local = true,                                                                                 \
        .plus = is_plus,                                                                                     \
        .hash = of_hash,                                                                                     \
        .state_bytes = sizeof(struct scram),                                                                 \
        .fini = scram_fini,                                                                                  \
        .step = scram_step,                                                                                  \
        .resume = scram_resume,                                                                              \
    }
SCRAM(sasl_scram_sha1, "SCRAM-SHA-1", CREDENTIAL_SHA1, false);
SCRAM(sasl_scram_sha1_plus, "SCRAM-SHA-1-PLUS", CREDENTIAL_SHA1, true);
SCRAM(sasl_scram_sha256, "SCRAM-SHA-256", CREDENTIAL_SHA256, false);
SCRAM(sasl_scram_sha256_plus, "SCRAM-SHA-256-PLUS", CREDENTIAL_SHA256, true);
SCRAM(sasl_scram_sha512, "SCRAM-SHA-512", CREDENTIAL_SHA512, false);
SCRAM(sasl_scram_sha512_plus, "SCRAM-SHA-512-PLUS", CREDENTIAL_SHA512, true);
