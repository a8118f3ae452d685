/* Notes between the two ends of a tunnel. A note for the near end goes to the loop where the far end believes
 * it to be, and is passed on from there when the stream has moved; so that none overtakes another, the far
 * end writes to the new loop only after a last note by the old way has arrived (FENCE). */
#include "base/tunnel.h"
#include "base/stream_impl.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum {
    CREDIT_STEP = TUNNEL_WINDOW / 4, /* input that the owner took, told in such steps */
};
enum note_kind {
    /* to the near end */
    NOTE_OPEN,
    NOTE_DATA,
    NOTE_CREDIT,
    NOTE_END,
    NOTE_FENCE,
    /* to the far end: DATA, CREDIT and */
    NOTE_CLOSED,
    NOTE_ABORTED,
    NOTE_MOVED,
    NOTE_FENCED,
};

struct note {
    struct letter letter;
    struct tunnel *tunnel; /* a reference */
    struct loop *at;       /* whose mailbox it lies in */
    enum note_kind kind;
    bool to_far;
    size_t n;
    char data[];
};

struct tunnel {
    _Atomic unsigned refs; /* each end, each note */
    struct loop *far_loop;
    struct tunnel_facts facts;

    /* near: on the loop of the stream */
    _Atomic(struct loop *) near_loop; /* written by the loop that the stream leaves */
    struct stream *stream;            /* NULL: not accepted, or closed */
    void (*arrive)(void *arg, struct tunnel *t);
    void *arg;
    size_t n_unacked;        /* sent and not taken */
    size_t n_in, n_credited; /* received; told the far end as taken */
    bool accepted, far_gone, end_told, closed_told;

    /* far */
    const struct tunnel_events *events; /* NULL: ended */
    void *user;
    struct loop *to;                        /* where notes for the near end are sent */
    struct loop *next_to;                   /* behind the fence; NULL: none */
    struct letter *hold_first, **hold_last; /* notes that wait for the fence */
    size_t n_out;                           /* written and not credited */
    bool was_full, near_closed;
};

static void unref(struct tunnel *t)
{
    if (atomic_fetch_sub(&t->refs, 1) == 1)
        mem_free(t);
}

static void free_note(struct note *m)
{
    unref(m->tunnel);
    mem_free(m);
}

static void on_note(struct letter *letter);

/* What waited for a fence that will not come. */
static void drop_held(struct tunnel *t)
{
    struct letter *next = t->next_to ? t->hold_first : NULL;
    t->next_to = NULL;
    while (next) {
        struct note *m = container_of(next, struct note, letter);
        next = next->next;
        free_note(m);
    }
}

/* A loop has ended: no thread is left on it. */
static void discard(struct letter *letter)
{
    struct note *m = container_of(letter, struct note, letter);
    if (m->kind == NOTE_FENCE || m->kind == NOTE_FENCED)
        drop_held(m->tunnel);
    if (m->kind == NOTE_OPEN)
        unref(m->tunnel); /* that of the stream which is not made any more */
    free_note(m);
}

static struct note *make_note(struct tunnel *t, enum note_kind kind, size_t n_room)
{
    struct note *m = mem_alloc(sizeof(*m) + n_room);
    m->letter = (struct letter){.deliver = on_note, .discard = discard};
    m->tunnel = t;
    m->kind = kind;
    m->to_far = false;
    m->n = n_room;
    atomic_fetch_add(&t->refs, 1);
    return m;
}

static void post(struct note *m, struct loop *to)
{
    m->at = to;
    loop_post(to, &m->letter);
}

static void tell_far(struct tunnel *t, enum note_kind kind, size_t n)
{
    struct note *m = make_note(t, kind, 0);
    m->n = n;
    m->to_far = true;
    post(m, t->far_loop);
}

/* ---- near end ---- */

static void credit_far(struct tunnel *t)
{
    size_t taken = t->n_in - (t->stream ? t->stream->back.n : 0);
    if (taken - t->n_credited < CREDIT_STEP)
        return;
    tell_far(t, NOTE_CREDIT, taken - t->n_credited);
    t->n_credited = taken;
}

static void end_input(struct stream *s)
{
    struct tunnel *t = s->tunnel;
    if (!t || !t->far_gone || t->end_told || s->back.n || !stream_can_read(s))
        return;
    t->end_told = true;
    stream_on_end(s, "closed by the peer");
}

void stream_tunnel_pumped(struct stream *s)
{
    if (s->tunnel)
        credit_far(s->tunnel);
    end_input(s);
}

static void take_data(struct tunnel *t, struct note *m)
{
    struct stream *s = t->stream;
    if (s->state != STREAM_OPEN)
        return;
    t->n_in += m->n;
    metrics_add(s->metrics, METRIC_STREAM_BYTES_IN, (int64_t)m->n);
    if (stream_can_read(s) && !s->back.n)
        stream_give_data(s, (const uint8_t *)m->data, m->n);
    else
        buf_add(&s->back, m->data, m->n);
    /* on_data may have ended the stream, which is freed later in the turn */
    if (s->tunnel)
        credit_far(t);
}

static void take_credit(struct tunnel *t, size_t n)
{
    struct stream *s = t->stream;
    t->n_unacked -= n < t->n_unacked ? n : t->n_unacked;
    s->blocked = false;
    stream_mark_dirty(s);
    if (s->events && s->events->on_sent)
        s->events->on_sent(s->user);
}

static void on_near(struct tunnel *t, struct note *m)
{
    struct stream *s = t->stream;
    switch (m->kind) {
    case NOTE_OPEN:
        t->arrive(t->arg, t);
        if (!t->accepted) {
            tell_far(t, NOTE_ABORTED, 0);
            t->closed_told = true;
            unref(t);
        }
        return;
    case NOTE_FENCE:
        tell_far(t, NOTE_FENCED, 0);
        return;
    case NOTE_DATA:
        if (s)
            take_data(t, m);
        return;
    case NOTE_CREDIT:
        if (s)
            take_credit(t, m->n);
        return;
    case NOTE_END:
        t->far_gone = true;
        if (!s)
            return;
        if (s->state == STREAM_CLOSING)
            stream_fail(s, s->code, "%s", s->detail ? s->detail : "");
        else
            end_input(s);
        return;
    default:
        return;
    }
}

struct stream *tunnel_accept(struct tunnel *t, const struct stream_events *events, void *user)
{
    struct loop *l = atomic_load(&t->near_loop);
    struct stream *s = stream_make(l, events, user);
    s->tunnel = t;
    s->encrypted = t->facts.tls;
    snprintf(s->address, sizeof(s->address), "%s", t->facts.address);
    s->peer_port = (uint16_t)t->facts.port;
    t->stream = s;
    t->accepted = true;
    return s;
}

int stream_tunnel_kind(const struct stream *s)
{
    return s->tunnel ? s->tunnel->facts.kind : 0;
}

const struct tunnel_facts *tunnel_facts(const struct tunnel *t)
{
    return &t->facts;
}

const struct tunnel_binding *tunnel_binding(const struct tunnel *t, enum tls_binding type)
{
    return &t->facts.bindings[type];
}

static void send_some(struct stream *s)
{
    struct tunnel *t = s->tunnel;
    size_t room = TUNNEL_WINDOW > t->n_unacked ? TUNNEL_WINDOW - t->n_unacked : 0;
    size_t n = s->wire.n_bytes < room ? s->wire.n_bytes : room;
    if (!n)
        return;
    struct note *m = make_note(t, NOTE_DATA, n);
    size_t at = 0;
    for (const struct chunk *c = s->wire.first; c && at < n; c = c->next) {
        size_t part = c->n < n - at ? c->n : n - at;
        memcpy(m->data + at, out_bytes(c), part);
        at += part;
    }
    out_drop(s->hub, &s->wire, n);
    t->n_unacked += n;
    metrics_add(s->metrics, METRIC_STREAM_BYTES_OUT, (int64_t)n);
    m->to_far = true;
    post(m, t->far_loop);
}

void stream_tunnel_flush(struct stream *s)
{
    struct tunnel *t = s->tunnel;
    if (!t || s->state == STREAM_CLOSED)
        return;
    if (!t->far_gone)
        send_some(s);
    s->blocked =
        s->wire.n_bytes > 0 && !t->far_gone; /* nobody gives credit any more: an end must come through */
    if (s->above_high && stream_queued(s) <= s->low) {
        s->above_high = false;
        stream_todo(s, TODO_DRAIN);
    }
    if (s->state == STREAM_CLOSING && (!s->wire.n_bytes || t->far_gone)) {
        if (!t->closed_told)
            tell_far(t, NOTE_CLOSED, 0);
        t->closed_told = true;
        stream_fail(s, s->code, "%s", s->detail ? s->detail : "");
    }
}

size_t stream_tunnel_unacked(const struct stream *s)
{
    return s->tunnel ? s->tunnel->n_unacked : 0;
}

/* The stream is closed: its last bytes, if any, have been sent. */
void stream_tunnel_detach(struct stream *s)
{
    struct tunnel *t = s->tunnel;
    if (!t)
        return;
    if (!t->closed_told)
        tell_far(t, NOTE_ABORTED, 0);
    t->closed_told = true;
    t->stream = NULL;
    s->tunnel = NULL;
    unref(t);
}

void stream_tunnel_depart(struct stream *s, struct loop *to)
{
    if (s->tunnel)
        atomic_store(&s->tunnel->near_loop, to);
}

void stream_tunnel_arrived(struct stream *s)
{
    if (s->tunnel)
        tell_far(s->tunnel, NOTE_MOVED, 0);
}

/* ---- far end ---- */

static void tell_near(struct tunnel *t, struct note *m)
{
    if (t->next_to) {
        m->letter.next = NULL;
        *t->hold_last = &m->letter;
        t->hold_last = &m->letter.next;
    } else {
        post(m, t->to);
    }
}

static void note_near(struct tunnel *t, enum note_kind kind, size_t n)
{
    struct note *m = make_note(t, kind, 0);
    m->n = n;
    tell_near(t, m);
}

static void on_moved(struct tunnel *t)
{
    struct loop *to = atomic_load(&t->near_loop);
    if (to == t->to)
        return;
    note_near(t, NOTE_FENCE, 0);
    t->next_to = to;
    t->hold_first = NULL;
    t->hold_last = &t->hold_first;
}

static void on_fenced(struct tunnel *t)
{
    if (!t->next_to)
        return;
    struct letter *next = t->hold_first;
    t->to = t->next_to;
    t->next_to = NULL;
    while (next) {
        struct note *m = container_of(next, struct note, letter);
        next = next->next;
        post(m, t->to);
    }
}

static void on_far(struct tunnel *t, struct note *m)
{
    bool gone = !t->events;
    switch (m->kind) {
    case NOTE_MOVED:
        on_moved(t);
        return;
    case NOTE_FENCED:
        on_fenced(t);
        return;
    case NOTE_DATA:
        if (!gone)
            t->events->on_data(t->user, m->data, m->n);
        return;
    case NOTE_CREDIT:
        t->n_out -= m->n < t->n_out ? m->n : t->n_out;
        if (gone || !t->was_full || !tunnel_room(t))
            return;
        t->was_full = false;
        t->events->on_room(t->user);
        return;
    case NOTE_CLOSED:
    case NOTE_ABORTED:
        t->near_closed = true;
        if (!gone)
            t->events->on_close(t->user, m->kind == NOTE_CLOSED);
        return;
    default:
        return;
    }
}

static void on_note(struct letter *letter)
{
    struct note *m = container_of(letter, struct note, letter);
    struct tunnel *t = m->tunnel;
    if (m->to_far) {
        on_far(t, m);
    } else {
        struct loop *near = atomic_load(&t->near_loop);
        if (near != m->at) {
            post(m, near);
            return;
        }
        on_near(t, m);
    }
    free_note(m);
}

struct tunnel *tunnel_open(struct loop *far_loop, struct loop *near_loop, const struct tunnel_facts *facts,
                           const struct tunnel_events *events, void *user,
                           void (*arrive)(void *arg, struct tunnel *t), void *arg)
{
    struct tunnel *t = mem_new(struct tunnel);
    atomic_init(&t->refs, 2);
    atomic_init(&t->near_loop, near_loop);
    t->far_loop = far_loop;
    t->to = near_loop;
    t->facts = *facts;
    t->events = events;
    t->user = user;
    t->arrive = arrive;
    t->arg = arg;
    note_near(t, NOTE_OPEN, 0);
    return t;
}

void tunnel_write(struct tunnel *t, const void *data, size_t n_bytes)
{
    if (t->near_closed || !n_bytes)
        return;
    struct note *m = make_note(t, NOTE_DATA, n_bytes);
    memcpy(m->data, data, n_bytes);
    t->n_out += n_bytes;
    if (!tunnel_room(t))
        t->was_full = true;
    tell_near(t, m);
}

size_t tunnel_room(const struct tunnel *t)
{
    return t->n_out < TUNNEL_WINDOW ? TUNNEL_WINDOW - t->n_out : 0;
}

void tunnel_taken(struct tunnel *t, size_t n_bytes)
{
    if (!t->near_closed && n_bytes)
        note_near(t, NOTE_CREDIT, n_bytes);
}

void tunnel_end(struct tunnel *t)
{
    t->events = NULL;
    if (!t->near_closed)
        note_near(t, NOTE_END, 0);
    unref(t);
}
