/* Parts of the edge. Internal to c2s_edge*.c.
 *
 *   accept -> [TLS] -> OPENING -> CLEAR -- starttls --> TLS -> OPENING -> SECURE -- auth --> SASL <->
 * CHECKING
 *                                                                                    \---- success: handed
 * over Any error or time-out: CLOSING, which ends with the stream's on_close. */
#ifndef XMPP_C2S_EDGE_IMPL_H
#define XMPP_C2S_EDGE_IMPL_H

#include "base/htab.h"
#include "protocols/xmpp/c2s_edge.h"
#include "protocols/xmpp/c2s_known.h"
#include "protocols/xmpp/c2s_throttle.h"
#include <stdatomic.h>

enum edge_state {
    EDGE_TLS,      /* handshake */
    EDGE_OPENING,  /* waits for a stream header, in clear or inside TLS */
    EDGE_CLEAR,    /* features were sent in clear */
    EDGE_SECURE,   /* features were sent inside TLS */
    EDGE_SASL,     /* a challenge was sent */
    EDGE_CHECKING, /* the answer waits for a password check or a throttle; the parser is paused */
    EDGE_CLOSING,  /* nothing is parsed any more */
    N_EDGE_STATES
};
enum edge_element {
    ELEMENT_HEADER,
    ELEMENT_STARTTLS,
    ELEMENT_AUTH,
    ELEMENT_RESPONSE,
    ELEMENT_ABORT,
    ELEMENT_STANZA, /* message, presence, iq */
    ELEMENT_OTHER,
    ELEMENT_END,
    N_EDGE_ELEMENTS
};

/* What must wait until the parser has returned. */
enum edge_after { AFTER_NOTHING, AFTER_START_TLS, AFTER_HAND_OVER };

struct edge_settings {
    bool require_tls, plain_in_clear, ask_backend;
    bool bind, bind_strict; /* xmpp.channel_binding */
    unsigned handshake_ms, stanza_bytes_early, stanza_bytes;
    unsigned connections_per_address, unauthenticated, logins_per_address, login_failures;
};

struct edge_shard {
    struct c2s_edge *edge;
    struct shard *shard;
    struct listener *listeners[2]; /* STARTTLS, direct TLS */
    struct shard_watcher watcher;
    struct tls_sni *sni;
    struct htab conns; /* struct edge_conn by id */
    uint64_t next_id;
    bool has_settings;
    struct edge_settings settings; /* read when first wanted, and again after a change */
};

struct c2s_edge {
    struct im *im;
    struct c2s_edge_options options;
    char *addresses[2], *node_name;
    c2s_hand_over_fn *hand_over;
    struct c2s_throttle *throttle;
    struct c2s_known *known;
    struct log *log;
    _Atomic unsigned n_waiting; /* connections */
    _Atomic unsigned n_checks;  /* passwords being checked */
    unsigned ports[2];
    unsigned next_tunnel; /* whose shard comes next; control loop */
    unsigned n_shards;
    struct edge_shard shards[];
};

struct edge_conn {
    struct hnode node;
    uint64_t id;
    struct edge_shard *es;
    struct stream *stream;
    struct xml_stream *xml;
    enum edge_state state;
    enum edge_after after;
    bool in_feed, paused, header_sent, direct_tls;
    bool throttled; /* the delay has been served for this exchange */
    char address[64];
    char *domain; /* of the stream header, prepared */
    char lang[C2S_LANG_MAX + 1];
    struct timer deadline, delay;
    struct sasl_env env;
    struct sasl *sasl;
    const struct sasl_mechanism *mechanism;
    const char *password, *localpart; /* inside sasl, while their check waits for the delay */
    unsigned n_failures;
    struct buf challenge; /* that waits for the delay */
    struct c2s_login *login;
};

/* c2s_edge.c */
const struct edge_settings *edge_settings(struct edge_shard *es);

/* c2s_edge_conn.c */
void edge_conn_new(struct edge_shard *es, int fd, bool direct_tls);
void edge_conn_new_tunnel(struct edge_shard *es, struct tunnel *t); /* inside its ARRIVE */
struct edge_conn *edge_conn_find(struct edge_shard *es, uint64_t id);
void edge_conn_write(struct edge_conn *c, const char *text);
/* A stream error (RFC 6120 §4.9), after a header if none was sent yet, and the end of the connection. */
void edge_conn_close(struct edge_conn *c, const char *condition, const char *text);
void edge_conn_after(struct edge_conn *c);  /* does c->after; C may be gone afterwards */
void edge_conn_pause(struct edge_conn *c);  /* neither reads nor parses */
void edge_conn_resume(struct edge_conn *c); /* if nothing is waited for any more; C may be gone afterwards */

/* c2s_negotiate.c: the table of states and elements. */
extern const struct xml_stream_events edge_xml_events;
void edge_write_header(struct edge_conn *c, const char *to);

/* c2s_login.c */
void edge_write_mechanisms(struct edge_conn *c, struct buf *out); /* <mechanisms/> and channel bindings */
void edge_auth(struct edge_conn *c, const struct xml *x);
void edge_auth_in_clear(struct edge_conn *c, const struct xml *x);
void edge_response(struct edge_conn *c, const struct xml *x);
void edge_abort(struct edge_conn *c, const struct xml *x);
void edge_login_fini(struct edge_conn *c);
void edge_on_delay(struct timer *t);

/* c2s_password.c: looks up and checks. */
enum edge_account {
    ACCOUNT_UNKNOWN,
    ACCOUNT_LOCAL,  /* has stored keys */
    ACCOUNT_BACKEND /* asked elsewhere */
};
struct edge_user {
    enum edge_account account;
    uint64_t uid; /* 0: unknown */
    bool locked;
    uint32_t home; /* active home; 0: none */
    char userid[1024];
    struct credential credential; /* wipe */
};
void edge_find_user(struct edge_shard *es, const char *localpart, const char *domain, struct edge_user *out);
bool edge_has_local_passwords(struct edge_shard *es);
/* Ends in edge_password_checked unless the connection is gone by then. False: too many at once. */
bool edge_check_password(struct edge_conn *c, const char *localpart, const char *password);
void edge_password_checked(struct edge_conn *c, enum sasl_check result);

#endif
