#include "im/store_out.h"
#include "im/archive.h"
#include "im/carbons.h"
#include "im/fence.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/mail.h"
#include "im/message.h"
#include "im/outside.h"
#include "im/router.h"
#include "im/sm_session.h"
#include "im/user.h"
#include "replication/fsm.h"
#include "replication/levels.h"
#include <string.h>

enum {
    N_RETRIES = 3, /* below level 3 */
    OUTCOME_MS = 2 * 60 * 1000,
    STORING_SOFT = 512, /* per recipient, before senders are slowed */
    HOLD_THROTTLE_MS = 50,
    NODE_SENDING_MAX = 2048,
    SENDING_MAX =
        256, /* stores of one session in flight, and what waits behind them, before it is not read */
};

enum store_kind {
    STORE_SENT, /* by the sender's home */
    STORE_AWAY, /* by the recipient's, for nobody in particular */
    STORE_LATE, /* by the recipient's, while a session has it */
};

struct storing {
    struct shard *shard;
    struct envelope *envelope;
    enum store_kind kind;
    char *origin; /* NULL: the sender's session recognises a repeat, or there is none */
    bool retries; /* below level 3 */
    uint64_t session, uid;
    unsigned n_tries;
};

static void free_storing(struct storing *st)
{
    envelope_free(st->envelope);
    mem_free(st->origin);
    mem_free(st);
}

static void refuse(struct shard *s, struct envelope *e, int code)
{
    bool for_good = code == ERR_LIMIT || code == ERR_NOTFOUND || code == ERR_DENIED;
    router_bounce(s, e, for_good ? STANZA_SERVICE_UNAVAILABLE : STANZA_RESOURCE_CONSTRAINT, NULL);
}

static void on_stored(void *user, const struct proposal_result *result);

static void fill_level_3(const struct storing *st, Imp__MessageStore *body)
{
    const struct envelope *e = st->envelope;
    body->from_uid = e->from_uid;
    body->at_recipient = st->kind != STORE_SENT;
    body->pending = e->to_uid != 0;
    body->archive_to = e->wants & ARCHIVE_TO;
    if (st->kind == STORE_SENT)
        body->archive_from = e->wants & ARCHIVE_FROM;
    body->session = e->row;
    body->session_place = e->row_place;
    body->n_in = e->row ? e->n_in : 0;
    if (st->kind == STORE_SENT && e->row) {
        struct session *s = session_find(st->shard, st->session);
        body->n_settled = s && s->sm ? sm_n_settled(s) : 0;
    }
}

static int propose(struct storing *st)
{
    struct envelope *e = st->envelope;
    struct shard *s = st->shard;
    st->n_tries++;
    /* As it is to be delivered, but without the addresses, which are fields of their own. */
    struct envelope bare = *e;
    bare.from = bare.to = "";
    buf_reset(&s->scratch);
    envelope_write(&s->scratch, &bare, NULL, NULL);
    Imp__MessageStore body = IMP__MESSAGE_STORE__INIT;
    body.to_uid = e->to_uid;
    body.from = (char *)e->from;
    body.to = (char *)e->to;
    body.stanza = (ProtobufCBinaryData){s->scratch.n, (uint8_t *)s->scratch.data};
    if (st->origin)
        body.origin = st->origin;
    fill_level_3(st, &body); /* also before: the level may have risen when it is applied */
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    command.message_store = &body;
    /* What was given to the log is executed once, and before whatever is given to it later, or never when
     * this node is taken down (replication/proposer.h). So from level 3 on nothing is proposed again, and
     * nobody has to remember what was: it is waited for as long as three more attempts took. */
    return shard_submit_for(s, &command, st->retries ? 0 : OUTCOME_MS, on_stored, st);
}

/* UID: on whose behalf; there is a struct user of it. Takes E, also when it fails. */
static int begin(struct shard *s, struct envelope *e, enum store_kind kind, uint64_t session, uint64_t uid)
{
    struct storing *st = mem_new(struct storing);
    st->shard = s;
    st->envelope = e;
    st->kind = kind;
    st->session = session;
    st->uid = uid;
    st->retries = s->settings.level < LEVEL_3;
    /* Whichever home stores what was sent by a session without a row, and if two do, one after the other. */
    if (!e->row && e->flags & ENVELOPE_COUNTED)
        st->origin = mem_printf("%llx.%llu", (unsigned long long)e->session, (unsigned long long)e->n_in);
    else if (st->retries)
        st->origin = mem_printf("%s.%u.%llu", s->im->origin, s->index, (unsigned long long)++s->n_stored);
    int rc = propose(st);
    if (rc < 0) {
        st->envelope = NULL;
        free_storing(st);
    } else {
        user_proposal_begins(s, uid);
    }
    return rc;
}

/* ---- done ---- */

static void note_row(struct mailqueue *q, const struct proposal_result *result)
{
    if (result->code == 0 && result->value > q->own_index)
        q->own_index = result->value;
}

static void away_done(struct storing *st, const struct proposal_result *result)
{
    struct shard *s = st->shard;
    struct user *u = user_find(s, st->uid);
    struct mailqueue *q = u ? u->mail : NULL;
    if (q) {
        q->n_storing--;
        note_row(q, result);
    }
    if (result->code != 0)
        refuse(s, st->envelope, result->code);
    else
        sm_settle(s, st->envelope);
    if (q)
        mail_pump(q);
}

/* The session may have ended, its client may have acknowledged meanwhile. */
static void late_done(struct storing *st, const struct proposal_result *result)
{
    struct shard *s = st->shard;
    struct envelope *e = st->envelope;
    struct user *u = user_find(s, st->uid);
    struct mailqueue *q = u && u->mail ? u->mail : NULL;
    bool held = !list_is_empty(&e->link), delivered = e->out_end == 0;
    e->storing = false;
    if (q) {
        *(e->is_left ? &q->n_storing : &q->n_late) -= 1;
        note_row(q, result);
    }
    e->is_left = false;
    if (result->code != 0) {
        st->envelope = NULL;
        if (held)
            e->queued_ms = loop_now_ms(s->loop); /* again later */
        else if (delivered)
            envelope_free(e);
        else
            message_take_back(s, e);
    } else {
        list_remove(&e->link);
        uint64_t index = result->value;
        if (u && index && !fsm_stored_is_repeat(result->value2) && (held || delivered))
            mail_was_given(mail_get(u), index, fsm_stored_place(result->value2), e->keeper,
                           held ? e->out_end : 0, &e->given);
        sm_settle(s, e);
    }
    u = user_find(s, st->uid);
    if (u && u->mail)
        mail_pump(u->mail);
}

static void flush(struct session *s);

/* It is in the sender's archive; who it is for is served elsewhere. */
static void send_outside(struct shard *s, const struct envelope *e)
{
    struct envelope *c = envelope_copy(e, NULL);
    c->wants = 0;
    router_send_now(s, c, NULL);
}

static void sent_done(struct storing *st, const struct proposal_result *result)
{
    struct shard *s = st->shard;
    struct envelope *e = st->envelope;
    struct session *session = session_find(s, st->session);
    /* Not executed for ever: this node was taken down, and a client that counts sends it to the next home. */
    bool lost = result->code == ERR_UNAVAILABLE && e->n_in;
    s->n_sending--;
    if (result->code == 0 && e->wants & ARCHIVE_RETRACTS)
        archive_retract(s, e);
    if (result->code == 0 && !fsm_stored_is_repeat(result->value2)) {
        if (e->wants & ARCHIVE_FROM) {
            e->stored = result->value;
            e->stored_place = fsm_stored_place(result->value2);
        }
        carbons_sent(user_find(s, st->uid), st->session, e);
    }
    if (result->code != 0 && !lost)
        refuse(s, e, result->code);
    if (result->code == 0 && !e->to_uid)
        send_outside(s, e);
    if (!session) {
        store_out_tick(s);
        return;
    }
    session->n_storing--;
    if (result->index > session->after_index)
        session->after_index = result->index;
    if (session->sm && e->n_in && !lost) {
        uint32_t n_in = fsm_stored_n_in(result->value2);
        if (result->code == 0 && e->row && n_in)
            sm_covered(session, session->sm->n_seen - (uint32_t)((uint32_t)session->sm->n_seen - n_in));
        if (result->code == 0) /* otherwise when the client has the error */
            sm_settled(session, e->n_in);
    }
    session = session_find(s, st->session);
    if (session)
        flush(session);
    store_out_tick(s);
}

static void on_stored(void *user, const struct proposal_result *result)
{
    struct storing *st = user;
    struct shard *s = st->shard;
    uint64_t uid = st->uid;
    /* With the same origin again: if it did happen, the state machine knows it. */
    if (result->code == ERR_UNKNOWN_OUTCOME && st->retries && st->n_tries < N_RETRIES && propose(st) == 0)
        return;
    if (result->code == 0)
        metrics_add(s->im->options.metrics, METRIC_MESSAGES_STORED, 1);
    shard_see(s, result->index);
    if (st->kind == STORE_SENT)
        sent_done(st, result);
    else if (st->kind == STORE_AWAY)
        away_done(st, result);
    else
        late_done(st, result);
    free_storing(st);
    user_proposal_ends(s, uid);
}

/* ---- the recipient's home ---- */

void store_out_away(struct shard *s, struct envelope *e)
{
    struct user *u = user_get(s, e->to_uid, e->to);
    if (s->settings.level < LEVEL_3)
        im_hooks_delivered(s, e->to_uid, u, e, NULL, 0); /* from then on when the row is there */
    struct mailqueue *q = mail_get(u);
    if (begin(s, e, STORE_AWAY, 0, u->uid) < 0) {
        refuse(s, e, ERR_UNAVAILABLE);
        envelope_free(e);
        return;
    }
    if (++q->n_storing > STORING_SOFT)
        router_throttle(s, e, HOLD_THROTTLE_MS);
}

void store_out_late(struct session *s, struct envelope *e)
{
    struct mailqueue *q = mail_get(s->user);
    if (begin(s->shard, e, STORE_LATE, s->id, s->user->uid) < 0) {
        e->queued_ms = loop_now_ms(s->shard->loop);
        return;
    }
    e->storing = true;
    q->n_late++;
}

void store_out_drop(struct envelope *e)
{
    list_remove(&e->link);
    if (e->storing)
        e->out_end = 0; /* it needs no delivery any more */
    else
        envelope_free(e);
}

/* ---- the sender's home ---- */

static void watch_window(struct session *s)
{
    if (s->n_storing + s->n_queued >= SENDING_MAX)
        session_pause(s, PAUSE_SETTLE);
    else if (!s->sm || s->sm->n_waiting < SM_WINDOW)
        session_resume(s, PAUSE_SETTLE);
}

/* The node's proposals in flight are limited: those of senders leave room for the rest, such as marks. */
static bool is_stalled(struct shard *s)
{
    return s->n_sending >= NODE_SENDING_MAX / s->im->n;
}

static void stall(struct session *s)
{
    if (list_is_empty(&s->stalled))
        list_append(&s->shard->stalled, &s->stalled);
}

/* False: E goes on waiting. */
static bool store_sent(struct session *s, struct envelope *e)
{
    struct shard *shard = s->shard;
    if (fence_holds(s, e)) {
        list_prepend(&s->queued, &e->link);
        s->n_queued++;
        watch_window(s);
        return false;
    }
    int rc = is_stalled(shard) ? ERR_LIMIT : begin(shard, e, STORE_SENT, s->id, s->user->uid);
    if (rc == ERR_LIMIT) {
        list_prepend(&s->queued, &e->link);
        s->n_queued++;
        stall(s);
    } else if (rc < 0) {
        refuse(shard, e, ERR_UNAVAILABLE);
        envelope_free(e);
    } else {
        s->n_storing++;
        shard->n_sending++;
    }
    watch_window(s);
    return rc != ERR_LIMIT;
}

bool store_out_queue(struct session *s, struct envelope *e)
{
    bool waits = !e->wants && sm_must_wait(s, e);
    if (!s->n_storing && !s->n_queued && !waits)
        return false;
    if (e->wants && !s->n_queued)
        return false; /* they keep their order in the log */
    list_append(&s->queued, &e->link);
    s->n_queued++;
    watch_window(s);
    return true;
}

/* What waited, up to the next that is stored; all of it in the order in which it came. */
static void flush(struct session *s)
{
    struct shard *shard = s->shard;
    uint64_t id = s->id;
    if (s->flushing)
        return;
    s->flushing = true;
    while (s && s->n_queued && !s->fence) {
        struct envelope *e = list_entry(list_first(&s->queued), struct envelope, link);
        if (!e->wants && (s->n_storing || sm_must_wait(s, e)))
            break;
        list_remove(&e->link);
        s->n_queued--;
        if (!e->wants)
            router_send_now(shard, e, s);
        else if (!store_sent(s, e))
            break;
        s = session_find(shard, id);
    }
    if (!s)
        return;
    s->flushing = false;
    watch_window(s);
}

void store_out_resume(struct session *s)
{
    if (s->n_queued && !s->n_storing && list_is_empty(&s->stalled))
        flush(s);
}

void store_out_fence(struct session *s, uint64_t number)
{
    if (fence_passed(s, number))
        flush(s);
}

void store_out_tick(struct shard *s)
{
    for (struct session *session; (session = fence_overdue(s));)
        flush(session);
    for (struct list *item; !is_stalled(s) && (item = list_first(&s->stalled));) {
        struct session *session = list_entry(item, struct session, stalled);
        list_remove(item);
        flush(session);
        if (list_first(&s->stalled) == item)
            return; /* it waits still */
    }
}

/* What of it has not left this node must not come before what has left and was lost: its client sends all of
 * it again, in order, to the next home (RFC 6120 §10.1). */
static void forget_unsent(struct session *s)
{
    for (struct list *item; (item = list_first(&s->queued));) {
        list_remove(item);
        s->n_queued--;
        envelope_free(list_entry(item, struct envelope, link));
    }
    if (s->sm->n_waiting)
        router_forget(s->shard, s->id);
}

void store_out_session_ended(struct session *s)
{
    list_remove(&s->stalled);
    fence_session_ended(s);
    if (sm_moves(s))
        forget_unsent(s);
    for (struct list *item; (item = list_first(&s->queued));) {
        struct envelope *e = list_entry(item, struct envelope, link);
        list_remove(item);
        s->n_queued--;
        if (!e->wants) {
            router_send_now(s->shard, e, s);
        } else if (sm_has_stored(s, e->n_in)) {
            envelope_free(e); /* by its former home; its row, which knows, is being closed */
        } else if (begin(s->shard, e, STORE_SENT, s->id, s->user->uid) < 0) {
            refuse(s->shard, e, ERR_UNAVAILABLE);
            envelope_free(e);
        } else {
            s->shard->n_sending++;
        }
    }
    s->n_storing = 0; /* its last words wait for nothing: nobody would take them up again */
}

static bool is_conversation(const struct envelope *e)
{
    return e->type == MESSAGE_CHAT || e->type == MESSAGE_NORMAL;
}

/* Its uids are known: those of users here. False: nobody here, or somebody who is served elsewhere, keeps it.
 */
static bool find_parties(struct session *s, struct envelope *e)
{
    struct shard *shard = s->shard;
    if (shard->settings.level < LEVEL_3 || !is_conversation(e) || e->to_uid)
        return false;
    if (shard_find_uid(shard, e->to, &e->to_uid) < 0) {
        e->to_uid = 0;
        if (!outside_is(shard, e->to))
            return false;
    }
    e->from_uid = s->user->uid;
    return true;
}

/* Blocked. */
static enum to_user keeps_out(struct session *s, struct envelope *e)
{
    struct shard *shard = s->shard;
    struct user *to = im_shard_of(shard->im, e->to_uid) == shard ? user_find(shard, e->to_uid) : NULL;
    return e->to_uid ? im_hooks_to_user(shard, e->to_uid, to, e, false) : TO_USER_GO_ON;
}

void message_send(struct session *s, struct envelope *e)
{
    struct shard *shard = s->shard;
    if (!find_parties(s, e)) {
        if (s->sm && is_conversation(e) && !e->to_uid && shard->settings.level >= LEVEL_3)
            sm_watch(s, e, false); /* the error that says so is to arrive */
        router_send(shard, e, s);
        return;
    }
    unsigned wants = archive_wants(shard, e);
    e->wants = wants & (ARCHIVE_TO | ARCHIVE_FROM) ? (uint8_t)wants : 0;
    if (!e->wants) {
        bool counts = s->sm && e->to_uid && archive_is_worth_storing(e);
        if (counts && sm_is_stored(s)) {
            envelope_free(e);
            return;
        }
        if (counts)
            sm_watch(s, e, false);
        router_send(shard, e, s);
        return;
    }
    e->session = s->id;
    if (s->sm)
        sm_watch(s, e, true);
    enum to_user out = keeps_out(s, e);
    if (out) {
        if (s->sm && out == TO_USER_DROP)
            sm_settled(s, e->n_in);
        envelope_free(e);
        return;
    }
    s->n_fed += e->n_bytes;
    if (!store_out_queue(s, e))
        store_sent(s, e);
}
