#include "cluster/home.h"

/* Finalizer of splitmix64: every bit of the input moves every bit of the output. Part of the cluster's
 * behaviour: all nodes must agree, so it never changes. */
static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint64_t weight(uint64_t uid, uint32_t node)
{
    return mix(mix(uid + 0x9e3779b97f4a7c15ull) ^ mix(node));
}

bool home_can_serve(const struct member *m)
{
    return m->up && !m->drained && !m->witness;
}

uint32_t home_active(const struct members *m, uint32_t home, uint64_t uid)
{
    if (!m || !home)
        return 0;
    uint32_t best = 0;
    uint64_t best_weight = 0;
    for (unsigned i = 0; i < m->n; i++) {
        const struct member *node = &m->list[i];
        if (!home_can_serve(node))
            continue;
        if (node->id == home)
            return home;
        uint64_t w = weight(uid, node->id);
        if (!best || w > best_weight) {
            best = node->id;
            best_weight = w;
        }
    }
    return best;
}
