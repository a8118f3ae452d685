#include "replication/home.h"

/* The finaliser of SplitMix64: fixed for ever, since all nodes must agree. */
static uint64_t mix(uint64_t v)
{
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
    return v ^ (v >> 31);
}

static uint64_t weigh(uint64_t uid, uint32_t node)
{
    return mix(mix(uid + 0x9e3779b97f4a7c15ull) ^ node);
}

/* Would A be chosen before B? */
static bool goes_before(uint64_t uid, uint32_t a, uint32_t b)
{
    uint64_t weight_a = weigh(uid, a), weight_b = weigh(uid, b);
    return weight_a > weight_b || (weight_a == weight_b && a > b);
}

uint32_t home_choose(uint32_t home, uint64_t uid, const struct home_node *nodes, size_t n_nodes)
{
    uint32_t best = 0;
    if (home == 0)
        return 0;
    for (size_t i = 0; i < n_nodes; i++) {
        if (!nodes[i].up)
            continue;
        if (nodes[i].node == home)
            return home;
        if (!best || goes_before(uid, nodes[i].node, best))
            best = nodes[i].node;
    }
    return best;
}

uint64_t home_since(uint32_t home, uint64_t home_index, uint64_t uid, uint32_t active,
                    const struct home_node *nodes, size_t n_nodes)
{
    uint64_t since = home_index;
    for (size_t i = 0; i < n_nodes; i++) {
        const struct home_node *n = &nodes[i];
        /* A stand-in also rests on those before it being down. */
        bool counts = n->node == home || n->node == active ||
                      (active != home && active && goes_before(uid, n->node, active));
        if (counts && n->up_index > since)
            since = n->up_index;
    }
    return since;
}
