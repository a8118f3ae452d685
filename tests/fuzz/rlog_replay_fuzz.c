/* Opening a log whose files hold anything: it opens or refuses; what it opens it can append to, and opens
 * again. The first byte says where the input is split into two segments. */
#include "fuzz.h"
#include "replication/rlog.h"
#include "sim_disk.h"

enum { SEGMENT = 16 << 10, BATCH = 4 << 10 };

static void on_done(void *user)
{
}

static void put(struct sim_disk *d, const char *name, const uint8_t *data, size_t n)
{
    struct disk_file *f;
    d->disk.ops->open(&d->disk, name, true, &f);
    if (n)
        d->disk.ops->write(f, 0, data, n);
    d->disk.ops->close(f);
}

static int open_log(struct rlog **log, struct sim_disk *d)
{
    struct err_ctx err = {0};
    struct rlog_config c = {
        .disk = &d->disk,
        .segment_bytes = SEGMENT,
        .batch_bytes = BATCH,
        .cache_bytes = 1024,
        .salt = 5,
        .on_done = on_done,
    };
    int rc = rlog_open(log, &c, &err);
    FUZZ_ASSERT(rc == 0 || err.text[0]);
    return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    struct sim_disk d;
    struct rlog *log;
    if (n_bytes < 1)
        return 0;
    size_t split = (size_t)data[0] * 64, n = n_bytes - 1;
    const uint8_t *p = data + 1;
    sim_disk_init(&d, 1);
    if (split > n)
        split = n;
    put(&d, "0000000000000001.log", p, split);
    put(&d, "0000000000000002.log", p + split, n - split);
    if (open_log(&log, &d) == 0) {
        uint64_t last = rlog_last(log);
        struct rlog_entry e = {rlog_term(log, last) + 1, RLOG_COMMAND, blob_new("x", 1)};
        FUZZ_ASSERT(last + 1 >= rlog_first(log));
        if (last < UINT64_MAX / 2) {
            rlog_append(log, last + 1, &e, 1);
            FUZZ_ASSERT(rlog_sync(log) == 0);
            rlog_poll(log);
            FUZZ_ASSERT(rlog_durable(log) == last + 1);
            rlog_close(log);
            FUZZ_ASSERT(open_log(&log, &d) == 0);
            FUZZ_ASSERT(rlog_last(log) == last + 1);
        }
        blob_unref(e.payload);
        rlog_close(log);
    }
    sim_disk_fini(&d);
    return 0;
}
