#include "im/events.h"
#include "base/clock.h"
#include "im/fan_out.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/message.h"
#include "im/router.h"
#include "im/user.h"
#include <stdlib.h>
#include <string.h>

/* ---- names of nodes ---- */

struct event_nodes {
    _Atomic unsigned refs;
    unsigned n;
    const char *names[]; /* ascending; the text lies behind */
};

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct event_nodes *event_nodes_new(const char *const *names, size_t n)
{
    const char *sorted[EVENT_NODES_MAX];
    size_t k = 0, n_bytes = 0;
    for (size_t i = 0; i < n && k < EVENT_NODES_MAX; i++) {
        size_t len = strlen(names[i]) + 1;
        if (n_bytes + len > EVENT_NODES_BYTES_MAX)
            break;
        n_bytes += len;
        sorted[k++] = names[i];
    }
    if (!k)
        return NULL;
    qsort(sorted, k, sizeof *sorted, compare);
    struct event_nodes *nodes = mem_alloc(sizeof *nodes + k * sizeof *nodes->names + n_bytes);
    char *at = (char *)(nodes->names + k);
    nodes->refs = 1;
    nodes->n = 0;
    for (size_t i = 0; i < k; i++) {
        if (i && strcmp(sorted[i], sorted[i - 1]) == 0)
            continue;
        nodes->names[nodes->n++] = at;
        at = stpcpy(at, sorted[i]) + 1;
    }
    return nodes;
}

struct event_nodes *event_nodes_ref(struct event_nodes *nodes)
{
    if (nodes)
        atomic_fetch_add_explicit(&nodes->refs, 1, memory_order_relaxed);
    return nodes;
}

void event_nodes_unref(struct event_nodes *nodes)
{
    if (nodes && atomic_fetch_sub_explicit(&nodes->refs, 1, memory_order_acq_rel) == 1)
        mem_free(nodes);
}

bool event_nodes_has(const struct event_nodes *nodes, const char *node)
{
    return nodes && bsearch(&node, nodes->names, nodes->n, sizeof *nodes->names, compare);
}

bool event_nodes_is_same(const struct event_nodes *a, const struct event_nodes *b)
{
    bool same = a == b || (a && b && a->n == b->n);
    for (unsigned i = 0; same && a != b && i < a->n; i++)
        same = strcmp(a->names[i], b->names[i]) == 0;
    return same;
}

/* ---- sending ---- */

struct envelope *event_new(uint64_t of, const char *of_jid, const char *node, bool headline,
                           const char *inner, size_t n_bytes, uint64_t after_index)
{
    char id[17];
    random_hex(id, 8);
    struct blob *payload = blob_new(inner, n_bytes);
    /* The node's name travels as the language, which events have not: the receiver need not read the payload.
     */
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = headline ? MESSAGE_HEADLINE : MESSAGE_NORMAL,
                                              .from = of_jid,
                                              .id = id,
                                              .lang = node,
                                              .payload = payload});
    blob_unref(payload);
    e->from_uid = of;
    e->after_index = after_index;
    e->flags = ENVELOPE_EVENT | ENVELOPE_NO_BOUNCE;
    return e;
}

void events_send_one(struct shard *s, uint64_t uid, const char *jid, const struct envelope *e)
{
    struct envelope *c = envelope_copy(e, jid);
    c->to_uid = uid;
    router_send(s, c, NULL);
}

/* Without the node's name, which is no language. */
static struct envelope *as_message(const struct envelope *e, const char *to)
{
    struct envelope *c = envelope_new(&(struct envelope_parts){
        .type = e->type, .from = e->from, .to = to, .id = e->id, .payload = e->payload});
    c->from_uid = e->from_uid;
    c->after_index = e->after_index;
    c->to_uid = e->to_uid;
    c->flags = ENVELOPE_NO_BOUNCE;
    return c;
}

void events_send_subscriber(struct shard *s, const char *jid, const struct envelope *e)
{
    struct envelope *c;
    if (*jid_resource(jid)) { /* XEP-0163 §4.3.2: one, to the JID that has subscribed */
        c = as_message(e, jid);
    } else {
        c = envelope_copy(e, jid);
        c->flags |= ENVELOPE_SUBSCRIBED;
    }
    router_send(s, c, NULL);
}

static bool is_wanted(const struct user *u, const char *node)
{
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link) if (event_nodes_has(s->wanted, node)) return true;
    return false;
}

/* On the shard of these users. */
static void send_here(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e)
{
    for (unsigned i = 0; i < n; i++) {
        struct user *u = user_find(s, uids[i]);
        if (u && (!list_is_empty(&u->remote) || is_wanted(u, e->lang)))
            events_send_one(s, u->uid, u->jid, e);
    }
}

void events_send(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e)
{
    fan_out(s, uids, n, e, send_here);
}

/* ---- arriving ---- */

void events_deliver(struct session *s, const struct envelope *e, const char *node)
{
    if (!s->presence || s->behind || !event_nodes_has(s->wanted, node))
        return;
    struct envelope *c = as_message(e, s->jid);
    s->ops->deliver(s, c, NULL);
    envelope_free(c);
}

void events_receive(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    if (e->flags & ENVELOPE_SUBSCRIBED && e->lang && !(u && is_wanted(u, e->lang))) {
        message_receive(s, as_message(e, e->to));
    } else if (u && e->lang && !im_hooks_to_user(s, e->to_uid, u, e, false)) {
        struct session *session;
        list_for_each(session, &u->sessions, struct session, link) events_deliver(session, e, e->lang);
    }
    envelope_free(e);
}
