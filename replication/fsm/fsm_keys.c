/* Change of the cluster key and the CA (docs/adr/0008-key-rotation.md). The store knows keys by their id
 * only: a sealed blob names it after its version byte. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { SEALED_HEAD_BYTES = 21, /* version, key id, nonce */ SEALED_MAX = 64 * 1024, RESEAL_MAX = 100 };

static bool is_of_key(const ProtobufCBinaryData *sealed, const ProtobufCBinaryData *key_id)
{
    return sealed->len >= SEALED_HEAD_BYTES && key_id->len == FSM_KEY_ID_BYTES &&
           !memcmp(sealed->data + 1, key_id->data, FSM_KEY_ID_BYTES);
}

static bool is_current(const struct fsm *f, const ProtobufCBinaryData *key_id)
{
    const Imp__KeysRow *keys = f->cluster->keys;
    return keys && keys->key_id.len == key_id->len && !memcmp(keys->key_id.data, key_id->data, key_id->len);
}

bool fsm_is_sealed_now(struct fsm *f, const ProtobufCBinaryData *sealed)
{
    const Imp__KeysRow *keys = f->cluster->keys;
    if (!keys || keys->phase == IMP__KEYS_PHASE__KEYS_DISTRIBUTE || is_of_key(sealed, &keys->key_id))
        return true;
    fsm_refuse(f, ERR_AGAIN, "the cluster key has just changed: try again");
    return false;
}

static void put_phase(struct fsm *f, ProtobufCBinaryData key_id, Imp__KeysPhase phase)
{
    Imp__KeysRow *keys = arena_alloc(f->arena, sizeof(*keys));
    imp__keys_row__init(keys);
    keys->key_id = key_id;
    keys->phase = phase;
    keys->changed_ms = f->now_ms;
    f->cluster->keys = keys;
    fsm_put_cluster(f);
}

void fsm_do_keys_begin(struct fsm *f, const void *body)
{
    const Imp__KeysBegin *b = body;
    const Imp__KeysRow *keys = f->cluster->keys;
    if (b->key_id.len != FSM_KEY_ID_BYTES)
        fsm_refuse(f, ERR_INVALID, "this is not a key's id");
    else if (keys && keys->phase > IMP__KEYS_PHASE__KEYS_DISTRIBUTE)
        fsm_refuse(f, ERR_CONFLICT, "the keys are being changed already; impcli node list shows who is late");
    else
        put_phase(f, b->key_id, IMP__KEYS_PHASE__KEYS_DISTRIBUTE);
}

/* ---- is everything sealed with it? ---- */

static unsigned count_other(struct fsm *f, enum table table, const ProtobufCBinaryData *key_id)
{
    unsigned n = 0;
    struct store_iter i;
    store_iter_init(&i, f->txn, table, NULL);
    while (store_iter_next(&i)) {
        const void *row = store_iter_row(&i, f->arena);
        const ProtobufCBinaryData *sealed = !row                     ? NULL
                                            : table == TABLE_SETTING ? &((const Imp__SettingRow *)row)->sealed
                                            : table == TABLE_CERT ? &((const Imp__CertRow *)row)->sealed_key
                                                                  : &((const Imp__CaRow *)row)->sealed_key;
        n += sealed && sealed->len && !is_of_key(sealed, key_id);
    }
    store_iter_fini(&i);
    return n;
}

/* Generation of the CA that signs; *newest: the last that there is. */
static uint32_t active_ca(struct fsm *f, uint32_t *newest)
{
    uint32_t found = 0;
    *newest = 0;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_CA, NULL);
    while (store_iter_next(&i)) {
        const Imp__CaRow *row = store_iter_row(&i, f->arena);
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        uint32_t generation = key_read_u32(&r);
        *newest = generation; /* ascending */
        if (row && row->active)
            found = generation;
    }
    store_iter_fini(&i);
    return found;
}

/* A member that has not said that it has the key and a certificate of the CA; NULL: all have. */
static const Imp__NodeRow *find_late(struct fsm *f, const ProtobufCBinaryData *key_id, uint32_t generation)
{
    const Imp__NodeRow *late = NULL;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_NODE, NULL);
    while (!late && store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, f->arena);
        if (row && !row->lost &&
            (row->ca_generation != generation || row->key_id.len != key_id->len ||
             memcmp(row->key_id.data, key_id->data, key_id->len) != 0))
            late = row;
    }
    store_iter_fini(&i);
    return late;
}

static void drop_old_cas(struct fsm *f)
{
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_CA, NULL);
    while (store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        struct key k = fsm_key_u32(key_read_u32(&r));
        const Imp__CaRow *row = store_iter_row(&i, f->arena);
        if (row && !row->active)
            store_delete(f->txn, TABLE_CA, &k);
    }
    store_iter_fini(&i);
}

/* ---- the phases ---- */

static void to_reseal(struct fsm *f, const Imp__KeysStep *b)
{
    uint32_t newest;
    active_ca(f, &newest);
    if (!b->ca || !*b->ca->cert_pem || !b->ca->active || b->generation <= newest ||
        !is_of_key(&b->ca->sealed_key, &b->key_id) || b->ca->sealed_key.len > SEALED_MAX) {
        fsm_refuse(f, ERR_INVALID, "the new certificate authority is not complete");
    } else {
        fsm_put_ca(f, b->generation, b->ca);
        put_phase(f, b->key_id, b->phase);
    }
}

static void to_reissue(struct fsm *f, const Imp__KeysStep *b)
{
    unsigned n = count_other(f, TABLE_SETTING, &b->key_id) + count_other(f, TABLE_CERT, &b->key_id) +
                 count_other(f, TABLE_CA, &b->key_id);
    if (n)
        fsm_refuse(f, ERR_CONFLICT, "%u secrets are sealed with an old key", n);
    else
        put_phase(f, b->key_id, b->phase);
}

static void to_done(struct fsm *f, const Imp__KeysStep *b)
{
    uint32_t newest, generation = active_ca(f, &newest);
    const Imp__NodeRow *late = find_late(f, &b->key_id, generation);
    if (late) {
        fsm_refuse(f, ERR_CONFLICT, "%s does not have key and certificate yet", late->name);
        return;
    }
    drop_old_cas(f);
    put_phase(f, b->key_id, b->phase);
}

void fsm_do_keys_step(struct fsm *f, const void *body)
{
    const Imp__KeysStep *b = body;
    static const Imp__KeysPhase before[] = {
        [IMP__KEYS_PHASE__KEYS_DONE] = IMP__KEYS_PHASE__KEYS_REISSUE,
        [IMP__KEYS_PHASE__KEYS_RESEAL] = IMP__KEYS_PHASE__KEYS_DISTRIBUTE,
        [IMP__KEYS_PHASE__KEYS_REISSUE] = IMP__KEYS_PHASE__KEYS_RESEAL,
    };
    bool known = b->phase == IMP__KEYS_PHASE__KEYS_DONE || b->phase == IMP__KEYS_PHASE__KEYS_RESEAL ||
                 b->phase == IMP__KEYS_PHASE__KEYS_REISSUE;
    if (!is_current(f, &b->key_id) || !known || f->cluster->keys->phase != before[b->phase])
        fsm_refuse(f, ERR_CONFLICT, "the change of the keys is at another step");
    else if (b->phase == IMP__KEYS_PHASE__KEYS_RESEAL)
        to_reseal(f, b);
    else if (b->phase == IMP__KEYS_PHASE__KEYS_REISSUE)
        to_reissue(f, b);
    else
        to_done(f, b);
}

/* ---- the same secrets under the new key ---- */

static bool begins_with(const ProtobufCBinaryData *sealed, const ProtobufCBinaryData *head)
{
    return head->len == SEALED_HEAD_BYTES && sealed->len >= head->len &&
           !memcmp(sealed->data, head->data, head->len);
}

static bool reseal_one(struct fsm *f, const Imp__ResealItem *item)
{
    struct key k = fsm_key_str(item->name);
    if (item->cert) {
        Imp__CertRow *row = store_find_row(f->txn, TABLE_CERT, &k, f->arena);
        if (!row || !begins_with(&row->sealed_key, &item->old_head))
            return false;
        row->sealed_key = item->sealed;
        store_put_row(f->txn, TABLE_CERT, &k, row);
        return true;
    }
    Imp__SettingRow *row = store_find_row(f->txn, TABLE_SETTING, &k, f->arena);
    if (!row || !begins_with(&row->sealed, &item->old_head))
        return false;
    row->sealed = item->sealed;
    store_put_row(f->txn, TABLE_SETTING, &k, row);
    return true;
}

void fsm_do_reseal(struct fsm *f, const void *body)
{
    const Imp__Reseal *b = body;
    const Imp__KeysRow *keys = f->cluster->keys;
    if (!keys || keys->phase != IMP__KEYS_PHASE__KEYS_RESEAL || b->n_items > RESEAL_MAX) {
        fsm_refuse(f, ERR_CONFLICT, "nothing is to be sealed again");
        return;
    }
    for (size_t i = 0; i < b->n_items; i++) {
        const Imp__ResealItem *item = b->items[i];
        if (strlen(item->name) > FSM_TEXT_MAX || item->sealed.len > SEALED_MAX ||
            !is_of_key(&item->sealed, &keys->key_id)) {
            fsm_refuse(f, ERR_INVALID, "a secret is not sealed with the new key");
            return;
        }
    }
    for (size_t i = 0; i < b->n_items; i++)
        f->out->value += reseal_one(f, b->items[i]);
}
