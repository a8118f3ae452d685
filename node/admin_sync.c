/* impcli sync ...: the Sync Agent works on the publisher; any other node asks it. */
#include "base/clock.h"
#include "node/admin_handlers.h"
#include "node/sync_agent.h"

/* True when this node is the publisher; otherwise the call has been handed on. */
static bool at_publisher(struct admin_call *call)
{
    struct key key;
    key_init(&key);
    Imp__ClusterRow *cluster = store_find_row(admin_read(call), TABLE_CLUSTER, &key, &call->arena);
    if (!cluster)
        admin_fail(call, "the store is empty: this node has not caught up yet");
    else if (cluster->publisher == call->env->node_id && call->env->sync)
        return true;
    else if (cluster->publisher == call->env->node_id)
        admin_fail(call, "the Sync Agent does not run on this node");
    else
        admin_forward(call, cluster->publisher);
    return false;
}

void admin_sync_status(struct admin_call *call)
{
    struct sync_status st;
    struct buf text = {0};
    char at[ADMIN_TIME_BYTES] = "never", poll[ADMIN_TIME_BYTES] = "never";
    if (!at_publisher(call))
        return;
    sync_agent_get_status(call->env->sync, &st);
    if (st.last.completed_ms)
        clock_format_utc(at, st.last.completed_ms, 0);
    if (st.last_poll_ms)
        clock_format_utc(poll, st.last_poll_ms, 0);
    buf_addf(&text, "Sync Agent on %s: %s%s%s\n", call->env->node_name, sync_state_text(st.state),
             *st.reason ? ": " : "", st.reason);
    buf_addf(&text, "Sync Status: %s %s%s\n",
             st.last.completed_ms ? (st.last.is_ok ? "Completed" : "Failed") : "Not completed yet",
             st.last.completed_ms ? at : "", "");
    if (*st.last.result)
        buf_addf(&text, "     %s\n", st.last.result);
    if (st.last_duration_ms) /* of the last run of this node, since it is the publisher */
        buf_addf(&text, "     took %llu ms\n", (unsigned long long)st.last_duration_ms);
    buf_addf(&text, "Change Feed: %s%s%s, last poll %s, queue %s, next change %llu\n",
             sync_feed_text(st.feed), *st.feed_reason ? ": " : "", st.feed_reason, poll,
             *st.position.queue_id ? st.position.queue_id : "-", (unsigned long long)st.position.next_change);
    if (*st.ucm_release)
        buf_addf(&text, "Call Manager: release %s, AXL %s\n", st.ucm_release, st.axl_version);
    json_t *o = json_pack("{s:s, s:s, s:s, s:o, s:b, s:s, s:I, s:I, s:I, s:I, s:I}", "node",
                          call->env->node_name, "state", sync_state_text(st.state), "reason", st.reason,
                          "completed", admin_json_time(st.last.completed_ms), "ok", st.last.is_ok, "result",
                          st.last.result, "users", (json_int_t)st.last.n_users, "changed",
                          (json_int_t)st.n_changed, "removed", (json_int_t)st.n_removed, "refused",
                          (json_int_t)st.n_refused, "duration_ms", (json_int_t)st.last_duration_ms);
    json_object_set_new(o, "feed", json_string(sync_feed_text(st.feed)));
    json_object_set_new(o, "feed_reason", json_string(st.feed_reason));
    json_object_set_new(o, "last_poll", admin_json_time(st.last_poll_ms));
    json_object_set_new(o, "queue_id", json_string(st.position.queue_id));
    json_object_set_new(o, "next_change", json_integer((json_int_t)st.position.next_change));
    json_object_set_new(o, "next_in_ms", json_integer((json_int_t)st.next_in_ms));
    json_object_set_new(o, "axl_version", json_string(st.axl_version));
    json_object_set_new(o, "ucm_release", json_string(st.ucm_release));
    admin_reply(call, o, &text);
}

void admin_sync_start(struct admin_call *call)
{
    struct err_ctx err = {0};
    bool full = admin_option(call, "full") != NULL;
    if (!at_publisher(call))
        return;
    if (sync_agent_run_now(call->env->sync, full, &err))
        admin_fail(call, "%s", err.text);
    else
        admin_acted(call, full ? "a full sync begins; see impcli sync status" : "the Sync Agent runs");
}

void admin_sync_stop(struct admin_call *call)
{
    struct err_ctx err = {0};
    if (!at_publisher(call))
        return;
    if (sync_agent_hold(call->env->sync, &err))
        admin_fail(call, "%s", err.text);
    else
        admin_acted(call, "the Sync Agent is stopped; impcli sync start lets it go on");
}
