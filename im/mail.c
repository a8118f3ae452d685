#include "im/mail.h"
#include "base/clock.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/message.h"
#include "im/router.h"
#include "im/stored.h"
#include "replication/levels.h"
#include <stdio.h>
#include <string.h>

enum {
    WINDOW_ROWS = 256, /* stored messages in a session's output */
    WINDOW_BYTES = 256 << 10,
    HOLD_BYTES = 4 << 20, /* of messages that wait in memory behind stored ones, or for a slow reader */
    HOLD_SOFT = 1 << 20,  /* before senders are slowed */
    HOLD_THROTTLE_MS = 50,
    STORING_SOFT = 512, /* per user, before senders are slowed */
    N_RETRIES = 3,
};

struct mailqueue *mail_get(struct user *u)
{
    if (u->mail)
        return u->mail;
    struct mailqueue *q = mem_new(struct mailqueue);
    q->user = u;
    list_init(&q->hold);
    list_init(&q->refs);
    list_append(&u->shard->mail, &q->link);
    u->mail = q;
    if (list_is_empty(&u->sessions))
        shard_place_of(u->shard, u->uid, NULL, &u->since);
    return q;
}

static void free_queue(struct mailqueue *q)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link) mem_free(r);
    struct envelope *e;
    list_for_each(e, &q->hold, struct envelope, link) envelope_free(e);
    list_remove(&q->link);
    mem_free(q);
}

void message_user_freed(struct user *u)
{
    if (u->mail)
        free_queue(u->mail);
    u->mail = NULL;
}

bool mail_is_busy(const struct user *u)
{
    const struct mailqueue *q = u->mail;
    return q && (q->n_storing || q->more || !list_is_empty(&q->hold));
}

/* ---- storing ---- */

struct storing {
    struct shard *shard;
    struct envelope *envelope;
    char *origin;
    unsigned n_tries;
};

/* As soon as this turn's output is written: until a row is marked, it comes again if the user's home moves.
 */
void mail_look_at_output(struct shard *s)
{
    s->has_mail_out = true;
    s->check_done = false;
}

static int propose(struct storing *st);

static void free_storing(struct storing *st)
{
    envelope_free(st->envelope);
    mem_free(st->origin);
    mem_free(st);
}

static void refuse(struct shard *s, struct envelope *e, int code)
{
    bool full = code == ERR_LIMIT || code == ERR_NOTFOUND;
    router_bounce(s, e, full ? STANZA_SERVICE_UNAVAILABLE : STANZA_RESOURCE_CONSTRAINT, NULL);
}

static void on_stored(void *user, const struct proposal_result *result)
{
    struct storing *st = user;
    struct shard *s = st->shard;
    /* With the same origin again: if it did happen, the state machine knows it. */
    if (result->code == ERR_UNKNOWN_OUTCOME && st->n_tries < N_RETRIES && propose(st) == 0)
        return;
    uint64_t uid = st->envelope->to_uid;
    struct user *u = user_find(s, uid);
    struct mailqueue *q = u ? u->mail : NULL;
    if (q)
        q->n_storing--;
    if (result->code != 0)
        refuse(s, st->envelope, result->code);
    else
        metrics_add(s->im->options.metrics, METRIC_MESSAGES_STORED, 1);
    free_storing(st);
    if (q)
        mail_pump(q);
    user_proposal_ends(s, uid);
}

static int propose(struct storing *st)
{
    struct envelope *e = st->envelope;
    struct shard *s = st->shard;
    st->n_tries++;
    /* As it is to be delivered, but without the addresses, which are fields of their own. */
    struct envelope bare = *e;
    bare.from = bare.to = "";
    struct buf stanza = {0};
    envelope_write(&stanza, &bare, NULL, NULL);
    Imp__MessageStore body = IMP__MESSAGE_STORE__INIT;
    body.to_uid = e->to_uid;
    body.from = (char *)e->from;
    body.to = (char *)e->to;
    body.stanza = (ProtobufCBinaryData){stanza.n, (uint8_t *)stanza.data};
    body.origin = st->origin;
    if (s->members->level >= LEVEL_3) {
        body.from_uid = e->from_uid;
        body.pending = true;
        body.at_recipient = true;
    }
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    command.message_store = &body;
    int rc = shard_submit(s, &command, on_stored, st);
    buf_fini(&stanza);
    return rc;
}

void mail_store(struct shard *s, struct envelope *e)
{
    struct user *u = user_get(s, e->to_uid, e->to);
    im_hooks_delivered(s, e->to_uid, u, e, NULL, 0);
    struct mailqueue *q = mail_get(u);
    struct storing *st = mem_new(struct storing);
    st->shard = s;
    st->envelope = e;
    st->origin = mem_printf("%s.%u.%llu", s->im->origin, s->index, (unsigned long long)++s->n_stored);
    int rc = propose(st);
    if (rc < 0) {
        refuse(s, e, ERR_UNAVAILABLE);
        free_storing(st);
        return;
    }
    user_proposal_begins(s, u->uid);
    if (++q->n_storing > STORING_SOFT)
        router_throttle(s, e, HOLD_THROTTLE_MS);
}

void mail_queue(struct shard *s, struct user *u, struct envelope *e)
{
    struct mailqueue *q = mail_get(u);
    struct session *any[1];
    if ((message_pick(u, any, 1) || message_has_behind(u)) && q->hold_bytes + e->n_bytes <= HOLD_BYTES) {
        q->hold_bytes += e->n_bytes;
        list_append(&q->hold, &e->link);
        if (q->hold_bytes > HOLD_SOFT)
            router_throttle(s, e, HOLD_THROTTLE_MS);
        return;
    }
    /* Nobody to wait for, or too much to wait with: all of it becomes stored messages, in this order. */
    for (struct list *item; (item = list_first(&q->hold));) {
        list_remove(item);
        mail_store(s, list_entry(item, struct envelope, link));
    }
    q->hold_bytes = 0;
    mail_store(s, e);
}

/* ---- delivering ---- */

static bool is_out(const struct mailqueue *q, uint64_t index, uint32_t place)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link) if (r->index == index && r->place == place) return true;
    return false;
}

static void hand_out(struct mailqueue *q, const Imp__MessageRow *row, struct session **to, size_t n)
{
    struct shard *s = q->user->shard;
    struct envelope *e = stored_stanza(row->stanza.data, row->stanza.len, row->from, row->to);
    struct mail_ref *r = mem_new(struct mail_ref);
    r->index = q->at_index;
    r->place = q->at_place;
    r->session = to[0]->id;
    list_append(&q->refs, &r->link);
    q->n_refs++;
    if (!e) {
        log_warning(s->log, "stored message %llu/%u cannot be read", (unsigned long long)r->index, r->place);
        r->sent = true;
        return;
    }
    char stamp[32], delay[1280]; /* XEP-0203 */
    clock_format_utc(stamp, row->time_ms, 1);
    snprintf(delay, sizeof delay, "<delay xmlns='urn:xmpp:delay' from='%s' stamp='%s'/>", s->domain, stamp);
    for (size_t i = 0; i < n; i++)
        to[i]->ops->deliver(to[i], e, delay);
    uint64_t sent;
    to[0]->ops->output(to[0], &r->out_end, &sent);
    mail_look_at_output(q->user->shard);
    envelope_free(e);
}

/* One pending row after the cursor; false: there is none. */
static bool next_row(struct mailqueue *q, Imp__MessageRow **out, struct arena *a)
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
    }
    store_iter_fini(&it);
    return found;
}

static void release_hold(struct mailqueue *q)
{
    struct shard *s = q->user->shard;
    struct session *sessions[32];
    for (struct list *item; (item = list_first(&q->hold)) && !q->more && !q->n_storing;) {
        size_t n = message_pick(q->user, sessions, n_elements(sessions));
        if (!n && message_has_behind(q->user))
            return;
        list_remove(item);
        struct envelope *e = list_entry(item, struct envelope, link);
        q->hold_bytes -= e->n_bytes;
        if (n)
            message_deliver(s, e, sessions, n);
        else
            mail_store(s, e);
    }
}

void mail_pump(struct mailqueue *q)
{
    /* Without the lease the user may be at home elsewhere, and get it there. The tick tries again. */
    if (!shard_has_lease(q->user->shard))
        return;
    struct session *sessions[32];
    struct arena a;
    arena_init(&a);
    while (q->more) {
        size_t n = message_pick(q->user, sessions, n_elements(sessions));
        if (!n || q->n_refs >= WINDOW_ROWS || session_queued(sessions[0]) >= WINDOW_BYTES)
            break;
        Imp__MessageRow *row;
        if (!next_row(q, &row, &a))
            q->more = false;
        else
            hand_out(q, row, sessions, n);
        arena_reset(&a);
    }
    arena_fini(&a);
    release_hold(q);
}

/* ---- marking ---- */

struct marking {
    struct shard *shard;
    uint64_t uid;
    size_t n;
    struct {
        uint64_t index;
        uint32_t place;
    } refs[];
};

static struct mail_ref *find_ref(struct mailqueue *q, uint64_t index, uint32_t place)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link) if (r->index == index && r->place == place) return r;
    return NULL;
}

static void on_marked(void *user, const struct proposal_result *result)
{
    struct marking *m = user;
    struct user *u = user_find(m->shard, m->uid);
    struct mailqueue *q = u ? u->mail : NULL;
    for (size_t i = 0; q && i < m->n; i++) {
        struct mail_ref *r = find_ref(q, m->refs[i].index, m->refs[i].place);
        if (!r)
            continue;
        r->marking = false;
        if (result->code == ERR_UNKNOWN_OUTCOME || result->code == ERR_UNAVAILABLE)
            continue; /* the next tick tries again */
        list_remove(&r->link);
        mem_free(r);
        q->n_refs--;
    }
    if (q && q->n_refs)
        mail_look_at_output(m->shard); /* what was written meanwhile */
    if (q)
        mail_pump(q);
    user_proposal_ends(m->shard, m->uid);
    mem_free(m);
}

static void check_sent(struct mailqueue *q)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link)
    {
        if (r->sent)
            continue;
        struct session *s = session_find(q->user->shard, r->session);
        if (!s)
            continue;
        uint64_t written, sent;
        s->ops->output(s, &written, &sent);
        r->sent = r->out_end <= sent;
    }
}

static void propose_marks(struct mailqueue *q)
{
    Imp__MessageRef refs[WINDOW_ROWS], *pointers[WINDOW_ROWS];
    struct marking *m = mem_zalloc(sizeof *m + WINDOW_ROWS * sizeof m->refs[0]);
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link)
    {
        if (!r->sent || r->marking || m->n == WINDOW_ROWS)
            continue;
        m->refs[m->n].index = r->index;
        m->refs[m->n].place = r->place;
        imp__message_ref__init(&refs[m->n]);
        refs[m->n].index = r->index;
        refs[m->n].place = r->place;
        pointers[m->n] = &refs[m->n];
        m->n++;
    }
    if (!m->n) {
        mem_free(m);
        return;
    }
    m->shard = q->user->shard;
    m->uid = q->user->uid;
    Imp__MessageMark body = IMP__MESSAGE_MARK__INIT;
    body.uid = m->uid;
    body.n_refs = m->n;
    body.refs = pointers;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_MARK;
    command.message_mark = &body;
    if (shard_submit(m->shard, &command, on_marked, m) < 0) {
        mem_free(m);
        return;
    }
    user_proposal_begins(m->shard, m->uid);
    list_for_each(r, &q->refs, struct mail_ref, link) r->marking |= r->sent;
}

void mail_check_sent(struct mailqueue *q)
{
    struct mail_ref *r;
    check_sent(q);
    list_for_each(r, &q->refs, struct mail_ref,
                  link) if (r->marking) return; /* the next mark takes the rest along */
    propose_marks(q);
}

/* Rows that no client was given are the next home's; those that one was must not come a second time. */
void mail_leave(struct user *u)
{
    struct mailqueue *q = u->mail;
    if (!q)
        return;
    q->more = false;
    for (struct list *item; (item = list_first(&q->hold));) {
        list_remove(item);
        router_forward(u->shard, list_entry(item, struct envelope, link));
    }
    q->hold_bytes = 0;
    if (q->n_refs)
        propose_marks(q);
}

void mail_tick(struct mailqueue *q)
{
    struct user *u = q->user;
    if (q->n_refs) {
        check_sent(q);
        propose_marks(q);
    }
    mail_pump(q);
    struct session *any[1];
    bool waits = !list_is_empty(&q->hold) || (q->more && message_pick(u, any, 1));
    if (!list_is_empty(&q->hold) && !message_pick(u, any, 1) && !message_has_behind(u)) {
        struct envelope *e = list_entry(list_first(&q->hold), struct envelope, link);
        list_remove(&e->link);
        q->hold_bytes -= e->n_bytes;
        mail_queue(u->shard, u, e);
        return;
    }
    if (waits || q->n_storing || q->n_refs)
        return;
    u->mail = NULL;
    free_queue(q);
    user_release(u);
}
