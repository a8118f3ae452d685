#include "node/supervisor.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BACKOFF_MIN_MS = 200, BACKOFF_MAX_MS = 2000, STEADY_S = 10, STOP_S = 20 };

struct supervisor {
    pid_t worker;
    int signal_fd, notify_fd, before;
    bool stopping;
    unsigned backoff_ms;
    time_t started, stop_by;
};

static time_t now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* sd_notify(3): one datagram to $NOTIFY_SOCKET; '@' begins an abstract name. */
static void notify(const char *text, size_t n)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    if (!path || (*path != '/' && *path != '@') || strlen(path) >= sizeof(sa.sun_path))
        return;
    memcpy(sa.sun_path, path, strlen(path));
    if (*path == '@')
        sa.sun_path[0] = '\0';
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (sendto(fd, text, n, MSG_NOSIGNAL, (struct sockaddr *)&sa, size) < 0)
        perror("impnode: NOTIFY_SOCKET");
    close(fd);
}

static void start_worker(struct supervisor *s, int (*worker)(void *arg, int notify_fd, int before), void *arg)
{
    int pipe_fd[2];
    if (pipe2(pipe_fd, O_CLOEXEC))
        exit(SUPERVISOR_AGAIN);
    pid_t parent = getpid();
    s->started = now_s();
    fflush(NULL); /* else the worker says again what was said before */
    s->worker = fork();
    if (s->worker < 0) {
        perror("impnode: fork");
        exit(SUPERVISOR_AGAIN);
    }
    if (!s->worker) {
        /* The parent may have died before the request: then nobody sends the signal. */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)
            _exit(SUPERVISOR_AGAIN);
        close(pipe_fd[0]);
        close(s->signal_fd);
        sigset_t child;
        sigemptyset(&child);
        sigaddset(&child, SIGCHLD);
        sigprocmask(SIG_UNBLOCK, &child, NULL);
        exit(worker(arg, pipe_fd[1], s->before));
    }
    close(pipe_fd[1]);
    s->notify_fd = pipe_fd[0];
}

static void on_signal(struct supervisor *s)
{
    struct signalfd_siginfo info;
    if (read(s->signal_fd, &info, sizeof(info)) != sizeof(info) || info.ssi_signo == SIGCHLD)
        return;
    if (info.ssi_signo == SIGHUP) {
        if (s->worker)
            kill(s->worker, SIGHUP);
        return;
    }
    notify("STOPPING=1\n", 11);
    if (s->worker)
        kill(s->worker, SIGTERM);
    if (!s->stopping)
        s->stop_by = now_s() + STOP_S;
    s->stopping = true;
}

static void on_notify(struct supervisor *s)
{
    char text[1024];
    ssize_t n = read(s->notify_fd, text, sizeof(text));
    if (n > 0) {
        notify(text, (size_t)n);
    } else if (n == 0 || errno != EINTR) {
        close(s->notify_fd);
        s->notify_fd = -1;
    }
}

/* Waits for signals and notes until the worker has ended (its status) or TIMEOUT_MS has passed (-1). */
static int wait_worker(struct supervisor *s, int timeout_ms)
{
    for (;;) {
        int status;
        if (s->worker && waitpid(s->worker, &status, WNOHANG) == s->worker) {
            s->worker = 0;
            return status;
        }
        if (s->stopping && (!s->worker || now_s() > s->stop_by)) {
            if (!s->worker)
                return -1;
            kill(s->worker, SIGKILL);
        }
        struct pollfd fds[2] = {{s->signal_fd, POLLIN, 0}, {s->notify_fd, POLLIN, 0}};
        int n = poll(fds, 2, timeout_ms >= 0 ? timeout_ms : 1000);
        if (n == 0 && timeout_ms >= 0)
            return -1;
        if (n <= 0)
            continue;
        if (fds[0].revents)
            on_signal(s);
        if (fds[1].revents)
            on_notify(s);
    }
}

static void say_why(int status, unsigned wait_ms)
{
    if (WIFSIGNALED(status))
        fprintf(stderr, "impnode: the worker was ended by signal %d; starting it again in %u ms\n",
                WTERMSIG(status), wait_ms);
    else
        fprintf(stderr, "impnode: the worker ended with status %d; starting it again in %u ms\n",
                WEXITSTATUS(status), wait_ms);
}

int supervisor_run(int (*worker)(void *arg, int notify_fd, int before), void *arg)
{
    struct supervisor s = {.notify_fd = -1, .before = -1, .backoff_ms = BACKOFF_MIN_MS};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    s.signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
    if (s.signal_fd < 0)
        return SUPERVISOR_AGAIN;
    for (;;) {
        start_worker(&s, worker, arg);
        int status = wait_worker(&s, -1);
        if (s.notify_fd >= 0)
            close(s.notify_fd);
        s.notify_fd = -1;
        int code = WIFEXITED(status) ? WEXITSTATUS(status) : SUPERVISOR_AGAIN;
        s.before = WIFEXITED(status) ? code : -1;
        if (s.stopping)
            return code == SUPERVISOR_DONE ? 0 : 1;
        if (code == SUPERVISOR_DONE || code == SUPERVISOR_REFUSED)
            return code;
        if (now_s() - s.started >= STEADY_S)
            s.backoff_ms = BACKOFF_MIN_MS;
        say_why(status, s.backoff_ms);
        wait_worker(&s, (int)s.backoff_ms);
        if (s.stopping)
            return 0;
        s.backoff_ms = s.backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : s.backoff_ms * 2;
    }
}
