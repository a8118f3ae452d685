#include "cluster/members.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

static void copy(char *out, size_t n, const char *s)
{
    snprintf(out, n, "%s", s ? s : "");
}

static void fill(struct member *m, const Imp__NodeRow *row)
{
    memset(m, 0, sizeof(*m));
    m->id = row->id;
    copy(m->name, sizeof(m->name), row->name);
    copy(m->address, sizeof(m->address), row->address);
    copy(m->public_name, sizeof(m->public_name),
         row->public_name && *row->public_name ? row->public_name : row->address);
    copy(m->release, sizeof(m->release), row->release);
    m->cluster_port = row->cluster_port;
    m->xmpp_port = row->xmpp_port;
    m->epoch = row->epoch;
    m->level = row->level;
    m->witness = row->witness;
    m->drained = row->drained;
    m->up = row->up;
    m->handing_over = row->handing_over;
    m->up_index = row->up_index;
    m->seen = row->state == IMP__NODE_STATE__NODE_MEMBER;
    m->token_expires_ms = row->token_expires_ms;
    m->joined_ms = row->joined_ms;
    m->leaving = row->leaving;
    m->lost = row->lost;
    m->has_key = row->key_id.len == sizeof(m->key_id);
    if (m->has_key)
        memcpy(m->key_id, row->key_id.data, sizeof(m->key_id));
    m->ca_generation = row->ca_generation;
    if (row->public_key_hash.len == sizeof(m->key_hash))
        memcpy(m->key_hash, row->public_key_hash.data, sizeof(m->key_hash));
}

struct members *members_read(struct store_txn *txn, uint64_t index)
{
    struct key all;
    key_init(&all);
    unsigned cap = 8;
    struct members *m = mem_zalloc(sizeof(*m) + cap * sizeof(m->list[0]));
    m->index = index;
    struct arena a;
    arena_init(&a);
    Imp__ClusterRow *cluster = store_find_row(txn, TABLE_CLUSTER, &all, &a);
    if (cluster) {
        m->publisher = cluster->publisher;
        m->level = cluster->feature_level;
        m->publisher_epoch = cluster->publisher_epoch;
        if (cluster->cluster_id.len == sizeof(m->cluster_id))
            memcpy(m->cluster_id, cluster->cluster_id.data, sizeof(m->cluster_id));
    }
    struct store_iter it;
    store_iter_init(&it, txn, TABLE_NODE, &all);
    while (store_iter_next(&it)) {
        Imp__NodeRow *row = store_iter_row(&it, &a);
        if (!row)
            continue;
        if (m->n == cap)
            m = mem_realloc(m, sizeof(*m) + (cap *= 2) * sizeof(m->list[0]));
        fill(&m->list[m->n++], row);
        arena_reset(&a);
    }
    store_iter_fini(&it);
    arena_fini(&a);
    return m;
}

void members_free(struct members *m)
{
    mem_free(m);
}

const struct member *members_find(const struct members *m, uint32_t id)
{
    for (unsigned i = 0; m && i < m->n; i++)
        if (m->list[i].id == id)
            return &m->list[i];
    return NULL;
}

const struct member *members_find_name(const struct members *m, const char *name)
{
    for (unsigned i = 0; m && i < m->n; i++)
        if (!strcmp(m->list[i].name, name))
            return &m->list[i];
    return NULL;
}
