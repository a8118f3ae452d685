#include "node/watcher.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void watcher_init(struct watcher *w, uint64_t now_ms)
{
    memset(w, 0, sizeof(*w));
    w->started_ms = w->since_ms = now_ms;
    snprintf(w->reason, sizeof(w->reason), "waits for replication");
}

const char *watcher_state_name(enum watcher_state state)
{
    static const char *const names[] = {"replication", "release", "sync", "released"};
    return names[state];
}

bool watcher_is_released(const struct watcher *w)
{
    return w->state == WATCHER_RELEASED;
}

static enum watcher_state caught_up_to(const struct watcher_input *in, char *reason, size_t n)
{
    if (in->installing)
        snprintf(reason, n, "waits for replication: receives a copy of the store");
    else if (!in->leader_known && !in->target_index)
        snprintf(reason, n, "waits for replication: no contact to a quorum yet");
    else if (!in->target_index || in->applied_index < in->target_index)
        snprintf(reason, n, "waits for replication: applied %" PRIu64 " of %" PRIu64, in->applied_index,
                 in->commit_index > in->target_index ? in->commit_index : in->target_index);
    else if (!in->member_known || !in->registered)
        snprintf(reason, n, "waits for replication: registers with the cluster");
    else
        return WATCHER_RELEASED;
    return WATCHER_REPLICATION;
}

static enum watcher_state decide(const struct watcher_input *in, char *reason, size_t n)
{
    if (caught_up_to(in, reason, n) == WATCHER_REPLICATION)
        return WATCHER_REPLICATION;
    if (!in->publisher && in->publisher_release && strcmp(in->release, in->publisher_release)) {
        snprintf(
            reason, n,
            "release %s differs from the publisher's %s: install the publisher's release here (the publisher "
            "is upgraded first)",
            in->release, in->publisher_release);
        return WATCHER_RELEASE;
    }
    if (in->publisher && in->sync_configured && !in->first_sync_done) {
        snprintf(reason, n, "waits for the first user sync");
        return WATCHER_SYNC;
    }
    *reason = '\0';
    return WATCHER_RELEASED;
}

static unsigned wanted_alarms(const struct watcher *w, uint64_t now_ms)
{
    unsigned sticky = w->alarms & WATCHER_ALARM_TIMEOUT;
    if (w->state == WATCHER_RELEASE)
        return sticky | WATCHER_ALARM_MISMATCH;
    if (now_ms - w->started_ms < WATCHER_GRACE_MS)
        return w->alarms;
    if (w->state == WATCHER_REPLICATION)
        return sticky | WATCHER_ALARM_DELAY;
    if (w->state == WATCHER_SYNC)
        return sticky | WATCHER_ALARM_SYNC;
    return sticky;
}

bool watcher_step(struct watcher *w, const struct watcher_input *in)
{
    char reason[sizeof(w->reason)] = "";
    enum watcher_state state = decide(in, reason, sizeof(reason));
    if (w->state == WATCHER_RELEASED) {
        /* Released by the time-out: the alarm stays until what was waited for has come. */
        bool ends = w->timed_out && state == WATCHER_RELEASED;
        if (ends) {
            w->timed_out = false;
            w->alarms = 0;
            w->established = true;
        }
        return ends;
    }
    bool out_of_time = in->publisher && in->timeout_s &&
                       in->now_ms - w->started_ms >= (uint64_t)in->timeout_s * 1000 &&
                       state != WATCHER_RELEASED;
    if (out_of_time) {
        w->timed_out = true;
        state = WATCHER_RELEASED;
    }
    struct watcher before = *w;
    w->state = state;
    if (state != before.state)
        w->since_ms = in->now_ms;
    if (state == WATCHER_RELEASED) {
        w->established = before.alarms != 0 && !out_of_time;
        w->alarms = out_of_time ? WATCHER_ALARM_TIMEOUT : 0;
    } else {
        w->alarms = wanted_alarms(w, in->now_ms);
    }
    snprintf(w->reason, sizeof(w->reason), "%s", out_of_time ? "" : reason);
    return before.state != w->state || before.alarms != w->alarms || strcmp(before.reason, w->reason);
}
