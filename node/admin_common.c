/* What the commands' handlers share: look-ups, proposals, tables, asking all nodes. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/release.h"
#include "im/address.h"
#include "node/admin.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

json_t *admin_json_time(uint64_t wall_ms)
{
    char out[ADMIN_TIME_BYTES];
    if (wall_ms == 0)
        return json_null();
    clock_format_utc(out, wall_ms, 0);
    return json_string(out);
}

struct store_txn *admin_read(struct admin_call *call)
{
    return store_read_txn(call->env->reader);
}

void admin_rewind(struct admin_call *call)
{
    call->names = NULL;
    arena_reset(&call->arena);
}

/* ---- proposals ---- */

enum { AUDIT_WORD_BYTES = 120, AUDIT_LINE_BYTES = 800, SILENT_MS = 3000 };

/* One word of the command line, short and on one line; secrets are never words. */
static void add_audit_word(struct buf *line, const char *prefix, const char *word)
{
    if (line->n > AUDIT_LINE_BYTES)
        return;
    buf_adds(line, prefix);
    for (const char *p = word; *p; p++) {
        /* cut where a character begins */
        if (p - word >= AUDIT_WORD_BYTES && ((unsigned char)*p & 0xc0) != 0x80) {
            buf_adds(line, "...");
            return;
        }
        buf_addc(line, (unsigned char)*p < ' ' ? ' ' : *p);
    }
}

void admin_audit_line(struct buf *line, struct admin_call *call)
{
    buf_addf(line, "%s%s%s", call->command->area, *call->command->verb ? " " : "", call->command->verb);
    for (unsigned i = 0; i < call->n_args; i++)
        add_audit_word(line, " ", call->args[i]);
    for (const char *p = call->command->options; *p;) {
        size_t n = strcspn(p, " "), n_name = strcspn(p, "= ");
        const char *name = arena_strndup(&call->arena, p + 2, n_name - 2), *value = admin_option(call, name);
        if (value) {
            add_audit_word(line, " --", name);
            if (n_name < n)
                add_audit_word(line, "=", value);
        }
        p += n;
        p += strspn(p, " ");
    }
}

/* A sentence without its end. */
static const char *why_alone(struct admin_call *call)
{
    struct replica_status s;
    replica_get_status(call->env->replica, &s);
    uint64_t now = clock_monotonic_ms();
    unsigned n_silent = 0;
    const char *silent = "";
    for (unsigned i = 0; i < s.n_peers; i++) {
        const struct replica_peer *p = &s.peers[i];
        if (p->member != REPLICA_VOTER || (p->connected && now < p->last_heard_ms + SILENT_MS))
            continue;
        silent = arena_printf(&call->arena, "%s%s%s", silent, n_silent++ ? ", " : "",
                              admin_node_name(call, p->node));
    }
    /* with this node, if it is one of them */
    bool majority = s.n_voters > 2 * n_silent;
    return arena_printf(&call->arena, "%s has %s%s%s%s", call->env->node_name,
                        majority ? "found no leader" : "no contact to a majority of the voters",
                        n_silent ? " (no answer from " : "", silent, n_silent ? ")" : "");
}

const char *admin_alone(struct admin_call *call)
{
    return call->env->alone && *call->env->alone ? why_alone(call) : NULL;
}

static int submit_audited(struct admin_call *call, Imp__Command *command, proposal_done_fn *on_done,
                          void *user)
{
    Imp__Audited audited = IMP__AUDITED__INIT;
    struct buf line = {0};
    admin_audit_line(&line, call);
    audited.node = call->env->node_id;
    audited.os_uid = call->os_uid;
    audited.who = call->who;
    audited.command = line.data;
    /* a look at the state (a hash point) is no change of it */
    command->audited = call->command->access == COMMAND_WRITE ? &audited : NULL;
    int rv = proposal_submit(call->env->replica, command, call->env->loop, 0, on_done, user);
    command->audited = NULL;
    buf_fini(&line);
    call->is_audited |= rv == 0;
    return rv;
}

static void on_noted(void *user, const struct proposal_result *result)
{
    (void)user, (void)result;
}

void admin_audit_end(struct admin_call *call, const char *result)
{
    if (!call->command || call->command->access != COMMAND_WRITE || call->is_audited || call->is_look ||
        admin_alone(call))
        return;
    Imp__Note body = IMP__NOTE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.result = (char *)result;
    command.body_case = IMP__COMMAND__BODY_NOTE;
    command.note = &body;
    /* What was refused may be a secret in the wrong place: only what the call was about is written down. */
    unsigned n_args = call->n_args;
    call->n_args = n_args > 1 ? 1 : n_args;
    submit_audited(call, &command, on_noted, NULL);
    call->n_args = n_args;
}

void admin_acted(struct admin_call *call, const char *format, ...)
{
    Imp__Note body = IMP__NOTE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    char line[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    command.body_case = IMP__COMMAND__BODY_NOTE;
    command.note = &body;
    const char *alone = admin_alone(call);
    if (alone || submit_audited(call, &command, on_noted, NULL))
        admin_done(call, "%s; the audit cannot record it: %s", line,
                   alone ? alone : "this node takes no writes now");
    else
        admin_done(call, "%s", line);
}

bool admin_propose(struct admin_call *call, Imp__Command *command, proposal_done_fn *on_done)
{
    /* Better than half a minute of waiting for an answer that cannot come. A leader's change is shorter than
     * this. */
    const char *alone = admin_alone(call);
    if (alone) {
        admin_fail(
            call,
            "%s: nothing was written; start what is down or mend the network, see impcli dbreplication "
            "runtimestate",
            alone);
        return false;
    }
    int rv = submit_audited(call, command, on_done, call);
    char remedy[LEVEL_TEXT_MAX];
    if (rv == ERR_UNSUPPORTED) {
        level_remedy(remedy, fsm_command_level(command));
        admin_fail(call, "%s %s: %s", call->command->area, call->command->verb, remedy);
    } else if (rv == ERR_LIMIT)
        admin_fail(call, "this node has too many writes under way: try again in a moment");
    else if (rv)
        admin_fail(call, "this node takes no writes now (%s): see impcli dbreplication runtimestate",
                   err_text(rv));
    return rv == 0;
}

void admin_set_setting(struct admin_call *call, const char *key, const char *value, proposal_done_fn *on_done)
{
    struct err_ctx err = {0};
    Imp__SettingChange change = IMP__SETTING_CHANGE__INIT, *list[] = {&change};
    Imp__SettingsApply body = IMP__SETTINGS_APPLY__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    if (setting_check(key, value, &err)) {
        admin_fail(call, "%s", err.text);
        return;
    }
    change.key = (char *)key;
    change.value = (char *)value;
    body.n_changes = 1;
    body.changes = list;
    command.body_case = IMP__COMMAND__BODY_SETTINGS_APPLY;
    command.settings_apply = &body;
    admin_propose(call, &command, on_done);
}

bool admin_accepted(struct admin_call *call, const struct proposal_result *result)
{
    if (result->code == 0)
        return true;
    if (result->code == ERR_UNKNOWN_OUTCOME)
        admin_fail(
            call, "outcome unknown: no answer from the cluster in time; look at the state before you repeat");
    else if (result->code == ERR_UNAVAILABLE && !result->index)
        admin_fail(call, "the cluster has taken %s for dead meanwhile: nothing was written; do it again",
                   call->env->node_name);
    else if (*result->text)
        admin_fail(call, "%s", result->text);
    else
        admin_fail(call, "refused: %s", err_text(result->code));
    return false;
}

/* ---- look-ups ---- */

/* This node knows itself, also before its store has caught up. */
Imp__NodeRow *admin_self(struct admin_call *call)
{
    struct key key;
    key_init(&key);
    key_u32(&key, call->env->node_id);
    Imp__NodeRow *row = store_find_row(admin_read(call), TABLE_NODE, &key, &call->arena);
    if (!row) {
        row = arena_alloc(&call->arena, sizeof *row);
        imp__node_row__init(row);
        row->id = call->env->node_id;
        row->name = (char *)call->env->node_name;
        row->release = (char *)release_name();
    }
    return row;
}

Imp__NodeRow *admin_find_node(struct admin_call *call, const char *name)
{
    if (strcmp(name, call->env->node_name) == 0)
        return admin_self(call);
    struct key key;
    key_init(&key);
    key_str(&key, name);
    struct store_txn *txn = admin_read(call);
    Imp__IdRow *id = store_find_row(txn, TABLE_NODE_BY_NAME, &key, &call->arena);
    Imp__NodeRow *node = NULL;
    if (id) {
        key_init(&key);
        key_u32(&key, (uint32_t)id->id);
        node = store_find_row(txn, TABLE_NODE, &key, &call->arena);
    }
    if (!node)
        admin_fail(call, "no node is named '%s'; impcli node list shows them", name);
    return node;
}

/* Names that every line of a long list asks for. As of the call's first question: a name that changes
 * meanwhile may be the old one. */
struct admin_name {
    uint32_t id;
    const char *name;
};
struct admin_names {
    struct admin_name *nodes, *domains;
    unsigned n_nodes, n_domains;
    const char *default_domain; /* "" while the store is empty */
};
enum { MAX_NAMES = 4096 };

static const char *find_name(const struct admin_name *list, unsigned n, uint32_t id)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i].id == id)
            return list[i].name;
    return NULL;
}

static void add_name(struct arena *a, struct admin_name **list, unsigned *n, uint32_t id, const char *name)
{
    if ((*n & (*n - 1)) == 0) { /* 0 or a power of two: full */
        struct admin_name *bigger = arena_alloc(a, (*n ? 2 * *n : 1) * sizeof *bigger);
        if (*n)
            memcpy(bigger, *list, *n * sizeof *bigger);
        *list = bigger;
    }
    (*list)[(*n)++] = (struct admin_name){id, name};
}

static struct admin_names *get_names(struct admin_call *call)
{
    struct store_iter it;
    struct key key;
    if (call->names)
        return call->names;
    struct admin_names *names = call->names = arena_zalloc(&call->arena, sizeof *names);
    key_init(&key);
    Imp__ClusterRow *cluster = store_find_row(admin_read(call), TABLE_CLUSTER, &key, &call->arena);
    names->default_domain = cluster ? cluster->default_domain : "";
    store_iter_init(&it, admin_read(call), TABLE_NODE, &key);
    while (names->n_nodes < MAX_NAMES && store_iter_next(&it)) {
        Imp__NodeRow *row = store_iter_row(&it, &call->arena);
        if (row)
            add_name(&call->arena, &names->nodes, &names->n_nodes, row->id, row->name);
    }
    store_iter_fini(&it);
    store_iter_init(&it, admin_read(call), TABLE_DOMAIN, &key);
    while (names->n_domains < MAX_NAMES && store_iter_next(&it)) {
        Imp__DomainRow *row = store_iter_row(&it, &call->arena);
        if (row)
            add_name(&call->arena, &names->domains, &names->n_domains, row->id, row->domain);
    }
    store_iter_fini(&it);
    return names;
}

const char *admin_node_name(struct admin_call *call, uint32_t node)
{
    if (node == 0)
        return "";
    const struct admin_names *names = get_names(call);
    const char *name = find_name(names->nodes, names->n_nodes, node);
    return name ? name : arena_printf(&call->arena, "#%u", node);
}

Imp__UserRow *admin_find_user(struct admin_call *call, const char *name)
{
    struct jid jid;
    struct err_ctx err = {0};
    const char *text = name, *default_domain = get_names(call)->default_domain;
    if (!*default_domain) {
        admin_fail(call, "the store is empty: this node has not caught up yet");
        return NULL;
    }
    if (!strchr(name, '@'))
        text = arena_printf(&call->arena, "%s@%s", name, default_domain);
    if (jid_parse(&jid, text, strlen(text), &err)) {
        admin_fail(call, "'%s' is not a user: %s", name, err.text);
        return NULL;
    }
    struct store_txn *txn = admin_read(call);
    struct key key;
    key_init(&key);
    key_str(&key, jid.domain);
    Imp__DomainRow *domain = store_find_row(txn, TABLE_DOMAIN, &key, &call->arena);
    Imp__UserRow *user = NULL;
    if (domain) {
        key_init(&key);
        key_u32(&key, domain->id);
        key_str(&key, jid.local);
        Imp__IdRow *id = store_find_row(txn, TABLE_USER_BY_JID, &key, &call->arena);
        if (id) {
            key_init(&key);
            key_u64(&key, id->id);
            user = store_find_row(txn, TABLE_USER, &key, &call->arena);
        }
    }
    if (!user)
        admin_fail(call, "no user '%s'; impcli user list shows them", name);
    return user;
}

const char *admin_user_jid(struct admin_call *call, const Imp__UserRow *user)
{
    const struct admin_names *names = get_names(call);
    const char *domain = find_name(names->domains, names->n_domains, user->domain);
    if (domain && strcmp(domain, names->default_domain) == 0)
        return user->localpart;
    return arena_printf(&call->arena, "%s@%s", user->localpart, domain ? domain : "");
}

/* ---- tables ---- */

/* Of a text with several lines the first one. */
static const char *cell(json_t *value, char *space, size_t size)
{
    const char *text = json_string_value(value);
    size_t n = text ? strcspn(text, "\r\n\t") : 0;
    if (text && !text[n])
        return text;
    if (text && n > size - 5)
        for (n = size - 5; n && ((unsigned char)text[n] & 0xc0) == 0x80;)
            n--;
    if (text) {
        snprintf(space, size, "%.*s ...", (int)n, text);
        return space;
    }
    if (json_is_integer(value))
        snprintf(space, size, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
    else if (json_is_real(value))
        snprintf(space, size, "%.1f", json_real_value(value));
    else
        snprintf(space, size, "%s", json_is_true(value) ? "yes" : json_is_false(value) ? "no" : "-");
    return space;
}

/* Characters, not bytes: continuation bytes of UTF-8 take no column. */
static size_t width_of(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void add_padded(struct buf *out, const char *text, size_t width, bool last)
{
    buf_adds(out, text);
    for (size_t n = width_of(text); !last && n < width + 2; n++)
        buf_addc(out, ' ');
}

void admin_reply_table(struct admin_call *call, json_t *array, const struct admin_column *columns,
                       unsigned n_columns)
{
    size_t width[16] = {0}, i;
    char space[64];
    json_t *row;
    assert(n_columns <= n_elements(width));
    struct buf text = {0};
    for (unsigned c = 0; c < n_columns; c++) {
        width[c] = width_of(columns[c].title);
        json_array_foreach(array, i, row)
        {
            size_t w = width_of(cell(json_object_get(row, columns[c].key), space, sizeof space));
            if (w > width[c])
                width[c] = w;
        }
    }
    for (unsigned c = 0; c < n_columns; c++)
        add_padded(&text, columns[c].title, width[c], c + 1 == n_columns);
    buf_addc(&text, '\n');
    json_array_foreach(array, i, row)
    {
        for (unsigned c = 0; c < n_columns; c++)
            add_padded(&text, cell(json_object_get(row, columns[c].key), space, sizeof space), width[c],
                       c + 1 == n_columns);
        buf_addc(&text, '\n');
    }
    admin_reply(call, array, &text);
}

/* ---- asking every node ---- */

enum { GATHER_TIMEOUT_MS = 2000 };

struct gather_one {
    struct admin_gather *gather;
    uint32_t node;
};

static void gather_close(struct admin_gather *g)
{
    if (--g->n_open == 0)
        g->on_all(g);
}

static void on_gather_reply(void *user, int code, const uint8_t *data, size_t n_bytes)
{
    struct gather_one *one = user;
    struct admin_gather *g = one->gather;
    g->on_reply(g, one->node, code, data, n_bytes);
    mem_free(one);
    gather_close(g);
}

void admin_gather(struct admin_gather *g, const char *method, const void *data, size_t n_bytes)
{
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    g->n_open = 1; /* held until all questions are out */
    store_iter_init(&it, admin_read(g->call), TABLE_NODE, &prefix);
    while (store_iter_next(&it)) {
        Imp__NodeRow *row = store_iter_row(&it, &g->call->arena);
        if (!row || row->id == g->call->env->node_id)
            continue;
        struct gather_one *one = mem_new(struct gather_one);
        one->gather = g;
        one->node = row->id;
        g->n_open++;
        link_call(g->call->env->links, row->id, method, data, n_bytes,
                  g->timeout_ms ? g->timeout_ms : GATHER_TIMEOUT_MS, on_gather_reply, one);
    }
    gather_close(g);
}
