/* impcli alarm ..., audit list, log level. */
#include "base/mem.h"
#include "node/admin_handlers.h"
#include <stdlib.h>
#include <string.h>

static const char *severity_text(uint32_t severity)
{
    static const char *const names[] = {"-", "critical", "major", "minor", "warning", "notice"};
    return names[severity < n_elements(names) ? severity : 0];
}

void admin_alarm_list(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"id", "ID"},     {"severity", "SEVERITY"}, {"name", "NAME"},
        {"node", "NODE"}, {"raised_at", "RAISED"},  {"cleared_at", "CLEARED"},
        {"text", "TEXT"}};
    bool all = admin_option(call, "all") != NULL;
    json_t *array = json_array();
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_ALARM, &prefix);
    while (store_iter_next(&it)) {
        Imp__AlarmRow *a = store_iter_row(&it, &call->arena);
        if (!a || (!all && a->cleared_ms))
            continue;
        json_array_append_new(
            array, json_pack("{s:I, s:s, s:s, s:s, s:o, s:o, s:b, s:i, s:s}", "id", (json_int_t)a->id, "name",
                             a->name, "severity", severity_text(a->severity), "node",
                             admin_node_name(call, a->node), "raised_at", admin_json_time(a->raised_ms),
                             "cleared_at", admin_json_time(a->cleared_ms), "acked", a->acked, "count",
                             (int)a->count, "text", a->text));
    }
    admin_reply_table(call, array, columns, n_elements(columns));
}

static void on_acked(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "alarm %s is acknowledged", call->args[0]);
}

void admin_alarm_ack(struct admin_call *call)
{
    char *end;
    unsigned long long id = strtoull(call->args[0], &end, 10);
    if (*end || end == call->args[0]) {
        admin_fail(call, "'%s' is not an alarm's id; impcli alarm list shows them", call->args[0]);
        return;
    }
    Imp__AlarmAck body = IMP__ALARM_ACK__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.id = id;
    command.body_case = IMP__COMMAND__BODY_ALARM_ACK;
    command.alarm_ack = &body;
    admin_propose(call, &command, on_acked);
}

void admin_audit_list(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"time", "TIME"}, {"node", "NODE"}, {"who", "WHO"}, {"command", "COMMAND"}, {"result", "RESULT"}};
    const char *limit = admin_option(call, "limit");
    long max = limit ? strtol(limit, NULL, 10) : 100;
    if (max < 1 || max > 10000) {
        admin_fail(call, "--limit is a number from 1 to 10000");
        return;
    }
    json_t *array = json_array();
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_AUDIT, &prefix);
    store_iter_descending(&it);
    while (max-- > 0 && store_iter_next(&it)) {
        Imp__AuditRow *a = store_iter_row(&it, &call->arena);
        if (a)
            json_array_insert_new(array, 0,
                                  json_pack("{s:o, s:s, s:s, s:i, s:s, s:s}", "time",
                                            admin_json_time(a->time_ms), "node",
                                            admin_node_name(call, a->node), "who", a->who, "uid",
                                            (int)a->os_uid, "command", a->command, "result", a->result));
    }
    store_iter_fini(&it);
    admin_reply_table(call, array, columns, n_elements(columns));
}

void admin_log_level(struct admin_call *call)
{
    const char *category = call->n_args == 2 ? call->args[0] : NULL;
    const char *text = call->args[call->n_args - 1];
    int level = log_level_parse(text);
    if (level < 0) {
        admin_fail(call, "'%s' is not a level: debug, info, notice, warning or error", text);
        return;
    }
    if (log_set_level(call->env->log_root, category, (enum log_level)level)) {
        admin_fail(call, "no part of the node logs as '%s'; their names stand in the lines of its log",
                   category);
        return;
    }
    admin_acted(call, "log level of %s is %s", category ? category : "everything", text);
}
