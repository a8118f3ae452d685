#include "node/options.h"
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const struct option {
    const char *name, *value, *help; /* value NULL: a switch */
    size_t offset;
} options[] = {
    {"data", "DIR", "data directory of the node", offsetof(struct options, data)},
    {"domain", "DOMAIN", "first domain of the users, for example example.com",
     offsetof(struct options, domain)},
    {"token", "TOKEN", "one-time token from 'impcli node token'; - reads it from stdin",
     offsetof(struct options, token)},
    {"run", NULL, "go on as the node", offsetof(struct options, run)},
    {"yes", NULL, "do not ask", offsetof(struct options, yes)},
    {"force-new-cluster", NULL, "make this node a cluster of its own",
     offsetof(struct options, force_new_cluster)},
    {"passphrase-stdin", NULL, "read the passphrase of the backup from standard input",
     offsetof(struct options, passphrase_stdin)},
    {"without-keys", NULL, "go on without the cluster key of the backup: secrets must be entered again",
     offsetof(struct options, without_keys)},
    {"dry-run", NULL, "check the backup and make nothing", offsetof(struct options, dry_run)},
    {"log-level", "LEVEL", "debug, info, notice, warning or error", offsetof(struct options, log_level)},
    {"log-format", "FORMAT", "text or json", offsetof(struct options, log_format)},
};
enum { N_OPTIONS = sizeof(options) / sizeof(options[0]) };

static bool has_word(const char *list, const char *word, size_t n)
{
    for (const char *p = list; *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");
        if (len == n && !memcmp(p, word, n))
            return true;
        p += len;
    }
    return false;
}

static bool takes(const struct verb *v, const char *name)
{
    return !strcmp(name, "data") || has_word(v->options, name, strlen(name));
}

void options_print_help(const struct verb *v)
{
    printf("Usage: impnode %s %s\n\n%s\n\nOptions:\n", v->name, v->arguments, v->help);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char left[64];
        snprintf(left, sizeof(left), "--%s %s", options[i].name, options[i].value ? options[i].value : "");
        if (takes(v, options[i].name))
            printf("  %-30s %s\n", left, options[i].help);
    }
    if (has_word(v->options, "*", 1)) {
        struct buf b = {0};
        config_write_help(&b);
        printf("\nKept in DIR/impnode.yaml:\n%s", b.data);
        buf_fini(&b);
    }
}

static int usage(const struct verb *v, const char *what, const char *which)
{
    fprintf(stderr, "impnode %s: %s%s\nUsage: impnode %s %s\nTry 'impnode %s --help'.\n", v->name, what,
            which, v->name, v->arguments, v->name);
    return 2;
}

/* "--name", "--name VALUE" or "--name=VALUE" at argv[*i]. */
static int parse_option(struct options *o, const struct verb *v, int argc, char **argv, int *i)
{
    char name[64];
    const char *word = argv[*i] + 2, *equals = strchr(word, '=');
    snprintf(name, sizeof(name), "%.*s", equals ? (int)(equals - word) : 63, word);
    const struct option *known = NULL;
    for (size_t k = 0; k < N_OPTIONS && takes(v, name); k++)
        if (!strcmp(options[k].name, name))
            known = &options[k];
    bool is_switch = known ? !known->value : config_is_flag(name);
    const char *value = equals ? equals + 1 : NULL;
    if (!known && !has_word(v->options, "*", 1))
        return usage(v, "unknown option ", argv[*i]);
    if (!is_switch && !value) {
        if (*i + 1 >= argc)
            return usage(v, "a value is missing after ", argv[*i]);
        value = argv[++*i];
    }
    if (known && is_switch) {
        *(bool *)((char *)o + known->offset) = true;
        return 0;
    }
    if (known) {
        *(const char **)((char *)o + known->offset) = value;
        return 0;
    }
    struct err_ctx err = {0};
    int rc = config_set(&o->config, name, is_switch ? "true" : value, &err);
    return rc == ERR_NOTFOUND ? usage(v, "unknown option ", argv[*i]) : rc ? usage(v, "--", err.text) : 0;
}

static bool is_given(const struct options *o, const char *name, size_t n)
{
    for (size_t k = 0; k < N_OPTIONS; k++)
        if (strlen(options[k].name) == n && !memcmp(options[k].name, name, n))
            return options[k].value ? *(const char *const *)((const char *)o + options[k].offset) != NULL
                                    : *(const bool *)((const char *)o + options[k].offset);
    if (n == 4 && !memcmp(name, "name", 4))
        return *o->config.name != '\0';
    return *o->config.address != '\0';
}

static int check_required(const struct options *o, const struct verb *v)
{
    if (o->dry_run)
        return 0;
    for (const char *p = v->required; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        char name[64];
        snprintf(name, sizeof(name), "%.*s", (int)n, p);
        if (!is_given(o, p, n))
            return usage(v, "this option is required: --", name);
        p += n;
    }
    return 0;
}

int options_parse(struct options *o, const struct verb *v, int argc, char **argv)
{
    memset(o, 0, sizeof(*o));
    config_init(&o->config);
    const char *argument = NULL;
    for (int i = 0; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            options_print_help(v);
            return 1;
        }
        if (!strncmp(argv[i], "--", 2)) {
            int rc = parse_option(o, v, argc, argv, &i);
            if (rc)
                return rc;
        } else if (v->has_argument && !argument) {
            argument = argv[i];
        } else {
            return usage(v, "what is this: ", argv[i]);
        }
    }
    if (v->has_argument && !argument)
        return usage(v, "an argument is missing", "");
    o->host = o->file = argument;
    return check_required(o, v);
}
