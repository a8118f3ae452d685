/* The replicated log on disk, and the part of it that is in memory. (rlog_, because base/log.h has log_.)
 *
 * On disk: one stream of records in segments of fixed size, taken from a pool of zero-filled files. A record
 * with an index that is not above the last one cuts the log there; a cut record does it without an entry; a
 * reset record empties the log (after an install). Records travel in batches: one write and one fdatasync for
 * all that was queued, and no batch is written before the one before it is synced. So a bad record in the
 * last batch is a torn tail and goes; a bad one with a valid batch behind it is corruption, and the log
 * refuses to open.
 *
 * Threads. Everything is called on the raft loop, except where said. A writer thread (rlog_start_thread) does
 * all disk work; `on_done` is its only callback. Without that thread (simulation, tests, bootstrap) the owner
 * calls rlog_write_begin and rlog_write_finish itself.
 *
 * In memory: the term of every entry (as runs), its position on disk, and the newest entries up to
 * cache_bytes. Older ones are read back through rlog_read. Payloads are blobs: shared, immutable, never
 * copied. */
#ifndef REPLICATION_RLOG_H
#define REPLICATION_RLOG_H

#include "base/log.h"
#include "base/mem.h"
#include "replication/configuration.h"
#include "replication/disk.h"

enum {
    RLOG_MAX_ENTRY = 1 << 20, /* bytes of payload */
    RLOG_MIN_FREE = 64 << 20, /* below it rlog_is_disk_low */
};

/* The first three are the core's entry types; the others occur on disk only. */
enum rlog_type { RLOG_COMMAND = 1, RLOG_BARRIER = 2, RLOG_CHANGE = 3, RLOG_CUT = 16, RLOG_RESET = 17 };

struct rlog_entry {
    uint64_t term;
    uint32_t type;        /* RLOG_COMMAND, RLOG_BARRIER, RLOG_CHANGE */
    struct blob *payload; /* never NULL */
};

struct rlog_config {
    struct disk *disk;
    struct log *out;        /* may be NULL */
    uint32_t segment_bytes; /* 0: 16 MiB; a multiple of 4096, at least twice batch_bytes */
    uint32_t
        batch_bytes; /* 0: 4 MiB; largest batch; at least RLOG_MAX_ENTRY + 4096 unless entries are smaller */
    size_t cache_bytes;     /* 0: 64 MiB */
    uint64_t ballast_bytes; /* size of the file that is deleted when the disk is full; 0: none */
    uint64_t salt;          /* random; marks the batches of a new log */
    void (*on_done)(
        void *user); /* a write or read is done: call rlog_poll soon. On the writer thread if there is one */
    void (*on_work)(void *user); /* without a thread: something was queued; may be NULL */
    void (*on_fatal)(void *user, int code,
                     const char *text); /* a write or sync failed: end the process. Writer thread */
    void *user;
};

struct rlog;

/* Replays. ERR_CORRUPT with text and remedy, ERR_IO, ERR_NOSPACE. A torn tail is cut off here, durably. */
int rlog_open(struct rlog **out, const struct rlog_config *config, struct err_ctx *err);
void rlog_close(struct rlog *l); /* stops the thread after what is queued; NULL is fine */
int rlog_start_thread(struct rlog *l);

/* The log is empty if last < first. first..last are the indexes it has; 0 is the term of what it does not
 * know. */
uint64_t rlog_first(const struct rlog *l);
uint64_t rlog_last(const struct rlog *l);
uint64_t
rlog_durable(const struct rlog *l); /* everything up to here is on our disk; first - 1 if nothing is */
uint64_t rlog_term(const struct rlog *l, uint64_t index);
/* The newest entry of type RLOG_CHANGE in [from, to]; 0 if there is none. conf may be NULL. */
uint64_t rlog_find_change(const struct rlog *l, uint64_t from, uint64_t to, struct configuration *conf);
uint64_t rlog_bytes(const struct rlog *l); /* of all segments in use */
uint64_t rlog_bytes_from(const struct rlog *l,
                         uint64_t index);    /* on disk from INDEX on, as far as written; for the byte rule */
bool rlog_is_disk_low(const struct rlog *l); /* less than RLOG_MIN_FREE is free: refuse proposals */
bool rlog_check_disk(struct rlog *l);        /* looks first: others fill the disk too */

/* Appends n entries at FIRST; cuts from FIRST on before that, if the log has it. FIRST is at most last + 1
 * (any value if the log is empty and nothing is queued). Takes references of its own. */
void rlog_append(struct rlog *l, uint64_t first, const struct rlog_entry *entries, unsigned n);
/* Removes INDEX and what follows, in memory at once, on disk by a cut record in the queue. */
void rlog_cut(struct rlog *l, uint64_t index);
/* Every write in flight stops counting: an install has begun. */
void rlog_void_writes(struct rlog *l);
/* Empties the log: the next entry is index + 1. Through the queue, so that no write queued before lands after
 * it. */
void rlog_reset(struct rlog *l, uint64_t index);
/* Everything below INDEX is no longer needed; whole segments go. index <= last + 1. */
void rlog_compact(struct rlog *l, uint64_t index);
/* Waits until everything queued so far is durable; rlog_poll tells. ERR_IO: it never will be, see on_fatal.
 */
int rlog_sync(struct rlog *l);

/* Collects what the writer has done: raises rlog_durable, completes reads. True if durable has changed. */
bool rlog_poll(struct rlog *l);

/* From memory: 0, ERR_AGAIN (on disk only: rlog_read), ERR_NOTFOUND. *out is borrowed until the next call
 * that changes the log. */
int rlog_get(const struct rlog *l, uint64_t index, struct rlog_entry *out);

/* An asynchronous read. The caller keeps it alive until done, which rlog_poll calls exactly once, in the
 * order asked (with ERR_CANCELED at rlog_close). The entries belong to the read and are released after done.
 */
struct rlog_read {
    uint64_t first;
    unsigned n; /* asked for, at most RLOG_MAX_READ; on success what was read, at least 1 */
    int code;   /* 0; ERR_NOTFOUND: cut or compacted meanwhile; ERR_CORRUPT: fatal */
    struct rlog_entry *entries;
    void (*done)(struct rlog_read *r);
    void *user;
    struct rlog_read *next, *next_pending; /* the rest is the log's */
    struct rlog_position *positions;
    bool is_void;
};
enum { RLOG_MAX_READ = 256, RLOG_MAX_READ_BYTES = 1 << 20 };
void rlog_read(struct rlog *l, struct rlog_read *r);

/* Without a thread. begin: takes what is queued and writes it; true if there was anything. finish: syncs and
 * completes it, then does one waiting read and prepares a spare segment. */
bool rlog_write_begin(struct rlog *l);
void rlog_write_finish(struct rlog *l);
bool rlog_has_work(struct rlog *l);

struct rlog_stats {
    uint64_t n_batches, n_records, n_bytes, n_syncs, n_reads, n_segments_without_spare;
};
void rlog_get_stats(const struct rlog *l, struct rlog_stats *out); /* any thread, approximate */

#endif
