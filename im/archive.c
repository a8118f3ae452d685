/* The archive as it is read: index rows of a user in the order in which the messages came in, which is also
 * that of their times. Nobody else knows where they lie. */
#include "im/archive.h"
#include <string.h>

const struct archive_id archive_first = {0, 0}, archive_last = {UINT64_MAX, UINT32_MAX};

int archive_id_compare(struct archive_id a, struct archive_id b)
{
    if (a.index != b.index)
        return a.index < b.index ? -1 : 1;
    return (a.place > b.place) - (a.place < b.place);
}

static struct key key_of(uint64_t uid, struct archive_id id)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_u64(&k, id.index);
    key_u32(&k, id.place);
    return k;
}

static struct key user_key(uint64_t uid)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    return k;
}

static struct archive_id id_of(const struct store_iter *i)
{
    struct key_reader r;
    key_read(&r, i->key, i->n_key);
    key_read_u64(&r);
    uint64_t index = key_read_u64(&r);
    return (struct archive_id){index, key_read_u32(&r)};
}

/* The message of an index row: its own, or the one that both parties share. */
static Imp__MessageRow *body_of(struct shard *s, const Imp__MessageIndexRow *row, struct archive_id id,
                                struct arena *a)
{
    struct key k;
    if (row->message)
        return row->message;
    key_init(&k);
    key_u64(&k, id.index);
    key_u32(&k, id.place);
    return store_find_row(shard_txn(s), TABLE_MESSAGE, &k, a);
}

/* ---- filters ---- */

/* XEP-0313 §4.1.1: a bare JID matches all its resources. The own one asks for what was sent to oneself, whose
 * peer is the own bare JID. */
static bool is_with(struct shard *s, const Imp__MessageIndexRow *row, struct archive_id id, const char *with,
                    struct arena *a)
{
    if (!jid_same_bare(row->peer, with))
        return false;
    if (!*jid_resource(with))
        return true;
    const Imp__MessageRow *body = body_of(s, row, id, a);
    return body && (strcmp(body->from, with) == 0 || strcmp(body->to, with) == 0);
}

static bool matches(struct shard *s, const Imp__MessageIndexRow *row, struct archive_id id,
                    const struct archive_filter *f, struct arena *a)
{
    return row && (f->pending ? row->pending && (row->archived || !f->archived_too) : row->archived) &&
           archive_id_compare(id, f->after) > 0 && archive_id_compare(id, f->before) < 0 &&
           (!f->with || is_with(s, row, id, f->with, a));
}

struct archive_filter archive_pending(struct shard *s, uint64_t uid)
{
    struct archive_filter f = {.pending = true, .after = archive_last, .before = archive_last};
    struct key k = user_key(uid);
    struct arena a;
    arena_init(&a);
    const Imp__UserStateRow *row = store_find_row(shard_txn(s), TABLE_USER_STATE, &k, &a);
    if (row)
        f.after = row->first_index ? (struct archive_id){row->first_index - 1, UINT32_MAX} : archive_first;
    arena_fini(&a);
    return f;
}

bool archive_matches(struct shard *s, uint64_t uid, struct archive_id id, const struct archive_filter *f)
{
    struct arena a;
    arena_init(&a);
    struct key k = key_of(uid, id);
    bool is = matches(s, store_find_row(shard_txn(s), TABLE_MESSAGE_INDEX, &k, &a), id, f, &a);
    arena_fini(&a);
    return is;
}

bool archive_has(struct shard *s, uint64_t uid, struct archive_id id)
{
    struct arena a;
    arena_init(&a);
    struct key k = key_of(uid, id);
    const Imp__MessageIndexRow *row = store_find_row(shard_txn(s), TABLE_MESSAGE_INDEX, &k, &a);
    bool has = row && row->archived;
    arena_fini(&a);
    return has;
}

/* ---- walking ---- */

void archive_walk_init(struct archive_walk *w, struct shard *s, uint64_t uid, const struct archive_filter *f,
                       bool descending)
{
    *w = (struct archive_walk){.shard = s,
                               .uid = uid,
                               .filter = f,
                               .descending = descending,
                               .at = descending ? f->before : f->after};
}

size_t archive_walk(struct archive_walk *w, struct archive_id *out, size_t max, unsigned *budget)
{
    const struct archive_filter *f = w->filter;
    struct key prefix = user_key(w->uid), from = key_of(w->uid, w->at);
    struct store_iter i;
    size_t n = 0;
    struct arena a;
    arena_init(&a);
    store_iter_init(&i, shard_txn(w->shard), TABLE_MESSAGE_INDEX, &prefix);
    if (w->descending)
        store_iter_descending(&i);
    store_iter_seek(&i, &from);
    while (!w->ended && n < max && *budget) {
        if (!store_iter_next(&i)) {
            w->ended = true;
            break;
        }
        struct archive_id id = id_of(&i);
        if (w->started && archive_id_compare(id, w->at) == 0)
            continue;
        --*budget;
        w->at = id;
        w->started = true;
        if (archive_id_compare(id, w->descending ? f->after : f->before) * (w->descending ? -1 : 1) >= 0)
            w->ended = true;
        else if (matches(w->shard, store_iter_row(&i, &a), id, f, &a))
            out[n++] = id;
        arena_reset(&a);
    }
    store_iter_fini(&i);
    arena_fini(&a);
    return n;
}

/* ---- single messages ---- */

static bool read_item(struct shard *s, const Imp__MessageIndexRow *row, struct archive_id id,
                      struct archive_item *out, struct arena *a)
{
    const Imp__MessageRow *body = row ? body_of(s, row, id, a) : NULL;
    if (!body)
        return false;
    *out = (struct archive_item){.id = id,
                                 .time_ms = body->time_ms,
                                 .outgoing = row->outgoing,
                                 .archived = row->archived,
                                 .pending = row->pending,
                                 .from = body->from,
                                 .to = body->to,
                                 .stanza = (const char *)body->stanza.data,
                                 .n_bytes = body->stanza.len};
    return true;
}

bool archive_read(struct shard *s, uint64_t uid, struct archive_id id, struct archive_item *out,
                  struct arena *a)
{
    struct key k = key_of(uid, id);
    return read_item(s, store_find_row(shard_txn(s), TABLE_MESSAGE_INDEX, &k, a), id, out, a);
}

static bool read_end(struct shard *s, uint64_t uid, bool last, struct archive_item *out, struct arena *a)
{
    struct key prefix = user_key(uid);
    struct store_iter i;
    bool found = false;
    store_iter_init(&i, shard_txn(s), TABLE_MESSAGE_INDEX, &prefix);
    if (last)
        store_iter_descending(&i);
    while (!found && store_iter_next(&i))
        found = read_item(s, store_iter_row(&i, a), id_of(&i), out, a) && out->archived;
    store_iter_fini(&i);
    return found;
}

bool archive_ends(struct shard *s, uint64_t uid, struct archive_item *first, struct archive_item *last,
                  struct arena *a)
{
    return read_end(s, uid, false, first, a) && read_end(s, uid, true, last, a);
}

/* ---- by time ---- */

/* The first row at or behind ID; false: there is none. */
static bool row_at(struct shard *s, uint64_t uid, struct archive_id *id, uint64_t *time_ms)
{
    struct key prefix = user_key(uid), from = key_of(uid, *id);
    struct store_iter i;
    struct arena a;
    arena_init(&a);
    store_iter_init(&i, shard_txn(s), TABLE_MESSAGE_INDEX, &prefix);
    store_iter_seek(&i, &from);
    bool found = store_iter_next(&i);
    if (found) {
        *id = id_of(&i);
        const Imp__MessageIndexRow *row = store_iter_row(&i, &a);
        const Imp__MessageRow *body = row ? body_of(s, row, *id, &a) : NULL;
        *time_ms = body ? body->time_ms : 0;
    }
    store_iter_fini(&i);
    arena_fini(&a);
    return found;
}

static struct archive_id after(struct archive_id id)
{
    return id.place == UINT32_MAX ? (struct archive_id){id.index + 1, 0}
                                  : (struct archive_id){id.index, id.place + 1};
}

static uint64_t last_index(struct shard *s, uint64_t uid)
{
    struct key prefix = user_key(uid);
    struct store_iter i;
    store_iter_init(&i, shard_txn(s), TABLE_MESSAGE_INDEX, &prefix);
    store_iter_descending(&i);
    uint64_t index = store_iter_next(&i) ? id_of(&i).index : 0;
    store_iter_fini(&i);
    return index;
}

/* Times go up with the index (the state machine's clock never goes back), so that a few steps find a moment.
 */
struct archive_id archive_at_time(struct shard *s, uint64_t uid, uint64_t ms)
{
    uint64_t low = 0, high = last_index(s, uid) + 1, time_ms;
    struct archive_id id;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        id = (struct archive_id){middle, 0};
        if (!row_at(s, uid, &id, &time_ms) || time_ms >= ms)
            high = middle;
        else
            low = id.index + 1;
    }
    /* The entry before may have further messages, some of them not before that moment. */
    id = (struct archive_id){low ? low - 1 : 0, 0};
    while (row_at(s, uid, &id, &time_ms)) {
        if (time_ms >= ms)
            return id;
        id = after(id);
    }
    return archive_last;
}
