/* The disk as log and vote file see it: the seam where the simulation puts a disk of its own, which loses,
 * tears and fails what was not synced. Errors are ERR_NOSPACE, ERR_READONLY and ERR_IO, ERR_NOTFOUND from
 * open, rename and unlink. A failed write or sync is never retried (the kernel may have dropped the pages):
 * the caller ends the process. */
#ifndef REPLICATION_DISK_H
#define REPLICATION_DISK_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct disk;
struct disk_file;

struct disk_ops {
    int (*open)(struct disk *d, const char *name, bool create, struct disk_file **out);
    void (*close)(struct disk_file *f);
    int (*write)(struct disk_file *f, uint64_t offset, const void *data, size_t n_bytes); /* all of it */
    /* *n_read < n_bytes only at the end of the file. */
    int (*read)(struct disk_file *f, uint64_t offset, void *data, size_t n_bytes, size_t *n_read);
    int (*sync)(struct disk_file *f); /* content and size, as fdatasync */
    int (*rename)(struct disk *d, const char *from, const char *to);
    int (*unlink)(struct disk *d, const char *name);
    int (*sync_names)(struct disk *d); /* makes creates, renames and unlinks durable */
    int (*list)(struct disk *d, void (*each)(void *ctx, const char *name), void *ctx);
    uint64_t (*free_bytes)(struct disk *d);
};

/* A directory. Embedded by its implementations. */
struct disk {
    const struct disk_ops *ops;
};

/* The real one: DIR is made (0700) if missing and locked with flock until disk_close. ERR_CONFLICT: another
 * process holds it. Any thread; one file is used by one thread at a time. */
int disk_open_directory(struct disk **out, const char *dir, struct err_ctx *err);
void disk_close_directory(struct disk *d);

#endif
