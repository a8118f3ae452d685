/* Shared by rlog.c (the memory part), rlog_replay.c and rlog_writer.c. */
#ifndef REPLICATION_RLOG_INTERNAL_H
#define REPLICATION_RLOG_INTERNAL_H

#include "replication/deque.h"
#include "replication/rlog.h"
#include "replication/rlog_format.h"
#include <pthread.h>
#include <stdatomic.h>

/* Where the record of an entry starts; segment 0: not written yet. */
struct rlog_position {
    uint32_t segment, offset;
};

enum rlog_write_kind { WRITE_ENTRIES, WRITE_CUT, WRITE_RESET, WRITE_COMPACT };

/* One item of the writer's queue. Made and freed by the loop; in between the writer reads all but
 * `valid_last`, and sets `at`. */
struct rlog_write {
    struct rlog_write *next;          /* in the writer's queue, then in its done list */
    struct rlog_write *next_inflight; /* the loop's, in order */
    enum rlog_write_kind kind;
    uint64_t first, last;
    uint64_t valid_last; /* what a cut has left of it; 0: nothing counts any more */
    struct rlog_entry *entries;
    size_t n_bytes; /* of the records */
    uint32_t keep_segment;
    struct rlog_position at; /* of the first record */
};

struct rlog_segment {
    uint32_t number;
    struct disk_file *file;
};

/* What the writer thread owns; without a thread the caller of rlog_write_*. */
struct rlog_writer {
    struct deque segments;   /* of struct rlog_segment, ascending; the last one is written to */
    uint32_t offset;         /* end of the last batch in it */
    uint64_t salt, sequence; /* sequence of the next batch */
    struct buf batch;
    struct rlog_write *taken, **taken_tail; /* between begin and finish */
    bool is_dirty;                          /* a batch was written and not synced */
    uint32_t drop_below;
    unsigned n_since_check;
};

struct rlog {
    struct rlog_config config;

    /* Of the loop. */
    uint64_t first, last, durable;
    struct deque positions; /* struct rlog_position, of first .. last */
    struct deque runs;      /* struct rlog_run, ascending */
    struct deque changes;   /* struct rlog_change, ascending */
    struct deque cache;     /* struct rlog_entry, of cache_first .. last */
    uint64_t cache_first;
    size_t cache_bytes;
    struct rlog_write *inflight, **inflight_tail;
    struct rlog_read *reading; /* all that are not done, in order */
    uint32_t oldest_segment;
    struct rlog_position newest; /* end of what is known to be written */

    /* Between the threads. */
    pthread_mutex_t lock;
    pthread_cond_t wake_writer, wake_filler, wake_loop;
    struct rlog_write *queue, **queue_tail;
    struct rlog_write *done, **done_tail;
    struct rlog_read *read_queue, **read_queue_tail;
    struct rlog_read *read_done, **read_done_tail;
    uint64_t n_queued, n_written; /* writes, for rlog_sync */
    bool has_spare, stop, has_thread;
    int failed;
    struct rlog_position end; /* of the last finished batch */
    atomic_bool is_disk_low;
    atomic_uint_fast64_t n_batches, n_records, n_bytes, n_syncs, n_reads, n_without_spare;

    struct rlog_writer writer;
    pthread_t writer_thread, filler_thread;
};

struct rlog_run {
    uint64_t first, term;
};
struct rlog_change {
    uint64_t index;
    struct configuration conf;
};

/* rlog.c */
void rlog_memory_append(struct rlog *l, uint64_t index, const struct rlog_entry *e, struct rlog_position at);
void rlog_memory_cut(struct rlog *l, uint64_t index);
void rlog_memory_clear(struct rlog *l, uint64_t next_index);
void rlog_memory_evict(struct rlog *l);

/* rlog_replay.c: fills memory and writer from the disk. */
int rlog_replay(struct rlog *l, struct err_ctx *err);

/* rlog_writer.c */
void rlog_writer_init(struct rlog *l);
void rlog_writer_fini(struct rlog *l);
void rlog_writer_stop(struct rlog *l);
void rlog_writer_queue(struct rlog *l, struct rlog_write *w);
void rlog_writer_queue_read(struct rlog *l, struct rlog_read *r);
void rlog_writer_check_space(struct rlog *l);
void rlog_segment_name(char out[32], uint32_t number);
/* rlog_reader.c: fills entries and n; on the writer thread */
int rlog_reader_read(struct rlog *l, struct rlog_read *r);

#endif
