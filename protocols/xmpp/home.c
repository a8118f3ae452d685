#include "protocols/xmpp/home.h"
#include "base/clock.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/roster.h"
#include "im/router.h"
#include "im/store_out.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/sm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { LOW_BYTES = 64 << 10, READ_MAX_BYTES = 256 << 10 };

struct c2s_login *c2s_login_new(void)
{
    return mem_new(struct c2s_login);
}

void c2s_login_free(struct c2s_login *login)
{
    if (!login)
        return;
    if (!login->packed) {
        mem_free(login->localpart);
        mem_free(login->domain);
        mem_free(login->mechanism);
        mem_free(login->address);
        mem_free(login->lang);
        mem_free(login->request);
        mem_free(login->success);
    }
    mem_free(login);
}

struct c2s_login *c2s_login_pack(struct c2s_login *login)
{
    const char *kept[] = {login->localpart, login->domain, login->mechanism, login->address, login->lang};
    size_t n = sizeof *login;
    for (size_t i = 0; i < n_elements(kept); i++)
        n += kept[i] ? strlen(kept[i]) + 1 : 0;
    struct c2s_login *l = mem_alloc(n);
    *l = *login;
    char **to[] = {&l->localpart, &l->domain, &l->mechanism, &l->address, &l->lang};
    char *at = (char *)(l + 1);
    for (size_t i = 0; i < n_elements(kept); i++)
        if (kept[i]) {
            *to[i] = at;
            at = stpcpy(at, kept[i]) + 1;
        }
    l->request = l->success = NULL;
    l->packed = true;
    c2s_login_free(login);
    return l;
}

/* ---- output ---- */

void home_write_raw(struct c2s_home *h, const void *data, size_t n_bytes)
{
    if (!h->conn)
        return;
    h->n_written += n_bytes;
    if (!home_inline_hold(h, data, n_bytes))
        h->conn->ops->write(h->conn, data, n_bytes);
}

void home_write(struct c2s_home *h, const void *data, size_t n_bytes)
{
    bool counts = h->sm && sm_is_stanza(data, n_bytes);
    if (counts)
        sm_wrote(h, data, n_bytes);
    home_write_raw(h, data, n_bytes);
    if (counts)
        sm_ask(h);
}

static void on_later(struct deferred *d)
{
    struct c2s_home *h = container_of(d, struct c2s_home, later);
    if (h->state != HOME_ENDED) {
        h->overflow = false;
        struct session *s = &h->session;
        s->ops->close(s, SESSION_OVERLOAD);
        return;
    }
    c2s_login_free(h->login);
    mem_free(h->bind_id);
    mem_free(h->bind_resource);
    mem_free(h->resumed_jid);
    mem_free(h->resume_id);
    sm_resume_free(h);
    mem_free(h->last_words);
    mem_free(h);
}

static void run_later(struct c2s_home *h)
{
    if (list_is_empty(&h->later.link))
        loop_defer(h->session.shard->loop, &h->later);
}

/* The struct outlives this call: whoever walks a list of sessions may still hold it. */
static void end(struct c2s_home *h)
{
    if (h->state == HOME_ENDED)
        return;
    h->state = HOME_ENDED;
    h->conn = NULL;
    list_remove(&h->unbound);
    list_remove(&h->binding);
    if (session_is_open(&h->session))
        hooks_close(h);
    sm_stop(h);
    session_end(&h->session);
    home_inline_free(h);
    run_later(h);
}

void home_overflow(struct c2s_home *h)
{
    h->overflow = true;
    run_later(h);
}

void home_end(struct c2s_home *h)
{
    end(h);
}

void home_forget_login(struct c2s_home *h)
{
    mem_free(h->bind_id);
    mem_free(h->bind_resource);
    h->bind_id = h->bind_resource = NULL;
    h->login = c2s_login_pack(h->login);
}

/* Is there a message that must not be lost and is not with the kernel? */
static bool has_unsent(struct c2s_home *h)
{
    struct session *s = &h->session;
    if (!session_is_open(s) || h->conn->ops->queued(h->conn) == 0)
        return false;
    return !list_is_empty(&s->unsent) || s->user->mail;
}

static void close_conn(struct c2s_home *h, const void *final, size_t n_bytes, bool may_be_dead)
{
    struct c2s_conn *conn = h->conn;
    if (!conn)
        return;
    conn->home = NULL;
    if (may_be_dead && has_unsent(h)) {
        /* What the client has not got goes to others or to the store, so it must not get
         * it. */
        uint64_t written;
        c2s_session_ops.output(&h->session, &written, &h->n_sent_at_end);
        h->conn = NULL;
        conn->ops->abort(conn);
    } else {
        h->n_sent_at_end = h->n_written - home_inline_held(h);
        h->conn = NULL;
        conn->ops->close(conn, final, n_bytes);
    }
    end(h);
}

void home_close(struct c2s_home *h, const void *final, size_t n_bytes)
{
    close_conn(h, final, n_bytes, false);
}

static void fail(struct c2s_home *h, const char *condition, const char *text, bool may_be_dead)
{
    struct buf out = {0};
    if (h->state == HOME_HEADER) /* RFC 6120 §4.9.1.2: an error needs an opened stream */
        home_header_write(h, &out);
    c2s_stream_error(&out, condition, text);
    close_conn(h, out.data, out.n, may_be_dead);
    buf_fini(&out);
}

void home_fail(struct c2s_home *h, const char *condition, const char *text)
{
    fail(h, condition, text, false);
}

void home_drop_conn(struct c2s_home *h, const char *condition, const char *text)
{
    struct c2s_conn *conn = h->conn;
    struct buf out = {0};
    c2s_stream_error(&out, condition, text);
    h->n_sent_at_end = h->n_written;
    h->conn = NULL;
    conn->home = NULL;
    conn->ops->close(conn, out.data, out.n);
    buf_fini(&out);
}

void home_lose(struct c2s_home *h, const char *condition, const char *text)
{
    if (!h->conn || !sm_may_detach(h)) {
        home_fail(h, condition, text);
        return;
    }
    home_drop_conn(h, condition, text);
    sm_detach(h);
}

void home_check_acks(struct c2s_home *h, uint64_t now)
{
    struct sm *sm = h->sm;
    struct session *s = &h->session;
    if (!sm || !h->conn)
        return;
    if (sm->n_told < sm->n_asked) {
        sm_want_counted(s);
        sm_write_ack(h);
    }
    if (sm->asked && now - sm->asked_ms > s->shard->settings.ack_timeout_s * UINT64_C(1000))
        home_lose(h, "connection-timeout", "nothing was acknowledged");
}

/* ---- the session's operations ---- */

/* EXTRA_XML behind the id under which the message is kept, so that its client finds it in the archive. */
static const char *with_stanza_id(struct session *s, const struct envelope *e, const char *extra_xml)
{
    struct buf *out = &s->shard->scratch;
    buf_reset(out);
    stored_id_element(s->shard->ids, out, e, s->user->jid);
    if (extra_xml)
        buf_adds(out, extra_xml);
    return out->data;
}

void home_write_stanza(struct c2s_home *h, const struct envelope *e, const char *extra_xml)
{
    struct session *s = &h->session;
    if (!h->conn && !s->detached)
        return;
    if (e->stored && e->kind == STANZA_MESSAGE)
        extra_xml = with_stanza_id(s, e, extra_xml);
    struct buf *out = &s->shard->scratch_out;
    buf_reset(out);
    envelope_write(out, e, *e->to ? NULL : s->user->jid, extra_xml);
    home_write(h, out->data, out->n);
    metrics_add(im_metrics(s->shard->im), METRIC_XMPP_STANZAS_OUT, 1);
    if (h->conn && !h->overflow && h->conn->ops->queued(h->conn) > s->shard->settings.output_bytes) {
        h->overflow = true;
        run_later(h);
    }
}

static void deliver(struct session *s, const struct envelope *e, const char *extra_xml)
{
    struct c2s_home *h = home_of(s);
    uint64_t hooks = h->hooks.to_client[e->kind];
    if (!hooks || hooks_run_to_client(h, hooks, e, extra_xml) == HOOK_WRITE)
        home_write_stanza(h, e, extra_xml);
}

static void output(const struct session *s, uint64_t *written, uint64_t *sent)
{
    struct c2s_home *h = home_of(s);
    size_t waiting = h->conn ? h->conn->ops->queued(h->conn) + home_inline_held(h) : 0;
    *written = h->n_written;
    if (!h->conn)
        *sent = h->n_sent_at_end;
    else
        *sent = waiting < h->n_written ? h->n_written - waiting : 0;
    if (!s->sm)
        return;
    uint64_t base = s->sm->base;
    *written = base + s->sm->n_out;
    if (*sent >= base || s->sm->n_acked)
        *sent = base + s->sm->n_acked;
}

static size_t queued(const struct session *s)
{
    const struct c2s_home *h = home_of(s);
    return h->conn ? h->conn->ops->queued(h->conn) + home_inline_held(h) : 0;
}

void home_push(struct c2s_home *h, const char *kind, const void *inner, size_t n_bytes)
{
    struct session *s = &h->session;
    struct buf out = {0};
    char id[17];
    random_hex(id, 8); /* not to be guessed: attack of forged results */
    buf_addf(&out, "<iq type='set' id='%s-%s' to='", kind, id);
    xml_escape(&out, s->jid, strlen(s->jid));
    buf_adds(&out, "'>");
    buf_add(&out, inner, n_bytes);
    buf_adds(&out, "</iq>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void roster_push(struct session *s, const struct roster_item *item)
{
    struct buf *out = &s->shard->scratch_out;
    buf_reset(out);
    buf_addf(out, "<query xmlns='jabber:iq:roster' ver='%llu'>", (unsigned long long)item->version);
    home_write_roster_item(out, item);
    buf_adds(out, "</query>");
    home_push(home_of(s), "push", out->data, out->n);
}

static void close_session(struct session *s, enum session_reason reason)
{
    static const struct {
        const char *condition, *text;
    } ends[N_SESSION_REASONS] = {
        [SESSION_CONFLICT] = {"conflict", "replaced by a new connection"},
        [SESSION_KICKED] = {"policy-violation", "ended by the administrator"},
        [SESSION_LOCKED] = {"not-authorized", "the account is locked"},
        [SESSION_REMOVED] = {"not-authorized", "the account has been removed or renamed"},
        [SESSION_MOVED] = {"reset", "the account has moved to another node"},
        [SESSION_SHUTDOWN] = {"system-shutdown", NULL},
        [SESSION_OVERLOAD] = {"policy-violation", "stanzas are read too slowly"},
        [SESSION_NO_LEASE] = {"system-shutdown", "this node has lost the cluster's majority"},
    };
    struct c2s_home *h = home_of(s);
    if (reason == SESSION_REMOVED && h->last_words)
        home_write(h, h->last_words, strlen(h->last_words));
    if (reason == SESSION_NO_LEASE && h->sm && h->sm->resumable) {
        if (h->conn)
            home_lose(h, ends[reason].condition, ends[reason].text);
        return;
    }
    /* Another home, or this node's next life, goes on with it. */
    if (h->sm && (reason == SESSION_MOVED || reason == SESSION_SHUTDOWN))
        h->sm->keep_row = true;
    if (!h->conn) {
        end(h);
        return;
    }
    /* Who does not read, or comes back on a new connection, has perhaps not got what was written last. */
    fail(home_of(s), ends[reason].condition, ends[reason].text,
         reason == SESSION_CONFLICT || reason == SESSION_OVERLOAD);
}

/* One pause of the connection for all reasons of the session. */
static void pause_session(struct session *s)
{
    struct c2s_home *h = home_of(s);
    if (h->conn)
        h->conn->ops->pause(h->conn);
}

static void resume_session(struct session *s)
{
    struct c2s_home *h = home_of(s);
    if (h->conn && !h->inlined)
        h->conn->ops->resume(h->conn);
}

static void describe(const struct session *s, struct session_info *out)
{
    const struct c2s_login *l = home_of(s)->login;
    out->edge_node = l->edge_node;
    out->tls = l->tls;
    snprintf(out->address, sizeof out->address, "%s", l->address);
    snprintf(out->mechanism, sizeof out->mechanism, "%s", l->mechanism);
    strncpy(out->protocol, "xmpp", sizeof out->protocol - 1);
}

const struct session_ops c2s_session_ops = {
    .deliver = deliver,
    .output = output,
    .counted = sm_on_counted,
    .queued = queued,
    .roster_push = roster_push,
    .close = close_session,
    .pause = pause_session,
    .resume = resume_session,
    .describe = describe,
};

/* ---- from the connection ---- */

struct c2s_home *c2s_home_new(struct c2s_conn *conn, struct c2s_login *login)
{
    struct c2s_home *h = mem_new(struct c2s_home);
    h->conn = conn;
    conn->home = h;
    h->login = login;
    h->session.shard = conn->shard;
    h->session.ops = &c2s_session_ops;
    h->since_ms = h->heard_ms = loop_now_ms(conn->shard->loop);
    list_init(&h->later.link);
    list_init(&h->binding);
    list_init(&h->inlining);
    h->later.fn = on_later;
    list_append(&conn->shard->xmpp->unbound, &h->unbound);
    return h;
}

void c2s_home_end(struct c2s_home *h)
{
    static const char end_tag[] = "</stream:stream>";
    if (h->sm && h->conn) /* XEP-0198 §4: before it closes the stream */
        sm_write_ack(h);
    home_close(h, end_tag, sizeof end_tag - 1);
}

void c2s_home_parse_error(struct c2s_home *h, enum xml_error error)
{
    home_fail(h, c2s_xml_error_condition(error), NULL);
}

void c2s_home_drained(struct c2s_home *h)
{
    if (h->state != HOME_BOUND || h->conn->ops->queued(h->conn) > LOW_BYTES)
        return;
    if (!sm_is_full(h))
        message_session_drained(&h->session);
    session_resume(&h->session, PAUSE_OUTPUT);
}

void c2s_home_closed(struct c2s_home *h)
{
    if (h->conn) {
        uint64_t written;
        output(&h->session, &written, &h->n_sent_at_end);
    }
    if (!sm_may_detach(h)) {
        if (h->sm && h->session.shard->stopping)
            h->sm->keep_row = true;
        end(h);
        return;
    }
    h->n_sent_at_end = h->n_written;
    h->conn = NULL;
    sm_detach(h);
}

/* ---- established ---- */

static void handle_message(struct c2s_home *h, struct envelope *e)
{
    if (!*e->to) { /* RFC 6121 §8.1.1.1: to oneself */
        struct envelope *c = envelope_copy(e, h->session.user->jid);
        envelope_free(e);
        e = c;
    }
    message_send(&h->session, e);
}

/* RFC 6121 §4.7.2.3; below -128: it is not one integer from -128 to 127. */
static int read_priority(const struct xml *root, struct arena *arena)
{
    const struct xml *x = xml_child(root, "priority", NS_CLIENT);
    if (!x)
        return 0;
    char *end_of;
    const char *text = xml_text(x, arena);
    long v = strtol(text, &end_of, 10);
    end_of += strspn(end_of, " \t\r\n");
    bool bad = end_of == text || *end_of || v < -128 || v > 127 || xml_first_element(x) ||
               xml_next(x, "priority", NS_CLIENT);
    return bad ? -1000 : (int)v;
}

static void own_presence(struct c2s_home *h, struct envelope *e, const struct xml *root, int priority)
{
    struct session *s = &h->session;
    bool was = session_is_available(s);
    struct envelope *ended = e->type == PRESENCE_UNAVAILABLE ? envelope_copy(e, NULL) : NULL;
    presence_update(s, e, priority);
    if (session_is_open(s))
        hooks_run_presence(h, ended ? ended : s->presence, root, was);
    envelope_free(ended);
}

void home_own_presence(struct c2s_home *h, struct envelope *e, const struct xml *root, struct arena *arena)
{
    int priority = read_priority(root, arena);
    own_presence(h, e, root, priority >= -128 ? priority : 0);
}

static void handle_presence(struct c2s_home *h, struct envelope *e, const struct xml *root,
                            struct arena *arena)
{
    struct session *s = &h->session;
    bool directed = *e->to;
    int priority;
    switch ((enum stanza_type)e->type) {
    case PRESENCE_AVAILABLE:
    case PRESENCE_UNAVAILABLE:
        if (directed) {
            presence_directed(s, e);
            return;
        }
        priority = read_priority(root, arena);
        if (priority >= -128) {
            own_presence(h, e, root, priority);
            return;
        }
        break;
    case PRESENCE_SUBSCRIBE:
    case PRESENCE_SUBSCRIBED:
    case PRESENCE_UNSUBSCRIBE:
    case PRESENCE_UNSUBSCRIBED:
        if (directed && !jid_same_bare(e->to, s->user->jid)) {
            presence_subscription(s, e);
            return;
        }
        break;
    default: /* probe, error: never a reason for an error (RFC 6121 §4.3) */
        if (directed)
            router_send(s->shard, e, s);
        else
            envelope_free(e);
        return;
    }
    home_refuse(h, root, STANZA_BAD_REQUEST, NULL);
    envelope_free(e);
}

static bool is_for_server(struct c2s_home *h, const struct envelope *e)
{
    if (!*e->to)
        return true;
    /* Bare JIDs are answered here on behalf of the user (RFC 6121 §8.5.2.1.3): the store is the same
     * everywhere. */
    return !*jid_resource(e->to) &&
           shard_is_local_domain(h->session.shard, strchr(e->to, '@') ? strchr(e->to, '@') + 1 : e->to);
}

static void handle(struct c2s_home *h, struct xml_stanza *stanza)
{
    struct envelope *e = home_read_stanza(h, stanza);
    if (!e)
        return;
    uint64_t hooks = h->hooks.from_client[e->kind];
    if (hooks && hooks_run_from_client(h, hooks, e, stanza) == HOOK_HANDLED)
        return;
    switch (e->kind) {
    case STANZA_MESSAGE:
        handle_message(h, e);
        break;
    case STANZA_PRESENCE:
        handle_presence(h, e, stanza->root, stanza->arena);
        break;
    default:
        if (is_for_server(h, e))
            home_iq(h, e, stanza->root, stanza->arena);
        else
            router_send(h->session.shard, e, &h->session);
        break;
    }
}

/* What is no stanza but known to a feature (XEP-0198, XEP-0352). */
static bool handle_element(struct c2s_home *h, struct xml_stanza *stanza)
{
    const struct xml *root = stanza->root;
    if (strcmp(root->ns, NS_CLIENT) == 0)
        return false;
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++) {
        for (const struct xmpp_element_handler *x = (*f)->elements; x && x->ns; x++) {
            if (!xml_is(root, x->name, x->ns) || !(h->state == HOME_BOUND ? x->bound : x->unbound))
                continue;
            x->handle(h, stanza);
            return true;
        }
    }
    return false;
}

/* Answers are made as fast as they are read: a small request may have a large one. */
static void slow_down(struct c2s_home *h)
{
    if (h->conn && session_is_open(&h->session) && h->conn->ops->queued(h->conn) > READ_MAX_BYTES)
        session_pause(&h->session, PAUSE_OUTPUT);
}

void c2s_home_stanza(struct c2s_home *h, struct xml_stanza *stanza)
{
    struct shard *s = h->conn->shard;
    h->heard_ms = loop_now_ms(s->loop);
    h->pinged = false;
    metrics_add(im_metrics(s->im), METRIC_XMPP_STANZAS_IN, 1);
    enum shard_lease lease = shard_check_lease(s);
    if (!h->conn) /* closed for want of the lease */
        return;
    if (handle_element(h, stanza)) {
        /* no stanza */
    } else if (h->sm && !sm_count(&h->session)) {
        /* it came before the stream was resumed, and was not counted for the client then */
    } else if (h->state == HOME_UNBOUND) {
        home_bind(h, stanza);
    } else if (h->state == HOME_BOUND && lease == LEASE_REFUSE) {
        home_refuse(h, stanza->root, STANZA_RESOURCE_CONSTRAINT,
                    "this node cannot reach the cluster's majority");
    } else if (h->state == HOME_BOUND) {
        handle(h, stanza);
        slow_down(h);
    }
}
