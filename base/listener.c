#include "base/loop_impl.h"
#include "base/stream.h"
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,
    MAX_ACCEPTS = 64, /* per turn, so that a flood of connections leaves time for the connected */
    FULL_PAUSE_MS = 100,
};

struct listener {
    uv_poll_t poll;
    struct loop *loop;
    void (*on_accept)(void *user, int fd);
    void *user;
    int fd;
    int spare_fd; /* given up for a moment to refuse a connection when the process has no descriptor left */
    unsigned port;
    bool warned;
    char *path;         /* of a unix socket */
    struct timer retry; /* after a failure that will go on for a while */
};

static void on_ready(uv_poll_t *handle, int status, int events);

static void listen_again(struct timer *t)
{
    struct listener *x = container_of(t, struct listener, retry);
    uv_poll_start(&x->poll, UV_READABLE, on_ready);
}

/* Out of descriptors: without this, the connection would stay in the backlog, its peer would wait, and the
 * loop would turn at full speed. */
static void refuse_one(struct listener *x)
{
    if (!x->warned)
        log_error(loop_log(x->loop), "port %u: connection refused, no file descriptors left", x->port);
    x->warned = true;
    if (x->spare_fd >= 0) {
        close(x->spare_fd);
        int fd = accept4(x->fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd >= 0)
            close(fd);
        x->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            return;
    }
    uv_poll_stop(&x->poll);
    timer_start(&x->retry, FULL_PAUSE_MS, 0);
}

static void on_ready(uv_poll_t *handle, int status, int events)
{
    struct listener *x = handle->data;
    for (int i = 0; i < MAX_ACCEPTS; i++) {
        int fd = accept4(x->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            x->warned = false;
            x->on_accept(x->user, fd);
            if (uv_is_closing((uv_handle_t *)handle)) /* the callee closed us */
                return;
            continue;
        }
        int error = errno;
        if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM)
            refuse_one(x);
        if (error != EINTR && error != ECONNABORTED)
            return;
    }
}

static int system_error(struct err_ctx *err, int error, const char *what)
{
    int code = error == EADDRINUSE      ? ERR_EXISTS
               : error == EACCES        ? ERR_DENIED
               : error == EADDRNOTAVAIL ? ERR_UNAVAILABLE
                                        : ERR_SYSTEM;
    return err_set(err, code, "listen on %s: %s", what, strerror(error));
}

/* Takes FD, bound, in any case. */
static int start(struct listener **out, struct loop *l, int fd, const char *what,
                 void (*on_accept)(void *user, int fd), void *user, struct err_ctx *err)
{
    if (listen(fd, BACKLOG) != 0) {
        int error = errno;
        close(fd);
        return system_error(err, error, what);
    }
    struct listener *x = mem_new(struct listener);
    x->loop = l;
    x->fd = fd;
    x->on_accept = on_accept;
    x->user = user;
    timer_init(&x->retry, l, listen_again);
    if (uv_poll_init_socket(&l->uv, &x->poll, fd) != 0) {
        close(fd);
        mem_free(x);
        return err_set(err, ERR_SYSTEM, "listen on %s: cannot be polled", what);
    }
    x->poll.data = x;
    x->spare_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    uv_poll_start(&x->poll, UV_READABLE, on_ready);
    *out = x;
    return ERR_OK;
}

static int bind_inet(int *out, const struct sockaddr *address, socklen_t n, bool reuse_port)
{
    int fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int one = 1, zero = 0;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (reuse_port)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one));
    if (address->sa_family == AF_INET6) {
        /* "" is both families; a given IPv6 address is that alone. */
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        bool any = IN6_IS_ADDR_UNSPECIFIED(&in6->sin6_addr);
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, any ? &zero : &one, sizeof(int));
    }
    if (bind(fd, address, n) != 0) {
        int error = errno;
        close(fd);
        return error;
    }
    *out = fd;
    return 0;
}

static unsigned bound_port(int fd)
{
    struct sockaddr_storage ss = {0};
    socklen_t n = sizeof(ss);
    getsockname(fd, (struct sockaddr *)&ss, &n);
    return ntohs(ss.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&ss)->sin6_port
                                          : ((struct sockaddr_in *)&ss)->sin_port);
}

/* A machine may have no IPv6 at all: then "any" is IPv4's. */
static int bind_any(int *fd, unsigned port, bool reuse_port)
{
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    int error = bind_inet(fd, (struct sockaddr *)&in6, sizeof(in6), reuse_port);
    if (error != EAFNOSUPPORT && error != EADDRNOTAVAIL)
        return error;
    struct sockaddr_in in4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    return bind_inet(fd, (struct sockaddr *)&in4, sizeof(in4), reuse_port);
}

int listener_open(struct listener **out, struct loop *l, const char *address, unsigned port, bool reuse_port,
                  void (*on_accept)(void *user, int fd), void *user, struct err_ctx *err)
{
    assert(loop_is_current(l));
    char what[128], service[16];
    snprintf(what, sizeof(what), "%.80s%sport %u", address, address[0] ? " " : "", port);
    if (port > 65535)
        return err_set(err, ERR_INVALID, "listen on %s: no such port", what);
    int fd = -1, error;
    if (address[0] == '\0') {
        error = bind_any(&fd, port, reuse_port);
    } else {
        struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                                 .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
        struct addrinfo *list;
        snprintf(service, sizeof(service), "%u", port);
        if (getaddrinfo(address, service, &hints, &list) != 0)
            return err_set(err, ERR_INVALID, "listen on %s: no numeric address", what);
        error = bind_inet(&fd, list->ai_addr, list->ai_addrlen, reuse_port);
        freeaddrinfo(list);
    }
    if (error)
        return system_error(err, error, what);
    port = bound_port(fd);
    int rc = start(out, l, fd, what, on_accept, user, err);
    if (rc == ERR_OK)
        (*out)->port = port;
    return rc;
}

/* Removes a socket file that nobody listens on any more. ERR_EXISTS if somebody does. */
static int remove_stale(const struct sockaddr_un *address, struct err_ctx *err)
{
    struct stat st;
    if (lstat(address->sun_path, &st) != 0)
        return ERR_OK;
    if (!S_ISSOCK(st.st_mode))
        return err_set(err, ERR_EXISTS, "listen on %s: a file that is no socket is in the way",
                       address->sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return system_error(err, errno, address->sun_path);
    int error = connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 ? 0 : errno;
    close(fd);
    if (error != ECONNREFUSED)
        return err_set(err, ERR_EXISTS, "listen on %s: another process does", address->sun_path);
    unlink(address->sun_path);
    return ERR_OK;
}

int listener_open_unix(struct listener **out, struct loop *l, const char *path, unsigned mode,
                       void (*on_accept)(void *user, int fd), void *user, struct err_ctx *err)
{
    assert(loop_is_current(l));
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return err_set(err, ERR_INVALID, "listen on %s: the path is longer than %zu bytes", path,
                       sizeof(address.sun_path) - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    int rc = remove_stale(&address, err);
    if (rc != ERR_OK)
        return rc;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return system_error(err, errno, path);
    /* On Linux bind() makes the file with the socket's own mode: nobody gets in between it and chmod. */
    fchmod(fd, 0600);
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || chmod(path, (mode_t)mode) != 0) {
        int error = errno;
        close(fd);
        return system_error(err, error, path);
    }
    rc = start(out, l, fd, path, on_accept, user, err);
    if (rc == ERR_OK)
        (*out)->path = mem_strdup(path);
    return rc;
}

unsigned listener_port(const struct listener *x)
{
    return x->port;
}

static void on_closed(uv_handle_t *handle)
{
    mem_free(handle->data);
}

void listener_close(struct listener *x)
{
    if (!x)
        return;
    assert(loop_is_current(x->loop));
    timer_stop(&x->retry);
    uv_close((uv_handle_t *)&x->poll, on_closed);
    close(x->fd);
    if (x->spare_fd >= 0)
        close(x->spare_fd);
    if (x->path)
        unlink(x->path);
    mem_free(x->path);
}
