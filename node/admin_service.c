/* impcli service ...: services of all nodes. A request for another node is handed on to it. */
#include "base/clock.h"
#include "base/mem.h"
#include "node/admin_calls.h"
#include "node/admin_handlers.h"
#include "node/service.h"
#include <string.h>

static json_t *services_json(const struct admin_env *env)
{
    json_t *array = json_array();
    for (int i = 0; i < N_SERVICES; i++) {
        struct service_status st;
        services_get(env->services, (enum service_id)i, &st);
        json_array_append_new(array,
                              json_pack("{s:s, s:s, s:s, s:s, s:s, s:o, s:b}", "node", env->node_name, "name",
                                        service_name((enum service_id)i), "kind",
                                        service_kind_name(service_kind((enum service_id)i)), "state",
                                        service_state_name(st.state), "reason", st.reason ? st.reason : "",
                                        "since", admin_json_time(st.since_ms), "active", st.active));
    }
    return array;
}

void admin_call_services(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                         size_t n_bytes)
{
    json_t *array = services_json(user);
    char *text = json_dumps(array, JSON_COMPACT);
    link_answer(request, 0, text, text ? strlen(text) : 0);
    free(text);
    json_decref(array);
}

struct listing {
    struct admin_gather gather;
    json_t *array;
    uint32_t only; /* node id, 0: all */
};

static void on_services(struct admin_gather *g, uint32_t node, int code, const uint8_t *data, size_t n_bytes)
{
    struct listing *l = container_of(g, struct listing, gather);
    if (l->only && l->only != node)
        return;
    json_t *array = code == 0 ? json_loadb((const char *)data, n_bytes, 0, NULL) : NULL;
    if (json_is_array(array))
        json_array_extend(l->array, array);
    else
        json_array_append_new(l->array,
                              json_pack("{s:s, s:s, s:s, s:s, s:s, s:n}", "node",
                                        admin_node_name(g->call, node), "name", "(all)", "kind", "network",
                                        "state", "failed", "reason", "the node does not answer", "since"));
    json_decref(array);
}

static const char *node_of(const json_t *row)
{
    const char *name = json_string_value(json_object_get(row, "node"));
    return name ? name : "";
}

/* The answers in the order of the nodes' names, not in that in which they came. */
static json_t *by_node(json_t *rows)
{
    size_t n = json_array_size(rows);
    json_t *sorted = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *row = json_array_get(rows, i);
        size_t at = json_array_size(sorted);
        while (at > 0 && strcmp(node_of(json_array_get(sorted, at - 1)), node_of(row)) > 0)
            at--;
        json_array_insert(sorted, at, row);
    }
    json_decref(rows);
    return sorted;
}

static void on_all_services(struct admin_gather *g)
{
    static const struct admin_column columns[] = {{"node", "NODE"},     {"name", "SERVICE"},
                                                  {"kind", "KIND"},     {"state", "STATE"},
                                                  {"reason", "REASON"}, {"since", "SINCE"}};
    struct listing *l = container_of(g, struct listing, gather);
    admin_reply_table(g->call, by_node(l->array), columns, n_elements(columns));
}

void admin_service_list(struct admin_call *call)
{
    struct listing *l = arena_zalloc(&call->arena, sizeof *l);
    if (call->n_args) {
        Imp__NodeRow *n = admin_find_node(call, call->args[0]);
        if (!n)
            return;
        l->only = n->id;
    }
    l->gather = (struct admin_gather){.call = call, .on_reply = on_services, .on_all = on_all_services};
    l->array = json_array();
    if (!l->only || l->only == call->env->node_id) {
        json_t *own = services_json(call->env);
        json_array_extend(l->array, own);
        json_decref(own);
    }
    if (l->only == call->env->node_id)
        on_all_services(&l->gather);
    else
        admin_gather(&l->gather, "services", NULL, 0);
}

/* ---- start, stop, restart ---- */

/* The service and the node of NAME [NODE]; false: the call has been answered. */
static bool target(struct admin_call *call, int *service, uint32_t *node)
{
    *service = service_find(call->args[0]);
    if (*service < 0) {
        admin_fail(call, "there is no service '%s'; impcli service list shows them", call->args[0]);
        return false;
    }
    *node = call->env->node_id;
    if (call->n_args == 2) {
        Imp__NodeRow *n = admin_find_node(call, call->args[1]);
        if (!n)
            return false;
        *node = n->id;
    }
    return true;
}

static void request(struct admin_call *call, enum service_request what)
{
    struct err_ctx err = {0};
    struct service_status st;
    uint32_t node;
    int id;
    if (!target(call, &id, &node))
        return;
    if (node != call->env->node_id) {
        admin_forward(call, node);
    } else if (services_request(call->env->services, (enum service_id)id, what, clock_wall_ms(), &err)) {
        admin_fail(call, "%s", err.text);
    } else {
        services_get(call->env->services, (enum service_id)id, &st);
        admin_acted(call, "%s on %s is %s%s%s", service_name((enum service_id)id), call->env->node_name,
                    service_state_name(st.state), st.reason && *st.reason ? ": " : "",
                    st.reason ? st.reason : "");
    }
}

void admin_service_start(struct admin_call *call)
{
    request(call, SERVICE_START);
}

void admin_service_stop(struct admin_call *call)
{
    request(call, SERVICE_STOP);
}

void admin_service_restart(struct admin_call *call)
{
    request(call, SERVICE_RESTART);
}

/* ---- activation: stored ---- */

static void on_activation(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    if (admin_accepted(call, result))
        admin_done(call, "%s is %sd on %s", call->args[0], call->command->verb,
                   call->n_args == 2 ? call->args[1] : call->env->node_name);
}

static void set_active(struct admin_call *call, bool active)
{
    uint32_t node;
    int id;
    if (!target(call, &id, &node))
        return;
    if (!service_is_optional((enum service_id)id)) {
        admin_fail(call, "%s runs on every node: it cannot be switched off", call->args[0]);
        return;
    }
    Imp__ServiceSet body = IMP__SERVICE_SET__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = node;
    body.service = (char *)call->args[0];
    body.active = active;
    command.body_case = IMP__COMMAND__BODY_SERVICE_SET;
    command.service_set = &body;
    admin_propose(call, &command, on_activation);
}

void admin_service_activate(struct admin_call *call)
{
    set_active(call, true);
}

void admin_service_deactivate(struct admin_call *call)
{
    set_active(call, false);
}
