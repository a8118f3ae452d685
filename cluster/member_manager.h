/* The leader's duties about members, on the control loop of every node, at work only where the replica leads:
 * the Raft configuration (member_policy), node_seen and node_expire, members that leave, the publisher role
 * where it may move by itself, and what the cluster's alarms are about. */
#ifndef CLUSTER_MEMBER_MANAGER_H
#define CLUSTER_MEMBER_MANAGER_H

#include "cluster/members.h"
#include "replication/replica.h"

/* What is wrong with the cluster as the leader sees it; node 0 is the cluster itself. */
enum member_trouble {
    MEMBER_TROUBLE_NO_REDUNDANCY, /* two voters */
    MEMBER_TROUBLE_NODE_DOWN,     /* no contact for some seconds */
    MEMBER_TROUBLE_CATCHING_UP,   /* joined, has not caught up once */
};
/* What the cluster's settings say. */
struct member_settings {
    unsigned replace_after_s; /* a silent voter */
    bool move_publisher;
    unsigned move_after_s;
};
struct member_manager_options {
    struct loop *loop;
    struct log *log;
    struct replica *replica;
    uint32_t node_id;
    /* Called when something begins (raised) or ends, and with FORGET for each that is open when the
     * leadership is lost. */
    void (*on_trouble)(void *user, enum member_trouble trouble, uint32_t node, bool raised, bool forget,
                       const char *text);
    void (*read_settings)(void *user, struct member_settings *out);
    void *user;
};
struct member_manager;
struct member_manager *member_manager_new(const struct member_manager_options *o);
void member_manager_free(struct member_manager *m); /* may be NULL */
/* The member table has changed. Keeps the pointer until the next call: the caller owns it. */
void member_manager_set_members(struct member_manager *m, const struct members *members);
/* A peer proved to be NODE: the first time that is proposed. */
void member_manager_seen(struct member_manager *m, uint32_t node);

#endif
