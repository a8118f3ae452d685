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
    size_t (*queued)(const struct session *s); /* bytes not yet given to the client's socket */
    void (*roster_push)(struct session *s, const struct roster_item *item);
    /* Ends the client's stream; session_end is called before this returns or soon after. */
    void (*close)(struct session *s, enum session_reason reason);
    void (*pause)(struct session *s); /* stop reading the client; idempotent, nested by session_pause */
    void (*resume)(struct session *s);
    void (*describe)(const struct session *s, struct session_info *out); /* fills what it knows */
};

struct session {
    struct hnode node; /* in shard->sessions by id */
    struct list link;  /* in user->sessions */
    struct shard *shard;
    struct user *user;
    const struct session_ops *ops;
    uint64_t id;
    uint64_t since_ms;    /* wall clock */
    char *jid;            /* full JID */
    const char *resource; /* inside jid */
    /* presence */
    struct envelope *presence; /* last broadcast one; NULL: not available */
    struct list directed;      /* struct directed: who got directed presence */
    unsigned n_directed;
    int8_t priority;
    bool wants_roster; /* asked for the roster: gets pushes (RFC 6121 §2.1.6) */
    bool behind;       /* reads too slowly: messages are stored and follow from the store */
    bool closing;
    uint8_t n_pauses; /* reasons for not reading it */
    /* ordering against the log */
    unsigned n_in_flight; /* proposals it caused and that are not answered */
    uint64_t after_index; /* highest index it has caused */
    uint64_t throttled_until_ms;
    void (*on_idle)(struct session *s); /* n_in_flight fell to 0: go on with what waits; may be NULL */
};

/* Adds the session of UID with RESOURCE (prepared; unique or NULL to have one made) to its user. 0,
 * ERR_CONFLICT (the setting refuses a second one), ERR_LIMIT (sessions per user), ERR_DENIED (locked,
 * removed, or this node is not the home). Closes a session that is replaced first. */
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

void session_pause(struct session *s);
void session_resume(struct session *s);
/* Do not read the session for MS from now. */
void session_throttle(struct session *s, unsigned ms);

#endif
