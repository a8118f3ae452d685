/* A small state machine for tests of replication that need no more: sessions, members, and alarms as payload.
 */
#include "base/mem.h"
#include "replication/fsm.h"
#include <stdio.h>
#include <string.h>

static struct key key_of(uint32_t node)
{
    struct key k;
    key_init(&k);
    key_u32(&k, node);
    return k;
}

static Imp__ClusterRow *cluster_row(struct store_txn *txn, struct arena *arena)
{
    struct key k;
    key_init(&k);
    Imp__ClusterRow *row = store_find_row(txn, TABLE_CLUSTER, &k, arena);
    if (!row) {
        row = arena_alloc(arena, sizeof(*row));
        imp__cluster_row__init(row);
    }
    return row;
}

static void put_cluster(struct store_txn *txn, const Imp__ClusterRow *row)
{
    struct key k;
    key_init(&k);
    store_put_row(txn, TABLE_CLUSTER, &k, row);
}

static void put_node(struct store_txn *txn, const Imp__NodeRow *row)
{
    struct key k = key_of(row->id);
    store_put_row(txn, TABLE_NODE, &k, row);
}

static void bootstrap(struct store_txn *txn, const Imp__Bootstrap *b, struct arena *arena)
{
    Imp__ClusterRow *c = cluster_row(txn, arena);
    c->cluster_id = b->cluster_id;
    c->next_node = 2;
    c->next_alarm = 1;
    put_cluster(txn, c);
    put_node(txn, b->node);
}

static void join(struct store_txn *txn, const Imp__NodeJoin *j, struct arena *arena, struct fsm_result *out)
{
    Imp__ClusterRow *c = cluster_row(txn, arena);
    Imp__NodeRow row = IMP__NODE_ROW__INIT;
    row.id = c->next_node++;
    row.name = j->name;
    row.address = j->address;
    row.cluster_port = j->cluster_port;
    put_cluster(txn, c);
    put_node(txn, &row);
    out->value = row.id;
}

static void node_register(struct store_txn *txn, const Imp__NodeRegister *reg, struct arena *arena,
                          struct fsm_result *out)
{
    struct key k = key_of(reg->node);
    Imp__NodeRow *node = store_find_row(txn, TABLE_NODE, &k, arena);
    if (!node) {
        out->code = ERR_NOTFOUND;
        return;
    }
    const Imp__ProposerRow *before = store_find_row(txn, TABLE_PROPOSER, &k, arena);
    if (before && before->epoch == node->epoch && before->nonce.len == reg->nonce.len &&
        memcmp(before->nonce.data, reg->nonce.data, reg->nonce.len) == 0) {
        out->value = node->epoch;
        return;
    }
    if (node->epoch != reg->expected_epoch) {
        out->code = ERR_CONFLICT;
        return;
    }
    Imp__ProposerRow row = IMP__PROPOSER_ROW__INIT;
    node->epoch++;
    node->up = false;
    row.epoch = node->epoch;
    row.nonce = reg->nonce;
    row.next_seq = 1;
    store_put_row(txn, TABLE_PROPOSER, &k, &row);
    put_node(txn, node);
    out->value = node->epoch;
}

static void node_up(struct store_txn *txn, uint32_t id, uint64_t epoch, struct arena *arena,
                    struct fsm_result *out)
{
    struct key k = key_of(id);
    Imp__NodeRow *node = store_find_row(txn, TABLE_NODE, &k, arena);
    if (!node || node->epoch != epoch) {
        out->code = ERR_CONFLICT;
        return;
    }
    node->up = true;
    put_node(txn, node);
}

static void node_down(struct store_txn *txn, const Imp__NodeDown *down, uint64_t term, struct arena *arena,
                      struct fsm_result *out)
{
    struct key k = key_of(down->node);
    Imp__NodeRow *node = store_find_row(txn, TABLE_NODE, &k, arena);
    if (!node || node->epoch != down->epoch || down->term != term) {
        out->code = ERR_CONFLICT;
        return;
    }
    node->epoch++;
    node->up = false;
    put_node(txn, node);
}

static void node_remove(struct store_txn *txn, uint32_t id)
{
    struct key k = key_of(id);
    Imp__NodeTombstoneRow row = IMP__NODE_TOMBSTONE_ROW__INIT;
    row.removed_ms = 1;
    store_delete(txn, TABLE_NODE, &k);
    store_delete(txn, TABLE_PROPOSER, &k);
    store_put_row(txn, TABLE_NODE_TOMBSTONE, &k, &row);
}

/* The payload: one row per alarm, in the order executed. */
static void alarm_raise(struct store_txn *txn, const Imp__AlarmRaise *raise, uint64_t time_ms,
                        struct arena *arena, struct fsm_result *out)
{
    Imp__ClusterRow *c = cluster_row(txn, arena);
    Imp__AlarmRow row = IMP__ALARM_ROW__INIT;
    struct key k;
    row.id = c->next_alarm++;
    row.name = raise->name;
    row.node = raise->node;
    row.text = raise->text;
    row.raised_ms = time_ms;
    key_init(&k);
    key_u64(&k, row.id);
    store_put_row(txn, TABLE_ALARM, &k, &row);
    put_cluster(txn, c);
    out->value = row.id;
    snprintf(out->text, sizeof(out->text), "alarm %llu", (unsigned long long)row.id);
}

static void run(struct store_txn *txn, const Imp__Command *c, const struct fsm_input *in, struct arena *arena,
                struct fsm_result *out)
{
    switch (c->body_case) {
    case IMP__COMMAND__BODY_BOOTSTRAP:
        bootstrap(txn, c->bootstrap, arena);
        break;
    case IMP__COMMAND__BODY_NODE_JOIN:
        join(txn, c->node_join, arena, out);
        break;
    case IMP__COMMAND__BODY_NODE_REGISTER:
        node_register(txn, c->node_register, arena, out);
        break;
    case IMP__COMMAND__BODY_NODE_UP:
        node_up(txn, c->node_up->node, c->node_up->epoch, arena, out);
        break;
    case IMP__COMMAND__BODY_NODE_REMOVE:
        node_remove(txn, c->node_remove->node);
        break;
    case IMP__COMMAND__BODY_NODE_DOWN:
        node_down(txn, c->node_down, in->term, arena, out);
        break;
    case IMP__COMMAND__BODY_ALARM_RAISE:
        alarm_raise(txn, c->alarm_raise, c->time_ms, arena, out);
        break;
    case IMP__COMMAND__BODY_HASH_POINT:
        break;
    default:
        out->code = ERR_UNSUPPORTED;
    }
}

bool fsm_execute(struct store_txn *txn, const Imp__Proposal *p, const struct fsm_input *in,
                 struct arena *arena, struct fsm_result *out)
{
    if (p->node != 0) {
        struct key k = key_of(p->node);
        Imp__ProposerRow *row = store_find_row(txn, TABLE_PROPOSER, &k, arena);
        const Imp__NodeRow *node = store_find_row(txn, TABLE_NODE, &k, arena);
        if (!row || !node || row->epoch != p->epoch || node->epoch != p->epoch || row->next_seq != p->seq)
            return false;
        row->next_seq++;
        store_put_row(txn, TABLE_PROPOSER, &k, row);
    }
    run(txn, p->command, in, arena, out);
    return true;
}

unsigned fsm_level(struct store_txn *txn, struct arena *arena)
{
    const Imp__ClusterRow *row = cluster_row(txn, arena);
    return row->feature_level ? row->feature_level : 1;
}

unsigned fsm_command_level(const Imp__Command *command)
{
    return command->body_case == IMP__COMMAND__BODY_MESSAGE_MIGRATE ? 2 : 1;
}
