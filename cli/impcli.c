/* impcli: the administrator's front end. */
#include "base/release.h"
#include "cli/client.h"
#include "cli/prompt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An option of the program itself, "--name VALUE" or "--name=VALUE". Returns words used, 0 if it is another
 * one. */
static int take_value(int argc, char **argv, int i, const char *name, const char **value)
{
    size_t n = strlen(name);
    if (strncmp(argv[i], name, n) != 0)
        return 0;
    if (argv[i][n] == '=') {
        *value = argv[i] + n + 1;
        return 1;
    }
    if (argv[i][n] != 0 || i + 1 == argc)
        return 0;
    *value = argv[i + 1];
    return 2;
}

int main(int argc, char **argv)
{
    const char *data = getenv("IMP_DATA"), *path = NULL;
    struct client c = {.tty = isatty(1) == 1};
    int i = 1;
    /* Options of the program stand before the area. --json may follow too: client_run takes it. */
    for (; i < argc; i++) {
        int used = take_value(argc, argv, i, "--data", &data);
        if (!used)
            used = take_value(argc, argv, i, "--socket", &path);
        if (used) {
            i += used - 1;
        } else if (strcmp(argv[i], "--json") == 0) {
            c.json = true;
        } else if (strcmp(argv[i], "--version") == 0) {
            printf("impcli %s\n", release_name());
            return CLIENT_DONE;
        } else if (argv[i][0] == '-' && strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) {
            fprintf(stderr, "impcli: unknown option or missing value: %s; see impcli --help\n", argv[i]);
            return CLIENT_USAGE;
        } else {
            break;
        }
    }
    int len =
        path ? snprintf(c.socket_path, sizeof c.socket_path, "%s", path)
             : snprintf(c.socket_path, sizeof c.socket_path, "%s/admin.sock", data ? data : "/var/lib/imp");
    if (len >= (int)sizeof c.socket_path) {
        fputs("impcli: the path of the admin socket is too long (107 bytes at most)\n", stderr);
        return CLIENT_USAGE;
    }
    return i == argc ? prompt_run(&c) : client_run(&c, argc - i, argv + i);
}
