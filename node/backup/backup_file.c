#include "node/backup/backup_file.h"
#include "base/htab.h"
#include "base/mem.h"
#include "node/backup/backup_format.h"
#include <errno.h>
#include <openssl/evp.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

enum { LEVEL = 1 }; /* of zstd: about as fast as the disk */

struct backup_writer {
    int fd;
    uint64_t n_bytes;
    uint32_t sequence;
    struct buf rows, stored;
    ZSTD_CCtx *zstd;
    EVP_MD_CTX *sum;
};

struct backup_writer *backup_writer_new(int fd)
{
    struct backup_writer *w = mem_new(struct backup_writer);
    w->fd = fd;
    w->zstd = ZSTD_createCCtx();
    w->sum = EVP_MD_CTX_new();
    return w;
}

void backup_writer_free(struct backup_writer *w)
{
    if (!w)
        return;
    ZSTD_freeCCtx(w->zstd);
    EVP_MD_CTX_free(w->sum);
    buf_fini(&w->rows);
    buf_fini(&w->stored);
    mem_free(w);
}

static int write_all(struct backup_writer *w, const void *data, size_t n, struct err_ctx *err)
{
    for (const char *p = data; n;) {
        ssize_t k = write(w->fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set(err, errno == ENOSPC || errno == EDQUOT ? ERR_NOSPACE : ERR_IO,
                           "writing the backup: %s", strerror(errno));
        if (EVP_DigestUpdate(w->sum, p, (size_t)k) != 1)
            return err_set(err, ERR_INTERNAL, "SHA-256 failed");
        p += k;
        n -= (size_t)k;
        w->n_bytes += (uint64_t)k;
    }
    return 0;
}

int backup_write_header(struct backup_writer *w, const Imp__BackupHeader *header, struct err_ctx *err)
{
    struct buf b = {0};
    size_t n = imp__backup_header__get_packed_size(header);
    if (!w->zstd || !w->sum || EVP_DigestInit_ex(w->sum, EVP_sha256(), NULL) != 1)
        return err_set(err, ERR_NOMEM, "no memory for the backup");
    if (n > BACKUP_HEADER_MAX)
        return err_set(err, ERR_LIMIT, "the header is longer than %d bytes", BACKUP_HEADER_MAX);
    buf_add(&b, BACKUP_MAGIC, BACKUP_MAGIC_BYTES);
    buf_add_u32(&b, (uint32_t)n);
    buf_reserve(&b, n);
    b.n += imp__backup_header__pack(header, (uint8_t *)b.data + b.n);
    buf_add_u32(&b, crc32c(0, b.data, b.n));
    int rc = write_all(w, b.data, b.n, err);
    buf_fini(&b);
    return rc;
}

static int write_block(struct backup_writer *w, uint32_t kind, const void *stored, size_t n_stored,
                       size_t n_rows, struct err_ctx *err)
{
    struct buf head = {0};
    buf_add_u32(&head, kind);
    buf_add_u32(&head, w->sequence++);
    buf_add_u32(&head, (uint32_t)n_stored);
    buf_add_u32(&head, (uint32_t)n_rows);
    buf_add_u32(&head, crc32c(crc32c(0, head.data, head.n), stored, n_stored));
    int rc = write_all(w, head.data, head.n, err);
    buf_fini(&head);
    return rc ? rc : write_all(w, stored, n_stored, err);
}

static int flush(struct backup_writer *w, struct err_ctx *err)
{
    if (!w->rows.n)
        return 0;
    size_t room = ZSTD_compressBound(w->rows.n);
    buf_reset(&w->stored);
    size_t n =
        ZSTD_compressCCtx(w->zstd, buf_reserve(&w->stored, room), room, w->rows.data, w->rows.n, LEVEL);
    if (ZSTD_isError(n))
        return err_set(err, ERR_INTERNAL, "compression: %s", ZSTD_getErrorName(n));
    int rc = write_block(w, BACKUP_DATA, w->stored.data, n, w->rows.n, err);
    buf_reset(&w->rows);
    return rc;
}

int backup_write_row(struct backup_writer *w, unsigned table, const void *key, size_t n_key, const void *row,
                     size_t n_row, struct err_ctx *err)
{
    if (n_row > BACKUP_BLOCK_MAX / 2)
        return err_set(err, ERR_LIMIT, "a row of %zu bytes", n_row);
    buf_add_u16(&w->rows, (uint16_t)table);
    buf_add_u16(&w->rows, (uint16_t)n_key);
    buf_add_u32(&w->rows, (uint32_t)n_row);
    buf_add(&w->rows, key, n_key);
    buf_add(&w->rows, row, n_row);
    return w->rows.n >= BACKUP_BLOCK ? flush(w, err) : 0;
}

int backup_write_end(struct backup_writer *w, uint64_t *n_bytes, struct err_ctx *err)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    int rc = flush(w, err);
    if (rc)
        return rc;
    if (EVP_DigestFinal_ex(w->sum, sum, NULL) != 1 || EVP_DigestInit_ex(w->sum, EVP_sha256(), NULL) != 1)
        return err_set(err, ERR_INTERNAL, "SHA-256 failed");
    rc = write_block(w, BACKUP_END, sum, BACKUP_SUM, 0, err);
    *n_bytes = w->n_bytes;
    return rc;
}
