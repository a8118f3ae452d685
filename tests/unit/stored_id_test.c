/* Ids of messages as clients see them (XEP-0313 §3.1, XEP-0359 §3 and §6). */
#include "base/mem.h"
#include "im/stored.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char key_one[] = "0123456789abcdef", key_two[] = "0123456789abcdeg";

static void test_round_trip(void **state)
{
    static const struct {
        uint64_t index;
        uint32_t place;
    } cases[] = {{0, 0}, {1, 0}, {1, 1}, {0x1be, 17}, {UINT64_MAX, UINT32_MAX}, {1ull << 40, 1u << 31}};
    struct stored_ids *with_key = stored_ids_new(key_one, 16), *all[] = {NULL, with_key};
    for (size_t k = 0; k < n_elements(all); k++) {
        for (size_t i = 0; i < n_elements(cases); i++) {
            char id[STORED_ID_MAX];
            uint64_t index;
            uint32_t place;
            stored_id_write(all[k], id, cases[i].index, cases[i].place);
            assert_true(stored_id_parse(all[k], id, &index, &place));
            assert_int_equal(index, cases[i].index);
            assert_int_equal(place, cases[i].place);
        }
    }
    stored_ids_free(with_key);
}

static size_t n_same(const char *a, const char *b)
{
    size_t n = 0;
    for (; *a && *b; a++, b++)
        n += *a == *b;
    return n;
}

/* Neighbours have nothing in common, and another cluster's ids are others. */
static void test_tells_nothing(void **state)
{
    struct stored_ids *one = stored_ids_new(key_one, 16), *two = stored_ids_new(key_two, 16);
    char id[STORED_ID_MAX], next[STORED_ID_MAX], other[STORED_ID_MAX];
    stored_id_write(one, id, 1000, 0);
    stored_id_write(one, next, 1000, 1);
    stored_id_write(two, other, 1000, 0);
    assert_int_equal(strlen(id), 32);
    assert_true(n_same(id, next) < 16);
    assert_true(n_same(id, other) < 16);
    stored_ids_free(one);
    stored_ids_free(two);
}

static void test_only_what_was_written(void **state)
{
    struct stored_ids *ids = stored_ids_new(key_one, 16), *two = stored_ids_new(key_two, 16);
    char id[STORED_ID_MAX], text[STORED_ID_MAX + 1];
    uint64_t index;
    uint32_t place;
    stored_id_write(ids, id, 77, 3);
    for (size_t i = 0; id[i]; i++) { /* another digit: another block, which has not the four zeros */
        memcpy(text, id, sizeof id);
        text[i] = text[i] == '0' ? '1' : '0';
        assert_false(stored_id_parse(ids, text, &index, &place));
    }
    for (size_t i = 0; id[i]; i++) { /* one message has one id */
        memcpy(text, id, sizeof id);
        if (text[i] < 'a')
            continue;
        text[i] = (char)(text[i] - 'a' + 'A');
        assert_false(stored_id_parse(ids, text, &index, &place));
    }
    snprintf(text, sizeof text, "%s0", id);
    assert_false(stored_id_parse(ids, text, &index, &place));
    text[31] = '\0';
    assert_false(stored_id_parse(ids, text, &index, &place));
    assert_false(stored_id_parse(ids, "", &index, &place));
    assert_false(stored_id_parse(ids, "4d-3", &index, &place)); /* no plain ones beside it */
    assert_false(stored_id_parse(two, id, &index, &place));
    static const char *const bad[] = {"",      "-",     "4d",   "4d-",   "-3",
                                      "04d-3", "4d-03", "4D-3", "4d-3 ", "4d-123456789"};
    for (size_t i = 0; i < n_elements(bad); i++)
        assert_false(stored_id_parse(NULL, bad[i], &index, &place));
    stored_ids_free(ids);
    stored_ids_free(two);
}

static void test_what_is_no_key(void **state)
{
    assert_null(stored_ids_new(key_one, 0));
    assert_null(stored_ids_new(key_one, 15));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_tells_nothing),
        cmocka_unit_test(test_only_what_was_written),
        cmocka_unit_test(test_what_is_no_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
