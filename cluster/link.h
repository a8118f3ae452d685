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
#include <stddef.h>
#include <stdint.h>

struct links;

enum link_frame {
    LINK_CALL = 1, /* request of link_call */
    LINK_REPLY,
    LINK_ENVELOPE, /* im/router */
    LINK_PRESENCE, /* im/presence: begin, resource, end */
    LINK_RELAY,    /* protocols/xmpp: relayed client streams */
    LINK_MOVED,    /* im/home: "applied the move, detached the sessions" */
    N_LINK_FRAMES,
};

/* Any thread. The frame is copied; dropped (ERR_UNAVAILABLE) when there is no session with NODE. ERR_LIMIT:
 * the queue has been above its hard limit: the frame is refused, nothing is lost silently. */
int link_send(struct links *l, uint32_t node, enum link_frame type, const void *data, size_t n_bytes);
/* Bytes queued for NODE, and whether that is above the soft limit (4 MiB): stop reading the sessions that
 * feed it. */
size_t link_queued(struct links *l, uint32_t node);
bool link_is_congested(struct links *l, uint32_t node);
bool link_is_up(struct links *l, uint32_t node);

/* Control loop, before links_start. The data is borrowed. */
typedef void link_frame_fn(void *user, uint32_t from_node, uint64_t epoch, const uint8_t *data,
                           size_t n_bytes);
void links_handle(struct links *l, enum link_frame type, link_frame_fn *fn, void *user);
/* Called on the control loop: a session with NODE began (send what it must know) or ended. Several may be
 * added. */
void links_watch(struct links *l, void (*on_up)(void *user, uint32_t node, uint64_t epoch),
                 void (*on_down)(void *user, uint32_t node), void *user);

/* Calls between nodes' control loops: METHOD is one of a list in cluster/call.def. on_reply exactly once. */
typedef void link_reply_fn(void *user, int code, const uint8_t *data, size_t n_bytes);
void link_call(struct links *l, uint32_t node, const char *method, const void *data, size_t n_bytes,
               unsigned timeout_ms, link_reply_fn *on_reply, void *user);
/* The handler answers now or later, exactly once, with link_answer. */
struct link_request;
typedef void link_call_fn(void *user, struct link_request *request, uint32_t from_node, const uint8_t *data,
                          size_t n_bytes);
void links_handle_call(struct links *l, const char *method, link_call_fn *fn, void *user);
void link_answer(struct link_request *request, int code, const void *data, size_t n_bytes);

#endif
