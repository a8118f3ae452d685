/* Intrusive hash table, chained, grows by doubling. Keys live in the caller's struct; SipHash with a random key per
 * table, so that a peer cannot aim at one chain. Not thread-safe. */
#ifndef BASE_HTAB_H
#define BASE_HTAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hnode {
    struct hnode *next;
    uint64_t hash;
};
/* Does NODE have the KEY of n bytes? */
typedef bool htab_equal_fn(const struct hnode *node, const void *key, size_t n_bytes);
struct htab {
    struct hnode **slots;
    size_t n_slots, n;
    htab_equal_fn *equal;
    uint64_t seed[2];
};

void htab_init(struct htab *t, htab_equal_fn *equal);
void htab_fini(struct htab *t); /* frees the slots, not the nodes */
struct hnode *htab_find(const struct htab *t, const void *key, size_t n_bytes);
void htab_add(struct htab *t, struct hnode *node, const void *key, size_t n_bytes); /* key must not be in it */
void htab_remove(struct htab *t, struct hnode *node);                              /* node must be in it */
/* Any order; the body may remove NODE, nothing else, and must not add. Start with *cursor = 0; NULL at the end. */
struct hnode *htab_next(const struct htab *t, size_t *slot, struct hnode *after);
#define htab_for_each(node, t)                                                                                 \
    for (size_t slot_##node = 0, once_##node = 1; once_##node; once_##node = 0)                                \
        for (struct hnode *node = htab_next((t), &slot_##node, NULL),                                          \
                          *nx_##node = node ? htab_next((t), &slot_##node, node) : NULL;                       \
             node; node = nx_##node, nx_##node = node ? htab_next((t), &slot_##node, node) : NULL)

uint64_t hash_siphash(const uint64_t seed[2], const void *data, size_t n_bytes); /* SipHash-2-4 */
uint32_t crc32c(uint32_t crc, const void *data, size_t n_bytes); /* Castagnoli; start with 0; SSE4.2 where there */

#endif
