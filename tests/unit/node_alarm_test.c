/* Alarms against a store that the test plays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "node/alarm.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

struct fake {
    bool open[N_ALARMS];
    bool unavailable; /* no quorum */
    char history[512];
    proposal_done_fn *on_done;
    void *user;
    int code; /* of the answer that is waited for */
};

static int submit(void *user, Imp__Command *command, proposal_done_fn *on_done, void *done_user)
{
    struct fake *f = user;
    if (f->unavailable)
        return ERR_UNAVAILABLE;
    assert_null(f->on_done); /* one at a time in these tests */
    bool raise = command->body_case == IMP__COMMAND__BODY_ALARM_RAISE;
    const char *name = raise ? command->alarm_raise->name : command->alarm_clear->name;
    bool notice = raise && command->alarm_raise->notice;
    size_t n = strlen(f->history);
    snprintf(f->history + n, sizeof(f->history) - n, "%c%s ", notice ? '!' : raise ? '+' : '-', name);
    for (int i = 0; i < N_ALARMS && !notice; i++)
        if (!strcmp(alarm_name((enum alarm_id)i), name) && !f->code)
            f->open[i] = raise;
    f->on_done = on_done;
    f->user = done_user;
    return 0;
}

static bool is_open(void *user, const char *name, uint32_t node)
{
    struct fake *f = user;
    (void)node;
    for (int i = 0; i < N_ALARMS; i++)
        if (!strcmp(alarm_name((enum alarm_id)i), name))
            return f->open[i];
    return false;
}

static void answer(struct fake *f)
{
    proposal_done_fn *on_done = f->on_done;
    f->on_done = NULL;
    if (on_done)
        on_done(f->user, &(struct proposal_result){.code = f->code, .text = ""});
}

static struct alarms *make(struct fake *f)
{
    return alarms_new(NULL, NULL, &(struct alarm_backend){f, submit, is_open});
}

static void raised_once_and_cleared(void **state)
{
    (void)state;
    struct fake f = {0};
    struct alarms *a = make(&f);
    alarms_raise(a, ALARM_DISK_LOW, 1, "first");
    answer(&f);
    alarms_step(a);
    alarms_raise(a, ALARM_DISK_LOW, 1, "second");
    alarms_step(a);
    alarms_clear(a, ALARM_DISK_LOW, 1);
    answer(&f);
    alarms_step(a);
    alarms_clear(a, ALARM_DISK_LOW, 1);
    alarms_step(a);
    assert_string_equal(f.history, "+DiskLow -DiskLow ");
    alarms_free(a);
}

static void written_when_there_is_a_quorum_again(void **state)
{
    (void)state;
    struct fake f = {.unavailable = true};
    struct alarms *a = make(&f);
    alarms_raise(a, ALARM_QUORUM_LOST, 1, "alone");
    alarms_step(a);
    alarms_clear(a, ALARM_QUORUM_LOST, 1);
    f.unavailable = false;
    for (int i = 0; i < 4; i++) {
        alarms_step(a);
        answer(&f);
    }
    assert_string_equal(f.history, "+QuorumLost -QuorumLost ");
    alarms_free(a);
}

static void failed_proposals_are_repeated(void **state)
{
    (void)state;
    struct fake f = {.code = ERR_UNKNOWN_OUTCOME};
    struct alarms *a = make(&f);
    alarms_notice(a, ALARM_REPLICATION_ESTABLISHED, 2, "done");
    answer(&f);
    f.code = 0;
    alarms_step(a);
    answer(&f);
    alarms_step(a);
    assert_string_equal(f.history, "!ReplicationEstablished !ReplicationEstablished ");
    alarms_free(a);
}

/* The node that was down clears the alarm itself as soon as it is back: before whoever raised it has looked
 * into the store again, which both do once a second. */
static void not_raised_again_where_another_clears_it(void **state)
{
    (void)state;
    struct fake f = {0};
    struct alarms *a = make(&f);
    alarms_raise(a, ALARM_NODE_DOWN, 2, "does not answer");
    answer(&f);
    for (int i = 0; i < 3; i++) {
        f.open[ALARM_NODE_DOWN] = false;
        alarms_clear(a, ALARM_NODE_DOWN, 2);
        answer(&f);
        alarms_step(a);
        answer(&f);
    }
    assert_string_equal(f.history, "+NodeDown ");
    assert_false(f.open[ALARM_NODE_DOWN]);
    alarms_free(a);
}

static void not_raised_again_where_it_ended_in_flight(void **state)
{
    (void)state;
    struct fake f = {0};
    struct alarms *a = make(&f);
    alarms_raise(a, ALARM_NODE_DOWN, 2, "does not answer");
    f.open[ALARM_NODE_DOWN] = false; /* not executed yet */
    alarms_clear(a, ALARM_NODE_DOWN, 2);
    answer(&f); /* executed, and cleared by the node itself */
    for (int i = 0; i < 3; i++) {
        f.open[ALARM_NODE_DOWN] = false;
        alarms_step(a);
        answer(&f);
    }
    assert_string_equal(f.history, "+NodeDown ");
    /* Nothing of it is left: the next time it is raised and cleared as ever. */
    alarms_raise(a, ALARM_NODE_DOWN, 2, "does not answer again");
    answer(&f);
    alarms_clear(a, ALARM_NODE_DOWN, 2);
    answer(&f);
    assert_string_equal(f.history, "+NodeDown +NodeDown -NodeDown ");
    alarms_free(a);
}

static void ended_in_flight_it_is_cleared_once_written(void **state)
{
    (void)state;
    struct fake f = {.code = ERR_UNKNOWN_OUTCOME};
    struct alarms *a = make(&f);
    alarms_raise(a, ALARM_NODE_DOWN, 2, "does not answer");
    alarms_clear(a, ALARM_NODE_DOWN, 2);
    answer(&f); /* lost: the history is still to show it */
    f.code = 0;
    for (int i = 0; i < 4; i++) {
        alarms_step(a);
        answer(&f);
    }
    assert_string_equal(f.history, "+NodeDown +NodeDown -NodeDown ");
    assert_false(f.open[ALARM_NODE_DOWN]);
    alarms_free(a);
}

static void an_earlier_life_left_one_open(void **state)
{
    (void)state;
    struct fake f = {0};
    struct alarms *a = make(&f);
    f.open[ALARM_NODE_DOWN] = true;
    alarms_clear(a, ALARM_NODE_DOWN, 3);
    answer(&f);
    assert_string_equal(f.history, "-NodeDown ");
    alarms_free(a);
}

static void ends_with_one_in_flight(void **state)
{
    (void)state;
    struct fake f = {0};
    struct alarms *a = make(&f);
    alarms_raise(a, ALARM_DISK_LOW, 1, "x");
    alarms_free(a);
    answer(&f); /* frees what was in flight, touches nothing else */
    assert_string_equal(f.history, "+DiskLow ");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raised_once_and_cleared),
        cmocka_unit_test(written_when_there_is_a_quorum_again),
        cmocka_unit_test(failed_proposals_are_repeated),
        cmocka_unit_test(not_raised_again_where_another_clears_it),
        cmocka_unit_test(not_raised_again_where_it_ended_in_flight),
        cmocka_unit_test(ended_in_flight_it_is_cleared_once_written),
        cmocka_unit_test(an_earlier_life_left_one_open),
        cmocka_unit_test(ends_with_one_in_flight),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
