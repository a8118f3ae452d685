#include "im/sm_session.h"
#include "im/im_impl.h"
#include "im/marks.h"
#include "im/repeats.h"
#include "im/router.h"
#include "im/store_out.h"
#include "im/user.h"
#include <string.h>

enum { AGAIN_MS = 15000 /* without an answer; what is held anywhere comes back as an error before that */ };

struct unsettled {
    struct list link;
    uint64_t n_in, sent_ms;
    struct envelope *copy; /* NULL: a proposal of this node is in flight */
    uint32_t node;         /* where it went; 0: it has not been sent yet */
    uint64_t epoch;        /* that node's epoch then, */
    uint64_t since;        /* and the log index from which on it was the home */
    uint64_t route_index;  /* the shard's when it was sent */
    uint64_t out_end;      /* place of the last byte of the error; 0: it was not refused */
    bool queued;           /* it has not left this node, and will go on by itself */
    bool parked;           /* it has not left, and its way is not the one that those before it took */
};

static uint64_t epoch_of(const struct shard *s, uint32_t node)
{
    const struct member *m = members_find(s->members, node);
    return m ? m->epoch : 0;
}

struct session_sm *sm_begin(struct session *s)
{
    struct session_sm *sm = mem_new(struct session_sm);
    uint64_t sent;
    s->ops->output(s, &sm->base, &sent);
    sm->session = s;
    list_init(&sm->link);
    list_init(&sm->marks);
    list_init(&sm->waiting);
    s->sm = sm;
    return sm;
}

static void drop(struct session_sm *sm, struct unsettled *w)
{
    list_remove(&w->link);
    sm->n_parked -= w->parked;
    if (w->out_end)
        sm->n_refused--;
    else
        sm->n_waiting--;
    envelope_free(w->copy);
    mem_free(w);
}

void sm_free(struct session *s)
{
    struct session_sm *sm = s->sm;
    if (!sm)
        return;
    for (struct list *item; (item = list_first(&sm->waiting));)
        drop(sm, list_entry(item, struct unsettled, link));
    list_remove(&sm->link);
    marks_forget(sm);
    s->sm = NULL;
    mem_free(sm);
}

/* ---- from the client ---- */

bool sm_count(struct session *s)
{
    struct session_sm *sm = s->sm;
    if (++sm->n_in <= sm->n_seen)
        return false;
    sm->n_seen = sm->n_in;
    return true;
}

const Imp__SessionRow *sm_read_row(const struct session *s, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, s->user->uid);
    key_u64(&k, s->sm->row);
    key_u32(&k, s->sm->row_place);
    return s->sm->row ? store_find_row(shard_txn(s->shard), TABLE_SESSION, &k, a) : NULL;
}

bool sm_has_stored(const struct session *s, uint64_t n_in)
{
    const struct session_sm *sm = s->sm;
    struct arena a;
    if (!sm || n_in > sm->n_before)
        return false;
    arena_init(&a);
    const Imp__SessionRow *row = sm_read_row(s, &a);
    bool found = row && n_in <= row->n_in;
    for (size_t i = 0; row && i < row->n_above && !found; i++)
        found = row->above[i] == n_in;
    arena_fini(&a);
    return found;
}

bool sm_is_stored(const struct session *s)
{
    return s->sm && sm_has_stored(s, s->sm->n_in);
}

uint64_t sm_roll_back(struct session *s)
{
    return s->sm->n_in = sm_n_counted(s);
}

/* A client that acknowledges errors late is told of its stanzas all the same: the row takes so many beyond
 * its count. */
static void forget_refused(struct session_sm *sm)
{
    for (struct list *item; sm->n_refused && (item = list_first(&sm->waiting));) {
        struct unsettled *w = list_entry(item, struct unsettled, link);
        if (!w->out_end || sm->n_in - w->n_in < SM_WINDOW)
            return;
        drop(sm, w);
    }
}

static struct unsettled *add(struct session *s)
{
    struct session_sm *sm = s->sm;
    struct unsettled *w = mem_new(struct unsettled);
    w->n_in = sm->n_in;
    w->sent_ms = loop_now_ms(s->shard->loop);
    forget_refused(sm);
    list_append(&sm->waiting, &w->link);
    if (list_is_empty(&sm->link))
        list_append(&s->shard->sm_waiting, &sm->link);
    if (++sm->n_waiting >= SM_WINDOW)
        session_pause(s, PAUSE_SETTLE);
    return w;
}

void sm_watch(struct session *s, struct envelope *e, bool storing)
{
    struct session_sm *sm = s->sm;
    struct unsettled *w = add(s);
    e->n_in = w->n_in;
    e->row = sm->row;
    e->row_place = sm->row_place;
    e->session = s->id;
    if (storing)
        return;
    e->flags |= ENVELOPE_COUNTED;
    w->copy = envelope_copy(e, NULL);
}

static struct unsettled *find(const struct session *s, uint64_t n_in)
{
    const struct list *all = &s->sm->waiting;
    for (struct list *at = all->prev; at != all; at = at->prev) {
        struct unsettled *w = list_entry(at, struct unsettled, link);
        if (w->n_in <= n_in)
            return w->n_in == n_in ? w : NULL;
    }
    return NULL;
}

static void note_home(struct shard *s, struct unsettled *w)
{
    shard_place_of(s, w->copy->to_uid, &w->node, &w->since);
    if (!w->node) /* nobody's; then it stays here */
        w->node = im_node_id(s->im);
    w->route_index = s->route_index;
    w->epoch = epoch_of(s, w->node);
}

/* Are there messages that left before homes changed, one of them to the same user, by a way that is not the
 * one of now? What passed it would come first; what was lost on it is sent again, by the new way. */
bool sm_must_wait(struct session *s, const struct envelope *e)
{
    struct session_sm *sm = s->sm;
    if (!sm || !(e->flags & ENVELOPE_COUNTED))
        return false;
    if (sm->route_index != s->shard->route_index) {
        sm->route_index = s->shard->route_index;
        sm->mixed = true;
    }
    if (!sm->mixed)
        return false;
    struct unsettled *w, now = {.copy = (struct envelope *)e};
    note_home(s->shard, &now);
    bool any = false;
    list_for_each(w, &sm->waiting, struct unsettled, link)
    {
        if (!w->copy || !w->node || w->n_in >= e->n_in || w->route_index == sm->route_index)
            continue;
        any = true;
        if (w->copy->to_uid == e->to_uid &&
            (w->node != now.node || w->since != now.since || w->epoch != now.epoch))
            return true;
    }
    sm->mixed = any;
    return false;
}

void sm_sent(struct session *s, const struct envelope *e)
{
    struct unsettled *w = s->sm ? find(s, e->n_in) : NULL;
    if (!w || !w->copy)
        return;
    w->copy->from_uid = e->from_uid;
    w->copy->to_uid = e->to_uid;
    w->copy->after_index = e->after_index;
    w->copy->order_index = e->order_index;
    w->copy->order = e->order;
    note_home(s->shard, w);
}

void sm_is_queued(struct shard *s, const struct envelope *e)
{
    struct session *session = e->from_node ? NULL : session_find(s, e->session);
    struct unsettled *w = session && session->sm ? find(session, e->n_in) : NULL;
    if (w)
        w->queued = true;
}

uint64_t sm_n_settled_with_state(const struct session *s)
{
    const struct session_sm *sm = s->sm;
    struct unsettled *first = NULL;
    if (!list_is_empty(&sm->waiting))
        first = list_entry(list_first(&sm->waiting), struct unsettled, link);
    /* Of what is no message only the last one can be under way: the session is not read meanwhile. */
    uint64_t n = sm->n_in - (s->n_in_flight && sm->n_in ? 1 : 0);
    return first && first->n_in <= n ? first->n_in - 1 : n;
}

uint64_t sm_n_settled(const struct session *s)
{
    uint64_t n = sm_n_settled_with_state(s), from = s->sm->state_from;
    return from && from <= n ? from - 1 : n;
}

uint64_t sm_n_counted(const struct session *s)
{
    uint64_t n = sm_n_settled(s);
    return s->sm->row && s->sm->n_covered < n ? s->sm->n_covered : n;
}

static void tell(struct session *s)
{
    if (s->ops->counted)
        s->ops->counted(s);
}

/* What waits behind what has arrived or was sent anew goes on. */
static void resume_sending(struct session *s);

/* Fewer are waited for. */
static void dropped(struct session *s)
{
    struct session_sm *sm = s->sm;
    if (list_is_empty(&sm->waiting))
        list_remove(&sm->link);
    /* Also for a client that does not ask: what its home knows to have arrived comes again after a kill. */
    if (sm->row && list_is_empty(&sm->marks) && !sm->marking && sm->n_covered < sm_n_settled(s))
        marks_of_session(s);
    tell(s);
    if (sm->n_waiting < SM_WINDOW)
        session_resume(s, PAUSE_SETTLE);
    resume_sending(s);
}

void sm_settled(struct session *s, uint64_t n_in)
{
    struct session_sm *sm = s->sm;
    struct unsettled *w;
    if (!sm)
        return;
    list_for_each(w, &sm->waiting, struct unsettled, link)
    {
        if (w->n_in > n_in)
            break;
        if (w->n_in == n_in) {
            if (!w->out_end)
                drop(sm, w);
            break;
        }
    }
    dropped(s);
}

bool sm_waits(const struct session *s, uint64_t n_in)
{
    struct unsettled *w = s->sm ? find(s, n_in) : NULL;
    return w && !w->out_end;
}

/* It does not count against the window: the session must be read to hear that its client has it. */
static void refuse(struct session *s, struct unsettled *w)
{
    struct session_sm *sm = s->sm;
    uint64_t sent;
    envelope_free(w->copy);
    w->copy = NULL;
    sm->n_parked -= w->parked;
    w->parked = false;
    s->ops->output(s, &w->out_end, &sent);
    sm->n_waiting--;
    sm->n_refused++;
    if (sm->n_waiting < SM_WINDOW)
        session_resume(s, PAUSE_SETTLE);
    resume_sending(s);
}

void sm_refused(struct session *s, uint64_t n_in)
{
    struct unsettled *w = find(s, n_in);
    if (w && !w->out_end)
        refuse(s, w);
}

void sm_refused_now(struct session *s)
{
    struct unsettled *w = s->sm ? find(s, s->sm->n_in) : NULL;
    if (s->sm && !(w && w->out_end))
        refuse(s, w ? w : add(s));
}

void sm_check_refused(struct session *s, uint64_t sent)
{
    struct session_sm *sm = s->sm;
    struct unsettled *w;
    if (!sm || !sm->n_refused)
        return;
    list_for_each(w, &sm->waiting, struct unsettled, link) if (w->out_end && w->out_end <= sent) drop(sm, w);
    dropped(s);
}

void sm_covered(struct session *s, uint64_t n_in)
{
    if (!s->sm || n_in <= s->sm->n_covered)
        return;
    s->sm->n_covered = n_in;
    tell(s);
}

bool sm_moves(const struct session *s)
{
    return s->sm && s->sm->row && s->sm->moves;
}

void sm_row_lost(struct session *s)
{
    s->sm->row = 0;
    s->sm->state_from = s->sm->state_next = 0;
    s->sm->state_changed = false;
    tell(s);
}

void sm_want_counted(struct session *s)
{
    if (s->sm->row && s->sm->n_covered < sm_n_settled_with_state(s))
        marks_hurry(s);
}

void sm_state_changed(struct session *s)
{
    if (!s->sm || !s->sm->row)
        return;
    struct session_sm *sm = s->sm;
    uint64_t *from = sm->marking_state ? &sm->state_next : &sm->state_from;
    /* What the row counts already was its own state: of a session that was just begun from it. */
    if (!*from && sm->n_in > sm->n_covered)
        *from = sm->n_in;
    sm->state_changed = true;
    marks_of_session(s);
}

void sm_state_marked(struct session *s, bool done)
{
    struct session_sm *sm = s->sm;
    if (!sm->marking_state)
        return;
    sm->marking_state = false;
    if (done)
        sm->state_from = sm->state_next;
    else
        sm->state_changed = true;
    sm->state_next = 0;
}

/* ---- to the client ---- */

void sm_acked(struct session *s, uint64_t n_out)
{
    if (n_out <= s->sm->n_acked)
        return;
    s->sm->n_acked = n_out;
    session_check_output(s);
}

/* ---- between homes ---- */

void sm_settle(struct shard *s, const struct envelope *e)
{
    if (!(e->flags & ENVELOPE_COUNTED) || !e->from_uid)
        return;
    uint64_t waits = repeats_settled(s, e);
    if (im_shard_of(s->im, e->from_uid) == s && !e->from_node && waits == e->session) {
        struct session *session = session_find(s, e->session);
        if (session)
            sm_settled(session, e->n_in);
        return;
    }
    struct envelope *t = envelope_new(&(struct envelope_parts){.type = MESSAGE_NORMAL, .to = e->from});
    t->flags = ENVELOPE_SETTLED | ENVELOPE_NO_BOUNCE;
    t->to_uid = e->from_uid;
    t->session = waits;
    t->n_in = e->n_in;
    router_pass(s, t);
}

bool sm_park(struct shard *s, const struct envelope *e)
{
    struct session *session =
        e->flags & ENVELOPE_COUNTED && !e->from_node ? session_find(s, e->session) : NULL;
    struct unsettled *w = session && session->sm ? find(session, e->n_in) : NULL;
    if (!w || !w->copy)
        return false;
    if (!sm_must_wait(session, e)) {
        note_home(s, w);
        return false;
    }
    session->sm->n_parked += !w->parked;
    w->parked = true;
    w->queued = false;
    return true;
}

/* In its old place among what the session sends: it keeps its numbers, and what waits here for a node is
 * behind it (RFC 6120 §10.1). */
static void again(struct session_sm *sm, struct unsettled *w, uint64_t now)
{
    struct shard *s = sm->session->shard;
    sm->n_parked -= w->parked;
    w->parked = false;
    w->sent_ms = now;
    note_home(s, w);
    struct envelope *e = envelope_copy(w->copy, NULL);
    e->order_index = w->copy->order_index; /* what is copied has no place of its own */
    e->order = w->copy->order;
    router_send_again(s, e);
}

/* Was it with a node whose epoch has ended? It may have gone on to one that was the home later on. */
static bool is_lost(struct shard *s, const struct unsettled *w)
{
    uint64_t since;
    if (w->epoch != epoch_of(s, w->node))
        return true;
    shard_place_of(s, w->copy->to_uid, NULL, &since);
    return since != w->since;
}

enum again_why { AGAIN_NODES, AGAIN_LINK, AGAIN_LATE };

/* What a session waits for may end while it is sent again: only those that it had. */
static void send_again(struct session *s, enum again_why why, uint32_t node)
{
    struct session_sm *sm = s->sm;
    uint64_t now = loop_now_ms(s->shard->loop), last = sm->n_seen, at = 0;
    for (;;) {
        struct unsettled *w, *next = NULL;
        list_for_each(w, &sm->waiting, struct unsettled, link)
        {
            if (w->n_in > at) {
                next = w;
                break;
            }
        }
        if (!next || next->n_in > last)
            return;
        at = next->n_in;
        bool due = why == AGAIN_LATE   ? now - next->sent_ms >= AGAIN_MS
                   : why == AGAIN_LINK ? next->node == node
                                       : next->copy && is_lost(s->shard, next);
        bool queued = next->queued;
        next->queued = false;
        if (!next->copy || !next->node || !due)
            continue;
        if (queued)
            note_home(s->shard, next);
        else
            again(sm, next, now);
    }
}

static struct unsettled *first_parked(struct session *s)
{
    struct unsettled *w;
    list_for_each(w, &s->sm->waiting, struct unsettled,
                  link) if (w->parked && !sm_must_wait(s, w->copy)) return w;
    return NULL;
}

static void resume_sending(struct session *s)
{
    struct shard *shard = s->shard;
    uint64_t id = s->id;
    for (struct unsettled *w; s && s->sm && s->sm->n_parked && (w = first_parked(s));
         s = session_find(shard, id))
        again(s->sm, w, loop_now_ms(shard->loop));
    if (s)
        store_out_resume(s);
}

static bool has_late(const struct session_sm *sm, uint64_t now)
{
    return !list_is_empty(&sm->waiting) &&
           now - list_entry(list_first(&sm->waiting), struct unsettled, link)->sent_ms >= AGAIN_MS;
}

static void for_each_waiting(struct shard *s, enum again_why why, uint32_t node)
{
    uint64_t now = loop_now_ms(s->loop);
    size_t n = 0, max = 0;
    struct session_sm *sm;
    list_for_each(sm, &s->sm_waiting, struct session_sm, link) max += why != AGAIN_LATE || has_late(sm, now);
    if (!max)
        return;
    router_tell_queued(s);
    uint64_t *ids = mem_alloc(max * sizeof *ids);
    list_for_each(sm, &s->sm_waiting, struct session_sm, link)
    {
        if (why != AGAIN_LATE || has_late(sm, now))
            ids[n++] = sm->session->id;
    }
    for (size_t i = 0; i < n; i++) {
        struct session *session = session_find(s, ids[i]);
        if (session && session->sm)
            send_again(session, why, node);
        session = session_find(s, ids[i]);
        if (session)
            resume_sending(session);
    }
    mem_free(ids);
}

void sm_send_again(struct shard *s, uint32_t node)
{
    for_each_waiting(s, node ? AGAIN_LINK : AGAIN_NODES, node);
}

void sm_tick(struct shard *s)
{
    uint64_t now = loop_now_ms(s->loop);
    if (!list_is_empty(&s->sm_waiting) && now - s->sm_tick_ms >= 1000 && now > AGAIN_MS) {
        s->sm_tick_ms = now;
        for_each_waiting(s, AGAIN_LATE, 0);
    }
}
