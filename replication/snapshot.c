/* Snapshots are pointers: a durable point of the store is one. Here they are told to the driver, when enough
 * log lies behind them to be dropped. Raft thread. */
#include "replication/replica_impl.h"

enum { KEEP_MIN = 64 << 20, KEEP_MAX = 1 << 30, THRESHOLD = 64 << 20 };

void snapshot_start_position(struct replica *r, struct store_position *p, struct driver_snapshot *out)
{
    *out = (struct driver_snapshot){0};
    if (p->applied_index == 0)
        return;
    if (p->n_conf && configuration_decode(&out->conf, p->conf, p->n_conf) != 0)
        log_fatal(r->log, "the configuration in the store is damaged");
    out->index = p->applied_index;
    out->term = p->applied_term;
    out->conf_index = p->conf_index;
}

/* How much log stays behind a snapshot: a node that was away for less needs no copy. */
static uint64_t keep_bytes(const struct replica *r)
{
    if (r->options.log_keep_bytes)
        return r->options.log_keep_bytes;
    uint64_t half = store_size_bytes(r->options.store) / 2;
    return half < KEEP_MIN ? KEEP_MIN : half > KEEP_MAX ? KEEP_MAX : half;
}

/* The highest index from which on at least KEEP bytes are there, at most LIMIT. */
static uint64_t keep_from(const struct replica *r, uint64_t keep, uint64_t limit)
{
    uint64_t low = rlog_first(r->rlog), high = limit;
    while (low < high) {
        uint64_t middle = low + (high - low + 1) / 2;
        if (rlog_bytes_from(r->rlog, middle) >= keep)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

void snapshot_consider(struct replica *r)
{
    uint64_t durable = store_durable_index(r->options.store), keep = keep_bytes(r);
    uint64_t threshold = keep < THRESHOLD ? keep : THRESHOLD;
    /* The driver may not have heard yet of what the store has: the next tick looks again. */
    if (durable <= r->snapshot.index || durable > r->driver_applied || r->status.is_installing)
        return;
    if (r->install) /* the log must go on from the copy that is being taken */
        return;
    uint64_t first = rlog_first(r->rlog), from = keep_from(r, keep, durable + 1);
    uint64_t floor = r->is_disk_low ? 0 : driver_install_floor(r->driver);
    if (floor && from > floor + 1)
        from = floor + 1;
    if (from <= first || rlog_bytes_from(r->rlog, first) - rlog_bytes_from(r->rlog, from) < threshold)
        return;
    struct driver_snapshot meta = {.index = durable, .term = driver_term_of(r->driver, durable)};
    meta.conf_index = rlog_find_change(r->rlog, first, durable, &meta.conf);
    if (!meta.conf_index) {
        meta.conf_index = r->snapshot.conf_index;
        meta.conf = r->snapshot.conf;
    }
    if (!meta.term || !meta.conf_index || !driver_snapshot_taken(r->driver, replica_now_ms(r), &meta, from))
        return;
    r->snapshot = meta;
    log_info(r->log, "snapshot at %llu, the log begins at %llu", (unsigned long long)meta.index,
             (unsigned long long)rlog_first(r->rlog));
}

void snapshot_write_data(struct replica *r, uint64_t index, struct buf *out)
{
    buf_add(out, r->options.cluster_id, sizeof(r->options.cluster_id));
    buf_add_u64(out, index);
}
