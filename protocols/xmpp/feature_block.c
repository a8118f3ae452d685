/* XEP-0191: the blocking command, with reports (XEP-0377). What is kept away from the user: im/block. */
#include "im/address.h"
#include "im/block.h"
#include "im/presence.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include <string.h>

#define NS_BLOCKING "urn:xmpp:blocking"
#define NS_ERRORS "urn:xmpp:blocking:errors"
#define NS_REPORTING "urn:xmpp:reporting:1"
#define NS_SID "urn:xmpp:sid:0"

enum { ITEMS_MAX = 1000, REPORT_TEXT_MAX = 4000, REPORT_IDS_MAX = 64, REPORT_WORD_MAX = 1000, LANG_MAX = 35 };

/* Of a session: it has asked for the list and gets pushes (§3.2). */
struct block_session {
    bool wants_list;
};

/* ---- get ---- */

static void add_item(void *user, const char *jid)
{
    struct buf *out = user;
    buf_adds(out, "<item jid='");
    iq_escape(out, jid);
    buf_adds(out, "'/>");
}

static void handle_get(struct xmpp_iq *iq)
{
    struct block_session *st = hooks_state(iq->home, FEATURE_block, sizeof *st);
    st->wants_list = true;
    struct buf out = {0};
    buf_adds(&out, "<blocklist xmlns='" NS_BLOCKING "'>");
    block_read(iq->shard, iq->uid, add_item, &out);
    buf_adds(&out, "</blocklist>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* ---- reports ---- */

/* At most MAX bytes, cut between two characters. */
static char *cut_text(struct arena *a, const char *text, size_t max)
{
    size_t n = strlen(text);
    if (n > max)
        for (n = max; n && ((unsigned char)text[n] & 0xc0) == 0x80;)
            n--;
    return arena_strndup(a, text, n);
}

/* §3 of XEP-0377: a report never makes a block fail; what is wrong in it is left out. */
static Imp__AbuseReport *read_report(struct arena *a, const struct xml *item, char *jid)
{
    const struct xml *x = xml_child(item, "report", NS_REPORTING);
    const char *reason = x ? xml_attr(x, "reason") : NULL;
    if (!reason || !*reason || strlen(reason) > REPORT_WORD_MAX)
        return NULL;
    Imp__AbuseReport *r = arena_alloc(a, sizeof *r);
    imp__abuse_report__init(r);
    r->jid = jid;
    r->reason = (char *)reason;
    const struct xml *text = xml_child(x, "text", NS_REPORTING);
    if (text) {
        const char *lang = xml_attr_ns(text, "lang", XML_NS_XML);
        r->text = cut_text(a, xml_text(text, a), REPORT_TEXT_MAX);
        r->lang = cut_text(a, lang ? lang : "", LANG_MAX);
    }
    r->ids = arena_alloc(a, REPORT_IDS_MAX * sizeof *r->ids);
    for (const struct xml *id = xml_child(x, "stanza-id", NS_SID); id && r->n_ids < REPORT_IDS_MAX;
         id = xml_next(id, "stanza-id", NS_SID)) {
        const char *value = xml_attr(id, "id");
        if (value && *value && strlen(value) <= REPORT_WORD_MAX)
            r->ids[r->n_ids++] = (char *)value;
    }
    return r;
}

/* ---- set ---- */

struct contacts {
    char **jids;
    size_t n;
};
struct change {
    struct iq_later *iq;
    uint64_t uid;
    char *jid;        /* bare, of the user */
    struct buf push;  /* <block/> or <unblock/> as it goes to the sessions */
    uint64_t *before; /* who saw the user's presence */
    unsigned n_before;
    struct contacts outside; /* the same at components */
};

static void free_contacts(struct contacts *l)
{
    for (size_t i = 0; i < l->n; i++)
        mem_free(l->jids[i]);
    mem_free(l->jids);
}

static void free_change(struct change *c)
{
    buf_fini(&c->push);
    mem_free(c->before);
    free_contacts(&c->outside);
    mem_free(c->jid);
    mem_free(c);
}

static bool has_uid(const uint64_t *uids, unsigned n, uint64_t uid)
{
    for (unsigned i = 0; i < n; i++)
        if (uids[i] == uid)
            return true;
    return false;
}

/* §3.2, §3.4: who is blocked now sees the user go, who no longer is sees the user again, and is seen. */
static void show(struct shard *s, const struct change *c, uint64_t contact, bool gone, uint64_t index)
{
    struct arena a;
    arena_init(&a);
    const char *jid = shard_user_jid(s, contact, &a);
    if (jid) {
        presence_show(s, c->uid, contact, jid, gone, index);
        if (!gone && presence_is_visible(s, contact, c->jid))
            presence_show(s, contact, c->uid, c->jid, false, index);
    }
    arena_fini(&a);
}

static bool is_blocked(void *user, const char *jid)
{
    struct session *s = user;
    return !jid_same_bare(jid, s->user->jid) && block_matches(s->shard, s->user->uid, jid);
}

static void add_contact(struct shard *s, const struct user *u, const char *contact, void *arg)
{
    struct contacts *l = arg;
    (void)s, (void)u;
    if ((l->n & (l->n + 1)) == 0) /* 0, 1, 3, 7, ...: full */
        l->jids = mem_realloc(l->jids, (2 * l->n + 1) * sizeof *l->jids);
    l->jids[l->n++] = mem_strdup(contact);
}

static bool has_contact(const struct contacts *l, const char *jid)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->jids[i], jid) == 0)
            return true;
    return false;
}

/* What is said to users by show() is said to contacts at components; their presence is asked for. */
static void update_outside(struct shard *s, const struct user *u, const struct change *c, uint64_t index)
{
    struct contacts now = {0};
    presence_each_outside(s, u, add_contact, &now);
    for (size_t i = 0; i < c->outside.n; i++)
        if (!has_contact(&now, c->outside.jids[i]))
            presence_show(s, c->uid, 0, c->outside.jids[i], true, index);
    for (size_t i = 0; i < now.n; i++) {
        if (has_contact(&c->outside, now.jids[i]))
            continue;
        presence_show(s, c->uid, 0, now.jids[i], false, index);
        presence_probe_outside(s, u, now.jids[i]);
    }
    free_contacts(&now);
}

static void update_presence(struct shard *s, const struct change *c, uint64_t index)
{
    struct user *u = user_find(s, c->uid);
    if (!u)
        return;
    unsigned n;
    const uint64_t *now = user_subscribers(u, &n);
    uint64_t *after = mem_alloc((n + 1) * sizeof *after); /* valid beyond what is sent below */
    if (n)
        memcpy(after, now, n * sizeof *after);
    for (unsigned i = 0; i < c->n_before; i++)
        if (!has_uid(after, n, c->before[i]))
            show(s, c, c->before[i], true, index);
    for (unsigned i = 0; i < n; i++)
        if (!has_uid(c->before, c->n_before, after[i]))
            show(s, c, after[i], false, index);
    mem_free(after);
    update_outside(s, u, c, index);
    struct session *session;
    list_for_each(session, &u->sessions, struct session, link)
        presence_end_directed(session, is_blocked, session);
}

static void push(struct shard *s, const struct change *c)
{
    struct user *u = user_find(s, c->uid);
    struct session *session;
    if (!u)
        return;
    list_for_each(session, &u->sessions, struct session, link)
    {
        if (session->ops != &c2s_session_ops)
            continue;
        struct c2s_home *h = home_of(session);
        const struct block_session *st = hooks_state(h, FEATURE_block, 0);
        if (st && st->wants_list)
            home_push(h, "block", c->push.data, c->push.n);
    }
}

static void on_changed(struct session *session, struct shard *s, void *user,
                       const struct proposal_result *result)
{
    struct change *c = user;
    if (result->code == 0) {
        iq_later_result(c->iq, session, NULL, 0);
        push(s, c);
        update_presence(s, c, result->index);
    } else {
        iq_later_error(c->iq, session,
                       result->code == ERR_INVALID ? STANZA_NOT_ACCEPTABLE : STANZA_RESOURCE_CONSTRAINT,
                       *result->text ? result->text : NULL);
    }
    free_change(c);
}

static void submit(struct xmpp_iq *iq, Imp__BlockSet *body, const struct buf *push_xml)
{
    struct session *session = &iq->home->session;
    struct change *c = mem_new(struct change);
    c->uid = body->uid = iq->uid;
    c->jid = mem_strdup(session->user->jid);
    buf_add(&c->push, push_xml->data, push_xml->n);
    const uint64_t *before = user_subscribers(session->user, &c->n_before);
    c->before = mem_alloc((c->n_before + 1) * sizeof *c->before);
    if (c->n_before)
        memcpy(c->before, before, c->n_before * sizeof *c->before);
    presence_each_outside(session->shard, session->user, add_contact, &c->outside);
    c->iq = iq_keep(iq);
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_BLOCK_SET;
    command.block_set = body;
    if (session_submit(session, &command, on_changed, c) < 0) {
        iq_later_error(c->iq, session, STANZA_RESOURCE_CONSTRAINT, NULL);
        free_change(c);
    }
}

struct items {
    char **jids;
    size_t n;
    Imp__AbuseReport **reports;
    size_t n_reports;
    struct buf push;
};

/* False: answered with an error. */
static bool read_items(struct xmpp_iq *iq, struct items *out)
{
    out->jids = arena_alloc(iq->arena, ITEMS_MAX * sizeof *out->jids);
    out->reports = arena_alloc(iq->arena, ITEMS_MAX * sizeof *out->reports);
    for (const struct xml *x = xml_child(iq->payload, "item", NS_BLOCKING); x;
         x = xml_next(x, "item", NS_BLOCKING)) {
        const char *jid = xml_attr(x, "jid");
        char prepared[JID_MAX + 1];
        if (!jid || out->n == ITEMS_MAX) {
            iq_error(iq, STANZA_BAD_REQUEST, "an item without a jid, or too many of them");
            return false;
        }
        if (jid_prepare(prepared, jid, strlen(jid), NULL) < 0) {
            iq_error(iq, STANZA_JID_MALFORMED, NULL);
            return false;
        }
        char *kept = arena_strdup(iq->arena, prepared);
        out->jids[out->n++] = kept;
        add_item(&out->push, kept);
        Imp__AbuseReport *report = read_report(iq->arena, x, kept);
        if (report && out->n_reports < REPORT_IDS_MAX)
            out->reports[out->n_reports++] = report;
    }
    return true;
}

static void log_reports(struct xmpp_iq *iq, const struct items *items)
{
    for (size_t i = 0; i < items->n_reports; i++)
        log_info(iq->shard->log, "%s reports %s: %s", iq->home->session.user->jid, items->reports[i]->jid,
                 items->reports[i]->reason);
}

static void handle_block(struct xmpp_iq *iq)
{
    struct items items = {0};
    buf_adds(&items.push, "<block xmlns='" NS_BLOCKING "'>");
    if (read_items(iq, &items)) {
        if (!items.n) {
            iq_error(iq, STANZA_BAD_REQUEST, "nobody is named"); /* §3.2 */
        } else {
            Imp__BlockSet body = IMP__BLOCK_SET__INIT;
            body.n_block_jid = items.n;
            body.block_jid = items.jids;
            body.n_reports = items.n_reports;
            body.reports = items.reports;
            buf_adds(&items.push, "</block>");
            log_reports(iq, &items);
            submit(iq, &body, &items.push);
        }
    }
    buf_fini(&items.push);
}

static void handle_unblock(struct xmpp_iq *iq)
{
    struct items items = {0};
    buf_adds(&items.push, "<unblock xmlns='" NS_BLOCKING "'>");
    if (read_items(iq, &items)) {
        Imp__BlockSet body = IMP__BLOCK_SET__INIT;
        body.unblock_all = !items.n; /* §3.5 */
        body.n_unblock_jid = items.n;
        body.unblock_jid = items.jids;
        buf_adds(&items.push, "</unblock>");
        submit(iq, &body, &items.push);
    }
    buf_fini(&items.push);
}

/* ---- what the user sends to who is blocked: §3.2 ---- */

static void refuse_outbound(struct c2s_home *h, const struct envelope *e)
{
    static const char error[] = "<error type='cancel'><not-acceptable xmlns='" NS_STANZAS "'/>"
                                "<blocked xmlns='" NS_ERRORS "'/></error>";
    struct envelope *back = envelope_error(e, error, sizeof error - 1);
    home_write_stanza(h, back, NULL);
    envelope_free(back);
}

static enum hook_verdict from_client(struct c2s_home *h, struct envelope *e, struct xml_stanza *stanza)
{
    const struct session *s = &h->session;
    (void)stanza;
    if (!*e->to || jid_same_bare(e->to, s->user->jid) || !block_matches(s->shard, s->user->uid, e->to))
        return HOOK_GO_ON;
    if (!stanza_type_is_error(e->type) && e->type != IQ_RESULT)
        refuse_outbound(h, e);
    envelope_free(e);
    return HOOK_HANDLED;
}

static void look(struct c2s_home *h)
{
    bool on = block_has_list(h->session.shard, h->session.user->uid);
    hooks_set(h, FEATURE_block, HOOK_FROM_CLIENT, ON_STANZA, on);
}

static void on_feed(struct shard *s, struct user *u, const struct feed_event *event)
{
    if (event->table != TABLE_BLOCK)
        return;
    block_on_feed(s, u);
    struct session *session;
    list_for_each(session, &u->sessions, struct session, link)
    {
        if (session->ops == &c2s_session_ops)
            look(home_of(session));
    }
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_BLOCKING, "blocklist", IQ_SELF, .get = true, .handle = handle_get},
    {NS_BLOCKING, "block", IQ_SELF, .set = true, .handle = handle_block},
    {NS_BLOCKING, "unblock", IQ_SELF, .set = true, .handle = handle_unblock},
    {0},
};
static const struct im_hook user_hook = {
    .id = IM_HOOK_BLOCK,
    .kinds = 1 << STANZA_MESSAGE | 1 << STANZA_PRESENCE | 1 << STANZA_IQ,
    .to_user = block_to_user,
    .on_feed = on_feed,
};
static const char *const features[] = {NS_BLOCKING, NS_REPORTING, NULL};
const struct xmpp_feature feature_block = {
    .name = "block",
    .xep = "XEP-0191 1.3, XEP-0377 0.4",
    .level = 3,
    .server_features = features,
    .account_features = features,
    .handlers = handlers,
    .hooks = {.from_client = from_client, .session_bound = look},
    .user_hook = &user_hook,
};
