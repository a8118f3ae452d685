/* Power loss: whatever mixture of old and new pages is left of data.mdb, a start gives exactly the last
 * durable point.
 *
 * The store writes to a real file, but its syncs only tell this test. A page that was in the file at the last
 * sync is there after the crash in that version or in any later one, each page for itself; the file has any
 * length from that at the sync on. The side file is the old or the new one when its rename was not synced.
 * Writes go on in the middle of every step of a point, as they do in a node. Several lives follow each other
 * on what each crash has left.
 *
 * IMP_SEEDS=n runs more seeds than the few of an ordinary run; IMP_SEED=s runs one. */
#include "base/buf.h"
#include "base/clock.h"
#include "store_test.h"
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { PAGE = 4096, N_KEYS = 6000, MAX_IMAGES = 64, LIVES = 3 };

struct image {
    uint8_t *data;
    size_t n;
};

struct expected {
    uint64_t index;
    struct store_hash hash;
};

struct world {
    uint64_t seed;
    char *dir;
    struct store *store;
    struct store_faults faults;
    uint64_t index;

    struct image images[MAX_IMAGES]; /* the first: what the last sync made safe */
    size_t n_images;
    struct image side_old,
        side_new; /* durable side file; the one that a rename may or may not have put there */
    struct expected at_old, at_new;
    int steps_to_crash;
    bool crashed;
};

/* ---- the disk ---- */

static struct image slurp(const char *dir, const char *name)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    struct image im = {0};
    int fd = open(path, O_RDONLY);
    struct stat st;
    if (fd < 0)
        return im;
    assert_int_equal(fstat(fd, &st), 0);
    im.n = st.st_size;
    im.data = malloc(im.n + 1);
    for (size_t at = 0; at < im.n;) {
        ssize_t n = pread(fd, im.data + at, im.n - at, at);
        assert_true(n > 0);
        at += n;
    }
    close(fd);
    return im;
}

static void spill(const char *dir, const char *name, const void *data, size_t n)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    for (size_t at = 0; at < n;) {
        ssize_t done = write(fd, (const char *)data + at, n - at);
        assert_true(done > 0);
        at += done;
    }
    close(fd);
}

static void drop_images(struct world *w)
{
    for (size_t i = 0; i < w->n_images; i++)
        free(w->images[i].data);
    w->n_images = 0;
}

static void take_image(struct world *w)
{
    if (w->n_images == MAX_IMAGES) { /* any one in the middle may go */
        free(w->images[MAX_IMAGES / 2].data);
        memmove(w->images + MAX_IMAGES / 2, w->images + MAX_IMAGES / 2 + 1,
                (MAX_IMAGES - MAX_IMAGES / 2 - 1) * sizeof *w->images);
        w->n_images--;
    }
    w->images[w->n_images++] = slurp(w->dir, "data.mdb");
}

static int on_sync(void *user, int fd)
{
    struct world *w = user;
    char link[64], path[600] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    assert_true(readlink(link, path, sizeof path - 1) > 0);
    if (strstr(path, "data.mdb") && !w->crashed) {
        drop_images(w);
        take_image(w);
    }
    return 0;
}

static void burst(struct world *w, int n_txns, int n_puts)
{
    static char big[10000];
    for (int i = 0; i < n_txns; i++) {
        struct store_txn *t = store_begin(w->store);
        for (int j = 0; j < n_puts; j++) {
            enum table table = rnd(&w->seed, 4) ? TABLE_USER : TABLE_VCARD;
            struct key k = key_of_u64(rnd(&w->seed, N_KEYS));
            size_t n = 20 + rnd(&w->seed, rnd(&w->seed, 20) ? 300 : 9000);
            for (size_t q = 0; q < 64 && q < n; q++)
                big[q] = (char)rnd(&w->seed, 256);
            if (rnd(&w->seed, 5) == 0)
                store_delete(t, table, &k);
            else
                store_put(t, table, &k, big, n);
        }
        store_set_position(t, &(struct store_position){.applied_index = ++w->index, .applied_term = 1});
        test_commit(t);
    }
}

static struct expected expected_now(struct store *s)
{
    struct store_reader *r = store_reader_new(s);
    struct expected e = {.index = store_reader_index(r)};
    store_state_hash(store_read_txn(r), &e.hash);
    store_reader_free(r);
    return e;
}

/* What is left of the file: each page in any version since the sync, any length since then. */
static void power_loss(struct world *w)
{
    take_image(w);
    const struct image *safe = &w->images[0], *last = &w->images[w->n_images - 1];
    size_t more = last->n > safe->n ? (last->n - safe->n) / PAGE : 0;
    size_t n = safe->n + (more ? rnd(&w->seed, more + 1) * PAGE : 0);
    uint8_t *data = calloc(1, n);
    for (size_t at = 0; at < n; at += PAGE) {
        const struct image *from = &w->images[rnd(&w->seed, w->n_images)];
        if (at < from->n)
            memcpy(data + at, from->data + at, PAGE);
    }
    bool new_side = w->side_new.n && (!w->side_old.n || rnd(&w->seed, 2));
    char dir[600];
    snprintf(dir, sizeof dir, "%s.crash", w->dir);
    mkdir(dir, 0700);
    spill(dir, "data.mdb", data, n);
    const struct image *side = new_side ? &w->side_new : &w->side_old;
    spill(dir, "point", side->data, side->n);
    if (rnd(&w->seed, 2))
        spill(dir, "point.new", side->data, rnd(&w->seed, side->n));
    if (new_side)
        w->at_old = w->at_new;
    free(data);
    w->crashed = true;
}

/* A new durable side file exists from "renamed" on; from "written" on it may be there. */
static void on_step(void *user, const char *step)
{
    struct world *w = user;
    if (w->crashed || !w->store)
        return;
    if (!strcmp(step, "written")) {
        free(w->side_new.data);
        w->side_new = slurp(w->dir, "point.new");
    } else if (!strcmp(step, "renamed")) {
        free(w->side_old.data);
        w->side_old = w->side_new;
        w->side_new = (struct image){0};
        w->at_old = w->at_new;
    }
    if (rnd(&w->seed, 2)) {
        burst(w, 1 + rnd(&w->seed, 10), 1 + rnd(&w->seed, 40));
        take_image(w);
    }
    if (--w->steps_to_crash == 0)
        power_loss(w);
}

/* ---- a life ---- */

static void die(void *user, int code, const char *detail)
{
    _exit(3);
}

static struct store *open_world(struct world *w, const char *dir, bool in_child)
{
    struct store_options o = {
        .dir = dir, .map_bytes = 1ull << 32, .manual_points = true, .faults = &w->faults};
    if (in_child)
        o.on_fatal = die;
    struct err_ctx err = {0};
    struct store *s;
    if (!store_open(&s, &o, &err))
        return s;
    if (in_child)
        _exit(2);
    fail_msg("open: %s", err.text);
    return NULL;
}

/* In a process of its own, since a damaged store may make LMDB crash. True: exactly the expected point. */
static bool check_crash_image(struct world *w)
{
    char dir[600];
    snprintf(dir, sizeof dir, "%s.crash", w->dir);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(null, 2);
        w->crashed = true;
        struct store *s = open_world(w, dir, true);
        struct expected now = expected_now(s);
        if (memcmp(&now, &w->at_old, sizeof now))
            _exit(7);
        for (int t = 0; t < N_TABLES; t++) {
            if (store_scrub_table(s, t, NULL))
                _exit(8);
        }
        w->store = s;
        burst(w, 20, 40);
        for (int t = 0; t < N_TABLES; t++) {
            if (store_scrub_table(s, t, NULL))
                _exit(9);
        }
        store_close_dirty(s);
        /* None of this was a durable point: it is gone again. */
        s = open_world(w, dir, true);
        now = expected_now(s);
        _exit(memcmp(&now, &w->at_old, sizeof now) ? 10 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status == 0;
}

static void live_until_crash(struct world *w)
{
    w->crashed = false;
    w->steps_to_crash = 1 + rnd(&w->seed, 24);
    while (!w->crashed) {
        burst(w, 1 + rnd(&w->seed, 60), 1 + rnd(&w->seed, 60));
        take_image(w);
        if (rnd(&w->seed, 8) == 0) {
            power_loss(w);
            break;
        }
        w->at_new = expected_now(w->store);
        struct err_ctx err = {0};
        assert_int_equal(store_make_point(w->store, &err), 0);
    }
}

/* The next life is on what the crash left. */
static void restart(struct world *w)
{
    store_close_dirty(w->store);
    w->store = NULL;
    char crash[600], name[2][1400];
    snprintf(crash, sizeof crash, "%s.crash", w->dir);
    static const char *const files[] = {"data.mdb", "point"};
    for (int i = 0; i < 2; i++) {
        snprintf(name[0], sizeof name[0], "%s/%s", crash, files[i]);
        snprintf(name[1], sizeof name[1], "%s/%s", w->dir, files[i]);
        assert_int_equal(rename(name[0], name[1]), 0);
    }
    test_dir_remove(strdup(crash));
    drop_images(w);
    take_image(w);
    free(w->side_old.data);
    free(w->side_new.data);
    w->side_old = slurp(w->dir, "point");
    w->side_new = (struct image){0};
    w->index = w->at_old.index;
    w->store = open_world(w, w->dir, false);
    struct expected now = expected_now(w->store);
    assert_memory_equal(&now, &w->at_old, sizeof now);
}

static bool run_seed(uint64_t seed, bool no_pin)
{
    struct world w = {.seed = seed * 7919 + 13, .dir = test_dir()};
    w.faults = (struct store_faults){.sync = on_sync, .step = on_step, .user = &w, .no_pin = no_pin};
    w.store = open_world(&w, w.dir, false);
    w.side_old = slurp(w.dir, "point");
    w.at_old = expected_now(w.store);
    bool good = true;
    for (int life = 0; life < LIVES && good; life++) {
        live_until_crash(&w);
        if (life == LIVES - 1 || no_pin) {
            good = check_crash_image(&w);
            break;
        }
        char copy[600];
        snprintf(copy, sizeof copy, "%s.crash", w.dir);
        struct image data = slurp(copy, "data.mdb"), side = slurp(copy, "point");
        good = check_crash_image(&w); /* changes the files */
        spill(copy, "data.mdb", data.data, data.n);
        spill(copy, "point", side.data, side.n);
        free(data.data);
        free(side.data);
        if (good)
            restart(&w);
    }
    store_close_dirty(w.store);
    drop_images(&w);
    free(w.side_old.data);
    free(w.side_new.data);
    char crash[600];
    snprintf(crash, sizeof crash, "%s.crash", w.dir);
    test_dir_remove(strdup(crash));
    test_dir_remove(w.dir);
    return good;
}

static uint64_t n_seeds(uint64_t usual)
{
    const char *s = getenv("IMP_SEEDS");
    return s ? strtoull(s, NULL, 10) : usual;
}

static void test_power_loss(void **state)
{
    const char *one = getenv("IMP_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1, n = one ? 1 : n_seeds(20);
    for (uint64_t seed = first; seed < first + n; seed++) {
        if (!run_seed(seed, false))
            fail_msg("seed %llu: not the durable point (IMP_SEED=%llu runs it again)",
                     (unsigned long long)seed, (unsigned long long)seed);
    }
    print_message("%llu seeds, %d power losses each\n", (unsigned long long)n, LIVES);
}

/* The same without the pin breaks stores: so the test can see what the pin prevents. */
static void test_power_loss_without_pin(void **state)
{
    int bad = 0, n = 12;
    for (int seed = 1; seed <= n; seed++)
        bad += !run_seed(seed, true);
    print_message("without the pinned reader %d of %d were damaged\n", bad, n);
    assert_true(bad >= n / 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_power_loss),
        cmocka_unit_test(test_power_loss_without_pin),
    };
    return cmocka_run_group_tests_name("storage_powerloss", tests, NULL, NULL);
}
