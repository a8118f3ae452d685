/* Entries that are no longer in memory, back from the segments. On the writer thread, which owns them. */
#include "replication/rlog_internal.h"

#include "base/err.h"
#include <string.h>

enum { READ_WINDOW = 256 << 10 };

static struct rlog_segment *find_segment(struct rlog_writer *w, uint32_t number)
{
    struct rlog_segment *first = w->segments.n ? deque_at(&w->segments, 0) : NULL;
    if (!first || number < first->number || number - first->number >= w->segments.n)
        return NULL;
    return deque_at(&w->segments, number - first->number);
}

struct window {
    uint32_t segment, offset;
    size_t n;
    char *data;
    size_t cap;
};

static int load(struct rlog *l, struct window *v, struct rlog_position at, size_t n_bytes)
{
    struct rlog_segment *s = find_segment(&l->writer, at.segment);
    if (!s)
        return ERR_NOTFOUND;
    size_t n = n_bytes > READ_WINDOW ? n_bytes : READ_WINDOW;
    if (n > v->cap) {
        v->data = mem_realloc(v->data, n);
        v->cap = n;
    }
    v->segment = at.segment;
    v->offset = at.offset;
    return l->config.disk->ops->read(s->file, at.offset, v->data, n, &v->n);
}

/* The record at AT in the window, which is moved if need be. */
static int find_record(struct rlog *l, struct window *v, struct rlog_position at, struct rlog_record *out)
{
    size_t n_taken;
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        bool is_inside = v->segment == at.segment && at.offset >= v->offset && at.offset < v->offset + v->n;
        const char *p = is_inside ? v->data + (at.offset - v->offset) : NULL;
        if (p && rlog_format_read_record(out, &n_taken, p, v->n - (at.offset - v->offset)))
            return 0;
        int rc = load(l, v, at, attempt == 0 ? 0 : rlog_format_record_bytes(RLOG_MAX_ENTRY));
        if (rc)
            return rc;
    }
    return ERR_CORRUPT;
}

int rlog_reader_read(struct rlog *l, struct rlog_read *r)
{
    struct window v = {0};
    size_t n_bytes = 0;
    unsigned n = 0;
    int rc = 0;
    r->entries = mem_calloc(r->n, sizeof(*r->entries));
    for (; n < r->n && n_bytes < RLOG_MAX_READ_BYTES; n++) {
        struct rlog_record record;
        rc = find_record(l, &v, r->positions[n], &record);
        if (!rc && record.index != r->first + n)
            rc = ERR_CORRUPT;
        if (rc)
            break;
        r->entries[n] =
            (struct rlog_entry){record.term, record.type, blob_new(record.payload, record.n_bytes)};
        n_bytes += record.n_bytes;
    }
    r->n = n;
    mem_free(v.data);
    return rc;
}
