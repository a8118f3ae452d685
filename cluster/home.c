#include "cluster/home.h"
#include "replication/home.h"

enum { NODES_MAX = 64 };

bool home_can_serve(const struct member *m)
{
    return m->up && !m->drained && !m->witness;
}

uint32_t home_active(const struct members *m, uint32_t home, uint64_t uid)
{
    struct home_node nodes[NODES_MAX];
    size_t n = 0;
    if (!m || !home)
        return 0;
    for (unsigned i = 0; i < m->n && n < NODES_MAX; i++)
        if (home_can_serve(&m->list[i]))
            nodes[n++] = (struct home_node){.node = m->list[i].id, .up = true};
    return home_choose(home, uid, nodes, n);
}
