/* PLAIN (RFC 4616): [authzid] NUL authcid NUL passwd. Whoever started the exchange checks the password, which
 * may take a while (AXL, LDAP, a key derivation). */
#include "protocols/xmpp/sasl_mechanism.h"

#include <string.h>

enum { MAX_PASSWORD = 1023 };

struct plain {
    char password[MAX_PASSWORD + 1];
};

static enum sasl_result plain_step(struct sasl *s, const char *data, size_t n_bytes, struct sasl_answer *out)
{
    struct plain *p = s->state;
    const char *end = data + n_bytes;
    const char *first = memchr(data, '\0', n_bytes);
    const char *second = first ? memchr(first + 1, '\0', (size_t)(end - first - 1)) : NULL;
    if (!second || memchr(second + 1, '\0', (size_t)(end - second - 1)))
        return sasl_fail(s, "malformed-request", out);
    size_t n_authcid = (size_t)(second - first - 1), n_password = (size_t)(end - second - 1);
    /* An empty password would be an unauthenticated bind to an LDAP server (RFC 4513 §5.1.2). */
    if (n_authcid == 0 || n_password == 0 || n_password > MAX_PASSWORD)
        return sasl_fail(s, "malformed-request", out);
    if (address_prep_local(s->localpart, first + 1, n_authcid, NULL) != 0) {
        s->localpart[0] = '\0';
        return sasl_fail(s, "not-authorized", out); /* cannot be anybody */
    }
    if (!sasl_is_own_authzid(s, data))
        return sasl_fail(s, "invalid-authzid", out);
    memcpy(p->password, second + 1, n_password);
    p->password[n_password] = '\0';
    s->pending = true;
    out->localpart = s->localpart;
    out->password = p->password;
    return SASL_PENDING;
}

static enum sasl_result plain_resume(struct sasl *s, enum sasl_check check, struct sasl_answer *out)
{
    struct plain *p = s->state;
    mem_wipe(p->password, sizeof(p->password));
    switch (check) {
    case SASL_CHECK_OK:
        return sasl_succeed(s, out);
    case SASL_CHECK_LOCKED:
        return sasl_fail(s, "account-disabled", out);
    case SASL_CHECK_UNAVAILABLE:
        return sasl_fail(s, "temporary-auth-failure", out);
    case SASL_CHECK_WRONG:
        break;
    }
    return sasl_fail(s, "not-authorized", out);
}

const struct sasl_mechanism sasl_plain = {
    .name = "PLAIN",
    .needs_tls = true,
    .state_bytes = sizeof(struct plain),
    .step = plain_step,
    .resume = plain_resume,
};
