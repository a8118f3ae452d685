#include "cluster/frame.h"
#include "base/err.h"
#include "base/mem.h"

enum { HEADER_BYTES = 4 };

void frame_reader_init(struct frame_reader *r, size_t max_bytes)
{
    *r = (struct frame_reader){.max_bytes = max_bytes};
}

static void forget(const struct frame_reader *r, struct buf *b)
{
    if (r->is_secret && b->data)
        mem_wipe(b->data, b->cap);
    buf_fini(b);
}

void frame_reader_fini(struct frame_reader *r)
{
    forget(r, &r->held);
}

static uint32_t length_of(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* Frames that lie complete in DATA; *used is what they took. */
static int take(size_t max_bytes, const uint8_t *data, size_t n, size_t *used,
                bool (*on_frame)(void *user, const uint8_t *body, size_t n_bytes), void *user)
{
    *used = 0;
    while (n - *used >= HEADER_BYTES) {
        uint32_t length = length_of(data + *used);
        if (!length)
            return ERR_MALFORMED;
        if (length > max_bytes)
            return ERR_LIMIT;
        if (n - *used - HEADER_BYTES < length)
            break;
        const uint8_t *body = data + *used + HEADER_BYTES;
        *used += HEADER_BYTES + length;
        if (!on_frame(user, body, length))
            return ERR_CANCELED;
    }
    return 0;
}

int frame_reader_feed(struct frame_reader *r, const uint8_t *data, size_t n_bytes,
                      bool (*on_frame)(void *user, const uint8_t *body, size_t n_bytes), void *user)
{
    size_t used;
    int rc;
    /* First fill up the frame that was begun earlier, taking no more than it needs. */
    while (r->held.n && n_bytes) {
        size_t want = HEADER_BYTES;
        if (r->held.n >= HEADER_BYTES) {
            uint32_t length = length_of((const uint8_t *)r->held.data);
            if (!length || length > r->max_bytes)
                return length ? ERR_LIMIT : ERR_MALFORMED;
            want += length;
            if (r->is_secret) /* it does not move, leaving copies behind */
                buf_reserve(&r->held, want - r->held.n);
        }
        size_t n = want - r->held.n < n_bytes ? want - r->held.n : n_bytes;
        buf_add(&r->held, data, n);
        data += n;
        n_bytes -= n;
        if (r->held.n < want || want == HEADER_BYTES)
            continue;
        struct buf whole = r->held;
        const struct frame_reader ended = *r; /* when on_frame stops, the reader may be gone */
        r->held = (struct buf){0};
        rc = take(r->max_bytes, (const uint8_t *)whole.data, whole.n, &used, on_frame, user);
        if (!rc && whole.cap <= 65536 && !ended.is_secret) {
            r->held = whole; /* its memory serves the next one */
            buf_reset(&r->held);
        } else {
            forget(&ended, &whole);
        }
        if (rc)
            return rc;
    }
    rc = take(r->max_bytes, data, n_bytes, &used, on_frame, user);
    if (!rc && used < n_bytes)
        buf_add(&r->held, data + used, n_bytes - used);
    return rc;
}
