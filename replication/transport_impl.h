/* What transport.c (connections) and transport_peers.c (who the peers are) share. */
#ifndef REPLICATION_TRANSPORT_IMPL_H
#define REPLICATION_TRANSPORT_IMPL_H

#include "base/list.h"
#include "replication/transport.h"

enum {
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 1000, /* a link that is whole again is used again within 5 s, all steps together */
    BACKOFF_REFUSED_MS = 10000,
    WATCH_GRACE_MS = 200,
    STUCK_MS = 1000, /* no answer for so long, while the peer dials us anew: TCP waits too long to repeat */
};

enum link_kind {
    LINK_OUT,
    LINK_PENDING, /* accepted, no hello yet */
    LINK_HELD,    /* hello of another start nonce while the connection of the old one still stands */
    LINK_IN,
};

struct link {
    struct list list;
    struct transport *t;
    struct peer *peer; /* NULL while pending */
    struct conn *conn;
    enum link_kind kind;
    uint64_t since_ms;
};

struct peer {
    struct transport *t;
    uint32_t node;
    char address[256]; /* dialled now */
    uint16_t port;
    struct where {
        char address[256]; /* "": nothing */
        uint16_t port;
    } row, said, hint;
    bool is_member, is_seen;
    struct link *out, *in, *held;
    uint64_t generation, pong_ms, heard_ms;
    unsigned backoff_ms;
    uint32_t ping_us;
    bool has_clock;
    int64_t clock_ms; /* its wall clock minus our CLOCK_MONOTONIC */
    char release[64];
    struct timer retry, watch;
};

struct transport {
    struct transport_config config;
    struct peer *peers[TRANSPORT_MAX_PEERS];
    unsigned n_peers;
    struct list links;
    struct timer pinger;
    bool stopping;
    struct deferred stopped;
    void (*on_stopped)(void *user);
    void *stopped_user;
};

struct peer *transport_find(const struct transport *t, uint32_t node);        /* NULL: not known */
struct peer *transport_add(struct transport *t, uint32_t node);               /* NULL: too many */
void transport_drop(struct peer *p);                                          /* with its connections */
bool transport_set_where(struct peer *p, const char *address, uint16_t port); /* is that news? */
bool transport_said(struct peer *p, const char *address, uint16_t port);      /* its hello; is it elsewhere? */
void transport_try_next(struct peer *p); /* where else it may be, after a dial that led nowhere */
/* While somebody answers elsewhere than the table says: the others are told, who may look for it. */
void transport_tell_where(struct transport *t);
void transport_on_where(struct transport *t, const uint8_t *body, size_t n_bytes);
void transport_redial(struct peer *p);

#endif
