/* The marker of a finished install, and what the next start does with it (replica_finish_install). */
#ifndef REPLICATION_INSTALL_H
#define REPLICATION_INSTALL_H

#include "replication/rlog.h"
#include "storage/store.h"

#define INSTALL_DIR "install.tmp"
#define INSTALL_MARKER "install.marker"

/* Durable on return. From then on the next start goes on with the copy in DIR/install.tmp. */
int install_write_marker(const char *dir, const struct store_position *position, struct err_ctx *err);

/* The log of the replica at DIR, without a thread: the caller closes both. FATAL gets what its writer says,
 * and lives as long as the log. */
int install_open_log(struct rlog **log, struct disk **disk, const char *dir, struct err_ctx *fatal,
                     struct err_ctx *err);

#endif
