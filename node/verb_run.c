#include "node/node.h"
#include "node/supervisor.h"
#include "node/verbs.h"
#include <stdio.h>
#include <string.h>

static int work(void *arg, int notify_fd, int before)
{
    struct options *o = arg;
    return node_run(&(struct node_options){
        .data = o->data,
        .log_level = o->log_level,
        .log_format = o->log_format,
        .notify_fd = notify_fd,
        .disk_was_full = before == SUPERVISOR_FULL,
        .show_progress = o->run,
    });
}

int verb_run(struct options *o)
{
    return supervisor_run(work, o);
}
