#include "cli/prompt.h"
#include "base/mem.h"
#include "node/rpc/command.h"
#include <editline/readline.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 256 };

/* Splits in place at blanks; "double quotes" keep blanks. Returns the number of words, -1 on an open quote. */
static int split(char *line, char **words)
{
    int n = 0;
    char *out = line;
    for (char *p = line; *p && n < MAX_WORDS;) {
        while (*p == ' ' || *p == '\t')
            p++;
        if (!*p)
            break;
        words[n++] = out;
        bool quoted = false;
        for (; *p && (quoted || (*p != ' ' && *p != '\t')); p++) {
            if (*p == '"')
                quoted = !quoted;
            else
                *out++ = *p;
        }
        if (quoted)
            return -1;
        if (*p)
            p++;
        *out++ = 0;
    }
    return n;
}

/* readline's generators have no user pointer: the words before the cursor are read from the line itself. */
static char *complete_area(const char *text, int state)
{
    static int next; /* libedit calls the generator with state 0 first, on the only thread */
    if (state == 0)
        next = 0;
    while (command_areas[next].name) {
        const char *name = command_areas[next++].name;
        if (strncmp(name, text, strlen(text)) == 0)
            return strdup(name);
    }
    return NULL;
}

static char *complete_verb(const char *text, int state)
{
    static unsigned next;
    if (state == 0)
        next = 0;
    size_t n = strcspn(rl_line_buffer, " ");
    while (next < N_COMMANDS) {
        const struct command *c = &commands[next++];
        if (strlen(c->area) == n && strncmp(c->area, rl_line_buffer, n) == 0 && strncmp(c->verb, text, strlen(text)) == 0)
            return strdup(c->verb);
    }
    return NULL;
}

static char **complete(const char *text, int start, int end)
{
    int words = 0;
    for (int i = 0; i < start; i++)
        if (rl_line_buffer[i] != ' ' && (i == 0 || rl_line_buffer[i - 1] == ' '))
            words++;
    rl_attempted_completion_over = 1;
    if (words == 0)
        return rl_completion_matches(text, complete_area);
    if (words == 1)
        return rl_completion_matches(text, complete_verb);
    return NULL;
}

int prompt_run(const struct client *c)
{
    int status = 0;
    rl_initialize();
    using_history();
    rl_attempted_completion_function = complete;
    puts("imp " IMP_RELEASE ": AREA VERB [ARGUMENTS], \"help\" for the list, \"exit\" to leave");
    for (;;) {
        char *words[MAX_WORDS];
        char *line = readline("imp> ");
        if (!line)
            break;
        if (*line)
            add_history(line);
        int n = split(line, words);
        bool leave = n > 0 && (strcmp(words[0], "exit") == 0 || strcmp(words[0], "quit") == 0);
        if (n < 0)
            fputs("impcli: a quote is not closed\n", stderr);
        else if (n == 1 && strcmp(words[0], "help") == 0)
            status = client_run(c, 0, NULL);
        else if (n > 0 && !leave)
            status = client_run(c, n, words);
        free(line);
        if (leave)
            break;
    }
    return status;
}
