/* Commits per second of the log alone, and of a driver with one voter on top of it, with 1, 16 and 256
 * outstanding, beside a plain loop of 4 KiB write + fdatasync on the same file system. An entry has 256
 * bytes. The ratio to the loop is what can be compared between machines; the loop is measured before and
 * after. bench_log [DIR]     default /var/tmp */
#include "replication/driver.h"

#include "base/clock.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUN_MS = 2000, PAYLOAD = 256, MAX_OUTSTANDING = 256, MAX_SAMPLES = 2000000 };

struct bench {
    struct disk *disk;
    struct rlog *log;
    struct vote vote;
    struct driver *driver;
    struct blob *payload;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool is_done;
    uint64_t applied, next;
    uint64_t began[MAX_OUTSTANDING * 4]; /* by index */
    uint32_t *us;
    size_t n_samples;
};

static void on_done(void *user)
{
    struct bench *b = user;
    pthread_mutex_lock(&b->lock);
    b->is_done = true;
    pthread_cond_signal(&b->wake);
    pthread_mutex_unlock(&b->lock);
}
static void await_done(struct bench *b)
{
    pthread_mutex_lock(&b->lock);
    while (!b->is_done)
        pthread_cond_wait(&b->wake, &b->lock);
    b->is_done = false;
    pthread_mutex_unlock(&b->lock);
}
static void on_log_fatal(void *user, int code, const char *text)
{
    fprintf(stderr, "%s\n", text);
    _exit(1);
}

static void on_send(void *user, const struct raft_msg *m)
{
}
static void on_timer(void *user, uint64_t due_ms)
{
}
static void on_apply(void *user, uint64_t first, const struct rlog_entry *entries, unsigned n)
{
    ((struct bench *)user)->applied = first + n - 1;
}
static void on_state(void *user)
{
}
static void on_install(void *user, const struct driver_snapshot *meta, const void *data, size_t n)
{
}
static void on_snapshot_data(void *user, uint64_t index, struct buf *out)
{
}
static void on_fatal(void *user, const char *text)
{
    fprintf(stderr, "%s\n", text);
    _exit(1);
}
static const struct driver_ops ops = {on_send,    on_timer,         on_apply, on_state,
                                      on_install, on_snapshot_data, on_fatal, NULL};

static void check(int rc, const struct err_ctx *err)
{
    if (rc) {
        fprintf(stderr, "%s\n", err->text);
        exit(1);
    }
}

static void open_all(struct bench *b, const char *dir, bool has_driver)
{
    struct err_ctx err = {0};
    check(disk_open_directory(&b->disk, dir, &err), &err);
    struct rlog_config c = {
        .disk = b->disk, .salt = random_u64(), .on_done = on_done, .on_fatal = on_log_fatal, .user = b};
    check(rlog_open(&b->log, &c, &err), &err);
    if (has_driver) {
        struct configuration conf = {0};
        configuration_add(&conf, 1, CONFIGURATION_VOTER);
        check(vote_open(&b->vote, b->disk, &err), &err);
        check(driver_bootstrap(b->log, &b->vote, &conf, NULL, 0, &err), &err);
    }
    if (rlog_start_thread(b->log))
        exit(1);
    if (has_driver) {
        struct driver_config dc = {
            .id = 1,
            .timing = DRIVER_DEFAULT,
            .guards = DRIVER_GUARD_ALL,
            .log = b->log,
            .vote = &b->vote,
            .ops = &ops,
            .user = b,
        };
        check(driver_start(&b->driver, &dc, clock_monotonic_ms(), NULL, 0, &err), &err);
    }
}

static void close_all(struct bench *b, const char *dir)
{
    char command[300];
    driver_free(b->driver);
    b->driver = NULL;
    rlog_close(b->log);
    vote_close(&b->vote);
    disk_close_directory(b->disk);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    if (system(command))
        exit(1);
}

/* How far everything is committed; begins one more entry. */
static uint64_t committed(struct bench *b)
{
    return b->driver ? b->applied : rlog_durable(b->log);
}
static void begin_one(struct bench *b)
{
    uint64_t index = rlog_last(b->log) + 1;
    b->began[index % n_elements(b->began)] = clock_monotonic_us();
    if (b->driver) {
        if (driver_submit(b->driver, clock_monotonic_ms(), &b->payload, 1, NULL, NULL))
            exit(1);
    } else {
        struct rlog_entry e = {1, RLOG_COMMAND, b->payload};
        rlog_append(b->log, index, &e, 1);
    }
}
static void collect(struct bench *b)
{
    await_done(b);
    if (b->driver) {
        driver_log_done(b->driver, clock_monotonic_ms());
        driver_applied(b->driver, clock_monotonic_ms(), b->applied);
    } else {
        rlog_poll(b->log);
    }
}

static int compare(const void *x, const void *y)
{
    uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return a < b ? -1 : a > b;
}

static double run(struct bench *b, const char *what, unsigned outstanding, double loop)
{
    while (committed(b) < rlog_last(b->log))
        collect(b);
    uint64_t first = committed(b), at = first, begin = clock_monotonic_us(), end = begin + RUN_MS * 1000;
    b->n_samples = 0;
    while (clock_monotonic_us() < end) {
        while (rlog_last(b->log) - at < outstanding)
            begin_one(b);
        collect(b);
        uint64_t now = clock_monotonic_us();
        for (; at < committed(b); at++)
            if (b->n_samples < MAX_SAMPLES)
                b->us[b->n_samples++] = (uint32_t)(now - b->began[(at + 1) % n_elements(b->began)]);
    }
    double rate = (double)(at - first) / ((double)(clock_monotonic_us() - begin) / 1e6);
    qsort(b->us, b->n_samples, sizeof(*b->us), compare);
    printf("%-24s %5u outstanding %10.0f commits/s %6.2fx   p50 %5u us  p99 %6u us\n", what, outstanding,
           rate, rate / loop, b->us[b->n_samples / 2], b->us[b->n_samples * 99 / 100]);
    return rate;
}

static double run_loop(const char *dir)
{
    enum { N_BLOCKS = 4096, BLOCK = 4096 };
    char path[300], block[BLOCK] = {0};
    snprintf(path, sizeof(path), "%s.loop", dir);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < N_BLOCKS; i++)
        if (write(fd, block, BLOCK) != BLOCK)
            exit(1);
    fsync(fd);
    unsigned n = 0;
    uint64_t begin = clock_monotonic_us(), end = begin + RUN_MS * 500;
    for (; clock_monotonic_us() < end; n++)
        if (pwrite(fd, block, BLOCK, (off_t)(n % N_BLOCKS) * BLOCK) != BLOCK || fdatasync(fd))
            exit(1);
    double rate = n / ((double)(clock_monotonic_us() - begin) / 1e6);
    close(fd);
    unlink(path);
    printf("%-24s %5u outstanding %10.0f commits/s %6.2fx\n", "4 KiB write + fdatasync", 1, rate, 1.0);
    return rate;
}

int main(int argc, char **argv)
{
    static const unsigned outstanding[] = {1, 16, MAX_OUTSTANDING};
    char dir[256];
    struct bench b = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};
    snprintf(dir, sizeof(dir), "%s/imp-bench-log.%d", argc > 1 ? argv[1] : "/var/tmp", (int)getpid());
    b.us = mem_calloc(MAX_SAMPLES, sizeof(*b.us));
    b.payload = blob_new(NULL, PAYLOAD);
    memset(b.payload->data, 'x', PAYLOAD);
    double loop = run_loop(dir);
    open_all(&b, dir, false);
    for (unsigned i = 0; i < n_elements(outstanding); i++)
        run(&b, "log", outstanding[i], loop);
    close_all(&b, dir);
    open_all(&b, dir, true);
    for (unsigned i = 0; i < n_elements(outstanding); i++)
        run(&b, "driver, one voter", outstanding[i], loop);
    close_all(&b, dir);
    run_loop(dir);
    blob_unref(b.payload);
    mem_free(b.us);
    return 0;
}
