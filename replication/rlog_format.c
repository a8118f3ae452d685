#include "replication/rlog_format.h"

#include "base/htab.h"
#include "replication/rlog.h"
#include <assert.h>
#include <string.h>

enum { BATCH_MAGIC = 0x42474f4c, RECORD_MAGIC = 0x52474f4c };

static void put_u32(char *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (char)(v >> (8 * i));
}

static void add_zeros(struct buf *out, size_t n)
{
    memset(buf_reserve(out, n), 0, n);
    out->n += n;
}

void rlog_format_begin(struct buf *out)
{
    assert(out->n == 0);
    add_zeros(out, RLOG_BATCH_HEAD);
}

void rlog_format_add(struct buf *out, const struct rlog_record *r)
{
    size_t start = out->n;
    buf_reserve(out, rlog_format_record_bytes(r->n_bytes));
    buf_add_u32(out, RECORD_MAGIC);
    buf_add_u32(out, 0);
    buf_add_u64(out, r->index);
    buf_add_u64(out, r->term);
    buf_add_u32(out, r->type);
    buf_add_u32(out, r->n_bytes);
    if (r->n_bytes)
        buf_add(out, r->payload, r->n_bytes);
    put_u32(out->data + start + 4, crc32c(0, out->data + start + 8, out->n - start - 8));
    add_zeros(out, rlog_format_record_bytes(r->n_bytes) - (out->n - start));
}

void rlog_format_end(struct buf *out, uint64_t salt, uint64_t sequence, uint32_t n_records)
{
    uint32_t n_bytes = (uint32_t)(out->n - RLOG_BATCH_HEAD);
    char *p = out->data;
    put_u32(p, BATCH_MAGIC);
    put_u32(p + 8, (uint32_t)salt);
    put_u32(p + 12, (uint32_t)(salt >> 32));
    put_u32(p + 16, (uint32_t)sequence);
    put_u32(p + 20, (uint32_t)(sequence >> 32));
    put_u32(p + 24, n_bytes);
    put_u32(p + 28, n_records);
    put_u32(p + 4, crc32c(0, p + 8, RLOG_BATCH_HEAD - 8));
    add_zeros(out, rlog_format_batch_bytes(n_bytes) - out->n);
}

bool rlog_format_read_head(struct rlog_batch *out, const void *data, size_t n_bytes)
{
    struct reader r;
    if (n_bytes < RLOG_BATCH_HEAD)
        return false;
    reader_init(&r, data, RLOG_BATCH_HEAD);
    uint32_t magic = read_u32(&r), crc = read_u32(&r);
    if (magic != BATCH_MAGIC || crc != crc32c(0, (const char *)data + 8, RLOG_BATCH_HEAD - 8))
        return false;
    out->salt = read_u64(&r);
    out->sequence = read_u64(&r);
    out->n_bytes = read_u32(&r);
    out->n_records = read_u32(&r);
    return true;
}

bool rlog_format_read_record(struct rlog_record *out, size_t *n_taken, const void *data, size_t n_bytes)
{
    struct reader r;
    if (n_bytes < RLOG_RECORD_HEAD)
        return false;
    reader_init(&r, data, n_bytes);
    uint32_t magic = read_u32(&r), crc = read_u32(&r);
    out->index = read_u64(&r);
    out->term = read_u64(&r);
    out->type = read_u32(&r);
    out->n_bytes = read_u32(&r);
    if (magic != RECORD_MAGIC || out->n_bytes > RLOG_MAX_ENTRY)
        return false;
    *n_taken = rlog_format_record_bytes(out->n_bytes);
    if (*n_taken > n_bytes)
        return false;
    out->payload = (const char *)data + RLOG_RECORD_HEAD;
    return crc == crc32c(0, (const char *)data + 8, RLOG_RECORD_HEAD - 8 + out->n_bytes);
}

bool rlog_format_read_batch(struct rlog_batch *out, const void *data, size_t n_bytes)
{
    if (!rlog_format_read_head(out, data, n_bytes) || out->n_bytes > n_bytes - RLOG_BATCH_HEAD)
        return false;
    const char *p = (const char *)data + RLOG_BATCH_HEAD;
    size_t left = out->n_bytes;
    for (uint32_t i = 0; i < out->n_records; i++) {
        struct rlog_record record;
        size_t n;
        if (!rlog_format_read_record(&record, &n, p, left))
            return false;
        p += n;
        left -= n;
    }
    return left == 0;
}
