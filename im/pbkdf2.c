#define OPENSSL_SUPPRESS_DEPRECATED /* hash states on the stack are what this is about */
#include "im/pbkdf2.h"
#include "base/mem.h"
#include <openssl/sha.h>
#include <string.h>

/* HMAC (RFC 2104) with the states behind the two padded keys made once. */
#define DEFINE_PBKDF2(name, STATE, init, update, final, BLOCK_BYTES, HASH_BYTES)                             \
    static void name##_start(STATE *state, const uint8_t *key, uint8_t pad)                                  \
    {                                                                                                        \
        uint8_t block[BLOCK_BYTES];                                                                          \
        for (size_t i = 0; i < sizeof(block); i++)                                                           \
            block[i] = key[i] ^ pad;                                                                         \
        init(state);                                                                                         \
        update(state, block, sizeof(block));                                                                 \
        mem_wipe(block, sizeof(block));                                                                      \
    }                                                                                                        \
    static void name(uint8_t *out, const char *password, size_t n_password, const uint8_t *salt,             \
                     size_t n_salt, unsigned iterations)                                                     \
    {                                                                                                        \
        static const uint8_t first[] = {0, 0, 0, 1};                                                         \
        uint8_t key[BLOCK_BYTES] = {0}, u[HASH_BYTES];                                                       \
        STATE inner, outer, state;                                                                           \
        if (n_password > sizeof(key)) {                                                                      \
            init(&state);                                                                                    \
            update(&state, password, n_password);                                                            \
            final(key, &state);                                                                              \
        } else {                                                                                             \
            memcpy(key, password, n_password);                                                               \
        }                                                                                                    \
        name##_start(&inner, key, 0x36);                                                                     \
        name##_start(&outer, key, 0x5c);                                                                     \
        memset(out, 0, sizeof(u));                                                                           \
        for (unsigned i = 0; i < iterations; i++) {                                                          \
            state = inner;                                                                                   \
            if (i == 0) {                                                                                    \
                update(&state, salt, n_salt);                                                                \
                update(&state, first, sizeof(first));                                                        \
            } else {                                                                                         \
                update(&state, u, sizeof(u));                                                                \
            }                                                                                                \
            final(u, &state);                                                                                \
            state = outer;                                                                                   \
            update(&state, u, sizeof(u));                                                                    \
            final(u, &state);                                                                                \
            for (size_t k = 0; k < sizeof(u); k++)                                                           \
                out[k] ^= u[k];                                                                              \
        }                                                                                                    \
        mem_wipe(key, sizeof(key));                                                                          \
        mem_wipe(u, sizeof(u));                                                                              \
        mem_wipe(&inner, sizeof(inner));                                                                     \
        mem_wipe(&outer, sizeof(outer));                                                                     \
        mem_wipe(&state, sizeof(state));                                                                     \
    }

DEFINE_PBKDF2(with_sha1, SHA_CTX, SHA1_Init, SHA1_Update, SHA1_Final, SHA_CBLOCK, SHA_DIGEST_LENGTH)
DEFINE_PBKDF2(with_sha256, SHA256_CTX, SHA256_Init, SHA256_Update, SHA256_Final, SHA256_CBLOCK,
              SHA256_DIGEST_LENGTH)
DEFINE_PBKDF2(with_sha512, SHA512_CTX, SHA512_Init, SHA512_Update, SHA512_Final, SHA512_CBLOCK,
              SHA512_DIGEST_LENGTH)

void pbkdf2(uint8_t *out, enum credential_hash hash, const char *password, size_t n_password,
            const uint8_t *salt, size_t n_salt, unsigned iterations)
{
    switch (hash) {
    case CREDENTIAL_SHA1:
        with_sha1(out, password, n_password, salt, n_salt, iterations);
        break;
    case CREDENTIAL_SHA256:
        with_sha256(out, password, n_password, salt, n_salt, iterations);
        break;
    default:
        with_sha512(out, password, n_password, salt, n_salt, iterations);
        break;
    }
}
