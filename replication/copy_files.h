/* Directories and files of copies of the store, for the side that gives and the side that takes. Blocking;
 * any thread. */
#ifndef REPLICATION_COPY_FILES_H
#define REPLICATION_COPY_FILES_H

#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum { COPY_MAX_FILES = 16, COPY_NAME_MAX = 64, COPY_CHUNK = 1 << 20 };

struct copy_file {
    char name[COPY_NAME_MAX];
    uint64_t size;
};
struct copy_info {
    uint8_t id[16]; /* of this copy: a stream that was cut goes on only with the same one */
    uint64_t applied;
    unsigned n;
    struct copy_file files[COPY_MAX_FILES];
};

/* Body of FRAME_COPY_INFO. Decoding checks names (no path) and sizes: ERR_MALFORMED. */
void copy_info_encode(struct buf *out, const struct copy_info *info);
int copy_info_decode(struct copy_info *out, const uint8_t *body, size_t n_bytes);

int copy_list(struct copy_info *out, const char *dir, struct err_ctx *err); /* files and sizes of DIR */
int copy_remove_dir(const char *dir); /* with all in it; not there is fine */
int copy_sync_path(const char *path); /* fsync of a file or directory */
bool copy_exists(const char *path);

#endif
