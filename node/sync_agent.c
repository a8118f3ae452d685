#include "node/sync_agent.h"
#include "base/clock.h"
#include "base/mem.h"
#include "node/sync_internal.h"
#include <stdio.h>
#include <string.h>

enum { DEFAULT_INTERVAL_MS = 10000 };

const char *sync_state_text(enum sync_state state)
{
    static const char *const texts[] = {
        [SYNC_STANDBY] = "not the publisher",
        [SYNC_UNCONFIGURED] = "not configured",
        [SYNC_STOPPED] = "stopped",
        [SYNC_IDLE] = "idle",
        [SYNC_FULL] = "full sync",
        [SYNC_INCREMENTAL] = "reading changes",
        [SYNC_BACKOFF] = "waiting to retry",
        [SYNC_FAILED] = "failed",
    };
    return texts[state];
}

const char *sync_feed_text(enum sync_feed feed)
{
    static const char *const texts[] = {"unknown", "ok", "lost"};
    return texts[feed];
}

/* ---- state, alarms ---- */

void sync_agent_changed(struct sync_agent *a)
{
    if (a->ops->on_change && !a->is_closing)
        a->ops->on_change(a->node);
}

void sync_agent_set_state(struct sync_agent *a, enum sync_state state, const char *reason)
{
    if (a->status.state == state && !strcmp(a->status.reason, reason))
        return;
    a->status.state = state;
    /* The reason may be the status's own text. */
    memmove(a->status.reason, reason, strnlen(reason, sizeof a->status.reason - 1) + 1);
    a->status.reason[sizeof a->status.reason - 1] = 0;
    sync_agent_changed(a);
}

static const char *alarm_name(enum sync_alarm alarm)
{
    static const char *const names[] = {
        [SYNC_ALARM_CONNECTION] = "SyncAgentAXLConnectionFailed",
        [SYNC_ALARM_FEED] = "SyncAgentChangeFeedLost",
        [SYNC_ALARM_DUPLICATE] = "DuplicateUserid",
        [SYNC_ALARM_URI] = "DuplicateDirectoryURI",
    };
    return names[alarm];
}

static void raise_alarm(struct sync_agent *a, enum sync_alarm alarm, const char *text)
{
    if (a->alarms[alarm] == SYNC_ALARM_RAISED)
        return;
    a->alarms[alarm] = SYNC_ALARM_RAISED;
    a->ops->raise_alarm(a->node, alarm_name(alarm), text);
}

static void clear_alarm(struct sync_agent *a, enum sync_alarm alarm)
{
    if (a->alarms[alarm] == SYNC_ALARM_CLEAR)
        return;
    a->alarms[alarm] = SYNC_ALARM_CLEAR;
    a->ops->clear_alarm(a->node, alarm_name(alarm));
}

/* Nobody waits for the call manager any more. */
static void clear_raised(struct sync_agent *a)
{
    for (int i = 0; i < SYNC_N_ALARMS; i++)
        if (a->alarms[i] == SYNC_ALARM_RAISED)
            clear_alarm(a, (enum sync_alarm)i);
}

static void set_feed(struct sync_agent *a, enum sync_feed feed, const char *reason)
{
    if (a->status.feed != feed)
        a->status.feed_since_ms = clock_wall_ms();
    a->status.feed = feed;
    snprintf(a->status.feed_reason, sizeof a->status.feed_reason, "%s", reason);
    sync_agent_changed(a);
}

void sync_agent_feed_ok(struct sync_agent *a)
{
    a->n_full_in_a_row = 0;
    set_feed(a, SYNC_FEED_OK, "");
    clear_alarm(a, SYNC_ALARM_FEED);
}

void sync_agent_feed_lost(struct sync_agent *a, const char *reason)
{
    set_feed(a, SYNC_FEED_LOST, reason);
    raise_alarm(a, SYNC_ALARM_FEED, reason);
    a->status.position = (struct sync_position){.next_change = 0};
}

void sync_agent_shared_uris(struct sync_agent *a, size_t n, const char *first)
{
    char text[160];
    if (!n) {
        clear_alarm(a, SYNC_ALARM_URI);
        return;
    }
    snprintf(text, sizeof text, "%zu users have the directory URI of another one; the first is %s", n, first);
    raise_alarm(a, SYNC_ALARM_URI, text);
}

void sync_agent_connected(struct sync_agent *a)
{
    clear_alarm(a, SYNC_ALARM_CONNECTION);
}

/* ---- what to do, and when ---- */

static void schedule(struct sync_agent *a, unsigned after_ms)
{
    a->due_ms = loop_now_ms(a->loop) + after_ms;
    timer_start(&a->timer, after_ms, 0);
}

/* 1, 2, 4 ... times the shortest wait. */
static unsigned backoff_ms(const struct sync_agent *a, unsigned n_failures)
{
    uint64_t ms = (uint64_t)a->options.backoff_min_ms << (n_failures < 20 ? n_failures - 1 : 19);
    return ms < a->options.backoff_max_ms ? (unsigned)ms : a->options.backoff_max_ms;
}

static void on_axl_closed(void *user)
{
    sync_agent_run_freed(user);
}

static void close_axl(struct sync_agent *a)
{
    if (a->axl)
        axl_close(a->axl, on_axl_closed, a);
    a->axl = NULL;
}

static void abort_run(struct sync_agent *a)
{
    timer_stop(&a->timer);
    if (a->run)
        sync_run_give_up(a->run);
}

static bool open_axl(struct sync_agent *a)
{
    const struct axl_options options = {.url = a->url,
                                        .user = a->user,
                                        .password = a->password,
                                        .ca_pem = a->ca_pem,
                                        .version = a->version,
                                        .timeout_ms = a->options.timeout_ms};
    struct err_ctx err = {0};
    if (a->axl)
        return true;
    if (axl_open(&a->axl, a->loop, &options, &err)) {
        a->axl = NULL;
        sync_agent_set_state(a, SYNC_FAILED, err.text);
        raise_alarm(a, SYNC_ALARM_CONNECTION, err.text);
        return false;
    }
    a->n_open++;
    return true;
}

static void start_run(struct sync_agent *a)
{
    bool is_full = a->needs_full || !a->status.last.is_complete;
    a->needs_full = is_full;
    a->run = sync_run_new(a, is_full);
    sync_agent_set_state(a, is_full ? SYNC_FULL : SYNC_INCREMENTAL, "");
    if (is_full)
        sync_full_start(a->run);
    else
        sync_feed_start(a->run);
}

/* The first setting that is needed and not there. An attempt without them would only count as a failed
 * log-in, and they are often set one after the other. */
static const char *missing_setting(const struct sync_agent *a)
{
    return !a->url        ? "axl.url is not set"
           : !a->user     ? "axl.user is not set"
           : !a->password ? "axl.password is not set"
                          : NULL;
}

/* Does what is due now, from the agent's facts alone. */
static void go_on(struct sync_agent *a)
{
    if (a->is_closing || a->run)
        return;
    if (!a->is_publisher) {
        sync_agent_set_state(a, SYNC_STANDBY, "");
    } else if (missing_setting(a)) {
        clear_raised(a);
        sync_agent_set_state(a, SYNC_UNCONFIGURED, missing_setting(a));
    } else if (a->is_held) {
        sync_agent_set_state(a, SYNC_STOPPED, "");
    } else if (open_axl(a)) {
        start_run(a);
    }
}

static void on_timer(struct timer *t)
{
    struct sync_agent *a = container_of(t, struct sync_agent, timer);
    if (!a->run) {
        go_on(a);
        return;
    }
    /* A step of a full run that is to be tried again. */
    sync_agent_set_state(a, SYNC_FULL, "");
    a->run->step(a->run);
}

void sync_agent_run_done(struct sync_agent *a, bool was_full, bool needs_full, bool more)
{
    a->status.n_failures = 0;
    if (was_full) {
        a->needs_full = false;
        a->n_refused_full = a->status.n_refused;
    }
    a->needs_full |= needs_full;
    if (was_full && a->status.n_refused)
        raise_alarm(a, SYNC_ALARM_DUPLICATE,
                    "users were not taken: their address is another user's, or is none");
    else if (was_full)
        clear_alarm(a, SYNC_ALARM_DUPLICATE);
    sync_agent_set_state(a, SYNC_IDLE, "");
    if (!was_full && !a->needs_full && a->status.n_refused > a->n_refused_full) {
        /* Changes of several users may have met half-way; only the whole list tells. */
        a->needs_full = true;
        schedule(a, a->interval_ms);
    } else if (a->needs_full) {
        /* A queue that can be asked where it stands but never read must not cause one full run after the
         * other. */
        unsigned n = a->n_full_in_a_row++;
        schedule(a, n ? backoff_ms(a, n) : 0);
    } else {
        schedule(a, more ? 0 : a->interval_ms);
    }
}

static bool is_access_refused(enum axl_outcome outcome)
{
    return outcome == AXL_AUTH || outcome == AXL_DENIED;
}

void sync_agent_run_failed(struct sync_agent *a, bool was_full, const struct axl_error *error)
{
    enum axl_outcome outcome = error->outcome;
    /* The store, or a queue that is not served: the connection is not to blame. */
    bool is_ours = outcome == AXL_CANCELED || (outcome == AXL_FAULT && !was_full);
    bool may_pass = outcome == AXL_RETRY || outcome == AXL_THROTTLED;
    unsigned wait_ms;
    a->status.n_failures++;
    a->needs_full |= was_full;
    log_warning(loop_log(a->loop), "sync: %s run failed: %s", was_full ? "full" : "incremental", error->text);
    if (!is_ours) {
        set_feed(a, SYNC_FEED_LOST, error->text);
        /* One missed look at the queue is no alarm. A full run has tried more than once. */
        if (!may_pass || was_full || a->status.n_failures >= 3)
            raise_alarm(a, SYNC_ALARM_CONNECTION, error->text);
    }
    wait_ms = is_access_refused(outcome) ? a->options.auth_retry_ms : backoff_ms(a, a->status.n_failures);
    if (wait_ms < error->retry_after_s * 1000u)
        wait_ms = error->retry_after_s * 1000u;
    sync_agent_set_state(a, is_access_refused(outcome) ? SYNC_FAILED : SYNC_BACKOFF, error->text);
    schedule(a, wait_ms);
}

/* Another node is publisher, and this one will soon be told so; or the store knows of a later run than this
 * agent. It learns that run and waits, as if the call manager had failed. */
void sync_agent_fenced(struct sync_agent *a, const char *text)
{
    struct axl_error error = {.outcome = AXL_CANCELED};
    char words[320];
    snprintf(words, sizeof words, "the store refuses this publisher's run: %s", text);
    axl_copy_text(error.text, sizeof error.text, words);
    a->ops->read_stored(a->node, &a->status.last);
    a->status.position = a->status.last.position;
    sync_agent_run_failed(a, true, &error);
}

/* ---- settings ---- */

static bool is_same(const char *have, const char *want)
{
    return !strcmp(have ? have : "", want ? want : "");
}

static void replace(char **slot, const char *value)
{
    if (*slot)
        mem_wipe(*slot, strlen(*slot));
    mem_free(*slot);
    *slot = value && value[0] ? mem_strdup(value) : NULL;
}

/* True when the connection's settings have changed. */
static bool take_settings(struct sync_agent *a)
{
    struct sync_settings s = {.url = NULL};
    a->ops->read_settings(a->node, &s);
    bool changed = !is_same(a->url, s.url) || !is_same(a->user, s.user) ||
                   !is_same(a->password, s.password) || !is_same(a->ca_pem, s.ca_pem) ||
                   !is_same(a->version, s.version);
    replace(&a->url, s.url);
    replace(&a->user, s.user);
    replace(&a->password, s.password);
    replace(&a->ca_pem, s.ca_pem);
    replace(&a->version, s.version);
    a->interval_ms = s.interval_ms ? s.interval_ms : DEFAULT_INTERVAL_MS;
    return changed;
}

void sync_agent_settings_changed(struct sync_agent *a)
{
    unsigned old_interval_ms = a->interval_ms;
    if (a->is_closing || !a->is_publisher)
        return;
    if (take_settings(a)) {
        abort_run(a);
        close_axl(a);
        a->status.n_failures = 0;
        go_on(a);
    } else if (!a->run && a->status.state == SYNC_IDLE && a->interval_ms != old_interval_ms) {
        schedule(a, a->interval_ms);
    }
}

/* ---- role, orders ---- */

void sync_agent_start(struct sync_agent *a, uint64_t epoch)
{
    if (a->is_closing || (a->is_publisher && a->epoch == epoch))
        return;
    abort_run(a);
    a->is_publisher = true;
    a->epoch = epoch;
    memset(a->alarms, 0, sizeof a->alarms);
    a->status = (struct sync_status){.state = a->status.state};
    a->ops->read_stored(a->node, &a->status.last);
    a->status.position = a->status.last.position;
    /* The last full run may have failed after an earlier one completed: what that one would have removed is
     * still there. */
    a->needs_full = !a->status.last.is_complete || !a->status.last.is_ok || !a->status.position.queue_id[0];
    a->n_full_in_a_row = 0;
    a->recorded_failure = AXL_OK;
    if (take_settings(a))
        close_axl(a);
    go_on(a);
}

void sync_agent_stop(struct sync_agent *a)
{
    if (!a->is_publisher)
        return;
    abort_run(a);
    close_axl(a);
    a->is_publisher = a->is_held = false;
    clear_raised(a);
    sync_agent_set_state(a, SYNC_STANDBY, "");
}

static int check_can_run(struct sync_agent *a, struct err_ctx *err)
{
    if (!a->is_publisher)
        return err_set(err, ERR_UNAVAILABLE, "the Sync Agent runs on the publisher alone");
    if (missing_setting(a))
        return err_set(err, ERR_UNAVAILABLE, "sync is off: %s", missing_setting(a));
    return 0;
}

int sync_agent_run_now(struct sync_agent *a, bool full, struct err_ctx *err)
{
    int code = check_can_run(a, err);
    if (code)
        return code;
    a->is_held = false;
    a->needs_full |= full;
    if (a->run && (!timer_is_on(&a->timer) || !a->run->is_full))
        return 0; /* it is at it; what is asked for now comes after */
    schedule(a, 0);
    return 0;
}

int sync_agent_hold(struct sync_agent *a, struct err_ctx *err)
{
    int code = check_can_run(a, err);
    if (code)
        return code;
    abort_run(a);
    a->is_held = true;
    go_on(a);
    return 0;
}

void sync_agent_get_status(const struct sync_agent *a, struct sync_status *out)
{
    uint64_t now_ms = loop_now_ms(a->loop);
    *out = a->status;
    if (timer_is_on(&a->timer))
        out->next_in_ms = a->due_ms > now_ms ? a->due_ms - now_ms : 1;
}

/* ---- life ---- */

static void agent_free(struct deferred *d)
{
    struct sync_agent *a = container_of(d, struct sync_agent, closed);
    void (*on_closed)(void *user) = a->on_closed;
    void *user = a->on_closed_user;
    replace(&a->url, NULL);
    replace(&a->user, NULL);
    replace(&a->password, NULL);
    replace(&a->ca_pem, NULL);
    replace(&a->version, NULL);
    mem_free(a);
    if (on_closed)
        on_closed(user);
}

static void finish_close(struct sync_agent *a)
{
    if (a->is_closing && !a->n_open)
        loop_defer(a->loop, &a->closed);
}

void sync_agent_run_freed(struct sync_agent *a)
{
    a->n_open--;
    finish_close(a);
}

struct sync_agent *sync_agent_new(struct loop *l, const struct sync_ops *ops, void *node,
                                  const struct sync_options *options)
{
    struct sync_agent *a = mem_new(struct sync_agent);
    a->loop = l;
    a->ops = ops;
    a->node = node;
    if (options)
        a->options = *options;
    if (!a->options.page_size)
        a->options.page_size = SYNC_MAX_BATCH;
    if (!a->options.backoff_min_ms)
        a->options.backoff_min_ms = 1000;
    if (!a->options.backoff_max_ms)
        a->options.backoff_max_ms = 60000;
    if (!a->options.auth_retry_ms)
        a->options.auth_retry_ms = 30 * 60000;
    a->interval_ms = DEFAULT_INTERVAL_MS;
    timer_init(&a->timer, l, on_timer);
    list_init(&a->closed.link);
    a->closed.fn = agent_free;
    return a;
}

void sync_agent_close(struct sync_agent *a, void (*on_closed)(void *user), void *user)
{
    if (a->is_closing)
        return;
    abort_run(a);
    a->is_closing = true;
    a->on_closed = on_closed;
    a->on_closed_user = user;
    close_axl(a);
    finish_close(a);
}
