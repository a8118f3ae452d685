/* The active home of a user (architecture: Homes): its home if that node is up, else the up node with the
 * highest rendezvous hash of (uid, node). One definition for the state machine and for whoever routes. Any
 * thread. */
#ifndef REPLICATION_HOME_H
#define REPLICATION_HOME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct home_node {
    uint32_t node;
    bool up;           /* NodeRow.up */
    uint64_t up_index; /* NodeRow.up_index */
};
/* 0: no node is up, or the user has no home. Order of NODES does not matter. */
uint32_t home_choose(uint32_t home, uint64_t uid, const struct home_node *nodes, size_t n_nodes);
/* The log index at which ACTIVE, the answer of home_choose, became it: the latest change among what that
 * answer rests on (HOME_INDEX: UserRow's). It never is too low; that it may be too high after a change that
 * made no difference costs one needless hand-over. */
uint64_t home_since(uint32_t home, uint64_t home_index, uint64_t uid, uint32_t active,
                    const struct home_node *nodes, size_t n_nodes);

#endif
