/* XEP-0060 §6: subscribing, and what one has subscribed to; §8.1: creating. */
#include "im/address.h"
#include "im/events.h"
#include "im/user.h"
#include "protocols/xmpp/pubsub.h"
#include <string.h>

const char *const pubsub_affiliation_names[] = {"none",  "member",  "publisher",
                                                "owner", "outcast", "publish-only"};
static const char *const subscription_names[] = {"none", "pending", "subscribed"};

/* ---- subscribe and unsubscribe ---- */

struct party_change {
    struct iq_later *later;
    uint64_t owner;
    char *owner_jid, *node, *jid;
    bool subscribe;
};

static void free_change(struct party_change *p)
{
    mem_free(p->owner_jid);
    mem_free(p->node);
    mem_free(p->jid);
    mem_free(p);
}

static void write_subscription(struct buf *out, const char *node, const char *jid, const char *state)
{
    buf_adds(out, "<subscription node='");
    iq_escape(out, node);
    buf_adds(out, "' jid='");
    iq_escape(out, jid);
    buf_addf(out, "' subscription='%s'/>", state);
}

/* §6.1.7: what a new subscriber begins with. */
static void send_last(struct shard *s, const struct party_change *p, uint64_t index)
{
    struct arena a;
    arena_init(&a);
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), p->owner, p->node, &a);
    const Imp__PepItemRow *item = node && node->config->send_last != IMP__PEP_SEND_LAST__PEP_LAST_NEVER
                                      ? pep_last_item(shard_txn(s), p->owner, node, &a)
                                      : NULL;
    if (item) {
        struct buf xml = {0};
        pep_last_event(&xml, p->node, item, node->config->payloads);
        struct envelope *e = event_new(p->owner, p->owner_jid, p->node, node->config->message_type == 0,
                                       xml.data, xml.n, index);
        events_send_subscriber(s, p->jid, e);
        envelope_free(e);
        buf_fini(&xml);
    }
    arena_fini(&a);
}

static void on_changed(struct session *session, struct shard *s, void *user,
                       const struct proposal_result *result)
{
    struct party_change *p = user;
    if (result->code == ERR_LIMIT) {
        pep_refuse_later(p->later, session, PEP_ERROR_CLOSED_NODE, result->text);
    } else if (result->code) {
        pep_answer_refusal(p->later, session, result);
    } else {
        struct buf out = {0};
        const char *state =
            subscription_names[result->value < n_elements(subscription_names) ? result->value : 0];
        buf_adds(&out, "<pubsub xmlns='" NS_PUBSUB "'>");
        write_subscription(&out, p->node, p->jid, state);
        buf_adds(&out, "</pubsub>");
        iq_later_result(p->later, session, out.data, out.n);
        buf_fini(&out);
        if (p->subscribe && result->value == IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED)
            send_last(s, p, result->index);
    }
    free_change(p);
}

/* §6.1.3.1: only for oneself. OUT: the prepared JID; false: answered. */
static bool read_jid(struct xmpp_iq *iq, const struct xml *x, char out[JID_MAX + 1])
{
    const char *jid = xml_attr(x, "jid");
    if (jid && jid_prepare(out, jid, strlen(jid), NULL) == 0 &&
        jid_same_bare(out, iq->home->session.user->jid))
        return true;
    pep_refuse(iq, PEP_ERROR_INVALID_JID, NULL);
    return false;
}

static void change(struct xmpp_iq *iq, const char *node, char *jid, bool subscribe)
{
    Imp__PepPartyChange c = IMP__PEP_PARTY_CHANGE__INIT, *list[] = {&c};
    Imp__PepPartySet body = IMP__PEP_PARTY_SET__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct party_change *p = mem_new(struct party_change);
    c.jid = iq->home->session.user->jid;
    c.set_subscription = true;
    c.subscription =
        subscribe ? IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED : IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED;
    c.subscriber = jid;
    body.uid = iq->uid;
    body.actor = iq->home->session.user->uid;
    body.node = (char *)node;
    body.n_changes = 1;
    body.changes = list;
    command.body_case = IMP__COMMAND__BODY_PEP_PARTY_SET;
    command.pep_party_set = &body;
    p->owner = iq->uid;
    p->owner_jid = mem_strdup(pep_owner_jid(iq));
    p->node = mem_strdup(node);
    p->jid = mem_strdup(jid);
    p->subscribe = subscribe;
    p->later = iq_keep(iq);
    if (session_submit(&iq->home->session, &command, on_changed, p) < 0) {
        iq_later_error(p->later, &iq->home->session, STANZA_RESOURCE_CONSTRAINT, NULL);
        free_change(p);
    }
}

void pubsub_subscribe(struct xmpp_iq *iq, const struct xml *x)
{
    const char *name = xml_attr(x, "node"), *who = pep_requester(iq);
    char jid[JID_MAX + 1];
    if (!name || !*name) {
        pep_refuse(iq, PEP_ERROR_NODE_REQUIRED, NULL);
        return;
    }
    if (!read_jid(iq, x, jid))
        return;
    const Imp__PepNodeRow *node =
        strcmp(name, NODE_PRIVATE) ? pep_find_node(shard_txn(iq->shard), iq->uid, name, iq->arena) : NULL;
    enum pep_access access =
        node && *who ? pep_check_access(shard_txn(iq->shard), iq->uid, node, who, iq->arena) : PEP_MAY;
    if (!node)
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
    else if (access != PEP_MAY && access != PEP_MUST_ASK)
        pep_refuse_access(iq, access);
    else
        change(iq, name, jid, true);
}

/* §6.2 */
void pubsub_unsubscribe(struct xmpp_iq *iq, const struct xml *x)
{
    const char *name = xml_attr(x, "node");
    char jid[JID_MAX + 1];
    if (!name || !*name) {
        pep_refuse(iq, PEP_ERROR_NODE_REQUIRED, NULL);
        return;
    }
    if (!read_jid(iq, x, jid))
        return;
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(iq->shard), iq->uid, name, iq->arena);
    if (!node) {
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
        return;
    }
    const Imp__PepPartyRow *party =
        pep_get_party(shard_txn(iq->shard), iq->uid, node, iq->home->session.user->jid, iq->arena);
    if (party->subscription == IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED)
        pep_refuse(iq, PEP_ERROR_NOT_SUBSCRIBED, NULL);
    else
        change(iq, name, jid, false);
}

/* ---- §5.6, §5.7: one's own subscriptions and affiliations here ---- */

static void add_party(struct xmpp_iq *iq, const Imp__PepNodeRow *node, bool subscriptions, struct buf *out)
{
    const char *who = iq->scope == IQ_SELF ? pep_owner_jid(iq) : pep_requester(iq);
    const Imp__PepPartyRow *party = pep_get_party(shard_txn(iq->shard), iq->uid, node, who, iq->arena);
    if (subscriptions) {
        if (party->subscription != IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED)
            write_subscription(out, node->node, party->subscriber, subscription_names[party->subscription]);
        return;
    }
    Imp__PepAffiliation a = iq->scope == IQ_SELF ? IMP__PEP_AFFILIATION__PEP_OWNER : party->affiliation;
    if (a == IMP__PEP_AFFILIATION__PEP_NONE)
        return;
    buf_adds(out, "<affiliation node='");
    iq_escape(out, node->node);
    buf_addf(out, "' affiliation='%s'/>", pubsub_affiliation_names[a]);
}

static void list_own(struct xmpp_iq *iq, const struct xml *x, bool subscriptions)
{
    const char *element = subscriptions ? "subscriptions" : "affiliations", *wanted = xml_attr(x, "node");
    struct key prefix;
    struct store_iter i;
    struct buf out = {0};
    key_init(&prefix);
    key_u64(&prefix, iq->uid);
    buf_addf(&out, "<pubsub xmlns='" NS_PUBSUB "'><%s", element);
    if (wanted) {
        buf_adds(&out, " node='");
        iq_escape(&out, wanted);
        buf_addc(&out, '\'');
    }
    buf_addc(&out, '>');
    store_iter_init(&i, shard_txn(iq->shard), TABLE_PEP_NODE, &prefix);
    while (store_iter_next(&i)) {
        const Imp__PepNodeRow *node = store_iter_row(&i, iq->arena);
        if (node && strcmp(node->node, NODE_PRIVATE) != 0 && (!wanted || strcmp(wanted, node->node) == 0))
            add_party(iq, node, subscriptions, &out);
    }
    store_iter_fini(&i);
    buf_addf(&out, "</%s></pubsub>", element);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

void pubsub_subscriptions(struct xmpp_iq *iq, const struct xml *x)
{
    list_own(iq, x, true);
}

void pubsub_affiliations(struct xmpp_iq *iq, const struct xml *x)
{
    list_own(iq, x, false);
}

/* ---- §8.1: create ---- */

void pubsub_create(struct xmpp_iq *iq, const struct xml *x)
{
    const char *node = xml_attr(x, "node"), *why = NULL;
    const struct xml *configure = xml_child(iq->payload, "configure", NS_PUBSUB);
    const struct xml *form = configure ? xml_child(configure, "x", NS_DATA_FORM) : NULL;
    Imp__PepConfig config;
    uint32_t fields;
    if (iq->scope != IQ_SELF || (node && strcmp(node, NODE_PRIVATE) == 0)) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        return;
    }
    if (!node || !*node) {
        pep_refuse(iq, PEP_ERROR_NO_INSTANT_NODES, NULL);
        return;
    }
    pep_config_initial(&config, node);
    if (form && pep_form_read(form, NS_PUBSUB "#node_config", false, &config, &fields, iq->arena, &why) < 0) {
        iq_error(iq, STANZA_NOT_ACCEPTABLE, why);
        return;
    }
    pubsub_submit_node(iq, node, &config, true);
}

/* §8.3 of subscribers' namespace: the default configuration. */
void pubsub_default(struct xmpp_iq *iq, const struct xml *x)
{
    struct buf out = {0};
    Imp__PepConfig config;
    (void)x;
    pep_config_initial(&config, "");
    buf_adds(&out, "<pubsub xmlns='" NS_PUBSUB "'><default>");
    pep_form_write(&out, &config, NS_PUBSUB "#node_config", "form");
    buf_adds(&out, "</default></pubsub>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}
