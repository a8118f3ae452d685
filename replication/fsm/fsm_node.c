/* Tokens, joining and removal of nodes (architecture: Inter-node plane and keys; roles). */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { NODES_MAX = 64, TOKENS_MAX = 1000, TOKENS_LOOKED_AT = 50 };

Imp__NodeRow *fsm_find_node(struct fsm *f, uint32_t node)
{
    struct key k = fsm_key_u32(node);
    return store_find_row(f->txn, TABLE_NODE, &k, f->arena);
}

void fsm_put_node(struct fsm *f, const Imp__NodeRow *row)
{
    struct key k = fsm_key_u32(row->id);
    store_put_row(f->txn, TABLE_NODE, &k, row);
}

static struct key token_key(ProtobufCBinaryData hash)
{
    struct key k;
    key_init(&k);
    key_bytes(&k, hash.data, hash.len);
    return k;
}

static bool same_bytes(ProtobufCBinaryData a, ProtobufCBinaryData b)
{
    return a.len == b.len && (!a.len || !memcmp(a.data, b.data, a.len));
}

/* ---- tokens ---- */

/* Tokens that nobody can use any more go: expired, and not bound to a member. */
static void drop_old_tokens(struct fsm *f)
{
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_TOKEN, NULL);
    for (int n = 0; n < TOKENS_LOOKED_AT && store_iter_next(&i); n++) {
        const Imp__TokenRow *row = store_iter_row(&i, f->arena);
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        if (row && row->expires_ms <= f->now_ms && (!row->used_by || !fsm_find_node(f, row->used_by)))
            store_delete(f->txn, TABLE_TOKEN, &k);
    }
    store_iter_fini(&i);
}

void fsm_do_token_add(struct fsm *f, const void *body)
{
    const Imp__TokenAdd *b = body;
    struct store_hash hash;
    uint64_t n_tokens;
    if (b->hash.len != FSM_HASH_BYTES || b->expires_ms <= f->now_ms) {
        fsm_refuse(f, ERR_INVALID, "the token is not valid, or its time is over already");
        return;
    }
    struct key k = token_key(b->hash);
    if (store_has(f->txn, TABLE_TOKEN, &k)) {
        fsm_refuse(f, ERR_EXISTS, "this token exists");
        return;
    }
    drop_old_tokens(f);
    store_table_hash(f->txn, TABLE_TOKEN, &hash, &n_tokens);
    if (n_tokens >= TOKENS_MAX) {
        fsm_refuse(f, ERR_LIMIT, "there are %d tokens already; wait until some expire", TOKENS_MAX);
        return;
    }
    Imp__TokenRow row = IMP__TOKEN_ROW__INIT;
    row.expires_ms = b->expires_ms;
    row.created_ms = f->now_ms;
    store_put_row(f->txn, TABLE_TOKEN, &k, &row);
}

/* ---- join ---- */

/* Part of setting keys ("node.NAME.KEY") and of log lines. */
static bool is_node_name(const char *name)
{
    if (!fsm_is_text(name, 1, FSM_NAME_MAX))
        return false;
    for (const char *p = name; *p; p++) {
        bool letter = (*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z');
        if (!letter && !(*p >= '0' && *p <= '9') && *p != '-' && *p != '_')
            return false;
    }
    return true;
}

/* The member that has this address and port already; NULL: none. */
static const Imp__NodeRow *find_address(struct fsm *f, const char *address, uint32_t port, uint32_t except)
{
    const Imp__NodeRow *found = NULL;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    while (!found && store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, f->arena);
        if (row && row->id != except && row->cluster_port == port && !strcmp(row->address, address))
            found = row;
    }
    store_iter_fini(&i);
    return found;
}

/* True: answered, as the same key asks again or the token is no good. */
static bool answer_by_token(struct fsm *f, const Imp__NodeJoin *b, Imp__TokenRow *token)
{
    if (!token) {
        fsm_refuse(f, ERR_AUTH, "this token is not known here; make a new one with 'impcli node token'");
        return true;
    }
    if (token->used_by) {
        const Imp__NodeRow *node = fsm_find_node(f, token->used_by);
        if (node && same_bytes(node->public_key_hash, b->public_key_hash))
            f->out->value = node->id;
        else if (node)
            fsm_refuse(f, ERR_DENIED, "this token was used by the node %s", node->name);
        else
            fsm_refuse(f, ERR_DENIED, "this token was used by a node that is not a member any more");
        return true;
    }
    if (token->expires_ms <= f->now_ms) {
        fsm_refuse(f, ERR_TIMEOUT, "this token has expired; make a new one with 'impcli node token'");
        return true;
    }
    return false;
}

static bool refuse_join(struct fsm *f, const Imp__NodeJoin *b)
{
    const Imp__NodeRow *publisher = fsm_find_node(f, f->cluster->publisher);
    struct key name = fsm_key_str(b->name);
    struct store_hash hash;
    uint64_t n_nodes;
    store_table_hash(f->txn, TABLE_NODE, &hash, &n_nodes);
    const Imp__NodeRow *other = find_address(f, b->address, b->cluster_port, 0);
    if (publisher && strcmp(publisher->release, b->release) != 0)
        fsm_refuse(f, ERR_VERSION, "this node has release %.60s, the publisher has %.60s: install the same",
                   b->release, publisher->release);
    else if (fsm_find_id(f, TABLE_NODE_BY_NAME, &name))
        fsm_refuse(
            f, ERR_EXISTS,
            "the name %s is taken by another member; if this one is to replace it, take the old one out "
            "first: impcli node remove %s",
            b->name, b->name);
    else if (other)
        fsm_refuse(
            f, ERR_EXISTS,
            "the address %.120s port %u is that of the member %s; if this one is to replace it, take the "
            "old one out first: impcli node remove %s",
            b->address, b->cluster_port, other->name, other->name);
    else if (n_nodes >= NODES_MAX)
        fsm_refuse(f, ERR_LIMIT, "the cluster has %d members already", NODES_MAX);
    return f->out->code != 0;
}

static void add_member(struct fsm *f, const Imp__NodeJoin *b, const Imp__TokenRow *token)
{
    Imp__NodeRow row = IMP__NODE_ROW__INIT;
    row.id = f->cluster->next_node++; /* never given twice */
    row.name = b->name;
    row.address = b->address;
    row.cluster_port = b->cluster_port;
    row.public_name = b->public_name;
    row.xmpp_port = b->xmpp_port;
    row.release = b->release;
    row.witness = b->witness;
    row.state = IMP__NODE_STATE__NODE_JOINING;
    row.public_key_hash = b->public_key_hash;
    row.token_hash = b->token_hash;
    row.token_expires_ms = token->expires_ms;
    row.joined_ms = f->now_ms;
    row.joined_index = f->in->index;
    fsm_put_node(f, &row);
    struct key name = fsm_key_str(b->name);
    fsm_put_id(f, TABLE_NODE_BY_NAME, &name, row.id);
    fsm_put_cluster(f);
    f->out->value = row.id;
}

void fsm_do_node_join(struct fsm *f, const void *body)
{
    const Imp__NodeJoin *b = body;
    if (b->token_hash.len != FSM_HASH_BYTES || b->public_key_hash.len != FSM_HASH_BYTES ||
        !is_node_name(b->name) || !fsm_is_text(b->address, 1, 255) || !fsm_is_text(b->public_name, 0, 255) ||
        !fsm_is_text(b->release, 1, 63) || !b->cluster_port || b->cluster_port > 65535 ||
        b->xmpp_port > 65535) {
        fsm_refuse(f, ERR_INVALID, "name (letters, digits, - and _), address or port is not valid");
        return;
    }
    struct key k = token_key(b->token_hash);
    Imp__TokenRow *token = store_find_row(f->txn, TABLE_TOKEN, &k, f->arena);
    if (answer_by_token(f, b, token) || refuse_join(f, b))
        return;
    add_member(f, b, token);
    token->used_by = f->out->value;
    store_put_row(f->txn, TABLE_TOKEN, &k, token);
}

void fsm_do_node_seen(struct fsm *f, const void *body)
{
    const Imp__NodeSeen *b = body;
    Imp__NodeRow *node = fsm_find_node(f, b->node);
    if (!node) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
    } else if (node->state == IMP__NODE_STATE__NODE_JOINING) {
        node->state = IMP__NODE_STATE__NODE_MEMBER;
        fsm_put_node(f, node);
    }
}

void fsm_do_node_update(struct fsm *f, const void *body)
{
    const Imp__NodeUpdate *b = body;
    Imp__NodeRow *node = fsm_find_node(f, b->node);
    if (!node) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
        return;
    }
    if (!fsm_is_text(b->address, 0, 255) || !fsm_is_text(b->public_name, 0, 255) || b->cluster_port > 65535 ||
        b->xmpp_port > 65535 || (b->key_id.len && b->key_id.len != FSM_KEY_ID_BYTES)) {
        fsm_refuse(f, ERR_INVALID, "an address, port or key id is not valid");
        return;
    }
    if (*b->address)
        node->address = b->address;
    if (b->cluster_port)
        node->cluster_port = b->cluster_port;
    const Imp__NodeRow *other = find_address(f, node->address, node->cluster_port, node->id);
    if (other) {
        fsm_refuse(f, ERR_EXISTS, "the address %.120s port %u is that of the member %s", node->address,
                   node->cluster_port, other->name);
        return;
    }
    if (*b->public_name)
        node->public_name = b->public_name;
    if (b->xmpp_port)
        node->xmpp_port = b->xmpp_port;
    if (b->key_id.len)
        node->key_id = b->key_id;
    if (b->ca_generation)
        node->ca_generation = b->ca_generation;
    fsm_put_node(f, node);
}

/* ---- removal ---- */

static void delete_node_settings(struct fsm *f, const Imp__NodeRow *node)
{
    struct key prefix;
    key_init(&prefix);
    key_str_prefix(&prefix, arena_printf(f->arena, "node.%s.", node->name));
    fsm_delete_prefix(f, TABLE_SETTING, &prefix);
}

/* Its id is never given again, and the tombstone keeps its certificate from speaking. */
static void put_tombstone(struct fsm *f, const Imp__NodeRow *node)
{
    struct key id = fsm_key_u32(node->id);
    Imp__NodeTombstoneRow tombstone = IMP__NODE_TOMBSTONE_ROW__INIT;
    tombstone.name = node->name;
    tombstone.removed_ms = f->now_ms;
    store_put_row(f->txn, TABLE_NODE_TOMBSTONE, &id, &tombstone);
}

static void drop_member(struct fsm *f, const Imp__NodeRow *node)
{
    struct key id = fsm_key_u32(node->id), name = fsm_key_str(node->name);
    put_tombstone(f, node);
    fsm_alarm_clear_node(f, node->id);
    delete_node_settings(f, node);
    fsm_delete_prefix(f, TABLE_SERVICE, &id);
    store_delete(f->txn, TABLE_PROPOSER, &id);
    store_delete(f->txn, TABLE_NODE_BY_NAME, &name);
    store_delete(f->txn, TABLE_NODE, &id);
}

void fsm_do_node_expire(struct fsm *f, const void *body)
{
    const Imp__NodeExpire *b = body;
    const Imp__NodeRow *node = fsm_find_node(f, b->node);
    if (!node)
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
    else if (node->state != IMP__NODE_STATE__NODE_JOINING)
        fsm_refuse(f, ERR_CONFLICT, "%s has been seen: it is a member until it is removed", node->name);
    else if (node->token_expires_ms > f->now_ms)
        fsm_refuse(f, ERR_CONFLICT, "the token of %s has not expired", node->name);
    else
        drop_member(f, node);
}

void fsm_do_node_leave(struct fsm *f, const void *body)
{
    const Imp__NodeLeave *b = body;
    Imp__NodeRow *node = fsm_find_node(f, b->node);
    struct key k = fsm_key_u32(b->node);
    if (!node) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
    } else if (f->cluster->publisher == b->node) {
        fsm_refuse(f, ERR_DENIED,
                   "%s is the publisher: give that role to another node first (impcli node promote NODE)",
                   node->name);
    } else if (fsm_count(f, TABLE_HOME_COUNT, &k) && !fsm_can_take_users(f, b->node)) {
        fsm_refuse(f, ERR_CONFLICT, "no other node can take the users of %s", node->name);
    } else if (!node->leaving) {
        node->leaving = node->drained = true;
        fsm_hand_over(f, node);
        fsm_put_node(f, node);
    }
}

void fsm_do_node_remove(struct fsm *f, const void *body)
{
    const Imp__NodeRemove *b = body;
    const Imp__NodeRow *node = fsm_find_node(f, b->node);
    struct key k = fsm_key_u32(b->node);
    uint64_t n_users = fsm_count(f, TABLE_HOME_COUNT, &k);
    if (!node)
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
    else if (f->cluster->publisher == b->node)
        fsm_refuse(f, ERR_DENIED, "%s is the publisher: give that role to another node first", node->name);
    else if (n_users)
        fsm_refuse(f, ERR_CONFLICT, "%s is the home of %llu users: drain it first", node->name,
                   (unsigned long long)n_users);
    else if (node->up || node->handing_over)
        /* It may hold a lease, and nobody would take it down once it is no member. */
        fsm_refuse(f, ERR_AGAIN, "%s still serves users: drain it first", node->name);
    else
        drop_member(f, node);
}

/* ---- after the quorum was lost for good ---- */

/* May not speak from now on; its row stays for its users, until node_remove has moved them. */
static void leave_behind(struct fsm *f, Imp__NodeRow *node)
{
    put_tombstone(f, node);
    node->lost = node->drained = true;
    fsm_set_up(f, node, false);
    node->handing_over = false;
    node->epoch++;
    fsm_put_node(f, node);
}

void fsm_do_recover(struct fsm *f, const void *body)
{
    const Imp__Recover *b = body;
    const Imp__NodeRow *self = fsm_find_node(f, b->node);
    if (!self) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
        return;
    }
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    Imp__NodeRow *others[NODES_MAX];
    unsigned n = 0;
    while (n < NODES_MAX && store_iter_next(&i)) {
        Imp__NodeRow *row = store_iter_row(&i, f->arena);
        if (row && row->id != b->node)
            others[n++] = row;
    }
    store_iter_fini(&i);
    for (unsigned k = 0; k < n; k++)
        leave_behind(f, others[k]);
    f->out->value = n;
    if (self->witness || f->cluster->publisher == b->node)
        return;
    f->cluster->publisher = b->node;
    f->cluster->publisher_epoch++;
    fsm_put_cluster(f);
}
