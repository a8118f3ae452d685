#include "protocols/axl/axl.h"
#include "base/list.h"
#include "base/mem.h"
#include "protocols/axl/axl_message.h"
#include "protocols/http/http_client.h"
#include <stdio.h>
#include <string.h>

enum { MAX_ANSWER_BYTES = 16 << 20, MAX_CONNECTIONS = 4 };

struct axl {
    struct loop *loop;
    struct http_client *http;
    char *url, *user, *password;
    char version[8];
    unsigned timeout_ms, refused_hold_ms;
    uint64_t refused_until_ms;
    struct axl_error refused; /* what the server said then */
    struct list calls;
    void (*on_closed)(void *user);
    void *on_closed_user;
    bool is_closing;
};

/* One operation, through as many HTTP requests as the choice of a version takes. */
struct axl_call {
    struct list link;
    struct axl *axl;
    struct http_call *http;
    struct axl_request request; /* its strings are ours */
    char version[8];            /* this attempt's */
    unsigned versions_tried;
    bool is_canceled;
    struct deferred refuse; /* ends a call that is not sent */
    axl_done_fn *on_done;
    void *user;
};

static void wipe_free(char *secret)
{
    if (secret)
        mem_wipe(secret, strlen(secret));
    mem_free(secret);
}

static void call_free(struct axl_call *call)
{
    list_remove(&call->link);
    mem_free((char *)(uintptr_t)call->request.uuid);
    mem_free((char *)(uintptr_t)call->request.userid);
    mem_free((char *)(uintptr_t)call->request.queue_id);
    wipe_free((char *)(uintptr_t)call->request.password);
    mem_free(call);
}

static enum axl_outcome outcome_of(int code)
{
    switch (code) {
    case ERR_CANCELED:
        return AXL_CANCELED;
    case ERR_TLS:
        return AXL_TLS;
    case ERR_LIMIT:
        return AXL_TOO_LARGE;
    case ERR_INVALID:
        return AXL_MALFORMED;
    default:
        return AXL_RETRY;
    }
}

static void on_response(void *user, const struct http_response *response);

static void send_request(struct axl_call *call)
{
    struct axl *axl = call->axl;
    const char *name = axl_operation_name(call->request.op);
    struct buf body = {0};
    char action[96];
    snprintf(call->version, sizeof call->version, "%s", axl->version);
    snprintf(action, sizeof action, "SOAPAction: \"CUCM:DB ver=%s %s\"", call->version, name);
    axl_write_envelope(&body, &call->request, call->version);
    const char *const headers[] = {"Content-Type: text/xml; charset=utf-8", action, NULL};
    const struct http_request request = {.url = axl->url,
                                         .headers = headers,
                                         .user = axl->user,
                                         .password = axl->password,
                                         .body = body.data,
                                         .n_body = body.n,
                                         .timeout_ms = axl->timeout_ms};
    call->http = http_client_send(axl->http, &request, on_response, call);
    mem_wipe(body.data, body.n);
    buf_fini(&body);
}

/* The server named what it supports: the next request of every call uses it. True if this one was sent again.
 */
static bool step_down(struct axl_call *call, const struct http_response *response)
{
    const char *next;
    if (strcmp(call->version, call->axl->version)) {
        /* Another call has found out meanwhile. */
        send_request(call);
        return true;
    }
    next = axl_next_version(response->body, call->version, &call->versions_tried);
    if (!next)
        return false;
    log_notice(loop_log(call->axl->loop), "the call manager does not serve AXL %s, trying %s", call->version,
               next);
    snprintf(call->axl->version, sizeof call->axl->version, "%s", next);
    send_request(call);
    return true;
}

static void note_refusal(struct axl *axl, const struct axl_error *error)
{
    if (error->outcome == AXL_AUTH || error->outcome == AXL_DENIED) {
        axl->refused = *error;
        axl->refused_until_ms = loop_now_ms(axl->loop) + axl->refused_hold_ms;
    }
}

static void refuse(struct deferred *d)
{
    struct axl_call *call = container_of(d, struct axl_call, refuse);
    struct axl_result result = {.version = "", .error = call->axl->refused};
    if (call->is_canceled)
        result.error = (struct axl_error){.outcome = AXL_CANCELED};
    call->on_done(call->user, &result);
    call_free(call);
}

static void on_response(void *user, const struct http_response *response)
{
    struct axl_call *call = user;
    struct axl_result result = {.version = ""};
    struct arena arena;
    call->http = NULL;
    if (response->status == 599 && !call->is_canceled && step_down(call, response))
        return;
    arena_init(&arena);
    if (response->code || call->is_canceled) {
        result.error.outcome = call->is_canceled ? AXL_CANCELED : outcome_of(response->code);
        axl_copy_text(result.error.text, sizeof result.error.text, response->detail);
    } else {
        axl_read_answer(&result, &arena, call->request.op, response->status, response->body,
                        response->n_body);
        result.error.retry_after_s = response->retry_after_s;
        note_refusal(call->axl, &result.error);
    }
    call->on_done(call->user, &result);
    call_free(call);
    arena_fini(&arena);
}

/* ---- client ---- */

static char *full_url(const char *url)
{
    const char *host = strstr(url, "://");
    const char *path = host ? strchr(host + 3, '/') : NULL;
    if (!path)
        return mem_printf("%s/axl/", url);
    return path[1] ? mem_strdup(url) : mem_printf("%saxl/", url);
}

int axl_open(struct axl **out, struct loop *l, const struct axl_options *o, struct err_ctx *err)
{
    struct http_client_options http_options = {.ca_pem = o->ca_pem && o->ca_pem[0] ? o->ca_pem : NULL,
                                               .timeout_ms = o->timeout_ms,
                                               .max_body_bytes = MAX_ANSWER_BYTES,
                                               .max_connections = MAX_CONNECTIONS};
    struct http_client *http;
    const char *version = o->version && o->version[0] ? o->version : "14.0";
    if (strncmp(o->url, "https://", 8) && strncmp(o->url, "http://", 7))
        return err_set(err, ERR_INVALID, "axl.url: must begin with https://");
    if (strlen(version) >= sizeof(*out)->version)
        return err_set(err, ERR_INVALID, "axl.version: like 14.0");
    int code = http_client_open(&http, l, &http_options, err);
    if (code)
        return code;
    struct axl *axl = mem_new(struct axl);
    axl->loop = l;
    axl->http = http;
    axl->url = full_url(o->url);
    axl->user = mem_strdup(o->user);
    axl->password = mem_strdup(o->password);
    axl->timeout_ms = o->timeout_ms;
    axl->refused_hold_ms = o->refused_hold_ms;
    snprintf(axl->version, sizeof axl->version, "%s", version);
    list_init(&axl->calls);
    *out = axl;
    return 0;
}

static void on_http_closed(void *user)
{
    struct axl *axl = user;
    void (*on_closed)(void *user) = axl->on_closed;
    void *on_closed_user = axl->on_closed_user;
    mem_free(axl->url);
    mem_free(axl->user);
    wipe_free(axl->password);
    mem_free(axl);
    if (on_closed)
        on_closed(on_closed_user);
}

void axl_close(struct axl *axl, void (*on_closed)(void *user), void *user)
{
    struct axl_call *call;
    if (axl->is_closing)
        return;
    axl->is_closing = true;
    axl->on_closed = on_closed;
    axl->on_closed_user = user;
    list_for_each(call, &axl->calls, struct axl_call, link) call->is_canceled = true;
    http_client_close(axl->http, on_http_closed, axl);
}

const char *axl_schema_version(const struct axl *axl)
{
    return axl->version;
}

static struct axl_call *begin(struct axl *axl, const struct axl_request *request, axl_done_fn *on_done,
                              void *user)
{
    struct axl_call *call = mem_new(struct axl_call);
    call->axl = axl;
    call->request = *request;
    call->request.uuid = mem_strdup(request->uuid);
    call->request.userid = mem_strdup(request->userid);
    call->request.password = mem_strdup(request->password);
    call->request.queue_id = mem_strdup(request->queue_id);
    call->on_done = on_done;
    call->user = user;
    list_append(&axl->calls, &call->link);
    list_init(&call->refuse.link);
    call->refuse.fn = refuse;
    if (!axl->is_closing && loop_now_ms(axl->loop) < axl->refused_until_ms)
        loop_defer(axl->loop, &call->refuse);
    else
        send_request(call);
    return call;
}

struct axl_call *axl_get_version(struct axl *axl, axl_done_fn *on_done, void *user)
{
    return begin(axl, &(struct axl_request){.op = AXL_OP_GET_VERSION}, on_done, user);
}

struct axl_call *axl_list_users(struct axl *axl, size_t skip, size_t first, axl_done_fn *on_done, void *user)
{
    return begin(axl, &(struct axl_request){.op = AXL_OP_LIST_USERS, .skip = skip, .first = first}, on_done,
                 user);
}

struct axl_call *axl_get_user(struct axl *axl, const char *uuid, axl_done_fn *on_done, void *user)
{
    return begin(axl, &(struct axl_request){.op = AXL_OP_GET_USER, .uuid = uuid}, on_done, user);
}

struct axl_call *axl_list_changes(struct axl *axl, const char *queue_id, uint64_t next_change,
                                  axl_done_fn *on_done, void *user)
{
    const struct axl_request request = {
        .op = AXL_OP_LIST_CHANGES, .queue_id = queue_id, .next_change = next_change};
    return begin(axl, &request, on_done, user);
}

struct axl_call *axl_authenticate(struct axl *axl, const char *userid, const char *password,
                                  axl_done_fn *on_done, void *user)
{
    const struct axl_request request = {.op = AXL_OP_AUTHENTICATE, .userid = userid, .password = password};
    return begin(axl, &request, on_done, user);
}

void axl_call_cancel(struct axl_call *call)
{
    call->is_canceled = true;
    if (call->http)
        http_call_cancel(call->http);
}
