/* Three processes, each a node that writes as fast as answers come; they are killed with SIGKILL one at a
 * time, two at once, or all. In the end every acknowledged write is there, on every node, once. */
#include "replica_fixture.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { KILL_FOR_MS = 15000, EXIT_AGAIN = 75 };

static void nap(unsigned ms)
{
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

/* The file keeps what was written when its process dies: only the machine's power could take it. */
static void write_forever(struct tnode *n, int acks, unsigned life)
{
    for (unsigned k = 0;; k++) {
        char text[64];
        if (atomic_load(&n->n_fatal))
            _exit(atomic_load(&n->n_exit_again) ? EXIT_AGAIN : 1);
        snprintf(text, sizeof(text), "n%u.%u.%u", n->id, life, k);
        struct proposal_outcome o = propose_alarm(n, text);
        if (o.code == ERR_UNAVAILABLE) {
            nap(5);
            continue;
        }
        if (o.code != 0)
            continue;
        size_t len = strlen(text);
        text[len] = '\n';
        if (write(acks, text, len + 1) != (ssize_t)(len + 1))
            _exit(1);
    }
}

static pid_t spawn(struct cluster *c, uint32_t id, int acks, unsigned life)
{
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    write_forever(node_start(c, id), acks, life);
    _exit(0);
}

static void end(pid_t pid)
{
    int status;
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    /* It must not have ended by itself, but to start again with a copy. */
    if (!(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL))
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_AGAIN);
}

struct names {
    char **v;
    size_t n;
};

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_add(struct names *x, char *s)
{
    if ((x->n & (x->n - 1)) == 0)
        x->v = mem_realloc(x->v, (x->n ? 2 * x->n : 1) * sizeof(*x->v));
    x->v[x->n++] = s;
}

static struct names read_acks(const char *path)
{
    struct names x = {0};
    char line[128];
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        names_add(&x, mem_strdup(line));
    }
    fclose(f);
    qsort(x.v, x.n, sizeof(*x.v), by_text);
    return x;
}

static struct names read_table(struct tnode *n)
{
    struct names x = {0};
    struct store_reader *reader = store_reader_new(n->store);
    struct arena arena;
    struct key prefix;
    struct store_iter i;
    arena_init(&arena);
    key_init(&prefix);
    store_iter_init(&i, store_read_txn(reader), TABLE_ALARM, &prefix);
    while (store_iter_next(&i)) {
        const Imp__AlarmRow *row = store_iter_row(&i, &arena);
        names_add(&x, mem_strdup(row->text));
    }
    store_iter_fini(&i);
    arena_fini(&arena);
    store_reader_free(reader);
    qsort(x.v, x.n, sizeof(*x.v), by_text);
    return x;
}

static void names_free(struct names *x)
{
    for (size_t i = 0; i < x->n; i++)
        mem_free(x->v[i]);
    mem_free(x->v);
}

static void check_all(struct cluster *c, const char *acks_path)
{
    struct names acks = read_acks(acks_path);
    for (uint32_t id = 1; id <= 3; id++) {
        struct names rows = read_table(&c->nodes[id]);
        for (size_t i = 1; i < rows.n; i++)
            if (strcmp(rows.v[i - 1], rows.v[i]) == 0)
                fail_msg("%s was executed twice", rows.v[i]);
        for (size_t i = 0; i < acks.n; i++)
            if (!bsearch(&acks.v[i], rows.v, rows.n, sizeof(*rows.v), by_text))
                fail_msg("%s was acknowledged, and is not on node %u", acks.v[i], id);
        if (id == 1)
            print_message("%zu acknowledged, %zu rows\n", acks.n, rows.n);
        names_free(&rows);
    }
    assert_true(acks.n > 1000);
    names_free(&acks);
}

static void test_kill(void **state)
{
    struct cluster *c = cluster_new();
    node_start(c, 1);
    cluster_grow(c, 3);
    for (uint32_t id = 1; id <= 3; id++)
        node_stop(&c->nodes[id]); /* no threads from here on: this process forks */
    char *path = mem_printf("%s/acks", c->dir);
    int acks = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(acks >= 0);
    pid_t pids[4] = {0};
    unsigned life = 0, n_kills = 0;
    uint64_t seed = random_u64() | 1, end_ms = clock_monotonic_ms() + KILL_FOR_MS;
    print_message("seed %llu\n", (unsigned long long)seed);
    while (clock_monotonic_ms() < end_ms) {
        for (uint32_t id = 1; id <= 3; id++)
            if (!pids[id])
                pids[id] = spawn(c, id, acks, ++life);
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned r = (unsigned)(seed >> 33);
        nap(r % 8 == 0 ? 40 : 300 + r % 1500);
        uint32_t victim = 1 + r / 8 % 3;
        unsigned n = r / 24 % 8 == 0 ? 3 : r / 24 % 8 < 3 ? 2 : 1;
        for (unsigned i = 0; i < n; i++) {
            uint32_t id = 1 + (victim + i) % 3;
            end(pids[id]);
            pids[id] = 0;
            n_kills++;
        }
    }
    for (uint32_t id = 1; id <= 3; id++)
        if (pids[id])
            end(pids[id]);
    print_message("%u kills\n", n_kills);
    for (uint32_t id = 1; id <= 3; id++)
        node_start(c, id);
    for (uint32_t id = 1; id <= 3; id++)
        propose_alarm_until_done(&c->nodes[id], id == 1 ? "end 1" : id == 2 ? "end 2" : "end 3");
    await_equal(c);
    check_all(c, path);
    close(acks);
    mem_free(path);
    cluster_free(c);
}

/* One voter: what was acknowledged before the kill is there after, every time. */
static void test_kill_single(void **state)
{
    struct cluster *c = cluster_new();
    char *path = mem_printf("%s/acks", c->dir);
    int acks = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    end_loops(c);
    for (unsigned life = 1; life <= 8; life++) {
        pid_t pid = spawn(c, 1, acks, life);
        nap(200 + life * 61 % 300);
        end(pid);
    }
    struct tnode *n = node_start(c, 1);
    propose_alarm_until_done(n, "end");
    struct names written = read_acks(path), rows = read_table(n);
    print_message("%zu acknowledged, %zu rows\n", written.n, rows.n);
    assert_true(written.n > 100);
    for (size_t i = 0; i < written.n; i++)
        assert_non_null(bsearch(&written.v[i], rows.v, rows.n, sizeof(*rows.v), by_text));
    names_free(&written);
    names_free(&rows);
    close(acks);
    mem_free(path);
    cluster_free(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kill_single),
        cmocka_unit_test(test_kill),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
