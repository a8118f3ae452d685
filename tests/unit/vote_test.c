/* Term and vote: two slots, one of which survives anything. */
#include "replication/vote.h"
#include "sim_disk.h"

#include "base/mem.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static void reopen(struct vote *v, struct sim_disk *d)
{
    struct err_ctx err = {0};
    vote_close(v);
    assert_int_equal(vote_open(v, &d->disk, &err), 0);
}

static void test_nothing_saved(void **state)
{
    struct sim_disk d;
    struct vote v = {0};
    sim_disk_init(&d, 1);
    reopen(&v, &d);
    assert_int_equal(v.term, 0);
    assert_int_equal(v.sequence, 0);
    vote_close(&v);
    sim_disk_fini(&d);
}

static void test_saved_is_there(void **state)
{
    struct sim_disk d;
    struct vote v = {0};
    sim_disk_init(&d, 1);
    reopen(&v, &d);
    for (uint64_t term = 1; term < 20; term++) {
        assert_int_equal(vote_save(&v, term, term % 3), 0);
        vote_close(&v);
        sim_disk_lose_power(&d);
        reopen(&v, &d);
        assert_int_equal(v.term, term);
        assert_int_equal(v.voted_for, term % 3);
    }
    vote_close(&v);
    sim_disk_fini(&d);
}

/* Old or new, never anything else, wherever the save is interrupted. */
static void test_interrupted_save(void **state)
{
    for (uint64_t seed = 1; seed < 400; seed++) {
        struct sim_disk d;
        struct vote v = {0};
        sim_disk_init(&d, seed);
        reopen(&v, &d);
        uint64_t known = seed % 7;
        for (uint64_t term = 1; term <= known; term++)
            assert_int_equal(vote_save(&v, term, 1), 0);
        d.fail_after = (long)(seed % 3);
        int rc = vote_save(&v, known + 1, 2);
        vote_close(&v);
        sim_disk_lose_power(&d);
        reopen(&v, &d);
        if (v.term == known + 1)
            assert_int_equal(v.voted_for, 2);
        else
            assert_true(rc && v.term == known);
        vote_close(&v);
        sim_disk_fini(&d);
    }
}

/* A process that was killed may have written without a sync: what the next one reads must stay. */
static void test_read_is_durable(void **state)
{
    for (uint64_t seed = 1; seed < 100; seed++) {
        struct sim_disk d;
        struct vote v = {0};
        sim_disk_init(&d, seed);
        reopen(&v, &d);
        assert_int_equal(vote_save(&v, 4, 1), 0);
        d.fail_after = 1; /* written, not synced */
        assert_int_not_equal(vote_save(&v, 5, 2), 0);
        vote_close(&v);
        d.fail_after = -1;
        d.has_failed = false;
        reopen(&v, &d);
        assert_int_equal(v.term, 5);
        vote_close(&v);
        sim_disk_lose_power(&d);
        reopen(&v, &d);
        assert_int_equal(v.term, 5);
        vote_close(&v);
        sim_disk_fini(&d);
    }
}

static void test_damage_is_refused(void **state)
{
    struct sim_disk d;
    struct vote v = {0};
    struct err_ctx err = {0};
    size_t n;
    sim_disk_init(&d, 1);
    reopen(&v, &d);
    for (uint64_t term = 1; term < 5; term++)
        assert_int_equal(vote_save(&v, term, 1), 0);
    vote_close(&v);
    uint8_t *bytes = sim_disk_bytes(&d, "vote", &n);
    bytes[9] ^= 1;
    reopen(&v, &d); /* one slot: the other one decides */
    assert_int_equal(v.term, 3);
    vote_close(&v);
    bytes[4096 + 9] ^= 1;
    assert_int_equal(vote_open(&v, &d.disk, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "join it again"));
    sim_disk_fini(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_saved),     cmocka_unit_test(test_saved_is_there),
        cmocka_unit_test(test_interrupted_save),  cmocka_unit_test(test_read_is_durable),
        cmocka_unit_test(test_damage_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
