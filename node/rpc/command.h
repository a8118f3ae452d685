/* The table of impcli's commands, from commands.def: shared by the front ends and by the node that executes
 * them. Constant data, any thread. */
#ifndef NODE_RPC_COMMAND_H
#define NODE_RPC_COMMAND_H

#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>

enum command_id {
#define X(id, area, verb, args, options, input, flags, help) COMMAND_##id,
#include "node/rpc/commands.def"
#undef X
    N_COMMANDS
};
enum command_input {
    COMMAND_INPUT_NONE,
    COMMAND_INPUT_STDIN,       /* a secret: --password-stdin, or asked for without echo */
    COMMAND_INPUT_FILE,        /* the first argument names a file, "-" is standard input */
    COMMAND_INPUT_FILE_OPTION, /* --file=NAME, "-" is standard input */
    COMMAND_INPUT_PASSPHRASE,  /* asked for twice, or --passphrase-stdin; none with --without-keys */
    COMMAND_INPUT_CERT_FILES,  /* --cert=FILE and --key=FILE, joined */
};
enum command_access { COMMAND_READ, COMMAND_WRITE };

struct command {
    const char *area, *verb; /* verb "": the area is the command */
    const char *args;    /* as shown in the usage line */
    const char *options; /* space separated */
    enum command_input input;
    enum command_access access;
    const char *help;
};
extern const struct command commands[N_COMMANDS];

struct command_area {
    const char *name, *help;
};
extern const struct command_area command_areas[]; /* in the order of the table, ended by a NULL name */

const struct command *command_find(const char *area, const char *verb);
bool command_area_exists(const char *area);
/* Checks number of arguments and names of options. ERR_INVALID with a sentence for the person. */
int command_check(const struct command *c, const char *const *args, unsigned n_args,
                  const char *const *option_names, unsigned n_options, struct err_ctx *err);
/* Does OPTION (without dashes) of the command take a value? ERR_NOTFOUND: no such option. */
int command_option_takes_value(const struct command *c, const char *option);
/* Where its input comes from, for a person; "" when it takes none. */
const char *command_input_help(const struct command *c);
/* Help at each level: area NULL: everything; verb NULL: the area. Area and verb exist. */
void command_help(struct buf *out, const char *program, const char *area, const char *verb);

#define COMMAND_CURRENT_HELP                                                                                 \
    "--current: with everything that was acknowledged on any node before; needs a majority of the voters.\n" \
    "Without it: what this node has applied, which may be moments behind"
enum { ADMIN_FRAME_MAX = 16 << 20 };

#endif
