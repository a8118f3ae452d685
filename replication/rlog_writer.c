/* The part of the log that writes: group commit, segments and their pool, reading back. Everything in struct
 * rlog_writer belongs to the writer thread (or to the caller of rlog_write_begin and rlog_write_finish). */
#include "replication/rlog_internal.h"

#include "base/err.h"
#include <stdio.h>
#include <string.h>

enum { FILL_BYTES = 1 << 20, CHECK_SPACE_EVERY = 16 };

static const char spare_name[] = "spare", spare_making_name[] = "spare.new", ballast_name[] = "ballast";

void rlog_segment_name(char out[32], uint32_t number)
{
    snprintf(out, 32, "%016x.log", number);
}

/* ---- failure ---- */

/* The owner ends the process in on_fatal. If it returns (tests), the log never completes anything again. */
static void fail(struct rlog *l, int code, const char *what)
{
    pthread_mutex_lock(&l->lock);
    bool is_first = !l->failed;
    l->failed = code;
    pthread_cond_broadcast(&l->wake_loop);
    pthread_mutex_unlock(&l->lock);
    if (!is_first)
        return;
    struct disk *disk = l->config.disk;
    if (code == ERR_NOSPACE) /* room for the next start */
        disk->ops->unlink(disk, ballast_name);
    struct err_ctx err = {0};
    err_set(&err, code, "log: %s: %s", what, err_text(code));
    if (l->config.on_fatal)
        l->config.on_fatal(l->config.user, code, err.text);
}

static bool has_failed(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    bool failed = l->failed != 0;
    pthread_mutex_unlock(&l->lock);
    return failed;
}

void rlog_writer_check_space(struct rlog *l)
{
    uint64_t n = l->config.disk->ops->free_bytes(l->config.disk);
    atomic_store_explicit(&l->is_disk_low, n < RLOG_MIN_FREE, memory_order_relaxed);
}

/* ---- queues ---- */

void rlog_writer_init(struct rlog *l)
{
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->wake_writer, NULL);
    pthread_cond_init(&l->wake_filler, NULL);
    pthread_cond_init(&l->wake_loop, NULL);
    l->queue_tail = &l->queue;
    l->done_tail = &l->done;
    l->read_queue_tail = &l->read_queue;
    l->read_done_tail = &l->read_done;
    struct rlog_writer *w = &l->writer;
    deque_init(&w->segments, sizeof(struct rlog_segment));
    w->taken_tail = &w->taken;
    w->salt = l->config.salt;
    w->sequence = 1;
}

void rlog_writer_fini(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    for (size_t i = 0; i < w->segments.n; i++)
        l->config.disk->ops->close(((struct rlog_segment *)deque_at(&w->segments, i))->file);
    deque_fini(&w->segments);
    buf_fini(&w->batch);
    pthread_cond_destroy(&l->wake_writer);
    pthread_cond_destroy(&l->wake_filler);
    pthread_cond_destroy(&l->wake_loop);
    pthread_mutex_destroy(&l->lock);
}

static void tell_work(struct rlog *l)
{
    if (!l->has_thread && l->config.on_work)
        l->config.on_work(l->config.user);
}

void rlog_writer_queue(struct rlog *l, struct rlog_write *w)
{
    pthread_mutex_lock(&l->lock);
    *l->queue_tail = w;
    l->queue_tail = &w->next;
    l->n_queued++;
    pthread_mutex_unlock(&l->lock);
    pthread_cond_signal(&l->wake_writer); /* who wakes finds the lock free */
    tell_work(l);
}

void rlog_writer_queue_read(struct rlog *l, struct rlog_read *r)
{
    pthread_mutex_lock(&l->lock);
    *l->read_queue_tail = r;
    l->read_queue_tail = &r->next;
    pthread_mutex_unlock(&l->lock);
    pthread_cond_signal(&l->wake_writer);
    tell_work(l);
}

bool rlog_has_work(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    bool has_work = (l->queue || l->read_queue || l->writer.taken) && !l->failed;
    pthread_mutex_unlock(&l->lock);
    return has_work;
}

int rlog_sync(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    uint64_t target = l->n_queued;
    while (l->n_written < target && !l->failed) {
        if (l->has_thread) {
            pthread_cond_wait(&l->wake_loop, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        rlog_write_begin(l);
        rlog_write_finish(l);
        pthread_mutex_lock(&l->lock);
    }
    int failed = l->failed;
    pthread_mutex_unlock(&l->lock);
    return failed;
}

/* ---- segments ---- */

static int make_spare(struct rlog *l)
{
    struct disk *disk = l->config.disk;
    struct disk_file *f;
    int rc = disk->ops->open(disk, spare_making_name, true, &f);
    if (rc)
        return rc;
    size_t slice = l->config.segment_bytes < FILL_BYTES ? l->config.segment_bytes : FILL_BYTES;
    void *zeros = mem_zalloc(slice);
    for (uint32_t at = 0; at < l->config.segment_bytes && !rc; at += (uint32_t)slice) {
        size_t n = l->config.segment_bytes - at < slice ? l->config.segment_bytes - at : slice;
        rc = disk->ops->write(f, at, zeros, n);
        if (!rc)
            rc = disk->ops->sync(f);
    }
    mem_free(zeros);
    disk->ops->close(f);
    return rc ? rc : disk->ops->rename(disk, spare_making_name, spare_name);
}

static int next_segment(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    struct disk *disk = l->config.disk;
    struct rlog_segment *last = deque_last(&w->segments), s;
    char name[32];
    s.number = last ? last->number + 1 : 1;
    rlog_segment_name(name, s.number);

    pthread_mutex_lock(&l->lock);
    bool has_spare = l->has_spare;
    l->has_spare = false;
    pthread_mutex_unlock(&l->lock);
    int rc = has_spare ? disk->ops->rename(disk, spare_name, name) : 0;
    pthread_mutex_lock(&l->lock);
    pthread_cond_signal(&l->wake_filler);
    pthread_mutex_unlock(&l->lock);
    if (!has_spare)
        atomic_fetch_add(&l->n_without_spare, 1);
    if (!rc)
        rc = disk->ops->open(disk, name, !has_spare, &s.file);
    if (rc)
        return rc;
    *(struct rlog_segment *)deque_push(&w->segments) = s;
    w->offset = 0;
    return disk->ops->sync_names(disk);
}

/* One name at a time, oldest first, each durable before the next: the numbers never have a gap. */
static int drop_segments(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    struct disk *disk = l->config.disk;
    while (w->segments.n > 1) {
        struct rlog_segment *s = deque_at(&w->segments, 0);
        if (s->number >= w->drop_below)
            break;
        char name[32];
        rlog_segment_name(name, s->number);
        disk->ops->close(s->file);
        deque_drop_front(&w->segments, 1);
        int rc = disk->ops->unlink(disk, name);
        if (!rc)
            rc = disk->ops->sync_names(disk);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- writing ---- */

/* Takes from the queue what fits into one batch. */
static size_t take(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    size_t n_bytes = 0, limit = l->config.batch_bytes - RLOG_SECTOR;
    pthread_mutex_lock(&l->lock);
    while (l->queue && !l->failed) {
        struct rlog_write *item = l->queue;
        if (n_bytes && n_bytes + item->n_bytes > limit)
            break;
        n_bytes += item->n_bytes;
        l->queue = item->next;
        if (!l->queue)
            l->queue_tail = &l->queue;
        item->next = NULL;
        *w->taken_tail = item;
        w->taken_tail = &item->next;
    }
    pthread_mutex_unlock(&l->lock);
    return n_bytes;
}

static unsigned encode_item(struct rlog_writer *w, struct rlog_write *item, uint32_t segment)
{
    item->at = (struct rlog_position){.segment = segment, .offset = w->offset + (uint32_t)w->batch.n};
    struct rlog_record r = {.index = item->first};
    switch (item->kind) {
    case WRITE_ENTRIES:
        for (; r.index <= item->last; r.index++) {
            const struct rlog_entry *e = &item->entries[r.index - item->first];
            r.term = e->term;
            r.type = e->type;
            r.n_bytes = e->payload->n;
            r.payload = e->payload->data;
            rlog_format_add(&w->batch, &r);
        }
        return (unsigned)(item->last - item->first + 1);
    case WRITE_CUT:
    case WRITE_RESET:
        r.type = item->kind == WRITE_CUT ? RLOG_CUT : RLOG_RESET;
        rlog_format_add(&w->batch, &r);
        if (item->kind == WRITE_RESET)
            w->drop_below = segment;
        return 1;
    case WRITE_COMPACT:
        if (item->keep_segment > w->drop_below)
            w->drop_below = item->keep_segment;
        return 0;
    }
    return 0;
}

static int write_batch(struct rlog *l, size_t n_bytes)
{
    struct rlog_writer *w = &l->writer;
    struct rlog_segment *s = deque_last(&w->segments);
    size_t need = n_bytes ? rlog_format_batch_bytes(n_bytes) : 0;
    if (need && (!s || w->offset + need > l->config.segment_bytes)) {
        int rc = next_segment(l);
        if (rc)
            return rc;
        s = deque_last(&w->segments);
    }
    buf_reset(&w->batch);
    rlog_format_begin(&w->batch);
    unsigned n = 0;
    for (struct rlog_write *item = w->taken; item; item = item->next)
        n += encode_item(w, item, s ? s->number : 0);
    if (n == 0)
        return 0;
    rlog_format_end(&w->batch, w->salt, w->sequence, n);
    assert(w->batch.n == need);
    w->is_dirty = true;
    atomic_fetch_add(&l->n_batches, 1);
    atomic_fetch_add(&l->n_records, n);
    atomic_fetch_add(&l->n_bytes, need);
    return l->config.disk->ops->write(s->file, w->offset, w->batch.data, w->batch.n);
}

bool rlog_write_begin(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    if (has_failed(l))
        return false;
    if (w->taken)
        return true;
    size_t n_bytes = take(l);
    if (!w->taken)
        return false;
    int rc = write_batch(l, n_bytes);
    if (rc)
        fail(l, rc, "write");
    return true;
}

static int sync_batch(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    if (!w->is_dirty)
        return 0;
    struct rlog_segment *s = deque_last(&w->segments);
    int rc = l->config.disk->ops->sync(s->file);
    if (rc)
        return rc;
    atomic_fetch_add(&l->n_syncs, 1);
    w->is_dirty = false;
    w->offset += (uint32_t)w->batch.n;
    w->sequence++;
    if (w->batch.cap > 2 * RLOG_MAX_ENTRY)
        buf_fini(&w->batch);
    return 0;
}

static void publish(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    struct rlog_segment *s = deque_last(&w->segments);
    pthread_mutex_lock(&l->lock);
    bool was_empty = !l->done && !l->read_done;
    *l->done_tail = w->taken;
    for (struct rlog_write *item = w->taken; item; item = item->next)
        l->n_written++;
    l->done_tail = w->taken_tail;
    if (s)
        l->end = (struct rlog_position){.segment = s->number, .offset = w->offset};
    pthread_cond_broadcast(&l->wake_loop);
    pthread_mutex_unlock(&l->lock);
    w->taken = NULL;
    w->taken_tail = &w->taken;
    if (was_empty && l->config.on_done)
        l->config.on_done(l->config.user);
}

/* ---- reading ---- */

static void read_one(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    struct rlog_read *r = l->read_queue;
    if (r) {
        l->read_queue = r->next;
        if (!l->read_queue)
            l->read_queue_tail = &l->read_queue;
    }
    pthread_mutex_unlock(&l->lock);
    if (!r)
        return;
    r->next = NULL;
    if (r->n)
        r->code = rlog_reader_read(l, r);
    atomic_fetch_add(&l->n_reads, 1);
    if (r->code && r->code != ERR_NOTFOUND)
        fail(l, r->code, "reading entries back");
    pthread_mutex_lock(&l->lock);
    bool was_empty = !l->done && !l->read_done;
    *l->read_done_tail = r;
    l->read_done_tail = &r->next;
    pthread_mutex_unlock(&l->lock);
    if (was_empty && l->config.on_done)
        l->config.on_done(l->config.user);
}

/* ---- one turn ---- */

static void fill_spare(struct rlog *l)
{
    int rc = make_spare(l);
    if (rc == 0) {
        pthread_mutex_lock(&l->lock);
        l->has_spare = true;
        pthread_mutex_unlock(&l->lock);
        rlog_writer_check_space(l); /* this is what takes space, not the writes into it */
    } else if (rc == ERR_NOSPACE) {
        l->config.disk->ops->unlink(l->config.disk, spare_making_name);
        rlog_writer_check_space(l);
    } else {
        fail(l, rc, "preparing a segment");
    }
}

void rlog_write_finish(struct rlog *l)
{
    struct rlog_writer *w = &l->writer;
    if (has_failed(l))
        return;
    if (w->taken) {
        int rc = sync_batch(l);
        if (rc) {
            fail(l, rc, "sync");
            return;
        }
        publish(l);
        rc = drop_segments(l);
        if (rc) {
            fail(l, rc, "dropping old segments");
            return;
        }
        if (w->n_since_check++ % CHECK_SPACE_EVERY == 0)
            rlog_writer_check_space(l);
    }
    read_one(l);
    if (!l->has_thread && !l->has_spare)
        fill_spare(l);
}

/* ---- threads ---- */

static void *writer_main(void *arg)
{
    struct rlog *l = arg;
    pthread_setname_np(pthread_self(), "log writer");
    for (;;) {
        pthread_mutex_lock(&l->lock);
        while (!l->queue && !l->read_queue && !l->stop && !l->failed)
            pthread_cond_wait(&l->wake_writer, &l->lock);
        bool is_end = l->failed || (l->stop && !l->queue);
        pthread_mutex_unlock(&l->lock);
        if (is_end)
            return NULL;
        rlog_write_begin(l);
        rlog_write_finish(l);
    }
}

static void *filler_main(void *arg)
{
    struct rlog *l = arg;
    pthread_setname_np(pthread_self(), "log spare");
    for (;;) {
        pthread_mutex_lock(&l->lock);
        while (l->has_spare && !l->stop && !l->failed)
            pthread_cond_wait(&l->wake_filler, &l->lock);
        bool is_end = l->failed || l->stop;
        pthread_mutex_unlock(&l->lock);
        if (is_end)
            return NULL;
        fill_spare(l);
        pthread_mutex_lock(&l->lock);
        /* No room: until a segment is asked for again. */
        if (!l->has_spare && !l->stop && !l->failed)
            pthread_cond_wait(&l->wake_filler, &l->lock);
        pthread_mutex_unlock(&l->lock);
    }
}

int rlog_start_thread(struct rlog *l)
{
    assert(!l->has_thread);
    l->has_thread = true;
    if (pthread_create(&l->writer_thread, NULL, writer_main, l)) {
        l->has_thread = false;
        return ERR_SYSTEM;
    }
    if (pthread_create(&l->filler_thread, NULL, filler_main, l)) {
        pthread_mutex_lock(&l->lock);
        l->stop = true;
        pthread_cond_broadcast(&l->wake_writer);
        pthread_mutex_unlock(&l->lock);
        pthread_join(l->writer_thread, NULL);
        l->stop = l->has_thread = false;
        return ERR_SYSTEM;
    }
    return 0;
}

void rlog_writer_stop(struct rlog *l)
{
    if (!l->has_thread)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->wake_writer);
    pthread_cond_broadcast(&l->wake_filler);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->writer_thread, NULL);
    pthread_join(l->filler_thread, NULL);
    l->has_thread = false;
}
