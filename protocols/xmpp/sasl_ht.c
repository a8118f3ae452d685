/* Hashed tokens (draft-schmaus-kitten-sasl-ht), the mechanisms of FAST (XEP-0484): the client proves a token
 * and, with -EXPR and -ENDP, the TLS channel it is used on; the server answers with a proof of its own.
 *
 *   client: authcid NUL HMAC(token, "Initiator" binding)      server: HMAC(token, "Responder" binding) */
#include "base/clock.h"
#include "protocols/xmpp/sasl_mechanism.h"

#include <openssl/crypto.h>
#include <stdio.h>
#include <string.h>

enum { MAX_BINDING = 128, PROOF_BYTES = 32 };

struct ht {
    struct sasl_token tokens[SASL_TOKENS];
    uint8_t binding[MAX_BINDING];
    size_t n_binding;
    char out[CREDENTIAL_MAX_KEY];
};

static bool read_binding(struct sasl *s)
{
    struct ht *h = s->state;
    if (s->mechanism->token_binding == SASL_BIND_NONE)
        return true;
    enum tls_binding type =
        s->mechanism->token_binding == SASL_BIND_EXPORTER ? TLS_BIND_EXPORTER : TLS_BIND_SERVER_END_POINT;
    h->n_binding = sizeof(h->binding);
    return s->env->binding && s->env->binding(s->env->user, type, h->binding, &h->n_binding) == 0;
}

static void prove(const struct ht *h, const struct sasl_token *t, const char *who, uint8_t *out)
{
    credential_hmac2(CREDENTIAL_SHA256, (const uint8_t *)t->text, strlen(t->text), who, strlen(who),
                     h->binding, h->n_binding, out);
}

/* As much work for a user or client that does not exist. */
static unsigned find_tokens(struct sasl *s)
{
    struct ht *h = s->state;
    unsigned n = *s->localpart && s->env->find_tokens
                     ? s->env->find_tokens(s->env->user, s->localpart, s->mechanism->name, h->tokens)
                     : 0;
    for (unsigned i = n; i < SASL_TOKENS; i++)
        random_hex(h->tokens[i].text, 20);
    return n;
}

static enum sasl_result ht_step(struct sasl *s, const char *data, size_t n_bytes, struct sasl_answer *out)
{
    struct ht *h = s->state;
    const char *end = memchr(data, '\0', n_bytes);
    if (!end || end == data || (size_t)(data + n_bytes - end - 1) != PROOF_BYTES)
        return sasl_fail(s, "malformed-request", out);
    if (address_prep_local(s->localpart, data, (size_t)(end - data), NULL) != 0)
        s->localpart[0] = '\0';
    if (!read_binding(s))
        return sasl_fail(s, "not-authorized", out);
    unsigned n = find_tokens(s);
    const struct sasl_token *found = NULL;
    for (unsigned i = 0; i < SASL_TOKENS; i++) {
        uint8_t want[CREDENTIAL_MAX_KEY];
        prove(h, &h->tokens[i], "Initiator", want);
        if (CRYPTO_memcmp(want, end + 1, PROOF_BYTES) == 0 && i < n)
            found = &h->tokens[i];
    }
    if (!found)
        return sasl_fail(s, "not-authorized", out);
    if (found->expired)
        return sasl_fail(s, "credentials-expired", out);
    prove(h, found, "Responder", (uint8_t *)h->out);
    out->data = h->out;
    out->n_bytes = PROOF_BYTES;
    out->channel_bound = s->mechanism->token_binding != SASL_BIND_NONE;
    out->token = found->nonce;
    return sasl_succeed(s, out);
}

/* Never pending. */
static enum sasl_result ht_resume(struct sasl *s, enum sasl_check check, struct sasl_answer *out)
{
    return sasl_fail(s, "not-authorized", out);
}

#define HT(id, text, binding)                                                                                \
    const struct sasl_mechanism id = {                                                                       \
        .name = text,                                                                                        \
        .needs_tls = true,                                                                                   \
        .token = true,                                                                                       \
        .token_binding = binding,                                                                            \
        .hash = CREDENTIAL_SHA256,                                                                           \
        .state_bytes = sizeof(struct ht),                                                                    \
        .step = ht_step,                                                                                     \
        .resume = ht_resume,                                                                                 \
    }
HT(sasl_ht_exporter, "HT-SHA-256-EXPR", SASL_BIND_EXPORTER);
HT(sasl_ht_end_point, "HT-SHA-256-ENDP", SASL_BIND_END_POINT);
HT(sasl_ht_none, "HT-SHA-256-NONE", SASL_BIND_NONE);
