/* The home of a client stream: everything after SASL. Shard's thread; between the files of protocols/xmpp/
 * only. */
#ifndef XMPP_HOME_H
#define XMPP_HOME_H

#include "im/envelope.h"
#include "im/roster.h"
#include "im/session.h"
#include "protocols/xmpp/c2s.h"
#include "protocols/xmpp/hooks.h"

#define NS_CLIENT "jabber:client"
#define NS_STREAM "http://etherx.jabber.org/streams"
#define NS_BIND "urn:ietf:params:xml:ns:xmpp-bind"
#define NS_SESSION "urn:ietf:params:xml:ns:xmpp-session"
#define NS_STANZAS "urn:ietf:params:xml:ns:xmpp-stanzas"

/* What a handler of something asked for within the log-in says (feature.h). */
enum inline_result {
    INLINE_DONE,  /* ANSWER has what there is to say (nothing, where the XEP has no answer) */
    INLINE_LATER, /* home_inline_done comes later, from the shard's loop; the client is not read until then */
    INLINE_RESUMED, /* SASL2 only: H takes over an earlier session whose full JID is in h->resumed_jid
                       (mem_strdup); nothing is bound any more, written() moves the connection */
};
struct home_inline;

enum { HOME_BIND_WAIT_MS = 5000 }; /* for the former home, the lease, the log */
enum home_state {
    HOME_HEADER,  /* waits for the stream header */
    HOME_INLINE,  /* SASL2: does what was asked for with the log-in; nothing is read from the client */
    HOME_UNBOUND, /* features sent: only resource binding is allowed (RFC 6120 §7.1) */
    HOME_BOUND,
    HOME_ENDED, /* the stream was closed from here; waits to be freed */
};

struct c2s_home {
    struct session session; /* open in HOME_BOUND */
    struct c2s_conn *conn;  /* NULL once closed */
    struct c2s_login *login;
    enum home_state state;
    bool overflow;
    bool pinged;                   /* asked because it was silent */
    uint64_t since_ms, heard_ms;   /* CLOCK_MONOTONIC */
    uint64_t n_written;            /* bytes given to conn */
    uint64_t n_sent_at_end;        /* of them, in the kernel when the connection was closed */
    struct list unbound;           /* in xs->unbound until a resource is bound */
    struct list binding;           /* in xs->binding while the request below waits */
    char *bind_id, *bind_resource; /* the resource is NULL when none was asked for */
    uint64_t bind_ms;              /* since when */
    bool said_from;                /* in its stream header */
    uint8_t n_bind_failures;
    struct session_hooks hooks;  /* in HOME_BOUND */
    struct home_inline *inlined; /* in HOME_INLINE */
    struct list inlining;        /* in xs->inlined then */
    bool bind2;                  /* bound by Bind 2 (XEP-0386) */
    char *resumed_jid;           /* of INLINE_RESUMED */
    char *last_words;            /* XML to be written when the account is removed */
    struct sm *sm;               /* stream management is on (sm.h) */
    struct sm_resume *resume;    /* <resume/> is being answered */
    char *resume_id;
    struct deferred later;
};

static inline struct c2s_home *home_of(const struct session *s)
{
    return container_of((struct session *)s, struct c2s_home, session);
}

extern const struct session_ops c2s_session_ops;

/* One whole stanza, or a piece of the stream that is none. */
void home_write(struct c2s_home *h, const void *data, size_t n_bytes);
/* The same for what is no stanza: nothing is counted. */
void home_write_raw(struct c2s_home *h, const void *data, size_t n_bytes);
/* Too much waits for the client: the session ends later in the turn. */
void home_overflow(struct c2s_home *h);
/* The session is open and the client has been told: what only log-in needs is given back. */
void home_forget_login(struct c2s_home *h);
/* The session ends; there is no connection. */
void home_end(struct c2s_home *h);
/* The connection is closed with a stream error; the session goes on without. */
void home_drop_conn(struct c2s_home *h, const char *condition, const char *text);
/* home_drop_conn if the session can be resumed, otherwise home_fail. */
void home_lose(struct c2s_home *h, const char *condition, const char *text);
/* Does the client acknowledge in time, and has it heard of what it sent? */
void home_check_acks(struct c2s_home *h, uint64_t now);
/* The session's own presence, as if the client had sent it. Takes E. */
void home_own_presence(struct c2s_home *h, struct envelope *e, const struct xml *root, struct arena *arena);
/* E to the client, past the hooks. EXTRA_XML may be NULL. */
void home_write_stanza(struct c2s_home *h, const struct envelope *e, const char *extra_xml);
/* A stream error and the end. TEXT may be NULL. */
void home_fail(struct c2s_home *h, const char *condition, const char *text);
/* The same where nobody may read it: what the client has not got goes to others or to the store. */
void home_fail_dead(struct c2s_home *h, const char *condition, const char *text);
/* Ends the stream with FINAL (complete, "</stream:stream>" included). */
void home_close(struct c2s_home *h, const void *final, size_t n_bytes);

/* stanza_in.c: the stanza as a stamped envelope (from: full JID, to: prepared, "" when none). NULL: answered
 * already (error or stream error). */
struct envelope *home_read_stanza(struct c2s_home *h, struct xml_stanza *stanza);
/* Takes out what a server alone may put into a stanza; true: there was something. */
bool stanza_strip_forged(struct shard *s, struct xml *root);
/* The content of a stanza for default namespace "jabber:client"; NS: its own. NULL: none. */
struct blob *stanza_inner(const struct xml *root, const char *ns);
/* Writes an error for a stanza that never became an envelope. */
void home_refuse(struct c2s_home *h, const struct xml *root, enum stanza_error error, const char *text);

/* iq.c: an iq without a resource in its to. Takes E. ROOT: its tree. */
void home_iq(struct c2s_home *h, struct envelope *e, struct xml *root, struct arena *arena);
/* bind.c: handles what comes in HOME_UNBOUND. */
void home_bind(struct c2s_home *h, struct xml_stanza *stanza);
/* Opens the session with h->bind_resource; ERR_AGAIN: the user may be served here soon. */
int home_try_bind(struct c2s_home *h, struct err_ctx *err);

/* home_inline.c: what SASL2 and Bind 2 do at the home (feature.h). */
/* Who waits, for INLINE_LATER: NULL when the connection has gone meanwhile. */
uint64_t home_inline_id(const struct c2s_home *h);
struct c2s_home *home_inline_find(struct shard *s, uint64_t id);
/* The rest of a handler that said INLINE_LATER; ANSWER may be NULL. H may be gone afterwards. */
void home_inline_done(struct c2s_home *h, enum inline_result result, const char *answer, size_t n_bytes);
void home_inline_free(struct c2s_home *h);
/* The bind waited (bind.c). True: it goes on waiting. */
bool home_inline_bind(struct c2s_home *h);
/* Written before <success/>: kept for later. */
size_t home_inline_held(const struct c2s_home *h);
bool home_inline_hold(struct c2s_home *h, const void *data, size_t n_bytes);
/* <inline/> of SASL2: what features and Bind 2 offer; shown by the edge. */
void home_inline_offer(struct shard *s, struct buf *out);
/* The server's stream header. */
void home_header_write(struct c2s_home *h, struct buf *out);
/* An iq of type set with INNER to the client, from its account: a push. KIND begins its id. */
void home_push(struct c2s_home *h, const char *kind, const void *inner, size_t n_bytes);
void home_write_roster_item(struct buf *out, const struct roster_item *item);
/* Where the stream is when its features are told. */
enum stream_stage {
    STREAM_UNBOUND,
    STREAM_BOUND,   /* by Bind 2 */
    STREAM_RESUMED, /* within SASL2 */
};
/* Writes <stream:features/>. */
void home_features(struct c2s_home *h, enum stream_stage stage);

#endif
