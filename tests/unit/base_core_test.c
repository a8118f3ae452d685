/* The leaves of base/: errors, memory, arenas, buffers, hash tables, checksums, clocks, log lines, metrics.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/htab.h"
#include "base/list.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/metrics.h"
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void err_texts(void **state)
{
    assert_string_equal(err_name(ERR_NOTFOUND), "NOTFOUND");
    assert_string_equal(err_name(ERR_INTERNAL), "INTERNAL");
    assert_string_equal(err_text(ERR_TIMEOUT), "timed out");
    assert_string_equal(err_name(-5000), "UNKNOWN");
    assert_string_equal(err_name(7), "UNKNOWN");
    assert_int_equal(ERR_NOMEM, -1);

    struct err_ctx err = {0};
    assert_int_equal(err_set(&err, ERR_IO, "write of %s", "x.log"), ERR_IO);
    assert_int_equal(err_prefix(&err, ERR_IO, "segment %d", 7), ERR_IO);
    assert_string_equal(err.text, "segment 7: write of x.log");
    struct err_ctx empty = {0};
    err_prefix(&empty, ERR_DENIED, "open");
    assert_string_equal(empty.text, "open: not permitted");
    assert_int_equal(err_set(NULL, ERR_IO, "x"), ERR_IO);
    char longer[1000];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    err_prefix(&err, ERR_IO, "%s", longer);
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
}

static void blobs(void **state)
{
    struct blob *b = blob_new("abc", 3);
    assert_ptr_equal(blob_ref(b), b);
    blob_unref(b);
    assert_memory_equal(b->data, "abc", 3);
    blob_unref(b);
    blob_unref(NULL);
    char *s = mem_printf("%d-%s", 5, "x");
    assert_string_equal(s, "5-x");
    mem_free(s);
    s = mem_strndup("abcdef", 3);
    assert_string_equal(s, "abc");
    mem_free(s);
    assert_null(mem_strdup(NULL));
}

static void arenas(void **state)
{
    struct arena a;
    arena_init(&a);
    char *first = arena_strdup(&a, "hello");
    for (int i = 0; i < 5000; i++) {
        char *p = arena_alloc(&a, (size_t)i % 97);
        assert_int_equal((uintptr_t)p % 16, 0);
        memset(p, i, (size_t)i % 97);
    }
    char *big = arena_zalloc(&a, 1 << 20);
    assert_int_equal(big[(1 << 20) - 1], 0);
    memset(big, 1, 1 << 20);
    assert_string_equal(first, "hello");
    char *text = arena_printf(&a, "%0400d", 1);
    assert_int_equal(strlen(text), 400);
    assert_string_equal(arena_strndup(&a, "abcdef", 2), "ab");
    static const char bytes[21] = "ab\0cd";
    char *copy = arena_memdup(&a, bytes, sizeof bytes); /* all of it, whatever comes after */
    memset(arena_alloc(&a, 100), 3, 100);
    assert_memory_equal(copy, bytes, sizeof bytes);
    arena_reset(&a);
    assert_int_equal(a.n_bytes, 0);
    char *p = arena_alloc(&a, 100);
    memset(p, 2, 100);
    arena_fini(&a);
    arena_alloc(&a, 100000); /* a first block of its own size */
    arena_reset(&a);
    assert_null(a.blocks);
    arena_fini(&a);
}

static void bufs(void **state)
{
    struct buf b = {0};
    buf_reset(&b);
    buf_cut(&b, 0);
    buf_add(&b, NULL, 0);
    assert_string_equal(b.data, "");
    buf_adds(&b, "abc");
    buf_addc(&b, 'd');
    buf_addf(&b, "%0300d", 7);
    assert_int_equal(b.n, 304);
    assert_int_equal(strlen(b.data), 304);
    buf_cut(&b, 303);
    assert_string_equal(b.data, "7");
    char *s = buf_steal(&b);
    assert_string_equal(s, "7");
    mem_free(s);
    s = buf_steal(&b);
    assert_string_equal(s, "");
    mem_free(s);
    for (unsigned i = 0; i < 1000; i++)
        buf_add_u8(&b, (uint8_t)i);
    assert_int_equal(b.n, 1000);
    assert_int_equal(b.data[1000], 0);
    buf_fini(&b);
    buf_fini(&b);
}

static void readers(void **state)
{
    struct buf b = {0};
    buf_add_u8(&b, 0xfe);
    buf_add_u16(&b, 0x1234);
    buf_add_u32(&b, 0x89abcdef);
    buf_add_u64(&b, UINT64_C(0x0123456789abcdef));
    buf_add(&b, "xyz", 3);
    assert_memory_equal(b.data, "\xfe\x34\x12\xef\xcd\xab\x89", 7);
    struct reader r;
    reader_init(&r, b.data, b.n);
    assert_int_equal(read_u8(&r), 0xfe);
    assert_int_equal(read_u16(&r), 0x1234);
    assert_int_equal(read_u32(&r), 0x89abcdef);
    assert_true(read_u64(&r) == UINT64_C(0x0123456789abcdef));
    assert_memory_equal(read_bytes(&r, 2), "xy", 2);
    assert_int_equal(reader_left(&r), 1);
    assert_int_equal(r.failed, 0);
    assert_int_equal(read_u16(&r), 0);
    assert_int_equal(r.failed, 1);
    assert_int_equal(read_u8(&r), 0); /* stays failed */
    assert_null(read_bytes(&r, SIZE_MAX));
    reader_init(&r, NULL, 0);
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(read_u64(&r), 0);
    assert_int_equal(r.failed, 1);
    buf_fini(&b);
}

struct entry {
    struct hnode node;
    uint32_t key;
    unsigned seen;
};

static bool entry_equal(const struct hnode *node, const void *key, size_t n_bytes)
{
    return n_bytes == 4 && memcmp(&container_of(node, struct entry, node)->key, key, 4) == 0;
}

static void hash_table(void **state)
{
    enum { N = 100000 };
    struct entry *entries = mem_calloc(N, sizeof(*entries));
    struct htab t;
    htab_init(&t, entry_equal);
    assert_null(htab_find(&t, "none", 4));
    htab_for_each(node, &t) fail_msg("an empty table has entries");
    for (uint32_t i = 0; i < N; i++) {
        entries[i].key = i * 7;
        htab_add(&t, &entries[i].node, &entries[i].key, 4);
    }
    assert_int_equal(t.n, N);
    for (uint32_t i = 0; i < N; i++)
        assert_ptr_equal(htab_find(&t, &entries[i].key, 4), &entries[i].node);
    uint32_t missing = 3;
    assert_null(htab_find(&t, &missing, 4));
    assert_null(htab_find(&t, "ab", 2));
    htab_for_each(node, &t)
    {
        struct entry *e = container_of(node, struct entry, node);
        e->seen++;
        if (e->key % 2)
            htab_remove(&t, node);
    }
    assert_int_equal(t.n, N / 2);
    for (uint32_t i = 0; i < N; i++) {
        assert_int_equal(entries[i].seen, 1);
        assert_int_equal(!!htab_find(&t, &entries[i].key, 4), entries[i].key % 2 == 0);
    }
    htab_fini(&t);
    mem_free(entries);
}

/* The reference vector of the SipHash paper, appendix A. */
static void siphash_vector(void **state)
{
    uint8_t data[15];
    for (unsigned i = 0; i < 15; i++)
        data[i] = (uint8_t)i;
    const uint64_t seed[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};
    assert_true(hash_siphash(seed, data, 15) == UINT64_C(0xa129ca6149be45e5));
}

/* RFC 3720 appendix B.4. */
static void crc32c_vectors(void **state)
{
    uint8_t data[32] = {0};
    assert_int_equal(crc32c(0, data, 32), 0x8a9136aa);
    memset(data, 0xff, 32);
    assert_int_equal(crc32c(0, data, 32), 0x62a8ab43);
    for (unsigned i = 0; i < 32; i++)
        data[i] = (uint8_t)i;
    assert_int_equal(crc32c(0, data, 32), 0x46dd794e);
    assert_int_equal(crc32c(crc32c(0, data, 13), data + 13, 19), 0x46dd794e);
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
}

static void clocks(void **state)
{
    char text[32];
    clock_format_utc(text, 0, 0);
    assert_string_equal(text, "1970-01-01T00:00:00Z");
    clock_format_utc(text, UINT64_C(1769860800123), 1);
    assert_string_equal(text, "2026-01-31T12:00:00.123Z");
    clock_format_utc(text, UINT64_MAX, 1);
    assert_string_equal(text, "9999-12-31T23:59:59.999Z");
    static const struct {
        const char *text;
        uint64_t ms; /* UINT64_MAX: none */
    } times[] = {
        {"2026-01-31T12:00:00.123Z", UINT64_C(1769860800123)},
        {"2026-01-31T12:00:00.123999Z", UINT64_C(1769860800123)},
        {"2026-01-31T13:30:00+01:30", UINT64_C(1769860800000)},
        {"2026-01-31T11:00:00-01:00", UINT64_C(1769860800000)},
        {"1970-01-01T00:00:00Z", 0},
        {"2024-02-29T23:59:60Z", UINT64_C(1709251200000)}, /* a leap second */
        {"1969-12-31T23:59:59Z", UINT64_MAX},
        {"2026-02-29T00:00:00Z", UINT64_MAX},
        {"2026-00-01T00:00:00Z", UINT64_MAX},
        {"2026-13-01T00:00:00Z", UINT64_MAX},
        {"2026-01-31T24:00:00Z", UINT64_MAX},
        {"2026-01-31T12:00:00", UINT64_MAX},
        {"2026-01-31T12:00:00.Z", UINT64_MAX},
        {"2026-01-31T12:00:00Zx", UINT64_MAX},
        {"2026-01-31T12:00:00+1:00", UINT64_MAX},
        {"2026-01-31 12:00:00Z", UINT64_MAX},
        {"20260131T12:00:00", UINT64_MAX}, /* XEP-0082 §3.4: of old */
        {"", UINT64_MAX},
        {"2026", UINT64_MAX},
    };
    for (size_t i = 0; i < n_elements(times); i++) {
        uint64_t ms = UINT64_MAX;
        int rc = clock_parse_utc(times[i].text, &ms);
        if (rc ? times[i].ms != UINT64_MAX : ms != times[i].ms)
            fail_msg("%s: %d, %llu", times[i].text, rc, (unsigned long long)ms);
    }
    uint64_t a = clock_monotonic_us();
    assert_true(clock_monotonic_us() >= a);
    assert_true(clock_boot_ms() + 1 >= clock_monotonic_ms());
    char hex[33];
    random_hex(hex, 16);
    assert_int_equal(strspn(hex, "0123456789abcdef"), 32);
    assert_int_equal(strlen(hex), 32);
    assert_true(random_u64() != random_u64());
}

static size_t read_pipe(int fd, char *out, size_t n)
{
    ssize_t got = read(fd, out, n - 1);
    assert_true(got > 0);
    out[got] = '\0';
    return (size_t)got;
}

static void log_lines(void **state)
{
    int fds[2];
    char line[20000];
    assert_int_equal(pipe(fds), 0);
    struct log *root = log_new(fds[1], LOG_TEXT, LOG_NOTICE, "n1");
    struct log *raft = log_category(root, "raft");
    assert_ptr_equal(log_category(raft, "raft"), raft);
    assert_false(log_is_on(raft, LOG_INFO));
    log_notice(raft, "one\ntwo %s \x1b[2J \xff gr\xc3\xbc\xc3\x9f", "a\\b");
    size_t n = read_pipe(fds[0], line, sizeof(line));
    assert_int_equal(line[23], 'Z');
    assert_string_equal(line + 24, " n1 raft NOTICE one\\ntwo a\\\\b \\x1b[2J \\xff gr\xc3\xbc\xc3\x9f\n");
    assert_int_equal(line[n - 1], '\n');

    assert_int_equal(log_set_level(root, "nobody", LOG_DEBUG), ERR_NOTFOUND);
    assert_int_equal(log_set_level(root, "raft", LOG_DEBUG), 0);
    assert_true(log_is_on(raft, LOG_DEBUG));
    assert_false(log_is_on(root, LOG_DEBUG));
    assert_int_equal(log_set_level(root, NULL, LOG_ERROR), 0);
    assert_false(log_is_on(raft, LOG_WARNING));
    assert_false(log_is_on(log_category(root, "late"), LOG_WARNING));
    assert_int_equal(log_level_parse("Warning"), LOG_WARNING);
    assert_int_equal(log_level_parse("loud"), ERR_INVALID);
    log_error(NULL, "nothing");
    log_free(root);

    root = log_new(fds[1], LOG_JSON, LOG_DEBUG, "n\"1");
    log_info(root, "a \"b\" \\ \n \x01 \xc0\xaf");
    read_pipe(fds[0], line, sizeof(line));
    assert_non_null(strstr(line, "\"node\":\"n\\\"1\",\"category\":\"main\",\"level\":\"INFO\","
                                 "\"text\":\"a \\\"b\\\" \\\\ \\n \\u0001 \\u00c0\\u00af\"}\n"));
    char *big = mem_alloc(100001);
    memset(big, 1, 100000);
    big[100000] = '\0';
    log_error(root, "%s", big);
    n = read_pipe(fds[0], line, sizeof(line));
    assert_memory_equal(line + n - 6, "...\"}\n", 6);
    mem_free(big);
    log_free(root);
    close(fds[0]);
    close(fds[1]);
}

/* The longest turn is that of this minute and the one before; after that it is forgotten. */
static void metrics_of_turns(void **state)
{
    struct metrics *m = mem_new(struct metrics);
    struct metrics_turns *a = metrics_add_loop(m, "one"), *b = metrics_add_loop(m, "two");
    assert_null(metrics_add_loop(NULL, "none"));
    metrics_turn(NULL, 1, 1);
    metrics_turn(a, 60000000, 70000);
    metrics_turn(a, 61000000, 20);
    metrics_turn(b, 61000000, 50000);
    struct buf out = {0};
    metrics_render(m, &out);
    assert_non_null(strstr(out.data, "\nimp_loop_turn_seconds_max{loop=\"one\"} 0.070000\n"));
    assert_non_null(strstr(out.data, "\nimp_loop_turn_seconds_max{loop=\"two\"} 0.050000\n"));
    assert_non_null(strstr(out.data, "\nimp_loop_slow_turns_total{loop=\"one\"} 1\n"));
    assert_non_null(strstr(out.data, "\nimp_loop_slow_turns_total{loop=\"two\"} 0\n"));
    assert_non_null(strstr(out.data, "\nimp_loop_turns_total{loop=\"one\"} 2\n"));
    metrics_turn(a, 120000000, 30);
    buf_reset(&out);
    metrics_render(m, &out);
    assert_non_null(strstr(out.data, "{loop=\"one\"} 0.070000\n"));
    metrics_turn(a, 180000000, 30);
    buf_reset(&out);
    metrics_render(m, &out);
    assert_non_null(strstr(out.data, "{loop=\"one\"} 0.000030\n"));
    buf_fini(&out);
    while (metrics_add_loop(m, "many"))
        ;
    mem_free(m);
}

static void metrics_text(void **state)
{
    struct metrics *m = mem_new(struct metrics);
    metrics_add(m, METRIC_STREAMS_OPEN, 3);
    metrics_add(m, METRIC_STREAMS_OPEN, -1);
    metrics_add(NULL, METRIC_STREAMS_OPEN, 1);
    metrics_set(m, METRIC_RAFT_TERM, 7);
    assert_int_equal(metrics_get(m, METRIC_STREAMS_OPEN), 2);
    struct buf out = {0};
    metrics_render(m, &out);
    assert_non_null(strstr(out.data, "# TYPE imp_streams_open gauge\nimp_streams_open 2\n"));
    assert_non_null(strstr(out.data, "# TYPE imp_stream_bytes_in_total counter\n"));
    assert_non_null(strstr(out.data, "\nimp_raft_term 7\n"));
    assert_non_null(strstr(out.data, "\nprocess_cpu_seconds_total "));
    const char *fds = strstr(out.data, "\nprocess_open_fds ");
    long long n = 0;
    assert_non_null(fds);
    assert_int_equal(sscanf(fds, "\nprocess_open_fds %lld", &n), 1);
    assert_true(n >= 3);
    buf_fini(&out);
    mem_free(m);
}

struct item {
    struct list link;
    int v;
};

static void lists(void **state)
{
    struct list head;
    struct item items[4];
    list_init(&head);
    assert_null(list_first(&head));
    for (int i = 0; i < 4; i++) {
        items[i].v = i;
        list_append(&head, &items[i].link);
    }
    struct item *it;
    int sum = 0;
    list_for_each(it, &head, struct item, link)
    {
        sum = sum * 10 + it->v;
        if (it->v % 2)
            list_remove(&it->link);
    }
    assert_int_equal(sum, 123);
    list_prepend(&head, &items[3].link);
    sum = 0;
    list_for_each(it, &head, struct item, link) sum = sum * 10 + it->v;
    assert_int_equal(sum, 302);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_texts),      cmocka_unit_test(blobs),
        cmocka_unit_test(arenas),         cmocka_unit_test(bufs),
        cmocka_unit_test(readers),        cmocka_unit_test(hash_table),
        cmocka_unit_test(siphash_vector), cmocka_unit_test(crc32c_vectors),
        cmocka_unit_test(clocks),         cmocka_unit_test(log_lines),
        cmocka_unit_test(metrics_text),   cmocka_unit_test(metrics_of_turns),
        cmocka_unit_test(lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
