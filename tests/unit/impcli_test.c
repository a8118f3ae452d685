/* impcli, the program, against a node that the test plays: exit statuses, options, input, what it says when
 * the node ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "admin.pb-c.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/release.h"
#include "node/rpc/command.h"
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>
#include <utmp.h>

/* ---- the node: one connection, one behaviour ---- */

enum behaviour {
    ANSWER,       /* reads the request, sends the replies */
    END_AFTER,    /* reads the request, sends the replies, and none of them is the last */
    END_IN_HEAD,  /* reads four bytes and ends */
    REFUSE,       /* answers without reading */
    HUGE_LENGTH,  /* a length that no frame has */
    NOT_PROTOBUF, /* a frame with nonsense */
};
struct fake_node {
    char dir[64], path[96];
    int listener;
    pthread_t thread;
    enum behaviour behaviour;
    Imp__AdminReply replies[4];
    unsigned n_replies;
    Imp__AdminRequest *request;
    bool called;
};

static bool read_all(int fd, void *data, size_t n)
{
    for (char *p = data; n;) {
        ssize_t k = read(fd, p, n);
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static void send_reply(int fd, const Imp__AdminReply *reply)
{
    struct buf frame = {0};
    size_t n = imp__admin_reply__get_packed_size(reply);
    buf_add_u32(&frame, (uint32_t)n);
    buf_reserve(&frame, n);
    frame.n += imp__admin_reply__pack(reply, (uint8_t *)frame.data + frame.n);
    send(fd, frame.data, frame.n, MSG_NOSIGNAL);
    buf_fini(&frame);
}

static void read_request(struct fake_node *s, int fd)
{
    uint8_t head[4];
    struct reader r;
    if (!read_all(fd, head, sizeof head))
        return;
    reader_init(&r, head, sizeof head);
    uint32_t n = read_u32(&r);
    uint8_t *body = mem_alloc(n + 1);
    if (read_all(fd, body, n))
        s->request = imp__admin_request__unpack(NULL, n, body);
    mem_free(body);
}

static void *serve(void *user)
{
    struct fake_node *s = user;
    struct pollfd p = {.fd = s->listener, .events = POLLIN};
    char four[4];
    if (poll(&p, 1, -1) != 1)
        return NULL;
    int fd = accept(s->listener, NULL, NULL);
    if (fd < 0)
        return NULL; /* the test has shut the listener down */
    s->called = true;
    switch (s->behaviour) {
    case ANSWER:
    case END_AFTER:
        read_request(s, fd);
        /* fall through */
    case REFUSE:
        for (unsigned i = 0; i < s->n_replies; i++)
            send_reply(fd, &s->replies[i]);
        break;
    case END_IN_HEAD:
        read_all(fd, four, sizeof four);
        break;
    case HUGE_LENGTH:
        read_request(s, fd);
        send(fd, "\xff\xff\xff\xff", 4, MSG_NOSIGNAL);
        break;
    case NOT_PROTOBUF:
        read_request(s, fd);
        send(fd, "\x03\x00\x00\x00\xff\xff\xff", 7, MSG_NOSIGNAL);
        break;
    }
    close(fd);
    return NULL;
}

static struct fake_node *fake_node(enum behaviour behaviour)
{
    struct fake_node *s = mem_new(struct fake_node);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    strcpy(s->dir, "/tmp/impcli-test-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof s->path, "%s/admin.sock", s->dir);
    memcpy(sa.sun_path, s->path, sizeof s->path);
    s->behaviour = behaviour;
    s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(s->listener, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(listen(s->listener, 1), 0);
    return s;
}

static void reply_with(struct fake_node *s, int status, const char *text, const char *json,
                       const char *message, bool more)
{
    Imp__AdminReply *r = &s->replies[s->n_replies++];
    imp__admin_reply__init(r);
    r->status = status;
    r->message = (char *)message;
    r->text = (ProtobufCBinaryData){strlen(text), (uint8_t *)text};
    r->json = (ProtobufCBinaryData){strlen(json), (uint8_t *)json};
    r->more = more;
}

static void fake_node_free(struct fake_node *s)
{
    close(s->listener);
    unlink(s->path);
    rmdir(s->dir);
    if (s->request)
        imp__admin_request__free_unpacked(s->request, NULL);
    mem_free(s);
}

/* ---- the program ---- */

struct result {
    int status; /* exit status, or 1000 + signal */
    struct buf out, err;
};

static void result_fini(struct result *r)
{
    buf_fini(&r->out);
    buf_fini(&r->err);
}

static int decode(int wait_status)
{
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 1000 + WTERMSIG(wait_status);
}

/* Both pipes until they end: the program may fill either. */
static void drain(int out, int err, struct result *r)
{
    struct pollfd p[2] = {{.fd = out, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    for (unsigned open = 2; open;) {
        char chunk[4096];
        assert_true(poll(p, 2, 20000) > 0);
        for (int i = 0; i < 2; i++) {
            if (!p[i].revents)
                continue;
            ssize_t n = read(p[i].fd, chunk, sizeof chunk);
            if (n > 0) {
                buf_add(i ? &r->err : &r->out, chunk, (size_t)n);
            } else {
                p[i].fd = -1;
                open--;
            }
        }
    }
    buf_add(&r->out, "", 0);
    buf_add(&r->err, "", 0);
}

enum { MAX_WORDS = 24 };

/* Runs impcli with WORDS behind --socket PATH (PATH NULL: without). STDOUT_FILE NULL: a pipe. */
static void run_words(struct result *r, const char *path, const char *input, const char *stdout_file,
                      uid_t uid, const char *const *words)
{
    int in[2], out[2], err[2];
    const char *argv[MAX_WORDS + 4] = {IMPCLI};
    int n = 1;
    *r = (struct result){0};
    if (path) {
        argv[n++] = "--socket";
        argv[n++] = path;
    }
    for (; *words; words++) {
        assert_true(n < MAX_WORDS + 3);
        argv[n++] = *words;
    }
    argv[n] = NULL;
    assert_int_equal(pipe2(in, O_CLOEXEC) | pipe2(out, O_CLOEXEC) | pipe2(err, O_CLOEXEC), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int to = stdout_file ? open(stdout_file, O_WRONLY) : out[1];
        if (dup2(in[0], 0) < 0 || dup2(to, 1) < 0 || dup2(err[1], 2) < 0 || (uid && setuid(uid)))
            _exit(99);
        execv(IMPCLI, (char **)argv);
        _exit(98);
    }
    close(in[0]);
    close(out[1]);
    close(err[1]);
    signal(SIGPIPE, SIG_IGN);
    if (input && write(in[1], input, strlen(input)) < 0)
        assert_int_equal(errno, EPIPE);
    close(in[1]);
    drain(out[0], err[0], r);
    close(out[0]);
    close(err[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    r->status = decode(status);
}

/* With the node S, which then has seen one call or none. */
static void call(struct fake_node *s, struct result *r, const char *input, const char *const *words)
{
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    run_words(r, s->path, input, NULL, 0, words);
    shutdown(s->listener, SHUT_RDWR);
    pthread_join(s->thread, NULL);
}
#define WORDS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define assert_says(buf, text) assert_non_null(strstr((buf).data, text))

/* ---- tests ---- */

static void test_done(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    reply_with(s, 0, "alice is pinned\n", "{\"result\":1}", "", false);
    call(s, &r, NULL, WORDS("user", "assign", "alice", "--node=n2", "bob"));
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out.data, "alice is pinned\n");
    assert_string_equal(r.err.data, "");
    Imp__AdminRequest *m = s->request;
    assert_non_null(m);
    assert_string_equal(m->area, "user");
    assert_string_equal(m->verb, "assign");
    assert_int_equal(m->n_args, 2);
    assert_string_equal(m->args[0], "alice");
    assert_string_equal(m->args[1], "bob");
    assert_int_equal(m->n_options, 1);
    assert_string_equal(m->options[0]->name, "node");
    assert_string_equal(m->options[0]->value, "n2");
    assert_string_equal(m->release, release_name());
    assert_int_equal(m->form, IMP__ADMIN_FORM__ADMIN_TEXT);
    assert_int_equal(m->input.len, 0);
    result_fini(&r);
    fake_node_free(s);
}

static void test_option_forms(void **state)
{
    static const struct {
        const char *words[8];
        unsigned n_args, n_options;
        const char *last_arg, *value;
    } cases[] = {
        {{"user", "list", "--node", "n2"}, 0, 1, NULL, "n2"},
        {{"user", "list", "--node=n2"}, 0, 1, NULL, "n2"},
        {{"user", "list", "--node="}, 0, 1, NULL, ""},
        {{"user", "list", "--node=a=b"}, 0, 1, NULL, "a=b"},
        {{"user", "list", "--unassigned"}, 0, 1, NULL, ""},
        {{"node", "show", "--", "--json"}, 1, 0, "--json", NULL},
        {{"node", "show", "--", "--help"}, 1, 0, "--help", NULL},
        {{"user", "unassign", "a", "--", "--x", "--"}, 3, 0, "--", NULL},
        {{"settings", "set", "axl.url", ""}, 2, 0, "", NULL},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fake_node *s = fake_node(ANSWER);
        struct result r;
        reply_with(s, 0, "", "", "", false);
        call(s, &r, "", cases[i].words);
        assert_int_equal(r.status, 0);
        assert_non_null(s->request);
        assert_int_equal(s->request->n_args, cases[i].n_args);
        assert_int_equal(s->request->n_options, cases[i].n_options);
        if (cases[i].last_arg)
            assert_string_equal(s->request->args[s->request->n_args - 1], cases[i].last_arg);
        if (cases[i].value)
            assert_string_equal(s->request->options[0]->value, cases[i].value);
        assert_int_equal(s->request->form, IMP__ADMIN_FORM__ADMIN_TEXT);
        result_fini(&r);
        fake_node_free(s);
    }
}

static void test_json_anywhere(void **state)
{
    static const char *const lines[][6] = {{"--json", "node", "list"},
                                           {"node", "--json", "list"},
                                           {"node", "list", "--json"},
                                           {"node", "list", "--json", "--json"}};
    for (unsigned i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct fake_node *s = fake_node(ANSWER);
        struct result r;
        reply_with(s, 0, "NAME\n", "[]", "", false);
        call(s, &r, NULL, lines[i]);
        assert_int_equal(r.status, 0);
        assert_string_equal(r.out.data, "[]\n");
        assert_int_equal(s->request->form, IMP__ADMIN_FORM__ADMIN_JSON);
        assert_int_equal(s->request->n_options, 0);
        result_fini(&r);
        fake_node_free(s);
    }
}

static void test_refused(void **state)
{
    static const int statuses[] = {1, 5, -1, 256};
    for (unsigned i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        struct fake_node *s = fake_node(ANSWER);
        struct result r;
        reply_with(s, statuses[i], "", "", "no node is named 'n9'", false);
        call(s, &r, NULL, WORDS("node", "remove", "n9"));
        assert_int_equal(r.status, 1);
        assert_string_equal(r.out.data, "");
        assert_string_equal(r.err.data, "impcli: no node is named 'n9'\n");
        result_fini(&r);
        fake_node_free(s);
    }
}

static void test_usage(void **state)
{
    static const char *const lines[][6] = {
        {"nothing"},
        {"nothing", "list"},
        {"node", "nothing"},
        {"node"},
        {"--nothing", "node", "list"},
        {"node", "list", "x"},
        {"node", "show"},
        {"node", "list", "--watch"},
        {"user", "list", "--node"},
        {"user", "list", "--unassigned=yes"},
        {"user", "list", "--node=a", "--node=b"},
        {"user", "list", "--=x"},
        {"cert", "import", "--domain=example.com", "--cert=/dev/null"},
        {"user", "add", "alice"}, /* standard input is a pipe and nobody said that it has the password */
        {"user", "passwd", "alice"},
    };
    for (unsigned i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct fake_node *s = fake_node(ANSWER);
        struct result r;
        call(s, &r, "not a password\n", lines[i]);
        if (r.status != 2)
            print_error("line %u: %s %s\n", i, lines[i][0], lines[i][1] ? lines[i][1] : "");
        assert_int_equal(r.status, 2);
        assert_true(r.err.n || r.out.n);
        assert_false(s->called);
        result_fini(&r);
        fake_node_free(s);
    }
}

static void test_help_and_version(void **state)
{
    static const char *const lines[][5] = {
        {"--help"},   {"-h"}, {"node", "--help"}, {"node", "show", "--help"}, {"node", "show", "x", "-h"},
        {"--version"}};
    for (unsigned i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct result r;
        run_words(&r, "/nonexistent/socket", NULL, NULL, 0, lines[i]);
        assert_int_equal(r.status, 0);
        assert_true(r.out.n > 0);
        assert_int_equal(r.err.n, 0);
        result_fini(&r);
    }
}

static void test_not_reachable(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    char path[200];
    close(s->listener); /* the socket file stays, as a crash leaves it */
    run_words(&r, s->path, NULL, NULL, 0, WORDS("node", "list"));
    assert_int_equal(r.status, 3);
    assert_says(r.err, "is impnode running?");
    result_fini(&r);
    unlink(s->path);
    run_words(&r, s->path, NULL, NULL, 0, WORDS("node", "token"));
    assert_int_equal(r.status, 3);
    assert_says(r.err, s->path);
    result_fini(&r);
    memset(path, 'x', sizeof path);
    path[0] = '/';
    path[108] = 0;
    run_words(&r, path, NULL, NULL, 0, WORDS("node", "list"));
    assert_int_equal(r.status, 2);
    assert_says(r.err, "too long");
    result_fini(&r);
    s->listener = -1;
    fake_node_free(s);
}

static void test_no_permission(void **state)
{
    if (geteuid() != 0)
        skip();
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    assert_int_equal(chmod(s->dir, 0755) | chmod(s->path, 0600), 0);
    run_words(&r, s->path, NULL, NULL, 65534, WORDS("node", "list"));
    if (r.status == 98) /* the program itself lies where that user may not go */
        skip();
    assert_int_equal(r.status, 1);
    assert_says(r.err, "imp-admin");
    result_fini(&r);
    fake_node_free(s);
}

/* The node ends between the request and its answer. */
static void test_node_ends(void **state)
{
    static const enum behaviour behaviours[] = {END_AFTER, HUGE_LENGTH, NOT_PROTOBUF};
    for (unsigned i = 0; i < sizeof behaviours / sizeof *behaviours; i++) {
        struct fake_node *s = fake_node(behaviours[i]);
        struct result r;
        call(s, &r, NULL, WORDS("node", "drain", "n2"));
        assert_non_null(s->request);
        assert_int_equal(r.status, 1);
        assert_says(r.err, "outcome unknown");
        result_fini(&r);
        fake_node_free(s);
        s = fake_node(behaviours[i]);
        call(s, &r, NULL, WORDS("node", "list"));
        assert_int_equal(r.status, 3);
        assert_null(strstr(r.err.data, "outcome unknown"));
        result_fini(&r);
        fake_node_free(s);
    }
}

static char *big_file(const struct fake_node *s, const char *name, size_t n_bytes)
{
    char *path = mem_printf("%s/%s", s->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)n_bytes), 0);
    close(fd);
    return path;
}

/* It ends before it has read the request: certainly not executed. */
static void test_node_ends_before_it_has_read(void **state)
{
    struct fake_node *s = fake_node(END_IN_HEAD);
    struct result r;
    char *path = big_file(s, "users.csv", 4 << 20);
    call(s, &r, NULL, WORDS("user", "import", path));
    assert_int_equal(r.status, 3);
    assert_null(strstr(r.err.data, "outcome unknown"));
    unlink(path);
    mem_free(path);
    result_fini(&r);
    fake_node_free(s);
}

static void test_refused_without_reading(void **state)
{
    struct fake_node *s = fake_node(REFUSE);
    struct result r;
    char *path = big_file(s, "users.csv", 4 << 20);
    reply_with(s, 1, "", "", "no right to administer this node", false);
    call(s, &r, NULL, WORDS("user", "import", path));
    assert_int_equal(r.status, 1);
    assert_says(r.err, "no right to administer this node");
    unlink(path);
    mem_free(path);
    result_fini(&r);
    fake_node_free(s);
}

static void test_several_answers(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    reply_with(s, 0, "first\n", "{}", "", true);
    reply_with(s, 0, "second", "{}", "", true);
    reply_with(s, 1, "", "", "the node stops", false);
    call(s, &r, NULL, WORDS("dbreplication", "runtimestate", "--watch"));
    assert_int_equal(r.status, 1);
    assert_string_equal(r.out.data, "first\nsecond\n"); /* a pipe: no control codes of a terminal */
    assert_says(r.err, "the node stops");
    result_fini(&r);
    fake_node_free(s);

    s = fake_node(END_AFTER);
    reply_with(s, 0, "first\n", "{}", "", true);
    call(s, &r, NULL, WORDS("dbreplication", "runtimestate", "--watch"));
    assert_int_equal(r.status, 3);
    assert_string_equal(r.out.data, "first\n");
    result_fini(&r);
    fake_node_free(s);
}

/* What arrives as input of WORDS when standard input is INPUT; NULL: the program ends with STATUS before it
 * calls. */
static void expect_input(const char *const *words, const char *input, const char *expected, int status)
{
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    reply_with(s, 0, "", "", "", false);
    call(s, &r, input, words);
    assert_int_equal(r.status, status);
    if (expected) {
        assert_non_null(s->request);
        assert_int_equal(s->request->input.len, strlen(expected));
        assert_memory_equal(s->request->input.data, expected, strlen(expected));
        for (size_t i = 0; i < s->request->n_options; i++)
            assert_string_not_equal(s->request->options[i]->value, expected);
    } else {
        assert_false(s->called);
        assert_true(r.err.n > 0);
    }
    result_fini(&r);
    fake_node_free(s);
}

static void test_secrets(void **state)
{
    const char *const *add = WORDS("user", "add", "alice", "--password-stdin", "--name", "Alice");
    const char *const *set = WORDS("settings", "set", "axl.password");
    char *longest = mem_alloc(4099);
    memset(longest, 'x', 4098);
    longest[4098] = 0;
    expect_input(add, "s3cret word\n", "s3cret word", 0);
    expect_input(add, "s3cret\r\nnext line\n", "s3cret", 0);
    expect_input(add, "no newline", "no newline", 0);
    expect_input(add, "", NULL, 1);
    expect_input(add, "\n", NULL, 1);
    expect_input(add, longest, NULL, 1);
    expect_input(add, longest + 2, longest + 2, 0);
    expect_input(WORDS("user", "passwd", "alice", "--password-stdin"), "x\n", "x", 0);
    expect_input(set, "axlpassword\n", "axlpassword", 0);
    /* a certificate has several lines */
    expect_input(WORDS("settings", "set", "axl.ca"), "-----BEGIN\nabc\n-----END\n",
                 "-----BEGIN\nabc\n-----END", 0);
    expect_input(WORDS("settings", "set", "axl.user", "joe"), "left alone\n", "", 0);
    mem_free(longest);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_files(void **state)
{
    char dir[] = "/tmp/impcli-files-XXXXXX", a[64], b[64];
    assert_non_null(mkdtemp(dir));
    snprintf(a, sizeof a, "%s/a", dir);
    snprintf(b, sizeof b, "%s/b", dir);
    write_file(a, "first");
    write_file(b, "second\n");
    expect_input(WORDS("settings", "apply", a), NULL, "first", 0);
    expect_input(WORDS("settings", "diff", "-"), "a: b\n", "a: b\n", 0);
    expect_input(WORDS("user", "assign", "--file", a), NULL, "first", 0);
    expect_input(WORDS("user", "assign", "--file=-"), "x,n1\n", "x,n1\n", 0);
    expect_input(WORDS("user", "assign", "alice", "--node=n1"), "left alone", "", 0);
    expect_input(WORDS("cert", "import", "--domain=example.com", "--cert", a, "--key", b), NULL,
                 "first\nsecond\n", 0);
    expect_input(WORDS("settings", "apply", "/nonexistent/file"), NULL, NULL, 1);
    expect_input(WORDS("settings", "apply", dir), NULL, NULL, 1);
    assert_int_equal(truncate(a, 16 << 20), 0);
    expect_input(WORDS("user", "import", a), NULL, NULL, 1);
    unlink(a);
    unlink(b);
    rmdir(dir);
}

static void test_output_is_lost(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    reply_with(s, 0, "text\n", "", "", false);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    run_words(&r, s->path, NULL, "/dev/full", 0, WORDS("node", "list"));
    pthread_join(s->thread, NULL);
    assert_int_equal(r.status, 1);
    assert_says(r.err, "standard output");
    result_fini(&r);
    fake_node_free(s);
}

static void test_script(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct result r;
    const char *const none[] = {NULL};
    reply_with(s, 0, "", "[]", "", false);
    call(s, &r, "# a comment\n\nnode \"show\" \"a name\" --json\nexit\nnode nothing\n", none);
    assert_int_equal(r.status, 0);
    assert_string_equal(r.out.data, "[]\n");
    assert_string_equal(s->request->args[0], "a name");
    result_fini(&r);
    run_words(&r, s->path, "node \"show\n", NULL, 0, none);
    assert_int_equal(r.status, 2);
    assert_says(r.err, "quote");
    result_fini(&r);
    fake_node_free(s);
}

/* ---- at a terminal ---- */

static void wait_for_text(int fd, struct buf *seen, const char *text)
{
    while (!seen->data || !strstr(seen->data, text)) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        char chunk[512];
        assert_int_equal(poll(&p, 1, 20000), 1);
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n <= 0) {
            print_error("seen: %s\n", seen->data ? seen->data : "");
            fail_msg("the terminal ended before '%s'", text);
        }
        buf_add(seen, chunk, (size_t)n);
    }
}

static bool has_echo(int fd)
{
    struct termios t;
    assert_int_equal(tcgetattr(fd, &t), 0);
    return (t.c_lflag & ECHO) != 0;
}

static pid_t start_at_terminal(const struct fake_node *s, int *master, int *slave)
{
    const char *const argv[] = {IMPCLI, "--socket", s->path, "user", "passwd", "alice", NULL};
    assert_int_equal(openpty(master, slave, NULL, NULL, NULL), 0);
    fcntl(*master, F_SETFD, FD_CLOEXEC);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (login_tty(*slave) != 0)
            _exit(99);
        execv(IMPCLI, (char **)argv);
        _exit(98);
    }
    return pid;
}

static void type(int fd, const char *text)
{
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void test_typed_secret(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct buf seen = {0};
    int master, slave, status;
    reply_with(s, 0, "the password is set\n", "", "", false);
    assert_int_equal(pthread_create(&s->thread, NULL, serve, s), 0);
    pid_t pid = start_at_terminal(s, &master, &slave);
    wait_for_text(master, &seen, "Password: ");
    while (has_echo(slave))
        usleep(1000);
    type(master, "hidden\n");
    wait_for_text(master, &seen, "Password again: ");
    while (has_echo(slave))
        usleep(1000);
    type(master, "hidden\n");
    wait_for_text(master, &seen, "the password is set");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(decode(status), 0);
    pthread_join(s->thread, NULL);
    assert_memory_equal(s->request->input.data, "hidden", 6);
    assert_null(strstr(seen.data, "hidden"));
    assert_true(has_echo(slave));
    close(master);
    close(slave);
    buf_fini(&seen);
    fake_node_free(s);
}

/* ^C while the echo is off. */
static void test_interrupted_secret(void **state)
{
    struct fake_node *s = fake_node(ANSWER);
    struct buf seen = {0};
    int master, slave, status;
    pid_t pid = start_at_terminal(s, &master, &slave);
    wait_for_text(master, &seen, "Password: ");
    while (has_echo(slave))
        usleep(1000);
    type(master, "half\003");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(decode(status), 1000 + SIGINT);
    assert_true(has_echo(slave));
    assert_null(strstr(seen.data, "half"));
    close(master);
    close(slave);
    buf_fini(&seen);
    fake_node_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_done),
        cmocka_unit_test(test_option_forms),
        cmocka_unit_test(test_json_anywhere),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_usage),
        cmocka_unit_test(test_help_and_version),
        cmocka_unit_test(test_not_reachable),
        cmocka_unit_test(test_no_permission),
        cmocka_unit_test(test_node_ends),
        cmocka_unit_test(test_node_ends_before_it_has_read),
        cmocka_unit_test(test_refused_without_reading),
        cmocka_unit_test(test_several_answers),
        cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_output_is_lost),
        cmocka_unit_test(test_script),
        cmocka_unit_test(test_typed_secret),
        cmocka_unit_test(test_interrupted_secret),
    };
    alarm(50); /* a program that waits for ever fails the test with a signal */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
