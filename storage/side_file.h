/* The side file of durable points: DIR/point holds the meta pages of the last moment of data.mdb that is safe
 * on disk. DIR/clean vouches for a clean stop, DIR/making is there until a new store has its first point.
 * Private to storage/. */
#ifndef STORAGE_SIDE_FILE_H
#define STORAGE_SIDE_FILE_H

#include "storage/store_internal.h"

enum { SIDE_META_PAGES = 2 };
#define SIDE_FILE_CLEAN "clean"
#define SIDE_FILE_MAKING "making"

/* A moment of the store, as the side file holds it. */
struct moment {
    uint64_t txn_id, applied_index, file_bytes;
    uint64_t extra_version; /* not in the file */
    unsigned page_bytes;
    struct buf meta, extra;
};
/* Written beside, synced, renamed, the directory synced. */
int side_write(const struct store_faults *f, const char *dir, const struct moment *m,
               const uint8_t id[STORE_ID_BYTES], struct err_ctx *err);
void side_fini(struct moment *m);

/* File helpers that a test's faults reach. Those without err_ctx return 0 or an errno. */
int side_sync_fd(const struct store_faults *f, int fd, bool data_only);
int side_sync_dir(const struct store_faults *f, const char *dir, struct err_ctx *err);
int side_read_all(int fd, void *data, size_t n, uint64_t offset);
int side_write_file(const struct store_faults *f, const char *dir, const char *name, const struct buf *b,
                    struct err_ctx *err); /* synced; the directory is not */
int side_remove_file(const char *dir, const char *name, struct err_ctx *err);
int side_error_of(int number); /* an errno of a write as an ERR_ code */
void side_step(const struct store_faults *f, const char *name);

#endif
