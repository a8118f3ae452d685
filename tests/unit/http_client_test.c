/* The HTTP client against servers that behave badly. What a good server does is tested with AXL. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "base/stream.h"
#include "protocols/http/http_client.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DEADLINE_MS = 20000, MAX_DONE = 16 };

struct fixture {
    struct log *log;
    struct loop *loop;
    struct listener *listener;
    struct http_client *http;
    struct timer deadline;
    char url[64];
    /* the server: says this on the first byte of each request, then closes if it is told to */
    const char *answer;
    bool closes;
    struct list peers;
    unsigned n_accepted;
    /* what came of the requests */
    unsigned n_done, n_closed;
    int codes[MAX_DONE], statuses[MAX_DONE];
    size_t n_body;
    char body[256], detail[256];
    unsigned retry_after_s;
    struct http_call *to_cancel;
    bool close_inside;
};

/* ---- the server ---- */

struct peer {
    struct list link;
    struct fixture *f;
    struct stream *stream;
};

static void on_peer_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct peer *p = user;
    if (!memmem(data, n_bytes, "HTTP/1.1", 8) || !p->f->answer)
        return;
    stream_write(p->stream, p->f->answer, strlen(p->f->answer));
    if (p->f->closes)
        stream_close(p->stream);
}

static void on_peer_close(void *user, int code, const char *detail)
{
    struct peer *p = user;
    list_remove(&p->link);
    mem_free(p);
}

static void on_accept(void *user, int fd)
{
    static const struct stream_events events = {.on_data = on_peer_data, .on_close = on_peer_close};
    struct fixture *f = user;
    struct peer *p = mem_new(struct peer);
    p->f = f;
    list_append(&f->peers, &p->link);
    f->n_accepted++;
    p->stream = stream_new(f->loop, fd, &events, p);
}

/* ---- the client ---- */

static void on_closed(void *user)
{
    struct fixture *f = user;
    f->n_closed++;
    f->http = NULL;
    loop_stop(f->loop);
}

static void on_done(void *user, const struct http_response *r)
{
    struct fixture *f = user;
    assert_in_range(f->n_done, 0, MAX_DONE - 1);
    f->codes[f->n_done] = r->code;
    f->statuses[f->n_done++] = r->status;
    f->n_body = r->n_body;
    f->retry_after_s = r->retry_after_s;
    snprintf(f->body, sizeof f->body, "%s", r->body);
    snprintf(f->detail, sizeof f->detail, "%s", r->detail);
    if (f->to_cancel) {
        http_call_cancel(f->to_cancel);
        f->to_cancel = NULL;
    }
    if (f->close_inside) {
        f->close_inside = false;
        http_client_close(f->http, on_closed, f);
    }
    loop_stop(f->loop);
}

static void on_deadline(struct timer *t)
{
    loop_stop(container_of(t, struct fixture, deadline)->loop);
}

static void run_until(struct fixture *f, const unsigned *count, unsigned want)
{
    timer_start(&f->deadline, DEADLINE_MS, 0);
    while (*count < want && timer_is_on(&f->deadline))
        loop_run(f->loop);
    assert_int_equal(*count, want);
    timer_stop(&f->deadline);
}

static void open_client(struct fixture *f, const struct http_client_options *options)
{
    assert_int_equal(http_client_open(&f->http, f->loop, options, NULL), 0);
}

static struct http_call *get(struct fixture *f, const char *url)
{
    return http_client_send(f->http, &(struct http_request){.url = url}, on_done, f);
}

static void answers(struct fixture *f, const char *answer, bool closes)
{
    f->answer = answer;
    f->closes = closes;
    f->n_done = 0;
    get(f, f->url);
    assert_int_equal(f->n_done, 0);
    run_until(f, &f->n_done, 1);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    f->log = log_new(STDERR_FILENO, LOG_TEXT, LOG_ERROR, "");
    assert_int_equal(loop_new(&f->loop, "test", f->log), 0);
    list_init(&f->peers);
    timer_init(&f->deadline, f->loop, on_deadline);
    assert_int_equal(listener_open(&f->listener, f->loop, "127.0.0.1", 0, false, on_accept, f, NULL), 0);
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/", listener_port(f->listener));
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct peer *p;
    if (f->http) {
        http_client_close(f->http, on_closed, f);
        run_until(f, &f->n_closed, f->n_closed + 1);
    }
    listener_close(f->listener);
    list_for_each(p, &f->peers, struct peer, link) stream_abort(p->stream);
    timer_start(&f->deadline, 1, 1);
    while (!list_is_empty(&f->peers))
        loop_run(f->loop);
    timer_stop(&f->deadline);
    loop_free(f->loop);
    log_free(f->log);
    mem_free(f);
    return 0;
}

/* ---- tests ---- */

static void answers_are_taken(void **state)
{
    struct fixture *f = *state;
    open_client(f, &(struct http_client_options){.max_body_bytes = 1000});
    answers(f, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false);
    assert_int_equal(f->codes[0], 0);
    assert_int_equal(f->statuses[0], 200);
    assert_string_equal(f->body, "hello");
    answers(f, "HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", false);
    assert_int_equal(f->statuses[0], 503);
    assert_int_equal(f->retry_after_s, 7);
    assert_string_equal(f->body, "");
    answers(f, "HTTP/1.1 302 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", false);
    assert_int_equal(f->statuses[0], 302); /* not followed */
    assert_int_equal(f->n_accepted, 1);    /* one connection for all */
}

static void broken_answers_are_errors(void **state)
{
    struct fixture *f = *state;
    open_client(f, &(struct http_client_options){.max_body_bytes = 1000, .timeout_ms = 200});
    answers(f, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf", true);
    assert_int_equal(f->codes[0], ERR_CLOSED);
    answers(f, "", true);
    assert_int_equal(f->codes[0], ERR_CLOSED);
    answers(f, "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nand no more", false);
    assert_int_equal(f->codes[0], ERR_TIMEOUT);
    answers(f, NULL, false);
    assert_int_equal(f->codes[0], ERR_TIMEOUT);
    assert_string_not_equal(f->detail, "");
    answers(f, "\x16\x03\x01 this is not HTTP\r\n\r\n", true);
    assert_int_not_equal(f->codes[0], 0);
}

static void big_bodies_are_cut_off(void **state)
{
    struct fixture *f = *state;
    char big[4096];
    int n = snprintf(big, sizeof big, "HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
    memset(big + n, 'x', sizeof big - (size_t)n - 1);
    big[sizeof big - 1] = 0;
    open_client(f, &(struct http_client_options){.max_body_bytes = 1000});
    answers(f, big, false);
    assert_int_equal(f->codes[0], ERR_LIMIT);
    assert_non_null(strstr(f->detail, "1000"));
}

static void no_server_and_no_url(void **state)
{
    struct fixture *f = *state;
    open_client(f, &(struct http_client_options){.timeout_ms = 0});
    get(f, "http://127.0.0.1:1/");
    run_until(f, &f->n_done, 1);
    assert_int_equal(f->codes[0], ERR_UNAVAILABLE);
    get(f, "file:///etc/passwd");
    run_until(f, &f->n_done, 2);
    assert_int_equal(f->codes[1], ERR_INVALID);
    get(f, "http://[bad/");
    run_until(f, &f->n_done, 3);
    assert_int_equal(f->codes[2], ERR_INVALID);
    /* a server that does not speak TLS */
    char url[64];
    snprintf(url, sizeof url, "https%s", f->url + 4);
    f->answer = "no\r\n";
    f->closes = true;
    get(f, url);
    timer_start(&f->deadline, 200, 0); /* the server waits for a request line that never comes */
    while (f->n_done < 4 && timer_is_on(&f->deadline))
        loop_run(f->loop);
    http_client_close(f->http, on_closed, f);
    run_until(f, &f->n_closed, 1);
    assert_int_equal(f->n_done, 4);
    assert_int_not_equal(f->codes[3], 0);
}

static void requests_end_once(void **state)
{
    struct fixture *f = *state;
    open_client(f, &(struct http_client_options){.max_connections = 2});
    f->answer = NULL;
    for (int i = 0; i < 5; i++)
        get(f, f->url);
    struct http_call *call = get(f, f->url);
    http_call_cancel(call);
    http_call_cancel(call); /* nothing more */
    run_until(f, &f->n_done, 1);
    assert_int_equal(f->codes[0], ERR_CANCELED);
    http_client_close(f->http, on_closed, f);
    http_client_close(f->http, on_closed, f);
    struct http_call *late = get(f, f->url); /* while closing */
    assert_non_null(late);
    run_until(f, &f->n_closed, 1);
    assert_int_equal(f->n_done, 7);
    for (int i = 1; i < 7; i++)
        assert_int_equal(f->codes[i], ERR_CANCELED);
    assert_true(f->n_accepted <= 2);
}

static void answers_may_cancel_and_close(void **state)
{
    struct fixture *f = *state;
    open_client(f, &(struct http_client_options){.max_connections = 1});
    f->answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    get(f, f->url);
    f->to_cancel = get(f, f->url); /* waits for the one connection */
    run_until(f, &f->n_done, 2);
    assert_int_equal(f->codes[0], 0);
    assert_int_equal(f->codes[1], ERR_CANCELED);
    f->close_inside = true;
    get(f, f->url);
    get(f, f->url);
    run_until(f, &f->n_closed, 1);
    assert_int_equal(f->n_done, 4);
    assert_int_equal(f->codes[2], 0);
    assert_int_equal(f->codes[3], ERR_CANCELED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(answers_are_taken),    TEST(broken_answers_are_errors), TEST(big_bodies_are_cut_off),
        TEST(no_server_and_no_url), TEST(requests_end_once),         TEST(answers_may_cancel_and_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
