/* bench_store [SECONDS] [DIR]: random updates of the store by batch size, with durable points as in a node,
 * and commands applied by the state machine. SECONDS per figure (1), DIR on the disk to measure (/var/tmp).
 */
#include "base/clock.h"
#include "replication/fsm.h"
#include "storage/store.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_KEYS = 50000, ROW_BYTES = 200 };

struct bench {
    char dir[512];
    struct store *store;
    struct metrics metrics;
    uint64_t seed, index, seconds;
};

static uint64_t rnd(uint64_t *state, uint64_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state % n;
}

static void commit(struct bench *b, struct store_txn *t)
{
    struct err_ctx err = {0};
    struct store_position p = {.applied_index = ++b->index, .applied_term = 1};
    store_set_position(t, &p);
    if (store_commit(t, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

static void open_store(struct bench *b, const char *parent)
{
    struct err_ctx err = {0};
    snprintf(b->dir, sizeof b->dir, "%s/imp-bench-XXXXXX", parent);
    if (!mkdtemp(b->dir)) {
        perror(b->dir);
        exit(1);
    }
    struct store_options o = {.dir = b->dir, .metrics = &b->metrics};
    if (store_open(&b->store, &o, &err)) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
}

static void close_store(struct bench *b)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "point", "point.new", "clean"};
    char path[600];
    struct err_ctx err = {0};
    store_close_clean(b->store, &err);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", b->dir, files[i]);
        unlink(path);
    }
    rmdir(b->dir);
}

static void put_random(struct bench *b, struct store_txn *t, uint64_t n_keys, uint64_t key)
{
    struct key k;
    char row[ROW_BYTES];
    memset(row, 'x', sizeof row);
    uint64_t v = rnd(&b->seed, UINT64_MAX);
    memcpy(row, &v, sizeof v);
    key_init(&k);
    key_u64(&k, n_keys ? rnd(&b->seed, n_keys) : key);
    store_put(t, TABLE_VCARD, &k, row, sizeof row);
}

static void fill(struct bench *b)
{
    for (uint64_t i = 0; i < N_KEYS;) {
        struct store_txn *t = store_begin(b->store);
        for (int j = 0; j < 1000; j++)
            put_random(b, t, 0, i++);
        commit(b, t);
    }
}

static void bench_puts(struct bench *b, unsigned batch)
{
    int64_t points = metrics_get(&b->metrics, METRIC_STORE_DURABLE_POINTS);
    uint64_t begin = clock_monotonic_us(), end = begin + b->seconds * 1000000, now, n = 0, worst = 0;
    while ((now = clock_monotonic_us()) < end) {
        struct store_txn *t = store_begin(b->store);
        for (unsigned i = 0; i < batch; i++)
            put_random(b, t, N_KEYS, 0);
        commit(b, t);
        n += batch;
        uint64_t took = clock_monotonic_us() - now;
        worst = took > worst ? took : worst;
    }
    printf("%-28s %6u  %10.0f /s  slowest transaction %6.2f ms  %lld points\n", "random updates, batch",
           batch, (double)n * 1e6 / (double)(now - begin), (double)worst / 1e3,
           (long long)(metrics_get(&b->metrics, METRIC_STORE_DURABLE_POINTS) - points));
}

static void print_sizes(struct bench *b)
{
    char path[600];
    struct stat st = {0};
    snprintf(path, sizeof path, "%s/data.mdb", b->dir);
    stat(path, &st);
    printf("%-28s %6s  %10.1f MB in use, %.1f MB the file\n", "store", "",
           (double)store_size_bytes(b->store) / 1e6, (double)st.st_size / 1e6);
}

static void bench_reads(struct bench *b)
{
    struct store_reader *r = store_reader_new(b->store);
    uint64_t begin = clock_monotonic_us(), n = 0, now;
    do {
        struct store_txn *t = store_read_txn(r);
        for (int i = 0; i < 1000; i++) {
            struct key k;
            const void *row;
            size_t size;
            key_init(&k);
            key_u64(&k, rnd(&b->seed, N_KEYS));
            store_get(t, TABLE_VCARD, &k, &row, &size);
        }
        store_reader_reset(r);
        n += 1000;
        now = clock_monotonic_us();
    } while (now < begin + b->seconds * 1000000);
    printf("%-28s %6s  %10.0f /s  %.2f us each\n", "random reads", "",
           (double)n * 1e6 / (double)(now - begin), (double)(now - begin) / (double)n);
    store_reader_free(r);
}

/* ---- state machine ---- */

typedef void make_command_fn(struct bench *b, Imp__Command *c, struct arena *a);

static void make_bootstrap(struct bench *b, Imp__Command *c, struct arena *a)
{
    static uint8_t id[16];
    Imp__NodeRow *node = arena_alloc(a, sizeof *node);
    Imp__CaRow *ca = arena_alloc(a, sizeof *ca);
    Imp__Bootstrap *body = arena_alloc(a, sizeof *body);
    imp__node_row__init(node);
    imp__ca_row__init(ca);
    imp__bootstrap__init(body);
    node->id = 1;
    node->name = node->address = (char *)"n1";
    body->cluster_id = (ProtobufCBinaryData){16, id};
    body->domain = (char *)"example.com";
    body->node = node;
    body->ca = ca;
    c->body_case = IMP__COMMAND__BODY_BOOTSTRAP;
    c->bootstrap = body;
}

static void make_user_add(struct bench *b, Imp__Command *c, struct arena *a)
{
    Imp__UserAdd *body = arena_alloc(a, sizeof *body);
    imp__user_add__init(body);
    body->localpart = body->display_name = arena_printf(a, "user%llu", (unsigned long long)b->index);
    body->n_words = 1;
    body->words = arena_alloc(a, sizeof *body->words);
    body->words[0] = body->localpart;
    c->body_case = IMP__COMMAND__BODY_USER_ADD;
    c->user_add = body;
}

static void make_message(struct bench *b, Imp__Command *c, struct arena *a)
{
    static char stanza[256];
    Imp__MessageStore *body = arena_alloc(a, sizeof *body);
    imp__message_store__init(body);
    memset(stanza, 'm', sizeof stanza);
    body->to_uid = 1 + rnd(&b->seed, 1000);
    body->from = (char *)"user2@example.com/phone";
    body->to = (char *)"user1@example.com";
    body->stanza = (ProtobufCBinaryData){sizeof stanza, (uint8_t *)stanza};
    body->origin = arena_printf(a, "1.1.%llu", (unsigned long long)rnd(&b->seed, UINT64_MAX));
    c->body_case = IMP__COMMAND__BODY_MESSAGE_STORE;
    c->message_store = body;
}

static void make_roster_set(struct bench *b, Imp__Command *c, struct arena *a)
{
    Imp__RosterSet *body = arena_alloc(a, sizeof *body);
    imp__roster_set__init(body);
    body->uid = 1 + rnd(&b->seed, 1000);
    body->contact = arena_printf(a, "user%d@example.com", (int)rnd(&b->seed, 200) + 2000);
    body->name = (char *)"A Contact";
    c->body_case = IMP__COMMAND__BODY_ROSTER_SET;
    c->roster_set = body;
}

/* Transactions of 256 commands, as the apply thread makes them under load. */
static void bench_command(struct bench *b, const char *name, make_command_fn *make, uint64_t max)
{
    uint64_t begin = clock_monotonic_us(), n = 0, refused = 0, place = 0;
    struct arena a;
    arena_init(&a);
    do {
        struct store_txn *t = store_begin(b->store);
        for (int i = 0; i < 256 && n < max; i++, n++) {
            struct fsm_result result;
            Imp__Command c = IMP__COMMAND__INIT;
            struct fsm_input in = {.index = ++b->index, .term = 1, .place = place};
            c.time_ms = 1000 + n / 100;
            make(b, &c, &a);
            fsm_apply(t, &c, &in, &a, &result);
            refused += result.code != 0;
            arena_reset(&a);
        }
        commit(b, t);
    } while (n < max && clock_monotonic_us() < begin + b->seconds * 1000000);
    double us = (double)(clock_monotonic_us() - begin);
    if (max > 1)
        printf("%-28s %6s  %10.0f /s  %.2f us each, %llu refused\n", name, "", (double)n * 1e6 / us,
               us / (double)n, (unsigned long long)refused);
    arena_fini(&a);
}

/* What the content hash costs at most: rows are read, laid out, checked (CRC32C twice) and hashed; a put of an existing
 * row does that for the old and the new one. */
static void bench_hash(struct bench *b)
{
    struct store_view *v = store_view_new(b->store);
    struct store_span all = {0};
    struct store_range r;
    uint64_t n = 0, begin = clock_monotonic_us(), end = begin;
    while (end < begin + b->seconds * 1000000) {
        if (store_view_ranges(v, TABLE_VCARD, &all, NULL, 0, &r))
            exit(1);
        n += r.n_rows;
        end = clock_monotonic_us();
    }
    store_view_unref(v);
    printf("row read, checked and hashed: %.3f us\n", (double)(end - begin) / (double)n);
}

int main(int argc, char **argv)
{
    struct bench b = {.seed = 88172645463325252ull, .seconds = argc > 1 ? strtoull(argv[1], NULL, 10) : 1};
    open_store(&b, argc > 2 ? argv[2] : "/var/tmp");
    fill(&b);
    static const unsigned batches[] = {1, 16, 256, 2048};
    for (size_t i = 0; i < sizeof batches / sizeof *batches; i++)
        bench_puts(&b, batches[i]);
    print_sizes(&b);
    bench_reads(&b);
    bench_hash(&b);
    bench_command(&b, "", make_bootstrap, 1);
    bench_command(&b, "users added", make_user_add, UINT64_MAX);
    bench_command(&b, "messages stored", make_message, UINT64_MAX);
    bench_command(&b, "roster items set", make_roster_set, UINT64_MAX);
    print_sizes(&b);
    close_store(&b);
    return 0;
}
