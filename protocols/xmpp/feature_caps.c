/* XEP-0115: what clients can do, as far as it decides which events they get ("+notify", XEP-0060 §9.2).
 *
 * A verification string that is not known is asked for once, with a disco#info request to the session that
 * showed it. The answer is kept for others only when its hash is that string; one that is not (or of a client
 * without a hash) counts for that session alone. At most one request of a session is open. */
#include "base/clock.h"
#include "im/user.h"
#include "protocols/xmpp/caps.h"
#include "protocols/xmpp/caps_outside.h"
#include "protocols/xmpp/pep.h"
#include "protocols/xmpp/shard.h"
#include <string.h>

#define NS_INFO "http://jabber.org/protocol/disco#info"

enum { ANSWER_MS = 30000 };

struct caps {
    struct caps_shown *now;   /* of the last presence that had one; NULL: none */
    struct caps_shown *asked; /* of the open request; NULL: none is open */
    char id[17];              /* of it */
    uint64_t asked_ms;
};

struct caps_cache *caps_cache_of(struct shard *s)
{
    struct xmpp_shard *xs = s->xmpp;
    if (!xs->caps)
        xs->caps = caps_cache_new();
    return xs->caps;
}

static void want(struct session *s, struct event_nodes *nodes)
{
    struct event_nodes *before = s->wanted;
    s->wanted = event_nodes_ref(nodes);
    pep_send_last(s, before);
    event_nodes_unref(before);
}

static void ask(struct c2s_home *h, struct caps *c)
{
    struct session *s = &h->session;
    struct buf xml = {0};
    random_hex(c->id, 8); /* not to be guessed, though only the session itself could answer */
    mem_free(c->asked);
    c->asked = caps_shown_copy(c->now);
    c->asked_ms = loop_now_ms(s->shard->loop);
    caps_question(&xml, c->now);
    struct blob *payload = blob_new(xml.data, xml.n);
    const char *at = strchr(s->jid, '@');
    char *domain = mem_strndup(at + 1, strcspn(at + 1, "/"));
    struct envelope *e = envelope_new(&(struct envelope_parts){
        .type = IQ_GET, .from = domain, .to = s->jid, .id = c->id, .payload = payload});
    hooks_set(h, FEATURE_caps, HOOK_FROM_CLIENT, ON_IQ, true);
    s->ops->deliver(s, e, NULL);
    envelope_free(e);
    blob_unref(payload);
    mem_free(domain);
    buf_fini(&xml);
}

/* Known, or asked for; with a request open its answer comes first. */
static void look_up(struct c2s_home *h, struct caps *c)
{
    struct event_nodes *nodes;
    struct session *s = &h->session;
    if (*c->now->hash && caps_cache_find(caps_cache_of(s->shard), c->now->hash, c->now->ver, &nodes))
        want(s, nodes);
    else if (!c->asked || loop_now_ms(s->shard->loop) - c->asked_ms > ANSWER_MS)
        ask(h, c);
}

static void session_presence(struct c2s_home *h, const struct envelope *e, const struct xml *root, bool was)
{
    struct session *s = &h->session;
    (void)was;
    if (!pep_is_on(s->shard))
        return;
    if (e->type == PRESENCE_UNAVAILABLE) {
        struct caps *c = hooks_state(h, FEATURE_caps, 0);
        event_nodes_unref(s->wanted);
        s->wanted = NULL;
        if (c) {
            mem_free(c->now);
            c->now = NULL;
        }
        return;
    }
    struct caps_shown *shown = caps_shown_read(root);
    if (!shown)
        return;
    struct caps *c = hooks_state(h, FEATURE_caps, sizeof *c);
    bool news = !caps_shown_same(c->now, shown);
    mem_free(c->now);
    c->now = shown;
    if (news)
        look_up(h, c);
}

/* ---- the answer ---- */

static void take_answer(struct c2s_home *h, struct caps *c, const struct xml *query)
{
    struct session *s = &h->session;
    const struct caps_shown *asked = c->asked;
    struct event_nodes *nodes = caps_learn(caps_cache_of(s->shard), asked, query);
    if (caps_shown_same(c->now, asked) && session_is_available(s))
        want(s, nodes);
    event_nodes_unref(nodes);
}

static enum hook_verdict from_client(struct c2s_home *h, struct envelope *e, struct xml_stanza *stanza)
{
    struct caps *c = hooks_state(h, FEATURE_caps, 0);
    if (!c || !c->asked || (e->type != IQ_RESULT && e->type != IQ_ERROR) || !e->id ||
        strcmp(e->id, c->id) != 0 || strchr(e->to, '@'))
        return HOOK_GO_ON;
    const struct xml *query = xml_child(stanza->root, "query", NS_INFO);
    hooks_set(h, FEATURE_caps, HOOK_FROM_CLIENT, ON_IQ, false);
    if (e->type == IQ_RESULT && query)
        take_answer(h, c, query);
    bool news = c->now && !caps_shown_same(c->now, c->asked); /* it has shown something else meanwhile */
    mem_free(c->asked);
    c->asked = NULL;
    if (news)
        look_up(h, c);
    envelope_free(e);
    return HOOK_HANDLED;
}

static void session_ended(struct c2s_home *h)
{
    struct caps *c = hooks_state(h, FEATURE_caps, 0);
    if (h->session.user->n_sessions == 1)
        caps_outside_forget(h->session.shard, h->session.user->uid);
    if (!c)
        return;
    mem_free(c->now);
    mem_free(c->asked);
    c->now = c->asked = NULL;
}

static const char *const features[] = {NS_CAPS, NULL};
const struct xmpp_feature feature_caps = {
    .name = "caps",
    .xep = "XEP-0115 1.6.0",
    .level = LEVEL_3,
    .server_features = features,
    .hooks = {.session_presence = session_presence,
              .from_client = from_client,
              .session_ended = session_ended},
    .user_hook = &caps_outside_hook,
};
