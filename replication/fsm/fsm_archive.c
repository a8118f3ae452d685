/* The archive (XEP-0313): whose messages a user wants in it, and how they leave it. What is in it:
 * fsm_message.c. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum {
    JIDS_MAX = 256,       /* in each list */
    JID_BYTES_MAX = 3071, /* RFC 7622 §3.1 */
    PREFS_BYTES_MAX = 64 << 10,
    TOMBSTONE_BYTES_MAX = 16 << 10,
};

/* Adds the bytes of the list to N; false: it is no list of JIDs. */
static bool check_jids(char **jids, size_t n_jids, size_t *n)
{
    if (n_jids > JIDS_MAX)
        return false;
    for (size_t i = 0; i < n_jids; i++) {
        if (!fsm_is_text(jids[i], 1, JID_BYTES_MAX))
            return false;
        *n += strlen(jids[i]);
    }
    return true;
}

void fsm_do_archive_prefs_set(struct fsm *f, const void *body)
{
    const Imp__ArchivePrefsSet *b = body;
    const Imp__ArchivePrefsRow *p = b->prefs;
    size_t n = 0;
    if (!fsm_find_user(f, b->uid)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (p &&
        ((unsigned)p->mode > IMP__ARCHIVE_MODE__ARCHIVE_NEVER || !check_jids(p->always, p->n_always, &n) ||
         !check_jids(p->never, p->n_never, &n) || n > PREFS_BYTES_MAX)) {
        fsm_refuse(f, ERR_INVALID, "the archive preferences have too many addresses, or one that is none");
        return;
    }
    struct key k = fsm_key_u64(b->uid);
    if (p && (p->mode || n))
        store_put_row(f->txn, TABLE_ARCHIVE_PREFS, &k, p);
    else
        store_delete(f->txn, TABLE_ARCHIVE_PREFS, &k);
}

/* ---- trims ---- */

static struct key index_key(const struct store_iter *i)
{
    struct key k;
    key_init(&k);
    key_bytes(&k, i->key, i->n_key);
    return k;
}

/* The row leaves the archive; one that waits for delivery stays for that. Returns whether it was in it. */
static bool trim_row(struct fsm *f, uint64_t uid, uint64_t index, uint32_t place, const struct key *k,
                     Imp__MessageIndexRow *row)
{
    if (!row || !row->archived)
        return false;
    row->archived = false;
    if (row->pending)
        store_put_row(f->txn, TABLE_MESSAGE_INDEX, k, row);
    else
        fsm_message_delete(f, uid, index, place, row);
    return true;
}

static void trim_user(struct fsm *f, const Imp__ArchiveTrimUser *to, unsigned *left)
{
    struct key prefix = fsm_key_u64(to->uid);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_MESSAGE_INDEX, &prefix);
    while (*left && store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        key_read_u64(&r);
        uint64_t index = key_read_u64(&r);
        uint32_t place = key_read_u32(&r);
        if (index > to->index || (index == to->index && place > to->place))
            break;
        struct key k = index_key(&i);
        --*left;
        f->out->value += trim_row(f, to->uid, index, place, &k, store_iter_row(&i, f->arena));
    }
    store_iter_fini(&i);
}

void fsm_do_archive_trim(struct fsm *f, const void *body)
{
    const Imp__ArchiveTrim *b = body;
    unsigned left = FSM_MAX_ROWS;
    if (b->n_users > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d users at once", FSM_MAX_ROWS);
        return;
    }
    for (size_t i = 0; i < b->n_users && left; i++)
        trim_user(f, b->users[i], &left);
}

/* ---- retraction ---- */

void fsm_do_archive_retract(struct fsm *f, const void *body)
{
    const Imp__ArchiveRetract *b = body;
    struct key by_user = fsm_key_u64_u64_u32(b->uid, b->index, b->place), k = fsm_key_u64(b->index);
    key_u32(&k, b->place);
    if (!b->stanza.len || b->stanza.len > TOMBSTONE_BYTES_MAX) {
        fsm_refuse(f, ERR_INVALID, "the tombstone is empty or too long");
        return;
    }
    Imp__MessageIndexRow *index = store_find_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, f->arena);
    Imp__MessageRow *row = NULL;
    if (index && index->archived)
        row = index->message ? index->message : store_find_row(f->txn, TABLE_MESSAGE, &k, f->arena);
    if (!row) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such message");
        return;
    }
    size_t n = strlen(b->from);
    if (!n || strncmp(row->from, b->from, n) != 0 || (row->from[n] && row->from[n] != '/')) {
        fsm_refuse(f, ERR_DENIED, "only who sent a message can take it back");
        return;
    }
    /* n_bytes of the index rows stays: what is pending is counted with it. */
    row->stanza = b->stanza;
    if (index->message)
        store_put_row(f->txn, TABLE_MESSAGE_INDEX, &by_user, index);
    else
        store_put_row(f->txn, TABLE_MESSAGE, &k, row);
}
