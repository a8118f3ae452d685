/* Store: faults of disk and data, durable points beside a writer, copies, scrub. */
#include "base/clock.h"
#include "base/htab.h"
#include "base/mem.h"
#include "storage/scrubber.h"
#include "store_test.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>

static void put_many(struct store *s, enum table table, int from, int n, uint64_t index)
{
    struct store_txn *t = store_begin(s);
    for (int i = from; i < from + n; i++) {
        struct key k = key_of_u64(i);
        char row[100];
        memset(row, 'r', sizeof row);
        snprintf(row, sizeof row, "row number %d of the table", i);
        store_put(t, table, &k, row, sizeof row);
    }
    store_set_position(t, &(struct store_position){.applied_index = index, .applied_term = 1});
    test_commit(t);
}

/* Changes one bit of the first place in DIR/NAME that holds TEXT. */
static void flip_bit(const char *dir, const char *name, const char *text, size_t at)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDWR);
    struct stat st;
    assert_true(fd >= 0 && !fstat(fd, &st));
    char *data = malloc(st.st_size);
    assert_int_equal(pread(fd, data, st.st_size, 0), st.st_size);
    char *found = text ? memmem(data, st.st_size, text, strlen(text)) : data;
    assert_non_null(found);
    found[at] ^= 4;
    assert_int_equal(pwrite(fd, found + at, 1, found + at - data), 1);
    free(data);
    close(fd);
}

static void test_sticky_error_and_map_full(void **state)
{
    char *dir = test_dir();
    struct fatal_record fatal = {0};
    struct store_options o = {
        .dir = dir, .map_bytes = 2 << 20, .manual_points = true, .on_fatal = record_fatal, .user = &fatal};
    struct err_ctx err = {0};
    struct store *s;
    assert_int_equal(store_open(&s, &o, &err), 0);
    put_many(s, TABLE_USER, 0, 100, 1);
    struct store_txn *t = store_begin(s);
    static char big[8000];
    for (int i = 0; i < 1000; i++) {
        struct key k = key_of_u64(i);
        store_put(t, TABLE_VCARD, &k, big, sizeof big);
    }
    assert_int_equal(store_txn_error(t), ERR_NOSPACE);
    struct key k = key_of_u64(1);
    const void *row;
    size_t n;
    assert_int_equal(store_get(t, TABLE_USER, &k, &row, &n), ERR_NOSPACE);
    assert_false(store_delete(t, TABLE_USER, &k));
    struct store_iter i;
    store_iter_init(&i, t, TABLE_USER, NULL);
    assert_false(store_iter_next(&i));
    assert_int_equal(store_commit(t, &err), ERR_NOSPACE);
    assert_int_equal(fatal.n, 1);
    assert_int_equal(fatal.code, ERR_NOSPACE);
    /* Dead for good, and told only once. */
    t = store_begin(s);
    store_put(t, TABLE_USER, &k, "x", 1);
    assert_int_equal(store_commit(t, &err), ERR_IO);
    assert_int_equal(fatal.n, 1);
    assert_int_not_equal(store_make_point(s, &err), 0);
    store_close_dirty(s);
    s = test_open(dir, NULL);
    t = store_begin(s);
    store_put(t, TABLE_USER, &k, "x", 1);
    test_commit(t);
    store_close_dirty(s);
    test_dir_remove(dir);
}

/* A full disk, for real, on a file system of 3 MiB; needs root for the mount. */
static void test_full_disk(void **state)
{
    char *dir = test_dir(), store_dir[600];
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", dir, "tmpfs", 0, "size=3m")) {
        print_message("no right to mount: skipped\n");
        test_dir_remove(dir);
        skip();
    }
    snprintf(store_dir, sizeof store_dir, "%s/s", dir);
    struct fatal_record fatal = {0};
    struct store *s = test_open(store_dir, &fatal);
    struct err_ctx err = {0};
    int rc = 0, n_good = 0;
    while (!rc && n_good < 2000) {
        struct store_txn *t = store_begin(s);
        static char big[3000];
        struct key k = key_of_u64(n_good);
        store_put(t, TABLE_VCARD, &k, big, sizeof big);
        store_set_position(t, &(struct store_position){.applied_index = n_good + 1});
        rc = store_commit(t, &err);
        n_good += rc == 0;
        if (!rc && n_good == 100)
            assert_int_equal(store_make_point(s, &err), 0);
    }
    assert_int_equal(rc, ERR_NOSPACE);
    assert_int_equal(fatal.n, 1);
    assert_int_equal(fatal.code, ERR_NOSPACE);
    store_close_dirty(s);
    s = test_open(store_dir, NULL); /* the point of 100 is whole */
    struct store_reader *r = store_reader_new(s);
    assert_int_equal(store_reader_index(r), 100);
    store_reader_free(r);
    store_close_dirty(s);
    umount(dir);
    test_dir_remove(dir);
}

static void test_wrong_checksum(void **state)
{
    char *dir = test_dir();
    struct store *s = test_open(dir, NULL);
    struct err_ctx err = {0};
    put_many(s, TABLE_USER, 0, 1000, 1);
    assert_int_equal(store_scrub_table(s, TABLE_USER, &err), 0);
    assert_int_equal(store_close_clean(s, &err), 0);
    flip_bit(dir, "data.mdb", "row number 77 ", 5);

    struct fatal_record fatal = {0};
    s = test_open(dir, &fatal);
    assert_int_equal(store_scrub_table(s, TABLE_USER, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "table user"));
    assert_int_equal(store_scrub_table(s, TABLE_VCARD, &err), 0);
    assert_int_equal(fatal.n, 0); /* the scrub reports; others decide */
    struct store_reader *r = store_reader_new(s);
    struct key good = key_of_u64(76), bad = key_of_u64(77);
    const void *row;
    size_t n;
    assert_int_equal(store_get(store_read_txn(r), TABLE_USER, &good, &row, &n), 0);
    assert_int_equal(store_get(store_read_txn(r), TABLE_USER, &bad, &row, &n), ERR_CORRUPT);
    assert_int_equal(store_txn_error(store_read_txn(r)), ERR_CORRUPT);
    assert_int_equal(fatal.code, ERR_CORRUPT);
    store_reader_free(r);
    store_close_dirty(s);
    test_dir_remove(dir);
}

static void test_verify_finds_bit_flip(void **state)
{
    char *dir = test_dir(), copy[600], other[600];
    snprintf(copy, sizeof copy, "%s/copy", dir);
    snprintf(other, sizeof other, "%s/other", dir);
    struct store *s = test_open(other, NULL);
    struct err_ctx err = {0};
    put_many(s, TABLE_USER, 0, 300, 1);
    uint64_t applied;
    assert_int_equal(store_copy(s, copy, &applied, &err), 0);
    store_close_dirty(s);
    flip_bit(copy, "data.mdb", "row number 7 ", 0);
    struct store_position p;
    struct arena a;
    arena_init(&a);
    assert_int_equal(store_verify_copy(copy, &p, &a, &err), ERR_CORRUPT);
    arena_fini(&a);
    test_dir_remove(dir);
}

struct growing {
    struct store *store;
    const char *path;
    int code;
    atomic_bool done;
};

static void *copy_growing(void *arg)
{
    struct growing *g = arg;
    g->code = store_copy_pages(g->store, g->path, NULL);
    atomic_store(&g->done, true);
    return NULL;
}

static uint32_t crc_of_file(const char *path, size_t n)
{
    char *bytes = mem_alloc(n + 1);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fread(bytes, 1, n, f), n);
    fclose(f);
    uint32_t crc = crc32c(0, bytes, n);
    mem_free(bytes);
    return crc;
}

/* What was seen of a copy while it was made is the beginning of what it is in the end; with it another
 * process makes a store of its own. Cut off at any page it is no store. */
static void test_copy_pages(void **state)
{
    enum { SEEN_MAX = 8 };
    char *dir = test_dir(), main_dir[600], copy[600], path[700];
    snprintf(main_dir, sizeof main_dir, "%s/main", dir);
    snprintf(copy, sizeof copy, "%s/copy", dir);
    snprintf(path, sizeof path, "%s/data.mdb", copy);
    struct store *s = test_open(main_dir, NULL);
    put_many(s, TABLE_USER, 0, 60000, 41);
    assert_int_equal(mkdir(copy, 0700), 0);
    FILE *made = fopen(path, "w");
    assert_non_null(made);
    fclose(made);
    struct growing g = {.store = s, .path = path};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, copy_growing, &g), 0);
    size_t seen[SEEN_MAX], n_seen = 0;
    uint32_t crcs[SEEN_MAX];
    while (!atomic_load(&g.done) && n_seen < SEEN_MAX) {
        struct stat st;
        assert_int_equal(stat(path, &st), 0);
        if (!st.st_size || (n_seen && seen[n_seen - 1] == (size_t)st.st_size))
            continue;
        seen[n_seen] = (size_t)st.st_size;
        crcs[n_seen] = crc_of_file(path, seen[n_seen]);
        n_seen++;
    }
    pthread_join(thread, NULL);
    assert_int_equal(g.code, 0);
    for (size_t i = 0; i < n_seen; i++)
        assert_int_equal(crc_of_file(path, seen[i]), crcs[i]);

    struct err_ctx err = {0};
    struct store_position p;
    struct arena a;
    struct stat st;
    arena_init(&a);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(truncate(path, st.st_size - 4096), 0);
    assert_int_equal(store_adopt_copy(copy, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "cut off"));
    unlink(path);
    made = fopen(path, "w");
    fclose(made);
    memset(&err, 0, sizeof err);
    assert_int_equal(store_copy_pages(s, path, &err), 0);
    assert_int_equal(store_adopt_copy(copy, &err), 0);
    assert_int_equal(store_verify_copy(copy, &p, &a, &err), 0);

    assert_int_equal(store_copy_pages(s, "/dev/full", &err), ERR_NOSPACE);
    store_close_dirty(s);
    s = test_open(copy, NULL);
    put_many(s, TABLE_USER, 5, 3000, 43);
    store_close_dirty(s);
    arena_fini(&a);
    test_dir_remove(dir);
}

static void test_copy(void **state)
{
    char *dir = test_dir(), main_dir[600], copy[600];
    snprintf(main_dir, sizeof main_dir, "%s/main", dir);
    snprintf(copy, sizeof copy, "%s/copy", dir);
    struct store *s = test_open(main_dir, NULL);
    struct err_ctx err = {0};
    struct arena a;
    arena_init(&a);
    put_many(s, TABLE_USER, 0, 20000, 41);
    struct store_txn *t = store_begin(s);
    store_set_position(t, &(struct store_position){42, 3, 40, (char *)"abc", 3});
    test_commit(t);
    uint64_t applied = 0;
    assert_int_equal(store_copy(s, copy, &applied, &err), 0);
    assert_int_equal(applied, 42);
    assert_int_equal(store_copy(s, copy, &applied, &err), ERR_IO); /* not over another one */
    memset(&err, 0, sizeof err);
    struct store_position p;
    assert_int_equal(store_verify_copy(copy, &p, &a, &err), 0);
    assert_int_equal(p.applied_index, 42);
    assert_int_equal(p.applied_term, 3);
    assert_int_equal(p.conf_index, 40);
    assert_memory_equal(p.conf, "abc", 3);

    struct store_hash h1, h2;
    struct store_reader *r = store_reader_new(s);
    store_state_hash(store_read_txn(r), &h1);
    store_reader_free(r);
    store_close_dirty(s);
    s = test_open(copy, NULL);
    r = store_reader_new(s);
    store_state_hash(store_read_txn(r), &h2);
    assert_memory_equal(&h1, &h2, sizeof h1);
    assert_int_equal(store_reader_index(r), 42);
    assert_int_equal(store_durable_index(s), 42);
    store_reader_free(r);
    put_many(s, TABLE_USER, 5, 3000, 43);
    store_close_dirty(s);
    s = test_open(copy, NULL);
    assert_int_equal(store_durable_index(s), 42);
    store_close_dirty(s);

    /* The side file of one store does not go with the data of another. */
    char from[700], to[700];
    snprintf(from, sizeof from, "%s/point", main_dir);
    snprintf(to, sizeof to, "%s/point", copy);
    assert_int_equal(rename(from, to), 0);
    struct store_options o = {.dir = copy, .map_bytes = 1ull << 32, .manual_points = true};
    o.on_fatal = record_fatal, o.user = &(struct fatal_record){0};
    assert_int_not_equal(store_open(&s, &o, &err), 0);
    arena_fini(&a);
    test_dir_remove(dir);
}

static void test_side_file_faults(void **state)
{
    struct err_ctx err = {0};
    struct store *s;
    for (int fault = 0; fault < 4; fault++) {
        char *dir = test_dir(), path[600];
        s = test_open(dir, NULL);
        put_many(s, TABLE_USER, 0, 5000, 1);
        assert_int_equal(fault == 2 ? store_close_clean(s, &err) : store_make_point(s, &err), 0);
        if (fault != 2)
            store_close_dirty(s);
        snprintf(path, sizeof path, "%s/%s", dir, fault == 1 ? "point" : "data.mdb");
        if (fault == 0)
            flip_bit(dir, "point", NULL, 100);
        else if (fault == 1)
            assert_int_equal(unlink(path), 0);
        else if (fault == 2) /* a clean stop vouches for the file: it must be of that moment */
            flip_bit(dir, "data.mdb", NULL, 4096 + 200);
        else
            assert_int_equal(truncate(path, 65536), 0);
        struct store_options o = {.dir = dir, .map_bytes = 1ull << 32, .manual_points = true};
        int rc = store_open(&s, &o, &err);
        assert_int_equal(rc, fault == 1 ? ERR_NOTFOUND : ERR_CORRUPT);
        test_dir_remove(dir);
    }
}

static void test_interrupted_making(void **state)
{
    char *dir = test_dir(), path[600];
    struct store *s = test_open(dir, NULL);
    store_close_dirty(s);
    snprintf(path, sizeof path, "%s/making", dir);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    snprintf(path, sizeof path, "%s/point", dir);
    unlink(path);
    s = test_open(dir, NULL);
    put_many(s, TABLE_USER, 0, 10, 1);
    store_close_dirty(s);
    s = test_open(dir, NULL);
    assert_int_equal(store_durable_index(s), 0);
    store_close_dirty(s);
    test_dir_remove(dir);
}

static int fail_sync(void *user, int fd)
{
    return *(int *)user;
}

static void test_failed_sync(void **state)
{
    char *dir = test_dir();
    int result = 0;
    struct store_faults faults = {.sync = fail_sync, .user = &result};
    struct fatal_record fatal = {0};
    struct store_options o = {.dir = dir,
                              .map_bytes = 1ull << 32,
                              .manual_points = true,
                              .faults = &faults,
                              .on_fatal = record_fatal,
                              .user = &fatal};
    struct err_ctx err = {0};
    struct store *s;
    assert_int_equal(store_open(&s, &o, &err), 0);
    put_many(s, TABLE_USER, 0, 10, 1);
    result = EIO;
    assert_int_equal(store_make_point(s, &err), ERR_IO);
    assert_int_equal(fatal.n, 1);
    result = 0; /* the next one would "work": the kernel has dropped the pages. It is not tried. */
    assert_int_equal(store_make_point(s, &err), ERR_IO);
    assert_int_equal(store_close_clean(s, &err), ERR_IO);
    s = test_open(dir, NULL);
    assert_int_equal(store_durable_index(s), 0);
    store_close_dirty(s);
    test_dir_remove(dir);
}

static void test_extra(void **state)
{
    char *dir = test_dir();
    struct err_ctx err = {0};
    struct arena a;
    arena_init(&a);
    const void *data;
    size_t n;
    struct store *s = test_open(dir, NULL);
    store_get_point_extra(s, &data, &n, &a);
    assert_int_equal(n, 0);
    store_set_point_extra(s, "one", 3);
    assert_int_equal(store_make_point(s, &err), 0); /* nothing else is new */
    store_set_point_extra(s, "two two", 7);
    store_close_dirty(s);
    s = test_open(dir, NULL);
    store_get_point_extra(s, &data, &n, &a);
    assert_int_equal(n, 3);
    assert_memory_equal(data, "one", 3);
    put_many(s, TABLE_USER, 0, 10, 1);
    assert_int_equal(store_make_point(s, &err), 0);
    store_close_dirty(s);
    s = test_open(dir, NULL);
    store_get_point_extra(s, &data, &n, &a);
    assert_int_equal(n, 3);
    store_close_dirty(s);
    arena_fini(&a);
    test_dir_remove(dir);
}

/* ---- threads ---- */

struct gate {
    atomic_bool closed, waiting;
    _Atomic uint64_t point_index;
    struct store *store;
};

static int gated_sync(void *user, int fd)
{
    struct gate *g = user;
    if (atomic_load(&g->closed)) {
        atomic_store(&g->waiting, true);
        while (atomic_load(&g->closed))
            sched_yield();
    }
    return 0;
}

static void *point_maker(void *arg)
{
    struct gate *g = arg;
    assert_int_equal(store_make_point(g->store, NULL), 0);
    return NULL;
}

static void on_point(void *user, uint64_t applied_index)
{
    atomic_store(&((struct gate *)user)->point_index, applied_index);
}

static void wait_true(atomic_bool *flag)
{
    uint64_t until = clock_monotonic_ms() + 20000;
    while (!atomic_load(flag)) {
        assert_true(clock_monotonic_ms() < until);
        sched_yield();
    }
}

/* While a sync hangs, the writer goes on; and a point asked for in the middle of a transaction is pinned at
 * its end. */
static void test_writer_never_waits(void **state)
{
    char *dir = test_dir();
    struct gate gate = {0};
    struct store_faults faults = {.sync = gated_sync, .user = &gate};
    struct store_options o = {.dir = dir, .map_bytes = 1ull << 32, .manual_points = true, .faults = &faults};
    struct err_ctx err = {0};
    struct store *s;
    assert_int_equal(store_open(&s, &o, &err), 0);
    gate.store = s;
    store_on_point(s, on_point, &gate);
    put_many(s, TABLE_USER, 0, 100, 1);
    atomic_store(&gate.closed, true);
    struct store_txn *t = store_begin(s);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, point_maker, &gate), 0);
    store_set_position(t, &(struct store_position){.applied_index = 2});
    test_commit(t);
    wait_true(&gate.waiting);
    for (int i = 0; i < 200; i++)
        put_many(s, TABLE_USER, i * 10, 50, 3 + i);
    assert_int_equal(store_durable_index(s), 0);
    assert_int_equal(atomic_load(&gate.point_index), 0);
    atomic_store(&gate.closed, false);
    pthread_join(thread, NULL);
    uint64_t index = store_durable_index(s);
    assert_true(index >= 1 && index <= 202);
    assert_int_equal(atomic_load(&gate.point_index), index);
    store_close_dirty(s);
    test_dir_remove(dir);
}

struct load {
    struct store *store;
    atomic_bool stop;
    uint64_t seed, index;
};

static void *writer(void *arg)
{
    struct load *l = arg;
    while (!atomic_load(&l->stop)) {
        struct store_txn *t = store_begin(l->store);
        for (int i = 0; i < 20; i++) {
            struct key k = key_of_u64(rnd(&l->seed, 40000));
            char row[40] = {0};
            uint64_t v = rnd(&l->seed, 1000);
            memcpy(row, &v, sizeof v);
            if (rnd(&l->seed, 3) == 0)
                store_delete(t, TABLE_USER, &k);
            else
                store_put(t, TABLE_USER, &k, row, sizeof row);
        }
        store_set_position(t, &(struct store_position){.applied_index = ++l->index});
        if (rnd(&l->seed, 10) == 0)
            store_abort(t), l->index--;
        else
            test_commit(t);
    }
    return NULL;
}

/* The scrub's sum is exact although the table changes all the time; points are made meanwhile, too. */
static void test_scrub_under_load(void **state)
{
    char *dir = test_dir();
    struct store_options o = {.dir = dir, .map_bytes = 1ull << 32};
    struct err_ctx err = {0};
    struct load l = {.seed = random_u64() | 1};
    assert_int_equal(store_open(&l.store, &o, &err), 0);
    put_many(l.store, TABLE_USER, 0, 40000, 1);
    l.index = 1;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, writer, &l), 0);
    for (int i = 0; i < 12; i++) {
        if (store_scrub_table(l.store, TABLE_USER, &err))
            fail_msg("scrub %d: %s", i, err.text);
        if (i % 4 == 0)
            assert_int_equal(store_make_point(l.store, &err), 0);
    }
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(store_close_clean(l.store, &err), 0);
    struct store *s = test_open(dir, NULL);
    struct store_reader *r = store_reader_new(s);
    assert_int_equal(store_reader_index(r), l.index);
    store_reader_free(r);
    store_close_dirty(s);
    test_dir_remove(dir);
}

/* Copies made while rows change are of one moment each, and whole. */
static void test_copy_under_load(void **state)
{
    char *dir = test_dir(), main_dir[600], copy[600];
    snprintf(main_dir, sizeof main_dir, "%s/main", dir);
    struct store_options o = {.dir = main_dir, .map_bytes = 1ull << 32};
    struct err_ctx err = {0};
    struct load l = {.seed = random_u64() | 1};
    assert_int_equal(store_open(&l.store, &o, &err), 0);
    put_many(l.store, TABLE_USER, 0, 20000, 1);
    l.index = 1;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, writer, &l), 0);
    uint64_t last = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t applied;
        struct store_position p;
        struct arena a;
        arena_init(&a);
        snprintf(copy, sizeof copy, "%s/copy%d", dir, i);
        if (store_copy(l.store, copy, &applied, &err) || store_verify_copy(copy, &p, &a, &err))
            fail_msg("copy %d: %s", i, err.text);
        assert_int_equal(p.applied_index, applied);
        assert_true(applied > last || i == 0);
        last = applied;
        arena_fini(&a);
    }
    atomic_store(&l.stop, true);
    pthread_join(thread, NULL);
    store_close_dirty(l.store);
    test_dir_remove(dir);
}

/* The store's own thread makes points without being asked. */
static void test_points_by_themselves(void **state)
{
    char *dir = test_dir();
    struct store_options o = {.dir = dir, .map_bytes = 1ull << 32};
    struct err_ctx err = {0};
    struct store *s;
    assert_int_equal(store_open(&s, &o, &err), 0);
    put_many(s, TABLE_USER, 0, 10, 7);
    uint64_t until = clock_monotonic_ms() + 20000;
    while (store_durable_index(s) != 7) {
        assert_true(clock_monotonic_ms() < until);
        usleep(10000);
    }
    store_close_dirty(s);
    s = test_open(dir, NULL);
    assert_int_equal(store_durable_index(s), 7);
    store_close_dirty(s);
    test_dir_remove(dir);
}

struct rounds {
    atomic_int n, n_bad;
    char text[384];
};

static void on_round(void *user, unsigned n_bad, const char *text)
{
    struct rounds *r = user;
    snprintf(r->text, sizeof r->text, "%s", text);
    atomic_store(&r->n_bad, (int)n_bad);
    atomic_fetch_add(&r->n, 1);
}

static void wait_rounds(struct rounds *r, int n)
{
    uint64_t until = clock_monotonic_ms() + 20000;
    while (atomic_load(&r->n) < n) {
        assert_true(clock_monotonic_ms() < until);
        usleep(5000);
    }
}

static void test_scrubber(void **state)
{
    char *dir = test_dir();
    struct rounds rounds = {0};
    struct err_ctx err = {0};
    struct scrubber *c;
    struct store *s = test_open(dir, NULL);
    put_many(s, TABLE_USER, 0, 2000, 1);
    assert_int_equal(scrubber_start(&c, s, 0, on_round, &rounds, &err), 0);
    scrubber_set_round(c, 1);
    wait_rounds(&rounds, 2);
    assert_int_equal(atomic_load(&rounds.n_bad), 0);
    scrubber_stop(c);
    assert_int_equal(store_close_clean(s, &err), 0);
    flip_bit(dir, "data.mdb", "row number 1234 ", 5);
    s = test_open(dir, NULL);
    atomic_store(&rounds.n, 0);
    assert_int_equal(scrubber_start(&c, s, 1, on_round, &rounds, &err), 0);
    wait_rounds(&rounds, 1);
    scrubber_stop(c);
    assert_int_equal(atomic_load(&rounds.n_bad), 1);
    assert_non_null(strstr(rounds.text, "table user"));
    store_close_dirty(s);
    test_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sticky_error_and_map_full),
        cmocka_unit_test(test_wrong_checksum),
        cmocka_unit_test(test_verify_finds_bit_flip),
        cmocka_unit_test(test_copy),
        cmocka_unit_test(test_copy_pages),
        cmocka_unit_test(test_side_file_faults),
        cmocka_unit_test(test_interrupted_making),
        cmocka_unit_test(test_failed_sync),
        cmocka_unit_test(test_extra),
        cmocka_unit_test(test_writer_never_waits),
        cmocka_unit_test(test_scrub_under_load),
        cmocka_unit_test(test_copy_under_load),
        cmocka_unit_test(test_points_by_themselves),
        cmocka_unit_test(test_scrubber),
        cmocka_unit_test(test_full_disk),
    };
    return cmocka_run_group_tests_name("storage_fault", tests, NULL, NULL);
}
