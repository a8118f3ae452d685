/* impcli: the administrator's front end. */
#include "cli/client.h"
#include "cli/prompt.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* An option of the program itself, "--name VALUE" or "--name=VALUE". Returns words used, 0 if it is another one. */
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
    struct client c = {.tty = isatty(1)};
    int i = 1, n = 0;
    char **words = calloc((size_t)argc + 1, sizeof *words);
    if (!words)
        return CLIENT_REFUSED;
    /* --json may stand anywhere; the others before the area. */
    for (; i < argc; i++) {
        int used = n == 0 ? take_value(argc, argv, i, "--data", &data) : 0;
        if (!used && n == 0)
            used = take_value(argc, argv, i, "--socket", &path);
        if (used) {
            i += used - 1;
        } else if (strcmp(argv[i], "--json") == 0) {
            c.json = true;
        } else if (n == 0 && strcmp(argv[i], "--version") == 0) {
            puts("impcli " IMP_RELEASE);
            free(words);
            return CLIENT_DONE;
        } else if (n == 0 && argv[i][0] == '-' && strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) {
            fprintf(stderr, "impcli: unknown option or missing value: %s; see impcli --help\n", argv[i]);
            free(words);
            return CLIENT_USAGE;
        } else {
            words[n++] = argv[i];
        }
    }
    int len = path ? snprintf(c.socket_path, sizeof c.socket_path, "%s", path)
                   : snprintf(c.socket_path, sizeof c.socket_path, "%s/admin.sock", data ? data : "/var/lib/imp");
    int status;
    if (len >= (int)sizeof c.socket_path) {
        fputs("impcli: the path of the admin socket is too long (107 bytes at most)\n", stderr);
        status = CLIENT_USAGE;
    } else if (n == 0) {
        status = prompt_run(&c);
    } else {
        status = client_run(&c, n, words);
    }
    free(words);
    return status;
}
