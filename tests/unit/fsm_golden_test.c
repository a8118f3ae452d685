/* The recorded logs give the recorded hashes, and every command is in them. What fails here is a change of
 * what existing commands do, or of the bytes of their rows: nodes of two releases would differ. Such a change
 * belongs behind a new feature level (tests/README.md). */
#include "base/mem.h"
#include "golden.h"
#include "store_test.h"

static char *path_of(unsigned n, const char *suffix)
{
    return mem_printf("%s/fsm-%u.%s", GOLDEN_DIR, n, suffix);
}

static void first_difference(const char *path, const char *was, const char *is)
{
    unsigned line = 1;
    while (*was && *was == *is) {
        line += *was == '\n';
        was++;
        is++;
    }
    fail_msg("%s, line %u: the state machine gives other hashes than it was recorded with. If no release has "
             "shipped "
             "yet: build/dev/tests/golden/fsm_record --all tests/golden. Otherwise the change needs a "
             "feature level",
             path, line);
}

static void test_recorded(void **state)
{
    struct golden g;
    struct err_ctx err = {0};
    assert_int_equal(golden_open(&g, &err), 0);
    unsigned n = 1;
    for (int rc;; n++) {
        struct buf was = {0}, is = {0};
        char *log = path_of(n, "log"), *hashes = path_of(n, "hashes");
        rc = golden_read(hashes, &was, &err);
        if (!rc && (rc = golden_play(&g, log, &is, &err)))
            fail_msg("%s", err.text);
        if (!rc && strcmp(was.data, is.data) != 0)
            first_difference(hashes, was.data, is.data);
        buf_fini(&was);
        buf_fini(&is);
        mem_free(log);
        mem_free(hashes);
        if (rc)
            break;
    }
    assert_true(n > 1);
    static const struct {
        const char *name;
        unsigned body;
    } commands[] = {
#define X(case_, member, session) {#member, IMP__COMMAND__BODY_##case_},
#include "replication/fsm/commands.def"
#undef X
    };
    for (size_t i = 0; i < n_elements(commands); i++)
        if (!g.n_done[commands[i].body])
            fail_msg("no recorded log holds a %s that is accepted: run build/dev/tests/golden/fsm_record "
                     "tests/golden and commit the new files",
                     commands[i].name);
    golden_close(&g);
}

/* One entry more or less, or another term, shows. */
static void test_sensitive(void **state)
{
    struct golden a, b;
    struct err_ctx err = {0};
    struct buf x = {0}, y = {0};
    char *log = path_of(1, "log");
    assert_int_equal(golden_open(&a, &err), 0);
    assert_int_equal(golden_open(&b, &err), 0);
    assert_int_equal(golden_play(&a, log, NULL, &err), 0);
    assert_int_equal(golden_play(&b, log, NULL, &err), 0);
    golden_print_tables(&a, &x);
    golden_print_tables(&b, &y);
    assert_string_equal(x.data, y.data);
    struct store_txn *t = store_begin(b.store);
    struct store_iter i;
    store_iter_init(&i, t, TABLE_USER, NULL);
    assert_true(store_iter_next(&i));
    struct key k;
    key_init(&k);
    key_bytes(&k, i.key, i.n_key);
    store_iter_fini(&i);
    store_delete(t, TABLE_USER, &k);
    test_commit(t);
    buf_reset(&y);
    golden_print_tables(&b, &y);
    assert_string_not_equal(x.data, y.data);
    buf_fini(&x);
    buf_fini(&y);
    mem_free(log);
    golden_close(&a);
    golden_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recorded), cmocka_unit_test(test_sensitive)};
    return cmocka_run_group_tests_name("fsm_golden", tests, NULL, NULL);
}
