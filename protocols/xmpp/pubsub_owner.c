/* XEP-0060 §8: what the owner asks of its nodes. */
#include "im/address.h"
#include "im/events.h"
#include "im/user.h"
#include "protocols/xmpp/pubsub.h"
#include <string.h>

/* ---- changes of a node ---- */

struct node_change {
    struct iq_later *later;
    struct arena arena;
    struct pep_change told; /* told.inner NULL: nothing is */
    uint64_t uid;
    const char *emptied; /* the node whose items go; NULL: none */
};

static void on_changed(struct session *session, struct shard *s, void *user,
                       const struct proposal_result *result)
{
    struct node_change *n = user;
    if (result->code) {
        pep_answer_refusal(n->later, session, result);
    } else {
        iq_later_result(n->later, session, NULL, 0);
        n->told.index = result->index;
        if (n->told.inner)
            pep_notify(s, &n->told);
        if (n->emptied)
            pep_special_emptied(session, s, n->uid, n->emptied, result->index);
    }
    arena_fini(&n->arena);
    mem_free(n);
}

static struct node_change *change_new(struct xmpp_iq *iq)
{
    struct node_change *n = mem_new(struct node_change);
    arena_init(&n->arena);
    n->later = iq_keep(iq);
    return n;
}

static void submit(struct xmpp_iq *iq, Imp__Command *command, struct node_change *n)
{
    if (session_submit(&iq->home->session, command, on_changed, n) == 0)
        return;
    iq_later_error(n->later, &iq->home->session, STANZA_RESOURCE_CONSTRAINT, NULL);
    arena_fini(&n->arena);
    mem_free(n);
}

/* Who has subscribed by itself: not to be found any more once the node has gone. */
static const char *const *read_subscribers(struct xmpp_iq *iq, const Imp__PepNodeRow *node, struct arena *a)
{
    const char **jids = arena_alloc(a, (node->n_parties + 1) * sizeof *jids);
    struct key prefix = pep_key_number(iq->uid, node->number);
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, shard_txn(iq->shard), TABLE_PEP_PARTY, &prefix);
    while (n < node->n_parties && store_iter_next(&i)) {
        const Imp__PepPartyRow *row = store_iter_row(&i, a);
        if (row && row->subscription == IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED)
            jids[n++] = row->subscriber;
    }
    store_iter_fini(&i);
    jids[n] = NULL;
    return jids;
}

/* <event><ELEMENT node=''/></event>, to be told once it is done. */
static void will_tell(struct xmpp_iq *iq, struct node_change *n, const char *name, const char *element,
                      bool wanted)
{
    struct arena *a = &n->arena;
    Imp__PepNodeRow *node = pep_find_node(shard_txn(iq->shard), iq->uid, name, a);
    struct buf xml = {0};
    if (!node || !wanted)
        return;
    buf_addf(&xml, "<event xmlns='" NS_PUBSUB_EVENT "'><%s node='", element);
    iq_escape(&xml, name);
    buf_adds(&xml, "'/></event>");
    n->told = (struct pep_change){.owner = iq->uid,
                                  .owner_jid = arena_strdup(a, iq->home->session.user->jid),
                                  .node = arena_strdup(a, name),
                                  .config = node->config,
                                  .number = node->number,
                                  .subscribers =
                                      strcmp(element, "delete") == 0 ? read_subscribers(iq, node, a) : NULL,
                                  .inner = arena_strndup(a, xml.data, xml.n),
                                  .n_inner = xml.n};
    buf_fini(&xml);
}

void pubsub_submit_node(struct xmpp_iq *iq, const char *node, Imp__PepConfig *config, bool create)
{
    Imp__PepNodeSet body = IMP__PEP_NODE_SET__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct node_change *n = change_new(iq);
    body.uid = iq->uid;
    body.node = (char *)node;
    body.config = config;
    body.create = create;
    command.body_case = IMP__COMMAND__BODY_PEP_NODE_SET;
    command.pep_node_set = &body;
    if (!create)
        will_tell(iq, n, node, "configuration", config->notify_config);
    submit(iq, &command, n);
}

static void remove_node(struct xmpp_iq *iq, const char *name, bool items_only)
{
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(iq->shard), iq->uid, name, iq->arena);
    Imp__PepNodeRemove body = IMP__PEP_NODE_REMOVE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct node_change *n = change_new(iq);
    body.uid = iq->uid;
    body.node = (char *)name;
    body.items_only = items_only;
    n->uid = iq->uid;
    n->emptied = arena_strdup(&n->arena, name);
    command.body_case = IMP__COMMAND__BODY_PEP_NODE_REMOVE;
    command.pep_node_remove = &body;
    will_tell(iq, n, name, items_only ? "purge" : "delete",
              node && (items_only ? node->config->notify_retract : node->config->notify_delete));
    submit(iq, &command, n);
}

/* ---- requests ---- */

static void get_configuration(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    struct buf out = {0};
    (void)x;
    buf_adds(&out, "<pubsub xmlns='" NS_PUBSUB_OWNER "'><configure node='");
    iq_escape(&out, node->node);
    buf_adds(&out, "'>");
    pep_form_write(&out, node->config, NS_PUBSUB "#node_config", "form");
    buf_adds(&out, "</configure></pubsub>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void set_configuration(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    const struct xml *form = xml_child(x, "x", NS_DATA_FORM);
    const char *type = form ? xml_attr(form, "type") : NULL, *why = NULL;
    uint32_t fields;
    if (type && strcmp(type, "cancel") == 0)
        iq_result(iq, NULL, 0);
    else if (!form)
        iq_error(iq, STANZA_BAD_REQUEST, NULL);
    else if (pep_form_read(form, NS_PUBSUB "#node_config", false, node->config, &fields, iq->arena, &why) < 0)
        iq_error(iq, STANZA_NOT_ACCEPTABLE, why);
    else
        pubsub_submit_node(iq, node->node, node->config, false);
}

static void purge(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    (void)x;
    remove_node(iq, node->node, true);
}

static void delete (struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    (void)x;
    remove_node(iq, node->node, false);
}

static void list_parties(struct xmpp_iq *iq, const Imp__PepNodeRow *node, bool subscriptions)
{
    static const char *const states[] = {"none", "pending", "subscribed"};
    const char *element = subscriptions ? "subscriptions" : "affiliations";
    struct key prefix = pep_key_number(iq->uid, node->number);
    struct store_iter i;
    struct buf out = {0};
    buf_addf(&out, "<pubsub xmlns='" NS_PUBSUB_OWNER "'><%s node='", element);
    iq_escape(&out, node->node);
    buf_adds(&out, "'>");
    if (!subscriptions) {
        buf_adds(&out, "<affiliation jid='");
        iq_escape(&out, iq->home->session.user->jid);
        buf_adds(&out, "' affiliation='owner'/>");
    }
    store_iter_init(&i, shard_txn(iq->shard), TABLE_PEP_PARTY, &prefix);
    while (store_iter_next(&i)) {
        struct key_reader k;
        const Imp__PepPartyRow *row = store_iter_row(&i, iq->arena);
        key_read(&k, (const char *)i.key + prefix.n, i.n_key - prefix.n);
        const char *jid = key_read_str(&k, iq->arena);
        if (!row || !jid)
            continue;
        if (subscriptions && row->subscription != IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED) {
            buf_adds(&out, "<subscription jid='");
            iq_escape(&out, row->subscriber);
            buf_addf(&out, "' subscription='%s'/>", states[row->subscription]);
        } else if (!subscriptions && row->affiliation != IMP__PEP_AFFILIATION__PEP_NONE) {
            buf_adds(&out, "<affiliation jid='");
            iq_escape(&out, jid);
            buf_addf(&out, "' affiliation='%s'/>", pubsub_affiliation_names[row->affiliation]);
        }
    }
    store_iter_fini(&i);
    buf_addf(&out, "</%s></pubsub>", element);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static void get_subscriptions(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    (void)x;
    list_parties(iq, node, true);
}

static void get_affiliations(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    (void)x;
    list_parties(iq, node, false);
}

/* One <subscription/> or <affiliation/>; false: it is none. */
static bool read_party(const struct xml *x, bool subscriptions, Imp__PepPartyChange *c, struct arena *a)
{
    char jid[JID_MAX + 1];
    const char *text = xml_attr(x, "jid"),
               *value = xml_attr(x, subscriptions ? "subscription" : "affiliation");
    imp__pep_party_change__init(c);
    if (!text || !value || jid_prepare(jid, text, strlen(text), NULL) < 0)
        return false;
    c->subscriber = arena_strdup(a, jid);
    c->jid = arena_strndup(a, jid, jid_bare_length(jid));
    if (subscriptions) {
        c->set_subscription = true;
        c->subscription = IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED;
        if (strcmp(value, "none") == 0)
            c->subscription = IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED;
        return strcmp(value, "subscribed") == 0 || strcmp(value, "none") == 0;
    }
    c->set_affiliation = true;
    for (int i = 0; i <= IMP__PEP_AFFILIATION__PEP_PUBLISH_ONLY; i++) {
        if (strcmp(value, pubsub_affiliation_names[i]) != 0)
            continue;
        c->affiliation = (Imp__PepAffiliation)i;
        return i != IMP__PEP_AFFILIATION__PEP_OWNER; /* §8.9.2.4: the owner of a PEP node is the account */
    }
    return false;
}

static void set_parties(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x,
                        bool subscriptions)
{
    enum { CHANGES_MAX = 200 };
    Imp__PepPartyChange *list[CHANGES_MAX];
    Imp__PepPartySet body = IMP__PEP_PARTY_SET__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    const char *element = subscriptions ? "subscription" : "affiliation";
    for (const struct xml *c = xml_child(x, element, NS_PUBSUB_OWNER); c;
         c = xml_next(c, element, NS_PUBSUB_OWNER)) {
        if (body.n_changes == CHANGES_MAX) {
            iq_error(iq, STANZA_POLICY_VIOLATION, "too many changes at once");
            return;
        }
        list[body.n_changes] = arena_alloc(iq->arena, sizeof **list);
        if (!read_party(c, subscriptions, list[body.n_changes], iq->arena) ||
            strcmp(list[body.n_changes]->jid, iq->home->session.user->jid) == 0) {
            iq_error(iq, STANZA_NOT_ACCEPTABLE, "a JID or a state is not one that can be set");
            return;
        }
        body.n_changes++;
    }
    body.uid = body.actor = iq->uid;
    body.node = node->node;
    body.changes = list;
    command.body_case = IMP__COMMAND__BODY_PEP_PARTY_SET;
    command.pep_party_set = &body;
    submit(iq, &command, change_new(iq));
}

static void set_subscriptions(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    set_parties(iq, node, x, true);
}

static void set_affiliations(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x)
{
    set_parties(iq, node, x, false);
}

/* ---- dispatch ---- */

static const struct {
    const char *name;
    bool set;
    void (*handle)(struct xmpp_iq *iq, const Imp__PepNodeRow *node, const struct xml *x);
} requests[] = {
    {"configure", false, get_configuration},
    {"configure", true, set_configuration},
    {"purge", true, purge},
    {"delete", true, delete},
    {"subscriptions", false, get_subscriptions},
    {"subscriptions", true, set_subscriptions},
    {"affiliations", false, get_affiliations},
    {"affiliations", true, set_affiliations},
};

static void get_default(struct xmpp_iq *iq)
{
    struct buf out = {0};
    Imp__PepConfig config;
    pep_config_initial(&config, "");
    buf_adds(&out, "<pubsub xmlns='" NS_PUBSUB_OWNER "'><default>");
    pep_form_write(&out, &config, NS_PUBSUB "#node_config", "form");
    buf_adds(&out, "</default></pubsub>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

void pubsub_owner(struct xmpp_iq *iq)
{
    const struct xml *x = xml_first_element(iq->payload);
    const char *name = x ? xml_attr(x, "node") : NULL;
    bool set = iq->envelope->type == IQ_SET;
    if (iq->scope != IQ_SELF) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        return;
    }
    if (x && strcmp(x->name, "default") == 0 && !set) {
        get_default(iq);
        return;
    }
    if (!name || !*name) {
        pep_refuse(iq, PEP_ERROR_NODE_REQUIRED, NULL);
        return;
    }
    const Imp__PepNodeRow *node =
        strcmp(name, NODE_PRIVATE) ? pep_find_node(shard_txn(iq->shard), iq->uid, name, iq->arena) : NULL;
    for (size_t i = 0; i < n_elements(requests); i++) {
        if (strcmp(requests[i].name, x->name) != 0 || requests[i].set != set)
            continue;
        if (node)
            requests[i].handle(iq, node, x);
        else
            iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
        return;
    }
    iq_error(iq, STANZA_FEATURE_NOT_IMPLEMENTED, NULL);
}
