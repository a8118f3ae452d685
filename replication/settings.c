#include "replication/settings.h"
#include "replication/levels.h"
#include <stdlib.h>
#include <string.h>

const struct setting_def setting_defs[N_SETTINGS] = {
#define X(...) X_AT(1, __VA_ARGS__)
#define X_AT(level_, id, key_, type_, unit_, min_, max_, def_, choices_, help_)                              \
    [SETTING_##id] = {.key = key_,                                                                           \
                      .type = SETTING_IS_##type_,                                                            \
                      .unit = unit_,                                                                         \
                      .min = min_,                                                                           \
                      .max = max_,                                                                           \
                      .initial = def_,                                                                       \
                      .choices = choices_,                                                                   \
                      .help = help_,                                                                         \
                      .level = level_},
#include "replication/settings.def"
#undef X
};

int setting_find(const char *key, char *node)
{
    if (node)
        *node = 0;
    if (strncmp(key, "node.", 5) == 0) {
        const char *name = key + 5, *dot = strchr(name, '.');
        if (!dot || dot == name || dot - name >= SETTING_NODE_NAME_MAX)
            return ERR_NOTFOUND;
        if (node) {
            memcpy(node, name, (size_t)(dot - name));
            node[dot - name] = 0;
        }
        key = dot + 1;
    }
    for (int i = 0; i < N_SETTINGS; i++)
        if (strcmp(setting_defs[i].key, key) == 0 && setting_defs[i].level <= level_known())
            return i;
    return ERR_NOTFOUND;
}

static bool parse_int(const char *value, long long *out)
{
    const char *p = value + (*value == '-');
    size_t n = strlen(p);
    if (n == 0 || n > 18 || strspn(p, "0123456789") != n)
        return false;
    *out = strtoll(value, NULL, 10);
    return true;
}

static bool is_choice(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *p = choices; *p;) {
        size_t len = strcspn(p, "|");
        if (len == n && memcmp(p, value, n) == 0)
            return true;
        p += len;
        p += *p == '|';
    }
    return false;
}

int setting_check(const char *key, const char *value, struct err_ctx *err)
{
    char node[SETTING_NODE_NAME_MAX];
    int id = setting_find(key, node);
    if (id < 0)
        return err_set(err, ERR_NOTFOUND, "there is no setting '%.100s'", key);
    const struct setting_def *def = &setting_defs[id];
    long long v;
    switch (def->type) {
    case SETTING_IS_BOOL:
        if (strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
            return err_set(err, ERR_INVALID, "%s is true or false, not '%.100s'", key, value);
        return 0;
    case SETTING_IS_INT:
        if (!parse_int(value, &v) || v < def->min || v > def->max)
            return err_set(err, ERR_INVALID, "%s is a number from %lld to %lld%s%s, not '%.100s'", key,
                           def->min, def->max, *def->unit ? " " : "", def->unit, value);
        return 0;
    case SETTING_IS_ENUM:
        if (!is_choice(def->choices, value))
            return err_set(err, ERR_INVALID, "%s is one of %s, not '%.100s'", key, def->choices, value);
        return 0;
    case SETTING_IS_STRING:
        if ((long long)strlen(value) > def->max)
            return err_set(err, ERR_INVALID, "%s is longer than %lld bytes", key, def->max);
        return 0;
    case SETTING_IS_SECRET:
        return 0;
    }
    return 0;
}

/* The value text of a key, or NULL when it is not set. */
static const char *find_value(struct store_txn *t, const char *node_name, enum setting id, struct arena *a)
{
    struct key key;
    Imp__SettingRow *row = NULL;
    if (node_name && *node_name) {
        key_init(&key);
        key_str(&key, arena_printf(a, "node.%s.%s", node_name, setting_defs[id].key));
        row = store_find_row(t, TABLE_SETTING, &key, a);
    }
    if (!row) {
        key_init(&key);
        key_str(&key, setting_defs[id].key);
        row = store_find_row(t, TABLE_SETTING, &key, a);
    }
    return row ? row->value : NULL;
}

long long setting_int(struct store_txn *t, const char *node_name, enum setting id)
{
    struct arena a;
    long long v;
    arena_init(&a);
    const char *value = find_value(t, node_name, id, &a);
    if (!value || !parse_int(value, &v))
        v = strtoll(setting_defs[id].initial, NULL, 10);
    arena_fini(&a);
    return v;
}

bool setting_bool(struct store_txn *t, const char *node_name, enum setting id)
{
    struct arena a;
    arena_init(&a);
    const char *value = find_value(t, node_name, id, &a);
    bool v = strcmp(value ? value : setting_defs[id].initial, "true") == 0;
    arena_fini(&a);
    return v;
}

const char *setting_string(struct store_txn *t, const char *node_name, enum setting id, struct arena *a)
{
    const char *value = find_value(t, node_name, id, a);
    return value ? value : setting_defs[id].initial;
}

bool setting_sealed(struct store_txn *t, enum setting id, struct arena *a, const uint8_t **data,
                    size_t *n_bytes)
{
    struct key key;
    key_init(&key);
    key_str(&key, setting_defs[id].key);
    Imp__SettingRow *row = store_find_row(t, TABLE_SETTING, &key, a);
    if (!row || row->sealed.len == 0)
        return false;
    *data = row->sealed.data;
    *n_bytes = row->sealed.len;
    return true;
}
