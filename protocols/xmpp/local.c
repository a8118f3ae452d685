/* A client stream whose edge and home are the same node: moved to the user's shard, then read and written
 * there. */
#include "im/message.h"
#include "protocols/xmpp/shard.h"
#include <string.h>

enum { PARK_MS = 1000, LOW_WATER = 32 << 10, HIGH_WATER = 64 << 10 };

struct c2s_local {
    struct c2s_conn conn;
    struct list link; /* in xs->active while the parser holds memory */
    struct stream *stream;
    struct xml_stream *parser;
    struct c2s_login *login; /* until the home has it */
    struct shard *target;
    struct deferred later;
    uint64_t heard_ms, active_ms; /* active_ms: since when it is in the list, or was looked at there */
    bool arrived, paused, peer_ended;
};

static void run_later(struct c2s_local *l)
{
    if (list_is_empty(&l->later.link))
        loop_defer(l->conn.shard->loop, &l->later);
}

/* ---- the connection's operations ---- */

static struct c2s_local *local_of(const struct c2s_conn *c)
{
    return container_of((struct c2s_conn *)c, struct c2s_local, conn);
}

static void conn_write(struct c2s_conn *c, const void *data, size_t n_bytes)
{
    stream_write(local_of(c)->stream, data, n_bytes);
}

static void conn_write_blob(struct c2s_conn *c, struct blob *b, size_t from)
{
    stream_write_blob(local_of(c)->stream, b, from);
}

static size_t conn_queued(const struct c2s_conn *c)
{
    return stream_queued(local_of(c)->stream);
}

static void conn_pause(struct c2s_conn *c)
{
    struct c2s_local *l = local_of(c);
    if (l->paused)
        return;
    l->paused = true;
    xml_stream_pause(l->parser);
    stream_pause(l->stream);
}

static void conn_resume(struct c2s_conn *c)
{
    struct c2s_local *l = local_of(c);
    l->paused = false;
    run_later(l);
}

static void conn_close(struct c2s_conn *c, const void *final, size_t n_bytes)
{
    struct c2s_local *l = local_of(c);
    l->conn.home = NULL;
    xml_stream_stop(l->parser);
    stream_resume(l->stream); /* to see the client's end; what it says is dropped */
    stream_write(l->stream, final, n_bytes);
    stream_close(l->stream);
}

static void conn_abort(struct c2s_conn *c)
{
    struct c2s_local *l = local_of(c);
    l->conn.home = NULL;
    xml_stream_stop(l->parser);
    stream_abort(l->stream);
}

static const struct c2s_conn_ops conn_ops = {
    .write = conn_write,
    .write_blob = conn_write_blob,
    .queued = conn_queued,
    .pause = conn_pause,
    .resume = conn_resume,
    .close = conn_close,
    .abort = conn_abort,
};

/* ---- the stream ---- */

/* During log-in only the stream header needs the parser, which is several times what the session keeps: one that
 * lived on for a second would lie among what many sessions keep, and pin its pages. */
static void park_during_login(struct c2s_local *l)
{
    if (l->conn.home && l->conn.home->state != HOME_BOUND)
        xml_stream_park(l->parser);
}

static void set_active(struct c2s_local *l)
{
    l->active_ms = loop_now_ms(l->conn.shard->loop);
    list_append(&l->conn.shard->xmpp->active, &l->link);
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct c2s_local *l = user;
    if (!l->arrived) {
        xml_stream_feed(l->parser, data, n_bytes); /* paused: it keeps the bytes */
        return;
    }
    if (!l->conn.home)
        return;
    l->heard_ms = loop_now_ms(l->conn.shard->loop);
    l->conn.home->heard_ms = l->heard_ms;
    c2s_conn_check(&l->conn, xml_stream_feed(l->parser, data, n_bytes));
    park_during_login(l);
    if (!xml_stream_is_parked(l->parser) && list_is_empty(&l->link))
        set_active(l);
}

static void on_drain(void *user)
{
    struct c2s_local *l = user;
    if (l->conn.home)
        c2s_home_drained(l->conn.home);
}

static void free_local(struct c2s_local *l)
{
    loop_cancel_deferred(&l->later);
    list_remove(&l->link);
    l->conn.shard->n_busy--;
    xml_stream_free(l->parser);
    c2s_login_free(l->login);
    mem_free(l);
}

static void on_close(void *user, int code, const char *detail)
{
    struct c2s_local *l = user;
    (void)detail;
    (void)code;
    if (l->conn.home)
        c2s_home_closed(l->conn.home);
    l->conn.home = NULL;
    free_local(l);
}

/* The client has sent all it will. What waits in the paused parser is handled first. */
static void finish(struct c2s_local *l)
{
    if (!l->peer_ended || l->paused || !l->arrived)
        return;
    if (l->conn.home)
        c2s_home_closed(l->conn.home);
    l->conn.home = NULL;
    stream_close(l->stream);
}

static void on_end_of_input(void *user)
{
    struct c2s_local *l = user;
    l->peer_ended = true;
    finish(l);
}

/* Behind a tunnel the queue becomes shorter when the client's connection has taken something, not at the end
 * of a turn here. */
static void on_sent(void *user)
{
    struct c2s_local *l = user;
    if (l->arrived)
        message_output_moved(l->conn.shard);
}

static const struct stream_events stream_events = {.on_data = on_data,
                                                   .on_drain = on_drain,
                                                   .on_end = on_end_of_input,
                                                   .on_close = on_close,
                                                   .on_sent = on_sent};

/* On the target's loop. */
static void on_arrived(void *user)
{
    struct c2s_local *l = user;
    struct shard *s = l->target;
    l->conn.shard = s;
    l->arrived = true;
    s->n_busy++;
    l->heard_ms = loop_now_ms(s->loop);
    set_active(l);
    xml_stream_set_scratch(l->parser, &s->xmpp->scratch);
    struct xml_limits limits = xml_limits_default;
    limits.stanza_bytes = s->settings.stanza_bytes;
    xml_stream_set_limits(l->parser, &limits);
    stream_set_water(l->stream, LOW_WATER, HIGH_WATER);
    struct c2s_login *login = l->login;
    l->login = NULL;
    c2s_home_new(&l->conn, login);
    if (s->stopping) {
        home_fail(l->conn.home, "system-shutdown", NULL);
        return;
    }
    c2s_home_start(l->conn.home);
    if (!l->conn.home || l->paused)
        return;
    stream_resume(l->stream);
    c2s_conn_check(&l->conn, xml_stream_resume(l->parser));
    park_during_login(l);
    finish(l);
}

static void on_later(struct deferred *d)
{
    struct c2s_local *l = container_of(d, struct c2s_local, later);
    if (!l->arrived) {
        l->conn.shard->n_busy--;
        if (l->target == l->conn.shard)
            on_arrived(l);
        else
            stream_move(l->stream, l->target->loop, on_arrived);
    } else if (l->conn.home && !l->paused) {
        stream_resume(l->stream);
        c2s_conn_check(&l->conn, xml_stream_resume(l->parser));
        finish(l);
    }
}

void c2s_local_open(struct shard *at, struct shard *target, struct stream *stream, struct xml_stream *parser,
                    struct c2s_login *login)
{
    struct c2s_local *l = mem_new(struct c2s_local);
    l->conn.ops = &conn_ops;
    l->conn.shard = at;
    l->target = target;
    l->stream = stream;
    l->parser = parser;
    l->conn.parser = parser;
    l->login = login;
    list_init(&l->link);
    list_init(&l->later.link);
    l->later.fn = on_later;
    at->n_busy++;
    /* The parser may be in the middle of its event: it goes to another thread only when that has returned. */
    xml_stream_set_events(parser, &c2s_conn_xml_events, &l->conn);
    xml_stream_pause(parser);
    stream_set_handler(stream, &stream_events, l);
    stream_pause(stream);
    run_later(l);
}

void c2s_local_park(struct xmpp_shard *xs)
{
    uint64_t now = loop_now_ms(xs->shard->loop);
    struct c2s_local *l;
    list_for_each(l, &xs->active, struct c2s_local, link)
    {
        if (now - l->active_ms < PARK_MS)
            return;
        list_remove(&l->link);
        if (now - l->heard_ms < PARK_MS || !xml_stream_park(l->parser)) /* in the middle of a stanza */
            set_active(l);
    }
}
