/* Damage of data.mdb that no row's checksum shows: a table that has lost rows, a branch page that leads
 * look-ups astray, pages of zeros, a file cut off. Each is found, by its name, and nothing crashes. And the
 * mark that outlives restarts. */
#include "replication/damage.h"
#include "storage/scrubber.h"
#include "store_test.h"
#include <fcntl.h>

enum { PAGE = 4096, N_ROWS = 2000, FLAG_BRANCH = 1 };

static void fill(struct store *s)
{
    struct store_txn *t = store_begin(s);
    for (int i = 0; i < N_ROWS; i++) {
        struct key k;
        char row[100];
        memset(row, 'r', sizeof row);
        key_init(&k);
        key_u64(&k, (uint64_t)i * 16);
        store_put(t, TABLE_VCARD, &k, row, sizeof row);
    }
    store_set_position(t, &(struct store_position){.applied_index = 1, .applied_term = 1});
    test_commit(t);
}

static char *make(void)
{
    char *dir = test_dir();
    struct err_ctx err = {0};
    struct store *s = test_open(dir, NULL);
    fill(s);
    assert_int_equal(store_close_clean(s, &err), 0);
    return dir;
}

/* FN for every page but the meta pages. */
static void each_page(const char *dir, void (*fn)(uint8_t *page))
{
    char path[600];
    uint8_t page[PAGE];
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    int fd = open(path, O_RDWR);
    struct stat st;
    assert_true(fd >= 0 && !fstat(fd, &st));
    for (off_t at = 2 * PAGE; at < st.st_size; at += PAGE) {
        assert_int_equal(pread(fd, page, PAGE, at), PAGE);
        fn(page);
        assert_int_equal(pwrite(fd, page, PAGE, at), PAGE);
    }
    close(fd);
}

static uint16_t u16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

/* Page header: number 8, pad 2, flags 2, lower 2, upper 2, then the places of the nodes. A branch node: child
 * 6, size of its key 2, key; the key of the first one is not used. A larger key there: the first rows of the
 * child are looked for in the child before. */
static void spoil_branch(uint8_t *page)
{
    if (u16(page + 10) != FLAG_BRANCH)
        return;
    unsigned n = (u16(page + 12) - 16u) / 2;
    for (unsigned i = 1; i < n; i++) {
        uint8_t *node = page + u16(page + 16 + 2 * i);
        if (u16(node + 6) == 8)
            node[8 + 7] |= 8; /* keys are multiples of 16 */
    }
}

static void zero(uint8_t *page)
{
    memset(page, 0, PAGE);
}

/* Rows are all there, in order, with their checksums, and the sum is right; but some cannot be found. */
static void test_branch(void **state)
{
    char *dir = make();
    struct err_ctx err = {0};
    each_page(dir, spoil_branch);
    struct fatal_record fatal = {0};
    struct store *s = test_open(dir, &fatal);
    assert_int_equal(store_scrub_table(s, TABLE_VCARD, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "is not found"));
    err = (struct err_ctx){0};
    assert_int_equal(store_scrub_table(s, TABLE_USER, &err), 0);
    store_close_dirty(s);
    test_dir_remove(dir);
}

static int open_code(const char *dir, struct err_ctx *err)
{
    struct fatal_record fatal = {0};
    struct store_options o = {
        .dir = dir, .map_bytes = 1ull << 32, .manual_points = true, .on_fatal = record_fatal, .user = &fatal};
    struct store *s = NULL;
    int rc = store_open(&s, &o, err);
    if (!rc)
        store_close_dirty(s);
    return rc;
}

static void test_zeros(void **state)
{
    char *dir = make();
    struct err_ctx err = {0};
    each_page(dir, zero);
    assert_int_equal(open_code(dir, &err), ERR_CORRUPT);
    test_dir_remove(dir);
}

static void test_cut(void **state)
{
    char *dir = make(), path[600];
    struct err_ctx err = {0};
    snprintf(path, sizeof path, "%s/data.mdb", dir);
    assert_int_equal(truncate(path, 4 * PAGE), 0);
    assert_int_equal(open_code(dir, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "shorter"));
    test_dir_remove(dir);
}

/* LMDB's own count against the one that is kept with the hash. */
static void test_count(void **state)
{
    char *dir = make();
    struct err_ctx err = {0};
    struct store *s = test_open(dir, NULL);
    struct store_txn *t = store_begin(s);
    struct key k;
    key_init(&k);
    key_bytes(&k, "hash.", 5);
    key_str(&k, "vcard");
    struct arena a;
    arena_init(&a);
    Imp__MetaRow *m = store_find_row(t, TABLE_META, &k, &a);
    assert_int_equal(m->value, N_ROWS);
    m->value++;
    store_put_row(t, TABLE_META, &k, m);
    test_commit(t);
    arena_fini(&a);
    assert_int_equal(store_close_clean(s, &err), 0);
    assert_int_equal(open_code(dir, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "table vcard has 2000 rows instead of 2001"));
    test_dir_remove(dir);
}

static void test_mark(void **state)
{
    char *dir = test_dir(), text[DAMAGE_TEXT_MAX], path[600];
    assert_false(damage_read(dir, DAMAGE_FILE, text));
    assert_int_equal(damage_mended(dir), 0); /* nothing was damaged */
    assert_false(damage_read(dir, DAMAGE_REPAIRED_FILE, text));
    assert_int_equal(damage_mark(dir, "the first\nreason"), 0);
    assert_int_equal(damage_mark(dir, "another one"), 0);
    assert_true(damage_read(dir, DAMAGE_FILE, text));
    assert_string_equal(text, "the first reason");
    assert_int_equal(damage_mended(dir), 0);
    assert_false(damage_read(dir, DAMAGE_FILE, text));
    assert_true(damage_read(dir, DAMAGE_REPAIRED_FILE, text));
    damage_forget(dir);
    assert_false(damage_read(dir, DAMAGE_REPAIRED_FILE, text));
    /* a mark counts although a crash has kept its text from the disk */
    snprintf(path, sizeof path, "%s/" DAMAGE_FILE, dir);
    assert_int_equal(damage_mark_raw(path, "", 0), 0);
    assert_true(damage_read(dir, DAMAGE_FILE, text));
    assert_true(text[0] != 0);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_branch), cmocka_unit_test(test_zeros), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_count),  cmocka_unit_test(test_mark),
    };
    return cmocka_run_group_tests_name("storage_damage", tests, NULL, NULL);
}
