#include "storage/store_internal.h"
#include <assert.h>
#include <string.h>

/* Row types by their names in tables.def; a table with an unknown one does not compile. */
#define ROW_EmptyRow imp__empty_row__descriptor
#define ROW_IdRow imp__id_row__descriptor
#define ROW_CountRow imp__count_row__descriptor
#define ROW_HomeRow imp__home_row__descriptor
#define ROW_PurgeRow imp__purge_row__descriptor
#define ROW_OriginRow imp__origin_row__descriptor
#define ROW_MetaRow imp__meta_row__descriptor
#define ROW_ClusterRow imp__cluster_row__descriptor
#define ROW_DomainRow imp__domain_row__descriptor
#define ROW_NodeRow imp__node_row__descriptor
#define ROW_NodeTombstoneRow imp__node_tombstone_row__descriptor
#define ROW_TokenRow imp__token_row__descriptor
#define ROW_ProposerRow imp__proposer_row__descriptor
#define ROW_SettingRow imp__setting_row__descriptor
#define ROW_CaRow imp__ca_row__descriptor
#define ROW_CertRow imp__cert_row__descriptor
#define ROW_ServiceRow imp__service_row__descriptor
#define ROW_AlarmRow imp__alarm_row__descriptor
#define ROW_AuditRow imp__audit_row__descriptor
#define ROW_SyncRow imp__sync_row__descriptor
#define ROW_UserRow imp__user_row__descriptor
#define ROW_UserGoneRow imp__user_gone_row__descriptor
#define ROW_CredentialRow imp__credential_row__descriptor
#define ROW_RosterRow imp__roster_row__descriptor
#define ROW_RosterMetaRow imp__roster_meta_row__descriptor
#define ROW_VcardRow imp__vcard_row__descriptor
#define ROW_MessageRow imp__message_row__descriptor
#define ROW_MessageIndexRow imp__message_index_row__descriptor
#define ROW_UserStateRow imp__user_state_row__descriptor

const struct table_info store_tables[N_TABLES] = {
#define X(id, name, scope, key, row)                                                                         \
    [TABLE_##id] = {name, SCOPE_##scope, &ROW_##row, key[0] == '(',                                          \
                    TABLE_##id == TABLE_PROPOSER || TABLE_##id == TABLE_CLOCK},
#include "storage/tables.def"
#undef X
};

const struct table_info *table_info(enum table t)
{
    assert((unsigned)t < N_TABLES);
    return &store_tables[t];
}

const char *table_name(enum table t)
{
    return table_info(t)->name;
}

enum table_scope table_scope(enum table t)
{
    return table_info(t)->scope;
}

int table_find(const char *name)
{
    for (int t = 0; t < N_TABLES; t++) {
        if (!strcmp(store_tables[t].name, name))
            return t;
    }
    return ERR_NOTFOUND;
}
