/* The file of impcli backup: complete under its name, or not there. Blocking. */
#ifndef CLI_BACKUP_H
#define CLI_BACKUP_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

struct backup_file {
    const char *path; /* borrowed */
    char *temporary;  /* NULL: the file has no name yet, and none is left behind */
    int fd;
    bool tty; /* standard error is a terminal: progress is shown */
};
/* ERR_EXISTS: there is something under that name already. */
int backup_file_open(struct backup_file *f, const char *path, struct err_ctx *err);
int backup_file_write(struct backup_file *f, const void *data, size_t n_bytes, struct err_ctx *err);
void backup_file_progress(struct backup_file *f, unsigned long long done, unsigned long long total);
/* KEEP: synced and given its name, which must still be free; else it goes. */
int backup_file_close(struct backup_file *f, bool keep, struct err_ctx *err);

#endif
