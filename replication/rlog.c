/* The part of the log that lives in memory: terms, positions, the cache, and what of the writes in flight
 * still counts. */
#include "replication/rlog_internal.h"

#include "base/err.h"
#include <string.h>

enum { DEFAULT_SEGMENT = 16 << 20, DEFAULT_BATCH = 4 << 20, DEFAULT_CACHE = 64 << 20, ENTRY_OVERHEAD = 64 };

/* ---- memory ---- */

static size_t cost(const struct rlog_entry *e)
{
    return e->payload->n + ENTRY_OVERHEAD;
}

static struct rlog_position *position_of(const struct rlog *l, uint64_t index)
{
    return deque_at(&l->positions, index - l->first);
}

void rlog_memory_append(struct rlog *l, uint64_t index, const struct rlog_entry *e, struct rlog_position at)
{
    assert(index == l->last + 1);
    struct rlog_run *run = deque_last(&l->runs);
    if (!run || run->term != e->term) {
        assert(!run || run->term < e->term);
        run = deque_push(&l->runs);
        *run = (struct rlog_run){.first = index, .term = e->term};
    }
    if (e->type == RLOG_CHANGE) {
        struct rlog_change *change = deque_push(&l->changes);
        change->index = index;
        int rc = configuration_decode(&change->conf, e->payload->data, e->payload->n);
        assert(rc == 0); /* replay, messages and the driver have seen to that */
        (void)rc;
    }
    *(struct rlog_position *)deque_push(&l->positions) = at;
    *(struct rlog_entry *)deque_push(&l->cache) = (struct rlog_entry){e->term, e->type, blob_ref(e->payload)};
    l->cache_bytes += cost(e);
    l->last = index;
}

void rlog_memory_evict(struct rlog *l)
{
    while (l->cache_bytes > l->config.cache_bytes && l->cache_first <= l->last &&
           l->cache_first <= l->durable && position_of(l, l->cache_first)->segment) {
        struct rlog_entry *e = deque_at(&l->cache, 0);
        l->cache_bytes -= cost(e);
        blob_unref(e->payload);
        deque_drop_front(&l->cache, 1);
        l->cache_first++;
    }
}

void rlog_memory_cut(struct rlog *l, uint64_t index)
{
    if (index < l->first) {
        rlog_memory_clear(l, index);
        return;
    }
    if (index > l->last)
        return;
    deque_drop_back(&l->positions, l->last + 1 - index);
    while (l->cache.n && l->last >= index) {
        struct rlog_entry *e = deque_last(&l->cache);
        l->cache_bytes -= cost(e);
        blob_unref(e->payload);
        deque_drop_back(&l->cache, 1);
        l->last--;
    }
    l->last = index - 1;
    if (l->cache_first > index)
        l->cache_first = index;
    for (struct rlog_run *r; (r = deque_last(&l->runs)) && r->first >= index;)
        deque_drop_back(&l->runs, 1);
    for (struct rlog_change *c; (c = deque_last(&l->changes)) && c->index >= index;)
        deque_drop_back(&l->changes, 1);
}

void rlog_memory_clear(struct rlog *l, uint64_t next_index)
{
    for (size_t i = 0; i < l->cache.n; i++)
        blob_unref(((struct rlog_entry *)deque_at(&l->cache, i))->payload);
    deque_drop_front(&l->cache, l->cache.n);
    deque_drop_front(&l->positions, l->positions.n);
    deque_drop_front(&l->runs, l->runs.n);
    deque_drop_front(&l->changes, l->changes.n);
    l->cache_bytes = 0;
    l->first = l->cache_first = next_index;
    l->last = next_index - 1;
}

/* ---- opening and closing ---- */

static void destroy(struct rlog *l)
{
    rlog_writer_fini(l);
    rlog_memory_clear(l, 1);
    deque_fini(&l->positions);
    deque_fini(&l->runs);
    deque_fini(&l->changes);
    deque_fini(&l->cache);
    while (l->inflight) {
        struct rlog_write *w = l->inflight;
        l->inflight = w->next_inflight;
        for (size_t i = 0; w->entries && i <= w->last - w->first; i++)
            blob_unref(w->entries[i].payload);
        mem_free(w->entries);
        mem_free(w);
    }
    mem_free(l);
}

int rlog_open(struct rlog **out, const struct rlog_config *config, struct err_ctx *err)
{
    struct rlog *l = mem_new(struct rlog);
    l->config = *config;
    if (!l->config.segment_bytes)
        l->config.segment_bytes = DEFAULT_SEGMENT;
    if (!l->config.batch_bytes)
        l->config.batch_bytes = DEFAULT_BATCH;
    if (!l->config.cache_bytes)
        l->config.cache_bytes = DEFAULT_CACHE;
    assert(l->config.segment_bytes >= l->config.batch_bytes);
    deque_init(&l->positions, sizeof(struct rlog_position));
    deque_init(&l->runs, sizeof(struct rlog_run));
    deque_init(&l->changes, sizeof(struct rlog_change));
    deque_init(&l->cache, sizeof(struct rlog_entry));
    l->first = l->cache_first = 1;
    l->inflight_tail = &l->inflight;
    rlog_writer_init(l);
    int rc = rlog_replay(l, err);
    if (rc) {
        destroy(l);
        return rc;
    }
    l->durable = l->last;
    rlog_memory_evict(l);
    *out = l;
    return 0;
}

void rlog_close(struct rlog *l)
{
    if (!l)
        return;
    rlog_writer_stop(l);
    rlog_poll(l);
    while (l->reading) {
        struct rlog_read *r = l->reading;
        l->reading = r->next_pending;
        mem_free(r->positions);
        r->positions = NULL;
        r->code = ERR_CANCELED;
        r->n = 0;
        r->done(r);
    }
    destroy(l);
}

/* ---- queries ---- */

uint64_t rlog_first(const struct rlog *l)
{
    return l->first;
}
uint64_t rlog_last(const struct rlog *l)
{
    return l->last;
}
uint64_t rlog_durable(const struct rlog *l)
{
    return l->durable;
}

uint64_t rlog_term(const struct rlog *l, uint64_t index)
{
    if (index < l->first || index > l->last)
        return 0;
    size_t lo = 0, hi = l->runs.n; /* the last run that begins at or before index */
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (((struct rlog_run *)deque_at(&l->runs, mid))->first <= index)
            lo = mid;
        else
            hi = mid;
    }
    return ((struct rlog_run *)deque_at(&l->runs, lo))->term;
}

uint64_t rlog_find_change(const struct rlog *l, uint64_t from, uint64_t to, struct configuration *conf)
{
    for (size_t i = l->changes.n; i-- > 0;) {
        const struct rlog_change *c = deque_at(&l->changes, i);
        if (c->index > to)
            continue;
        if (c->index < from)
            break;
        if (conf)
            *conf = c->conf;
        return c->index;
    }
    return 0;
}

static uint64_t distance(const struct rlog *l, struct rlog_position from)
{
    if (from.segment == 0 || l->newest.segment < from.segment)
        return 0;
    return (uint64_t)(l->newest.segment - from.segment) * l->config.segment_bytes + l->newest.offset -
           from.offset;
}

uint64_t rlog_bytes(const struct rlog *l)
{
    return distance(l, (struct rlog_position){.segment = l->oldest_segment});
}

uint64_t rlog_bytes_from(const struct rlog *l, uint64_t index)
{
    if (index > l->last)
        return 0;
    return distance(l, *position_of(l, index < l->first ? l->first : index));
}

bool rlog_is_disk_low(const struct rlog *l)
{
    /* The writer looks while it writes; when nothing is written any more, somebody has to see that it is
     * over. */
    if (atomic_load_explicit(&l->is_disk_low, memory_order_relaxed))
        rlog_writer_check_space((struct rlog *)l);
    return atomic_load_explicit(&l->is_disk_low, memory_order_relaxed);
}

bool rlog_check_disk(struct rlog *l)
{
    rlog_writer_check_space(l);
    return rlog_is_disk_low(l);
}

int rlog_get(const struct rlog *l, uint64_t index, struct rlog_entry *out)
{
    if (index < l->first || index > l->last)
        return ERR_NOTFOUND;
    if (index < l->cache_first)
        return ERR_AGAIN;
    *out = *(struct rlog_entry *)deque_at(&l->cache, index - l->cache_first);
    return 0;
}

void rlog_get_stats(const struct rlog *l, struct rlog_stats *out)
{
    out->n_batches = atomic_load(&l->n_batches);
    out->n_records = atomic_load(&l->n_records);
    out->n_bytes = atomic_load(&l->n_bytes);
    out->n_syncs = atomic_load(&l->n_syncs);
    out->n_reads = atomic_load(&l->n_reads);
    out->n_segments_without_spare = atomic_load(&l->n_without_spare);
}

/* ---- changes ---- */

static void queue(struct rlog *l, struct rlog_write *w)
{
    *l->inflight_tail = w;
    l->inflight_tail = &w->next_inflight;
    rlog_writer_queue(l, w);
}

/* A completed write counts only while its entries are still ours, by generation: a new entry with the same
 * index (and be it of the same term) is not the one that was written. */
static void lose_from(struct rlog *l, uint64_t index)
{
    for (struct rlog_write *w = l->inflight; w; w = w->next_inflight)
        if (w->valid_last >= index)
            w->valid_last = index - 1;
    for (struct rlog_read *r = l->reading; r; r = r->next_pending)
        if (r->first + r->n > index)
            r->is_void = true;
    if (l->durable >= index)
        l->durable = index - 1;
}

static void queue_entries(struct rlog *l, uint64_t first, const struct rlog_entry *entries, unsigned n,
                          size_t bytes)
{
    struct rlog_write *w = mem_new(struct rlog_write);
    w->kind = WRITE_ENTRIES;
    w->first = first;
    w->last = w->valid_last = first + n - 1;
    w->n_bytes = bytes;
    w->entries = mem_dup(entries, n * sizeof(*entries));
    for (unsigned i = 0; i < n; i++)
        blob_ref(entries[i].payload);
    queue(l, w);
}

void rlog_append(struct rlog *l, uint64_t first, const struct rlog_entry *entries, unsigned n)
{
    assert(first >= l->first && first <= l->last + 1);
    if (first <= l->last) {
        rlog_memory_cut(l, first);
        lose_from(l, first);
    }
    size_t limit = l->config.batch_bytes - RLOG_SECTOR, bytes = 0;
    unsigned start = 0;
    for (unsigned i = 0; i < n; i++) {
        size_t need = rlog_format_record_bytes(entries[i].payload->n);
        assert(need <= limit);
        if (i > start && bytes + need > limit / 4) {
            queue_entries(l, first + start, entries + start, i - start, bytes);
            start = i;
            bytes = 0;
        }
        bytes += need;
        rlog_memory_append(l, first + i, &entries[i], (struct rlog_position){0});
    }
    if (n > start)
        queue_entries(l, first + start, entries + start, n - start, bytes);
    rlog_memory_evict(l);
}

static void queue_mark(struct rlog *l, enum rlog_write_kind kind, uint64_t index)
{
    struct rlog_write *w = mem_new(struct rlog_write);
    w->kind = kind;
    w->first = index;
    w->n_bytes = rlog_format_record_bytes(0);
    queue(l, w);
}

void rlog_cut(struct rlog *l, uint64_t index)
{
    assert(index >= l->first);
    if (index > l->last)
        return;
    rlog_memory_cut(l, index);
    lose_from(l, index);
    queue_mark(l, WRITE_CUT, index);
}

void rlog_void_writes(struct rlog *l)
{
    for (struct rlog_write *w = l->inflight; w; w = w->next_inflight)
        w->valid_last = 0;
}

void rlog_reset(struct rlog *l, uint64_t index)
{
    lose_from(l, 1);
    rlog_memory_clear(l, index + 1);
    l->durable = index;
    queue_mark(l, WRITE_RESET, index);
}

void rlog_compact(struct rlog *l, uint64_t index)
{
    assert(index <= l->last + 1);
    if (index <= l->first)
        return;
    /* Not what the writer still has in its hands: its position is not known. */
    uint64_t limit = l->durable + 1;
    if (index > limit)
        index = limit;
    if (index <= l->first)
        return;
    struct rlog_position keep = index <= l->last ? *position_of(l, index) : (struct rlog_position){0};
    if (!keep.segment)
        keep = *position_of(l, index - 1);
    size_t n = index - l->first;
    deque_drop_front(&l->positions, n);
    while (l->cache.n && l->cache_first < index) {
        struct rlog_entry *e = deque_at(&l->cache, 0);
        l->cache_bytes -= cost(e);
        blob_unref(e->payload);
        deque_drop_front(&l->cache, 1);
        l->cache_first++;
    }
    if (l->cache_first < index)
        l->cache_first = index;
    while (l->runs.n > 1 && ((struct rlog_run *)deque_at(&l->runs, 1))->first <= index)
        deque_drop_front(&l->runs, 1);
    if (index > l->last)
        deque_drop_front(&l->runs, l->runs.n);
    while (l->changes.n && ((struct rlog_change *)deque_at(&l->changes, 0))->index < index)
        deque_drop_front(&l->changes, 1);
    l->first = index;
    for (struct rlog_read *r = l->reading; r; r = r->next_pending)
        if (r->first < index)
            r->is_void = true;
    if (keep.segment <= l->oldest_segment)
        return;
    l->oldest_segment = keep.segment;
    struct rlog_write *w = mem_new(struct rlog_write);
    w->kind = WRITE_COMPACT;
    w->keep_segment = keep.segment;
    queue(l, w);
}

void rlog_read(struct rlog *l, struct rlog_read *r)
{
    assert(r->n > 0 && r->n <= RLOG_MAX_READ);
    r->entries = NULL;
    r->next = r->next_pending = NULL;
    r->is_void = false;
    r->code = 0;
    r->positions = mem_calloc(r->n, sizeof(*r->positions));
    unsigned n = 0;
    for (; n < r->n; n++) {
        uint64_t index = r->first + n;
        if (index < l->first || index > l->last || !position_of(l, index)->segment)
            break;
        r->positions[n] = *position_of(l, index);
    }
    if (n == 0)
        r->is_void = true;
    r->n = n;
    struct rlog_read **tail = &l->reading;
    while (*tail)
        tail = &(*tail)->next_pending;
    *tail = r;
    rlog_writer_queue_read(l, r);
}

/* ---- completions ---- */

static void learn_positions(struct rlog *l, const struct rlog_write *w)
{
    struct rlog_position at = w->at;
    for (uint64_t i = w->first; i <= w->last; i++) {
        if (i <= w->valid_last && i >= l->first && i <= l->last)
            *position_of(l, i) = at;
        at.offset += (uint32_t)rlog_format_record_bytes(w->entries[i - w->first].payload->n);
    }
}

static void complete_write(struct rlog *l, struct rlog_write *w)
{
    assert(l->inflight == w); /* completions come in order */
    l->inflight = w->next_inflight;
    if (!l->inflight)
        l->inflight_tail = &l->inflight;
    if (l->oldest_segment == 0)
        l->oldest_segment = w->at.segment;
    if (w->kind == WRITE_ENTRIES) {
        learn_positions(l, w);
        if (w->valid_last >= w->first && w->valid_last > l->durable)
            l->durable = w->valid_last;
        for (uint64_t i = 0; i <= w->last - w->first; i++)
            blob_unref(w->entries[i].payload);
        mem_free(w->entries);
    } else if (w->kind == WRITE_RESET && w->at.segment > l->oldest_segment) {
        l->oldest_segment = w->at.segment;
    }
    mem_free(w);
}

static void complete_read(struct rlog *l, struct rlog_read *r)
{
    assert(l->reading == r);
    l->reading = r->next_pending;
    mem_free(r->positions);
    r->positions = NULL;
    unsigned n = r->n;
    if (r->is_void)
        r->code = ERR_NOTFOUND;
    struct rlog_entry *entries = r->entries;
    if (r->code)
        r->n = 0;
    r->done(r); /* may free r */
    for (unsigned i = 0; entries && i < n; i++)
        blob_unref(entries[i].payload);
    mem_free(entries);
}

bool rlog_poll(struct rlog *l)
{
    pthread_mutex_lock(&l->lock);
    struct rlog_write *w = l->done;
    l->done = NULL;
    l->done_tail = &l->done;
    struct rlog_read *r = l->read_done;
    l->read_done = NULL;
    l->read_done_tail = &l->read_done;
    l->newest = l->end;
    pthread_mutex_unlock(&l->lock);

    uint64_t durable = l->durable;
    while (w) {
        struct rlog_write *next = w->next;
        complete_write(l, w);
        w = next;
    }
    while (r) {
        struct rlog_read *next = r->next;
        complete_read(l, r);
        r = next;
    }
    rlog_memory_evict(l);
    return l->durable != durable;
}
