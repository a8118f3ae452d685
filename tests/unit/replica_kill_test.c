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
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    KILL_FOR_MS = 9000,
    KILL_FOR_MAX_MS = 60000, /* on a slow machine: until enough was acknowledged */
    ENOUGH_ACKS = 50,
    ACK_BYTES_MAX = 16, /* a line */
    EXIT_AGAIN = 75,
};

static void nap(unsigned ms)
{
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

/* The file keeps what was written when its process dies: only the machine's power could take it. */
static void write_forever(struct tnode *n, int acks, unsigned life, unsigned n_padding)
{
    char *text = mem_alloc(64 + n_padding);
    for (unsigned k = 0;; k++) {
        if (atomic_load(&n->n_fatal))
            _exit(atomic_load(&n->n_exit_again) ? EXIT_AGAIN : 1);
        snprintf(text, 64, "n%u.%u.%u", n->id, life, k);
        size_t len = strlen(text);
        memset(text + len, ' ', n_padding);
        text[len + n_padding] = 0;
        struct proposal_outcome o = propose_alarm(n, text);
        if (o.code == ERR_UNAVAILABLE) {
            nap(5);
            continue;
        }
        if (o.code != 0)
            continue;
        text[len] = '\n';
        if (write(acks, text, len + 1) != (ssize_t)(len + 1))
            _exit(1);
    }
}

static pid_t spawn(struct cluster *c, uint32_t id, int acks, unsigned life, unsigned n_padding)
{
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(1);
    write_forever(node_start(c, id), acks, life, n_padding);
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
    if (x.n)
        qsort(x.v, x.n, sizeof(*x.v), by_text);
    return x;
}

/* Until something more was acknowledged, however slow the machine is. */
static void await_ack(int acks, off_t before)
{
    uint64_t until = clock_monotonic_ms() + 30000;
    struct stat st;
    while (fstat(acks, &st) == 0 && st.st_size == before) {
        assert_true(clock_monotonic_ms() < until);
        nap(5);
    }
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
        names_add(&x, mem_strndup(row->text, strcspn(row->text, " ")));
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
    assert_true(acks.n > ENOUGH_ACKS);
    names_free(&acks);
}

/* Has it ended by itself, to start again? */
static bool has_ended(pid_t pid)
{
    int status;
    if (!pid || waitpid(pid, &status, WNOHANG) != pid)
        return false;
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_AGAIN);
    return true;
}

struct chaos {
    struct cluster *c;
    int acks;
    unsigned n_padding, away_ms; /* how long a killed one may stay away */
    pid_t pids[4];
    uint64_t back_ms[4], seed;
    unsigned life, n_kills, n_again;
};

static unsigned draw(struct chaos *x, unsigned n)
{
    x->seed = x->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(x->seed >> 33) % n;
}

static void keep_running(struct chaos *x)
{
    for (uint32_t id = 1; id <= 3; id++) {
        if (has_ended(x->pids[id])) {
            x->pids[id] = 0;
            x->n_again++;
        }
        if (!x->pids[id] && clock_monotonic_ms() >= x->back_ms[id])
            x->pids[id] = spawn(x->c, id, x->acks, ++x->life, x->n_padding);
    }
}

static void kill_some(struct chaos *x)
{
    uint32_t victim = 1 + draw(x, 3);
    unsigned r = draw(x, 8), n = r == 0 ? 3 : r < 3 ? 2 : 1;
    if (x->away_ms) { /* the others shall go on */
        n = 1;
        if (!x->pids[1] || !x->pids[2] || !x->pids[3])
            return;
    }
    for (unsigned i = 0; i < n; i++) {
        uint32_t id = 1 + (victim + i) % 3;
        if (!x->pids[id])
            continue;
        end(x->pids[id]);
        x->pids[id] = 0;
        x->back_ms[id] = clock_monotonic_ms() + (x->away_ms ? draw(x, x->away_ms) : 0);
        x->n_kills++;
    }
}

static bool has_enough(const struct chaos *x)
{
    struct stat st;
    assert_int_equal(fstat(x->acks, &st), 0);
    return st.st_size > (ENOUGH_ACKS + 1) * ACK_BYTES_MAX;
}

static void run_chaos(struct chaos *x)
{
    uint64_t begin_ms = clock_monotonic_ms(), next_ms = 0;
    print_message("seed %llu\n", (unsigned long long)x->seed);
    for (uint64_t now; (now = clock_monotonic_ms()) < begin_ms + KILL_FOR_MAX_MS; nap(10)) {
        if (now >= begin_ms + KILL_FOR_MS && has_enough(x))
            break;
        keep_running(x);
        if (next_ms && now >= next_ms)
            kill_some(x);
        if (now >= next_ms)
            next_ms = now + (draw(x, 8) == 0 ? 40 : 300 + draw(x, 1500));
    }
    for (uint32_t id = 1; id <= 3; id++)
        if (x->pids[id])
            end(x->pids[id]);
    print_message("%u kills, %u started again with a copy\n", x->n_kills, x->n_again);
}

/* A node that has to take over a copy ends, and starts again with it. */
static bool has_written(struct tnode *n, const char *text)
{
    if (atomic_load(&n->n_fatal)) {
        assert_int_equal(atomic_load(&n->n_exit_again), 1);
        node_stop(n);
        atomic_store(&n->n_exit_again, 0);
        node_start(n->c, n->id);
    }
    return propose_alarm(n, text).code == 0;
}

static void kill_nodes(unsigned n_padding, unsigned away_ms, uint64_t log_keep_bytes, bool expect_copies)
{
    struct chaos x = {.c = cluster_new(), .n_padding = n_padding, .away_ms = away_ms, .seed = random_u64()};
    struct cluster *c = x.c;
    c->log_keep_bytes = log_keep_bytes;
    node_start(c, 1);
    cluster_grow(c, 3);
    for (uint32_t id = 1; id <= 3; id++)
        node_stop(&c->nodes[id]); /* no threads from here on: this process forks */
    char *path = mem_printf("%s/acks", c->dir);
    x.acks = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    assert_true(x.acks >= 0);
    run_chaos(&x);
    for (uint32_t id = 1; id <= 3; id++)
        node_start(c, id);
    for (uint32_t id = 1; id <= 3; id++)
        await(has_written(&c->nodes[id], id == 1   ? "end-1"
                                         : id == 2 ? "end-2"
                                                   : "end-3"),
              "a write on each node");
    await_equal(c);
    check_all(c, path);
    if (expect_copies && x.n_again == 0)
        print_message("(no copy was needed this time)\n");
    close(x.acks);
    mem_free(path);
    cluster_free(c);
}

static void test_kill(void **state)
{
    kill_nodes(0, 0, 0, false);
}

/* With a log that is kept short, so that who stays away takes over a copy: killed in the middle of that, too.
 */
static void test_kill_copies(void **state)
{
    kill_nodes(50000, 6000, 1 << 20, true);
}

/* One voter: what was acknowledged before the kill is there after, every time. */
static void test_kill_single(void **state)
{
    struct cluster *c = cluster_new();
    char *path = mem_printf("%s/acks", c->dir);
    int acks = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    end_loops(c);
    for (unsigned life = 1; life <= 8; life++) {
        off_t before = lseek(acks, 0, SEEK_END);
        pid_t pid = spawn(c, 1, acks, life, 0);
        await_ack(acks, before);
        nap(life * 61 % 300);
        end(pid);
    }
    struct tnode *n = node_start(c, 1);
    propose_alarm_until_done(n, "end");
    struct names written = read_acks(path), rows = read_table(n);
    print_message("%zu acknowledged, %zu rows\n", written.n, rows.n);
    assert_true(written.n >= 8);
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
        cmocka_unit_test(test_kill_copies),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
