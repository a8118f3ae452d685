/* XEP-0157: contact addresses of the service; XEP-0485: what the service says of itself, as a node of one
 * item. */
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/service.h"
#include "replication/settings.h"
#include <string.h>

#define NS_SERVERINFO "urn:xmpp:serverinfo:0"
#define NS_PUBSUB "http://jabber.org/protocol/pubsub"
#define NODE "serverinfo"

static bool is_published(struct shard *s)
{
    return setting_bool(shard_txn(s), NULL, SETTING_XMPP_SERVER_INFO);
}

/* ---- XEP-0157 §3, XEP-0485 §3: one form, as both say ---- */

/* The values of one kind in "KIND=URI KIND=URI ..." */
static void add_addresses(struct buf *out, struct xmpp_iq *iq, const char *list, const char *kind)
{
    size_t n_kind = strlen(kind);
    bool found = false;
    for (char *word; service_next_word(&list, iq->arena, &word);) {
        if (strncmp(word, kind, n_kind) != 0 || word[n_kind] != '=')
            continue;
        if (!found)
            buf_addf(out, "<field var='%s-addresses' type='list-multi'>", kind);
        found = true;
        buf_adds(out, "<value>");
        iq_escape(out, word + n_kind + 1);
        buf_adds(out, "</value>");
    }
    if (found)
        buf_adds(out, "</field>");
}

static void disco_info(struct xmpp_iq *iq, struct buf *out)
{
    static const char *const kinds[] = {"abuse",    "admin",  "feedback", "sales",
                                        "security", "status", "support"};
    if (iq->scope != IQ_SERVER)
        return;
    const char *list = setting_string(shard_txn(iq->shard), NULL, SETTING_XMPP_CONTACTS, iq->arena);
    bool published = is_published(iq->shard);
    if (published)
        buf_adds(out, "<feature var='" NS_SERVERINFO "'/>");
    struct buf fields = {0};
    for (size_t i = 0; i < n_elements(kinds); i++)
        add_addresses(&fields, iq, list, kinds[i]);
    if (published) {
        buf_adds(&fields, "<field var='serverinfo-pubsub-node' type='text-single'><value>xmpp:");
        iq_escape(&fields, iq->shard->domain);
        buf_adds(&fields, "?;node=" NODE "</value></field>");
    }
    if (fields.n) {
        buf_adds(out, "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'>"
                      "<value>http://jabber.org/network/serverinfo</value></field>");
        buf_add(out, fields.data, fields.n);
        buf_adds(out, "</x>");
    }
    buf_fini(&fields);
}

/* ---- XEP-0485 §4 ---- */

static void add_domains(struct buf *out, struct xmpp_iq *iq)
{
    struct key all;
    struct store_iter it;
    key_init(&all);
    store_iter_init(&it, shard_txn(iq->shard), TABLE_DOMAIN, &all);
    while (store_iter_next(&it)) {
        const Imp__DomainRow *row = store_iter_row(&it, iq->arena);
        if (!row)
            continue;
        buf_adds(out, "<domain name='");
        iq_escape(out, row->domain);
        buf_adds(out, "'/>");
    }
    store_iter_fini(&it);
}

static bool disco_node(struct xmpp_iq *iq, const char *node, bool items)
{
    if (iq->scope != IQ_SERVER || strcmp(node, NODE) != 0 || !is_published(iq->shard))
        return false;
    struct buf out = {0};
    if (items) {
        buf_adds(&out, "<query xmlns='http://jabber.org/protocol/disco#items' node='" NODE "'><item jid='");
        iq_escape(&out, iq->envelope->to);
        buf_adds(&out, "' name='current'/></query>");
    } else {
        buf_adds(&out, "<query xmlns='http://jabber.org/protocol/disco#info' node='" NODE "'>"
                       "<identity category='pubsub' type='leaf'/><feature var='" NS_PUBSUB "'/></query>");
    }
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
    return true;
}

/* XEP-0060 §6.5 */
static void handle_items(struct xmpp_iq *iq)
{
    const struct xml *items = xml_child(iq->payload, "items", NS_PUBSUB);
    const char *node = items ? xml_attr(items, "node") : NULL;
    if (!node || strcmp(node, NODE) != 0 || !is_published(iq->shard)) {
        iq_error(iq, items ? STANZA_ITEM_NOT_FOUND : STANZA_FEATURE_NOT_IMPLEMENTED, NULL);
        return;
    }
    struct buf out = {0};
    buf_adds(&out, "<pubsub xmlns='" NS_PUBSUB "'><items node='" NODE "'><item id='current'>"
                   "<serverinfo xmlns='" NS_SERVERINFO "'>");
    add_domains(&out, iq);
    buf_adds(&out, "</serverinfo></item></items></pubsub>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_PUBSUB, "pubsub", IQ_SERVER, .get = true, .handle = handle_items},
    {0},
};
const struct xmpp_feature feature_serverinfo = {
    .name = "serverinfo",
    .xep = "XEP-0157 1.1.1, XEP-0485 0.1",
    .level = 3,
    .handlers = handlers,
    .disco_info = disco_info,
    .disco_node = disco_node,
    .disco_outside = true,
};
