/* The reading side: nothing is believed before its checksum was right, and nothing is allocated that a
 * damaged length asks for. */
#include "base/htab.h"
#include "base/mem.h"
#include "node/backup/backup_file.h"
#include "node/backup/backup_format.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

struct backup_reader {
    int fd;
    char *path;
    uint64_t at; /* bytes read */
    uint32_t sequence;
    struct buf stored, rows;
    struct reader in; /* over rows */
    bool at_end;
    EVP_MD_CTX *sum;
    Imp__BackupHeader *header;
};

static int damaged(const struct backup_reader *r, const char *what, struct err_ctx *err)
{
    return err_set(err, ERR_CORRUPT, "%s is damaged: %s (about byte %" PRIu64 ")", r->path, what, r->at);
}

static int cut(const struct backup_reader *r, struct err_ctx *err)
{
    return err_set(err, ERR_CORRUPT, "%s is cut short: it ends at byte %" PRIu64 ", without an end block",
                   r->path, r->at);
}

/* Exactly N bytes; ERR_CORRUPT when the file ends before. */
static int read_all(struct backup_reader *r, void *data, size_t n, struct err_ctx *err)
{
    for (char *p = data; n;) {
        ssize_t k = read(r->fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return err_set(err, ERR_IO, "%s: %s", r->path, strerror(errno));
        if (k == 0)
            return cut(r, err);
        p += k;
        n -= (size_t)k;
        r->at += (uint64_t)k;
    }
    return 0;
}

static int take(struct backup_reader *r, struct buf *out, size_t n, struct err_ctx *err)
{
    int rc = read_all(r, buf_reserve(out, n), n, err);
    if (!rc)
        out->n += n;
    return rc;
}

static int add_to_sum(struct backup_reader *r, const struct buf *b, struct err_ctx *err)
{
    return EVP_DigestUpdate(r->sum, b->data, b->n) == 1 ? 0 : err_set(err, ERR_INTERNAL, "SHA-256 failed");
}

static uint32_t u32_at(const struct buf *b, size_t at)
{
    struct reader in;
    reader_init(&in, b->data + at, 4);
    return read_u32(&in);
}

/* ---- header ---- */

static int read_header(struct backup_reader *r, struct err_ctx *err)
{
    struct buf b = {0};
    int rc = take(r, &b, BACKUP_MAGIC_BYTES + 4, err);
    size_t begin = b.n, n = rc ? 0 : u32_at(&b, BACKUP_MAGIC_BYTES);
    if (b.n >= BACKUP_MAGIC_BYTES && memcmp(b.data, "impbak", 6))
        rc = err_set(err, ERR_MALFORMED, "%s is no backup of imp", r->path);
    else if (!rc && memcmp(b.data, BACKUP_MAGIC, BACKUP_MAGIC_BYTES))
        rc = err_set(err, ERR_VERSION,
                     "%s: its beginning is of another format than this release reads, or damaged", r->path);
    else if (!rc && n > BACKUP_HEADER_MAX)
        rc = damaged(r, "the length of the header", err);
    else if (rc && r->at < BACKUP_MAGIC_BYTES + 4 && !r->at)
        rc = err_set(err, ERR_MALFORMED, "%s is empty", r->path);
    if (!rc)
        rc = take(r, &b, n + 4, err);
    if (!rc && crc32c(0, b.data, b.n - 4) != u32_at(&b, b.n - 4))
        rc = damaged(r, "the checksum of the header", err);
    if (!rc && !(r->header = imp__backup_header__unpack(NULL, n, (const uint8_t *)b.data + begin)))
        rc = damaged(r, "the header is not valid", err);
    if (!rc && r->header->format != BACKUP_FORMAT)
        rc = err_set(err, ERR_VERSION, "%s has format %u, this release reads %d", r->path, r->header->format,
                     BACKUP_FORMAT);
    if (!rc)
        rc = add_to_sum(r, &b, err);
    buf_fini(&b);
    return rc;
}

int backup_reader_open(struct backup_reader **out, const char *path, struct err_ctx *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    if (fd < 0)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
        close(fd);
        return err_set(err, ERR_INVALID, "%s is not a file", path);
    }
    struct backup_reader *r = mem_new(struct backup_reader);
    r->fd = fd;
    r->path = mem_strdup(path);
    r->sum = EVP_MD_CTX_new();
    int rc = r->sum && EVP_DigestInit_ex(r->sum, EVP_sha256(), NULL) == 1
                 ? read_header(r, err)
                 : err_set(err, ERR_INTERNAL, "SHA-256 is not available");
    if (rc)
        backup_reader_close(r);
    else
        *out = r;
    return rc;
}

void backup_reader_close(struct backup_reader *r)
{
    if (!r)
        return;
    if (r->header)
        imp__backup_header__free_unpacked(r->header, NULL);
    EVP_MD_CTX_free(r->sum);
    buf_fini(&r->stored);
    buf_fini(&r->rows);
    close(r->fd);
    mem_free(r->path);
    mem_free(r);
}

const Imp__BackupHeader *backup_reader_header(const struct backup_reader *r)
{
    return r->header;
}

/* ---- blocks ---- */

static int read_end(struct backup_reader *r, const struct buf *stored, struct err_ctx *err)
{
    uint8_t sum[EVP_MAX_MD_SIZE];
    char more;
    if (EVP_DigestFinal_ex(r->sum, sum, NULL) != 1)
        return err_set(err, ERR_INTERNAL, "SHA-256 failed");
    if (memcmp(sum, stored->data, BACKUP_SUM))
        return damaged(r, "the checksum of the whole file", err);
    ssize_t k = read(r->fd, &more, 1);
    if (k < 0)
        return err_set(err, ERR_IO, "%s: %s", r->path, strerror(errno));
    if (k)
        return damaged(r, "there is something behind its end", err);
    r->at_end = true;
    return 0;
}

/* What is stored in a block whose checksum is right. */
static int open_block(struct backup_reader *r, uint32_t kind, const struct buf *stored, uint32_t n_rows,
                      struct err_ctx *err)
{
    if (kind == BACKUP_END)
        return stored->n == BACKUP_SUM && !n_rows ? read_end(r, stored, err)
                                                  : damaged(r, "the end block is not valid", err);
    if (kind != BACKUP_DATA)
        return damaged(r, "a block of unknown kind", err);
    buf_reset(&r->rows);
    size_t n = ZSTD_decompress(buf_reserve(&r->rows, n_rows), n_rows, stored->data, stored->n);
    if (ZSTD_isError(n) || n != n_rows)
        return damaged(r, "a block cannot be decompressed", err);
    r->rows.n = n;
    reader_init(&r->in, r->rows.data, r->rows.n);
    return 0;
}

static int next_block(struct backup_reader *r, struct err_ctx *err)
{
    struct buf *b = &r->stored;
    buf_reset(b);
    int rc = take(r, b, BACKUP_BLOCK_HEAD, err);
    if (rc)
        return rc;
    uint32_t kind = u32_at(b, 0), sequence = u32_at(b, 4), n_stored = u32_at(b, 8), n_rows = u32_at(b, 12),
             crc = u32_at(b, 16);
    if (n_stored > BACKUP_BLOCK_MAX || n_rows > BACKUP_BLOCK_MAX || sequence != r->sequence)
        return damaged(r, "the head of a block", err);
    r->sequence++;
    if ((rc = take(r, b, n_stored, err)))
        return rc;
    if (crc32c(crc32c(0, b->data, 16), b->data + BACKUP_BLOCK_HEAD, n_stored) != crc)
        return damaged(r, "the checksum of a block", err);
    if (kind != BACKUP_END && (rc = add_to_sum(r, b, err)))
        return rc;
    struct buf stored = {.data = b->data + BACKUP_BLOCK_HEAD, .n = n_stored};
    return open_block(r, kind, &stored, n_rows, err);
}

int backup_read_row(struct backup_reader *r, struct backup_row *out, struct err_ctx *err)
{
    while (!r->at_end && !reader_left(&r->in)) {
        int rc = next_block(r, err);
        if (rc)
            return rc;
    }
    if (r->at_end)
        return 0;
    out->table = read_u16(&r->in);
    out->n_key = read_u16(&r->in);
    out->n_row = read_u32(&r->in);
    out->key = read_bytes(&r->in, out->n_key);
    out->row = read_bytes(&r->in, out->n_row);
    if (r->in.failed || out->table >= r->header->n_tables)
        return damaged(r, "a row", err);
    return 1;
}
