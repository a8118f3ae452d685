/* impcli settings ...: replicated settings. Secrets are sealed here and never printed. */
#include "base/mem.h"
#include "cluster/seal.h"
#include "node/admin_handlers.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <string.h>

enum { MAX_CHANGES = 256 };

/* What the key has now: value, or "(set)" / "(not set)" of a secret; *is_set: not the default. */
static const char *current(struct admin_call *call, const char *key, int id, bool *is_set)
{
    struct key k;
    key_init(&k);
    key_str(&k, key);
    Imp__SettingRow *row = store_find_row(admin_read(call), TABLE_SETTING, &k, &call->arena);
    *is_set = row != NULL;
    if (setting_defs[id].type == SETTING_IS_SECRET)
        return row && row->sealed.len ? "(set)" : "(not set)";
    return row ? row->value : setting_defs[id].initial;
}

static json_t *setting_json(struct admin_call *call, const char *key, int id)
{
    const struct setting_def *def = &setting_defs[id];
    bool is_set;
    const char *value = current(call, key, id, &is_set);
    return json_pack("{s:s, s:s, s:s, s:s, s:b, s:s}", "key", key, "value", value, "default", def->initial,
                     "unit", def->unit, "set", is_set, "help", def->help);
}

void admin_settings_list(struct admin_call *call)
{
    static const struct admin_column columns[] = {
        {"key", "KEY"}, {"value", "VALUE"}, {"unit", "UNIT"}, {"default", "DEFAULT"}, {"help", ""}};
    const char *prefix = call->n_args ? call->args[0] : "";
    json_t *array = json_array();
    for (int id = 0; id < N_SETTINGS; id++)
        if (strncmp(setting_defs[id].key, prefix, strlen(prefix)) == 0)
            json_array_append_new(array, setting_json(call, setting_defs[id].key, id));
    /* overrides of single nodes follow */
    struct store_iter it;
    struct key p;
    key_init(&p);
    key_str_prefix(&p, "node.");
    store_iter_init(&it, admin_read(call), TABLE_SETTING, &p);
    while (store_iter_next(&it)) {
        struct key_reader r;
        key_read(&r, it.key, it.n_key);
        const char *key = key_read_str(&r, &call->arena);
        int id = r.failed ? ERR_NOTFOUND : setting_find(key, NULL);
        if (id >= 0 && strncmp(key, prefix, strlen(prefix)) == 0)
            json_array_append_new(array, setting_json(call, key, id));
    }
    if (json_array_size(array) == 0 && *prefix) {
        json_decref(array);
        admin_fail(call, "no setting begins with '%s'", prefix);
        return;
    }
    admin_reply_table(call, array, columns, n_elements(columns));
}

static int find_or_fail(struct admin_call *call, const char *key)
{
    int id = setting_find(key, NULL);
    if (id < 0)
        admin_fail(call, "there is no setting '%s'; impcli settings list shows all", key);
    return id;
}

void admin_settings_get(struct admin_call *call)
{
    int id = find_or_fail(call, call->args[0]);
    if (id < 0)
        return;
    json_t *o = setting_json(call, call->args[0], id);
    struct buf text = {0};
    buf_addf(&text, "%s\n", json_string_value(json_object_get(o, "value")));
    admin_reply(call, o, &text);
}

/* ---- changes ---- */

struct change_list {
    Imp__SettingChange items[MAX_CHANGES], *list[MAX_CHANGES];
    size_t n;
};

/* Adds one checked change. VALUE NULL: unset. False: the call has failed. WHERE: "" or "line 3: ". */
static bool add_change(struct admin_call *call, struct change_list *l, const char *where, const char *key,
                       const char *value)
{
    struct err_ctx err = {0};
    int id = setting_find(key, NULL);
    if (l->n == MAX_CHANGES) {
        admin_fail(call, "%smore than %d changes at once; nothing was changed", where, MAX_CHANGES);
        return false;
    }
    if (id < 0 || (value && setting_check(key, value, &err))) {
        admin_fail(call, "%s%s", where,
                   id < 0 ? arena_printf(&call->arena,
                                         "there is no setting '%s'; impcli settings list shows all", key)
                          : err.text);
        return false;
    }
    unsigned level = fsm_level(admin_read(call), &call->arena);
    if (setting_defs[id].level > level) {
        char remedy[LEVEL_TEXT_MAX];
        level_remedy(remedy, setting_defs[id].level);
        admin_fail(call, "%s%s: %s", where, key, remedy);
        return false;
    }
    Imp__SettingChange *c = &l->items[l->n];
    imp__setting_change__init(c);
    c->key = (char *)key;
    c->unset = value == NULL;
    if (value && setting_defs[id].type == SETTING_IS_SECRET) {
        struct buf sealed = {0};
        char purpose[128];
        snprintf(purpose, sizeof purpose, "setting:%s", setting_defs[id].key);
        if (seal(call->env->seal, purpose, value, strlen(value), &sealed, &err)) {
            buf_fini(&sealed);
            admin_fail(call, "%scannot seal %s: %s", where, key, err.text);
            return false;
        }
        c->sealed.len = sealed.n;
        c->sealed.data = arena_alloc(&call->arena, sealed.n); /* not a string: it may hold zero bytes */
        memcpy(c->sealed.data, sealed.data, sealed.n);
        buf_fini(&sealed);
    } else if (value) {
        c->value = (char *)value;
    }
    l->list[l->n++] = c;
    return true;
}

static void on_applied(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    const size_t *n = call->state;
    if (!admin_accepted(call, result))
        return;
    if (*n == 1 && call->n_args)
        admin_done(call, "%s is %s", call->args[0],
                   call->command == &commands[COMMAND_settings_unset] ? "back at its default" : "set");
    else
        admin_done(call, "%zu settings applied", *n);
}

static void propose_changes(struct admin_call *call, struct change_list *l)
{
    Imp__SettingsApply body = IMP__SETTINGS_APPLY__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    size_t *n = arena_alloc(&call->arena, sizeof *n);
    *n = l->n;
    call->state = n;
    body.n_changes = l->n;
    body.changes = l->list;
    command.body_case = IMP__COMMAND__BODY_SETTINGS_APPLY;
    command.settings_apply = &body;
    admin_propose(call, &command, on_applied);
}

void admin_settings_set(struct admin_call *call)
{
    int id = find_or_fail(call, call->args[0]);
    if (id < 0)
        return;
    bool secret = setting_defs[id].type == SETTING_IS_SECRET;
    if (secret && call->n_args == 2) {
        admin_fail(call, "%s is a secret: leave the value out, it is read from standard input",
                   call->args[0]);
        return;
    }
    if (secret && call->n_input == 0) {
        admin_fail(call, "the value is empty; impcli settings unset %s takes the old one away",
                   call->args[0]);
        return;
    }
    if (call->n_args == 1 && memchr(call->input ? call->input : "", 0, call->n_input)) {
        admin_fail(call, "the value has a zero byte");
        return;
    }
    const char *value = call->n_args == 2
                            ? call->args[1]
                            : arena_strndup(&call->arena, call->input ? call->input : "", call->n_input);
    const char *expected = admin_option(call, "expect");
    if (secret && expected) {
        admin_fail(call, "%s is a secret: it cannot be compared", call->args[0]);
        return;
    }
    struct change_list *l = arena_zalloc(&call->arena, sizeof *l);
    bool good = add_change(call, l, "", call->args[0], value);
    if (secret) /* sealed now */
        mem_wipe((char *)value, strlen(value));
    if (!good)
        return;
    if (expected) {
        l->items[0].compare = true;
        l->items[0].expected = (char *)expected;
        l->items[0].expected_unset = strcmp(expected, setting_defs[id].initial) == 0;
    }
    propose_changes(call, l);
}

void admin_settings_unset(struct admin_call *call)
{
    struct change_list *l = arena_zalloc(&call->arena, sizeof *l);
    if (add_change(call, l, "", call->args[0], NULL))
        propose_changes(call, l);
}

/* ---- files: lines "KEY: VALUE", '#' comments ---- */

typedef bool line_fn(struct admin_call *call, void *user, unsigned line, char *key, char *value);

static char *trim(char *s)
{
    s += strspn(s, " \t");
    size_t n = strlen(s);
    while (n && strchr(" \t\r", s[n - 1]))
        s[--n] = 0;
    return s;
}

static bool each_line(struct admin_call *call, line_fn *fn, void *user)
{
    char *text = arena_strndup(&call->arena, call->input ? call->input : "", call->n_input);
    unsigned line = 0;
    for (char *next, *p = text; p && *p; p = next) {
        next = strchr(p, '\n');
        if (next)
            *next++ = 0;
        line++;
        p = trim(p);
        if (!*p || *p == '#')
            continue;
        char *colon = strchr(p, ':');
        if (!colon) {
            admin_fail(call, "line %u: expected KEY: VALUE, found '%.100s'; nothing was changed", line, p);
            return false;
        }
        *colon = 0;
        if (!fn(call, user, line, trim(p), trim(colon + 1)))
            return false;
    }
    return true;
}

/* Secrets do not belong into files. */
static bool refuse_secret(struct admin_call *call, unsigned line, const char *key)
{
    int id = setting_find(key, NULL);
    if (id < 0 || setting_defs[id].type != SETTING_IS_SECRET)
        return false;
    admin_fail(call, "line %u: %s is a secret: set it with impcli settings set %s; nothing was changed", line,
               key, key);
    return true;
}

static bool apply_line(struct admin_call *call, void *user, unsigned line, char *key, char *value)
{
    char where[32];
    snprintf(where, sizeof where, "line %u: ", line);
    return !refuse_secret(call, line, key) && add_change(call, user, where, key, value);
}

void admin_settings_apply(struct admin_call *call)
{
    struct change_list *l = arena_zalloc(&call->arena, sizeof *l);
    if (!each_line(call, apply_line, l))
        return;
    if (l->n == 0)
        admin_done(call, "the file has no settings; nothing was changed");
    else
        propose_changes(call, l);
}

static bool diff_line(struct admin_call *call, void *user, unsigned line, char *key, char *value)
{
    bool is_set;
    struct err_ctx err = {0};
    int id = setting_find(key, NULL);
    if (refuse_secret(call, line, key))
        return false;
    if (id < 0 || setting_check(key, value, &err)) {
        admin_fail(call, "line %u: %s", line,
                   id < 0 ? arena_printf(&call->arena,
                                         "there is no setting '%s'; impcli settings list shows all", key)
                          : err.text);
        return false;
    }
    const char *now = current(call, key, id, &is_set);
    if (strcmp(now, value) != 0)
        json_array_append_new(user, json_pack("{s:s, s:s, s:s}", "key", key, "value", now, "new", value));
    return true;
}

void admin_settings_diff(struct admin_call *call)
{
    static const struct admin_column columns[] = {{"key", "KEY"}, {"value", "NOW"}, {"new", "NEW"}};
    json_t *array = json_array();
    if (each_line(call, diff_line, array))
        admin_reply_table(call, array, columns, n_elements(columns));
    else
        json_decref(array);
}
