/* What the client of a bound session sends. */
#include "im/presence.h"
#include "im/router.h"
#include "im/store_out.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/sm.h"
#include <stdlib.h>
#include <string.h>

enum { READ_MAX_BYTES = 256 << 10 };

static void handle_message(struct c2s_home *h, struct envelope *e)
{
    if (!*e->to) { /* RFC 6121 §8.1.1.1: to oneself */
        struct envelope *c = envelope_copy(e, h->session.user->jid);
        envelope_free(e);
        e = c;
    }
    message_send(&h->session, e);
}

/* RFC 6121 §4.7.2.3; below -128: it is not one integer from -128 to 127. */
static int read_priority(const struct xml *root, struct arena *arena)
{
    const struct xml *x = xml_child(root, "priority", NS_CLIENT);
    if (!x)
        return 0;
    char *end_of;
    const char *text = xml_text(x, arena);
    long v = strtol(text, &end_of, 10);
    end_of += strspn(end_of, " \t\r\n");
    bool bad = end_of == text || *end_of || v < -128 || v > 127 || xml_first_element(x) ||
               xml_next(x, "priority", NS_CLIENT);
    return bad ? -1000 : (int)v;
}

static void own_presence(struct c2s_home *h, struct envelope *e, const struct xml *root, int priority)
{
    struct session *s = &h->session;
    bool was = session_is_available(s);
    struct envelope *ended = e->type == PRESENCE_UNAVAILABLE ? envelope_copy(e, NULL) : NULL;
    presence_update(s, e, priority);
    if (session_is_open(s))
        hooks_run_presence(h, ended ? ended : s->presence, root, was);
    envelope_free(ended);
}

void home_own_presence(struct c2s_home *h, struct envelope *e, const struct xml *root, struct arena *arena)
{
    int priority = read_priority(root, arena);
    own_presence(h, e, root, priority >= -128 ? priority : 0);
}

static void handle_presence(struct c2s_home *h, struct envelope *e, const struct xml *root,
                            struct arena *arena)
{
    struct session *s = &h->session;
    bool directed = *e->to;
    int priority;
    switch ((enum stanza_type)e->type) {
    case PRESENCE_AVAILABLE:
    case PRESENCE_UNAVAILABLE:
        if (directed) {
            presence_directed(s, e);
            return;
        }
        priority = read_priority(root, arena);
        if (priority >= -128) {
            own_presence(h, e, root, priority);
            return;
        }
        break;
    case PRESENCE_SUBSCRIBE:
    case PRESENCE_SUBSCRIBED:
    case PRESENCE_UNSUBSCRIBE:
    case PRESENCE_UNSUBSCRIBED:
        if (directed && !jid_same_bare(e->to, s->user->jid)) {
            presence_subscription(s, e);
            return;
        }
        break;
    default: /* probe, error: never a reason for an error (RFC 6121 §4.3) */
        if (directed)
            router_send(s->shard, e, s);
        else
            envelope_free(e);
        return;
    }
    home_refuse(h, root, STANZA_BAD_REQUEST, NULL);
    envelope_free(e);
}

static bool is_for_server(struct c2s_home *h, const struct envelope *e)
{
    if (!*e->to)
        return true;
    /* Bare JIDs are answered here on behalf of the user (RFC 6121 §8.5.2.1.3): the store is the same
     * everywhere. */
    return !*jid_resource(e->to) &&
           shard_is_local_domain(h->session.shard, strchr(e->to, '@') ? strchr(e->to, '@') + 1 : e->to);
}

static void handle(struct c2s_home *h, struct xml_stanza *stanza)
{
    struct envelope *e = home_read_stanza(h, stanza);
    if (!e)
        return;
    uint64_t hooks = h->hooks.from_client[e->kind];
    if (hooks && hooks_run_from_client(h, hooks, e, stanza) == HOOK_HANDLED)
        return;
    switch (e->kind) {
    case STANZA_MESSAGE:
        handle_message(h, e);
        break;
    case STANZA_PRESENCE:
        handle_presence(h, e, stanza->root, stanza->arena);
        break;
    default:
        if (is_for_server(h, e))
            home_iq(h, e, stanza->root, stanza->arena);
        else
            router_send(h->session.shard, e, &h->session);
        break;
    }
}

/* What is no stanza but known to a feature (XEP-0198, XEP-0352). */
static bool handle_element(struct c2s_home *h, struct xml_stanza *stanza)
{
    const struct xml *root = stanza->root;
    if (strcmp(root->ns, NS_CLIENT) == 0)
        return false;
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++) {
        for (const struct xmpp_element_handler *x = (*f)->elements; x && x->ns; x++) {
            if (!xml_is(root, x->name, x->ns) || !(h->state == HOME_BOUND ? x->bound : x->unbound))
                continue;
            x->handle(h, stanza);
            return true;
        }
    }
    return false;
}

/* Answers are made as fast as they are read: a small request may have a large one. */
static void slow_down(struct c2s_home *h)
{
    if (h->conn && session_is_open(&h->session) && h->conn->ops->queued(h->conn) > READ_MAX_BYTES)
        session_pause(&h->session, PAUSE_OUTPUT);
}

void c2s_home_stanza(struct c2s_home *h, struct xml_stanza *stanza)
{
    struct shard *s = h->conn->shard;
    h->heard_ms = loop_now_ms(s->loop);
    h->pinged = false;
    metrics_add(im_metrics(s->im), METRIC_XMPP_STANZAS_IN, 1);
    enum shard_lease lease = shard_check_lease(s);
    if (!h->conn) /* closed for want of the lease */
        return;
    if (handle_element(h, stanza)) {
        /* no stanza */
    } else if (h->sm && !sm_count(&h->session)) {
        /* it came before the stream was resumed, and was not counted for the client then */
    } else if (h->state == HOME_UNBOUND) {
        home_bind(h, stanza);
    } else if (h->state == HOME_BOUND && lease == LEASE_REFUSE) {
        home_refuse(h, stanza->root, STANZA_RESOURCE_CONSTRAINT,
                    "this node cannot reach the cluster's majority");
    } else if (h->state == HOME_BOUND) {
        handle(h, stanza);
        slow_down(h);
    }
}
