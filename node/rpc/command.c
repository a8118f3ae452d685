#include "node/rpc/command.h"
#include "base/mem.h"
#include <string.h>

/* for "%s%s%s" */
#define NAME(c) (c)->area, *(c)->verb ? " " : "", (c)->verb

const struct command commands[N_COMMANDS] = {
#define X(id, area_, verb_, args_, options_, input_, access_, help_)                                         \
    [COMMAND_##id] = {.area = area_,                                                                         \
                      .verb = verb_,                                                                         \
                      .args = args_,                                                                         \
                      .options = options_,                                                                   \
                      .input = COMMAND_INPUT_##input_,                                                       \
                      .access = COMMAND_##access_,                                                           \
                      .help = help_},
#include "node/rpc/commands.def"
#undef X
};

const struct command_area command_areas[] = {
    {"dbreplication", "replication of the store between the nodes"},
    {"node", "members of the cluster, join tokens, roles"},
    {"service", "services of the nodes"},
    {"user", "users and their home nodes"},
    {"sync", "the Sync Agent: users from the call manager"},
    {"settings", "replicated settings; they take effect without a restart"},
    {"cert", "client-facing certificates"},
    {"session", "sessions of clients"},
    {"log", "log of this node"},
    {"audit", "who changed what"},
    {"alarm", "alarms and notices"},
    {"report", "what users have reported"},
    {"backup", "a file to make a new cluster from"},
    {NULL, NULL},
};

const struct command *command_find(const char *area, const char *verb)
{
    for (unsigned i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].area, area) == 0 && strcmp(commands[i].verb, verb) == 0)
            return &commands[i];
    return NULL;
}

bool command_area_exists(const char *area)
{
    for (const struct command_area *a = command_areas; a->name; a++)
        if (strcmp(a->name, area) == 0)
            return true;
    return false;
}

/* Least and greatest number of arguments of a usage like "NAME [NODE]" or "USER...". */
static void args_range(const char *usage, unsigned *min, unsigned *max)
{
    *min = *max = 0;
    for (const char *p = usage; *p;) {
        size_t n = strcspn(p, " ");
        bool optional = *p == '[';
        bool many = n >= 3 && memmem(p, n, "...", 3) != NULL;
        if (!optional)
            (*min)++;
        if (many)
            *max = ~0u;
        else if (*max != ~0u)
            (*max)++;
        p += n;
        p += strspn(p, " ");
    }
}

/* The option's place in the list "--a --b=VALUE", or NULL. */
static const char *find_option(const struct command *c, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = c->options; *p;) {
        size_t len = strcspn(p, " ");
        if (len >= n + 2 && strncmp(p + 2, name, n) == 0 && (len == n + 2 || p[n + 2] == '='))
            return p + 2;
        p += len;
        p += strspn(p, " ");
    }
    return NULL;
}

int command_option_takes_value(const struct command *c, const char *option)
{
    const char *p = find_option(c, option);
    if (!p)
        return ERR_NOTFOUND;
    return p[strlen(option)] == '=';
}

int command_check(const struct command *c, const char *const *args, unsigned n_args,
                  const char *const *option_names, unsigned n_options, struct err_ctx *err)
{
    unsigned min, max;
    args_range(c->args, &min, &max);
    if (n_args < min)
        return err_set(err, ERR_INVALID, "%s%s%s needs %s", NAME(c), c->args);
    if (n_args > max)
        return err_set(err, ERR_INVALID, "%s%s%s: unexpected argument '%s'", NAME(c), args[max]);
    for (unsigned i = 0; i < n_options; i++)
        if (!find_option(c, option_names[i]))
            return err_set(err, ERR_INVALID, "%s%s%s: unknown option --%s", NAME(c), option_names[i]);
    return 0;
}

/* "user add USER [--password-stdin] [--name=NAME]" */
static void add_usage(struct buf *out, const struct command *c)
{
    buf_addf(out, "%s%s%s", NAME(c));
    if (*c->args)
        buf_addf(out, " %s", c->args);
    for (const char *p = c->options; *p;) {
        size_t n = strcspn(p, " ");
        buf_addf(out, " [%.*s]", (int)n, p);
        p += n;
        p += strspn(p, " ");
    }
}

static void help_line(struct buf *out, const struct command *c)
{
    struct buf usage = {0};
    add_usage(&usage, c);
    buf_addf(out, "  %-52s %s\n", usage.data, c->help);
    buf_fini(&usage);
}

const char *command_input_help(const struct command *c)
{
    switch (c->input) {
    case COMMAND_INPUT_NONE:
        return "";
    case COMMAND_INPUT_STDIN:
        if (command_option_takes_value(c, "password-stdin") >= 0)
            return "the password is asked for at the terminal, or read from standard input with "
                   "--password-stdin";
        return "without VALUE it is asked for at the terminal, or read from standard input";
    case COMMAND_INPUT_FILE:
        return "- as the file's name is standard input";
    case COMMAND_INPUT_FILE_OPTION:
        return "--file=- is standard input";
    case COMMAND_INPUT_PASSPHRASE:
        return "the passphrase wraps the cluster key, without which the secrets in the backup cannot be opened; it is asked "
               "for at the terminal, or read from standard input with --passphrase-stdin";
    case COMMAND_INPUT_CERT_FILES:
        return "PEM files: the certificate with its chain, and the key without a passphrase";
    }
    return "";
}

void command_help(struct buf *out, const char *program, const char *area, const char *verb)
{
    if (!area) {
        buf_addf(out, "Usage: %s [--data DIR | --socket PATH] [--json] AREA VERB [ARGUMENTS]\n\n", program);
        buf_adds(out, "Steers an imp node and, through it, the cluster. Any node answers any command.\n"
                      "Without arguments: an interactive prompt.\n\n"
                      "  --data DIR      the node's data directory (default $IMP_DATA, else /var/lib/imp)\n"
                      "  --socket PATH   its admin socket (default DIR/admin.sock)\n"
                      "  --json          print JSON\n"
                      "  --help          help, at every level\n"
                      "  --version       print the release\n\nAreas:\n");
        for (const struct command_area *a = command_areas; a->name; a++)
            buf_addf(out, "  %-16s%s\n", a->name, a->help);
        buf_addf(out,
                 "\nExit status: 0 done, 1 refused or failed, 2 usage, 3 node not reachable.\n"
                 "More: %s AREA --help\n",
                 program);
        return;
    }
    if (!verb && command_find(area, ""))
        verb = "";
    if (verb) {
        const struct command *c = command_find(area, verb);
        buf_addf(out, "Usage: %s ", program);
        add_usage(out, c);
        buf_addf(out, "\n\n%s\n", c->help);
        if (*command_input_help(c))
            buf_addf(out, "(%s)\n", command_input_help(c));
        if (find_option(c, "current"))
            buf_adds(out, COMMAND_CURRENT_HELP ".\n");
        return;
    }
    buf_addf(out, "Usage: %s %s VERB [ARGUMENTS]\n\n", program, area);
    for (unsigned i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].area, area) == 0)
            help_line(out, &commands[i]);
}
