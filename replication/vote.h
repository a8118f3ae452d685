/* Current term and vote, durable: the file "vote" with two slots, each {sequence, term, vote, CRC32C},
 * written alternately, so that a torn write leaves the other one. Raft loop thread; a save is synchronous
 * (rare, and nothing may be answered before it). */
#ifndef REPLICATION_VOTE_H
#define REPLICATION_VOTE_H

#include "replication/disk.h"

struct vote {
    struct disk *disk;
    struct disk_file *file; /* NULL until the first save on a new directory */
    uint64_t sequence;
    uint64_t term, voted_for; /* 0, 0 if nothing was ever saved */
};

/* ERR_CORRUPT if neither slot can be read although the file was written. */
int vote_open(struct vote *v, struct disk *disk, struct err_ctx *err);
int vote_save(struct vote *v, uint64_t term, uint64_t voted_for); /* durable on return; an error is fatal */
void vote_close(struct vote *v);

#endif
