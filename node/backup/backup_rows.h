/* The rows of a backup on their way into a new cluster's store. */
#ifndef NODE_BACKUP_ROWS_H
#define NODE_BACKUP_ROWS_H

#include "node/backup/backup.h"

enum { BACKUP_CAS_MAX = 16 };
struct backup_rows {
    const struct backup_restore *r;
    struct backup_restored *out;
    struct store_txn *txn;
    struct arena *arena; /* emptied by the caller after each row */
    uint64_t index;      /* of the new cluster's first state */
    uint64_t n_at_node, n_unassigned;
    char *cas[BACKUP_CAS_MAX]; /* PEM, of the old cluster */
    unsigned n_cas;
};
/* One row of a table whose policy is BACKUP_CHANGE. */
int backup_change_row(struct backup_rows *x, enum table t, const struct key *key,
                      const struct backup_row *row, struct err_ctx *err);
/* What is new: node, CA, counts, the audit's line. */
void backup_add_rows(struct backup_rows *x);
void backup_rows_fini(struct backup_rows *x);

#endif
