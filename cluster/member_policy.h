/* What the leader does next about the Raft configuration. Pure.
 *
 * Members that were seen become standbys; standbys that have caught up become voters, up to five, witnesses
 * like the others; whoever is in the configuration but no longer in the member table is taken out; with five
 * voters, one that was silent for ten minutes gives its place to a standby that has caught up. One change at
 * a time. */
#ifndef CLUSTER_MEMBER_POLICY_H
#define CLUSTER_MEMBER_POLICY_H

#include "cluster/members.h"
#include "replication/replica.h"

enum { MEMBER_MAX_VOTERS = 5, MEMBER_PROMOTE_LAG = 64, MEMBER_SILENT_MS = 600 * 1000 };

enum member_action {
    MEMBER_NOTHING,
    MEMBER_ADD_STANDBY,
    MEMBER_PROMOTE,
    MEMBER_DEMOTE,
    MEMBER_REMOVE,
    MEMBER_HAND_OVER
};
struct member_step {
    enum member_action action;
    uint32_t node;
};
/* SELF leads. NOW: CLOCK_MONOTONIC, as in STATUS. MEMBER_HAND_OVER: to node (a voter), because this node
 * itself must leave the configuration. */
struct member_step member_policy(const struct members *m, const struct replica_status *status, uint32_t self,
                                 uint64_t now_ms);

#endif
