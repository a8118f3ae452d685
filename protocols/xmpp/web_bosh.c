/* BOSH over HTTP: finds the session of a request, and connects it with its tunnel. The rules are in bosh.c.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "protocols/xmpp/bosh_body.h"
#include "protocols/xmpp/home.h"
#include "protocols/xmpp/web_impl.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2 "urn:xmpp:sasl:2"

enum {
    SID_BYTES = 24, /* §16.2: at least 128 bits */
    SID_CHARS = 2 * SID_BYTES,
    WRAPPER_BYTES = 4096, /* of <body/> itself, beside what it carries */
    MAX_SESSIONS = 65536,
};

struct bosh_session {
    struct hnode node; /* in web->sessions by sid */
    struct web *web;
    struct bosh bosh;
    char sid[SID_CHARS + 1];
    char content_type[96], allow_origin[256];
    struct tunnel *tunnel; /* NULL once it has ended */
    struct web_split split;
    struct timer timer;
    struct deferred free_later;
    bool logged_in, header_sent, ended;
    char *error; /* the stream error, to be told with the end */
    char condition[64];
    size_t weight; /* of what was handed to the client in this call */
};

/* A request that waits for its answer. */
struct waiting {
    struct bosh_session *session;
    struct http_exchange *x;
    struct http_answer *now; /* inside bosh_handle: where an answer goes that comes before it returns */
    bool held;               /* bosh_handle has returned */
};

static bool has_sid(const struct hnode *node, const void *key, size_t n)
{
    const struct bosh_session *s = container_of(node, struct bosh_session, node);
    return n == SID_CHARS && !memcmp(s->sid, key, n);
}

void bosh_init(struct web *w)
{
    htab_init(&w->sessions, has_sid);
}

void bosh_fini(struct web *w)
{
    htab_fini(&w->sessions);
}

static uint64_t now_ms(const struct bosh_session *s)
{
    return loop_now_ms(s->web->o.loop);
}

static void set_timer(struct bosh_session *s)
{
    uint64_t due = bosh_due_ms(&s->bosh), now = now_ms(s);
    if (s->ended || due == UINT64_MAX)
        timer_stop(&s->timer);
    else
        timer_start(&s->timer, due > now ? (unsigned)(due - now) : 0, 0);
}

/* ---- what the session says ---- */

static void on_answer(void *user, void *handle, int status, const char *body, size_t n)
{
    struct bosh_session *s = user;
    struct waiting *h = handle;
    struct http_answer later = {0}, *a = h->now ? h->now : &later;
    a->status = status;
    a->content_type = s->content_type;
    a->allow_origin = *s->allow_origin ? s->allow_origin : NULL;
    buf_add(&a->body, body, n);
    if (!h->held) {
        h->now = NULL; /* bosh_handle sees it */
        return;
    }
    http_exchange_answer(h->x, a);
    mem_free(h);
}

static void on_payload(void *user, const char *data, size_t n)
{
    struct bosh_session *s = user;
    if (s->tunnel)
        tunnel_write(s->tunnel, data, n);
}

static void on_restart(void *user, const char *header)
{
    on_payload(user, header, strlen(header));
}

static void on_taken(void *user, size_t weight)
{
    struct bosh_session *s = user;
    if (s->tunnel)
        tunnel_taken(s->tunnel, weight);
}

static void free_session(struct deferred *d)
{
    struct bosh_session *s = container_of(d, struct bosh_session, free_later);
    bosh_fini_session(&s->bosh);
    mem_free(s->error);
    mem_free(s);
}

static void end_tunnel(struct bosh_session *s)
{
    if (s->tunnel)
        tunnel_end(s->tunnel);
    s->tunnel = NULL;
    web_split_fini(&s->split);
}

static void on_session_end(void *user, bool in_order)
{
    static const char end[] = "</stream:stream>";
    struct bosh_session *s = user;
    s->ended = true;
    timer_stop(&s->timer);
    htab_remove(&s->web->sessions, &s->node);
    if (in_order && s->tunnel) /* the client has terminated: its stream is closed (§13) */
        tunnel_write(s->tunnel, end, sizeof(end) - 1);
    end_tunnel(s);
    loop_defer(s->web->o.loop, &s->free_later);
}

static const struct bosh_events bosh_events = {.answer = on_answer,
                                               .on_payload = on_payload,
                                               .on_restart = on_restart,
                                               .on_taken = on_taken,
                                               .on_end = on_session_end};

/* ---- what the shard says ---- */

static void on_header(struct bosh_session *s, const char *header, size_t n)
{
    char id[128], from[1100];
    struct buf out = {0};
    if (!s->bosh.first)
        return;
    buf_adds(&out, s->bosh.first);
    if (web_attr_copy(from, sizeof(from), header, n, "from"))
        buf_addf(&out, " from='%s'", from);
    if (web_attr_copy(id, sizeof(id), header, n, "id"))
        buf_addf(&out, " authid='%s'", id);
    mem_free(s->bosh.first);
    s->bosh.first = buf_steal(&out);
}

/* Stream errors that have a condition of their own in the binding (§17.2). */
static const char *binding_condition(const char *condition)
{
    static const char *const same[] = {"host-gone", "host-unknown", "improper-addressing", "system-shutdown"};
    for (size_t i = 0; i < n_elements(same); i++)
        if (!strcmp(condition, same[i]))
            return same[i];
    return "remote-stream-error";
}

static void on_error(struct bosh_session *s, const char *data, size_t n)
{
    char uri[1024];
    web_read_error(s->condition, uri, data, n);
    mem_free(s->error);
    s->error = *uri ? mem_printf("<uri>%s</uri>", uri) : mem_strndup(data, n);
    snprintf(s->condition, sizeof(s->condition), "%s",
             *uri ? "see-other-uri" : binding_condition(s->condition));
}

static void on_item(void *user, enum web_item item, const char *data, size_t n, size_t weight)
{
    struct bosh_session *s = user;
    struct buf out = {0};
    if (s->ended)
        return;
    if (item == WEB_HEADER)
        on_header(s, data, n);
    if (item == WEB_ELEMENT && web_is_named(data, n, "stream:error")) {
        on_error(s, data, n);
        item = WEB_HEADER;
    }
    if (item != WEB_ELEMENT) {
        tunnel_taken(s->tunnel, weight);
        return;
    }
    bool stream = n > 8 && !memcmp(data, "<stream:", 8);
    if (stream)
        buf_add(&out, data, n);
    else
        web_write_element(&out, data, n);
    bosh_output(&s->bosh, out.data, out.n, weight, stream);
    buf_fini(&out);
    if (web_is(data, n, "success", NS_SASL) || web_is(data, n, "success", NS_SASL2))
        s->logged_in = true;
}

static void on_data(void *user, const char *data, size_t n)
{
    struct bosh_session *s = user;
    web_split_feed(&s->split, data, n, on_item, s);
    tunnel_taken(s->tunnel, web_split_advance(&s->split));
    bosh_flush(&s->bosh, now_ms(s));
    set_timer(s);
}

static void on_tunnel_close(void *user, bool in_order)
{
    struct bosh_session *s = user;
    end_tunnel(s);
    bosh_close(&s->bosh,
               s->error   ? s->condition
               : in_order ? ""
                          : "remote-connection-failed",
               s->error, now_ms(s));
    set_timer(s);
}

/* More of what the client sends is not refused: its requests are few, and each is as long as a stanza may be.
 */
static void on_room(void *user)
{
}

static const struct tunnel_events tunnel_events = {
    .on_data = on_data, .on_room = on_room, .on_close = on_tunnel_close};

static void on_timer(struct timer *t)
{
    struct bosh_session *s = container_of(t, struct bosh_session, timer);
    bosh_tick(&s->bosh, now_ms(s));
    set_timer(s);
}

/* ---- requests ---- */

/* A Content-Type that the client asks for goes into a header. */
static bool is_content_type(const char *text)
{
    size_t n = strlen(text);
    if (!n || n > 80)
        return false;
    for (; *text; text++)
        if (*text < 0x20 || *text > 0x7e)
            return false;
    return true;
}

static void version_of(char out[16], const char *theirs)
{
    unsigned major = 0, minor = 0;
    sscanf(theirs, "%4u.%4u", &major, &minor);
    bool older = major < 1 || (major == 1 && minor < 11);
    snprintf(out, 16, "%u.%u", older ? major : 1, older ? minor : 11);
}

static char *first_attributes(const struct bosh_session *s, const struct bosh_body *p,
                              const struct bosh_options *o)
{
    const char *version = xml_attr(p->root, "ver");
    struct buf out = {0};
    buf_addf(&out, " sid='%s' wait='%u' requests='%u' hold='%u' inactivity='%u' polling='%u' maxpause='%u'",
             s->sid, o->wait_s, o->hold + 1, o->hold, o->inactivity_s, BOSH_POLLING_S, BOSH_MAX_PAUSE_S);
    if (version) {
        char v[16];
        version_of(v, version);
        buf_addf(&out, " ver='%s'", v);
    }
    if (o->acks)
        buf_addf(&out, " ack='%llu'", (unsigned long long)p->request.rid);
    buf_adds(&out, " xmlns:xmpp='" NS_XBOSH "' xmpp:version='1.0' xmpp:restartlogic='true'");
    return buf_steal(&out);
}

static struct bosh_session *create(struct web *w, const struct http_request *r, const struct bosh_body *p,
                                   struct waiting *handle)
{
    const struct web_settings *set = web_settings(w);
    const char *content = bosh_attr_or(p->root, "content", "");
    struct tunnel_facts facts = web_facts(r, C2S_BOSH);
    struct bosh_session *s = mem_new(struct bosh_session);
    struct bosh_options o = {
        .wait_s = bosh_number(p->root, "wait", set->bosh_wait_s, set->bosh_wait_s),
        .hold = bosh_number(p->root, "hold", 1, BOSH_MAX_HOLD),
        .legacy = !xml_attr(p->root, "ver"),
        .acks = bosh_is_true(xml_attr(p->root, "ack")),
    };
    bool polls = !o.hold || !o.wait_s;
    o.inactivity_s = set->bosh_inactivity_s + (polls ? 2 * BOSH_POLLING_S : 0); /* §12 */
    s->web = w;
    random_hex(s->sid, SID_BYTES);
    snprintf(s->content_type, sizeof(s->content_type), "%s",
             is_content_type(content) ? content : "text/xml; charset=utf-8");
    snprintf(s->allow_origin, sizeof(s->allow_origin), "%s", r->origin);
    timer_init(&s->timer, w->o.loop, on_timer);
    s->free_later.fn = free_session;
    list_init(&s->free_later.link);
    htab_add(&w->sessions, &s->node, s->sid, SID_CHARS);
    s->tunnel = c2s_edge_open_tunnel(w->o.edge, w->o.loop, &facts, &tunnel_events, s);
    char *first = first_attributes(s, p, &o);
    o.first_attributes = first;
    handle->session = s;
    bosh_init_session(&s->bosh, &o, &bosh_events, s, &p->request, handle, loop_now_ms(w->o.loop));
    mem_free(first);
    tunnel_write(s->tunnel, p->header.data, p->header.n);
    return s;
}

static struct bosh_session *find(struct web *w, const char *sid)
{
    struct hnode *node = sid ? htab_find(&w->sessions, sid, strlen(sid)) : NULL;
    return node ? container_of(node, struct bosh_session, node) : NULL;
}

static void on_gone(void *user)
{
    struct waiting *h = user;
    bosh_gone(&h->session->bosh, h);
    mem_free(h);
}

static void refuse(struct http_answer *answer, const char *condition)
{
    answer->content_type = "text/xml; charset=utf-8";
    bosh_write_refusal(&answer->body, condition);
}

/* H's answer is in ANSWER already, or X is kept for later. */
static void settle(struct waiting *h, struct http_exchange *x)
{
    if (!h->now) {
        mem_free(h);
        return;
    }
    h->now = NULL;
    h->held = true;
    http_exchange_hold(x, on_gone, h);
}

/* The session that the beginning of a body names, without parsing it. */
static struct bosh_session *peek(struct web *w, const char *body, size_t n)
{
    const char *at = memmem(body, n < WRAPPER_BYTES ? n : WRAPPER_BYTES, " sid=", 5);
    char sid[SID_CHARS + 1];
    if (!at || at + 6 + SID_CHARS >= body + n)
        return NULL;
    memcpy(sid, at + 6, SID_CHARS);
    sid[SID_CHARS] = '\0';
    return find(w, sid);
}

/* Only who has logged in may send more than the beginning: a stranger costs no more memory than that. */
bool bosh_may_go_on(void *user, const struct http_request *r)
{
    const struct bosh_session *s = peek(user, r->body, r->n_body);
    return s && s->logged_in;
}

void bosh_handle(void *user, const struct http_request *r, struct http_exchange *x,
                 struct http_answer *answer)
{
    struct web *w = user;
    const struct web_settings *set = web_settings(w);
    if (!set->on || !set->bosh) {
        answer->status = 404;
        return;
    }
    if (!web_is_origin_allowed(w, r)) {
        answer->status = 403;
        return;
    }
    answer->allow_origin = *r->origin ? r->origin : NULL;
    if (r->method == HTTP_OPTIONS)
        return;
    struct bosh_body p;
    struct xml_limits limits = web_xml_limits(w, true);
    limits.stanza_bytes += WRAPPER_BYTES;
    limits.depth++;
    const char *bad = bosh_body_read(&p, r->body, r->n_body, &limits);
    const char *sid = bad ? NULL : xml_attr(p.root, "sid");
    struct bosh_session *s = find(w, sid);
    if (!bad && (!s || !s->logged_in) && r->n_body > set->stanza_bytes_early + WRAPPER_BYTES)
        bad = "policy-violation";
    if (!bad && sid && !s)
        bad = "item-not-found";
    if (!bad && !sid && (w->stopping || w->sessions.n >= MAX_SESSIONS))
        bad = "system-shutdown";
    if (bad) {
        refuse(answer, bad);
        bosh_body_fini(&p);
        return;
    }
    struct waiting *h = mem_new(struct waiting);
    h->session = s;
    h->x = x;
    h->now = answer;
    if (s)
        bosh_request(&s->bosh, &p.request, h, now_ms(s));
    else
        s = create(w, r, &p, h);
    settle(h, x);
    set_timer(s);
    bosh_body_fini(&p);
}

void bosh_stop_all(struct web *w)
{
    htab_for_each(node, &w->sessions)
    {
        struct bosh_session *s = container_of(node, struct bosh_session, node);
        end_tunnel(s);
        bosh_close(&s->bosh, "system-shutdown", NULL, now_ms(s));
    }
}
