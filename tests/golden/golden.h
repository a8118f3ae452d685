/* A recorded log and the state it must give: tests/golden/fsm-N.log, applied in order of N by the state
 * machine of this release, with the hashes of fsm-N.hashes. Shared by the test, the player and the recorder.
 *
 * Log: "impfsm1\n", then records {length 4, term 8, packed Entry}; little-endian. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include "base/buf.h"
#include "replication/fsm.h"
#include <stdio.h>

enum { GOLDEN_CASES = 128, GOLDEN_EVERY = 64, GOLDEN_LENGTH_MAX = 1 << 20 };
#define GOLDEN_MAGIC "impfsm1\n"

struct golden {
    char *dir;
    struct log *log;
    struct store *store;
    uint64_t index, term;
    unsigned n_executed[GOLDEN_CASES],
        n_done[GOLDEN_CASES]; /* by body case of the command; done: not refused */
};
int golden_open(struct golden *g, struct err_ctx *err);
void golden_close(struct golden *g); /* removes its files */

/* One entry as the apply thread does it. ERR_MALFORMED: it is none of this release. */
int golden_apply(struct golden *g, uint64_t term, const void *entry, size_t n);
/* All of PATH; OUT (may be NULL) gets "INDEX HASH" at every 64th index and the last, then each table's rows
 * and hash and the feature level. */
int golden_play(struct golden *g, const char *path, struct buf *out, struct err_ctx *err);
void golden_print_tables(struct golden *g, struct buf *out);
int golden_read(const char *path, struct buf *out, struct err_ctx *err);

#endif
