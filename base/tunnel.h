/* A stream without a socket: the bytes go by mailbox to somebody on another loop, who has the connection. So
 * whatever speaks over a stream on a shard works over a WebSocket or BOSH session of the control loop as
 * well.
 *
 * Two ends. The *near* one is a struct stream and may move between loops like any other. The *far* one is
 * struct tunnel as this header shows it, on the loop that made it. Each direction has a window of
 * TUNNEL_WINDOW bytes: what the far end has not said to be taken by its client counts as queued in the
 * stream. */
#ifndef BASE_TUNNEL_H
#define BASE_TUNNEL_H

#include "base/stream.h"

enum { TUNNEL_WINDOW = 64 << 10 };

struct tunnel;

struct tunnel_binding {
    uint8_t n, data[TLS_BINDING_MAX];
};
/* What the stream tells when it is asked. */
struct tunnel_facts {
    char address[64]; /* of the client; numeric */
    unsigned port;
    bool tls;                                       /* the connection is encrypted */
    int kind;                                       /* of it, for who has the near end; not 0 */
    struct tunnel_binding bindings[N_TLS_BINDINGS]; /* channel binding data of the connection; n 0: none */
};

/* On the far loop. */
struct tunnel_events {
    void (*on_data)(void *user, const char *data, size_t n_bytes); /* written by the near end */
    void (*on_room)(void *user);                                   /* tunnel_room was 0 and is not any more */
    /* The stream has ended, in order or not; nothing is called after it, and tunnel_end must follow. */
    void (*on_close)(void *user, bool in_order);
};

/* ARRIVE(arg, t) is called on NEAR; it calls tunnel_accept or lets the tunnel end. It is not called if that
 * loop ends first. */
struct tunnel *tunnel_open(struct loop *far_loop, struct loop *near_loop, const struct tunnel_facts *facts,
                           const struct tunnel_events *events, void *user,
                           void (*arrive)(void *arg, struct tunnel *t), void *arg);
/* Only inside ARRIVE, once: the near end. */
struct stream *tunnel_accept(struct tunnel *t, const struct stream_events *events, void *user);
const struct tunnel_facts *tunnel_facts(const struct tunnel *t); /* inside ARRIVE */
const struct tunnel_binding *tunnel_binding(const struct tunnel *t,
                                            enum tls_binding type); /* of a near end */

/* ---- the far end ---- */
void tunnel_write(struct tunnel *t, const void *data, size_t n_bytes); /* copies; may exceed the room */
size_t tunnel_room(const struct tunnel *t);                            /* 0: write no more before on_room */
void tunnel_taken(struct tunnel *t, size_t n_bytes); /* so much of on_data has gone to the client */
/* The client is gone, or on_close was seen: the near end reads what was written, then its end. The far end is
 * freed. */
void tunnel_end(struct tunnel *t);

#endif
