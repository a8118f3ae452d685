/* Message connections with all other nodes: one dialled to each, one accepted from each, on the raft loop.
 *
 * Peers are the rows of the NODE table (transport_set_peers), and nodes that have spoken to us and said in
 * their hello where they are reached (a joiner has no rows yet). Nothing is queued for a peer without a
 * connection: messages are lost silently, as Raft allows. */
#ifndef REPLICATION_TRANSPORT_H
#define REPLICATION_TRANSPORT_H

#include "base/log.h"
#include "replication/conn.h"

struct transport;

enum {
    TRANSPORT_MAX_PEERS = 64,
    TRANSPORT_PING_MS = 500,
    TRANSPORT_DEAD_MS = 3000,  /* no answer to pings: dial anew (TCP alone would wait for many minutes) */
    TRANSPORT_WATCH_MS = 2000, /* how long a second living copy is looked for */
};

struct transport_ops {
    /* A frame of a peer that has said hello. */
    void (*on_frame)(void *user, uint32_t node, enum conn_frame type, const uint8_t *body, size_t n_bytes);
    /* The connection to NODE opened or was lost: what was queued is gone. */
    void (*on_link)(void *user, uint32_t node, bool is_up);
    void (*on_peer_seen)(void *user, uint32_t node); /* first hello of NODE in this life */
    /* Somebody asks for a copy of the store: an accepted connection, to be welcomed or refused by the taker,
     * who sets handler with conn_set_handler. */
    void (*on_copy)(void *user, struct conn *c);
    bool (*is_removed)(void *user, uint32_t node); /* a tombstone */
    void (*on_second_copy)(void *user, const char *text);
    /* A member refuses us because we were removed. */
    void (*on_removed)(void *user, uint32_t by);
};

struct transport_config {
    struct loop *loop;
    struct log *log;
    struct tls_ctx *tls;     /* client side */
    struct conn_hello hello; /* ours; address and port may come later with transport_set_address */
    conn_identify_fn *identify;
    void *identify_user;
    const struct transport_ops *ops;
    void *user;
};

struct transport *transport_new(const struct transport_config *config);
/* Aborts all connections, then calls on_stopped, later in the turn or in a later one. */
void transport_stop(struct transport *t, void (*on_stopped)(void *user), void *user);
void transport_free(struct transport *t);

struct transport_peer {
    uint32_t node;
    const char *address;
    uint16_t port;
    const char *hint_address; /* where it is, too, as a person said; NULL: nothing was said */
    uint16_t hint_port;
};
void transport_set_tls(struct transport *t, struct tls_ctx *tls); /* for connections to come */
struct tls_ctx *transport_tls(const struct transport *t);
/* The members other than ourselves. Peers not named are forgotten and their connections closed. A peer is dialled where
 * the table says, where its own last hello said, and where the hint says, one after the other until it answers:
 * machines get other addresses, and the table can be told only by who has found the others. */
void transport_set_peers(struct transport *t, const struct transport_peer *peers, unsigned n);
void transport_set_address(struct transport *t, const char *address,
                           uint16_t port); /* ours, for hellos to come */
/* As replica_accept: any thread that owns S. */
void transport_accept(struct transport *t, struct stream *s, uint32_t node);

bool transport_is_up(const struct transport *t, uint32_t node);
/* Ends the connection that NODE has made to us. */
void transport_close_from(struct transport *t, uint32_t node);
/* Grows with each connection to NODE that opened. */
uint64_t transport_generation(const struct transport *t, uint32_t node);
void transport_send(struct transport *t, uint32_t node, enum conn_frame type, const void *body,
                    size_t n_bytes);
/* Without a copy; NULL when there is no connection. transport_end after it. */
struct buf *transport_begin(struct transport *t, uint32_t node, enum conn_frame type);
void transport_end(struct transport *t, uint32_t node);
size_t transport_queued(const struct transport *t, uint32_t node);

struct transport_info {
    uint32_t node;
    bool connected;
    uint64_t heard_ms;
    uint32_t ping_us;
    bool has_clock;      /* since the connection opened */
    int64_t clock_ms;    /* its wall clock minus our CLOCK_MONOTONIC: a jump of ours changes nothing in it */
    const char *release; /* borrowed */
};
unsigned transport_get_info(const struct transport *t, struct transport_info *out, unsigned max);
/* Address of NODE, for other connections; false: unknown. Borrowed. */
bool transport_get_address(const struct transport *t, uint32_t node, const char **address, uint16_t *port);

#endif
