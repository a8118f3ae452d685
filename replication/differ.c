/* What follows when the nodes' state hashes differ. In the minority: this node gives up its lease for this
 * life. On a tie whoever's own scrub fails does; if nobody's does, all report it and none repairs by itself.
 * Raft thread; the scrub runs on the loop's pool. */
#include "replication/replica_impl.h"

struct scrub {
    struct work work;
    struct replica *r;
    struct hashes_result result;
    int code;
    struct err_ctx err;
};

static void tell(struct replica *r, const struct hashes_result *result, bool we_differ)
{
    if (r->options.on_tables_differ)
        r->options.on_tables_differ(r->options.user, result->index, we_differ,
                                    result->verdict == HASHES_TIE && !we_differ, result->nodes,
                                    result->n_nodes);
}

static void fence(struct replica *r, const struct hashes_result *result, const char *why)
{
    if (!r->is_fenced)
        log_error(r->log, "this node's tables %s (index %llu): lease given up", why,
                  (unsigned long long)result->index);
    r->is_fenced = true;
    tell(r, result, true);
}

static void scrub_work(struct work *w)
{
    struct scrub *x = container_of(w, struct scrub, work);
    for (unsigned t = 0; t < N_TABLES && x->code == 0 && !atomic_load(&x->r->cancel_scrub); t++)
        if (table_scope(t) != SCOPE_LOCAL)
            x->code = store_scrub_table(x->r->options.store, t, &x->err);
}

static void scrub_done(struct work *w)
{
    struct scrub *x = container_of(w, struct scrub, work);
    struct replica *r = x->r;
    r->is_scrubbing = false;
    if (r->is_running && x->code == ERR_CORRUPT) {
        log_error(r->log, "scrub: %s", x->err.text);
        fence(r, &x->result, "do not give their own hashes");
    } else if (r->is_running) {
        log_error(r->log, "the nodes' tables differ at index %llu and nobody knows which are right",
                  (unsigned long long)x->result.index);
        tell(r, &x->result, false);
    }
    mem_free(x);
}

static void scrub(struct replica *r, const struct hashes_result *result)
{
    if (r->is_scrubbing)
        return;
    struct scrub *x = mem_new(struct scrub);
    x->r = r;
    x->result = *result;
    x->work = (struct work){scrub_work, scrub_done, NULL};
    r->is_scrubbing = true;
    loop_run_work(r->loop, &x->work);
}

void differ_judge(struct replica *r, uint64_t now_ms)
{
    struct hashes_result result;
    while (hashes_judge(&r->hashes, now_ms, r->status.conf.n, &result)) {
        if (result.verdict == HASHES_WE_DIFFER) {
            fence(r, &result, "differ from those of the majority");
        } else if (result.verdict == HASHES_TIE) {
            scrub(r, &result);
        } else if (result.verdict == HASHES_THEY_DIFFER) {
            log_error(r->log, "the tables of node %u%s differ from the majority's at index %llu",
                      result.nodes[0], result.n_nodes > 1 ? " and others" : "",
                      (unsigned long long)result.index);
            tell(r, &result, false);
        }
    }
}
