/* Store: keys, rows, transactions, iteration, hashes. */
#include "base/clock.h"
#include "store_test.h"

/* ---- keys ---- */

static int key_compare(const struct key *a, const struct key *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int c = memcmp(a->bytes, b->bytes, n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

static int sign(int v)
{
    return (v > 0) - (v < 0);
}

struct fields {
    uint32_t u32;
    char str[64];
    uint64_t u64;
};

static void random_fields(uint64_t *seed, struct fields *f)
{
    f->u32 = rnd(seed, 3) ? rnd(seed, 4) : (uint32_t)rnd(seed, 1ull << 32);
    size_t n = rnd(seed, 6);
    for (size_t i = 0; i < n; i++)
        f->str[i] = rnd(seed, 4) ? 'a' + (char)rnd(seed, 3) : (char)(1 + rnd(seed, 255));
    f->str[n] = 0;
    f->u64 = rnd(seed, 3) ? rnd(seed, 4) : ((uint64_t)rnd(seed, 1ull << 32) << 32 | rnd(seed, 1ull << 32));
}

static int fields_compare(const struct fields *a, const struct fields *b)
{
    if (a->u32 != b->u32)
        return a->u32 < b->u32 ? -1 : 1;
    int c = strcmp(a->str, b->str);
    if (c)
        return c;
    return (a->u64 > b->u64) - (a->u64 < b->u64);
}

static void fields_key(const struct fields *f, struct key *k)
{
    key_init(k);
    key_u32(k, f->u32);
    key_str(k, f->str);
    key_u64(k, f->u64);
}

static void test_key_order(void **state)
{
    uint64_t seed = random_u64() | 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    struct arena a;
    arena_init(&a);
    for (int i = 0; i < 20000; i++) {
        struct fields f, g;
        struct key kf, kg;
        random_fields(&seed, &f);
        random_fields(&seed, &g);
        if (rnd(&seed, 2))
            g.u32 = f.u32;
        if (rnd(&seed, 3) == 0)
            strcpy(g.str, f.str);
        fields_key(&f, &kf);
        fields_key(&g, &kg);
        assert_int_equal(sign(key_compare(&kf, &kg)), sign(fields_compare(&f, &g)));
        struct key_reader r;
        key_read(&r, kf.bytes, kf.n);
        assert_int_equal(key_read_u32(&r), f.u32);
        assert_string_equal(key_read_str(&r, &a), f.str);
        assert_true(key_read_u64(&r) == f.u64);
        assert_false(r.failed);
        key_read_u32(&r);
        assert_true(r.failed);
        arena_reset(&a);
    }
    arena_fini(&a);
}

static void test_key_long_strings(void **state)
{
    char s[3000], t[3000];
    memset(s, 'x', sizeof s);
    memset(t, 'x', sizeof t);
    s[2999] = t[2999] = 0;
    t[2998] = 'y';
    struct key a = key_of_str(s), b = key_of_str(t), prefix;
    assert_true(a.n <= KEY_MAX && b.n <= KEY_MAX);
    assert_int_not_equal(key_compare(&a, &b), 0);
    key_init(&prefix);
    key_str_prefix(&prefix, s);
    assert_memory_equal(prefix.bytes, b.bytes, prefix.n);

    struct arena arena;
    arena_init(&arena);
    struct key_reader r;
    key_read(&r, a.bytes, a.n);
    key_read_str(&r, &arena);
    assert_true(r.failed);
    /* Every length up to the longest that stays whole reads back; the first longer one does not. */
    for (size_t n = 0; n < 500; n++) {
        s[n] = 0;
        struct key k = key_of_str(s);
        key_read(&r, k.bytes, k.n);
        const char *back = key_read_str(&r, &arena);
        assert_int_equal(r.failed, n > 400);
        if (!r.failed)
            assert_string_equal(back, s);
        s[n] = 'x';
    }
    arena_fini(&arena);
}

/* ---- rows ---- */

static void test_rows_and_reopen(void **state)
{
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct arena a;
    arena_init(&a);
    struct key k = key_of_u64(7), none;
    key_init(&none);

    struct store_txn *t = store_begin(s);
    Imp__UserRow user = IMP__USER_ROW__INIT;
    user.uid = 7;
    user.localpart = (char *)"alice";
    store_put_row(t, TABLE_USER, &k, &user);
    Imp__ClusterRow cluster = IMP__CLUSTER_ROW__INIT;
    cluster.next_uid = 8;
    store_put_row(t, TABLE_CLUSTER, &none, &cluster);
    struct store_position p = {
        .applied_index = 5, .applied_term = 2, .conf_index = 3, .conf = (char *)"conf", .n_conf = 4};
    store_set_position(t, &p);
    test_commit(t);

    struct store_reader *r = store_reader_new(s);
    t = store_read_txn(r);
    Imp__UserRow *found = store_find_row(t, TABLE_USER, &k, &a);
    assert_string_equal(found->localpart, "alice");
    store_reader_free(r);
    struct err_ctx err = {0};
    assert_int_equal(store_close_clean(s, &err), 0);

    s = test_open(dir, NULL);
    r = store_reader_new(s);
    t = store_read_txn(r);
    assert_int_equal(store_reader_index(r), 5);
    assert_int_equal(store_durable_index(s), 5);
    struct store_position q;
    store_get_position(t, &q, &a);
    assert_int_equal(q.applied_term, 2);
    assert_int_equal(q.conf_index, 3);
    assert_int_equal(q.n_conf, 4);
    assert_memory_equal(q.conf, "conf", 4);
    Imp__ClusterRow *c = store_find_row(t, TABLE_CLUSTER, &none, &a);
    assert_int_equal(c->next_uid, 8);
    assert_false(store_has(t, TABLE_SYNC, &none));
    store_reader_free(r);
    assert_int_equal(store_close_clean(s, &err), 0);
    arena_fini(&a);
    test_dir_remove(dir);
}

static void test_reader_snapshot(void **state)
{
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct key k = key_of_u64(1);
    struct store_reader *r = store_reader_new(s);
    assert_false(store_has(store_read_txn(r), TABLE_USER, &k));
    struct store_txn *t = store_begin(s);
    store_put(t, TABLE_USER, &k, "", 0);
    store_set_position(t, &(struct store_position){.applied_index = 9});
    test_commit(t);
    assert_false(store_has(store_read_txn(r), TABLE_USER, &k));
    assert_int_equal(store_reader_index(r), 0);
    store_reader_reset(r);
    assert_true(store_has(store_read_txn(r), TABLE_USER, &k));
    assert_int_equal(store_reader_index(r), 9);
    store_reader_free(r);

    t = store_begin(s);
    assert_true(store_delete(t, TABLE_USER, &k));
    assert_false(store_delete(t, TABLE_USER, &k));
    store_abort(t);
    t = store_begin(s);
    assert_true(store_has(t, TABLE_USER, &k));
    store_abort(t);
    store_close_dirty(s);
    test_dir_remove(dir);
}

struct seen {
    int n;
    enum table table[8];
    bool deleted[8];
};

static void observe(void *user, enum table t, const struct key *k, bool deleted)
{
    struct seen *seen = user;
    seen->table[seen->n] = t;
    seen->deleted[seen->n++] = deleted;
}

static void test_observer(void **state)
{
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct seen seen = {0};
    struct store_txn *t = store_begin(s);
    store_set_observer(t, observe, &seen);
    struct key k = key_of_u64(1);
    store_put(t, TABLE_VCARD, &k, "a", 1);
    store_put(t, TABLE_VCARD, &k, "a", 1); /* the same again: no event */
    store_put(t, TABLE_VCARD, &k, "b", 1);
    store_delete(t, TABLE_VCARD, &k);
    store_delete(t, TABLE_VCARD, &k);
    struct store_position p = {.applied_index = 1};
    store_set_position(t, &p); /* local: no event */
    test_commit(t);
    assert_int_equal(seen.n, 3);
    assert_false(seen.deleted[0] || seen.deleted[1]);
    assert_true(seen.deleted[2]);
    assert_int_equal(seen.table[2], TABLE_VCARD);
    store_close_dirty(s);
    test_dir_remove(dir);
}

/* ---- iteration ---- */

static void fill(struct store_txn *t, enum table table, int n)
{
    for (int i = 0; i < n; i++) {
        struct key k;
        key_init(&k);
        key_u32(&k, i % 3);
        key_u64(&k, i);
        store_put(t, table, &k, &i, sizeof i);
    }
}

/* Rows are not aligned. */
static int int_row(const struct store_iter *i)
{
    int v;
    memcpy(&v, i->row, sizeof v);
    return v;
}

static int count(struct store_txn *t, const struct key *prefix, bool descending)
{
    struct store_iter i;
    int n = 0;
    uint64_t last = 0;
    store_iter_init(&i, t, TABLE_USER_BY_HOME, prefix);
    if (descending)
        store_iter_descending(&i);
    while (store_iter_next(&i)) {
        struct key_reader r;
        key_read(&r, i.key, i.n_key);
        uint32_t home = key_read_u32(&r);
        uint64_t at = (uint64_t)home << 32 | key_read_u64(&r);
        if (n)
            assert_true(descending ? at < last : at > last);
        last = at;
        n++;
    }
    assert_false(store_iter_next(&i));
    return n;
}

static void test_iteration(void **state)
{
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct store_txn *t = store_begin(s);
    struct store_reader *reader = store_reader_new(s);
    struct key prefix, from;
    key_init(&prefix);
    assert_int_equal(count(t, NULL, false), 0);
    assert_int_equal(count(t, NULL, true), 0);
    fill(t, TABLE_USER_BY_HOME, 3000);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(count(t, NULL, false), 3000);
        assert_int_equal(count(t, NULL, true), 3000);
        for (uint32_t home = 0; home < 4; home++) {
            key_init(&prefix);
            key_u32(&prefix, home);
            assert_int_equal(count(t, &prefix, false), home < 3 ? 1000 : 0);
            assert_int_equal(count(t, &prefix, true), home < 3 ? 1000 : 0);
        }
        if (round == 0) {
            test_commit(t);
            t = store_read_txn(reader);
        }
    }
    key_init(&prefix);
    key_u32(&prefix, 1);
    from = prefix;
    key_u64(&from, 1500); /* there are 1, 4, 7, ...: 1498, 1501 */
    struct store_iter i;
    store_iter_init(&i, t, TABLE_USER_BY_HOME, &prefix);
    store_iter_seek(&i, &from);
    assert_true(store_iter_next(&i));
    assert_int_equal(int_row(&i), 1501);
    store_iter_fini(&i);
    store_iter_init(&i, t, TABLE_USER_BY_HOME, &prefix);
    store_iter_descending(&i);
    store_iter_seek(&i, &from);
    assert_true(store_iter_next(&i));
    assert_int_equal(int_row(&i), 1498);
    store_iter_fini(&i);
    store_iter_fini(&i);
    store_reader_free(reader);
    store_close_dirty(s);
    test_dir_remove(dir);
}

/* While iterating, rows before, at and after the current one are put and deleted; each row that was there all
 * the time is seen exactly once. */
static void test_iteration_with_changes(void **state)
{
    uint64_t seed = random_u64() | 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    for (int round = 0; round < 30; round++) {
        enum { N = 600 };
        bool touched[N] = {0}, deleted[N] = {0}, visited[N] = {0};
        bool descending = round & 1;
        struct store_txn *t = store_begin(s);
        fill(t, TABLE_USER_BY_HOME, N);
        struct store_iter i;
        store_iter_init(&i, t, TABLE_USER_BY_HOME, NULL);
        if (descending)
            store_iter_descending(&i);
        while (store_iter_next(&i)) {
            int at = int_row(&i);
            assert_false(visited[at] || deleted[at]);
            visited[at] = true;
            int other = rnd(&seed, 3) ? at : (int)rnd(&seed, N);
            struct key k;
            key_init(&k);
            key_u32(&k, other % 3);
            key_u64(&k, other);
            if (rnd(&seed, 2)) {
                touched[other] = deleted[other] = true;
                store_delete(t, TABLE_USER_BY_HOME, &k);
            } else if (!deleted[other]) {
                char big[3000] = {0};
                memcpy(big, &other, sizeof other);
                store_put(t, TABLE_USER_BY_HOME, &k, big, 4 + rnd(&seed, sizeof big - 4));
            }
        }
        for (int n = 0; n < N; n++)
            assert_true(visited[n] || touched[n]);
        store_abort(t);
    }
    store_close_dirty(s);
    test_dir_remove(dir);
}

/* ---- hashes ---- */

static void recompute(struct store *s, enum table table)
{
    struct err_ctx err = {0};
    if (store_scrub_table(s, table, &err))
        fail_msg("scrub: %s", err.text);
}

static void test_hash(void **state)
{
    uint64_t seed = random_u64() | 1;
    print_message("seed %llu\n", (unsigned long long)seed);
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct store_hash empty, h1, h2, h3;
    struct store_txn *t = store_begin(s);
    store_state_hash(t, &empty);
    uint64_t n_rows;
    for (int i = 0; i < 5000; i++) {
        struct key k = key_of_u64(rnd(&seed, 500));
        uint64_t row[4] = {rnd(&seed, 3), i};
        if (rnd(&seed, 3) == 0)
            store_delete(t, TABLE_USER, &k);
        else
            store_put(t, TABLE_USER, &k, row, rnd(&seed, sizeof row));
        if (i % 100 == 99) {
            if (rnd(&seed, 4) == 0)
                store_abort(t);
            else
                test_commit(t);
            recompute(s, TABLE_USER);
            t = store_begin(s);
        }
    }
    store_table_hash(t, TABLE_USER, &h1, &n_rows);
    store_state_hash(t, &h3);
    assert_memory_not_equal(&h3, &empty, sizeof empty);
    test_commit(t);
    struct store_reader *r = store_reader_new(s);
    store_table_hash(store_read_txn(r), TABLE_USER, &h2, NULL);
    assert_memory_equal(&h1, &h2, sizeof h1);
    store_state_hash(store_read_txn(r), &h1);
    assert_memory_equal(&h1, &h3, sizeof h1);
    store_reader_free(r);

    /* Whatever order the rows came in, taking them away gives the empty hash again. */
    t = store_begin(s);
    struct store_iter i;
    uint64_t n = 0;
    store_iter_init(&i, t, TABLE_USER, NULL);
    while (store_iter_next(&i)) {
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        store_delete(t, TABLE_USER, &k);
        n++;
    }
    assert_int_equal(n, n_rows);
    store_state_hash(t, &h1);
    assert_memory_equal(&h1, &empty, sizeof h1);
    store_abort(t);
    store_close_dirty(s);
    test_dir_remove(dir);
}

/* ---- views ---- */

static void put_user(struct store_txn *t, uint64_t uid, const char *name)
{
    Imp__UserRow row = IMP__USER_ROW__INIT;
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    row.uid = uid;
    row.localpart = (char *)name;
    store_put_row(t, TABLE_USER, &k, &row);
}

static bool count_rows(void *user, const void *key, size_t n_key, const struct store_hash *hash)
{
    return ++*(unsigned *)user < 7;
}

/* Ranges add up to the table's hash, a changed row is in exactly one of them, and a view does not see it. */
static void test_views(void **state)
{
    char *dir = test_dir(), text[80];
    struct store *s = test_open(dir, NULL);
    struct store_txn *t = store_begin(s);
    for (uint64_t uid = 1; uid <= 1000; uid++)
        put_user(t, uid, "somebody");
    test_commit(t);
    struct store_view *before = store_view_new(s);
    t = store_begin(s);
    put_user(t, 700, "somebody else");
    test_commit(t);
    struct store_view *after = store_view_new(s);
    struct store_span all = {0};
    struct key bounds[15], k;
    struct store_range a[16], b[16];
    unsigned n, n_different = 0, n_rows = 0;
    assert_int_equal(store_view_split(before, TABLE_USER, &all, bounds, 15, &n), 0);
    assert_int_equal(n, 15);
    assert_int_equal(store_view_ranges(before, TABLE_USER, &all, bounds, n, a), 0);
    assert_int_equal(store_view_ranges(after, TABLE_USER, &all, bounds, n, b), 0);
    struct store_hash sum = {0}, table;
    for (unsigned i = 0; i <= n; i++) {
        assert_in_range(b[i].n_rows, 50, 75);
        n_rows += b[i].n_rows;
        sum.lo += b[i].hash.lo;
        if (memcmp(&a[i].hash, &b[i].hash, sizeof a[i].hash) == 0)
            continue;
        n_different++;
        key_init(&k);
        key_u64(&k, 700);
        assert_true(i == 0 || key_compare(&bounds[i - 1], &k) <= 0);
        assert_true(i == n || key_compare(&k, &bounds[i]) < 0);
    }
    assert_int_equal(n_different, 1);
    assert_int_equal(n_rows, 1000);
    struct store_reader *r = store_reader_new(s);
    store_table_hash(store_read_txn(r), TABLE_USER, &table, NULL);
    store_reader_free(r);
    assert_true(sum.lo == table.lo); /* the low half carries into the high one */
    key_init(&all.from);
    key_u64(&all.from, 10);
    key_init(&all.to);
    key_u64(&all.to, 14);
    n_rows = 0;
    assert_int_equal(store_view_rows(after, TABLE_USER, &all, count_rows, &n_rows), 0);
    assert_int_equal(n_rows, 4);
    store_view_close(before);
    assert_int_equal(store_view_rows(before, TABLE_USER, &all, count_rows, &n_rows), ERR_CLOSED);
    store_view_unref(before);
    store_view_unref(after);
    store_close_dirty(s);
    test_dir_remove(dir);

    key_init(&k);
    key_u64(&k, 17);
    key_str(&k, "a b@example.com");
    table_key_text(TABLE_ROSTER, k.bytes, k.n, text, sizeof text);
    assert_string_equal(text, "uid 17, contact bare JID a\\x20b@example.com");
    table_key_text(TABLE_ROSTER, "\1x", 2, text, sizeof text);
    assert_string_equal(text, "\\x01x");
    table_key_text(TABLE_CLUSTER, "\0", 1, text, sizeof text);
    assert_string_equal(text, "the only row");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_key_order),
        cmocka_unit_test(test_key_long_strings),
        cmocka_unit_test(test_rows_and_reopen),
        cmocka_unit_test(test_reader_snapshot),
        cmocka_unit_test(test_observer),
        cmocka_unit_test(test_iteration),
        cmocka_unit_test(test_iteration_with_changes),
        cmocka_unit_test(test_hash),
        cmocka_unit_test(test_views),
    };
    return cmocka_run_group_tests_name("storage_basic", tests, NULL, NULL);
}
