#include "cli/client.h"
#include "admin.pb-c.h"
#include "base/buf.h"
#include "base/mem.h"
#include "base/release.h"
#include "cli/backup.h"
#include "cli/input.h"
#include "node/rpc/command.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { MAX_ARGS = 4096, MAX_OPTIONS = 16, INPUT_BYTES_MAX = ADMIN_FRAME_MAX - 65536 };

struct parsed {
    const struct command *command;
    const char *args[MAX_ARGS];
    unsigned n_args;
    const char *option_names[MAX_OPTIONS], *option_values[MAX_OPTIONS];
    unsigned n_options;
    char *heap[MAX_OPTIONS + 1];
    unsigned n_heap;
};

static int usage(const char *text)
{
    fprintf(stderr, "impcli: %s\n", text);
    return CLIENT_USAGE;
}

static int print_help(const char *area, const char *verb)
{
    struct buf out = {0};
    command_help(&out, "impcli", area, verb);
    fputs(out.data, stdout);
    buf_fini(&out);
    return CLIENT_DONE;
}

static bool is_help(const char *s)
{
    return strcmp(s, "--help") == 0 || strcmp(s, "-h") == 0;
}

static const char *option(const struct parsed *p, const char *name)
{
    for (unsigned i = 0; i < p->n_options; i++)
        if (strcmp(p->option_names[i], name) == 0)
            return p->option_values[i];
    return NULL;
}

/* "--name=value", "--name value" or a switch. Returns how many words were used, 0 on a usage error. */
static int parse_option(struct parsed *p, int argc, char **argv, int i, struct err_ctx *err)
{
    const char *word = argv[i] + 2;
    size_t n = strcspn(word, "=");
    if (p->n_options == MAX_OPTIONS) {
        err_set(err, ERR_INVALID, "too many options");
        return 0;
    }
    char *name = mem_strndup(word, n);
    p->heap[p->n_heap++] = name;
    int takes = command_option_takes_value(p->command, name);
    if (takes < 0)
        err_set(err, ERR_INVALID, "%s %s: unknown option --%s", p->command->area, p->command->verb, name);
    else if (option(p, name))
        err_set(err, ERR_INVALID, "option --%s is given twice", name);
    else if (!takes && word[n] == '=')
        err_set(err, ERR_INVALID, "option --%s takes no value", name);
    else if (takes && word[n] != '=' && i + 1 == argc)
        err_set(err, ERR_INVALID, "option --%s needs a value", name);
    if (err->code)
        return 0;
    bool next = takes && word[n] != '=';
    p->option_names[p->n_options] = name;
    p->option_values[p->n_options++] = next ? argv[i + 1] : word[n] == '=' ? word + n + 1 : "";
    return next ? 2 : 1;
}

/* What the command's input needs of the options. */
static int check_input(const struct parsed *p, struct err_ctx *err)
{
    switch (p->command->input) {
    case COMMAND_INPUT_CERT_FILES:
        if (!option(p, "cert") || !option(p, "key") || !option(p, "domain"))
            return err_set(err, ERR_INVALID, "cert import needs --domain, --cert and --key");
        return 0;
    case COMMAND_INPUT_PASSPHRASE:
        if (!option(p, "passphrase-stdin") && !option(p, "without-keys") && !input_is_terminal())
            return err_set(err, ERR_INVALID,
                           "standard input is no terminal: --passphrase-stdin reads the passphrase from it, "
                           "--without-keys "
                           "leaves the cluster key out");
        return 0;
    case COMMAND_INPUT_STDIN:
        /* so that a script's own input is never taken for a password by mistake */
        if (command_option_takes_value(p->command, "password-stdin") >= 0 && !option(p, "password-stdin") &&
            !input_is_terminal())
            return err_set(err, ERR_INVALID,
                           "standard input is no terminal: --password-stdin reads the password from it");
        return 0;
    default:
        return 0;
    }
}

static int parse(struct parsed *p, int argc, char **argv, struct err_ctx *err)
{
    bool only_args = false;
    for (int i = *p->command->verb ? 2 : 1; i < argc;) {
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
            i++;
        } else if (!only_args && strncmp(argv[i], "--", 2) == 0 && argv[i][2] != '-') {
            int used = parse_option(p, argc, argv, i, err);
            if (used == 0)
                return err->code;
            i += used;
        } else {
            if (p->n_args == MAX_ARGS)
                return err_set(err, ERR_INVALID, "too many arguments (%d at most)", MAX_ARGS);
            p->args[p->n_args++] = argv[i++];
        }
    }
    int rv = command_check(p->command, p->args, p->n_args, p->option_names, p->n_options, err);
    return rv ? rv : check_input(p, err);
}

static int collect_input(const struct parsed *p, struct buf *out, struct err_ctx *err)
{
    switch (p->command->input) {
    case COMMAND_INPUT_PASSPHRASE:
        return option(p, "without-keys") ? 0 : input_read_secret(out, "Passphrase", true, err);
    case COMMAND_INPUT_NONE:
        return 0;
    case COMMAND_INPUT_FILE:
        return input_read_file(out, p->args[0], INPUT_BYTES_MAX, err);
    case COMMAND_INPUT_FILE_OPTION:
        return option(p, "file") ? input_read_file(out, option(p, "file"), INPUT_BYTES_MAX, err) : 0;
    case COMMAND_INPUT_CERT_FILES: {
        int rv = input_read_file(out, option(p, "cert"), INPUT_BYTES_MAX, err);
        input_add(out, "\n", 1);
        return rv ? rv : input_read_file(out, option(p, "key"), INPUT_BYTES_MAX, err);
    }
    case COMMAND_INPUT_STDIN:
        if (strcmp(p->command->area, "settings") != 0)
            return input_read_secret(out, "Password", true, err);
        /* "settings set KEY VALUE" has its value already; a piped one may have several lines (a certificate)
         */
        if (p->n_args == 2)
            return 0;
        return input_is_terminal() ? input_read_secret(out, "Value", true, err)
                                   : input_read_value(out, INPUT_BYTES_MAX, err);
    }
    return 0;
}

/* ---- the exchange ---- */

static int connect_node(const struct client *c, struct err_ctx *err)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    memcpy(sa.sun_path, c->socket_path, sizeof sa.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, ERR_SYSTEM, "cannot make a socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0)
        return fd;
    int e = errno;
    close(fd);
    if (e == EACCES)
        return err_set(err, ERR_DENIED,
                       "no access to %s: run as root, as the service user, or as a member of group imp-admin",
                       c->socket_path);
    return err_set(err, ERR_UNAVAILABLE, "no node answers at %s (%s): is impnode running? see --data",
                   c->socket_path, strerror(e));
}

static bool write_all(int fd, const void *data, size_t n)
{
    for (const char *p = data; n;) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

static bool read_all(int fd, void *data, size_t n)
{
    for (char *p = data; n;) {
        ssize_t k = read(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

/* FRAME: length and packed request. ERR_LIMIT when a node would not take it. */
static int pack_request(struct buf *frame, const struct client *c, const struct parsed *p,
                        const struct buf *input, struct err_ctx *err)
{
    Imp__AdminRequest m = IMP__ADMIN_REQUEST__INIT;
    Imp__AdminOption options[MAX_OPTIONS], *option_list[MAX_OPTIONS];
    m.area = (char *)p->command->area;
    m.verb = (char *)p->command->verb;
    m.n_args = p->n_args;
    m.args = (char **)p->args;
    m.release = (char *)release_name();
    m.form = c->json ? IMP__ADMIN_FORM__ADMIN_JSON : IMP__ADMIN_FORM__ADMIN_TEXT;
    for (unsigned i = 0; i < p->n_options; i++) {
        imp__admin_option__init(&options[i]);
        options[i].name = (char *)p->option_names[i];
        options[i].value = (char *)p->option_values[i];
        option_list[i] = &options[i];
    }
    m.n_options = p->n_options;
    m.options = option_list;
    m.input.data = (uint8_t *)input->data;
    m.input.len = input->n;
    size_t n = imp__admin_request__get_packed_size(&m);
    if (n > ADMIN_FRAME_MAX)
        return err_set(err, ERR_LIMIT, "arguments and input are larger than %d MiB together",
                       ADMIN_FRAME_MAX >> 20);
    buf_reserve(frame, n + 4);
    buf_add_u32(frame, (uint32_t)n);
    frame->n += imp__admin_request__pack(&m, (uint8_t *)frame->data + frame->n);
    return 0;
}

/* NULL when the node is gone or talks nonsense. */
static Imp__AdminReply *read_reply(int fd)
{
    uint8_t head[4];
    if (!read_all(fd, head, sizeof head))
        return NULL;
    struct reader r;
    reader_init(&r, head, sizeof head);
    uint32_t n = read_u32(&r);
    if (n > ADMIN_FRAME_MAX)
        return NULL;
    uint8_t *body = mem_alloc(n + 1);
    Imp__AdminReply *reply = NULL;
    if (read_all(fd, body, n))
        reply = imp__admin_reply__unpack(NULL, n, body);
    mem_free(body);
    return reply;
}

/* A piece of the file, or only progress. */
static int take_part(struct backup_file *f, const Imp__AdminReply *reply, struct err_ctx *err)
{
    int rc = backup_file_write(f, reply->data.data, reply->data.len, err);
    backup_file_progress(f, reply->done, reply->total);
    return rc;
}

static void print_reply(const struct client *c, const Imp__AdminReply *reply)
{
    const ProtobufCBinaryData *out = c->json ? &reply->json : &reply->text;
    if (reply->more && c->tty && !c->json)
        fputs("\033[H\033[2J", stdout); /* each picture replaces the one before */
    if (out->len) {
        fwrite(out->data, 1, out->len, stdout);
        if (out->data[out->len - 1] != '\n')
            fputc('\n', stdout);
        fflush(stdout);
    }
    if (reply->message && *reply->message)
        fprintf(stderr, "impcli: %s\n", reply->message);
}

/* After the request: answers until the last one. Returns an exit status, -1 when the connection ended before
 * it. */
static int read_replies(const struct client *c, int fd)
{
    for (;;) {
        Imp__AdminReply *reply = read_reply(fd);
        if (!reply)
            return -1;
        print_reply(c, reply);
        bool more = reply->more;
        int status = reply->status == 0 ? CLIENT_DONE : CLIENT_REFUSED;
        imp__admin_reply__free_unpacked(reply, NULL);
        if (!more)
            return status;
    }
}

/* Pieces of a file until the last answer, which is printed only when the file is there, complete. */
static int receive_file(const struct client *c, int fd, struct backup_file *f)
{
    struct err_ctx err = {0};
    Imp__AdminReply *reply;
    while ((reply = read_reply(fd)) && reply->more && !take_part(f, reply, &err)) {
        imp__admin_reply__free_unpacked(reply, NULL);
    }
    bool whole = reply && !reply->more && reply->status == 0;
    int status = whole ? CLIENT_DONE : CLIENT_REFUSED;
    if (backup_file_close(f, whole, &err))
        status = CLIENT_REFUSED;
    if (err.code)
        fprintf(stderr, "impcli: %s\n", err.text);
    else if (reply)
        print_reply(c, reply);
    else
        fputs("impcli: the node ended before the backup was complete; nothing was written\n", stderr);
    if (reply)
        imp__admin_reply__free_unpacked(reply, NULL);
    return status;
}

static int exchange(const struct client *c, const struct parsed *p, const struct buf *input,
                    struct backup_file *file)
{
    struct err_ctx err = {0};
    struct buf frame = {0};
    if (pack_request(&frame, c, p, input, &err)) {
        fprintf(stderr, "impcli: %s\n", err.text);
        return CLIENT_REFUSED;
    }
    int fd = connect_node(c, &err);
    if (fd < 0) {
        input_fini(&frame);
        fprintf(stderr, "impcli: %s\n", err.text);
        return fd == ERR_DENIED ? CLIENT_REFUSED : CLIENT_UNREACHABLE;
    }
    bool sent = write_all(fd, frame.data, frame.n);
    input_fini(&frame);
    if (file) {
        int rc = receive_file(c, fd, file);
        close(fd);
        file->fd = -1;
        return rc;
    }
    /* also when it could not be sent: a node that refuses a caller says so and closes without reading */
    int status = read_replies(c, fd);
    close(fd);
    if (status >= 0)
        return status;
    if (sent && p->command->access == COMMAND_WRITE) {
        fputs("impcli: outcome unknown: the node ended before it answered; look at the state before you "
              "repeat\n",
              stderr);
        return CLIENT_REFUSED;
    }
    fputs("impcli: the node ended the connection without an answer\n", stderr);
    return CLIENT_UNREACHABLE;
}

/* Takes "--json" out of the words before "--". Returns how many are left. */
static int take_json(struct client *c, int argc, char **argv, char **words)
{
    int n = 0;
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        only_args |= strcmp(argv[i], "--") == 0;
        if (!only_args && strcmp(argv[i], "--json") == 0)
            c->json = true;
        else
            words[n++] = argv[i];
    }
    return n;
}

static int run(const struct client *c, int argc, char **argv)
{
    struct err_ctx err = {0};
    if (argc == 0 || is_help(argv[0]))
        return print_help(NULL, NULL);
    if (!command_area_exists(argv[0])) {
        fprintf(stderr, "impcli: unknown area '%s'; impcli --help lists them\n", argv[0]);
        return CLIENT_USAGE;
    }
    if (argc > 1 && is_help(argv[1]))
        return print_help(argv[0], NULL);
    struct parsed p = {.command = command_find(argv[0], "")};
    if (argc < 2 && !p.command) {
        print_help(argv[0], NULL);
        return CLIENT_USAGE;
    }
    if (!p.command)
        p.command = command_find(argv[0], argv[1]);
    if (!p.command) {
        fprintf(stderr, "impcli: unknown verb '%s %s'; impcli %s --help lists them\n", argv[0], argv[1],
                argv[0]);
        return CLIENT_USAGE;
    }
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (is_help(argv[i]))
            return print_help(argv[0], p.command->verb);
    struct buf input = {0};
    struct backup_file file = {.fd = -1};
    bool writes_file = p.command == &commands[COMMAND_backup];
    int status;
    if (parse(&p, argc, argv, &err)) {
        status = usage(err.text);
    } else if ((writes_file && backup_file_open(&file, p.args[0], &err)) || collect_input(&p, &input, &err)) {
        fprintf(stderr, "impcli: %s\n", err.text);
        status = CLIENT_REFUSED;
    } else {
        status = exchange(c, &p, &input, writes_file ? &file : NULL);
    }
    if (file.fd >= 0)
        backup_file_close(&file, false, &err);
    input_fini(&input);
    for (unsigned i = 0; i < p.n_heap; i++)
        mem_free(p.heap[i]);
    return status;
}

int client_run(const struct client *c, int argc, char **argv)
{
    struct client own = *c;
    char **words = mem_calloc((size_t)argc + 1, sizeof *words);
    int n = take_json(&own, argc, argv, words);
    int status = run(&own, n, words);
    mem_free(words);
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == CLIENT_DONE) {
        fputs("impcli: cannot write to standard output\n", stderr);
        status = CLIENT_REFUSED;
    }
    return status;
}
