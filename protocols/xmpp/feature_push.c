/* XEP-0357: push notifications. Each client registers the push service of its vendor; when a message comes
 * while that client is away (no session, a detached one, or inactive as of XEP-0352) its service hears of it:
 * at the user's home, at most once per push.interval. A service that answers with an error is forgotten. */
#include "base/clock.h"
#include "im/address.h"
#include "im/message.h"
#include "im/payload.h"
#include "im/router.h"
#include "im/user.h"
#include "protocols/xmpp/csi.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/service.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

#define NS_PUSH "urn:xmpp:push:0"
#define NS_FORM "jabber:x:data"

enum {
    TARGETS_MAX = 50000, /* per shard; the one that was quiet for the longest goes */
    ASKED_MAX = 5000,    /* notifications without an answer, per shard; the oldest goes */
    ASKED_MS = 120 * 1000,
    QUIET_MS = 24 * 3600 * 1000,
    BODY_MAX = 240,
    OPTIONS_MAX = 4096,
};

/* A push service of one user while its client is away. */
struct target_key {
    uint64_t uid, row;
};
struct target {
    struct hnode node;
    struct list link; /* in push->targets, quiet for the longest first */
    struct list due;  /* in push->due: waits for the interval */
    struct target_key key;
    uint64_t told_ms, heard_ms; /* CLOCK_MONOTONIC */
    unsigned n;                 /* messages since the client was away */
    char *sender, *body;        /* of the last one; the body is XML text */
};
/* A notification that is not answered yet. */
struct asked {
    struct hnode node;
    struct list link;
    char id[24];
    uint64_t uid, changed, since_ms;
    char *service, *service_node;
};
struct push {
    struct shard *shard;
    struct htab by_key, by_id;
    struct list targets, due, asked;
};

static bool has_key(const struct hnode *node, const void *key, size_t n_bytes)
{
    return memcmp(&container_of(node, struct target, node)->key, key, n_bytes) == 0;
}

static bool has_id(const struct hnode *node, const void *id, size_t n_bytes)
{
    const struct asked *a = container_of(node, struct asked, node);
    return strlen(a->id) == n_bytes && memcmp(a->id, id, n_bytes) == 0;
}

void push_init(struct service *sv)
{
    struct push *p = sv->push = mem_new(struct push);
    p->shard = sv->shard;
    htab_init(&p->by_key, has_key);
    htab_init(&p->by_id, has_id);
    list_init(&p->targets);
    list_init(&p->due);
    list_init(&p->asked);
}

static void free_target(struct push *p, struct target *t)
{
    htab_remove(&p->by_key, &t->node);
    list_remove(&t->link);
    list_remove(&t->due);
    mem_free(t->sender);
    mem_free(t->body);
    mem_free(t);
}

static void free_asked(struct push *p, struct asked *a)
{
    htab_remove(&p->by_id, &a->node);
    list_remove(&a->link);
    mem_free(a->service);
    mem_free(a->service_node);
    mem_free(a);
}

void push_fini(struct service *sv)
{
    struct push *p = sv->push;
    struct target *t;
    list_for_each(t, &p->targets, struct target, link) free_target(p, t);
    struct asked *a;
    list_for_each(a, &p->asked, struct asked, link) free_asked(p, a);
    htab_fini(&p->by_key);
    htab_fini(&p->by_id);
    mem_free(p);
}

static struct target *find_target(struct push *p, const struct target_key *key)
{
    struct hnode *node = htab_find(&p->by_key, key, sizeof *key);
    return node ? container_of(node, struct target, node) : NULL;
}

static struct target *get_target(struct push *p, const struct target_key *key)
{
    struct target *t = find_target(p, key);
    if (t)
        return t;
    if (p->by_key.n >= TARGETS_MAX)
        free_target(p, list_entry(list_first(&p->targets), struct target, link));
    t = mem_new(struct target);
    t->key = *key;
    list_init(&t->link);
    list_init(&t->due);
    list_append(&p->targets, &t->link);
    htab_add(&p->by_key, &t->node, &t->key, sizeof t->key);
    return t;
}

/* ---- a notification: §7 ---- */

static void add_field(struct buf *out, const char *var, const char *text, bool is_xml)
{
    buf_addf(out, "<field var='%s'><value>", var);
    if (is_xml)
        buf_adds(out, text);
    else
        iq_escape(out, text);
    buf_adds(out, "</value></field>");
}

static void write_summary(struct buf *out, struct shard *s, const struct target *t)
{
    struct arena a;
    arena_init(&a);
    const char *content = setting_string(shard_txn(s), NULL, SETTING_PUSH_CONTENT, &a);
    char n[16];
    snprintf(n, sizeof n, "%u", t->n);
    buf_adds(out, "<notification xmlns='" NS_PUSH "'><x xmlns='" NS_FORM "' type='form'>"
                  "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:push:summary</value></field>");
    add_field(out, "message-count", n, false);
    if (strcmp(content, "count") != 0 && t->sender)
        add_field(out, "last-message-sender", t->sender, false);
    if (strcmp(content, "body") == 0 && t->body)
        add_field(out, "last-message-body", t->body, true);
    buf_adds(out, "</x></notification>");
    arena_fini(&a);
}

static struct blob *publish(struct shard *s, const struct target *t, const Imp__PushRow *row)
{
    struct buf out = {0};
    buf_adds(&out, "<pubsub xmlns='http://jabber.org/protocol/pubsub'><publish");
    if (*row->node) {
        buf_adds(&out, " node='");
        iq_escape(&out, row->node);
        buf_addc(&out, '\'');
    }
    buf_adds(&out, "><item>");
    write_summary(&out, s, t);
    buf_adds(&out, "</item></publish>");
    if (row->options.len) {
        buf_adds(&out, "<publish-options>");
        buf_add(&out, row->options.data, row->options.len);
        buf_adds(&out, "</publish-options>");
    }
    buf_adds(&out, "</pubsub>");
    struct blob *b = blob_new(out.data, out.n);
    buf_fini(&out);
    return b;
}

static const char *remember(struct push *p, const struct target *t, const Imp__PushRow *row)
{
    if (p->by_id.n >= ASKED_MAX)
        free_asked(p, list_entry(list_first(&p->asked), struct asked, link));
    struct asked *a = mem_new(struct asked);
    char random[17];
    random_hex(random, 8);
    snprintf(a->id, sizeof a->id, "push-%s", random);
    a->uid = t->key.uid;
    a->changed = row->changed;
    a->since_ms = loop_now_ms(p->shard->loop);
    a->service = mem_strdup(row->jid);
    a->service_node = mem_strdup(row->node);
    list_append(&p->asked, &a->link);
    htab_add(&p->by_id, &a->node, a->id, strlen(a->id));
    return a->id;
}

static void notify(struct push *p, struct target *t, const Imp__PushRow *row)
{
    struct shard *s = p->shard;
    struct arena a;
    arena_init(&a);
    const char *jid = shard_user_jid(s, t->key.uid, &a);
    list_remove(&t->due);
    t->told_ms = loop_now_ms(s->loop);
    if (jid) {
        struct blob *payload = publish(s, t, row);
        /* In the name of the account, but it is the server that asks: no presence needs to be shared. */
        struct envelope *e = envelope_new(&(struct envelope_parts){
            .type = IQ_SET, .from = jid, .to = row->jid, .id = remember(p, t, row), .payload = payload});
        blob_unref(payload);
        router_send(s, e, NULL);
    }
    arena_fini(&a);
}

static Imp__PushRow *read_row(struct shard *s, const struct target_key *key, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, key->uid);
    key_u64(&k, key->row);
    return store_find_row(shard_txn(s), TABLE_PUSH, &k, a);
}

static uint64_t interval_ms(struct shard *s)
{
    return (uint64_t)setting_int(shard_txn(s), NULL, SETTING_PUSH_INTERVAL) * 1000;
}

void push_tick(struct service *sv)
{
    struct push *p = sv->push;
    struct shard *s = p->shard;
    uint64_t now = loop_now_ms(s->loop);
    struct asked *a;
    list_for_each(a, &p->asked, struct asked, link)
    {
        if (now - a->since_ms < ASKED_MS)
            break;
        free_asked(p, a);
    }
    struct target *t;
    list_for_each(t, &p->targets, struct target, link)
    {
        if (now - t->heard_ms < QUIET_MS)
            break;
        free_target(p, t);
    }
    if (list_is_empty(&p->due) || !shard_has_lease(s))
        return;
    struct arena arena;
    arena_init(&arena);
    uint64_t interval = interval_ms(s);
    list_for_each(t, &p->due, struct target, due)
    {
        if (now - t->told_ms < interval)
            continue;
        const Imp__PushRow *row = read_row(s, &t->key, &arena);
        /* Its user may have moved; the new home counts anew. */
        if (row && shard_place_of(s, t->key.uid, NULL, NULL) == PLACE_HERE)
            notify(p, t, row);
        else
            free_target(p, t);
        arena_reset(&arena);
    }
    arena_fini(&arena);
}

/* ---- what is worth one ---- */

static bool is_worth(const struct envelope *e)
{
    if (e->type != MESSAGE_CHAT && e->type != MESSAGE_NORMAL)
        return false;
    unsigned marks = payload_marks(e);
    return marks & (PAYLOAD_BODY | PAYLOAD_ENCRYPTED | PAYLOAD_CALL) && !(marks & PAYLOAD_CARBON);
}

/* Is the client that registered the service there, with somebody looking? */
static bool is_attended(const struct user *u, const char *resource)
{
    const struct session *s = u ? user_find_session(u, resource) : NULL;
    if (!s || s->ops != &c2s_session_ops)
        return s != NULL;
    return !s->detached && home_of(s)->conn && !csi_is_inactive(home_of(s));
}

static void count(struct target *t, const struct envelope *e)
{
    size_t n = BODY_MAX;
    const char *body = payload_body(e, &n);
    t->n++;
    mem_free(t->sender);
    mem_free(t->body);
    t->sender = mem_strdup(e->from);
    t->body = body ? mem_strndup(body, n) : NULL;
}

static void hear(struct push *p, const struct target_key *key, const Imp__PushRow *row,
                 const struct envelope *e)
{
    uint64_t now = loop_now_ms(p->shard->loop);
    struct target *t = get_target(p, key);
    t->heard_ms = now;
    list_remove(&t->link);
    list_append(&p->targets, &t->link);
    count(t, e);
    if (!t->told_ms || now - t->told_ms >= interval_ms(p->shard))
        notify(p, t, row);
    else if (list_is_empty(&t->due))
        list_append(&p->due, &t->due);
}

static void delivered(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                      struct session *const *to, size_t n)
{
    (void)to, (void)n;
    if (s->settings.level < LEVEL_3 || !is_worth(e))
        return;
    struct push *p = service_of(s)->push;
    struct arena a;
    arena_init(&a);
    struct key prefix;
    key_init(&prefix);
    key_u64(&prefix, uid);
    struct store_iter it;
    bool any = false;
    store_iter_init(&it, shard_txn(s), TABLE_PUSH, &prefix);
    while (store_iter_next(&it)) {
        const Imp__PushRow *row = store_iter_row(&it, &a);
        struct key_reader k;
        key_read(&k, it.key, it.n_key);
        struct target_key key = {.uid = key_read_u64(&k)};
        key.row = key_read_u64(&k);
        if (!row || k.failed)
            continue;
        any = true;
        struct target *t;
        if (!is_attended(u, row->resource))
            hear(p, &key, row, e);
        else if ((t = find_target(p, &key)))
            free_target(p, t); /* it counts from nothing when it is away again */
    }
    store_iter_fini(&it);
    arena_fini(&a);
    if (!any && u)
        im_hook_off(u, IM_HOOK_PUSH);
}

void push_waiting(struct shard *s, uint64_t uid, uint64_t oldest_ms)
{
    struct envelope *e = message_newest(s, uid, oldest_ms, is_worth);
    if (e)
        delivered(s, uid, user_find(s, uid), e, NULL, 0);
    envelope_free(e);
}

static void on_feed(struct shard *s, struct user *u, const struct feed_event *event)
{
    (void)s;
    if (event->table == TABLE_PUSH)
        im_hook_on(u, IM_HOOK_PUSH);
}

/* ---- answers: §7.1 ---- */

static void on_removed(void *user, const struct proposal_result *result)
{
    (void)user, (void)result;
}

static void forget_service(struct shard *s, const struct asked *asked)
{
    Imp__PushSet body = IMP__PUSH_SET__INIT;
    body.uid = asked->uid;
    body.jid = asked->service;
    body.node = asked->service_node;
    body.has_node = true;
    body.remove = true;
    body.only_index = asked->changed; /* not if it was enabled again meanwhile */
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_PUSH_SET;
    command.push_set = &body;
    shard_submit(s, &command, on_removed, NULL);
}

static bool is_passing(const struct envelope *e)
{
    static const char single[] = "type='wait'", twofold[] = "type=\"wait\"";
    const struct blob *b = e->payload;
    return b && (memmem(b->data, b->n, single, sizeof single - 1) ||
                 memmem(b->data, b->n, twofold, sizeof twofold - 1));
}

static enum to_user to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                            bool fan_out)
{
    (void)u, (void)fan_out;
    if (e->kind != STANZA_IQ || (e->type != IQ_RESULT && e->type != IQ_ERROR) || *jid_resource(e->to) ||
        !e->id)
        return TO_USER_GO_ON;
    struct push *p = service_of(s)->push;
    struct hnode *node = htab_find(&p->by_id, e->id, strlen(e->id));
    struct asked *asked = node ? container_of(node, struct asked, node) : NULL;
    if (!asked || asked->uid != uid || strcmp(asked->service, e->from) != 0)
        return TO_USER_GO_ON;
    if (e->type == IQ_ERROR && !is_passing(e))
        forget_service(s, asked);
    free_asked(p, asked);
    return TO_USER_DROP;
}

/* ---- §5, §6 ---- */

static bool read_service(struct xmpp_iq *iq, char jid[JID_MAX + 1])
{
    const char *text = xml_attr(iq->payload, "jid");
    if (!text || !*text) {
        iq_error(iq, STANZA_BAD_REQUEST, "the push service's jid is missing");
        return false;
    }
    if (jid_prepare(jid, text, strlen(text), NULL) < 0) {
        iq_error(iq, STANZA_JID_MALFORMED, NULL);
        return false;
    }
    return true;
}

static void submit(struct xmpp_iq *iq, Imp__PushSet *body)
{
    const char *node = xml_attr(iq->payload, "node");
    body->uid = iq->uid;
    body->node = (char *)(node ? node : "");
    body->has_node = node != NULL;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_PUSH_SET;
    command.push_set = body;
    iq_submit(iq, &command);
}

static void handle_enable(struct xmpp_iq *iq)
{
    char jid[JID_MAX + 1];
    if (!read_service(iq, jid))
        return;
    const struct xml *form = xml_child(iq->payload, "x", NS_FORM);
    struct buf options = {0};
    if (form)
        xml_write(&options, form, "http://jabber.org/protocol/pubsub");
    Imp__PushSet body = IMP__PUSH_SET__INIT;
    body.jid = jid;
    body.resource = (char *)iq->home->session.resource;
    body.options = (ProtobufCBinaryData){options.n, (uint8_t *)options.data};
    if (options.n > OPTIONS_MAX)
        iq_error(iq, STANZA_NOT_ACCEPTABLE, "the publish options are too long");
    else
        submit(iq, &body);
    buf_fini(&options);
}

static void handle_disable(struct xmpp_iq *iq)
{
    char jid[JID_MAX + 1];
    if (!read_service(iq, jid))
        return;
    Imp__PushSet body = IMP__PUSH_SET__INIT;
    body.jid = jid;
    body.remove = true;
    submit(iq, &body);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_PUSH, "enable", IQ_SELF, .set = true, .handle = handle_enable},
    {NS_PUSH, "disable", IQ_SELF, .set = true, .handle = handle_disable},
    {0},
};
static const char *const features[] = {NS_PUSH, NULL};
static const struct im_hook user_hook = {
    .id = IM_HOOK_PUSH,
    .kinds = 1 << STANZA_MESSAGE | 1 << STANZA_IQ,
    .to_user = to_user,
    .delivered = delivered,
    .on_feed = on_feed,
};
const struct xmpp_feature feature_push = {
    .name = "push",
    .xep = "XEP-0357 0.4.1",
    .level = 3,
    .account_features = features,
    .handlers = handlers,
    .user_hook = &user_hook,
};
