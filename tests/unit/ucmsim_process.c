#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/mem.h"
#include "ucmsim_process.h"
#include <arpa/inet.h>
#include <cmocka.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { MAX_ARGS = 32, START_MS = 20000 };

/* The first line of FD, which must come in time. */
static void read_line(char *out, size_t room, int fd)
{
    size_t n = 0;
    while (n + 1 < room && (!n || out[n - 1] != '\n')) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        assert_int_equal(poll(&p, 1, START_MS), 1);
        ssize_t got = read(fd, out + n, 1);
        assert_int_equal(got, 1);
        n++;
    }
    out[n] = 0;
}

static char *read_file(const char *path)
{
    struct buf data = {0};
    FILE *file = fopen(path, "r");
    size_t n;
    assert_non_null(file);
    while ((n = fread(buf_reserve(&data, 4096), 1, 4096, file)) > 0)
        data.n += n;
    fclose(file);
    buf_addc(&data, 0);
    return buf_steal(&data);
}

void ucmsim_start(struct ucmsim *u, const char *const *extra)
{
    const char *argv[MAX_ARGS] = {UCMSIM_PATH, "--axl",       "127.0.0.1:0",
                                  "--control", "127.0.0.1:0", "--end-with-parent"};
    char line[512];
    posix_spawn_file_actions_t actions;
    int out[2], n = 6;
    bool plain = false;
    *u = (struct ucmsim){.pid = 0};
    for (; extra && *extra; extra++) {
        plain |= !strcmp(*extra, "--http");
        argv[n++] = *extra;
    }
    if (!plain) {
        snprintf(u->cert_path, sizeof u->cert_path, "/tmp/ucmsim-test-XXXXXX");
        int fd = mkstemp(u->cert_path);
        assert_true(fd >= 0);
        close(fd);
        argv[n++] = "--cert-out";
        argv[n++] = u->cert_path;
    }
    assert_int_equal(pipe(out), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, out[0]);
    posix_spawn_file_actions_addclose(&actions, out[1]);
    assert_int_equal(posix_spawn(&u->pid, UCMSIM_PATH, &actions, NULL, (char **)(uintptr_t)argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[1]);
    read_line(line, sizeof line, out[0]);
    close(out[0]);
    assert_int_equal(sscanf(line, "ucmsim: axl %127s control http://127.0.0.1:%u", u->url, &u->control_port),
                     2);
    if (!plain)
        u->ca_pem = read_file(u->cert_path);
}

void ucmsim_stop(struct ucmsim *u)
{
    int status = 0;
    kill(u->pid, SIGTERM);
    assert_int_equal(waitpid(u->pid, &status, 0), u->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    if (u->cert_path[0])
        unlink(u->cert_path);
    mem_free(u->ca_pem);
}

char *ucmsim_control(const struct ucmsim *u, const char *method, const char *path, const char *body)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)u->control_port)};
    struct buf request = {0}, answer = {0};
    int status = 0, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ssize_t n;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    buf_addf(&request,
             "%s %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             method, path, body ? strlen(body) : 0, body ? body : "");
    assert_int_equal(write(fd, request.data, request.n), (ssize_t)request.n);
    while ((n = read(fd, buf_reserve(&answer, 65536), 65536)) > 0)
        answer.n += (size_t)n;
    buf_addc(&answer, 0);
    close(fd);
    buf_fini(&request);
    assert_int_equal(sscanf(answer.data, "HTTP/1.1 %d", &status), 1);
    if (status / 100 != 2)
        fail_msg("%s %s: %s", method, path, answer.data);
    char *start = strstr(answer.data, "\r\n\r\n");
    assert_non_null(start);
    char *result = mem_strdup(start + 4);
    buf_fini(&answer);
    return result;
}

void ucmsim_order(const struct ucmsim *u, const char *method, const char *path, const char *body)
{
    mem_free(ucmsim_control(u, method, path, body));
}

long ucmsim_stat(const struct ucmsim *u, const char *key)
{
    char quoted[64];
    char *stats = ucmsim_control(u, "GET", "/stats", NULL);
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *found = strstr(stats, quoted);
    if (!found)
        fail_msg("no %s in %s", key, stats);
    long n = strtol(found + strlen(quoted), NULL, 10);
    mem_free(stats);
    return n;
}
