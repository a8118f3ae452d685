/* SASL negotiation of a client (RFC 6120 §6) with throttling of failed attempts. */
#include "base/base64.h"
#include "base/clock.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <string.h>

#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"

enum {
    MAX_FAILURES = 5,     /* per connection (§6.4.5) */
    MAX_DELAY_MS = 10000, /* a longer wait is refused at once */
};

/* ---- what is offered ---- */

static int channel_binding(void *user, enum tls_binding type, uint8_t *out, size_t *n_bytes)
{
    const struct edge_conn *c = user;
    return stream_tls_binding(c->stream, type, out, n_bytes);
}

static bool can_bind(struct edge_conn *c, enum tls_binding type)
{
    uint8_t data[128];
    size_t n = sizeof(data);
    return edge_settings(c->es)->bind && stream_tls_binding(c->stream, type, data, &n) == 0;
}

static struct sasl_offer get_offer(struct edge_conn *c)
{
    return (struct sasl_offer){
        .tls = stream_is_tls(c->stream),
        .local_passwords = !edge_settings(c->es)->ask_backend || edge_has_local_passwords(c->es),
        .plain = true,
        .plain_in_clear = edge_settings(c->es)->plain_in_clear,
        .bind_exporter = can_bind(c, TLS_BIND_EXPORTER),
        .bind_server_end_point = can_bind(c, TLS_BIND_SERVER_END_POINT),
    };
}

void edge_write_mechanisms(struct edge_conn *c, struct buf *out)
{
    struct sasl_offer offer = get_offer(c);
    const struct sasl_mechanism *m;
    bool binds = false;
    buf_adds(out, "<mechanisms xmlns='" NS_SASL "'>");
    for (unsigned i = 0; (m = sasl_mechanism_at(i)); i++)
        if (sasl_mechanism_is_offered(m, &offer)) {
            buf_addf(out, "<mechanism>%s</mechanism>", sasl_mechanism_name(m));
            binds |= sasl_mechanism_binds(m);
        }
    buf_adds(out, "</mechanisms>");
    if (!binds)
        return;
    buf_adds(out, "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>"); /* XEP-0440 */
    if (offer.bind_exporter)
        buf_adds(out, "<channel-binding type='tls-exporter'/>");
    if (offer.bind_server_end_point)
        buf_adds(out, "<channel-binding type='tls-server-end-point'/>");
    buf_adds(out, "</sasl-channel-binding>");
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

void edge_login_fini(struct edge_conn *c)
{
    sasl_free(c->sasl);
    c->sasl = NULL;
    buf_fini(&c->challenge);
    c->throttled = false;
    c->password = c->localpart = NULL;
}

/* Writes <NAME>base64</NAME>. */
static void write_sasl(struct edge_conn *c, const char *name, const char *data, size_t n_bytes)
{
    struct buf out = {0};
    buf_addf(&out, "<%s xmlns='" NS_SASL "'", name);
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

/* COUNT: a wrong password or the like, which throttles; LOCALPART "" or NULL: the address alone. */
static void refuse(struct edge_conn *c, const char *condition, const char *localpart, bool count)
{
    struct c2s_edge *e = c->es->edge;
    char text[128];
    snprintf(text, sizeof(text), "<failure xmlns='" NS_SASL "'><%s/></failure>", condition);
    edge_conn_write(c, text);
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
    c->state = stream_is_tls(c->stream) ? EDGE_SECURE : EDGE_CLEAR;
    if (++c->n_failures >= MAX_FAILURES)
        edge_conn_close(c, "policy-violation", "too many failed log-ins");
}

static struct c2s_login *make_login(struct edge_conn *c, const struct sasl_answer *a, uint64_t uid)
{
    struct c2s_login *login = c2s_login_new();
    login->uid = uid;
    login->localpart = mem_strdup(a->localpart);
    login->domain = mem_strdup(c->domain);
    snprintf(login->mechanism, sizeof(login->mechanism), "%s", sasl_mechanism_name(c->mechanism));
    login->tls = stream_is_tls(c->stream);
    login->channel_bound = a->channel_bound;
    snprintf(login->address, sizeof(login->address), "%s", c->address);
    login->port = stream_peer_port(c->stream);
    login->edge_node = im_node_id(c->es->edge->im);
    login->since_ms = clock_wall_ms();
    return login;
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
    write_sasl(c, "success", a->data, a->n_bytes);
    log_info(e->log, "%s@%s logged in from %s with %s", a->localpart, c->domain, c->address,
             sasl_mechanism_name(c->mechanism));
    metrics_add(im_metrics(e->im), METRIC_XMPP_LOGINS, 1);
    c->login = make_login(c, a, u.uid);
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
        write_sasl(c, "challenge", c->challenge.data, c->challenge.n);
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
        write_sasl(c, "challenge", c->challenge.data, c->challenge.n);
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
static int decode(const struct xml *x, struct buf *out)
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

static void step(struct edge_conn *c, const struct xml *x)
{
    struct buf message = {0};
    struct sasl_answer a;
    int code = decode(x, &message);
    if (code == ERR_MALFORMED) {
        refuse(c, "incorrect-encoding", NULL, false);
    } else {
        bool none = code == -1 && xml_is(x, "auth", NULL);
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

void edge_auth(struct edge_conn *c, const struct xml *x)
{
    struct c2s_edge *e = c->es->edge;
    struct sasl_offer offer = get_offer(c);
    const char *name = xml_attr(x, "mechanism");
    const struct sasl_mechanism *m = name ? sasl_mechanism_find(name) : NULL;
    if (!c2s_throttle_attempt(e->throttle, c->address, edge_settings(c->es)->logins_per_address,
                              loop_now_ms(c->es->shard->loop))) {
        refuse(c, "temporary-auth-failure", NULL, false);
        return;
    }
    if (!m || !sasl_mechanism_is_offered(m, &offer)) {
        refuse(c, "invalid-mechanism", NULL, false);
        return;
    }
    c->env = (struct sasl_env){
        .user = c,
        .domain = c->domain,
        .tls = offer.tls,
        .plain_in_clear = offer.plain_in_clear,
        .plus_offered = edge_settings(c->es)->bind_strict && offer.local_passwords &&
                        (offer.bind_exporter || offer.bind_server_end_point),
        .binding = channel_binding,
        .find_credential = find_credential,
    };
    memcpy(c->env.secret, e->options.secret, sizeof(c->env.secret));
    c->mechanism = m;
    c->sasl = sasl_new(&c->env, m);
    step(c, x);
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
    step(c, x);
}

void edge_abort(struct edge_conn *c, const struct xml *x)
{
    refuse(c, "aborted", NULL, false);
}
