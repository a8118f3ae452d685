/* Configurations of nodes as data forms (XEP-0004, XEP-0060 §8.2, §16.4.4). */
#include "protocols/xmpp/pep.h"
#include <stdlib.h>
#include <string.h>

enum field_type { FIELD_BOOL, FIELD_ENUM, FIELD_MAX, FIELD_GROUPS, FIELD_TEXT };
static const struct field {
    enum pep_field bit;
    enum field_type type;
    const char *var, *choices, *label;
} fields[] = {
#define X(id, bit, member, type, var, choices, label) {PEP_FIELD_##id, FIELD_##type, var, choices, label},
#include "replication/pep_config.def"
#undef X
};

/* Nodes that are nobody's business but the owner's (XEP-0223), and of which clients fetch all. */
static bool is_private(const char *node)
{
    static const char *const names[] = {NODE_BOOKMARKS, NODE_BOOKMARKS_OLD, NODE_DISPLAYED, NODE_PRIVATE};
    for (size_t i = 0; i < n_elements(names); i++)
        if (strcmp(node, names[i]) == 0)
            return true;
    return false;
}

void pep_config_initial(Imp__PepConfig *c, const char *node)
{
    imp__pep_config__init(c);
    bool is_own = is_private(node);
    c->access = is_own ? IMP__PEP_ACCESS__PEP_ACCESS_WHITELIST : IMP__PEP_ACCESS__PEP_ACCESS_PRESENCE;
    c->send_last = is_own ? IMP__PEP_SEND_LAST__PEP_LAST_NEVER : IMP__PEP_SEND_LAST__PEP_LAST_ON_PRESENCE;
    c->max_items = is_own ? 0 : 1;
    c->persist = c->payloads = c->notifications = true;
    c->notify_retract = c->notify_delete = true;
}

/* ---- reading ---- */

/* The number of TEXT among "a|b|c"; below 0: none of them. */
static int find_choice(const char *choices, const char *text)
{
    size_t n = strlen(text);
    for (int i = 0; *choices; i++) {
        size_t len = strcspn(choices, "|");
        if (len == n && memcmp(choices, text, n) == 0)
            return i;
        choices += len + (choices[len] == '|');
    }
    return ERR_INVALID;
}

static bool read_bool(const char *text, bool *out)
{
    *out = strcmp(text, "1") == 0 || strcmp(text, "true") == 0;
    return *out || strcmp(text, "0") == 0 || strcmp(text, "false") == 0;
}

static bool read_max(const char *text, uint32_t *out)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    if (strcmp(text, "max") == 0) {
        *out = 0;
        return true;
    }
    *out = v < UINT32_MAX ? (uint32_t)v : UINT32_MAX;
    return *text >= '0' && *text <= '9' && !*end && v > 0;
}

static bool read_groups(const struct xml *field, Imp__PepConfig *c, struct arena *a)
{
    c->groups = arena_alloc(a, PEP_GROUPS_MAX * sizeof *c->groups);
    c->n_groups = 0;
    for (const struct xml *v = xml_child(field, "value", NS_DATA_FORM); v;
         v = xml_next(v, "value", NS_DATA_FORM)) {
        if (c->n_groups == PEP_GROUPS_MAX)
            return false;
        c->groups[c->n_groups++] = arena_strdup(a, xml_text(v, a));
    }
    return true;
}

static bool read_text(char **member, const char *text, struct arena *a)
{
    *member = arena_strdup(a, text);
    return strlen(text) <= PEP_NODE_MAX;
}

/* Enumerations of the row start at 0, in the order of the choices. */
#define READ_BOOL(m)                                                                                         \
    bool v;                                                                                                  \
    good = read_bool(text, &v);                                                                              \
    c->m = v;
#define READ_ENUM(m)                                                                                         \
    int v = find_choice(f->choices, text);                                                                   \
    good = v >= 0;                                                                                           \
    c->m = good ? v : 0;
#define READ_MAX(m) good = read_max(text, &c->m);
#define READ_GROUPS(m) good = read_groups(x, c, a);
#define READ_TEXT(m) good = read_text(&c->m, text, a);

static bool read_field(const struct field *f, const struct xml *x, Imp__PepConfig *c, struct arena *a)
{
    const char *text = xml_child_text(x, "value", NS_DATA_FORM, a);
    bool good = true;
    text = text ? text : "";
    switch (f->bit) {
#define X(id, bit, member, type, var, choices, label)                                                        \
    case PEP_FIELD_##id: {                                                                                   \
        READ_##type(member) break;                                                                           \
    }
#include "replication/pep_config.def"
#undef X
    }
    return good;
}

static const struct field *find_field(const char *var)
{
    for (size_t i = 0; i < n_elements(fields); i++)
        if (strcmp(fields[i].var, var) == 0)
            return &fields[i];
    return NULL;
}

int pep_form_read(const struct xml *form, const char *form_type, bool strict, Imp__PepConfig *c,
                  uint32_t *set, struct arena *a, const char **why)
{
    *set = 0;
    for (const struct xml *x = xml_child(form, "field", NS_DATA_FORM); x;
         x = xml_next(x, "field", NS_DATA_FORM)) {
        const char *var = xml_attr(x, "var");
        if (!var)
            continue;
        if (strcmp(var, "FORM_TYPE") == 0) {
            const char *type = xml_child_text(x, "value", NS_DATA_FORM, a);
            if (!type || strcmp(type, form_type) != 0) {
                *why = "the form is of another FORM_TYPE";
                return ERR_INVALID;
            }
            continue;
        }
        const struct field *f = find_field(var);
        if (!f && strict) {
            *why = arena_printf(a, "%.200s is not known here", var);
            return ERR_UNSUPPORTED;
        }
        if (f && !read_field(f, x, c, a)) {
            *why = arena_printf(a, "%s has a value that is not allowed", var);
            return ERR_INVALID;
        }
        if (f)
            *set |= f->bit;
    }
    return 0;
}

/* ---- writing ---- */

static void add_value(struct buf *out, const char *text, size_t n)
{
    buf_adds(out, "<value>");
    xml_escape(out, text, n);
    buf_adds(out, "</value>");
}

static void add_bool(struct buf *out, const struct field *f, bool v)
{
    (void)f;
    buf_adds(out, v ? "<value>1</value>" : "<value>0</value>");
}

static void add_enum(struct buf *out, const struct field *f, int v)
{
    const char *p = f->choices;
    for (int i = 0; i < v && *p; i++)
        p += strcspn(p, "|") + 1;
    add_value(out, p, strcspn(p, "|"));
}

static void add_max(struct buf *out, const struct field *f, uint32_t v)
{
    (void)f;
    if (v)
        buf_addf(out, "<value>%u</value>", v);
    else
        buf_adds(out, "<value>max</value>");
}

static void add_text(struct buf *out, const struct field *f, const char *v)
{
    (void)f;
    if (*v)
        add_value(out, v, strlen(v));
}

#define ADD_BOOL(m) add_bool(out, f, c->m);
#define ADD_ENUM(m) add_enum(out, f, (int)c->m);
#define ADD_MAX(m) add_max(out, f, c->m);
#define ADD_GROUPS(m)                                                                                        \
    for (size_t i = 0; i < c->n_groups; i++)                                                                 \
        add_value(out, c->groups[i], strlen(c->groups[i]));
#define ADD_TEXT(m) add_text(out, f, c->m);

static void add_values(struct buf *out, const struct field *f, const Imp__PepConfig *c)
{
    switch (f->bit) {
#define X(id, bit, member, type, var, choices, label)                                                        \
    case PEP_FIELD_##id:                                                                                     \
        ADD_##type(member) break;
#include "replication/pep_config.def"
#undef X
    }
}

static void add_options(struct buf *out, const char *choices)
{
    for (size_t n; *choices; choices += n + (choices[n] == '|')) {
        n = strcspn(choices, "|");
        buf_adds(out, "<option>");
        add_value(out, choices, n);
        buf_adds(out, "</option>");
    }
}

void pep_form_write(struct buf *out, const Imp__PepConfig *c, const char *form_type, const char *type)
{
    static const char *const types[] = {"boolean", "list-single", "text-single", "list-multi", "text-single"};
    buf_addf(out,
             "<x xmlns='" NS_DATA_FORM
             "' type='%s'><field var='FORM_TYPE' type='hidden'><value>%s</value></field>",
             type, form_type);
    for (size_t i = 0; i < n_elements(fields); i++) {
        buf_addf(out, "<field var='%s' type='%s' label='%s'>", fields[i].var, types[fields[i].type],
                 fields[i].label);
        add_values(out, &fields[i], c);
        if (strcmp(type, "form") == 0)
            add_options(out, fields[i].choices);
        buf_adds(out, "</field>");
    }
    buf_adds(out, "</x>");
}
