/* Push services of users (XEP-0357), and when users were there last (XEP-0012). */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { OPTIONS_MAX = 4096, RESOURCE_MAX = 1023, ITEMS_MAX = 1000 };

/* ---- push services ---- */

static bool is_meant(const Imp__PushSet *b, const Imp__PushRow *row)
{
    if (strcmp(row->jid, b->jid) != 0 || (b->only_index && row->changed != b->only_index))
        return false;
    return b->remove && !b->has_node ? true : strcmp(row->node, b->node) == 0;
}

static void remove_services(struct fsm *f, const Imp__PushSet *b)
{
    struct key prefix = fsm_key_u64(b->uid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_PUSH, &prefix);
    while (store_iter_next(&i)) {
        const Imp__PushRow *row = store_iter_row(&i, f->arena);
        if (!row || !is_meant(b, row))
            continue;
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(f->txn, TABLE_PUSH, &k);
        f->out->value++;
    }
    store_iter_fini(&i);
}

/* The row of the service, or of the one that has been enabled for the longest where there are too many. */
static struct key row_to_write(struct fsm *f, const Imp__PushSet *b)
{
    struct key prefix = fsm_key_u64(b->uid), oldest = prefix, fresh = prefix;
    uint64_t n = 0, oldest_index = UINT64_MAX;
    key_u64(&fresh, f->in->index);
    struct store_iter i;
    bool found = false;
    store_iter_init(&i, f->txn, TABLE_PUSH, &prefix);
    while (!found && store_iter_next(&i)) {
        const Imp__PushRow *row = store_iter_row(&i, f->arena);
        if (!row)
            continue;
        found = is_meant(b, row);
        n++;
        if (!found && row->changed >= oldest_index)
            continue;
        oldest_index = row->changed;
        key_init(&oldest);
        key_bytes(&oldest, i.key, i.n_key);
    }
    store_iter_fini(&i);
    if (found)
        return oldest;
    if (n >= (uint64_t)setting_int(f->txn, NULL, SETTING_LIMIT_PUSH_SERVICES))
        store_delete(f->txn, TABLE_PUSH, &oldest);
    /* Two of one entry have one log index. */
    for (; store_has(f->txn, TABLE_PUSH, &fresh); key_u64(&fresh, f->in->index + n++))
        fresh = prefix;
    return fresh;
}

void fsm_do_push_set(struct fsm *f, const void *body)
{
    const Imp__PushSet *b = body;
    if (!fsm_find_user(f, b->uid)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (!fsm_is_text(b->jid, 1, 3 * FSM_TEXT_MAX + 2) || strlen(b->node) > FSM_TEXT_MAX ||
        b->options.len > OPTIONS_MAX || strlen(b->resource) > RESOURCE_MAX) {
        fsm_refuse(f, ERR_INVALID, "the push service's address, node or options are not valid or too long");
        return;
    }
    if (b->remove) {
        remove_services(f, b);
        return;
    }
    Imp__PushRow row = IMP__PUSH_ROW__INIT;
    row.jid = b->jid;
    row.node = b->node;
    row.options = b->options;
    row.resource = b->resource;
    row.changed = f->in->index;
    struct key k = row_to_write(f, b);
    store_put_row(f->txn, TABLE_PUSH, &k, &row);
    f->out->value = 1;
}

/* ---- last activity ---- */

void fsm_do_last_activity(struct fsm *f, const void *body)
{
    const Imp__LastActivity *b = body;
    if (b->n_items > ITEMS_MAX) {
        fsm_refuse(f, ERR_INVALID, "more than %d users in one command", ITEMS_MAX);
        return;
    }
    for (size_t i = 0; i < b->n_items; i++) {
        const Imp__LastActivityItem *item = b->items[i];
        if (strlen(item->status) > FSM_TEXT_MAX || !fsm_find_user(f, item->uid))
            continue;
        Imp__LastActivityRow row = IMP__LAST_ACTIVITY_ROW__INIT;
        row.login_ms = item->login_ms;
        row.logout_ms = item->logout_ms;
        row.status = item->status;
        struct key k = fsm_key_u64(item->uid);
        store_put_row(f->txn, TABLE_LAST_ACTIVITY, &k, &row);
        f->out->value++;
    }
}
