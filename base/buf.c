#include "base/buf.h"
#include "base/mem.h"
#include <assert.h>
#include <endian.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void buf_fini(struct buf *b)
{
    mem_free(b->data);
    *b = (struct buf){0};
}

void buf_reset(struct buf *b)
{
    b->n = 0;
    if (b->data)
        b->data[0] = '\0';
}

static __attribute__((noinline)) void grow(struct buf *b, size_t n_bytes)
{
    assert(n_bytes < SIZE_MAX / 4 && b->n < SIZE_MAX / 4);
    size_t need = b->n + n_bytes + 1;
    size_t cap = b->cap ? b->cap * 2 : 64;
    if (cap < need)
        cap = need;
    b->data = mem_realloc(b->data, cap);
    b->cap = cap;
}

char *buf_reserve(struct buf *b, size_t n_bytes)
{
    if (b->cap - b->n <= n_bytes) /* one more for the NUL */
        grow(b, n_bytes);
    return b->data + b->n;
}

void buf_add(struct buf *b, const void *data, size_t n_bytes)
{
    char *to = buf_reserve(b, n_bytes);
    if (n_bytes)
        memcpy(to, data, n_bytes);
    to[n_bytes] = '\0';
    b->n += n_bytes;
}

void buf_adds(struct buf *b, const char *s)
{
    buf_add(b, s, strlen(s));
}

void buf_addc(struct buf *b, char c)
{
    char *to = buf_reserve(b, 1);
    to[0] = c;
    to[1] = '\0';
    b->n++;
}

void buf_addf(struct buf *b, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    char *to = buf_reserve(b, 64);
    size_t room = b->cap - b->n;
    int n = vsnprintf(to, room, format, args);
    va_end(args);
    assert(n >= 0);
    if ((size_t)n >= room) {
        to = buf_reserve(b, (size_t)n);
        vsnprintf(to, (size_t)n + 1, format, again);
    }
    va_end(again);
    b->n += (size_t)n;
}

void buf_cut(struct buf *b, size_t n_bytes)
{
    assert(n_bytes <= b->n);
    if (n_bytes == 0)
        return;
    b->n -= n_bytes;
    memmove(b->data, b->data + n_bytes, b->n + 1);
}

char *buf_steal(struct buf *b)
{
    char *s = b->data ? b->data : mem_strdup("");
    *b = (struct buf){0};
    return s;
}

void buf_add_u8(struct buf *b, uint8_t v)
{
    buf_addc(b, (char)v);
}

void buf_add_u16(struct buf *b, uint16_t v)
{
    v = htole16(v);
    buf_add(b, &v, sizeof(v));
}

void buf_add_u32(struct buf *b, uint32_t v)
{
    v = htole32(v);
    buf_add(b, &v, sizeof(v));
}

void buf_add_u64(struct buf *b, uint64_t v)
{
    v = htole64(v);
    buf_add(b, &v, sizeof(v));
}

void reader_init(struct reader *r, const void *data, size_t n_bytes)
{
    r->p = data;
    r->end = n_bytes ? r->p + n_bytes : r->p;
    r->failed = 0;
}

size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->p);
}

const void *read_bytes(struct reader *r, size_t n_bytes)
{
    if (r->failed || reader_left(r) < n_bytes) {
        r->failed = 1;
        return NULL;
    }
    const uint8_t *p = r->p;
    if (n_bytes)
        r->p += n_bytes;
    return p;
}

uint8_t read_u8(struct reader *r)
{
    const uint8_t *p = read_bytes(r, 1);
    return p ? *p : 0;
}

uint16_t read_u16(struct reader *r)
{
    uint16_t v = 0;
    const void *p = read_bytes(r, sizeof(v));
    if (p)
        memcpy(&v, p, sizeof(v));
    return le16toh(v);
}

uint32_t read_u32(struct reader *r)
{
    uint32_t v = 0;
    const void *p = read_bytes(r, sizeof(v));
    if (p)
        memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

uint64_t read_u64(struct reader *r)
{
    uint64_t v = 0;
    const void *p = read_bytes(r, sizeof(v));
    if (p)
        memcpy(&v, p, sizeof(v));
    return le64toh(v);
}
