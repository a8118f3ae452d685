/* What a removed user leaves may be many rows: its roster, its messages, and its address in the rosters of
 * others. They go a few at a time, with every command that is applied, so that no command is long. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { PURGE_ROWS_PER_COMMAND = 200 };

static struct key purge_key(const Imp__PurgeRow *row)
{
    struct key k;
    key_init(&k);
    key_str(&k, row->jid);
    key_u64(&k, row->uid);
    return k;
}

static void put_purge(struct fsm *f, const Imp__PurgeRow *row)
{
    struct key k = purge_key(row);
    store_put_row(f->txn, TABLE_PURGE, &k, row);
}

void fsm_purge_add(struct fsm *f, uint64_t uid, const char *jid)
{
    Imp__PurgeRow row = IMP__PURGE_ROW__INIT;
    row.jid = (char *)jid;
    row.uid = uid;
    put_purge(f, &row);
}

static struct key key_of_iter(const struct store_iter *i)
{
    struct key k;
    key_init(&k);
    key_bytes(&k, i->key, i->n_key);
    return k;
}

/* Contacts lose their subscriptions both ways, as if the user had canceled and revoked them (RFC 6121 §3.2,
 * §3.3); the items stay theirs. Goes on after the contact noted in the row. */
static unsigned purge_contacts(struct fsm *f, Imp__PurgeRow *row, unsigned max)
{
    unsigned n = 0;
    struct key prefix = fsm_key_str(row->jid), from = prefix;
    struct store_iter i;
    key_u64(&from, row->contacts_to + 1);
    store_iter_init(&i, f->txn, TABLE_ROSTER_BY_CONTACT, &prefix);
    store_iter_seek(&i, &from);
    while (n < max && store_iter_next(&i)) {
        struct key_reader r;
        struct roster_item item;
        key_read(&r, (const char *)i.key + prefix.n, i.n_key - prefix.n);
        row->contacts_to = key_read_u64(&r);
        fsm_roster_load(f, &item, row->contacts_to, row->jid);
        if (item.exists && fsm_find_user(f, row->contacts_to)) {
            item.row.subscription = IMP__SUBSCRIPTION__SUB_NONE;
            item.row.ask = item.row.approved = false;
            item.row.pending_in.len = 0;
            fsm_roster_save(f, &item);
        }
        n++;
    }
    store_iter_fini(&i);
    return n;
}

static unsigned purge_roster(struct fsm *f, uint64_t uid, unsigned max)
{
    unsigned n = 0;
    struct key prefix = fsm_key_u64(uid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_ROSTER, &prefix);
    while (n < max && store_iter_next(&i)) {
        struct key k = key_of_iter(&i), by_contact;
        key_init(&by_contact);
        key_bytes(&by_contact, k.bytes + prefix.n, k.n - prefix.n); /* the contact as it stands in the key */
        key_u64(&by_contact, uid);
        store_delete(f->txn, TABLE_ROSTER_BY_CONTACT, &by_contact);
        store_delete(f->txn, TABLE_ROSTER, &k);
        n++;
    }
    store_iter_fini(&i);
    return n;
}

static unsigned purge_messages(struct fsm *f, uint64_t uid, unsigned max)
{
    unsigned n = 0;
    struct key prefix = fsm_key_u64(uid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_MESSAGE_INDEX, &prefix);
    while (n < max && store_iter_next(&i)) {
        const Imp__MessageIndexRow *row = store_iter_row(&i, f->arena);
        struct key_reader r;
        key_read(&r, (const char *)i.key + prefix.n, i.n_key - prefix.n);
        uint64_t index = key_read_u64(&r);
        const Imp__MessageIndexRow none = IMP__MESSAGE_INDEX_ROW__INIT;
        fsm_message_delete(f, uid, index, key_read_u32(&r), row ? row : &none);
        n++;
    }
    store_iter_fini(&i);
    if (n < max) {
        store_iter_init(&i, f->txn, TABLE_MESSAGE_ORIGIN, &prefix);
        while (n < max && store_iter_next(&i)) {
            struct key k = key_of_iter(&i);
            store_delete(f->txn, TABLE_MESSAGE_ORIGIN, &k);
            n++;
        }
        store_iter_fini(&i);
    }
    return n;
}

/* Rows done; fewer than MAX: the user has none left, and the note of it goes too. JID "": the address has a
 * new owner already, whose subscriptions are not touched. */
static unsigned purge_user(struct fsm *f, Imp__PurgeRow *row, unsigned max)
{
    unsigned n = *row->jid ? purge_contacts(f, row, max) : 0;
    if (n < max && *row->jid)
        n += fsm_pep_move_parties(f, row->jid, NULL, max - n, NULL);
    if (n < max)
        n += purge_roster(f, row->uid, max - n);
    if (n < max)
        n += fsm_pep_purge_user(f, row->uid, max - n);
    if (n < max)
        n += fsm_block_purge(f, row->uid, max - n);
    if (n < max)
        n += purge_messages(f, row->uid, max - n);
    if (n < max) {
        struct key k = purge_key(row);
        store_delete(f->txn, TABLE_PURGE, &k);
    } else {
        put_purge(f, row);
    }
    return n;
}

void fsm_purge_step(struct fsm *f)
{
    fsm_pep_purge_step(f, PURGE_ROWS_PER_COMMAND);
    struct store_hash hash;
    uint64_t n_users;
    store_table_hash(f->txn, TABLE_PURGE, &hash, &n_users);
    if (!n_users)
        return;
    unsigned left = PURGE_ROWS_PER_COMMAND;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_PURGE, NULL);
    while (left > 1 && store_iter_next(&i)) {
        Imp__PurgeRow *row = store_iter_row(&i, f->arena);
        left--;
        if (row)
            left -= purge_user(f, row, left);
    }
    store_iter_fini(&i);
}

void fsm_purge_finish(struct fsm *f, const char *jid)
{
    struct key prefix = fsm_key_str(jid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_PURGE, &prefix);
    while (store_iter_next(&i)) {
        Imp__PurgeRow *row = store_iter_row(&i, f->arena);
        struct key k = key_of_iter(&i);
        if (!row)
            break;
        purge_contacts(f, row, UINT32_MAX);
        fsm_pep_move_parties(f, row->jid, NULL, UINT32_MAX, NULL);
        store_delete(f->txn, TABLE_PURGE, &k);
        fsm_purge_add(f, row->uid, "");
    }
    store_iter_fini(&i);
}
