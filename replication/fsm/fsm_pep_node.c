/* PEP: nodes, affiliations and subscriptions (XEP-0060 §6, §8), and what goes step by step. The items and
 * parties of a node that is gone may be many: their number is noted as garbage, and a few go with every
 * command. */
#include "replication/fsm/fsm_pep.h"
#include <string.h>

/* ---- nodes ---- */

static void put_garbage(struct fsm *f, uint64_t uid, uint32_t number)
{
    struct key k = pep_key_number(uid, number);
    fsm_put_empty(f, TABLE_PEP_GARBAGE, &k);
}

void fsm_do_pep_node_set(struct fsm *f, const void *body)
{
    const Imp__PepNodeSet *b = body;
    const char *jid;
    if (!fsm_pep_has_actor(f, b->uid, b->uid, &jid))
        return;
    Imp__PepUserRow *user = fsm_pep_user(f, b->uid);
    Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, b->node, f->arena);
    if (!fsm_pep_is_config(b->config)) {
        fsm_refuse(f, ERR_INVALID, "this is no configuration of a node");
    } else if (b->create && node) {
        fsm_refuse(f, ERR_EXISTS, "there is such a node");
    } else if (!b->create && !node) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such node");
    } else if (node) {
        node->config = b->config;
        fsm_pep_trim(f, b->uid, user, node);
        fsm_pep_save(f, b->uid, user, node);
    } else if (fsm_pep_is_new_node(f, user, b->node, 0)) {
        node = fsm_pep_create(f, user, b->node, b->config);
        fsm_pep_save(f, b->uid, user, node);
    }
}

/* Without its items (XEP-0060 §8.5) or altogether (§8.4). value: how many items it had. */
void fsm_do_pep_node_remove(struct fsm *f, const void *body)
{
    const Imp__PepNodeRemove *b = body;
    const char *jid;
    if (!fsm_pep_has_actor(f, b->uid, b->uid, &jid))
        return;
    Imp__PepUserRow *user = fsm_pep_user(f, b->uid);
    Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, b->node, f->arena);
    if (!node) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such node");
        return;
    }
    f->out->value = node->n_items;
    put_garbage(f, b->uid, node->items);
    user->bytes -= node->bytes;
    if (b->items_only) {
        node->items = user->next_number++;
        node->n_items = 0;
        node->bytes = 0;
        fsm_pep_save(f, b->uid, user, node);
        return;
    }
    struct key k = pep_key_node(b->uid, b->node);
    put_garbage(f, b->uid, node->number);
    store_delete(f->txn, TABLE_PEP_NODE, &k);
    user->n_nodes--;
    fsm_pep_save(f, b->uid, user, NULL);
}

/* ---- parties ---- */

static bool is_empty(const Imp__PepPartyRow *p)
{
    return p->affiliation == IMP__PEP_AFFILIATION__PEP_NONE &&
           p->subscription == IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED;
}

static void save_party(struct fsm *f, uint64_t uid, Imp__PepNodeRow *node, const char *jid,
                       const Imp__PepPartyRow *row)
{
    struct key k = pep_key_number_str(uid, node->number, jid);
    struct key by_jid = pep_key_by_jid(jid, uid, node->number);
    bool was_there = store_has(f->txn, TABLE_PEP_PARTY, &k);
    if (is_empty(row)) {
        store_delete(f->txn, TABLE_PEP_PARTY, &k);
        store_delete(f->txn, TABLE_PEP_PARTY_BY_JID, &by_jid);
    } else {
        store_put_row(f->txn, TABLE_PEP_PARTY, &k, row);
        Imp__PepPlaceRow place = IMP__PEP_PLACE_ROW__INIT;
        place.node = node->node;
        store_put_row(f->txn, TABLE_PEP_PARTY_BY_JID, &by_jid, &place);
    }
    node->n_parties += !is_empty(row) - was_there;
}

static bool is_valid(const Imp__PepPartyChange *c)
{
    return fsm_is_text(c->jid, 1, FSM_JID_MAX) && !strchr(c->jid, '/') &&
           c->affiliation <= IMP__PEP_AFFILIATION__PEP_PUBLISH_ONLY &&
           c->subscription <= IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED &&
           strlen(c->subscriber) <= 3 * FSM_TEXT_MAX + 2;
}

/* §6.1: what becomes of somebody's own wish to subscribe. */
static bool answer_subscriber(struct fsm *f, const Imp__PepPartySet *b, const Imp__PepNodeRow *node,
                              const char *jid, Imp__PepPartyChange *c)
{
    if (c->set_affiliation || !c->set_subscription || strcmp(c->jid, jid) != 0) {
        fsm_refuse(f, ERR_DENIED, "only the owner may do that");
        return false;
    }
    if (c->subscription == IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED)
        return true;
    switch (pep_check_access(f->txn, b->uid, node, jid, f->arena)) {
    case PEP_MAY:
        c->subscription = IMP__PEP_SUBSCRIPTION__PEP_SUBSCRIBED;
        return true;
    case PEP_MUST_ASK:
        c->subscription = IMP__PEP_SUBSCRIPTION__PEP_PENDING;
        return true;
    default:
        fsm_refuse(f, ERR_DENIED, "the node is not for everybody");
        return false;
    }
}

static bool check_parties(struct fsm *f, const Imp__PepPartySet *b, const Imp__PepNodeRow *node,
                          const char *jid)
{
    unsigned n_new = 0;
    if (!node) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such node");
        return false;
    }
    for (size_t i = 0; i < b->n_changes; i++) {
        struct key k = pep_key_number_str(b->uid, node->number, b->changes[i]->jid);
        n_new += !store_has(f->txn, TABLE_PEP_PARTY, &k);
        if (!is_valid(b->changes[i]))
            fsm_refuse(f, ERR_INVALID, "this is no subscription or affiliation");
        else if (*jid && !answer_subscriber(f, b, node, jid, b->changes[i]))
            return false;
    }
    if (b->n_changes > FSM_MAX_ROWS / 2 || node->n_parties + n_new > PEP_PARTIES_MAX)
        fsm_refuse(f, ERR_LIMIT, "the node has as many subscribers as may be");
    return f->out->code == 0;
}

void fsm_do_pep_party_set(struct fsm *f, const void *body)
{
    const Imp__PepPartySet *b = body;
    const char *jid;
    if (!fsm_pep_has_actor(f, b->uid, b->actor, &jid))
        return;
    Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, b->node, f->arena);
    if (!check_parties(f, b, node, jid))
        return;
    for (size_t i = 0; i < b->n_changes; i++) {
        const Imp__PepPartyChange *c = b->changes[i];
        Imp__PepPartyRow row = *pep_get_party(f->txn, b->uid, node, c->jid, f->arena);
        if (c->set_affiliation)
            row.affiliation = c->affiliation;
        if (c->set_subscription) {
            row.subscription = c->subscription;
            row.subscriber = *c->subscriber ? c->subscriber : c->jid;
        }
        if (row.subscription == IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED)
            row.subscriber = (char *)"";
        /* §8.9.2.1: an outcast has no subscription */
        if (row.affiliation == IMP__PEP_AFFILIATION__PEP_OUTCAST)
            row.subscription = IMP__PEP_SUBSCRIPTION__PEP_UNSUBSCRIBED;
        save_party(f, b->uid, node, c->jid, &row);
        f->out->value = row.subscription;
    }
    fsm_pep_save(f, b->uid, fsm_pep_user(f, b->uid), node);
}

/* ---- renames and removals ---- */

/* NEW_JID NULL: the party is no more. */
static void move_party(struct fsm *f, uint64_t uid, uint32_t number, const char *jid, const char *new_jid)
{
    struct key by_jid = pep_key_by_jid(jid, uid, number);
    const Imp__PepPlaceRow *place = store_find_row(f->txn, TABLE_PEP_PARTY_BY_JID, &by_jid, f->arena);
    Imp__PepNodeRow *node = place ? pep_find_node(f->txn, uid, place->node, f->arena) : NULL;
    if (!node || node->number != number) { /* garbage already */
        store_delete(f->txn, TABLE_PEP_PARTY_BY_JID, &by_jid);
        return;
    }
    Imp__PepPartyRow row = *pep_get_party(f->txn, uid, node, jid, f->arena), none = IMP__PEP_PARTY_ROW__INIT;
    save_party(f, uid, node, jid, &none);
    if (new_jid) {
        if (*row.subscriber) {
            const char *slash = strchr(row.subscriber, '/');
            size_t n = strlen(new_jid) + (slash ? strlen(slash) : 0) + 1;
            char *subscriber = arena_alloc(f->arena, n);
            strcpy(subscriber, new_jid);
            if (slash)
                strcat(subscriber, slash);
            row.subscriber = subscriber;
        }
        save_party(f, uid, node, new_jid, &row);
    }
    fsm_pep_save(f, uid, fsm_pep_user(f, uid), node);
}

unsigned fsm_pep_move_parties(struct fsm *f, const char *jid, const char *new_jid, unsigned max,
                              uint64_t *n_left)
{
    struct key prefix = fsm_key_str(jid);
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, TABLE_PEP_PARTY_BY_JID, &prefix);
    while (store_iter_next(&i)) {
        struct key_reader r;
        if (n == max) {
            if (n_left)
                ++*n_left;
            break;
        }
        key_read(&r, (const char *)i.key + prefix.n, i.n_key - prefix.n);
        uint64_t uid = key_read_u64(&r);
        move_party(f, uid, key_read_u32(&r), jid, new_jid);
        n++;
    }
    store_iter_fini(&i);
    return n;
}

/* ---- what goes step by step ---- */

static struct key key_of_iter(const struct store_iter *i)
{
    struct key k;
    key_init(&k);
    key_bytes(&k, i->key, i->n_key);
    return k;
}

static unsigned purge_rows(struct fsm *f, enum table table, const struct key *prefix, unsigned max)
{
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, table, prefix);
    while (n < max && store_iter_next(&i)) {
        struct key k = key_of_iter(&i);
        store_delete(f->txn, table, &k);
        n++;
    }
    store_iter_fini(&i);
    return n;
}

/* PREFIX: u64 uid, or with the number behind it. */
static unsigned purge_parties(struct fsm *f, const struct key *prefix, unsigned max)
{
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, TABLE_PEP_PARTY, prefix);
    while (n < max && store_iter_next(&i)) {
        struct key k = key_of_iter(&i);
        struct key_reader r;
        key_read(&r, k.bytes, k.n);
        uint64_t uid = key_read_u64(&r);
        uint32_t number = key_read_u32(&r);
        const char *jid = key_read_str(&r, f->arena);
        struct key by_jid = pep_key_by_jid(jid ? jid : "", uid, number);
        store_delete(f->txn, TABLE_PEP_PARTY_BY_JID, &by_jid);
        store_delete(f->txn, TABLE_PEP_PARTY, &k);
        n++;
    }
    store_iter_fini(&i);
    return n;
}

static unsigned purge_set(struct fsm *f, const struct key *prefix, unsigned max)
{
    unsigned n = purge_rows(f, TABLE_PEP_ITEM, prefix, max);
    if (n < max)
        n += purge_rows(f, TABLE_PEP_ITEM_ID, prefix, max - n);
    if (n < max)
        n += purge_parties(f, prefix, max - n);
    return n;
}

unsigned fsm_pep_purge_user(struct fsm *f, uint64_t uid, unsigned max)
{
    struct key prefix = fsm_key_u64(uid);
    unsigned n = purge_set(f, &prefix, max);
    if (n < max)
        n += purge_rows(f, TABLE_PEP_NODE, &prefix, max - n);
    if (n < max)
        n += purge_rows(f, TABLE_PEP_GARBAGE, &prefix, max - n);
    return n;
}

void fsm_pep_purge_step(struct fsm *f, unsigned max)
{
    struct store_iter i;
    unsigned n = 0;
    if (f->level < LEVEL_3 || !fsm_has_rows(f, TABLE_PEP_GARBAGE))
        return;
    store_iter_init(&i, f->txn, TABLE_PEP_GARBAGE, NULL);
    while (n < max && store_iter_next(&i)) {
        struct key k = key_of_iter(&i);
        n += purge_set(f, &k, max - n);
        if (n < max) {
            store_delete(f->txn, TABLE_PEP_GARBAGE, &k);
            n++;
        }
    }
    store_iter_fini(&i);
}
