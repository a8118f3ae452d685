/* Sessions of clients that can be resumed, also when the home that held them is gone (XEP-0198 §5,
 * architecture: Messages). A row counts what the client has sent and what of it was handled for good, so that
 * a stanza that is sent again is recognised. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum {
    HASH_BYTES = 32,
    RESOURCE_MAX = 1023,
    PRESENCE_MAX = 8192,
    ABOVE_MAX = 1024, /* more than a home lets a client be ahead */
    SESSIONS_PER_USER = 64,
    KEEP_ENDED_MS = 24 * 3600 * 1000,
};

bool fsm_resumable_load(struct fsm *f, struct fsm_resumable *s, uint64_t uid, uint64_t session,
                        uint32_t place)
{
    s->key = fsm_key_u64_u64_u32(uid, session, place);
    const Imp__SessionRow *row = session ? store_find_row(f->txn, TABLE_SESSION, &s->key, f->arena) : NULL;
    if (row)
        s->row = *row;
    return row && !row->ended_ms;
}

bool fsm_resumable_has(const struct fsm_resumable *s, uint64_t n)
{
    for (size_t i = 0; i < s->row.n_above; i++)
        if (s->row.above[i] == n)
            return true;
    return n <= s->row.n_in;
}

/* The numbers above n_in stay ascending, and those that n_in has reached go. */
static void count(struct fsm *f, Imp__SessionRow *row, uint64_t n, uint64_t n_settled)
{
    uint64_t *above = arena_alloc(f->arena, (row->n_above + 1) * sizeof *above);
    size_t n_above = 0, i = 0;
    if (row->n_in < n_settled)
        row->n_in = n_settled;
    for (; i < row->n_above && row->above[i] < n; i++)
        above[n_above++] = row->above[i];
    if (n)
        above[n_above++] = n;
    for (; i < row->n_above; i++)
        above[n_above++] = row->above[i];
    size_t from = 0;
    for (; from < n_above && above[from] <= row->n_in + 1; from++)
        if (above[from] == row->n_in + 1)
            row->n_in++;
    row->above = above + from;
    row->n_above = n_above - from;
    if (row->n_above > ABOVE_MAX)
        row->n_above = ABOVE_MAX;
}

void fsm_resumable_count(struct fsm *f, struct fsm_resumable *s, uint64_t n, uint64_t n_settled)
{
    count(f, &s->row, n, n_settled);
    store_put_row(f->txn, TABLE_SESSION, &s->key, &s->row);
}

/* ---- commands ---- */

/* Those whose time has passed long ago go, and one with the same resource, which is taken now. How many are
 * left. */
static unsigned make_room(struct fsm *f, uint64_t uid, const char *resource)
{
    struct key prefix = fsm_key_u64(uid), k;
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, TABLE_SESSION, &prefix);
    while (store_iter_next(&i)) {
        const Imp__SessionRow *row = store_iter_row(&i, f->arena);
        bool is_old = !row || (row->ended_ms && row->ended_ms + KEEP_ENDED_MS < f->now_ms) ||
                      (!row->ended_ms && strcmp(row->resource, resource) == 0);
        n += !is_old;
        if (!is_old)
            continue;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(f->txn, TABLE_SESSION, &k);
    }
    store_iter_fini(&i);
    return n;
}

/* The oldest one that has ended makes place. */
static bool drop_ended(struct fsm *f, uint64_t uid)
{
    struct key prefix = fsm_key_u64(uid), k;
    struct store_iter i;
    bool found = false;
    store_iter_init(&i, f->txn, TABLE_SESSION, &prefix);
    while (!found && store_iter_next(&i)) {
        const Imp__SessionRow *row = store_iter_row(&i, f->arena);
        found = row && row->ended_ms;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
    }
    store_iter_fini(&i);
    if (found)
        store_delete(f->txn, TABLE_SESSION, &k);
    return found;
}

static unsigned count_open(struct fsm *f, uint64_t uid, const char *resource)
{
    struct key prefix = fsm_key_u64(uid);
    struct store_iter i;
    unsigned n = 0;
    store_iter_init(&i, f->txn, TABLE_SESSION, &prefix);
    while (store_iter_next(&i)) {
        const Imp__SessionRow *row = store_iter_row(&i, f->arena);
        n += row && !row->ended_ms && strcmp(row->resource, resource) != 0;
    }
    store_iter_fini(&i);
    return n;
}

void fsm_do_session_open(struct fsm *f, const void *body)
{
    const Imp__SessionOpen *b = body;
    const Imp__UserRow *user = fsm_find_user(f, b->uid);
    if (!user) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no such user");
        return;
    }
    if (b->id_hash.len != HASH_BYTES || !*b->resource || strlen(b->resource) > RESOURCE_MAX ||
        !b->timeout_s) {
        fsm_refuse(f, ERR_INVALID, "a session needs the hash of an id, a resource and a time-out");
        return;
    }
    if (!fsm_is_at_home(f, user))
        return;
    if (count_open(f, b->uid, b->resource) >= SESSIONS_PER_USER) {
        fsm_refuse(f, ERR_LIMIT, "the user has %d sessions that can be resumed", SESSIONS_PER_USER);
        return;
    }
    if (make_room(f, b->uid, b->resource) >= SESSIONS_PER_USER)
        drop_ended(f, b->uid);
    Imp__SessionRow row = IMP__SESSION_ROW__INIT;
    row.id_hash = b->id_hash;
    row.resource = b->resource;
    row.tls = b->tls;
    row.timeout_s = b->timeout_s;
    row.opened_ms = f->now_ms;
    struct key k = fsm_key_u64_u64_u32(b->uid, f->in->index, f->in->place);
    store_put_row(f->txn, TABLE_SESSION, &k, &row);
    f->out->value = f->in->index;
    f->out->value2 = f->in->place;
}

/* False: nothing of the session was taken. */
static bool mark_session(struct fsm *f, const Imp__SessionMarkItem *b, bool is_home)
{
    struct fsm_resumable s;
    if (!is_home || !fsm_resumable_load(f, &s, b->uid, b->session, b->session_place))
        return false;
    if (s.row.n_out < b->n_out)
        s.row.n_out = b->n_out;
    if (b->has_state && b->presence.len <= PRESENCE_MAX) {
        s.row.presence = b->presence;
        s.row.flags = b->flags;
    }
    fsm_resumable_count(f, &s, 0, b->n_in);
    return true;
}

void fsm_do_session_mark(struct fsm *f, const void *body)
{
    const Imp__SessionMark *b = body;
    size_t n = b->n_items;
    for (size_t i = 0; i < b->n_items; i++)
        n += b->items[i]->n_messages;
    if (n > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d messages and sessions at once", FSM_MAX_ROWS);
        return;
    }
    for (size_t i = 0; i < b->n_items; i++) {
        const Imp__SessionMarkItem *item = b->items[i];
        const Imp__UserRow *user = fsm_find_user(f, item->uid);
        if (user && item->n_messages)
            f->out->value += fsm_message_delivered(f, item->uid, item->messages, item->n_messages);
        if (item->session)
            f->out->value2 += !user || !mark_session(f, item, fsm_has_home(f, user));
    }
}

void fsm_do_session_close(struct fsm *f, const void *body)
{
    const Imp__SessionClose *b = body;
    if (b->n_sessions > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d sessions at once", FSM_MAX_ROWS);
        return;
    }
    for (size_t i = 0; i < b->n_sessions; i++) {
        const Imp__SessionRef *ref = b->sessions[i];
        const Imp__UserRow *user = fsm_find_user(f, ref->uid);
        struct fsm_resumable s;
        if (!user || !fsm_has_home(f, user) ||
            !fsm_resumable_load(f, &s, ref->uid, ref->session, ref->session_place))
            continue;
        s.row.ended_ms = f->now_ms;
        s.row.presence.len = 0;
        if (b->keep)
            store_put_row(f->txn, TABLE_SESSION, &s.key, &s.row);
        else
            store_delete(f->txn, TABLE_SESSION, &s.key);
        f->out->value++;
    }
}
