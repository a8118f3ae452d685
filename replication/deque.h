/* A ring of fixed-size items, taken and dropped at both ends, reached by position. Plain memory, not
 * thread-safe. */
#ifndef REPLICATION_DEQUE_H
#define REPLICATION_DEQUE_H

#include "base/mem.h"
#include <assert.h>
#include <stdint.h>
#include <string.h>

struct deque {
    char *items;
    size_t item_bytes, head, n, cap; /* cap is 0 or a power of two */
};

static inline void deque_init(struct deque *d, size_t item_bytes)
{
    *d = (struct deque){.item_bytes = item_bytes};
}
static inline void deque_fini(struct deque *d)
{
    mem_free(d->items);
    d->items = NULL;
    d->head = d->n = d->cap = 0;
}
static inline void *deque_at(const struct deque *d, size_t i)
{
    assert(i < d->n);
    return d->items + ((d->head + i) & (d->cap - 1)) * d->item_bytes;
}
static inline void *deque_last(const struct deque *d)
{
    return d->n ? deque_at(d, d->n - 1) : NULL;
}
/* An item at the end, not cleared. */
static inline void *deque_push(struct deque *d)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? d->cap * 2 : 16, tail = d->cap - d->head;
        char *items = mem_calloc(cap, d->item_bytes);
        if (d->n) {
            memcpy(items, d->items + d->head * d->item_bytes, tail * d->item_bytes);
            memcpy(items + tail * d->item_bytes, d->items, d->head * d->item_bytes);
        }
        mem_free(d->items);
        d->items = items;
        d->head = 0;
        d->cap = cap;
    }
    d->n++;
    return deque_at(d, d->n - 1);
}
static inline void deque_drop_front(struct deque *d, size_t n)
{
    assert(n <= d->n);
    d->n -= n;
    d->head = d->n ? (d->head + n) & (d->cap - 1) : 0;
}
static inline void deque_drop_back(struct deque *d, size_t n)
{
    assert(n <= d->n);
    d->n -= n;
}

#endif
