/* Rosters (RFC 6121 §2), with versioning (§2.6) and pre-approval (§3.4). */
#include "im/address.h"
#include "im/presence.h"
#include "im/roster.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_ROSTER "jabber:iq:roster"

enum { NAME_MAX_BYTES = 1023, GROUPS_MAX = 64 };

void home_write_roster_item(struct buf *out, const struct roster_item *item)
{
    buf_adds(out, "<item jid='");
    iq_escape(out, item->jid);
    buf_addf(out, "' subscription='%s'", item->subscription);
    if (*item->name) {
        buf_adds(out, " name='");
        iq_escape(out, item->name);
        buf_addc(out, '\'');
    }
    if (item->ask)
        buf_adds(out, " ask='subscribe'");
    if (item->approved)
        buf_adds(out, " approved='true'");
    if (!item->n_groups) {
        buf_adds(out, "/>");
        return;
    }
    buf_addc(out, '>');
    for (size_t i = 0; i < item->n_groups; i++) {
        buf_adds(out, "<group>");
        iq_escape(out, item->groups[i]);
        buf_adds(out, "</group>");
    }
    buf_adds(out, "</item>");
}

/* ---- get ---- */

static void add_item(void *user, const struct roster_item *item)
{
    home_write_roster_item(user, item);
}

static void add_push(void *user, const struct roster_item *item)
{
    struct session *s = user;
    s->ops->roster_push(s, item);
}

/* 0: none of ours. */
static uint64_t read_version(const char *ver)
{
    char ours[24];
    uint64_t v = strtoull(ver, NULL, 10);
    snprintf(ours, sizeof ours, "%llu", (unsigned long long)v);
    return strcmp(ours, ver) == 0 ? v : 0;
}

static void handle_get(struct xmpp_iq *iq)
{
    if (xml_first_element(iq->payload)) { /* §2.1.3 */
        iq_error(iq, STANZA_BAD_REQUEST, "a query for the roster is empty");
        return;
    }
    struct session *s = &iq->home->session;
    s->wants_roster = true;
    const char *ver = xml_attr(iq->payload, "ver");
    uint64_t version;
    /* §2.6.3: with a version that is known, an empty result and then what changed as pushes. */
    if (ver && *ver) {
        uint64_t since = read_version(ver);
        uint64_t current = roster_version(iq->shard, iq->uid);
        if (since && since == current) {
            iq_result(iq, NULL, 0);
            return;
        }
        if (since && roster_can_read_since(iq->shard, iq->uid, since)) {
            iq_result(iq, NULL, 0);
            roster_read_since(iq->shard, iq->uid, since, &version, add_push, s);
            return;
        }
    }
    struct buf items = {0}, out = {0};
    version = roster_read(iq->shard, iq->uid, add_item, &items);
    buf_adds(&out, "<query xmlns='" NS_ROSTER "'");
    if (ver)
        buf_addf(&out, " ver='%llu'", (unsigned long long)version);
    buf_addc(&out, '>');
    if (items.n)
        buf_add(&out, items.data, items.n);
    buf_adds(&out, "</query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&items);
    buf_fini(&out);
}

/* ---- set ---- */

/* §2.3.3: what may not be set. */
static bool read_groups(struct xmpp_iq *iq, const struct xml *item, char **groups, size_t *n)
{
    *n = 0;
    for (struct xml *g = xml_child(item, "group", NS_ROSTER); g; g = xml_next(g, "group", NS_ROSTER)) {
        const char *text = xml_text(g, iq->arena);
        if (!*text || strlen(text) > NAME_MAX_BYTES || *n == GROUPS_MAX) {
            iq_error(iq, STANZA_NOT_ACCEPTABLE, "an empty group name, a long one, or too many groups");
            return false;
        }
        for (size_t i = 0; i < *n; i++) {
            if (strcmp(groups[i], text) == 0) {
                iq_error(iq, STANZA_BAD_REQUEST, "a group is named twice");
                return false;
            }
        }
        groups[(*n)++] = (char *)text;
    }
    return true;
}

static void set_item(struct xmpp_iq *iq, const struct xml *item, char *contact)
{
    char *groups[GROUPS_MAX];
    size_t n_groups;
    const char *name = xml_attr(item, "name");
    if (name && strlen(name) > NAME_MAX_BYTES) {
        iq_error(iq, STANZA_NOT_ACCEPTABLE, "the name is too long");
        return;
    }
    if (!read_groups(iq, item, groups, &n_groups))
        return;
    Imp__RosterSet body = IMP__ROSTER_SET__INIT;
    body.uid = iq->uid;
    body.contact = contact;
    body.name = (char *)(name ? name : "");
    body.n_groups = n_groups;
    body.groups = groups;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_ROSTER_SET;
    command.roster_set = &body;
    iq_submit(iq, &command);
}

struct removal {
    struct iq_later *iq;
    struct roster_removal before;
};

static void on_removed(struct session *s, struct shard *shard, void *user,
                       const struct proposal_result *result)
{
    struct removal *r = user;
    if (result->code == 0) {
        iq_later_result(r->iq, s, NULL, 0);
        r->before.to = result->value2 & 1;
        r->before.from = result->value2 & 2;
        presence_contact_removed(shard, &r->before, result->index);
    } else {
        iq_later_error(r->iq, s,
                       result->code == ERR_NOTFOUND ? STANZA_ITEM_NOT_FOUND : STANZA_RESOURCE_CONSTRAINT,
                       NULL);
    }
    roster_removal_fini(&r->before);
    mem_free(r);
}

static void remove_item(struct xmpp_iq *iq, char *contact)
{
    struct session *s = &iq->home->session;
    struct removal *r = mem_new(struct removal);
    roster_removal_init(&r->before, iq->shard, s->user, contact);
    Imp__RosterRemove body = IMP__ROSTER_REMOVE__INIT;
    body.uid = iq->uid;
    body.contact = contact;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_ROSTER_REMOVE;
    command.roster_remove = &body;
    r->iq = iq_keep(iq);
    if (session_submit(s, &command, on_removed, r) < 0) {
        iq_later_error(r->iq, s, STANZA_RESOURCE_CONSTRAINT, NULL);
        roster_removal_fini(&r->before);
        mem_free(r);
    }
}

static void handle_set(struct xmpp_iq *iq)
{
    const struct xml *item = xml_first_element(iq->payload);
    const char *jid = item ? xml_attr(item, "jid") : NULL;
    if (!jid || !xml_is(item, "item", NS_ROSTER) || xml_next_element(item)) {
        iq_error(iq, STANZA_BAD_REQUEST, "one item with a jid is expected");
        return;
    }
    char contact[JID_MAX + 1];
    if (jid_prepare(contact, jid, strlen(jid), NULL) < 0) {
        iq_error(iq, STANZA_JID_MALFORMED, NULL);
        return;
    }
    contact[jid_bare_length(contact)] = 0;                   /* §2.1.2.1: bare as a rule */
    if (strcmp(contact, iq->home->session.user->jid) == 0) { /* §2.3.3, interoperability note */
        iq_error(iq, STANZA_NOT_ALLOWED, "an account is not its own contact");
        return;
    }
    const char *subscription = xml_attr(item, "subscription");
    if (subscription && strcmp(subscription, "remove") == 0)
        remove_item(iq, contact);
    else
        set_item(iq, item, contact);
}

static void handle(struct xmpp_iq *iq)
{
    if (iq->envelope->type == IQ_GET)
        handle_get(iq);
    else
        handle_set(iq);
}

/* §2.3.3: of other accounts. */
static void refuse(struct xmpp_iq *iq)
{
    iq_error(iq, STANZA_FORBIDDEN, NULL);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_ROSTER, "query", IQ_SELF, .get = true, .set = true, .handle = handle},
    {NS_ROSTER, "query", IQ_ACCOUNT, .get = true, .set = true, .handle = refuse, .outside = true},
    {0},
};
const struct xmpp_feature feature_roster = {
    .name = "roster",
    .xep = "RFC 6121",
    .stream_feature =
        "<ver xmlns='urn:xmpp:features:rosterver'/><sub xmlns='urn:xmpp:features:pre-approval'/>",
    .handlers = handlers,
};
