#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { CLUSTER_ID_BYTES = 16, DOMAINS_MAX = 100 };

void fsm_put_cluster(struct fsm *f)
{
    struct key k = fsm_key_none();
    store_put_row(f->txn, TABLE_CLUSTER, &k, f->cluster);
}

uint32_t fsm_find_domain(struct fsm *f, const char *domain)
{
    struct key k = fsm_key_str(*domain ? domain : f->cluster->default_domain);
    const Imp__DomainRow *row = store_find_row(f->txn, TABLE_DOMAIN, &k, f->arena);
    return row ? row->id : 0;
}

const char *fsm_domain_name(struct fsm *f, uint32_t domain)
{
    const char *name = NULL;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_DOMAIN, NULL);
    while (!name && store_iter_next(&i)) {
        const Imp__DomainRow *row = store_iter_row(&i, f->arena);
        if (row && row->id == domain)
            name = row->domain;
    }
    store_iter_fini(&i);
    return name;
}

static void put_domain(struct fsm *f, uint32_t id, char *domain)
{
    Imp__DomainRow row = IMP__DOMAIN_ROW__INIT;
    row.id = id;
    row.domain = domain;
    struct key k = fsm_key_str(domain);
    store_put_row(f->txn, TABLE_DOMAIN, &k, &row);
}

static void deactivate_other_cas(struct fsm *f)
{
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_CA, NULL);
    while (store_iter_next(&i)) {
        Imp__CaRow *row = store_iter_row(&i, f->arena);
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        if (row && row->active) {
            row->active = false;
            row->sealed_key = (ProtobufCBinaryData){0}; /* signs nothing any more */
            store_put_row(f->txn, TABLE_CA, &k, row);
        }
    }
}

void fsm_put_ca(struct fsm *f, uint32_t generation, const Imp__CaRow *ca)
{
    struct key k = fsm_key_u32(generation);
    if (ca->active)
        deactivate_other_cas(f);
    store_put_row(f->txn, TABLE_CA, &k, ca);
}

/* A key that has been used is never replaced: clients keep the ids (XEP-0359 §3). */
static void take_message_key(Imp__ClusterRow *cluster, const ProtobufCBinaryData *key)
{
    if (cluster->feature_level >= LEVEL_3 && key->len == MESSAGE_KEY_BYTES && !cluster->message_key.len)
        cluster->message_key = *key;
}

void fsm_do_bootstrap(struct fsm *f, const void *body)
{
    const Imp__Bootstrap *b = body;
    if (f->cluster) {
        fsm_refuse(f, ERR_EXISTS, "the cluster exists already");
        return;
    }
    if (b->cluster_id.len != CLUSTER_ID_BYTES || !fsm_is_text(b->domain, 1, FSM_DOMAIN_MAX) || !b->node ||
        !b->node->id || !fsm_is_text(b->node->name, 1, FSM_NAME_MAX) || !b->ca) {
        fsm_refuse(f, ERR_INVALID, "the first entry is not complete");
        return;
    }
    Imp__ClusterRow *cluster = arena_alloc(f->arena, sizeof *cluster); /* the rest of this entry sees it */
    imp__cluster_row__init(cluster);
    cluster->cluster_id = b->cluster_id;
    cluster->feature_level = b->feature_level ? b->feature_level : LEVEL_FIRST;
    take_message_key(cluster, &b->message_key);
    cluster->publisher = b->node->id;
    cluster->publisher_epoch = 1;
    cluster->next_node = b->node->id + 1;
    cluster->next_uid = 1;
    cluster->next_domain = 2;
    cluster->next_alarm = 1;
    cluster->default_domain = b->domain;
    f->cluster = cluster;
    fsm_put_cluster(f);
    put_domain(f, 1, b->domain);
    fsm_put_ca(f, 1, b->ca);

    Imp__NodeRow node = *b->node;
    node.state = IMP__NODE_STATE__NODE_MEMBER;
    node.joined_ms = f->now_ms;
    node.joined_index = f->in->index;
    node.epoch = 0;
    node.up = node.drained = false;
    fsm_put_node(f, &node);
    struct key k = fsm_key_str(node.name);
    fsm_put_id(f, TABLE_NODE_BY_NAME, &k, node.id);
    f->out->value = node.id;
}

void fsm_do_publisher_set(struct fsm *f, const void *body)
{
    const Imp__PublisherSet *b = body;
    const Imp__NodeRow *node = fsm_find_node(f, b->node);
    if (!node || node->state != IMP__NODE_STATE__NODE_MEMBER) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
    } else if (node->witness) {
        fsm_refuse(f, ERR_DENIED, "%s is a witness and runs no services", node->name);
    } else if (node->leaving || node->lost) {
        fsm_refuse(f, ERR_DENIED, "%s is %s", node->name, node->leaving ? "being removed" : "lost");
    } else if (b->expected_epoch && b->expected_epoch != f->cluster->publisher_epoch) {
        fsm_refuse(f, ERR_CONFLICT, "the publisher epoch is %llu",
                   (unsigned long long)f->cluster->publisher_epoch);
    } else if (f->cluster->publisher != b->node) {
        f->cluster->publisher = b->node;
        f->cluster->publisher_epoch++;
        fsm_put_cluster(f);
    }
    f->out->value = f->cluster->publisher_epoch;
}

/* A node that has not registered yet may be of any release. */
static unsigned known_by(const Imp__NodeRow *node)
{
    return node->level ? node->level : LEVEL_FIRST;
}

/* Of all members, also of those that are down: the rows say what the last registered life of each one knew.
 */
static const Imp__NodeRow *lowest_member(struct fsm *f)
{
    const Imp__NodeRow *lowest = NULL;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    while (store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, f->arena);
        if (row && (!lowest || known_by(row) < known_by(lowest)))
            lowest = row;
    }
    store_iter_fini(&i);
    return lowest;
}

/* Does not ask what this program knows: its result must be the same everywhere. A node whose release does not
 * know the level ends before it commits this (apply.c). */
void fsm_do_feature_level(struct fsm *f, const void *body)
{
    const Imp__FeatureLevel *b = body;
    const Imp__NodeRow *lowest = lowest_member(f);
    if (b->level < f->level)
        fsm_refuse(f, ERR_CONFLICT, "the feature level is %u and never falls", f->level);
    else if (lowest && known_by(lowest) < b->level)
        fsm_refuse(f, ERR_CONFLICT, "%s has release %.60s, which knows feature level %u only", lowest->name,
                   lowest->release, known_by(lowest));
    else if (b->level > f->level && setting_bool(f->txn, NULL, SETTING_HOLD_FEATURE_LEVEL))
        fsm_refuse(f, ERR_DENIED, "cluster.hold_feature_level is set");
    else {
        bool rises = f->cluster->feature_level < b->level;
        f->cluster->feature_level = b->level;
        if (rises)
            take_message_key(f->cluster, &b->message_key);
        fsm_put_cluster(f);
    }
}

void fsm_do_ca_add(struct fsm *f, const void *body)
{
    const Imp__CaAdd *b = body;
    struct key k = fsm_key_u32(b->generation);
    if (!b->generation || !b->ca || !*b->ca->cert_pem || !b->ca->sealed_key.len) {
        fsm_refuse(f, ERR_INVALID, "the certificate authority is not complete");
    } else if (store_has(f->txn, TABLE_CA, &k)) {
        fsm_refuse(f, ERR_EXISTS, "generation %u of the certificate authority exists", b->generation);
    } else if (fsm_is_sealed_now(f, &b->ca->sealed_key)) {
        fsm_put_ca(f, b->generation, b->ca);
    }
}

void fsm_do_domain_add(struct fsm *f, const void *body)
{
    const Imp__DomainAdd *b = body;
    struct store_hash hash;
    uint64_t n_domains;
    store_table_hash(f->txn, TABLE_DOMAIN, &hash, &n_domains);
    if (!fsm_is_text(b->domain, 1, FSM_DOMAIN_MAX) || strpbrk(b->domain, "@/ ")) {
        fsm_refuse(f, ERR_INVALID, "this is not a domain");
    } else if (fsm_find_domain(f, b->domain)) {
        fsm_refuse(f, ERR_EXISTS, "the domain %.200s exists", b->domain);
    } else if (n_domains >= DOMAINS_MAX) {
        fsm_refuse(f, ERR_LIMIT, "there are %d domains already", DOMAINS_MAX);
    } else {
        f->out->value = f->cluster->next_domain++;
        put_domain(f, f->out->value, b->domain);
        fsm_put_cluster(f);
    }
}
