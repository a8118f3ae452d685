/* Compares the nodes' state hashes, which each tells the others at every 1024th index, at the first index of
 * every 5 s of FSM time, and where it has come to rest. A state machine; raft thread. */
#ifndef REPLICATION_HASHES_H
#define REPLICATION_HASHES_H

#include "storage/store.h"

enum { HASHES_SLOTS = 32, HASHES_NODES = 64, HASHES_WAIT_MS = 5000 };

struct hashes_slot {
    uint64_t index, since_ms; /* since our own hash came */
    bool has_own, is_judged;
    unsigned n;
    struct {
        uint32_t node;
        struct store_hash hash;
    } reports[HASHES_NODES];
};
struct hashes {
    uint32_t self;
    struct hashes_slot slots[HASHES_SLOTS];
};
enum hashes_verdict {
    HASHES_EQUAL,
    HASHES_WE_DIFFER,   /* most have another hash than we */
    HASHES_THEY_DIFFER, /* out->nodes have another one than the majority, which we share */
    HASHES_TIE,         /* no hash has a majority of those that told */
};
struct hashes_result {
    enum hashes_verdict verdict;
    uint64_t index;
    unsigned n_nodes;
    uint32_t nodes[HASHES_NODES];
};

void hashes_init(struct hashes *h, uint32_t self);
void hashes_add(struct hashes *h, uint64_t now_ms, uint32_t node, uint64_t index,
                const struct store_hash *hash);
/* A slot for which N_NODES (with us) have told, or some and the time is over. False: none now. Call until
 * false. */
bool hashes_judge(struct hashes *h, uint64_t now_ms, unsigned n_nodes, struct hashes_result *out);

#endif
