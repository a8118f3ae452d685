/* impcli user list|show|count|assign|unassign|remove|lock|unlock. */
#include "base/mem.h"
#include "im/session_admin.h"
#include "node/admin_calls.h"
#include "node/admin_handlers.h"
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1000 }; /* users in one command */

static const char *assigned_text(Imp__AssignedBy by)
{
    switch (by) {
    case IMP__ASSIGNED_BY__ASSIGNED_BALANCED:
        return "balanced";
    case IMP__ASSIGNED_BY__ASSIGNED_ACTIVE_STANDBY:
        return "active-standby";
    case IMP__ASSIGNED_BY__ASSIGNED_MANUAL:
        return "manual";
    default:
        return "none";
    }
}

static const char *source_text(const Imp__UserRow *u)
{
    return u->source == IMP__USER_SOURCE__SOURCE_AXL ? "axl" : "local";
}

/* ---- list ---- */

struct user_filter {
    uint32_t node;
    bool by_node, unassigned;
};

static void user_append(struct admin_call *call, json_t *array, const Imp__UserRow *u)
{
    json_array_append_new(array, json_pack("{s:s, s:s, s:s, s:s}", "user", admin_user_jid(call, u), "home",
                                           admin_node_name(call, u->home), "assigned_by",
                                           assigned_text(u->assigned_by), "source", source_text(u)));
}

void admin_user_list(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"user", "USER"}, {"home", "HOME"}, {"assigned_by", "ASSIGNED BY"}, {"source", "SOURCE"}};
    struct user_filter filter = {.unassigned = admin_option(call, "unassigned") != NULL};
    const char *name = admin_option(call, "node");
    if (name) {
        Imp__NodeRow *n = admin_find_node(call, name);
        if (!n)
            return;
        filter.node = n->id;
        filter.by_node = true;
    }
    json_t *array = json_array();
    struct store_iter it;
    struct key prefix;
    struct arena row_arena;
    arena_init(&row_arena);
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_USER_BY_JID, &prefix);
    while (store_iter_next(&it)) {
        struct key key;
        arena_reset(&row_arena);
        Imp__IdRow *id = store_iter_row(&it, &row_arena);
        key_init(&key);
        key_u64(&key, id ? id->id : 0);
        Imp__UserRow *u = store_find_row(admin_read(call), TABLE_USER, &key, &row_arena);
        if (u && (!filter.by_node || u->home == filter.node) && (!filter.unassigned || u->home == 0))
            user_append(call, array, u);
    }
    arena_fini(&row_arena);
    admin_reply_table(call, array, columns, n_elements(columns));
}

/* ---- show ---- */

static const char *text_of(json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "-";
}

static void show_with_sessions(struct admin_call *call, json_t *sessions)
{
    json_t *o = call->state;
    struct buf text = {0};
    const char *key;
    json_t *value;
    size_t i;
    json_object_set_new(o, "sessions", sessions);
    json_object_foreach(o, key, value)
    {
        if (json_is_string(value))
            buf_addf(&text, "%-14s%s\n", key, json_string_value(value));
        else if (json_is_boolean(value))
            buf_addf(&text, "%-14s%s\n", key, json_is_true(value) ? "yes" : "no");
    }
    buf_addf(&text, "%-14s%zu\n", "sessions", json_array_size(sessions));
    json_array_foreach(sessions, i, value)
    {
        buf_addf(&text, "  %s  on %s  from %s  since %s\n", text_of(value, "resource"),
                 text_of(value, "node"), text_of(value, "ip"), text_of(value, "since"));
    }
    call->state = NULL;
    admin_reply(call, o, &text);
}

void admin_user_show(struct admin_call *call)
{
    Imp__UserRow *u = admin_find_user(call, call->args[0]);
    if (!u)
        return;
    uint32_t active = admin_active_home(call, u);
    call->state =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:b}", "user", admin_user_jid(call, u), "uuid",
                  u->uuid, "display_name", u->display_name, "source", source_text(u), "home",
                  admin_node_name(call, u->home), "assigned_by", assigned_text(u->assigned_by), "active_home",
                  admin_node_name(call, active), "locked", u->locked);
    admin_collect_sessions(call, u->uid, show_with_sessions);
}

void admin_user_count(struct admin_call *call)
{
    static const struct admin_column columns[] = {{"node", "NODE"}, {"users", "USERS"}};
    struct store_iter it;
    struct key prefix, key;
    json_t *array = json_array();
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_NODE, &prefix);
    while (store_iter_next(&it)) {
        Imp__NodeRow *n = store_iter_row(&it, &call->arena);
        key_init(&key);
        key_u32(&key, n ? n->id : 0);
        Imp__CountRow *count = store_find_row(admin_read(call), TABLE_HOME_COUNT, &key, &call->arena);
        if (n)
            json_array_append_new(
                array, json_pack("{s:s, s:I}", "node", n->name, "users", (json_int_t)(count ? count->n : 0)));
    }
    key_init(&key);
    key_u32(&key, 0);
    Imp__CountRow *count = store_find_row(admin_read(call), TABLE_HOME_COUNT, &key, &call->arena);
    json_array_append_new(
        array, json_pack("{s:s, s:I}", "node", "(unassigned)", "users", (json_int_t)(count ? count->n : 0)));
    admin_reply_table(call, array, columns, n_elements(columns));
}

/* ---- assign: pairs of uid and node, grouped by node, a thousand in one command ---- */

struct assignment {
    uint64_t uid;
    uint32_t node;
};
struct assign_state {
    struct assignment *list;
    size_t n, cap, next;
    uint64_t n_moved;
};

static struct assign_state *assign_state_new(struct admin_call *call)
{
    return call->state = arena_zalloc(&call->arena, sizeof(struct assign_state));
}

static void assign_add(struct admin_call *call, struct assign_state *s, uint64_t uid, uint32_t node)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 256;
        struct assignment *list = arena_alloc(&call->arena, cap * sizeof *list);
        if (s->n)
            memcpy(list, s->list, s->n * sizeof *list);
        s->list = list;
        s->cap = cap;
    }
    s->list[s->n++] = (struct assignment){uid, node};
}

static void assign_next(struct admin_call *call);

static void on_assigned(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    struct assign_state *s = call->state;
    if (result->code && s->n_moved) {
        admin_fail(call, "%llu users moved, then: %s", (unsigned long long)s->n_moved,
                   *result->text ? result->text : err_text(result->code));
        return;
    }
    if (!admin_accepted(call, result))
        return;
    s->n_moved += result->value;
    assign_next(call);
}

static void assign_next(struct admin_call *call)
{
    struct assign_state *s = call->state;
    uint64_t uids[CHUNK];
    size_t n = 0;
    if (s->n == 0) {
        admin_fail(call, "the file names no user; nothing was changed");
        return;
    }
    if (s->next == s->n) {
        admin_done(call, "%zu user%s %s, %llu of them changed", s->n, s->n == 1 ? "" : "s",
                   s->n && s->list[0].node ? "assigned" : "unassigned", (unsigned long long)s->n_moved);
        return;
    }
    uint32_t node = s->list[s->next].node;
    while (s->next < s->n && n < CHUNK && s->list[s->next].node == node)
        uids[n++] = s->list[s->next++].uid;
    Imp__UserAssign body = IMP__USER_ASSIGN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.n_uids = n;
    body.uids = uids;
    body.node = node;
    command.body_case = IMP__COMMAND__BODY_USER_ASSIGN;
    command.user_assign = &body;
    admin_propose(call, &command, on_assigned);
}

/* Nothing is proposed before every line is known to be good. */
static bool assign_read_csv(struct admin_call *call, struct assign_state *s)
{
    const char *p = call->input, *end = call->input + call->n_input;
    for (unsigned line = 1; p < end; line++) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        size_t len = (size_t)((nl ? nl : end) - p);
        char *text = arena_strndup(&call->arena, p, len);
        p += len + 1;
        text[strcspn(text, "\r")] = 0;
        if (!*text || *text == '#')
            continue;
        char *comma = strchr(text, ',');
        if (!comma) {
            admin_fail(call, "line %u: expected USER,NODE, found '%.100s'; nothing was changed", line, text);
            return false;
        }
        *comma = 0;
        Imp__NodeRow *n = admin_find_node(call, comma + 1);
        Imp__UserRow *u = n ? admin_find_user(call, text) : NULL;
        if (!u)
            return false;
        assign_add(call, s, u->uid, n->id);
    }
    return true;
}

void admin_user_assign(struct admin_call *call)
{
    struct assign_state *s = assign_state_new(call);
    const char *name = admin_option(call, "node");
    if (admin_option(call, "file")) {
        if (call->n_args || name)
            admin_fail(call, "either --file, or users and --node");
        else if (assign_read_csv(call, s))
            assign_next(call);
        return;
    }
    if (!name || call->n_args == 0) {
        admin_fail(call, "say which users and --node NODE, or --file CSV");
        return;
    }
    Imp__NodeRow *n = admin_find_node(call, name);
    if (!n)
        return;
    for (unsigned i = 0; i < call->n_args; i++) {
        Imp__UserRow *u = admin_find_user(call, call->args[i]);
        if (!u)
            return;
        assign_add(call, s, u->uid, n->id);
    }
    assign_next(call);
}

void admin_user_unassign(struct admin_call *call)
{
    struct assign_state *s = assign_state_new(call);
    for (unsigned i = 0; i < call->n_args; i++) {
        Imp__UserRow *u = admin_find_user(call, call->args[i]);
        if (!u)
            return;
        assign_add(call, s, u->uid, 0);
    }
    assign_next(call);
}

/* ---- remove, lock ---- */

static void on_user_changed(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "%s is %sed", call->args[0],
                   call->command->verb[0] == 'r' ? "remov" : call->command->verb);
}

void admin_user_remove(struct admin_call *call)
{
    Imp__UserRow *u = admin_find_user(call, call->args[0]);
    if (!u)
        return;
    if (u->source == IMP__USER_SOURCE__SOURCE_AXL) {
        admin_fail(call, "%s comes from the call manager: take the user out there, or lock it here",
                   call->args[0]);
        return;
    }
    Imp__UserRemove body = IMP__USER_REMOVE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.uid = u->uid;
    command.body_case = IMP__COMMAND__BODY_USER_REMOVE;
    command.user_remove = &body;
    admin_propose(call, &command, on_user_changed);
}

static void set_locked(struct admin_call *call, bool locked)
{
    Imp__UserRow *u = admin_find_user(call, call->args[0]);
    if (!u)
        return;
    Imp__UserLock body = IMP__USER_LOCK__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.uid = u->uid;
    body.locked = locked;
    command.body_case = IMP__COMMAND__BODY_USER_LOCK;
    command.user_lock = &body;
    admin_propose(call, &command, on_user_changed);
}

void admin_user_lock(struct admin_call *call)
{
    set_locked(call, true);
}

void admin_user_unlock(struct admin_call *call)
{
    set_locked(call, false);
}
