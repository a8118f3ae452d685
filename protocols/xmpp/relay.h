/* Relayed client streams: LINK_RELAY frames between the edge and the home of a connection.
 *
 * A frame: u8 op, u64 relay, u64 uid, then what belongs to the op. RELAY is chosen by the edge: its shard's
 * index in the highest byte, random and counted below, so that it is not used twice. UID finds the shard at
 * the home.
 *
 *   edge -> home   OPEN (the login), UP (bytes of the client's stream, canonical), UP_CREDIT (u32: bytes that
 * the client's socket has taken), GONE, LEAVE (the edge is taken out of service: the home closes) home ->
 * edge   DOWN (bytes for the client), DOWN_CREDIT (u32: bytes that the home has handled), CLOSE (last bytes),
 * ABORT
 *
 * Each side sends at most RELAY_WINDOW bytes that the other has not credited. The edge parses the client's
 * stream, so that whole stanzas cross, and writes it anew: a stream header of its own, then the stanzas. */
#ifndef XMPP_RELAY_H
#define XMPP_RELAY_H

#include "base/buf.h"
#include "base/loop.h"
#include "protocols/xmpp/shard.h"

enum { RELAY_WINDOW = 64 << 10, RELAY_CHUNK = 16 << 10 };
/* A credit is a frame and wakes four threads: it is told for many stanzas at once. Of what the home has
 * handled only the window wants to know; of what a client's socket has taken also the marks of stored
 * messages, and how slow a client is, so that is told soon. */
enum { RELAY_CREDIT_UP = 4 << 10, RELAY_CREDIT_UP_MS = 10, RELAY_CREDIT_DOWN = RELAY_WINDOW / 4 };
enum relay_op {
    RELAY_OPEN = 1,
    RELAY_UP,
    RELAY_UP_CREDIT,
    RELAY_GONE,
    RELAY_DOWN,
    RELAY_DOWN_CREDIT,
    RELAY_CLOSE,
    RELAY_ABORT,
    RELAY_LEAVE,
};

/* A frame on its way from the control loop to a shard. */
struct relay_frame {
    struct letter letter;
    struct xmpp_shard *shard;
    uint32_t node; /* that sent it */
    enum relay_op op;
    uint64_t relay, uid;
    size_t n;
    uint8_t data[];
};

static inline unsigned relay_edge_shard(uint64_t relay)
{
    return (unsigned)(relay >> 56);
}

/* relay_link.c. 0 or the error of link_send. */
int relay_send(struct shard *s, uint32_t node, enum relay_op op, uint64_t relay, uint64_t uid,
               const void *data, size_t n_bytes);
/* Sends the front of QUEUE as far as *CREDIT and the link allow; false: the link did not take it, try later.
 */
bool relay_send_queued(struct shard *s, uint32_t node, enum relay_op op, uint64_t relay, uint64_t uid,
                       struct buf *queue, size_t *credit);
void relay_login_encode(struct buf *out, const struct c2s_login *login);
struct c2s_login *relay_login_decode(const uint8_t *data, size_t n_bytes); /* NULL: not one */

/* On the shard. */
void relay_edge_frame(struct xmpp_shard *xs, const struct relay_frame *f);
void relay_home_frame(struct xmpp_shard *xs, const struct relay_frame *f);
void relay_home_init(struct xmpp_shard *xs);
void relay_home_link_down(struct xmpp_shard *xs, uint32_t node);
void relay_home_fini(struct xmpp_shard *xs);

#endif
