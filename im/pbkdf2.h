/* PBKDF2 (RFC 8018 §5.2) of one block of HMAC, which is SCRAM's Hi() (RFC 5802 §2.2). OpenSSL 3.0's own
 * copies an allocated context four times an iteration, which costs several times what the hashing does. Any
 * thread. */
#ifndef IM_PBKDF2_H
#define IM_PBKDF2_H

#include "im/credential.h"

/* OUT: credential_key_bytes(HASH) of it. */
void pbkdf2(uint8_t *out, enum credential_hash hash, const char *password, size_t n_password,
            const uint8_t *salt, size_t n_salt, unsigned iterations);

#endif
