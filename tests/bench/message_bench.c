/* bench_message [MESSAGES] [DIR]: what a stored message costs one node in its apply thread: entries of so
 * many messages between 1000 users in pairs, both of whom keep them, the recipient's marks as shards pack
 * them, one transaction per entry. CPU of the thread, and what the store writes. With "origin": messages that
 * name one, as below level 3; with "session": of senders whose client counts. */
#include "base/clock.h"
#include "replication/fsm.h"
#include "replication/levels.h"
#include "storage/store.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { N_USERS = 1000, MARK_REFS = 500, N_SHARDS = 6, RATE = 3000 };

struct sent {
    uint64_t uid, index;
    uint32_t place;
};

struct bench {
    char dir[512];
    struct store *store;
    struct metrics metrics;
    uint64_t seed, index, seq, time_ms, n_origins;
    bool with_origin, with_session;
    uint64_t sessions[N_USERS + 1], n_in[N_USERS + 1];
    struct sent unmarked[N_SHARDS][4 * MARK_REFS];
    unsigned n_unmarked[N_SHARDS];
};

static uint64_t rnd(struct bench *b, uint64_t n)
{
    b->seed ^= b->seed << 13;
    b->seed ^= b->seed >> 7;
    b->seed ^= b->seed << 17;
    return b->seed % n;
}

static void check(int code, const char *what)
{
    if (!code)
        return;
    fprintf(stderr, "%s: %d\n", what, code);
    exit(1);
}

static struct fsm_result execute(struct bench *b, struct store_txn *t, Imp__Command *command, uint32_t place,
                                 uint32_t node, struct arena *a)
{
    struct fsm_input in = {.index = b->index, .term = 1, .place = place};
    Imp__Proposal p = IMP__PROPOSAL__INIT;
    struct fsm_result result;
    p.command = command;
    p.node = node;
    p.epoch = node ? 1 : 0;
    p.seq = node ? ++b->seq : 0;
    command->time_ms = b->time_ms;
    check(!fsm_execute(t, &p, &in, a, &result), "a proposal is not executed");
    check(result.code, result.text);
    return result;
}

static void commit(struct bench *b, struct store_txn *t)
{
    struct err_ctx err = {0};
    struct store_position p = {.applied_index = b->index, .applied_term = 1};
    store_set_position(t, &p);
    check(store_commit(t, &err), "commit");
}

/* One entry with one command. */
static struct fsm_result run_one(struct bench *b, Imp__Command *command, uint32_t node)
{
    struct arena a;
    arena_init(&a);
    struct store_txn *t = store_begin(b->store);
    b->index++;
    struct fsm_result result = execute(b, t, command, 0, node, &a);
    commit(b, t);
    arena_fini(&a);
    return result;
}

static void make_cluster(struct bench *b)
{
    static uint8_t id[16] = {1};
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    Imp__CaRow ca = IMP__CA_ROW__INIT;
    Imp__Bootstrap body = IMP__BOOTSTRAP__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    node.id = 1;
    node.name = node.address = (char *)"n1";
    body.cluster_id = body.message_key = (ProtobufCBinaryData){16, id};
    body.domain = (char *)"example.com";
    body.node = &node;
    body.ca = &ca;
    body.feature_level = LEVEL_3;
    c.body_case = IMP__COMMAND__BODY_BOOTSTRAP;
    c.bootstrap = &body;
    run_one(b, &c, 0);
    Imp__NodeRegister reg = IMP__NODE_REGISTER__INIT;
    reg.node = 1;
    reg.nonce = (ProtobufCBinaryData){16, id};
    reg.level = LEVEL_3;
    c.body_case = IMP__COMMAND__BODY_NODE_REGISTER;
    c.node_register = &reg;
    check(run_one(b, &c, 0).value != 1, "the epoch");
    Imp__NodeUp up = IMP__NODE_UP__INIT;
    up.node = up.epoch = 1;
    c.body_case = IMP__COMMAND__BODY_NODE_UP;
    c.node_up = &up;
    run_one(b, &c, 1);
}

static void open_session(struct bench *b, uint64_t uid)
{
    static uint8_t hash[32];
    Imp__SessionOpen body = IMP__SESSION_OPEN__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    body.uid = uid;
    body.id_hash = (ProtobufCBinaryData){sizeof hash, hash};
    body.resource = (char *)"phone";
    body.timeout_s = 300;
    c.body_case = IMP__COMMAND__BODY_SESSION_OPEN;
    c.session_open = &body;
    b->sessions[uid] = run_one(b, &c, 1).value;
    b->n_in[uid] = 0;
}

static void make_users(struct bench *b)
{
    for (unsigned i = 1; i <= N_USERS; i++) {
        char name[32];
        snprintf(name, sizeof name, "user%u", i);
        Imp__UserAdd body = IMP__USER_ADD__INIT;
        Imp__Command c = IMP__COMMAND__INIT;
        body.localpart = body.display_name = name;
        c.body_case = IMP__COMMAND__BODY_USER_ADD;
        c.user_add = &body;
        uint64_t uid = run_one(b, &c, 1).value;
        Imp__UserAssign assign = IMP__USER_ASSIGN__INIT;
        assign.n_uids = 1;
        assign.uids = &uid;
        assign.node = 1;
        c.body_case = IMP__COMMAND__BODY_USER_ASSIGN;
        c.user_assign = &assign;
        run_one(b, &c, 1);
        if (b->with_session)
            open_session(b, uid);
    }
}

static void store_message(struct bench *b, struct store_txn *t, uint32_t place, struct arena *a)
{
    static const char stanza[] =
        "<message type='chat' "
        "id='b5c0d3f2'><body>0123456789012345678901234567890123456789012345678901234567890123"
        "456789012345678901234567890123456789</body></message>";
    uint64_t from = 1 + rnd(b, N_USERS), to = from % 2 ? from + 1 : from - 1;
    Imp__MessageStore body = IMP__MESSAGE_STORE__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    body.from_uid = from;
    body.to_uid = to;
    body.from = arena_printf(a, "user%u@example.com/phone", (unsigned)from);
    body.to = arena_printf(a, "user%u@example.com/phone", (unsigned)to);
    body.stanza = (ProtobufCBinaryData){sizeof stanza - 1, (uint8_t *)stanza};
    body.archive_to = body.archive_from = body.pending = true;
    if (b->with_origin)
        body.origin =
            arena_printf(a, "1.0123456789abcdef.%u.%u", (unsigned)rnd(b, 6), (unsigned)++b->n_origins);
    if (b->with_session) {
        body.session = b->sessions[from];
        body.n_in = ++b->n_in[from];
    }
    c.body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    c.message_store = &body;
    execute(b, t, &c, place, 1, a);
    unsigned shard = to / 2 % N_SHARDS;
    b->unmarked[shard][b->n_unmarked[shard]++] = (struct sent){to, b->index, place};
}

static int by_user(const void *x, const void *y)
{
    const struct sent *a = x, *b = y;
    return a->uid != b->uid       ? (a->uid < b->uid ? -1 : 1)
           : a->index != b->index ? (a->index < b->index ? -1 : 1)
                                  : (int)a->place - (int)b->place;
}

static void mark(struct bench *b, unsigned shard)
{
    struct sent *sent = b->unmarked[shard];
    unsigned n = b->n_unmarked[shard];
    Imp__SessionMarkItem items[4 * MARK_REFS], *list[4 * MARK_REFS];
    Imp__MessageRef refs[4 * MARK_REFS], *ref_list[4 * MARK_REFS];
    Imp__SessionMark body = IMP__SESSION_MARK__INIT;
    Imp__Command c = IMP__COMMAND__INIT;
    qsort(sent, n, sizeof *sent, by_user);
    for (unsigned i = 0; i < n; i++) {
        imp__message_ref__init(&refs[i]);
        refs[i].index = sent[i].index;
        refs[i].place = sent[i].place;
        ref_list[i] = &refs[i];
        if (!i || sent[i].uid != sent[i - 1].uid) {
            Imp__SessionMarkItem *item = &items[body.n_items];
            imp__session_mark_item__init(item);
            item->uid = sent[i].uid;
            item->messages = &ref_list[i];
            list[body.n_items++] = item;
        }
        items[body.n_items - 1].n_messages++;
    }
    body.items = list;
    c.body_case = IMP__COMMAND__BODY_SESSION_MARK;
    c.session_mark = &body;
    check(run_one(b, &c, 1).value != n, "messages that are not marked");
    b->n_unmarked[shard] = 0;
}

struct spent {
    uint64_t user_us, system_us, writes, bytes;
};

static struct spent spent_now(void)
{
    struct rusage u;
    struct spent s;
    char line[128];
    getrusage(RUSAGE_THREAD, &u);
    s.user_us = (uint64_t)u.ru_utime.tv_sec * 1000000 + (uint64_t)u.ru_utime.tv_usec;
    s.system_us = (uint64_t)u.ru_stime.tv_sec * 1000000 + (uint64_t)u.ru_stime.tv_usec;
    FILE *f = fopen("/proc/thread-self/io", "r");
    s.writes = s.bytes = 0;
    while (f && fgets(line, sizeof line, f)) {
        unsigned long long v;
        if (sscanf(line, "wchar: %llu", &v) == 1)
            s.bytes = v;
        if (sscanf(line, "syscw: %llu", &v) == 1)
            s.writes = v;
    }
    if (f)
        fclose(f);
    return s;
}

static void run(struct bench *b, unsigned batch, unsigned n_messages, bool print)
{
    struct spent before = spent_now(), marks = {0};
    struct arena a;
    arena_init(&a);
    for (unsigned n = 0; n < n_messages;) {
        struct store_txn *t = store_begin(b->store);
        b->index++;
        for (unsigned i = 0; i < batch; i++, n++) {
            store_message(b, t, i, &a);
            b->time_ms += n % (RATE / 1000) == 0;
            arena_reset(&a);
        }
        commit(b, t);
        for (unsigned shard = 0; shard < N_SHARDS; shard++) {
            if (b->n_unmarked[shard] < MARK_REFS)
                continue;
            struct spent x = spent_now();
            mark(b, shard);
            struct spent y = spent_now();
            marks.user_us += y.user_us - x.user_us;
            marks.system_us += y.system_us - x.system_us;
            marks.writes += y.writes - x.writes;
            marks.bytes += y.bytes - x.bytes;
        }
    }
    arena_fini(&a);
    struct spent after = spent_now();
    if (!print)
        return;
    double n = n_messages;
    printf("%6u  %6.1f us user %6.1f us system  %5.1f writes  %5.1f KiB   of these marks: %5.1f us %5.1f us "
           "%5.1f %5.1f KiB\n",
           batch, (after.user_us - before.user_us) / n, (after.system_us - before.system_us) / n,
           (after.writes - before.writes) / n, (after.bytes - before.bytes) / n / 1024, marks.user_us / n,
           marks.system_us / n, marks.writes / n, marks.bytes / n / 1024);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof *b);
    unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 12000;
    const char *parent = argc > 2 ? argv[2] : "/var/tmp";
    struct err_ctx err = {0};
    b->seed = 88172645463325252ull;
    b->time_ms = 1000000;
    b->with_origin = argc > 3 && !strcmp(argv[3], "origin");
    b->with_session = argc > 3 && !strcmp(argv[3], "session");
    snprintf(b->dir, sizeof b->dir, "%s/imp-bench-XXXXXX", parent);
    if (!mkdtemp(b->dir)) {
        perror(b->dir);
        return 1;
    }
    struct store_options o = {.dir = b->dir, .metrics = &b->metrics};
    if (store_open(&b->store, &o, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    make_cluster(b);
    make_users(b);
    run(b, 64, 3 * n, false);
    printf("one node's apply thread, per message\n%6s\n", "batch");
    static const unsigned batches[] = {1, 4, 8, 16, 32, 64};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        run(b, batches[i], n / batches[i] * batches[i], true);
    store_close_clean(b->store, &err);
    static const char *const files[] = {"data.mdb", "lock.mdb", "point", "point.new", "clean"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/%s", b->dir, files[i]);
        unlink(path);
    }
    rmdir(b->dir);
    free(b);
    return 0;
}
