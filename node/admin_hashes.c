/* impcli dbreplication status: a HashPoint goes into the log, then every node's hashes at that index are
 * compared. */
#include "base/mem.h"
#include "node/admin_calls.h"
#include "node/admin_handlers.h"
#include "node/admin_ranges.h"
#include <string.h>

enum { MAX_NODES = 64, HASH_TRIES = 15, HASH_RETRY_MS = 100 }; /* less than a gather waits */

struct node_hashes {
    uint32_t node;
    int code;
    struct store_hash hash[N_TABLES];
    uint64_t rows[N_TABLES];
};
struct hash_check {
    struct admin_gather gather;
    uint64_t index;
    int only;                                /* one table, or -1 */
    struct node_hashes nodes[MAX_NODES + 1]; /* and this one */
    unsigned n;
};
struct hash_wait { /* at a node that was asked */
    struct timer timer;
    const struct admin_env *env;
    struct link_request *request;
    uint64_t index;
    unsigned tries;
};

static void encode_hashes(struct buf *out, const struct node_hashes *h)
{
    for (int t = 0; t < N_TABLES; t++) {
        buf_add_u64(out, h->hash[t].lo);
        buf_add_u64(out, h->hash[t].hi);
        buf_add_u64(out, h->rows[t]);
    }
}

/* This node may have the index a moment later. */
static void on_hash_wait(struct timer *t)
{
    struct hash_wait *w = container_of(t, struct hash_wait, timer);
    struct node_hashes *h = mem_new(struct node_hashes);
    int rv = replica_table_hashes(w->env->replica, w->index, h->hash, h->rows);
    if (rv == ERR_AGAIN && ++w->tries < HASH_TRIES) {
        timer_start(t, HASH_RETRY_MS, 0);
    } else {
        struct buf out = {0};
        if (rv == 0)
            encode_hashes(&out, h);
        link_answer(w->request, rv, out.data, out.n);
        buf_fini(&out);
        mem_free(w);
    }
    mem_free(h);
}

void admin_call_hashes(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                       size_t n_bytes)
{
    struct reader r;
    reader_init(&r, data, n_bytes);
    struct hash_wait *w = mem_new(struct hash_wait);
    w->env = user;
    w->request = request;
    w->index = read_u64(&r);
    timer_init(&w->timer, w->env->loop, on_hash_wait);
    on_hash_wait(&w->timer);
}

static void on_hashes(struct admin_gather *g, uint32_t node, int code, const uint8_t *data, size_t n_bytes)
{
    struct hash_check *c = container_of(g, struct hash_check, gather);
    struct reader r;
    if (c->n == MAX_NODES)
        return;
    struct node_hashes *h = &c->nodes[c->n++];
    h->node = node;
    h->code = code;
    reader_init(&r, data, code ? 0 : n_bytes);
    for (int t = 0; code == 0 && t < N_TABLES; t++) {
        h->hash[t].lo = read_u64(&r);
        h->hash[t].hi = read_u64(&r);
        h->rows[t] = read_u64(&r);
    }
    if (code == 0 && r.failed)
        h->code = ERR_VERSION;
}

static void report_hashes(struct hash_check *c)
{
    struct admin_call *call = c->gather.call;
    json_t *tables = json_array(), *nodes = json_array(), *silent = json_array();
    struct buf text = {0};
    unsigned n_checked = 0, n_differ = 0, n_answers = 0;
    for (unsigned i = 0; i < c->n; i++) {
        const char *name = admin_node_name(call, c->nodes[i].node);
        json_array_append_new(c->nodes[i].code ? silent : nodes, json_string(name));
        n_answers += c->nodes[i].code == 0;
    }
    buf_addf(&text, "Replication status at log index %llu\n\n", (unsigned long long)c->index);
    for (int t = 0; t < N_TABLES; t++) {
        json_t *hashes = json_object();
        const struct node_hashes *first = NULL;
        bool same = true;
        if (table_scope((enum table)t) == SCOPE_LOCAL || (c->only >= 0 && t != c->only)) {
            json_decref(hashes);
            continue;
        }
        for (unsigned i = 0; i < c->n; i++) {
            const struct node_hashes *h = &c->nodes[i];
            char print[40];
            if (h->code)
                continue;
            snprintf(print, sizeof print, "%016llx%016llx", (unsigned long long)h->hash[t].hi,
                     (unsigned long long)h->hash[t].lo);
            json_object_set_new(hashes, admin_node_name(call, h->node), json_string(print));
            first = first ? first : h;
            same &= h->hash[t].lo == first->hash[t].lo && h->hash[t].hi == first->hash[t].hi;
        }
        n_checked++;
        n_differ += !same;
        buf_addf(&text, "  %-20s %10llu rows  %016llx  %s\n", table_name((enum table)t),
                 (unsigned long long)(first ? first->rows[t] : 0),
                 (unsigned long long)(first ? first->hash[t].hi : 0), same ? "match" : "MISMATCH");
        json_array_append_new(tables, json_pack("{s:s, s:I, s:b, s:o}", "table", table_name((enum table)t),
                                                "rows", (json_int_t)(first ? first->rows[t] : 0), "match",
                                                same, "hashes", hashes));
    }
    buf_addf(&text, "\nReplication status command COMPLETED. Checked %u tables out of %u on %u of %u nodes\n",
             n_checked, n_checked, n_answers, c->n);
    for (unsigned i = 0; i < c->n; i++)
        if (c->nodes[i].code)
            buf_addf(&text, "No answer from %s: %s\n", admin_node_name(call, c->nodes[i].node),
                     err_text(c->nodes[i].code));
    if (c->only < 0)
        buf_adds(&text, n_differ ? "Errors or Data Mismatches found\n" : "No Errors or Mismatches found.\n");
    json_t *o = json_pack("{s:I, s:b, s:o, s:o, s:o}", "index", (json_int_t)c->index, "match", n_differ == 0,
                          "nodes", nodes, "no_answer", silent, "tables", tables);
    if (c->only >= 0)
        admin_ranges_begin(call, c->index, (enum table)c->only, o, &text);
    else
        admin_reply(call, o, &text);
}

static void on_all_hashes(struct admin_gather *g)
{
    struct hash_check *c = container_of(g, struct hash_check, gather);
    struct node_hashes *h = &c->nodes[c->n++];
    h->node = g->call->env->node_id;
    h->code = replica_table_hashes(g->call->env->replica, c->index, h->hash, h->rows);
    report_hashes(c);
}

static void on_hash_point(void *user, const struct proposal_result *result)
{
    struct admin_call *call = user;
    struct hash_check *c = call->state;
    struct buf body = {0};
    if (!admin_accepted(call, result))
        return;
    c->index = result->index;
    buf_add_u64(&body, c->index);
    admin_gather(&c->gather, "hashes", body.data, body.n);
    buf_fini(&body);
}

void admin_dbrepl_status(struct admin_call *call)
{
    struct hash_check *c = arena_zalloc(&call->arena, sizeof *c);
    const char *table = admin_option(call, "table");
    c->only = -1;
    if (table && ((c->only = table_find(table)) < 0 || table_scope((enum table)c->only) == SCOPE_LOCAL)) {
        admin_fail(call, "there is no replicated table '%s'", table);
        return;
    }
    c->gather = (struct admin_gather){.call = call, .on_reply = on_hashes, .on_all = on_all_hashes};
    call->state = c;
    Imp__HashPoint body = IMP__HASH_POINT__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_HASH_POINT;
    command.hash_point = &body;
    if (c->only >= 0)
        body.table = (char *)table;
    admin_propose(call, &command, on_hash_point);
}
