/* impcli user balance|mode: who gets which home. */
#include "base/mem.h"
#include "node/admin_handlers.h"
#include "replication/settings.h"
#include <string.h>

enum { CHUNK = 1000 }; /* users in one command */

/* ---- balance ---- */

struct balance_node {
    uint32_t id;
    const char *name;
    uint64_t before, after, movable;
    bool eligible;
};
enum { MAX_BALANCE_NODES = 64 };
struct balance_plan {
    struct balance_node nodes[MAX_BALANCE_NODES];
    unsigned n_nodes;
    uint64_t unassigned, moves;
};

static void plan_nodes(struct admin_call *call, struct balance_plan *plan)
{
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_NODE, &prefix);
    while (plan->n_nodes < MAX_BALANCE_NODES && store_iter_next(&it)) {
        Imp__NodeRow *n = store_iter_row(&it, &call->arena);
        if (n)
            plan->nodes[plan->n_nodes++] = (struct balance_node){
                .id = n->id,
                .name = n->name,
                .eligible = !n->witness && !n->drained && n->state == IMP__NODE_STATE__NODE_MEMBER};
    }
    store_iter_fini(&it);
}

static void plan_users(struct admin_call *call, struct balance_plan *plan)
{
    struct store_iter it;
    struct key prefix;
    struct arena a;
    arena_init(&a);
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_USER, &prefix);
    while (store_iter_next(&it)) {
        arena_reset(&a);
        Imp__UserRow *u = store_iter_row(&it, &a);
        for (unsigned i = 0; u && i < plan->n_nodes; i++)
            if (plan->nodes[i].id == u->home) {
                plan->nodes[i].before++;
                plan->nodes[i].movable += u->assigned_by != IMP__ASSIGNED_BY__ASSIGNED_MANUAL;
            }
        plan->unassigned += u && u->home == 0;
    }
    arena_fini(&a);
}

/* From the fullest node that has a movable user to the emptiest, until they differ by one at most. */
static void plan_moves(struct balance_plan *plan)
{
    for (unsigned i = 0; i < plan->n_nodes; i++)
        plan->nodes[i].after = plan->nodes[i].before;
    for (;;) {
        struct balance_node *from = NULL, *to = NULL;
        for (unsigned i = 0; i < plan->n_nodes; i++) {
            struct balance_node *n = &plan->nodes[i];
            if (n->movable && (!from || n->after > from->after))
                from = n;
            if (n->eligible && (!to || n->after < to->after))
                to = n;
        }
        if (!from || !to || from == to || (from->eligible && from->after <= to->after + 1))
            return;
        from->after--;
        from->movable--;
        to->after++;
        plan->moves++;
    }
}

static void balance_dry_run(struct admin_call *call)
{
    struct balance_plan plan = {0};
    struct buf text = {0};
    json_t *nodes = json_array();
    plan_nodes(call, &plan);
    plan_users(call, &plan);
    plan_moves(&plan);
    for (unsigned i = 0; i < plan.n_nodes; i++) {
        const struct balance_node *n = &plan.nodes[i];
        buf_addf(&text, "%-20s %8llu -> %llu\n", n->name, (unsigned long long)n->before,
                 (unsigned long long)n->after);
        json_array_append_new(nodes, json_pack("{s:s, s:I, s:I}", "node", n->name, "before",
                                               (json_int_t)n->before, "after", (json_int_t)n->after));
    }
    buf_addf(&text, "%llu users would move, %llu unassigned would get a home\n",
             (unsigned long long)plan.moves, (unsigned long long)plan.unassigned);
    admin_reply(call,
                json_pack("{s:b, s:I, s:I, s:o}", "dry_run", 1, "moves", (json_int_t)plan.moves, "unassigned",
                          (json_int_t)plan.unassigned, "nodes", nodes),
                &text);
}

static void balance_next(struct admin_call *call);

static void on_balanced(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    uint64_t *moved = call->state;
    if (!admin_accepted(call, result))
        return;
    *moved += result->value;
    if (result->value > 0 && result->value2 > 0)
        balance_next(call);
    else
        admin_done(call, "%llu users moved", (unsigned long long)*moved);
}

static void balance_next(struct admin_call *call)
{
    Imp__UserBalance body = IMP__USER_BALANCE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.max = CHUNK;
    command.body_case = IMP__COMMAND__BODY_USER_BALANCE;
    command.user_balance = &body;
    admin_propose(call, &command, on_balanced);
}

void admin_user_balance(struct admin_call *call)
{
    call->is_look = admin_option(call, "dry-run") != NULL;
    if (call->is_look) {
        balance_dry_run(call);
        return;
    }
    call->state = arena_zalloc(&call->arena, sizeof(uint64_t));
    balance_next(call);
}

/* ---- mode ---- */

static void on_mode_set(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "assignment mode is %s", call->args[0]);
}

void admin_user_mode(struct admin_call *call)
{
    const char *key = setting_defs[SETTING_ASSIGNMENT_MODE].key;
    call->is_look = call->n_args == 0;
    if (call->is_look) {
        const char *mode = setting_string(admin_read(call), NULL, SETTING_ASSIGNMENT_MODE, &call->arena);
        struct buf text = {0};
        buf_addf(&text, "%s\n", mode);
        admin_reply(call, json_pack("{s:s}", "mode", mode), &text);
        return;
    }
    admin_set_setting(call, key, call->args[0], on_mode_set);
}
