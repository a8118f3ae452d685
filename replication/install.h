/* The marker of a finished install, and what the next start does with it (replica_finish_install). */
#ifndef REPLICATION_INSTALL_H
#define REPLICATION_INSTALL_H

#include "storage/store.h"

#define INSTALL_DIR "install.tmp"
#define INSTALL_MARKER "install.marker"

/* Durable on return. From then on the next start goes on with the copy in DIR/install.tmp. */
int install_write_marker(const char *dir, const struct store_position *position, struct err_ctx *err);

/* For who opens a log without a thread: the text goes to the struct err_ctx that is the user. */
void install_log_fatal(void *user, int code, const char *text);
void install_log_done(void *user);

#endif
