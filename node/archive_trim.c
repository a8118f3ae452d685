/* Retention of the archives (archive.retention, archive.messages_per_user): the leader goes over them, a
 * bounded number of rows at a time, and proposes what is to go out of them; nothing is written while nothing
 * is too old or too much.
 *
 *   NEXT -> AGE -> COUNT -> EXCESS -> NEXT ... of each user in turn; then the pass is over, and the next one
 * waits */
#include "base/clock.h"
#include "node/node_impl.h"
#include "replication/levels.h"
#include <string.h>

enum {
    ROWS_PER_STEP = 2000, /* looked at in one step: a few milliseconds */
    ROWS_PER_COMMAND = 1000,
    USERS_PER_COMMAND = 200,
    PASS_MIN_MS = 1000,
    PASS_MAX_MS = 3600 * 1000,
    RETRY_MS = 5000,
};

enum trim_state { TRIM_NEXT, TRIM_AGE, TRIM_COUNT, TRIM_EXCESS };

struct archive_trim {
    struct node *node;
    bool in_flight, running;
    uint64_t due_ms; /* when the next pass begins, or a step is tried again */
    enum trim_state state;
    uint64_t uid;
    struct key at;                /* of the row last looked at; empty: none of this user yet */
    uint64_t n_found, excess;     /* messages of the user; those beyond the limit */
    uint64_t retention_ms, limit; /* the settings; 0: no such limit */
    uint64_t before_ms;           /* what came before then is too old; 0: nothing is */
    Imp__ArchiveTrimUser users[USERS_PER_COMMAND]; /* the command being made */
    unsigned n_users, n_rows;
};

static struct key user_key(uint64_t uid)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    return k;
}

/* ---- proposing ---- */

static void on_trimmed(void *user, const struct proposal_result *result)
{
    struct archive_trim *t = user;
    t->in_flight = false;
    if (result->code) { /* nothing is lost by looking again */
        t->running = false;
        t->due_ms = loop_now_ms(t->node->loop) + RETRY_MS;
    }
}

static void flush(struct archive_trim *t)
{
    Imp__ArchiveTrimUser *users[USERS_PER_COMMAND];
    if (!t->n_users)
        return;
    for (unsigned i = 0; i < t->n_users; i++)
        users[i] = &t->users[i];
    Imp__ArchiveTrim body = IMP__ARCHIVE_TRIM__INIT;
    body.n_users = t->n_users;
    body.users = users;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_ARCHIVE_TRIM;
    command.archive_trim = &body;
    t->in_flight = !control_submit(t->node, &command, on_trimmed, t);
    t->running &= t->in_flight;
    t->n_users = t->n_rows = 0;
}

static bool is_full(const struct archive_trim *t)
{
    return t->n_rows >= ROWS_PER_COMMAND || t->n_users == USERS_PER_COMMAND;
}

/* The user's messages go up to and with the row that was looked at last. */
static void add_user(struct archive_trim *t)
{
    struct key_reader r;
    key_read(&r, t->at.bytes, t->at.n);
    Imp__ArchiveTrimUser *u = &t->users[t->n_users++];
    imp__archive_trim_user__init(u);
    u->uid = key_read_u64(&r);
    u->index = key_read_u64(&r);
    u->place = key_read_u32(&r);
}

/* ---- looking ---- */

/* The first user with an uid of FROM or more that has messages; 0: none. */
static uint64_t find_user(struct store_txn *txn, uint64_t from)
{
    struct key k = user_key(from);
    struct store_iter i;
    uint64_t uid = 0;
    store_iter_init(&i, txn, TABLE_MESSAGE_INDEX, NULL);
    store_iter_seek(&i, &k);
    if (store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        uid = key_read_u64(&r);
    }
    store_iter_fini(&i);
    return uid;
}

static uint64_t time_of(struct store_txn *txn, const struct store_iter *i, const Imp__MessageIndexRow *row,
                        struct arena *a)
{
    enum { UID_BYTES = 8 };
    struct key k;
    key_init(&k);
    key_bytes(&k, (const uint8_t *)i->key + UID_BYTES, i->n_key - UID_BYTES);
    const Imp__MessageRow *body = row->message ? row->message : store_find_row(txn, TABLE_MESSAGE, &k, a);
    return body ? body->time_ms : 0;
}

/* Goes on over the user's rows. ROWS of them that are archived are taken (with BEFORE_MS: as long as they are
 * older); returns whether that came to its end, and the budget was not all. */
static bool walk(struct archive_trim *t, uint64_t before_ms, uint64_t rows, uint64_t *taken, unsigned *budget)
{
    struct store_txn *txn = control_read(t->node);
    struct key prefix = user_key(t->uid);
    struct store_iter i;
    struct arena a;
    bool ended = false;
    arena_init(&a);
    store_iter_init(&i, txn, TABLE_MESSAGE_INDEX, &prefix);
    if (t->at.n)
        store_iter_seek(&i, &t->at);
    while (*taken < rows && *budget) {
        if (!store_iter_next(&i)) {
            ended = true;
            break;
        }
        if (t->at.n == i.n_key && memcmp(t->at.bytes, i.key, i.n_key) == 0)
            continue;
        --*budget;
        const Imp__MessageIndexRow *row = store_iter_row(&i, &a);
        if (row && row->archived && before_ms && time_of(txn, &i, row, &a) >= before_ms) {
            ended = true;
            break;
        }
        key_init(&t->at);
        key_bytes(&t->at, i.key, i.n_key);
        *taken += row && row->archived;
        arena_reset(&a);
    }
    store_iter_fini(&i);
    arena_fini(&a);
    return ended || *taken >= rows;
}

static void enter(struct archive_trim *t, enum trim_state state)
{
    t->state = state;
    t->at.n = 0;
    t->n_found = 0;
}

/* AGE and EXCESS: rows from the user's first one on, as many as the command has room for. */
static void take_rows(struct archive_trim *t, uint64_t before_ms, uint64_t rows, unsigned *budget)
{
    uint64_t room = ROWS_PER_COMMAND - t->n_rows;
    if (!walk(t, before_ms, rows < room ? rows : room, &t->n_found, budget))
        return;
    bool all = t->n_found < room || rows <= room;
    if (t->n_found) {
        add_user(t);
        t->n_rows += (unsigned)t->n_found;
    }
    if (t->state == TRIM_EXCESS)
        t->excess -= t->n_found < t->excess ? t->n_found : t->excess;
    if (!all) {
        enter(t, t->state); /* the rest once these are gone */
        flush(t);
        return;
    }
    enter(t, t->state == TRIM_AGE && t->limit ? TRIM_COUNT : TRIM_NEXT);
}

static void end_pass(struct archive_trim *t)
{
    uint64_t every = t->retention_ms ? t->retention_ms / 10 : PASS_MAX_MS;
    flush(t);
    t->running = false;
    every = every < PASS_MIN_MS ? PASS_MIN_MS : every > PASS_MAX_MS ? PASS_MAX_MS : every;
    t->due_ms = loop_now_ms(t->node->loop) + every;
}

static void look(struct archive_trim *t, unsigned *budget)
{
    switch (t->state) {
    case TRIM_NEXT:
        t->uid = find_user(control_read(t->node), t->uid + 1);
        --*budget;
        if (t->uid)
            enter(t, t->before_ms ? TRIM_AGE : TRIM_COUNT);
        else
            end_pass(t);
        break;
    case TRIM_AGE:
        take_rows(t, t->before_ms, UINT64_MAX, budget);
        break;
    case TRIM_COUNT:
        if (!walk(t, 0, UINT64_MAX, &t->n_found, budget))
            break;
        t->excess = t->n_found > t->limit ? t->n_found - t->limit : 0;
        enter(t, t->excess ? TRIM_EXCESS : TRIM_NEXT);
        break;
    case TRIM_EXCESS:
        take_rows(t, 0, t->excess, budget);
        break;
    }
}

void archive_trim_step(struct node *n)
{
    struct archive_trim *t = n->archive_trim;
    if (n->status.role != REPLICA_LEADER || !n->status.epoch || n->members->level < LEVEL_3) {
        if (t && !t->in_flight)
            t->running = false;
        return;
    }
    if (!t) {
        t = n->archive_trim = mem_new(struct archive_trim);
        t->node = n;
    }
    if (t->in_flight)
        return;
    uint64_t retention_ms = 1000 * (uint64_t)setting_int(control_read(n), NULL, SETTING_ARCHIVE_RETENTION);
    uint64_t limit = (uint64_t)setting_int(control_read(n), NULL, SETTING_ARCHIVE_LIMIT),
             now = clock_wall_ms();
    if (retention_ms != t->retention_ms || limit != t->limit) { /* at once */
        t->running = false;
        t->due_ms = 0;
    }
    t->retention_ms = retention_ms;
    t->limit = limit;
    if (loop_now_ms(n->loop) < t->due_ms)
        return;
    t->before_ms = retention_ms && now > retention_ms ? now - retention_ms : 0;
    if (!t->running) {
        t->running = t->before_ms || t->limit;
        t->uid = t->n_users = t->n_rows = 0;
        enter(t, TRIM_NEXT);
    }
    for (unsigned budget = ROWS_PER_STEP; t->running && !t->in_flight && budget;) {
        look(t, &budget);
        if (is_full(t))
            flush(t);
    }
}

void archive_trim_free(struct archive_trim *t)
{
    mem_free(t);
}
