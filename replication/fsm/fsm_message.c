/* Stored messages (architecture: Messages): those that wait for a user, and those that a user keeps.
 *
 * From level 3 on a message has an index row for each party that keeps it, under one index and place; the
 * body is in the row of the one, or in a row of its own when two have it. It is counted in the sender's
 * session row, or remembered by its origin, so that a repeat is recognised.
 *
 * At level 2 it is three puts: the recipient's index row, which holds it; what the recipient has waiting; the
 * origin, under the quarter of an hour in which it came, so that old ones are found without an index of their
 * own. Level 1 had five: the body by log index, an index row without it, the count, the origin, and the
 * origin's age. Such rows are read as long as there are any; they go with delivery, with age, and by
 * MessageMigrate. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum {
    ORIGIN_BYTES_MAX = 255,
    STANZA_BYTES_MAX = 1 << 20,
    KEPT_PENDING_MAX = 100000,
    FIRST_STEPS = 64, /* rows looked at for the first one that is pending */
};

static struct key message_key(uint64_t index, uint32_t place)
{
    struct key k = fsm_key_u64(index);
    key_u32(&k, place);
    return k;
}

/* ---- what a user has pending ---- */

/* Where the first pending row lies, looking on from FROM for a few rows: where a cursor begins, so that it
 * does not read what a user has kept for years. */
static uint64_t first_pending(struct fsm *f, uint64_t uid, uint64_t from)
{
    struct key prefix = fsm_key_u64(uid), at = fsm_key_u64(uid);
    key_u64(&at, from);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_MESSAGE_INDEX, &prefix);
    store_iter_seek(&i, &at);
    for (int n = 0; n < FIRST_STEPS && store_iter_next(&i); n++) {
        const Imp__MessageIndexRow *row = store_iter_row(&i, f->arena);
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        key_read_u64(&r);
        from = key_read_u64(&r);
        if (!row || row->pending)
            break;
    }
    store_iter_fini(&i);
    return from;
}

static void count_pending(struct fsm *f, uint64_t uid, int64_t n, int64_t n_bytes)
{
    struct key k = fsm_key_u64(uid);
    Imp__UserStateRow none = IMP__USER_STATE_ROW__INIT,
                      *row = store_find_row(f->txn, TABLE_USER_STATE, &k, f->arena);
    if (!row)
        row = &none;
    bool had = row->n_pending;
    row->n_pending += n;
    row->pending_bytes += n_bytes;
    if (f->level >= LEVEL_3 && row->n_pending)
        row->first_index = !had    ? f->in->index
                           : n < 0 ? first_pending(f, uid, row->first_index)
                                   : row->first_index;
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

/* KEPT: in the archive it stays anyway, so that it waits costs little; and at level 3 what is on its way to a
 * client that reads is pending, too. */
static bool is_full(struct fsm *f, uint64_t uid, size_t n_bytes, bool kept)
{
    struct key k = fsm_key_u64(uid);
    const Imp__UserStateRow none = IMP__USER_STATE_ROW__INIT,
                            *row = store_find_row(f->txn, TABLE_USER_STATE, &k, f->arena);
    if (!row)
        row = &none;
    if (kept)
        return row->n_pending >= KEPT_PENDING_MAX;
    return row->n_pending >= setting_int(f->txn, NULL, SETTING_XMPP_OFFLINE_LIMIT) ||
           row->pending_bytes + n_bytes > bytes_limit(f);
}

/* ---- storing ---- */

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
}

static char *bare(struct fsm *f, const char *jid)
{
    return arena_strndup(f->arena, jid, strcspn(jid, "/"));
}

/* Level 3: one row per party, of those that keep it; the body in one of its own if two do. */
static void store_for_both(struct fsm *f, const Imp__MessageStore *b, bool has_sender)
{
    Imp__MessageRow row = IMP__MESSAGE_ROW__INIT;
    row.from = b->from;
    row.to = b->to;
    row.stanza = b->stanza;
    row.time_ms = f->now_ms;
    bool to = b->to_uid && (b->archive_to || b->pending);
    bool from = has_sender && b->archive_from && !(to && b->from_uid == b->to_uid);
    Imp__MessageIndexRow index = IMP__MESSAGE_INDEX_ROW__INIT;
    index.n_bytes = b->stanza.len;
    if (to && from) {
        struct key k = message_key(f->in->index, f->in->place);
        store_put_row(f->txn, TABLE_MESSAGE, &k, &row);
    } else {
        index.message = &row;
    }
    if (to) {
        struct key k = fsm_key_u64_u64_u32(b->to_uid, f->in->index, f->in->place);
        index.pending = b->pending;
        index.archived = b->archive_to || (has_sender && b->archive_from && b->from_uid == b->to_uid);
        index.peer_uid = has_sender ? b->from_uid : 0;
        index.peer = bare(f, b->from);
        store_put_row(f->txn, TABLE_MESSAGE_INDEX, &k, &index);
    }
    if (from) {
        struct key k = fsm_key_u64_u64_u32(b->from_uid, f->in->index, f->in->place);
        index.pending = false;
        index.archived = index.outgoing = true;
        index.peer_uid = b->to_uid;
        index.peer = bare(f, b->to);
        store_put_row(f->txn, TABLE_MESSAGE_INDEX, &k, &index);
    }
    if (to && b->pending)
        count_pending(f, b->to_uid, 1, b->stanza.len);
}

static bool is_well_formed(const Imp__MessageStore *b)
{
    return b->stanza.len && b->stanza.len <= STANZA_BYTES_MAX && strlen(b->origin) <= ORIGIN_BYTES_MAX &&
           strlen(b->from) <= 3 * FSM_TEXT_MAX + 2 && strlen(b->to) <= 3 * FSM_TEXT_MAX + 2;
}

static void refuse_full(struct fsm *f)
{
    fsm_refuse(f, ERR_LIMIT, "the user has as many messages waiting as are kept");
}

/* XEP-0191 §3.2. The sender's home looks at a list that may lag behind; here the order of the log decides. */
static bool is_blocked(struct fsm *f, uint64_t uid, const char *from)
{
    const char *slash = strchr(from, '/');
    return fsm_blocks(f, uid, from) ||
           (slash && fsm_blocks(f, uid, arena_strndup(f->arena, from, (size_t)(slash - from))));
}

/* Nothing is written before all has been looked at. */
static void store_at_level_3(struct fsm *f, const Imp__MessageStore *b)
{
    struct fsm_resumable session;
    const Imp__UserRow *sender = b->from_uid ? fsm_find_user(f, b->from_uid) : NULL;
    if (b->to_uid && !fsm_find_user(f, b->to_uid)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (!is_well_formed(b)) {
        fsm_refuse(f, ERR_INVALID, "the message is empty or too long");
        return;
    }
    if (b->session && !b->at_recipient && (!sender || !fsm_is_at_home(f, sender)))
        return;
    bool counted = fsm_resumable_load(f, &session, b->from_uid, b->session, b->session_place);
    uint64_t before = counted ? 0 : fsm_repeat_find(f, b->to_uid, b->origin);
    if (before || (counted && fsm_resumable_has(&session, b->n_in))) {
        f->out->value = before;
        f->out->value2 = fsm_stored_pack(0, counted ? session.row.n_in : 0, true);
        return;
    }
    if (b->to_uid && b->to_uid != b->from_uid && is_blocked(f, b->to_uid, b->from)) {
        fsm_refuse(f, ERR_DENIED, "the user has blocked the sender");
        return;
    }
    if (b->to_uid && b->pending && is_full(f, b->to_uid, b->stanza.len, b->archive_to)) {
        refuse_full(f);
        return;
    }
    store_for_both(f, b, sender);
    if (counted)
        fsm_resumable_count(f, &session, b->n_in, b->n_settled);
    else
        fsm_repeat_add(f, b->to_uid, b->origin);
    f->out->value = f->in->index;
    f->out->value2 = fsm_stored_pack(f->in->place, counted ? session.row.n_in : 0, false);
}

/* value: log index under which the message is stored; value2: 1 if it was there already. */
void fsm_do_message_store(struct fsm *f, const void *body)
{
    const Imp__MessageStore *b = body;
    if (f->level >= LEVEL_3) {
        store_at_level_3(f, b);
        return;
    }
    const Imp__UserRow *user = fsm_find_user(f, b->to_uid);
    if (!user) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (!is_well_formed(b)) {
        fsm_refuse(f, ERR_INVALID, "the message is empty or too long");
        return;
    }
    uint64_t before = fsm_repeat_find(f, b->to_uid, b->origin);
    if (before) {
        f->out->value = before;
        f->out->value2 = 1;
        return;
    }
    if (b->session_epoch_node && !fsm_is_at_home(f, user))
        return;
    if (is_full(f, b->to_uid, b->stanza.len, false)) {
        refuse_full(f);
        return;
    }
    store_message(f, b);
    fsm_repeat_add(f, b->to_uid, b->origin);
    f->out->value = f->in->index;
}

/* ---- delivered, removed ---- */

/* Has the other party of a message that is not in its index row a row of it? */
static bool has_other_row(struct fsm *f, uint64_t uid, const Imp__MessageIndexRow *index, uint64_t at,
                          uint32_t place)
{
    struct key k = fsm_key_u64_u64_u32(index->peer_uid, at, place);
    return index->peer_uid && index->peer_uid != uid &&
           store_find_row(f->txn, TABLE_MESSAGE_INDEX, &k, f->arena);
}

void fsm_message_delete(struct fsm *f, uint64_t uid, uint64_t index, uint32_t place,
                        const Imp__MessageIndexRow *row)
{
    struct key by_user = fsm_key_u64_u64_u32(uid, index, place), k = message_key(index, place);
    store_delete(f->txn, TABLE_MESSAGE_INDEX, &by_user);
    if (!row->message && !has_other_row(f, uid, row, index, place))
        store_delete(f->txn, TABLE_MESSAGE, &k);
}

static uint32_t size_of(struct fsm *f, const Imp__MessageIndexRow *index, const Imp__MessageRef *ref)
{
    struct key k = message_key(ref->index, ref->place);
    if (index->n_bytes)
        return index->n_bytes;
    const Imp__MessageRow *row =
        index->message ? index->message : store_find_row(f->txn, TABLE_MESSAGE, &k, f->arena);
    return row ? row->stanza.len : 0;
}

/* Returns whether it was pending. */
static bool unpend(struct fsm *f, uint64_t uid, const Imp__MessageRef *ref, uint64_t *n_bytes)
{
    struct key by_user = fsm_key_u64_u64_u32(uid, ref->index, ref->place);
    Imp__MessageIndexRow *index = store_find_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, f->arena);
    if (!index || !index->pending)
        return false;
    *n_bytes += size_of(f, index, ref);
    if (index->archived) {
        index->pending = false;
        store_put_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, index);
    } else {
        fsm_message_delete(f, uid, ref->index, ref->place, index);
    }
    return true;
}

unsigned fsm_message_delivered(struct fsm *f, uint64_t uid, Imp__MessageRef **refs, size_t n_refs)
{
    uint64_t n_bytes = 0;
    unsigned n = 0;
    for (size_t i = 0; i < n_refs; i++)
        n += unpend(f, uid, refs[i], &n_bytes);
    if (n)
        count_pending(f, uid, -(int64_t)n, -(int64_t)n_bytes);
    return n;
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
    f->out->value = fsm_message_delivered(f, b->uid, b->refs, b->n_refs);
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
    if (!index || index->n_bytes) /* of level 3 */
        return false;
    if (index->message || !(index->message = store_find_row(f->txn, TABLE_MESSAGE, &k, f->arena)))
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
