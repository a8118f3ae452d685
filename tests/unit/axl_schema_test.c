/* Do the client's requests and ucmsim's answers fit the AXL 14.0 schema? Needs xmllint and a copy of
 * AXLSoap.xsd, which is not part of this project: its path is found beside the project or in IMP_AXL_SCHEMA;
 * skipped without. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "protocols/axl/axl_message.h"
#include "protocols/http/http_client.h"
#include "ucmsim_process.h"
#include <cmocka.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_FILES = 64, DEADLINE_MS = 20000 };

#define ENVELOPE                                                                                             \
    "<soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\"><soapenv:Body>"
#define END_ENVELOPE "</soapenv:Body></soapenv:Envelope>"
#define NS "xmlns:ns=\"http://www.cisco.com/AXL/API/14.0\""

struct fixture {
    char dir[64];
    char *files[MAX_FILES];
    unsigned n_files;
    struct ucmsim sim;
    struct log *log;
    struct loop *loop;
    struct http_client *http;
    struct timer deadline;
    bool is_done;
    char *answer;
};

static const char *find_schema(void)
{
    const char *path = getenv("IMP_AXL_SCHEMA");
    if (!path)
        path = AXL_SCHEMA;
    return access(path, R_OK) ? NULL : path;
}

static void add_file(struct fixture *f, const char *text, size_t n_bytes)
{
    assert_in_range(f->n_files, 0, MAX_FILES - 1);
    char *path = mem_printf("%s/%02u.xml", f->dir, f->n_files);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, n_bytes, file), n_bytes);
    fclose(file);
    f->files[f->n_files++] = path;
}

static void remove_files(struct fixture *f)
{
    while (f->n_files) {
        unlink(f->files[--f->n_files]);
        mem_free(f->files[f->n_files]);
    }
}

/* Exit status of xmllint over all files; its words go to stderr if LOUD. */
static int validate(struct fixture *f, bool loud)
{
    const char *argv[MAX_FILES + 8] = {"xmllint", "--noout", "--nonet", "--schema", find_schema()};
    posix_spawn_file_actions_t actions;
    unsigned n = 5;
    int status = 0;
    pid_t pid;
    for (unsigned i = 0; i < f->n_files; i++)
        argv[n++] = f->files[i];
    posix_spawn_file_actions_init(&actions);
    if (!loud)
        posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", 1 /* O_WRONLY */, 0);
    assert_int_equal(posix_spawnp(&pid, argv[0], &actions, NULL, (char **)(uintptr_t)argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void skip_without_schema(void)
{
    if (find_schema() && !system("xmllint --version >/dev/null 2>&1"))
        return;
    print_message("skipped: no AXLSoap.xsd or no xmllint here\n");
    skip();
}

/* ---- requests ---- */

static void requests_are_valid(void **state)
{
    static const struct axl_request requests[] = {
        {.op = AXL_OP_GET_VERSION},
        {.op = AXL_OP_LIST_USERS, .skip = 0, .first = 1000},
        {.op = AXL_OP_GET_USER, .uuid = "8b2d1c40-53b1-9a0e-4c0b-2f3f9a6e1d11"},
        {.op = AXL_OP_LIST_CHANGES},
        {.op = AXL_OP_LIST_CHANGES, .queue_id = "a\"<&>b", .next_change = 11146},
        {.op = AXL_OP_AUTHENTICATE, .userid = "a&b", .password = "<]]>\"'"},
    };
    struct fixture *f = *state;
    skip_without_schema();
    for (size_t i = 0; i < n_elements(requests); i++) {
        struct buf body = {0};
        axl_write_body(&body, &requests[i], "14.0");
        add_file(f, body.data, body.n);
        buf_fini(&body);
    }
    assert_int_equal(validate(f, true), 0);
}

/* The check itself works: what we avoid on purpose is refused. */
static void an_empty_boolean_tag_is_not_valid(void **state)
{
    static const char body[] =
        "<ns:listUser " NS "><searchCriteria><userid>%</userid></searchCriteria><returnedTags>"
        "<imAndPresenceEnable/></returnedTags></ns:listUser>";
    struct fixture *f = *state;
    skip_without_schema();
    add_file(f, body, strlen(body));
    assert_int_not_equal(validate(f, false), 0);
}

/* ---- answers ---- */

static void on_answer(void *user, const struct http_response *response)
{
    struct fixture *f = user;
    assert_int_equal(response->code, 0);
    f->answer = mem_strndup(response->body, response->n_body);
    f->is_done = true;
    loop_stop(f->loop);
}

static void on_deadline(struct timer *t)
{
    loop_stop(container_of(t, struct fixture, deadline)->loop);
}

static void run_until_done(struct fixture *f)
{
    timer_start(&f->deadline, DEADLINE_MS, 0);
    while (!f->is_done && timer_is_on(&f->deadline))
        loop_run(f->loop);
    assert_true(f->is_done);
    timer_stop(&f->deadline);
}

/* What lies between START and END, without them. */
static char *between(const char *text, const char *start, const char *end)
{
    const char *from = strstr(text, start);
    const char *to = from ? strstr(from, end) : NULL;
    if (!to)
        fail_msg("no %s in %s", start, text);
    from += strlen(start);
    return mem_strndup(from, (size_t)(to - from));
}

/* Sends BODY to ucmsim; returns the answer's body child. */
static char *ask(struct fixture *f, const char *body)
{
    char *envelope = mem_printf(ENVELOPE "%s" END_ENVELOPE, body);
    const struct http_request request = {.url = f->sim.url,
                                         .user = "axluser",
                                         .password = "axlpassword",
                                         .body = envelope,
                                         .n_body = strlen(envelope)};
    f->is_done = false;
    http_client_send(f->http, &request, on_answer, f);
    run_until_done(f);
    char *result = between(f->answer, "<soapenv:Body>", "</soapenv:Body>");
    mem_free(f->answer);
    mem_free(envelope);
    return result;
}

static void on_closed(void *user)
{
    struct fixture *f = user;
    f->is_done = true;
    loop_stop(f->loop);
}

static void add_answers(struct fixture *f)
{
    static const char *const bodies[] = {
        "<ns:getCCMVersion " NS "/>",
        "<ns:listUser " NS
        " sequence=\"7\"><searchCriteria><userid>%</userid></searchCriteria><returnedTags><firstName/>"
        "<lastName/><userid/><mailid/><department/><status/><homeCluster>true</"
        "homeCluster><imAndPresenceEnable>true"
        "</imAndPresenceEnable><directoryUri/><telephoneNumber/><title/></returnedTags><skip>0</"
        "skip><first>5</first>"
        "</ns:listUser>",
        "<ns:listUser " NS "><searchCriteria><userid>nobody</userid></searchCriteria><returnedTags><userid/>"
        "</returnedTags></ns:listUser>",
        "<ns:getUser " NS "><userid>user0001</userid></ns:getUser>",
        "<ns:listChange " NS "/>",
        "<ns:listChange " NS
        "><startChangeId queueId=\"Q\">1</startChangeId><objectList><object>User</object>"
        "</objectList></ns:listChange>",
        "<ns:doAuthenticateUser " NS
        "><userid>user0001</userid><password>pw-user0001</password></ns:doAuthenticateUser>",
        "<ns:doAuthenticateUser " NS
        "><userid>user0001</userid><password>no</password></ns:doAuthenticateUser>",
        "<ns:listProcessNode " NS
        "><searchCriteria><name>%</name></searchCriteria><returnedTags><name/><description/>"
        "<nodeUsage/><processNodeRole/></returnedTags></ns:listProcessNode>",
        "<ns:getLdapAuthentication " NS "/>",
    };
    for (size_t i = 0; i < n_elements(bodies); i++) {
        char *answer = ask(f, bodies[i]);
        assert_null(strstr(answer, "Fault"));
        add_file(f, answer, strlen(answer));
        mem_free(answer);
    }
}

/* On the wire axlError has no namespace, as in real answers; the schema wants one. */
static void add_fault(struct fixture *f)
{
    char *answer = ask(f, "<ns:getUser " NS "><userid>nobody</userid></ns:getUser>");
    char *error = between(answer, "<axlError>", "</axlError>");
    char *qualified = mem_printf("<ns:axlError " NS ">%s</ns:axlError>", error);
    assert_non_null(strstr(error, "5007"));
    add_file(f, qualified, strlen(qualified));
    mem_free(qualified);
    mem_free(error);
    mem_free(answer);
}

static void answers_are_valid(void **state)
{
    static const char *const args[] = {"--users", "5", "--queue-id", "Q", NULL};
    struct fixture *f = *state;
    skip_without_schema();
    ucmsim_start(&f->sim, args);
    ucmsim_order(&f->sim, "POST", "/users", "{\"userid\":\"a<b\",\"displayName\":\"A & \\\"B\\\"\"}");
    ucmsim_order(&f->sim, "PATCH", "/users/user0002", "{\"userid\":\"other\",\"title\":\"<&>\"}");
    ucmsim_order(&f->sim, "DELETE", "/users/user0003", NULL);
    f->log = log_new(STDERR_FILENO, LOG_TEXT, LOG_ERROR, "");
    assert_int_equal(loop_new(&f->loop, "test", f->log), 0);
    timer_init(&f->deadline, f->loop, on_deadline);
    assert_int_equal(
        http_client_open(&f->http, f->loop, &(struct http_client_options){.ca_pem = f->sim.ca_pem}, NULL), 0);
    add_answers(f);
    add_fault(f);
    f->is_done = false;
    http_client_close(f->http, on_closed, f);
    run_until_done(f);
    loop_free(f->loop);
    log_free(f->log);
    ucmsim_stop(&f->sim);
    assert_int_equal(validate(f, true), 0);
}

static int setup(void **state)
{
    struct fixture *f = mem_new(struct fixture);
    snprintf(f->dir, sizeof f->dir, "/tmp/axl-schema-XXXXXX");
    *state = f;
    return mkdtemp(f->dir) ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    remove_files(f);
    rmdir(f->dir);
    mem_free(f);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(requests_are_valid),
        TEST(an_empty_boolean_tag_is_not_valid),
        TEST(answers_are_valid),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
