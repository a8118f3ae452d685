/* Where a user's live state is: computed from the member table, never stored. Every node computes the same
 * from the same table. Pure; any thread. */
#ifndef CLUSTER_HOME_H
#define CLUSTER_HOME_H

#include "cluster/members.h"

/* The home if it is up; else the up node with the highest rendezvous hash of (uid, node). HOME 0 (unassigned)
 * has no active home. 0: nobody is up. Drained nodes and witnesses are never chosen. SINCE (may be NULL): the
 * log index at which that node became it; HOME_INDEX: of the user's row. */
uint32_t home_active(const struct members *m, uint32_t home, uint64_t home_index, uint64_t uid,
                     uint64_t *since);
bool home_can_serve(const struct member *m); /* up, neither drained nor a witness */

#endif
