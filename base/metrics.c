#include "base/metrics.h"
#include <dirent.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *kind, *name, *help;
} metrics_list[N_METRICS] = {
#define COUNTER "counter"
#define GAUGE "gauge"
#define X(id, kind, name, help) {kind, name, help},
#include "base/metrics.def"
#undef X
#undef COUNTER
#undef GAUGE
};

void metrics_add(struct metrics *m, enum metric id, int64_t delta)
{
    if (m)
        atomic_fetch_add_explicit(&m->value[id], delta, memory_order_relaxed);
}

void metrics_set(struct metrics *m, enum metric id, int64_t value)
{
    if (m)
        atomic_store_explicit(&m->value[id], value, memory_order_relaxed);
}

int64_t metrics_get(const struct metrics *m, enum metric id)
{
    return atomic_load_explicit(&((struct metrics *)m)->value[id], memory_order_relaxed);
}

struct metrics_turns *metrics_add_loop(struct metrics *m, const char *name)
{
    unsigned i = m ? atomic_fetch_add(&m->n_loops, 1) : METRICS_MAX_LOOPS;
    if (i >= METRICS_MAX_LOOPS)
        return NULL;
    snprintf(m->loops[i].name, sizeof(m->loops[i].name), "%s", name);
    return &m->loops[i];
}

static uint64_t get_u64(const _Atomic uint64_t *v)
{
    return atomic_load_explicit((_Atomic uint64_t *)v, memory_order_relaxed);
}

static void set_u64(_Atomic uint64_t *v, uint64_t to)
{
    atomic_store_explicit(v, to, memory_order_relaxed);
}

void metrics_turn(struct metrics_turns *t, uint64_t end_us, uint64_t took_us)
{
    if (!t)
        return;
    uint64_t minute = end_us / 60000000;
    if (minute != t->minute) {
        set_u64(&t->last_max_us, minute == t->minute + 1 ? get_u64(&t->max_us) : 0);
        set_u64(&t->max_us, 0);
        t->minute = minute;
    }
    set_u64(&t->n, get_u64(&t->n) + 1);
    if (took_us > get_u64(&t->max_us))
        set_u64(&t->max_us, took_us);
    if (took_us > METRICS_SLOW_TURN_US)
        set_u64(&t->n_slow, get_u64(&t->n_slow) + 1);
}

static void head(struct buf *out, const char *kind, const char *name, const char *help)
{
    buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

/* Of all resident pages; and of those that are the process's own, without the pages of mapped files (the
 * store's), which the system takes back when it needs them. */
static void resident_bytes(int64_t *all, int64_t *own)
{
    long long pages = 0, shared = 0;
    *all = *own = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return;
    if (fscanf(f, "%*s %lld %lld", &pages, &shared) == 2) {
        *all = pages * sysconf(_SC_PAGESIZE);
        *own = (pages - shared) * sysconf(_SC_PAGESIZE);
    }
    fclose(f);
}

static int64_t open_files(void)
{
    DIR *d = opendir("/proc/self/fd");
    if (!d)
        return 0;
    int64_t n = -1; /* the directory itself */
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void render_process(struct buf *out)
{
    struct timespec cpu = {0};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    head(out, "counter", "process_cpu_seconds_total", "CPU time used, user and system");
    buf_addf(out, "process_cpu_seconds_total %lld.%06ld\n", (long long)cpu.tv_sec, cpu.tv_nsec / 1000);
    int64_t all, own;
    resident_bytes(&all, &own);
    head(out, "gauge", "process_resident_memory_bytes", "resident memory, with the pages of mapped files");
    buf_addf(out, "process_resident_memory_bytes %lld\n", (long long)all);
    head(out, "gauge", "imp_own_memory_bytes", "resident memory without the pages of mapped files");
    buf_addf(out, "imp_own_memory_bytes %lld\n", (long long)own);
    head(out, "gauge", "process_open_fds", "open file descriptors");
    buf_addf(out, "process_open_fds %lld\n", (long long)open_files());
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
        head(out, "gauge", "process_max_fds", "limit of open file descriptors");
        buf_addf(out, "process_max_fds %lld\n", (long long)files.rlim_cur);
    }
}

enum turns_value { TURNS_MAX, TURNS_SLOW, TURNS_COUNT };

static void render_turns(const struct metrics *m, struct buf *out, const char *kind, const char *name,
                         const char *help, enum turns_value which)
{
    unsigned n = atomic_load_explicit((atomic_uint *)&m->n_loops, memory_order_acquire);
    head(out, kind, name, help);
    for (unsigned i = 0; i < n && i < METRICS_MAX_LOOPS; i++) {
        const struct metrics_turns *t = &m->loops[i];
        uint64_t now = get_u64(&t->max_us), last = get_u64(&t->last_max_us);
        buf_addf(out, "%s{loop=\"%s\"} ", name, t->name);
        if (which == TURNS_MAX)
            buf_addf(out, "%.6f\n", (double)(now > last ? now : last) / 1e6);
        else
            buf_addf(out, "%llu\n", (unsigned long long)get_u64(which == TURNS_SLOW ? &t->n_slow : &t->n));
    }
}

static void render_loops(const struct metrics *m, struct buf *out)
{
    render_turns(m, out, "gauge", "imp_loop_turn_seconds_max",
                 "longest turn of an event loop, of this minute and the one before", TURNS_MAX);
    render_turns(m, out, "counter", "imp_loop_slow_turns_total", "turns that took more than 50 ms",
                 TURNS_SLOW);
    render_turns(m, out, "counter", "imp_loop_turns_total", "turns of an event loop", TURNS_COUNT);
}

void metrics_render(const struct metrics *m, struct buf *out)
{
    for (int i = 0; i < N_METRICS; i++) {
        head(out, metrics_list[i].kind, metrics_list[i].name, metrics_list[i].help);
        buf_addf(out, "%s %lld\n", metrics_list[i].name, (long long)metrics_get(m, (enum metric)i));
    }
    render_loops(m, out);
    render_process(out);
}
