/* Tokens for fast log-ins (XEP-0484). What is stored names a token and says until when and for what it is
 * good; the token itself is made from that and the cluster's key, so that the store and its copies have no
 * secret of it. */
#include "base/base64.h"
#include "base/clock.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <string.h>

enum { DAY_MS = 86400000 };

void edge_client_id(uint8_t out[C2S_CLIENT_ID], uint64_t uid, const char *user_agent)
{
    uint8_t digest[CREDENTIAL_MAX_KEY];
    char text[64 + sizeof(((struct edge_sasl2 *)0)->user_agent)];
    int n = snprintf(text, sizeof text, "client:%llu:%s", (unsigned long long)uid, user_agent);
    credential_digest(CREDENTIAL_SHA256, text, (size_t)n, digest);
    memcpy(out, digest, C2S_CLIENT_ID);
}

static void make_token(struct edge_shard *es, uint64_t uid, const uint8_t *client, const Imp__FastToken *t,
                       char out[64])
{
    uint8_t digest[CREDENTIAL_MAX_KEY];
    struct buf b = {0};
    buf_adds(&b, "fast token");
    buf_add_u64(&b, uid);
    buf_add(&b, client, C2S_CLIENT_ID);
    buf_add(&b, t->nonce.data, t->nonce.len);
    buf_add_u64(&b, t->expires_ms);
    buf_adds(&b, t->mechanism);
    credential_hmac(CREDENTIAL_SHA256, es->secret, sizeof es->secret, b.data, b.n, digest);
    base64_encode(out, digest, 32);
    mem_wipe(digest, sizeof digest);
    buf_fini(&b);
}

static Imp__FastTokenRow *find_row(struct edge_shard *es, uint64_t uid, const uint8_t *client,
                                   struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_bytes(&k, client, C2S_CLIENT_ID);
    return store_find_row(shard_txn(es->shard), TABLE_FAST_TOKEN, &k, a);
}

unsigned edge_find_tokens(struct edge_conn *c, const char *localpart, const char *mechanism,
                          struct sasl_token out[SASL_TOKENS])
{
    struct edge_user u;
    uint8_t client[C2S_CLIENT_ID];
    unsigned n = 0;
    edge_find_user(c->es, localpart, c->domain, &u);
    credential_wipe(&u.credential);
    if (!u.uid || !c->sasl2)
        return 0;
    struct arena a;
    arena_init(&a);
    edge_client_id(client, u.uid, c->sasl2->user_agent);
    const Imp__FastTokenRow *row = find_row(c->es, u.uid, client, &a);
    const Imp__FastToken *tokens[SASL_TOKENS] = {row ? row->next : NULL, row ? row->current : NULL};
    for (unsigned i = 0; i < SASL_TOKENS; i++) {
        const Imp__FastToken *t = tokens[i];
        /* §3.3: good for the mechanism that it was asked for, and no other */
        if (!t || strcmp(t->mechanism, mechanism) != 0 || t->nonce.len != SASL_NONCE_BYTES)
            continue;
        make_token(c->es, u.uid, client, t, out[n].text);
        memcpy(out[n].nonce, t->nonce.data, SASL_NONCE_BYTES);
        out[n].expired = t->expires_ms <= clock_wall_ms();
        n++;
    }
    arena_fini(&a);
    return n;
}

/* ---- after the log-in ---- */

struct update {
    struct edge_shard *es;
    uint64_t conn;
    bool must; /* the log-in is not good without it */
};

static void on_updated(void *user, const struct proposal_result *result)
{
    struct update *w = user;
    struct edge_conn *c = edge_conn_find(w->es, w->conn);
    bool must = w->must;
    mem_free(w);
    if (!c || c->state != EDGE_CHECKING || !c->sasl2)
        return;
    if (result->code == 0) {
        edge_sasl2_finish(c);
    } else if (must) {
        bool refused = result->code == ERR_NOTFOUND || result->code == ERR_CONFLICT;
        edge_refuse(c, refused ? "not-authorized" : "temporary-auth-failure", NULL, c->login->localpart,
                    false);
    } else {
        c->sasl2->token[0] = '\0';
        edge_sasl2_finish(c);
    }
    edge_conn_resume(c);
}

static bool is_used(const struct edge_sasl2 *x, const Imp__FastToken *t)
{
    return x->used_token && t && t->nonce.len == sizeof x->used &&
           memcmp(t->nonce.data, x->used, t->nonce.len) == 0;
}

/* §3.4: long before it ends, so that a client which is seldom there keeps a good one. */
static bool is_due(const Imp__FastToken *t, uint64_t life_ms, uint64_t now_ms)
{
    uint64_t age_ms = now_ms > t->issued_ms ? now_ms - t->issued_ms : 0;
    return age_ms > (life_ms / 2 < DAY_MS ? life_ms / 2 : DAY_MS);
}

static void submit(struct edge_conn *c, Imp__FastTokenSet *body, bool must)
{
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_FAST_TOKEN;
    command.fast_token = body;
    struct update *w = mem_new(struct update);
    *w = (struct update){c->es, c->id, must};
    c->state = EDGE_CHECKING;
    if (shard_submit(c->es->shard, &command, on_updated, w) == 0) {
        edge_conn_pause(c);
        return;
    }
    mem_free(w);
    c->sasl2->token[0] = '\0';
    if (must)
        edge_refuse(c, "temporary-auth-failure", NULL, c->login->localpart, false);
    else
        edge_sasl2_finish(c);
}

void edge_fast_update(struct edge_conn *c)
{
    struct edge_sasl2 *x = c->sasl2;
    uint64_t life_ms = edge_settings(c->es)->fast_life_ms, now_ms = clock_wall_ms();
    Imp__FastTokenSet body = IMP__FAST_TOKEN_SET__INIT;
    Imp__FastTokenUse use = IMP__FAST_TOKEN_USE__INIT;
    Imp__FastToken issue = IMP__FAST_TOKEN__INIT;
    uint8_t client[C2S_CLIENT_ID], nonce[SASL_NONCE_BYTES];
    bool must = false;
    if (!*x->user_agent || (!x->wants_token && !x->used_token)) {
        edge_sasl2_finish(c);
        return;
    }
    struct arena a;
    arena_init(&a);
    edge_client_id(client, c->login->uid, x->user_agent);
    const Imp__FastTokenRow *row = find_row(c->es, c->login->uid, client, &a);
    const Imp__FastToken *used = !row                       ? NULL
                                 : is_used(x, row->next)    ? row->next
                                 : is_used(x, row->current) ? row->current
                                                            : NULL;
    if (x->used_token) {
        use.nonce = (ProtobufCBinaryData){sizeof x->used, x->used};
        use.count = x->count;
        use.invalidate = x->invalidate;
        body.use = &use;
        /* The first use ends the token before; a count, and an end, must hold at once and everywhere. */
        must = !used || used == row->next || x->count || x->invalidate;
        if (used && !x->invalidate && !x->wants_token && is_due(used, life_ms, now_ms)) {
            x->wants_token = true;
            snprintf(x->token_mechanism, sizeof x->token_mechanism, "%s", used->mechanism);
        }
    }
    if (x->wants_token) {
        random_bytes(nonce, sizeof nonce);
        issue.nonce = (ProtobufCBinaryData){sizeof nonce, nonce};
        issue.mechanism = x->token_mechanism;
        issue.issued_ms = now_ms;
        issue.expires_ms = x->expires_ms = (now_ms + life_ms) / 1000 * 1000; /* as it is told */
        make_token(c->es, c->login->uid, client, &issue, x->token);
        body.issue = &issue;
    }
    arena_fini(&a);
    body.uid = c->login->uid;
    body.client = (ProtobufCBinaryData){sizeof client, client};
    if (must || body.issue)
        submit(c, &body, must);
    else
        edge_sasl2_finish(c);
}
