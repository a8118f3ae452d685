/* XEP-0049: private XML, kept as items of a node that no other request sees. Bookmarks (XEP-0048) are those
 * of XEP-0402 in their old form. */
#include "im/user.h"
#include "protocols/xmpp/convert.h"
#include <string.h>

#define NS_PRIVATE "jabber:iq:private"
#define NS_BOOKMARKS "storage:bookmarks"

/* Of the item that keeps it. */
static const char *private_id(const struct xml *x, struct arena *a)
{
    return arena_printf(a, "%s %s", x->name, x->ns);
}

/* "Reserved" namespaces are for the server to know. */
static bool is_reserved(const struct xml *x)
{
    return strncmp(x->ns, "jabber:", 7) == 0 || strncmp(x->ns, "http://jabber.org/", 18) == 0 ||
           strcmp(x->ns, NS_VCARD_TEMP) == 0;
}

static void answer(struct xmpp_iq *iq, const void *xml, size_t n)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_PRIVATE "'>");
    buf_add(&out, xml, n);
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void handle_get(struct xmpp_iq *iq, const struct xml *x)
{
    struct buf xml = {0};
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(iq->shard), iq->uid, NODE_PRIVATE, iq->arena);
    const Imp__PepItemRow *item =
        node ? pep_find_item(shard_txn(iq->shard), iq->uid, node, private_id(x, iq->arena), iq->arena) : NULL;
    if (xml_next_element(x)) {
        iq_error(iq, STANZA_BAD_REQUEST, "one element is expected");
    } else if (xml_is(x, "storage", NS_BOOKMARKS)) {
        bookmarks_old_write(iq->shard, iq->uid, &xml);
        answer(iq, xml.data, xml.n);
    } else if (item) {
        answer(iq, item->payload.data, item->payload.len);
    } else {
        xml_write(&xml, xml_new(iq->arena, x->name, x->ns), NS_PRIVATE);
        answer(iq, xml.data, xml.n);
    }
    buf_fini(&xml);
}

static void handle_set(struct xmpp_iq *iq, const struct xml *first)
{
    struct pep_write *w = pep_write_new(iq->home, iq->uid, iq->home->session.user->jid);
    struct arena *a = pep_write_arena(w);
    const char *text = NULL;
    int rc = 0;
    for (const struct xml *x = first; x && rc == 0; x = xml_next_element(x)) {
        struct buf xml = {0};
        if (xml_is(x, "storage", NS_BOOKMARKS)) {
            rc = bookmarks_from_old(w, iq->shard, iq->uid, x, &text);
        } else if (is_reserved(x)) {
            rc = ERR_LIMIT;
            text = "this namespace is reserved";
        } else {
            xml_write(&xml, x, NULL);
            pep_write_publish(w, NODE_PRIVATE, private_id(x, a), arena_strndup(a, xml.data, xml.n), xml.n,
                              NULL, 0);
        }
        buf_fini(&xml);
    }
    if (rc < 0) {
        iq_error(iq, rc == ERR_INVALID ? STANZA_BAD_REQUEST : STANZA_NOT_ACCEPTABLE, text);
        pep_write_drop(w);
    } else {
        pep_write_submit(w, iq, NULL);
    }
}

static void handle(struct xmpp_iq *iq)
{
    const struct xml *x = xml_first_element(iq->payload);
    if (iq->scope != IQ_SELF)
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    else if (!x)
        iq_error(iq, STANZA_BAD_REQUEST, "an element in a namespace of its own is expected");
    else if (iq->envelope->type == IQ_GET)
        handle_get(iq, x);
    else
        handle_set(iq, x);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_PRIVATE, "query", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = handle, .outside = true},
    {0},
};
static const char *const server_features[] = {NS_PRIVATE, NULL};
static const char *const account_features[] = {NS_PRIVATE, NODE_BOOKMARKS "#compat",
                                               NODE_BOOKMARKS "#compat-pep", NULL};
const struct xmpp_feature feature_private = {
    .name = "private",
    .xep = "XEP-0049 1.2, XEP-0402 1.2.0",
    .level = LEVEL_3,
    .server_features = server_features,
    .account_features = account_features,
    .handlers = handlers,
};
