/* The admin server over its socket, on a real store, with a replica, links and sessions that the test plays.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "admin.pb-c.h"
#include "replication/levels.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cluster/seal.h"
#include "im/session_admin.h"
#include "node/repair.h"
#include "node/admin.h"
#include "node/service.h"
#include "node/sync_agent.h"
#include "node/watcher.h"
#include "store_test.h"
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- what the node would be ---- */

struct fake {
    char *dir;
    struct log *log;
    struct loop *loop;
    struct store *store;
    struct seal_ring ring;
    struct watcher watcher;
    struct admin_env env;
    struct admin *admin;
    /* answers of the fakes; changed only while no call is under way */
    int submit_code, result_code;
    const char *result_text;
    uint64_t result_value[4];
    bool other_node_answers, alone;
    int barrier_code;
    /* what they saw */
    unsigned n_barriers;
    struct buf commands[8];
    unsigned n_commands;
    unsigned n_notes; /* audit records of calls that were refused before anything was proposed */
    char note[1024];  /* the result in the last */
};
static struct fake *fake; /* the functions below replace those of lower layers and have no pointer of ours */

struct done_letter {
    struct letter letter;
    proposal_done_fn *on_done;
    void *user;
    struct proposal_result result;
};

static void deliver_done(struct letter *letter)
{
    struct done_letter *d = container_of(letter, struct done_letter, letter);
    d->on_done(d->user, &d->result);
    mem_free(d);
}

int proposal_submit(struct replica *r, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                    proposal_done_fn *on_done, void *user)
{
    if (fake->submit_code)
        return fake->submit_code;
    if (command->body_case == IMP__COMMAND__BODY_NOTE && *command->note->result) {
        fake->n_notes++;
        snprintf(fake->note, sizeof(fake->note), "%s", command->note->result);
        assert_non_null(command->audited);
        struct done_letter *d = mem_new(struct done_letter);
        *d = (struct done_letter){.letter.deliver = deliver_done, .on_done = on_done, .user = user};
        loop_post(loop, &d->letter);
        return 0;
    }
    struct buf *b = &fake->commands[fake->n_commands % n_elements(fake->commands)];
    size_t n = imp__command__get_packed_size(command);
    buf_reset(b);
    buf_reserve(b, n);
    b->n = imp__command__pack(command, (uint8_t *)b->data);
    struct done_letter *d = mem_new(struct done_letter);
    d->letter.deliver = deliver_done;
    d->on_done = on_done;
    d->user = user;
    d->result = (struct proposal_result){.code = fake->result_code,
                                         .index = 7,
                                         .value = fake->result_value[fake->n_commands % 4],
                                         .text = fake->result_text};
    fake->n_commands++;
    loop_post(loop, &d->letter);
    return 0;
}

void replica_install_text(const struct replica_status *status, char *out, size_t size)
{
    snprintf(out, size, "some of it");
}
unsigned replica_level(const struct replica *r)
{
    return level_known();
}
void replica_get_status(struct replica *r, struct replica_status *out)
{
    *out = (struct replica_status){.role = REPLICA_LEADER,
                                   .member = REPLICA_VOTER,
                                   .leader = 1,
                                   .term = 3,
                                   .commit_index = 40,
                                   .applied_index = 40,
                                   .n_peers = 1,
                                   .n_voters = 2,
                                   .quorum = true};
    out->peers[0] = (struct replica_peer){.node = 2, .member = REPLICA_VOTER};
}
void replica_transfer(struct replica *r, uint32_t to, struct loop *loop,
                      void (*on_done)(void *, int, const char *), void *user)
{
    on_done(user, ERR_TIMEOUT, "");
}
int replica_view(struct replica *r, uint64_t index, struct store_view **out)
{
    return ERR_NOTFOUND;
}
bool repair_allow(struct repair *p, uint32_t node)
{
    return false;
}
void replica_take_copy(struct replica *r)
{
}
int replica_table_hashes(struct replica *r, uint64_t index, struct store_hash hashes[N_TABLES],
                         uint64_t n_rows[N_TABLES])
{
    memset(hashes, 0, N_TABLES * sizeof *hashes);
    memset(n_rows, 0, N_TABLES * sizeof *n_rows);
    return index == 7 ? 0 : ERR_NOTFOUND;
}

struct call_letter {
    struct letter letter;
    link_reply_fn *on_reply;
    void *user;
    char method[16];
};
static void deliver_call(struct letter *letter)
{
    struct call_letter *c = container_of(letter, struct call_letter, letter);
    const char *text =
        strcmp(c->method, "services") == 0 ? "[]" : "{\"applied\":39,\"established\":true,\"member\":true}";
    if (fake->other_node_answers)
        c->on_reply(c->user, 0, (const uint8_t *)text, strlen(text));
    else
        c->on_reply(c->user, ERR_UNAVAILABLE, NULL, 0);
    mem_free(c);
}
void link_call(struct links *l, uint32_t node, const char *method, const void *data, size_t n_bytes,
               unsigned timeout_ms, link_reply_fn *on_reply, void *user)
{
    struct call_letter *c = mem_new(struct call_letter);
    c->letter.deliver = deliver_call;
    c->on_reply = on_reply;
    c->user = user;
    snprintf(c->method, sizeof c->method, "%s", method);
    loop_post(fake->loop, &c->letter);
}
void links_handle_call(struct links *l, const char *method, link_call_fn *fn, void *user)
{
}
bool links_can_call(const struct links *l, uint32_t node)
{
    return false;
}
void link_answer(struct link_request *request, int code, const void *data, size_t n_bytes)
{
    fail_msg("nobody has asked over a link");
}
void session_admin_list(struct im *im, uint64_t uid, size_t max, struct loop *loop, session_list_fn *on_list,
                        void *user)
{
    struct session_info info = {
        .uid = 11, .resource = "tablet", .address = "192.0.2.9", .mechanism = "PLAIN", .tls = true};
    on_list(user, &info, uid == 0 || uid == 11 ? 1 : 0, false);
}
void session_admin_kick(struct im *im, uint64_t uid, const char *resource, struct loop *loop,
                        session_kick_fn *on_done, void *user)
{
    on_done(user, resource && strcmp(resource, "tablet") != 0 ? 0 : 1);
}
void sync_agent_get_status(const struct sync_agent *a, struct sync_status *out)
{
    *out = (struct sync_status){.state = SYNC_IDLE};
}
int sync_agent_run_now(struct sync_agent *a, bool full, struct err_ctx *err)
{
    return err_set(err, ERR_UNAVAILABLE, "sync is off");
}
int sync_agent_hold(struct sync_agent *a, struct err_ctx *err)
{
    return 0;
}
const char *sync_state_text(enum sync_state state)
{
    return "idle";
}
const char *sync_feed_text(enum sync_feed feed)
{
    return "ok";
}

/* ---- the store ---- */

static void put(struct store_txn *t, enum table table, const struct key *k, const void *row)
{
    store_put_row(t, table, k, row);
}

struct barrier_letter {
    struct letter letter;
    void (*on_done)(void *user, int code, uint64_t index);
    void *user;
};
static void deliver_barrier(struct letter *letter)
{
    struct barrier_letter *b = container_of(letter, struct barrier_letter, letter);
    b->on_done(b->user, fake->barrier_code, 40);
    mem_free(b);
}
void replica_barrier(struct replica *r, struct loop *loop, unsigned timeout_ms,
                     void (*on_done)(void *user, int code, uint64_t index), void *user)
{
    struct barrier_letter *b = mem_new(struct barrier_letter);
    *b = (struct barrier_letter){{.deliver = deliver_barrier}, on_done, user};
    fake->n_barriers++;
    loop_post(loop, &b->letter);
}

static void put_node(struct store_txn *t, uint32_t id, const char *name)
{
    Imp__NodeRow row = IMP__NODE_ROW__INIT;
    Imp__IdRow by_name = IMP__ID_ROW__INIT;
    struct key k;
    row.id = id;
    row.name = (char *)name;
    row.address = (char *)"192.0.2.1";
    row.state = IMP__NODE_STATE__NODE_MEMBER;
    row.up = true;
    key_init(&k);
    key_u32(&k, id);
    put(t, TABLE_NODE, &k, &row);
    by_name.id = id;
    key_init(&k);
    key_str(&k, name);
    put(t, TABLE_NODE_BY_NAME, &k, &by_name);
}

static void put_user(struct store_txn *t, uint64_t uid, const char *localpart, const char *display_name)
{
    Imp__UserRow row = IMP__USER_ROW__INIT;
    Imp__IdRow by_jid = IMP__ID_ROW__INIT;
    struct key k;
    row.uid = uid;
    row.domain = 1;
    row.localpart = (char *)localpart;
    row.display_name = (char *)display_name;
    row.home = 1 + uid % 2;
    row.assigned_by = IMP__ASSIGNED_BY__ASSIGNED_BALANCED;
    key_init(&k);
    key_u64(&k, uid);
    put(t, TABLE_USER, &k, &row);
    by_jid.id = uid;
    key_init(&k);
    key_u32(&k, 1);
    key_str(&k, localpart);
    put(t, TABLE_USER_BY_JID, &k, &by_jid);
}

enum { N_USERS = 2500 };

static void fill_store(struct store *s)
{
    struct store_txn *t = store_begin(s);
    Imp__ClusterRow cluster = IMP__CLUSTER_ROW__INIT;
    Imp__DomainRow domain = IMP__DOMAIN_ROW__INIT;
    Imp__AlarmRow alarm = IMP__ALARM_ROW__INIT;
    Imp__CountRow count = IMP__COUNT_ROW__INIT;
    struct err_ctx err = {0};
    struct key k;
    key_init(&k);
    cluster.publisher = 1;
    cluster.default_domain = (char *)"example.com";
    put(t, TABLE_CLUSTER, &k, &cluster);
    key_init(&k);
    key_str(&k, "example.com");
    domain.id = 1;
    domain.domain = (char *)"example.com";
    put(t, TABLE_DOMAIN, &k, &domain);
    put_node(t, 1, "n1");
    put_node(t, 2, "n2");
    put_user(t, 11, "jos\xc3\xa9", "Jos\xc3\xa9 P\xc3\xa9rez");
    put_user(t, 12, "bob", "Bob");
    for (uint64_t i = 0; i < N_USERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "u%04d", (int)i);
        put_user(t, 100 + i, name, "");
    }
    key_init(&k);
    key_u32(&k, 2);
    count.n = 9;
    put(t, TABLE_HOME_COUNT, &k, &count);
    alarm.id = 5;
    alarm.name = (char *)"NodeDown";
    alarm.severity = 1;
    alarm.node = 2;
    alarm.raised_ms = 1000;
    alarm.text = (char *)"first line\nsecond line";
    key_init(&k);
    key_u64(&k, 5);
    put(t, TABLE_ALARM, &k, &alarm);
    assert_int_equal(store_commit(t, &err), 0);
}

static int start(void **state)
{
    struct fake *f = fake = mem_new(struct fake);
    struct err_ctx err = {0};
    char path[200];
    f->dir = test_dir();
    f->result_text = "";
    f->log = log_new(2, LOG_TEXT, LOG_ERROR, "n1");
    assert_int_equal(loop_new(&f->loop, "control", f->log), 0);
    snprintf(path, sizeof path, "%s/store", f->dir);
    struct store_options o = {.dir = path, .log = f->log, .map_bytes = 64 << 20};
    assert_int_equal(store_open(&f->store, &o, &err), 0);
    fill_store(f->store);
    seal_ring_init_random(&f->ring);
    watcher_init(&f->watcher, 0);
    f->watcher.state = WATCHER_RELEASED;
    f->env = (struct admin_env){.loop = f->loop,
                                .log_root = f->log,
                                .reader = store_reader_new(f->store),
                                .seal = &f->ring,
                                .services = services_new(f->log),
                                .watcher = &f->watcher,
                                .sync = (struct sync_agent *)1, /* only handed to the fakes */
                                .node_id = 1,
                                .node_name = "n1",
                                .alone = &f->alone,
                                .ca_fingerprint = (const uint8_t *)"the hash of a certificate, 32 B.",
                                .data_dir = f->dir};
    assert_int_equal(admin_open(&f->admin, &f->env, &err), 0);
    assert_int_equal(loop_start_thread(f->loop), 0);
    return 0;
}

static int stop(void **state)
{
    struct fake *f = fake;
    loop_stop(f->loop);
    loop_join_thread(f->loop);
    admin_close(f->admin);
    loop_free(f->loop);
    services_free((struct services *)f->env.services);
    store_reader_free(f->env.reader);
    store_close_dirty(f->store);
    for (unsigned i = 0; i < n_elements(f->commands); i++)
        buf_fini(&f->commands[i]);
    log_free(f->log);
    test_dir_remove(f->dir);
    mem_free(f);
    return 0;
}

/* ---- the front end ---- */

static int call_open(void)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct timeval patience = {.tv_sec = 20};
    snprintf(sa.sun_path, sizeof sa.sun_path, "%s/admin.sock", fake->dir);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

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

static Imp__AdminReply *read_reply(int fd)
{
    uint8_t head[4];
    struct reader r;
    if (!read_all(fd, head, sizeof head))
        return NULL;
    reader_init(&r, head, sizeof head);
    uint32_t n = read_u32(&r);
    uint8_t *body = mem_alloc(n + 1);
    assert_true(read_all(fd, body, n));
    Imp__AdminReply *m = imp__admin_reply__unpack(NULL, n, body);
    mem_free(body);
    assert_non_null(m);
    return m;
}

struct ask {
    const char *words[8];   /* area, verb, arguments */
    const char *options[6]; /* name, value, name, value */
    const char *input;
    size_t n_input; /* 0: as long as the string */
    int form;
};

static int send_ask(const struct ask *a)
{
    Imp__AdminRequest m = IMP__ADMIN_REQUEST__INIT;
    Imp__AdminOption options[3], *list[3];
    int fd = call_open();
    m.area = (char *)a->words[0];
    m.verb = (char *)a->words[1];
    m.args = (char **)(a->words + 2);
    while (a->words[2 + m.n_args])
        m.n_args++;
    for (; m.n_options < 3 && a->options[2 * m.n_options]; m.n_options++) {
        imp__admin_option__init(&options[m.n_options]);
        options[m.n_options].name = (char *)a->options[2 * m.n_options];
        options[m.n_options].value = (char *)a->options[2 * m.n_options + 1];
        list[m.n_options] = &options[m.n_options];
    }
    m.options = list;
    m.who = (char *)"somebody else"; /* not believed */
    m.os_uid = 4711;
    m.form = (Imp__AdminForm)a->form;
    m.input.data = (uint8_t *)a->input;
    m.input.len = a->n_input ? a->n_input : a->input ? strlen(a->input) : 0;
    size_t n = imp__admin_request__get_packed_size(&m);
    struct buf frame = {0};
    buf_add_u32(&frame, (uint32_t)n);
    buf_reserve(&frame, n);
    frame.n += imp__admin_request__pack(&m, (uint8_t *)frame.data + frame.n);
    for (size_t at = 0; at < frame.n;) {
        ssize_t k = send(fd, frame.data + at, frame.n - at, MSG_NOSIGNAL);
        if (k <= 0)
            break; /* refused without being read */
        at += (size_t)k;
    }
    buf_fini(&frame);
    return fd;
}

struct told {
    int status;
    char *text, *message;
    json_t *json;
};

static void ask(struct told *t, const struct ask *a)
{
    fake->n_commands = fake->n_notes = 0;
    int fd = send_ask(a);
    Imp__AdminReply *m = read_reply(fd);
    assert_non_null(m);
    assert_false(m->more);
    t->status = m->status;
    t->text = mem_strndup(m->text.len ? (char *)m->text.data : "", m->text.len);
    t->message = mem_strdup(m->message);
    t->json = m->json.len ? json_loadb((char *)m->json.data, m->json.len, JSON_DECODE_ANY, NULL) : NULL;
    imp__admin_reply__free_unpacked(m, NULL);
    ssize_t n = read(fd, &(char){0}, 1); /* one answer, then the end */
    if (n)
        print_error("the end: %zd, %s\n", n, strerror(errno));
    assert_int_equal(n, 0);
    close(fd);
}

static void told_fini(struct told *t)
{
    mem_free(t->text);
    mem_free(t->message);
    json_decref(t->json);
}

/* The call is refused with TEXT in the message, and nothing was proposed. */
static void refused(const char *text, const struct ask *a)
{
    struct told t;
    ask(&t, a);
    if (t.status != 1 || !strstr(t.message, text))
        print_error("%s %s: status %d, '%s' instead of '%s'\n", a->words[0], a->words[1], t.status, t.message,
                    text);
    assert_int_equal(t.status, 1);
    assert_non_null(strstr(t.message, text));
    assert_null(t.json);
    assert_int_equal(fake->n_commands, 0);
    const struct command *c = command_find(a->words[0], a->words[1]);
    assert_int_equal(fake->n_notes, c && c->access == COMMAND_WRITE && !fake->submit_code && !fake->alone);
    if (fake->n_notes)
        assert_string_equal(fake->note, t.message);
    told_fini(&t);
}
#define ASK(...) (&(struct ask){__VA_ARGS__})
#define CALL(...) .words = {__VA_ARGS__}

static Imp__Command *command(unsigned i)
{
    assert_true(i < fake->n_commands);
    const struct buf *b = &fake->commands[i];
    Imp__Command *c = imp__command__unpack(NULL, b->n, (uint8_t *)b->data);
    assert_non_null(c);
    return c;
}

/* ---- tests ---- */

static void test_table(void **state)
{
    struct told t;
    ask(&t, ASK(CALL("user", "list"), .options = {"node", "n2"}));
    assert_int_equal(t.status, 0);
    /* columns are as wide as their characters, not bytes */
    assert_non_null(
        strstr(t.text, "USER   HOME  ASSIGNED BY  SOURCE\njos\xc3\xa9   n2    balanced     local\n"));
    assert_int_equal(json_array_size(t.json), 1 + N_USERS / 2);
    json_t *first = json_array_get(t.json, 0);
    assert_string_equal(json_string_value(json_object_get(first, "user")), "jos\xc3\xa9");
    assert_string_equal(json_string_value(json_object_get(first, "home")), "n2");
    told_fini(&t);

    ask(&t, ASK(CALL("report", "abuse")));
    assert_int_equal(json_array_size(t.json), 0);
    told_fini(&t);

    ask(&t, ASK(CALL("alarm", "list")));
    assert_non_null(
        strstr(t.text, "critical  NodeDown  n2    1970-01-01T00:00:01Z  -        first line ...\n"));
    assert_null(strstr(t.text, "second line"));
    assert_true(json_is_null(json_object_get(json_array_get(t.json, 0), "cleared_at")));
    assert_string_equal(json_string_value(json_object_get(json_array_get(t.json, 0), "text")),
                        "first line\nsecond line");
    told_fini(&t);
}

static void test_form(void **state)
{
    struct told t;
    ask(&t, ASK(CALL("user", "mode"), .form = IMP__ADMIN_FORM__ADMIN_TEXT));
    assert_string_equal(t.text, "balanced\n");
    assert_null(t.json);
    told_fini(&t);
    ask(&t, ASK(CALL("user", "mode"), .form = IMP__ADMIN_FORM__ADMIN_JSON));
    assert_string_equal(t.text, "");
    assert_string_equal(json_string_value(json_object_get(t.json, "mode")), "balanced");
    told_fini(&t);
}

static void test_bad_requests(void **state)
{
    refused("knows no command 'node dance'", ASK(CALL("node", "dance")));
    refused("not UTF-8", ASK(CALL("node", "show", "\xff")));
    refused("not UTF-8", ASK(CALL("user", "list"), .options = {"node", "\xc3"}));
    refused("needs NODE", ASK(CALL("node", "show")));
    refused("unknown option --watch", ASK(CALL("node", "list"), .options = {"watch", ""}));
    refused("no node is named 'n9'", ASK(CALL("node", "show", "n9")));
    refused("no user 'nobody'", ASK(CALL("user", "show", "nobody")));
    refused("not a user", ASK(CALL("user", "show", "a b@example.com")));
    refused("is not an alarm's id", ASK(CALL("alarm", "ack", "5x")));
    refused("--limit", ASK(CALL("audit", "list"), .options = {"limit", "0"}));
    refused("not a level", ASK(CALL("log", "level", "loud")));
    refused("there is no service", ASK(CALL("service", "stop", "nothing")));
    refused("cannot be switched off", ASK(CALL("service", "deactivate", "database")));
    refused("n2 does this, but it cannot be reached", ASK(CALL("service", "stop", "xmpp", "n2")));
    refused("is the publisher", ASK(CALL("node", "remove", "n1")));
    refused("sync is off", ASK(CALL("sync", "start")));
    refused("leadership did not move to n2", ASK(CALL("node", "leader", "n2")));
}

/* Frames that are none: the server ends the connection and goes on. */
static void test_bad_frames(void **state)
{
    static const struct {
        const char *bytes;
        size_t n;
    } frames[] = {{"\xff\xff\xff\xff", 4}, {"\x03\x00\x00\x00\xff\xff\xff", 7}, {"\x01\x00\x00\x01x", 5}};
    for (unsigned i = 0; i < n_elements(frames); i++) {
        int fd = call_open();
        assert_int_equal(send(fd, frames[i].bytes, frames[i].n, MSG_NOSIGNAL), (ssize_t)frames[i].n);
        assert_true(read(fd, &(char){0}, 1) <= 0);
        close(fd);
    }
    for (int i = 0; i < 200;
         i++) { /* half a request each, then gone; refused while more are open than may be */
        int fd = call_open();
        if (send(fd, "\x10\x00\x00\x00half", 8, MSG_NOSIGNAL) < 0)
            assert_int_equal(errno, EPIPE);
        close(fd);
    }
    uint64_t until = clock_monotonic_ms() + 20000;
    for (bool served = false; !served; sched_yield()) { /* their places are free again in a moment */
        struct ask a = {CALL("user", "mode")};
        int fd = send_ask(&a);
        Imp__AdminReply *m = read_reply(fd);
        assert_true(clock_monotonic_ms() < until);
        served = m && m->status == 0;
        if (m)
            imp__admin_reply__free_unpacked(m, NULL);
        close(fd);
    }
}

static void test_token(void **state)
{
    static const struct {
        const char *ttl;
        uint64_t seconds; /* 0: refused */
    } cases[] = {
        {"90", 90}, {"90s", 90}, {"15m", 900}, {"1h", 3600}, {"7d", 604800}, {"30d", 2592000},
        {"31d", 0}, {"59s", 0},  {"0", 0},     {"-5m", 0},   {"+5m", 0},     {" 5m", 0},
        {"5 m", 0}, {"5mm", 0},  {"m", 0},     {"", 0},      {"1w", 0},      {"99999999999999999999d", 0}};
    for (unsigned i = 0; i < n_elements(cases); i++) {
        if (!cases[i].seconds) {
            refused("--ttl", ASK(CALL("node", "token"), .options = {"ttl", cases[i].ttl}));
            continue;
        }
        struct told t;
        uint64_t before = clock_wall_ms();
        ask(&t, ASK(CALL("node", "token"), .options = {"ttl", cases[i].ttl}));
        assert_int_equal(t.status, 0);
        assert_int_equal(strncmp(t.text, "imp1-", 5), 0);
        Imp__Command *c = command(0);
        assert_int_equal(c->body_case, IMP__COMMAND__BODY_TOKEN_ADD);
        assert_int_equal(c->token_add->hash.len, 32);
        assert_in_range(c->token_add->expires_ms + 1000, before + cases[i].seconds * 1000,
                        clock_wall_ms() + cases[i].seconds * 1000 + 1000);
        assert_int_not_equal(c->audited->os_uid, 4711); /* who asks is known from the socket */
        assert_int_equal(c->audited->os_uid, geteuid());
        assert_string_not_equal(c->audited->who, "somebody else");
        imp__command__free_unpacked(c, NULL);
        told_fini(&t);
    }
}

/* --current: nothing is read before this node has applied what was committed when it was asked. */
static void test_current(void **state)
{
    struct told t;
    ask(&t, ASK(CALL("settings", "get", "axl.interval")));
    assert_int_equal(fake->n_barriers, 0);
    told_fini(&t);
    ask(&t, ASK(CALL("settings", "get", "axl.interval"), .options = {"current", ""}));
    assert_int_equal(t.status, 0);
    assert_string_equal(t.text, "10\n");
    assert_int_equal(fake->n_barriers, 1);
    told_fini(&t);
    fake->barrier_code = ERR_TIMEOUT;
    refused("no majority of the voters answered", ASK(CALL("user", "list"), .options = {"current", ""}));
    fake->barrier_code = 0;
    fake->alone = true;
    refused("n1 has no contact to a majority", ASK(CALL("audit", "list"), .options = {"current", ""}));
    fake->alone = false;
    assert_int_equal(fake->n_barriers, 2); /* who is alone is not asked for */
    refused("unknown option", ASK(CALL("service", "list"), .options = {"current", ""}));
}

/* Without a majority: what is written through the log is refused at once and says who is missing; what is
 * done here is done, once, without its audit record. */
static void test_alone(void **state)
{
    struct told t;
    fake->alone = true;
    refused("n1 has no contact to a majority of the voters (no answer from n2): nothing was written; start",
            ASK(CALL("settings", "set", "axl.interval", "7")));
    refused("nothing was written", ASK(CALL("node", "token")));
    refused("this node takes no writes now", ASK(CALL("user", "import", "f"), .input = "ann,secret\n"));
    ask(&t, ASK(CALL("log", "level", "error")));
    assert_int_equal(t.status, 0);
    assert_non_null(strstr(t.text, "the audit cannot record it: n1 has no contact"));
    assert_int_equal(fake->n_commands + fake->n_notes, 0);
    told_fini(&t);
    fake->alone = false;
    ask(&t, ASK(CALL("log", "level", "error")));
    assert_string_equal(t.text, "log level of everything is error\n");
    assert_int_equal(fake->n_commands, 1);
    told_fini(&t);
}

static void test_compare_and_set(void **state)
{
    struct told t;
    ask(&t, ASK(CALL("settings", "set", "axl.interval", "7"), .options = {"expect", "10"}));
    Imp__Command *c = command(0);
    const Imp__SettingChange *change = c->settings_apply->changes[0];
    assert_true(change->compare && change->expected_unset); /* 10 is the default */
    assert_string_equal(change->expected, "10");
    assert_string_equal(c->audited->command, "settings set axl.interval 7 --expect=10");
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
    ask(&t, ASK(CALL("settings", "set", "axl.interval", "7"), .options = {"expect", "8"}));
    c = command(0);
    assert_true(c->settings_apply->changes[0]->compare && !c->settings_apply->changes[0]->expected_unset);
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
    refused("cannot be compared",
            ASK(CALL("settings", "set", "axl.password"), .input = "x", .options = {"expect", "y"}));
}

static void test_settings(void **state)
{
    struct told t;
    refused("there is no setting 'axl.nothing'", ASK(CALL("settings", "set", "axl.nothing", "x")));
    refused("number from", ASK(CALL("settings", "set", "axl.interval", "0")));
    refused("is a secret", ASK(CALL("settings", "set", "axl.password", "hunter2")));
    refused("is empty", ASK(CALL("settings", "set", "axl.password")));
    refused("zero byte", ASK(CALL("settings", "set", "axl.ca"), .input = "a\0b", .n_input = 3));
    refused("no setting begins with", ASK(CALL("settings", "list", "nothing")));
    refused("line 2: expected KEY: VALUE",
            ASK(CALL("settings", "apply", "f"), .input = "axl.interval: 5\nnonsense\n"));
    refused("line 3: axl.interval is a number",
            ASK(CALL("settings", "apply", "f"), .input = "# c\n\naxl.interval: x\n"));
    refused("line 1: axl.password is a secret",
            ASK(CALL("settings", "apply", "f"), .input = "axl.password: x\n"));
    refused("line 1: axl.password is a secret",
            ASK(CALL("settings", "diff", "f"), .input = "axl.password: x\n"));

    ask(&t, ASK(CALL("settings", "apply", "f"),
                .input = "# comment\r\naxl.interval:  5 \r\naxl.url: https://a:8443/\n"));
    assert_int_equal(t.status, 0);
    assert_string_equal(t.text, "2 settings applied\n");
    Imp__Command *c = command(0);
    assert_int_equal(c->settings_apply->n_changes, 2);
    assert_string_equal(c->settings_apply->changes[0]->value, "5");
    assert_string_equal(c->settings_apply->changes[1]->value, "https://a:8443/");
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);

    ask(&t, ASK(CALL("settings", "diff", "f"), .input = "axl.interval: 10\nnode.n2.axl.interval: 7\n"));
    assert_int_equal(json_array_size(t.json), 1); /* 10 is the default */
    assert_string_equal(json_string_value(json_object_get(json_array_get(t.json, 0), "key")),
                        "node.n2.axl.interval");
    told_fini(&t);

    ask(&t, ASK(CALL("settings", "set", "axl.password"), .input = "hunter2"));
    assert_int_equal(t.status, 0);
    c = command(0);
    Imp__SettingChange *change = c->settings_apply->changes[0];
    struct buf plain = {0};
    struct err_ctx err = {0};
    assert_string_equal(change->value, "");
    assert_int_equal(
        seal_open(&fake->ring, "setting:axl.password", change->sealed.data, change->sealed.len, &plain, &err),
        0);
    assert_string_equal(plain.data, "hunter2");
    assert_null(memmem(fake->commands[0].data, fake->commands[0].n, "hunter2", 7));
    assert_string_equal(c->audited->command, "settings set axl.password");
    seal_buf_fini(&plain);
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
}

static void test_audit_line(void **state)
{
    struct told t;
    char longest[400] = "", expected[200];
    for (int i = 0; i < 119; i++)
        strcat(longest, "a");
    strcat(longest, "\xc3\xa9 and what follows");
    ask(&t, ASK(CALL("settings", "set", "axl.url", "one\ntwo")));
    Imp__Command *c = command(0);
    assert_string_equal(c->audited->command, "settings set axl.url one two");
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
    ask(&t, ASK(CALL("settings", "set", "axl.url", longest)));
    c = command(0);
    longest[121] = 0; /* the character that begins within the limit is whole */
    snprintf(expected, sizeof expected, "settings set axl.url %s...", longest);
    assert_string_equal(c->audited->command, expected);
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
    ask(&t, ASK(CALL("user", "assign", "bob"), .options = {"node", "n2"}));
    c = command(0);
    assert_string_equal(c->audited->command, "user assign bob --node=n2");
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
    /* a look leaves no trace */
    ask(&t, ASK(CALL("dbreplication", "status")));
    assert_int_equal(t.status, 0);
    c = command(0);
    assert_int_equal(c->body_case, IMP__COMMAND__BODY_HASH_POINT);
    assert_null(c->audited);
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
}

static void test_outcomes(void **state)
{
    static const struct {
        int submit, result;
        const char *text, *expected;
    } cases[] = {
        {ERR_LIMIT, 0, "", "too many writes"},           {ERR_UNAVAILABLE, 0, "", "takes no writes now"},
        {0, ERR_UNKNOWN_OUTCOME, "", "outcome unknown"}, {0, ERR_CONFLICT, "bob is in use", "bob is in use"},
        {0, ERR_CONFLICT, "", "refused: in conflict"},
    };
    for (unsigned i = 0; i < n_elements(cases); i++) {
        struct told t;
        fake->submit_code = cases[i].submit;
        fake->result_code = cases[i].result;
        fake->result_text = cases[i].text;
        ask(&t, ASK(CALL("user", "lock", "bob")));
        assert_int_equal(t.status, 1);
        assert_non_null(strstr(t.message, cases[i].expected));
        told_fini(&t);
    }
    fake->submit_code = fake->result_code = 0;
    fake->result_text = "";
}

static void test_assign(void **state)
{
    struct told t;
    struct buf csv = {0};
    refused("line 2: expected USER,NODE",
            ASK(CALL("user", "assign"), .options = {"file", "f"}, .input = "bob,n2\nbob\n"));
    refused("no user 'nobody'",
            ASK(CALL("user", "assign"), .options = {"file", "f"}, .input = "bob,n2\nnobody,n2\n"));
    refused("names no user", ASK(CALL("user", "assign"), .options = {"file", "f"}, .input = "# nothing\n\n"));
    refused("either --file",
            ASK(CALL("user", "assign", "bob"), .options = {"file", "f"}, .input = "bob,n2\n"));
    refused("say which users", ASK(CALL("user", "assign", "bob")));
    for (int i = 0; i < N_USERS; i++)
        buf_addf(&csv, "u%04d,n2\r\n", i);
    for (int i = 0; i < 4; i++)
        fake->result_value[i] = 10;
    ask(&t, ASK(CALL("user", "assign"), .options = {"file", "f"}, .input = csv.data));
    assert_int_equal(t.status, 0);
    assert_string_equal(t.text, "2500 users assigned, 30 of them changed\n");
    assert_int_equal(fake->n_commands, 3);
    Imp__Command *c = command(2);
    assert_int_equal(c->user_assign->n_uids, 500);
    assert_int_equal(c->user_assign->node, 2);
    imp__command__free_unpacked(c, NULL);
    memset(fake->result_value, 0, sizeof fake->result_value);
    told_fini(&t);
    buf_fini(&csv);
}

/* Users that stay where they are must not keep the removal going for ever. */
static void test_removal_refused_in_the_log(void **state)
{
    struct told t;
    fake->result_code = ERR_CONFLICT;
    fake->result_text = "no other node can take the users of n2";
    ask(&t, ASK(CALL("node", "remove", "n2")));
    assert_int_equal(t.status, 1);
    assert_string_equal(t.message, fake->result_text);
    assert_int_equal(fake->n_commands, 1);
    assert_int_equal(fake->n_notes, 0); /* the proposal has the record */
    Imp__Command *c = command(0);
    assert_int_equal(c->body_case, IMP__COMMAND__BODY_NODE_LEAVE);
    imp__command__free_unpacked(c, NULL);
    fake->result_code = 0;
    fake->result_text = "";
    told_fini(&t);
}

static void test_passwords(void **state)
{
    struct told t;
    refused("must not be empty", ASK(CALL("user", "add", "carol")));
    refused("zero byte",
            ASK(CALL("user", "add", "carol"), .input = "a\0secret that is longer", .n_input = 23));
    refused("not USER", ASK(CALL("user", "add", "carol@example.com/x"), .input = "secret"));
    refused("line 1: expected USER,PASSWORD", ASK(CALL("user", "import", "f"), .input = "carol\n"));
    ask(&t, ASK(CALL("user", "add", "Carol"), .options = {"name", "Carol C"}, .input = "open sesame"));
    assert_int_equal(t.status, 0);
    Imp__Command *c = command(0);
    assert_string_equal(c->user_add->localpart, "carol");
    assert_string_equal(c->user_add->display_name, "Carol C");
    assert_int_equal(c->user_add->credential->sha256->stored_key.len, 32);
    assert_null(memmem(fake->commands[0].data, fake->commands[0].n, "sesame", 6));
    imp__command__free_unpacked(c, NULL);
    told_fini(&t);
    ask(&t, ASK(CALL("user", "import", "f"), .input = "# c\ndave,pw1,Dave D\neve,pw2\nx y,pw3\n"));
    assert_int_equal(t.status, 1);
    assert_non_null(strstr(t.message, "2 users added, 1 refused; the first one: line 4:"));
    told_fini(&t);
}

static void test_sessions(void **state)
{
    struct told t;
    ask(&t, ASK(CALL("user", "show", "jos\xc3\xa9")));
    assert_int_equal(t.status, 0);
    json_t *sessions = json_object_get(t.json, "sessions");
    assert_int_equal(json_array_size(sessions), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(sessions, 0), "resource")),
                        "tablet");
    assert_non_null(strstr(t.text, "tablet  on n1  from 192.0.2.9  since -"));
    told_fini(&t);
    ask(&t, ASK(CALL("session", "kick", "bob/tablet")));
    assert_string_equal(t.text, "1 session ended\n");
    told_fini(&t);
    refused("has no such session", ASK(CALL("session", "kick", "bob/phone")));
}

static void test_picture(void **state)
{
    struct told t;
    ask(&t, ASK(CALL("dbreplication", "runtimestate")));
    json_t *nodes = json_object_get(t.json, "nodes");
    assert_int_equal(json_array_size(nodes), 2);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(nodes, 0), "state")), 2);
    /* silent, but not for longer than the replication time-out */
    assert_int_equal(json_integer_value(json_object_get(json_array_get(nodes, 1), "state")), 1);
    assert_non_null(strstr(t.text, "(2) Setup Completed"));
    assert_non_null(strstr(t.text, "N/N/N"));
    told_fini(&t);
    fake->other_node_answers = true;
    ask(&t, ASK(CALL("dbreplication", "runtimestate", "n2")));
    nodes = json_object_get(t.json, "nodes");
    assert_int_equal(json_array_size(nodes), 1);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(nodes, 0), "state")), 2);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(nodes, 0), "queue")), 1);
    told_fini(&t);
    fake->other_node_answers = false;
}

/* Front ends that watch and leave: each gives its place free. */
static void test_watch(void **state)
{
    for (int i = 0; i < 150; i++) {
        int fd = send_ask(ASK(CALL("dbreplication", "runtimestate"), .options = {"watch", ""}));
        if (i % 2) { /* between two pictures, or before the first one */
            Imp__AdminReply *m = read_reply(fd);
            assert_non_null(m);
            assert_true(m->more);
            imp__admin_reply__free_unpacked(m, NULL);
        }
        close(fd);
    }
    int fd = send_ask(ASK(CALL("dbreplication", "runtimestate"), .options = {"watch", ""}));
    for (int i = 0; i < 2; i++) {
        Imp__AdminReply *m = read_reply(fd);
        assert_non_null(m);
        assert_true(m->more && m->text.len > 0);
        imp__admin_reply__free_unpacked(m, NULL);
    }
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_token),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_current),
        cmocka_unit_test(test_compare_and_set),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_audit_line),
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_assign),
        cmocka_unit_test(test_removal_refused_in_the_log),
        cmocka_unit_test(test_passwords),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_picture),
        cmocka_unit_test(test_watch),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
