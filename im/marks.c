#include "im/marks.h"
#include "im/im_impl.h"
#include "im/sm_session.h"
#include "replication/levels.h"
#include <string.h>

enum {
    EVERY_MS = 1000,
    HURRIED_MS = 10, /* for each client that waits: a hundred of them as often as all others */
    HURRIED_MIN_MS = 50,
    ROWS_MAX = 1000, /* of one proposal */
    MUCH = 500,      /* messages that do not wait for the second to pass */
    PRESENCE_MAX = 8192,
};

/* One proposal in flight. */
struct marking {
    struct shard *shard;
    bool packed; /* of the whole shard */
    size_t max, n_refs, n_sessions, n_users;
    struct marked_ref {
        uint64_t uid, index;
        uint32_t place;
    } * refs;
    struct marked_session {
        uint64_t id, n_in;
    } * sessions;
    uint64_t *users; /* that count this proposal as theirs */
};

static struct marking *new_marking(struct shard *s, size_t max)
{
    struct marking *m =
        mem_zalloc(sizeof *m + max * (sizeof *m->refs + sizeof *m->sessions + sizeof *m->users));
    m->shard = s;
    m->max = max;
    m->refs = (struct marked_ref *)(m + 1);
    m->sessions = (struct marked_session *)(m->refs + max);
    m->users = (uint64_t *)(m->sessions + max);
    return m;
}

static struct mail_ref *find_ref(struct mailqueue *q, uint64_t index, uint32_t place)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link) if (r->index == index && r->place == place) return r;
    return NULL;
}

/* With what was given to clients, too. */
static bool is_due(const struct marks *m, uint64_t now)
{
    return now >= m->next_ms || m->n_sent >= MUCH;
}

static bool is_hurried(const struct marks *m, uint64_t now)
{
    return m->n_hurried && now >= m->next_hurried_ms;
}

static void schedule(struct shard *s)
{
    struct marks *m = s->marks;
    uint64_t now = loop_now_ms(s->loop);
    if (m->in_flight || m->scheduled || !(is_due(m, now) || is_hurried(m, now)))
        return;
    m->scheduled = true;
    loop_defer(s->loop, &m->run);
}

void marks_of_queue(struct mailqueue *q)
{
    struct shard *s = q->user->shard;
    if (s->settings.level < LEVEL_3)
        marks_propose_of(q);
    else
        schedule(s);
}

void marks_of_session(struct session *s)
{
    struct session_sm *sm = s->sm;
    if (list_is_empty(&sm->marks))
        list_append(&s->shard->marks->sessions, &sm->marks);
    schedule(s->shard);
}

void marks_hurry(struct session *s)
{
    struct session_sm *sm = s->sm;
    struct marks *m = s->shard->marks;
    if (!sm->hurried) {
        sm->hurried = true;
        m->n_hurried++;
        list_remove(&sm->marks);
        list_prepend(&m->sessions, &sm->marks);
    }
    schedule(s->shard);
}

void marks_forget(struct session_sm *sm)
{
    list_remove(&sm->marks);
    if (sm->hurried)
        sm->session->shard->marks->n_hurried--;
    sm->hurried = false;
}

/* ---- done ---- */

static void refs_done(struct marking *m, bool retry)
{
    struct shard *s = m->shard;
    for (size_t i = 0; i < m->n_refs; i++) {
        struct user *u = user_find(s, m->refs[i].uid);
        struct mail_ref *r = u && u->mail ? find_ref(u->mail, m->refs[i].index, m->refs[i].place) : NULL;
        if (!r)
            continue;
        r->marking = false;
        if (!retry)
            mail_ref_free(u->mail, r);
    }
}

enum row_state { ROW_TAKEN, ROW_NOT_TAKEN, ROW_GONE };

/* Of some sessions nothing was taken: their users have left, and they end here, too; or the row is gone. */
static enum row_state look_at_row(struct session *s, uint64_t n_in)
{
    struct shard *shard = s->shard;
    struct arena a;
    arena_init(&a);
    const Imp__SessionRow *row = sm_read_row(s, &a);
    enum row_state state = ROW_NOT_TAKEN;
    if (shard_place_of(shard, s->user->uid, NULL, NULL) == PLACE_HERE)
        state = !row || row->ended_ms ? ROW_GONE : row->n_in >= n_in ? ROW_TAKEN : ROW_NOT_TAKEN;
    arena_fini(&a);
    return state;
}

static void sessions_done(struct marking *m, const struct proposal_result *result)
{
    shard_see(m->shard, result->index);
    for (size_t i = 0; i < m->n_sessions; i++) {
        struct session *s = session_find(m->shard, m->sessions[i].id);
        if (!s || !s->sm)
            continue;
        s->sm->marking = false;
        enum row_state row = result->code ? ROW_NOT_TAKEN : ROW_TAKEN;
        if (!result->code && result->value2) /* of so many */
            row = look_at_row(s, m->sessions[i].n_in);
        sm_state_marked(s, row != ROW_NOT_TAKEN);
        if (row == ROW_GONE)
            sm_row_lost(s);
        else if (row == ROW_TAKEN)
            sm_covered(s, m->sessions[i].n_in);
        s = session_find(m->shard, m->sessions[i].id);
        if (s && s->sm && (result->code != 0 || s->sm->n_covered < sm_n_settled(s) || s->sm->state_changed))
            marks_of_session(s);
    }
}

static void on_done(void *user, const struct proposal_result *result)
{
    struct marking *m = user;
    struct shard *s = m->shard;
    bool retry = result->code == ERR_UNKNOWN_OUTCOME || result->code == ERR_UNAVAILABLE;
    if (m->packed)
        s->marks->in_flight = false;
    refs_done(m, retry);
    sessions_done(m, result);
    for (size_t i = 0; i < m->n_users; i++) {
        struct user *u = user_find(s, m->users[i]);
        if (u && u->mail)
            mail_pump(u->mail);
        user_proposal_ends(s, m->users[i]);
    }
    mem_free(m);
}

/* ---- proposing ---- */

struct builder {
    struct shard *shard;
    struct marking *m;
    struct arena arena;
    Imp__SessionMarkItem *items[ROWS_MAX];
    size_t n_items;
};

static bool is_full(const struct builder *b, size_t n)
{
    return b->n_items + b->m->n_refs + n > b->m->max;
}

static Imp__SessionMarkItem *add_item(struct builder *b, struct user *u)
{
    struct marking *m = b->m;
    Imp__SessionMarkItem *item = arena_alloc(&b->arena, sizeof *item);
    imp__session_mark_item__init(item);
    item->uid = u->uid;
    b->items[b->n_items++] = item;
    m->users[m->n_users++] = u->uid;
    user_proposal_begins(b->shard, u->uid);
    return item;
}

static void add_queue(struct builder *b, struct mailqueue *q)
{
    if (!q->n_sent || is_full(b, 2))
        return;
    struct marking *m = b->m;
    Imp__SessionMarkItem *item = NULL;
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link)
    {
        if (!r->sent || r->marking)
            continue;
        if (is_full(b, 1))
            return;
        if (!item) {
            item = add_item(b, q->user);
            item->messages = arena_alloc(&b->arena, q->n_sent * sizeof *item->messages);
        }
        Imp__MessageRef *ref = arena_alloc(&b->arena, sizeof *ref);
        imp__message_ref__init(ref);
        ref->index = r->index;
        ref->place = r->place;
        item->messages[item->n_messages++] = ref;
        m->refs[m->n_refs++] = (struct marked_ref){q->user->uid, r->index, r->place};
        r->marking = true;
    }
}

static void add_session(struct builder *b, struct session_sm *sm)
{
    struct session *s = sm->session;
    Imp__SessionMarkItem *item = add_item(b, s->user);
    item->session = sm->row;
    item->session_place = sm->row_place;
    item->n_in = sm_n_settled_with_state(s);
    item->n_out = sm->n_marked = sm->n_acked;
    if (sm->state_changed) {
        sm->state_changed = false;
        sm->marking_state = true;
        item->has_state = true;
        item->flags = (s->wants_roster ? SESSION_FLAG_ROSTER : 0) | (s->carbons ? SESSION_FLAG_CARBONS : 0);
        if (s->presence) {
            struct buf out = {0};
            struct envelope bare = *s->presence;
            bare.from = bare.to = "";
            envelope_write(&out, &bare, NULL, NULL);
            if (out.n <= PRESENCE_MAX) {
                item->presence.data = (uint8_t *)arena_strndup(&b->arena, out.data, out.n);
                item->presence.len = out.n;
            }
            buf_fini(&out);
        }
    }
    sm->marking = true;
    b->m->sessions[b->m->n_sessions++] = (struct marked_session){s->id, item->n_in};
}

static struct builder *new_builder(struct shard *s, size_t max)
{
    struct builder *b = mem_new(struct builder);
    b->shard = s;
    b->m = new_marking(s, max < ROWS_MAX ? max : ROWS_MAX);
    arena_init(&b->arena);
    return b;
}

/* Ends B. False: nothing is in flight. */
static bool submit_command(struct builder *b, Imp__Command *command)
{
    struct marking *m = b->m;
    bool any = b->n_items != 0, ok = any && shard_submit(b->shard, command, on_done, m) == 0;
    arena_fini(&b->arena);
    mem_free(b);
    if (any && !ok)
        on_done(m, &(struct proposal_result){.code = ERR_UNAVAILABLE, .text = ""});
    else if (!any)
        mem_free(m);
    return ok;
}

static bool submit(struct builder *b)
{
    Imp__SessionMark body = IMP__SESSION_MARK__INIT;
    body.n_items = b->n_items;
    body.items = b->items;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_SESSION_MARK;
    command.session_mark = &body;
    return submit_command(b, &command);
}

static void add_sessions(struct builder *b, bool all)
{
    struct marks *m = b->shard->marks;
    for (struct list *item; (item = list_first(&m->sessions)) && !is_full(b, 1);) {
        struct session_sm *sm = list_entry(item, struct session_sm, marks);
        if (!all && !sm->hurried)
            return;
        marks_forget(sm);
        if (!sm->marking)
            add_session(b, sm);
    }
}

/* In turn: who was taken goes to the end. */
static void add_queues(struct builder *b)
{
    struct shard *s = b->shard;
    struct mailqueue *q;
    struct list taken;
    list_init(&taken);
    list_for_each(q, &s->mail, struct mailqueue, link)
    {
        if (is_full(b, 2) || s->marks->n_sent == 0)
            break;
        if (!q->n_sent)
            continue;
        add_queue(b, q);
        list_remove(&q->link);
        list_append(&taken, &q->link);
    }
    for (struct list *item; (item = list_first(&taken));) {
        list_remove(item);
        list_append(&s->mail, item);
    }
}

static void run(struct shard *s)
{
    struct marks *marks = s->marks;
    uint64_t now = loop_now_ms(s->loop);
    bool all = is_due(marks, now);
    if (marks->in_flight || !(all || is_hurried(marks, now)))
        return;
    struct builder *b = new_builder(s, ROWS_MAX);
    b->m->packed = true;
    add_sessions(b, all);
    uint64_t pause_ms = b->m->n_sessions * HURRIED_MS;
    if (all) {
        add_queues(b);
        marks->next_ms = now + EVERY_MS;
    }
    marks->next_hurried_ms = now + (pause_ms < HURRIED_MIN_MS ? HURRIED_MIN_MS
                                    : pause_ms > EVERY_MS     ? EVERY_MS
                                                              : pause_ms);
    marks->in_flight = b->n_items != 0;
    if (!submit(b))
        marks->in_flight = false;
}

static void on_run(struct deferred *d)
{
    struct marks *m = container_of(d, struct marks, run);
    m->scheduled = false;
    run(m->shard);
}

/* ---- level 1 and 2: a proposal for each user, at once ---- */

static void propose_old(struct mailqueue *q)
{
    struct builder *b = new_builder(q->user->shard, q->n_sent + 1);
    add_queue(b, q);
    Imp__MessageMark body = IMP__MESSAGE_MARK__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_MARK;
    command.message_mark = &body;
    if (b->n_items) {
        body.uid = b->items[0]->uid;
        body.n_refs = b->items[0]->n_messages;
        body.refs = b->items[0]->messages;
    }
    submit_command(b, &command);
}

void marks_propose_of(struct mailqueue *q)
{
    struct shard *s = q->user->shard;
    if (s->settings.level < LEVEL_3) {
        propose_old(q);
        return;
    }
    struct builder *b = new_builder(s, q->n_sent + 1);
    add_queue(b, q);
    submit(b);
}

/* ---- */

void marks_tick(struct shard *s)
{
    struct marks *m = s->marks;
    if (s->settings.level < LEVEL_3) {
        struct mailqueue *q;
        list_for_each(q, &s->mail, struct mailqueue, link) if (q->n_sent) marks_propose_of(q);
    } else if (m->n_sent || !list_is_empty(&m->sessions)) {
        schedule(s);
    }
}

void marks_init(struct shard *s)
{
    s->marks = mem_new(struct marks);
    s->marks->shard = s;
    list_init(&s->marks->sessions);
    list_init(&s->marks->run.link);
    s->marks->run.fn = on_run;
}

void marks_fini(struct shard *s)
{
    mem_free(s->marks);
    s->marks = NULL;
}
