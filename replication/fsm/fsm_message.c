/* Messages for users who are away (architecture: Messages), and the origins that recognise a repeat.
 *
 * A message is three puts: the recipient's index row, which holds it; what the recipient has waiting; the
 * origin, under the quarter of an hour in which it came, so that old ones are found without an index of their
 * own. Level 1 had five: the body by log index, an index row without it, the count, the origin, and the
 * origin's age. Such rows are read as long as there are any; they go with delivery, with age, and by
 * MessageMigrate. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum {
    ORIGIN_BYTES_MAX = 255,
    ORIGINS_PER_MESSAGE = 2,
    ORIGIN_KEEP_MS = 15 * 60 * 1000,
    STANZA_BYTES_MAX = 1 << 20,
};

static struct key message_key(uint64_t index, uint32_t place)
{
    struct key k = fsm_key_u64(index);
    key_u32(&k, place);
    return k;
}

/* ---- repeats ---- */

static struct key repeat_key(uint64_t quarter, uint64_t uid, const char *origin)
{
    struct key k = fsm_key_u64(quarter);
    key_u64(&k, uid);
    key_str(&k, origin);
    return k;
}

/* Log index of the message that came from the origin before; 0: none. */
static uint64_t find_repeat(struct fsm *f, uint64_t uid, const char *origin)
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

static void remember_origin(struct fsm *f, uint64_t uid, char *origin)
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

/* ---- what a user has pending ---- */

static void count_pending(struct fsm *f, uint64_t uid, int64_t n, int64_t n_bytes)
{
    struct key k = fsm_key_u64(uid);
    Imp__UserStateRow none = IMP__USER_STATE_ROW__INIT,
                      *row = store_find_row(f->txn, TABLE_USER_STATE, &k, f->arena);
    if (!row)
        row = &none;
    row->n_pending += n;
    row->pending_bytes += n_bytes;
    if (row->n_pending)
        store_put_row(f->txn, TABLE_USER_STATE, &k, row);
    else
        store_delete(f->txn, TABLE_USER_STATE, &k);
}

static uint64_t bytes_limit(struct fsm *f)
{
    return (uint64_t)setting_int(f->txn, NULL,
                                 SETTING_XMPP_OFFLINE_BYTES); /* below level 2 it cannot be set */
}

static bool is_full(struct fsm *f, uint64_t uid, size_t n_bytes)
{
    struct key k = fsm_key_u64(uid);
    const Imp__UserStateRow none = IMP__USER_STATE_ROW__INIT,
                            *row = store_find_row(f->txn, TABLE_USER_STATE, &k, f->arena);
    if (!row)
        row = &none;
    return row->n_pending >= setting_int(f->txn, NULL, SETTING_XMPP_OFFLINE_LIMIT) ||
           row->pending_bytes + n_bytes > bytes_limit(f);
}

static void store_message(struct fsm *f, const Imp__MessageStore *b)
{
    Imp__UserRow *sender = NULL;
    const char *slash = strchr(b->from, '/');
    fsm_find_jid(f, slash ? arena_strndup(f->arena, b->from, slash - b->from) : b->from, &sender);
    Imp__MessageRow row = IMP__MESSAGE_ROW__INIT;
    row.from = b->from;
    row.to = b->to;
    row.stanza = b->stanza;
    row.time_ms = f->now_ms;
    row.origin = b->origin;
    Imp__MessageIndexRow index = IMP__MESSAGE_INDEX_ROW__INIT;
    index.pending = true;
    index.peer_uid = sender ? sender->uid : 0;
    struct key k = message_key(f->in->index, f->in->place);
    struct key by_user = fsm_key_u64_u64_u32(b->to_uid, f->in->index, f->in->place);
    if (f->level >= LEVEL_2)
        index.message = &row;
    else
        store_put_row(f->txn, TABLE_MESSAGE, &k, &row);
    store_put_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, &index);
    count_pending(f, b->to_uid, 1, b->stanza.len);
    forget_origins(f);
    if (f->level >= LEVEL_2)
        forget_repeats(f);
    if (*b->origin)
        remember_origin(f, b->to_uid, b->origin);
}

/* value: log index under which the message is stored; value2: 1 if it was there already. */
void fsm_do_message_store(struct fsm *f, const void *body)
{
    const Imp__MessageStore *b = body;
    const Imp__UserRow *user = fsm_find_user(f, b->to_uid);
    if (!user) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (!b->stanza.len || b->stanza.len > STANZA_BYTES_MAX || strlen(b->origin) > ORIGIN_BYTES_MAX ||
        strlen(b->from) > 3 * FSM_TEXT_MAX + 2 || strlen(b->to) > 3 * FSM_TEXT_MAX + 2) {
        fsm_refuse(f, ERR_INVALID, "the message is empty or too long");
        return;
    }
    uint64_t before = find_repeat(f, b->to_uid, b->origin);
    if (before) {
        f->out->value = before;
        f->out->value2 = 1;
        return;
    }
    if (b->session_epoch_node && !fsm_is_at_home(f, user))
        return;
    if (is_full(f, b->to_uid, b->stanza.len)) {
        fsm_refuse(f, ERR_LIMIT, "the user has as many messages waiting as are kept");
        return;
    }
    store_message(f, b);
    f->out->value = f->in->index;
}

/* Returns whether it was pending. */
static bool mark(struct fsm *f, uint64_t uid, const Imp__MessageRef *ref)
{
    struct key by_user = fsm_key_u64_u64_u32(uid, ref->index, ref->place),
               k = message_key(ref->index, ref->place);
    Imp__MessageIndexRow *index = store_find_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, f->arena);
    if (!index || !index->pending)
        return false;
    const Imp__MessageRow *row =
        index->message ? index->message : store_find_row(f->txn, TABLE_MESSAGE, &k, f->arena);
    count_pending(f, uid, -1, row ? -(int64_t)row->stanza.len : 0);
    if (row && row->archived) {
        index->pending = false;
        store_put_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, index);
    } else {
        store_delete(f->txn, TABLE_MESSAGE_INDEX, &by_user);
        if (!index->message)
            store_delete(f->txn, TABLE_MESSAGE, &k);
    }
    return true;
}

void fsm_do_message_mark(struct fsm *f, const void *body)
{
    const Imp__MessageMark *b = body;
    const Imp__UserRow *user = fsm_find_user(f, b->uid);
    if (!user) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (b->n_refs > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d messages at once", FSM_MAX_ROWS);
        return;
    }
    /* Also from a former home: that its client was given them is true, and the new one waits for this. */
    for (size_t i = 0; i < b->n_refs; i++)
        f->out->value += mark(f, b->uid, b->refs[i]);
}

/* The body goes into the index row. False: it is there already. */
static bool migrate_row(struct fsm *f, const struct store_iter *i)
{
    enum { UID_BYTES = 8 };
    struct key by_user, k;
    Imp__MessageIndexRow *index = store_unpack(TABLE_MESSAGE_INDEX, i->row, i->n_row, f->arena);
    key_init(&by_user);
    key_bytes(&by_user, i->key, i->n_key);
    key_init(&k);
    key_bytes(&k, (const uint8_t *)i->key + UID_BYTES, i->n_key - UID_BYTES);
    if (!index || index->message || !(index->message = store_find_row(f->txn, TABLE_MESSAGE, &k, f->arena)))
        return false;
    store_put_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, index);
    store_delete(f->txn, TABLE_MESSAGE, &k);
    return true;
}

/* Rows that need nothing are passed by as well: a step is bounded by what it looks at. */
void fsm_do_message_migrate(struct fsm *f, const void *body)
{
    const Imp__MessageMigrate *b = body;
    unsigned n = 0, max = b->max && b->max <= FSM_MAX_ROWS ? b->max : FSM_MAX_ROWS;
    struct key from = fsm_key_u64(b->from_uid);
    struct store_iter i;
    uint64_t uid = 0, index = 0;
    key_u64(&from, b->from_index);
    store_iter_init(&i, f->txn, TABLE_MESSAGE_INDEX, NULL);
    store_iter_seek(&i, &from);
    while (store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        uint64_t at_uid = key_read_u64(&r), at_index = key_read_u64(&r);
        /* never between two messages of one entry: the next step begins at an index */
        if (n >= max && (at_uid != uid || at_index != index)) {
            f->out->value = at_uid;
            f->out->value2 = at_index;
            break;
        }
        uid = at_uid;
        index = at_index;
        migrate_row(f, &i);
        n++;
    }
    store_iter_fini(&i);
}
