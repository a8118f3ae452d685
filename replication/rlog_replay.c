/* Opening the log: reads all segments, cuts a torn tail off, refuses corruption. */
#include "replication/rlog_internal.h"

#include "base/err.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char remedy[] =
    "; the log of this node is damaged: remove the node from the cluster and join it again";

struct replay {
    struct rlog *l;
    struct err_ctx *err;
    struct deque numbers; /* uint32_t, of the segment files */
    bool has_salt;        /* a batch was seen */
    bool has_first;       /* a record was seen that says where the log begins */
    bool is_last;         /* the segment is */
    bool is_ended;        /* behind the last good batch: no other may follow */
    char *data;           /* of one segment */
    size_t n;
};

/* ---- files ---- */

static void see_name(void *ctx, const char *name)
{
    struct replay *p = ctx;
    char *end;
    unsigned long number = strtoul(name, &end, 16);
    if (strlen(name) == 20 && strcmp(end, ".log") == 0 && number > 0 && number <= UINT32_MAX)
        *(uint32_t *)deque_push(&p->numbers) = (uint32_t)number;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static int find_segments(struct replay *p)
{
    struct disk *disk = p->l->config.disk;
    int rc = disk->ops->list(disk, see_name, p);
    if (rc)
        return err_set(p->err, rc, "cannot list the log directory: %s", err_text(rc));
    if (p->numbers.n == 0)
        return 0;
    /* Pushed only: the items lie in one piece from the start. */
    qsort(p->numbers.items, p->numbers.n, sizeof(uint32_t), compare_numbers);
    uint32_t first = *(uint32_t *)deque_at(&p->numbers, 0);
    for (size_t i = 0; i < p->numbers.n; i++)
        if (*(uint32_t *)deque_at(&p->numbers, i) != first + i)
            return err_set(p->err, ERR_CORRUPT, "log segment %016zx.log is missing%s", first + i, remedy);
    return 0;
}

/* ---- records ---- */

static int apply_entry(struct replay *p, const struct rlog_record *r, struct rlog_position at)
{
    struct rlog *l = p->l;
    if (r->n_bytes == 0 || r->term == 0 || r->index == 0)
        return err_set(p->err, ERR_CORRUPT, "entry %llu has no term or content%s",
                       (unsigned long long)r->index, remedy);
    struct configuration conf;
    if (r->type == RLOG_CHANGE && configuration_decode(&conf, r->payload, r->n_bytes))
        return err_set(p->err, ERR_CORRUPT, "entry %llu is not a configuration%s",
                       (unsigned long long)r->index, remedy);
    if (!p->has_first)
        rlog_memory_clear(l, r->index);
    p->has_first = true;
    /* Also when it lies below the start: entries that follow it here are then dead all the same. */
    if (r->index <= l->last)
        rlog_memory_cut(l, r->index);
    if (r->index != l->last + 1 || (l->runs.n && ((struct rlog_run *)deque_last(&l->runs))->term > r->term))
        return err_set(p->err, ERR_CORRUPT, "entry %llu follows entry %llu in the log%s",
                       (unsigned long long)r->index, (unsigned long long)l->last, remedy);
    struct rlog_entry e = {r->term, r->type, blob_new(r->payload, r->n_bytes)};
    rlog_memory_append(l, r->index, &e, at);
    blob_unref(e.payload);
    l->durable = l->last;
    rlog_memory_evict(l);
    return 0;
}

static int apply_record(struct replay *p, const struct rlog_record *r, struct rlog_position at)
{
    switch (r->type) {
    case RLOG_COMMAND:
    case RLOG_BARRIER:
    case RLOG_CHANGE:
        return apply_entry(p, r, at);
    case RLOG_CUT:
        if (p->has_first && r->index > 0 && r->index <= p->l->last)
            rlog_memory_cut(p->l, r->index);
        return 0;
    case RLOG_RESET:
        p->has_first = true;
        rlog_memory_clear(p->l, r->index + 1);
        return 0;
    default:
        return err_set(p->err, ERR_CORRUPT, "record type %u is not known%s", r->type, remedy);
    }
}

static int apply_batch(struct replay *p, uint32_t segment, size_t offset, const struct rlog_batch *batch)
{
    size_t at = offset + RLOG_BATCH_HEAD;
    for (uint32_t i = 0; i < batch->n_records; i++) {
        struct rlog_record r;
        size_t n;
        bool is_good = rlog_format_read_record(&r, &n, p->data + at, p->n - at);
        assert(is_good); /* rlog_format_read_batch has seen it */
        (void)is_good;
        int rc = apply_record(p, &r, (struct rlog_position){segment, (uint32_t)at});
        if (rc)
            return rc;
        at += n;
    }
    return 0;
}

/* ---- segments ---- */

static bool is_next(const struct replay *p, const struct rlog_batch *b)
{
    const struct rlog_writer *w = &p->l->writer;
    return !p->has_salt || (b->salt == w->salt && b->sequence == w->sequence);
}

/* Behind the end: a good batch of this log that is not older than what we have was synced after what is bad
 * here. */
static int refuse_later_batches(struct replay *p, uint32_t segment, size_t from)
{
    const struct rlog_writer *w = &p->l->writer;
    for (size_t at = from; at < p->n; at += RLOG_SECTOR) {
        struct rlog_batch b;
        if (rlog_format_read_head(&b, p->data + at, p->n - at) &&
            (!p->has_salt || (b.salt == w->salt && b.sequence >= w->sequence)) &&
            rlog_format_read_batch(&b, p->data + at, p->n - at))
            return err_set(p->err, ERR_CORRUPT, "log segment %016x.log is damaged before offset %zu%s",
                           segment, at, remedy);
    }
    return 0;
}

static bool is_zero_from(const struct replay *p, size_t from)
{
    for (size_t i = from; i < p->n; i++)
        if (p->data[i])
            return false;
    return true;
}

/* Zeros from FROM on, synced: what is written there next must not be followed by old bytes. */
static int wipe(struct replay *p, struct disk_file *f, size_t from)
{
    if (is_zero_from(p, from))
        return 0;
    memset(p->data + from, 0, p->n - from);
    struct disk *disk = p->l->config.disk;
    int rc = disk->ops->write(f, from, p->data + from, p->n - from);
    return rc ? rc : disk->ops->sync(f);
}

static int replay_segment(struct replay *p, uint32_t number, struct disk_file *f)
{
    struct rlog *l = p->l;
    struct rlog_writer *w = &l->writer;
    struct disk *disk = l->config.disk;
    int rc = disk->ops->read(f, 0, p->data, l->config.segment_bytes, &p->n);
    if (rc)
        return err_set(p->err, rc, "cannot read log segment %016x.log", number);
    /* What lies behind the end of the file reads as zeros. */
    memset(p->data + p->n, 0, l->config.segment_bytes - p->n);
    p->n = l->config.segment_bytes;
    size_t at = 0;
    struct rlog_batch b;
    while (!p->is_ended && at < p->n && rlog_format_read_batch(&b, p->data + at, p->n - at) &&
           is_next(p, &b)) {
        p->has_salt = true;
        w->salt = b.salt;
        w->sequence = b.sequence + 1;
        rc = apply_batch(p, number, at, &b);
        if (rc)
            return rc;
        at += rlog_format_batch_bytes(b.n_bytes);
    }
    if (!p->is_ended && at > 0) {
        w->offset = (uint32_t)at;
        l->newest = (struct rlog_position){number, (uint32_t)at};
    }
    rc = refuse_later_batches(p, number, at);
    if (rc)
        return rc;
    /* An empty or torn segment is the last one with anything in it. */
    if (at == 0 || !is_zero_from(p, at))
        p->is_ended = true;
    rc = wipe(p, f, at);
    /* A process that died alone has left what it wrote to the kernel, and nobody has synced it: from here on
     * it counts as durable. */
    if (!rc && p->is_last)
        rc = disk->ops->sync(f);
    return rc ? err_set(p->err, rc, "cannot cut the torn end of log segment %016x.log off: %s", number,
                        err_text(rc))
              : 0;
}

/* Segments behind the end have nothing in them. Newest first, so that the numbers have no gap. */
static int drop_empty_segments(struct replay *p)
{
    struct rlog *l = p->l;
    struct rlog_writer *w = &l->writer;
    struct disk *disk = l->config.disk;
    for (struct rlog_segment *s; (s = deque_last(&w->segments)) && s->number > l->newest.segment;) {
        char name[32];
        rlog_segment_name(name, s->number);
        disk->ops->close(s->file);
        deque_drop_back(&w->segments, 1);
        int rc = disk->ops->unlink(disk, name);
        if (rc)
            return err_set(p->err, rc, "cannot remove %s: %s", name, err_text(rc));
    }
    int rc = disk->ops->sync_names(disk); /* of the earlier life, too */
    return rc ? err_set(p->err, rc, "cannot sync the log directory: %s", err_text(rc)) : 0;
}

static int replay_all(struct replay *p)
{
    struct rlog *l = p->l;
    struct disk *disk = l->config.disk;
    int rc = find_segments(p);
    for (size_t i = 0; i < p->numbers.n && !rc; i++) {
        struct rlog_segment s = {.number = *(uint32_t *)deque_at(&p->numbers, i)};
        char name[32];
        rlog_segment_name(name, s.number);
        rc = disk->ops->open(disk, name, false, &s.file);
        if (rc)
            return err_set(p->err, rc, "cannot open log segment %s: %s", name, err_text(rc));
        *(struct rlog_segment *)deque_push(&l->writer.segments) = s;
        p->is_last = i + 2 >= p->numbers.n; /* the last may be new and empty */
        rc = replay_segment(p, s.number, s.file);
    }
    if (rc)
        return rc;
    if (p->numbers.n)
        l->oldest_segment = *(uint32_t *)deque_at(&p->numbers, 0);
    l->end = l->newest;
    return drop_empty_segments(p);
}

/* ---- other files ---- */

static int make_ballast(struct rlog *l, struct err_ctx *err)
{
    struct disk *disk = l->config.disk;
    struct disk_file *f;
    uint64_t n = l->config.ballast_bytes;
    if (!n || disk->ops->free_bytes(disk) < n + RLOG_MIN_FREE)
        return 0;
    int rc = disk->ops->open(disk, "ballast", true, &f);
    if (rc)
        return err_set(err, rc, "cannot make the ballast file: %s", err_text(rc));
    enum { SLICE = 1 << 20 };
    char *slice = mem_zalloc(SLICE);
    size_t n_read;
    rc = disk->ops->read(f, n - 1, slice, 1, &n_read);
    for (uint64_t at = 0; at < n && n_read == 0 && !rc; at += SLICE)
        rc = disk->ops->write(f, at, slice, n - at < SLICE ? n - at : SLICE);
    if (!rc)
        rc = disk->ops->sync(f);
    mem_free(slice);
    disk->ops->close(f);
    return rc ? err_set(err, rc, "cannot write the ballast file: %s", err_text(rc)) : 0;
}

int rlog_replay(struct rlog *l, struct err_ctx *err)
{
    struct disk *disk = l->config.disk;
    struct replay p = {.l = l, .err = err};
    deque_init(&p.numbers, sizeof(uint32_t));
    p.data = mem_try_alloc(l->config.segment_bytes);
    int rc = p.data ? replay_all(&p) : err_set(err, ERR_NOMEM, "no memory to read the log");
    mem_free(p.data);
    deque_fini(&p.numbers);
    if (rc)
        return rc;
    /* A spare of an earlier life may be half-made. */
    disk->ops->unlink(disk, "spare");
    disk->ops->unlink(disk, "spare.new");
    rc = make_ballast(l, err);
    rlog_writer_check_space(l);
    return rc;
}
