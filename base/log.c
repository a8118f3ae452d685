#include "base/log.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* A line is built on the stack and given to the kernel by one write(2), so lines of several threads never
 * mix. */
enum { TEXT_BYTES = 2048, LINE_BYTES = 6 * TEXT_BYTES + 512, EXIT_SOFTWARE = 70 };

struct sink {
    int fd;
    enum log_format format;
    char node[64];
    pthread_mutex_t lock; /* of the list of categories and of default_level */
    enum log_level default_level;
};

/* The root is the first of the list and owns the sink. */
struct log {
    struct sink *sink;
    struct log *root, *next;
    _Atomic int level;
    char category[32];
};

static const char *const level_names[] = {"DEBUG", "INFO", "NOTICE", "WARNING", "ERROR"};

struct log *log_new(int fd, enum log_format format, enum log_level level, const char *node)
{
    struct sink *sink = mem_new(struct sink);
    sink->fd = fd;
    sink->format = format;
    sink->default_level = level;
    snprintf(sink->node, sizeof(sink->node), "%s", node ? node : "");
    pthread_mutex_init(&sink->lock, NULL);
    struct log *root = mem_new(struct log);
    root->sink = sink;
    root->root = root;
    atomic_init(&root->level, level);
    snprintf(root->category, sizeof(root->category), "main");
    return root;
}

void log_free(struct log *root)
{
    if (!root)
        return;
    pthread_mutex_destroy(&root->sink->lock);
    mem_free(root->sink);
    while (root) {
        struct log *next = root->next;
        mem_free(root);
        root = next;
    }
}

struct log *log_category(struct log *log, const char *category)
{
    if (!log)
        return NULL;
    struct sink *sink = log->sink;
    pthread_mutex_lock(&sink->lock);
    struct log *c = log->root;
    while (c && strcmp(c->category, category) != 0)
        c = c->next;
    if (!c) {
        c = mem_new(struct log);
        c->sink = sink;
        c->root = log->root;
        atomic_init(&c->level, sink->default_level);
        snprintf(c->category, sizeof(c->category), "%s", category);
        c->next = log->root->next;
        log->root->next = c;
    }
    pthread_mutex_unlock(&sink->lock);
    return c;
}

int log_set_level(struct log *log, const char *category, enum log_level level)
{
    struct sink *sink = log->sink;
    int rc = category ? ERR_NOTFOUND : ERR_OK;
    pthread_mutex_lock(&sink->lock);
    if (!category)
        sink->default_level = level;
    for (struct log *c = log->root; c; c = c->next) {
        if (category && strcmp(c->category, category) != 0)
            continue;
        atomic_store_explicit(&c->level, level, memory_order_relaxed);
        rc = ERR_OK;
    }
    pthread_mutex_unlock(&sink->lock);
    return rc;
}

int log_level_parse(const char *s)
{
    for (size_t i = 0; i < n_elements(level_names); i++)
        if (strcasecmp(s, level_names[i]) == 0)
            return (int)i;
    return ERR_INVALID;
}

bool log_is_on(const struct log *log, enum log_level level)
{
    return log && (int)level >= atomic_load_explicit(&log->level, memory_order_relaxed);
}

/* Length of the well-formed UTF-8 character at S (RFC 3629 §4), 0 if it is none or a C1 control. */
static size_t utf8_length(const unsigned char *s)
{
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    size_t n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool surrogate = s[0] == 0xed && s[1] >= 0xa0;
    bool too_big = s[0] == 0xf4 && s[1] >= 0x90;
    bool control = s[0] == 0xc2 && s[1] < 0xa0;
    return overlong || surrogate || too_big || control ? 0 : n;
}

/* What a peer sent may be in the text: neither a second line nor a terminal sequence may come of it. */
static char *put_escaped(char *out, const char *text, bool json)
{
    const unsigned char *s = (const unsigned char *)text;
    while (*s) {
        if (*s >= 0x80) {
            size_t n = utf8_length(s);
            if (n) {
                memcpy(out, s, n);
                out += n;
                s += n;
            } else {
                out += sprintf(out, json ? "\\u%04x" : "\\x%02x", *s++);
            }
        } else if (*s == '\n' || *s == '\t' || *s == '\r') {
            *out++ = '\\';
            *out++ = *s == '\n' ? 'n' : *s == '\t' ? 't' : 'r';
            s++;
        } else if (*s < 0x20 || *s == 0x7f) {
            out += sprintf(out, json ? "\\u%04x" : "\\x%02x", *s++);
        } else {
            if (*s == '\\' || (json && *s == '"'))
                *out++ = '\\';
            *out++ = (char)*s++;
        }
    }
    return out;
}

static char *put(char *out, const char *s)
{
    return stpcpy(out, s);
}

static void write_line(const struct log *log, enum log_level level, const char *text)
{
    const struct sink *sink = log->sink;
    char line[LINE_BYTES], time[32];
    clock_format_utc(time, clock_wall_ms(), 1);
    char *p = line;
    if (sink->format == LOG_JSON) {
        p = put(put(put(p, "{\"time\":\""), time), "\",\"node\":\"");
        p = put(put_escaped(p, sink->node, true), "\",\"category\":\"");
        p = put(put_escaped(p, log->category, true), "\",\"level\":\"");
        p = put(put(p, level_names[level]), "\",\"text\":\"");
        p = put(put_escaped(p, text, true), "\"}\n");
    } else {
        p = put(put(p, time), " ");
        if (sink->node[0])
            p = put(put_escaped(p, sink->node, false), " ");
        p = put(put(put(put(p, log->category), " "), level_names[level]), " ");
        p = put(put_escaped(p, text, false), "\n");
    }
    const char *from = line;
    while (from < p) {
        ssize_t n = write(sink->fd, from, (size_t)(p - from));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break; /* nowhere to complain */
        from += n;
    }
}

static void write_format(const struct log *log, enum log_level level, const char *format, va_list args)
{
    char text[TEXT_BYTES];
    int n = vsnprintf(text, sizeof(text), format, args);
    if (n < 0)
        return;
    if ((size_t)n >= sizeof(text))
        memcpy(text + sizeof(text) - 4, "...", 4);
    write_line(log, level, text);
}

void log_write(const struct log *log, enum log_level level, const char *format, ...)
{
    if (!log)
        return;
    int saved = errno;
    va_list args;
    va_start(args, format);
    write_format(log, level, format, args);
    va_end(args);
    errno = saved;
}

void log_fatal(const struct log *log, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (log) {
        write_format(log, LOG_ERROR, format, args);
    } else {
        vdprintf(STDERR_FILENO, format, args);
        dprintf(STDERR_FILENO, "\n");
    }
    va_end(args);
    _exit(EXIT_SOFTWARE);
}
