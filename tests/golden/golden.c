#include "golden.h"
#include "base/log.h"
#include "base/mem.h"
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const store_files[] = {"data.mdb", "lock.mdb", "point", "point.new", "clean", "making"};

int golden_open(struct golden *g, struct err_ctx *err)
{
    const char *tmp = getenv("TMPDIR");
    memset(g, 0, sizeof(*g));
    g->dir = mem_printf("%s/imp-fsm-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(g->dir))
        return err_set(err, ERR_IO, "%s: %s", g->dir, strerror(errno));
    g->log = log_new(2, LOG_TEXT, LOG_WARNING, "fsm");
    struct store_options o = {.dir = g->dir, .log = g->log};
    return store_open(&g->store, &o, err);
}

void golden_close(struct golden *g)
{
    if (g->store)
        store_close_dirty(g->store);
    for (size_t i = 0; i < n_elements(store_files); i++) {
        char *path = mem_printf("%s/%s", g->dir, store_files[i]);
        unlink(path);
        mem_free(path);
    }
    rmdir(g->dir);
    mem_free(g->dir);
    log_free(g->log);
}

int golden_apply(struct golden *g, uint64_t term, const void *bytes, size_t n)
{
    struct arena a;
    struct err_ctx err = {0};
    ProtobufCAllocator allocator;
    arena_init(&a);
    arena_protobuf_allocator(&a, &allocator);
    Imp__Entry *entry = imp__entry__unpack(&allocator, n, bytes);
    if (!entry) {
        arena_fini(&a);
        return ERR_MALFORMED;
    }
    g->index++;
    g->term = term;
    struct store_txn *t = store_begin(g->store);
    for (size_t i = 0; i < entry->n_proposals; i++) {
        const Imp__Proposal *p = entry->proposals[i];
        struct fsm_input in = {.index = g->index, .term = term, .place = (uint32_t)i};
        struct fsm_result result = {0};
        unsigned body = p->command ? (unsigned)p->command->body_case : 0;
        if (fsm_execute(t, p, &in, &a, &result) && body < GOLDEN_CASES) {
            g->n_executed[body]++;
            g->n_done[body] += result.code == 0;
        }
    }
    arena_fini(&a);
    store_set_position(t, &(struct store_position){.applied_index = g->index, .applied_term = term});
    return store_commit(t, &err);
}

int golden_read(const char *path, struct buf *out, struct err_ctx *err)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(err, errno == ENOENT ? ERR_NOTFOUND : ERR_IO, "%s: %s", path, strerror(errno));
    char chunk[16384];
    for (size_t n; (n = fread(chunk, 1, sizeof(chunk), f)) > 0;)
        buf_add(out, chunk, n);
    int rc = ferror(f) ? err_set(err, ERR_IO, "%s: %s", path, strerror(errno)) : 0;
    fclose(f);
    return rc;
}

static void print_hash(struct golden *g, struct buf *out)
{
    struct store_hash h;
    struct store_reader *r = store_reader_new(g->store);
    store_state_hash(store_read_txn(r), &h);
    store_reader_free(r);
    buf_addf(out, "%" PRIu64 " %016" PRIx64 "%016" PRIx64 "\n", g->index, h.hi, h.lo);
}

void golden_print_tables(struct golden *g, struct buf *out)
{
    struct store_reader *r = store_reader_new(g->store);
    struct store_txn *t = store_read_txn(r);
    struct arena a;
    struct key k;
    arena_init(&a);
    key_init(&k);
    for (int i = 0; i < N_TABLES; i++) {
        struct store_hash h;
        uint64_t n;
        store_table_hash(t, i, &h, &n);
        if (table_scope(i) != SCOPE_LOCAL && n)
            buf_addf(out, "%s %" PRIu64 " rows %016" PRIx64 "%016" PRIx64 "\n", table_name(i), n, h.hi, h.lo);
    }
    const Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &k, &a);
    buf_addf(out, "feature level %u\n", cluster ? cluster->feature_level : 0);
    arena_fini(&a);
    store_reader_free(r);
}

int golden_play(struct golden *g, const char *path, struct buf *out, struct err_ctx *err)
{
    struct buf b = {0};
    struct reader r;
    int rc = golden_read(path, &b, err);
    if (rc)
        goto out;
    reader_init(&r, b.data, b.n);
    const uint8_t *magic = read_bytes(&r, strlen(GOLDEN_MAGIC));
    if (r.failed || memcmp(magic, GOLDEN_MAGIC, strlen(GOLDEN_MAGIC)) != 0)
        rc = err_set(err, ERR_MALFORMED, "%s is no recorded log", path);
    while (!rc && reader_left(&r)) {
        uint32_t n = read_u32(&r);
        uint64_t term = read_u64(&r);
        const uint8_t *entry = n <= GOLDEN_LENGTH_MAX ? read_bytes(&r, n) : NULL;
        if (r.failed || !entry || (rc = golden_apply(g, term, entry, n)))
            rc = err_set(err, rc ? rc : ERR_MALFORMED, "%s: the record at byte %zu cannot be applied", path,
                         (size_t)(b.n - reader_left(&r)));
        else if (out && (g->index % GOLDEN_EVERY == 0 || !reader_left(&r)))
            print_hash(g, out);
    }
    if (!rc && out)
        golden_print_tables(g, out);
out:
    buf_fini(&b);
    return rc;
}
