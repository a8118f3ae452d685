#include "node/admin_ranges.h"

#include "base/mem.h"
#include "node/admin_calls.h"
#include <string.h>

enum {
    MAX_NODES = 65,
    MAX_BOUNDS = 31,
    FEW_ROWS = 200, /* a range of so many is compared row by row */
    MAX_ROWS = 2 * FEW_ROWS,
    MAX_SHOWN = 20,
    MAX_DEPTH = 8,
    KEY_TEXT = 160,
    TIMEOUT_MS = 30 * 1000,
};

/* What every node is asked: the sums of the ranges between the bounds, or the rows of the span. */
struct question {
    uint64_t index;
    enum table table;
    bool wants_rows;
    struct store_span span;
    unsigned n_bounds;
    struct key bounds[MAX_BOUNDS];
};

static void put_key(struct buf *out, const struct key *k)
{
    buf_add_u16(out, k->n);
    buf_add(out, k->bytes, k->n);
}

static void get_key(struct reader *r, struct key *k)
{
    uint16_t n = read_u16(r);
    const void *p = n <= KEY_MAX ? read_bytes(r, n) : NULL;
    k->n = p ? n : 0;
    if (p)
        memcpy(k->bytes, p, n);
    r->failed |= n > KEY_MAX;
}

static void encode_question(struct buf *out, const struct question *q)
{
    buf_add_u64(out, q->index);
    buf_adds(out, table_name(q->table)); /* releases may number tables differently */
    buf_add_u8(out, 0);
    buf_add_u8(out, q->wants_rows);
    put_key(out, &q->span.from);
    put_key(out, &q->span.to);
    buf_add_u8(out, (uint8_t)q->n_bounds);
    for (unsigned i = 0; i < q->n_bounds; i++)
        put_key(out, &q->bounds[i]);
}

static int decode_question(struct question *q, const uint8_t *data, size_t n_bytes)
{
    struct reader r;
    char name[64] = "";
    reader_init(&r, data, n_bytes);
    q->index = read_u64(&r);
    for (size_t i = 0; i < sizeof(name) && !r.failed; i++)
        if (!(name[i] = (char)read_u8(&r)))
            break;
    name[sizeof(name) - 1] = 0;
    int table = table_find(name);
    q->wants_rows = read_u8(&r);
    get_key(&r, &q->span.from);
    get_key(&r, &q->span.to);
    q->n_bounds = read_u8(&r);
    if (q->n_bounds > MAX_BOUNDS)
        return ERR_MALFORMED;
    for (unsigned i = 0; i < q->n_bounds; i++)
        get_key(&r, &q->bounds[i]);
    if (r.failed || table < 0 || table_scope((enum table)table) == SCOPE_LOCAL)
        return ERR_MALFORMED;
    q->table = (enum table)table;
    return 0;
}

/* ---- reading: on the pool ---- */

struct reading {
    struct work work;
    struct store_view *view;
    struct question q;
    bool wants_split; /* choose the bounds first */
    struct buf out;
    int code;
    void (*on_done)(struct reading *x);
    void *user;
};

static bool add_row(void *user, const void *key, size_t n_key, const struct store_hash *hash)
{
    struct reading *x = user;
    buf_add_u16(&x->out, (uint16_t)n_key);
    buf_add(&x->out, key, n_key);
    buf_add_u64(&x->out, hash->lo);
    return ++x->q.n_bounds < MAX_ROWS;
}

static void read_work(struct work *w)
{
    struct reading *x = container_of(w, struct reading, work);
    struct question *q = &x->q;
    struct store_range ranges[MAX_BOUNDS + 1];
    if (q->wants_rows) {
        q->n_bounds = 0;
        x->code = store_view_rows(x->view, q->table, &q->span, add_row, x);
        return;
    }
    if (x->wants_split)
        x->code = store_view_split(x->view, q->table, &q->span, q->bounds, MAX_BOUNDS, &q->n_bounds);
    if (x->code == 0)
        x->code = store_view_ranges(x->view, q->table, &q->span, q->bounds, q->n_bounds, ranges);
    for (unsigned i = 0; x->code == 0 && i <= q->n_bounds; i++) {
        buf_add_u64(&x->out, ranges[i].hash.lo);
        buf_add_u64(&x->out, ranges[i].hash.hi);
        buf_add_u64(&x->out, ranges[i].n_rows);
    }
}

static void read_done(struct work *w)
{
    struct reading *x = container_of(w, struct reading, work);
    x->on_done(x);
    store_view_unref(x->view);
    buf_fini(&x->out);
    mem_free(x);
}

/* Calls on_done later, also when there is no view. */
static void read_begin(const struct admin_env *env, struct reading *x)
{
    x->code = replica_view(env->replica, x->q.index, &x->view);
    if (x->code) {
        x->work.handle = NULL;
        read_done(&x->work);
        return;
    }
    x->work = (struct work){read_work, read_done, NULL};
    loop_run_work(env->loop, &x->work);
}

static void answer_peer(struct reading *x)
{
    link_answer(x->user, x->code, x->out.data, x->code ? 0 : x->out.n);
}

void admin_call_ranges(void *user, struct link_request *request, uint32_t from, const uint8_t *data,
                       size_t n_bytes)
{
    const struct admin_env *env = user;
    struct reading *x = mem_new(struct reading);
    x->on_done = answer_peer;
    x->user = request;
    if (decode_question(&x->q, data, n_bytes)) {
        link_answer(request, ERR_MALFORMED, NULL, 0);
        mem_free(x);
        return;
    }
    read_begin(env, x);
}

/* ---- comparing: on the node that was asked ---- */

struct node_answer {
    uint32_t node;
    int code;
    struct buf data;
};
struct range_check {
    struct admin_gather gather;
    struct question q;
    unsigned depth;
    struct node_answer answers[MAX_NODES]; /* of this round; ours first */
    unsigned n;
    json_t *result, *ranges, *rows;
    struct buf text;
    unsigned n_rows_shown;
};

static void ask(struct range_check *c, bool wants_split);

static void drop_answers(struct range_check *c)
{
    for (unsigned i = 0; i < c->n; i++)
        buf_fini(&c->answers[i].data);
    c->n = 0;
}

static void finish(struct range_check *c, const char *line)
{
    buf_adds(&c->text, line);
    for (unsigned i = 0; i < c->n; i++)
        if (c->answers[i].code)
            buf_addf(&c->text, "  The rows of %s could not be read: %s\n",
                     admin_node_name(c->gather.call, c->answers[i].node), err_text(c->answers[i].code));
    buf_adds(&c->text, json_is_true(json_object_get(c->result, "match")) ? "No Errors or Mismatches found.\n"
                                                                         : "Errors or Data Mismatches found\n");
    json_object_set_new(c->result, "ranges", c->ranges);
    json_object_set_new(c->result, "rows_differ", c->rows);
    drop_answers(c);
    admin_reply(c->gather.call, c->result, &c->text);
}

static void range_of(const struct node_answer *a, unsigned i, struct store_range *out)
{
    struct reader r;
    size_t at = (size_t)i * 24;
    memset(out, 0, sizeof(*out));
    if (a->code || at + 24 > a->data.n)
        return;
    reader_init(&r, a->data.data + at, 24);
    out->hash.lo = read_u64(&r);
    out->hash.hi = read_u64(&r);
    out->n_rows = read_u64(&r);
}

static bool is_same(const struct store_range *a, const struct store_range *b)
{
    return a->hash.lo == b->hash.lo && a->hash.hi == b->hash.hi && a->n_rows == b->n_rows;
}

static void span_of(const struct question *q, unsigned i, struct store_span *out)
{
    out->from = i ? q->bounds[i - 1] : q->span.from;
    out->to = i < q->n_bounds ? q->bounds[i] : q->span.to;
}

static void end_text(enum table t, const struct key *k, const char *none, char out[KEY_TEXT])
{
    if (k->n)
        table_key_text(t, k->bytes, k->n, out, KEY_TEXT);
    else
        snprintf(out, KEY_TEXT, "%s", none);
}

static void show_range(struct range_check *c, unsigned i)
{
    struct store_span span;
    char from[KEY_TEXT], to[KEY_TEXT];
    json_t *nodes = json_object();
    span_of(&c->q, i, &span);
    end_text(c->q.table, &span.from, "the first", from);
    end_text(c->q.table, &span.to, "the end", to);
    buf_addf(&c->text, "  differs: from %s up to %s:", from, to);
    for (unsigned k = 0; k < c->n; k++) {
        struct store_range r;
        char print[40];
        const char *name = admin_node_name(c->gather.call, c->answers[k].node);
        if (c->answers[k].code)
            continue;
        range_of(&c->answers[k], i, &r);
        snprintf(print, sizeof(print), "%016llx%016llx", (unsigned long long)r.hash.hi,
                 (unsigned long long)r.hash.lo);
        buf_addf(&c->text, " %s %llu rows %.8s", name, (unsigned long long)r.n_rows, print);
        json_object_set_new(nodes, name,
                            json_pack("{s:I, s:s}", "rows", (json_int_t)r.n_rows, "hash", print));
    }
    buf_addc(&c->text, '\n');
    json_array_append_new(c->ranges, json_pack("{s:s, s:s, s:o}", "from", from, "to", to, "nodes", nodes));
}

/* The first range that differs, and how many rows it has at most; -1: none. */
static int find_different(struct range_check *c, bool show, uint64_t *n_rows)
{
    int first = -1;
    for (unsigned i = 0; i <= c->q.n_bounds; i++) {
        struct store_range own, other;
        bool same = true;
        uint64_t most = 0;
        range_of(&c->answers[0], i, &own);
        most = own.n_rows;
        for (unsigned k = 1; k < c->n; k++) {
            if (c->answers[k].code)
                continue;
            range_of(&c->answers[k], i, &other);
            same &= is_same(&own, &other);
            most = other.n_rows > most ? other.n_rows : most;
        }
        if (same)
            continue;
        if (show)
            show_range(c, i);
        if (first < 0) {
            first = (int)i;
            *n_rows = most;
        }
    }
    return first;
}

/* ---- row by row ---- */

struct row {
    struct key key;
    uint64_t hash;
};

static bool next_row(struct reader *r, struct row *out)
{
    if (!reader_left(r))
        return false;
    get_key(r, &out->key);
    out->hash = read_u64(r);
    return !r->failed;
}

static int compare_keys(const struct key *a, const struct key *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int x = memcmp(a->bytes, b->bytes, n);
    return x ? x : (a->n > b->n) - (a->n < b->n);
}

struct cursor {
    struct reader r;
    struct row row;
    bool has;
};

static void show_row(struct range_check *c, const struct key *key, const struct cursor *at)
{
    char text[KEY_TEXT];
    json_t *nodes = json_object();
    table_key_text(c->q.table, key->bytes, key->n, text, sizeof(text));
    buf_addf(&c->text, "  row %s:", text);
    for (unsigned k = 0; k < c->n; k++) {
        const char *name = admin_node_name(c->gather.call, c->answers[k].node);
        char print[20];
        if (c->answers[k].code)
            continue;
        bool there = at[k].has && compare_keys(&at[k].row.key, key) == 0;
        snprintf(print, sizeof(print), "%016llx", (unsigned long long)at[k].row.hash);
        buf_addf(&c->text, " %s %s", name, there ? print : "missing");
        json_object_set_new(nodes, name, there ? json_string(print) : json_null());
    }
    buf_addc(&c->text, '\n');
    json_array_append_new(c->rows, json_pack("{s:s, s:o}", "key", text, "nodes", nodes));
    c->n_rows_shown++;
}

/* All lists ascend by key: the lowest key of all, and who has it with which hash. */
static void compare_rows(struct range_check *c)
{
    struct cursor *at = mem_alloc(c->n * sizeof(*at));
    for (unsigned k = 0; k < c->n; k++) {
        reader_init(&at[k].r, c->answers[k].data.data, c->answers[k].code ? 0 : c->answers[k].data.n);
        at[k].has = next_row(&at[k].r, &at[k].row);
    }
    while (c->n_rows_shown < MAX_SHOWN) {
        const struct row *lowest = NULL;
        for (unsigned k = 0; k < c->n; k++)
            if (at[k].has && (!lowest || compare_keys(&at[k].row.key, &lowest->key) < 0))
                lowest = &at[k].row;
        if (!lowest)
            break;
        struct row row = *lowest;
        bool same = true;
        for (unsigned k = 0; k < c->n; k++)
            same &= c->answers[k].code ||
                    (at[k].has && compare_keys(&at[k].row.key, &row.key) == 0 && at[k].row.hash == row.hash);
        if (!same)
            show_row(c, &row.key, at);
        for (unsigned k = 0; k < c->n; k++)
            if (at[k].has && compare_keys(&at[k].row.key, &row.key) == 0)
                at[k].has = next_row(&at[k].r, &at[k].row);
    }
    mem_free(at);
}

/* ---- rounds ---- */

static void on_round(struct admin_gather *g)
{
    struct range_check *c = container_of(g, struct range_check, gather);
    uint64_t n_rows = 0;
    if (c->answers[0].code) {
        finish(c, "");
        return;
    }
    if (c->q.wants_rows) {
        compare_rows(c);
        finish(c, c->n_rows_shown == MAX_SHOWN ? "  and more rows\n" : "");
        return;
    }
    int i = find_different(c, c->depth == 0, &n_rows);
    if (i < 0) {
        finish(c, c->depth ? "" : "  The rows were read on every node: all key ranges match\n");
        return;
    }
    json_object_set_new(c->result, "match", json_false());
    struct store_span span;
    span_of(&c->q, (unsigned)i, &span);
    c->q.span = span;
    c->q.wants_rows = n_rows <= FEW_ROWS || ++c->depth == MAX_DEPTH;
    c->q.n_bounds = 0;
    drop_answers(c);
    ask(c, !c->q.wants_rows);
}

static void on_peer_answer(struct admin_gather *g, uint32_t node, int code, const uint8_t *data,
                           size_t n_bytes)
{
    struct range_check *c = container_of(g, struct range_check, gather);
    if (c->n == MAX_NODES)
        return;
    struct node_answer *a = &c->answers[c->n++];
    *a = (struct node_answer){.node = node, .code = code};
    if (!code && n_bytes)
        buf_add(&a->data, data, n_bytes);
}

/* Ours is there, and with it the bounds that all the others are asked with. */
static void on_own_answer(struct reading *x)
{
    struct range_check *c = x->user;
    struct node_answer *a = &c->answers[c->n++];
    *a = (struct node_answer){.node = c->gather.call->env->node_id, .code = x->code, .data = x->out};
    x->out = (struct buf){0};
    if (!c->q.wants_rows) {
        c->q.n_bounds = x->q.n_bounds;
        memcpy(c->q.bounds, x->q.bounds, sizeof(c->q.bounds));
    }
    struct buf body = {0};
    encode_question(&body, &c->q);
    admin_gather(&c->gather, "ranges", body.data, body.n);
    buf_fini(&body);
}

static void ask(struct range_check *c, bool wants_split)
{
    struct reading *x = mem_new(struct reading);
    x->q = c->q;
    x->wants_split = wants_split;
    x->on_done = on_own_answer;
    x->user = c;
    read_begin(c->gather.call->env, x);
}

void admin_ranges_begin(struct admin_call *call, uint64_t index, enum table table, json_t *o,
                        struct buf *text)
{
    struct range_check *c = arena_zalloc(&call->arena, sizeof(*c));
    c->gather = (struct admin_gather){
        .call = call, .on_reply = on_peer_answer, .on_all = on_round, .timeout_ms = TIMEOUT_MS};
    c->q.index = index;
    c->q.table = table;
    c->result = o;
    c->ranges = json_array();
    c->rows = json_array();
    c->text = *text;
    *text = (struct buf){0};
    ask(c, true);
}
