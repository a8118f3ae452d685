/* One connection of a node link and its peers' table: shared by link.c and link_session.c only. */
#ifndef CLUSTER_LINK_SESSION_H
#define CLUSTER_LINK_SESSION_H

#include "cluster/frame.h"
#include "cluster/link.h"
#include <stdatomic.h>

struct link_session;

enum session_state {
    SESSION_CONNECTING, /* TCP */
    SESSION_SECURING,   /* TLS */
    SESSION_GREETING,   /* our hello is out, theirs awaited (or theirs awaited first, when accepted) */
    SESSION_OPEN,       /* calls; frames too when both epochs are set */
    SESSION_CLOSING,    /* aborted; on_close is still to come */
};

/*             dialled                                   accepted
 *   CONNECTING -> SECURING -> GREETING -> OPEN        GREETING -> OPEN
 *        any of them -> CLOSING -> freed in on_close */
struct link_session {
    struct list link;
    struct links *links;
    struct stream *stream;
    uint64_t id; /* generational: answers look it up again */
    uint32_t node;
    bool dialled;
    enum session_state state;
    uint64_t epoch;     /* the peer's, from its hello */
    uint64_t our_epoch; /* as we said it */
    bool announced;     /* dialled: on_up was called; accepted: frames may have come */
    struct frame_reader reader;
    uint64_t heard_ms, ping_us;
    struct timer tick;
};

struct link_peer {
    uint32_t node;
    bool member;
    char address[256];
    unsigned port;
    uint64_t row_epoch;
    struct link_session *out, *in;
    struct links *links;
    struct timer retry;
    unsigned backoff_ms;
    char last_error[160]; /* logged once per change */
    uint32_t rtt_us;
    /* read on any thread */
    atomic_bool up;
    atomic_uint_fast64_t generation; /* id of the session that frames are meant for */
    atomic_size_t posted, in_stream; /* bytes */
};

struct link_handler {
    link_frame_fn *fn;
    void *user;
};
struct link_watch {
    struct list link;
    void (*on_up)(void *user, uint32_t node, uint64_t epoch);
    void (*on_down)(void *user, uint32_t node);
    void (*on_in_down)(void *user, uint32_t node);
    void *user;
};
struct link_method {
    struct list link;
    char name[64];
    link_call_fn *fn;
    void *user;
};

struct links {
    struct loop *loop;
    struct log *log;
    struct metrics *metrics;
    uint32_t node_id;
    uint8_t cluster_id[16], start_nonce[16];
    char release[64];
    struct tls_ctx *tls;
    unsigned connect_ms, ping_ms, dead_ms;
    void (*on_seen)(void *user, uint32_t node);
    identity_key_fn *key_of;
    void *user;
    uint64_t epoch, next_session, next_call;
    bool freed;
    struct letter last;
    struct list sessions, watches, methods, calls;
    unsigned n_calls;
    struct link_handler handlers[N_LINK_FRAMES];
    struct loop_hook before_poll;
    struct link_peer *_Atomic peers[LINK_MAX_NODES];
};

/* link_session.c */
void link_session_dial(struct link_peer *p);
struct link_session *link_session_accept(struct links *l, struct stream *s, uint32_t node);
/* Aborts it, tells watchers and gives the peer free; the memory ends in on_close. */
void link_session_end(struct link_session *s, const char *why);
void link_session_write(struct link_session *s, unsigned type, const void *data, size_t n_bytes);
struct link_session *link_session_find(struct links *l, uint64_t id);
bool link_session_carries_frames(const struct link_session *s);

/* link.c */
void link_release(struct links *l);
struct link_peer *link_peer_find(const struct links *l, uint32_t node);
void link_on_session_open(struct link_session *s);
void link_on_session_closed(struct link_session *s); /* before it is freed */
void link_on_frame(struct link_session *s, unsigned type, const uint8_t *data, size_t n_bytes);

/* link_call.c */
void link_call_on_request(struct link_session *s, const uint8_t *data, size_t n_bytes);
void link_call_on_reply(struct link_session *s, const uint8_t *data, size_t n_bytes);
void link_call_session_lost(struct link_session *s);
void link_call_cancel_all(struct links *l);

#endif
