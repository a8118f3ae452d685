/* XEP-0160 (msgoffline) and XEP-0013: a client that looks at what waits for it, message by message, is not
 * sent all of it with its first presence. What is removed is delivered, as far as the store knows. */
#include "im/archive.h"
#include "im/message.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/mam.h"
#include "replication/levels.h"
#include <string.h>

#define NS_INFO "http://jabber.org/protocol/disco#info"
#define NS_ITEMS "http://jabber.org/protocol/disco#items"

enum { HEADERS_MAX = 1000, MARKS_MAX = 1000, ROWS_AT_ONCE = 5000 };

/* ---- number and headers (§2.2, §2.3) ---- */

static uint32_t count_pending(struct xmpp_iq *iq)
{
    struct key k;
    key_init(&k);
    key_u64(&k, iq->uid);
    const Imp__UserStateRow *row = store_find_row(shard_txn(iq->shard), TABLE_USER_STATE, &k, iq->arena);
    return row ? row->n_pending : 0;
}

static void write_info(struct xmpp_iq *iq, struct buf *out)
{
    buf_addf(out,
             "<query xmlns='" NS_INFO "' node='" NS_OFFLINE "'>"
             "<identity category='automation' type='message-list'/><feature var='" NS_OFFLINE "'/>"
             "<x xmlns='jabber:x:data' type='result'><field var='FORM_TYPE' type='hidden'><value>" NS_OFFLINE
             "</value></field><field var='number_of_messages'><value>%u</value></field></x></query>",
             count_pending(iq));
}

static size_t read_pending(struct xmpp_iq *iq, struct archive_id *ids, size_t max)
{
    struct archive_filter f = archive_pending(iq->shard, iq->uid);
    struct archive_walk w;
    unsigned budget = ROWS_AT_ONCE;
    archive_walk_init(&w, iq->shard, iq->uid, &f, false);
    return archive_walk(&w, ids, max, &budget);
}

static void write_items(struct xmpp_iq *iq, struct buf *out)
{
    struct archive_id *ids = arena_alloc(iq->arena, HEADERS_MAX * sizeof *ids);
    size_t n = read_pending(iq, ids, HEADERS_MAX);
    buf_adds(out, "<query xmlns='" NS_ITEMS "' node='" NS_OFFLINE "'>");
    for (size_t i = 0; i < n; i++) {
        struct archive_item item;
        char id[STORED_ID_MAX];
        struct arena a;
        arena_init(&a);
        if (archive_read(iq->shard, iq->uid, ids[i], &item, &a)) {
            stored_id_write(iq->shard->ids, id, ids[i].index, ids[i].place);
            buf_adds(out, "<item jid='");
            iq_escape(out, iq->home->session.user->jid);
            buf_addf(out, "' node='%s' name='", id);
            iq_escape(out, item.from);
            buf_adds(out, "'/>");
        }
        arena_fini(&a);
    }
    buf_adds(out, "</query>");
}

static bool on_node(struct xmpp_iq *iq, const char *node, bool items)
{
    if (strcmp(node, NS_OFFLINE) != 0 || iq->scope == IQ_SERVER)
        return false;
    if (iq->scope != IQ_SELF) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        return true;
    }
    struct buf out = {0};
    iq->home->session.no_flood = true;
    if (items)
        write_items(iq, &out);
    else
        write_info(iq, &out);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
    return true;
}

/* ---- view, fetch (§2.4, §2.6) ---- */

/* The ids of all <item action=.../>, ascending; false: answered with an error. */
static bool read_items(struct xmpp_iq *iq, const char *action, struct archive_id *ids, size_t *n)
{
    struct archive_filter f = archive_pending(iq->shard, iq->uid);
    *n = 0;
    for (struct xml *x = xml_child(iq->payload, "item", NS_OFFLINE); x; x = xml_next(x, "item", NS_OFFLINE)) {
        const char *asked = xml_attr(x, "action"), *node = xml_attr(x, "node");
        struct archive_id id;
        if (!asked || strcmp(asked, action) != 0 || !node || *n == MAM_PAGE_MAX) {
            iq_error(iq, STANZA_BAD_REQUEST, NULL);
            return false;
        }
        if (!stored_id_parse(iq->shard->ids, node, &id.index, &id.place) ||
            !archive_matches(iq->shard, iq->uid, id, &f)) {
            iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
            return false;
        }
        size_t at = *n;
        for (; at && archive_id_compare(ids[at - 1], id) > 0; at--)
            ids[at] = ids[at - 1];
        ids[at] = id;
        ++*n;
    }
    return true;
}

static void handle_get(struct xmpp_iq *iq)
{
    struct archive_id ids[MAM_PAGE_MAX];
    struct mam_request r = {.filter = archive_pending(iq->shard, iq->uid),
                            .page_after = archive_first,
                            .page_before = archive_last,
                            .rsm = {.max = MAM_PAGE_MAX},
                            .ids = ids,
                            .offline = true};
    bool all = xml_child(iq->payload, "fetch", NS_OFFLINE);
    if (!read_items(iq, "view", ids, &r.n_ids))
        return;
    if (all == (r.n_ids > 0))
        iq_error(iq, STANZA_BAD_REQUEST, "either fetch, or items to view");
    else
        mam_begin(iq, &r);
}

/* ---- remove, purge (§2.5, §2.7) ---- */

/* The result of session_submit; ERR_NOTFOUND: no ids. */
static int mark(struct session *s, const struct archive_id *ids, size_t n, session_done_fn *on_done,
                void *user)
{
    if (!n)
        return ERR_NOTFOUND;
    Imp__MessageRef *refs = mem_alloc(n * sizeof *refs), **pointers = mem_alloc(n * sizeof *pointers);
    for (size_t i = 0; i < n; i++) {
        imp__message_ref__init(&refs[i]);
        refs[i].index = ids[i].index;
        refs[i].place = ids[i].place;
        pointers[i] = &refs[i];
    }
    Imp__MessageMark body = IMP__MESSAGE_MARK__INIT;
    body.uid = s->user->uid;
    body.n_refs = n;
    body.refs = pointers;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_MARK;
    command.message_mark = &body;
    int rc = session_submit(s, &command, on_done, user);
    mem_free(refs);
    mem_free(pointers);
    return rc;
}

struct clearing {
    bool archived_only;
    struct iq_later *iq; /* NULL: nobody asked */
};

static void end_clearing(struct clearing *c, struct session *s, bool ok)
{
    if (c->iq && ok)
        iq_later_result(c->iq, s, NULL, 0);
    else if (c->iq)
        iq_later_error(c->iq, s, STANZA_RESOURCE_CONSTRAINT, NULL);
    mem_free(c);
}

static void on_cleared(struct session *s, struct shard *shard, void *user,
                       const struct proposal_result *result);

static void clear_step(struct clearing *c, struct session *s)
{
    struct archive_id *ids = mem_alloc(MARKS_MAX * sizeof *ids);
    struct archive_filter f = archive_pending(s->shard, s->user->uid);
    struct archive_walk w;
    unsigned budget = ROWS_AT_ONCE;
    f.archived_too = c->archived_only;
    archive_walk_init(&w, s->shard, s->user->uid, &f, false);
    int rc = mark(s, ids, archive_walk(&w, ids, MARKS_MAX, &budget), on_cleared, c);
    mem_free(ids);
    if (rc < 0)
        end_clearing(c, s, rc == ERR_NOTFOUND);
}

static void on_cleared(struct session *s, struct shard *shard, void *user,
                       const struct proposal_result *result)
{
    (void)shard;
    if (s && result->code == 0)
        clear_step(user, s);
    else
        end_clearing(user, s, false);
}

void offline_forget_archived(struct session *s)
{
    struct clearing *c = mem_new(struct clearing);
    c->archived_only = true;
    clear_step(c, s);
}

static void on_removed(struct session *s, struct shard *shard, void *user,
                       const struct proposal_result *result)
{
    (void)shard;
    if (result->code == 0)
        iq_later_result(user, s, NULL, 0);
    else
        iq_later_error(user, s, STANZA_RESOURCE_CONSTRAINT, NULL);
}

static void handle_set(struct xmpp_iq *iq)
{
    struct archive_id ids[MAM_PAGE_MAX];
    struct session *s = &iq->home->session;
    size_t n;
    bool all = xml_child(iq->payload, "purge", NS_OFFLINE);
    if (!read_items(iq, "remove", ids, &n))
        return;
    if (all == (n > 0)) {
        iq_error(iq, STANZA_BAD_REQUEST, "either purge, or items to remove");
        return;
    }
    struct iq_later *later = iq_keep(iq);
    if (all) {
        struct clearing *c = mem_new(struct clearing);
        c->iq = later;
        clear_step(c, s);
    } else if (mark(s, ids, n, on_removed, later) < 0) {
        iq_later_error(later, s, STANZA_RESOURCE_CONSTRAINT, NULL);
    }
}

static void handle(struct xmpp_iq *iq)
{
    if (iq->scope != IQ_SELF) {
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        return;
    }
    iq->home->session.no_flood = true;
    if (iq->envelope->type == IQ_GET)
        handle_get(iq);
    else
        handle_set(iq);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_OFFLINE, "offline", IQ_SELF | IQ_ACCOUNT, .get = true, .set = true, .handle = handle,
     .outside = true},
    {0},
};
static const char *const server_features[] = {"msgoffline", NS_OFFLINE, NULL};
const struct xmpp_feature feature_offline = {
    .name = "offline",
    .xep = "XEP-0013 1.3, XEP-0160 1.0.1",
    .level = LEVEL_3,
    .server_features = server_features,
    .handlers = handlers,
    .disco_node = on_node,
};
