#include "replica_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include <dirent.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* ---- waiting ---- */

struct await_clock await_begin(void)
{
    return (struct await_clock){clock_monotonic_ms() + 60000};
}

void await_step(struct await_clock *clock, const char *what, const char *file, int line)
{
    if (clock_monotonic_ms() > clock->end_ms) {
        print_error("%s:%d: not within 60 s: %s\n", file, line, what);
        abort();
    }
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

/* ---- certificates ---- */

static bool identify(void *user, const struct tls_peer *peer, uint32_t *node)
{
    unsigned id;
    if (!peer->verified || sscanf(peer->common_name, "node-%u", &id) != 1)
        return false;
    *node = id;
    return true;
}

static void make_tls(struct tnode *n)
{
    static const char *const alpn[] = {"imp-raft/1", NULL};
    char name[32], *cert, *key;
    struct err_ctx err = {0};
    snprintf(name, sizeof(name), "node-%u", n->id);
    test_cert_make(&cert, &key, &n->c->ca, name, NULL, "SHA256");
    struct tls_options o = {.server = true,
                            .tls13_only = true,
                            .cert_pem = cert,
                            .key_pem = key,
                            .ca_pem = n->c->ca.pem,
                            .require_peer_cert = true,
                            .alpn = alpn};
    assert_int_equal(tls_ctx_new(&n->server, &o, &err), 0);
    o.server = o.require_peer_cert = false;
    assert_int_equal(tls_ctx_new(&n->client, &o, &err), 0);
    n->sni = tls_sni_new(n->server);
    mem_free(cert);
    mem_free(key);
}

/* ---- accepting ---- */

struct pending {
    struct tnode *n;
    struct stream *s;
};

static void on_open(void *user)
{
    struct pending *p = user;
    struct tnode *n = p->n;
    struct tls_peer peer;
    uint32_t node;
    stream_tls_peer(p->s, &peer);
    if (!n->r || !identify(NULL, &peer, &node)) {
        stream_abort(p->s);
        return;
    }
    struct stream *s = p->s;
    mem_free(p);
    replica_accept(n->r, s, node);
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
}

static void on_close(void *user, int code, const char *detail)
{
    mem_free(user);
}

static const struct stream_events pending_events = {
    .on_open = on_open, .on_data = on_data, .on_close = on_close};

static void on_accept(void *user, int fd)
{
    struct tnode *n = user;
    struct pending *p = mem_new(struct pending);
    p->n = n;
    p->s = stream_new(n->loop, fd, &pending_events, p);
    stream_start_tls_server(p->s, n->sni, 5000);
}

/* ---- running something on the control loop, and waiting for it ---- */

struct call {
    struct letter letter;
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
    void (*fn)(struct tnode *n);
    struct tnode *n;
    int code;
    uint64_t index, value;
};

static void call_init(struct call *c, struct tnode *n)
{
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->done_cond, NULL);
    c->n = n;
}

static void call_done(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    c->done = true;
    pthread_cond_signal(&c->done_cond);
    pthread_mutex_unlock(&c->lock);
}

static void call_wait(struct call *c)
{
    pthread_mutex_lock(&c->lock);
    while (!c->done)
        pthread_cond_wait(&c->done_cond, &c->lock);
    pthread_mutex_unlock(&c->lock);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->done_cond);
}

static void on_call(struct letter *letter)
{
    struct call *c = container_of(letter, struct call, letter);
    c->fn(c->n);
    call_done(c);
}

static void on_loop(struct tnode *n, void (*fn)(struct tnode *n))
{
    struct call c;
    call_init(&c, n);
    c.fn = fn;
    c.letter.deliver = on_call;
    loop_post(n->loop, &c.letter);
    call_wait(&c);
}

/* ---- nodes ---- */

static void on_fatal(void *user, bool exit_again, const char *text)
{
    struct tnode *n = user;
    if (atomic_fetch_add(&n->n_fatal, 1) == 0)
        snprintf(n->fatal, sizeof(n->fatal), "%s", text);
    if (exit_again)
        atomic_fetch_add(&n->n_exit_again, 1);
}

static void on_tables_differ(void *user, uint64_t index, bool we_differ, bool tie, const uint32_t *nodes,
                             unsigned n)
{
    atomic_fetch_add(&((struct tnode *)user)->n_differ, 1);
}

static void on_tables_equal(void *user, uint64_t index)
{
    atomic_fetch_add(&((struct tnode *)user)->n_equal, 1);
}

static void on_events(void *user, const struct feed_event *events, size_t n, uint64_t applied_index)
{
    struct tnode *x = user;
    for (size_t i = 0; i < n; i++) {
        /* In log order. */
        assert_true(events[i].index >= atomic_load(&x->feed_index));
        atomic_store(&x->feed_index, events[i].index);
    }
    atomic_store(&x->feed_applied, applied_index);
    atomic_fetch_add(&x->n_events, (unsigned)n);
}

static void on_reload(void *user, uint64_t applied_index)
{
    atomic_fetch_add(&((struct tnode *)user)->n_reloads, 1);
}

static void on_change(void *user)
{
    atomic_fetch_add(&((struct tnode *)user)->n_changes, 1);
}

static void open_listener(struct tnode *n)
{
    struct err_ctx err = {0};
    if (listener_open(&n->listener, n->loop, "127.0.0.1", n->port, false, on_accept, n, &err) != 0)
        fail_msg("%s", err.text);
    n->port = listener_port(n->listener);
}

static void close_listener(struct tnode *n)
{
    listener_close(n->listener);
    n->listener = NULL;
    if (n->proxy)
        cut_proxy_close(n->proxy);
}

void node_listen(struct tnode *n)
{
    if (n->loop)
        return;
    assert_int_equal(loop_new(&n->loop, "control", n->c->log), 0);
    open_listener(n);
    if (n->c->cut_after && !n->proxy)
        n->proxy = cut_proxy_new(n->loop, n->port, n->c->cut_after);
    assert_int_equal(loop_start_thread(n->loop), 0);
}

static void end_loop(struct tnode *n)
{
    if (!n->loop)
        return;
    on_loop(n, close_listener);
    loop_stop(n->loop);
    loop_join_thread(n->loop);
    loop_free(n->loop);
    n->loop = NULL;
    if (n->proxy)
        cut_proxy_free(n->proxy);
    n->proxy = NULL;
}

struct tnode *node_start(struct cluster *c, uint32_t id)
{
    node_start_as(&c->nodes[id], id);
    return &c->nodes[id];
}

void node_start_as(struct tnode *n, uint32_t id)
{
    struct cluster *c = n->c;
    struct err_ctx err = {0};
    char *store_dir = mem_printf("%s/store", n->dir);
    struct store_options so = {.dir = store_dir, .log = c->log};
    if (replica_finish_install(n->dir, c->log, &err) != 0 || store_open(&n->store, &so, &err) != 0)
        fail_msg("%s", err.text);
    mem_free(store_dir);
    struct replica_options o = {.dir = n->dir,
                                .node_id = id,
                                .release = "test",
                                .store = n->store,
                                .tls_client = n->client,
                                .identify = identify,
                                .log = c->log,
                                .metrics = &n->metrics,
                                .election_ms = c->election_ms,
                                .heartbeat_ms = c->heartbeat_ms,
                                .log_keep_bytes = c->log_keep_bytes,
                                .on_fatal = on_fatal,
                                .on_tables_differ = on_tables_differ,
                                .on_tables_equal = on_tables_equal,
                                .user = n};
    struct replica_address *known = n->known;
    for (uint32_t other = 1; c->tell_known && other <= MAX_NODES; other++)
        if (other != id && c->nodes[other].port)
            known[o.n_known++] = (struct replica_address){other, "127.0.0.1", (uint16_t)c->nodes[other].port};
    o.known = known;
    memcpy(o.cluster_id, c->id, 16);
    random_bytes(o.start_nonce, 16);
    atomic_store(&n->feed_index, 0);
    atomic_store(&n->n_fatal, 0);
    struct replica *r;
    if (replica_open(&r, &o, &err) != 0)
        fail_msg("%s", err.text);
    node_listen(n);
    replica_add_feed(r, n->loop, &(struct feed_handler){.on_events = on_events, .on_reload = on_reload}, n);
    replica_on_change(r, n->loop, on_change, n);
    if (replica_start(r, &err) != 0)
        fail_msg("%s", err.text);
    n->r = r;
}

static void forget_replica(struct tnode *n)
{
    n->r = NULL;
}

void node_stop(struct tnode *n)
{
    struct replica *r = n->r;
    /* First nothing more is accepted for it: pending handshakes then see no replica. */
    on_loop(n, forget_replica);
    replica_stop(r);
    n->store = NULL;
    end_loop(n);
}

/* ---- clusters ---- */

static void remove_dir(const char *dir)
{
    char path[700];
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (unlink(path) != 0)
            remove_dir(path);
    }
    if (d)
        closedir(d);
    rmdir(dir);
}

void node_forget_store(struct tnode *n)
{
    char *dir = mem_printf("%s/store", n->dir);
    remove_dir(dir);
    mem_free(dir);
}

struct cluster *cluster_new(void)
{
    struct cluster *c = mem_new(struct cluster);
    char dir[] = "/tmp/imp-replica-XXXXXX";
    struct err_ctx err = {0};
    assert_non_null(mkdtemp(dir));
    c->dir = mem_strdup(dir);
    const char *level = getenv("IMP_TEST_LOG");
    c->log = log_new(2, LOG_TEXT, level ? (enum log_level)log_level_parse(level) : LOG_ERROR, "");
    test_ca_make(&c->ca, "test CA");
    random_bytes(c->id, 16);
    for (uint32_t id = 1; id <= MAX_NODES; id++) {
        struct tnode *n = &c->nodes[id];
        n->c = c;
        n->id = id;
        n->dir = mem_printf("%s/n%u", dir, id);
        mkdir(n->dir, 0700);
        make_tls(n);
    }
    struct tnode *first = &c->nodes[1];
    node_listen(first);
    Imp__NodeRow row = IMP__NODE_ROW__INIT;
    Imp__Bootstrap body = IMP__BOOTSTRAP__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    row.id = 1;
    row.name = (char *)"n1";
    row.address = (char *)"127.0.0.1";
    row.cluster_port = first->port;
    body.cluster_id.data = c->id;
    body.cluster_id.len = 16;
    body.domain = (char *)"example.com";
    body.node = &row;
    command.time_ms = clock_wall_ms();
    command.body_case = IMP__COMMAND__BODY_BOOTSTRAP;
    command.bootstrap = &body;
    if (replica_bootstrap(first->dir, &command, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(replica_bootstrap(first->dir, &command, &err), ERR_EXISTS);
    return c;
}

void cluster_free(struct cluster *c)
{
    for (uint32_t id = 1; id <= MAX_NODES; id++) {
        struct tnode *n = &c->nodes[id];
        if (n->r)
            node_stop(n);
        end_loop(n);
        tls_sni_unref(n->sni);
        tls_ctx_unref(n->server);
        tls_ctx_unref(n->client);
        mem_free(n->dir);
    }
    remove_dir(c->dir);
    test_ca_free(&c->ca);
    log_free(c->log);
    mem_free(c->dir);
    mem_free(c);
}

void end_loops(struct cluster *c)
{
    for (uint32_t id = 1; id <= MAX_NODES; id++)
        if (!c->nodes[id].r)
            end_loop(&c->nodes[id]);
}

struct tnode *cluster_leader(struct cluster *c)
{
    struct await_clock clock = await_begin();
    for (;; await_step(&clock, "a leader", __FILE__, __LINE__)) {
        uint32_t leader = 0;
        bool agreed = true;
        for (uint32_t id = 1; id <= MAX_NODES; id++) {
            struct replica_status s;
            if (!c->nodes[id].r)
                continue;
            replica_get_status(c->nodes[id].r, &s);
            if (s.leader == 0 || (leader && leader != s.leader) || !c->nodes[s.leader].r)
                agreed = false;
            leader = s.leader;
        }
        if (agreed && leader)
            return &c->nodes[leader];
    }
}

static uint64_t epoch_of(struct tnode *n)
{
    struct replica_status s;
    replica_get_status(n->r, &s);
    return s.epoch;
}

static void join(struct tnode *leader, struct tnode *n)
{
    Imp__NodeJoin body = IMP__NODE_JOIN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    char name[16];
    snprintf(name, sizeof(name), "n%u", n->id);
    node_listen(n);
    body.name = name;
    body.address = (char *)"127.0.0.1";
    body.cluster_port = n->proxy ? cut_proxy_port(n->proxy) : n->port;
    command.body_case = IMP__COMMAND__BODY_NODE_JOIN;
    command.node_join = &body;
    struct proposal_outcome o = propose(leader, &command);
    assert_int_equal(o.code, 0);
    assert_int_equal(o.value, n->id);
}

void cluster_grow(struct cluster *c, unsigned n)
{
    for (uint32_t id = 2; id <= n; id++) {
        struct tnode *leader = cluster_leader(c);
        await(epoch_of(leader) != 0, "a session of the leader");
        join(leader, &c->nodes[id]);
        node_start(c, id);
        await(change(leader, REPLICA_ADD_STANDBY, id) != ERR_UNAVAILABLE, "a standby");
        await(change(leader, REPLICA_PROMOTE, id) == 0, "a voter");
    }
    for (uint32_t id = 1; id <= n; id++)
        await(epoch_of(&c->nodes[id]) != 0, "a session of each node");
}

void await_equal(struct cluster *c)
{
    uint64_t want = 0;
    for (uint32_t id = 1; id <= MAX_NODES; id++)
        if (c->nodes[id].r && replica_applied_index(c->nodes[id].r) > want)
            want = replica_applied_index(c->nodes[id].r);
    struct tnode *first = NULL;
    struct store_hash a, b;
    uint64_t ia, ib;
    for (uint32_t id = 1; id <= MAX_NODES; id++) {
        struct tnode *n = &c->nodes[id];
        if (!n->r)
            continue;
        if (!first)
            first = n;
        await((state_hash(first, &a, &ia), state_hash(n, &b, &ib), ia == ib && ia >= want), "the same index");
        assert_true(a.lo == b.lo && a.hi == b.hi);
    }
}

/* ---- asking ---- */

static void on_proposed(void *user, const struct proposal_result *result)
{
    struct call *c = user;
    c->code = result->code;
    c->index = result->index;
    c->value = result->value;
    /* The proposer reads its own write: feed first. */
    if (result->code == 0 && result->index)
        assert_true(atomic_load(&c->n->feed_applied) >= result->index || atomic_load(&c->n->n_reloads));
    call_done(c);
}

struct proposal_outcome propose(struct tnode *n, Imp__Command *command)
{
    struct call c;
    call_init(&c, n);
    int code = proposal_submit(n->r, command, n->loop, 0, on_proposed, &c);
    if (code != 0) {
        c.code = code;
        call_done(&c);
    }
    call_wait(&c);
    return (struct proposal_outcome){c.code, c.index, c.value};
}

struct proposal_outcome propose_alarm(struct tnode *n, const char *text)
{
    Imp__AlarmRaise body = IMP__ALARM_RAISE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.name = (char *)"NodeDown";
    body.node = n->id;
    body.text = (char *)text;
    command.body_case = IMP__COMMAND__BODY_ALARM_RAISE;
    command.alarm_raise = &body;
    return propose(n, &command);
}

void propose_alarm_until_done(struct tnode *n, const char *text)
{
    struct proposal_outcome o;
    await((o = propose_alarm(n, text)).code != ERR_UNAVAILABLE, "a proposal");
    assert_int_equal(o.code, 0);
}

static void on_barrier(void *user, int code, uint64_t index)
{
    struct call *c = user;
    c->code = code;
    c->index = index;
    call_done(c);
}

int barrier(struct tnode *n, unsigned timeout_ms, uint64_t *index)
{
    struct call c;
    call_init(&c, n);
    replica_barrier(n->r, n->loop, timeout_ms, on_barrier, &c);
    call_wait(&c);
    if (index)
        *index = c.index;
    return c.code;
}

static void on_changed(void *user, int code, const char *text)
{
    struct call *c = user;
    c->code = code;
    call_done(c);
}

int change(struct tnode *n, enum replica_change what, uint32_t node)
{
    struct call c;
    call_init(&c, n);
    replica_change(n->r, what, node, n->loop, on_changed, &c);
    call_wait(&c);
    return c.code;
}

int transfer(struct tnode *n, uint32_t to)
{
    struct call c;
    call_init(&c, n);
    replica_transfer(n->r, to, n->loop, on_changed, &c);
    call_wait(&c);
    return c.code;
}

uint64_t n_alarms(struct tnode *n)
{
    struct store_reader *reader = store_reader_new(n->store);
    struct store_hash hash;
    uint64_t rows;
    store_table_hash(store_read_txn(reader), TABLE_ALARM, &hash, &rows);
    store_reader_free(reader);
    return rows;
}

char *alarm_text(struct tnode *n, uint64_t id)
{
    struct store_reader *reader = store_reader_new(n->store);
    struct arena arena;
    struct key k;
    arena_init(&arena);
    key_init(&k);
    key_u64(&k, id);
    const Imp__AlarmRow *row = store_find_row(store_read_txn(reader), TABLE_ALARM, &k, &arena);
    char *text = row ? mem_strdup(row->text) : NULL;
    arena_fini(&arena);
    store_reader_free(reader);
    return text;
}

void state_hash(struct tnode *n, struct store_hash *out, uint64_t *index)
{
    struct store_reader *reader = store_reader_new(n->store);
    store_state_hash(store_read_txn(reader), out);
    *index = store_reader_index(reader);
    store_reader_free(reader);
}
