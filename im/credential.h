/* What a local account stores instead of a password: SCRAM keys (RFC 5802 §3, RFC 7677) for SHA-1, SHA-256 and
 * SHA-512. Any thread. Derivation takes milliseconds by intent: not on a shard loop (loop_run_work). */
#ifndef IM_CREDENTIAL_H
#define IM_CREDENTIAL_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CREDENTIAL_ITERATIONS = 10000,       /* of new credentials; RFC 7677 §4 wants 4096 at least */
    CREDENTIAL_MAX_ITERATIONS = 1000000, /* of stored ones */
    CREDENTIAL_SALT_BYTES = 16,          /* of new ones, and what unknown users seem to have */
    CREDENTIAL_MAX_SALT = 64,
    CREDENTIAL_MAX_KEY = 64,
};
enum credential_hash { CREDENTIAL_SHA1, CREDENTIAL_SHA256, CREDENTIAL_SHA512, N_CREDENTIAL_HASHES };

struct scram_keys {
    uint32_t iterations; /* 0: there are none for this hash */
    uint8_t n_salt;
    uint8_t salt[CREDENTIAL_MAX_SALT];
    uint8_t stored_key[CREDENTIAL_MAX_KEY], server_key[CREDENTIAL_MAX_KEY]; /* credential_key_bytes long */
};
struct credential {
    struct scram_keys keys[N_CREDENTIAL_HASHES];
};

/* Keys for a new password, random salts. The password is prepared (RFC 8265 §4): ERR_MALFORMED with detail.
 */
int credential_new(struct credential *out, const char *password, size_t n_bytes, unsigned iterations,
                   struct err_ctx *err);
/* One hash with a given salt. ERR_INVALID: salt or iterations out of range. PASSWORD is prepared already. */
int scram_derive(struct scram_keys *out, enum credential_hash hash, const char *password, const uint8_t *salt,
                 size_t n_salt, unsigned iterations);
/* The same from SaltedPassword, credential_key_bytes long (RFC 5802 §3); salt and iterations are those in OUT. */
void scram_from_salted(struct scram_keys *out, enum credential_hash hash, const uint8_t *salted);
/* Is PASSWORD (as received) the one? C NULL or without keys: no, after the same time as for any other. */
bool credential_check(const struct credential *c, const char *password, size_t n_bytes);
bool credential_has(const struct credential *c, enum credential_hash hash);
void credential_wipe(struct credential *c);

size_t credential_key_bytes(enum credential_hash hash); /* 20, 32, 64 */
void credential_hmac(enum credential_hash hash, const uint8_t *key, size_t n_key, const void *data,
                     size_t n_bytes, uint8_t out[CREDENTIAL_MAX_KEY]);
/* HMAC over two pieces, one after the other. */
void credential_hmac2(enum credential_hash hash, const uint8_t *key, size_t n_key, const void *first,
                      size_t n_first, const void *second, size_t n_second, uint8_t out[CREDENTIAL_MAX_KEY]);
void credential_digest(enum credential_hash hash, const void *data, size_t n_bytes,
                       uint8_t out[CREDENTIAL_MAX_KEY]);

#endif
