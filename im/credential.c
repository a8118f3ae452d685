#include "im/credential.h"
#include "base/clock.h"
#include "base/mem.h"
#include "im/address.h"
#include "im/pbkdf2.h"

#include <assert.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <string.h>

static const EVP_MD *md_of(enum credential_hash hash)
{
    switch (hash) {
    case CREDENTIAL_SHA1:
        return EVP_sha1();
    case CREDENTIAL_SHA512:
        return EVP_sha512();
    default:
        return EVP_sha256();
    }
}

size_t credential_key_bytes(enum credential_hash hash)
{
    static const size_t n[N_CREDENTIAL_HASHES] = {20, 32, 64};
    return n[hash];
}

void credential_hmac(enum credential_hash hash, const uint8_t *key, size_t n_key, const void *data,
                     size_t n_bytes, uint8_t out[CREDENTIAL_MAX_KEY])
{
    unsigned n = 0;
    const uint8_t *ok = HMAC(md_of(hash), key, (int)n_key, data, n_bytes, out, &n);
    assert(ok && n == credential_key_bytes(hash));
}

void credential_hmac2(enum credential_hash hash, const uint8_t *key, size_t n_key, const void *first,
                      size_t n_first, const void *second, size_t n_second, uint8_t out[CREDENTIAL_MAX_KEY])
{
    uint8_t small[512], *both = small;
    size_t n = n_first + n_second;
    if (n > sizeof small)
        both = mem_alloc(n);
    memcpy(both, first, n_first);
    if (n_second)
        memcpy(both + n_first, second, n_second);
    credential_hmac(hash, key, n_key, both, n, out);
    if (both != small)
        mem_free(both);
}

void credential_digest(enum credential_hash hash, const void *data, size_t n_bytes,
                       uint8_t out[CREDENTIAL_MAX_KEY])
{
    unsigned n = 0;
    int ok = EVP_Digest(data, n_bytes, out, &n, md_of(hash), NULL);
    assert(ok == 1 && n == credential_key_bytes(hash));
}

void scram_from_salted(struct scram_keys *out, enum credential_hash hash, const uint8_t *salted)
{
    uint8_t client_key[CREDENTIAL_MAX_KEY];
    size_t n = credential_key_bytes(hash);
    credential_hmac(hash, salted, n, "Client Key", 10, client_key);
    credential_digest(hash, client_key, n, out->stored_key);
    credential_hmac(hash, salted, n, "Server Key", 10, out->server_key);
    mem_wipe(client_key, sizeof(client_key));
}

int scram_derive(struct scram_keys *out, enum credential_hash hash, const char *password, const uint8_t *salt,
                 size_t n_salt, unsigned iterations)
{
    if (n_salt == 0 || n_salt > CREDENTIAL_MAX_SALT || iterations == 0 ||
        iterations > CREDENTIAL_MAX_ITERATIONS)
        return ERR_INVALID;
    uint8_t salted[CREDENTIAL_MAX_KEY];
    pbkdf2(salted, hash, password, strlen(password), salt, n_salt, iterations);
    *out = (struct scram_keys){.iterations = iterations, .n_salt = (uint8_t)n_salt};
    memcpy(out->salt, salt, n_salt);
    scram_from_salted(out, hash, salted);
    mem_wipe(salted, sizeof(salted));
    return 0;
}

int credential_new(struct credential *out, const char *password, size_t n_bytes, unsigned iterations,
                   struct err_ctx *err)
{
    char prepared[JID_PART_MAX + 1];
    int code = address_prep_password(prepared, password, n_bytes, err);
    for (int hash = 0; code == 0 && hash < N_CREDENTIAL_HASHES; hash++) {
        uint8_t salt[CREDENTIAL_SALT_BYTES];
        random_bytes(salt, sizeof(salt));
        code = scram_derive(&out->keys[hash], (enum credential_hash)hash, prepared, salt, sizeof(salt),
                            iterations);
        if (code != 0)
            err_set(err, code, "%u iterations are out of range", iterations);
    }
    mem_wipe(prepared, sizeof(prepared));
    return code;
}

bool credential_has(const struct credential *c, enum credential_hash hash)
{
    return c && c->keys[hash].iterations > 0;
}

bool credential_check(const struct credential *c, const char *password, size_t n_bytes)
{
    static const struct scram_keys nobody = {.iterations = CREDENTIAL_ITERATIONS,
                                             .n_salt = CREDENTIAL_SALT_BYTES};
    enum credential_hash hash = CREDENTIAL_SHA256; /* if it is there; also for nobody */
    for (int i = 0; i < N_CREDENTIAL_HASHES && !credential_has(c, hash); i++)
        if (credential_has(c, (enum credential_hash)i))
            hash = (enum credential_hash)i;
    bool known = credential_has(c, hash);
    const struct scram_keys *want = known ? &c->keys[hash] : &nobody;
    char prepared[JID_PART_MAX + 1];
    /* A password that cannot be one takes as long as any other, too. */
    bool ok = address_prep_password(prepared, password, n_bytes, NULL) == 0;
    struct scram_keys got = {0};
    if (scram_derive(&got, hash, ok ? prepared : "", want->salt, want->n_salt, want->iterations) != 0)
        ok = false;
    bool equal = CRYPTO_memcmp(got.stored_key, want->stored_key, credential_key_bytes(hash)) == 0;
    mem_wipe(prepared, sizeof(prepared));
    mem_wipe(&got, sizeof(got));
    return ok && known && equal;
}

void credential_wipe(struct credential *c)
{
    mem_wipe(c, sizeof(*c));
}
