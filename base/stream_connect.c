/* Outgoing connections: resolve, then one address after the other, all within one time-out. TCP asks again
 * after 1, 3 and 7 s only; a fresh attempt every ATTEMPT_MS finds a network that is whole again sooner. */
#include "base/stream_impl.h"
#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ATTEMPT_MS = 1500 };

/* Apart from the stream: a look-up cannot be taken back and may end after it. */
struct stream_connect {
    uv_getaddrinfo_t req;
    struct stream *stream; /* NULL: forgotten */
    bool resolving;
    struct addrinfo *list, *next;
    uint64_t deadline_ms;
    int error; /* errno of the last attempt */
    unsigned port;
    char host[256];
};

static void connect_free(struct stream_connect *c)
{
    if (c->list)
        uv_freeaddrinfo(c->list);
    mem_free(c);
}

void stream_connect_forget(struct stream *s)
{
    struct stream_connect *c = s->connect;
    if (!c)
        return;
    s->connect = NULL;
    c->stream = NULL;
    if (!c->resolving)
        connect_free(c);
}

static void close_attempt(struct stream *s)
{
    stream_detach(s);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

/* Starts a connection to ADDRESS; an errno if that fails at once. */
static int attempt(struct stream *s, const struct addrinfo *address)
{
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return errno;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS) {
        int error = errno;
        close(fd);
        return error;
    }
    if (stream_attach(s, fd) != ERR_OK) {
        close_attempt(s);
        return EMFILE;
    }
    return 0;
}

static void connect_next(struct stream *s)
{
    struct stream_connect *c = s->connect;
    uint64_t now = loop_now_ms(s->loop);
    s->state = STREAM_CONNECTING;
    while (c->next && now < c->deadline_ms) {
        struct addrinfo *address = c->next;
        unsigned n_left = 0;
        for (struct addrinfo *a = address; a; a = a->ai_next)
            n_left++;
        c->next = address->ai_next;
        c->error = attempt(s, address);
        if (c->error == 0) {
            /* An address that swallows packets must leave time for the others. */
            uint64_t wait = (c->deadline_ms - now) / n_left;
            timer_start(&s->timer, wait < ATTEMPT_MS ? (unsigned)wait : ATTEMPT_MS, 0);
            stream_update_poll(s);
            return;
        }
    }
    bool late = c->error == ETIMEDOUT || c->error == 0;
    stream_fail(s, late ? ERR_TIMEOUT : ERR_IO, "connect to %s port %u: %s", c->host, c->port,
                c->error ? strerror(c->error) : "timed out");
}

void stream_connect_timeout(struct stream *s)
{
    struct stream_connect *c = s->connect;
    if (s->state == STREAM_RESOLVING) {
        stream_fail(s, ERR_TIMEOUT, "no answer to the look-up of %s", c->host);
        return;
    }
    close_attempt(s);
    c->error = ETIMEDOUT;
    if (!c->next)
        c->next = c->list; /* all of them once more, while there is time */
    connect_next(s);
}

void stream_connect_ready(struct stream *s)
{
    struct stream_connect *c = s->connect;
    socklen_t n = sizeof(c->error);
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &c->error, &n) != 0)
        c->error = errno;
    if (c->error != 0) {
        close_attempt(s);
        connect_next(s);
        return;
    }
    stream_note_peer(s);
    stream_connect_forget(s);
    stream_opened(s);
}

static void on_resolved(uv_getaddrinfo_t *req, int status, struct addrinfo *list)
{
    struct stream_connect *c = container_of(req, struct stream_connect, req);
    c->resolving = false;
    c->list = c->next = list;
    if (!c->stream) {
        connect_free(c);
        return;
    }
    if (status != 0)
        stream_fail(c->stream, ERR_IO, "look-up of %s: %s", c->host, uv_strerror(status));
    else
        connect_next(c->stream);
}

/* "[::1]" and "::1" are the same host. */
static void copy_host(char out[256], const char *host)
{
    size_t n = strlen(host);
    if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
        host++;
        n -= 2;
    }
    snprintf(out, 256, "%.*s", (int)(n < 255 ? n : 255), host);
}

struct stream *stream_connect(struct loop *l, const char *host, unsigned port, unsigned timeout_ms,
                              const struct stream_events *events, void *user)
{
    struct stream *s = stream_make(l, events, user);
    struct stream_connect *c = mem_new(struct stream_connect);
    s->connect = c;
    s->state = STREAM_RESOLVING;
    s->timeout_ms = timeout_ms;
    c->stream = s;
    c->port = port;
    c->deadline_ms = loop_now_ms(l) + timeout_ms;
    copy_host(c->host, host);
    char service[16];
    snprintf(service, sizeof(service), "%u", port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
    if (port > 65535 || strlen(host) > 255) {
        stream_fail(s, ERR_IO, "\"%s\" port %u is no address", c->host, port);
        return s;
    }
    if (getaddrinfo(c->host, service, &hints, &c->list) == 0) {
        c->next = c->list;
        connect_next(s);
        return s;
    }
    hints.ai_flags = AI_NUMERICSERV | AI_ADDRCONFIG;
    timer_start(&s->timer, timeout_ms, 0);
    c->resolving = true;
    int rc = uv_getaddrinfo(&l->uv, &c->req, on_resolved, c->host, service, &hints);
    if (rc != 0) {
        c->resolving = false;
        stream_fail(s, ERR_IO, "look-up of %s: %s", c->host, uv_strerror(rc));
    }
    return s;
}
