/* Rosters and vCards (RFC 6121 §2). An item that is removed stays as a mark for roster versioning (§2.6)
 * until there are too many of them. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { REMOVED_MAX = 64, GROUPS_MAX = 64, GROUP_BYTES_MAX = 8192 /* of all together */ };

static Imp__RosterMetaRow *get_meta(struct fsm *f, uint64_t uid)
{
    struct key k = fsm_key_u64(uid);
    Imp__RosterMetaRow *row = store_find_row(f->txn, TABLE_ROSTER_META, &k, f->arena);
    if (!row) {
        row = arena_alloc(f->arena, sizeof *row);
        imp__roster_meta_row__init(row);
    }
    return row;
}

static struct key contact_key(const char *contact, uint64_t uid)
{
    struct key k;
    key_init(&k);
    key_str(&k, contact);
    key_u64(&k, uid);
    return k;
}

void fsm_roster_load(struct fsm *f, struct roster_item *item, uint64_t uid, const char *contact)
{
    struct key k = fsm_key_u64_str(uid, contact);
    const Imp__RosterRow *row = store_find_row(f->txn, TABLE_ROSTER, &k, f->arena);
    memset(item, 0, sizeof *item);
    item->uid = uid;
    item->contact = contact;
    item->exists = row && !row->removed;
    item->was_removed = row && row->removed;
    if (item->exists)
        item->row = *row;
    else
        imp__roster_row__init(&item->row);
}

bool fsm_roster_has_room(struct fsm *f, const struct roster_item *item)
{
    return item->exists ||
           get_meta(f, item->uid)->n_items < (uint64_t)setting_int(f->txn, NULL, SETTING_LIMIT_ROSTER_ITEMS);
}

void fsm_roster_fill_name(struct fsm *f, struct roster_item *item)
{
    Imp__UserRow *contact;
    if (*item->row.name || fsm_find_jid(f, item->contact, &contact) || !*contact->display_name)
        return;
    item->row.name = contact->display_name;
    item->row.auto_name = true;
}

/* Forgets all marks of removed items; who has an older version of the roster gets all of it. */
static void forget_removed(struct fsm *f, uint64_t uid, Imp__RosterMetaRow *meta)
{
    struct key prefix = fsm_key_u64(uid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_ROSTER, &prefix);
    while (store_iter_next(&i)) {
        const Imp__RosterRow *row = store_iter_row(&i, f->arena);
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        if (row && row->removed)
            store_delete(f->txn, TABLE_ROSTER, &k);
    }
    meta->n_removed = 0;
    meta->oldest_removed = f->level >= LEVEL_3 ? meta->version : f->in->index;
}

/* Nothing of it is worth keeping: not on the roster, nothing pending. */
static bool is_empty(const Imp__RosterRow *r)
{
    return !r->in_roster && !r->pending_in.len && !r->approved && !r->ask &&
           r->subscription == IMP__SUBSCRIPTION__SUB_NONE;
}

/* The row as it will be; NULL: it goes without a mark, as it was never shown. */
static const Imp__RosterRow *row_to_store(struct roster_item *item, uint64_t version)
{
    if (is_empty(&item->row)) {
        if (!item->leaves_mark && !item->was_removed)
            return NULL;
        imp__roster_row__init(&item->row);
        item->row.removed = true;
    }
    item->row.version = version;
    return &item->row;
}

/* RFC 6121 §2.6.3: no two changes have the same. One log entry may hold several. */
static uint64_t next_version(const struct fsm *f, const Imp__RosterMetaRow *meta)
{
    return f->level >= LEVEL_3 && meta->version >= f->in->index ? meta->version + 1 : f->in->index;
}

/* RFC 6121 §2.6.3: a change that is not pushed is no modification, such as a request that waits. */
static bool looks_the_same(struct fsm *f, const struct roster_item *item)
{
    struct roster_item was;
    fsm_roster_load(f, &was, item->uid, item->contact);
    const Imp__RosterRow *a = &was.row, *b = &item->row;
    return was.exists && !is_empty(b) && a->in_roster == b->in_roster &&
           a->subscription == b->subscription && a->ask == b->ask && a->approved == b->approved;
}

void fsm_roster_save(struct fsm *f, struct roster_item *item)
{
    struct key k = fsm_key_u64_str(item->uid, item->contact), uid = fsm_key_u64(item->uid);
    struct key by_contact = contact_key(item->contact, item->uid);
    Imp__RosterMetaRow *meta = get_meta(f, item->uid);
    uint64_t version = next_version(f, meta);
    if (f->level >= LEVEL_3 && item->quiet && looks_the_same(f, item)) {
        store_put_row(f->txn, TABLE_ROSTER, &k, &item->row);
        return;
    }
    const Imp__RosterRow *row = row_to_store(item, version);
    bool lives = row && !row->removed;
    meta->n_items += lives - item->exists;
    meta->n_removed += (row && row->removed) - item->was_removed;
    meta->version = version;
    if (lives && item->was_removed && !row->in_roster)
        meta->oldest_removed = version; /* a pending request takes the place of the mark */
    if (row)
        store_put_row(f->txn, TABLE_ROSTER, &k, row);
    else
        store_delete(f->txn, TABLE_ROSTER, &k);
    if (lives)
        fsm_put_empty(f, TABLE_ROSTER_BY_CONTACT, &by_contact);
    else
        store_delete(f->txn, TABLE_ROSTER_BY_CONTACT, &by_contact);
    if (meta->n_removed > REMOVED_MAX)
        forget_removed(f, item->uid, meta);
    store_put_row(f->txn, TABLE_ROSTER_META, &uid, meta);
}

/* ---- commands ---- */

/* The user, if the proposer may write for it; else refused. */
static Imp__UserRow *owner(struct fsm *f, uint64_t uid)
{
    Imp__UserRow *user = fsm_find_user(f, uid);
    if (!user)
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
    return user && fsm_is_at_home(f, user) ? user : NULL;
}

static bool refuse_groups(struct fsm *f, const Imp__RosterSet *b)
{
    bool good = b->n_groups <= GROUPS_MAX && strlen(b->name) <= FSM_TEXT_MAX;
    size_t n_bytes = 0;
    for (size_t i = 0; good && i < b->n_groups; i++) {
        n_bytes += strlen(b->groups[i]);
        good = *b->groups[i] && strlen(b->groups[i]) <= FSM_TEXT_MAX && n_bytes <= GROUP_BYTES_MAX;
        /* §2.3.3: no empty group, none twice */
        for (size_t j = 0; good && j < i; j++)
            good = strcmp(b->groups[i], b->groups[j]) != 0;
    }
    if (!good)
        fsm_refuse(f, ERR_INVALID, "a name or group is empty, too long or there twice");
    return !good;
}

static bool is_contact(const char *jid)
{
    return fsm_is_text(jid, 1, FSM_JID_MAX) && !strchr(jid, '/');
}

void fsm_do_roster_set(struct fsm *f, const void *body)
{
    const Imp__RosterSet *b = body;
    const Imp__UserRow *user = owner(f, b->uid);
    struct roster_item item;
    if (!user || refuse_groups(f, b))
        return;
    if (!is_contact(b->contact) || !strcmp(b->contact, fsm_user_jid(f, user))) {
        fsm_refuse(f, ERR_INVALID, "this cannot be a contact");
        return;
    }
    fsm_roster_load(f, &item, b->uid, b->contact);
    if (!fsm_roster_has_room(f, &item)) {
        fsm_refuse(f, ERR_LIMIT, "the roster is full");
        return;
    }
    item.row.in_roster = true;
    item.row.name = b->name;
    item.row.auto_name = false;
    item.row.groups = b->groups;
    item.row.n_groups = b->n_groups;
    fsm_roster_fill_name(f, &item);
    fsm_roster_save(f, &item);
    f->out->value = f->in->index;
}

/* §2.5.2: the subscriptions end both ways first. value: flags of those steps; value2: bit 0: an "unsubscribe"
 * goes to the contact, bit 1: an "unsubscribed". */
void fsm_do_roster_remove(struct fsm *f, const void *body)
{
    const Imp__RosterRemove *b = body;
    const Imp__UserRow *user = owner(f, b->uid);
    struct roster_item item;
    Imp__UserRow *other;
    if (!user)
        return;
    if (!is_contact(b->contact)) {
        fsm_refuse(f, ERR_INVALID, "this cannot be a contact");
        return;
    }
    fsm_roster_load(f, &item, b->uid, b->contact);
    if (!item.exists || !item.row.in_roster) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such contact");
        return;
    }
    const char *jid = fsm_user_jid(f, user);
    const ProtobufCBinaryData none = {0};
    fsm_find_jid(f, b->contact, &other);
    if (fsm_sees(&item.row) || item.row.ask) {
        f->out->value |=
            fsm_subscription_step(f, IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE, jid, user, b->contact, other, &none);
        f->out->value2 |= 1;
    }
    if (fsm_is_seen(&item.row) || item.row.pending_in.len) {
        f->out->value |=
            fsm_subscription_step(f, IMP__SUBSCRIBE_TYPE__UNSUBSCRIBED, jid, user, b->contact, other, &none);
        f->out->value2 |= 2;
    }
    fsm_roster_load(f, &item, b->uid, b->contact);
    imp__roster_row__init(&item.row);
    item.leaves_mark = true;
    fsm_roster_save(f, &item);
    f->out->value |= FSM_SUB_CHANGED;
}

/* ---- renames and display names ---- */

static Imp__Subscription join_subscriptions(const Imp__RosterRow *a, const Imp__RosterRow *b)
{
    bool to = fsm_sees(a) || fsm_sees(b), from = fsm_is_seen(a) || fsm_is_seen(b);
    return to ? (from ? IMP__SUBSCRIPTION__SUB_BOTH : IMP__SUBSCRIPTION__SUB_TO)
              : (from ? IMP__SUBSCRIPTION__SUB_FROM : IMP__SUBSCRIPTION__SUB_NONE);
}

static void follow_name(struct roster_item *item, char *display_name)
{
    if (item->row.auto_name && *display_name)
        item->row.name = display_name;
}

/* True: a row was written. */
static bool rewrite_item(struct fsm *f, const Imp__RosterRewrite *b, uint64_t uid)
{
    struct roster_item old, now;
    fsm_roster_load(f, &old, uid, b->old_jid);
    if (!old.exists)
        return false;
    if (!strcmp(b->old_jid, b->new_jid)) {
        if (!old.row.auto_name || !*b->display_name || !strcmp(old.row.name, b->display_name))
            return false;
        follow_name(&old, b->display_name);
        fsm_roster_save(f, &old);
        return true;
    }
    fsm_roster_load(f, &now, uid, b->new_jid);
    Imp__RosterRow merged = now.exists && now.row.in_roster ? now.row : old.row;
    merged.subscription = join_subscriptions(&old.row, &now.row);
    merged.in_roster = old.row.in_roster || now.row.in_roster;
    bool was_shown = old.row.in_roster;
    imp__roster_row__init(&old.row);
    old.leaves_mark = was_shown;
    fsm_roster_save(f, &old);
    now.row = merged;
    follow_name(&now, b->display_name);
    fsm_roster_save(f, &now);
    return true;
}

void fsm_do_roster_rewrite(struct fsm *f, const void *body)
{
    const Imp__RosterRewrite *b = body;
    uint64_t max = b->max && b->max < FSM_MAX_ROWS ? b->max : FSM_MAX_ROWS, n = 0, n_left = 0;
    if (!is_contact(b->old_jid) || !is_contact(b->new_jid) || strlen(b->display_name) > FSM_TEXT_MAX) {
        fsm_refuse(f, ERR_INVALID, "these are not addresses of contacts");
        return;
    }
    struct key prefix = fsm_key_str(b->old_jid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_ROSTER_BY_CONTACT, &prefix);
    while (store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, (const char *)i.key + prefix.n, i.n_key - prefix.n);
        if (n < max)
            n += rewrite_item(f, b, key_read_u64(&r));
        else
            n_left++;
    }
    if (strcmp(b->old_jid, b->new_jid) != 0)
        n += fsm_pep_move_parties(f, b->old_jid, b->new_jid, n < max ? (unsigned)(max - n) : 0, &n_left);
    f->out->value = n_left;
    f->out->value2 = n;
}

void fsm_do_vcard_set(struct fsm *f, const void *body)
{
    const Imp__VcardSet *b = body;
    if (!owner(f, b->uid))
        return;
    if ((long long)b->xml.len > setting_int(f->txn, NULL, SETTING_LIMIT_VCARD_BYTES)) {
        fsm_refuse(f, ERR_LIMIT, "the vCard is too long");
        return;
    }
    struct key k = fsm_key_u64(b->uid);
    Imp__VcardRow row = IMP__VCARD_ROW__INIT;
    row.xml = b->xml;
    row.version = f->in->index;
    if (b->xml.len)
        store_put_row(f->txn, TABLE_VCARD, &k, &row);
    else
        store_delete(f->txn, TABLE_VCARD, &k);
}
