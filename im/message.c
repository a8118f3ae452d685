#include "im/message.h"
#include "im/archive.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/mail.h"
#include "im/router.h"
#include "im/user.h"
#include <string.h>

enum {
    SLOW_BYTES = 256 << 10, /* queued for a client: who feeds it is read less */
    THROTTLE_EVERY_MS = 2,
    THROTTLE_STEP_MS = 10, /* per SLOW_BYTES that are queued */
    PICK_MAX = 32,
};

/* RFC 6121 §8.5.2.1.1: the "most available" resources, that is those of the highest non-negative priority. */
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
    }
    return n;
}

static void watch_speed(struct shard *s, const struct envelope *e, struct session *to)
{
    size_t queued = session_queued(to);
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
    if (n == 1) {
        session_deliver_kept(sessions[0], e);
        return;
    }
    for (size_t i = 0; i < n; i++)
        sessions[i]->ops->deliver(sessions[i], e, NULL);
    envelope_free(e);
}

/* chat and normal, for the bare JID or a resource that is gone. Takes E. */
static void to_best_or_store(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    struct session *sessions[PICK_MAX];
    size_t n = u ? message_pick(u, sessions, PICK_MAX) : 0;
    if (u && (mail_is_busy(u) || (!n && message_has_behind(u))))
        mail_queue(s, u, e);
    else if (n)
        message_deliver(s, e, sessions, n);
    else if (archive_is_worth_storing(e))
        mail_store(s, e);
    else
        envelope_free(e);
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
    } else {
        message_deliver(s, e, &session, 1);
    }
}

/* RFC 6121 §8.5, table 1. */
void message_receive(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    if (im_hooks_to_user(s, e->to_uid, u, e, false)) {
        envelope_free(e);
        return;
    }
    const char *resource = jid_resource(e->to);
    struct session *match = u && *resource ? user_find_session(u, resource) : NULL;
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

void message_take_back(struct shard *s, struct envelope *e)
{
    if (shard_home_of(s, e->to_uid) != im_node_id(s->im))
        router_forward(s, e);
    else if (e->type == MESSAGE_CHAT || e->type == MESSAGE_NORMAL)
        to_best_or_store(s, e);
    else
        envelope_free(e);
}

/* ---- sessions come, go and drain ---- */

static bool has_pending(struct shard *s, uint64_t uid)
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

void message_session_available(struct session *s)
{
    struct user *u = s->user;
    if (s->no_flood || (!u->mail && !has_pending(s->shard, u->uid)))
        return;
    struct mailqueue *q = mail_get(u);
    q->more = true;
    mail_pump(q);
}

void message_session_drained(struct session *s)
{
    if (!s->user)
        return;
    s->behind = false;
    if (s->user->mail)
        mail_pump(s->user->mail);
}

void message_session_ended(struct session *s)
{
    struct mailqueue *q = s->user->mail;
    if (!q)
        return;
    uint64_t written, sent;
    s->ops->output(s, &written, &sent);
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link)
    {
        if (r->session != s->id || r->sent)
            continue;
        if (r->out_end <= sent) {
            r->sent = true;
            continue;
        }
        /* Never left this process: pending again, for the next session. */
        list_remove(&r->link);
        mem_free(r);
        q->n_refs--;
        q->at_index = 0;
        q->at_place = 0;
        q->more = true;
    }
}

void message_on_feed(struct shard *s, const struct feed_event *event)
{
    struct key_reader k;
    key_read(&k, event->key.bytes, event->key.n);
    uint64_t uid = key_read_u64(&k), index = key_read_u64(&k);
    uint32_t place = key_read_u32(&k);
    struct user *u = k.failed ? NULL : user_find(s, uid);
    struct session *any[1];
    if (!u || (!u->mail && !message_pick(u, any, 1)))
        return;
    struct mailqueue *q = u->mail;
    if (q && (index < q->at_index || (index == q->at_index && place <= q->at_place)))
        return; /* marks of rows that were handed out */
    if (!q) {
        /* Nothing was pending before this row, else there would be a queue. */
        q = mail_get(u);
        q->at_index = index - 1;
        q->at_place = UINT32_MAX;
    }
    q->more = true;
    mail_pump(q);
}

void message_output_moved(struct shard *s)
{
    if (!list_is_empty(&s->mail))
        mail_look_at_output(s);
}

void message_check_sent(struct shard *s)
{
    struct mailqueue *q;
    list_for_each(q, &s->mail, struct mailqueue, link) if (q->n_refs) mail_check_sent(q);
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
        struct session *any[1];
        if (message_pick(u, any, 1) && (u->mail || has_pending(s, u->uid)))
            mail_get(u)->more = true;
    }
}
