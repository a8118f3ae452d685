/* Node links: one connection imp-link/1 per pair of nodes and direction, on the control loop. They carry
 * envelopes, presence, relayed client streams and calls between nodes' control parts. Frames of one thread
 * arrive in order.
 *
 * A link session begins when both sides have said hello (cluster id, node id, start nonce, proposer epoch,
 * release) and ends with the connection, or when node_down of that epoch is applied here: frames of an ended
 * epoch are dropped. */
#ifndef CLUSTER_LINK_H
#define CLUSTER_LINK_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "base/stream.h"
#include "cluster/identity.h"
#include "cluster/members.h"
#include <stddef.h>
#include <stdint.h>

struct links;

enum link_frame {
    LINK_CALL = 1, /* of link_call and link_answer: not for link_send */
    LINK_REPLY,
    LINK_ENVELOPE, /* im/router */
    LINK_PRESENCE, /* im/presence: begin, resource, end */
    LINK_RELAY,    /* protocols/xmpp: relayed client streams */
    LINK_MOVED,    /* im/home: "applied the move, detached the sessions" */
    LINK_OUTSIDE,  /* im/outside: from level 3 on */
    N_LINK_FRAMES,
    LINK_HELLO = 64,
    LINK_PING,
    LINK_PONG, /* of the links themselves */
};

/* Any thread. The frame is copied; dropped (ERR_UNAVAILABLE) when there is no session with NODE. ERR_LIMIT:
 * the queue has been above its hard limit: the frame is refused, nothing is lost silently. */
int link_send(struct links *l, uint32_t node, enum link_frame type, const void *data, size_t n_bytes);
/* Bytes queued for NODE, and whether that is above the soft limit (4 MiB): stop reading the sessions that
 * feed it. */
size_t link_queued(struct links *l, uint32_t node);
bool link_is_congested(struct links *l, uint32_t node);
bool link_is_up(struct links *l, uint32_t node);
/* May frames of NODE still arrive? Control loop. */
bool links_hears(const struct links *l, uint32_t node);

/* Control loop, before links_start. The data is borrowed. */
typedef void link_frame_fn(void *user, uint32_t from_node, uint64_t epoch, const uint8_t *data,
                           size_t n_bytes);
void links_handle(struct links *l, enum link_frame type, link_frame_fn *fn, void *user);
/* Called on the control loop: a session with NODE began (send what it must know) or ended. Several may be
 * added. */
void links_watch(struct links *l, void (*on_up)(void *user, uint32_t node, uint64_t epoch),
                 void (*on_down)(void *user, uint32_t node), void *user);

/* FN is called on the control loop when a session of NODE to this one has ended: frames that were on their
 * way are lost, and NODE knows that for sure only of those that it sends later. Before any frame of the next
 * one. Ours to NODE (links_watch) is another connection and may well live on. */
void links_watch_in(struct links *l, void (*fn)(void *user, uint32_t node), void *user);

/* Calls between nodes' control loops: METHOD: 64 bytes at most. Calls to this node itself
 * are answered here. on_reply exactly once. */
typedef void link_reply_fn(void *user, int code, const uint8_t *data, size_t n_bytes);
void link_call(struct links *l, uint32_t node, const char *method, const void *data, size_t n_bytes,
               unsigned timeout_ms, link_reply_fn *on_reply, void *user);
/* The handler answers now or later, exactly once, with link_answer. */
struct link_request;
typedef void link_call_fn(void *user, struct link_request *request, uint32_t from_node, const uint8_t *data,
                          size_t n_bytes);
void links_handle_call(struct links *l, const char *method, link_call_fn *fn, void *user);
void link_answer(struct link_request *request, int code, const void *data, size_t n_bytes);

/* ---- life: all on the control loop ---- */
#define LINK_ALPN "imp-link/1"
enum {
    LINK_MAX_NODES = 4096,      /* highest node id + 1; ids are never used twice */
    LINK_FRAME_MAX = 4 << 20,   /* bytes of one frame */
    LINK_SOFT_BYTES = 4 << 20,  /* queued for one node: congested */
    LINK_HARD_BYTES = 16 << 20, /* queued for one node: refused */
    LINK_MAX_CALLS = 4096,      /* waiting for a reply */
};
struct links_options {
    struct loop *loop;
    struct log *log;
    struct metrics *metrics;
    uint32_t node_id;
    uint8_t cluster_id[16];
    uint8_t start_nonce[16];
    const char *release;
    struct tls_ctx *tls_client;            /* ALPN imp-link/1; a reference is taken */
    unsigned connect_ms, ping_ms, dead_ms; /* 0: 3000, 1000, 3500 */
    /* A peer proved with its certificate that it is NODE. Control loop. */
    void (*on_seen)(void *user, uint32_t node);
    identity_key_fn *key_of;
    void *user;
};
struct links *links_new(const struct links_options *o);
/* Ends every session (on_down is called) and frees it once the last connection is closed, later on the loop.
 * No other thread may call link_send any more. */
void links_free(struct links *l);
void links_set_tls(struct links *l, struct tls_ctx *tls_client); /* for new connections */
/* This node's own epoch. A change ends all sessions; new ones begin with it. 0 (the start): calls only. */
void links_set_epoch(struct links *l, uint64_t epoch);
/* Whom to be linked with; sessions of ended epochs and of nodes that are no member end. */
void links_set_members(struct links *l, const struct members *m);
/* A connection of NODE (from its verified certificate) with ALPN imp-link/1. */
void links_accept(struct links *l, struct stream *s, uint32_t node);
/* Round trip of the last ping in microseconds, 0: none. */
uint32_t links_ping_us(const struct links *l, uint32_t node);
bool links_can_call(const struct links *l, uint32_t node);

#endif
