/* Requests to the server and to accounts: found in the features' tables. */
#include "im/block.h"
#include "im/router.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include <string.h>

#define X(name) extern const struct xmpp_feature feature_##name;
#include "protocols/xmpp/features.def"
#undef X
const struct xmpp_feature *const xmpp_features[] = {
#define X(name) &feature_##name,
#include "protocols/xmpp/features.def"
#undef X
    NULL};

bool feature_is_on(const struct xmpp_feature *f, struct shard *s)
{
    return s->settings.level >= f->level && (!f->is_on || f->is_on(s));
}

void iq_escape(struct buf *out, const char *s)
{
    xml_escape(out, s, strlen(s));
}

void iq_add_attr(struct buf *out, const char *name, const char *value)
{
    if (!value)
        return;
    buf_addf(out, " %s='", name);
    iq_escape(out, value);
    buf_addc(out, '\'');
}

static void write_start(struct buf *out, const char *type, const char *id, const char *from, const char *to)
{
    buf_addf(out, "<iq type='%s' id='", type);
    iq_escape(out, id);
    if (*from) {
        buf_adds(out, "' from='");
        iq_escape(out, from);
    }
    buf_adds(out, "' to='");
    iq_escape(out, to);
    buf_adds(out, "'>");
}

static void write_answer(struct c2s_home *h, const char *type, const char *id, const char *from,
                         const char *to, const void *inner, size_t n_bytes)
{
    struct buf out = {0};
    write_start(&out, type, id, from, to);
    if (n_bytes)
        buf_add(&out, inner, n_bytes);
    buf_adds(&out, "</iq>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void error_write(struct buf *inner, enum stanza_error error, const char *text, const char *extra)
{
    static const char end[] = "</error>";
    stanza_error_write(inner, error, text);
    if (extra) { /* RFC 6120 §8.3.4: behind the rest */
        inner->n -= sizeof end - 1;
        buf_adds(inner, extra);
        buf_adds(inner, end);
    }
}

/* To who has no session here: a stanza like any other. */
static void send_answer(struct shard *s, enum stanza_type type, const char *id, const char *from,
                        const char *to, const void *inner, size_t n_bytes)
{
    struct blob *payload = n_bytes ? blob_new(inner, n_bytes) : NULL;
    struct envelope *answer = envelope_new(
        &(struct envelope_parts){.type = type, .from = from, .to = to, .id = id, .payload = payload});
    blob_unref(payload);
    router_send(s, answer, NULL);
}

void iq_result(struct xmpp_iq *iq, const char *inner, size_t n_bytes)
{
    const struct envelope *e = iq->envelope;
    if (iq->home)
        write_answer(iq->home, "result", e->id, e->to, e->from, inner, n_bytes);
    else
        send_answer(iq->shard, IQ_RESULT, e->id, e->to, e->from, inner, n_bytes);
}

void iq_error_xml(struct xmpp_iq *iq, const char *error, size_t n_bytes)
{
    const struct envelope *e = iq->envelope;
    if (iq->home)
        write_answer(iq->home, "error", e->id, e->to, e->from, error, n_bytes);
    else
        send_answer(iq->shard, IQ_ERROR, e->id, e->to, e->from, error, n_bytes);
}

void iq_error_with(struct xmpp_iq *iq, enum stanza_error error, const char *text, const char *extra)
{
    struct buf inner = {0};
    error_write(&inner, error, text, extra);
    iq_error_xml(iq, inner.data, inner.n);
    buf_fini(&inner);
}

void iq_error(struct xmpp_iq *iq, enum stanza_error error, const char *text)
{
    iq_error_with(iq, error, text, NULL);
}

/* ---- later ---- */

struct iq_later {
    struct shard *outside; /* who asks has no session: answered from here; else NULL */
    char *id, *from, *to;
};

struct iq_later *iq_keep(struct xmpp_iq *iq)
{
    struct iq_later *l = mem_new(struct iq_later);
    l->outside = iq->home ? NULL : iq->shard;
    l->id = mem_strdup(iq->envelope->id);
    l->from = mem_strdup(iq->envelope->to);
    l->to = mem_strdup(iq->envelope->from);
    return l;
}

static void free_later(struct iq_later *l)
{
    mem_free(l->id);
    mem_free(l->from);
    mem_free(l->to);
    mem_free(l);
}

void iq_later_result(struct iq_later *l, struct session *s, const char *inner, size_t n_bytes)
{
    if (l->outside)
        send_answer(l->outside, IQ_RESULT, l->id, l->from, l->to, inner, n_bytes);
    else if (s)
        write_answer(home_of(s), "result", l->id, l->from, l->to, inner, n_bytes);
    free_later(l);
}

void iq_later_error(struct iq_later *l, struct session *s, enum stanza_error error, const char *text)
{
    iq_later_error_with(l, s, error, text, NULL);
}

void iq_later_error_with(struct iq_later *l, struct session *s, enum stanza_error error, const char *text,
                         const char *extra)
{
    struct buf inner = {0};
    error_write(&inner, error, text, extra);
    if (l->outside)
        send_answer(l->outside, IQ_ERROR, l->id, l->from, l->to, inner.data, inner.n);
    else if (s)
        write_answer(home_of(s), "error", l->id, l->from, l->to, inner.data, inner.n);
    buf_fini(&inner);
    free_later(l);
}

static void on_submitted(struct session *s, struct shard *shard, void *user,
                         const struct proposal_result *result)
{
    struct iq_later *l = user;
    (void)shard;
    const char *text = result->text && *result->text ? result->text : NULL;
    switch (result->code) {
    case 0:
        iq_later_result(l, s, NULL, 0);
        break;
    case ERR_NOTFOUND:
        iq_later_error(l, s, STANZA_ITEM_NOT_FOUND, text);
        break;
    case ERR_LIMIT:
        iq_later_error(l, s, STANZA_NOT_ALLOWED, text);
        break;
    case ERR_INVALID:
        iq_later_error(l, s, STANZA_NOT_ACCEPTABLE, text);
        break;
    case ERR_DENIED:
    case ERR_CONFLICT:
        iq_later_error(l, s, STANZA_NOT_ALLOWED, text);
        break;
    default:
        iq_later_error(l, s, STANZA_RESOURCE_CONSTRAINT, text);
        break;
    }
}

void iq_submit(struct xmpp_iq *iq, Imp__Command *command)
{
    struct iq_later *l = iq_keep(iq);
    if (session_submit(&iq->home->session, command, on_submitted, l) < 0)
        iq_later_error(l, &iq->home->session, STANZA_RESOURCE_CONSTRAINT, NULL);
}

/* ---- dispatch ---- */

static const struct xmpp_iq_handler *find_handler(struct shard *s, const struct xml *payload,
                                                  enum iq_scope scope, bool *known_ns)
{
    *known_ns = false;
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++) {
        for (const struct xmpp_iq_handler *h = (*f)->handlers; h && h->ns; h++) {
            if (!(h->scopes & scope) || strcmp(h->ns, payload->ns) != 0 || !feature_is_on(*f, s))
                continue;
            *known_ns = true;
            if (strcmp(h->name, payload->name) == 0)
                return h;
        }
    }
    return NULL;
}

/* The account that E is for; false: there is none for who asks (XEP-0191 §3.3). */
static bool find_account(struct xmpp_iq *iq)
{
    const struct envelope *e = iq->envelope;
    return shard_find_uid(iq->shard, e->to, &iq->uid) == 0 && !block_matches(iq->shard, iq->uid, e->from);
}

/* Sets scope and uid from the address; false: no such account. */
static bool find_scope(struct xmpp_iq *iq)
{
    const struct session *s = &iq->home->session;
    const char *to = iq->envelope->to;
    if (!*to || strcmp(to, s->user->jid) == 0) {
        iq->scope = IQ_SELF;
        iq->uid = s->user->uid;
        return true;
    }
    if (!strchr(to, '@')) {
        iq->scope = IQ_SERVER;
        return true;
    }
    iq->scope = IQ_ACCOUNT;
    return find_account(iq);
}

void home_iq(struct c2s_home *h, struct envelope *e, struct xml *root, struct arena *arena)
{
    struct xmpp_iq iq = {.home = h,
                         .shard = h->session.shard,
                         .envelope = e,
                         .payload = xml_first_element(root),
                         .arena = arena};
    bool known_ns;
    const struct xmpp_iq_handler *handler;
    if (e->type != IQ_GET && e->type != IQ_SET) {
        /* To the server: an answer to a ping, hearing it was all. To an account: one of ours has asked in its
         * name, such as a push notification. */
        if (strchr(e->to, '@')) {
            router_send(iq.shard, e, &h->session);
            return;
        }
    } else if (!find_scope(&iq)) {
        iq_error(&iq, STANZA_SERVICE_UNAVAILABLE, NULL);
    } else if (!(handler = find_handler(iq.shard, iq.payload, iq.scope, &known_ns))) {
        iq_error(&iq, known_ns ? STANZA_FEATURE_NOT_IMPLEMENTED : STANZA_SERVICE_UNAVAILABLE, NULL);
    } else if (!(e->type == IQ_GET ? handler->get : handler->set)) {
        iq_error(&iq, iq.scope == IQ_ACCOUNT ? STANZA_FORBIDDEN : STANZA_NOT_ALLOWED, NULL);
    } else {
        handler->handle(&iq);
    }
    envelope_free(e);
}

void iq_from_outside(struct shard *s, struct envelope *e)
{
    struct arena arena;
    arena_init(&arena);
    struct xml *root = stanza_tree(e, &arena);
    struct xmpp_iq iq = {.shard = s,
                         .envelope = e,
                         .payload = root ? xml_first_element(root) : NULL,
                         .arena = &arena,
                         .scope = strchr(e->to, '@') ? IQ_ACCOUNT : IQ_SERVER};
    bool known_ns = false;
    const struct xmpp_iq_handler *handler = NULL;
    if (!iq.payload || xml_next_element(iq.payload))
        iq_error(&iq, STANZA_BAD_REQUEST, NULL);
    else if (iq.scope == IQ_ACCOUNT && !find_account(&iq))
        iq_error(&iq, STANZA_SERVICE_UNAVAILABLE, NULL);
    else if (!(handler = find_handler(s, iq.payload, iq.scope, &known_ns)) || !handler->outside)
        iq_error(&iq, known_ns && !handler ? STANZA_FEATURE_NOT_IMPLEMENTED : STANZA_SERVICE_UNAVAILABLE,
                 NULL);
    else if (!(e->type == IQ_GET ? handler->get : handler->set))
        iq_error(&iq, iq.scope == IQ_ACCOUNT ? STANZA_FORBIDDEN : STANZA_NOT_ALLOWED, NULL);
    else
        handler->handle(&iq);
    arena_fini(&arena);
    envelope_free(e);
}
