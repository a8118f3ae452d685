#include "im/roster.h"
#include "base/htab.h"
#include "base/xml.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/stored.h"
#include "im/user.h"
#include <stdlib.h>
#include <string.h>

static const char *subscription_text(const Imp__RosterRow *row)
{
    if (row->removed)
        return "remove";
    switch (row->subscription) {
    case IMP__SUBSCRIPTION__SUB_TO:
        return "to";
    case IMP__SUBSCRIPTION__SUB_FROM:
        return "from";
    case IMP__SUBSCRIPTION__SUB_BOTH:
        return "both";
    default:
        return "none";
    }
}

/* A row that only holds a request of a stranger is no roster item yet (§3.1.3). */
static bool is_shown(const Imp__RosterRow *row)
{
    return row->in_roster || row->removed;
}

static void fill_item(struct roster_item *item, const char *jid, const Imp__RosterRow *row)
{
    *item = (struct roster_item){.jid = jid,
                                 .name = row->name ? row->name : "",
                                 .groups = (const char *const *)row->groups,
                                 .n_groups = row->n_groups,
                                 .subscription = subscription_text(row),
                                 .ask = row->ask,
                                 .approved = row->approved,
                                 .version = row->version};
}

static Imp__RosterMetaRow *read_meta(struct shard *s, uint64_t uid, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    return store_find_row(shard_txn(s), TABLE_ROSTER_META, &k, a);
}

uint64_t roster_version(struct shard *s, uint64_t uid)
{
    struct arena a;
    arena_init(&a);
    Imp__RosterMetaRow *meta = read_meta(s, uid, &a);
    uint64_t version = meta ? meta->version : 0;
    arena_fini(&a);
    return version;
}

/* Shown items with a version above SINCE, by key; SINCE 0: all that are in the roster. */
static void each_item(struct shard *s, uint64_t uid, uint64_t since, roster_item_fn *each, void *user)
{
    struct jid_rows rows;
    jid_rows_init(&rows, s, TABLE_ROSTER, uid);
    while (jid_rows_next(&rows)) {
        Imp__RosterRow *row = jid_rows_row(&rows);
        if (row && is_shown(row) && (since ? row->version > since : !row->removed)) {
            struct roster_item item;
            fill_item(&item, rows.jid, row);
            each(user, &item);
        }
    }
    jid_rows_fini(&rows);
}

uint64_t roster_read(struct shard *s, uint64_t uid, roster_item_fn *each, void *user)
{
    each_item(s, uid, 0, each, user);
    return roster_version(s, uid);
}

bool roster_can_read_since(struct shard *s, uint64_t uid, uint64_t since)
{
    struct arena a;
    arena_init(&a);
    Imp__RosterMetaRow *meta = read_meta(s, uid, &a);
    /* Removed items are kept from OLDEST on: a client that knows less must get everything. */
    bool can =
        since && meta && since <= meta->version && (!meta->oldest_removed || since >= meta->oldest_removed);
    arena_fini(&a);
    return can;
}

/* Changed items, kept until all are known. */
struct changes {
    struct arena arena;
    struct roster_item *list;
    size_t n, cap;
};

static void add_change(void *user, const struct roster_item *item)
{
    struct changes *c = user;
    if (c->n == c->cap) {
        c->cap = c->cap ? c->cap * 2 : 16;
        c->list = mem_realloc(c->list, c->cap * sizeof *c->list);
    }
    struct roster_item *to = &c->list[c->n++];
    *to = *item;
    to->jid = arena_strdup(&c->arena, item->jid);
    to->name = arena_strdup(&c->arena, item->name);
    const char **groups = arena_alloc(&c->arena, (item->n_groups + 1) * sizeof *groups);
    for (size_t i = 0; i < item->n_groups; i++)
        groups[i] = arena_strdup(&c->arena, item->groups[i]);
    to->groups = groups;
}

static int compare_versions(const void *a, const void *b)
{
    const struct roster_item *x = a, *y = b;
    return x->version < y->version ? -1 : x->version > y->version;
}

int roster_read_since(struct shard *s, uint64_t uid, uint64_t since, uint64_t *version, roster_item_fn *each,
                      void *user)
{
    if (!roster_can_read_since(s, uid, since))
        return ERR_NOTFOUND;
    *version = roster_version(s, uid);
    if (since >= *version)
        return 0;
    struct changes c = {0};
    arena_init(&c.arena);
    each_item(s, uid, since, add_change, &c);
    qsort(c.list, c.n, sizeof *c.list, compare_versions);
    for (size_t i = 0; i < c.n; i++)
        each(user, &c.list[i]);
    mem_free(c.list);
    arena_fini(&c.arena);
    return 0;
}

void roster_removal_init(struct roster_removal *r, struct shard *s, struct user *u, const char *contact)
{
    *r = (struct roster_removal){.uid = u->uid, .jid = mem_strdup(u->jid), .contact = mem_strdup(contact)};
    if (shard_find_uid(s, contact, &r->contact_uid) != 0)
        r->contact_uid = 0;
    struct arena a;
    arena_init(&a);
    const Imp__RosterRow *row = jid_row(s, TABLE_ROSTER, u->uid, contact, strlen(contact), &a);
    if (row && !row->removed) {
        r->sees = row->subscription & IMP__SUBSCRIPTION__SUB_TO;
        r->is_seen = row->subscription & IMP__SUBSCRIPTION__SUB_FROM;
    }
    arena_fini(&a);
}

void roster_removal_fini(struct roster_removal *r)
{
    mem_free(r->jid);
    mem_free(r->contact);
}

/* ---- pushes ---- */

enum { TOLD_WAIT_MS = 1000 }; /* for a stanza whose sender's home is perhaps no more */

/* A change that was pushed. Where the shard is behind the log, the row is seen as several changes have left
 * it, and the event of each of them comes: it is pushed with the first. */
struct roster_pushed {
    uint64_t uid, version;
    uint32_t contact; /* its checksum: below level 3 the changes of one log entry share a version */
};
enum { PUSHED = 1024 }; /* a power of two */

void roster_init(struct shard *s)
{
    s->pushed = mem_zalloc(PUSHED * sizeof *s->pushed);
}

void roster_fini(struct shard *s)
{
    mem_free(s->pushed);
}

static bool was_pushed(struct shard *s, uint64_t uid, uint64_t version, const char *jid)
{
    uint32_t contact = crc32c(0, jid, strlen(jid));
    struct roster_pushed *p = &s->pushed[(uid + version + contact) % PUSHED];
    if (p->uid == uid && p->version == version && p->contact == contact)
        return true;
    *p = (struct roster_pushed){.uid = uid, .version = version, .contact = contact};
    return false;
}

/* A push that comes behind a stanza of the contact, or behind such a push. */
struct held_push {
    struct list link;
    uint64_t version, since_ms;
    int told; /* enum stanza_type of the stanza; -1: none is waited for */
    char contact[];
};

static void push(struct user *u, const char *jid, const Imp__RosterRow *row)
{
    struct roster_item item;
    fill_item(&item, jid, row);
    if (row->removed) {
        item.name = "";
        item.n_groups = 0;
    }
    struct session *session;
    list_for_each(session, &u->sessions, struct session, link) if (session->wants_roster)
        session->ops->roster_push(session, &item);
}

static int told_type(const Imp__RosterRow *row)
{
    switch (row->told) {
    case IMP__SUBSCRIBE_TYPE__SUBSCRIBED:
        return PRESENCE_SUBSCRIBED;
    case IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE:
        return PRESENCE_UNSUBSCRIBE;
    default:
        return PRESENCE_UNSUBSCRIBED;
    }
}

static void hold(struct user *u, const char *jid, uint64_t version, int told)
{
    size_t n = strlen(jid) + 1;
    struct held_push *p = mem_alloc(sizeof *p + n);
    memcpy(p->contact, jid, n);
    p->version = version;
    p->told = told;
    p->since_ms = loop_now_ms(u->shard->loop);
    list_append(&u->pushes, &p->link);
    if (list_is_empty(&u->pushing))
        list_append(&u->shard->pushing, &u->pushing);
}

static void push_held(struct user *u, const struct held_push *p)
{
    struct arena a;
    arena_init(&a);
    Imp__RosterRow *row = jid_row(u->shard, TABLE_ROSTER, u->uid, p->contact, strlen(p->contact), &a);
    if (row && row->version == p->version) /* else a later change has a push of its own */
        push(u, p->contact, row);
    arena_fini(&a);
}

static void flush(struct user *u, bool all)
{
    struct held_push *p;
    list_for_each(p, &u->pushes, struct held_push, link)
    {
        if (p->told >= 0 && !all)
            return;
        list_remove(&p->link);
        push_held(u, p);
        mem_free(p);
    }
    list_remove(&u->pushing);
}

void roster_was_told(struct user *u, const struct envelope *e)
{
    struct held_push *p;
    list_for_each(p, &u->pushes, struct held_push, link)
    {
        if (p->told == (int)e->type && jid_same_bare(p->contact, e->from))
            p->told = -1;
    }
    flush(u, false);
}

void roster_tick(struct shard *s)
{
    uint64_t now = loop_now_ms(s->loop);
    struct user *u;
    list_for_each(u, &s->pushing, struct user, pushing)
    {
        struct held_push *p = list_entry(list_first(&u->pushes), struct held_push, link);
        if (now - p->since_ms > TOLD_WAIT_MS)
            flush(u, true);
    }
}

void roster_user_freed(struct user *u)
{
    struct held_push *p;
    list_for_each(p, &u->pushes, struct held_push, link) mem_free(p);
    list_remove(&u->pushing);
}

void roster_on_feed(struct shard *s, const struct feed_event *event)
{
    struct arena a;
    arena_init(&a);
    struct key_reader k;
    key_read(&k, event->key.bytes, event->key.n);
    uint64_t uid = key_read_u64(&k);
    const char *jid = key_read_str(&k, &a);
    struct user *u = k.failed ? NULL : user_find(s, uid);
    Imp__RosterRow *row = u && !list_is_empty(&u->sessions)
                              ? store_find_row(shard_txn(s), TABLE_ROSTER, &event->key, &a)
                              : NULL;
    /* A row that is gone altogether was never shown, or its mark is forgotten. One without a new version
     * looks as before. */
    if (row && is_shown(row) && row->version >= event->index && !was_pushed(s, uid, row->version, jid)) {
        bool waits = row->told_index && row->told_index == event->index;
        if (waits || !list_is_empty(&u->pushes))
            hold(u, jid, row->version, waits ? told_type(row) : -1);
        else
            push(u, jid, row);
    }
    arena_fini(&a);
}

void roster_deliver_requests(struct session *s)
{
    struct jid_rows rows;
    jid_rows_init(&rows, s->shard, TABLE_ROSTER, s->user->uid);
    while (jid_rows_next(&rows)) {
        Imp__RosterRow *row = jid_rows_row(&rows);
        if (!row || row->removed || !row->pending_in.len)
            continue;
        struct envelope *e = stored_stanza(row->pending_in.data, row->pending_in.len, rows.jid, s->user->jid);
        if (e && e->type == PRESENCE_SUBSCRIBE)
            s->ops->deliver(s, e, NULL);
        envelope_free(e);
    }
    jid_rows_fini(&rows);
}
