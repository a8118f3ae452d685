/* The home as the session that im/ sees: what is delivered to it goes to the client. */
#include "im/message.h"
#include "im/roster.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/home.h"
#include "protocols/xmpp/sm.h"
#include <stdio.h>
#include <string.h>

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
    if (h->conn && !h->overflow && h->conn->ops->queued(h->conn) > s->shard->settings.output_bytes)
        home_overflow(h);
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
        sm_moves_on(h);
    if (!h->conn) {
        home_end(h);
        return;
    }
    /* Who does not read, or comes back on a new connection, has perhaps not got what was written last. */
    if (reason == SESSION_CONFLICT || reason == SESSION_OVERLOAD)
        home_fail_dead(h, ends[reason].condition, ends[reason].text);
    else
        home_fail(h, ends[reason].condition, ends[reason].text);
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
