/* SASL2 (XEP-0388) at the edge: what goes with a log-in is read, the mechanism runs as ever (c2s_login.c),
 * then come upgrades (XEP-0480) and tokens (XEP-0484); what the rest asks for is the home's, which writes
 * <success/>. */
#include "base/base64.h"
#include "base/clock.h"
#include "im/credential_row.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2 "urn:xmpp:sasl:2"
#define NS_FAST "urn:xmpp:fast:0"
#define NS_IAP "urn:xmpp:iap:0"
#define NS_UPGRADE "urn:xmpp:sasl:upgrade:0"
#define NS_SCRAM_UPGRADE "urn:xmpp:scram-upgrade:0"

static const char *const task_names[N_CREDENTIAL_HASHES] = {
    [CREDENTIAL_SHA256] = "UPGR-SCRAM-SHA-256",
    [CREDENTIAL_SHA512] = "UPGR-SCRAM-SHA-512",
};

void edge_sasl2_free(struct edge_sasl2 *x)
{
    if (!x)
        return;
    mem_free(x->request);
    mem_free(x->additional);
    mem_wipe(x, sizeof *x);
    mem_free(x);
}

/* ---- what is asked for ---- */

static bool is_true(const char *value)
{
    return value && (strcmp(value, "true") == 0 || strcmp(value, "1") == 0);
}

/* A UUID (§2.3), as it was written: the same client writes it in the same way. */
static bool is_uuid(const char *s)
{
    static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    if (strlen(s) != sizeof form - 1)
        return false;
    for (size_t i = 0; form[i]; i++)
        if (form[i] == '-' ? s[i] != '-' : !strchr("0123456789abcdefABCDEF", s[i]))
            return false;
    return true;
}

static bool has_token_mechanism(struct edge_conn *c, const char *name)
{
    const struct sasl_mechanism *m = name ? sasl_mechanism_find(name) : NULL;
    return m && sasl_mechanism_is_token(m) && sasl_mechanism_is_offered(m, &edge_offer(c)->sasl);
}

/* False: malformed. */
static bool read_fast(struct edge_conn *c, struct edge_sasl2 *s, const struct xml *x)
{
    const char *mechanism = xml_attr(x, "mechanism"), *count = xml_attr(x, "count");
    if (xml_is(x, "request-token", NULL)) {
        /* a token that nobody can use is not made: the client gets none */
        s->wants_token = has_token_mechanism(c, mechanism);
        snprintf(s->token_mechanism, sizeof s->token_mechanism, "%s", s->wants_token ? mechanism : "");
        return true;
    }
    if (!xml_is(x, "fast", NULL))
        return true;
    s->has_fast = true;
    s->invalidate = is_true(xml_attr(x, "invalidate"));
    if (!count)
        return true;
    char *end;
    s->count = strtoull(count, &end, 10);
    return *count >= '1' && *count <= '9' && !*end && s->count < UINT64_MAX;
}

static void read_upgrade(struct edge_sasl2 *s, const struct xml *x, struct arena *a)
{
    const char *name = xml_text(x, a);
    for (int i = 0; i < N_CREDENTIAL_HASHES; i++)
        if (task_names[i] && strcmp(task_names[i], name) == 0)
            s->upgrades |= 1u << i;
}

/* The children of <authenticate/>; false: malformed. */
static bool read_request(struct edge_conn *c, struct edge_sasl2 *s, const struct xml *x)
{
    struct buf rest = {0};
    struct arena a;
    bool ok = true;
    arena_init(&a);
    for (const struct xml *child = xml_first_element(x); child && ok; child = xml_next_element(child)) {
        const char *id = xml_attr(child, "id");
        if (xml_is(child, "user-agent", NS_SASL2)) {
            if (id && is_uuid(id))
                memcpy(s->user_agent, id, strlen(id) + 1);
        } else if (strcmp(child->ns, NS_FAST) == 0) {
            ok = read_fast(c, s, child);
        } else if (xml_is(child, "upgrade", NS_UPGRADE)) {
            read_upgrade(s, child, &a);
        } else if (strcmp(child->ns, NS_SASL2) != 0 && strcmp(child->ns, NS_IAP) != 0) {
            xml_write(&rest, child, NS_SASL2);
        }
    }
    arena_fini(&a);
    s->request = rest.n ? buf_steal(&rest) : NULL;
    buf_fini(&rest);
    return ok;
}

/* XEP-0509 §4: the client goes by an offer that does not stand any more. Not a failed log-in. */
static bool is_outdated(struct edge_conn *c, const struct xml *x)
{
    const struct xml *version = xml_child(x, "config-version", NS_IAP);
    const char *value = version ? xml_attr(version, "value") : NULL;
    return version && (!value || strcmp(value, edge_offer(c)->version) != 0);
}

static void refuse_outdated(struct edge_conn *c)
{
    edge_conn_write(c, "<failure xmlns='" NS_SASL2 "'><aborted xmlns='" NS_SASL
                       "'/><config-version-mismatch xmlns='" NS_IAP
                       "'/><text>the offer has changed: see the features of this stream</text></failure>");
    edge_login_fini(c);
}

void edge_authenticate(struct edge_conn *c, const struct xml *x)
{
    const char *name = xml_attr(x, "mechanism");
    const struct sasl_mechanism *m = name ? sasl_mechanism_find(name) : NULL;
    if (edge_settings(c->es)->level < LEVEL_3) {
        edge_conn_close(c, "unsupported-stanza-type", NULL);
        return;
    }
    c->sasl2 = mem_new(struct edge_sasl2);
    if (is_outdated(c, x)) {
        refuse_outdated(c);
        return;
    }
    if (!edge_may_attempt(c))
        return;
    bool ok = read_request(c, c->sasl2, x);
    if (!m || !sasl_mechanism_is_offered(m, &edge_offer(c)->sasl))
        edge_refuse(c, "invalid-mechanism", NULL, NULL, false);
    else if (!ok || sasl_mechanism_is_token(m) != c->sasl2->has_fast ||
             (c->sasl2->has_fast && !*c->sasl2->user_agent)) /* XEP-0484 §3.3, §4 */
        edge_refuse(c, "malformed-request", NULL, NULL, false);
    else
        edge_begin(c, m, xml_child(x, "initial-response", NS_SASL2));
}

/* ---- upgrades ---- */

static void write_continue(struct edge_conn *c)
{
    struct edge_sasl2 *s = c->sasl2;
    struct buf out = {0};
    buf_adds(&out, "<continue xmlns='" NS_SASL2 "'>");
    if (s->additional)
        buf_addf(&out, "<additional-data>%s</additional-data>", s->additional);
    buf_addf(&out, "<tasks><task>%s</task></tasks></continue>", task_names[s->task]);
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
    mem_free(s->additional); /* said once (§2.6.3) */
    s->additional = NULL;
    s->task_begun = false;
    c->state = EDGE_TASK;
}

/* Stored keys of the account, to be added to; false: its password is not here. */
static bool find_keys(struct edge_conn *c, struct credential *out)
{
    struct edge_user u;
    edge_find_user(c->es, c->login->localpart, c->domain, &u);
    bool local = u.account == ACCOUNT_LOCAL;
    *out = u.credential;
    credential_wipe(&u.credential);
    return local;
}

static void next_task(struct edge_conn *c)
{
    struct edge_sasl2 *s = c->sasl2;
    struct credential keys;
    bool local = s->upgrades && find_keys(c, &keys);
    int task = -1;
    for (int i = 0; local && i < N_CREDENTIAL_HASHES && task < 0; i++)
        if (s->upgrades & 1u << i && !credential_has(&keys, (enum credential_hash)i))
            task = i;
    if (local && task >= 0 && s->n_proof == 0) { /* PLAIN: what the password was compared with */
        enum credential_hash hash = credential_has(&keys, CREDENTIAL_SHA256) ? CREDENTIAL_SHA256
                                    : credential_has(&keys, CREDENTIAL_SHA1) ? CREDENTIAL_SHA1
                                                                             : CREDENTIAL_SHA512;
        s->n_proof = credential_key_bytes(hash);
        memcpy(s->proof, keys.keys[hash].stored_key, s->n_proof);
    }
    if (local)
        credential_wipe(&keys);
    if (task < 0) {
        edge_fast_update(c);
        return;
    }
    s->task = (enum credential_hash)task;
    write_continue(c);
}

/* XEP-0480 §3: salt and iterations for the client to derive with. */
void edge_next(struct edge_conn *c, const struct xml *x)
{
    struct edge_sasl2 *s = c->sasl2;
    const char *task = xml_attr(x, "task");
    if (s->task_begun || !task || strcmp(task, task_names[s->task]) != 0) {
        edge_refuse(c, "malformed-request", NULL, c->login->localpart, false);
        return;
    }
    char salt[BASE64_LENGTH(CREDENTIAL_SALT_BYTES) + 1];
    s->task_begun = true;
    s->keys = (struct scram_keys){.iterations = CREDENTIAL_ITERATIONS, .n_salt = CREDENTIAL_SALT_BYTES};
    random_bytes(s->keys.salt, CREDENTIAL_SALT_BYTES);
    base64_encode(salt, s->keys.salt, CREDENTIAL_SALT_BYTES);
    struct buf out = {0};
    buf_addf(&out,
             "<task-data xmlns='" NS_SASL2 "'><salt xmlns='" NS_SCRAM_UPGRADE
             "' iterations='%u'>%s</salt></task-data>",
             s->keys.iterations, salt);
    stream_write(c->stream, out.data, out.n);
    buf_fini(&out);
}

struct upgrade {
    struct edge_shard *es;
    uint64_t conn;
};

static void on_upgraded(void *user, const struct proposal_result *result)
{
    struct upgrade *w = user;
    struct edge_conn *c = edge_conn_find(w->es, w->conn);
    mem_free(w);
    if (!c || c->state != EDGE_CHECKING || !c->sasl2)
        return;
    if (result->code == ERR_CONFLICT || result->code == ERR_NOTFOUND) {
        edge_refuse(c, "not-authorized", NULL, c->login->localpart, false); /* no longer the password */
    } else { /* not written for another reason: there will be another log-in */
        shard_see(c->es->shard, result->index);
        c->sasl2->upgrades &= ~(1u << c->sasl2->task);
        next_task(c);
    }
    edge_conn_resume(c);
}

static void submit_upgrade(struct edge_conn *c)
{
    struct edge_sasl2 *s = c->sasl2;
    struct credential more = {0};
    struct credential_row row;
    more.keys[s->task] = s->keys;
    credential_row_fill(&row, &more, edge_settings(c->es)->level);
    Imp__CredentialAdd body = IMP__CREDENTIAL_ADD__INIT;
    body.uid = c->login->uid;
    body.credential = &row.row;
    body.proof = (ProtobufCBinaryData){s->n_proof, s->proof};
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_CREDENTIAL_ADD;
    command.credential_add = &body;
    struct upgrade *w = mem_new(struct upgrade);
    *w = (struct upgrade){c->es, c->id};
    c->state = EDGE_CHECKING;
    if (shard_submit(c->es->shard, &command, on_upgraded, w) == 0) {
        edge_conn_pause(c);
    } else {
        mem_free(w);
        s->upgrades &= ~(1u << s->task);
        next_task(c);
    }
    credential_wipe(&more);
}

/* The client's SaltedPassword. */
void edge_task_data(struct edge_conn *c, const struct xml *x)
{
    struct edge_sasl2 *s = c->sasl2;
    const struct xml *hash = xml_child(x, "hash", NS_SCRAM_UPGRADE);
    struct buf salted = {0};
    size_t n = credential_key_bytes(s->task);
    bool ok = s->task_begun && hash && edge_decode(hash, &salted) == 0 && salted.n == n;
    if (ok)
        scram_from_salted(&s->keys, s->task, (const uint8_t *)salted.data);
    if (salted.data)
        mem_wipe(salted.data, salted.cap);
    buf_fini(&salted);
    if (ok)
        submit_upgrade(c);
    else
        edge_refuse(c, "malformed-request", NULL, c->login->localpart, false);
}

/* ---- the end ---- */

void edge_sasl2_succeed(struct edge_conn *c, const struct sasl_answer *a)
{
    struct edge_sasl2 *s = c->sasl2;
    if (a->n_bytes > 0) {
        s->additional = mem_alloc(BASE64_LENGTH(a->n_bytes) + 1);
        base64_encode(s->additional, a->data, a->n_bytes);
    }
    s->used_token = a->token != NULL;
    if (a->token)
        memcpy(s->used, a->token, sizeof s->used);
    s->n_proof = a->n_stored_key;
    if (a->stored_key)
        memcpy(s->proof, a->stored_key, a->n_stored_key);
    sasl_free(c->sasl); /* A is gone with it */
    c->sasl = NULL;
    c->password = c->localpart = NULL;
    next_task(c);
}

static void add_token(struct buf *out, const struct edge_sasl2 *s)
{
    char at[32];
    clock_format_utc(at, s->expires_ms, false);
    buf_addf(out, "<token xmlns='" NS_FAST "' expiry='%s' token='%s'/>", at, s->token);
}

void edge_sasl2_finish(struct edge_conn *c)
{
    struct edge_sasl2 *s = c->sasl2;
    struct c2s_login *l = c->login;
    struct buf out = {0};
    if (*s->token)
        add_token(&out, s);
    if (s->additional)
        buf_addf(&out, "<additional-data>%s</additional-data>", s->additional);
    l->sasl2 = true;
    l->success = out.n ? buf_steal(&out) : NULL;
    buf_fini(&out);
    l->request = s->request;
    s->request = NULL;
    l->has_client = *s->user_agent != 0;
    if (l->has_client)
        edge_client_id(l->client, l->uid, s->user_agent);
    edge_logged_in(c);
    edge_login_fini(c);
    edge_conn_pause(c);
    c->after = AFTER_HAND_OVER; /* §2.6.1: the stream goes on */
}
