/* A connection of imp-raft/1: mutual TLS 1.3 over base/stream.h, frames, and the hello that opens it. Raft
 * loop.
 *
 * Frame: length (4, of what follows), type (1), body; little-endian. The first frame of each side is HELLO
 * {version, cluster id, node id, start nonce, purpose, release, address, port}; the accepting side answers
 * HELLO or REFUSE {code, text} and closes. Who the peer is comes from its certificate; a hello with another
 * node id is refused.
 *
 * A message connection carries one direction only (from who dialled; but PONG comes back on it), so that
 * order is simple and a new one first drops what the old one had queued; a copy connection carries requests
 * one way and data the other. */
#ifndef REPLICATION_CONN_H
#define REPLICATION_CONN_H

#include "base/buf.h"
#include "base/stream.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    CONN_VERSION = 1,
    CONN_MAX_FRAME = (4 << 20) + 64, /* RAFT_MSG_MAX_BYTES and its type */
    CONN_MAX_HELLO = 512,            /* before the hello is checked nothing longer is read */
    CONN_MAX_QUEUE = 16 << 20,       /* above it the connection is dropped, with what it had queued */
    CONN_HANDSHAKE_MS = 3000,        /* each of TCP, TLS and hello */
};

enum conn_purpose { CONN_MESSAGES = 1, CONN_COPY = 2 };

enum conn_frame {
    FRAME_HELLO = 1,
    FRAME_REFUSE = 2,
    FRAME_RAFT = 3,     /* message.h */
    FRAME_FORWARD = 4,  /* proposals of the sender for the leader: n x {epoch 8, seq 8, length 4, command} */
    FRAME_REGISTER = 5, /* nonce 16, expected epoch 8, feature level known 4, release */
    FRAME_CONFIRM = 6,  /* term 8, round 8: is this your term and am I your leader? */
    FRAME_CONFIRM_OK = 7,  /* the same back: yes */
    FRAME_LEASE_PING = 8,  /* epoch 8, ping 8 */
    FRAME_LEASE = 9,       /* ping 8 */
    FRAME_READ = 10,       /* id 8: up to where must I have applied? */
    FRAME_READ_INDEX = 11, /* id 8, index 8; index 0: not now */
    FRAME_PING = 12,       /* time 8 */
    FRAME_PONG = 13,       /* the same, wall clock of who answers 8 */
    FRAME_HASH = 14,       /* index 8, state hash 16 */
    FRAME_COPY_OPEN = 20, /* wanted index 8, what is wrong with the sender's own copy (text; none: nothing) */
    FRAME_COPY_INFO = 21, /* id 16, applied 8, size 8: of the copy that ranges can be asked of */
    FRAME_COPY_GET = 22,  /* offset 8, length 4 */
    FRAME_COPY_DATA = 23, /* offset 8, CRC32C 4, last 1, bytes: all that was asked for, but for the last */
    FRAME_COPY_FAIL = 24, /* code 4, why (text) */
    FRAME_COPY_WAIT = 25, /* nothing: what was asked for is still being made */
    FRAME_COPY_BAD = 26,  /* on a message connection: the copy that the receiver gave was not right */
    FRAME_WHERE = 40, /* n x {node 4, port 2, length 1, address}: where others answer the sender */
};

enum conn_refusal {
    REFUSE_VERSION = 1,
    REFUSE_CLUSTER,  /* another cluster */
    REFUSE_REMOVED,  /* that id was removed */
    REFUSE_COPY,     /* another process with this identity lives */
    REFUSE_IDENTITY, /* hello and certificate differ */
    REFUSE_TIMING,   /* another election time */
};

struct conn_hello {
    uint8_t cluster_id[16];
    uint32_t node;
    uint8_t nonce[16];
    enum conn_purpose purpose;
    char release[64];
    char address[256]; /* where the others reach the sender, "" when it does not know */
    uint16_t port;
    uint16_t election_ms; /* all nodes must have the same: leases depend on it; 0: not said */
};

struct conn;
struct conn_events {
    /* The peer's hello has come and is that of its certificate and of our cluster. Dialled: the connection is
     * open. Accepted: call conn_welcome or conn_refuse, now or later; frames wait until then. */
    void (*on_hello)(void *user, struct conn *c, const struct conn_hello *hello);
    void (*on_frame)(void *user, struct conn *c, enum conn_frame type, const uint8_t *body, size_t n_bytes);
    void (*on_drain)(void *user, struct conn *c); /* see stream.h; may be NULL */
    /* The last call; the connection is freed on return. refusal: enum conn_refusal when the peer refused us,
     * else 0. */
    void (*on_close)(void *user, struct conn *c, unsigned refusal, const char *detail);
};

/* The node that a peer has proved to be. False: none, or of another cluster. */
typedef bool conn_identify_fn(void *user, const struct tls_peer *peer, uint32_t *node);

/* OURS is copied. NODE: who must answer. */
struct conn *conn_dial(struct loop *l, const char *host, unsigned port, struct tls_ctx *tls, uint32_t node,
                       conn_identify_fn *identify, void *identify_user, const struct conn_hello *ours,
                       const struct conn_events *events, void *user);
/* S is an accepted stream after its handshake, still on its own loop (the caller's thread); it moves to TO.
 * NODE is from the certificate. on_arrived is called on TO and says with conn_begin who takes the events and
 * what our hello is. */
void conn_accept(struct stream *s, uint32_t node, struct loop *to,
                 void (*on_arrived)(void *user, struct conn *c), void *user);
void conn_begin(struct conn *c, const struct conn_hello *ours, const struct conn_events *events, void *user);
void conn_welcome(struct conn *c);
void conn_refuse(struct conn *c, enum conn_refusal why, const char *text); /* and closes */
void conn_abort(struct conn *c); /* on_close follows, later in the turn */

uint32_t conn_node(const struct conn *c);
void conn_set_handler(struct conn *c, const struct conn_events *events, void *user);
bool conn_is_open(const struct conn *c);
const struct conn_hello *conn_peer_hello(const struct conn *c);
uint64_t conn_heard_ms(const struct conn *c); /* when the last frame came */
size_t conn_queued(const struct conn *c);

/* Sends one frame; copied. Nothing happens when it is not open (or being closed). Above CONN_MAX_QUEUE the
 * connection is dropped. */
void conn_send(struct conn *c, enum conn_frame type, const void *body, size_t n_bytes);
/* The same without a copy more: fill the buffer, then send. One at a time per connection. */
struct buf *conn_frame_begin(struct conn *c, enum conn_frame type);
void conn_frame_end(struct conn *c);

/* For fuzzing: decodes a hello. ERR_MALFORMED, ERR_VERSION. */
int conn_decode_hello(struct conn_hello *out, const uint8_t *body, size_t n_bytes);

#endif
