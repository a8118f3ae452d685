/* The log on a disk that loses, tears and fails; and on a real one, with kill -9. */
#include "replication/rlog.h"
#include "replication/rlog_format.h"
#include "sim_disk.h"

#include "base/clock.h"
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

enum { SEGMENT = 16 << 10, BATCH = 4 << 10 };

struct fixture {
    struct sim_disk disk;
    struct rlog *log;
    unsigned n_done, n_fatal;
    int fatal_code;
};

static void on_done(void *user)
{
    ((struct fixture *)user)->n_done++;
}
static void on_fatal(void *user, int code, const char *text)
{
    ((struct fixture *)user)->n_fatal++;
    ((struct fixture *)user)->fatal_code = code;
}

static int try_open(struct fixture *f, struct err_ctx *err)
{
    struct rlog_config c = {
        .disk = &f->disk.disk,
        .segment_bytes = SEGMENT,
        .batch_bytes = BATCH,
        .cache_bytes = 1024,
        .salt = 0x1122334455667788,
        .on_done = on_done,
        .on_fatal = on_fatal,
        .user = f,
    };
    return rlog_open(&f->log, &c, err);
}

static void open_log(struct fixture *f)
{
    struct err_ctx err = {0};
    int rc = try_open(f, &err);
    if (rc)
        fail_msg("rlog_open: %s", err.text);
}

static void reopen(struct fixture *f)
{
    rlog_close(f->log);
    open_log(f);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    sim_disk_init(&f->disk, 1);
    open_log(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    rlog_close(f->log);
    sim_disk_fini(&f->disk);
    mem_free(f);
    return 0;
}

static struct blob *payload_of(uint64_t index, uint64_t term, unsigned mark)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "entry %llu of term %llu, %u", (unsigned long long)index,
                     (unsigned long long)term, mark);
    return blob_new(text, (size_t)n);
}

static void append_marked(struct fixture *f, uint64_t first, uint64_t term, unsigned n, unsigned mark)
{
    struct rlog_entry entries[64];
    for (unsigned i = 0; i < n; i++)
        entries[i] = (struct rlog_entry){term, RLOG_COMMAND, payload_of(first + i, term, mark)};
    rlog_append(f->log, first, entries, n);
    for (unsigned i = 0; i < n; i++)
        blob_unref(entries[i].payload);
}

static void append(struct fixture *f, uint64_t first, uint64_t term, unsigned n)
{
    append_marked(f, first, term, n, 0);
}

static void flush(struct fixture *f)
{
    assert_int_equal(rlog_sync(f->log), 0);
    rlog_poll(f->log);
}

struct waiting {
    struct rlog_read read;
    struct rlog_entry first;
    bool is_done;
    int code;
    unsigned n;
};
static void on_read(struct rlog_read *r)
{
    struct waiting *w = container_of(r, struct waiting, read);
    w->is_done = true;
    w->code = r->code;
    w->n = r->n;
    if (!r->code) {
        w->first = r->entries[0];
        blob_ref(w->first.payload);
    }
}

/* From the cache or the disk; a reference. */
static struct rlog_entry get(struct fixture *f, uint64_t index)
{
    struct rlog_entry e;
    int rc = rlog_get(f->log, index, &e);
    if (rc == 0) {
        blob_ref(e.payload);
        return e;
    }
    assert_int_equal(rc, ERR_AGAIN);
    struct waiting w = {.read = {.first = index, .n = 1, .done = on_read}};
    rlog_read(f->log, &w.read);
    rlog_write_begin(f->log);
    rlog_write_finish(f->log);
    rlog_poll(f->log);
    assert_true(w.is_done);
    assert_int_equal(w.code, 0);
    return w.first;
}

static void assert_marked(struct fixture *f, uint64_t index, uint64_t term, unsigned mark)
{
    struct rlog_entry e = get(f, index);
    struct blob *want = payload_of(index, term, mark);
    assert_int_equal(e.term, term);
    assert_int_equal(rlog_term(f->log, index), term);
    assert_int_equal(e.payload->n, want->n);
    assert_memory_equal(e.payload->data, want->data, want->n);
    blob_unref(want);
    blob_unref(e.payload);
}

static void assert_entry(struct fixture *f, uint64_t index, uint64_t term)
{
    assert_marked(f, index, term, 0);
}

/* ---- order and replay ---- */

static void test_entries_survive_reopening(void **state)
{
    struct fixture *f = *state;
    append(f, 1, 1, 10);
    append(f, 11, 3, 20);
    assert_int_equal(rlog_durable(f->log), 0);
    flush(f);
    assert_int_equal(rlog_durable(f->log), 30);
    reopen(f);
    assert_int_equal(rlog_first(f->log), 1);
    assert_int_equal(rlog_last(f->log), 30);
    assert_int_equal(rlog_durable(f->log), 30);
    for (uint64_t i = 1; i <= 30; i++)
        assert_entry(f, i, i <= 10 ? 1 : 3);
    assert_int_equal(rlog_term(f->log, 31), 0);
    assert_int_equal(rlog_term(f->log, 0), 0);
}

static void test_one_sync_for_all_that_is_queued(void **state)
{
    struct fixture *f = *state;
    struct rlog_stats before, after;
    append(f, 1, 1, 1);
    flush(f);
    rlog_get_stats(f->log, &before);
    for (uint64_t i = 2; i < 30; i++)
        append(f, i, 1, 1);
    flush(f);
    rlog_get_stats(f->log, &after);
    assert_int_equal(after.n_syncs - before.n_syncs, 1);
}

static void test_lower_index_cuts(void **state)
{
    struct fixture *f = *state;
    append(f, 1, 1, 20);
    flush(f);
    append(f, 8, 2, 3);
    flush(f);
    assert_int_equal(rlog_last(f->log), 10);
    reopen(f);
    assert_int_equal(rlog_last(f->log), 10);
    assert_entry(f, 7, 1);
    assert_entry(f, 8, 2);
}

static void test_cut_record(void **state)
{
    struct fixture *f = *state;
    append(f, 1, 1, 20);
    rlog_cut(f->log, 15);
    flush(f);
    assert_int_equal(rlog_last(f->log), 14);
    assert_int_equal(rlog_durable(f->log), 14);
    reopen(f);
    assert_int_equal(rlog_last(f->log), 14);
}

/* The log begins at 40 in what is left of the files, then goes on at 30 after a cut: what lay behind is dead.
 */
static void test_record_below_the_start_cuts(void **state)
{
    struct fixture *f = *state;
    struct err_ctx err = {0};
    struct sim_disk other;
    struct buf batch = {0};
    struct disk_file *file;
    sim_disk_init(&other, 7);
    other.disk.ops->open(&other.disk, "0000000000000005.log", true, &file);
    rlog_format_begin(&batch);
    for (uint64_t i = 40; i < 60; i++)
        rlog_format_add(&batch, &(struct rlog_record){i, 1, RLOG_COMMAND, 3, "old"});
    for (uint64_t i = 30; i < 45; i++)
        rlog_format_add(&batch, &(struct rlog_record){i, 2, RLOG_COMMAND, 3, "new"});
    rlog_format_end(&batch, 99, 17, 35);
    other.disk.ops->write(file, 0, batch.data, batch.n);
    other.disk.ops->close(file);
    buf_fini(&batch);
    struct rlog_config c = {.disk = &other.disk, .segment_bytes = SEGMENT, .batch_bytes = BATCH};
    struct rlog *log;
    assert_int_equal(rlog_open(&log, &c, &err), 0);
    assert_int_equal(rlog_first(log), 30);
    assert_int_equal(rlog_last(log), 44);
    assert_int_equal(rlog_term(log, 44), 2);
    rlog_close(log);
    sim_disk_fini(&other);
    (void)f;
}

static void test_gap_is_corruption(void **state)
{
    struct fixture *f = *state;
    struct err_ctx err = {0};
    append(f, 1, 1, 3);
    flush(f);
    rlog_close(f->log);
    f->log = NULL;
    size_t n;
    uint8_t *bytes = sim_disk_bytes(&f->disk, "0000000000000001.log", &n);
    struct rlog_batch b;
    assert_true(rlog_format_read_batch(&b, bytes, n));
    struct buf batch = {0};
    rlog_format_begin(&batch);
    rlog_format_add(&batch, &(struct rlog_record){9, 1, RLOG_COMMAND, 3, "gap"});
    rlog_format_end(&batch, b.salt, b.sequence + 1, 1);
    struct disk_file *file;
    f->disk.disk.ops->open(&f->disk.disk, "0000000000000001.log", false, &file);
    f->disk.disk.ops->write(file, rlog_format_batch_bytes(b.n_bytes), batch.data, batch.n);
    f->disk.disk.ops->close(file);
    buf_fini(&batch);
    assert_int_equal(try_open(f, &err), ERR_CORRUPT);
    assert_non_null(strstr(err.text, "join it again"));
}

static void test_changes_are_found(void **state)
{
    struct fixture *f = *state;
    struct configuration conf = {0}, found;
    struct buf b = {0};
    configuration_add(&conf, 1, CONFIGURATION_VOTER);
    configuration_add(&conf, 2, CONFIGURATION_STANDBY);
    configuration_encode(&b, &conf);
    struct rlog_entry e = {1, RLOG_CHANGE, blob_new(b.data, b.n)};
    rlog_append(f->log, 1, &e, 1);
    append(f, 2, 1, 5);
    rlog_append(f->log, 7, &e, 1);
    flush(f);
    reopen(f);
    assert_int_equal(rlog_find_change(f->log, 1, 100, &found), 7);
    assert_int_equal(found.n, 2);
    assert_int_equal(rlog_find_change(f->log, 1, 6, NULL), 1);
    assert_int_equal(rlog_find_change(f->log, 2, 6, NULL), 0);
    rlog_cut(f->log, 7);
    assert_int_equal(rlog_find_change(f->log, 1, 100, NULL), 1);
    blob_unref(e.payload);
    buf_fini(&b);
    flush(f);
}

/* ---- what counts as durable ---- */

static void test_write_in_flight_keeps_what_lies_below_a_cut(void **state)
{
    struct fixture *f = *state;
    append(f, 1, 1, 10);
    assert_true(rlog_write_begin(f->log));
    /* Cut and written again, the same index and term, while the first write is on its way. */
    append_marked(f, 6, 1, 3, 1);
    rlog_write_finish(f->log);
    rlog_poll(f->log);
    assert_int_equal(rlog_durable(f->log), 5);
    flush(f);
    assert_int_equal(rlog_durable(f->log), 8);
    reopen(f);
    assert_int_equal(rlog_last(f->log), 8);
    assert_marked(f, 6, 1, 1);
    assert_entry(f, 5, 1);
}

static void test_install_voids_writes_in_flight(void **state)
{
    struct fixture *f = *state;
    append(f, 1, 1, 5);
    flush(f);
    append(f, 6, 1, 5);
    rlog_write_begin(f->log);
    append(f, 11, 1, 5);
    rlog_void_writes(f->log);
    flush(f);
    assert_int_equal(rlog_durable(f->log), 5);
    /* The reset goes through the same queue; nothing that was queued before lands after it. */
    rlog_reset(f->log, 100);
    append(f, 101, 4, 2);
    assert_int_equal(rlog_durable(f->log), 100);
    flush(f);
    assert_int_equal(rlog_durable(f->log), 102);
    reopen(f);
    assert_int_equal(rlog_first(f->log), 101);
    assert_int_equal(rlog_last(f->log), 102);
    assert_entry(f, 101, 4);
}

static void test_reset_alone_survives(void **state)
{
    struct fixture *f = *state;
    append(f, 1, 1, 5);
    rlog_reset(f->log, 77);
    flush(f);
    reopen(f);
    assert_int_equal(rlog_first(f->log), 78);
    assert_int_equal(rlog_last(f->log), 77);
}

/* ---- segments, cache, reads ---- */

static void fill(struct fixture *f, uint64_t to)
{
    while (rlog_last(f->log) < to) {
        append(f, rlog_last(f->log) + 1, 1, 10);
        flush(f);
    }
}

static unsigned count_segments(struct fixture *f)
{
    unsigned n = 0;
    for (unsigned i = 1; i < 200; i++) {
        char name[32];
        size_t n_bytes;
        snprintf(name, sizeof(name), "%016x.log", i);
        n += sim_disk_bytes(&f->disk, name, &n_bytes) != NULL;
    }
    return n;
}

static void test_old_entries_are_read_back(void **state)
{
    struct fixture *f = *state;
    struct rlog_entry e;
    fill(f, 500);
    assert_int_equal(rlog_get(f->log, 1, &e), ERR_AGAIN);
    assert_int_equal(rlog_get(f->log, 500, &e), 0);
    assert_int_equal(rlog_get(f->log, 501, &e), ERR_NOTFOUND);
    for (uint64_t i = 1; i <= 500; i += 7)
        assert_entry(f, i, 1);
    reopen(f);
    for (uint64_t i = 1; i <= 500; i += 7)
        assert_entry(f, i, 1);
}

static void test_read_of_many(void **state)
{
    struct fixture *f = *state;
    fill(f, 500);
    struct waiting w = {.read = {.first = 3, .n = RLOG_MAX_READ, .done = on_read}};
    rlog_read(f->log, &w.read);
    rlog_write_begin(f->log);
    rlog_write_finish(f->log);
    rlog_poll(f->log);
    assert_true(w.is_done);
    assert_int_equal(w.n, RLOG_MAX_READ);
    blob_unref(w.first.payload);
}

static void test_cut_voids_a_read(void **state)
{
    struct fixture *f = *state;
    fill(f, 500);
    struct waiting w = {.read = {.first = 100, .n = 20, .done = on_read}};
    rlog_read(f->log, &w.read);
    append(f, 110, 2, 1);
    flush(f);
    rlog_write_begin(f->log);
    rlog_write_finish(f->log);
    rlog_poll(f->log);
    assert_true(w.is_done);
    assert_int_equal(w.code, ERR_NOTFOUND);
}

static void test_damaged_entry_is_fatal_when_read(void **state)
{
    struct fixture *f = *state;
    fill(f, 500);
    size_t n;
    uint8_t *bytes = sim_disk_bytes(&f->disk, "0000000000000001.log", &n);
    bytes[RLOG_BATCH_HEAD + RLOG_RECORD_HEAD + 2] ^= 1;
    struct waiting w = {.read = {.first = 1, .n = 1, .done = on_read}};
    rlog_read(f->log, &w.read);
    rlog_write_begin(f->log);
    rlog_write_finish(f->log);
    rlog_poll(f->log);
    assert_true(w.is_done);
    assert_int_equal(w.code, ERR_CORRUPT);
    assert_int_equal(f->n_fatal, 1);
}

static void test_compaction_drops_whole_segments(void **state)
{
    struct fixture *f = *state;
    fill(f, 1000);
    unsigned before = count_segments(f);
    uint64_t bytes = rlog_bytes(f->log);
    assert_true(before > 3);
    assert_true(bytes > 3 * SEGMENT);
    assert_true(rlog_bytes_from(f->log, 900) < bytes);
    rlog_compact(f->log, 900);
    assert_int_equal(rlog_first(f->log), 900);
    assert_int_equal(rlog_term(f->log, 899), 0);
    flush(f);
    assert_true(count_segments(f) < before);
    assert_true(rlog_bytes(f->log) < bytes);
    reopen(f);
    assert_true(rlog_first(f->log) <= 900 && rlog_first(f->log) > 1);
    assert_int_equal(rlog_last(f->log), 1000);
    for (uint64_t i = 900; i <= 1000; i++)
        assert_entry(f, i, 1);
    rlog_compact(f->log, 1001); /* everything */
    flush(f);
    append(f, 1001, 1, 3);
    flush(f);
    reopen(f);
    assert_int_equal(rlog_last(f->log), 1003);
}

static void test_reset_drops_what_was_before(void **state)
{
    struct fixture *f = *state;
    fill(f, 1000);
    rlog_reset(f->log, 5000);
    flush(f);
    assert_int_equal(count_segments(f), 1);
}

static void test_missing_segment_is_corruption(void **state)
{
    struct fixture *f = *state;
    struct err_ctx err = {0};
    fill(f, 1000);
    rlog_close(f->log);
    f->log = NULL;
    assert_int_equal(f->disk.disk.ops->unlink(&f->disk.disk, "0000000000000002.log"), 0);
    assert_int_equal(try_open(f, &err), ERR_CORRUPT);
}

/* ---- damage ---- */

struct damage {
    struct fixture *f;
    uint8_t *good; /* the segment as it was */
    size_t n;
    size_t offsets[3], ends[3]; /* of the three batches; the end is that of the records */
};

/* Three batches: entries 1-3, 4-6, 7-9. */
static void make_three(struct damage *d, struct fixture *f)
{
    for (uint64_t i = 1; i < 9; i += 3) {
        append(f, i, 1, 3);
        flush(f);
    }
    rlog_close(f->log);
    f->log = NULL;
    d->f = f;
    uint8_t *bytes = sim_disk_bytes(&f->disk, "0000000000000001.log", &d->n);
    d->good = mem_dup(bytes, d->n);
    size_t at = 0;
    for (unsigned i = 0; i < 3; i++) {
        struct rlog_batch b;
        assert_true(rlog_format_read_batch(&b, d->good + at, d->n - at));
        d->offsets[i] = at;
        d->ends[i] = at + RLOG_BATCH_HEAD + b.n_bytes;
        at += rlog_format_batch_bytes(b.n_bytes);
    }
}

static void restore(struct damage *d)
{
    struct disk_file *file;
    d->f->disk.disk.ops->open(&d->f->disk.disk, "0000000000000001.log", true, &file);
    d->f->disk.disk.ops->write(file, 0, d->good, d->n);
    d->f->disk.disk.ops->close(file);
}

static void test_every_byte_of_the_tail_flipped(void **state)
{
    struct damage d;
    struct err_ctx err;
    make_three(&d, *state);
    for (size_t at = d.offsets[2]; at < d.ends[2]; at++) {
        size_t n;
        restore(&d);
        sim_disk_bytes(&d.f->disk, "0000000000000001.log", &n)[at] ^= 0x10;
        int rc = try_open(d.f, &err);
        if (rc)
            fail_msg("byte %zu: %s", at, err.text);
        /* The zeros that fill a record up to 8 bytes are under no checksum. */
        uint64_t last = rlog_last(d.f->log);
        assert_true(last == 6 || last == 9);
        if (last == 6) {
            append(d.f, 7, 2, 2);
            flush(d.f);
            reopen(d.f);
            assert_int_equal(rlog_last(d.f->log), 8);
            assert_entry(d.f, 8, 2);
        }
        rlog_close(d.f->log);
        d.f->log = NULL;
    }
    mem_free(d.good);
}

static void test_tail_cut_at_every_byte(void **state)
{
    struct damage d;
    struct err_ctx err;
    make_three(&d, *state);
    for (size_t at = d.offsets[2]; at < d.ends[2]; at++) {
        restore(&d);
        sim_disk_truncate(&d.f->disk, "0000000000000001.log", at);
        assert_int_equal(try_open(d.f, &err), 0);
        assert_true(rlog_last(d.f->log) == 6 || (rlog_last(d.f->log) == 9 && at + 8 > d.ends[2]));
        append(d.f, rlog_last(d.f->log) + 1, 2, 2);
        flush(d.f);
        reopen(d.f);
        assert_true(rlog_last(d.f->log) >= 8);
        rlog_close(d.f->log);
        d.f->log = NULL;
    }
    mem_free(d.good);
}

static void test_damage_before_the_tail_is_refused(void **state)
{
    struct damage d;
    struct err_ctx err;
    unsigned n_refused = 0;
    make_three(&d, *state);
    for (size_t at = d.offsets[1]; at < d.ends[1]; at++) {
        size_t n;
        restore(&d);
        sim_disk_bytes(&d.f->disk, "0000000000000001.log", &n)[at] ^= 0x10;
        int rc = try_open(d.f, &err);
        if (rc == 0) { /* in the zeros that fill a record up */
            assert_int_equal(rlog_last(d.f->log), 9);
            rlog_close(d.f->log);
            d.f->log = NULL;
            continue;
        }
        assert_int_equal(rc, ERR_CORRUPT);
        n_refused++;
    }
    assert_true(n_refused > (d.ends[1] - d.offsets[1]) * 3 / 4);
    mem_free(d.good);
}

/* A torn tail whose payload pretends to be a later batch, as somebody could send it in a message. */
static void test_payload_cannot_pretend_to_be_a_batch(void **state)
{
    struct fixture *f = *state;
    struct buf fake = {0}, payload = {0};
    append(f, 1, 1, 1);
    flush(f);
    rlog_format_begin(&fake);
    rlog_format_add(&fake, &(struct rlog_record){99, 9, RLOG_COMMAND, 1, "x"});
    rlog_format_end(&fake, 12345, 1000, 1); /* the salt is not known to anybody */
    /* At every place, so that one is at the beginning of a sector. */
    for (unsigned i = 0; i < 3000; i++)
        buf_addc(&payload, 'p');
    size_t at = 1024 - (512 + RLOG_BATCH_HEAD + RLOG_RECORD_HEAD);
    memcpy(payload.data + at, fake.data, fake.n);
    struct rlog_entry e = {1, RLOG_COMMAND, blob_new(payload.data, payload.n)};
    rlog_append(f->log, 2, &e, 1);
    flush(f);
    blob_unref(e.payload);
    rlog_close(f->log);
    size_t n;
    uint8_t *bytes = sim_disk_bytes(&f->disk, "0000000000000001.log", &n);
    struct rlog_batch b;
    assert_true(rlog_format_read_batch(&b, bytes + 1024, n - 1024)); /* it does look like one */
    bytes[512] ^= 1;
    open_log(f);
    assert_int_equal(rlog_last(f->log), 1);
    buf_fini(&fake);
    buf_fini(&payload);
}

/* ---- failing disks ---- */

/* Returns how far it was acknowledged. */
static uint64_t work(struct fixture *f)
{
    uint64_t acknowledged = 0;
    for (unsigned i = 0; i < 30 && !f->n_fatal; i++) {
        append(f, rlog_last(f->log) + 1, 1 + i / 10, 7);
        if (i % 9 == 5)
            append(f, rlog_last(f->log) - 2, 1 + i / 10, 2);
        if (rlog_sync(f->log) == 0)
            rlog_poll(f->log);
        if (rlog_durable(f->log) == rlog_last(f->log))
            acknowledged = rlog_durable(f->log);
        if (i % 11 == 10 && !f->n_fatal)
            rlog_compact(f->log, acknowledged / 2);
    }
    return acknowledged;
}

static void fail_at_each_operation(int code)
{
    for (long at = 0;; at++) {
        struct fixture f = {0};
        sim_disk_init(&f.disk, (uint64_t)at);
        open_log(&f);
        f.disk.fail_after = at;
        f.disk.fail_code = code;
        uint64_t acknowledged = work(&f);
        bool has_failed = f.disk.has_failed;
        assert_true(f.n_fatal <= 1);
        if (f.n_fatal)
            assert_int_equal(f.fatal_code, code);
        rlog_close(f.log);
        sim_disk_lose_power(&f.disk);
        open_log(&f);
        if (rlog_last(f.log) < acknowledged)
            fail_msg("operation %ld: acknowledged %llu, there %llu", at, (unsigned long long)acknowledged,
                     (unsigned long long)rlog_last(f.log));
        rlog_close(f.log);
        sim_disk_fini(&f.disk);
        if (!has_failed) {
            assert_true(at > 50);
            return;
        }
    }
}

static void test_io_error_at_each_operation(void **state)
{
    fail_at_each_operation(ERR_IO);
}

static void test_full_disk_at_each_operation(void **state)
{
    fail_at_each_operation(ERR_NOSPACE);
}

static void test_full_disk_gives_the_ballast_back(void **state)
{
    struct fixture f = {0};
    struct err_ctx err = {0};
    size_t n;
    sim_disk_init(&f.disk, 3);
    struct rlog_config c = {
        .disk = &f.disk.disk,
        .segment_bytes = SEGMENT,
        .batch_bytes = BATCH,
        .ballast_bytes = 100000,
        .on_fatal = on_fatal,
        .user = &f,
    };
    assert_int_equal(rlog_open(&f.log, &c, &err), 0);
    assert_non_null(sim_disk_bytes(&f.disk, "ballast", &n));
    assert_int_equal(n, 100000);
    assert_false(rlog_is_disk_low(f.log));
    f.disk.free_bytes = RLOG_MIN_FREE - 1;
    append(&f, 1, 1, 1);
    flush(&f);
    assert_true(rlog_is_disk_low(f.log));
    f.disk.fail_after = 0;
    f.disk.fail_code = ERR_NOSPACE;
    append(&f, 2, 1, 1);
    assert_int_not_equal(rlog_sync(f.log), 0);
    assert_int_equal(f.n_fatal, 1);
    assert_null(sim_disk_bytes(&f.disk, "ballast", &n));
    rlog_close(f.log);
    sim_disk_fini(&f.disk);
}

static void test_power_losses(void **state)
{
    struct fixture *f = *state;
    uint64_t acknowledged = 0, term = 1;
    for (unsigned round = 0; round < 300; round++) {
        for (unsigned i = 0; i < 1 + round % 5; i++) {
            append_marked(f, rlog_last(f->log) + 1, term, 1 + round % 13, 0);
            if (i % 2) {
                flush(f);
                acknowledged = rlog_last(f->log);
            }
        }
        if (round % 3)
            rlog_write_begin(f->log);
        if (round % 7 == 0 && acknowledged > 50)
            rlog_compact(f->log, acknowledged - 40);
        rlog_close(f->log);
        sim_disk_lose_power(&f->disk);
        open_log(f);
        assert_true(rlog_last(f->log) >= acknowledged);
        acknowledged = rlog_last(f->log);
        for (uint64_t i = acknowledged > 20 ? acknowledged - 20 : 1; i <= acknowledged; i++)
            if (i >= rlog_first(f->log))
                assert_entry(f, i, rlog_term(f->log, i));
        term++;
    }
}

/* ---- real files, real threads, kill -9 ---- */

static char *make_dir(char template[32])
{
    snprintf(template, 32, "/tmp/imp-rlog-XXXXXX");
    return mkdtemp(template);
}

static void remove_dir(const char *dir)
{
    char command[64];
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

static int open_real(struct fixture *f, struct disk **disk, const char *dir)
{
    struct err_ctx err = {0};
    if (disk_open_directory(disk, dir, &err))
        return -1;
    struct rlog_config c = {
        .disk = *disk,
        .segment_bytes = 1 << 20,
        .batch_bytes = 64 << 10,
        .cache_bytes = 1 << 16,
        .salt = random_u64(),
        .on_done = on_done,
        .on_fatal = on_fatal,
        .user = f,
    };
    return rlog_open(&f->log, &c, &err);
}

static void write_until_killed(const char *dir, int fd)
{
    struct fixture f = {0};
    struct disk *disk;
    if (open_real(&f, &disk, dir) || rlog_start_thread(f.log))
        _exit(1);
    for (;;) {
        append(&f, rlog_last(f.log) + 1, 1, 16);
        if (rlog_last(f.log) % 64 == 0 && rlog_sync(f.log))
            _exit(1);
        rlog_poll(f.log);
        uint64_t durable = rlog_durable(f.log);
        if (write(fd, &durable, sizeof(durable)) != sizeof(durable))
            _exit(1);
    }
}

static void test_kill_9(void **state)
{
    char dir[32];
    uint64_t acknowledged = 0;
    assert_non_null(make_dir(dir));
    for (unsigned round = 0; round < 6; round++) {
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(fds[0]);
            write_until_killed(dir, fds[1]);
        }
        close(fds[1]);
        uint64_t at;
        unsigned n = 0;
        while (n < 40 + 100 * round && read(fds[0], &at, sizeof(at)) == sizeof(at)) {
            acknowledged = at > acknowledged ? at : acknowledged;
            n++;
        }
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(fds[0], &at, sizeof(at)) == sizeof(at))
            acknowledged = at > acknowledged ? at : acknowledged;
        close(fds[0]);
        assert_true(acknowledged > 0);

        struct fixture f = {0};
        struct disk *disk;
        assert_int_equal(open_real(&f, &disk, dir), 0);
        assert_true(rlog_last(f.log) >= acknowledged);
        assert_entry(&f, acknowledged, 1);
        assert_entry(&f, 1, 1);
        rlog_close(f.log);
        disk_close_directory(disk);
    }
    remove_dir(dir);
}

static void test_directory_is_locked(void **state)
{
    char dir[32];
    struct disk *disk, *second;
    struct err_ctx err = {0};
    assert_non_null(make_dir(dir));
    assert_int_equal(disk_open_directory(&disk, dir, &err), 0);
    assert_int_equal(disk_open_directory(&second, dir, &err), ERR_CONFLICT);
    disk_close_directory(disk);
    assert_int_equal(disk_open_directory(&disk, dir, &err), 0);
    disk_close_directory(disk);
    remove_dir(dir);
}

static void test_thread(void **state)
{
    char dir[32];
    struct fixture f = {0};
    struct disk *disk;
    assert_non_null(make_dir(dir));
    assert_int_equal(open_real(&f, &disk, dir), 0);
    assert_int_equal(rlog_start_thread(f.log), 0);
    for (unsigned i = 0; i < 2000; i++) {
        append(&f, rlog_last(f.log) + 1, 1, 16);
        if (i % 100 == 0)
            rlog_poll(f.log);
    }
    assert_int_equal(rlog_sync(f.log), 0);
    rlog_poll(f.log);
    assert_int_equal(rlog_durable(f.log), 32000);
    rlog_compact(f.log, 20000);
    struct waiting w = {.read = {.first = 20001, .n = 100, .done = on_read}};
    rlog_read(f.log, &w.read);
    uint64_t deadline = clock_monotonic_ms() + 20000;
    while (!w.is_done && clock_monotonic_ms() < deadline) {
        usleep(1000);
        rlog_poll(f.log);
    }
    assert_true(w.is_done);
    assert_int_equal(w.code, 0);
    blob_unref(w.first.payload);
    rlog_close(f.log);
    disk_close_directory(disk);
    assert_int_equal(open_real(&f, &disk, dir), 0);
    assert_int_equal(rlog_last(f.log), 32000);
    rlog_close(f.log);
    disk_close_directory(disk);
    remove_dir(dir);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(test_entries_survive_reopening),
        WITH(test_one_sync_for_all_that_is_queued),
        WITH(test_lower_index_cuts),
        WITH(test_cut_record),
        WITH(test_record_below_the_start_cuts),
        WITH(test_gap_is_corruption),
        WITH(test_changes_are_found),
        WITH(test_write_in_flight_keeps_what_lies_below_a_cut),
        WITH(test_install_voids_writes_in_flight),
        WITH(test_reset_alone_survives),
        WITH(test_old_entries_are_read_back),
        WITH(test_read_of_many),
        WITH(test_cut_voids_a_read),
        WITH(test_damaged_entry_is_fatal_when_read),
        WITH(test_compaction_drops_whole_segments),
        WITH(test_reset_drops_what_was_before),
        WITH(test_missing_segment_is_corruption),
        WITH(test_every_byte_of_the_tail_flipped),
        WITH(test_tail_cut_at_every_byte),
        WITH(test_damage_before_the_tail_is_refused),
        WITH(test_payload_cannot_pretend_to_be_a_batch),
        cmocka_unit_test(test_io_error_at_each_operation),
        cmocka_unit_test(test_full_disk_at_each_operation),
        cmocka_unit_test(test_full_disk_gives_the_ballast_back),
        WITH(test_power_losses),
        cmocka_unit_test(test_kill_9),
        cmocka_unit_test(test_directory_is_locked),
        cmocka_unit_test(test_thread),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
