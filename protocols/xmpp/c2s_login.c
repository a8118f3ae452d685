/* SASL negotiation of a client (RFC 6120 §6) with throttling of failed attempts. */
#include "base/base64.h"
#include "base/clock.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <string.h>

#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2 "urn:xmpp:sasl:2"

enum {
    MAX_FAILURES = 5,     /* per connection (§6.4.5) */
    MAX_DELAY_MS = 10000, /* a longer wait is refused at once */
};

static int channel_binding(void *user, enum tls_binding type, uint8_t *out, size_t *n_bytes)
{
    const struct edge_conn *c = user;
    return stream_tls_binding(c->stream, type, out, n_bytes);
}

/* ---- one exchange ---- */

static int find_credential(void *user, const char *localpart, struct credential *out)
{
    struct edge_conn *c = user;
    struct edge_user u;
    edge_find_user(c->es, localpart, c->domain, &u);
    bool found = u.account == ACCOUNT_LOCAL;
    if (found)
        *out = u.credential;
    credential_wipe(&u.credential);
    return found ? 0 : ERR_NOTFOUND;
}

static unsigned find_tokens(void *user, const char *localpart, const char *mechanism,
                            struct sasl_token out[SASL_TOKENS])
{
    return edge_find_tokens(user, localpart, mechanism, out);
}

void edge_login_fini(struct edge_conn *c)
{
    sasl_free(c->sasl);
    c->sasl = NULL;
    edge_sasl2_free(c->sasl2);
    c->sasl2 = NULL;
    buf_fini(&c->challenge);
    c->throttled = false;
    c->password = c->localpart = NULL;
}

static const char *namespace_of(const struct edge_conn *c)
{
    return c->sasl2 ? NS_SASL2 : NS_SASL;
}

void edge_write_sasl(struct edge_conn *c, const char *name, const char *data, size_t n_bytes)
{
    struct buf out = {0};
    buf_addf(&out, "<%s xmlns='%s'", name, namespace_of(c));
    if (n_bytes > 0) {
        buf_addc(&out, '>');
        out.n += base64_encode(buf_reserve(&out, BASE64_LENGTH(n_bytes) + 1), data, n_bytes);
        buf_addf(&out, "</%s>", name);
    } else {
        buf_adds(&out, "/>");
    }
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
}

/* XEP-0388 §2.6.2: the conditions are those of RFC 6120. */
static void write_failure(struct edge_conn *c, const char *condition, const char *extra)
{
    struct buf out = {0};
    buf_addf(&out, "<failure xmlns='%s'><%s%s/>%s</failure>", namespace_of(c), condition,
             c->sasl2 ? " xmlns='" NS_SASL "'" : "", extra ? extra : "");
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
}

void edge_refuse(struct edge_conn *c, const char *condition, const char *extra, const char *localpart, bool count)
{
    struct c2s_edge *e = c->es->edge;
    write_failure(c, condition, extra);
    log_info(e->log, "log-in of %s%s%s from %s refused: %s", localpart && *localpart ? localpart : "(nobody)",
             c->domain ? "@" : "", c->domain ? c->domain : "", c->address, condition);
    metrics_add(im_metrics(e->im), METRIC_XMPP_LOGIN_FAILURES, 1);
    if (count) {
        char account[2 * JID_PART_MAX + 2];
        snprintf(account, sizeof(account), "%s@%s", localpart ? localpart : "", c->domain);
        c2s_throttle_failed(e->throttle, c->address, localpart && *localpart ? account : NULL,
                            edge_settings(c->es)->login_failures, loop_now_ms(c->es->shard->loop));
    }
    edge_login_fini(c);
    c2s_login_free(c->login);
    c->login = NULL;
    c->state = stream_is_tls(c->stream) ? EDGE_SECURE : EDGE_CLEAR;
    if (++c->n_failures >= MAX_FAILURES)
        edge_conn_close(c, "policy-violation", "too many failed log-ins");
}

static void refuse(struct edge_conn *c, const char *condition, const char *localpart, bool count)
{
    edge_refuse(c, condition, NULL, localpart, count);
}

static struct c2s_login *make_login(struct edge_conn *c, const struct sasl_answer *a, uint64_t uid)
{
    struct c2s_login *login = c2s_login_new();
    login->uid = uid;
    login->localpart = mem_strdup(a->localpart);
    login->domain = mem_strdup(c->domain);
    login->mechanism = mem_strdup(sasl_mechanism_name(c->mechanism));
    login->tls = stream_is_tls(c->stream);
    login->channel_bound = a->channel_bound;
    login->address = mem_strdup(c->address);
    login->port = (uint16_t)stream_peer_port(c->stream);
    login->edge_node = im_node_id(c->es->edge->im);
    login->since_ms = clock_wall_ms();
    return login;
}

void edge_logged_in(struct edge_conn *c)
{
    struct c2s_edge *e = c->es->edge;
    log_info(e->log, "%s@%s logged in from %s with %s", c->login->localpart, c->domain, c->address,
             c->login->mechanism);
    metrics_add(im_metrics(e->im), METRIC_XMPP_LOGINS, 1);
}

static void succeed(struct edge_conn *c, const struct sasl_answer *a)
{
    struct c2s_edge *e = c->es->edge;
    struct edge_user u;
    edge_find_user(c->es, a->localpart, c->domain, &u);
    credential_wipe(&u.credential);
    if (u.uid == 0 || u.locked) {
        refuse(c, u.locked ? "account-disabled" : "not-authorized", a->localpart, false);
        return;
    }
    if (u.home == 0 || !im_is_serving(e->im)) {
        edge_conn_close(c, "resource-constraint", "no node serves this user now");
        return;
    }
    /* XEP-0388 §2.3: an authzid is the user's own address already; the header must not name another. */
    if (c->sasl2 && a->has_authzid && c->from && strcmp(c->from, a->localpart) != 0) {
        refuse(c, "invalid-authzid", a->localpart, false);
        return;
    }
    c->login = make_login(c, a, u.uid);
    if (c->sasl2) {
        edge_sasl2_succeed(c, a);
        return;
    }
    edge_write_sasl(c, "success", a->data, a->n_bytes);
    edge_logged_in(c);
    edge_login_fini(c);
    edge_conn_pause(c);
    xml_stream_restart(c->xml); /* §6.4.6: the client begins a new stream */
    c->after = AFTER_HAND_OVER;
}

/* Has to wait because of earlier failures: the rest of the exchange goes on in edge_on_delay. */
static bool is_throttled(struct edge_conn *c, const char *localpart, bool *refused)
{
    char account[2 * JID_PART_MAX + 2];
    *refused = false;
    if (c->throttled)
        return false;
    c->throttled = true;
    snprintf(account, sizeof(account), "%s@%s", localpart, c->domain);
    unsigned wait =
        c2s_throttle_wait_ms(c->es->edge->throttle, c->address, account, edge_settings(c->es)->login_failures,
                             loop_now_ms(c->es->shard->loop));
    if (wait > MAX_DELAY_MS) {
        *refused = true;
        refuse(c, "temporary-auth-failure", localpart, false);
    } else if (wait > 0) {
        timer_start(&c->delay, wait, 0);
    }
    return wait > 0;
}

static void start_check(struct edge_conn *c, const char *localpart, const char *password)
{
    c->state = EDGE_CHECKING;
    if (!edge_check_password(c, localpart, password))
        refuse(c, "temporary-auth-failure", localpart, false);
}

/* Does this failure count as a wrong password? Not what a client runs into that tries one mechanism after the
 * other: a channel binding that we do not have, or SCRAM for a user whose password only the call manager
 * knows. */
static bool is_guess(struct edge_conn *c, const struct sasl_answer *a)
{
    if (strcmp(a->condition, "not-authorized") != 0 || !a->localpart)
        return false;
    if (sasl_mechanism_is_token(c->mechanism)) /* nobody guesses one; a client may try an old one */
        return false;
    if (strcmp(sasl_mechanism_name(c->mechanism), "PLAIN") == 0)
        return true;
    if (!c->throttled) /* not even a challenge was sent */
        return false;
    struct edge_user u;
    edge_find_user(c->es, a->localpart, c->domain, &u);
    credential_wipe(&u.credential);
    return u.account != ACCOUNT_BACKEND;
}

/* What the mechanism said. The parser stays paused while something is awaited. */
static void answer(struct edge_conn *c, enum sasl_result r, const struct sasl_answer *a)
{
    bool refused;
    switch (r) {
    case SASL_CONTINUE:
        buf_reset(&c->challenge);
        buf_add(&c->challenge, a->data, a->n_bytes);
        c->state = EDGE_CHECKING;
        if (a->localpart && is_throttled(c, a->localpart, &refused)) {
            if (!refused)
                edge_conn_pause(c);
            return;
        }
        edge_write_sasl(c, "challenge", c->challenge.data, c->challenge.n);
        c->state = EDGE_SASL;
        return;
    case SASL_PENDING:
        c->state = EDGE_CHECKING;
        edge_conn_pause(c);
        c->password = a->password;
        c->localpart = a->localpart;
        if (!is_throttled(c, a->localpart, &refused))
            start_check(c, a->localpart, a->password);
        return;
    case SASL_SUCCESS:
        succeed(c, a);
        return;
    case SASL_FAILURE:
        refuse(c, a->condition, a->localpart, is_guess(c, a));
        return;
    }
}

void edge_on_delay(struct timer *t)
{
    struct edge_conn *c = container_of(t, struct edge_conn, delay);
    if (c->state != EDGE_CHECKING || !c->sasl)
        return;
    if (c->password) {
        start_check(c, c->localpart, c->password);
    } else {
        edge_write_sasl(c, "challenge", c->challenge.data, c->challenge.n);
        c->state = EDGE_SASL;
    }
    edge_conn_resume(c);
}

void edge_password_checked(struct edge_conn *c, enum sasl_check result)
{
    if (c->state != EDGE_CHECKING || !c->sasl)
        return;
    struct sasl_answer a;
    c->password = NULL;
    enum sasl_result r = sasl_resume(c->sasl, result, &a);
    answer(c, r, &a);
    edge_conn_resume(c);
}

/* Base64 of an element's text into OUT; "=" is an empty message (§6.4.2). -1: none; ERR_MALFORMED. */
int edge_decode(const struct xml *x, struct buf *out)
{
    struct arena a;
    arena_init(&a);
    const char *text = xml_text(x, &a);
    size_t n = strlen(text);
    int code = n == 0 ? -1 : 0;
    if (n > 0 && strcmp(text, "=") != 0) {
        long n_bytes = base64_decode((uint8_t *)buf_reserve(out, n + 1), text, n);
        if (n_bytes < 0)
            code = ERR_MALFORMED;
        else
            out->n = (size_t)n_bytes;
    }
    arena_fini(&a);
    return code;
}

/* MESSAGE NULL: the exchange begins without one. */
static void step(struct edge_conn *c, const struct xml *x, bool first)
{
    struct buf message = {0};
    struct sasl_answer a;
    int code = x ? edge_decode(x, &message) : -1;
    /* XEP-0388 §2.2: an empty element is an empty string there; in RFC 6120 §6.4.2 that is "=". */
    bool none = first && code == -1 && !(c->sasl2 && x);
    if (code == ERR_MALFORMED) {
        refuse(c, "incorrect-encoding", NULL, false);
    } else {
        enum sasl_result r = sasl_step(c->sasl,
                                       none           ? NULL
                                       : message.data ? message.data
                                                      : "",
                                       message.n, &a);
        answer(c, r, &a);
    }
    if (message.data)
        mem_wipe(message.data, message.cap); /* may hold a password */
    buf_fini(&message);
}

bool edge_may_attempt(struct edge_conn *c)
{
    if (c2s_throttle_attempt(c->es->edge->throttle, c->address, edge_settings(c->es)->logins_per_address,
                             loop_now_ms(c->es->shard->loop)))
        return true;
    refuse(c, "temporary-auth-failure", NULL, false);
    return false;
}

void edge_begin(struct edge_conn *c, const struct sasl_mechanism *m, const struct xml *message)
{
    const struct edge_offer *o = edge_offer(c);
    const struct edge_settings *set = edge_settings(c->es);
    c->env = (struct sasl_env){
        .user = c,
        .domain = c->domain,
        .tls = o->sasl.tls,
        .plain_in_clear = o->sasl.plain_in_clear,
        .plus_offered = set->bind_strict && o->sasl.local_passwords &&
                        (o->sasl.bind_exporter || o->sasl.bind_server_end_point),
        .advertised = set->level >= LEVEL_3 ? o->advertised : NULL,
        .binding = channel_binding,
        .find_credential = find_credential,
        .find_tokens = find_tokens,
    };
    memcpy(c->env.secret, c->es->secret, sizeof(c->env.secret));
    c->mechanism = m;
    c->sasl = sasl_new(&c->env, m);
    step(c, message, true);
}

void edge_auth(struct edge_conn *c, const struct xml *x)
{
    const char *name = xml_attr(x, "mechanism");
    const struct sasl_mechanism *m = name ? sasl_mechanism_find(name) : NULL;
    if (!edge_may_attempt(c))
        return;
    if (!m || sasl_mechanism_is_token(m) || !sasl_mechanism_is_offered(m, &edge_offer(c)->sasl))
        refuse(c, "invalid-mechanism", NULL, false);
    else
        edge_begin(c, m, x);
}

void edge_auth_in_clear(struct edge_conn *c, const struct xml *x)
{
    if (edge_settings(c->es)->require_tls)
        refuse(c, "encryption-required", NULL, false);
    else
        edge_auth(c, x);
}

void edge_response(struct edge_conn *c, const struct xml *x)
{
    step(c, x, false);
}

void edge_abort(struct edge_conn *c, const struct xml *x)
{
    refuse(c, "aborted", NULL, false);
}
