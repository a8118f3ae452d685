/* The member table as one immutable snapshot: who is in the cluster, where, and who is up. Every loop keeps
 * its own, read again when its change feed shows TABLE_NODE (or a reload). */
#ifndef CLUSTER_MEMBERS_H
#define CLUSTER_MEMBERS_H

#include "storage/store.h"
#include <stdbool.h>
#include <stdint.h>

struct member {
    uint32_t id;
    char name[64], address[256], public_name[256], release[64];
    unsigned cluster_port, xmpp_port;
    uint64_t epoch; /* current one of its proposer session; 0: never registered, it has not caught up once */
    unsigned level; /* highest feature level that its release knows; 0: it never registered */
    bool witness, drained;
    bool up;            /* node_up of that epoch is applied */
    bool handing_over;  /* drained, and may still serve users until it says that it has left */
    uint64_t up_index;  /* log index at which "up" changed last */
    bool seen;          /* spoke once with its certificate */
    bool leaving, lost; /* being removed; left behind by a recovery */
    bool has_key;       /* key_id is known */
    uint8_t key_id[8];  /* of the newest cluster key it holds */
    uint32_t ca_generation;
    uint8_t key_hash[32]; /* of its certificate's key: who it is, whoever signed */
    uint64_t token_expires_ms, joined_ms;
};
struct members {
    unsigned n;
    uint32_t publisher;
    uint64_t publisher_epoch;
    unsigned level; /* the cluster's feature level */
    uint8_t cluster_id[16];
    uint64_t index;       /* applied index it was read at */
    struct member list[]; /* ascending by id */
};

struct members *members_read(struct store_txn *txn, uint64_t index);
void members_free(struct members *m); /* may be NULL */
const struct member *members_find(const struct members *m, uint32_t id);
const struct member *members_find_name(const struct members *m, const char *name);

#endif
