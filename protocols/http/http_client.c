#include "protocols/http/http_client.h"
#include "base/buf.h"
#include "base/mem.h"
#include <assert.h>
#include <curl/curl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* Life of a call: running (in the multi handle) -> ended (in client->ended, result known) -> on_done ->
 * freed. It is always reported from report_ended, a deferred of the loop, so never from inside a caller's
 * function. */
struct http_call {
    struct list link; /* in client->calls or client->ended */
    struct http_client *client;
    CURL *easy;
    struct curl_slist *headers;
    struct buf body;
    char *request;
    size_t n_request;
    bool in_multi, too_big;
    int code;
    char detail[CURL_ERROR_SIZE];
    http_done_fn *on_done;
    void *user;
};

/* A socket that curl wants to be watched. */
struct watch {
    uv_poll_t poll;
    struct http_client *client;
    curl_socket_t fd;
};

struct http_client {
    struct loop *loop;
    CURLM *multi;
    CURLSH *share; /* cookies; one thread, so without locks */
    struct timer timer;
    struct deferred report;
    struct list calls, ended;
    unsigned n_watches; /* uv handles not closed yet */
    bool is_closing, is_closed;
    char *ca_pem;
    struct http_client_options options;
    void (*on_closed)(void *user);
    void *on_closed_user;
};

static void curl_init(void)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT))
        abort();
}

/* ---- ends ---- */

static void defer_report(struct http_client *c)
{
    if (list_is_empty(&c->report.link))
        loop_defer(c->loop, &c->report);
}

static void finish_close(struct http_client *c)
{
    if (!c->is_closing || c->is_closed || c->n_watches || !list_is_empty(&c->calls) ||
        !list_is_empty(&c->ended))
        return;
    c->is_closed = true;
    defer_report(c);
}

static void client_free(struct http_client *c)
{
    void (*on_closed)(void *user) = c->on_closed;
    void *user = c->on_closed_user;
    assert(!c->multi);
    curl_share_cleanup(c->share);
    timer_stop(&c->timer);
    mem_free(c->ca_pem);
    mem_free(c);
    if (on_closed)
        on_closed(user);
}

static void call_free(struct http_call *call)
{
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    if (call->request)
        mem_wipe(call->request, call->n_request);
    mem_free(call->request);
    buf_fini(&call->body);
    mem_free(call);
}

static void call_end(struct http_call *call, int code)
{
    struct http_client *c = call->client;
    if (call->in_multi) {
        curl_multi_remove_handle(c->multi, call->easy);
        call->in_multi = false;
    }
    call->code = code;
    list_remove(&call->link);
    list_append(&c->ended, &call->link);
    defer_report(c);
}

static void report(struct http_call *call)
{
    struct http_response response = {.code = call->code, .detail = "", .body = ""};
    long status = 0;
    curl_off_t retry_after = 0;
    if (call->code) {
        response.detail = call->detail[0] ? call->detail : err_text(call->code);
    } else {
        curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
        curl_easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &retry_after);
        response.status = (int)status;
        response.retry_after_s = retry_after > 3600 ? 3600 : (unsigned)retry_after;
        response.body = call->body.n ? call->body.data : "";
        response.n_body = call->body.n;
    }
    call->on_done(call->user, &response);
    call_free(call);
}

static void report_ended(struct deferred *d)
{
    struct http_client *c = container_of(d, struct http_client, report);
    struct list batch;
    if (c->is_closed) {
        client_free(c);
        return;
    }
    /* on_done may send, cancel and close; what ends by that is reported in the next round. */
    list_init(&batch);
    for (struct list *item; (item = list_first(&c->ended));) {
        list_remove(item);
        list_append(&batch, item);
    }
    for (struct list *item; (item = list_first(&batch));) {
        list_remove(item);
        report(list_entry(item, struct http_call, link));
    }
    if (c->is_closing && c->multi && list_is_empty(&c->calls)) {
        /* Closes the connections, and by that the watches. */
        curl_multi_cleanup(c->multi);
        c->multi = NULL;
        timer_stop(&c->timer);
    }
    finish_close(c);
}

/* ---- curl on the loop ---- */

static int map_code(const struct http_call *call, CURLcode code)
{
    if (call->too_big)
        return ERR_LIMIT;
    switch (code) {
    case CURLE_OK:
        return 0;
    case CURLE_OPERATION_TIMEDOUT:
        return ERR_TIMEOUT;
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
        return ERR_TLS;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
        return ERR_UNAVAILABLE;
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return ERR_CLOSED;
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
        return ERR_INVALID;
    case CURLE_OUT_OF_MEMORY:
        return ERR_NOMEM;
    default:
        return ERR_IO;
    }
}

static void take_messages(struct http_client *c)
{
    CURLMsg *message;
    int n_left;
    while ((message = curl_multi_info_read(c->multi, &n_left))) {
        struct http_call *call;
        CURLcode code = message->data.result; /* gone once the handle is removed */
        if (message->msg != CURLMSG_DONE)
            continue;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        if (call->too_big)
            snprintf(call->detail, sizeof call->detail, "the answer is bigger than %zu bytes",
                     c->options.max_body_bytes);
        else if (code && !call->detail[0])
            snprintf(call->detail, sizeof call->detail, "%s", curl_easy_strerror(code));
        call_end(call, map_code(call, code));
    }
}

static void on_timer(struct timer *t)
{
    struct http_client *c = container_of(t, struct http_client, timer);
    int n_running;
    curl_multi_socket_action(c->multi, CURL_SOCKET_TIMEOUT, 0, &n_running);
    take_messages(c);
}

static int set_timer(CURLM *multi, long timeout_ms, void *user)
{
    struct http_client *c = user;
    (void)multi;
    if (timeout_ms < 0)
        timer_stop(&c->timer);
    else
        timer_start(&c->timer, timeout_ms > 3600000 ? 3600000 : (unsigned)timeout_ms, 0);
    return 0;
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct watch *w = poll->data;
    struct http_client *c = w->client;
    int flags = 0, n_running;
    if (status < 0)
        flags = CURL_CSELECT_ERR;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    curl_multi_socket_action(c->multi, w->fd, flags, &n_running); /* may close the watch */
    if (c->multi)
        take_messages(c);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct watch *w = handle->data;
    struct http_client *c = w->client;
    mem_free(w);
    c->n_watches--;
    finish_close(c);
}

static int set_watch(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user)
{
    struct http_client *c = user;
    struct watch *w = socket_user;
    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        if (w) {
            uv_poll_stop(&w->poll);
            uv_close((uv_handle_t *)&w->poll, on_watch_closed);
            if (c->multi)
                curl_multi_assign(c->multi, fd, NULL);
        }
        return 0;
    }
    if (!w) {
        w = mem_new(struct watch);
        w->client = c;
        w->fd = fd;
        if (uv_poll_init_socket(loop_uv(c->loop), &w->poll, fd)) {
            mem_free(w);
            return -1;
        }
        w->poll.data = w;
        c->n_watches++;
        curl_multi_assign(c->multi, fd, w);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_poll) ? -1 : 0;
}

/* ---- client ---- */

int http_client_open(struct http_client **out, struct loop *l, const struct http_client_options *options,
                     struct err_ctx *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct http_client *c = mem_new(struct http_client);
    pthread_once(&once, curl_init);
    c->loop = l;
    c->options = *options;
    c->options.ca_pem = c->ca_pem = mem_strdup(options->ca_pem);
    if (!c->options.connect_timeout_ms)
        c->options.connect_timeout_ms = 10000;
    if (!c->options.timeout_ms)
        c->options.timeout_ms = 60000;
    if (!c->options.stall_timeout_s)
        c->options.stall_timeout_s = 30;
    if (!c->options.max_body_bytes)
        c->options.max_body_bytes = 1 << 20;
    if (!c->options.max_connections)
        c->options.max_connections = 4;
    list_init(&c->calls);
    list_init(&c->ended);
    timer_init(&c->timer, l, on_timer);
    list_init(&c->report.link);
    c->report.fn = report_ended;
    c->multi = curl_multi_init();
    c->share = curl_share_init();
    if (!c->multi || !c->share) {
        curl_multi_cleanup(c->multi);
        curl_share_cleanup(c->share);
        mem_free(c->ca_pem);
        mem_free(c);
        return err_set(err, ERR_NOMEM, "libcurl gives no handle");
    }
    curl_share_setopt(c->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_COOKIE);
    curl_share_setopt(c->share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETFUNCTION, set_watch);
    curl_multi_setopt(c->multi, CURLMOPT_SOCKETDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERFUNCTION, set_timer);
    curl_multi_setopt(c->multi, CURLMOPT_TIMERDATA, c);
    curl_multi_setopt(c->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)c->options.max_connections);
    curl_multi_setopt(c->multi, CURLMOPT_MAXCONNECTS, (long)c->options.max_connections);
    *out = c;
    return 0;
}

void http_client_close(struct http_client *c, void (*on_closed)(void *user), void *user)
{
    if (c->is_closing)
        return;
    c->is_closing = true;
    c->on_closed = on_closed;
    c->on_closed_user = user;
    for (struct list *item; (item = list_first(&c->calls));)
        call_end(list_entry(item, struct http_call, link), ERR_CANCELED);
    defer_report(c);
}

/* ---- calls ---- */

static size_t on_body(char *data, size_t one, size_t n_bytes, void *user)
{
    struct http_call *call = user;
    (void)one;
    if (call->body.n + n_bytes > call->client->options.max_body_bytes) {
        call->too_big = true;
        return 0; /* curl ends the transfer */
    }
    buf_add(&call->body, data, n_bytes);
    return n_bytes;
}

static CURLcode set_options(struct http_call *call, const struct http_request *request)
{
    const struct http_client_options *o = &call->client->options;
    CURL *easy = call->easy;
    CURLcode code = CURLE_OK;
    unsigned timeout_ms = request->timeout_ms ? request->timeout_ms : o->timeout_ms;
#define SET(option, value)                                                                                   \
    do                                                                                                       \
        code = code ? code : curl_easy_setopt(easy, option, value);                                          \
    while (0)
    SET(CURLOPT_PRIVATE, (void *)call);
    SET(CURLOPT_ERRORBUFFER, call->detail);
    SET(CURLOPT_URL, request->url);
    SET(CURLOPT_PROTOCOLS_STR, "http,https");
    SET(CURLOPT_PROXY, "");
    SET(CURLOPT_NOSIGNAL, 1L);
    SET(CURLOPT_FOLLOWLOCATION, 0L);
    SET(CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    SET(CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    SET(CURLOPT_SSL_VERIFYPEER, 1L);
    SET(CURLOPT_SSL_VERIFYHOST, 2L);
    SET(CURLOPT_CONNECTTIMEOUT_MS, (long)o->connect_timeout_ms);
    SET(CURLOPT_TIMEOUT_MS, (long)timeout_ms);
    SET(CURLOPT_LOW_SPEED_LIMIT, 1L);
    SET(CURLOPT_LOW_SPEED_TIME, (long)o->stall_timeout_s);
    SET(CURLOPT_BUFFERSIZE, 65536L);
    SET(CURLOPT_TCP_KEEPALIVE, 1L);
    SET(CURLOPT_SHARE, call->client->share);
    SET(CURLOPT_COOKIEFILE, ""); /* the engine on, no file */
    SET(CURLOPT_HTTPHEADER, call->headers);
    SET(CURLOPT_WRITEFUNCTION, on_body);
    SET(CURLOPT_WRITEDATA, call);
    if (o->ca_pem) {
        struct curl_blob blob = {.data = (void *)(uintptr_t)o->ca_pem, .len = strlen(o->ca_pem)};
        SET(CURLOPT_CAINFO_BLOB, &blob);
        SET(CURLOPT_CAPATH, NULL);
    }
    if (request->user) {
        SET(CURLOPT_HTTPAUTH, (long)CURLAUTH_BASIC);
        SET(CURLOPT_USERNAME, request->user);
        SET(CURLOPT_PASSWORD, request->password ? request->password : "");
    }
    if (request->body) {
        SET(CURLOPT_POSTFIELDS, call->request);
        SET(CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->n_request);
    }
    if (request->method)
        SET(CURLOPT_CUSTOMREQUEST, request->method);
#undef SET
    return code;
}

static bool add_headers(struct http_call *call, const char *const *headers)
{
    /* No "Expect: 100-continue": it costs a round trip, or a second with a server that ignores it. */
    call->headers = curl_slist_append(NULL, "Expect:");
    for (; call->headers && headers && *headers; headers++) {
        struct curl_slist *longer = curl_slist_append(call->headers, *headers);
        if (!longer)
            return false;
        call->headers = longer;
    }
    return call->headers != NULL;
}

struct http_call *http_client_send(struct http_client *c, const struct http_request *request,
                                   http_done_fn *on_done, void *user)
{
    struct http_call *call = mem_new(struct http_call);
    call->client = c;
    call->on_done = on_done;
    call->user = user;
    list_init(&call->link);
    list_append(&c->calls, &call->link);
    if (request->body) {
        call->request = mem_dup(request->body, request->n_body);
        call->n_request = request->n_body;
    }
    if (c->is_closing) {
        call_end(call, ERR_CANCELED);
        return call;
    }
    call->easy = curl_easy_init();
    CURLcode code =
        call->easy && add_headers(call, request->headers) ? set_options(call, request) : CURLE_OUT_OF_MEMORY;
    if (!code && curl_multi_add_handle(c->multi, call->easy))
        code = CURLE_FAILED_INIT;
    if (code) {
        if (!call->detail[0])
            snprintf(call->detail, sizeof call->detail, "%s", curl_easy_strerror(code));
        call_end(call, map_code(call, code));
    } else {
        call->in_multi = true;
    }
    return call;
}

void http_call_cancel(struct http_call *call)
{
    if (call->in_multi)
        call_end(call, ERR_CANCELED);
    else
        call->code = ERR_CANCELED; /* it ended in this turn and is not reported yet */
}
