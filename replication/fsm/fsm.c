#include "replication/fsm/fsm_internal.h"
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum session { SESSION_NONE, SESSION_IN, SESSION_OUT };
struct command_def {
    enum session session;
    unsigned level; /* of the cluster, from which it may be proposed and executed */
    void (*apply)(struct fsm *f, const void *body);
};
enum { N_CASES = 128 };

static const struct command_def commands[N_CASES] = {
#define X(...) X_AT(1, __VA_ARGS__)
#define X_AT(level_, case_, member, session_)                                                                \
    [IMP__COMMAND__BODY_##case_] = {SESSION_##session_, level_, fsm_do_##member},
#include "replication/fsm/commands.def"
#undef X
};

/* NULL: a body that this release does not know, or none. */
static const struct command_def *find_def(const Imp__Command *command)
{
    unsigned n = command ? (unsigned)command->body_case : 0;
    return n < N_CASES && commands[n].apply && commands[n].level <= level_known() ? &commands[n] : NULL;
}

/* Below its level a command is what it is to a release that does not know it: nothing. Else two releases
 * would make two states of one log. */
static const struct command_def *command_def(const Imp__Command *command, unsigned level)
{
    const struct command_def *def = find_def(command);
    return def && def->level <= level ? def : NULL;
}

unsigned fsm_command_level(const Imp__Command *command)
{
    const struct command_def *def = find_def(command);
    return def ? def->level : UINT_MAX;
}

static Imp__ClusterRow *read_cluster(struct store_txn *txn, struct arena *arena)
{
    struct key none = fsm_key_none();
    return store_find_row(txn, TABLE_CLUSTER, &none, arena);
}

static unsigned level_of(const Imp__ClusterRow *cluster)
{
    return cluster && cluster->feature_level ? cluster->feature_level : LEVEL_FIRST;
}

unsigned fsm_level(struct store_txn *txn, struct arena *arena)
{
    return level_of(read_cluster(txn, arena));
}

/* All members of the oneof are pointers that share one place. */
static const void *command_body(const Imp__Command *command)
{
    return command->bootstrap;
}

void fsm_refuse(struct fsm *f, int code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(f->out->text, sizeof f->out->text, format, ap);
    va_end(ap);
    f->out->code = code;
}

void fsm_do_hash_point(struct fsm *f, const void *body)
{
    (void)f, (void)body;
}

void fsm_do_note(struct fsm *f, const void *body)
{
    (void)f, (void)body;
}

/* FSM time never goes back, whatever the proposers' clocks say. */
static void advance_time(struct fsm *f)
{
    struct key k = fsm_key_none();
    f->now_ms = fsm_count(f, TABLE_CLOCK, &k);
    if (f->command->time_ms <= f->now_ms)
        return;
    Imp__CountRow row = IMP__COUNT_ROW__INIT;
    row.n = f->now_ms = f->command->time_ms;
    store_put_row(f->txn, TABLE_CLOCK, &k, &row);
}

/* Writes nothing, not even an audit row: its text would differ between releases. */
static void refuse_unknown(struct fsm *f)
{
    char text[LEVEL_TEXT_MAX];
    const struct command_def *def = find_def(f->command);
    if (def)
        level_remedy(text, def->level);
    fsm_refuse(f, ERR_UNSUPPORTED, "%s", def ? text : "this release does not know the command");
}

static void apply(struct fsm *f)
{
    memset(f->out, 0, sizeof *f->out);
    const struct command_def *def = command_def(f->command, f->level);
    if (!def) {
        refuse_unknown(f);
    } else if (!f->cluster && f->command->body_case != IMP__COMMAND__BODY_BOOTSTRAP) {
        fsm_refuse(f, ERR_UNAVAILABLE, "there is no cluster yet");
    } else {
        advance_time(f);
        def->apply(f, command_body(f->command));
        if (f->command->audited)
            fsm_audit(f);
        fsm_purge_step(f);
    }
}

void fsm_apply(struct store_txn *txn, const Imp__Command *command, const struct fsm_input *in,
               struct arena *arena, struct fsm_result *out)
{
    Imp__ClusterRow *cluster = read_cluster(txn, arena);
    struct fsm f = {.txn = txn,
                    .command = command,
                    .in = in,
                    .arena = arena,
                    .out = out,
                    .cluster = cluster,
                    .level = level_of(cluster)};
    apply(&f);
}

/* The rules of proposer sessions: a sequence is used up by the one proposal that carries it, in order. */
static bool take_sequence(struct store_txn *txn, const Imp__Proposal *p, struct arena *arena)
{
    struct key k = fsm_key_u32(p->node);
    const Imp__NodeRow *node = store_find_row(txn, TABLE_NODE, &k, arena);
    Imp__ProposerRow *session = store_find_row(txn, TABLE_PROPOSER, &k, arena);
    if (!node || !session || session->epoch != p->epoch || node->epoch != p->epoch ||
        session->next_seq != p->seq)
        return false;
    session->next_seq++;
    store_put_row(txn, TABLE_PROPOSER, &k, session);
    return true;
}

bool fsm_execute(struct store_txn *txn, const Imp__Proposal *p, const struct fsm_input *in,
                 struct arena *arena, struct fsm_result *out)
{
    Imp__ClusterRow *cluster = read_cluster(txn, arena);
    const struct command_def *def = command_def(p->command, level_of(cluster));
    enum session session = def ? def->session : SESSION_NONE;
    if (!p->command || (p->node == 0) != (session == SESSION_OUT))
        return false;
    if (p->node && !take_sequence(txn, p, arena))
        return false;
    struct fsm f = {.txn = txn,
                    .command = p->command,
                    .in = in,
                    .arena = arena,
                    .out = out,
                    .proposer = p->node,
                    .cluster = cluster,
                    .level = level_of(cluster)};
    apply(&f);
    return true;
}
