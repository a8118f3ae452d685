#include "storage/store.h"
#include <assert.h>
#include <openssl/sha.h>
#include <string.h>

/* A string is its bytes and a NUL: C strings hold no NUL, so the order of the bytes is the order of strcmp
 * and a string sorts before every longer one that begins with it. One of more than KEY_STR_MAX bytes is cut
 * to STR_CUT bytes and ends in the hash of the whole, as hex so that no NUL comes in; its length, which no
 * other has, tells it apart. */
enum { STR_CUT = 384, STR_HASH_BYTES = 16, STR_CUT_TOTAL = STR_CUT + 2 * STR_HASH_BYTES };

void key_init(struct key *k)
{
    k->n = 0;
}

void key_bytes(struct key *k, const void *p, size_t n)
{
    assert(n <= KEY_MAX - (size_t)k->n);
    if (n)
        memcpy(k->bytes + k->n, p, n);
    k->n += n;
}

void key_u32(struct key *k, uint32_t v)
{
    const uint8_t b[4] = {v >> 24, v >> 16, v >> 8, v};
    key_bytes(k, b, sizeof b);
}

void key_u64(struct key *k, uint64_t v)
{
    key_u32(k, v >> 32);
    key_u32(k, (uint32_t)v);
}

void key_str(struct key *k, const char *s)
{
    size_t n = strlen(s);
    if (n <= KEY_STR_MAX) {
        key_bytes(k, s, n + 1);
        return;
    }
    uint8_t digest[SHA256_DIGEST_LENGTH];
    SHA256((const uint8_t *)s, n, digest);
    char hex[2 * STR_HASH_BYTES + 1];
    for (int i = 0; i < STR_HASH_BYTES; i++) {
        hex[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        hex[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    hex[2 * STR_HASH_BYTES] = 0;
    key_bytes(k, s, STR_CUT);
    key_bytes(k, hex, sizeof hex);
}

void key_str_prefix(struct key *k, const char *s)
{
    key_bytes(k, s, strnlen(s, STR_CUT));
}

void key_read(struct key_reader *r, const void *p, size_t n)
{
    r->p = p;
    r->end = r->p + n;
    r->failed = false;
}

uint32_t key_read_u32(struct key_reader *r)
{
    if (r->failed || r->end - r->p < 4) {
        r->failed = true;
        return 0;
    }
    const uint8_t *p = r->p;
    r->p += 4;
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

uint64_t key_read_u64(struct key_reader *r)
{
    uint64_t high = key_read_u32(r);
    return high << 32 | key_read_u32(r);
}

const char *key_read_str(struct key_reader *r, struct arena *a)
{
    const uint8_t *nul = r->failed || r->p == r->end ? NULL : memchr(r->p, 0, r->end - r->p);
    if (!nul || nul - r->p == STR_CUT_TOTAL) {
        r->failed = true;
        return "";
    }
    const char *s = arena_strndup(a, (const char *)r->p, nul - r->p);
    r->p = nul + 1;
    return s;
}
