#include "base/htab.h"
#include "base/clock.h"
#include "base/mem.h"
#include <assert.h>
#include <endian.h>
#include <string.h>

enum { FIRST_SLOTS = 16 };

/* SipHash-2-4, Aumasson and Bernstein, "SipHash: a fast short-input PRF". */
struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotl(uint64_t x, int n)
{
    return (x << n) | (x >> (64 - n));
}

static inline void sip_round(struct sip *s)
{
    s->v0 += s->v1;
    s->v2 += s->v3;
    s->v1 = rotl(s->v1, 13) ^ s->v0;
    s->v3 = rotl(s->v3, 16) ^ s->v2;
    s->v0 = rotl(s->v0, 32);
    s->v2 += s->v1;
    s->v0 += s->v3;
    s->v1 = rotl(s->v1, 17) ^ s->v2;
    s->v3 = rotl(s->v3, 21) ^ s->v0;
    s->v2 = rotl(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t m)
{
    s->v3 ^= m;
    sip_round(s);
    sip_round(s);
    s->v0 ^= m;
}

uint64_t hash_siphash(const uint64_t seed[2], const void *data, size_t n_bytes)
{
    struct sip s = {seed[0] ^ 0x736f6d6570736575, seed[1] ^ 0x646f72616e646f6d, seed[0] ^ 0x6c7967656e657261,
                    seed[1] ^ 0x7465646279746573};
    const uint8_t *p = data;
    for (size_t i = 0; i < n_bytes / 8; i++, p += 8) {
        uint64_t m;
        memcpy(&m, p, 8);
        sip_word(&s, le64toh(m));
    }
    uint64_t last = (uint64_t)n_bytes << 56;
    for (size_t i = 0; i < n_bytes % 8; i++)
        last |= (uint64_t)p[i] << (8 * i);
    sip_word(&s, last);
    s.v2 ^= 0xff;
    for (int i = 0; i < 4; i++)
        sip_round(&s);
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
}

void htab_init(struct htab *t, htab_equal_fn *equal)
{
    *t = (struct htab){.equal = equal};
    random_bytes(t->seed, sizeof(t->seed));
}

void htab_fini(struct htab *t)
{
    mem_free(t->slots);
    *t = (struct htab){0};
}

struct hnode *htab_find(const struct htab *t, const void *key, size_t n_bytes)
{
    if (t->n == 0)
        return NULL;
    uint64_t hash = hash_siphash(t->seed, key, n_bytes);
    for (struct hnode *node = t->slots[hash & (t->n_slots - 1)]; node; node = node->next)
        if (node->hash == hash && t->equal(node, key, n_bytes))
            return node;
    return NULL;
}

static void grow(struct htab *t)
{
    size_t n_slots = t->n_slots ? t->n_slots * 2 : FIRST_SLOTS;
    struct hnode **slots = mem_calloc(n_slots, sizeof(*slots));
    for (size_t i = 0; i < t->n_slots; i++) {
        for (struct hnode *node = t->slots[i], *next; node; node = next) {
            next = node->next;
            struct hnode **slot = &slots[node->hash & (n_slots - 1)];
            node->next = *slot;
            *slot = node;
        }
    }
    mem_free(t->slots);
    t->slots = slots;
    t->n_slots = n_slots;
}

void htab_add(struct htab *t, struct hnode *node, const void *key, size_t n_bytes)
{
    if (t->n >= t->n_slots)
        grow(t);
    node->hash = hash_siphash(t->seed, key, n_bytes);
    struct hnode **slot = &t->slots[node->hash & (t->n_slots - 1)];
    node->next = *slot;
    *slot = node;
    t->n++;
}

void htab_remove(struct htab *t, struct hnode *node)
{
    assert(t->n > 0);
    struct hnode **at = &t->slots[node->hash & (t->n_slots - 1)];
    while (*at != node) {
        assert(*at);
        at = &(*at)->next;
    }
    *at = node->next;
    node->next = NULL;
    t->n--;
}

struct hnode *htab_next(const struct htab *t, size_t *slot, struct hnode *after)
{
    if (after) {
        if (after->next)
            return after->next;
        ++*slot;
    }
    for (; *slot < t->n_slots; ++*slot)
        if (t->slots[*slot])
            return t->slots[*slot];
    return NULL;
}
