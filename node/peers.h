/* DIR/peers: where the other members were last known to be, for when the store does not tell. A crash takes
 * the store back to its last durable point, and the log is applied only once there is a leader: when all
 * nodes crash at once soon after a join, no store may know where the others are, and without this file they
 * would never find each other. And whom to ask for a copy when the store cannot be read at all. */
#ifndef NODE_PEERS_H
#define NODE_PEERS_H

#include "replication/replica.h"

struct node;

enum { PEERS_MAX = 64 };
struct peers {
    struct replica_address list[PEERS_MAX];
    char addresses[PEERS_MAX][256];
    unsigned n;
};
/* Any thread. */
void peers_read(struct node *n, struct peers *out);

/* What impnode.yaml says of others' addresses (peers: NAME=ADDR[:PORT],...), by node id: names that the store does not
 * know are left out. ERR_INVALID with text. Before the node runs; *OUT lives as long as it. */
int peers_read_hints(struct node *n, struct peers **out, struct err_ctx *err);

/* Control loop. n->peers: as the file had them at the start. */
void peers_load(struct node *n);
void peers_on_members(struct node *n);

#endif
