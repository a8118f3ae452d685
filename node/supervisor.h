/* `impnode run`: a small parent around the worker. Starts it again after 0.2 to 2 s when it ended by itself,
 * passes signals on to it and its readiness to the service manager (sd_notify's protocol), and does not retry
 * a refused start. The parent has one thread and holds nothing. */
#ifndef NODE_SUPERVISOR_H
#define NODE_SUPERVISOR_H

/* How a worker ends. Everything else (also a signal) means: start it again. */
enum supervisor_exit {
    SUPERVISOR_DONE = 0,
    SUPERVISOR_FATAL = 70, /* log_fatal */
    SUPERVISOR_FULL = 73,  /* no room on the disk; the next life tells the others */
    SUPERVISOR_AGAIN = 75,
    SUPERVISOR_REFUSED = 78, /* a human must do something first */
};

/* WORKER runs in the child with SIGTERM, SIGINT and SIGHUP blocked; what it writes to NOTIFY_FD, lines like
 * "READY=1" and "STATUS=...", goes to the service manager. BEFORE: how the worker before ended, -1: there was
 * none, or a signal ended it. Returns the exit status for main. */
int supervisor_run(int (*worker)(void *arg, int notify_fd, int before), void *arg);

#endif
