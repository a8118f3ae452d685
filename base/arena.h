/* An arena: one per stanza, request or command; freed as a whole. Not thread-safe. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

struct arena_block;
struct arena {
    struct arena_block *blocks;
    char *next, *end;
    size_t n_bytes; /* handed out, for limits */
};

void arena_init(struct arena *a); /* allocates nothing */
void arena_fini(struct arena *a);
void arena_reset(struct arena *a); /* forgets all, keeps one block */
void *arena_alloc(struct arena *a, size_t n_bytes); /* aligned to 16, never NULL, not cleared */
void *arena_zalloc(struct arena *a, size_t n_bytes);
void *arena_memdup(struct arena *a, const void *data, size_t n_bytes);
char *arena_strdup(struct arena *a, const char *s);
char *arena_strndup(struct arena *a, const char *s, size_t n_bytes); /* text: ends at a NUL */
char *arena_printf(struct arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
