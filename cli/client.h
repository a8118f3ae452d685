/* One request to a node over its admin socket. Blocking; the front end has one thread. */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include "base/err.h"
#include <stdbool.h>

enum client_exit { CLIENT_DONE = 0, CLIENT_REFUSED = 1, CLIENT_USAGE = 2, CLIENT_UNREACHABLE = 3 };

struct client {
    char socket_path[108];
    bool json;
    bool tty; /* standard output is a terminal */
};

/* ARGV: area, verb, arguments and options; --json may stand anywhere before "--". Prints the answer; returns
 * an exit status. */
int client_run(const struct client *c, int argc, char **argv);

#endif
