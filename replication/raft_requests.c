/* What other threads ask of the raft loop: barriers, membership changes, transfers. Each request is a letter
 * to the raft loop that comes back as the letter with the answer. */
#include "base/clock.h"
#include "replication/replica_impl.h"
#include <stdio.h>

/* ---- barriers ---- */

struct barrier_request {
    struct letter letter;
    struct replica *r;
    struct loop *loop;
    struct barrier_wait wait;
    uint64_t deadline_ms, index;
    int code;
    void (*on_done)(void *user, int code, uint64_t index);
    void *user;
};

static void free_barrier(struct letter *letter)
{
    mem_free(container_of(letter, struct barrier_request, letter));
}

static void answer_barrier(struct letter *letter)
{
    struct barrier_request *q = container_of(letter, struct barrier_request, letter);
    q->on_done(q->user, q->code, q->index);
    mem_free(q);
}

static void post_barrier_answer(struct barrier_request *q, int code, uint64_t index)
{
    q->code = code;
    q->index = index;
    q->letter = (struct letter){.deliver = answer_barrier, .discard = free_barrier};
    loop_post(q->loop, &q->letter);
}

void raft_requests_barrier_done(struct barrier_wait *w, int code)
{
    post_barrier_answer(container_of(w, struct barrier_request, wait), code, code == 0 ? w->index : 0);
}

static void take_barrier(struct letter *letter)
{
    struct barrier_request *q = container_of(letter, struct barrier_request, letter);
    struct replica *r = q->r;
    if (!r->is_running || r->stopping)
        post_barrier_answer(q, ERR_UNAVAILABLE, 0);
    else if (!barriers_add(&r->barriers, &q->wait, replica_now_ms(r), q->deadline_ms))
        post_barrier_answer(q, ERR_LIMIT, 0);
}

void replica_barrier(struct replica *r, struct loop *loop, unsigned timeout_ms,
                     void (*on_done)(void *user, int code, uint64_t index), void *user)
{
    struct barrier_request *q = mem_new(struct barrier_request);
    *q = (struct barrier_request){.letter = {.deliver = take_barrier, .discard = free_barrier},
                                  .r = r,
                                  .loop = loop,
                                  .deadline_ms = clock_monotonic_ms() + (timeout_ms ? timeout_ms : 30000),
                                  .on_done = on_done,
                                  .user = user};
    loop_post(r->loop, &q->letter);
}

/* ---- changes and transfers ---- */

struct change_request {
    struct letter letter;
    struct list link; /* in r->changes while it runs */
    struct replica *r;
    struct loop *loop;
    bool is_transfer;
    enum replica_change change;
    uint32_t node;
    uint64_t deadline_ms, term;
    int code;
    char text[256];
    void (*on_done)(void *user, int code, const char *text);
    void *user;
};

static void free_change(struct letter *letter)
{
    mem_free(container_of(letter, struct change_request, letter));
}

static void answer_change(struct letter *letter)
{
    struct change_request *q = container_of(letter, struct change_request, letter);
    q->on_done(q->user, q->code, q->text);
    mem_free(q);
}

static void finish_change(struct change_request *q, int code, const char *text)
{
    if (!list_is_empty(&q->link))
        list_remove(&q->link);
    q->code = code;
    snprintf(q->text, sizeof(q->text), "%s", text);
    q->letter = (struct letter){.deliver = answer_change, .discard = free_change};
    loop_post(q->loop, &q->letter);
}

static int submit_change(struct change_request *q, struct err_ctx *err)
{
    struct driver *d = q->r->driver;
    uint64_t now = replica_now_ms(q->r);
    switch (q->change) {
    case REPLICA_ADD_STANDBY:
        return driver_add_standby(d, now, q->node, err);
    case REPLICA_PROMOTE:
        return driver_promote(d, now, q->node, err);
    case REPLICA_DEMOTE:
        return driver_demote(d, now, q->node, err);
    case REPLICA_REMOVE:
        return driver_remove(d, now, q->node, err);
    }
    return err_set(err, ERR_INVALID, "no such change");
}

static void take_change(struct letter *letter)
{
    struct change_request *q = container_of(letter, struct change_request, letter);
    struct replica *r = q->r;
    struct err_ctx err = {0};
    int code;
    list_init(&q->link);
    if (!r->is_running || r->stopping) {
        finish_change(q, ERR_UNAVAILABLE, "this node is stopping");
        return;
    }
    q->term = driver_get_term(r->driver);
    if (q->is_transfer) {
        q->deadline_ms = replica_now_ms(r) + 2 * r->election_ms + REPLICA_TRANSFER_MS;
        code = driver_transfer(r->driver, replica_now_ms(r), q->node);
        if (code != 0)
            err_set(&err, code, "%s",
                    code == ERR_NOTFOUND ? "no such voter that could take over" : err_text(code));
    } else {
        q->deadline_ms = replica_now_ms(r) + REPLICA_CHANGE_MS;
        code = submit_change(q, &err);
    }
    if (code != 0)
        finish_change(q, code, err.text[0] ? err.text : err_text(code));
    else
        list_append(&r->changes, &q->link);
}

static void post_change(struct replica *r, bool is_transfer, enum replica_change change, uint32_t node,
                        struct loop *loop, void (*on_done)(void *user, int code, const char *text),
                        void *user)
{
    struct change_request *q = mem_new(struct change_request);
    *q = (struct change_request){.letter = {.deliver = take_change, .discard = free_change},
                                 .r = r,
                                 .loop = loop,
                                 .is_transfer = is_transfer,
                                 .change = change,
                                 .node = node,
                                 .on_done = on_done,
                                 .user = user};
    loop_post(r->loop, &q->letter);
}

void replica_change(struct replica *r, enum replica_change change, uint32_t node, struct loop *loop,
                    void (*on_done)(void *user, int code, const char *text), void *user)
{
    post_change(r, false, change, node, loop, on_done, user);
}

void replica_transfer(struct replica *r, uint32_t to, struct loop *loop,
                      void (*on_done)(void *user, int code, const char *text), void *user)
{
    post_change(r, true, 0, to, loop, on_done, user);
}

static bool is_in_force(const struct replica *r, const struct change_request *q)
{
    const struct configuration_server *s = configuration_find(&r->status.conf, q->node);
    switch (q->change) {
    case REPLICA_ADD_STANDBY:
        return s != NULL;
    case REPLICA_PROMOTE:
        return s && s->role == CONFIGURATION_VOTER;
    case REPLICA_DEMOTE:
        return s && s->role == CONFIGURATION_STANDBY;
    case REPLICA_REMOVE:
        return s == NULL;
    }
    return false;
}

static void pump_change(struct replica *r, struct change_request *q, uint64_t now_ms)
{
    bool leads = r->status.role == DRIVER_LEADER && r->status.term == q->term;
    if (q->is_transfer) {
        bool done = q->node ? r->status.leader == q->node
                            : r->status.leader && r->status.leader != r->options.node_id;
        if (done)
            finish_change(q, 0, "");
        else if (now_ms >= q->deadline_ms)
            finish_change(q, ERR_TIMEOUT, "leadership was not taken over in time");
        else if (leads && !r->status.is_transferring)
            driver_transfer(r->driver, now_ms, q->node); /* who is still writing its log ignores the first */
    } else if (leads && !r->status.pending_change) {
        bool ok = is_in_force(r, q);
        finish_change(q, ok ? 0 : ERR_CONFLICT, ok ? "" : "the change was undone");
    } else if (!leads || now_ms >= q->deadline_ms) {
        finish_change(q, ERR_UNKNOWN_OUTCOME,
                      leads ? "the change is submitted, but not committed yet"
                            : "leadership was lost meanwhile");
    }
}

/* ---- repair ---- */

struct repair_letter {
    struct letter letter;
    struct replica *r;
};

static void drop_repair(struct letter *letter)
{
    mem_free(container_of(letter, struct repair_letter, letter));
}

static void begin_repair(struct letter *letter)
{
    struct replica *r = container_of(letter, struct repair_letter, letter)->r;
    if (r->is_running && !r->stopping)
        install_begin(r, apply_index(r->apply), true);
    drop_repair(letter);
}

void replica_take_copy(struct replica *r)
{
    struct repair_letter *x = mem_new(struct repair_letter);
    *x = (struct repair_letter){{.deliver = begin_repair, .discard = drop_repair}, r};
    loop_post(r->loop, &x->letter);
}

/* ---- damage ---- */

struct damage_letter {
    struct letter letter;
    struct replica *r;
    uint32_t node;
    int code;
    char text[200];
};

static void drop_damage(struct letter *letter)
{
    mem_free(container_of(letter, struct damage_letter, letter));
}

static void take_answer(struct letter *letter)
{
    struct damage_letter *x = container_of(letter, struct damage_letter, letter);
    if (x->r->is_running && x->r->copy_server)
        copy_server_answer(x->r->copy_server, x->node, x->code, x->text);
    drop_damage(letter);
}

void replica_answer_damaged(struct replica *r, uint32_t node, int code, const char *text)
{
    struct damage_letter *x = mem_new(struct damage_letter);
    *x = (struct damage_letter){{.deliver = take_answer, .discard = drop_damage}, r, node, code, ""};
    snprintf(x->text, sizeof(x->text), "%s", text);
    loop_post(r->loop, &x->letter);
}

static void take_fence(struct letter *letter)
{
    struct replica *r = container_of(letter, struct damage_letter, letter)->r;
    r->is_fenced = true; /* the turn and the tick do the rest */
    drop_damage(letter);
}

void replica_fence(struct replica *r)
{
    struct damage_letter *x = mem_new(struct damage_letter);
    *x = (struct damage_letter){{.deliver = take_fence, .discard = drop_damage}, r, 0, 0, ""};
    loop_post(r->loop, &x->letter);
}

/* ---- certificates ---- */

struct tls_letter {
    struct letter letter;
    struct replica *r;
    struct tls_ctx *tls;
};

static void drop_tls(struct letter *letter)
{
    struct tls_letter *x = container_of(letter, struct tls_letter, letter);
    tls_ctx_unref(x->tls);
    mem_free(x);
}

static void take_tls(struct letter *letter)
{
    struct tls_letter *x = container_of(letter, struct tls_letter, letter);
    transport_set_tls(x->r->transport, x->tls);
    drop_tls(letter);
}

void replica_set_tls_client(struct replica *r, struct tls_ctx *tls_client)
{
    struct tls_letter *x = mem_new(struct tls_letter);
    *x = (struct tls_letter){{.deliver = take_tls, .discard = drop_tls}, r, tls_ctx_ref(tls_client)};
    loop_post(r->loop, &x->letter);
}

void raft_requests_pump(struct replica *r, uint64_t now_ms)
{
    struct change_request *q;
    list_for_each(q, &r->changes, struct change_request, link) pump_change(r, q, now_ms);
}

void raft_requests_end(struct replica *r)
{
    struct change_request *q;
    list_for_each(q, &r->changes, struct change_request, link)
        finish_change(q, ERR_UNKNOWN_OUTCOME, "this node is stopping");
    barriers_end(&r->barriers, ERR_UNAVAILABLE);
}
