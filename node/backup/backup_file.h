/* The container of a backup: a header and blocks with checksums (docs/backup-format.md). Blocking; one
 * thread. */
#ifndef NODE_BACKUP_FILE_H
#define NODE_BACKUP_FILE_H

#include "backup.pb-c.h"
#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>

enum {
    BACKUP_FORMAT = 1,
    BACKUP_BLOCK = 1 << 20, /* bytes of rows in a block, before compression; more only for one long row */
    BACKUP_BLOCK_MAX = 32 << 20, /* nothing longer is read */
    BACKUP_HEADER_MAX = 1 << 20,
    BACKUP_SUM = 32,
};

/* ---- writing: to a descriptor that is at its end ---- */
struct backup_writer;
struct backup_writer *backup_writer_new(int fd);
void backup_writer_free(struct backup_writer *w); /* may be NULL */
int backup_write_header(struct backup_writer *w, const Imp__BackupHeader *header, struct err_ctx *err);
int backup_write_row(struct backup_writer *w, unsigned table, const void *key, size_t n_key, const void *row,
                     size_t n_row, struct err_ctx *err);
int backup_write_end(struct backup_writer *w, uint64_t *n_bytes, struct err_ctx *err); /* not synced */

/* ---- reading ---- */
struct backup_reader;
/* ERR_NOTFOUND, ERR_IO, ERR_MALFORMED (no backup), ERR_VERSION (a later format), ERR_CORRUPT: each with a
 * sentence. */
int backup_reader_open(struct backup_reader **out, const char *path, struct err_ctx *err);
void backup_reader_close(struct backup_reader *r); /* may be NULL */
const Imp__BackupHeader *backup_reader_header(const struct backup_reader *r);
struct backup_row {
    unsigned table; /* place in the header's list */
    const void *key, *row;
    size_t n_key, n_row;
};
/* 1: a row, borrowed until the next call; 0: the end, and all checksums were right; ERR_CORRUPT: damaged or
 * cut. */
int backup_read_row(struct backup_reader *r, struct backup_row *out, struct err_ctx *err);

#endif
