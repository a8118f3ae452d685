/* Writes per second and their latency through proposal_submit, on one node and on three (one process, TLS on
 * the loopback, one disk), next to a plain append + fdatasync loop on the same file system. With the state
 * machine of the tests: one row per write. */
#include "replica_fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RUN_MS = 2000, MAX_SAMPLES = 2000000, PAYLOAD = 200 };

struct load {
    struct tnode *n;
    uint64_t end_us;
    atomic_uint n_left; /* outstanding */
    unsigned n_done, n_samples;
    uint32_t *us;
    char text[PAYLOAD + 1];
};
struct one {
    struct load *l;
    uint64_t sent_us;
};

static void submit(struct one *o);

static void on_done(void *user, const struct proposal_result *result)
{
    struct one *o = user;
    struct load *l = o->l;
    uint64_t now = clock_monotonic_us();
    if (result->code == 0 && l->n_samples < MAX_SAMPLES)
        l->us[l->n_samples++] = (uint32_t)(now - o->sent_us);
    if (now < l->end_us)
        submit(o);
    else
        atomic_fetch_sub(&l->n_left, 1);
}

static void submit(struct one *o)
{
    Imp__AlarmRaise body = IMP__ALARM_RAISE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.text = o->l->text;
    command.body_case = IMP__COMMAND__BODY_ALARM_RAISE;
    command.alarm_raise = &body;
    o->sent_us = clock_monotonic_us();
    if (proposal_submit(o->l->n->r, &command, o->l->n->loop, 0, on_done, o) != 0)
        atomic_fetch_sub(&o->l->n_left, 1);
}

struct start {
    struct letter letter;
    struct one *ones;
    unsigned n;
};

static void on_start(struct letter *letter)
{
    struct start *s = container_of(letter, struct start, letter);
    for (unsigned i = 0; i < s->n; i++)
        submit(&s->ones[i]);
}

static int by_value(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void run(struct tnode *n, const char *name, unsigned outstanding)
{
    struct load l = {.n = n};
    struct start s = {.letter = {.deliver = on_start}, .n = outstanding};
    memset(l.text, 'x', PAYLOAD);
    l.us = mem_alloc(MAX_SAMPLES * sizeof(*l.us));
    s.ones = mem_calloc(outstanding, sizeof(*s.ones));
    for (unsigned i = 0; i < outstanding; i++)
        s.ones[i].l = &l;
    atomic_store(&l.n_left, outstanding);
    uint64_t begin = clock_monotonic_us();
    l.end_us = begin + RUN_MS * 1000ull;
    loop_post(n->loop, &s.letter);
    await(atomic_load(&l.n_left) == 0, "the end of the run");
    double seconds = (double)(clock_monotonic_us() - begin) / 1e6;
    qsort(l.us, l.n_samples, sizeof(*l.us), by_value);
    if (l.n_samples)
        printf("%-28s %5u outstanding %9.0f writes/s   p50 %7.3f ms   p99 %7.3f ms\n", name, outstanding,
               l.n_samples / seconds, l.us[l.n_samples / 2] / 1e3, l.us[l.n_samples * 99ull / 100] / 1e3);
    fflush(stdout);
    mem_free(l.us);
    mem_free(s.ones);
}

static void run_fdatasync(const char *dir)
{
    char *path = mem_printf("%s/sync", dir), block[4096] = {0};
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < 4096; i++)
        if (write(fd, block, sizeof(block)) < 0)
            return;
    fsync(fd);
    lseek(fd, 0, SEEK_SET);
    unsigned n = 0;
    uint64_t begin = clock_monotonic_us();
    for (; n < 4096 && clock_monotonic_us() < begin + 1000000; n++)
        if (write(fd, block, sizeof(block)) < 0 || fdatasync(fd) != 0)
            return;
    printf("%-28s %33.0f syncs/s\n", "4 KiB write + fdatasync",
           n / ((double)(clock_monotonic_us() - begin) / 1e6));
    close(fd);
    unlink(path);
    mem_free(path);
}

int main(void)
{
    static const unsigned outstanding[] = {1, 16, 256, 4000};
    struct cluster *c = cluster_new();
    run_fdatasync(c->dir);
    node_start(c, 1);
    propose_alarm_until_done(&c->nodes[1], "first");
    for (unsigned i = 0; i < n_elements(outstanding); i++)
        run(&c->nodes[1], "one node", outstanding[i]);
    cluster_free(c);
    c = cluster_new(); /* another: its log is short, so that nobody needs a copy */
    node_start(c, 1);
    cluster_grow(c, 3);
    struct tnode *leader = cluster_leader(c), *follower = &c->nodes[1 + leader->id % 3];
    for (unsigned i = 0; i < n_elements(outstanding); i++)
        run(leader, "three nodes, at the leader", outstanding[i]);
    for (unsigned i = 0; i < n_elements(outstanding); i++)
        run(follower, "three nodes, at a follower", outstanding[i]);
    await_equal(c);
    cluster_free(c);
    return 0;
}
