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

enum home_state {
    HOME_HEADER,  /* waits for the stream header */
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
    bool pinged;                 /* asked because it was silent */
    uint64_t since_ms, heard_ms; /* CLOCK_MONOTONIC */
    uint64_t n_written;          /* bytes given to conn */
    uint64_t n_sent_at_end;      /* of them, in the kernel when the connection was closed */
    struct list unbound;         /* in xs->unbound until a resource is bound */
    struct list binding;         /* in xs->binding while the request below waits */
    char *bind_id, *bind_resource; /* the resource is NULL when none was asked for */
    uint64_t bind_ms;            /* since when */
    struct session_hooks hooks;  /* in HOME_BOUND */
    struct deferred later;
};

static inline struct c2s_home *home_of(const struct session *s)
{
    return container_of((struct session *)s, struct c2s_home, session);
}

extern const struct session_ops c2s_session_ops;

void home_write(struct c2s_home *h, const void *data, size_t n_bytes);
/* E to the client, past the hooks. EXTRA_XML may be NULL. */
void home_write_stanza(struct c2s_home *h, const struct envelope *e, const char *extra_xml);
/* A stream error and the end. TEXT may be NULL. */
void home_fail(struct c2s_home *h, const char *condition, const char *text);
/* Ends the stream with FINAL (complete, "</stream:stream>" included). */
void home_close(struct c2s_home *h, const void *final, size_t n_bytes);

/* stanza_in.c: the stanza as a stamped envelope (from: full JID, to: prepared, "" when none). NULL: answered
 * already (error or stream error). */
struct envelope *home_read_stanza(struct c2s_home *h, struct xml_stanza *stanza);
/* Writes an error for a stanza that never became an envelope. */
void home_refuse(struct c2s_home *h, const struct xml *root, enum stanza_error error, const char *text);

/* iq.c: an iq without a resource in its to. Takes E. ROOT: its tree. */
void home_iq(struct c2s_home *h, struct envelope *e, struct xml *root, struct arena *arena);
/* bind.c: handles what comes in HOME_UNBOUND. */
void home_bind(struct c2s_home *h, struct xml_stanza *stanza);
/* The server's stream header. */
void home_header_write(struct c2s_home *h, struct buf *out);
void home_write_roster_item(struct buf *out, const struct roster_item *item);
/* Writes <stream:features/>. */
void home_features(struct c2s_home *h);

#endif
