#include "im/shard.h"
#include "base/clock.h"
#include "im/archive.h"
#include "im/homes.h"
#include "im/im_impl.h"
#include "im/marks.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/repeats.h"
#include "im/roster.h"
#include "im/router.h"
#include "im/session.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/stored.h"
#include "im/user.h"
#include <stdio.h>
#include <string.h>

enum { TICK_MS = 100, STOP_MS = 3000 };

static bool has_id(const struct hnode *node, const void *key, size_t n_bytes)
{
    (void)n_bytes;
    uint64_t id;
    memcpy(&id, key, sizeof id);
    return container_of(node, struct session, node)->id == id;
}

static bool has_uid(const struct hnode *node, const void *key, size_t n_bytes)
{
    (void)n_bytes;
    uint64_t uid;
    memcpy(&uid, key, sizeof uid);
    return container_of(node, struct user, node)->uid == uid;
}

void shard_drop_reader(struct shard *s)
{
    if (s->reader)
        store_reader_reset(s->reader);
}

struct store_txn *shard_txn(struct shard *s)
{
    /* Made on the shard's own thread: a reader belongs to one. */
    if (!s->reader)
        s->reader = store_reader_new(s->im->options.store);
    return store_read_txn(s->reader);
}

void shard_see(struct shard *s, uint64_t index)
{
    if (s->reader && store_reader_index(s->reader) < index)
        store_reader_reset(s->reader);
}

int shard_submit_for(struct shard *s, Imp__Command *command, unsigned timeout_ms, proposal_done_fn *on_done,
                     void *user)
{
    const struct im_backend *b = &s->im->options.backend;
    return b->submit(b->user, command, s->loop, timeout_ms, on_done, user);
}

int shard_submit(struct shard *s, Imp__Command *command, proposal_done_fn *on_done, void *user)
{
    return shard_submit_for(s, command, 0, on_done, user);
}

void shard_watch(struct shard *s, struct shard_watcher *w)
{
    list_append(&s->watchers, &w->link);
}

/* ---- turn and tick ---- */

/* Runs after the streams have written what this turn made: work deferred by the hook is done after them. */
static void on_check_sent(struct deferred *d)
{
    struct shard *s = container_of(d, struct shard, check_sent);
    s->check_done = true;
    session_check_sent(s);
    message_check_sent(s);
}

static void before_poll(struct loop_hook *hook)
{
    struct shard *s = container_of(hook, struct shard, before_poll);
    if ((!list_is_empty(&s->flushing) || !list_is_empty(&s->mail_check)) && !s->check_done &&
        list_is_empty(&s->check_sent.link))
        loop_defer(s->loop, &s->check_sent);
    shard_drop_reader(s);
}

static void close_sessions(struct shard *s)
{
    htab_for_each(node, &s->sessions)
    {
        struct session *session = container_of(node, struct session, node);
        session->ops->close(session, SESSION_SHUTDOWN);
    }
}

static void finish_stop(struct shard *s)
{
    if ((s->n_sessions || s->n_busy) && loop_now_ms(s->loop) < s->stop_ms + STOP_MS)
        return;
    timer_stop(&s->tick);
    shard_drop_reader(s);
    loop_stop(s->loop);
}

static void on_tick(struct timer *timer)
{
    struct shard *s = container_of(timer, struct shard, tick);
    if (s->stopping) {
        finish_stop(s);
        return;
    }
    shard_check_lease(s);
    s->check_done = false;
    if (!im_is_serving(s->im) && s->n_sessions)
        close_sessions(s);
    router_advance(s);
    session_store_unacked(s);
    store_out_tick(s);
    message_tick(s);
    roster_tick(s);
    marks_tick(s);
    sm_tick(s);
    homes_touch(s); /* whatever else a question waits for */
}

static void on_started(void *arg, struct shard *s)
{
    (void)arg;
    shard_txn(s);
    s->applied_index = s->feed_seen = s->feed_index = store_reader_index(s->reader);
    shard_reload(s);
    shard_check_lease(s);
    timer_start(&s->tick, TICK_MS, TICK_MS);
}

static void on_stop(void *arg, struct shard *s)
{
    (void)arg;
    if (s->stopping)
        return;
    s->stopping = true;
    s->stop_ms = loop_now_ms(s->loop);
    struct shard_watcher *w;
    list_for_each(w, &s->watchers, struct shard_watcher, link) if (w->on_stop) w->on_stop(w);
    htab_for_each(node, &s->sessions)
    {
        struct session *session = container_of(node, struct session, node);
        session->ops->close(session, SESSION_SHUTDOWN);
    }
    timer_start(&s->tick, 20, 20);
}

/* ---- calls ---- */

struct call {
    struct letter letter;
    struct shard *shard;
    void (*fn)(void *arg, struct shard *s);
    void *arg;
};

static void deliver_call(struct letter *letter)
{
    struct call *c = container_of(letter, struct call, letter);
    c->fn(c->arg, c->shard);
    mem_free(c);
}

static void discard_call(struct letter *letter)
{
    mem_free(container_of(letter, struct call, letter));
}

void shard_call(struct shard *s, void (*fn)(void *arg, struct shard *s), void *arg)
{
    struct call *c = mem_new(struct call);
    c->letter.deliver = deliver_call;
    c->letter.discard = discard_call;
    c->shard = s;
    c->fn = fn;
    c->arg = arg;
    loop_post(s->loop, &c->letter);
}

/* ---- making and ending ---- */

int shard_init(struct shard *s, struct im *im, unsigned index, struct err_ctx *err)
{
    char name[16];
    snprintf(name, sizeof name, "shard%u", index);
    s->im = im;
    s->index = index;
    s->log = im->log;
    if (loop_new(&s->loop, name, im->log) < 0)
        return err_set(err, ERR_SYSTEM, "cannot make an event loop for shard %u", index);
    loop_set_metrics(s->loop, im->options.metrics);
    htab_init(&s->users, has_uid);
    htab_init(&s->sessions, has_id);
    list_init(&s->watchers);
    list_init(&s->flushing);
    list_init(&s->unacked);
    list_init(&s->mail);
    list_init(&s->pushing);
    roster_init(s);
    subscription_outside_init(s);
    list_init(&s->mail_check);
    list_init(&s->sm_waiting);
    list_init(&s->stalled);
    list_init(&s->fences);
    marks_init(s);
    list_init(&s->check_sent.link);
    s->check_sent.fn = on_check_sent;
    s->lease = LEASE_WAIT;
    s->untold.since = UINT64_MAX;
    s->next_session = (random_u64() >> 16 << 8 | index) & ~(UINT64_C(1) << 63);
    homes_shard_init(s);
    archive_shard_init(s);
    router_init(s);
    outside_init(s);
    s->before_poll.fn = before_poll;
    loop_add_before_poll(s->loop, &s->before_poll);
    timer_init(&s->tick, s->loop, on_tick);
    const struct im_backend *b = &im->options.backend;
    b->add_feed(b->user, s->loop, &shard_feed, s);
    return 0;
}

int shard_start(struct shard *s)
{
    shard_call(s, on_started, NULL);
    return loop_start_thread(s->loop);
}

void shard_begin_stop(struct shard *s)
{
    shard_call(s, on_stop, NULL);
}

/* After the thread ended. */
void shard_fini(struct shard *s)
{
    if (!s->loop)
        return;
    router_fini(s);
    roster_fini(s);
    subscription_outside_fini(s);
    outside_fini(s);
    htab_for_each(node, &s->users) user_free(container_of(node, struct user, node));
    htab_fini(&s->users);
    htab_fini(&s->sessions);
    archive_shard_fini(s);
    marks_fini(s);
    repeats_fini(s);
    loop_free(s->loop);
    if (s->reader)
        store_reader_free(s->reader);
    members_free(s->members);
    mem_free(s->domain);
    stored_ids_free(s->ids);
    buf_fini(&s->scratch);
    buf_fini(&s->scratch_out);
}
