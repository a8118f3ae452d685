#include "im/message.h"
#include "base/clock.h"
#include "im/archive.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/mail.h"
#include "im/repeats.h"
#include "im/router.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/user.h"
#include "replication/levels.h"
#include <string.h>

enum {
    SLOW_BYTES = 256 << 10, /* queued for a client: who feeds it is read less */
    THROTTLE_EVERY_MS = 2,
    THROTTLE_STEP_MS = 10, /* per SLOW_BYTES that are queued */
    WAITING_SOFT = 256,    /* stored messages behind the window of a session that reads */
    WAITING_THROTTLE_MS = 200,
    MOVE_MS = 10 * 60 * 1000,   /* longer than a move of users takes */
    LOST_MS = 24 * 3600 * 1000, /* and than a cluster lacks the votes to see that a node has died */
};

/* RFC 6121 §8.5.2.1.1: the "most available" resources, that is those of the highest non-negative priority.
 * What the first one has got is delivered, so it is one with a connection, where there is one. */
size_t message_pick(const struct user *u, struct session **out, size_t max)
{
    size_t n = 0;
    int best = 0;
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (!s->presence || s->behind || s->priority < best)
            continue;
        if (s->priority > best) {
            best = s->priority;
            n = 0;
        }
        if (n < max)
            out[n++] = s;
        if (n > 1 && out[0]->detached && !s->detached && out[n - 1] == s) {
            out[n - 1] = out[0];
            out[0] = s;
        }
    }
    return n;
}

size_t message_pick_for(const struct user *u, const char *to, struct session **out, size_t max)
{
    const char *resource = jid_resource(to);
    struct session *match = *resource ? user_find_session(u, resource) : NULL;
    if (!match || match->behind || match->detached)
        return message_pick(u, out, max);
    out[0] = match;
    return 1;
}

static void watch_speed(struct shard *s, const struct envelope *e, struct session *to)
{
    size_t queued = session_queued(to);
    /* Who acknowledges nothing has the rest from the store, too. */
    if (to->sm && to->sm->n_out - to->sm->n_acked >= MAIL_WINDOW_ROWS)
        to->behind = true;
    if (queued <= SLOW_BYTES)
        return;
    uint64_t now = loop_now_ms(s->loop);
    if (now - to->throttled_ms >= THROTTLE_EVERY_MS) {
        to->throttled_ms = now;
        router_throttle(s, e, (unsigned)(queued / SLOW_BYTES) * THROTTLE_STEP_MS);
    }
    /* Beyond half of what may be queued at all, messages wait elsewhere. */
    if (queued > s->settings.output_bytes / 2)
        to->behind = true;
}

bool message_has_behind(const struct user *u)
{
    struct session *s;
    list_for_each(s, &u->sessions, struct session,
                  link) if (s->presence && s->behind && s->priority >= 0) return true;
    return false;
}

void message_deliver(struct shard *s, struct envelope *e, struct session **sessions, size_t n)
{
    for (size_t i = 0; i < n; i++)
        watch_speed(s, e, sessions[i]);
    if (n)
        im_hooks_delivered(s, e->to_uid, sessions[0]->user, e, sessions, n);
    for (size_t i = 1; i < n; i++)
        sessions[i]->ops->deliver(sessions[i], e, NULL);
    if (n > 1)
        session_note_given(&e->given, sessions, n);
    session_deliver_kept(sessions[0], e);
}

/* chat and normal, for the bare JID or a resource that is gone. Takes E. */
static void to_best_or_store(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    struct session *sessions[PICK_MAX];
    size_t n = u ? message_pick(u, sessions, PICK_MAX) : 0;
    bool away = !n || sessions[0]->detached;
    if (u && (mail_is_busy(u) || (away && message_has_behind(u)))) {
        mail_queue(s, u, e);
    } else if (!away) {
        message_deliver(s, e, sessions, n);
    } else if (archive_is_worth_storing(e)) {
        store_out_away(s, e);
    } else {
        sm_settle(s, e);
        envelope_free(e);
    }
}

static void to_all(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    struct session *session;
    struct session *to[PICK_MAX];
    size_t n = 0;
    if (u) {
        list_for_each(session, &u->sessions, struct session, link)
        {
            if (!session->presence || session->priority < 0 || session->behind)
                continue;
            session->ops->deliver(session, e, NULL);
            if (n < PICK_MAX)
                to[n++] = session;
        }
        im_hooks_delivered(s, e->to_uid, u, e, to, n);
    }
    envelope_free(e);
}

static void refuse(struct shard *s, struct envelope *e)
{
    router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
    envelope_free(e);
}

static void to_session(struct shard *s, struct envelope *e, struct session *session)
{
    bool durable = e->type == MESSAGE_CHAT || e->type == MESSAGE_NORMAL;
    if (!durable) {
        if (session->behind)
            router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, "the client reads too slowly");
        else {
            im_hooks_delivered(s, e->to_uid, session->user, e, &session, 1);
            session->ops->deliver(session, e, NULL);
        }
        envelope_free(e);
    } else if (mail_is_busy(session->user) || session->behind) {
        mail_queue(s, session->user, e);
    } else if (session->detached) {
        to_best_or_store(s, e);
    } else {
        message_deliver(s, e, &session, 1);
    }
}

/* Of nobody here: no home of a sender has put it into the recipient's archive. */
static bool is_for_archive(struct shard *s, struct envelope *e)
{
    bool talk = e->type == MESSAGE_CHAT || e->type == MESSAGE_NORMAL;
    if (e->from_uid || e->stored || !talk || s->settings.level < LEVEL_3)
        return false;
    e->wants = archive_wants(s, e) & ARCHIVE_TO;
    return e->wants;
}

/* An error for a session that waits for it (docs/adr/0046): each of its stanzas is answered once. One that
 * was resumed elsewhere has sent the stanza again, and gets another answer. */
static void receive_refusal(struct shard *s, struct envelope *e)
{
    struct session *session = session_find(s, e->session);
    if (!session && !e->row) {
        e->flags &= (uint16_t)~ENVELOPE_REFUSED;
        message_receive(s, e);
        return;
    }
    if (session && sm_waits(session, e->n_in)) {
        if (im_hooks_to_user(s, e->to_uid, session->user, e, false)) {
            sm_settled(session, e->n_in);
        } else {
            im_hooks_delivered(s, e->to_uid, session->user, e, &session, 1);
            session->ops->deliver(session, e, NULL);
            sm_refused(session, e->n_in);
        }
    }
    envelope_free(e);
}

/* RFC 6121 §8.5, table 1. */
void message_receive(struct shard *s, struct envelope *e)
{
    if (repeats_is_one(s, e)) {
        envelope_free(e);
        return;
    }
    if (e->flags & ENVELOPE_REFUSED) {
        receive_refusal(s, e);
        return;
    }
    struct user *u = user_find(s, e->to_uid);
    enum to_user out = im_hooks_to_user(s, e->to_uid, u, e, false);
    if (out) {
        if (out == TO_USER_DROP)
            sm_settle(s, e);
        envelope_free(e);
        return;
    }
    const char *resource = jid_resource(e->to);
    struct session *match = u && *resource ? user_find_session(u, resource) : NULL;
    bool takes = match || e->type == MESSAGE_CHAT || !*resource;
    if (takes && is_for_archive(s, e)) {
        store_out_away(s, e);
        return;
    }
    if (match) {
        to_session(s, e, match);
        return;
    }
    switch ((enum stanza_type)e->type) {
    case MESSAGE_CHAT:
        to_best_or_store(s, e);
        break;
    case MESSAGE_NORMAL:
        if (*resource)
            refuse(s, e);
        else
            to_best_or_store(s, e);
        break;
    case MESSAGE_HEADLINE:
        if (*resource)
            envelope_free(e);
        else
            to_all(s, e);
        break;
    case MESSAGE_ERROR:
        envelope_free(e);
        break;
    default:
        refuse(s, e);
        break;
    }
}

/* Another session of the user was given it, too, and answers for it from now on. */
static bool pass_on(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    struct session *heir = u ? session_heir(u, &e->given, NULL) : NULL;
    if (heir)
        session_keep(heir, e);
    return heir;
}

/* Its row will be there for others; what comes from now on is behind it. */
static void leave_to_row(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    if (!u || !u->mail || e->is_left)
        return;
    e->is_left = true;
    u->mail->n_late--;
    u->mail->n_storing++;
}

void message_take_back(struct shard *s, struct envelope *e)
{
    bool here = shard_home_of(s, e->to_uid) == im_node_id(s->im);
    if (here && pass_on(s, e))
        return;
    if (e->storing) {
        leave_to_row(s, e);
    } else if (!here) {
        router_forward(s, e);
    } else if (e->type == MESSAGE_CHAT || e->type == MESSAGE_NORMAL) {
        e->given = (struct given){0};
        e->is_back = true;
        to_best_or_store(s, e);
    } else {
        sm_settle(s, e);
        envelope_free(e);
    }
}

/* ---- sessions come, go and drain ---- */

bool message_waits(struct shard *s, uint64_t uid)
{
    struct arena a;
    arena_init(&a);
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    Imp__UserStateRow *row = store_find_row(shard_txn(s), TABLE_USER_STATE, &k, &a);
    bool pending = row && row->n_pending > 0;
    arena_fini(&a);
    return pending;
}

static void begin_anew(struct user *u)
{
    if (!u->mail && !message_waits(u->shard, u->uid))
        return;
    struct mailqueue *q = mail_get(u);
    mail_rewind(q);
    mail_note_backlog(q);
    mail_pump(q);
}

void message_session_available(struct session *s)
{
    if (s->no_flood)
        return;
    begin_anew(s->user);
}

void message_session_drained(struct session *s)
{
    if (!s->user)
        return;
    if (s->behind) {
        s->behind = false;
        s->live_ms = clock_wall_ms();
        begin_anew(s->user);
    } else if (s->user->mail) {
        mail_pump(s->user->mail);
    }
}

void message_session_ended(struct session *s)
{
    mail_session_ended(s);
}

void message_untold(struct shard *s, uint64_t since, bool lost)
{
    struct untold *u = &s->untold;
    uint64_t oldest_ms = clock_wall_ms() - (lost ? LOST_MS : MOVE_MS);
    if (u->since == UINT64_MAX || oldest_ms < u->oldest_ms)
        u->oldest_ms = oldest_ms;
    if (since < u->since)
        u->since = since;
}

/* It waits for a user of whom nobody is here to take it: for whoever wants to know, such as XEP-0357. */
static void tell_stored(struct shard *s, uint64_t uid, uint64_t index, uint32_t place, struct user *u)
{
    uint64_t since;
    enum home_place where = shard_place_of(s, uid, NULL, &since);
    if (where == PLACE_ARRIVING)
        message_untold(s, since, false);
    if (where != PLACE_HERE)
        return;
    struct envelope *e = mail_read(s, uid, index, place);
    const char *resource = e ? jid_resource(e->to) : "";
    if (e && e->type == MESSAGE_NORMAL && *resource && !(u && user_find_session(u, resource))) {
        /* RFC 6121 §8.5.3.2.1, which the sender's home could not know. */
        mail_refuse(s, e);
        mail_was_given(mail_get(user_get(s, uid, e->to)), index, place, 0, 0, NULL);
    } else if (e) {
        im_hooks_delivered(s, uid, u, e, NULL, 0);
    }
    envelope_free(e);
}

static bool has_taker(const struct user *u)
{
    struct session *s;
    list_for_each(s, &u->sessions, struct session,
                  link) if (s->presence && s->priority >= 0 && !s->detached) return true;
    return false;
}

/* The session reads, but more slowly than is sent. */
static bool user_has_reader(const struct user *u)
{
    struct session *any[1];
    return message_pick(u, any, 1) && !any[0]->detached;
}

static void slow_sender(struct mailqueue *q, uint64_t index, uint32_t place)
{
    struct shard *s = q->user->shard;
    q->n_waiting++;
    unsigned every = q->n_waiting < WAITING_SOFT * 4 ? 16 : 4;
    if (q->n_waiting < WAITING_SOFT || q->n_waiting % every)
        return;
    struct envelope *e = mail_read(s, q->user->uid, index, place);
    if (e)
        router_throttle(s, e, WAITING_THROTTLE_MS);
    envelope_free(e);
}

void message_on_feed(struct shard *s, const struct feed_event *event)
{
    struct key_reader k;
    key_read(&k, event->key.bytes, event->key.n);
    uint64_t uid = key_read_u64(&k), index = key_read_u64(&k);
    uint32_t place = key_read_u32(&k);
    if (k.failed || im_shard_of(s->im, uid) != s || event->deleted || event->index != index) /* marks */
        return;
    struct user *u = user_find(s, uid);
    if (s->settings.level >= LEVEL_3 && !(u && has_taker(u)))
        tell_stored(s, uid, index, place, u);
    u = user_find(s, uid);
    struct mailqueue *q = u ? u->mail : NULL;
    if (!q) {
        if (!u || list_is_empty(&u->sessions) || !mail_is_pending(s, uid, index, place))
            return;
        /* What was pending before this row waits for a session that becomes available. */
        q = mail_get(u);
        q->at_index = index - 1;
        q->at_place = UINT32_MAX;
    } else if (index < q->at_index || (index == q->at_index && place <= q->at_place)) {
        return; /* handed out already */
    }
    q->more = true;
    mail_pump(q);
    q = (u = user_find(s, uid)) ? u->mail : NULL;
    if (q && q->more && user_has_reader(u))
        slow_sender(q, index, place);
}

void message_output_moved(struct shard *s)
{
    if (!list_is_empty(&s->mail_check))
        s->check_done = false;
}

void message_check_sent(struct shard *s)
{
    /* Those whose output is not all out stay. */
    struct mailqueue *q;
    list_for_each(q, &s->mail_check, struct mailqueue, check)
    {
        mail_check_sent(q);
        if (q->n_refs == q->n_sent)
            list_remove(&q->check);
    }
}

void message_tick(struct shard *s)
{
    struct mailqueue *q;
    list_for_each(q, &s->mail, struct mailqueue, link) mail_tick(q);
}

void message_reload(struct shard *s)
{
    htab_for_each(node, &s->users)
    {
        struct user *u = container_of(node, struct user, node);
        if (!list_is_empty(&u->sessions) && (u->mail || message_waits(s, u->uid)))
            mail_rewind(mail_get(u));
    }
}
