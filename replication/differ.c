/* The nodes' state hashes are told to each other and compared; what follows when they differ. In the
 * minority: this node gives up its lease and leadership for this life. On a tie whoever's own scrub fails
 * does; if nobody's does, all report it and none repairs by itself. Raft thread; the scrub runs on the loop's
 * pool. */
#include "replication/replica_impl.h"
#include <stdio.h>

enum { REST_MS = 1000, REST_AGAIN_MS = 10000, HAND_OVER_AGAIN_MS = 2000, DOUBT_MS = 60000 };

struct scrub {
    struct work work;
    struct replica *r;
    struct hashes_result result; /* index 0: no comparison, but a doubt */
    int code;
    struct err_ctx err;
};

void differ_tell(struct replica *r, const struct apply_hash *h)
{
    hashes_add(&r->hashes, replica_now_ms(r), r->options.node_id, h->index, &h->hash);
    raft_frames_send_hash(r, h);
}

/* What has come to rest is at the same index everywhere. Said again now and then: somebody may have started
 * meanwhile. Nothing is written for it. */
void differ_rest(struct replica *r, uint64_t now_ms)
{
    if (!r->last_hash.index || now_ms < r->rested_ms + (r->is_rest_told ? REST_AGAIN_MS : REST_MS))
        return;
    r->rested_ms = now_ms;
    r->is_rest_told = true;
    differ_tell(r, &r->last_hash);
}

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
        log_error(r->log, "this node's tables %s (index %llu): lease and leadership given up", why,
                  (unsigned long long)result->index);
    r->is_fenced = true;
    tell(r, result, true);
}

/* Its log is right, so it votes and stores on; but what it says of the state may be wrong. */
void differ_fenced(struct replica *r, uint64_t now_ms)
{
    if (!r->is_fenced || r->status.role != DRIVER_LEADER || configuration_n_voters(&r->status.conf) < 2 ||
        r->status.is_transferring || now_ms < r->fence_ms + HAND_OVER_AGAIN_MS)
        return;
    r->fence_ms = now_ms;
    driver_transfer(r->driver, now_ms, 0);
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
    } else if (r->is_running && x->result.index) {
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

void differ_doubt(struct replica *r, const char *why)
{
    uint64_t now = replica_now_ms(r);
    if (r->is_fenced || (r->doubted_ms && now < r->doubted_ms + DOUBT_MS))
        return;
    r->doubted_ms = now;
    log_warning(r->log, "%s: all tables are read again", why);
    scrub(r, &(struct hashes_result){.verdict = HASHES_TIE});
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
        } else if (!r->is_fenced && r->options.on_tables_equal) {
            r->options.on_tables_equal(r->options.user, result.index);
        }
    }
}
