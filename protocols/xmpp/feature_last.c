/* XEP-0012: last activity, of accounts for those who may see their presence, and of the server. When a user's
 * last session has ended is written to the store. */
#include "base/clock.h"
#include "im/presence.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/service.h"
#include "replication/levels.h"
#include <string.h>

#define NS_LAST "jabber:iq:last"

enum {
    STATUS_MAX = 1023,
    ITEMS_MAX = 1000,  /* of one command */
    LEFT_MAX = 100000, /* that wait; more are not noted */
};

/* ---- who has left ---- */

struct left {
    struct list link;
    uint64_t uid, login_ms, logout_ms;
    char *status;
};

/* Of a session: what its last unavailable presence said. */
struct goodbye {
    char *status;
};

static void free_left(struct service *sv, struct left *l)
{
    list_remove(&l->link);
    sv->n_left--;
    mem_free(l->status);
    mem_free(l);
}

void last_fini(struct service *sv)
{
    struct left *l;
    list_for_each(l, &sv->left, struct left, link) free_left(sv, l);
}

static void write_next(struct service *sv);

/* The outcome is of no importance: who was missed has an older time. */
static void on_written(void *user, const struct proposal_result *result)
{
    struct service *sv = user;
    (void)result;
    sv->is_writing = false;
    write_next(sv);
}

/* One proposal at a time: the more leave, the more go into one. */
static void write_next(struct service *sv)
{
    if (list_is_empty(&sv->left) || sv->is_writing || !shard_has_lease(sv->shard))
        return;
    size_t n = sv->n_left < ITEMS_MAX ? sv->n_left : ITEMS_MAX;
    Imp__LastActivityItem *items = mem_zalloc(n * sizeof *items), **list = mem_zalloc(n * sizeof *list);
    Imp__LastActivity body = IMP__LAST_ACTIVITY__INIT;
    struct left *l;
    list_for_each(l, &sv->left, struct left, link)
    {
        if (body.n_items == n)
            break;
        Imp__LastActivityItem *item = list[body.n_items] = &items[body.n_items];
        imp__last_activity_item__init(item);
        item->uid = l->uid;
        item->login_ms = l->login_ms;
        item->logout_ms = l->logout_ms;
        item->status = l->status ? l->status : item->status;
        body.n_items++;
    }
    body.items = list;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_LAST_ACTIVITY;
    command.last_activity = &body;
    if (shard_submit(sv->shard, &command, on_written, sv) == 0) {
        sv->is_writing = true;
        while (body.n_items--)
            free_left(sv, list_entry(list_first(&sv->left), struct left, link));
    }
    mem_free(items);
    mem_free(list);
}

void last_tick(struct service *sv)
{
    write_next(sv);
}

static void session_presence(struct c2s_home *h, const struct envelope *e, const struct xml *root, bool was)
{
    (void)was;
    struct goodbye *g = hooks_state(h, FEATURE_last, 0);
    if (g) {
        mem_free(g->status);
        g->status = NULL;
    }
    if (e->type != PRESENCE_UNAVAILABLE)
        return;
    struct arena a;
    arena_init(&a);
    const char *status = xml_child_text(root, "status", NS_CLIENT, &a);
    if (status && *status && strlen(status) <= STATUS_MAX) {
        g = hooks_state(h, FEATURE_last, sizeof *g);
        g->status = mem_strdup(status);
    }
    arena_fini(&a);
}

static void session_ended(struct c2s_home *h)
{
    struct session *s = &h->session;
    struct service *sv = service_of(s->shard);
    struct goodbye *g = hooks_state(h, FEATURE_last, 0);
    if (s->user->n_sessions == 1 && sv->n_left < LEFT_MAX && s->shard->settings.level >= LEVEL_3) {
        struct left *l = mem_new(struct left);
        l->uid = s->user->uid;
        l->login_ms = s->since_ms;
        l->logout_ms = clock_wall_ms();
        l->status = g ? g->status : NULL;
        list_append(&sv->left, &l->link);
        sv->n_left++;
        write_next(sv);
    } else if (g) {
        mem_free(g->status);
    }
    if (g)
        g->status = NULL;
}

/* ---- questions ---- */

struct question {
    struct iq_later *iq;
    struct shard *back;
    uint64_t session, uid;
    bool online;
    uint64_t logout_ms; /* not written yet */
};

static void write_seconds(struct buf *out, uint64_t seconds, const char *status)
{
    buf_addf(out, "<query xmlns='" NS_LAST "' seconds='%llu'>", (unsigned long long)seconds);
    if (status)
        iq_escape(out, status);
    buf_adds(out, "</query>");
}

static void answer(void *arg, struct shard *s)
{
    struct question *q = arg;
    struct session *session = q->session ? session_find(s, q->session) : NULL;
    struct arena a;
    arena_init(&a);
    struct key k;
    key_init(&k);
    key_u64(&k, q->uid);
    const Imp__LastActivityRow *row = store_find_row(shard_txn(s), TABLE_LAST_ACTIVITY, &k, &a);
    uint64_t now = clock_wall_ms(), since = q->logout_ms ? q->logout_ms : row ? row->logout_ms : 0;
    struct buf out = {0};
    if (q->online || since) {
        write_seconds(&out, q->online || since > now ? 0 : (now - since) / 1000,
                      !q->online && row && !q->logout_ms ? row->status : NULL);
        iq_later_result(q->iq, session, out.data, out.n);
    } else {
        iq_later_error(q->iq, session, STANZA_ITEM_NOT_FOUND, "the account has not been used yet");
    }
    buf_fini(&out);
    arena_fini(&a);
    mem_free(q);
}

/* On the shard of the user it is about. */
static void look(void *arg, struct shard *s)
{
    struct question *q = arg;
    struct user *u = user_find(s, q->uid);
    q->online = u && (!list_is_empty(&u->sessions) || !list_is_empty(&u->remote));
    struct left *l;
    list_for_each(l, &service_of(s)->left, struct left, link) if (l->uid == q->uid) q->logout_ms =
        l->logout_ms;
    if (s == q->back)
        answer(q, s);
    else
        shard_call(q->back, answer, q);
}

static void handle(struct xmpp_iq *iq)
{
    struct shard *s = iq->shard;
    if (iq->scope == IQ_SERVER) {
        struct buf out = {0};
        write_seconds(&out, (clock_monotonic_ms() - service_of(s)->started_ms) / 1000, NULL);
        iq_result(iq, out.data, out.n);
        buf_fini(&out);
        return;
    }
    /* §4, §8: nobody else learns whether the user is there. */
    if (iq->scope == IQ_ACCOUNT && !presence_is_visible(s, iq->uid, iq->envelope->from)) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        return;
    }
    struct question *q = mem_new(struct question);
    q->iq = iq_keep(iq);
    q->back = s;
    q->session = iq->home ? iq->home->session.id : 0;
    q->uid = iq->uid;
    struct shard *of = im_shard_of(s->im, iq->uid);
    if (of == s)
        look(q, s);
    else
        shard_call(of, look, q);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_LAST, "query", IQ_SERVER | IQ_SELF | IQ_ACCOUNT, .get = true, .handle = handle, .outside = true},
    {0},
};
static const char *const features[] = {NS_LAST, NULL};
const struct xmpp_feature feature_last = {
    .name = "last",
    .xep = "XEP-0012 2.0",
    .level = 3,
    .server_features = features,
    .account_features = features,
    .handlers = handlers,
    .hooks = {.session_presence = session_presence, .session_ended = session_ended},
};
