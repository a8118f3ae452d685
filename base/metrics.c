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

static void head(struct buf *out, const char *kind, const char *name, const char *help)
{
    buf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind);
}

static int64_t resident_bytes(void)
{
    long long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f)
        return 0;
    if (fscanf(f, "%*s %lld", &pages) != 1)
        pages = 0;
    fclose(f);
    return pages * sysconf(_SC_PAGESIZE);
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
    head(out, "gauge", "process_resident_memory_bytes", "resident memory");
    buf_addf(out, "process_resident_memory_bytes %lld\n", (long long)resident_bytes());
    head(out, "gauge", "process_open_fds", "open file descriptors");
    buf_addf(out, "process_open_fds %lld\n", (long long)open_files());
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
        head(out, "gauge", "process_max_fds", "limit of open file descriptors");
        buf_addf(out, "process_max_fds %lld\n", (long long)files.rlim_cur);
    }
}

void metrics_render(const struct metrics *m, struct buf *out)
{
    for (int i = 0; i < N_METRICS; i++) {
        head(out, metrics_list[i].kind, metrics_list[i].name, metrics_list[i].help);
        buf_addf(out, "%s %lld\n", metrics_list[i].name, (long long)metrics_get(m, (enum metric)i));
    }
    render_process(out);
}
