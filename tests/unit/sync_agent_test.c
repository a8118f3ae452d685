/* The Sync Agent against a real ucmsim and a store in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/mem.h"
#include "sync_store.h"
#include "ucmsim_process.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DEADLINE_MS = 30000, LONG_MS = 3600000 };

struct fixture {
    struct ucmsim sim;
    struct log *log;
    struct loop *loop;
    struct sync_agent *agent;
    struct sync_store store;
    struct sync_options options;
    struct timer check;
    bool (*is_there)(struct fixture *f);
    uint64_t deadline_ms;
    size_t want;
    struct sync_status status;
};

/* ---- waiting ---- */

static void on_check(struct timer *t)
{
    struct fixture *f = container_of(t, struct fixture, check);
    if (f->agent)
        sync_agent_get_status(f->agent, &f->status);
    if (f->is_there(f) || clock_monotonic_ms() > f->deadline_ms)
        loop_stop(f->loop);
}

#define WAIT(f, condition)                                                                                   \
    do {                                                                                                     \
        (f)->is_there = (condition);                                                                         \
        (f)->deadline_ms = clock_monotonic_ms() + DEADLINE_MS;                                               \
        timer_start(&(f)->check, 1, 1);                                                                      \
        loop_run((f)->loop);                                                                                 \
        timer_stop(&(f)->check);                                                                             \
        if (!(f)->is_there(f))                                                                               \
            fail_msg("not in time: %s; state %s %s; trace %s; alarms %s", #condition,                        \
                     sync_state_text((f)->status.state), (f)->status.reason, (f)->store.trace.data,          \
                     (f)->store.alarms.data);                                                                \
    } while (0)

static bool is_idle(struct fixture *f)
{
    return f->status.state == SYNC_IDLE && f->status.next_in_ms > 1;
}
static bool is_full_done(struct fixture *f)
{
    return is_idle(f) && f->status.last.is_ok && f->status.last.run >= f->want;
}
static bool has_users(struct fixture *f)
{
    return f->store.n_users == f->want && is_idle(f);
}
static bool is_backing_off(struct fixture *f)
{
    return f->status.state == SYNC_BACKOFF;
}
static bool is_failed(struct fixture *f)
{
    return f->status.state == SYNC_FAILED;
}
static bool is_standby(struct fixture *f)
{
    return f->status.state == SYNC_STANDBY;
}
static bool is_closed(struct fixture *f)
{
    return !f->agent;
}
static bool has_position(struct fixture *f)
{
    return is_idle(f) && f->store.stored.position.next_change == f->want;
}
static bool is_feed_ok(struct fixture *f)
{
    return is_idle(f) && f->status.feed == SYNC_FEED_OK;
}
static bool is_feed_lost(struct fixture *f)
{
    return f->status.feed == SYNC_FEED_LOST && f->status.last.is_ok && f->status.state == SYNC_BACKOFF;
}
static bool is_after_first_page(struct fixture *f)
{
    return f->status.state == SYNC_FULL && f->status.n_listed >= 100;
}
static bool has_failed_often(struct fixture *f)
{
    return f->status.n_failures >= 3;
}

/* ---- set-up ---- */

static void start_sim(struct fixture *f, const char *n_users, const char *more, const char *value)
{
    const char *const args[] = {"--users", n_users, more, value, NULL};
    ucmsim_start(&f->sim, args);
    f->store.settings = (struct sync_settings){.url = f->sim.url,
                                               .user = "axluser",
                                               .password = "axlpassword",
                                               .ca_pem = f->sim.ca_pem,
                                               .interval_ms = 20};
}

static void start_agent(struct fixture *f)
{
    f->agent = sync_agent_new(f->loop, &sync_store_ops, &f->store, &f->options);
    sync_agent_start(f->agent, 1);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    f->log = log_new(STDERR_FILENO, LOG_TEXT, LOG_ERROR, "");
    assert_int_equal(loop_new(&f->loop, "test", f->log), 0);
    sync_store_init(&f->store, f->loop);
    f->options = (struct sync_options){
        .page_size = 100, .backoff_min_ms = 5, .backoff_max_ms = 40, .auth_retry_ms = LONG_MS};
    timer_init(&f->check, f->loop, on_check);
    *state = f;
    return 0;
}

static void on_closed(void *user)
{
    ((struct fixture *)user)->agent = NULL;
}

static void close_agent(struct fixture *f)
{
    sync_agent_close(f->agent, on_closed, f);
    sync_agent_close(f->agent, on_closed, f);
    WAIT(f, is_closed);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->agent)
        close_agent(f);
    loop_free(f->loop);
    sync_store_fini(&f->store);
    log_free(f->log);
    if (f->sim.pid)
        ucmsim_stop(&f->sim);
    mem_free(f);
    return 0;
}

static void order(struct fixture *f, const char *method, const char *path, const char *body)
{
    ucmsim_order(&f->sim, method, path, body);
}

static void fault(struct fixture *f, const char *json)
{
    ucmsim_order(&f->sim, "POST", "/faults", json);
}

static void wait_for_run(struct fixture *f, uint64_t run)
{
    f->want = run;
    WAIT(f, is_full_done);
}

static void wait_for_users(struct fixture *f, size_t n)
{
    f->want = n;
    WAIT(f, has_users);
}

static bool alarms_have(struct fixture *f, const char *what)
{
    return strstr(f->store.alarms.data, what) != NULL;
}

/* ---- full runs ---- */

static void ten_thousand_users(void **state)
{
    struct fixture *f = *state;
    f->options.page_size = 0; /* as in a node */
    f->store.answer_ms = 5;   /* a replicated commit */
    start_sim(f, "10000", NULL, NULL);
    uint64_t start = clock_monotonic_ms();
    start_agent(f);
    wait_for_run(f, 1);
    uint64_t took = clock_monotonic_ms() - start;
    print_message("10,000 users in %llu ms (commits of 5 ms), at most %u commits under way\n",
                  (unsigned long long)took, f->store.max_waiting);
    assert_int_equal(f->store.n_users, 10000);
    assert_int_equal(f->status.n_listed, 10000);
    assert_int_equal(f->status.n_taken, 10000);
    assert_int_equal(f->status.n_changed, 10000);
    assert_int_equal(f->store.n_users_commits, 10);
    assert_int_equal(f->store.n_remove_commits, 0);
    assert_string_equal(f->status.ucm_release, "14.0.1.13900(155)");
    assert_int_equal(f->status.feed, SYNC_FEED_OK);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(took < 5000);
#endif
}

static void only_our_users_are_taken(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "250", "--without-im", "30");
    order(f, "PATCH", "/users?like=user000%25", "{\"homeCluster\":false}");
    start_agent(f);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 211);
    assert_int_equal(f->status.n_listed, 250);
    assert_null(sync_store_find(&f->store, "user0009"));
    struct stored_user *u = sync_store_find(&f->store, "user0010");
    assert_non_null(u);
    assert_int_equal(strlen(u->display_name) > 3 && strchr(u->display_name, ' '), 1);
    assert_string_equal(u->mail, "user0010@example.com");
    assert_int_equal(strspn(u->uuid, "0123456789abcdef-"), 36);
}

static void pages_shrink_when_too_large(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "250", "--max-rows", "33");
    start_agent(f);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 250);
    assert_int_equal(ucmsim_stat(&f->sim, "listUser"), 1 + 8);
}

static void passing_faults_only_delay(void **state)
{
    static const char *const faults[] = {
        "{\"kind\":\"503\",\"operation\":\"listUser\",\"count\":2,\"skip\":1}",
        "{\"kind\":\"cut\",\"operation\":\"listUser\",\"count\":1,\"skip\":1}",
        "{\"kind\":\"cut\",\"operation\":\"getCCMVersion\",\"count\":3}",
        "{\"kind\":\"503\",\"operation\":\"listChange\",\"count\":1}",
    };
    struct fixture *f = *state;
    start_sim(f, "250", NULL, NULL);
    for (size_t i = 0; i < n_elements(faults); i++)
        fault(f, faults[i]);
    start_agent(f);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 250);
    assert_int_equal(ucmsim_stat(&f->sim, "faultsServed"), 7);
    assert_int_equal(f->store.n_users_commits, 3); /* no page twice */
    assert_false(alarms_have(f, "+SyncAgentAXLConnectionFailed"));
}

static void removal_waits_for_a_complete_run(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "300", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    f->store.settings.interval_ms = LONG_MS;
    sync_agent_settings_changed(f->agent);
    order(f, "DELETE", "/users?like=user001%25", NULL);
    order(f, "PATCH", "/users?like=user002%25", "{\"imAndPresenceEnable\":false}");
    /* The last page never comes. */
    fault(f, "{\"kind\":\"cut\",\"operation\":\"listUser\",\"skip\":2}");
    assert_int_equal(sync_agent_run_now(f->agent, true, NULL), 0);
    WAIT(f, has_failed_often);
    assert_int_equal(f->store.n_users, 300);
    assert_int_equal(f->store.n_remove_commits, 0);
    assert_false(f->status.last.is_ok);
    assert_true(alarms_have(f, "+SyncAgentAXLConnectionFailed"));
    /* One record of the failure, though it was tried again and again. */
    assert_int_equal(f->store.n_state_commits, 2);
    order(f, "DELETE", "/faults", NULL);
    wait_for_run(f, f->status.last.run + 1);
    assert_int_equal(f->store.n_users, 280);
    assert_int_equal(f->status.n_removed, 20);
    assert_null(sync_store_find(&f->store, "user0015"));
    assert_true(alarms_have(f, "-SyncAgentAXLConnectionFailed"));
}

/* A list read in pages misses a user when another is removed meanwhile; that one must not be removed. */
static void a_user_missed_by_the_pages_stays(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "300", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    f->store.settings.interval_ms = LONG_MS;
    sync_agent_settings_changed(f->agent);
    fault(f, "{\"kind\":\"slow\",\"operation\":\"listUser\",\"ms\":700,\"skip\":1,\"count\":1}");
    assert_int_equal(sync_agent_run_now(f->agent, true, NULL), 0);
    WAIT(f, is_after_first_page); /* the second is made up, but delayed */
    order(f, "DELETE", "/users/user0001", NULL);
    wait_for_run(f, 2);
    assert_int_equal(f->status.n_listed, 299);
    assert_int_equal(ucmsim_stat(&f->sim, "getUser"), 1); /* asked for, not removed */
    assert_non_null(sync_store_find(&f->store, "user0201"));
    wait_for_users(f, 299);
    assert_null(sync_store_find(&f->store, "user0001"));
}

static void an_empty_list_removes_nobody(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "50", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    order(f, "DELETE", "/users?like=%25", NULL);
    order(f, "PUT", "/queue", "{}");
    WAIT(f, has_failed_often);
    assert_int_equal(f->store.n_users, 50);
    assert_false(f->status.last.is_ok);
    assert_non_null(strstr(f->status.last.result, "no users at all"));
}

/* A new user with the address of one that goes: refused at first, taken when the old one is removed. */
static void an_address_passes_to_another_user(void **state)
{
    struct fixture *f = *state;
    char old_uuid[40];
    start_sim(f, "150", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    f->store.settings.interval_ms = LONG_MS;
    sync_agent_settings_changed(f->agent);
    snprintf(old_uuid, sizeof old_uuid, "%s", sync_store_find(&f->store, "user0007")->uuid);
    order(f, "DELETE", "/users/user0007", NULL);
    order(f, "POST", "/users", "{\"userid\":\"user0007\"}");
    assert_int_equal(sync_agent_run_now(f->agent, true, NULL), 0);
    wait_for_run(f, 2);
    assert_int_equal(f->store.n_users, 150);
    assert_string_not_equal(sync_store_find(&f->store, "user0007")->uuid, old_uuid);
    assert_int_equal(f->status.n_refused, 0);
    assert_false(alarms_have(f, "+DuplicateUserid"));
}

static void shared_directory_uris_are_told(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "150", NULL, NULL);
    order(f, "PATCH", "/users/user0120", "{\"directoryUri\":\"User0007@Example.com\"}");
    order(f, "PATCH", "/users?like=user005%25", "{\"directoryUri\":\"\"}"); /* none at all is no duplicate */
    start_agent(f);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 150); /* they are users all the same */
    assert_true(alarms_have(f, "+DuplicateDirectoryURI"));
    order(f, "PATCH", "/users/user0120", "{\"directoryUri\":\"own@example.com\"}");
    assert_int_equal(sync_agent_run_now(f->agent, true, NULL), 0);
    wait_for_run(f, 2);
    assert_true(alarms_have(f, "-DuplicateDirectoryURI"));
}

/* ---- the change feed ---- */

static void changes_are_followed(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    order(f, "POST", "/users", "{\"userid\":\"amori\",\"displayName\":\"Aiko M.\"}");
    wait_for_users(f, 21);
    assert_string_equal(sync_store_find(&f->store, "amori")->display_name, "Aiko M.");
    order(f, "PATCH", "/users/amori", "{\"imAndPresenceEnable\":false}");
    wait_for_users(f, 20);
    order(f, "PATCH", "/users/amori", "{\"imAndPresenceEnable\":true}");
    wait_for_users(f, 21);
    order(f, "DELETE", "/users/user0003", NULL);
    wait_for_users(f, 20);
    assert_null(sync_store_find(&f->store, "user0003"));
    /* added and gone again before it was seen */
    order(f, "POST", "/users", "{\"userid\":\"ghost\"}");
    order(f, "DELETE", "/users/ghost", NULL);
    order(f, "POST", "/users", "{\"userid\":\"last\"}");
    wait_for_users(f, 21);
    assert_null(sync_store_find(&f->store, "ghost"));
    assert_int_equal(ucmsim_stat(&f->sim, "listUser"), 1); /* no further full run */
    assert_int_equal(f->status.last.run, 1);
    /* Each batch carried its position. */
    assert_int_equal(f->store.stored.position.next_change, f->status.position.next_change);
    assert_non_null(strstr(f->store.trace.data, "U1p"));
    assert_non_null(strstr(f->store.trace.data, "R1p"));
}

static void a_rename_keeps_the_user(void **state)
{
    struct fixture *f = *state;
    char uuid[40];
    start_sim(f, "20", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    snprintf(uuid, sizeof uuid, "%s", sync_store_find(&f->store, "user0005")->uuid);
    order(f, "PATCH", "/users/user0005", "{\"userid\":\"married\",\"lastName\":\"New\"}");
    order(f, "POST", "/users", "{\"userid\":\"extra\"}");
    wait_for_users(f, 21);
    assert_null(sync_store_find(&f->store, "user0005"));
    assert_string_equal(sync_store_find(&f->store, "married")->uuid, uuid);
    assert_int_equal(f->store.n_removed, 0);
}

/* One takes the address that another has just given up: the order of the changes counts. */
static void addresses_pass_on_within_a_batch(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    f->store.settings.interval_ms = LONG_MS;
    start_agent(f);
    wait_for_run(f, 1);
    fault(f, "{\"kind\":\"slow\",\"operation\":\"getUser\",\"ms\":50,\"count\":1}"); /* the first answer is
                                                                                        the last */
    order(f, "PATCH", "/users/user0001", "{\"userid\":\"x\"}");
    order(f, "PATCH", "/users/user0002", "{\"userid\":\"user0001\"}");
    order(f, "DELETE", "/users/user0004", NULL);
    order(f, "PATCH", "/users/user0003", "{\"userid\":\"user0004\"}");
    f->store.settings.interval_ms = 20;
    sync_agent_settings_changed(f->agent);
    wait_for_users(f, 19);
    assert_non_null(sync_store_find(&f->store, "x"));
    assert_non_null(sync_store_find(&f->store, "user0001"));
    assert_non_null(sync_store_find(&f->store, "user0004"));
    assert_int_equal(f->status.n_refused, 0);
    assert_int_equal(f->status.last.run, 1);
}

static void irrelevant_changes_cost_no_question(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    order(f, "PATCH", "/users?like=%25", "{\"title\":\"Dr\"}");
    f->want = 21;
    WAIT(f, has_position);
    assert_int_equal(ucmsim_stat(&f->sim, "getUser"), 0);
    assert_int_equal(f->status.last.run, 1);
}

static void another_queue_means_a_full_run(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    order(f, "POST", "/users", "{\"userid\":\"unseen\"}");
    order(f, "PUT", "/queue", "{\"queueId\":\"other\"}");
    wait_for_run(f, 2);
    assert_int_equal(f->store.n_users, 21);
    assert_string_equal(f->store.stored.position.queue_id, "other");
}

static void a_gap_means_a_full_run(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", "--change-cache", "3");
    f->store.settings.interval_ms = LONG_MS;
    start_agent(f);
    wait_for_run(f, 1);
    order(f, "POST", "/users", "{\"from\":21,\"to\":30}"); /* more than the cache holds */
    f->store.settings.interval_ms = 20;
    sync_agent_settings_changed(f->agent);
    wait_for_run(f, 2);
    assert_int_equal(f->store.n_users, 30);
    assert_int_equal(f->store.n_removed, 0);
}

static void a_restart_goes_on_from_the_stored_position(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    close_agent(f);
    order(f, "POST", "/users", "{\"userid\":\"meanwhile\"}");
    start_agent(f);
    wait_for_users(f, 21);
    assert_int_equal(ucmsim_stat(&f->sim, "listUser"), 1);
    assert_int_equal(f->status.last.run, 1);
}

static void a_lost_feed_is_told_and_comes_back(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    fault(
        f,
        "{\"kind\":\"fault\",\"operation\":\"listChange\",\"code\":-1,\"text\":\"no change notification\"}");
    start_agent(f);
    WAIT(f, is_feed_lost); /* the sync itself is fine */
    assert_int_equal(f->store.n_users, 20);
    assert_true(alarms_have(f, "+SyncAgentChangeFeedLost"));
    assert_false(alarms_have(f, "+SyncAgentAXLConnectionFailed"));
    assert_non_null(strstr(f->status.feed_reason, "no change notification"));
    order(f, "POST", "/users", "{\"userid\":\"unseen\"}");
    order(f, "DELETE", "/faults", NULL);
    WAIT(f, is_feed_ok);
    assert_int_equal(f->store.n_users, 21);
    assert_int_equal(f->status.last.run, 2);
    assert_true(alarms_have(f, "-SyncAgentChangeFeedLost"));
}

/* A queue that tells where it stands but cannot be read must not make the agent list users without end. */
static void full_runs_are_not_repeated_hotly(void **state)
{
    struct fixture *f = *state;
    f->options.backoff_min_ms = 50;
    f->options.backoff_max_ms = LONG_MS;
    start_sim(f, "20", NULL, NULL);
    for (int i = 1; i <= 10; i++) { /* each time the baseline passes and the read does not */
        char json[128];
        snprintf(json, sizeof json,
                 "{\"kind\":\"fault\",\"operation\":\"listChange\",\"code\":-1,\"count\":1,\"skip\":%d}", i);
        fault(f, json);
    }
    start_agent(f);
    wait_for_run(f, 3);
    uint64_t start = clock_monotonic_ms();
    wait_for_run(f, 5);
    assert_true(clock_monotonic_ms() - start >= 100);
}

/* ---- refusals, roles, orders ---- */

static void a_refused_login_is_not_repeated(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "20", NULL, NULL);
    f->store.settings.password = "wrong";
    start_agent(f);
    WAIT(f, is_failed);
    assert_int_equal(ucmsim_stat(&f->sim, "loginsRefused"), 1);
    assert_true(f->status.next_in_ms > LONG_MS / 2);
    assert_true(alarms_have(f, "+SyncAgentAXLConnectionFailed"));
    assert_null(strstr(f->status.reason, "wrong\""));
    sync_agent_settings_changed(f->agent); /* the same settings: no new attempt */
    assert_int_equal(f->status.state, SYNC_FAILED);
    f->store.settings.password = "axlpassword";
    sync_agent_settings_changed(f->agent);
    wait_for_run(f, f->status.last.run + 1);
    assert_int_equal(f->store.n_users, 20);
    assert_true(alarms_have(f, "-SyncAgentAXLConnectionFailed"));
    fault(f, "{\"kind\":\"403\",\"count\":1}");
    WAIT(f, is_failed);
    assert_int_equal(f->status.feed, SYNC_FEED_LOST);
    assert_true(f->status.last.is_ok); /* two facts */
}

static void a_stale_publisher_changes_nothing(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "250", NULL, NULL);
    f->store.epoch = 2;
    start_agent(f);
    WAIT(f, is_backing_off);
    assert_int_equal(f->store.n_users, 0);
    sync_agent_stop(f->agent);
    WAIT(f, is_standby);
    struct err_ctx err = {0};
    assert_int_equal(sync_agent_run_now(f->agent, true, &err), ERR_UNAVAILABLE);
    sync_agent_start(f->agent, 2);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 250);
}

static void a_failing_store_is_tried_again(void **state)
{
    struct fixture *f = *state;
    start_sim(f, "250", NULL, NULL);
    f->store.n_fail = 1;
    f->store.n_refuse = 0;
    start_agent(f);
    WAIT(f, is_backing_off);
    assert_false(alarms_have(f, "+SyncAgentAXLConnectionFailed"));
    f->store.n_refuse = 2;
    wait_for_run(f, 2);
    assert_int_equal(f->store.n_users, 250);
}

static void slow_commits_hold_the_pages_back(void **state)
{
    struct fixture *f = *state;
    f->options.page_size = 10;
    f->store.answer_ms = 80;
    start_sim(f, "100", NULL, NULL);
    start_agent(f);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 100);
    assert_true(f->store.max_waiting >= 2 && f->store.max_waiting <= 4);
}

static void stop_and_start(void **state)
{
    struct fixture *f = *state;
    struct err_ctx err = {0};
    f->store.settings.url = "";
    start_agent(f);
    sync_agent_get_status(f->agent, &f->status);
    assert_int_equal(f->status.state, SYNC_UNCONFIGURED);
    assert_int_equal(sync_agent_run_now(f->agent, false, &err), ERR_UNAVAILABLE);
    start_sim(f, "250", NULL, NULL);
    f->store.settings.password = "";
    sync_agent_settings_changed(f->agent); /* set one after the other, they cause no failed log-in */
    sync_agent_get_status(f->agent, &f->status);
    assert_int_equal(f->status.state, SYNC_UNCONFIGURED);
    assert_string_equal(f->status.reason, "axl.password is not set");
    f->store.settings.password = "axlpassword";
    fault(f, "{\"kind\":\"slow\",\"operation\":\"listUser\",\"ms\":60000,\"count\":1}");
    sync_agent_settings_changed(f->agent);
    sync_agent_get_status(f->agent, &f->status);
    assert_int_equal(f->status.state, SYNC_FULL);
    assert_int_equal(sync_agent_hold(f->agent, &err), 0);
    sync_agent_get_status(f->agent, &f->status);
    assert_int_equal(f->status.state, SYNC_STOPPED);
    assert_int_equal(f->status.next_in_ms, 0);
    order(f, "DELETE", "/faults", NULL);
    assert_int_equal(sync_agent_run_now(f->agent, false, &err), 0);
    wait_for_run(f, 1);
    assert_int_equal(f->store.n_users, 250);
    assert_int_equal(ucmsim_stat(&f->sim, "loginsRefused"), 0);
}

static void closing_in_the_middle_is_clean(void **state)
{
    struct fixture *f = *state;
    f->store.answer_ms = 30;
    start_sim(f, "1000", NULL, NULL);
    start_agent(f);
    f->want = 100;
    while (f->store.n_users < 100) { /* a commit is under way, and a page */
        timer_start(&f->check, 1, 0);
        f->is_there = is_closed;
        f->deadline_ms = 0;
        loop_run(f->loop);
    }
    close_agent(f);
    assert_true(f->store.n_users < 1000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(ten_thousand_users),
        TEST(only_our_users_are_taken),
        TEST(pages_shrink_when_too_large),
        TEST(passing_faults_only_delay),
        TEST(removal_waits_for_a_complete_run),
        TEST(a_user_missed_by_the_pages_stays),
        TEST(an_empty_list_removes_nobody),
        TEST(an_address_passes_to_another_user),
        TEST(shared_directory_uris_are_told),
        TEST(changes_are_followed),
        TEST(a_rename_keeps_the_user),
        TEST(addresses_pass_on_within_a_batch),
        TEST(irrelevant_changes_cost_no_question),
        TEST(another_queue_means_a_full_run),
        TEST(a_gap_means_a_full_run),
        TEST(a_restart_goes_on_from_the_stored_position),
        TEST(a_lost_feed_is_told_and_comes_back),
        TEST(full_runs_are_not_repeated_hotly),
        TEST(a_refused_login_is_not_repeated),
        TEST(a_stale_publisher_changes_nothing),
        TEST(a_failing_store_is_tried_again),
        TEST(slow_commits_hold_the_pages_back),
        TEST(stop_and_start),
        TEST(closing_in_the_middle_is_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
