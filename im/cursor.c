/* The cursor over a user's stored messages: hands rows out as far as the sessions take them, and knows what
 * each session was given. So a slow reader costs no memory but its window. */
#include "base/clock.h"
#include "im/archive.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/mail.h"
#include "im/marks.h"
#include "im/message.h"
#include "im/router.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/stored.h"
#include <stdio.h>
#include <string.h>

/* ---- refs ---- */

static struct mail_ref *add_ref(struct mailqueue *q, uint64_t index, uint32_t place)
{
    struct mail_ref *r = mem_new(struct mail_ref);
    r->index = index;
    r->place = place;
    list_append(&q->refs, &r->link);
    q->n_refs++;
    return r;
}

static void set_sent(struct mailqueue *q, struct mail_ref *r)
{
    if (r->sent)
        return;
    r->sent = true;
    q->n_sent++;
    q->user->shard->marks->n_sent++;
}

void mail_ref_free(struct mailqueue *q, struct mail_ref *r)
{
    if (r->sent) {
        q->n_sent--;
        q->user->shard->marks->n_sent--;
    }
    list_remove(&r->link);
    q->n_refs--;
    mem_free(r);
}

static bool is_out(const struct mailqueue *q, uint64_t index, uint32_t place)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link) if (r->index == index && r->place == place) return true;
    return false;
}

/* A client that acknowledges is asked when it does. */
static void watch_output(struct mailqueue *q, const struct session *s)
{
    if (s->sm)
        return;
    q->user->shard->check_done = false;
    if (list_is_empty(&q->check))
        list_append(&q->user->shard->mail_check, &q->check);
}

void mail_was_given(struct mailqueue *q, uint64_t index, uint32_t place, uint64_t session, uint64_t out_end,
                    const struct given *given)
{
    if (is_out(q, index, place))
        return;
    struct mail_ref *r = add_ref(q, index, place);
    struct session *s = session_find(q->user->shard, session);
    r->session = session;
    r->out_end = out_end;
    if (given)
        r->given = *given;
    if (!out_end) {
        set_sent(q, r);
        marks_of_queue(q);
    } else if (s) {
        watch_output(q, s);
    }
}

void mail_check_sent(struct mailqueue *q)
{
    struct shard *shard = q->user->shard;
    struct mail_ref *r;
    struct session *s = NULL;
    uint64_t id = 0, written, sent = 0;
    bool any = false;
    list_for_each(r, &q->refs, struct mail_ref, link)
    {
        if (r->sent)
            continue;
        if (r->session != id) {
            id = r->session;
            s = session_find(shard, id);
            if (s)
                s->ops->output(s, &written, &sent);
        }
        if (!s || r->out_end > sent)
            continue;
        set_sent(q, r);
        any = true;
    }
    if (any)
        marks_of_queue(q);
}

/* To another session that was given it too. */
static bool pass_on(struct mail_ref *r, const struct session *from)
{
    struct session *s = session_heir(from->user, &r->given, from);
    uint64_t sent;
    if (!s)
        return false;
    r->session = s->id;
    s->ops->output(s, &r->out_end, &sent);
    if (s->user->mail)
        watch_output(s->user->mail, s);
    return true;
}

void mail_session_ended(struct session *s)
{
    struct mailqueue *q = s->user->mail;
    if (!q)
        return;
    mail_check_sent(q);
    struct mail_ref *r;
    bool back = false;
    list_for_each(r, &q->refs, struct mail_ref, link)
    {
        if (r->session != s->id || r->sent || pass_on(r, s))
            continue;
        /* Its client has not got it: pending again, for the next session. */
        mail_ref_free(q, r);
        back = true;
    }
    if (back)
        mail_rewind(q);
}

/* ---- reading ---- */

void mail_rewind(struct mailqueue *q)
{
    struct shard *s = q->user->shard;
    struct arena a;
    struct key k;
    arena_init(&a);
    key_init(&k);
    key_u64(&k, q->user->uid);
    const Imp__UserStateRow *row = store_find_row(shard_txn(s), TABLE_USER_STATE, &k, &a);
    q->at_index = row && row->first_index ? row->first_index - 1 : 0;
    q->at_place = row && row->first_index ? UINT32_MAX : 0;
    q->more = row && row->n_pending;
    arena_fini(&a);
}

void mail_note_backlog(struct mailqueue *q)
{
    q->backlog = q->user->shard->feed_seen;
}

/* One pending row after the cursor; false: there is none. */
static bool next_row(struct mailqueue *q, Imp__MessageRow **out, bool *archived, struct arena *a)
{
    struct shard *s = q->user->shard;
    struct key prefix, from;
    key_init(&prefix);
    key_u64(&prefix, q->user->uid);
    from = prefix;
    key_u64(&from, q->at_index);
    key_u32(&from, q->at_place);
    struct store_iter it;
    store_iter_init(&it, shard_txn(s), TABLE_MESSAGE_INDEX, &prefix);
    store_iter_seek(&it, &from);
    bool found = false;
    while (!found && store_iter_next(&it)) {
        Imp__MessageIndexRow *index_row = store_iter_row(&it, a);
        struct key_reader k;
        key_read(&k, it.key, it.n_key);
        key_read_u64(&k);
        uint64_t index = key_read_u64(&k);
        uint32_t place = key_read_u32(&k);
        if (!index_row || k.failed || (index == q->at_index && place <= q->at_place))
            continue;
        q->at_index = index;
        q->at_place = place;
        if (!index_row->pending || is_out(q, index, place))
            continue;
        struct key body;
        key_init(&body);
        key_u64(&body, index);
        key_u32(&body, place);
        *out =
            index_row->message ? index_row->message : store_find_row(shard_txn(s), TABLE_MESSAGE, &body, a);
        found = *out != NULL;
        *archived = index_row->archived;
    }
    store_iter_fini(&it);
    return found;
}

static struct envelope *read_stanza(const Imp__MessageRow *row, uint64_t index, uint32_t place)
{
    struct envelope *e = stored_stanza(row->stanza.data, row->stanza.len, row->from, row->to);
    if (!e)
        return NULL;
    e->stored = index;
    e->stored_place = place;
    return e;
}

static const Imp__MessageIndexRow *find_pending(struct shard *s, uint64_t uid, uint64_t index, uint32_t place,
                                                struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_u64(&k, index);
    key_u32(&k, place);
    const Imp__MessageIndexRow *row = store_find_row(shard_txn(s), TABLE_MESSAGE_INDEX, &k, a);
    return row && row->pending ? row : NULL;
}

bool mail_is_pending(struct shard *s, uint64_t uid, uint64_t index, uint32_t place)
{
    struct arena a;
    arena_init(&a);
    bool pending = find_pending(s, uid, index, place, &a) != NULL;
    arena_fini(&a);
    return pending;
}

static struct envelope *read_waiting(struct shard *s, uint64_t uid, uint64_t index, uint32_t place,
                                     const Imp__MessageIndexRow *in_index, uint64_t oldest_ms,
                                     struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, index);
    key_u32(&k, place);
    const Imp__MessageRow *row =
        in_index->message ? in_index->message : store_find_row(shard_txn(s), TABLE_MESSAGE, &k, a);
    struct envelope *e = row && row->time_ms >= oldest_ms ? read_stanza(row, index, place) : NULL;
    if (e) {
        e->to_uid = uid;
        e->from_uid = in_index->peer_uid;
    }
    return e;
}

struct envelope *mail_read(struct shard *s, uint64_t uid, uint64_t index, uint32_t place)
{
    struct arena a;
    arena_init(&a);
    const Imp__MessageIndexRow *in_index = find_pending(s, uid, index, place, &a);
    struct envelope *e = in_index ? read_waiting(s, uid, index, place, in_index, 0, &a) : NULL;
    arena_fini(&a);
    return e;
}

struct envelope *message_newest(struct shard *s, uint64_t uid, uint64_t oldest_ms,
                                bool (*is_it)(const struct envelope *e))
{
    enum { LOOK_BACK = 64 }; /* rows, also of what was sent or has been delivered */
    const struct user *u = user_find(s, uid);
    struct envelope *e = NULL;
    struct arena a;
    struct key prefix;
    struct store_iter it;
    arena_init(&a);
    key_init(&prefix);
    key_u64(&prefix, uid);
    store_iter_init(&it, shard_txn(s), TABLE_MESSAGE_INDEX, &prefix);
    store_iter_descending(&it);
    for (int n = 0; !e && n < LOOK_BACK && store_iter_next(&it); n++) {
        arena_reset(&a);
        const Imp__MessageIndexRow *row = store_iter_row(&it, &a);
        struct key_reader k;
        key_read(&k, it.key, it.n_key);
        key_read_u64(&k);
        uint64_t index = key_read_u64(&k);
        uint32_t place = key_read_u32(&k);
        if (!row || k.failed || !row->pending || (u && u->mail && is_out(u->mail, index, place)))
            continue;
        e = read_waiting(s, uid, index, place, row, oldest_ms, &a);
        if (e && !is_it(e)) {
            envelope_free(e);
            e = NULL;
        }
    }
    store_iter_fini(&it);
    arena_fini(&a);
    return e;
}

/* ---- handing out ---- */

static void write_stamp(const struct shard *s, const Imp__MessageRow *row, char *out, size_t size)
{
    char stamp[32]; /* XEP-0203 */
    clock_format_utc(stamp, row->time_ms, 1);
    snprintf(out, size, "<delay xmlns='urn:xmpp:delay' from='%s' stamp='%s'/>", s->domain, stamp);
}

/* LATE: it has waited for somebody to take it. */
static void hand_out(struct mailqueue *q, const Imp__MessageRow *row, bool late, struct session **to,
                     size_t n)
{
    struct shard *s = q->user->shard;
    struct envelope *e = read_stanza(row, q->at_index, q->at_place);
    struct mail_ref *r = add_ref(q, q->at_index, q->at_place);
    r->session = to[0]->id;
    session_note_given(&r->given, to, n);
    if (!e) {
        log_warning(s->log, "stored message %llu/%u cannot be read", (unsigned long long)r->index, r->place);
        set_sent(q, r);
        marks_of_queue(q);
        return;
    }
    e->to_uid = q->user->uid;
    char extra[1280];
    if (late)
        write_stamp(s, row, extra, sizeof extra);
    else
        im_hooks_delivered(s, e->to_uid, q->user, e, to, n);
    for (size_t i = 0; i < n; i++)
        to[i]->ops->deliver(to[i], e, late ? extra : NULL);
    uint64_t sent;
    to[0]->ops->output(to[0], &r->out_end, &sent);
    watch_output(q, to[0]);
    envelope_free(e);
}

/* RFC 6121 §8.5.3.2.1: a normal message to a resource that is not there. It was stored before that could be
 * known. */
static bool is_for_nobody(struct mailqueue *q, const Imp__MessageRow *row)
{
    const char *resource = jid_resource(row->to);
    if (q->at_index <= q->backlog || !*resource || user_find_session(q->user, resource))
        return false;
    struct envelope *e = read_stanza(row, q->at_index, q->at_place);
    bool nobody = e && e->type == MESSAGE_NORMAL;
    if (nobody) {
        mail_refuse(q->user->shard, e);
        mail_was_given(q, q->at_index, q->at_place, 0, 0, NULL);
    }
    envelope_free(e);
    return nobody;
}

static bool has_room(const struct mailqueue *q, struct session *s)
{
    return q->n_refs - q->n_sent < MAIL_WINDOW_ROWS && session_queued(s) < MAIL_WINDOW_BYTES;
}

/* What waits behind stored messages, up to what must come after the row at BEFORE (architecture: Messages: it
 * queues behind the cursor at its after_index). What this home has stored itself had come before all of it.
 */
static void release_hold(struct mailqueue *q, uint64_t before)
{
    struct shard *s = q->user->shard;
    struct session *sessions[PICK_MAX];
    for (struct list *item; (item = list_first(&q->hold)) && !q->n_storing;) {
        struct envelope *e = list_entry(item, struct envelope, link);
        if (e->after_index >= before || q->own_index >= before)
            return;
        size_t n = message_pick_for(q->user, e->to, sessions, PICK_MAX);
        bool away = !n || sessions[0]->detached;
        if (away && message_has_behind(q->user))
            return;
        list_remove(item);
        q->hold_bytes -= e->n_bytes;
        if (away)
            store_out_away(s, e);
        else
            message_deliver(s, e, sessions, n);
    }
}

/* XEP-0160 §2: what waited for somebody to come is given to who is available, also if it was for a resource
 * of the name that a new session has now. */
static bool waits_for_presence(const struct mailqueue *q, const struct session *s)
{
    return q->at_index <= s->first_index && (!s->presence || s->priority < 0);
}

void mail_pump(struct mailqueue *q)
{
    /* Without the lease the user may be at home elsewhere, and get it there. The tick tries again. */
    if (!shard_has_lease(q->user->shard))
        return;
    struct session *sessions[PICK_MAX];
    struct arena a;
    arena_init(&a);
    while (q->more && !q->n_late && !list_is_empty(&q->user->sessions)) {
        uint64_t index = q->at_index;
        uint32_t place = q->at_place;
        Imp__MessageRow *row;
        arena_reset(&a);
        bool archived;
        if (!next_row(q, &row, &archived, &a)) {
            q->more = false;
            q->n_waiting = 0;
            break;
        }
        if (is_for_nobody(q, row))
            continue;
        /* Nobody: it waits for the next session that becomes available, which begins anew. */
        size_t n = message_pick_for(q->user, row->to, sessions, PICK_MAX);
        if (!n || sessions[0]->detached || waits_for_presence(q, sessions[0]))
            continue;
        if (!has_room(q, sessions[0])) {
            q->at_index = index;
            q->at_place = place;
            break;
        }
        q->n_waiting -= q->n_waiting != 0;
        release_hold(q, q->at_index);
        bool late = !archived || q->at_index <= q->backlog || row->time_ms < sessions[0]->live_ms;
        hand_out(q, row, late, sessions, n);
    }
    arena_fini(&a);
    if (!q->more)
        release_hold(q, UINT64_MAX);
}
