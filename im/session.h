/* A bound session of a user at its home: what im/ knows of a client, whatever protocol it speaks.
 *
 * Lives on the user's shard, embedded in the protocol's own struct, from session_open to session_end. Others
 * refer to it by id. */
#ifndef IM_SESSION_H
#define IM_SESSION_H

#include "base/htab.h"
#include "base/list.h"
#include "im/envelope.h"
#include "im/shard.h"

struct user;
struct roster_item;

enum session_reason {
    SESSION_CONFLICT, /* replaced by a newer session with the same resource */
    SESSION_KICKED,   /* by the administrator */
    SESSION_LOCKED,   /* the account was locked */
    SESSION_REMOVED,  /* the account was removed or renamed */
    SESSION_MOVED,    /* the user's home is another node now */
    SESSION_SHUTDOWN,
    SESSION_OVERLOAD, /* reads too slowly */
    SESSION_NO_LEASE,
    N_SESSION_REASONS
};

struct session_info {
    uint64_t id, uid, since_ms; /* wall clock */
    uint32_t node, edge_node;
    int priority;
    bool available, tls;
    char resource[256];
    char address[64];
    char mechanism[32];
    char protocol[8];
};

struct session_ops {
    /* Writes the stanza to the client. EXTRA_XML (may be NULL) goes before the end tag (delayed delivery). */
    void (*deliver)(struct session *s, const struct envelope *e, const char *extra_xml);
    /* Output since the session began: written by deliver and others, and of that what the client has. In
     * bytes, which it has when they are with its socket; from sm_begin on each stanza counts as one, which it
     * has when it has acknowledged it. Both never fall. */
    void (*output)(const struct session *s, uint64_t *written, uint64_t *sent);
    size_t (*queued)(const struct session *s); /* bytes that are not with its socket */
    void (*counted)(struct session *s);        /* sm_n_counted has risen; may be NULL */
    void (*roster_push)(struct session *s, const struct roster_item *item);
    /* Ends the client's stream; session_end is called before this returns or later in the turn, and the
     * struct lives until the turn ends. deliver, roster_push and the others never end a session themselves.
     */
    void (*close)(struct session *s, enum session_reason reason);
    /* No stanza of the client is handled any more until resume. */
    void (*pause)(struct session *s);
    void (*resume)(struct session *s); /* from anywhere: goes on later in the turn */
    void (*describe)(const struct session *s, struct session_info *out); /* fills what it knows */
};

/* Why a session is not read. */
enum session_pause {
    PAUSE_LEASE = 1,
    PAUSE_THROTTLE = 2, /* it feeds a slow reader */
    PAUSE_LINK = 4,     /* it feeds a node that cannot take more */
    PAUSE_OUTPUT = 16,  /* its client does not read what it has asked for */
    PAUSE_ORDER = 8,    /* a proposal of its own is in flight: what follows must not overtake it */
    PAUSE_SETTLE = 32,  /* too much of what it sent is not stored or delivered yet */
};
enum { SESSION_SLOTS = 64 };
/* In the row of a session that can be resumed. */
enum session_flag { SESSION_FLAG_ROSTER = 1, SESSION_FLAG_CARBONS = 2 };

struct session {
    struct hnode node;      /* in shard->sessions by id */
    struct list link;       /* in user->sessions */
    struct list flush_link; /* in shard->flushing */
    struct shard *shard;
    struct user *user; /* NULL: not open */
    const struct session_ops *ops;
    uint64_t id;
    uint8_t slot;         /* no other one of the user has it at a time; SESSION_SLOTS: none was free */
    uint64_t since_ms;    /* wall clock */
    char *jid;            /* full JID */
    const char *resource; /* inside jid */
    /* presence */
    struct envelope *presence; /* last broadcast one; NULL: not available */
    struct list directed;      /* struct directed: who got directed presence */
    unsigned n_directed;
    int priority;
    struct event_nodes *wanted; /* nodes it wants events of (im/events.h); NULL: none */
    bool wants_roster;          /* asked for the roster: gets pushes (RFC 6121 §2.1.6) */
    bool carbons;               /* XEP-0280 is enabled: im/carbons.h */
    uint64_t live_ms; /* wall clock: since then messages come as they are sent; earlier ones are delayed */
    uint64_t first_index; /* log index when it was opened: what was stored up to it is not for it alone */
    bool detached;        /* has no connection now and may be resumed: messages wait in the store */
    bool behind;          /* reads too slowly: messages are stored and follow from the store */
    bool no_flood;        /* looks at what waits for it by itself (XEP-0013 §2.1) */
    uint8_t paused;       /* enum session_pause */
    uint32_t blocked_on;  /* node that PAUSE_LINK is about */
    /* ordering against the log */
    unsigned n_in_flight; /* proposals it caused and that are not answered */
    uint64_t after_index; /* highest index it has caused */
    struct timer throttle;
    uint64_t n_fed;        /* bytes it has sent to others, */
    uint64_t n_fed_paused; /* and those when it was throttled last */
    uint64_t throttled_ms; /* CLOCK_MONOTONIC of the last throttle sent because of this session's slowness */
    struct list
        unsent; /* envelopes delivered directly, until their bytes are with the kernel, or acknowledged */
    struct list queued; /* envelopes that it sent, behind messages that are being stored */
    unsigned n_queued, n_storing;
    bool flushing;       /* what is queued goes on just now */
    struct fence *fence; /* im/fence.h; NULL: nothing waits for one */
    uint64_t
        direct_ms; /* CLOCK_MONOTONIC when it sent to DIRECT_UID past the log; 0: all of that has arrived */
    uint64_t direct_uid;   /* FENCE_SEVERAL: to more than one, */
    uint64_t fenced_uid;   /* of whom this one has it all */
    struct list stalled;   /* in shard->stalled: the first of them waits for the node */
    struct session_sm *sm; /* NULL: its client acknowledges nothing */
};

/* Adds the session of UID with RESOURCE (prepared; unique or NULL to have one made) to its user. 0,
 * ERR_CONFLICT (the setting refuses a second one), ERR_LIMIT (sessions per user), ERR_DENIED (locked,
 * removed), ERR_UNAVAILABLE (this node is not the home), ERR_AGAIN (it will be, once its former home has
 * handed over: try again when on_homes of a watcher is called). Closes a session that is replaced first. */
int session_open(struct session *s, struct shard *shard, uint64_t uid, const char *resource,
                 const struct session_ops *ops, struct err_ctx *err);
/* Unavailable presence goes out, the session leaves its user; idempotent. The struct stays the caller's. */
void session_end(struct session *s);
struct session *session_find(struct shard *shard, uint64_t id); /* NULL when it has ended */
bool session_is_open(const struct session *s);
bool session_is_available(const struct session *s);

/* A proposal on behalf of the session: counted in n_in_flight until done, its index raises after_index.
 * ON_DONE gets session NULL when it has ended meanwhile. The result of proposal_submit; not 0: on_done is not
 * called. */
typedef void session_done_fn(struct session *s, struct shard *shard, void *user,
                             const struct proposal_result *result);
int session_submit(struct session *s, Imp__Command *command, session_done_fn *on_done, void *user);

void session_pause(struct session *s, enum session_pause why);
void session_resume(struct session *s, enum session_pause why);
/* Does not read the session for MS from now; without effect right after it was throttled, so that something
 * gets through between two pauses. */
void session_throttle(struct session *s, unsigned ms);
/* Writes a message to the client and keeps it until its bytes are sent; if the session ends before, the
 * message goes on to whoever else there is, or to the store. Takes E. */
void session_deliver_kept(struct session *s, struct envelope *e);
/* The same with what it was given already. */
void session_keep(struct session *s, struct envelope *e);
/* The same message was written to these N, of whom the first one answers for it. */
void session_note_given(struct given *g, struct session *const *sessions, size_t n);
/* Another one of the user that has it, too, and answers when FROM ends; NULL: there is none. One with a
 * connection where there is one. */
struct session *session_heir(const struct user *u, const struct given *g, const struct session *from);
/* Looks what of the session's output has arrived. */
void session_check_output(struct session *s);
/* It has lost its connection: what its client has not acknowledged is stored. */
void session_detach(struct session *s);
void session_attach(struct session *s);
size_t session_queued(const struct session *s);

#endif
