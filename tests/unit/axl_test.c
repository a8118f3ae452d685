/* The AXL client against a real ucmsim: every operation, every way it can fail. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/mem.h"
#include "protocols/axl/axl.h"
#include "protocols/axl/axl_message.h"
#include "ucmsim_process.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DEADLINE_MS = 20000 };

struct fixture {
    struct ucmsim sim;
    struct log *log;
    struct loop *loop;
    struct axl *axl;
    struct timer deadline;
    bool timed_out;

    /* the last result, copied */
    unsigned n_done;
    struct axl_error error;
    struct axl_queue queue;
    size_t n_users, n_rows, n_changes;
    char version[64], userid[64], uuid[40], display_name[64], first_uuid[40];
    bool is_authenticated, im_and_presence;
    int auth_code;
    struct axl_change changes[16];
};

static void copy(char *out, size_t room, const char *text)
{
    snprintf(out, room, "%s", text ? text : "");
}

static void on_done(void *user, const struct axl_result *r)
{
    struct fixture *f = user;
    f->n_done++;
    f->error = r->error;
    f->queue = r->queue;
    f->n_users = r->n_users;
    f->n_rows = r->n_rows;
    f->n_changes = r->n_changes;
    f->is_authenticated = r->is_authenticated;
    f->auth_code = r->auth_code;
    copy(f->version, sizeof f->version, r->version);
    if (r->n_users) {
        const struct axl_user *last = &r->users[r->n_users - 1];
        copy(f->userid, sizeof f->userid, last->userid);
        copy(f->uuid, sizeof f->uuid, last->uuid);
        copy(f->display_name, sizeof f->display_name, last->display_name);
        copy(f->first_uuid, sizeof f->first_uuid, r->users[0].uuid);
        f->im_and_presence = last->im_and_presence;
    }
    for (size_t i = 0; i < r->n_changes && i < n_elements(f->changes); i++)
        f->changes[i] = r->changes[i];
    loop_stop(f->loop);
}

static void on_closed(void *user)
{
    struct fixture *f = user;
    f->axl = NULL;
    loop_stop(f->loop);
}

static void on_deadline(struct timer *t)
{
    struct fixture *f = container_of(t, struct fixture, deadline);
    f->timed_out = true;
    loop_stop(f->loop);
}

static void run_until_done(struct fixture *f, unsigned n_done)
{
    timer_start(&f->deadline, DEADLINE_MS, 0);
    while (f->n_done < n_done && !f->timed_out)
        loop_run(f->loop);
    timer_stop(&f->deadline);
    assert_false(f->timed_out);
}

/* Runs the loop until the call that CALL begins has ended. */
#define AWAIT(f, call)                                                                                       \
    do {                                                                                                     \
        (f)->n_done = 0;                                                                                     \
        assert_non_null(call);                                                                               \
        assert_int_equal((f)->n_done, 0);                                                                    \
        run_until_done((f), 1);                                                                              \
    } while (0)

static void close_axl(struct fixture *f)
{
    timer_start(&f->deadline, DEADLINE_MS, 0);
    axl_close(f->axl, on_closed, f);
    axl_close(f->axl, on_closed, f); /* idempotent */
    while (f->axl && !f->timed_out)
        loop_run(f->loop);
    timer_stop(&f->deadline);
    assert_null(f->axl);
}

static void open_axl(struct fixture *f, const char *password, const char *ca_pem, unsigned timeout_ms)
{
    const struct axl_options options = {.url = f->sim.url,
                                        .user = "axluser",
                                        .password = password,
                                        .ca_pem = ca_pem,
                                        .timeout_ms = timeout_ms};
    struct err_ctx err = {0};
    if (f->axl)
        close_axl(f);
    assert_int_equal(axl_open(&f->axl, f->loop, &options, &err), 0);
}

static int setup(void **state)
{
    static const char *const args[] = {"--users", "2500", "--without-im", "10", NULL};
    struct fixture *f = mem_new(struct fixture);
    ucmsim_start(&f->sim, args);
    f->log = log_new(STDERR_FILENO, LOG_TEXT, LOG_ERROR, "");
    assert_int_equal(loop_new(&f->loop, "test", f->log), 0);
    timer_init(&f->deadline, f->loop, on_deadline);
    open_axl(f, "axlpassword", f->sim.ca_pem, 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    if (f->axl)
        close_axl(f);
    loop_free(f->loop);
    log_free(f->log);
    ucmsim_stop(&f->sim);
    mem_free(f);
    return 0;
}

static void fault(struct fixture *f, const char *json)
{
    ucmsim_order(&f->sim, "POST", "/faults", json);
}

static void operations_answer(void **state)
{
    struct fixture *f = *state;
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_string_equal(f->version, "14.0.1.13900(155)");

    AWAIT(f, axl_list_users(f->axl, 2000, 1000, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_int_equal(f->n_users, 500);
    assert_int_equal(f->n_rows, 500);
    assert_string_equal(f->userid, "user2500");
    assert_false(f->im_and_presence);
    AWAIT(f, axl_list_users(f->axl, 2500, 1000, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_int_equal(f->n_users, 0);
    AWAIT(f, axl_list_users(f->axl, 0, 2, on_done, f));
    assert_int_equal(f->n_users, 2);
    assert_string_equal(f->userid, "user0002");
    assert_true(f->im_and_presence);
    assert_int_equal(strspn(f->uuid, "0123456789abcdef-"), 36);

    char uuid[40];
    copy(uuid, sizeof uuid, f->first_uuid);
    ucmsim_order(&f->sim, "PATCH", "/users/user0001", "{\"displayName\":\"A & <B> \\\"C\\\"\"}");
    AWAIT(f, axl_get_user(f->axl, uuid, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_string_equal(f->userid, "user0001");
    assert_string_equal(f->uuid, uuid);
    assert_string_equal(f->display_name, "A & <B> \"C\"");
    AWAIT(f, axl_get_user(f->axl, "00000000-0000-0000-0000-000000000000", on_done, f));
    assert_int_equal(f->error.outcome, AXL_NOT_FOUND);
    assert_int_equal(f->error.axl_code, 5007);
}

static void changes_are_read(void **state)
{
    struct fixture *f = *state;
    AWAIT(f, axl_list_changes(f->axl, NULL, 0, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_int_equal(f->n_changes, 0);
    struct axl_queue start = f->queue;
    ucmsim_order(&f->sim, "POST", "/users", "{\"userid\":\"new\"}");
    ucmsim_order(&f->sim, "PATCH", "/users/new", "{\"title\":\"Dr\"}");
    ucmsim_order(&f->sim, "PATCH", "/users/new", "{\"userid\":\"newer\"}");
    ucmsim_order(&f->sim, "DELETE", "/users/newer", NULL);
    AWAIT(f, axl_list_changes(f->axl, start.queue_id, start.next_change, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_int_equal(f->n_changes, 4);
    assert_int_equal(f->queue.next_change, start.next_change + 4);
    assert_int_equal(f->changes[0].action, AXL_CHANGE_ADD);
    assert_true(f->changes[0].do_get && f->changes[0].relevant);
    assert_false(f->changes[1].relevant); /* a title is nothing to us */
    assert_true(f->changes[2].relevant && !f->changes[2].do_get);
    assert_int_equal(f->changes[3].action, AXL_CHANGE_REMOVE);
    assert_int_equal(f->changes[3].id, start.next_change + 3);
    assert_string_equal(f->changes[0].uuid, f->changes[3].uuid);
}

static void passwords_are_checked(void **state)
{
    struct fixture *f = *state;
    AWAIT(f, axl_authenticate(f->axl, "user0003", "pw-user0003", on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_true(f->is_authenticated);
    AWAIT(f, axl_authenticate(f->axl, "user0003", "pw-user0004", on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_false(f->is_authenticated);
    AWAIT(f, axl_authenticate(f->axl, "nobody", "x", on_done, f));
    assert_false(f->is_authenticated);
    ucmsim_order(&f->sim, "PATCH", "/users/user0003", "{\"password\":\"a<&>\\\"'b\"}");
    AWAIT(f, axl_authenticate(f->axl, "user0003", "a<&>\"'b", on_done, f));
    assert_true(f->is_authenticated);
    ucmsim_order(&f->sim, "PATCH", "/users/user0003", "{\"locked\":true}");
    AWAIT(f, axl_authenticate(f->axl, "user0003", "a<&>\"'b", on_done, f));
    assert_false(f->is_authenticated);
    assert_int_not_equal(f->auth_code, 0);
}

static void faults_are_told_apart(void **state)
{
    static const struct {
        const char *fault;
        enum axl_outcome outcome;
        unsigned suggested_rows;
    } cases[] = {
        {"{\"kind\":\"401\",\"count\":1}", AXL_AUTH, 0},
        {"{\"kind\":\"403\",\"count\":1}", AXL_DENIED, 0},
        {"{\"kind\":\"503\",\"count\":1}", AXL_THROTTLED, 0},
        {"{\"kind\":\"too-large\",\"count\":1,\"rows\":321}", AXL_TOO_LARGE, 321},
        {"{\"kind\":\"cut\",\"count\":1}", AXL_RETRY, 0},
        {"{\"kind\":\"fault\",\"count\":1,\"code\":-239,\"text\":\"no\"}", AXL_FAULT, 0},
        {"{\"kind\":\"garbage\",\"count\":1}", AXL_MALFORMED, 0},
        {"{\"kind\":\"dtd\",\"count\":1}", AXL_MALFORMED, 0},
    };
    struct fixture *f = *state;
    for (size_t i = 0; i < n_elements(cases); i++) {
        fault(f, cases[i].fault);
        AWAIT(f, axl_list_users(f->axl, 0, 100, on_done, f));
        if (f->error.outcome != cases[i].outcome || f->error.suggested_rows != cases[i].suggested_rows)
            fail_msg("%s: outcome %d, %u rows, %s", cases[i].fault, (int)f->error.outcome,
                     f->error.suggested_rows, f->error.text);
        assert_string_not_equal(f->error.text, "");
        assert_null(strstr(f->error.text, "axlpassword"));
        AWAIT(f, axl_get_version(f->axl, on_done, f)); /* the next one works */
        assert_int_equal(f->error.outcome, AXL_OK);
    }
    ucmsim_order(&f->sim, "PUT", "/server", "{\"maxRows\":700}");
    AWAIT(f, axl_list_users(f->axl, 0, 1000, on_done, f));
    assert_int_equal(f->error.outcome, AXL_TOO_LARGE);
    assert_int_equal(f->error.suggested_rows, 701);
}

static void versions_are_negotiated(void **state)
{
    struct fixture *f = *state;
    ucmsim_order(&f->sim, "PUT", "/server", "{\"versions\":\"11.5,12.5\"}");
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
    assert_string_equal(axl_schema_version(f->axl), "12.5");
    assert_int_equal(ucmsim_stat(&f->sim, "getCCMVersion"), 2);
    ucmsim_order(&f->sim, "PUT", "/server", "{\"versions\":\"10.0\"}");
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_VERSION);

    unsigned tried = 0;
    assert_string_equal(axl_next_version("Supported axl versions: 11.5,12.5,14.", "15.0", &tried), "14.0");
    tried = 0;
    assert_string_equal(axl_next_version("supported: 15, 17.0", "14.0", &tried), "15.0");
    tried = 0;
    assert_string_equal(axl_next_version("no list at all", "14.0", &tried), "12.5");
    assert_string_equal(axl_next_version("", "12.5", &tried), "11.5");
    assert_null(axl_next_version("supported: 9.1", "11.5", &(unsigned){0xff}));
}

static void trust_and_credentials_are_checked(void **state)
{
    struct fixture *f = *state;
    open_axl(f, "wrong", f->sim.ca_pem, 0);
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_AUTH);
    open_axl(f, "axlpassword", NULL, 0); /* self-signed, and not in the system's store */
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_TLS);
    open_axl(f, "axlpassword", "not a certificate", 0);
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_TLS);
    assert_int_equal(ucmsim_stat(&f->sim, "getCCMVersion"), 0);
}

static void a_refused_account_is_not_asked_again(void **state)
{
    struct fixture *f = *state;
    const struct axl_options options = {.url = f->sim.url,
                                        .user = "axluser",
                                        .password = "wrong",
                                        .ca_pem = f->sim.ca_pem,
                                        .refused_hold_ms = 60000};
    close_axl(f);
    assert_int_equal(axl_open(&f->axl, f->loop, &options, NULL), 0);
    for (int i = 0; i < 5; i++) {
        AWAIT(f, axl_authenticate(f->axl, "user0001", "pw-user0001", on_done, f));
        assert_int_equal(f->error.outcome, AXL_AUTH);
        assert_int_equal(f->error.http_status, 401);
    }
    assert_int_equal(ucmsim_stat(&f->sim, "loginsRefused"), 1);
    struct axl_call *call = axl_get_version(f->axl, on_done, f);
    f->n_done = 0;
    axl_call_cancel(call);
    run_until_done(f, 1);
    assert_int_equal(f->error.outcome, AXL_CANCELED);
    f->n_done = 0;
    axl_get_version(f->axl, on_done, f);
    close_axl(f);
    assert_int_equal(f->n_done, 1);
    assert_int_equal(f->error.outcome, AXL_CANCELED);
}

static void connection_and_session_are_kept(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 20; i++) {
        AWAIT(f, axl_get_version(f->axl, on_done, f));
        assert_int_equal(f->error.outcome, AXL_OK);
    }
    assert_int_equal(ucmsim_stat(&f->sim, "sessionsMade"), 1);
    assert_int_equal(ucmsim_stat(&f->sim, "sessionsReused"), 19);
    /* one of AXL, and one for each look at the statistics */
    assert_true(ucmsim_stat(&f->sim, "connections") <= 5);
}

static void slow_answers_time_out(void **state)
{
    struct fixture *f = *state;
    fault(f, "{\"kind\":\"slow\",\"count\":1,\"ms\":60000}");
    open_axl(f, "axlpassword", f->sim.ca_pem, 300);
    uint64_t start = clock_monotonic_ms();
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_RETRY);
    assert_true(clock_monotonic_ms() - start < 10000);
    fault(f, "{\"kind\":\"slow\",\"count\":1,\"ms\":50}");
    AWAIT(f, axl_list_users(f->axl, 0, 1, on_done, f));
    assert_int_equal(f->error.outcome, AXL_OK);
}

static void calls_end_once_when_canceled_or_closed(void **state)
{
    struct fixture *f = *state;
    fault(f, "{\"kind\":\"slow\",\"ms\":60000}");
    struct axl_call *call = axl_get_version(f->axl, on_done, f);
    f->n_done = 0;
    axl_call_cancel(call);
    assert_int_equal(f->n_done, 0);
    run_until_done(f, 1);
    assert_int_equal(f->error.outcome, AXL_CANCELED);
    f->n_done = 0;
    for (int i = 0; i < 10; i++) /* more than there are connections */
        axl_list_users(f->axl, 0, 10, on_done, f);
    close_axl(f);
    assert_int_equal(f->n_done, 10);
    assert_int_equal(f->error.outcome, AXL_CANCELED);
}

static void nobody_listens(void **state)
{
    struct fixture *f = *state;
    const struct axl_options options = {.url = "https://127.0.0.1:1", .user = "u", .password = "p"};
    close_axl(f);
    assert_int_equal(axl_open(&f->axl, f->loop, &options, NULL), 0);
    AWAIT(f, axl_get_version(f->axl, on_done, f));
    assert_int_equal(f->error.outcome, AXL_RETRY);
    struct axl *none;
    struct err_ctx err = {0};
    assert_int_equal(axl_open(&none, f->loop, &(struct axl_options){.url = "ftp://x"}, &err), ERR_INVALID);
}

static void words_of_a_peer_are_tamed(void **state)
{
    char out[16];
    axl_copy_text(out, sizeof out, "a\n\x1b[1m\x7f\xc2\x85z");
    assert_string_equal(out, "a  [1m  z");
    axl_copy_text(out, sizeof out, "12345678901234\xc3\xa4"); /* the character does not fit */
    assert_string_equal(out, "12345678901234");
    axl_copy_text(out, sizeof out, "\xc3\xa4\xff\xc3");
    assert_string_equal(out, "\xc3\xa4??");
    axl_copy_text(out, sizeof out, "\xed\xa0\x80"); /* a surrogate */
    assert_string_equal(out, "???");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(operations_answer),
        TEST(changes_are_read),
        TEST(passwords_are_checked),
        TEST(faults_are_told_apart),
        TEST(versions_are_negotiated),
        TEST(trust_and_credentials_are_checked),
        TEST(a_refused_account_is_not_asked_again),
        TEST(connection_and_session_are_kept),
        TEST(slow_answers_time_out),
        TEST(calls_end_once_when_canceled_or_closed),
        TEST(nobody_listens),
        cmocka_unit_test(words_of_a_peer_are_tamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
