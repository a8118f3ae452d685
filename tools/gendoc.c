/* gendoc man|completion|settings: the man page of impcli, its bash completion and the settings reference,
 * from the same tables that the programs use. Written to standard output. */
#include "base/buf.h"
#include "base/release.h"
#include "node/rpc/command.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

/* troff: a backslash and a leading dot are commands, '-' would become a hyphen. */
static void man_text(const char *s)
{
    for (; *s; s++) {
        if (*s == '-')
            fputs("\\-", stdout);
        else if (*s == '\\')
            fputs("\\e", stdout);
        else
            putchar(*s);
    }
}

static void man_command(const struct command *c)
{
    printf(".TP\n.B ");
    man_text(c->area);
    if (*c->verb) {
        putchar(' ');
        man_text(c->verb);
    }
    if (*c->args) {
        putchar(' ');
        man_text(c->args);
    }
    for (const char *p = c->options; *p;) {
        size_t n = strcspn(p, " ");
        char word[128];
        snprintf(word, sizeof word, " [%.*s]", (int)n, p);
        man_text(word);
        p += n;
        p += strspn(p, " ");
    }
    putchar('\n');
    man_text(c->help);
    if (*command_input_help(c)) {
        fputs(";\n", stdout);
        man_text(command_input_help(c));
    }
    fputs(".\n", stdout);
}

static void write_man(void)
{
    printf(".TH IMPCLI 1 \"\" \"imp %s\" \"imp\"\n", release_name());
    puts(".SH NAME\nimpcli \\- steer an imp node and its cluster\n"
         ".SH SYNOPSIS\n.B impcli\n[\\-\\-data DIR | \\-\\-socket PATH] [\\-\\-json] AREA VERB [ARGUMENTS]\n"
         ".SH DESCRIPTION\nSpeaks to a node over its admin socket. Any node answers any command; writes "
         "reach the leader by\n"
         "themselves. Without arguments: an interactive prompt with completion.\n"
         ".SH OPTIONS\n.TP\n.B \\-\\-data DIR\nThe node's data directory (default $IMP_DATA, else "
         "/var/lib/imp).\n"
         ".TP\n.B \\-\\-socket PATH\nIts admin socket (default DIR/admin.sock).\n.TP\n.B \\-\\-json\nPrint "
         "JSON.\n"
         ".TP\n.B \\-\\-help\nHelp, at every level.\n");
    /* of many commands, so only here */
    puts(".TP\n.B \\-\\-current\nOf commands that show what is stored: with everything that was acknowledged "
         "on any node "
         "before; needs a majority\nof the voters. Without it: what this node has applied, which may be "
         "moments behind.\n"
         ".SH COMMANDS");
    for (const struct command_area *a = command_areas; a->name; a++) {
        printf(".SS %s: ", a->name);
        man_text(a->help);
        putchar('\n');
        for (unsigned i = 0; i < N_COMMANDS; i++)
            if (strcmp(commands[i].area, a->name) == 0)
                man_command(&commands[i]);
    }
    puts(".SH EXIT STATUS\n0 done, 1 refused or failed (the reason is on standard error), 2 usage, 3 node "
         "not reachable.\n"
         "A node that ends with a write under way leaves \"outcome unknown\" and exit status 1.\n"
         ".SH SETTINGS\nSee the settings reference, or impcli settings list.\n"
         ".SH ENVIRONMENT\n.TP\n.B IMP_DATA\nThe data directory, where \\-\\-data is not given.\n"
         ".SH EXAMPLES\n.nf\n"
         "impcli dbreplication runtimestate \\-\\-watch\n"
         "impcli node token \\-\\-ttl 15m\n"
         "impcli user assign alice bob \\-\\-node n2\n"
         "impcli settings set axl.ca < callmanager.pem\n"
         "impcli \\-\\-json alarm list\n.fi\n"
         ".SH SEE ALSO\n.BR impnode (8)");
}

static void write_completion(void)
{
    puts("# bash completion of impcli\n_impcli() {\n"
         "    local cur=${COMP_WORDS[COMP_CWORD]} area= verb= skip= w i\n"
         "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
         "        w=${COMP_WORDS[i]}\n"
         "        if [ -n \"$skip\" ]; then skip=; continue; fi\n"
         "        case $w in\n"
         "        --data | --socket) skip=1 ;;\n"
         "        -*) ;;\n"
         "        *) if [ -z \"$area\" ]; then area=$w; elif [ -z \"$verb\" ]; then verb=$w; fi ;;\n"
         "        esac\n"
         "    done\n"
         "    local words=\"--json --help\"\n"
         "    case \"$area $verb\" in");
    printf("    \" \") words=\"$words --data --socket --version");
    for (const struct command_area *a = command_areas; a->name; a++)
        printf(" %s", a->name);
    puts("\" ;;");
    for (const struct command_area *a = command_areas; a->name; a++) {
        if (command_find(a->name, ""))
            continue; /* its options are below */
        printf("    \"%s \") words=\"$words", a->name);
        for (unsigned i = 0; i < N_COMMANDS; i++)
            if (strcmp(commands[i].area, a->name) == 0)
                printf(" %s", commands[i].verb);
        puts("\" ;;");
    }
    for (unsigned i = 0; i < N_COMMANDS; i++) {
        if (!*commands[i].options)
            continue;
        printf("    \"%s %s\") words=\"$words", commands[i].area, commands[i].verb);
        for (const char *p = commands[i].options; *p;) {
            size_t n = strcspn(p, " ");
            printf(" %.*s", (int)strcspn(p, "= "), p);
            p += n;
            p += strspn(p, " ");
        }
        puts("\" ;;");
    }
    puts("    esac\n"
         "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n"
         "    [ ${#COMPREPLY[@]} -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n"
         "}\ncomplete -F _impcli impcli");
}

static const char *type_text(const struct setting_def *d)
{
    static const char *const names[] = {"true or false", "number", "text", "choice", "secret"};
    return names[d->type];
}

/* A cell of a table: '|' would end it. */
static void cell_text(const char *s)
{
    for (; *s; s++) {
        if (*s == '|')
            putchar('\\');
        putchar(*s);
    }
}

static void write_settings(void)
{
    puts("# Settings\n\nReplicated; they take effect without a restart. `impcli settings set KEY VALUE`; "
         "`node.NAME.KEY` overrides KEY on\n"
         "one node. Secrets are read from standard input, stored sealed and never printed.\n\n"
         "This page is made by `gendoc settings` from `replication/settings.def`: change it there.\n\n"
         "| key | type | default | range | meaning |\n|---|---|---|---|---|");
    for (unsigned i = 0; i < N_SETTINGS; i++) {
        const struct setting_def *d = &setting_defs[i];
        char range[128] = "";
        if (d->type == SETTING_IS_INT)
            snprintf(range, sizeof range, "%lld to %lld%s%s", d->min, d->max, *d->unit ? " " : "", d->unit);
        else if (d->type == SETTING_IS_STRING)
            snprintf(range, sizeof range, "%lld bytes at most", d->max);
        else if (d->type == SETTING_IS_ENUM)
            for (const char *p = d->choices; *p; p++)
                snprintf(range + strlen(range), sizeof range - strlen(range), *p == '|' ? ", " : "%c", *p);
        printf("| `%s` | %s | %s%s%s | ", d->key, type_text(d), *d->initial ? "`" : "", d->initial,
               *d->initial ? "`" : "");
        cell_text(range);
        fputs(" | ", stdout);
        cell_text(d->help);
        puts(" |");
    }
}

int main(int argc, char **argv)
{
    const char *what = argc == 2 ? argv[1] : "";
    if (strcmp(what, "man") == 0)
        write_man();
    else if (strcmp(what, "completion") == 0)
        write_completion();
    else if (strcmp(what, "settings") == 0)
        write_settings();
    else {
        fputs("usage: gendoc man|completion|settings\n", stderr);
        return 2;
    }
    return 0;
}
