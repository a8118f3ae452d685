#include "replication/pep.h"
#include <string.h>

/* ---- configuration ---- */

static bool same_groups(const Imp__PepConfig *a, const Imp__PepConfig *b)
{
    bool same = a->n_groups == b->n_groups;
    for (size_t i = 0; same && i < a->n_groups; i++) {
        same = false;
        for (size_t j = 0; !same && j < b->n_groups; j++)
            same = !strcmp(a->groups[i], b->groups[j]);
    }
    return same;
}

#define SAME_BOOL(member) (a->member == b->member)
#define SAME_ENUM(member) (a->member == b->member)
#define SAME_MAX(member) (a->member == b->member)
#define SAME_TEXT(member) (!strcmp(a->member, b->member))
#define SAME_GROUPS(member) same_groups(a, b)

bool pep_config_agrees(const Imp__PepConfig *a, const Imp__PepConfig *b, uint32_t fields)
{
#define X(id, bit, member, type, var, choices, label)                                                        \
    if ((fields & PEP_FIELD_##id) && !SAME_##type(member))                                                   \
        return false;
#include "replication/pep_config.def"
#undef X
    return true;
}

/* ---- keys ---- */

struct key pep_key_node(uint64_t uid, const char *node)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_str(&k, node);
    return k;
}

struct key pep_key_number(uint64_t uid, uint32_t number)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_u32(&k, number);
    return k;
}

struct key pep_key_number_str(uint64_t uid, uint32_t number, const char *s)
{
    struct key k = pep_key_number(uid, number);
    key_str(&k, s);
    return k;
}

struct key pep_key_item(uint64_t uid, uint32_t items, const Imp__PepItemRefRow *ref)
{
    struct key k = pep_key_number(uid, items);
    key_u64(&k, ref->index);
    key_u32(&k, ref->place);
    key_u32(&k, ref->n);
    return k;
}

struct key pep_key_by_jid(const char *jid, uint64_t uid, uint32_t number)
{
    struct key k;
    key_init(&k);
    key_str(&k, jid);
    key_u64(&k, uid);
    key_u32(&k, number);
    return k;
}

/* ---- rows ---- */

Imp__PepUserRow *pep_find_user(struct store_txn *t, uint64_t uid, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    return store_find_row(t, TABLE_PEP_USER, &k, a);
}

Imp__PepNodeRow *pep_find_node(struct store_txn *t, uint64_t uid, const char *node, struct arena *a)
{
    struct key k = pep_key_node(uid, node);
    Imp__PepNodeRow *row = store_find_row(t, TABLE_PEP_NODE, &k, a);
    return row && row->config ? row : NULL;
}

bool pep_item_key(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node, const char *id,
                  struct arena *a, struct key *out)
{
    struct key k = pep_key_number_str(uid, node->items, id);
    const Imp__PepItemRefRow *ref = store_find_row(t, TABLE_PEP_ITEM_ID, &k, a);
    if (ref)
        *out = pep_key_item(uid, node->items, ref);
    return ref != NULL;
}

Imp__PepItemRow *pep_find_item(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node, const char *id,
                               struct arena *a)
{
    struct key k;
    return pep_item_key(t, uid, node, id, a, &k) ? store_find_row(t, TABLE_PEP_ITEM, &k, a) : NULL;
}

void pep_items_init(struct store_iter *i, struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node)
{
    struct key prefix = pep_key_number(uid, node->items);
    store_iter_init(i, t, TABLE_PEP_ITEM, &prefix);
}

Imp__PepItemRow *pep_last_item(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node,
                               struct arena *a)
{
    struct store_iter i;
    Imp__PepItemRow *row = NULL;
    if (!node->n_items)
        return NULL;
    pep_items_init(&i, t, uid, node);
    store_iter_descending(&i);
    if (store_iter_next(&i))
        row = store_iter_row(&i, a);
    store_iter_fini(&i);
    return row;
}

Imp__PepPartyRow *pep_get_party(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node,
                                const char *jid, struct arena *a)
{
    struct key k = pep_key_number_str(uid, node->number, jid);
    Imp__PepPartyRow *row = node->n_parties ? store_find_row(t, TABLE_PEP_PARTY, &k, a) : NULL;
    if (!row) {
        row = arena_alloc(a, sizeof *row);
        imp__pep_party_row__init(row);
    }
    return row;
}

/* ---- who may ---- */

static bool is_in_groups(const Imp__RosterRow *contact, const Imp__PepConfig *config)
{
    for (size_t i = 0; i < contact->n_groups; i++)
        for (size_t j = 0; j < config->n_groups; j++)
            if (!strcmp(contact->groups[i], config->groups[j]))
                return true;
    return false;
}

static enum pep_access check_roster(struct store_txn *t, uint64_t uid, const Imp__PepConfig *config,
                                    const char *jid, struct arena *a)
{
    struct key k = pep_key_node(uid, jid);
    const Imp__RosterRow *contact = store_find_row(t, TABLE_ROSTER, &k, a);
    bool sees = contact && !contact->removed &&
                (contact->subscription == IMP__SUBSCRIPTION__SUB_FROM ||
                 contact->subscription == IMP__SUBSCRIPTION__SUB_BOTH);
    if (config->access == IMP__PEP_ACCESS__PEP_ACCESS_PRESENCE)
        return sees ? PEP_MAY : PEP_NO_PRESENCE;
    return sees && is_in_groups(contact, config) ? PEP_MAY : PEP_NOT_IN_GROUP;
}

enum pep_access pep_check_access(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node,
                                 const char *jid, struct arena *a)
{
    const Imp__PepPartyRow *party = pep_get_party(t, uid, node, jid, a);
    switch (party->affiliation) {
    case IMP__PEP_AFFILIATION__PEP_OUTCAST:
        return PEP_IS_OUTCAST;
    case IMP__PEP_AFFILIATION__PEP_PUBLISH_ONLY:
        return PEP_NOT_LISTED;
    case IMP__PEP_AFFILIATION__PEP_NONE:
        break;
    default:
        return PEP_MAY;
    }
    switch (node->config->access) {
    case IMP__PEP_ACCESS__PEP_ACCESS_OPEN:
        return PEP_MAY;
    case IMP__PEP_ACCESS__PEP_ACCESS_WHITELIST:
        return PEP_NOT_LISTED;
    case IMP__PEP_ACCESS__PEP_ACCESS_AUTHORIZE:
        return party->subscription == IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED ? PEP_MAY : PEP_MUST_ASK;
    default:
        return check_roster(t, uid, node->config, jid, a);
    }
}

bool pep_may_publish(struct store_txn *t, uint64_t uid, const Imp__PepNodeRow *node, const char *jid,
                     struct arena *a)
{
    const Imp__PepPartyRow *party = pep_get_party(t, uid, node, jid, a);
    switch (party->affiliation) {
    case IMP__PEP_AFFILIATION__PEP_OUTCAST:
        return false;
    case IMP__PEP_AFFILIATION__PEP_OWNER:
    case IMP__PEP_AFFILIATION__PEP_PUBLISHER:
    case IMP__PEP_AFFILIATION__PEP_PUBLISH_ONLY:
        return true;
    default:
        return node->config->publishers == IMP__PEP_PUBLISHERS__PEP_BY_ANYBODY ||
               (node->config->publishers == IMP__PEP_PUBLISHERS__PEP_BY_SUBSCRIBERS &&
                party->subscription == IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED);
    }
}
