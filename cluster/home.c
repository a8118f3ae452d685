#include "cluster/home.h"
#include "replication/home.h"

enum { NODES_MAX = 64 };

bool home_can_serve(const struct member *m)
{
    return m->up && !m->drained && !m->witness;
}

uint32_t home_active(const struct members *m, uint32_t home, uint64_t home_index, uint64_t uid,
                     uint64_t *since)
{
    struct home_node nodes[NODES_MAX];
    size_t n = 0;
    if (since)
        *since = home_index;
    if (!m || !home)
        return 0;
    for (unsigned i = 0; i < m->n && n < NODES_MAX; i++)
        nodes[n++] = (struct home_node){m->list[i].id, home_can_serve(&m->list[i]), m->list[i].up_index};
    uint32_t active = home_choose(home, uid, nodes, n);
    if (since)
        *since = home_since(home, home_index, uid, active, nodes, n);
    return active;
}
