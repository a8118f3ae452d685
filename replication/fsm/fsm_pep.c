/* PEP: items (XEP-0060 §7, XEP-0163). What a user can make is bounded by limits.pep_*; a node that is full
 * lets its oldest items go. */
#include "replication/fsm/fsm_pep.h"
#include <string.h>

/* ---- rows of a user ---- */

Imp__PepUserRow *fsm_pep_user(struct fsm *f, uint64_t uid)
{
    Imp__PepUserRow *row = pep_find_user(f->txn, uid, f->arena);
    if (!row) {
        row = arena_alloc(f->arena, sizeof *row);
        imp__pep_user_row__init(row);
        row->next_number = 1;
    }
    return row;
}

void fsm_pep_save(struct fsm *f, uint64_t uid, Imp__PepUserRow *user, Imp__PepNodeRow *node)
{
    struct key of_user = fsm_key_u64(uid);
    user->version = f->in->index;
    if (node) {
        struct key k = pep_key_node(uid, node->node);
        node->version = f->in->index;
        store_put_row(f->txn, TABLE_PEP_NODE, &k, node);
    }
    store_put_row(f->txn, TABLE_PEP_USER, &of_user, user);
}

Imp__PepNodeRow *fsm_pep_create(struct fsm *f, Imp__PepUserRow *user, char *name, Imp__PepConfig *config)
{
    Imp__PepNodeRow *node = arena_alloc(f->arena, sizeof *node);
    imp__pep_node_row__init(node);
    node->node = name;
    node->number = user->next_number++;
    node->items = user->next_number++; /* its own: a purge of the items leaves the parties */
    node->config = config;
    user->n_nodes++;
    return node;
}

bool fsm_pep_has_actor(struct fsm *f, uint64_t uid, uint64_t actor, const char **jid)
{
    const Imp__UserRow *owner = fsm_find_user(f, uid);
    const Imp__UserRow *who = actor == uid ? owner : fsm_find_user(f, actor);
    if (!owner || !who) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return false;
    }
    if (!fsm_is_at_home(f, who))
        return false;
    *jid = actor == uid ? "" : fsm_user_jid(f, who);
    return true;
}

bool fsm_pep_is_config(const Imp__PepConfig *c)
{
    bool good = c && c->access <= IMP__PEP_ACCESS__PEP_ACCESS_WHITELIST &&
                c->send_last <= IMP__PEP_SEND_LAST__PEP_LAST_NEVER &&
                c->publishers <= IMP__PEP_PUBLISHERS__PEP_BY_ANYBODY && c->n_groups <= PEP_GROUPS_MAX &&
                strlen(c->title) <= FSM_TEXT_MAX && strlen(c->description) <= FSM_TEXT_MAX &&
                strlen(c->payload_type) <= FSM_TEXT_MAX;
    for (size_t i = 0; good && i < c->n_groups; i++)
        good = strlen(c->groups[i]) <= FSM_TEXT_MAX;
    return good;
}

static bool is_name(const char *s)
{
    return *s && strlen(s) <= PEP_NODE_MAX;
}

bool fsm_pep_is_new_node(struct fsm *f, const Imp__PepUserRow *user, const char *name, unsigned n_new)
{
    if (!is_name(name)) {
        fsm_refuse(f, ERR_INVALID, "this cannot be the name of a node");
        return false;
    }
    if (user->n_nodes + n_new >= (uint64_t)setting_int(f->txn, NULL, SETTING_LIMIT_PEP_NODES)) {
        fsm_refuse(f, ERR_LIMIT, "the user has as many nodes as may be");
        return false;
    }
    return true;
}

/* ---- items ---- */

static uint64_t item_bytes(const char *id, const ProtobufCBinaryData *payload)
{
    return strlen(id) + payload->len;
}

static unsigned max_items(struct fsm *f, const Imp__PepNodeRow *node)
{
    unsigned limit = (unsigned)setting_int(f->txn, NULL, SETTING_LIMIT_PEP_ITEMS);
    unsigned wanted = node->config->max_items;
    return wanted && wanted < limit ? wanted : limit;
}

static void count_item(Imp__PepUserRow *user, Imp__PepNodeRow *node, const Imp__PepItemRow *item, int sign)
{
    uint64_t n = item_bytes(item->id, &item->payload);
    node->n_items += sign;
    node->bytes += sign * n;
    user->bytes += sign * n;
}

static void delete_item(struct fsm *f, uint64_t uid, Imp__PepUserRow *user, Imp__PepNodeRow *node,
                        const struct key *at, const Imp__PepItemRow *item)
{
    struct key by_id = pep_key_number_str(uid, node->items, item->id);
    count_item(user, node, item, -1);
    store_delete(f->txn, TABLE_PEP_ITEM_ID, &by_id);
    store_delete(f->txn, TABLE_PEP_ITEM, at);
}

static bool retract(struct fsm *f, uint64_t uid, Imp__PepUserRow *user, Imp__PepNodeRow *node, const char *id)
{
    struct key at;
    if (!pep_item_key(f->txn, uid, node, id, f->arena, &at))
        return false;
    const Imp__PepItemRow *item = store_find_row(f->txn, TABLE_PEP_ITEM, &at, f->arena);
    if (item)
        delete_item(f, uid, user, node, &at, item);
    return item != NULL;
}

/* The oldest go until there are no more than MAX. */
void fsm_pep_trim(struct fsm *f, uint64_t uid, Imp__PepUserRow *user, Imp__PepNodeRow *node)
{
    unsigned max = node->config->persist ? max_items(f, node) : 0;
    struct store_iter i;
    pep_items_init(&i, f->txn, uid, node);
    for (unsigned n = 0; node->n_items > max && n < FSM_MAX_ROWS && store_iter_next(&i); n++) {
        const Imp__PepItemRow *item = store_iter_row(&i, f->arena);
        struct key at;
        key_init(&at);
        key_bytes(&at, i.key, i.n_key);
        if (item)
            delete_item(f, uid, user, node, &at, item);
    }
    store_iter_fini(&i);
}

static void put_item(struct fsm *f, const Imp__PepWrite *b, uint32_t n, Imp__PepUserRow *user,
                     Imp__PepNodeRow *node, char *publisher)
{
    const Imp__PepPublication *p = b->publish[n];
    Imp__PepItemRefRow ref = IMP__PEP_ITEM_REF_ROW__INIT;
    Imp__PepItemRow item = IMP__PEP_ITEM_ROW__INIT;
    ref.index = f->in->index;
    ref.place = f->in->place;
    ref.n = n;
    item.id = p->id;
    item.payload = p->payload;
    item.publisher = publisher;
    item.time_ms = f->now_ms;
    retract(f, b->uid, user, node, p->id);
    struct key at = pep_key_item(b->uid, node->items, &ref);
    struct key by_id = pep_key_number_str(b->uid, node->items, p->id);
    store_put_row(f->txn, TABLE_PEP_ITEM, &at, &item);
    store_put_row(f->txn, TABLE_PEP_ITEM_ID, &by_id, &ref);
    count_item(user, node, &item, 1);
    fsm_pep_trim(f, b->uid, user, node);
}

/* ---- PepWrite: checks ---- */

/* Bytes that go when P comes: the item that it replaces, or the oldest of a node that is full. */
static uint64_t bytes_freed(struct fsm *f, uint64_t uid, const Imp__PepNodeRow *node,
                            const Imp__PepPublication *p)
{
    struct store_iter i;
    const Imp__PepItemRow *item = pep_find_item(f->txn, uid, node, p->id, f->arena);
    if (!item && node->n_items && node->n_items >= max_items(f, node)) {
        pep_items_init(&i, f->txn, uid, node);
        if (store_iter_next(&i))
            item = store_iter_row(&i, f->arena);
        store_iter_fini(&i);
    }
    return item ? item_bytes(item->id, &item->payload) : 0;
}

/* What a command may do with what is there; sums of all its publications. */
struct pep_sums {
    unsigned n_nodes;
    uint64_t bytes, freed;
};

static bool check_publication(struct fsm *f, const Imp__PepWrite *b, const Imp__PepPublication *p,
                              const Imp__PepUserRow *user, const char *jid, struct pep_sums *sums)
{
    const Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, p->node, f->arena);
    if (!is_name(p->id) || !fsm_pep_is_config(p->options)) {
        fsm_refuse(f, ERR_INVALID, "the item's id or the node's configuration is not valid");
    } else if (p->payload.len > (uint64_t)setting_int(f->txn, NULL, SETTING_LIMIT_PEP_ITEM_BYTES)) {
        fsm_refuse(f, ERR_LIMIT, "the item is larger than limits.pep_item_bytes allows");
    } else if (!node && *jid) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such node");
    } else if (!node) {
        sums->n_nodes += fsm_pep_is_new_node(f, user, p->node, sums->n_nodes);
    } else if (*jid && !pep_may_publish(f->txn, b->uid, node, jid, f->arena)) {
        fsm_refuse(f, ERR_DENIED, "only publishers may do that");
    } else if (!pep_config_agrees(node->config, p->options, p->fields)) {
        fsm_refuse(f, ERR_CONFLICT, "the node is configured otherwise");
    } else {
        sums->freed += bytes_freed(f, b->uid, node, p);
    }
    sums->bytes += item_bytes(p->id, &p->payload);
    return f->out->code == 0;
}

/* By others than the owner: only what they published themselves, unless they are publishers of the node. */
static bool check_retraction(struct fsm *f, const Imp__PepWrite *b, const Imp__PepRetraction *r,
                             const char *jid)
{
    const Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, r->node, f->arena);
    const Imp__PepItemRow *item = node ? pep_find_item(f->txn, b->uid, node, r->id, f->arena) : NULL;
    if (item && *jid && strcmp(item->publisher, jid) != 0) {
        const Imp__PepPartyRow *party = pep_get_party(f->txn, b->uid, node, jid, f->arena);
        if (party->affiliation != IMP__PEP_AFFILIATION__PEP_OWNER &&
            party->affiliation != IMP__PEP_AFFILIATION__PEP_PUBLISHER)
            fsm_refuse(f, ERR_DENIED, "this item is somebody else's");
    } else if (!item && !r->optional) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such item");
    }
    return f->out->code == 0;
}

static bool check_write(struct fsm *f, const Imp__PepWrite *b, const char *jid)
{
    const Imp__PepUserRow *user = fsm_pep_user(f, b->uid);
    struct pep_sums sums = {0};
    if (b->n_publish + b->n_retract > FSM_MAX_ROWS / 2) {
        fsm_refuse(f, ERR_LIMIT, "more than %d items at once", FSM_MAX_ROWS / 2);
        return false;
    }
    for (size_t i = 0; i < b->n_publish; i++)
        if (!check_publication(f, b, b->publish[i], user, jid, &sums))
            return false;
    for (size_t i = 0; i < b->n_retract; i++)
        if (!check_retraction(f, b, b->retract[i], jid))
            return false;
    if (b->n_publish && user->bytes + sums.bytes >
                            sums.freed + (uint64_t)setting_int(f->txn, NULL, SETTING_LIMIT_PEP_BYTES)) {
        fsm_refuse(f, ERR_LIMIT, "the user's items would be larger than limits.pep_bytes allows");
        return false;
    }
    if (b->set_vcard &&
        (*jid || (long long)b->vcard.len > setting_int(f->txn, NULL, SETTING_LIMIT_VCARD_BYTES))) {
        fsm_refuse(f, ERR_LIMIT, "the vCard is too long");
        return false;
    }
    return true;
}

/* ---- PepWrite ---- */

static void write_vcard(struct fsm *f, const Imp__PepWrite *b)
{
    struct key k = fsm_key_u64(b->uid);
    Imp__VcardRow row = IMP__VCARD_ROW__INIT;
    row.xml = b->vcard;
    row.version = f->in->index;
    if (b->vcard.len)
        store_put_row(f->txn, TABLE_VCARD, &k, &row);
    else
        store_delete(f->txn, TABLE_VCARD, &k);
}

void fsm_do_pep_write(struct fsm *f, const void *body)
{
    const Imp__PepWrite *b = body;
    const char *jid;
    if (!fsm_pep_has_actor(f, b->uid, b->actor, &jid) || !check_write(f, b, jid))
        return;
    Imp__PepUserRow *user = fsm_pep_user(f, b->uid);
    for (size_t i = 0; i < b->n_retract; i++) {
        Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, b->retract[i]->node, f->arena);
        if (node && retract(f, b->uid, user, node, b->retract[i]->id))
            fsm_pep_save(f, b->uid, user, node);
    }
    for (uint32_t i = 0; i < b->n_publish; i++) {
        Imp__PepPublication *p = b->publish[i];
        Imp__PepNodeRow *node = pep_find_node(f->txn, b->uid, p->node, f->arena);
        if (!node) {
            node = fsm_pep_create(f, user, p->node, p->options);
            f->out->value |= FSM_PEP_CREATED;
        }
        if (node->config->persist)
            put_item(f, b, i, user, node, (char *)jid);
        fsm_pep_save(f, b->uid, user, node);
    }
    if (b->set_vcard)
        write_vcard(f, b);
}
