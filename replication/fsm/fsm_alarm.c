#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { ALARMS_MAX = 1000, ALARMS_LOOKED_AT = 20, SEVERITY_MAX = 5 };

static struct key open_key(const char *name, uint32_t node)
{
    struct key k;
    key_init(&k);
    key_str(&k, name);
    key_u32(&k, node);
    return k;
}

static Imp__AlarmRow *find_alarm(struct fsm *f, uint64_t id)
{
    struct key k = fsm_key_u64(id);
    return id ? store_find_row(f->txn, TABLE_ALARM, &k, f->arena) : NULL;
}

static void put_alarm(struct fsm *f, const Imp__AlarmRow *row)
{
    struct key k = fsm_key_u64(row->id);
    store_put_row(f->txn, TABLE_ALARM, &k, row);
}

/* The oldest cleared ones go when there are too many. */
static void drop_old_alarms(struct fsm *f)
{
    struct store_hash hash;
    uint64_t n_alarms;
    store_table_hash(f->txn, TABLE_ALARM, &hash, &n_alarms);
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_ALARM, NULL);
    for (int n = 0; n < ALARMS_LOOKED_AT && n_alarms > ALARMS_MAX && store_iter_next(&i); n++) {
        const Imp__AlarmRow *row = store_iter_row(&i, f->arena);
        if (row && row->cleared_ms) {
            struct key k = fsm_key_u64(row->id);
            store_delete(f->txn, TABLE_ALARM, &k);
            n_alarms--;
        }
    }
    store_iter_fini(&i);
}

static void raise_again(struct fsm *f, Imp__AlarmRow *row, const Imp__AlarmRaise *b)
{
    f->out->value = row->id;
    if (!strcmp(row->text, b->text) && row->severity == b->severity)
        return;
    row->text = b->text;
    row->severity = b->severity;
    row->count++;
    put_alarm(f, row);
}

void fsm_do_alarm_raise(struct fsm *f, const void *body)
{
    const Imp__AlarmRaise *b = body;
    if (!fsm_is_text(b->name, 1, FSM_NAME_MAX) || strlen(b->text) > FSM_TEXT_MAX || !b->severity ||
        b->severity > SEVERITY_MAX) {
        fsm_refuse(f, ERR_INVALID, "the alarm's name, severity or text is not valid");
        return;
    }
    struct key open = open_key(b->name, b->node);
    Imp__AlarmRow *old = b->notice ? NULL : find_alarm(f, fsm_find_id(f, TABLE_ALARM_OPEN, &open));
    if (old) {
        raise_again(f, old, b);
        return;
    }
    Imp__AlarmRow row = IMP__ALARM_ROW__INIT;
    row.id = f->cluster->next_alarm++;
    row.name = b->name;
    row.severity = b->severity;
    row.node = b->node;
    row.raised_ms = f->now_ms;
    row.cleared_ms = b->notice ? f->now_ms : 0; /* a notice tells of a moment, it does not last */
    row.text = b->text;
    row.count = 1;
    put_alarm(f, &row);
    if (!b->notice)
        fsm_put_id(f, TABLE_ALARM_OPEN, &open, row.id);
    fsm_put_cluster(f);
    drop_old_alarms(f);
    f->out->value = row.id;
}

/* Returns whether it was open. */
static bool clear_one(struct fsm *f, const char *name, uint32_t node)
{
    struct key open = open_key(name, node);
    Imp__AlarmRow *row = find_alarm(f, fsm_find_id(f, TABLE_ALARM_OPEN, &open));
    if (row) {
        row->cleared_ms = f->now_ms;
        put_alarm(f, row);
    }
    return store_delete(f->txn, TABLE_ALARM_OPEN, &open);
}

static uint64_t clear_node(struct fsm *f, uint32_t node)
{
    uint64_t n = 0;
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_ALARM_OPEN, NULL);
    while (store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        const char *name = key_read_str(&r, f->arena);
        if (key_read_u32(&r) == node && !r.failed)
            n += clear_one(f, name, node);
    }
    return n;
}

void fsm_alarm_clear_node(struct fsm *f, uint32_t node)
{
    clear_node(f, node);
}

void fsm_do_alarm_clear(struct fsm *f, const void *body)
{
    const Imp__AlarmClear *b = body;
    if (strlen(b->name) > FSM_NAME_MAX)
        fsm_refuse(f, ERR_INVALID, "this is not an alarm's name");
    else
        f->out->value = *b->name ? clear_one(f, b->name, b->node) : clear_node(f, b->node);
}

void fsm_do_alarm_ack(struct fsm *f, const void *body)
{
    const Imp__AlarmAck *b = body;
    Imp__AlarmRow *row = find_alarm(f, b->id);
    if (!row) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no alarm %llu", (unsigned long long)b->id);
    } else if (!row->acked) {
        row->acked = true;
        put_alarm(f, row);
    }
}
