/* impnode: makes, joins and runs a node. */
#include "base/release.h"
#include "node/verbs.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct verb verbs[] = {
    {"init", "--data DIR --name NAME --address ADDR --domain DOMAIN [OPTIONS]", "make a new cluster",
     "Makes the publisher, the first node of a new cluster: data directory, cluster id, CA, certificate.",
     "domain *", "data name address domain", false, verb_init},
    {"join", "HOST[:PORT] --token TOKEN --data DIR --name NAME --address ADDR [OPTIONS]",
     "make a node of a cluster",
     "Enrols a subscriber; HOST is any member. The same command run again finishes a join that was cut "
     "short.",
     "token run *", "token data name address", true, verb_join},
    {"run", "--data DIR [OPTIONS]", "run the node",
     "Runs the node in the foreground and starts it again when it fails. SIGTERM ends it, SIGHUP reloads.",
     "log-level log-format", "data", false, verb_run},
    {"recover", "--data DIR --force-new-cluster [--yes]", "last resort after the loss of the quorum",
     "Makes a cluster of its own of this node after the quorum is lost for good. What the other nodes had "
     "acknowledged\n"
     "and this one has not received is lost. The other nodes must join anew, with empty directories.",
     "force-new-cluster yes", "data force-new-cluster", false, verb_recover},
    {"restore", "FILE --data DIR --name NAME --address ADDR [OPTIONS]", "make a new cluster from a backup",
     "Makes a new cluster from a file of 'impcli backup', with this node as its only member: users, settings, rosters and\n"
     "stored messages as they were; the other nodes join anew. With --dry-run FILE is only checked.",
     "passphrase-stdin without-keys dry-run *", "data name address", true, verb_restore},
};
enum { N_VERBS = sizeof(verbs) / sizeof(verbs[0]) };

int verb_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("impnode: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 1;
}

static void print_help(FILE *to)
{
    fprintf(to, "Usage: impnode COMMAND [OPTIONS]\n\nCommands:\n");
    for (size_t i = 0; i < N_VERBS; i++)
        fprintf(to, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(to, "\n'impnode COMMAND --help' explains each.\n");
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(stdout);
        return 0;
    }
    if (!strcmp(argv[1], "--version")) {
        printf("impnode %s\n", release_name());
        return 0;
    }
    for (size_t i = 0; i < N_VERBS; i++) {
        if (strcmp(argv[1], verbs[i].name))
            continue;
        struct options o;
        int rc = options_parse(&o, &verbs[i], argc - 2, argv + 2);
        return rc == 1 ? 0 : rc ? rc : verbs[i].run(&o);
    }
    fprintf(stderr, "impnode: unknown command '%s'\n", argv[1]);
    print_help(stderr);
    return 2;
}
