/* Rate of new connections by address (base/admission.h); row 23 of docs/attacks.md. */
#include "base/admission.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned take_all(struct admission *a, const char *address, uint64_t now_ms, unsigned tries)
{
    unsigned n = 0;
    for (unsigned i = 0; i < tries; i++)
        n += admission_take(a, address, now_ms);
    return n;
}

static void test_rate(void **state)
{
    struct metrics m = {0};
    struct admission *a = admission_new(NULL, &m);
    uint64_t now = 5;
    assert_int_equal(take_all(a, "192.0.2.1", now, 100000), 100000); /* nothing is set yet */
    admission_set(a, 7, "");
    assert_int_equal(take_all(a, "192.0.2.1", now, 1000), 7 * ADMISSION_BURST_S);
    assert_int_equal(metrics_get(&m, METRIC_CONNECTIONS_REFUSED), 1000 - 7 * ADMISSION_BURST_S);
    assert_int_equal(take_all(a, "192.0.2.2", now, 1000), 7 * ADMISSION_BURST_S); /* another's is its own */
    assert_int_equal(take_all(a, "192.0.2.1", now + 1000, 100), 7);
    /* small steps add up, and who goes on trying loses nothing by it */
    unsigned n = 0;
    for (now += 1001; now < 11006; now++)
        n += admission_take(a, "192.0.2.1", now);
    assert_in_range(n, 69, 70);
    assert_int_equal(take_all(a, "192.0.2.1", now + 3600 * 1000, 1000), 7 * ADMISSION_BURST_S);
    /* a clock that seems to go back gives nothing */
    assert_int_equal(take_all(a, "192.0.2.1", now, 100), 0);
    admission_set(a, 0, "");
    assert_int_equal(take_all(a, "192.0.2.1", now, 1000), 1000);
    admission_free(a);
    assert_true(admission_take(NULL, "192.0.2.1", 0));
}

static void test_addresses(void **state)
{
    struct admission *a = admission_new(NULL, NULL);
    admission_set(a, 1, "10.0.0.0/8, 2001:db8:ff::/48 ::1 192.0.2.128/25");
    assert_int_equal(take_all(a, "2001:db8::1", 0, 7), 7);
    assert_int_equal(take_all(a, "2001:db8::2", 0, 7), 3); /* one /64 */
    assert_int_equal(take_all(a, "2001:db8:0:1::1", 0, 100), 10);
    assert_int_equal(take_all(a, "::ffff:192.0.2.1", 0, 7), 7);
    assert_int_equal(take_all(a, "192.0.2.1", 0, 7), 3); /* the same one */
    assert_int_equal(take_all(a, "192.0.2.129", 0, 100), 100);
    assert_int_equal(take_all(a, "::ffff:10.1.2.3", 0, 100), 100);
    assert_int_equal(take_all(a, "2001:db8:ff:1234::1", 0, 100), 100);
    assert_int_equal(take_all(a, "::1", 0, 100), 100);
    assert_int_equal(take_all(a, "11.0.0.0", 0, 100), 10);
    admission_free(a);
}

/* The table does not grow, and addresses that come do not wash away the one that opens many. */
static void test_bounded(void **state)
{
    struct admission *a = admission_new(NULL, NULL);
    char address[64];
    unsigned n = 0;
    admission_set(a, 10, "");
    assert_int_equal(take_all(a, "192.0.2.1", 0, 1000), 100);
    for (unsigned i = 0; i < 100000; i++) {
        snprintf(address, sizeof(address), "2001:db8:%x:%x::1", i >> 16, i & 0xffff);
        assert_true(admission_take(a, address, i / 1000));
        n += admission_take(a, "192.0.2.1", i / 1000);
    }
    assert_in_range(n, 0, 2);
    admission_free(a);
}

static void test_lists(void **state)
{
    assert_true(address_is_in_list("192.0.2.1", "192.0.2.1"));
    assert_false(address_is_in_list("192.0.2.1", "192.0.2.10"));
    assert_true(address_is_in_list("0.0.0.0/0", "192.0.2.10"));
    assert_false(address_is_in_list("0.0.0.0/0", "2001:db8::1"));
    assert_true(address_is_in_list("::/0", "2001:db8::1"));
    assert_true(address_is_in_list(" x,192.0.2.8/31 ", "192.0.2.9"));
    assert_false(address_is_in_list("192.0.2.8/31", "192.0.2.10"));
    static const char *const bad[] = {
        "192.0.2.1/33",   "192.0.2.1/-1", "192.0.2.1/", "192.0.2.1/99999999999999999999",
        "2001:db8::/129", "192.0.2",      "",           "/8",
        "192.0.2.1/8x"};
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(address_is_in_list(bad[i], "192.0.2.1"));
    assert_false(address_is_in_list("0.0.0.0/0 ::/0", "nobody"));
}

/* A line at once, then one a minute. */
static void test_log(void **state)
{
    FILE *f = tmpfile();
    struct log *log = log_new(fileno(f), LOG_TEXT, LOG_INFO, "n1");
    struct admission *a = admission_new(log_category(log, "xmpp"), NULL);
    admission_set(a, 1, "");
    for (uint64_t now = 0; now < 125 * 1000; now += 100)
        admission_take(a, "192.0.2.77", now);
    char text[4096] = "";
    unsigned n_lines = 0;
    rewind(f);
    assert_true(fread(text, 1, sizeof(text) - 1, f) > 0);
    for (const char *at = text; (at = strstr(at, "192.0.2.77")); at++)
        n_lines++;
    assert_int_equal(n_lines, 3);
    assert_non_null(strstr(text, "limits.new_connections_per_address (1 a second)"));
    admission_free(a);
    log_free(log);
    fclose(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rate),  cmocka_unit_test(test_addresses), cmocka_unit_test(test_bounded),
        cmocka_unit_test(test_lists), cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
