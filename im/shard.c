#include "im/shard.h"
#include "base/clock.h"
#include "im/archive.h"
#include "im/block.h"
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
#include "replication/levels.h"
#include "replication/settings.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { TICK_MS = 100, LEASE_REFUSE_MS = 5000, LEASE_CLOSE_MS = 10000, STOP_MS = 3000 };

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

static void drop_reader(struct shard *s)
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

int shard_submit(struct shard *s, Imp__Command *command, proposal_done_fn *on_done, void *user)
{
    const struct im_backend *b = &s->im->options.backend;
    return b->submit(b->user, command, s->loop, 0, on_done, user);
}

void shard_watch(struct shard *s, struct shard_watcher *w)
{
    list_append(&s->watchers, &w->link);
}

/* ---- lease ---- */

static void set_lease(struct shard *s, enum shard_lease lease)
{
    if (s->lease == lease)
        return;
    static const char *const names[] = {"held", "lost for a moment", "lost: refusing stanzas",
                                        "lost: closing client streams"};
    log_at(s->log, lease == LEASE_REFUSE || lease == LEASE_CLOSED ? LOG_WARNING : LOG_INFO,
           "shard %u: lease %s", s->index, names[lease]);
    s->lease = lease;
    struct session *session;
    htab_for_each(node, &s->sessions)
    {
        session = container_of(node, struct session, node);
        if (lease == LEASE_CLOSED)
            session->ops->close(session, SESSION_NO_LEASE);
        else
            session_gate_changed(session);
    }
    struct shard_watcher *w;
    list_for_each(w, &s->watchers, struct shard_watcher, link) if (w->on_lease) w->on_lease(w, lease);
    if (lease != LEASE_WAIT)
        router_advance(s);
}

/* Of the epoch that this shard has seen begin: what it holds from an earlier one is no longer its own. */
static uint64_t lease_until(const struct shard *s)
{
    const struct im_backend *b = im_backend(s->im);
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self && (self->up || self->handing_over) ? b->lease_until(b->user, self->epoch) : 0;
}

bool shard_has_lease(const struct shard *s)
{
    return !s->homes_lost && lease_until(s) > clock_boot_ms();
}

/* Should it have one? A drained node that has left, a witness, one that starts: they are not in trouble. */
static bool wants_lease(const struct shard *s)
{
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self && (self->up || self->handing_over);
}

enum shard_lease shard_check_lease(struct shard *s)
{
    uint64_t now = clock_boot_ms();
    if (shard_has_lease(s)) {
        s->lease_end = lease_until(s);
        s->lease_lost_ms = 0;
        set_lease(s, LEASE_HELD);
        return s->lease;
    }
    if (!s->lease_lost_ms || !wants_lease(s))
        s->lease_lost_ms = now;
    uint64_t for_ms = now - s->lease_lost_ms;
    if (s->lease == LEASE_CLOSED || for_ms >= LEASE_CLOSE_MS)
        set_lease(s, LEASE_CLOSED);
    else
        set_lease(s, for_ms >= LEASE_REFUSE_MS ? LEASE_REFUSE : LEASE_WAIT);
    return s->lease;
}

/* ---- what a shard keeps of cluster tables ---- */

static unsigned read_level(struct store_txn *t, struct arena *a)
{
    struct key none;
    key_init(&none);
    const Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &none, a);
    return cluster && cluster->feature_level ? cluster->feature_level : LEVEL_FIRST;
}

static void read_settings(struct shard *s)
{
    struct store_txn *t = shard_txn(s);
    const struct member *self = members_find(s->members, s->im->options.node_id);
    const char *node = self ? self->name : NULL;
    struct arena a;
    arena_init(&a);
    struct im_settings *o = &s->settings;
    o->level = read_level(t, &a);
    o->redirect = strcmp(setting_string(t, node, SETTING_XMPP_WRONG_NODE, &a), "redirect") == 0;
    o->directory = setting_bool(t, node, SETTING_XMPP_DIRECTORY);
    const char *conflict = setting_string(t, node, SETTING_XMPP_CONFLICT, &a);
    o->conflict = strcmp(conflict, "refuse") == 0   ? CONFLICT_REFUSE
                  : strcmp(conflict, "rename") == 0 ? CONFLICT_RENAME
                                                    : CONFLICT_REPLACE;
    const char *strangers = o->level >= LEVEL_3 ? setting_string(t, node, SETTING_XMPP_STRANGERS, &a) : "all";
    o->strangers = strcmp(strangers, "none") == 0       ? STRANGERS_NONE
                   : strcmp(strangers, "messages") == 0 ? STRANGERS_MESSAGES
                                                        : STRANGERS_ALL;
    o->offline_limit = (unsigned)setting_int(t, node, SETTING_XMPP_OFFLINE_LIMIT);
    o->sessions_per_user = (unsigned)setting_int(t, node, SETTING_LIMIT_SESSIONS_USER);
    o->roster_items = (unsigned)setting_int(t, node, SETTING_LIMIT_ROSTER_ITEMS);
    o->stanza_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_STANZA_BYTES);
    o->vcard_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_VCARD_BYTES);
    o->output_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_OUTPUT_BYTES);
    o->idle_timeout_s = (unsigned)setting_int(t, node, SETTING_LIMIT_IDLE);
    o->resume_timeout_s = (unsigned)setting_int(t, node, SETTING_XMPP_RESUME_TIMEOUT);
    o->ack_timeout_s = (unsigned)setting_int(t, node, SETTING_XMPP_ACK_TIMEOUT);
    o->unacked_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_UNACKED_BYTES);
    arena_fini(&a);
    archive_forget(s);
    block_on_settings(s);
    outside_read_settings(s);
    struct shard_watcher *w;
    list_for_each(w, &s->watchers, struct shard_watcher, link) if (w->on_settings) w->on_settings(w);
}

static void read_domains(struct shard *s)
{
    struct store_txn *t = shard_txn(s);
    struct arena a;
    arena_init(&a);
    struct key none;
    key_init(&none);
    Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &none, &a);
    if (cluster && !s->ids)
        s->ids = stored_ids_new(cluster->message_key.data, cluster->message_key.len);
    if (cluster && cluster->default_domain) {
        struct key k;
        key_init(&k);
        key_str(&k, cluster->default_domain);
        Imp__DomainRow *row = store_find_row(t, TABLE_DOMAIN, &k, &a);
        mem_free(s->domain);
        s->domain = mem_strdup(cluster->default_domain);
        s->default_domain = row ? row->id : 0;
    }
    arena_fini(&a);
}

/* Has the epoch of one ended, and what it held with it? */
static bool read_members(struct shard *s)
{
    struct members *before = s->members;
    bool any = false;
    s->members = members_read(shard_txn(s), s->applied_index);
    for (unsigned i = 0; before && i < before->n; i++) {
        const struct member *was = &before->list[i];
        const struct member *is = members_find(s->members, was->id);
        any |= !is || is->epoch != was->epoch;
        /* Down, or down and up again in between: what it said of its users' resources is void. */
        if (!was->up || (is && is->up && is->epoch == was->epoch))
            continue;
        if (was->id != s->im->options.node_id)
            presence_node_down(s, was->id);
        else
            s->homes_lost = true;
    }
    members_free(before);
    return any;
}

static void reload(struct shard *s)
{
    bool any_ended = read_members(s);
    read_domains(s);
    read_settings(s);
    user_on_reload(s);
    router_homes_changed(s);
    if (any_ended)
        sm_send_again(s, 0);
}

/* ---- feed ---- */

/* A roster row that changed twice is pushed once, as it is now: RFC 6121 §2.6.3 wants pushes in the order of
 * their versions. */
static bool comes_again(const struct feed_event *events, size_t n, size_t at)
{
    enum { FAR = 64 };
    const struct feed_event *e = &events[at];
    if (e->table != TABLE_ROSTER)
        return false;
    for (size_t i = at + 1; i < n && i < at + FAR; i++)
        if (events[i].table == TABLE_ROSTER && events[i].key.n == e->key.n &&
            memcmp(events[i].key.bytes, e->key.bytes, e->key.n) == 0)
            return true;
    return false;
}

/* Each comes behind what its sender sent earlier and was held for the log, and before what was sent later
 * (RFC 6120 §10.1): what waits for an index below its own goes first. */
static void show_messages(struct shard *s, const struct feed_event *events, size_t n)
{
    uint64_t end = s->applied_index, at = 0;
    for (size_t i = 0; i < n; i++) {
        if (events[i].table != TABLE_MESSAGE_INDEX)
            continue;
        if (events[i].index > at && router_is_holding(s)) {
            s->applied_index = events[i].index - 1;
            router_advance(s);
            s->applied_index = end;
        }
        at = events[i].index;
        user_on_feed(s, &events[i]);
    }
}

static void on_events(void *user, const struct feed_event *events, size_t n, uint64_t applied_index)
{
    struct shard *s = user;
    drop_reader(s);
    if (applied_index > s->applied_index)
        s->applied_index = applied_index;
    bool members = false, settings = false, domains = false, homes = false, any_ended = false;
    for (size_t i = 0; i < n; i++) {
        switch (events[i].table) {
        case TABLE_NODE:
            members = true;
            break;
        case TABLE_SETTING:
            settings = true;
            break;
        case TABLE_DOMAIN:
        case TABLE_CLUSTER:
            domains = true;
            break;
        case TABLE_USER:
            homes = true;
            break;
        default:
            break;
        }
    }
    if (members)
        any_ended = read_members(s);
    /* Before anything is sent: whoever gets it must know as much. */
    if (members || homes) {
        s->route_index = applied_index;
        router_homes_changed(s);
    }
    if (domains)
        read_domains(s);
    if (settings || members || domains)
        read_settings(s);
    for (size_t i = 0; i < n; i++) {
        if (events[i].table == TABLE_ARCHIVE_PREFS)
            archive_on_feed(s, &events[i]);
        else if (events[i].table != TABLE_MESSAGE_INDEX && !comes_again(events, n, i))
            user_on_feed(s, &events[i]);
    }
    if (members)
        user_check_homes(s);
    if (any_ended)
        sm_send_again(s, 0);
    /* Stored messages last: they must not go to a session whose user is at home elsewhere by now. */
    show_messages(s, events, n);
    if (s->feed_seen < applied_index)
        s->feed_seen = applied_index;
    homes_touch(s);
}

static void on_reload(void *user, uint64_t applied_index)
{
    struct shard *s = user;
    drop_reader(s);
    s->applied_index = s->route_index = applied_index; /* homes may have moved */
    reload(s);
    /* Batches behind the reload that was queued are not told: they are in what was read now. */
    s->feed_seen = store_reader_index(s->reader);
    homes_touch(s);
}

/* What on_events and the users' own handlers look at. */
static bool wants(void *user, enum table table, const struct key *key)
{
    struct shard *s = user;
    struct key_reader k;
    switch (table) {
    case TABLE_NODE:
    case TABLE_SETTING:
    case TABLE_DOMAIN:
    case TABLE_CLUSTER:
    case TABLE_USER:
    case TABLE_ARCHIVE_PREFS:
        return true;
    case TABLE_ROSTER:
    case TABLE_BLOCK:
    case TABLE_PEP_USER:
    case TABLE_MESSAGE_INDEX:
    case TABLE_PUSH:
        key_read(&k, key->bytes, key->n);
        return im_shard_of(s->im, key_read_u64(&k)) == s;
    default:
        return false;
    }
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
    drop_reader(s);
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
    drop_reader(s);
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
    reload(s);
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

static const struct feed_handler feed = {on_events, on_reload, wants};

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
    s->next_session = (random_u64() >> 16 << 8 | index) & ~(UINT64_C(1) << 63);
    homes_shard_init(s);
    archive_shard_init(s);
    router_init(s);
    outside_init(s);
    s->before_poll.fn = before_poll;
    loop_add_before_poll(s->loop, &s->before_poll);
    timer_init(&s->tick, s->loop, on_tick);
    const struct im_backend *b = &im->options.backend;
    b->add_feed(b->user, s->loop, &feed, s);
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
