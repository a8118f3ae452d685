/* SASL, server side (RFC 4422): SCRAM-SHA-512, -256, -1, their -PLUS variants, PLAIN, and for FAST (XEP-0484) the
 * hashed tokens HT-SHA-256-EXPR, -ENDP, -NONE. Bytes in, bytes out;
 * the caller does base64 and XML.
 *
 * Mechanisms are const descriptors, one file per family. One struct sasl is one exchange, owned by its
 * connection, on that connection's thread. Unknown users and wrong passwords look alike: same messages, same
 * salts each time. */
#ifndef XMPP_SASL_H
#define XMPP_SASL_H

#include "base/tls.h"
#include "im/address.h"
#include "im/credential.h"
#include <stdbool.h>

struct sasl;
struct sasl_mechanism;

enum {
    SASL_MAX_MESSAGE = 8192, /* bytes of one message of the client */
    SASL_TOKENS = 2,         /* of one client: the current one and the next (XEP-0484 §5.2) */
    SASL_NONCE_BYTES = 16,   /* names a token */
};

/* A token that the user's client may have. The text is a secret. */
struct sasl_token {
    char text[64];
    uint8_t nonce[SASL_NONCE_BYTES];
    bool expired;
};

/* What mechanisms need to know. Outlives the exchange; the functions are called from within sasl_step. */
struct sasl_env {
    void *user;
    const char *domain; /* prepared: an authzid must be the user's own bare JID in it */
    bool tls;
    bool plain_in_clear; /* PLAIN may be used without TLS */
    bool plus_offered; /* some -PLUS mechanism was advertised: a client that says "y" was deceived (RFC 5802
                          §6) */
    bool pass_on_passwords; /* PLAIN: passwords are checked elsewhere (AXL, LDAP), so everybody may try */
    uint8_t secret[32];     /* of the node: salts of users that do not exist come from it */
    unsigned iterations;    /* what they seem to have; 0: CREDENTIAL_ITERATIONS */
    /* Channel binding data as stream_tls_binding; NULL: none. */
    int (*binding)(void *user, enum tls_binding type, uint8_t *out, size_t *n_bytes);
    /* Stored keys of the prepared LOCALPART: 0, or anything else if there are none. */
    int (*find_credential)(void *user, const char *localpart, struct credential *out);
    /* Tokens of LOCALPART's client for MECHANISM: how many. NULL: none. */
    unsigned (*find_tokens)(void *user, const char *localpart, const char *mechanism,
                            struct sasl_token out[SASL_TOKENS]);
    /* What was advertised, for SCRAM's downgrade protection (XEP-0474 §5.1): mechanisms, then channel bindings,
     * sorted, with their separators. NULL: not said. */
    const char *advertised;
    const char *fixed_nonce; /* tests only; NULL: random */
};

/* What a connection can do, to choose what is advertised. */
struct sasl_offer {
    bool tls;
    bool local_passwords; /* stored credentials exist here: SCRAM */
    bool plain;           /* PLAIN is allowed under TLS */
    bool plain_in_clear;  /* and without it, too */
    bool bind_exporter, bind_server_end_point;
    bool sha512; /* SCRAM-SHA-512 */
    bool tokens; /* FAST; not among the mechanisms */
};

/* All mechanisms, strongest first; NULL past the end. */
const struct sasl_mechanism *sasl_mechanism_at(unsigned index);
const struct sasl_mechanism *sasl_mechanism_find(const char *name); /* NULL: unknown */
const char *sasl_mechanism_name(const struct sasl_mechanism *m);
bool sasl_mechanism_is_offered(const struct sasl_mechanism *m, const struct sasl_offer *offer);
bool sasl_mechanism_binds(const struct sasl_mechanism *m); /* a -PLUS one */
bool sasl_mechanism_is_token(const struct sasl_mechanism *m); /* HT-*: for FAST alone */

enum sasl_result {
    SASL_CONTINUE, /* send data as a challenge, step with the response */
    SASL_SUCCESS,  /* localpart has logged in; data: additional data, if n_bytes > 0 */
    SASL_FAILURE,  /* condition */
    SASL_PENDING,  /* have localpart and password checked, then call sasl_resume */
};
/* What a step says; pointers live until the next call. */
struct sasl_answer {
    const char *data;
    size_t n_bytes;
    const char *condition; /* RFC 6120 §6.5: "not-authorized", ... */
    const char *localpart; /* prepared; "" for a name that cannot be one; NULL while not known */
    const char *password;  /* as received; wiped by sasl_resume and sasl_free */
    bool channel_bound;
    bool has_authzid;          /* and it is the user's own */
    const uint8_t *token;      /* success with a token: its nonce */
    const uint8_t *stored_key; /* success with SCRAM: of the keys that were used, n_stored_key bytes */
    size_t n_stored_key;
};

struct sasl *sasl_new(const struct sasl_env *env, const struct sasl_mechanism *m);
void sasl_free(struct sasl *s); /* wipes; may be NULL */
/* The client's next message. DATA NULL: <auth/> came without an initial response (all mechanisms here are
 * client-first: the answer is an empty challenge). */
enum sasl_result sasl_step(struct sasl *s, const void *data, size_t n_bytes, struct sasl_answer *out);

enum sasl_check { SASL_CHECK_OK, SASL_CHECK_WRONG, SASL_CHECK_LOCKED, SASL_CHECK_UNAVAILABLE };
/* The outcome of a check asked for by SASL_PENDING. */
enum sasl_result sasl_resume(struct sasl *s, enum sasl_check check, struct sasl_answer *out);

#endif
