/* The feature level (docs/schema-steps.md): the leader raises it once every member's release knows the next
 * one, and has rows of before brought into the new form, a bounded step at a time. */
#include "node/node_impl.h"
#include "replication/levels.h"
#include <inttypes.h>

enum { RETRY_MS = 5000, MIGRATE_ROWS = 500, PASS_EVERY_MS = 60 * 1000 };

static unsigned known_by_all(const struct members *m)
{
    unsigned lowest = level_known();
    for (unsigned i = 0; i < m->n; i++) {
        unsigned level = m->list[i].level ? m->list[i].level : LEVEL_FIRST;
        if (level < lowest)
            lowest = level;
    }
    return lowest;
}

static void on_raised(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    n->level.in_flight = false;
    if (result->code)
        n->level.retry_ms = loop_now_ms(n->loop) + RETRY_MS;
    if (result->code && result->code != ERR_UNAVAILABLE)
        log_info(n->log, "the feature level is not raised: %s",
                 result->text && *result->text ? result->text : err_text(result->code));
}

static void raise_level(struct node *n, unsigned level)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__FeatureLevel body = IMP__FEATURE_LEVEL__INIT;
    uint8_t key[MESSAGE_KEY_BYTES];
    random_bytes(key, sizeof key);
    body.level = level;
    body.message_key = (ProtobufCBinaryData){sizeof key, key};
    command.body_case = IMP__COMMAND__BODY_FEATURE_LEVEL;
    command.feature_level = &body;
    n->level.in_flight = !control_submit(n, &command, on_raised, n);
}

/* ---- level 2: stored messages of before ---- */

static void on_migrated(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    n->level.in_flight = false;
    if (result->code) {
        n->level.retry_ms = loop_now_ms(n->loop) + RETRY_MS;
        return;
    }
    n->level.from_uid = result->value;
    n->level.from_index = result->value2;
    n->level.migrated = !result->value && n->members->level >= LEVEL_3;
    if (!result->value && n->members->level < LEVEL_3) /* what came in by an entry that was on its way is found by the next pass */
        n->level.retry_ms = loop_now_ms(n->loop) + PASS_EVERY_MS;
}

static void migrate(struct node *n)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__MessageMigrate body = IMP__MESSAGE_MIGRATE__INIT;
    body.from_uid = n->level.from_uid;
    body.from_index = n->level.from_index;
    body.max = MIGRATE_ROWS;
    command.body_case = IMP__COMMAND__BODY_MESSAGE_MIGRATE;
    command.message_migrate = &body;
    n->level.in_flight = !control_submit(n, &command, on_migrated, n);
}

static bool has_old_messages(struct node *n)
{
    struct store_hash hash;
    uint64_t n_rows;
    store_table_hash(control_read(n), TABLE_MESSAGE, &hash, &n_rows);
    return n_rows != 0 && !n->level.migrated;
}

/* From level 3 on the table also has what both parties of a message keep, which may be millions of rows: whether one
 * of before is among them is looked up here, so that nothing is proposed for want of them. False: not found yet. */
static bool find_old_message(struct node *n)
{
    enum { ROWS_PER_STEP = 2000 };
    struct store_iter i;
    struct arena a;
    struct key from;
    bool found = false, ended = false;
    arena_init(&a);
    key_init(&from);
    key_u64(&from, n->level.from_uid);
    key_u64(&from, n->level.from_index);
    store_iter_init(&i, control_read(n), TABLE_MESSAGE_INDEX, NULL);
    store_iter_seek(&i, &from);
    for (int rows = 0; !found && rows < ROWS_PER_STEP && !(ended = !store_iter_next(&i)); rows++) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        n->level.from_uid = key_read_u64(&r);
        n->level.from_index = key_read_u64(&r);
        const Imp__MessageIndexRow *row = store_iter_row(&i, &a);
        found = row && !row->message && !row->n_bytes;
        arena_reset(&a);
    }
    store_iter_fini(&i);
    arena_fini(&a);
    n->level.migrated = ended; /* none comes any more */
    return found;
}

void level_step(struct node *n)
{
    if (n->status.role != REPLICA_LEADER || !n->status.epoch || n->level.in_flight ||
        loop_now_ms(n->loop) < n->level.retry_ms)
        return;
    unsigned next = known_by_all(n->members);
    if (next > n->members->level) {
        if (!setting_bool(control_read(n), NULL, SETTING_HOLD_FEATURE_LEVEL))
            raise_level(n, next);
    } else if (n->members->level >= LEVEL_2 && has_old_messages(n)) {
        if (n->members->level < LEVEL_3 || find_old_message(n))
            migrate(n);
    }
}

void level_on_members(struct node *n, const struct members *before)
{
    if (before && before->level && before->level < n->members->level)
        log_notice(
            n->log,
            "the cluster is at feature level %u now (%s): a release from before %s cannot be used any more",
            n->members->level, level_what(n->members->level), level_release(n->members->level));
}
