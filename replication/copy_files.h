/* What both sides of a copy of the store say and do: the offer, and small things on files. Blocking; any
 * thread. */
#ifndef REPLICATION_COPY_FILES_H
#define REPLICATION_COPY_FILES_H

#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

enum {
    COPY_CHUNK = 256 << 10, /* largest range: one is sent in a turn of the loop */
    COPY_AHEAD = 96,        /* ranges asked for and not here yet */
};

/* Body of FRAME_COPY_INFO. */
struct copy_info {
    uint8_t id[16];   /* of this copy: a stream that was cut goes on only with the same one */
    uint64_t applied; /* it holds this index or a later one */
    uint64_t n_bytes; /* about; what it is in the end the last range says */
};
void copy_info_encode(struct buf *out, const struct copy_info *info);
int copy_info_decode(struct copy_info *out, const uint8_t *body, size_t n_bytes); /* ERR_MALFORMED */

uint64_t copy_free_bytes(const char *dir);
/* What must be free for a copy of so many bytes: on either disk some stays, for the log above all. */
uint64_t copy_room(uint64_t n_bytes);
int copy_remove_dir(const char *dir); /* with all in it; not there is fine */
int copy_sync_path(const char *path); /* fsync of a file or directory */
int copy_exists(const char *path);    /* 1, 0, or ERR_IO: nobody knows */

#endif
