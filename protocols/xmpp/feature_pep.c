/* The last item of each node that a session has begun to want (XEP-0163 §4.3.4): of the user itself and of
 * everybody whose presence it sees, whether that one is there or not. All of it is in the store of this node,
 * so nobody is asked; a contact without PEP data costs one look-up. A few contacts at a time, and no more
 * while the client has not taken what it was given. */
#include "base/clock.h"
#include "im/events.h"
#include "im/user.h"
#include "protocols/xmpp/pep.h"
#include <string.h>
#include <time.h>

enum { CONTACTS_PER_STEP = 32, STEP_MS = 5, QUEUED_MAX = 64 << 10 };

/* Of one session, in its feature state. */
struct last {
    struct session *session;
    struct timer timer;
    struct event_nodes *before; /* what it wanted, and has been given */
    uint64_t *uids;
    unsigned n, at;
};

static void write_stamp(struct buf *out, uint64_t time_ms)
{
    time_t t = (time_t)(time_ms / 1000);
    struct tm tm;
    char text[32];
    gmtime_r(&t, &tm);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &tm);
    buf_addf(out, "<delay xmlns='urn:xmpp:delay' stamp='%s'/>", text);
}

void pep_last_event(struct buf *out, const char *node, const Imp__PepItemRow *item, bool payload)
{
    pep_event_item(out, node, item->id, item->publisher, payload ? item->payload.data : NULL,
                   item->payload.len);
    write_stamp(out, item->time_ms);
}

/* Calls EACH for every node of UID that has a last item to send, as far as WHO (bare JID; "" its owner) may
 * see it. */
typedef void last_fn(void *user, const Imp__PepNodeRow *node, const Imp__PepItemRow *item);
static void for_each_last(struct shard *s, uint64_t uid, const char *who, const struct event_nodes *wanted,
                          const struct event_nodes *before, last_fn *each, void *user)
{
    struct store_txn *t = shard_txn(s);
    struct key prefix;
    struct store_iter i;
    struct arena a;
    arena_init(&a);
    key_init(&prefix);
    key_u64(&prefix, uid);
    store_iter_init(&i, t, TABLE_PEP_NODE, &prefix);
    while (store_iter_next(&i)) {
        arena_reset(&a);
        const Imp__PepNodeRow *node = store_iter_row(&i, &a);
        if (!node || !node->config || !node->n_items ||
            node->config->send_last != IMP__PEP_SEND_LAST__PEP_LAST_ON_PRESENCE ||
            !node->config->notifications || (wanted && !event_nodes_has(wanted, node->node)) ||
            event_nodes_has(before, node->node) ||
            (*who && pep_check_access(t, uid, node, who, &a) != PEP_MAY))
            continue;
        const Imp__PepItemRow *item = pep_last_item(t, uid, node, &a);
        if (item)
            each(user, node, item);
    }
    store_iter_fini(&i);
    arena_fini(&a);
}

/* ---- to a session ---- */

struct to_session {
    struct session *session;
    uint64_t of;
    const char *of_jid;
};

static void give(void *user, const Imp__PepNodeRow *node, const Imp__PepItemRow *item)
{
    struct to_session *to = user;
    struct buf xml = {0};
    pep_last_event(&xml, node->node, item, node->config->payloads);
    struct envelope *e =
        event_new(to->of, to->of_jid, node->node, node->config->message_type == 0, xml.data, xml.n, 0);
    events_deliver(to->session, e, node->node);
    envelope_free(e);
    buf_fini(&xml);
}

static void give_all_of(struct last *l, uint64_t uid)
{
    struct session *session = l->session;
    struct shard *s = session->shard;
    struct arena a;
    arena_init(&a);
    if (pep_find_user(shard_txn(s), uid, &a)) {
        bool own = uid == session->user->uid;
        struct to_session to = {session, uid, own ? session->user->jid : shard_user_jid(s, uid, &a)};
        if (to.of_jid)
            for_each_last(s, uid, own ? "" : session->user->jid, session->wanted, l->before, give, &to);
    }
    arena_fini(&a);
}

static void finish(struct last *l)
{
    timer_stop(&l->timer);
    mem_free(l->uids);
    l->uids = NULL;
    l->n = l->at = 0;
    event_nodes_unref(l->before);
    l->before = NULL;
}

static void on_step(struct timer *t)
{
    struct last *l = container_of(t, struct last, timer);
    unsigned n = 0;
    while (l->at < l->n && n++ < CONTACTS_PER_STEP && session_queued(l->session) < QUEUED_MAX)
        give_all_of(l, l->uids[l->at++]);
    if (l->at == l->n)
        finish(l);
    else
        timer_start(&l->timer, STEP_MS, 0);
}

static struct last *get_last(struct session *s)
{
    struct last *l = hooks_state(home_of(s), FEATURE_pep, sizeof *l);
    if (!l->session) {
        l->session = s;
        timer_init(&l->timer, s->shard->loop, on_step);
    }
    return l;
}

void pep_send_last(struct session *s, struct event_nodes *before)
{
    if (!s->wanted || event_nodes_is_same(s->wanted, before) || !pep_is_on(s->shard))
        return;
    struct last *l = get_last(s);
    /* What was under way is done with, as far as it came; what it had not reached is sent with the rest. */
    bool under_way = l->n != 0;
    finish(l);
    l->before = under_way ? NULL : event_nodes_ref(before);
    unsigned n;
    const uint64_t *uids = user_subscribed(s->user, &n);
    l->uids = mem_alloc((n + 1) * sizeof *uids);
    l->uids[0] = s->user->uid;
    if (n)
        memcpy(l->uids + 1, uids, n * sizeof *uids);
    l->n = n + 1;
    on_step(&l->timer);
}

static void session_ended(struct c2s_home *h)
{
    struct last *l = hooks_state(h, FEATURE_pep, 0);
    if (l)
        finish(l);
}

/* ---- to somebody who has just been granted a subscription ---- */

struct to_contact {
    struct shard *shard;
    uint64_t of, to_uid, index; /* to_uid 0: a resource outside */
    const char *of_jid, *to;
};

static void send(void *user, const Imp__PepNodeRow *node, const Imp__PepItemRow *item)
{
    struct to_contact *to = user;
    struct buf xml = {0};
    pep_last_event(&xml, node->node, item, node->config->payloads);
    struct envelope *e = event_new(to->of, to->of_jid, node->node, node->config->message_type == 0, xml.data,
                                   xml.n, to->index);
    if (to->to_uid)
        events_send_one(to->shard, to->to_uid, to->to, e);
    else
        events_send_subscriber(to->shard, to->to, e);
    envelope_free(e);
    buf_fini(&xml);
}

static void granted(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, uint64_t index)
{
    if (!pep_is_on(s))
        return;
    struct arena a;
    arena_init(&a);
    if (pep_find_user(shard_txn(s), of, &a)) {
        struct to_contact t = {s, of, to_uid, index, shard_user_jid(s, of, &a), to};
        if (t.of_jid)
            for_each_last(s, of, to, NULL, NULL, send, &t);
    }
    arena_fini(&a);
}

void pep_send_last_outside(struct shard *s, uint64_t of, const char *of_jid, const char *jid,
                           const struct event_nodes *wanted, const struct event_nodes *before)
{
    struct arena a;
    if (!wanted || event_nodes_is_same(wanted, before))
        return;
    arena_init(&a);
    struct to_contact t = {.shard = s, .of = of, .of_jid = of_jid, .to = jid};
    if (pep_find_user(shard_txn(s), of, &a))
        for_each_last(s, of, arena_strndup(&a, jid, jid_bare_length(jid)), wanted, before, send, &t);
    arena_fini(&a);
}

/* Every change of PEP data changes the row of its user. */
static void on_feed(struct shard *s, struct user *u, const struct feed_event *event)
{
    (void)s;
    if (event->table != TABLE_PEP_USER)
        return;
    user_set_avatar(u, NULL);
}

/* Everything that clients ask for is in feature_pubsub.c; this one has what PEP does by itself. */
static const struct im_hook user_hook = {.id = IM_HOOK_EVENTS, .granted = granted, .on_feed = on_feed};
const struct xmpp_feature feature_pep = {
    .name = "pep",
    .xep = "XEP-0163 1.2.2",
    .level = LEVEL_3,
    .account_identity = "<identity category='pubsub' type='pep'/>",
    .hooks = {.session_ended = session_ended},
    .user_hook = &user_hook,
};
