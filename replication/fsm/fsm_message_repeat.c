/* A message may name an origin, which recognises a repeat for a quarter of an hour at least: those that nodes
 * propose below level 3. From then on nodes propose none a second time (docs/adr/0045-less-per-message.md).
 */
#include "replication/fsm/fsm_internal.h"

enum { ORIGINS_PER_MESSAGE = 2, ORIGIN_KEEP_MS = 15 * 60 * 1000 };

static struct key message_key(uint64_t index, uint32_t place)
{
    struct key k = fsm_key_u64(index);
    key_u32(&k, place);
    return k;
}

static struct key repeat_key(uint64_t quarter, uint64_t uid, const char *origin)
{
    struct key k = fsm_key_u64(quarter);
    key_u64(&k, uid);
    key_str(&k, origin);
    return k;
}

uint64_t fsm_repeat_find(struct fsm *f, uint64_t uid, const char *origin)
{
    struct key k = fsm_key_u64_str(uid, origin);
    uint64_t found = 0, quarter = f->now_ms / ORIGIN_KEEP_MS;
    if (!*origin)
        return 0;
    if (f->level < LEVEL_2 || fsm_has_rows(f, TABLE_MESSAGE_ORIGIN))
        found = fsm_find_id(f, TABLE_MESSAGE_ORIGIN, &k);
    for (unsigned i = 0; f->level >= LEVEL_2 && !found && i < 2 && quarter >= i; i++) {
        k = repeat_key(quarter - i, uid, origin);
        found = fsm_find_id(f, TABLE_MESSAGE_REPEAT, &k);
    }
    return found;
}

/* Those of the quarters before the last one; more go than come. */
static void forget_repeats(struct fsm *f)
{
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_MESSAGE_REPEAT, NULL);
    for (int n = 0; n < ORIGINS_PER_MESSAGE && store_iter_next(&i); n++) {
        struct key_reader r;
        struct key k;
        key_read(&r, i.key, i.n_key);
        if (key_read_u64(&r) + 1 >= f->now_ms / ORIGIN_KEEP_MS)
            break;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(f->txn, TABLE_MESSAGE_REPEAT, &k);
    }
    store_iter_fini(&i);
}

static void remember(struct fsm *f, uint64_t uid, char *origin)
{
    Imp__OriginRow row = IMP__ORIGIN_ROW__INIT;
    row.uid = uid;
    row.origin = origin;
    row.time_ms = f->now_ms;
    struct key k = fsm_key_u64_str(uid, origin), age = message_key(f->in->index, f->in->place);
    if (f->level >= LEVEL_2) {
        k = repeat_key(f->now_ms / ORIGIN_KEEP_MS, uid, origin);
        fsm_put_id(f, TABLE_MESSAGE_REPEAT, &k, f->in->index);
        return;
    }
    fsm_put_id(f, TABLE_MESSAGE_ORIGIN, &k, f->in->index);
    store_put_row(f->txn, TABLE_MESSAGE_ORIGIN_AGE, &age, &row);
}

/* More go than come, so that what a busy time has left goes, too. */
static void forget_origins(struct fsm *f)
{
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_MESSAGE_ORIGIN_AGE, NULL);
    for (int n = 0; n < ORIGINS_PER_MESSAGE && store_iter_next(&i); n++) {
        const Imp__OriginRow *row = store_iter_row(&i, f->arena);
        if (!row || row->time_ms + ORIGIN_KEEP_MS > f->now_ms)
            break;
        struct key age, k = fsm_key_u64_str(row->uid, row->origin);
        key_init(&age);
        key_bytes(&age, i.key, i.n_key);
        store_delete(f->txn, TABLE_MESSAGE_ORIGIN, &k);
        store_delete(f->txn, TABLE_MESSAGE_ORIGIN_AGE, &age);
    }
    store_iter_fini(&i);
}

void fsm_repeat_add(struct fsm *f, uint64_t uid, const char *origin)
{
    if (fsm_has_rows(f, TABLE_MESSAGE_ORIGIN_AGE))
        forget_origins(f);
    if (f->level >= LEVEL_2 && fsm_has_rows(f, TABLE_MESSAGE_REPEAT))
        forget_repeats(f);
    if (*origin)
        remember(f, uid, (char *)origin);
}
