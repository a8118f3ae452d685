#include "node/config.h"
#include "cluster/datadir.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <netdb.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum type { TEXT, BOOL, NUMBER, LISTEN, CHOICE, LONG };
static const struct key {
    const char *name, *fallback, *help;
    enum type type;
    size_t offset;
} keys[] = {
#define X(field, type, key, def, help) {key, def, help, type, offsetof(struct config, field)},
#include "node/config.def"
#undef X
};
enum { N_KEYS = sizeof(keys) / sizeof(keys[0]) };

static const struct key *find_key(const char *name)
{
    for (size_t i = 0; i < N_KEYS; i++)
        if (!strcmp(keys[i].name, name))
            return &keys[i];
    return NULL;
}

bool config_is_flag(const char *key)
{
    const struct key *k = find_key(key);
    return k && k->type == BOOL;
}

/* ---- values ---- */

static bool is_numeric_address(const char *s)
{
    struct in6_addr a;
    return inet_pton(AF_INET, s, &a) == 1 || inet_pton(AF_INET6, s, &a) == 1;
}

static bool parse_number(const char *s, unsigned max, unsigned *out)
{
    char *end;
    if (!isdigit((unsigned char)*s))
        return false;
    unsigned long v = strtoul(s, &end, 10);
    *out = (unsigned)v;
    return !*end && v <= max;
}

/* [ADDR:]PORT with an IPv6 address in brackets, or off. */
static bool parse_listen(const char *s, struct config_listen *out)
{
    struct config_listen l = {0};
    if (!strcmp(s, "off")) {
        l.off = true;
        *out = l;
        return true;
    }
    const char *colon = strrchr(s, ':');
    if (colon) {
        size_t n = (size_t)(colon - s);
        if (n >= 2 && s[0] == '[' && s[n - 1] == ']')
            s++, n -= 2;
        if (!n || n >= sizeof(l.address))
            return false;
        memcpy(l.address, s, n);
        if (!is_numeric_address(l.address))
            return false;
        s = colon + 1;
    }
    if (!parse_number(s, 65535, &l.port) || !l.port)
        return false;
    *out = l;
    return true;
}

static bool is_choice(const char *help, const char *value)
{
    size_t n = strlen(value), end = strcspn(help, ":");
    for (const char *p = help; n && p < help + end;) {
        size_t len = strcspn(p, "|:");
        if (len == n && !memcmp(p, value, n))
            return true;
        p += len + 1;
    }
    return false;
}

static bool is_text(const char *value)
{
    for (const char *p = value; *p; p++)
        if ((unsigned char)*p <= ' ' || *p == 127 || *p == '"')
            return false;
    return true;
}

static bool set_value(struct config *c, const struct key *k, const char *value)
{
    void *field = (char *)c + k->offset;
    switch (k->type) {
    case TEXT:
        return is_text(value) && snprintf(field, CONFIG_TEXT_MAX + 1, "%s", value) <= CONFIG_TEXT_MAX;
    case LONG:
        return is_text(value) && snprintf(field, CONFIG_LONG_MAX + 1, "%s", value) <= CONFIG_LONG_MAX;
    case BOOL:
        if (strcmp(value, "true") && strcmp(value, "false"))
            return false;
        *(bool *)field = !strcmp(value, "true");
        return true;
    case NUMBER:
        return parse_number(value, 256, field);
    case LISTEN:
        return parse_listen(value, field);
    case CHOICE:
        return is_choice(k->help, value) && snprintf(field, sizeof(config_CHOICE), "%s", value) > 0;
    }
    return false;
}

int config_set(struct config *c, const char *key, const char *value, struct err_ctx *err)
{
    static const char *const wanted[] = {"a text without blanks", "true or false", "a number from 0 to 256",
                                         "[ADDR:]PORT or off", "one of ", "a text without blanks"};
    const struct key *k = find_key(key);
    if (!k)
        return err_set(err, ERR_NOTFOUND, "unknown key '%s'", key);
    if (set_value(c, k, value))
        return 0;
    return err_set(err, ERR_INVALID, "%s: '%s' is not %s%.*s", key, value, wanted[k->type],
                   k->type == CHOICE ? (int)strcspn(k->help, ":") : 0, k->help);
}

void config_init(struct config *c)
{
    memset(c, 0, sizeof(*c));
    for (size_t i = 0; i < N_KEYS; i++)
        set_value(c, &keys[i], keys[i].fallback);
}

static void format_value(const struct config *c, const struct key *k, char out[CONFIG_LONG_MAX + 1])
{
    const void *field = (const char *)c + k->offset;
    const struct config_listen *l = field;
    switch (k->type) {
    case LONG:
        snprintf(out, CONFIG_LONG_MAX + 1, "%s", (const char *)field);
        break;
    case TEXT:
    case CHOICE:
        snprintf(out, CONFIG_TEXT_MAX + 1, "%s", (const char *)field);
        break;
    case BOOL:
        snprintf(out, CONFIG_TEXT_MAX + 1, "%s", *(const bool *)field ? "true" : "false");
        break;
    case NUMBER:
        snprintf(out, CONFIG_TEXT_MAX + 1, "%u", *(const unsigned *)field);
        break;
    case LISTEN:
        if (l->off)
            snprintf(out, CONFIG_TEXT_MAX + 1, "off");
        else if (!*l->address)
            snprintf(out, CONFIG_TEXT_MAX + 1, "%u", l->port);
        else
            snprintf(out, CONFIG_TEXT_MAX + 1, strchr(l->address, ':') ? "[%s]:%u" : "%s:%u", l->address,
                     l->port);
        break;
    }
}

/* ---- the file ---- */

static char *trim(char *s)
{
    s += strspn(s, " \t");
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1]))
        s[--n] = '\0';
    if (n >= 2 && s[0] == '"' && s[n - 1] == '"') {
        s[n - 1] = '\0';
        s++;
    }
    return s;
}

int config_parse(struct config *c, const char *file, char *text, struct err_ctx *err)
{
    bool seen[N_KEYS] = {false};
    unsigned n_line = 0;
    for (char *line = text, *next; line; line = next) {
        n_line++;
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        line += strspn(line, " \t\r");
        if (!*line || *line == '#')
            continue;
        char *colon = strchr(line, ':');
        if (!colon)
            return err_set(err, ERR_MALFORMED, "%s:%u: expected 'key: value'", file, n_line);
        *colon = '\0';
        const char *key = trim(line), *value = trim(colon + 1);
        const struct key *k = find_key(key);
        if (k && seen[k - keys])
            return err_set(err, ERR_MALFORMED, "%s:%u: %s is there twice", file, n_line, key);
        if (k)
            seen[k - keys] = true;
        int rc = config_set(c, key, value, err);
        if (rc)
            return err_prefix(err, rc, "%s:%u", file, n_line);
    }
    return 0;
}

void config_write(const struct config *c, struct buf *out)
{
    struct config fresh;
    config_init(&fresh);
    buf_adds(out, "# Choices of this node; 'impnode init --help' explains the keys. Read at the start.\n");
    for (size_t i = 0; i < N_KEYS; i++) {
        char value[CONFIG_LONG_MAX + 1], other[CONFIG_LONG_MAX + 1];
        format_value(c, &keys[i], value);
        format_value(&fresh, &keys[i], other);
        if (strcmp(value, other))
            buf_addf(out, "%s: %s\n", keys[i].name, value);
    }
}

int config_check(const struct config *c, struct err_ctx *err)
{
    if (!datadir_is_name(c->name))
        return err_set(err, ERR_INVALID, "name: '%s' is not a name: 1 to 63 letters, digits, - _", c->name);
    if (!*c->address || strlen(c->address) > 253)
        return err_set(err, ERR_INVALID, "address: what the other nodes reach this one by is missing");
    if (*c->bind && !is_numeric_address(c->bind))
        return err_set(err, ERR_INVALID, "bind: '%s' is not a numeric address", c->bind);
    if (c->listen_cluster.off)
        return err_set(err, ERR_INVALID, "listen-cluster: the port for the other nodes cannot be off");
    return 0;
}

void config_write_help(struct buf *out)
{
    for (size_t i = 0; i < N_KEYS; i++) {
        static const char *const values[] = {"TEXT", "", "N", "[ADDR:]PORT", "WORD", "LIST"};
        char left[64];
        snprintf(left, sizeof(left), "--%s %s", keys[i].name, values[keys[i].type]);
        buf_addf(out, "  %-30s %s%s%s%s\n", left, keys[i].help,
                 *keys[i].fallback && keys[i].type != BOOL ? " (" : "",
                 keys[i].type != BOOL ? keys[i].fallback : "",
                 *keys[i].fallback && keys[i].type != BOOL ? ")" : "");
    }
}

/* ---- what follows from it ---- */

static bool is_local(const struct sockaddr *sa, socklen_t n)
{
    int fd = socket(sa->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool ok = !bind(fd, sa, n);
    close(fd);
    return ok;
}

static bool local_address(const char *host, char out[64])
{
    char bare[CONFIG_TEXT_MAX + 1];
    snprintf(bare, sizeof(bare), "%s", *host == '[' ? host + 1 : host);
    if (*host == '[')
        bare[strcspn(bare, "]")] = '\0';
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (getaddrinfo(bare, NULL, &hints, &list))
        return false;
    bool found = false;
    for (struct addrinfo *a = list; a && !found; a = a->ai_next)
        found = is_local(a->ai_addr, a->ai_addrlen) &&
                !getnameinfo(a->ai_addr, a->ai_addrlen, out, 64, NULL, 0, NI_NUMERICHOST);
    freeaddrinfo(list);
    return found;
}

void config_listen_address(const struct config *c, const struct config_listen *l, char out[64])
{
    if (*l->address)
        snprintf(out, 64, "%s", l->address);
    else if (*c->bind)
        snprintf(out, 64, "%.63s", c->bind);
    else if (!local_address(c->address, out))
        *out = '\0';
}

void config_election(const struct config *c, unsigned *election_ms, unsigned *heartbeat_ms)
{
    *election_ms = !strcmp(c->timing, "lan") ? 200 : !strcmp(c->timing, "wan") ? 2000 : 600;
    *heartbeat_ms = *election_ms / 10;
}
