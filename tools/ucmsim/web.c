#include "web.h"
#include "base/clock.h"
#include "base/mem.h"
#include "control.h"
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REQUEST_BYTES = 1 << 20, MAX_CONNECTIONS = 512 };

struct web {
    struct MHD_Daemon *daemon;
    struct sim *sim;
    unsigned port;
};

/* The body of a request while it comes in. */
struct request {
    struct buf body;
    bool too_big;
};

static enum MHD_Result queue(struct MHD_Connection *connection, unsigned status, const char *type,
                             struct buf *body, const char *header, const char *value)
{
    size_t n = body->n;
    struct MHD_Response *response =
        MHD_create_response_from_buffer(n, buf_steal(body), MHD_RESPMEM_MUST_FREE);
    MHD_add_response_header(response, "Content-Type", type);
    if (header)
        MHD_add_response_header(response, header, value);
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result queue_text(struct MHD_Connection *connection, unsigned status, const char *text)
{
    struct buf body = {0};
    buf_adds(&body, text);
    return queue(connection, status, "text/plain", &body, NULL, NULL);
}

/* Collects the body. True when it is complete. */
static bool collect(struct request *request, const char *data, size_t *n_bytes)
{
    if (!*n_bytes)
        return true;
    if (request->body.n + *n_bytes > MAX_REQUEST_BYTES)
        request->too_big = true;
    else
        buf_add(&request->body, data, *n_bytes);
    *n_bytes = 0;
    return false;
}

/* ---- AXL ---- */

/* The first half of the body, then an error, upon which libmicrohttpd cuts the connection. */
struct half {
    char *data;
    size_t n;
};

static ssize_t read_half(void *user, uint64_t at, char *out, size_t room)
{
    struct half *half = user;
    size_t left = half->n / 2 > at ? half->n / 2 - (size_t)at : 0;
    if (!left)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (left > room)
        left = room;
    memcpy(out, half->data + at, left);
    return (ssize_t)left;
}

static void free_half(void *user)
{
    struct half *half = user;
    mem_free(half->data);
    mem_free(half);
}

static enum MHD_Result queue_cut(struct MHD_Connection *connection, struct buf *body)
{
    struct half *half = mem_new(struct half);
    half->n = body->n;
    half->data = buf_steal(body);
    struct MHD_Response *response =
        MHD_create_response_from_callback(half->n, 4096, read_half, half, free_half);
    MHD_add_response_header(response, "Content-Type", "text/xml; charset=utf-8");
    enum MHD_Result result = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return result;
}

static bool has_session(const struct sim *sim, const char *id)
{
    if (!id || strlen(id) != 32)
        return false;
    for (size_t i = 0; i < n_elements(sim->sessions); i++)
        if (!strcmp(sim->sessions[i], id))
            return true;
    return false;
}

/* Basic authentication on every request. A known JSESSIONID spares the new session, as on the real one.
 * Writes the cookie to set, or "". Under the lock. */
static bool authenticate(struct sim *sim, struct MHD_Connection *connection, char cookie[64])
{
    char *password = NULL, *user = MHD_basic_auth_get_username_password(connection, &password);
    bool ok = user && password && !strcmp(user, sim->axl_user) && !strcmp(password, sim->axl_password);
    MHD_free(user);
    MHD_free(password);
    cookie[0] = 0;
    if (!ok) {
        sim->n_refused_logins++;
        return false;
    }
    if (has_session(sim, MHD_lookup_connection_value(connection, MHD_COOKIE_KIND, "JSESSIONID"))) {
        sim->n_session_hits++;
        return true;
    }
    char *id = sim->sessions[sim->n_sessions++ % n_elements(sim->sessions)];
    random_hex(id, 16);
    sim->n_logins++;
    snprintf(cookie, 64, "JSESSIONID=%s; Path=/axl; HttpOnly", id);
    return true;
}

/* Waits, unless the simulator is stopping. Under the lock, which is given up meanwhile. */
static void delay(struct sim *sim, unsigned ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    while (!sim->is_stopping && pthread_cond_timedwait(&sim->stopped, &sim->lock, &until) != ETIMEDOUT)
        ;
}

static enum MHD_Result answer_axl(struct web *w, struct MHD_Connection *connection, struct request *request)
{
    static const char denied[] = "<html><body><h1>HTTP Status 401 - Unauthorized</h1></body></html>\n";
    struct sim *sim = w->sim;
    struct soap_reply reply = {0};
    char cookie[64];
    pthread_mutex_lock(&sim->lock);
    bool ok = authenticate(sim, connection, cookie);
    if (ok) {
        soap_handle(&sim->soap, request->body.data ? request->body.data : "", request->body.n,
                    MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "SOAPAction"), &reply);
        if (reply.delay_ms)
            delay(sim, reply.delay_ms);
    }
    pthread_mutex_unlock(&sim->lock);
    if (!ok || reply.status == 401) {
        buf_fini(&reply.body);
        buf_adds(&reply.body, denied);
        return queue(connection, 401, "text/html", &reply.body, "WWW-Authenticate",
                     "Basic realm=\"Cisco Web\"");
    }
    if (reply.cut)
        return queue_cut(connection, &reply.body);
    return queue(connection, reply.status, reply.is_xml ? "text/xml; charset=utf-8" : "text/html",
                 &reply.body, cookie[0] ? "Set-Cookie" : NULL, cookie);
}

static enum MHD_Result on_axl(void *user, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data, size_t *n_bytes,
                              void **state)
{
    struct request *request = *state;
    (void)version;
    if (!request) {
        *state = mem_new(struct request);
        return MHD_YES;
    }
    if (!collect(request, data, n_bytes))
        return MHD_YES;
    if (strcmp(url, "/axl/") && strcmp(url, "/axl"))
        return queue_text(connection, 404, "AXL is at /axl/\n");
    if (strcmp(method, "POST"))
        return queue_text(connection, 405, "POST only\n");
    if (request->too_big)
        return queue_text(connection, 413, "request too big\n");
    return answer_axl(user, connection, request);
}

/* ---- control ---- */

static enum MHD_Result on_control(void *user, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data, size_t *n_bytes,
                                  void **state)
{
    struct web *w = user;
    struct request *request = *state;
    struct buf out = {0};
    (void)version;
    if (!request) {
        *state = mem_new(struct request);
        return MHD_YES;
    }
    if (!collect(request, data, n_bytes))
        return MHD_YES;
    if (request->too_big)
        return queue_text(connection, 413, "request too big\n");
    pthread_mutex_lock(&w->sim->lock);
    unsigned status = control_handle(w->sim, method, url,
                                     MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, "like"),
                                     request->body.data ? request->body.data : "", request->body.n, &out);
    pthread_mutex_unlock(&w->sim->lock);
    return queue(connection, status, "application/json", &out, NULL, NULL);
}

/* ---- both ---- */

static void on_completed(void *user, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode why)
{
    struct request *request = *state;
    (void)user;
    (void)connection;
    (void)why;
    if (request) {
        buf_fini(&request->body);
        mem_free(request);
    }
}

static void on_connection(void *user, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode what)
{
    struct web *w = user;
    (void)connection;
    (void)state;
    if (what != MHD_CONNECTION_NOTIFY_STARTED)
        return;
    pthread_mutex_lock(&w->sim->lock);
    w->sim->n_connections++;
    pthread_mutex_unlock(&w->sim->lock);
}

static int listen_on(int *out, const char *host, unsigned port, struct err_ctx *err)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM}, *found;
    char service[16];
    snprintf(service, sizeof service, "%u", port);
    int code = getaddrinfo(host[0] ? host : NULL, service, &hints, &found);
    if (code)
        return err_set(err, ERR_INVALID, "%s: %s", host, gai_strerror(code));
    int one = 1, fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(fd, found->ai_addr, found->ai_addrlen) || listen(fd, 512)) {
        code = err_set(err, ERR_SYSTEM, "%s:%u: %m", host, port);
        if (fd >= 0)
            close(fd);
    }
    freeaddrinfo(found);
    *out = fd;
    return code;
}

static unsigned bound_port(int fd)
{
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &n);
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static int open_on(struct web **out, struct sim *sim, const char *host, unsigned port, const char *cert,
                   const char *key, MHD_AccessHandlerCallback handler, struct err_ctx *err)
{
    struct web *w = mem_new(struct web);
    int fd = -1, code = listen_on(&fd, host, port, err);
    if (code) {
        mem_free(w);
        return code;
    }
    const struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(uintptr_t)cert},
                                         {MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(uintptr_t)key},
                                         {MHD_OPTION_END, 0, NULL}};
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL |
                     (cert ? MHD_USE_TLS : 0);
    w->sim = sim;
    w->port = bound_port(fd);
    w->daemon = MHD_start_daemon(flags, 0, NULL, NULL, handler, w, MHD_OPTION_LISTEN_SOCKET, fd,
                                 MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
                                 MHD_OPTION_NOTIFY_CONNECTION, on_connection, w, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, 120u,
                                 MHD_OPTION_ARRAY, cert ? tls : tls + 2, MHD_OPTION_END);
    if (!w->daemon) {
        close(fd);
        mem_free(w);
        return err_set(err, ERR_SYSTEM, "%s:%u: cannot start the web server", host, port);
    }
    *out = w;
    return 0;
}

int web_open_axl(struct web **out, struct sim *sim, const char *host, unsigned port, const char *cert,
                 const char *key, struct err_ctx *err)
{
    return open_on(out, sim, host, port, cert, key, on_axl, err);
}

int web_open_control(struct web **out, struct sim *sim, const char *host, unsigned port, struct err_ctx *err)
{
    return open_on(out, sim, host, port, NULL, NULL, on_control, err);
}

unsigned web_port(const struct web *w)
{
    return w->port;
}

void web_close(struct web *w)
{
    if (!w)
        return;
    pthread_mutex_lock(&w->sim->lock);
    w->sim->is_stopping = true;
    pthread_cond_broadcast(&w->sim->stopped);
    pthread_mutex_unlock(&w->sim->lock);
    MHD_stop_daemon(w->daemon);
    mem_free(w);
}
