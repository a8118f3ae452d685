#include "protocols/xmpp/home.h"
#include "base/clock.h"
#include "im/message.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/shard.h"
#include "protocols/xmpp/sm.h"
#include <string.h>

enum { LOW_BYTES = 64 << 10 };

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
void home_end(struct c2s_home *h)
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
    home_end(h);
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

void home_fail_dead(struct c2s_home *h, const char *condition, const char *text)
{
    fail(h, condition, text, true);
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
        c2s_session_ops.output(&h->session, &written, &h->n_sent_at_end);
    }
    if (!sm_may_detach(h)) {
        if (h->sm && h->session.shard->stopping)
            sm_moves_on(h);
        home_end(h);
        return;
    }
    h->n_sent_at_end = h->n_written;
    h->conn = NULL;
    sm_detach(h);
}
