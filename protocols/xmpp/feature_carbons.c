/* XEP-0280: message carbons. What is copied where: im/carbons. */
#include "im/carbons.h"
#include "im/stored.h"
#include "protocols/xmpp/feature.h"

#define NS_CARBONS "urn:xmpp:carbons:2"

/* ---- what is looked at: nothing, while no session of the user has enabled them ---- */

static enum hook_verdict from_client(struct c2s_home *h, struct envelope *e, struct xml_stanza *stanza)
{
    struct user *u = h->session.user;
    (void)stanza;
    if (carbons_are_on(u))
        carbons_send(u, h->session.id, e, NULL);
    return HOOK_GO_ON;
}

static void look_at_sent(struct user *u)
{
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link)
    {
        if (s->ops == &c2s_session_ops)
            hooks_set(home_of(s), FEATURE_carbons, HOOK_FROM_CLIENT, ON_MESSAGE, carbons_are_on(u));
    }
}

static void set(struct c2s_home *h, bool on)
{
    struct user *u = h->session.user;
    bool was_on = carbons_are_on(u);
    carbons_enable(&h->session, on);
    if (carbons_are_on(u))
        im_hook_on(u, IM_HOOK_CARBONS);
    if (was_on != carbons_are_on(u))
        look_at_sent(u);
}

static void session_bound(struct c2s_home *h)
{
    if (carbons_are_on(h->session.user))
        hooks_set(h, FEATURE_carbons, HOOK_FROM_CLIENT, ON_MESSAGE, true);
}

static void session_ended(struct c2s_home *h)
{
    set(h, false);
}

static void delivered(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                      struct session *const *to, size_t n)
{
    (void)s, (void)uid;
    if (!u)
        return;
    if (!carbons_are_on(u)) {
        im_hook_off(u, IM_HOOK_CARBONS);
        return;
    }
    struct buf id = {0};
    stored_id_element(&id, e, u->jid);
    carbons_receive(u, e, to, n, id.data);
    buf_fini(&id);
}

/* ---- §4, §5 ---- */

static void handle_enable(struct xmpp_iq *iq)
{
    set(iq->home, true);
    iq_result(iq, NULL, 0);
}

static void handle_disable(struct xmpp_iq *iq)
{
    set(iq->home, false);
    iq_result(iq, NULL, 0);
}

/* For oneself only: to another account the request is not known. */
static const struct xmpp_iq_handler handlers[] = {
    {NS_CARBONS, "enable", IQ_SELF | IQ_SERVER, .set = true, .handle = handle_enable},
    {NS_CARBONS, "disable", IQ_SELF | IQ_SERVER, .set = true, .handle = handle_disable},
    {0},
};
/* XEP-0386 §5: within the log-in. Nobody waits for an answer. */
static enum inline_result bind2_enable(struct c2s_home *h, const struct xml *request, struct buf *answer)
{
    (void)request, (void)answer;
    set(h, true);
    return INLINE_DONE;
}

static const struct xmpp_inline inline_bind2[] = {
    {NS_CARBONS, "enable", .announced = NS_CARBONS, .handle = bind2_enable},
    {0},
};
static const char *const features[] = {NS_CARBONS, "urn:xmpp:carbons:rules:0", NULL};
static const struct im_hook user_hook = {
    .id = IM_HOOK_CARBONS, .kinds = 1 << STANZA_MESSAGE, .delivered = delivered};
const struct xmpp_feature feature_carbons = {
    .name = "carbons",
    .xep = "XEP-0280 1.0.1",
    .server_features = features,
    .account_features = features,
    .handlers = handlers,
    .hooks = {.from_client = from_client, .session_bound = session_bound, .session_ended = session_ended},
    .user_hook = &user_hook,
    .inline_bind2 = inline_bind2,
};
