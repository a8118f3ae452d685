/* Log lines to stderr or a file. A struct log is a sink plus a category; immutable, any thread. Secrets never enter. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_NOTICE, LOG_WARNING, LOG_ERROR };
enum log_format { LOG_TEXT, LOG_JSON };
struct log;

/* NODE: name shown in every line, may be "". FD stays the caller's. */
struct log *log_new(int fd, enum log_format format, enum log_level level, const char *node);
void log_free(struct log *root);
/* The child of ROOT's sink for a category ("raft", "xmpp", ...); the same pointer for the same name; lives as long as
 * ROOT. */
struct log *log_category(struct log *root, const char *category);
/* CATEGORY NULL: all of them. ERR_NOTFOUND if nobody uses that category. */
int log_set_level(struct log *root, const char *category, enum log_level level);
int log_level_parse(const char *s); /* "debug" .. "error", or ERR_INVALID */
bool log_is_on(const struct log *log, enum log_level level);
void log_write(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#define log_at(l, level, ...) (log_is_on((l), (level)) ? log_write((l), (level), __VA_ARGS__) : (void)0)
#define log_debug(l, ...) log_at((l), LOG_DEBUG, __VA_ARGS__)
#define log_info(l, ...) log_at((l), LOG_INFO, __VA_ARGS__)
#define log_notice(l, ...) log_at((l), LOG_NOTICE, __VA_ARGS__)
#define log_warning(l, ...) log_at((l), LOG_WARNING, __VA_ARGS__)
#define log_error(l, ...) log_at((l), LOG_ERROR, __VA_ARGS__)
/* A broken invariant or dead disk: writes the line and ends the process with _exit(70). */
void log_fatal(const struct log *log, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));

#endif
