/* XEP-0060: what publishers and subscribers ask of a user's nodes; owners: pubsub_owner.c. */
#include "base/clock.h"
#include "im/events.h"
#include "im/presence.h"
#include "im/user.h"
#include "protocols/xmpp/pep.h"
#include "protocols/xmpp/pubsub.h"
#include "protocols/xmpp/rsm.h"
#include <stdlib.h>
#include <string.h>

enum {
    PAGE_MAX = 1000,
    PAGE_BYTES = 512 << 10, /* of payloads; one item may be more */
};

/* ---- items (§6.5) ---- */

static void add_item(struct buf *out, const Imp__PepItemRow *item)
{
    buf_adds(out, "<item id='");
    iq_escape(out, item->id);
    if (*item->publisher) {
        buf_adds(out, "' publisher='");
        iq_escape(out, item->publisher);
    }
    if (item->payload.len) {
        buf_adds(out, "'>");
        buf_add(out, item->payload.data, item->payload.len);
        buf_adds(out, "</item>");
    } else {
        buf_adds(out, "'/>");
    }
}

/* §6.5.8: those with these ids, as far as they are there. */
static void add_named(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *items,
                      struct buf *out)
{
    unsigned n = 0;
    for (const struct xml *x = xml_child(items, "item", NS_PUBSUB); x && n < PAGE_MAX && out->n < PAGE_BYTES;
         x = xml_next(x, "item", NS_PUBSUB), n++) {
        const char *id = xml_attr(x, "id");
        const Imp__PepItemRow *item =
            id ? pep_find_item(shard_txn(iq->shard), iq->uid, node, id, iq->arena) : NULL;
        if (item)
            add_item(out, item);
    }
}

static struct key iter_key(const struct store_iter *i)
{
    struct key k;
    key_init(&k);
    key_bytes(&k, i->key, i->n_key);
    return k;
}

/* A page in the order of publication: items[0..n), oldest first, cut at PAGE_BYTES. ERR_NOTFOUND: the
 * neighbour is not there. */
struct page {
    const Imp__PepItemRow **items;
    size_t n;
    int64_t index; /* of the first; below 0: not known */
};

static int read_page(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct rsm *rsm, size_t max,
                     struct page *page)
{
    struct store_txn *t = shard_txn(iq->shard);
    bool backwards = rsm->before != NULL || !rsm->is_asked;
    const char *neighbour = rsm->after ? rsm->after : rsm->before && *rsm->before ? rsm->before : NULL;
    struct key at;
    struct store_iter i;
    if (neighbour && !pep_item_key(t, iq->uid, node, neighbour, iq->arena, &at))
        return ERR_NOTFOUND;
    page->items = arena_alloc(iq->arena, (max + 1) * sizeof *page->items);
    page->n = 0;
    page->index = neighbour ? -1 : 0;
    pep_items_init(&i, t, iq->uid, node);
    if (backwards)
        store_iter_descending(&i);
    if (neighbour)
        store_iter_seek(&i, &at);
    for (uint64_t skip = rsm->has_index ? rsm->index : 0; skip && store_iter_next(&i); skip--)
        page->index++;
    size_t n_bytes = 0;
    while (page->n < max && n_bytes < PAGE_BYTES && store_iter_next(&i)) {
        struct key here = iter_key(&i);
        if (neighbour && here.n == at.n && memcmp(here.bytes, at.bytes, at.n) == 0)
            continue;
        const Imp__PepItemRow *item = store_iter_row(&i, iq->arena);
        if (!item)
            continue;
        n_bytes += item->payload.len;
        page->items[page->n++] = item;
    }
    store_iter_fini(&i);
    if (backwards && !neighbour)
        page->index = (int64_t)node->n_items - (int64_t)page->n;
    for (size_t k = 0; backwards && k < page->n / 2; k++) {
        const Imp__PepItemRow *swap = page->items[k];
        page->items[k] = page->items[page->n - 1 - k];
        page->items[page->n - 1 - k] = swap;
    }
    return 0;
}

/* §6.5.4: max_items are the most recent ones; §6.5.7 with result set management. */
static bool add_page(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *items,
                     struct buf *out, struct buf *set)
{
    struct rsm rsm;
    struct page page;
    const char *max_items = xml_attr(items, "max_items");
    bool is_number = !max_items || (*max_items && !max_items[strspn(max_items, "0123456789")]);
    unsigned long max = max_items ? strtoul(max_items, NULL, 10) : PAGE_MAX * 10;
    if (!is_number || !max || rsm_read(&rsm, iq->payload, PAGE_MAX, iq->arena) < 0) {
        iq_error(iq, STANZA_BAD_REQUEST, NULL);
        return false;
    }
    if (max > node->n_items)
        max = node->n_items;
    if (rsm.is_asked && rsm.max < max)
        max = rsm.max;
    if (read_page(iq, node, &rsm, max, &page) < 0) {
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
        return false;
    }
    for (size_t i = 0; i < page.n; i++)
        add_item(out, page.items[i]);
    if (rsm.is_asked || page.n < max) /* §6.5.4: what is said where not all of it is */
        rsm_write(set, page.n ? page.items[0]->id : NULL, page.n ? page.items[page.n - 1]->id : NULL,
                  page.index, node->n_items);
    return true;
}

static void handle_items(struct xmpp_iq *iq, const struct xml *items)
{
    const char *name = xml_attr(items, "node");
    if (!name || !*name) {
        pep_refuse(iq, PEP_ERROR_NODE_REQUIRED, NULL);
        return;
    }
    struct buf out = {0}, list = {0}, set = {0};
    bool good = true;
    if (strcmp(name, NODE_BOOKMARKS_OLD) == 0 && iq->scope == IQ_SELF) {
        bookmarks_old_item(iq->shard, iq->uid, &list); /* made of the new ones */
    } else {
        const Imp__PepNodeRow *node = pep_readable_node(iq, name);
        if (!node)
            return;
        if (xml_child(items, "item", NS_PUBSUB))
            add_named(iq, node, items, &list);
        else
            good = add_page(iq, node, items, &list, &set);
    }
    if (good) {
        buf_adds(&out, "<pubsub xmlns='" NS_PUBSUB "'><items node='");
        iq_escape(&out, name);
        buf_adds(&out, "'>");
        if (list.n)
            buf_add(&out, list.data, list.n);
        buf_adds(&out, "</items>");
        if (set.n)
            buf_add(&out, set.data, set.n);
        buf_adds(&out, "</pubsub>");
        iq_result(iq, out.data, out.n);
    }
    buf_fini(&out);
    buf_fini(&list);
    buf_fini(&set);
}

/* ---- publish (§7.1) ---- */

/* The options as a configuration for a new node; false: answered. */
static bool read_options(struct xmpp_iq *iq, const char *node, struct arena *a, Imp__PepConfig **config,
                         uint32_t *fields)
{
    const struct xml *options = xml_child(iq->payload, "publish-options", NS_PUBSUB);
    const struct xml *form = options ? xml_child(options, "x", NS_DATA_FORM) : NULL;
    const char *why = NULL;
    *config = arena_alloc(a, sizeof **config);
    *fields = 0;
    pep_config_initial(*config, node);
    if (!form)
        return true;
    switch (pep_form_read(form, NS_PUBSUB "#publish-options", true, *config, fields, a, &why)) {
    case 0:
        return true;
    case ERR_UNSUPPORTED: /* §7.1.5: MUST be rejected */
        pep_refuse(iq, PEP_ERROR_PRECONDITION, why);
        return false;
    default:
        pep_refuse(iq, PEP_ERROR_INVALID_OPTIONS, why);
        return false;
    }
}

static const char *item_id(const struct xml *item, const char *node, struct arena *a)
{
    const char *id = xml_attr(item, "id");
    if (id && *id)
        return arena_strdup(a, id);
    (void)node;
    char made[33];
    random_hex(made, 16);
    return arena_strdup(a, made);
}

/* §7.1.2: what the answer names. */
static const char *publish_result(struct buf *out, const char *node, const char *id)
{
    buf_adds(out, "<pubsub xmlns='" NS_PUBSUB "'><publish node='");
    iq_escape(out, node);
    buf_adds(out, "'><item id='");
    iq_escape(out, id);
    buf_adds(out, "'/></publish></pubsub>");
    return out->data;
}

static void publish_item(struct xmpp_iq *iq, const char *node, const struct xml *item)
{
    const struct xml *payload = xml_first_element(item);
    struct pep_write *w = pep_write_new(iq->home, iq->uid, pep_owner_jid(iq));
    struct arena *a = pep_write_arena(w);
    Imp__PepConfig *config;
    uint32_t fields;
    if (!read_options(iq, node, a, &config, &fields)) {
        pep_write_drop(w);
        return;
    }
    const char *id = item_id(item, node, a), *why = NULL;
    struct buf xml = {0}, result = {0};
    if (payload)
        xml_write(&xml, payload, NULL);
    int rc = 0;
    node = arena_strdup(a, node);
    if (xml.n + strlen(id) > (size_t)setting_int(shard_txn(iq->shard), NULL, SETTING_LIMIT_PEP_ITEM_BYTES)) {
        pep_refuse(iq, PEP_ERROR_TOO_BIG, "the item is larger than limits.pep_item_bytes allows");
        pep_write_drop(w);
    } else {
        if (strcmp(node, NODE_BOOKMARKS_OLD) != 0)
            pep_write_publish(w, node, id, xml.n ? arena_strndup(a, xml.data, xml.n) : NULL, xml.n, config,
                              fields);
        if (iq->scope == IQ_SELF)
            rc = pep_special_publish(w, iq, node, id, payload, &why);
        if (rc < 0) {
            iq_error(iq, rc == ERR_INVALID ? STANZA_BAD_REQUEST : STANZA_NOT_ACCEPTABLE, why);
            pep_write_drop(w);
        } else {
            pep_write_submit(w, iq, publish_result(&result, node, id));
        }
    }
    buf_fini(&xml);
    buf_fini(&result);
}

static void handle_publish(struct xmpp_iq *iq, const struct xml *publish)
{
    const char *node = xml_attr(publish, "node");
    const struct xml *item = xml_child(publish, "item", NS_PUBSUB);
    if (!node || !*node)
        pep_refuse(iq, PEP_ERROR_NODE_REQUIRED, NULL);
    else if (!item || xml_next(item, "item", NS_PUBSUB))
        pep_refuse(iq, PEP_ERROR_ITEM_REQUIRED, "exactly one item is expected");
    else if (xml_first_element(item) && xml_next_element(xml_first_element(item)))
        pep_refuse(iq, PEP_ERROR_INVALID_PAYLOAD, "one payload is expected");
    else if (!xml_first_element(item))
        pep_refuse(iq, PEP_ERROR_PAYLOAD_REQUIRED, NULL);
    else if (strcmp(node, NODE_PRIVATE) == 0)
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    else
        publish_item(iq, node, item);
}

/* ---- retract (§7.2) ---- */

static bool is_true(const char *s)
{
    return s && (strcmp(s, "1") == 0 || strcmp(s, "true") == 0);
}

static void handle_retract(struct xmpp_iq *iq, const struct xml *retract)
{
    const char *node = xml_attr(retract, "node");
    const struct xml *item = xml_child(retract, "item", NS_PUBSUB);
    const char *id = item ? xml_attr(item, "id") : NULL;
    if (!node || !*node) {
        pep_refuse(iq, PEP_ERROR_NODE_REQUIRED, NULL);
    } else if (!id || !*id || xml_next(item, "item", NS_PUBSUB)) {
        pep_refuse(iq, PEP_ERROR_ITEM_REQUIRED, "exactly one item with an id is expected");
    } else if (strcmp(node, NODE_PRIVATE) == 0) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
    } else {
        struct pep_write *w = pep_write_new(iq->home, iq->uid, pep_owner_jid(iq));
        node = arena_strdup(pep_write_arena(w), node);
        id = arena_strdup(pep_write_arena(w), id);
        pep_write_retract(w, node, id, false, is_true(xml_attr(retract, "notify")));
        if (iq->scope == IQ_SELF)
            pep_special_retract(w, iq, node, id);
        pep_write_submit(w, iq, NULL);
    }
}

/* ---- dispatch ---- */

static const struct {
    const char *name;
    bool set;
    void (*handle)(struct xmpp_iq *iq, const struct xml *x);
} requests[] = {
    {"items", false, handle_items},
    {"publish", true, handle_publish},
    {"retract", true, handle_retract},
    {"subscribe", true, pubsub_subscribe},
    {"unsubscribe", true, pubsub_unsubscribe},
    {"subscriptions", false, pubsub_subscriptions},
    {"affiliations", false, pubsub_affiliations},
    {"create", true, pubsub_create},
    {"default", false, pubsub_default},
};

/* Who has no session here reads what it may; changes are for users (ADR 0048). */
static void refuse_outside(struct xmpp_iq *iq, const char *request)
{
    const char *unsupported =
        arena_printf(iq->arena, "<unsupported xmlns='" NS_PUBSUB_ERRORS "' feature='%s'/>",
                     strcmp(request, "unsubscribe") == 0 ? "subscribe"
                     : strcmp(request, "retract") == 0   ? "retract-items"
                     : strcmp(request, "create") == 0    ? "create-nodes"
                                                         : request);
    iq_error_with(iq, STANZA_FEATURE_NOT_IMPLEMENTED, NULL, unsupported);
}

static void handle(struct xmpp_iq *iq)
{
    const struct xml *x = xml_first_element(iq->payload);
    bool set = iq->envelope->type == IQ_SET;
    if (x && (strcmp(x->name, "options") == 0)) {
        pep_refuse(iq, PEP_ERROR_NO_OPTIONS, NULL);
        return;
    }
    for (size_t i = 0; x && i < n_elements(requests); i++) {
        if (strcmp(requests[i].name, x->name) != 0 || strcmp(x->ns, NS_PUBSUB) != 0 || requests[i].set != set)
            continue;
        if (set && !iq->home)
            refuse_outside(iq, x->name);
        else
            requests[i].handle(iq, x);
        return;
    }
    iq_error(iq, x ? STANZA_FEATURE_NOT_IMPLEMENTED : STANZA_BAD_REQUEST, NULL);
}

/* ---- disco (§5) ---- */

static void add_node(struct buf *out, const char *jid, const char *node, const Imp__PepConfig *config)
{
    buf_adds(out, "<item jid='");
    iq_escape(out, jid);
    buf_adds(out, "' node='");
    iq_escape(out, node);
    if (*config->title) {
        buf_adds(out, "' name='");
        iq_escape(out, config->title);
    }
    buf_adds(out, "'/>");
}

/* §5.2: the nodes that who asks may read. */
static void disco_items(struct xmpp_iq *iq, struct buf *out)
{
    if (iq->scope == IQ_SERVER)
        return;
    struct store_txn *t = shard_txn(iq->shard);
    const char *who = pep_requester(iq);
    struct key prefix;
    struct store_iter i;
    struct arena a;
    arena_init(&a);
    key_init(&prefix);
    key_u64(&prefix, iq->uid);
    store_iter_init(&i, t, TABLE_PEP_NODE, &prefix);
    while (store_iter_next(&i)) {
        arena_reset(&a);
        const Imp__PepNodeRow *node = store_iter_row(&i, &a);
        if (node && node->config && strcmp(node->node, NODE_PRIVATE) != 0 &&
            (!*who || pep_check_access(t, iq->uid, node, who, &a) == PEP_MAY))
            add_node(out, pep_owner_jid(iq), node->node, node->config);
    }
    store_iter_fini(&i);
    arena_fini(&a);
}

/* §5.3, §5.5 */
static void answer_node_info(struct xmpp_iq *iq, const Imp__PepNodeRow *node)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='http://jabber.org/protocol/disco#info' node='");
    iq_escape(&out, node->node);
    buf_adds(&out, "'><identity category='pubsub' type='leaf'/><feature var='" NS_PUBSUB "'/>");
    pep_form_write(&out, node->config, NS_PUBSUB "#meta-data", "result");
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void answer_node_items(struct xmpp_iq *iq, const Imp__PepNodeRow *node)
{
    struct buf out = {0};
    struct store_iter i;
    struct arena a;
    arena_init(&a);
    buf_adds(&out, "<query xmlns='http://jabber.org/protocol/disco#items' node='");
    iq_escape(&out, node->node);
    buf_adds(&out, "'>");
    pep_items_init(&i, shard_txn(iq->shard), iq->uid, node);
    while (store_iter_next(&i)) {
        arena_reset(&a);
        const Imp__PepItemRow *item = store_iter_row(&i, &a);
        if (!item)
            continue;
        buf_adds(&out, "<item jid='");
        iq_escape(&out, pep_owner_jid(iq));
        buf_adds(&out, "' name='");
        iq_escape(&out, item->id);
        buf_adds(&out, "'/>");
    }
    store_iter_fini(&i);
    arena_fini(&a);
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static bool disco_node(struct xmpp_iq *iq, const char *name, bool items)
{
    if (iq->scope == IQ_SERVER)
        return false;
    if (strcmp(name, NODE_PRIVATE) == 0 || !pep_find_node(shard_txn(iq->shard), iq->uid, name, iq->arena))
        return false;
    const Imp__PepNodeRow *node = pep_readable_node(iq, name);
    if (node && items)
        answer_node_items(iq, node);
    else if (node)
        answer_node_info(iq, node);
    return true;
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_PUBSUB, "pubsub", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = handle, .outside = true},
    {NS_PUBSUB_OWNER, "pubsub", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = pubsub_owner,
     .outside = true},
    {0},
};
#define F(name) NS_PUBSUB "#" name
static const char *const features[] = {NS_PUBSUB,
                                       F("access-authorize"),
                                       F("access-open"),
                                       F("access-presence"),
                                       F("access-roster"),
                                       F("access-whitelist"),
                                       F("auto-create"),
                                       F("auto-subscribe"),
                                       F("config-node"),
                                       F("config-node-max"),
                                       F("create-and-configure"),
                                       F("create-nodes"),
                                       F("delete-items"),
                                       F("delete-nodes"),
                                       F("filtered-notifications"),
                                       F("item-ids"),
                                       F("last-published"),
                                       F("manage-subscriptions"),
                                       F("member-affiliation"),
                                       F("meta-data"),
                                       F("modify-affiliations"),
                                       F("multi-items"),
                                       F("outcast-affiliation"),
                                       F("persistent-items"),
                                       F("presence-notifications"),
                                       F("presence-subscribe"),
                                       F("publish"),
                                       F("publish-only-affiliation"),
                                       F("publish-options"),
                                       F("publisher-affiliation"),
                                       F("purge-nodes"),
                                       F("retract-items"),
                                       F("retrieve-affiliations"),
                                       F("retrieve-default"),
                                       F("retrieve-items"),
                                       F("retrieve-subscriptions"),
                                       F("rsm"),
                                       F("subscribe"),
                                       F("pubsub-on-a-jid"),
                                       NULL};
const struct xmpp_feature feature_pubsub = {
    .name = "pubsub",
    .xep = "XEP-0060 1.26",
    .level = LEVEL_3,
    .account_features = features,
    .handlers = handlers,
    .disco_items = disco_items,
    .disco_node = disco_node,
    .disco_outside = true,
};
