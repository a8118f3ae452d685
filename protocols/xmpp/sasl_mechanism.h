/* What a mechanism is, and what its file may use. Internal to sasl*.c. */
#ifndef XMPP_SASL_MECHANISM_H
#define XMPP_SASL_MECHANISM_H

#include "base/mem.h"
#include "protocols/xmpp/sasl.h"

struct sasl_mechanism {
    const char *name;
    bool needs_tls;   /* sends the password in clear */
    bool needs_local; /* works on stored keys */
    bool plus;        /* needs a channel binding */
    bool token;       /* HT-*: which binding goes in */
    enum { SASL_BIND_NONE, SASL_BIND_EXPORTER, SASL_BIND_END_POINT } token_binding;
    enum credential_hash hash;
    size_t state_bytes;
    void (*fini)(struct sasl *s); /* what the state holds; may be NULL */
    enum sasl_result (*step)(struct sasl *s, const char *data, size_t n_bytes, struct sasl_answer *out);
    enum sasl_result (*resume)(struct sasl *s, enum sasl_check check, struct sasl_answer *out);
};

struct sasl {
    const struct sasl_env *env;
    const struct sasl_mechanism *mechanism;
    bool ended, pending, has_authzid;
    char localpart[JID_PART_MAX + 1];
    void *state; /* state_bytes, zeroed at first, wiped at last */
};

extern const struct sasl_mechanism sasl_scram_sha1, sasl_scram_sha1_plus, sasl_scram_sha256,
    sasl_scram_sha256_plus, sasl_scram_sha512, sasl_scram_sha512_plus;
extern const struct sasl_mechanism sasl_ht_exporter, sasl_ht_end_point, sasl_ht_none;
extern const struct sasl_mechanism sasl_plain;

/* Both end the exchange. */
enum sasl_result sasl_fail(struct sasl *s, const char *condition, struct sasl_answer *out);
enum sasl_result sasl_succeed(struct sasl *s, struct sasl_answer *out);
/* AUTHZID (as received, "" for none) must be the bare JID of s->localpart. */
bool sasl_is_own_authzid(struct sasl *s, const char *authzid);

#endif
