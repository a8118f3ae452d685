/* One-time join tokens: "imp1-" and base64url (no padding) of
 *
 *   secret 16 | SHA-256 of the CA certificate 32 | expiry, Unix seconds u32 LE | CRC32C of all before u32 LE
 *
 * The store holds only SHA-256 of the secret. The check sum tells a mistyped token from a wrong one. Any
 * thread. */
#ifndef CLUSTER_TOKEN_H
#define CLUSTER_TOKEN_H

#include <stdint.h>

enum { TOKEN_SECRET_BYTES = 16, TOKEN_TEXT_MAX = 96 };

struct token {
    uint8_t secret[TOKEN_SECRET_BYTES];
    uint8_t ca_fingerprint[32];
    uint64_t expires_ms; /* Unix time, whole seconds */
};

/* Draws a secret. */
void token_init(struct token *t, const uint8_t ca_fingerprint[32], uint64_t expires_ms);
void token_write(const struct token *t, char out[TOKEN_TEXT_MAX]);
/* 0, or ERR_MALFORMED: not a token, or mistyped. Blanks around it are allowed. */
int token_parse(struct token *out, const char *text);
void token_hash(uint8_t out[32], const uint8_t secret[TOKEN_SECRET_BYTES]);

#endif
