#include "protocols/xmpp/sasl.h"
#include "protocols/xmpp/sasl_mechanism.h"

#include <string.h>

/* Strongest first: the order in which they are advertised. */
static const struct sasl_mechanism *const mechanisms[] = {
    &sasl_scram_sha512_plus, &sasl_scram_sha512, &sasl_scram_sha256_plus, &sasl_scram_sha256,
    &sasl_scram_sha1_plus,   &sasl_scram_sha1,   &sasl_plain,             &sasl_ht_exporter,
    &sasl_ht_end_point,      &sasl_ht_none,
};

const struct sasl_mechanism *sasl_mechanism_at(unsigned index)
{
    return index < n_elements(mechanisms) ? mechanisms[index] : NULL;
}

const struct sasl_mechanism *sasl_mechanism_find(const char *name)
{
    for (unsigned i = 0; i < n_elements(mechanisms); i++)
        if (strcmp(mechanisms[i]->name, name) == 0)
            return mechanisms[i];
    return NULL;
}

const char *sasl_mechanism_name(const struct sasl_mechanism *m)
{
    return m->name;
}

bool sasl_mechanism_binds(const struct sasl_mechanism *m)
{
    return m->plus;
}

bool sasl_mechanism_is_token(const struct sasl_mechanism *m)
{
    return m->token;
}

static bool is_token_offered(const struct sasl_mechanism *m, const struct sasl_offer *offer)
{
    if (!offer->tokens || !offer->tls)
        return false;
    switch (m->token_binding) {
    case SASL_BIND_EXPORTER:
        return offer->bind_exporter;
    case SASL_BIND_END_POINT:
        return offer->bind_server_end_point;
    default:
        return true;
    }
}

bool sasl_mechanism_is_offered(const struct sasl_mechanism *m, const struct sasl_offer *offer)
{
    if (m->token)
        return is_token_offered(m, offer);
    if (m->hash == CREDENTIAL_SHA512 && !offer->sha512)
        return false;
    if (m->needs_tls && !(offer->plain && (offer->tls || offer->plain_in_clear)))
        return false;
    if (m->needs_local && !offer->local_passwords)
        return false;
    return !m->plus || (offer->tls && (offer->bind_exporter || offer->bind_server_end_point));
}

struct sasl *sasl_new(const struct sasl_env *env, const struct sasl_mechanism *m)
{
    struct sasl *s = mem_new(struct sasl);
    s->env = env;
    s->mechanism = m;
    s->state = mem_zalloc(m->state_bytes);
    return s;
}

void sasl_free(struct sasl *s)
{
    if (!s)
        return;
    if (s->mechanism->fini)
        s->mechanism->fini(s);
    mem_wipe(s->state, s->mechanism->state_bytes);
    mem_free(s->state);
    mem_free(s);
}

enum sasl_result sasl_fail(struct sasl *s, const char *condition, struct sasl_answer *out)
{
    s->ended = true;
    *out = (struct sasl_answer){.condition = condition, .localpart = s->localpart};
    return SASL_FAILURE;
}

enum sasl_result sasl_succeed(struct sasl *s, struct sasl_answer *out)
{
    s->ended = true;
    out->localpart = s->localpart;
    out->has_authzid = s->has_authzid;
    return SASL_SUCCESS;
}

bool sasl_is_own_authzid(struct sasl *s, const char *authzid)
{
    struct jid j;
    if (!*authzid)
        return true;
    s->has_authzid = true;
    /* RFC 6120 §6.3.8: an authzid is a bare JID; nobody may act for somebody else here. */
    return jid_parse(&j, authzid, strlen(authzid), NULL) == 0 && !j.resource[0] &&
           strcmp(j.local, s->localpart) == 0 && strcmp(j.domain, s->env->domain) == 0;
}

enum sasl_result sasl_step(struct sasl *s, const void *data, size_t n_bytes, struct sasl_answer *out)
{
    *out = (struct sasl_answer){0};
    if (s->ended || s->pending)
        return sasl_fail(s, "malformed-request", out);
    bool clear_allowed = s->env->plain_in_clear && !s->mechanism->token;
    if (s->mechanism->needs_tls && !s->env->tls && !clear_allowed)
        return sasl_fail(s, "encryption-required", out);
    if (!data) {
        out->data = "";
        return SASL_CONTINUE;
    }
    if (n_bytes > SASL_MAX_MESSAGE)
        return sasl_fail(s, "malformed-request", out);
    return s->mechanism->step(s, data, n_bytes, out);
}

enum sasl_result sasl_resume(struct sasl *s, enum sasl_check check, struct sasl_answer *out)
{
    *out = (struct sasl_answer){0};
    if (!s->pending || s->ended)
        return sasl_fail(s, "malformed-request", out);
    s->pending = false;
    return s->mechanism->resume(s, check, out);
}
