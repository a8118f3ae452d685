/* Directory words: folding, splitting, bounds. */
#include "im/directory_words.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static unsigned words(struct arena *a, char **out, const char *one, const char *two)
{
    return directory_words(out, a, (const char *const[]){one, two, NULL});
}

static void test_split_and_fold(void **state)
{
    struct arena a;
    char *w[DIRECTORY_WORDS_MAX];
    arena_init(&a);
    assert_int_equal(words(&a, w, "Müller-Lüdenscheidt, Ann", "ANN.m@example.com"), 6);
    assert_string_equal(w[0], "müller");
    assert_string_equal(w[1], "lüdenscheidt");
    assert_string_equal(w[2], "ann");
    assert_string_equal(w[3], "m");
    assert_string_equal(w[4], "example");
    assert_string_equal(w[5], "com");
    assert_int_equal(words(&a, w, "STRASSE straße", ""), 1);
    assert_string_equal(w[0], "strasse");
    assert_int_equal(words(&a, w, "", " .-"), 0);
    arena_fini(&a);
}

static void test_bounds(void **state)
{
    struct arena a;
    char *w[DIRECTORY_WORDS_MAX], text[4096];
    arena_init(&a);
    size_t n = 0;
    for (int i = 0; i < 200; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "w%d ", i);
    assert_int_equal(words(&a, w, text, "x"), DIRECTORY_WORDS_MAX);
    /* cut at a character, never inside one */
    for (n = 0; n < 120; n += 3)
        memcpy(text + n, "\xe2\xb1\xa5", 3);
    text[n] = 0;
    assert_int_equal(words(&a, w, text, ""), 1);
    assert_true(strlen(w[0]) <= DIRECTORY_WORD_BYTES);
    assert_int_equal(strlen(w[0]) % 3, 0); /* every character of three bytes is whole */
    assert_int_equal(words(&a, w, "a\xff\xfe" "b", ""), 2); /* broken UTF-8 separates */
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_split_and_fold), cmocka_unit_test(test_bounds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
