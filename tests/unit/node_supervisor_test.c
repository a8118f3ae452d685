/* The supervisor around a worker that the test plays: restarts, readiness, signals, and that no worker
 * outlives it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "node/supervisor.h"
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST_RUNS = 2 };

/* Shared with the processes. */
struct shared {
    volatile int n_runs, worker;
    int refuse; /* end with this at once, every time */
};

static int worker(void *arg, int notify_fd, int before)
{
    struct shared *s = arg;
    s->worker = (int)getpid();
    s->n_runs++;
    if (s->refuse)
        return s->refuse;
    if (s->n_runs == 1)
        return SUPERVISOR_AGAIN;
    if (s->n_runs == FIRST_RUNS)
        raise(SIGKILL);
    static const char ready[] = "READY=1\n";
    if (write(notify_fd, ready, sizeof(ready) - 1) < 0)
        return SUPERVISOR_FATAL;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    int number;
    sigwait(&set, &number);
    return SUPERVISOR_DONE;
}

struct scene {
    struct shared *shared;
    char path[64];
    int fd;
    pid_t pid;
};

static int setup(void **state)
{
    static struct scene s;
    memset(&s, 0, sizeof(s));
    *state = &s;
    s.shared = mmap(NULL, sizeof(*s.shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(s.shared, MAP_FAILED);
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    snprintf(s.path, sizeof(s.path), "/tmp/imp-notify-%d", (int)getpid());
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", s.path);
    s.fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    unlink(s.path);
    assert_int_equal(bind(s.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    struct timeval limit = {20, 0};
    setsockopt(s.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setenv("NOTIFY_SOCKET", s.path, 1);
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;
    if (s->pid)
        kill(s->pid, SIGKILL);
    close(s->fd);
    unlink(s->path);
    munmap(s->shared, sizeof(*s->shared));
    return 0;
}

static void start(struct scene *s)
{
    s->pid = fork();
    assert_true(s->pid >= 0);
    if (!s->pid)
        _exit(supervisor_run(worker, s->shared));
}

static int wait_end(struct scene *s)
{
    int status;
    assert_int_equal(waitpid(s->pid, &status, 0), s->pid);
    s->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void expect_note(struct scene *s, const char *wanted)
{
    char text[256] = "";
    ssize_t n = recv(s->fd, text, sizeof(text) - 1, 0);
    assert_true(n > 0);
    if (!strstr(text, wanted))
        fail_msg("wanted %s, got %s", wanted, text);
}

static void starts_again_and_stops(void **state)
{
    struct scene *s = *state;
    start(s);
    expect_note(s, "READY=1");
    assert_int_equal(s->shared->n_runs, FIRST_RUNS + 1);
    assert_int_equal(kill(s->pid, SIGTERM), 0);
    expect_note(s, "STOPPING=1");
    assert_int_equal(wait_end(s), 0);
    assert_int_equal(s->shared->n_runs, FIRST_RUNS + 1);
}

static void a_refused_start_is_not_retried(void **state)
{
    struct scene *s = *state;
    s->shared->refuse = SUPERVISOR_REFUSED;
    start(s);
    assert_int_equal(wait_end(s), SUPERVISOR_REFUSED);
    assert_int_equal(s->shared->n_runs, 1);
}

static void no_worker_outlives_it(void **state)
{
    struct scene *s = *state;
    start(s);
    expect_note(s, "READY=1");
    assert_int_equal(kill(s->pid, SIGKILL), 0);
    assert_int_equal(wait_end(s), -SIGKILL);
    uint64_t until = clock_monotonic_ms() + 20000;
    /* Nobody may be left to reap it: a zombie is dead enough. */
    for (;;) {
        char path[64], state_line[256] = "";
        snprintf(path, sizeof(path), "/proc/%d/stat", s->shared->worker);
        FILE *f = fopen(path, "re");
        bool gone = !f || !fgets(state_line, sizeof(state_line), f) || strstr(state_line, ") Z");
        if (f)
            fclose(f);
        if (gone)
            break;
        assert_true(clock_monotonic_ms() < until);
        usleep(1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(starts_again_and_stops, setup, teardown),
        cmocka_unit_test_setup_teardown(a_refused_start_is_not_retried, setup, teardown),
        cmocka_unit_test_setup_teardown(no_worker_outlives_it, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
