/* XEP-0030: service discovery, of the server and of accounts; the lists come from the features' descriptors.
 */
#include "im/presence.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "replication/settings.h"
#include <string.h>

#define NS_INFO "http://jabber.org/protocol/disco#info"
#define NS_ITEMS "http://jabber.org/protocol/disco#items"

/* §8: about another's account only for those who may see its presence. */
static bool may_ask(struct xmpp_iq *iq)
{
    return iq->scope != IQ_ACCOUNT || presence_is_visible(iq->shard, iq->uid, iq->envelope->from);
}

static bool may_answer(const struct xmpp_feature *f, struct xmpp_iq *iq)
{
    return feature_is_on(f, iq->shard) && (iq->home || f->disco_outside);
}

/* True: it is answered already. */
static bool answer_early(struct xmpp_iq *iq, bool items)
{
    const char *node = xml_attr(iq->payload, "node");
    if (!may_ask(iq)) {
        iq_error(iq, STANZA_SERVICE_UNAVAILABLE, NULL);
        return true;
    }
    if (!node || !*node)
        return false;
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        if ((*f)->disco_node && may_answer(*f, iq) && (*f)->disco_node(iq, node, items))
            return true;
    iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
    return true;
}

/* XEP-0455 §2: where a client that gets no answer any more can look, as a form of XEP-0128. */
static void add_status_addresses(struct buf *out, struct xmpp_iq *iq)
{
    const char *p = setting_string(shard_txn(iq->shard), NULL, SETTING_XMPP_STATUS_ADDRESSES, iq->arena);
    p += strspn(p, " ");
    if (!*p)
        return;
    buf_adds(
        out,
        "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>"
        "<value>urn:xmpp:sos:0</value></field><field var='external-status-addresses' type='list-multi'>");
    for (size_t n; *p; p += n, p += strspn(p, " ")) {
        n = strcspn(p, " ");
        buf_adds(out, "<value>");
        xml_escape(out, p, n);
        buf_adds(out, "</value>");
    }
    buf_adds(out, "</field></x>");
}

/* §3.1: identities, features, forms. */
static void handle_info(struct xmpp_iq *iq)
{
    if (answer_early(iq, false))
        return;
    bool server = iq->scope == IQ_SERVER;
    struct buf out = {0}, rest = {0};
    buf_adds(&out, "<query xmlns='" NS_INFO "'>");
    buf_adds(&out, server ? "<identity category='server' type='im' name='imp'/>"
                          : "<identity category='account' type='registered'/>");
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++) {
        if (!feature_is_on(*f, iq->shard))
            continue;
        const char *identity = server ? (*f)->server_identity : (*f)->account_identity;
        if (identity)
            buf_adds(&out, identity);
        const char *const *list = server ? (*f)->server_features : (*f)->account_features;
        for (; list && *list; list++)
            buf_addf(&rest, "<feature var='%s'/>", *list);
    }
    if (rest.n)
        buf_add(&out, rest.data, rest.n);
    if (server)
        add_status_addresses(&out, iq);
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        if ((*f)->disco_info && may_answer(*f, iq))
            (*f)->disco_info(iq, &out);
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
    buf_fini(&rest);
}

static void handle_items(struct xmpp_iq *iq)
{
    if (answer_early(iq, true))
        return;
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_ITEMS "'>");
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        if ((*f)->disco_items && may_answer(*f, iq))
            (*f)->disco_items(iq, &out);
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_INFO, "query", IQ_SERVER | IQ_SELF | IQ_ACCOUNT, .get = true, .handle = handle_info, .outside = true},
    {NS_ITEMS, "query", IQ_SERVER | IQ_SELF | IQ_ACCOUNT, .get = true, .handle = handle_items, .outside = true},
    {0},
};
static const char *const features[] = {NS_INFO, NS_ITEMS, NULL};
const struct xmpp_feature feature_disco = {
    .name = "disco",
    .xep = "XEP-0030 2.5rc3",
    .server_features = features,
    .account_features = features,
    .handlers = handlers,
};
