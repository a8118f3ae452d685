/* Hand-over of users between homes (architecture: Homes; docs/adr/0018-hand-over.md): when may a node serve
 * the users that moved to it? Only when nobody else can still have them.
 *
 * Every user has a log index SINCE its active home is what it is (home_active). The node serves the user once
 * SINCE is not above the FLOOR: the log index up to which every other node that is up, or leaving, has handed
 * over. What such a node has handed over it says in two numbers, for all users at once:
 *
 *   routed    it has applied the log up to here, and what it sent to homes of before is on its links: said to
 *             each neighbour in order with its envelopes, so that a former home knows that no more will come
 *   released  and nobody whose home it has not been since has a session or a proposal in flight here, and
 *             what came for them was passed on, in order with it; said to everybody, who repeat it to each
 *             other, so that a cut between two nodes does not matter
 *
 *      change of homes applied -> ask the shards (ROUTED) -> routed, told
 *      -> all others are routed as far, or not heard -> ask the shards (RELEASED) -> released, told
 *
 * Pure: what happens comes in as calls, what is to be done goes out through ops, time is a parameter. Control
 * loop. */
#ifndef CLUSTER_HANDOVER_H
#define CLUSTER_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    HANDOVER_MAX_NODES = 64,
    HANDOVER_ORDER_MS = 5000, /* how long a release waits for others that route late; then order may suffer */
    HANDOVER_REPEAT_MS = 200, /* what was heard is told on at most so often */
    HANDOVER_FRAME_MAX = 8 + 2 + HANDOVER_MAX_NODES * 28,
};

enum handover_phase { HANDOVER_ROUTED, HANDOVER_RELEASED, N_HANDOVER_PHASES };

struct handover_ops {
    /* handover_answered once all shards have handled the feed up to INDEX; RELEASED: and nothing of users
     * that have left is in flight, and everything that was posted to them before this call is handled. One
     * question per phase at a time. The answer may come from inside of the call. */
    void (*ask)(void *user, enum handover_phase phase, uint64_t index);
    /* A LINK_MOVED frame, in order with the envelopes that shards have sent. ERR_UNAVAILABLE: no link;
     * handover_link_up follows. Other errors: tried again. */
    int (*send)(void *user, uint32_t node, const void *frame, size_t n_bytes);
    bool (*hears)(void *user, uint32_t node); /* may frames of it still arrive? */
    /* AT: counts on a shard once it has applied the log up to here. */
    void (*on_floor)(void *user, uint64_t floor, uint64_t at);
    void *user;
};

struct handover_node { /* of the NODE table */
    uint32_t node;
    uint64_t epoch;
    bool up, leaving;
    uint64_t up_index;
};

struct handover_claim {
    uint64_t released;
    uint64_t at; /* the log index up to which the node had seen what it waited for */
};

struct handover_peer {
    struct handover_node row; /* as applied; node 0: free */
    bool is_member;
    bool resend;           /* the link took nothing */
    uint64_t left_ms;      /* when it had left, in the same epoch; 0: not */
    uint64_t routed_epoch; /* of ROUTED */
    uint64_t routed;
    uint64_t epoch; /* of the claim */
    struct handover_claim claim;
    /* From others. As long as it is heard itself, its own word counts: it comes behind what it passed on. */
    uint64_t told_epoch;
    struct handover_claim told;
};

struct handover {
    struct handover_ops ops;
    uint32_t self;
    uint64_t epoch;  /* of our proposer session */
    uint64_t wanted; /* the last change that may have moved homes; rows are as of then or later */
    uint64_t heard;  /* the highest that another one has routed */
    uint64_t floor;
    uint64_t routed, asked_routed;
    uint64_t released, asked_released;
    uint64_t released_at, order_since_ms;
    bool is_asking[N_HANDOVER_PHASES];
    bool has_news; /* heard, not told on */
    uint64_t repeated_ms;
    struct handover_peer peers[HANDOVER_MAX_NODES];
};

void handover_init(struct handover *h, uint32_t self, const struct handover_ops *ops);
/* Homes may have moved at INDEX, or since the last call. The rows were set as of then. */
void handover_moved(struct handover *h, uint64_t now_ms, uint64_t index);
void handover_set_nodes(struct handover *h, uint64_t now_ms, const struct handover_node *nodes, size_t n);
void handover_set_epoch(struct handover *h, uint64_t epoch);
/* INDEX: what the shards had applied. */
void handover_answered(struct handover *h, uint64_t now_ms, enum handover_phase phase, uint64_t index);
void handover_on_frame(struct handover *h, uint64_t now_ms, uint32_t from, uint64_t epoch,
                       const uint8_t *data, size_t n_bytes);
void handover_link_up(struct handover *h, uint32_t node);
void handover_tick(struct handover *h, uint64_t now_ms);
/* May this node serve users that became its own at SINCE? Whoever asks must have applied SINCE itself. */
static inline bool handover_allows(uint64_t floor, uint64_t since)
{
    return since <= floor;
}

#endif
