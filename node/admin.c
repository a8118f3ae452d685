#include "node/admin.h"
#include "admin.pb-c.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/release.h"
#include "base/stream.h"
#include "node/admin_calls.h"
#include "node/admin_handlers.h"
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 64,
    REQUEST_TIMEOUT_MS = 10 * 1000, /* to send the request */
    CURRENT_TIMEOUT_MS = 5 * 1000,  /* an election is shorter */
    OUTPUT_HIGH = 4 << 20,
};

struct admin {
    struct admin_env env;
    struct log *log;
    struct listener *listener;
    struct list connections;
    unsigned n_connections;
    bool closed; /* freed with its last connection */
};

/* One front end: reading -> called -> answered -> closing. The call may outlive the stream (gone). Or a call
 * that another node handed on: no stream, an answer to its request. */
enum connection_state { READING, CALLED, ANSWERED };

struct admin_connection {
    struct list link;
    struct admin *admin;
    struct stream *stream;       /* NULL: gone, or handed on */
    struct link_request *remote; /* handed on by another node */
    admin_reply_fn *on_reply;    /* asked by this program itself */
    void *reply_user;
    enum connection_state state;
    struct buf in;
    Imp__AdminRequest *request;
    struct timer timeout;
    struct admin_call call;
};

static admin_handler_fn *const handlers[N_COMMANDS] = {
#define X(id, area, verb, args, options, input, access, help) [COMMAND_##id] = admin_##id,
#include "node/rpc/commands.def"
#undef X
};

static void connection_free(struct admin_connection *c)
{
    struct admin *a = c->admin;
    timer_stop(&c->timeout);
    list_remove(&c->link);
    a->n_connections--;
    if (c->in.data)
        mem_wipe(c->in.data, c->in.n);
    buf_fini(&c->in);
    if (c->request) {
        if (c->request->input.data)
            mem_wipe(c->request->input.data, c->request->input.len);
        imp__admin_request__free_unpacked(c->request, NULL);
    }
    arena_fini(&c->call.arena);
    mem_free(c);
    if (a->closed && a->n_connections == 0)
        mem_free(a);
}

/* ---- answers ---- */

static void pack_reply(struct buf *frame, Imp__AdminReply *m, bool with_length)
{
    size_t n = imp__admin_reply__get_packed_size(m);
    if (n > ADMIN_FRAME_MAX) {
        m->text.len = m->json.len = 0;
        m->status = 1;
        m->message = (char *)"the answer is larger than 16 MiB: ask for less";
        n = imp__admin_reply__get_packed_size(m);
    }
    if (with_length)
        buf_add_u32(frame, (uint32_t)n);
    buf_reserve(frame, n);
    frame->n += imp__admin_reply__pack(m, (uint8_t *)frame->data + frame->n);
}

static void send_reply(struct admin_connection *c, Imp__AdminReply *m)
{
    struct buf frame = {0};
    pack_reply(&frame, m, c->remote == NULL);
    if (c->remote)
        link_answer(c->remote, 0, frame.data, frame.n);
    else
        stream_write(c->stream, frame.data, frame.n);
    buf_fini(&frame);
}

/* The call's end: the answer goes out and the connection closes; without a front end it is freed here. */
static void finish(struct admin_call *call, Imp__AdminReply *m)
{
    struct admin_connection *c = call->connection;
    admin_audit_end(call, m->status ? m->message : "");
    if (!c->stream) {
        if (c->remote)
            send_reply(c, m);
        if (c->on_reply)
            c->on_reply(c->reply_user, m->status == 0, m->status ? m->message : "done");
        connection_free(c);
        return;
    }
    c->state = ANSWERED;
    call->on_gone = NULL;
    send_reply(c, m);
    stream_close(c->stream);
}

/* Only the form that the front end prints: a long list fits a frame twice as well. */
static void fill(const Imp__AdminRequest *request, Imp__AdminReply *m, json_t *json, struct buf *text,
                 char **dumped)
{
    bool wants_json = request->form != IMP__ADMIN_FORM__ADMIN_TEXT,
         wants_text = request->form != IMP__ADMIN_FORM__ADMIN_JSON;
    *dumped = json && wants_json ? json_dumps(json, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    if (*dumped) {
        m->json.data = (uint8_t *)*dumped;
        m->json.len = strlen(*dumped);
    }
    if (text && wants_text) {
        m->text.data = (uint8_t *)text->data;
        m->text.len = text->n;
    }
}

static void reply(struct admin_call *call, json_t *json, struct buf *text, bool more)
{
    Imp__AdminReply m = IMP__ADMIN_REPLY__INIT;
    char *dumped;
    fill(call->connection->request, &m, json, text, &dumped);
    m.more = more;
    struct buf old = text ? *text : (struct buf){0};
    if (text)
        *text = (struct buf){0};
    if (!more)
        finish(call, &m);
    else if (call->connection->stream && stream_queued(call->connection->stream) < OUTPUT_HIGH)
        send_reply(call->connection, &m);
    buf_fini(&old);
    free(dumped);
    json_decref(json);
}

void admin_reply(struct admin_call *call, json_t *json, struct buf *text)
{
    reply(call, json, text, false);
}

void admin_reply_more(struct admin_call *call, json_t *json, struct buf *text)
{
    reply(call, json, text, true);
}

void admin_send_part(struct admin_call *call, const struct admin_part *part)
{
    Imp__AdminReply m = IMP__ADMIN_REPLY__INIT;
    m.more = true;
    m.data = (ProtobufCBinaryData){part->n, (uint8_t *)part->data};
    m.done = part->done;
    m.total = part->total;
    if (call->connection->stream)
        send_reply(call->connection, &m);
}

size_t admin_queued(const struct admin_call *call)
{
    return call->connection->stream ? stream_queued(call->connection->stream) : 0;
}

void admin_done(struct admin_call *call, const char *format, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    struct buf text = {0};
    buf_addf(&text, "%s\n", line);
    admin_reply(call, json_pack("{s:s?}", "result", line), &text);
}

void admin_fail(struct admin_call *call, const char *format, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    Imp__AdminReply m = IMP__ADMIN_REPLY__INIT;
    m.status = 1;
    m.message = line;
    finish(call, &m);
}

/* ---- requests ---- */

static void on_request_timeout(struct timer *t)
{
    struct admin_connection *c = container_of(t, struct admin_connection, timeout);
    stream_abort(c->stream);
}

const char *admin_option(const struct admin_call *call, const char *name)
{
    const Imp__AdminRequest *m = call->connection->request;
    for (size_t i = 0; i < m->n_options; i++)
        if (strcmp(m->options[i]->name, name) == 0)
            return m->options[i]->value;
    return NULL;
}

static bool is_utf8(const char *s)
{
    json_t *o = json_string(s); /* NULL when it is not */
    json_decref(o);
    return o != NULL;
}

/* Words end up in answers, in the audit and in the log of all nodes. */
static bool words_are_utf8(const Imp__AdminRequest *m)
{
    bool good = is_utf8(m->area) && is_utf8(m->verb);
    for (size_t i = 0; i < m->n_args; i++)
        good &= is_utf8(m->args[i]);
    for (size_t i = 0; i < m->n_options; i++)
        good &= is_utf8(m->options[i]->name) && is_utf8(m->options[i]->value);
    return good;
}

/* --current: what was acknowledged anywhere before the question is applied here first. */
static void on_current(void *user, int code, uint64_t index)
{
    struct admin_call *call = user;
    const struct admin_env *env = call->env;
    if (call->connection->admin->closed) {
        admin_fail(call, "this node is stopping");
    } else if (code) {
        admin_fail(call,
                   "%s cannot know the current state: no majority of the voters answered within %d s; "
                   "without --current "
                   "it tells what it has",
                   env->node_name, CURRENT_TIMEOUT_MS / 1000);
    } else {
        if (store_reader_index(env->reader) < index)
            store_reader_reset(env->reader); /* the turn's snapshot is older */
        handlers[call->command - commands](call);
    }
}

static void ask_current(struct admin_call *call)
{
    const char *alone = admin_alone(call);
    if (alone)
        admin_fail(call, "%s and cannot know the current state; without --current it tells what it has",
                   alone);
    else
        replica_barrier(call->env->replica, call->env->loop, CURRENT_TIMEOUT_MS, on_current, call);
}

static void dispatch(struct admin_connection *c)
{
    struct admin_call *call = &c->call;
    Imp__AdminRequest *m = c->request;
    struct err_ctx err = {0};
    c->state = CALLED;
    call->env = &c->admin->env;
    call->connection = c;
    if (!words_are_utf8(m)) {
        admin_fail(call, "an argument is not UTF-8");
        return;
    }
    call->command = command_find(m->area, m->verb);
    if (!call->command) {
        admin_fail(call, "this node (release %s) knows no command '%s %s'", release_name(), m->area, m->verb);
        return;
    }
    const char **names = arena_alloc(&call->arena, (m->n_options + 1) * sizeof *names);
    for (size_t i = 0; i < m->n_options; i++)
        names[i] = m->options[i]->name;
    call->args = (const char *const *)m->args;
    call->n_args = (unsigned)m->n_args;
    call->input = (const char *)m->input.data;
    call->n_input = m->input.len;
    if (command_check(call->command, call->args, call->n_args, names, (unsigned)m->n_options, &err)) {
        admin_fail(call, "%s", err.text);
        return;
    }
    if (call->command->access == COMMAND_WRITE)
        log_info(c->admin->log, "%s (uid %u): %s %s", call->who, call->os_uid, call->command->area,
                 call->command->verb);
    if (admin_option(call, "current"))
        ask_current(call);
    else
        handlers[call->command - commands](call);
}

/* ---- calls between nodes ---- */

static struct admin_connection *connection_new(struct admin *a)
{
    struct admin_connection *c = mem_new(struct admin_connection);
    c->admin = a;
    list_append(&a->connections, &c->link);
    a->n_connections++;
    arena_init(&c->call.arena);
    timer_init(&c->timeout, a->env.loop, on_request_timeout);
    return c;
}

static void on_handed_on(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                         size_t n_bytes)
{
    struct admin *a = user;
    Imp__AdminRequest *m = imp__admin_request__unpack(NULL, n_bytes, data);
    if (!m) {
        link_answer(request, ERR_MALFORMED, NULL, 0);
        return;
    }
    struct admin_connection *c = connection_new(a);
    c->remote = request;
    c->request = m;
    c->call.os_uid = m->os_uid;
    snprintf(c->call.who, sizeof c->call.who, "%s", m->who);
    dispatch(c);
}

void admin_run(struct admin *a, const Imp__AdminRequest *request, const char *who, admin_reply_fn *on_reply,
               void *user)
{
    size_t n = imp__admin_request__get_packed_size(request);
    uint8_t *bytes = mem_alloc(n + 1);
    imp__admin_request__pack(request, bytes);
    struct admin_connection *c = connection_new(a);
    c->request = imp__admin_request__unpack(NULL, n, bytes);
    mem_wipe(bytes, n);
    mem_free(bytes);
    c->on_reply = on_reply;
    c->reply_user = user;
    snprintf(c->call.who, sizeof c->call.who, "%s", who);
    dispatch(c);
}

static void on_forward_reply(void *user, int code, const uint8_t *data, size_t n_bytes)
{
    struct admin_call *call = user;
    Imp__AdminReply *m = code == 0 ? imp__admin_reply__unpack(NULL, n_bytes, data) : NULL;
    if (m) {
        call->is_audited = true;
        finish(call, m);
        imp__admin_reply__free_unpacked(m, NULL);
    } else if (call->command->access == COMMAND_WRITE && (code == ERR_TIMEOUT || code == ERR_UNAVAILABLE)) {
        admin_fail(call,
                   "outcome unknown: no answer from the other node; look at the state before you repeat");
    } else {
        admin_fail(call, "the other node cannot be asked: %s", err_text(code ? code : ERR_MALFORMED));
    }
}

enum { FORWARD_TIMEOUT_MS = 30 * 1000 };

void admin_forward(struct admin_call *call, uint32_t node)
{
    Imp__AdminRequest *m = call->connection->request;
    if (call->connection->remote) {
        admin_fail(call, "the roles are moving at this moment: try again");
        return;
    }
    if (!links_can_call(call->env->links, node)) {
        admin_fail(call, "%s does this, but it cannot be reached from here now", admin_node_name(call, node));
        return;
    }
    char *old = m->who;
    m->who = call->who;
    m->os_uid = call->os_uid;
    size_t n = imp__admin_request__get_packed_size(m);
    uint8_t *body = mem_alloc(n + 1);
    imp__admin_request__pack(m, body);
    m->who = old;
    link_call(call->env->links, node, "admin", body, n, FORWARD_TIMEOUT_MS, on_forward_reply, call);
    mem_wipe(body, n);
    mem_free(body);
}

static void on_data(void *user, const uint8_t *data, size_t n)
{
    struct admin_connection *c = user;
    if (c->state != READING)
        return; /* nothing more is expected; a front end that leaves shows as close */
    buf_add(&c->in, data, n);
    if (c->in.n < 4)
        return;
    struct reader r;
    reader_init(&r, c->in.data, c->in.n);
    uint32_t size = read_u32(&r);
    if (size > ADMIN_FRAME_MAX) {
        stream_abort(c->stream);
        return;
    }
    if (reader_left(&r) < size)
        return;
    c->request = imp__admin_request__unpack(NULL, size, r.p);
    timer_stop(&c->timeout);
    mem_wipe(c->in.data, c->in.n);
    buf_fini(&c->in);
    c->in = (struct buf){0};
    if (!c->request)
        stream_abort(c->stream);
    else
        dispatch(c);
}

static void on_close(void *user, int code, const char *detail)
{
    struct admin_connection *c = user;
    c->stream = NULL;
    if (c->state != CALLED) {
        connection_free(c);
        return;
    }
    if (c->call.on_gone)
        c->call.on_gone(&c->call);
}

static const struct stream_events stream_events = {.on_data = on_data, .on_close = on_close};

/* Root, the service user, or a member of group imp-admin. */
static bool is_allowed(uid_t uid, gid_t gid)
{
    if (uid == 0 || uid == geteuid())
        return true;
    struct group group, *found = NULL;
    char space[65536]; /* a group with many members */
    if (getgrnam_r("imp-admin", &group, space, sizeof space, &found) || !found)
        return false;
    if (gid == group.gr_gid)
        return true;
    struct passwd pw, *who = NULL;
    char pw_space[4096];
    if (getpwuid_r(uid, &pw, pw_space, sizeof pw_space, &who) || !who)
        return false;
    for (char **m = group.gr_mem; *m; m++)
        if (strcmp(*m, who->pw_name) == 0)
            return true;
    return false;
}

static void name_of(uid_t uid, char *out, size_t size)
{
    struct passwd pw, *who = NULL;
    char space[4096];
    if (getpwuid_r(uid, &pw, space, sizeof space, &who) == 0 && who)
        snprintf(out, size, "%s", who->pw_name);
    else
        snprintf(out, size, "uid %u", (unsigned)uid);
}

/* Says why and ends it; the few bytes fit the socket's buffer. */
static void refuse(struct admin *a, int fd, const char *text)
{
    Imp__AdminReply m = IMP__ADMIN_REPLY__INIT;
    struct buf frame = {0};
    m.status = 1;
    m.message = (char *)text;
    pack_reply(&frame, &m, true);
    if (send(fd, frame.data, frame.n, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_debug(a->log, "a refused caller cannot be told: %s", strerror(errno));
    log_warning(a->log, "admin connection refused: %s", text);
    buf_fini(&frame);
    close(fd);
}

static void on_accept(void *user, int fd)
{
    struct admin *a = user;
    struct ucred cred;
    socklen_t n = sizeof cred;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &n) != 0 || !is_allowed(cred.uid, cred.gid)) {
        refuse(a, fd,
               "no right to administer this node: root, its service user and members of group imp-admin may");
        return;
    }
    if (a->n_connections >= MAX_CONNECTIONS) {
        refuse(a, fd, "too many administrative calls are under way on this node: try again");
        return;
    }
    struct admin_connection *c = connection_new(a);
    c->call.os_uid = cred.uid;
    name_of(cred.uid, c->call.who, sizeof c->call.who);
    c->stream = stream_new(a->env.loop, fd, &stream_events, c);
    timer_start(&c->timeout, REQUEST_TIMEOUT_MS, 0);
}

int admin_open(struct admin **out, const struct admin_env *env, struct err_ctx *err)
{
    struct admin *a = mem_new(struct admin);
    char path[256];
    a->env = *env;
    a->env.opened_ms = clock_monotonic_ms();
    a->log = log_category(env->log_root, "admin");
    list_init(&a->connections);
    snprintf(path, sizeof path, "%s/admin.sock", env->data_dir);
    int rv = listener_open_unix(&a->listener, env->loop, path, 0660, on_accept, a, err);
    if (rv) {
        mem_free(a);
        return rv;
    }
    links_handle_call(env->links, "admin", on_handed_on, a);
    admin_calls_register(&a->env);
    /* the group may pass through the directory, not list it; its files stay the owner's */
    struct group *group = getgrnam("imp-admin");
    if (group && (chown(path, (uid_t)-1, group->gr_gid) != 0 ||
                  chown(env->data_dir, (uid_t)-1, group->gr_gid) != 0 || chmod(env->data_dir, 0710) != 0))
        log_warning(a->log, "cannot open %s to group imp-admin: %s", path, strerror(errno));
    *out = a;
    return 0;
}

void admin_close(struct admin *a)
{
    if (!a)
        return;
    listener_close(a->listener);
    struct admin_connection *c;
    list_for_each(c, &a->connections, struct admin_connection, link)
    {
        if (c->stream)
            stream_abort(c->stream);
    }
    a->closed = true;
    if (a->n_connections == 0)
        mem_free(a);
}
