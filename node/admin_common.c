/* What the commands' handlers share: look-ups, proposals, tables, asking all nodes. */
#include "base/clock.h"
#include "base/mem.h"
#include "im/address.h"
#include "node/admin.h"
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

/* ---- proposals ---- */

bool admin_propose(struct admin_call *call, Imp__Command *command, proposal_done_fn *on_done)
{
    Imp__Audited audited = IMP__AUDITED__INIT;
    struct buf line = {0};
    buf_addf(&line, "%s %s", call->command->area, call->command->verb);
    for (unsigned i = 0; i < call->n_args && line.n < 900; i++)
        buf_addf(&line, " %s", call->args[i]);
    audited.node = call->env->node_id;
    audited.os_uid = call->os_uid;
    audited.who = call->who;
    audited.command = line.data;
    command->audited = &audited;
    int rv = proposal_submit(call->env->replica, command, call->env->loop, 0, on_done, call);
    command->audited = NULL;
    buf_fini(&line);
    if (rv == ERR_LIMIT)
        admin_fail(call, "this node has too many writes under way: try again in a moment");
    else if (rv)
        admin_fail(call, "this node takes no writes now (%s): see impcli dbreplication runtimestate", err_text(rv));
    return rv == 0;
}

bool admin_accepted(struct admin_call *call, const struct proposal_result *result)
{
    if (result->code == 0)
        return true;
    if (result->code == ERR_UNKNOWN_OUTCOME)
        admin_fail(call, "outcome unknown: no answer from the cluster in time; look at the state before you repeat");
    else if (*result->text)
        admin_fail(call, "%s", result->text);
    else
        admin_fail(call, "refused: %s", err_text(result->code));
    return false;
}

/* ---- look-ups ---- */

Imp__NodeRow *admin_find_node(struct admin_call *call, const char *name)
{
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

const char *admin_node_name(struct admin_call *call, uint32_t node)
{
    struct key key;
    if (node == 0)
        return "";
    key_init(&key);
    key_u32(&key, node);
    Imp__NodeRow *row = store_find_row(admin_read(call), TABLE_NODE, &key, &call->arena);
    return row ? row->name : arena_printf(&call->arena, "#%u", node);
}

static Imp__ClusterRow *find_cluster(struct admin_call *call)
{
    struct key key;
    key_init(&key);
    return store_find_row(admin_read(call), TABLE_CLUSTER, &key, &call->arena);
}

Imp__UserRow *admin_find_user(struct admin_call *call, const char *name)
{
    struct jid jid;
    struct err_ctx err = {0};
    Imp__ClusterRow *cluster = find_cluster(call);
    const char *text = name;
    if (cluster && !strchr(name, '@'))
        text = arena_printf(&call->arena, "%s@%s", name, cluster->default_domain);
    if (!cluster || jid_parse(&jid, text, strlen(text), &err)) {
        admin_fail(call, "'%s' is not a user: %s", name, cluster ? err.text : "the store is empty");
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

/* Domains are few: the row is found by its id. */
static const char *domain_name(struct admin_call *call, uint32_t id)
{
    struct store_iter it;
    struct key prefix;
    key_init(&prefix);
    store_iter_init(&it, admin_read(call), TABLE_DOMAIN, &prefix);
    const char *found = "";
    while (store_iter_next(&it)) {
        Imp__DomainRow *row = store_iter_row(&it, &call->arena);
        if (row && row->id == id) {
            found = row->domain;
            break;
        }
    }
    store_iter_fini(&it);
    return found;
}

const char *admin_user_jid(struct admin_call *call, const Imp__UserRow *user)
{
    Imp__ClusterRow *cluster = find_cluster(call);
    const char *domain = domain_name(call, user->domain);
    if (cluster && strcmp(domain, cluster->default_domain) == 0)
        return user->localpart;
    return arena_printf(&call->arena, "%s@%s", user->localpart, domain);
}

/* ---- tables ---- */

static const char *cell(json_t *value, char *space, size_t size)
{
    if (json_is_string(value))
        return json_string_value(value);
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

void admin_reply_table(struct admin_call *call, json_t *array, const struct admin_column *columns, unsigned n_columns)
{
    size_t width[16] = {0}, i;
    char space[32];
    json_t *row;
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
        link_call(g->call->env->links, row->id, method, data, n_bytes, GATHER_TIMEOUT_MS, on_gather_reply, one);
    }
    gather_close(g);
}
