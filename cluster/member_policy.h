/* What the leader does next about the Raft configuration. Pure.
 *
 * Members that were seen become standbys; standbys that have caught up become voters, witnesses like the
 * others; whoever leaves, or is in the configuration but no longer in the member table, is taken out. Voters
 * are 1, 2, 3 or 5: a fourth (sixth) one makes every majority larger and lets no more of them die
 * (docs/adr/0007-voters.md); the rest are standbys. A voter that was silent for too long gives its vote to a
 * standby. One change at a time. */
#ifndef CLUSTER_MEMBER_POLICY_H
#define CLUSTER_MEMBER_POLICY_H

#include "cluster/members.h"
#include "replication/replica.h"

enum { MEMBER_MAX_VOTERS = 5, MEMBER_PROMOTE_LAG = 64 };

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
struct member_facts {
    uint32_t self;             /* which leads */
    uint64_t now_ms;           /* CLOCK_MONOTONIC, as in the status */
    uint64_t led_since_ms;     /* nobody counts as silent for longer than this leader has listened */
    unsigned replace_after_ms; /* silent voters */
    uint32_t evacuated;        /* a leaving member that is nobody's home any more; 0: none */
};
/* MEMBER_HAND_OVER: to node (a voter), because this node itself must leave the configuration. */
struct member_step member_policy(const struct members *m, const struct replica_status *status,
                                 const struct member_facts *facts);

#endif
