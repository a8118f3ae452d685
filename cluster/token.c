#include "cluster/token.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/htab.h"
#include "base/mem.h"
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

enum { BODY_BYTES = TOKEN_SECRET_BYTES + 32 + 4, RAW_BYTES = BODY_BYTES + 4 };
_Static_assert(RAW_BYTES % 3 == 2, "the last group has two bytes, three digits");
static const char prefix[] = "imp1-";
static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

void token_init(struct token *t, const uint8_t ca_fingerprint[32], uint64_t expires_ms)
{
    random_bytes(t->secret, sizeof(t->secret));
    memcpy(t->ca_fingerprint, ca_fingerprint, 32);
    t->expires_ms = expires_ms / 1000 * 1000;
}

void token_write(const struct token *t, char out[TOKEN_TEXT_MAX])
{
    struct buf b = {0};
    buf_add(&b, t->secret, sizeof(t->secret));
    buf_add(&b, t->ca_fingerprint, sizeof(t->ca_fingerprint));
    buf_add_u32(&b, (uint32_t)(t->expires_ms / 1000));
    buf_add_u32(&b, crc32c(0, b.data, BODY_BYTES));
    int n = snprintf(out, TOKEN_TEXT_MAX, "%s", prefix);
    const uint8_t *p = (const uint8_t *)b.data;
    for (size_t i = 0; i < RAW_BYTES; i += 3) {
        size_t have = RAW_BYTES - i < 3 ? RAW_BYTES - i : 3;
        uint32_t v =
            (uint32_t)p[i] << 16 | (have > 1 ? (uint32_t)p[i + 1] << 8 : 0) | (have > 2 ? p[i + 2] : 0);
        for (size_t k = 0; k <= have; k++)
            out[n++] = digits[v >> (18 - 6 * k) & 63];
    }
    out[n] = '\0';
    mem_wipe(b.data, b.cap);
    buf_fini(&b);
}

static int decode(uint8_t raw[RAW_BYTES], const char *text, size_t n_text)
{
    uint32_t bits = 0;
    unsigned n_bits = 0;
    size_t n = 0;
    for (size_t i = 0; i < n_text; i++) {
        const char *at = text[i] ? strchr(digits, text[i]) : NULL;
        if (!at)
            return ERR_MALFORMED;
        bits = bits << 6 | (uint32_t)(at - digits);
        n_bits += 6;
        if (n_bits < 8)
            continue;
        n_bits -= 8;
        if (n == RAW_BYTES)
            return ERR_MALFORMED;
        raw[n++] = (uint8_t)(bits >> n_bits);
    }
    /* The unused low bits of the last digit must be zero: one token has one spelling. */
    return n == RAW_BYTES && n_bits < 6 && !(bits & ((1u << n_bits) - 1)) ? 0 : ERR_MALFORMED;
}

int token_parse(struct token *out, const char *text)
{
    text += strspn(text, " \t\r\n");
    size_t n = strcspn(text, " \t\r\n");
    if (text[n + strspn(text + n, " \t\r\n")] || n < sizeof(prefix) - 1 || n >= TOKEN_TEXT_MAX ||
        memcmp(text, prefix, sizeof(prefix) - 1))
        return ERR_MALFORMED;
    uint8_t raw[RAW_BYTES];
    int rc = decode(raw, text + sizeof(prefix) - 1, n - (sizeof(prefix) - 1));
    struct reader r;
    reader_init(&r, raw, sizeof(raw));
    const void *secret = read_bytes(&r, TOKEN_SECRET_BYTES), *fingerprint = read_bytes(&r, 32);
    uint64_t expires_s = read_u32(&r);
    if (!rc && (r.failed || read_u32(&r) != crc32c(0, raw, BODY_BYTES)))
        rc = ERR_MALFORMED;
    if (!rc) {
        memcpy(out->secret, secret, TOKEN_SECRET_BYTES);
        memcpy(out->ca_fingerprint, fingerprint, 32);
        out->expires_ms = expires_s * 1000;
    }
    mem_wipe(raw, sizeof(raw));
    return rc;
}

void token_hash(uint8_t out[32], const uint8_t secret[TOKEN_SECRET_BYTES])
{
    if (EVP_Digest(secret, TOKEN_SECRET_BYTES, out, NULL, EVP_sha256(), NULL) != 1)
        random_bytes(out, 32); /* matches nothing */
}
