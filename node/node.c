#include "node/node.h"
#include "base/release.h"
#include "node/enrol.h"
#include "node/node_impl.h"
#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { WANTED_FILES = 65536, OWN_PAGES_FROM = 4 << 20, KEPT_FREE = 32 << 20 };

void node_fatal(struct node *n, bool again, const char *text)
{
    log_error(n->log, "%s", text);
    _exit(!again ? SUPERVISOR_REFUSED : disk_check_is_full(n) ? SUPERVISOR_FULL : SUPERVISOR_AGAIN);
}

void node_notify(struct node *n, const char *format, ...)
{
    if (n->options.notify_fd < 0)
        return;
    char line[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (len < 0)
        return;
    if (len > (int)sizeof(line) - 2)
        len = sizeof(line) - 2;
    line[len++] = '\n';
    if (write(n->options.notify_fd, line, (size_t)len) < 0)
        log_debug(n->log, "no one reads the readiness");
}

/* ---- signals: a thread waits for them and posts to the control loop ---- */

struct signal_letter {
    struct letter letter;
    struct node *node;
    int number;
};

static void on_signal(struct letter *letter)
{
    struct signal_letter *s = container_of(letter, struct signal_letter, letter);
    struct node *n = s->node;
    int number = s->number;
    mem_free(s);
    if (number == SIGHUP) {
        log_notice(n->log, "reload: certificates and settings are read again");
        control_touch(n, DIRTY_ALL);
        return;
    }
    if (!n->stopping)
        log_notice(n->log, "stopping");
    n->stopping = true;
    loop_stop(n->loop);
}

static void drop_signal(struct letter *letter)
{
    mem_free(container_of(letter, struct signal_letter, letter));
}

static void *wait_signals(void *user)
{
    struct node *n = user;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    for (;;) {
        int number;
        if (sigwait(&set, &number))
            continue;
        struct signal_letter *s = mem_new(struct signal_letter);
        *s = (struct signal_letter){{NULL, on_signal, drop_signal}, n, number};
        loop_post(n->loop, &s->letter);
    }
    return NULL;
}

static int start_signals(struct node *n)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int rc = pthread_create(&n->signal_thread, NULL, wait_signals, n);
    if (!rc)
        pthread_detach(n->signal_thread);
    return rc ? ERR_SYSTEM : 0;
}

/* ---- open files ---- */

static void raise_file_limit(struct node *n)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) || getrlimit(RLIMIT_NOFILE, &limit))
            log_warning(n->log, "the limit of open files could not be raised: %s", strerror(errno));
    }
    if (limit.rlim_cur < WANTED_FILES)
        log_warning(
            n->log,
            "the limit of open files is %llu: room for about %llu client connections; raise it (systemd: "
            "LimitNOFILE=%d, shell: ulimit -n)",
            (unsigned long long)limit.rlim_cur,
            (unsigned long long)(limit.rlim_cur > 300 ? limit.rlim_cur - 300 : 0), WANTED_FILES);
}

/* ---- the data directory ---- */

static int open_log(struct node *n, struct err_ctx *err)
{
    const char *level = n->options.log_level ? n->options.log_level : n->config.log_level;
    const char *format = n->options.log_format ? n->options.log_format : n->config.log_format;
    int parsed = log_level_parse(level);
    if (parsed < 0)
        return err_set(err, ERR_INVALID, "--log-level: '%s' is not debug, info, notice, warning or error",
                       level);
    if (strcmp(format, "text") && strcmp(format, "json"))
        return err_set(err, ERR_INVALID, "--log-format: '%s' is not text or json", format);
    n->log_root =
        log_new(2, strcmp(format, "json") ? LOG_TEXT : LOG_JSON, (enum log_level)parsed, n->id.name);
    n->log = log_category(n->log_root, "node");
    return 0;
}

/* Everything that can be refused for a person to repair, before any thread runs. */
static int open_directory(struct node *n, struct err_ctx *err)
{
    int rc = datadir_open(&n->dir, n->options.data, 5000, err);
    if (rc)
        return rc;
    if ((rc = datadir_read_identity(&n->dir, &n->id, err)) ||
        (rc = enrol_read_config(&n->config, &n->dir, err)))
        return rc;
    if (strcmp(n->config.name, n->id.name))
        return err_set(err, ERR_INVALID,
                       "%s/impnode.yaml: name: '%s', but this directory is node %s; a node keeps its name",
                       n->dir.path, n->config.name, n->id.name);
    if ((rc = enrol_read_recovered(&n->fence_index, &n->dir, err)))
        return rc;
    char pid[16];
    int len = snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
    if ((rc = datadir_write(&n->dir, "worker.pid", pid, (size_t)len, 0644, err)))
        return rc;
    return seal_ring_load(&n->ring, &n->dir, err);
}

/* What may have passed in a moment is tried again; what a person must repair is not. */
static int end_status(int rc)
{
    bool again =
        rc == ERR_NOSPACE || rc == ERR_IO || rc == ERR_READONLY || rc == ERR_AGAIN || rc == ERR_SYSTEM;
    return rc == ERR_NOSPACE ? SUPERVISOR_FULL : again ? SUPERVISOR_AGAIN : SUPERVISOR_REFUSED;
}

int node_run(const struct node_options *o)
{
    struct err_ctx err = {0};
    /* What is large is given back to the system when it is freed. By itself malloc learns from the first such
     * piece, the segment of the log that a start reads, to keep the next ones for ever. */
    mallopt(M_MMAP_THRESHOLD, OWN_PAGES_FROM);
    mallopt(M_TRIM_THRESHOLD,
            KEPT_FREE); /* to and fro with the system would wait for every page fault of others */
    struct node *n = mem_new(struct node); /* lives as long as the process */
    n->options = *o;
    n->dir.lock_fd = -1;
    int rc = open_directory(n, &err);
    if (!rc)
        rc = open_log(n, &err);
    if (rc) {
        fprintf(stderr, "impnode: %s\n", err.text);
        /* a missing file or permission does not come by waiting */
        _exit(rc == ERR_SYSTEM ? SUPERVISOR_REFUSED : end_status(rc));
    }
    random_bytes(n->start_nonce, sizeof(n->start_nonce));
    char hex[33];
    datadir_hex(hex, n->id.cluster_id, 16);
    log_notice(n->log, "node %s (%u) of cluster %s, release %s, pid %d", n->id.name, n->id.node, hex,
               release_name(), (int)getpid());
    raise_file_limit(n);
    if (loop_new(&n->loop, "control", n->log_root) || start_signals(n))
        node_fatal(n, true, "cannot start the control loop");
    loop_set_metrics(n->loop, &n->metrics);
    if ((rc = boot_start(n, &err))) {
        log_error(n->log, "cannot start: %s", err.text);
        _exit(end_status(rc));
    }
    node_notify(n, "READY=1");
    loop_run(n->loop);
    boot_stop(n);
    log_notice(n->log, "stopped");
    /* Nothing is freed on the way out: a stop is a crash with better manners. */
    _exit(mem_has_leaks() ? SUPERVISOR_REFUSED : SUPERVISOR_DONE);
}
