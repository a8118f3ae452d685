/* A growing byte buffer. Zero-initialised is empty and valid; always NUL-terminated once something is in it. */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t n, cap;
};

void buf_fini(struct buf *b);
void buf_reset(struct buf *b); /* empty, keeps the memory */
char *buf_reserve(struct buf *b, size_t n_bytes); /* room for n more; fill it and add to b->n */
void buf_add(struct buf *b, const void *data, size_t n_bytes);
void buf_adds(struct buf *b, const char *s);
void buf_addc(struct buf *b, char c);
void buf_addf(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_cut(struct buf *b, size_t n_bytes); /* drops n bytes from the front */
char *buf_steal(struct buf *b);              /* the heap string, b becomes empty; never NULL */

/* Little-endian fixed integers, as all frames and files of imp use. */
void buf_add_u8(struct buf *b, uint8_t v);
void buf_add_u16(struct buf *b, uint16_t v);
void buf_add_u32(struct buf *b, uint32_t v);
void buf_add_u64(struct buf *b, uint64_t v);

/* A bounded reader of bytes that somebody else owns. A read past the end sets failed and yields 0 / NULL. */
struct reader {
    const uint8_t *p, *end;
    int failed;
};
void reader_init(struct reader *r, const void *data, size_t n_bytes);
uint8_t read_u8(struct reader *r);
uint16_t read_u16(struct reader *r);
uint32_t read_u32(struct reader *r);
uint64_t read_u64(struct reader *r);
const void *read_bytes(struct reader *r, size_t n_bytes);
size_t reader_left(const struct reader *r);

#endif
