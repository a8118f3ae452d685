/* The inside of an install, for install.c (where from, ranges, progress) and install_disk.c (what is done
 * with them). Raft thread, but for the work functions of install_disk.c. */
#ifndef REPLICATION_INSTALL_IMPL_H
#define REPLICATION_INSTALL_IMPL_H

#include "replication/copy_files.h"
#include "replication/replica_impl.h"

enum install_state {
    INSTALL_IDLE,    /* waits for the next attempt */
    INSTALL_OPENING, /* dialled, asks for a copy */
    INSTALL_COPYING,
    INSTALL_VERIFYING,
    INSTALL_DONE, /* the process is about to end */
};

struct piece {
    struct piece *next;
    uint64_t offset;
    uint32_t crc, n;
    bool is_last;
    uint8_t bytes[];
};

struct install {
    struct replica *r; /* NULL: ended; the work under way frees this */
    enum install_state state;
    uint64_t wanted;
    bool is_repair; /* asked for by a person: the node goes on meanwhile */
    char *root, *dir;
    struct conn *conn;
    uint32_t source; /* of the copy begun */
    unsigned attempt, same_source, n_failures;
    uint64_t retry_ms, heard_ms;
    char trouble[160]; /* why nothing comes, "" when it does */

    bool has_info;
    struct copy_info info;
    uint64_t ask_offset, write_offset; /* next to ask for, next to write; ranges come in the order asked */
    unsigned n_asked;
    bool has_last; /* the last range is here, or being written */

    /* one piece of work at a time; ranges that come meanwhile wait */
    bool is_working, must_reset;
    struct work work;
    int fd; /* of the file being written; the work's alone, -1: not open */
    uint64_t flushed;
    struct piece *pieces, *last_piece; /* that wait */
    struct piece *writing;             /* that the work has, NULL: none */
    int code;
    struct err_ctx err;
    struct store_position position; /* of the copy; its conf only while it is verified */

    /* progress */
    uint64_t began_ms, measured_ms, measured_bytes, bytes_per_s, told_ms;
};

/* install_disk.c */
void install_drop_pieces(struct install *x);           /* but what is being written */
void install_write_next(struct install *x);            /* all that waits, if there is no work */
uint64_t install_next_offset(const struct install *x); /* behind all that is here */
void install_verify(struct install *x);
void install_free(struct install *x);

/* install.c: what the work has come to; X is alive. */
void install_on_written(struct install *x, uint64_t n_bytes, bool is_last);
void install_on_bad_range(struct install *x);
void install_on_verified(struct install *x);

#endif
