/* Backups: the store at one log index in a file, and a new cluster's first store made of one. Blocking, any
 * thread but a loop's. The file: docs/backup-format.md. */
#ifndef NODE_BACKUP_H
#define NODE_BACKUP_H

#include "cluster/seal.h"
#include "node/backup/backup_file.h"
#include "storage/store.h"
#include <stdatomic.h>

/* ---- making one ---- */

struct backup_progress {
    _Atomic uint64_t rows, rows_total;
    atomic_bool cancel;
};
struct backup_dump {
    struct store *store;
    int fd;                       /* empty file */
    const char *node;             /* name of this one */
    const struct seal_ring *ring; /* NULL: the cluster keys are left out */
    const void *passphrase;
    size_t n_passphrase;
    struct backup_progress *progress;
};
struct backup_made {
    uint64_t index, n_rows, n_bytes;
};
/* One read transaction for all of it. ERR_CANCELED; ERR_NOSPACE and others with a sentence. */
int backup_dump(struct backup_made *out, const struct backup_dump *d, struct err_ctx *err);

/* ---- checking one ---- */

/* Every checksum, every row's place, every table's hash, and that this release can read it. */
int backup_verify(const char *path, struct err_ctx *err);

/* ---- restoring one ---- */

/* What becomes of the rows of a table (backup_rows.c). */
enum backup_policy { BACKUP_UNDECIDED, BACKUP_LOCAL, BACKUP_KEEP, BACKUP_DROP, BACKUP_CHANGE };
enum backup_policy backup_policy(enum table t);

struct backup_restore {
    const char *path;
    const char *store_dir;            /* made here */
    const struct seal_ring *old_ring; /* NULL: sealed rows are dropped */
    const struct seal_ring *ring;     /* of the new cluster */
    const uint8_t *cluster_id;        /* of the new cluster, 16 bytes */
    const Imp__NodeRow *node;         /* the only member; id 1 */
    const Imp__CaRow *ca;
    uint64_t now_ms;
    uint32_t os_uid;
    const void *conf; /* Raft configuration of the new cluster */
    uint32_t n_conf;
};
struct backup_restored {
    uint64_t index, term; /* applied; the log begins behind it */
    uint64_t n_rows, n_users, n_messages;
    unsigned n_secrets;      /* sealed anew */
    struct buf lost_secrets; /* names, separated by ", ": to be entered again */
};
int backup_restore(struct backup_restored *out, const struct backup_restore *r, struct err_ctx *err);

#endif
