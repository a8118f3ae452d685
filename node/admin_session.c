/* impcli session list|kick: sessions on all nodes. */
#include "base/mem.h"
#include "im/address.h"
#include "im/session_admin.h"
#include "node/admin_calls.h"
#include "node/admin_handlers.h"
#include <string.h>

enum { SESSIONS_MAX = 20000 }; /* of one node in one answer */

static json_t *session_json(const struct admin_env *env, const struct session_info *s)
{
    struct arena a;
    struct key key;
    arena_init(&a);
    key_init(&key);
    key_u64(&key, s->uid);
    Imp__UserRow *u = store_find_row(store_read_txn(env->reader), TABLE_USER, &key, &a);
    key_init(&key);
    key_u32(&key, s->edge_node);
    Imp__NodeRow *edge = store_find_row(store_read_txn(env->reader), TABLE_NODE, &key, &a);
    json_t *o = json_pack("{s:I, s:s, s:s?, s:s, s:s?, s:s, s:i, s:b, s:b, s:s, s:s, s:o}", "uid",
                          (json_int_t)s->uid, "user", u ? u->localpart : "", "resource", s->resource, "node",
                          env->node_name, "edge", edge ? edge->name : NULL, "ip", s->address, "priority",
                          s->priority, "available", s->available, "tls", s->tls, "mechanism", s->mechanism,
                          "protocol", s->protocol, "since", admin_json_time(s->since_ms));
    arena_fini(&a);
    return o;
}

/* ---- asked by another node, or by ourselves ---- */

struct local_list {
    const struct admin_env *env;
    struct link_request *request; /* NULL: for us */
    struct admin_collect *collect;
};

struct admin_collect {
    struct admin_gather gather;
    json_t *array;
    void (*on_all)(struct admin_call *call, json_t *sessions);
    unsigned n_parts;
    bool truncated;
};

static void collect_part_done(struct admin_collect *c)
{
    if (--c->n_parts == 0)
        c->on_all(c->gather.call, c->array);
}

static void on_local_list(void *user, const struct session_info *infos, size_t n, bool truncated)
{
    struct local_list *l = user;
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(array, session_json(l->env, &infos[i]));
    if (l->request) {
        char *text = json_dumps(array, JSON_COMPACT);
        link_answer(l->request, 0, text, text ? strlen(text) : 0);
        free(text);
        json_decref(array);
    } else {
        json_array_extend(l->collect->array, array);
        json_decref(array);
        l->collect->truncated |= truncated;
        collect_part_done(l->collect);
    }
    mem_free(l);
}

static void list_local(const struct admin_env *env, uint64_t uid, struct link_request *request,
                       struct admin_collect *collect)
{
    struct local_list *l = mem_new(struct local_list);
    l->env = env;
    l->request = request;
    l->collect = collect;
    session_admin_list(env->im, uid, SESSIONS_MAX, env->loop, on_local_list, l);
}

void admin_call_sessions(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                         size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint64_t uid = read_u64(&r);
    if (r.failed)
        link_answer(request, ERR_MALFORMED, NULL, 0);
    else
        list_local(user, uid, request, NULL);
}

/* ---- over all nodes ---- */

static void on_node_sessions(struct admin_gather *g, uint32_t node, int code, const uint8_t *data,
                             size_t n_bytes)
{
    struct admin_collect *c = container_of(g, struct admin_collect, gather);
    json_t *array = code == 0 ? json_loadb((const char *)data, n_bytes, 0, NULL) : NULL;
    if (json_is_array(array))
        json_array_extend(c->array, array);
    json_decref(array);
}

static void on_all_nodes(struct admin_gather *g)
{
    collect_part_done(container_of(g, struct admin_collect, gather));
}

void admin_collect_sessions(struct admin_call *call, uint64_t uid,
                            void (*on_all)(struct admin_call *call, json_t *sessions))
{
    struct admin_collect *c = arena_zalloc(&call->arena, sizeof *c);
    struct buf body = {0};
    c->array = json_array();
    c->on_all = on_all;
    c->n_parts = 2;
    c->gather = (struct admin_gather){.call = call, .on_reply = on_node_sessions, .on_all = on_all_nodes};
    buf_add_u64(&body, uid);
    list_local(call->env, uid, NULL, c);
    admin_gather(&c->gather, "sessions", body.data, body.n);
    buf_fini(&body);
}

static void reply_sessions(struct admin_call *call, json_t *sessions)
{
    static const struct admin_column columns[] = {
        {"user", "USER"},           {"resource", "RESOURCE"}, {"node", "NODE"},
        {"edge", "EDGE"},           {"ip", "ADDRESS"},        {"tls", "TLS"},
        {"mechanism", "MECHANISM"}, {"since", "SINCE"},       {"available", "AVAILABLE"}};
    admin_reply_table(call, sessions, columns, n_elements(columns));
}

void admin_session_list(struct admin_call *call)
{
    uint64_t uid = 0;
    if (call->n_args) {
        Imp__UserRow *u = admin_find_user(call, call->args[0]);
        if (!u)
            return;
        uid = u->uid;
    }
    admin_collect_sessions(call, uid, reply_sessions);
}

/* ---- kick: every node is told, one of them has the sessions ---- */

struct kick {
    struct admin_gather gather;
    uint64_t n_closed;
    unsigned n_parts;
};

static void kick_part_done(struct kick *k)
{
    if (--k->n_parts)
        return;
    if (k->n_closed)
        admin_acted(k->gather.call, "%llu session%s ended", (unsigned long long)k->n_closed,
                    k->n_closed == 1 ? "" : "s");
    else
        admin_fail(k->gather.call, "%s has no such session", k->gather.call->args[0]);
}

static void on_kicked_here(void *user, size_t n_closed)
{
    struct kick *k = user;
    k->n_closed += n_closed;
    kick_part_done(k);
}

static void on_kicked_there(struct admin_gather *g, uint32_t node, int code, const uint8_t *data,
                            size_t n_bytes)
{
    struct kick *k = container_of(g, struct kick, gather);
    struct reader r;
    reader_init(&r, data, data ? n_bytes : 0);
    uint64_t n = read_u64(&r);
    if (code == 0 && !r.failed)
        k->n_closed += n;
}

static void on_kicked_everywhere(struct admin_gather *g)
{
    kick_part_done(container_of(g, struct kick, gather));
}

static void on_kicked_for_other(void *user, size_t n_closed)
{
    struct buf body = {0};
    buf_add_u64(&body, n_closed);
    link_answer(user, 0, body.data, body.n);
    buf_fini(&body);
}

void admin_call_kick(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                     size_t n_bytes)
{
    const struct admin_env *env = user;
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint64_t uid = read_u64(&r);
    char resource[1024] = "";
    size_t n = reader_left(&r);
    const void *p = read_bytes(&r, n);
    if (r.failed || n >= sizeof resource) {
        link_answer(request, ERR_MALFORMED, NULL, 0);
        return;
    }
    memcpy(resource, p, n);
    resource[n] = 0;
    session_admin_kick(env->im, uid, *resource ? resource : NULL, env->loop, on_kicked_for_other, request);
}

void admin_session_kick(struct admin_call *call)
{
    char *name = arena_strdup(&call->arena, call->args[0]);
    char *slash = strchr(name, '/');
    if (slash)
        *slash++ = 0;
    Imp__UserRow *u = admin_find_user(call, name);
    if (!u)
        return;
    struct kick *k = arena_zalloc(&call->arena, sizeof *k);
    struct buf body = {0};
    k->n_parts = 2;
    k->gather =
        (struct admin_gather){.call = call, .on_reply = on_kicked_there, .on_all = on_kicked_everywhere};
    buf_add_u64(&body, u->uid);
    if (slash)
        buf_adds(&body, slash);
    session_admin_kick(call->env->im, u->uid, slash && *slash ? slash : NULL, call->env->loop, on_kicked_here,
                       k);
    admin_gather(&k->gather, "kick", body.data, body.n);
    buf_fini(&body);
}
