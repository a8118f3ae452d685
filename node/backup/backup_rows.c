/* A restored cluster has the users, what is stored for them, and the settings of the old one; it has none of
 * its nodes, and nothing that speaks of them. The log goes on behind the old index, as messages and roster
 * versions are named by log indexes. */
#include "node/backup/backup_rows.h"
#include "base/mem.h"
#include "cluster/certs.h"
#include "cluster/identity.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

enum backup_policy backup_policy(enum table t)
{
    static const enum backup_policy policies[N_TABLES] = {
        [TABLE_META] = BACKUP_LOCAL,
        [TABLE_CLUSTER] = BACKUP_CHANGE,
        [TABLE_DOMAIN] = BACKUP_KEEP,
        [TABLE_NODE] = BACKUP_DROP,
        [TABLE_NODE_BY_NAME] = BACKUP_DROP,
        [TABLE_NODE_TOMBSTONE] = BACKUP_DROP,
        [TABLE_TOKEN] = BACKUP_DROP,
        [TABLE_PROPOSER] = BACKUP_DROP,
        [TABLE_SETTING] = BACKUP_CHANGE,
        [TABLE_CA] = BACKUP_CHANGE, /* only looked at */
        [TABLE_CERT] = BACKUP_CHANGE,
        [TABLE_SERVICE] = BACKUP_DROP,
        [TABLE_ALARM] = BACKUP_DROP,
        [TABLE_ALARM_OPEN] = BACKUP_DROP,
        [TABLE_AUDIT] = BACKUP_KEEP,
        [TABLE_SYNC] = BACKUP_CHANGE,
        [TABLE_HOME_COUNT] = BACKUP_DROP,
        [TABLE_USER] = BACKUP_CHANGE,
        [TABLE_USER_BY_JID] = BACKUP_KEEP,
        [TABLE_USER_BY_UUID] = BACKUP_KEEP,
        [TABLE_USER_BY_HOME] = BACKUP_DROP,
        [TABLE_USER_BY_WORD] = BACKUP_KEEP,
        [TABLE_USER_GONE] = BACKUP_KEEP,
        [TABLE_CREDENTIAL] = BACKUP_KEEP,
        [TABLE_ROSTER] = BACKUP_KEEP,
        [TABLE_ROSTER_META] = BACKUP_KEEP,
        [TABLE_ROSTER_BY_CONTACT] = BACKUP_KEEP,
        [TABLE_VCARD] = BACKUP_KEEP,
        [TABLE_MESSAGE] = BACKUP_KEEP,
        [TABLE_MESSAGE_INDEX] = BACKUP_KEEP,
        [TABLE_USER_STATE] = BACKUP_KEEP,
        [TABLE_CLOCK] = BACKUP_KEEP,
        [TABLE_HOME_PINNED] = BACKUP_DROP,
        [TABLE_PURGE] = BACKUP_KEEP,
        [TABLE_PEP_USER] = BACKUP_KEEP,
        [TABLE_PEP_NODE] = BACKUP_KEEP,
        [TABLE_PEP_ITEM] = BACKUP_KEEP,
        [TABLE_PEP_ITEM_ID] = BACKUP_KEEP,
        [TABLE_PEP_PARTY] = BACKUP_KEEP,
        [TABLE_PEP_PARTY_BY_JID] = BACKUP_KEEP,
        [TABLE_PEP_GARBAGE] = BACKUP_KEEP,
        /* Origins begin with a node id, which is given anew: a new message could be taken for an old one. */
        [TABLE_MESSAGE_ORIGIN_AGE] = BACKUP_DROP,
        [TABLE_MESSAGE_ORIGIN] = BACKUP_DROP,
        [TABLE_MESSAGE_REPEAT] = BACKUP_DROP,
        [TABLE_ARCHIVE_PREFS] = BACKUP_KEEP,
        [TABLE_BLOCK] = BACKUP_KEEP,
        [TABLE_ABUSE_REPORT] = BACKUP_KEEP,
        [TABLE_FAST_TOKEN] = BACKUP_DROP, /* made from the cluster key, which a new cluster does not have */
        [TABLE_PUSH] = BACKUP_KEEP,
        [TABLE_LAST_ACTIVITY] = BACKUP_KEEP,
        [TABLE_SESSION] = BACKUP_DROP,
    };
    return policies[t];
}

/* ---- secrets ---- */

static void lose(struct backup_rows *x, const char *what)
{
    buf_addf(&x->out->lost_secrets, "%s%s", x->out->lost_secrets.n ? ", " : "", what);
}

/* Sealed with the old key -> with the new one, in the arena. False: it does not open. */
static bool reseal(struct backup_rows *x, const char *purpose, ProtobufCBinaryData *sealed)
{
    struct buf fresh = {0};
    bool done = x->r->old_ring &&
                !seal_again(x->r->old_ring, x->r->ring, purpose, sealed->data, sealed->len, &fresh, NULL);
    if (done) {
        sealed->data = arena_memdup(x->arena, fresh.data, fresh.n);
        sealed->len = fresh.n;
        x->out->n_secrets++;
    }
    buf_fini(&fresh);
    return done;
}

static void change_setting(struct backup_rows *x, const struct key *key, Imp__SettingRow *row)
{
    struct key_reader k;
    char node[SETTING_NODE_NAME_MAX], purpose[128];
    key_read(&k, key->bytes, key->n);
    const char *name = key_read_str(&k, x->arena);
    int id = k.failed ? ERR_NOTFOUND : setting_find(name, node);
    if (id < 0 || (*node && strcmp(node, x->r->node->name)))
        return; /* of a node that is not there any more */
    if (row->sealed.len) {
        snprintf(purpose, sizeof purpose, "setting:%s", setting_defs[id].key);
        if (!reseal(x, purpose, &row->sealed)) {
            lose(x, name);
            return;
        }
    }
    store_put_row(x->txn, TABLE_SETTING, key, row);
}

static void note_ca(struct backup_rows *x, const Imp__CaRow *row)
{
    if (x->n_cas < BACKUP_CAS_MAX)
        x->cas[x->n_cas++] = mem_strdup(row->cert_pem);
}

static bool is_of_old_ca(const struct backup_rows *x, const char *chain_pem)
{
    for (unsigned i = 0; i < x->n_cas; i++)
        if (!identity_check_signed(chain_pem, x->cas[i], x->r->now_ms, NULL))
            return true;
    return false;
}

/* Those that the old cluster's CA has signed are made anew by themselves. */
static void change_cert(struct backup_rows *x, const struct key *key, Imp__CertRow *row)
{
    struct key_reader k;
    char purpose[300];
    key_read(&k, key->bytes, key->n);
    const char *domain = key_read_str(&k, x->arena);
    if (k.failed || is_of_old_ca(x, row->chain_pem))
        return;
    certs_purpose(purpose, domain);
    if (reseal(x, purpose, &row->sealed_key))
        store_put_row(x->txn, TABLE_CERT, key, row);
    else
        lose(x, arena_printf(x->arena, "the certificate of %s", domain));
}

/* ---- the rest ---- */

static void change_cluster(struct backup_rows *x, Imp__ClusterRow *row)
{
    struct key none;
    key_init(&none);
    row->cluster_id = (ProtobufCBinaryData){16, (uint8_t *)x->r->cluster_id};
    row->publisher = x->r->node->id;
    row->publisher_epoch++;
    row->next_node = x->r->node->id + 1;
    store_put_row(x->txn, TABLE_CLUSTER, &none, row);
}

/* The run stays, as users are marked with it; without a position a full sync follows. */
static void change_sync(struct backup_rows *x, Imp__SyncRow *row)
{
    struct key none;
    key_init(&none);
    row->queue_id = (char *)"";
    row->next_change = 0;
    row->first_done = row->completed_ok = false;
    row->completed_ms = 0;
    row->result = (char *)"restored from a backup";
    store_put_row(x->txn, TABLE_SYNC, &none, row);
}

/* By the mode, as new users are: the nodes of the pinned ones are gone as well. */
static void change_user(struct backup_rows *x, const struct key *key, Imp__UserRow *row)
{
    const char *mode = setting_string(x->txn, NULL, SETTING_ASSIGNMENT_MODE, x->arena);
    bool assigned = strcmp(mode, "none") != 0;
    row->home = assigned ? x->r->node->id : 0;
    row->assigned_by = !assigned                         ? IMP__ASSIGNED_BY__ASSIGNED_NONE
                       : !strcmp(mode, "active-standby") ? IMP__ASSIGNED_BY__ASSIGNED_ACTIVE_STANDBY
                                                         : IMP__ASSIGNED_BY__ASSIGNED_BALANCED;
    store_put_row(x->txn, TABLE_USER, key, row);
    Imp__HomeRow home = IMP__HOME_ROW__INIT;
    struct key by_home;
    key_init(&by_home);
    key_u32(&by_home, row->home);
    key_u64(&by_home, row->uid);
    store_put_row(x->txn, TABLE_USER_BY_HOME, &by_home, &home);
    *(assigned ? &x->n_at_node : &x->n_unassigned) += 1;
    x->out->n_users++;
}

int backup_change_row(struct backup_rows *x, enum table t, const struct key *key,
                      const struct backup_row *row, struct err_ctx *err)
{
    void *message = store_unpack(t, row->row, row->n_row, x->arena);
    if (!message)
        return err_set(err, ERR_CORRUPT, "a row of table %s cannot be read", table_name(t));
    switch (t) {
    case TABLE_CLUSTER:
        change_cluster(x, message);
        break;
    case TABLE_SETTING:
        change_setting(x, key, message);
        break;
    case TABLE_CA:
        note_ca(x, message);
        break;
    case TABLE_CERT:
        change_cert(x, key, message);
        break;
    case TABLE_SYNC:
        change_sync(x, message);
        break;
    default:
        change_user(x, key, message);
        break;
    }
    return 0;
}

void backup_rows_fini(struct backup_rows *x)
{
    for (unsigned i = 0; i < x->n_cas; i++)
        mem_free(x->cas[i]);
}

static void put_count(struct backup_rows *x, uint32_t node, uint64_t n)
{
    Imp__CountRow row = IMP__COUNT_ROW__INIT;
    struct key k;
    key_init(&k);
    key_u32(&k, node);
    row.n = n;
    if (n)
        store_put_row(x->txn, TABLE_HOME_COUNT, &k, &row);
}

static void add_audit(struct backup_rows *x)
{
    Imp__AuditRow row = IMP__AUDIT_ROW__INIT;
    struct key k;
    row.time_ms = x->r->now_ms;
    row.node = x->r->node->id;
    row.os_uid = x->r->os_uid;
    row.who = arena_printf(x->arena, "uid %u", x->r->os_uid);
    row.command = arena_printf(x->arena, "impnode restore %.800s", x->r->path);
    row.result = (char *)"done";
    key_init(&k);
    key_u64(&k, x->index);
    key_u32(&k, 0);
    store_put_row(x->txn, TABLE_AUDIT, &k, &row);
}

void backup_add_rows(struct backup_rows *x)
{
    const Imp__NodeRow *node = x->r->node;
    struct key k;
    key_init(&k);
    key_u32(&k, node->id);
    store_put_row(x->txn, TABLE_NODE, &k, node);
    Imp__IdRow id = IMP__ID_ROW__INIT;
    id.id = node->id;
    key_init(&k);
    key_str(&k, node->name);
    store_put_row(x->txn, TABLE_NODE_BY_NAME, &k, &id);
    key_init(&k);
    key_u32(&k, 1);
    store_put_row(x->txn, TABLE_CA, &k, x->r->ca);
    put_count(x, node->id, x->n_at_node);
    put_count(x, 0, x->n_unassigned);
    add_audit(x);
}
