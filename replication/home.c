#include "replication/home.h"

/* The finaliser of SplitMix64: fixed for ever, since all nodes must agree. */
static uint64_t mix(uint64_t v)
{
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9ull;
    v = (v ^ (v >> 27)) * 0x94d049bb133111ebull;
    return v ^ (v >> 31);
}

uint32_t home_choose(uint32_t home, uint64_t uid, const struct home_node *nodes, size_t n_nodes)
{
    uint32_t best = 0;
    uint64_t best_weight = 0;
    if (home == 0)
        return 0;
    for (size_t i = 0; i < n_nodes; i++) {
        if (!nodes[i].up)
            continue;
        if (nodes[i].node == home)
            return home;
        uint64_t weight = mix(mix(uid + 0x9e3779b97f4a7c15ull) ^ nodes[i].node);
        if (!best || weight > best_weight || (weight == best_weight && nodes[i].node > best)) {
            best = nodes[i].node;
            best_weight = weight;
        }
    }
    return best;
}
