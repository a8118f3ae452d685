/* A running node: everything from the lock of the data directory to the last service. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include <stdbool.h>

struct node_options {
    const char *data;
    const char *log_level, *log_format; /* NULL: as impnode.yaml says */
    int notify_fd;                      /* lines for the service manager; -1: nobody listens */
    bool show_progress;                 /* of the first catch-up, on stdout */
    bool disk_was_full;                 /* that was the end of the life before */
};
/* Blocks until SIGTERM; the calling thread becomes the control loop. Returns enum supervisor_exit, or ends
 * the process. */
int node_run(const struct node_options *o);

#endif
