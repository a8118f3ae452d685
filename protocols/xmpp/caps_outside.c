#include "protocols/xmpp/caps_outside.h"
#include "base/clock.h"
#include "im/outside.h"
#include "im/presence.h"
#include "im/router.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/caps.h"
#include "protocols/xmpp/pep.h"
#include "protocols/xmpp/shard.h"
#include <string.h>

enum {
    OF_OWNER_MAX = 200,
    ALL_MAX = 20000, /* of a shard; what is beyond gets no events */
    ANSWER_MS = 30000,
};

struct resource {
    struct list link;
    char *jid; /* full */
    struct caps_shown *now;
    struct caps_shown *asked; /* of the open request; NULL: none is open */
    char id[17];              /* of it */
    uint64_t asked_ms;
    struct event_nodes *wanted; /* may be NULL */
};
struct owner {
    struct hnode node; /* in caps_outside.owners by uid */
    uint64_t uid;
    struct list resources;
    unsigned n;
};
struct caps_outside {
    struct htab owners;
    unsigned n;
};

static bool has_uid(const struct hnode *node, const void *key, size_t n_bytes)
{
    (void)n_bytes;
    return memcmp(&container_of(node, struct owner, node)->uid, key, sizeof(uint64_t)) == 0;
}

static struct owner *find_owner(struct shard *s, uint64_t uid)
{
    struct caps_outside *c = s->xmpp->caps_outside;
    struct hnode *node = c ? htab_find(&c->owners, &uid, sizeof uid) : NULL;
    return node ? container_of(node, struct owner, node) : NULL;
}

static struct resource *find_resource(struct owner *o, const char *jid)
{
    struct resource *r;
    if (o)
        list_for_each(r, &o->resources, struct resource, link) if (strcmp(r->jid, jid) == 0) return r;
    return NULL;
}

static void free_resource(struct resource *r)
{
    event_nodes_unref(r->wanted);
    mem_free(r->now);
    mem_free(r->asked);
    mem_free(r->jid);
    mem_free(r);
}

static void forget(struct caps_outside *c, struct owner *o, struct resource *r)
{
    list_remove(&r->link);
    free_resource(r);
    c->n--;
    if (--o->n)
        return;
    htab_remove(&c->owners, &o->node);
    mem_free(o);
}

static struct resource *add(struct shard *s, uint64_t uid, const char *jid)
{
    struct caps_outside *c = s->xmpp->caps_outside;
    if (!c) {
        c = s->xmpp->caps_outside = mem_new(struct caps_outside);
        htab_init(&c->owners, has_uid);
    }
    struct owner *o = find_owner(s, uid);
    if (c->n >= ALL_MAX || (o && o->n >= OF_OWNER_MAX))
        return NULL;
    if (!o) {
        o = mem_new(struct owner);
        o->uid = uid;
        list_init(&o->resources);
        htab_add(&c->owners, &o->node, &o->uid, sizeof o->uid);
    }
    struct resource *r = mem_new(struct resource);
    r->jid = mem_strdup(jid);
    list_append(&o->resources, &r->link);
    o->n++;
    c->n++;
    return r;
}

void caps_outside_forget(struct shard *s, uint64_t uid)
{
    struct owner *o = find_owner(s, uid);
    for (unsigned n = o ? o->n : 0; n; n--)
        forget(s->xmpp->caps_outside, o, list_entry(list_first(&o->resources), struct resource, link));
}

void caps_outside_free(struct caps_outside *c)
{
    if (!c)
        return;
    htab_for_each(node, &c->owners)
    {
        struct owner *o = container_of(node, struct owner, node);
        struct resource *r;
        list_for_each(r, &o->resources, struct resource, link)
        {
            list_remove(&r->link);
            free_resource(r);
        }
        htab_remove(&c->owners, &o->node);
        mem_free(o);
    }
    htab_fini(&c->owners);
    mem_free(c);
}

/* ---- asking ---- */

static void want(struct shard *s, const struct user *u, struct resource *r, struct event_nodes *nodes)
{
    struct event_nodes *before = r->wanted;
    r->wanted = event_nodes_ref(nodes);
    pep_send_last_outside(s, u->uid, u->jid, r->jid, r->wanted, before);
    event_nodes_unref(before);
}

/* In the name of the account, whose home hears the answer. */
static void ask(struct shard *s, const struct user *u, struct resource *r)
{
    struct buf xml = {0};
    random_hex(r->id, 8);
    mem_free(r->asked);
    r->asked = caps_shown_copy(r->now);
    r->asked_ms = loop_now_ms(s->loop);
    caps_question(&xml, r->now);
    struct blob *payload = blob_new(xml.data, xml.n);
    struct envelope *e = envelope_new(&(struct envelope_parts){
        .type = IQ_GET, .from = u->jid, .to = r->jid, .id = r->id, .payload = payload});
    e->flags = ENVELOPE_NO_BOUNCE;
    router_send(s, e, NULL);
    blob_unref(payload);
    buf_fini(&xml);
}

static void look_up(struct shard *s, const struct user *u, struct resource *r)
{
    struct event_nodes *nodes;
    if (*r->now->hash && caps_cache_find(caps_cache_of(s), r->now->hash, r->now->ver, &nodes))
        want(s, u, r, nodes);
    else if (!r->asked || loop_now_ms(s->loop) - r->asked_ms > ANSWER_MS)
        ask(s, u, r);
}

/* ---- what comes ---- */

/* Of those who may not see the user nothing is kept: they get no events. */
static void take_shown(struct shard *s, const struct user *u, const struct envelope *e)
{
    struct arena a;
    arena_init(&a);
    struct xml *root = e->payload ? stanza_tree(e, &a) : NULL;
    struct caps_shown *shown = root ? caps_shown_read(root) : NULL;
    struct resource *r = find_resource(find_owner(s, u->uid), e->from);
    arena_fini(&a);
    if (!shown || !*jid_resource(e->from) || !presence_is_visible(s, u->uid, e->from) ||
        (!r && !(r = add(s, u->uid, e->from)))) {
        mem_free(shown);
        return;
    }
    bool news = !caps_shown_same(r->now, shown);
    mem_free(r->now);
    r->now = shown;
    if (news)
        look_up(s, u, r);
}

static void take_presence(struct shard *s, const struct user *u, const struct envelope *e)
{
    struct owner *o = find_owner(s, u->uid);
    struct resource *r = find_resource(o, e->from);
    if (e->type == PRESENCE_AVAILABLE)
        take_shown(s, u, e);
    else if (r && (e->type == PRESENCE_UNAVAILABLE || e->type == PRESENCE_ERROR))
        forget(s->xmpp->caps_outside, o, r);
}

/* True: it was the answer to ours. */
static bool take_answer(struct shard *s, const struct user *u, const struct envelope *e)
{
    struct resource *r = find_resource(find_owner(s, u->uid), e->from);
    if (!r || !r->asked || !e->id || strcmp(e->id, r->id) != 0)
        return false;
    struct arena a;
    arena_init(&a);
    struct xml *root = e->type == IQ_RESULT ? stanza_tree(e, &a) : NULL;
    const struct xml *query = root ? xml_child(root, "query", "http://jabber.org/protocol/disco#info") : NULL;
    struct caps_shown *asked = r->asked;
    bool news = !caps_shown_same(r->now, asked); /* it has shown something else meanwhile */
    r->asked = NULL;
    if (query) {
        struct event_nodes *nodes = caps_learn(caps_cache_of(s), asked, query);
        if (!news)
            want(s, u, r, nodes);
        event_nodes_unref(nodes);
    }
    mem_free(asked);
    arena_fini(&a);
    if (news)
        look_up(s, u, r);
    return true;
}

static enum to_user to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                            bool fan_out)
{
    (void)uid;
    if (u && !outside_has_any(s)) /* until the setting names one */
        im_hook_off(u, IM_HOOK_CAPS);
    if (!u || fan_out || e->from_uid || !outside_is(s, e->from) || !pep_is_on(s))
        return TO_USER_GO_ON;
    if (e->kind == STANZA_PRESENCE)
        take_presence(s, u, e);
    else if ((e->type == IQ_RESULT || e->type == IQ_ERROR) && !*jid_resource(e->to) && take_answer(s, u, e))
        return TO_USER_DROP;
    return TO_USER_GO_ON;
}

void caps_outside_each(struct shard *s, uint64_t uid, const char *node,
                       void (*each)(void *arg, struct shard *s, const char *jid), void *arg)
{
    struct owner *o = find_owner(s, uid);
    struct resource *r;
    if (o)
        list_for_each(r, &o->resources, struct resource, link) if (event_nodes_has(r->wanted, node))
            each(arg, s, r->jid);
}

const struct im_hook caps_outside_hook = {
    .id = IM_HOOK_CAPS,
    .kinds = 1 << STANZA_PRESENCE | 1 << STANZA_IQ,
    .to_user = to_user,
};
