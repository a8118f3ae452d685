/* The replication watcher and the service registry: pure logic under a made-up clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "node/service.h"
#include "node/watcher.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

static struct watcher_input caught_up(void)
{
    return (struct watcher_input){.now_ms = 1000,
                                  .member_known = true,
                                  .registered = true,
                                  .target_index = 100,
                                  .applied_index = 100,
                                  .commit_index = 100,
                                  .release = "1",
                                  .publisher_release = "1",
                                  .timeout_s = 600};
}

static void subscriber_waits_without_limit(void **state)
{
    (void)state;
    struct watcher w;
    struct watcher_input in = caught_up();
    watcher_init(&w, 1000);
    in.target_index = 0;
    assert_false(watcher_step(&w, &in) && watcher_is_released(&w));
    assert_int_equal(w.alarms, 0); /* within the grace */
    in.now_ms = 1000 + WATCHER_GRACE_MS;
    assert_true(watcher_step(&w, &in));
    assert_int_equal(w.alarms, WATCHER_ALARM_DELAY);
    in.now_ms += 30ull * 86400 * 1000;
    watcher_step(&w, &in);
    assert_false(watcher_is_released(&w));
    in.leader_known = true;
    in.applied_index = 40;
    assert_true(watcher_step(&w, &in));
    assert_non_null(strstr(w.reason, "applied 40 of 100"));
    in.applied_index = in.target_index = 100;
    in.installing = true;
    watcher_step(&w, &in);
    assert_false(watcher_is_released(&w));
    in.installing = false;
    in.registered = false;
    watcher_step(&w, &in);
    assert_false(watcher_is_released(&w));
    in.registered = true;
    assert_true(watcher_step(&w, &in));
    assert_true(watcher_is_released(&w));
    assert_int_equal(w.alarms, 0);
    assert_true(w.established);
}

static void quick_start_raises_nothing(void **state)
{
    (void)state;
    struct watcher w;
    struct watcher_input in = caught_up();
    watcher_init(&w, 900);
    assert_true(watcher_step(&w, &in));
    assert_true(watcher_is_released(&w));
    assert_false(w.established);
    /* Released once, always released: a later difference of releases changes nothing. */
    in.publisher_release = "2";
    in.applied_index = 1;
    assert_false(watcher_step(&w, &in));
    assert_true(watcher_is_released(&w));
}

static void release_must_equal_the_publishers(void **state)
{
    (void)state;
    struct watcher w;
    struct watcher_input in = caught_up();
    watcher_init(&w, 1000);
    in.publisher_release = "2";
    assert_true(watcher_step(&w, &in));
    assert_int_equal(w.state, WATCHER_RELEASE);
    assert_int_equal(w.alarms, WATCHER_ALARM_MISMATCH);
    assert_non_null(strstr(w.reason, "publisher is upgraded first"));
    in.publisher_release = "1";
    watcher_step(&w, &in);
    assert_true(watcher_is_released(&w));
    assert_true(w.established);
}

static void publisher_waits_for_the_first_sync(void **state)
{
    (void)state;
    struct watcher w;
    struct watcher_input in = caught_up();
    watcher_init(&w, 1000);
    in.publisher = true;
    in.sync_configured = true;
    in.now_ms = 5000;
    watcher_step(&w, &in);
    assert_int_equal(w.state, WATCHER_SYNC);
    assert_int_equal(w.alarms, WATCHER_ALARM_SYNC);
    in.first_sync_done = true;
    watcher_step(&w, &in);
    assert_true(watcher_is_released(&w));
    assert_true(w.established);

    /* Without user sync there is nothing to wait for. */
    watcher_init(&w, 1000);
    in.first_sync_done = in.sync_configured = false;
    watcher_step(&w, &in);
    assert_true(watcher_is_released(&w));
}

static void publisher_time_out(void **state)
{
    (void)state;
    struct watcher w;
    struct watcher_input in = caught_up();
    watcher_init(&w, 1000);
    in.publisher = true;
    in.target_index = 0;
    in.now_ms = 1000 + 600 * 1000 - 1;
    watcher_step(&w, &in);
    assert_false(watcher_is_released(&w));
    in.now_ms++;
    assert_true(watcher_step(&w, &in));
    assert_true(watcher_is_released(&w));
    assert_true(w.timed_out);
    assert_int_equal(w.alarms, WATCHER_ALARM_TIMEOUT);
    assert_false(w.established);
    in.target_index = 100;
    assert_true(watcher_step(&w, &in));
    assert_int_equal(w.alarms, 0);
    assert_true(w.established);
}

/* ---- services ---- */

struct fake {
    int result;
    unsigned n_starts, n_stops;
};
static int start_fake(void *user, struct err_ctx *err)
{
    struct fake *f = user;
    f->n_starts++;
    return f->result ? err_set(err, f->result, "made to fail") : 0;
}
static void stop_fake(void *user)
{
    struct fake *f = user;
    f->n_stops++;
}
static enum service_state state_of(struct services *s, enum service_id id)
{
    struct service_status st;
    services_get(s, id, &st);
    return st.state;
}
static const char *reason_of(struct services *s, enum service_id id)
{
    struct service_status st;
    services_get(s, id, &st);
    return st.reason;
}

static void features_wait_for_release(void **state)
{
    (void)state;
    struct services *s = services_new(NULL);
    struct fake im = {0}, xmpp = {0}, https = {0};
    services_set_functions(s, SERVICE_PRESENCE_ENGINE, start_fake, stop_fake, &im);
    services_set_functions(s, SERVICE_XMPP, start_fake, stop_fake, &xmpp);
    services_set_functions(s, SERVICE_HTTPS, start_fake, stop_fake, &https);
    services_set_released(s, false, "waits for replication: applied 1 of 2");
    services_step(s, 1);
    assert_int_equal(https.n_starts, 1);
    assert_int_equal(xmpp.n_starts, 0);
    assert_int_equal(state_of(s, SERVICE_XMPP), SERVICE_STATE_DELAYED);
    assert_string_equal(reason_of(s, SERVICE_XMPP), "waits for replication: applied 1 of 2");
    assert_string_equal(services_summary(s), "delayed");
    services_set_released(s, true, "");
    services_step(s, 2);
    assert_int_equal(im.n_starts, 1);
    assert_int_equal(xmpp.n_starts, 1);
    assert_int_equal(state_of(s, SERVICE_XMPP), SERVICE_STATE_STARTED);
    assert_string_equal(services_summary(s), "running");
    services_stop_all(s, 3);
    assert_int_equal(xmpp.n_stops, 1);
    assert_int_equal(state_of(s, SERVICE_XMPP), SERVICE_STATE_STOPPED);
    services_free(s);
}

static void dependants_stop_first_and_come_back(void **state)
{
    (void)state;
    struct services *s = services_new(NULL);
    struct fake im = {0}, xmpp = {0};
    struct err_ctx err = {0};
    services_set_functions(s, SERVICE_PRESENCE_ENGINE, start_fake, stop_fake, &im);
    services_set_functions(s, SERVICE_XMPP, start_fake, stop_fake, &xmpp);
    services_set_released(s, true, "");
    services_step(s, 1);
    assert_int_equal(services_request(s, SERVICE_PRESENCE_ENGINE, SERVICE_STOP, 2, &err), 0);
    assert_int_equal(im.n_stops, 1);
    assert_int_equal(xmpp.n_stops, 1);
    assert_string_equal(reason_of(s, SERVICE_XMPP), "waits for presence-engine");
    assert_string_equal(services_summary(s), "stopped");
    assert_int_equal(services_request(s, SERVICE_PRESENCE_ENGINE, SERVICE_START, 3, &err), 0);
    assert_int_equal(state_of(s, SERVICE_XMPP), SERVICE_STATE_STARTED);
    assert_int_equal(services_request(s, SERVICE_XMPP, SERVICE_RESTART, 4, &err), 0);
    assert_int_equal(xmpp.n_starts, 3);
    assert_int_equal(services_request(s, SERVICE_REPLICATION, SERVICE_STOP, 5, &err), ERR_DENIED);
    services_set_active(s, SERVICE_XMPP, false);
    services_step(s, 6);
    assert_int_equal(state_of(s, SERVICE_XMPP), SERVICE_STATE_STOPPED);
    assert_string_equal(reason_of(s, SERVICE_XMPP), "deactivated");
    assert_string_equal(services_summary(s), "running"); /* of the active ones */
    assert_int_equal(services_request(s, SERVICE_XMPP, SERVICE_START, 7, &err), ERR_DENIED);
    services_free(s);
}

static void failed_is_tried_again(void **state)
{
    (void)state;
    struct services *s = services_new(NULL);
    struct fake https = {.result = ERR_IO};
    services_set_functions(s, SERVICE_HTTPS, start_fake, stop_fake, &https);
    services_step(s, 1000);
    assert_int_equal(state_of(s, SERVICE_HTTPS), SERVICE_STATE_FAILED);
    assert_string_equal(reason_of(s, SERVICE_HTTPS), "made to fail");
    services_step(s, 2000);
    assert_int_equal(https.n_starts, 1);
    https.result = ERR_AGAIN;
    services_step(s, 6000);
    assert_int_equal(state_of(s, SERVICE_HTTPS), SERVICE_STATE_STARTING);
    services_set_started(s, SERVICE_HTTPS, 6500);
    assert_int_equal(state_of(s, SERVICE_HTTPS), SERVICE_STATE_STARTED);
    services_set_failed(s, SERVICE_HTTPS, "the socket broke", 7000);
    assert_int_equal(https.n_stops, 1);
    https.result = 0;
    services_step(s, 12000);
    assert_int_equal(state_of(s, SERVICE_HTTPS), SERVICE_STATE_STARTED);
    services_free(s);
}

static void names(void **state)
{
    (void)state;
    for (int i = 0; i < N_SERVICES; i++)
        assert_int_equal(service_find(service_name((enum service_id)i)), i);
    assert_int_equal(service_find("nonsense"), ERR_NOTFOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(subscriber_waits_without_limit),
        cmocka_unit_test(quick_start_raises_nothing),
        cmocka_unit_test(release_must_equal_the_publishers),
        cmocka_unit_test(publisher_waits_for_the_first_sync),
        cmocka_unit_test(publisher_time_out),
        cmocka_unit_test(features_wait_for_release),
        cmocka_unit_test(dependants_stop_first_and_come_back),
        cmocka_unit_test(failed_is_tried_again),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
