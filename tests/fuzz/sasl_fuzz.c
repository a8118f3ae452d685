/* SASL: no message sequence succeeds without the password, and none crashes. Input: a byte for the mechanism,
 * then messages separated by newlines. */
#include "base/clock.h"
#include "base/mem.h"
#include "fuzz.h"
#include "protocols/xmpp/sasl.h"

#include <string.h>

static int find(void *user, const char *localpart, struct credential *out)
{
    if (strcmp(localpart, "user") != 0)
        return ERR_NOTFOUND;
    memset(out, 0, sizeof(*out));
    for (int i = 0; i < N_CREDENTIAL_HASHES; i++) {
        out->keys[i].iterations = 4096;
        out->keys[i].n_salt = 16;
        memset(out->keys[i].stored_key, 0xa5,
               sizeof(out->keys[i].stored_key)); /* nobody knows its preimage */
    }
    return 0;
}

static unsigned find_tokens(void *user, const char *localpart, const char *mechanism,
                            struct sasl_token out[SASL_TOKENS])
{
    FUZZ_ASSERT(*localpart);
    for (unsigned i = 0; i < SASL_TOKENS; i++) {
        random_hex(out[i].text, 20);
        memset(out[i].nonce, (int)i, SASL_NONCE_BYTES);
    }
    return SASL_TOKENS;
}

static int bind_channel(void *user, enum tls_binding type, uint8_t *out, size_t *n)
{
    FUZZ_ASSERT(*n >= 64);
    *n = 64;
    memset(out, type, 64);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    const struct sasl_env env = {.domain = "example.com",
                                 .tls = true,
                                 .iterations = 4096,
                                 .binding = bind_channel,
                                 .find_credential = find,
                                 .find_tokens = find_tokens,
                                 .advertised = "PLAIN\x1eSCRAM-SHA-256\x1ftls-exporter",
                                 .fixed_nonce = "nonce"};
    if (n_bytes < 1)
        return 0;
    unsigned n_mechanisms = 0;
    while (sasl_mechanism_at(n_mechanisms))
        n_mechanisms++;
    struct sasl *s = sasl_new(&env, sasl_mechanism_at(data[0] % n_mechanisms));
    const char *p = (const char *)data + 1, *end = (const char *)data + n_bytes;
    enum sasl_result r = SASL_CONTINUE;
    while (r == SASL_CONTINUE && p < end) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((line ? line : end) - p);
        struct sasl_answer a;
        char *exact = mem_dup(p, n);
        r = sasl_step(s, exact, n, &a);
        mem_free(exact);
        if (r == SASL_PENDING) {
            FUZZ_ASSERT(*a.localpart && *a.password);
            r = sasl_resume(s, SASL_CHECK_WRONG, &a);
            FUZZ_ASSERT(r == SASL_FAILURE);
        }
        FUZZ_ASSERT(r != SASL_SUCCESS);
        FUZZ_ASSERT((r == SASL_FAILURE) == (a.condition != NULL));
        p = line ? line + 1 : end;
    }
    sasl_free(s);
    return 0;
}
