/* An incremental run: what the change queue holds since last time -> the users as they are now -> one batch.
 */
#include "base/clock.h"
#include "base/mem.h"
#include "node/sync_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct latest {
    const struct axl_change *change;
    size_t at;
};

static int compare_latest(const void *a, const void *b)
{
    const struct latest *x = a, *y = b;
    int order = strcmp(x->change->uuid, y->change->uuid);
    return order ? order : x->at < y->at ? -1 : 1;
}

static int compare_place(const void *a, const void *b)
{
    const struct latest *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* Sorts the changes into "ask for it" and "remove", one entry per user, in the order of the last change: what
 * is asked for is told as it is now. A user whose last change is its removal needs no question. */
static void sort_changes(struct sync_run *run, const struct axl_result *result)
{
    struct latest *all = mem_calloc(result->n_changes + 1, sizeof *all);
    size_t n = 0, n_users = 0;
    for (size_t i = 0; i < result->n_changes; i++)
        if (result->changes[i].relevant)
            all[n++] = (struct latest){&result->changes[i], i};
    qsort(all, n, sizeof *all, compare_latest);
    for (size_t i = 0; i < n; i++)
        if (i + 1 == n || strcmp(all[i].change->uuid, all[i + 1].change->uuid))
            all[n_users++] = all[i];
    qsort(all, n_users, sizeof *all, compare_place);
    for (size_t i = 0; i < n_users; i++)
        uuid_list_add(all[i].change->action == AXL_CHANGE_REMOVE ? &run->remove : &run->get,
                      all[i].change->uuid);
    mem_free(all);
}

static void finish(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    /* More to read: the answer was cut at the server's limit. */
    bool more = run->position.next_change != a->status.position.next_change;
    a->status.position = run->position;
    a->status.last_poll_ms = clock_wall_ms();
    sync_agent_feed_ok(a);
    sync_run_finish(run, false, more);
}

static void on_position(void *user, const struct sync_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        if (result->code)
            sync_run_commit_failed(run, result);
        else
            finish(run);
    }
    sync_run_leave(run);
}

static void on_fetched(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    if (run->remove.n || run->n_users) {
        sync_run_commit(run, true, finish);
        return;
    }
    if (run->position.next_change == a->status.position.next_change) {
        finish(run);
        return;
    }
    /* Nothing of ours, but the queue has moved on. */
    const struct sync_commit commit = {
        .epoch = run->epoch, .run = run->id, .position = &run->position, .on_done = on_position, .user = run};
    run->n_pending++;
    int code = a->ops->submit_state(a->node, &commit, NULL, true, a->status.last.n_users);
    if (code) {
        run->n_pending--;
        sync_run_commit_failed(run, &(struct sync_result){.code = code});
    }
}

/* Why the changes that came cannot be all since last time; NULL when they are. */
static const char *find_gap(const struct sync_position *have, const struct axl_queue *queue)
{
    if (strcmp(queue->queue_id, have->queue_id))
        return "the change queue is another one";
    if (queue->first_change > have->next_change)
        return "changes were dropped before they were read";
    if (queue->next_change < have->next_change)
        return "the change queue was reset";
    return NULL;
}

static void on_changes(void *user, const struct axl_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        struct sync_agent *a = run->agent;
        enum axl_outcome outcome = result->error.outcome;
        if (outcome == AXL_OK) {
            const char *gap = find_gap(&a->status.position, &result->queue);
            sync_agent_connected(a);
            snprintf(run->position.queue_id, sizeof run->position.queue_id, "%s", result->queue.queue_id);
            run->position.next_change = result->queue.next_change;
            if (!gap)
                sort_changes(run, result);
            if (!gap && run->get.n > SYNC_FEED_MAX_GETS)
                gap = "very many users have changed";
            if (gap) {
                log_notice(loop_log(a->loop), "sync: %s: full run", gap);
                sync_run_finish(run, true, false);
            } else {
                sync_run_fetch(run, on_fetched);
            }
        } else if (outcome == AXL_FAULT || outcome == AXL_NOT_FOUND) {
            /* Reached, but it does not serve this queue. */
            sync_agent_feed_lost(a, result->error.text);
            sync_run_finish(run, true, false);
        } else {
            sync_run_fail(run, &result->error);
        }
    }
    sync_run_leave(run);
}

/* After a full run without a position: is the queue back? Then what happened in between is only known by
 * another. */
static void on_probe(void *user, const struct axl_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        if (result->error.outcome == AXL_OK) {
            log_notice(loop_log(run->agent->loop), "sync: the change queue is back: full run");
            sync_run_finish(run, true, false);
        } else {
            sync_agent_feed_lost(run->agent, result->error.text);
            sync_run_fail(run, &result->error);
        }
    }
    sync_run_leave(run);
}

void sync_feed_start(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    const struct sync_position *position = &a->status.position;
    run->n_pending++;
    if (position->queue_id[0])
        axl_list_changes(a->axl, position->queue_id, position->next_change, on_changes, run);
    else
        axl_list_changes(a->axl, NULL, 0, on_probe, run);
}
