/* Command line of impnode. */
#ifndef NODE_OPTIONS_H
#define NODE_OPTIONS_H

#include "node/config.h"

struct options {
    struct config config; /* of init and join: what was given over the defaults */
    const char *data, *domain, *token, *host, *file;
    const char *log_level, *log_format; /* NULL: as impnode.yaml says */
    bool run, yes, force_new_cluster, dry_run, passphrase_stdin, without_keys;
};
struct verb {
    const char *name, *arguments, *summary, *help;
    const char *options; /* besides --data: names, separated by blanks; "*": every key of impnode.yaml too */
    const char *required;
    bool has_argument;             /* HOST or FILE: options.host, options.file */
    int (*run)(struct options *o); /* returns the exit status */
};
/* 0: go on with o; 1: help was printed; 2: wrong usage, told on stderr. */
int options_parse(struct options *o, const struct verb *v, int argc, char **argv);
void options_print_help(const struct verb *v);

#endif
