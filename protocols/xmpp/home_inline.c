/* The home's part of a SASL2 log-in (XEP-0388): resumption or Bind 2 (XEP-0386) with what the client asked to
 * be switched on, then <success/> and the stream features, in one piece.
 *
 *   c2s_home_start -> inline features of SASL2 -> resumed? ------------------------------+-> <success/>
 *                                              -> <bind/>? -> bound -> inline features --+
 *
 * Each handler may take a while (INLINE_LATER), and so may the bind (a user who is just moving here): the
 * connection is not read meanwhile, and what others send to the new session waits behind <success/>. */
#include "base/clock.h"
#include "im/address.h"
#include "im/credential.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/shard.h"

#include <stdio.h>
#include <string.h>

#define NS_SASL2 "urn:xmpp:sasl:2"
#define NS_BIND2 "urn:xmpp:bind:0"

enum { MAX_TAG = 64, GENERATED = 8 };
enum phase { PHASE_SASL2, PHASE_BIND, PHASE_BIND2, PHASE_FINISH };

struct home_inline {
    struct list link; /* in xs->inlined */
    uint64_t id;
    enum phase phase;
    const struct xmpp_feature *const *feature; /* where the phase is */
    const struct xmpp_inline *at;
    struct arena arena;
    struct xml *request; /* <authenticate/> with what is for us */
    struct buf outer, bound, held;
    bool running, later, paused;
};

/* ---- what is offered ---- */

static bool is_announced_before(const struct xmpp_feature *const *end, const struct xmpp_inline *last)
{
    for (const struct xmpp_feature *const *f = xmpp_features; f <= end; f++)
        for (const struct xmpp_inline *i = (*f)->inline_bind2; i && i->handle; i++) {
            if (i == last)
                return false;
            if (i->announced && strcmp(i->announced, last->announced) == 0)
                return true;
        }
    return false;
}

void home_inline_offer(struct shard *s, struct buf *out)
{
    buf_adds(out, "<bind xmlns='" NS_BIND2 "'><inline>");
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        for (const struct xmpp_inline *i = (*f)->inline_bind2; i && i->handle; i++)
            if (i->announced && feature_is_on(*f, s) && !is_announced_before(f, i))
                buf_addf(out, "<feature var='%s'/>", i->announced);
    buf_adds(out, "</inline></bind>");
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        for (const struct xmpp_inline *i = (*f)->inline_sasl2; i && i->handle; i++)
            if (i->announced && feature_is_on(*f, s))
                buf_adds(out, i->announced);
}

/* ---- the steps ---- */

uint64_t home_inline_id(const struct c2s_home *h)
{
    return h->inlined->id;
}

struct c2s_home *home_inline_find(struct shard *s, uint64_t id)
{
    struct c2s_home *h;
    list_for_each(h, &s->xmpp->inlined, struct c2s_home, inlining)
    {
        if (h->inlined->id == id)
            return h;
    }
    return NULL;
}

void home_inline_free(struct c2s_home *h)
{
    struct home_inline *in = h->inlined;
    if (!in)
        return;
    h->inlined = NULL;
    list_remove(&h->inlining);
    arena_fini(&in->arena);
    buf_fini(&in->outer);
    buf_fini(&in->bound);
    buf_fini(&in->held);
    mem_free(in);
}

bool home_inline_hold(struct c2s_home *h, const void *data, size_t n_bytes)
{
    if (!h->inlined || h->state == HOME_ENDED)
        return false;
    buf_add(&h->inlined->held, data, n_bytes);
    return true;
}

size_t home_inline_held(const struct c2s_home *h)
{
    return h->inlined ? h->inlined->held.n : 0;
}

static const struct xmpp_inline *list_of(const struct xmpp_feature *f, enum phase phase)
{
    return phase == PHASE_SASL2 ? f->inline_sasl2 : f->inline_bind2;
}

static const struct xml *parent_of(const struct home_inline *in)
{
    return in->phase == PHASE_SASL2 ? in->request : xml_child(in->request, "bind", NS_BIND2);
}

static const struct xml *find_request(const struct home_inline *in, const struct xmpp_inline *i)
{
    const struct xml *parent = parent_of(in);
    return i->name && parent ? xml_child(parent, i->name, i->ns) : NULL;
}

static void begin_phase(struct home_inline *in, enum phase phase)
{
    in->phase = phase;
    in->feature = xmpp_features;
    in->at = NULL;
}

/* The next handler of this phase whose request is there; NULL: none. */
static const struct xmpp_inline *next_handler(struct shard *s, struct home_inline *in)
{
    for (; *in->feature; in->feature++, in->at = NULL) {
        const struct xmpp_inline *first = list_of(*in->feature, in->phase);
        if (!first || !feature_is_on(*in->feature, s))
            continue;
        for (in->at = in->at ? in->at + 1 : first; in->at->handle; in->at++)
            if (!in->at->name ? in->phase == PHASE_BIND2 : find_request(in, in->at) != NULL)
                return in->at;
    }
    return NULL;
}

/* ---- Bind 2 ---- */

/* XEP-0386 §4.1: the tag, then what the server makes. The same client gets the same one every time; its id
 * cannot be found from it. */
static void choose_resource(struct c2s_home *h)
{
    const char *tag = xml_child_text(parent_of(h->inlined), "tag", NS_BIND2, &h->inlined->arena);
    char prepared[JID_PART_MAX + 1] = "", made[2 * GENERATED + 1];
    if (tag && (strlen(tag) > MAX_TAG || address_prep_resource(prepared, tag, strlen(tag), NULL) < 0))
        prepared[0] = 0;
    uint8_t digest[CREDENTIAL_MAX_KEY];
    char text[64 + JID_PART_MAX];
    if (h->login->has_client) {
        int n = snprintf(text, sizeof text, "resource:%s", prepared);
        credential_hmac(CREDENTIAL_SHA256, h->login->client, sizeof h->login->client, text, (size_t)n,
                        digest);
        for (int i = 0; i < GENERATED; i++)
            snprintf(made + 2 * i, 3, "%02x", digest[i]);
    } else {
        random_hex(made, GENERATED);
    }
    mem_free(h->bind_resource);
    h->bind_resource = *prepared ? mem_printf("%s/%s", prepared, made) : mem_strdup(made);
}

/* §4: earlier sessions of the same client end. */
static void end_earlier(struct c2s_home *h)
{
    struct user *u = h->session.user;
    struct session *s;
    if (!h->login->has_client)
        return;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (s == &h->session || s->ops != &c2s_session_ops)
            continue;
        const struct c2s_login *l = home_of(s)->login;
        if (l->has_client && memcmp(l->client, h->login->client, sizeof l->client) == 0)
            s->ops->close(s, SESSION_CONFLICT);
    }
}

/* A session with the very resource is the same client's. */
static void end_same(struct c2s_home *h)
{
    struct shard *s = h->conn->shard;
    struct user *u = h->login->has_client ? user_find(s, h->login->uid) : NULL;
    struct session *old = u ? user_find_session(u, h->bind_resource) : NULL;
    if (!old || old->ops != &c2s_session_ops)
        return;
    const struct c2s_login *l = home_of(old)->login;
    if (l->has_client && memcmp(l->client, h->login->client, sizeof l->client) == 0)
        old->ops->close(old, SESSION_CONFLICT);
}

static void run(struct c2s_home *h);

static void wait_later(struct c2s_home *h)
{
    h->inlined->paused = true;
    h->conn->ops->pause(h->conn);
}

/* Before <success/>: the log-in was right, so that is what the client is told by a stream error. */
static void fail_bind(struct c2s_home *h, int code, const char *text)
{
    switch (code) {
    case ERR_CONFLICT:
        home_fail(h, "conflict", text);
        break;
    case ERR_LIMIT:
    case ERR_AGAIN:
        home_fail(h, "resource-constraint", text);
        break;
    case ERR_UNAVAILABLE:
        home_fail(h, "reset", text);
        break;
    default:
        home_fail(h, "not-authorized", text);
        break;
    }
}

bool home_inline_bind(struct c2s_home *h)
{
    struct shard *s = h->conn->shard;
    struct err_ctx err = {0};
    end_same(h);
    int rc = home_try_bind(h, &err);
    if (rc == ERR_AGAIN && loop_now_ms(s->loop) - h->bind_ms < HOME_BIND_WAIT_MS)
        return true;
    list_remove(&h->binding);
    if (rc < 0) {
        fail_bind(h, rc, err.text);
        return false;
    }
    h->bind2 = true;
    hooks_open(h);
    end_earlier(h);
    begin_phase(h->inlined, PHASE_BIND2);
    run(h);
    return false;
}

static void bind(struct c2s_home *h)
{
    struct shard *s = h->conn->shard;
    choose_resource(h);
    h->bind_ms = loop_now_ms(s->loop);
    if (!home_inline_bind(h))
        return;
    list_append(&s->xmpp->binding, &h->binding);
    wait_later(h);
}

/* ---- the answer ---- */

/* XEP-0388 §2.6.1 with its schema: what belongs to the mechanism, the identity, the rest. */
static void write_success(struct c2s_home *h)
{
    struct home_inline *in = h->inlined;
    struct buf out = {0};
    const struct c2s_login *l = h->login;
    buf_adds(&out, "<success xmlns='" NS_SASL2 "'>");
    if (l->success)
        buf_adds(&out, l->success);
    buf_adds(&out, "<authorization-identifier>");
    if (h->resumed_jid) {
        xml_escape(&out, h->resumed_jid, strlen(h->resumed_jid));
    } else if (session_is_open(&h->session)) {
        xml_escape(&out, h->session.jid, strlen(h->session.jid));
    } else {
        xml_escape(&out, l->localpart, strlen(l->localpart));
        buf_addc(&out, '@');
        xml_escape(&out, l->domain, strlen(l->domain));
    }
    buf_adds(&out, "</authorization-identifier>");
    if (in->outer.n)
        buf_add(&out, in->outer.data, in->outer.n);
    if (session_is_open(&h->session)) {
        buf_adds(&out, "<bound xmlns='" NS_BIND2 "'>");
        if (in->bound.n)
            buf_add(&out, in->bound.data, in->bound.n);
        buf_adds(&out, "</bound>");
    }
    buf_adds(&out, "</success>");
    h->conn->ops->write(h->conn, out.data, out.n);
    h->n_written += out.n;
    buf_fini(&out);
}

/* Those that were handled hear that everything is written. */
static void tell_written(struct c2s_home *h, enum phase phase, struct home_inline *in)
{
    for (const struct xmpp_feature *const *f = xmpp_features; *f && h->state != HOME_ENDED; f++) {
        in->phase = phase;
        for (const struct xmpp_inline *i = list_of(*f, phase); i && i->handle; i++)
            if (i->written && (!i->name ? phase == PHASE_BIND2 : find_request(in, i) != NULL))
                i->written(h);
    }
}

/* What was held is counted as written already; now more stands before it. */
static void write_held(struct c2s_home *h, struct home_inline *in, uint64_t n_before)
{
    struct envelope *e;
    if (!in->held.n || !h->conn)
        return;
    list_for_each(e, &h->session.unsent, struct envelope, link) e->out_end += n_before;
    h->conn->ops->write(h->conn, in->held.data, in->held.n);
}

static void finish(struct c2s_home *h)
{
    struct home_inline *in = h->inlined;
    uint64_t n_written = h->n_written;
    bool bound = session_is_open(&h->session), resumed = h->resumed_jid != NULL;
    write_success(h);
    mem_free(h->login->request);
    mem_free(h->login->success);
    h->login->request = h->login->success = NULL;
    h->inlined = NULL; /* from here on things are written */
    list_remove(&h->inlining);
    h->state = bound ? HOME_BOUND : HOME_UNBOUND;
    if (bound)
        home_forget_login(h);
    if (bound || resumed)
        list_remove(&h->unbound);
    home_features(h, bound ? STREAM_BOUND : resumed ? STREAM_RESUMED : STREAM_UNBOUND);
    write_held(h, in, h->n_written - n_written);
    struct c2s_conn *conn = h->conn;
    tell_written(h, PHASE_SASL2, in);
    if (bound)
        tell_written(h, PHASE_BIND2, in);
    arena_fini(&in->arena);
    buf_fini(&in->outer);
    buf_fini(&in->bound);
    buf_fini(&in->held);
    bool paused = in->paused;
    mem_free(in);
    if (conn->home != h && h->state != HOME_ENDED) /* another session has it now: this one was none */
        c2s_home_closed(h);
    if (paused && conn->home && (conn->home != h || !h->session.paused))
        conn->ops->resume(conn);
}

/* ---- running ---- */

static void take(struct c2s_home *h, enum inline_result result, struct buf *answer)
{
    struct home_inline *in = h->inlined;
    if (result == INLINE_RESUMED)
        begin_phase(in, PHASE_FINISH);
    if (answer && answer->n)
        buf_add(in->phase == PHASE_BIND2 ? &in->bound : &in->outer, answer->data, answer->n);
}

/* As far as it goes without waiting; H may be closed afterwards. */
static void run(struct c2s_home *h)
{
    struct home_inline *in = h->inlined;
    if (in->running)
        return;
    in->running = true;
    while (h->conn && h->inlined == in && (in->phase == PHASE_SASL2 || in->phase == PHASE_BIND2)) {
        const struct xmpp_inline *i = next_handler(h->conn->shard, in);
        if (!i) {
            if (in->phase == PHASE_BIND2)
                begin_phase(in, PHASE_FINISH);
            else
                begin_phase(in, xml_child(in->request, "bind", NS_BIND2) ? PHASE_BIND : PHASE_FINISH);
            break;
        }
        struct buf answer = {0};
        enum inline_result r = i->handle(h, find_request(in, i), &answer);
        if (h->conn && h->inlined == in && r == INLINE_LATER) {
            in->later = true;
            wait_later(h);
        } else if (h->conn && h->inlined == in) {
            take(h, r, &answer);
        }
        buf_fini(&answer);
        if (r == INLINE_LATER)
            break;
    }
    if (h->inlined != in)
        return;
    in->running = false;
    if (!h->conn || in->later)
        return;
    if (in->phase == PHASE_BIND)
        bind(h);
    else if (in->phase == PHASE_FINISH)
        finish(h);
}

void home_inline_done(struct c2s_home *h, enum inline_result result, const char *answer, size_t n_bytes)
{
    struct home_inline *in = h->inlined;
    if (!in || !in->later || !h->conn)
        return;
    struct buf b = {0};
    if (n_bytes)
        buf_add(&b, answer, n_bytes);
    in->later = false;
    take(h, result, &b);
    buf_fini(&b);
    run(h);
}

/* The tree of what the client asked for. */
static bool read_request(struct home_inline *in, const char *request)
{
    struct buf b = {0};
    buf_adds(&b, "<authenticate xmlns='" NS_SASL2 "'>");
    if (request)
        buf_adds(&b, request);
    buf_adds(&b, "</authenticate>");
    bool ok = xml_parse(&in->request, &in->arena, b.data, b.n, &xml_limits_default, NULL) == 0;
    buf_fini(&b);
    return ok;
}

void c2s_home_start(struct c2s_home *h)
{
    struct shard *s = h->conn->shard;
    if (!h->login->sasl2)
        return;
    struct home_inline *in = mem_new(struct home_inline);
    in->id = ++s->xmpp->next_inline;
    arena_init(&in->arena);
    h->inlined = in;
    h->state = HOME_INLINE;
    list_append(&s->xmpp->inlined, &h->inlining);
    if (!im_is_serving(s->im) || s->stopping) {
        home_fail(h, "resource-constraint", "this node does not serve clients now");
    } else if (shard_check_lease(s) >= LEASE_REFUSE) {
        if (h->conn)
            home_fail(h, "resource-constraint", "this node cannot reach the cluster's majority");
    } else if (!read_request(in, h->login->request)) {
        home_fail(h, "internal-server-error", NULL);
    } else {
        begin_phase(in, PHASE_SASL2);
        run(h);
    }
}
