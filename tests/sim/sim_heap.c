/* Counts what the core allocates: it must be nothing again when all nodes are gone. LeakSanitizer sees the
 * same, but only in its own build. */
#include "sim.h"

#include <raft.h>
#include <stdlib.h>

static long n_blocks; /* of this process, which has one thread */

static void *count_malloc(void *data, size_t n)
{
    void *p = malloc(n);
    n_blocks += p != NULL;
    return p;
}
static void count_free(void *data, void *p)
{
    n_blocks -= p != NULL;
    free(p);
}
static void *count_calloc(void *data, size_t n, size_t size)
{
    void *p = calloc(n, size);
    n_blocks += p != NULL;
    return p;
}
static void *count_realloc(void *data, void *p, size_t n)
{
    void *q = realloc(p, n);
    n_blocks += (q != NULL) - (p != NULL && (q != NULL || n == 0));
    return q;
}
static void *count_aligned_alloc(void *data, size_t alignment, size_t n)
{
    void *p = aligned_alloc(alignment, n);
    n_blocks += p != NULL;
    return p;
}
static void count_aligned_free(void *data, size_t alignment, void *p)
{
    count_free(data, p);
}

void sim_heap_begin(void)
{
    static struct raft_heap heap = {NULL,          count_malloc,        count_free,        count_calloc,
                                    count_realloc, count_aligned_alloc, count_aligned_free};
    raft_heap_set(&heap);
    n_blocks = 0;
}

long sim_heap_blocks(void)
{
    return n_blocks;
}
