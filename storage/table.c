#include "storage/store_internal.h"
#include <assert.h>
#include <stdio.h>
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
#define ROW_PushRow imp__push_row__descriptor
#define ROW_LastActivityRow imp__last_activity_row__descriptor
#define ROW_PepUserRow imp__pep_user_row__descriptor
#define ROW_PepNodeRow imp__pep_node_row__descriptor
#define ROW_PepItemRow imp__pep_item_row__descriptor
#define ROW_PepItemRefRow imp__pep_item_ref_row__descriptor
#define ROW_PepPlaceRow imp__pep_place_row__descriptor
#define ROW_PepPartyRow imp__pep_party_row__descriptor
#define ROW_ArchivePrefsRow imp__archive_prefs_row__descriptor
#define ROW_BlockRow imp__block_row__descriptor
#define ROW_AbuseReportRow imp__abuse_report_row__descriptor
#define ROW_FastTokenRow imp__fast_token_row__descriptor
#define ROW_SessionRow imp__session_row__descriptor

const struct table_info store_tables[N_TABLES] = {
#define X(id, name, scope, key, row)                                                                         \
    [TABLE_##id] = {name,       key,           SCOPE_##scope,                                                \
                    &ROW_##row, key[0] == '(', TABLE_##id == TABLE_PROPOSER || TABLE_##id == TABLE_CLOCK},
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

/* Digits, letters and most signs as they are. */
static size_t put_bytes(char *out, size_t size, size_t at, const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n && at + 5 < size; i++)
        at += (size_t)snprintf(out + at, size - at,
                               p[i] > ' ' && p[i] < 0x7f && p[i] != '\\' ? "%c" : "\\x%02x", p[i]);
    return at;
}

/* FIELD: "u64 uid of the recipient". False: it does not fit the key. */
static bool put_field(char *out, size_t size, size_t *at, const char *field, size_t n_field,
                      struct key_reader *r, struct arena *a)
{
    const char *space = memchr(field, ' ', n_field);
    size_t n_type = space ? (size_t)(space - field) : n_field;
    if (space)
        *at += (size_t)snprintf(out + *at, size - *at, "%.*s ", (int)(n_field - n_type - 1), space + 1);
    if (*at + 32 > size)
        return false;
    if (!strncmp(field, "u32", 3)) {
        *at += (size_t)snprintf(out + *at, size - *at, "%u", key_read_u32(r));
    } else if (!strncmp(field, "u64", 3)) {
        *at += (size_t)snprintf(out + *at, size - *at, "%llu", (unsigned long long)key_read_u64(r));
    } else if (!strncmp(field, "str", 3)) {
        const char *s = key_read_str(r, a);
        if (!r->failed)
            *at = put_bytes(out, size, *at, (const uint8_t *)s, strlen(s));
    } else {
        *at = put_bytes(out, size, *at, r->p, (size_t)(r->end - r->p));
        r->p = r->end;
    }
    return !r->failed;
}

void table_key_text(enum table t, const void *key, size_t n_key, char *out, size_t size)
{
    struct key_reader r;
    struct arena a;
    size_t at = 0;
    bool ok = true;
    if (table_info(t)->is_single) {
        snprintf(out, size, "the only row");
        return;
    }
    key_read(&r, key, n_key);
    arena_init(&a);
    out[0] = 0;
    for (const char *field = table_info(t)->key; ok && *field;) {
        size_t n = strcspn(field, ",");
        ok = put_field(out, size, &at, field, n, &r, &a);
        field += n;
        if (*field) {
            field += strspn(field, ", ");
            at += ok && at + 3 < size ? (size_t)snprintf(out + at, size - at, ", ") : 0;
        }
    }
    if (!ok || r.p != r.end)
        put_bytes(out, size, 0, key, n_key);
    arena_fini(&a);
}
