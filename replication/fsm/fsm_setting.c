/* Settings, services, certificates. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { SEALED_MAX = 64 * 1024, PEM_MAX = 256 * 1024 };

static bool refuse_value(struct fsm *f, const Imp__SettingChange *c, enum setting id)
{
    struct err_ctx err = {0};
    if (setting_defs[id].type == SETTING_IS_SECRET) {
        if (!c->sealed.len || c->sealed.len > SEALED_MAX || *c->value)
            fsm_refuse(f, ERR_INVALID, "%s is a secret: its value must be sealed", c->key);
        else
            fsm_is_sealed_now(f, &c->sealed);
    } else if (c->sealed.len) {
        fsm_refuse(f, ERR_INVALID, "%s is not a secret", c->key);
    } else if (setting_check(c->key, c->value, &err)) {
        fsm_refuse(f, err.code, "%s", err.text);
    }
    return f->out->code != 0;
}

/* Compare and set. What is unset has its default; which that is differs between releases, so the proposer
 * decides. */
static bool refuse_compare(struct fsm *f, const Imp__SettingChange *c, enum setting id)
{
    if (!c->compare)
        return false;
    if (setting_defs[id].type == SETTING_IS_SECRET) {
        fsm_refuse(f, ERR_INVALID, "%s is a secret: it cannot be compared", c->key);
        return true;
    }
    struct key k = fsm_key_str(c->key);
    Imp__SettingRow *row = store_find_row(f->txn, TABLE_SETTING, &k, f->arena);
    if (row ? strcmp(row->value, c->expected) == 0 : c->expected_unset)
        return false;
    if (row)
        fsm_refuse(f, ERR_CONFLICT, "%s is '%.100s' now: nothing was changed", c->key, row->value);
    else
        fsm_refuse(f, ERR_CONFLICT, "%s is not set now: nothing was changed", c->key);
    return true;
}

static bool refuse_change(struct fsm *f, const Imp__SettingChange *c)
{
    char node[SETTING_NODE_NAME_MAX];
    int id = strlen(c->key) > FSM_TEXT_MAX ? ERR_NOTFOUND : setting_find(c->key, node);
    if (id < 0 ||
        setting_defs[id].level > f->level) { /* as to a release that does not know it: the text is kept */
        fsm_refuse(f, ERR_NOTFOUND, "there is no setting '%.100s'", c->key);
        return true;
    }
    struct key name = fsm_key_str(node);
    if (*node && !c->unset && !fsm_find_id(f, TABLE_NODE_BY_NAME, &name)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no node '%s'", node);
        return true;
    }
    return (!c->unset && refuse_value(f, c, id)) || refuse_compare(f, c, id);
}

void fsm_do_settings_apply(struct fsm *f, const void *body)
{
    const Imp__SettingsApply *b = body;
    if (b->n_changes > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d settings at once", FSM_MAX_ROWS);
        return;
    }
    for (size_t i = 0; i < b->n_changes; i++) {
        if (refuse_change(f, b->changes[i]))
            return;
    }
    for (size_t i = 0; i < b->n_changes; i++) {
        const Imp__SettingChange *c = b->changes[i];
        struct key k = fsm_key_str(c->key);
        if (c->unset) {
            store_delete(f->txn, TABLE_SETTING, &k);
            continue;
        }
        Imp__SettingRow row = IMP__SETTING_ROW__INIT;
        row.value = c->value;
        row.sealed = c->sealed;
        row.changed_ms = f->now_ms;
        store_put_row(f->txn, TABLE_SETTING, &k, &row);
    }
    f->out->value = b->n_changes;
}

void fsm_do_service_set(struct fsm *f, const void *body)
{
    const Imp__ServiceSet *b = body;
    if (!fsm_is_text(b->service, 1, FSM_NAME_MAX)) {
        fsm_refuse(f, ERR_INVALID, "this is not a service's name");
    } else if (!fsm_find_node(f, b->node)) {
        fsm_refuse(f, ERR_NOTFOUND, "node %u is not a member", b->node);
    } else {
        Imp__ServiceRow row = IMP__SERVICE_ROW__INIT;
        row.active = b->active;
        struct key k = fsm_key_u32_str(b->node, b->service);
        store_put_row(f->txn, TABLE_SERVICE, &k, &row);
    }
}

void fsm_do_cert_set(struct fsm *f, const void *body)
{
    const Imp__CertSet *b = body;
    if (!fsm_is_text(b->domain, 1, FSM_DOMAIN_MAX)) {
        fsm_refuse(f, ERR_INVALID, "this is not a domain");
        return;
    }
    struct key k = fsm_key_str(b->domain);
    if (b->remove) {
        if (!store_delete(f->txn, TABLE_CERT, &k))
            fsm_refuse(f, ERR_NOTFOUND, "there is no certificate for %.200s", b->domain);
    } else if (!b->cert || !*b->cert->chain_pem || strlen(b->cert->chain_pem) > PEM_MAX ||
               !b->cert->sealed_key.len || b->cert->sealed_key.len > SEALED_MAX) {
        fsm_refuse(f, ERR_INVALID, "certificate or key is missing or too long");
    } else if (fsm_is_sealed_now(f, &b->cert->sealed_key)) {
        store_put_row(f->txn, TABLE_CERT, &k, b->cert);
    }
}
