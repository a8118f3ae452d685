#include "cli/prompt.h"
#include "base/mem.h"
#include "base/release.h"
#include "node/rpc/command.h"
#include <editline/readline.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_WORDS = 256 };

/* Splits in place at blanks; "double quotes" keep blanks. Returns the number of words, or -1 with *WRONG. */
static int split(char *line, char **words, const char **wrong)
{
    int n = 0;
    char *out = line;
    for (char *p = line; *p;) {
        while (*p == ' ' || *p == '\t')
            p++;
        if (!*p)
            break;
        if (n == MAX_WORDS) {
            *wrong = "too many words in one line";
            return -1;
        }
        words[n++] = out;
        bool quoted = false;
        for (; *p && (quoted || (*p != ' ' && *p != '\t')); p++) {
            if (*p == '"')
                quoted = !quoted;
            else
                *out++ = *p;
        }
        if (quoted) {
            *wrong = "a quote is not closed";
            return -1;
        }
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
        if (*c->verb && strlen(c->area) == n && strncmp(c->area, rl_line_buffer, n) == 0 &&
            strncmp(c->verb, text, strlen(text)) == 0)
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

/* Executes one line; true: it asks to leave. */
static bool run_line(const struct client *c, char *line, int *status)
{
    char *words[MAX_WORDS];
    const char *wrong = NULL;
    int n = split(line, words, &wrong);
    if (n < 0) {
        fprintf(stderr, "impcli: %s\n", wrong);
        *status = CLIENT_USAGE;
    } else if (n > 0 && (strcmp(words[0], "exit") == 0 || strcmp(words[0], "quit") == 0)) {
        return true;
    } else if (n == 1 && strcmp(words[0], "help") == 0) {
        *status = client_run(c, 0, NULL);
    } else if (n > 0 && *words[0] != '#') {
        *status = client_run(c, n, words);
    }
    return false;
}

/* Commands from a pipe or file: no prompt, no echo. Unbuffered, as commands read secrets from the same input.
 */
static int run_script(const struct client *c)
{
    int status = 0;
    char *line = NULL;
    size_t cap = 0;
    setvbuf(stdin, NULL, _IONBF, 0);
    for (bool leave = false; !leave && getline(&line, &cap, stdin) >= 0;) {
        line[strcspn(line, "\r\n")] = 0;
        leave = run_line(c, line, &status);
    }
    free(line);
    return status;
}

int prompt_run(const struct client *c)
{
    int status = 0;
    if (!isatty(0))
        return run_script(c);
    rl_initialize();
    using_history();
    rl_attempted_completion_function = complete;
    printf("imp %s: AREA VERB [ARGUMENTS], \"help\" for the list, \"exit\" to leave\n", release_name());
    for (bool leave = false; !leave;) {
        char *line = readline("imp> ");
        if (!line)
            break;
        if (*line)
            add_history(line);
        leave = run_line(c, line, &status);
        free(line);
    }
    return status;
}
