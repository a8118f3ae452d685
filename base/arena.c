#include "base/arena.h"
#include "base/mem.h"
#include <assert.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Blocks start at 2 KiB, which holds the tree of an ordinary stanza, and double up to 64 KiB; what does not
 * fit a quarter of the next block gets one of its own, behind the current one. */
enum { ALIGN = 16, FIRST_BYTES = 2048, MAX_BYTES = 64 * 1024 };

struct arena_block {
    struct arena_block *next;
    size_t n_bytes; /* of data */
    alignas(ALIGN) char data[];
};

void arena_init(struct arena *a)
{
    *a = (struct arena){0};
}

static void free_blocks(struct arena_block *b)
{
    while (b) {
        struct arena_block *next = b->next;
        mem_free(b);
        b = next;
    }
}

void arena_fini(struct arena *a)
{
    free_blocks(a->blocks);
    *a = (struct arena){0};
}

void arena_reset(struct arena *a)
{
    struct arena_block *b = a->blocks;
    if (!b)
        return;
    free_blocks(b->next);
    b->next = NULL;
    if (b->n_bytes > MAX_BYTES) {
        arena_fini(a);
        return;
    }
    a->next = b->data;
    a->end = b->data + b->n_bytes;
    a->n_bytes = 0;
}

static struct arena_block *block_new(size_t n_bytes)
{
    struct arena_block *b = mem_alloc(sizeof(*b) + n_bytes);
    b->n_bytes = n_bytes;
    return b;
}

static __attribute__((noinline)) void *alloc_slow(struct arena *a, size_t n_bytes)
{
    size_t size = FIRST_BYTES - sizeof(struct arena_block);
    if (a->blocks && a->blocks->n_bytes >= size) {
        size = 2 * (a->blocks->n_bytes + sizeof(struct arena_block)) - sizeof(struct arena_block);
        if (size > MAX_BYTES)
            size = MAX_BYTES;
    }
    if (n_bytes > size / 4 && a->blocks) {
        struct arena_block *own = block_new(n_bytes);
        own->next = a->blocks->next;
        a->blocks->next = own;
        return own->data;
    }
    struct arena_block *b = block_new(n_bytes > size ? n_bytes : size);
    b->next = a->blocks;
    a->blocks = b;
    a->next = b->data + n_bytes;
    a->end = b->data + b->n_bytes;
    return b->data;
}

void *arena_alloc(struct arena *a, size_t n_bytes)
{
    assert(n_bytes <= SIZE_MAX / 2);
    size_t n = (n_bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
    if (n == 0)
        n = ALIGN;
    a->n_bytes += n;
    if (__builtin_expect((size_t)(a->end - a->next) >= n, 1)) {
        void *p = a->next;
        a->next += n;
        return p;
    }
    return alloc_slow(a, n);
}

void *arena_zalloc(struct arena *a, size_t n_bytes)
{
    return memset(arena_alloc(a, n_bytes), 0, n_bytes);
}

void *arena_memdup(struct arena *a, const void *data, size_t n_bytes)
{
    void *copy = arena_alloc(a, n_bytes);
    return n_bytes ? memcpy(copy, data, n_bytes) : copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
    size_t n = strlen(s) + 1;
    return memcpy(arena_alloc(a, n), s, n);
}

char *arena_strndup(struct arena *a, const char *s, size_t n_bytes)
{
    size_t n = strnlen(s, n_bytes);
    char *copy = arena_alloc(a, n + 1);
    memcpy(copy, s, n);
    copy[n] = '\0';
    return copy;
}

char *arena_printf(struct arena *a, const char *format, ...)
{
    char small[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(small, sizeof(small), format, args);
    va_end(args);
    assert(n >= 0);
    char *text = arena_alloc(a, (size_t)n + 1);
    if ((size_t)n < sizeof(small))
        return memcpy(text, small, (size_t)n + 1);
    va_start(args, format);
    vsnprintf(text, (size_t)n + 1, format, args);
    va_end(args);
    return text;
}
