/* XEP-0280: message carbons. What is copied where: im/carbons. */
#include "im/carbons.h"
#include "im/stored.h"
#include "protocols/xmpp/feature.h"

#define NS_CARBONS "urn:xmpp:carbons:2"

static void session_ended(struct c2s_home *h)
{
    carbons_enable(&h->session, false);
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
    stored_id_element(u->shard->ids, &id, e, u->jid);
    carbons_receive(u, e, to, n, id.data);
    buf_fini(&id);
}

/* ---- §4, §5 ---- */

static void handle_enable(struct xmpp_iq *iq)
{
    carbons_enable(&iq->home->session, true);
    iq_result(iq, NULL, 0);
}

static void handle_disable(struct xmpp_iq *iq)
{
    carbons_enable(&iq->home->session, false);
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
    carbons_enable(&h->session, true);
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
    .hooks = {.session_ended = session_ended},
    .user_hook = &user_hook,
    .inline_bind2 = inline_bind2,
};
