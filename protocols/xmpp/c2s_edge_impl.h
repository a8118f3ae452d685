/* Parts of the edge. Internal to c2s_edge*.c.
 *
 *   accept -> [TLS] -> OPENING -> CLEAR -- starttls --> TLS -> OPENING -> SECURE -- auth --> SASL <->
 * CHECKING
 *                                                                                    \---- success: handed over
 * SASL2 (XEP-0388): SASL, then TASK <-> CHECKING for each upgrade, CHECKING while a token is written. Any error or time-out: CLOSING, which ends with the stream's on_close. */
#ifndef XMPP_C2S_EDGE_IMPL_H
#define XMPP_C2S_EDGE_IMPL_H

#include "base/xml_frame.h"
#include "base/htab.h"
#include "protocols/xmpp/c2s_edge.h"
#include "protocols/xmpp/home.h"
#include "replication/levels.h"
#include "protocols/xmpp/c2s_known.h"
#include "protocols/xmpp/c2s_throttle.h"
#include <stdatomic.h>

enum edge_state {
    EDGE_TLS,      /* handshake */
    EDGE_OPENING,  /* waits for a stream header, in clear or inside TLS */
    EDGE_CLEAR,    /* features were sent in clear */
    EDGE_SECURE,   /* features were sent inside TLS */
    EDGE_SASL,     /* a challenge was sent */
    EDGE_TASK,     /* SASL2: <continue/> was sent, or what the task needs */
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
    ELEMENT_AUTHENTICATE, /* SASL2 */
    ELEMENT_RESPONSE2,
    ELEMENT_ABORT2,
    ELEMENT_NEXT,
    ELEMENT_TASK_DATA,
    ELEMENT_STANZA, /* message, presence, iq */
    ELEMENT_OTHER,
    ELEMENT_END,
    N_EDGE_ELEMENTS
};

/* What must wait until the parser has returned. */
enum edge_after { AFTER_NOTHING, AFTER_START_TLS, AFTER_HAND_OVER };

struct edge_settings {
    unsigned level; /* the cluster's */
    bool sha512, registration;
    uint64_t fast_life_ms; /* 0: no tokens */
    unsigned registrations;
    bool require_tls, plain_in_clear, ask_backend;
    bool bind, bind_strict; /* xmpp.channel_binding */
    unsigned handshake_ms, stanza_bytes_early, stanza_bytes;
    unsigned connections_per_address, unauthenticated, logins_per_address, login_failures;
};

/* What one kind of connection is offered (c2s_offer.c). */
enum { N_EDGE_OFFERS = 16 };
struct edge_offer {
    struct sasl_offer sasl;
    char *features; /* <stream:features/> */
    size_t n_features;
    char *advertised; /* what SCRAM signs (XEP-0474) */
    char version[33]; /* XEP-0509 */
};

struct edge_shard {
    struct c2s_edge *edge;
    struct shard *shard;
    struct listener *listeners[2]; /* STARTTLS, direct TLS */
    struct shard_watcher watcher;
    struct tls_sni *sni;
    struct htab conns; /* struct edge_conn by id */
    uint64_t next_id;
    uint8_t secret[32]; /* of the cluster */
    bool has_settings;
    struct edge_settings settings; /* read when first wanted, and again after a change */
    bool has_local;                /* there are local accounts */
    struct edge_offer *offers[N_EDGE_OFFERS];
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

/* A SASL2 exchange: what the client asked for with it (c2s_sasl2.c). */
struct edge_sasl2 {
    char *request;    /* children of <authenticate/> for the home, as XML */
    char *additional; /* the mechanism's last words, base64; NULL: none */
    char user_agent[40];
    bool wants_token, has_fast, invalidate;
    char token_mechanism[32]; /* of the token that is wanted */
    uint64_t count;
    uint8_t used[SASL_NONCE_BYTES]; /* the token that was used */
    bool used_token;
    unsigned upgrades; /* wanted: bits by enum credential_hash */
    /* the task under way */
    enum credential_hash task;
    bool task_begun;        /* <next/> was read */
    struct scram_keys keys; /* of the task: salt and iterations */
    uint8_t proof[CREDENTIAL_MAX_KEY];
    size_t n_proof;
    char token[64]; /* to be given out */
    uint64_t expires_ms;
};

struct edge_conn {
    struct hnode node;
    uint64_t id;
    struct edge_shard *es;
    struct stream *stream;
    struct xml_stream *xml;
    struct xml_frame frame;
    struct buf early; /* of an element that is not whole yet; nothing else is kept of it */
    enum edge_state state;
    enum edge_after after;
    bool in_feed, paused, header_sent, direct_tls;
    bool throttled; /* the delay has been served for this exchange */
    char address[64];
    char *domain; /* of the stream header, prepared */
    char lang[C2S_LANG_MAX + 1];
    char *from;   /* localpart in it, prepared; NULL: none */
    struct timer deadline, delay;
    struct sasl_env env;
    struct sasl *sasl;
    struct edge_sasl2 *sasl2; /* NULL: the exchange, if there is one, is SASL's of RFC 6120 */
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

/* c2s_offer.c */
const struct edge_offer *edge_offer(struct edge_conn *c);
void edge_offers_forget(struct edge_shard *es); /* the settings have changed */

/* c2s_sasl2.c */
void edge_authenticate(struct edge_conn *c, const struct xml *x);
void edge_next(struct edge_conn *c, const struct xml *x);
void edge_task_data(struct edge_conn *c, const struct xml *x);
/* The mechanism has succeeded and c->login is made: tasks, tokens, then the home. */
void edge_sasl2_succeed(struct edge_conn *c, const struct sasl_answer *a);
void edge_sasl2_free(struct edge_sasl2 *x); /* may be NULL */

/* c2s_fast.c: tokens (XEP-0484). */
unsigned edge_find_tokens(struct edge_conn *c, const char *localpart, const char *mechanism,
                          struct sasl_token out[SASL_TOKENS]);
/* Writes what a log-in changes about its token, then goes on with edge_sasl2_finish, now or later. */
void edge_fast_update(struct edge_conn *c);
void edge_sasl2_finish(struct edge_conn *c);
/* Hash of account and user agent (C2S_CLIENT_ID bytes). */
void edge_client_id(uint8_t out[C2S_CLIENT_ID], uint64_t uid, const char *user_agent);

/* c2s_register.c: a stanza before log-in. */
void edge_stanza(struct edge_conn *c, const struct xml *x);

/* c2s_login.c */
/* COUNT: a wrong password or the like, which throttles; LOCALPART "" or NULL: the address alone. EXTRA: XML, or NULL. */
void edge_refuse(struct edge_conn *c, const char *condition, const char *extra, const char *localpart, bool count);
bool edge_may_attempt(struct edge_conn *c); /* else refused */
/* A new exchange with its first message. */
void edge_begin(struct edge_conn *c, const struct sasl_mechanism *m, const struct xml *message);
void edge_logged_in(struct edge_conn *c); /* logs and counts c->login */
/* Base64 of an element's text into OUT. -1: there is none; ERR_MALFORMED. */
int edge_decode(const struct xml *x, struct buf *out);
/* Writes <NAME>base64</NAME> in the namespace of the exchange. */
void edge_write_sasl(struct edge_conn *c, const char *name, const char *data, size_t n_bytes);
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
