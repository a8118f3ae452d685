#include "cli/input.h"
#include "base/mem.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

enum { SECRET_BYTES_MAX = 4096 };

void input_add(struct buf *out, const void *data, size_t n_bytes)
{
    if (out->cap - out->n <= n_bytes) {
        struct buf bigger = {0};
        buf_reserve(&bigger, 2 * out->cap + n_bytes + 4096);
        buf_add(&bigger, out->data, out->n);
        input_fini(out);
        *out = bigger;
    }
    buf_add(out, data, n_bytes);
}

void input_fini(struct buf *b)
{
    if (b->data)
        mem_wipe(b->data, b->cap);
    buf_fini(b);
}

bool input_is_terminal(void)
{
    return isatty(0) == 1;
}

static int read_fd(struct buf *out, int fd, const char *what, size_t max, struct err_ctx *err)
{
    char chunk[65536];
    int rv = 0;
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rv = err_set(err, ERR_IO, "cannot read %s: %s", what, strerror(errno));
        if (n <= 0)
            break;
        input_add(out, chunk, (size_t)n);
        if (out->n > max) {
            rv = err_set(err, ERR_LIMIT, "%s is larger than %zu MiB", what, max >> 20);
            break;
        }
    }
    mem_wipe(chunk, sizeof chunk);
    return rv;
}

int input_read_file(struct buf *out, const char *name, size_t max, struct err_ctx *err)
{
    if (strcmp(name, "-") == 0)
        return read_fd(out, 0, "standard input", max, err);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(err, ERR_IO, "cannot open %s: %s", name, strerror(errno));
    int rv = read_fd(out, fd, name, max, err);
    close(fd);
    return rv;
}

int input_read_value(struct buf *out, size_t max, struct err_ctx *err)
{
    int rv = read_fd(out, 0, "standard input", max, err);
    while (out->n && (out->data[out->n - 1] == '\n' || out->data[out->n - 1] == '\r'))
        out->data[--out->n] = 0;
    return rv;
}

/* One line; a byte at a time, so that what follows it stays in the pipe. SIGNALS: -1 or a descriptor that
 * becomes readable when the program shall end. */
static int read_line(struct buf *out, int signals, const char *what, struct err_ctx *err)
{
    for (;;) {
        struct pollfd p[2] = {{.fd = 0, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
        char c;
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return err_set(err, ERR_IO, "cannot read %s: %s", what, strerror(errno));
        if (p[1].revents)
            return err_set(err, ERR_CANCELED, "interrupted");
        if (!p[0].revents)
            continue;
        ssize_t n = read(0, &c, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, ERR_IO, "cannot read %s: %s", what, strerror(errno));
        if (n == 0 || c == '\n')
            break;
        if (out->n == SECRET_BYTES_MAX)
            return err_set(err, ERR_LIMIT, "%s is longer than %d bytes", what, SECRET_BYTES_MAX);
        input_add(out, &c, 1);
        mem_wipe(&c, 1);
    }
    if (out->n && out->data[out->n - 1] == '\r')
        out->data[--out->n] = 0;
    return out->n ? 0 : err_set(err, ERR_INVALID, "%s is empty", what);
}

/* Echo off; the signals of the terminal and of a shutdown wait in a descriptor until the echo is back. */
static int ask(struct buf *out, const char *question, const char *what, struct err_ctx *err)
{
    struct termios old, quiet;
    sigset_t set, old_set;
    sigemptyset(&set);
    for (int i = 0; i < 5; i++)
        sigaddset(&set, (const int[]){SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGTSTP}[i]);
    sigprocmask(SIG_BLOCK, &set, &old_set);
    int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    int rv = ERR_SYSTEM;
    if (signals < 0 || tcgetattr(0, &old) != 0) {
        err_set(err, rv, "cannot use the terminal: %s", strerror(errno));
    } else {
        quiet = old;
        quiet.c_lflag &= ~(tcflag_t)ECHO;
        quiet.c_lflag |= ECHONL;
        fprintf(stderr, "%s: ", question);
        fflush(stderr);
        tcsetattr(0, TCSAFLUSH, &quiet);
        rv = read_line(out, signals, what, err);
        tcsetattr(0, TCSAFLUSH, &old);
        if (rv == ERR_CANCELED)
            fputc('\n', stderr);
    }
    if (signals >= 0)
        close(signals); /* unread: the signals are delivered now */
    sigprocmask(SIG_SETMASK, &old_set, NULL);
    return rv;
}

int input_read_secret(struct buf *out, const char *what, bool twice, struct err_ctx *err)
{
    if (!input_is_terminal())
        return read_line(out, -1, what, err);
    int rv = ask(out, what, what, err);
    if (rv || !twice)
        return rv;
    struct buf again = {0};
    char question[64];
    snprintf(question, sizeof question, "%s again", what);
    rv = ask(&again, question, what, err);
    if (!rv && (again.n != out->n || memcmp(again.data, out->data, out->n) != 0))
        rv = err_set(err, ERR_INVALID, "the two are not the same");
    input_fini(&again);
    return rv;
}
