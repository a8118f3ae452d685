/* The bytes of the log on disk; no I/O. For rlog_*.c and tests.
 *
 *   segment  batches one after the other, then zeros. File "%016x.log", numbered from 1 without a gap.
 *   batch    at a multiple of 512: magic (4) CRC32C of the rest of the head (4) salt (8) sequence (8) length
 * of the records (4) number of records (4), records, zeros up to the next multiple of 512. record   magic (4)
 * CRC32C of what follows (4) index (8) term (8) type (4) length (4) payload, zeros up to a multiple of 8.
 *
 * Batches share no sector, so a torn write harms nothing that was synced before. The salt is random per log:
 * no payload can pretend to be a batch when the bytes behind a torn tail are searched. Sequences rise by one,
 * over all segments. */
#ifndef REPLICATION_RLOG_FORMAT_H
#define REPLICATION_RLOG_FORMAT_H

#include "base/buf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RLOG_SECTOR = 512, RLOG_BATCH_HEAD = 32, RLOG_RECORD_HEAD = 32 };

struct rlog_record {
    uint64_t index, term;
    uint32_t type, n_bytes;
    const void *payload; /* borrowed */
};
struct rlog_batch {
    uint64_t salt, sequence;
    uint32_t n_bytes, n_records; /* of the records */
};

static inline size_t rlog_format_record_bytes(size_t n_payload)
{
    return RLOG_RECORD_HEAD + ((n_payload + 7) & ~(size_t)7);
}
static inline size_t rlog_format_batch_bytes(size_t n_records_bytes)
{
    return (RLOG_BATCH_HEAD + n_records_bytes + RLOG_SECTOR - 1) & ~(size_t)(RLOG_SECTOR - 1);
}

/* OUT is empty before begin and holds one whole batch after end. */
void rlog_format_begin(struct buf *out);
void rlog_format_add(struct buf *out, const struct rlog_record *r);
void rlog_format_end(struct buf *out, uint64_t salt, uint64_t sequence, uint32_t n_records);

/* Is there a head with a good checksum at DATA? */
bool rlog_format_read_head(struct rlog_batch *out, const void *data, size_t n_bytes);
/* Is there a good record at DATA, and how many bytes does it take? */
bool rlog_format_read_record(struct rlog_record *out, size_t *n_taken, const void *data, size_t n_bytes);
/* Is there a good batch at DATA, head and all records? */
bool rlog_format_read_batch(struct rlog_batch *out, const void *data, size_t n_bytes);

#endif
