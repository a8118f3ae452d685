/* The move of a stream from one loop to another. */
#include "base/stream_impl.h"
#include <assert.h>

struct move {
    struct letter letter;
    struct stream *stream;
    struct loop *to;
    void (*arrived)(void *user);
};

static void on_arrive(struct letter *letter)
{
    struct move *m = container_of(letter, struct move, letter);
    struct stream *s = m->stream;
    void (*arrived)(void *user) = m->arrived;
    s->loop = m->to;
    s->hub = stream_hub_of(s->loop);
    s->timer.loop = s->loop;
    mem_free(m);
    list_append(&s->hub->all, &s->link);
    s->moving = s->held = s->blocked = false;
    if (s->fd >= 0 && stream_attach(s, s->fd) != ERR_OK)
        stream_fail(s, ERR_IO, "the socket cannot be polled");
    if (s->state == STREAM_CLOSING || s->state == STREAM_LINGER)
        timer_start(&s->timer, STREAM_CLOSE_MS, 0);
    arrived(s->user);
    /* If arrived() has moved it on or closed it, that waits for the end of the turn like any other time. */
    if (s->todo)
        stream_todo(s, 0);
    if (s->state == STREAM_CLOSED)
        return;
    stream_tunnel_arrived(s);
    stream_todo(s, TODO_PUMP);
    stream_mark_dirty(s);
    stream_update_poll(s);
}

static void on_lost(struct letter *letter)
{
    struct move *m = container_of(letter, struct move, letter);
    struct stream *s = m->stream;
    s->loop = m->to; /* which is being freed: told now, not later */
    mem_free(m);
    stream_abort(s);
    loop_cancel_deferred(&s->deferred);
    stream_give_close(s);
}

void stream_depart(struct stream *s)
{
    struct move *m = s->move;
    s->move = NULL;
    s->todo &= TODO_CLOSE; /* of a stream that is closed already: told over there */
    timer_stop(&s->timer);
    stream_detach(s);
    list_remove(&s->dirty);
    list_remove(&s->link);
    s->hub = NULL;
    s->loop = NULL;
    stream_tunnel_depart(s, m->to);
    loop_post(m->to, &m->letter);
}

void stream_move(struct stream *s, struct loop *to, void (*arrived)(void *user))
{
    assert(loop_is_current(s->loop));
    assert(!s->moving && s->state != STREAM_RESOLVING && s->state != STREAM_CONNECTING &&
           s->state != STREAM_HANDSHAKE);
    struct move *m = mem_new(struct move);
    m->letter.deliver = on_arrive;
    m->letter.discard = on_lost;
    m->stream = s;
    m->to = to;
    m->arrived = arrived;
    s->move = m;
    s->moving = true;
    stream_update_poll(s);
    stream_todo(s, TODO_MOVE);
}
