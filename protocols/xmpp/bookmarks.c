/* Bookmarks: kept as XEP-0402 has them, one item each; shown and taken in the forms of XEP-0048, too, in
 * private XML (1.0) and as the one item of a node (1.1). What the old form has beside conferences is kept as
 * private XML. */
#include "im/address.h"
#include "im/events.h"
#include "im/user.h"
#include "protocols/xmpp/convert.h"
#include "protocols/xmpp/pubsub.h"
#include <string.h>

#define PRIVATE_ID "storage storage:bookmarks"

enum { CONFERENCES_MAX = 400 };

static bool is_true(const char *s)
{
    return s && (strcmp(s, "1") == 0 || strcmp(s, "true") == 0);
}

static void add_text(struct buf *out, const char *name, const char *value)
{
    if (!value)
        return;
    buf_addf(out, "<%s>", name);
    iq_escape(out, value);
    buf_addf(out, "</%s>", name);
}

/* What both forms have of a bookmark. */
struct bookmark {
    const char *name, *nick, *password; /* NULL: not there */
    bool autojoin;
};

static struct bookmark read_bookmark(const struct xml *conference, struct arena *a)
{
    return (struct bookmark){
        .name = xml_attr(conference, "name"),
        .autojoin = is_true(xml_attr(conference, "autojoin")),
        .nick = xml_child_text(conference, "nick", conference->ns, a),
        .password = xml_child_text(conference, "password", conference->ns, a),
    };
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same(const struct bookmark *a, const struct bookmark *b)
{
    return a->autojoin == b->autojoin && same_text(a->name, b->name) && same_text(a->nick, b->nick) &&
           same_text(a->password, b->password);
}

static struct xml *parse(const Imp__PepItemRow *item, struct arena *a)
{
    struct xml *root = NULL;
    return xml_parse(&root, a, item->payload.data, item->payload.len, &xml_limits_default, NULL) == 0 ? root
                                                                                                      : NULL;
}

/* ---- new to old ---- */

static void write_old(struct buf *out, const char *jid, const struct bookmark *b)
{
    buf_adds(out, "<conference");
    iq_add_attr(out, "jid", jid);
    iq_add_attr(out, "name", b->name);
    buf_adds(out, b->autojoin ? " autojoin='true'>" : " autojoin='false'>");
    add_text(out, "nick", b->nick);
    add_text(out, "password", b->password);
    buf_adds(out, "</conference>");
}

static unsigned write_conferences(struct shard *s, uint64_t uid, struct buf *out, struct arena *a)
{
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), uid, NODE_BOOKMARKS, a);
    struct store_iter i;
    unsigned n = 0;
    if (!node)
        return 0;
    pep_items_init(&i, shard_txn(s), uid, node);
    while (store_iter_next(&i)) {
        const Imp__PepItemRow *item = store_iter_row(&i, a);
        const struct xml *conference = item ? parse(item, a) : NULL;
        if (!conference)
            continue;
        struct bookmark b = read_bookmark(conference, a);
        write_old(out, item->id, &b);
        n++;
    }
    store_iter_fini(&i);
    return n;
}

static const Imp__PepItemRow *find_rest(struct shard *s, uint64_t uid, struct arena *a)
{
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), uid, NODE_PRIVATE, a);
    return node ? pep_find_item(shard_txn(s), uid, node, PRIVATE_ID, a) : NULL;
}

bool bookmarks_old_write(struct shard *s, uint64_t uid, struct buf *out)
{
    struct arena a;
    arena_init(&a);
    buf_adds(out, "<storage xmlns='storage:bookmarks'>");
    unsigned n = write_conferences(s, uid, out, &a);
    const Imp__PepItemRow *item = find_rest(s, uid, &a);
    const struct xml *rest = item ? parse(item, &a) : NULL;
    for (const struct xml *x = rest ? xml_first_element(rest) : NULL; x; x = xml_next_element(x), n++)
        xml_write(out, x, "storage:bookmarks");
    buf_adds(out, "</storage>");
    arena_fini(&a);
    return n > 0;
}

void bookmarks_old_item(struct shard *s, uint64_t uid, struct buf *out)
{
    struct buf xml = {0};
    if (bookmarks_old_write(s, uid, &xml)) {
        buf_adds(out, "<item id='current'>");
        buf_add(out, xml.data, xml.n);
        buf_adds(out, "</item>");
    }
    buf_fini(&xml);
}

void bookmarks_changed(struct shard *s, uint64_t uid, const char *jid, uint64_t index)
{
    struct user *u = user_find(s, uid);
    struct session *session;
    bool wanted = false;
    if (!u)
        return;
    list_for_each(session, &u->sessions, struct session, link) wanted |=
        event_nodes_has(session->wanted, NODE_BOOKMARKS_OLD);
    if (!wanted)
        return;
    struct buf storage = {0}, xml = {0};
    Imp__PepConfig config;
    pep_config_initial(&config, NODE_BOOKMARKS_OLD);
    bookmarks_old_write(s, uid, &storage);
    pep_event_item(&xml, NODE_BOOKMARKS_OLD, "current", NULL, storage.data, storage.n);
    pep_notify(s, &(struct pep_change){.owner = uid,
                                       .owner_jid = jid,
                                       .node = NODE_BOOKMARKS_OLD,
                                       .config = &config,
                                       .inner = xml.data,
                                       .n_inner = xml.n,
                                       .index = index});
    buf_fini(&storage);
    buf_fini(&xml);
}

/* ---- old to new ---- */

/* EXTENSIONS: <extensions/> of the item that is there, which clients of the old form know nothing of; may be
 * NULL. */
static void publish_new(struct pep_write *w, const char *jid, const struct bookmark *b,
                        const struct xml *extensions)
{
    struct buf xml = {0};
    buf_adds(&xml, "<conference xmlns='" NODE_BOOKMARKS "'");
    iq_add_attr(&xml, "name", b->name);
    buf_adds(&xml, b->autojoin ? " autojoin='true'>" : " autojoin='false'>");
    add_text(&xml, "nick", b->nick);
    add_text(&xml, "password", b->password);
    if (extensions)
        xml_write(&xml, extensions, NODE_BOOKMARKS);
    buf_adds(&xml, "</conference>");
    pep_write_publish(w, NODE_BOOKMARKS, jid, arena_strndup(pep_write_arena(w), xml.data, xml.n), xml.n, NULL,
                      0);
    buf_fini(&xml);
}

static void take_conference(struct pep_write *w, struct shard *s, uint64_t uid, const Imp__PepNodeRow *node,
                            const char *jid, const struct xml *conference)
{
    struct arena *a = pep_write_arena(w);
    const Imp__PepItemRow *item = node ? pep_find_item(shard_txn(s), uid, node, jid, a) : NULL;
    const struct xml *old = item ? parse(item, a) : NULL;
    struct bookmark now = read_bookmark(conference, a), before;
    if (old) {
        before = read_bookmark(old, a);
        if (same(&before, &now))
            return;
    }
    publish_new(w, jid, &now, old ? xml_child(old, "extensions", NODE_BOOKMARKS) : NULL);
}

/* Those that are not in the list any more. */
static void retract_others(struct pep_write *w, struct shard *s, uint64_t uid, const Imp__PepNodeRow *node,
                           const char *const *jids, unsigned n)
{
    struct arena *a = pep_write_arena(w);
    struct store_iter i;
    if (!node)
        return;
    pep_items_init(&i, shard_txn(s), uid, node);
    while (store_iter_next(&i)) {
        const Imp__PepItemRow *item = store_iter_row(&i, a);
        bool listed = !item;
        for (unsigned k = 0; !listed && k < n; k++)
            listed = strcmp(jids[k], item->id) == 0;
        if (!listed)
            pep_write_retract(w, NODE_BOOKMARKS, item->id, true, true);
    }
    store_iter_fini(&i);
}

static void keep_rest(struct pep_write *w, struct shard *s, uint64_t uid, const struct xml *storage)
{
    struct buf xml = {0};
    struct arena *a = pep_write_arena(w);
    unsigned n = 0;
    buf_adds(&xml, "<storage xmlns='storage:bookmarks'>");
    for (const struct xml *x = xml_first_element(storage); x; x = xml_next_element(x)) {
        if (xml_is(x, "conference", "storage:bookmarks"))
            continue;
        xml_write(&xml, x, "storage:bookmarks");
        n++;
    }
    buf_adds(&xml, "</storage>");
    if (n)
        pep_write_publish(w, NODE_PRIVATE, PRIVATE_ID, arena_strndup(a, xml.data, xml.n), xml.n, NULL, 0);
    else if (find_rest(s, uid, a))
        pep_write_retract(w, NODE_PRIVATE, PRIVATE_ID, true, false);
    buf_fini(&xml);
}

int bookmarks_from_old(struct pep_write *w, struct shard *s, uint64_t uid, const struct xml *storage,
                       const char **text)
{
    const char *jids[CONFERENCES_MAX];
    unsigned n = 0;
    struct arena *a = pep_write_arena(w);
    if (!storage || !xml_is(storage, "storage", "storage:bookmarks")) {
        *text = "a list of bookmarks (XEP-0048) is expected";
        return ERR_INVALID;
    }
    const Imp__PepNodeRow *node = pep_find_node(shard_txn(s), uid, NODE_BOOKMARKS, a);
    for (const struct xml *x = xml_child(storage, "conference", storage->ns); x;
         x = xml_next(x, "conference", storage->ns)) {
        char jid[JID_MAX + 1];
        const char *given = xml_attr(x, "jid");
        if (!given || jid_prepare(jid, given, strlen(given), NULL) < 0 || strlen(jid) > PEP_NODE_MAX) {
            *text = "a bookmark has no JID, or one that is none";
            return ERR_INVALID;
        }
        if (n == CONFERENCES_MAX) {
            *text = "too many bookmarks";
            return ERR_LIMIT;
        }
        bool twice = false;
        for (unsigned k = 0; k < n; k++)
            twice |= strcmp(jids[k], jid) == 0;
        if (twice)
            continue;
        jids[n++] = arena_strdup(a, jid);
        take_conference(w, s, uid, node, jids[n - 1], x);
    }
    retract_others(w, s, uid, node, jids, n);
    keep_rest(w, s, uid, storage);
    return 0;
}
