#include "im/session.h"
#include "base/clock.h"
#include "im/archive.h"
#include "im/events.h"
#include "im/im_impl.h"
#include "im/mail.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/user.h"
#include <assert.h>
#include <string.h>

bool session_is_open(const struct session *s)
{
    return s->user != NULL;
}

bool session_is_available(const struct session *s)
{
    return s->presence != NULL;
}

struct session *session_find(struct shard *shard, uint64_t id)
{
    struct hnode *node = htab_find(&shard->sessions, &id, sizeof id);
    return node ? container_of(node, struct session, node) : NULL;
}

size_t session_queued(const struct session *s)
{
    return s->ops->queued(s);
}

/* ---- opening ---- */

static int check_user(struct shard *shard, uint64_t uid, uint64_t *since, struct err_ctx *err)
{
    enum home_place place;
    struct arena a;
    arena_init(&a);
    int rc = 0;
    Imp__UserRow *row = shard_user_row(shard, uid, &a);
    if (!row)
        rc = err_set(err, ERR_DENIED, "the account does not exist");
    else if (row->locked)
        rc = err_set(err, ERR_DENIED, "the account is locked");
    else if ((place = shard_place_of_row(shard, row, NULL, since)) == PLACE_ARRIVING)
        rc = err_set(err, ERR_AGAIN, "the account is moving to this node");
    else if (place != PLACE_HERE)
        rc = err_set(err, ERR_UNAVAILABLE, "another node serves this account now");
    arena_fini(&a);
    return rc;
}

static const char *pick_resource(struct user *u, const char *wanted, char out[64])
{
    if (wanted && !user_find_session(u, wanted))
        return wanted;
    do
        random_hex(out, 8); /* RFC 6120 §7.6: not to be guessed */
    while (user_find_session(u, out));
    return out;
}

static uint8_t free_slot(const struct user *u)
{
    const struct session *s;
    uint64_t taken = 0;
    uint8_t slot = 0;
    list_for_each(s, &u->sessions, struct session, link) if (s->slot < SESSION_SLOTS) taken |= UINT64_C(1)
                                                                                               << s->slot;
    while (slot < SESSION_SLOTS && taken >> slot & 1)
        slot++;
    return slot;
}

static int open_for_user(struct session *s, struct shard *shard, uint64_t uid, const char *jid,
                         const char *resource, const struct session_ops *ops, struct err_ctx *err)
{
    struct user *u = user_get(shard, uid, jid);
    struct session *old = resource ? user_find_session(u, resource) : NULL;
    if (old && shard->settings.conflict == CONFLICT_REFUSE) {
        user_release(u);
        return err_set(err, ERR_CONFLICT, "the resource is in use");
    }
    if (old && shard->settings.conflict == CONFLICT_RENAME)
        old = NULL;
    if (!old && u->n_sessions >= shard->settings.sessions_per_user) {
        user_release(u);
        return err_set(err, ERR_LIMIT, "too many sessions of this account");
    }
    if (old) {
        old->ops->close(old, SESSION_CONFLICT);
        session_end(old);
        u = user_get(shard, uid, jid);
    }
    char made[64];
    resource = pick_resource(u, resource, made);
    s->shard = shard;
    s->user = u;
    s->ops = ops;
    s->id = s->shard->next_session += 256;
    s->slot = free_slot(u);
    s->since_ms = s->live_ms = clock_wall_ms();
    s->first_index = shard->feed_seen;
    s->jid = mem_printf("%s/%s", u->jid, resource);
    s->resource = jid_resource(s->jid);
    list_init(&s->directed);
    list_init(&s->flush_link);
    list_init(&s->unsent);
    list_init(&s->queued);
    list_init(&s->stalled);
    list_append(&u->sessions, &s->link);
    u->n_sessions++;
    htab_add(&shard->sessions, &s->node, &s->id, sizeof s->id);
    shard->n_sessions++;
    atomic_fetch_add_explicit(&shard->im->n_sessions, 1, memory_order_relaxed);
    metrics_add(shard->im->options.metrics, METRIC_XMPP_SESSIONS, 1);
    session_gate_changed(s);
    return 0;
}

int session_open(struct session *s, struct shard *shard, uint64_t uid, const char *resource,
                 const struct session_ops *ops, struct err_ctx *err)
{
    assert(!s->user);
    uint64_t since;
    int rc = check_user(shard, uid, &since, err);
    if (rc < 0)
        return rc;
    struct arena a;
    arena_init(&a);
    char *jid = mem_strdup(shard_user_jid(shard, uid, &a));
    arena_fini(&a);
    rc = open_for_user(s, shard, uid, jid, resource, ops, err);
    mem_free(jid);
    if (rc == 0)
        user_taken(s->user, since);
    return rc;
}

/* ---- ending ---- */

/* What the client has leaves the list, and its sender's home hears of it. */
static void check_output(struct session *s)
{
    uint64_t written, sent;
    s->ops->output(s, &written, &sent);
    struct envelope *e;
    list_for_each(e, &s->unsent, struct envelope, link)
    {
        if (e->out_end > sent)
            break;
        sm_settle(s->shard, e);
        store_out_drop(e);
    }
}

/* What was written but never reached the kernel is not lost: it is received once more, now without this
 * session. */
static void take_back_unsent(struct shard *shard, struct list *unsent)
{
    for (struct list *item; (item = list_first(unsent));) {
        list_remove(item);
        list_init(item);
        message_take_back(shard, list_entry(item, struct envelope, link));
    }
}

void session_end(struct session *s)
{
    struct user *u = s->user;
    if (!u)
        return;
    struct shard *shard = s->shard;
    store_out_session_ended(s);
    check_output(s);
    list_remove(&s->flush_link);
    timer_stop(&s->throttle);
    presence_session_ended(s);
    message_session_ended(s);
    sm_free(s);
    list_remove(&s->link);
    if (--u->n_sessions == 0)
        user_left(u);
    htab_remove(&shard->sessions, &s->node);
    shard->n_sessions--;
    atomic_fetch_sub_explicit(&shard->im->n_sessions, 1, memory_order_relaxed);
    metrics_add(shard->im->options.metrics, METRIC_XMPP_SESSIONS, -1);
    s->user = NULL;
    take_back_unsent(shard, &s->unsent);
    event_nodes_unref(s->wanted);
    s->wanted = NULL;
    mem_free(s->jid);
    s->jid = NULL;
    user_release(u);
}

/* ---- order against the log ---- */

struct submission {
    struct shard *shard;
    uint64_t session, uid;
    session_done_fn *on_done;
    void *user;
};

static void on_submitted(void *user, const struct proposal_result *result)
{
    struct submission *sub = user;
    struct session *s = session_find(sub->shard, sub->session);
    if (s) {
        s->n_in_flight--;
        if (result->index > s->after_index)
            s->after_index = result->index;
    }
    shard_see(sub->shard, result->index);
    if (sub->on_done)
        sub->on_done(s, sub->shard, sub->user, result);
    s = session_find(sub->shard, sub->session); /* the callback may have ended it */
    if (s && s->n_in_flight == 0) {
        if (s->sm)
            sm_settled(s, 0);
        session_resume(s, PAUSE_ORDER);
    }
    user_proposal_ends(sub->shard, sub->uid);
    mem_free(sub);
}

int session_submit(struct session *s, Imp__Command *command, session_done_fn *on_done, void *user)
{
    struct submission *sub = mem_new(struct submission);
    sub->shard = s->shard;
    sub->session = s->id;
    sub->uid = s->user->uid;
    sub->on_done = on_done;
    sub->user = user;
    int rc = shard_submit(s->shard, command, on_submitted, sub);
    if (rc < 0) {
        mem_free(sub);
        return rc;
    }
    s->n_in_flight++;
    user_proposal_begins(s->shard, sub->uid);
    session_pause(s, PAUSE_ORDER);
    return 0;
}

/* ---- not reading ---- */

void session_pause(struct session *s, enum session_pause why)
{
    bool was = s->paused;
    s->paused |= why;
    if (!was)
        s->ops->pause(s);
}

void session_resume(struct session *s, enum session_pause why)
{
    if (!(s->paused & why))
        return;
    s->paused &= (uint8_t)~why;
    if (s->paused)
        return;
    s->ops->resume(s);
}

void session_gate_changed(struct session *s)
{
    if (s->shard->lease == LEASE_WAIT)
        session_pause(s, PAUSE_LEASE);
    else
        session_resume(s, PAUSE_LEASE);
}

static void on_throttle_end(struct timer *t)
{
    session_resume(container_of(t, struct session, throttle), PAUSE_THROTTLE);
}

void session_throttle(struct session *s, unsigned ms)
{
    enum { BURST_BYTES = 32 << 10 };
    if (s->n_fed - s->n_fed_paused < BURST_BYTES)
        return;
    s->n_fed_paused = s->n_fed;
    session_pause(s, PAUSE_THROTTLE);
    if (!s->throttle.fn)
        timer_init(&s->throttle, s->shard->loop, on_throttle_end);
    timer_start(&s->throttle, ms, 0);
}

/* ---- what the client was given ---- */

void session_keep(struct session *s, struct envelope *e)
{
    uint64_t sent;
    s->ops->output(s, &e->out_end, &sent);
    e->queued_ms = loop_now_ms(s->shard->loop);
    e->keeper = s->id;
    list_append(&s->unsent, &e->link);
    if (!s->sm)
        s->shard->check_done = false;
    if (list_is_empty(&s->flush_link))
        list_append(s->sm ? &s->shard->unacked : &s->shard->flushing, &s->flush_link);
}

void session_note_given(struct given *g, struct session *const *sessions, size_t n)
{
    *g = (struct given){0};
    for (size_t i = 1; i < n; i++) {
        if (sessions[i]->slot < SESSION_SLOTS)
            g->slots |= UINT64_C(1) << sessions[i]->slot;
        if (sessions[i]->id > g->last_id)
            g->last_id = sessions[i]->id;
    }
}

/* Who was there then but not given it, or came later, must not answer: its client has not got it. */
struct session *session_heir(const struct user *u, const struct given *g, const struct session *from)
{
    struct session *s, *heir = NULL;
    if (!g->slots)
        return NULL;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (s == from || s->id > g->last_id || s->slot >= SESSION_SLOTS || !(g->slots >> s->slot & 1))
            continue;
        if (!heir || (heir->detached && !s->detached))
            heir = s;
    }
    return heir;
}

void session_deliver_kept(struct session *s, struct envelope *e)
{
    s->ops->deliver(s, e, NULL);
    session_keep(s, e);
}

void session_check_sent(struct shard *shard)
{
    struct session *s;
    list_for_each(s, &shard->flushing, struct session, flush_link)
    {
        check_output(s);
        if (list_is_empty(&s->unsent))
            list_remove(&s->flush_link);
    }
}

void session_check_output(struct session *s)
{
    uint64_t written, sent;
    s->ops->output(s, &written, &sent);
    sm_check_refused(s, sent);
    check_output(s);
    if (list_is_empty(&s->unsent))
        list_remove(&s->flush_link);
    struct mailqueue *q = s->user->mail;
    if (q && q->n_refs > q->n_sent)
        mail_check_sent(q);
    if (s->user->mail)
        mail_pump(s->user->mail);
}

/* Of what the client has not acknowledged for MS, what its sender waits for; ALL: whoever sent it. */
static void store_late(struct session *s, uint64_t ms, bool all)
{
    uint64_t now = loop_now_ms(s->shard->loop);
    struct envelope *e;
    list_for_each(e, &s->unsent, struct envelope, link)
    {
        if (!e->storing && (all || e->flags & ENVELOPE_COUNTED) && now - e->queued_ms >= ms &&
            archive_is_worth_storing(e))
            store_out_late(s, e);
    }
}

void session_store_unacked(struct shard *shard)
{
    enum { UNACKED_MS = 200 }; /* architecture: Messages */
    struct session *s;
    list_for_each(s, &shard->unacked, struct session, flush_link) store_late(s, UNACKED_MS, s->detached);
}

void session_detach(struct session *s)
{
    s->detached = true;
    store_late(s, 0, true);
}

void session_attach(struct session *s)
{
    s->detached = false;
    s->behind = true; /* what came meanwhile is in the store */
    message_session_drained(s);
}
