/* A full run: version -> where the queue stands -> the list, page by page -> what is not there any more ->
 * state. */
#include "base/clock.h"
#include "base/mem.h"
#include "node/sync_internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void step_version(struct sync_run *run);
static void step_baseline(struct sync_run *run);
static void step_page(struct sync_run *run);
static void step_compare(struct sync_run *run);
static void step_state(struct sync_run *run);

void sync_full_fini(struct sync_run *run)
{
    mem_free(run->seen);
    sync_uris_fini(&run->uris);
}

static void do_step(struct sync_run *run, void (*step)(struct sync_run *run))
{
    if (run->step != step)
        run->n_retries = 0;
    run->step = step;
    step(run);
}

static void fail(struct sync_run *run, enum axl_outcome outcome, const char *text)
{
    struct axl_error error = {.outcome = outcome};
    snprintf(error.text, sizeof error.text, "%s", text);
    sync_run_fail(run, &error);
}

void sync_full_start(struct sync_run *run)
{
    struct sync_status *status = &run->agent->status;
    status->n_listed = status->n_taken = status->n_changed = status->n_removed = status->n_refused = 0;
    do_step(run, step_version);
}

static void on_version(void *user, const struct axl_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        struct sync_agent *a = run->agent;
        if (result->error.outcome != AXL_OK) {
            sync_run_retry_or_fail(run, &result->error);
        } else {
            axl_copy_text(a->status.ucm_release, sizeof a->status.ucm_release, result->version);
            snprintf(a->status.axl_version, sizeof a->status.axl_version, "%s", axl_schema_version(a->axl));
            do_step(run, step_baseline);
        }
    }
    sync_run_leave(run);
}

static void step_version(struct sync_run *run)
{
    run->n_pending++;
    axl_get_version(run->agent->axl, on_version, run);
}

/* The position is taken before the first page is read: what changes meanwhile is read again afterwards. A
 * call manager without change notification is still listed; the feed is then known to be lost. */
static void on_baseline(void *user, const struct axl_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        enum axl_outcome outcome = result->error.outcome;
        if (outcome == AXL_OK) {
            snprintf(run->position.queue_id, sizeof run->position.queue_id, "%s", result->queue.queue_id);
            run->position.next_change = result->queue.next_change;
            do_step(run, step_page);
        } else if (outcome == AXL_FAULT || outcome == AXL_MALFORMED || outcome == AXL_NOT_FOUND) {
            sync_agent_feed_lost(run->agent, result->error.text);
            do_step(run, step_page);
        } else {
            sync_run_retry_or_fail(run, &result->error);
        }
    }
    sync_run_leave(run);
}

static void step_baseline(struct sync_run *run)
{
    run->n_pending++;
    axl_list_changes(run->agent->axl, NULL, 0, on_baseline, run);
}

/* ---- the list ---- */

static uint8_t hex_digit(char c)
{
    return (uint8_t)(c <= '9' ? c - '0' : c - 'a' + 10);
}

/* TEXT is lower case and of the right form. */
static void uuid_to_bytes(uint8_t out[16], const char *text)
{
    for (size_t n = 0; n < 16; text += 2) {
        if (*text == '-')
            text++;
        out[n++] = (uint8_t)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
    }
}

static void add_seen(struct sync_run *run, const struct axl_user *user)
{
    if (run->n_seen == run->cap_seen) {
        run->cap_seen = run->cap_seen ? run->cap_seen * 2 : 4096;
        run->seen = mem_realloc(run->seen, run->cap_seen * sizeof *run->seen);
    }
    struct sync_seen *seen = &run->seen[run->n_seen++];
    uuid_to_bytes(seen->uuid, user->uuid);
    seen->is_ours = sync_is_ours(user);
    if (seen->is_ours && !sync_uris_add(&run->uris, user->directory_uri, user->uuid) && !run->n_shared_uris++)
        axl_copy_text(run->shares_uri, sizeof run->shares_uri, user->userid);
}

static void after_page(struct sync_run *run)
{
    if (run->is_list_complete && !run->n_commits)
        do_step(run, step_compare);
}

static void on_page_committed(void *user, const struct sync_result *result)
{
    struct sync_run *run = user;
    run->n_commits--;
    if (sync_run_enter(run)) {
        if (result->code) {
            sync_run_commit_failed(run, result);
        } else {
            run->agent->status.n_changed += result->n_changed;
            run->agent->status.n_refused += result->n_refused;
            if (run->is_page_held) {
                run->is_page_held = false;
                do_step(run, step_page);
            } else {
                after_page(run);
            }
        }
    }
    sync_run_leave(run);
}

/* Submits those of the page that are ours. An error code has not ended the run yet. */
static int submit_page(struct sync_run *run, const struct axl_result *result)
{
    struct sync_agent *a = run->agent;
    const struct sync_commit commit = {
        .epoch = run->epoch, .run = run->id, .on_done = on_page_committed, .user = run};
    struct sync_user *users = mem_calloc(SYNC_MAX_BATCH, sizeof *users);
    struct arena arena;
    size_t n = 0;
    int code = 0;
    arena_init(&arena);
    for (size_t i = 0; i < result->n_users && !code; i++) {
        const struct axl_user *user = &result->users[i];
        add_seen(run, user);
        if (sync_is_ours(user))
            sync_user_from_axl(&users[n++], user, &arena);
        if (n == SYNC_MAX_BATCH || (i + 1 == result->n_users && n)) {
            code = a->ops->submit_users(a->node, &commit, users, n);
            if (!code) {
                run->n_commits++;
                run->n_pending++;
                a->status.n_taken += n;
            }
            n = 0;
        }
    }
    arena_fini(&arena);
    mem_free(users);
    return code;
}

static void shrink_page(struct sync_run *run, const struct axl_error *error)
{
    unsigned old = run->page_size;
    if (error->suggested_rows > 1 && error->suggested_rows - 1 < old)
        run->page_size = error->suggested_rows - 1;
    else
        run->page_size = old / 2;
    if (!run->page_size) {
        sync_run_fail(run, error);
        return;
    }
    log_info(loop_log(run->agent->loop), "sync: pages of %u users instead of %u", run->page_size, old);
    do_step(run, step_page);
}

static void take_page(struct sync_run *run, const struct axl_result *result)
{
    struct sync_agent *a = run->agent;
    run->n_retries = 0;
    if (run->n_seen + result->n_users > SYNC_MAX_USERS) {
        fail(run, AXL_MALFORMED, "the call manager lists more users than can be handled");
        return;
    }
    run->skip += result->n_rows;
    run->is_list_complete = result->n_rows < run->page_size;
    a->status.n_listed += result->n_rows;
    if (result->n_rows > result->n_users)
        log_warning(loop_log(a->loop), "sync: %zu users without uuid or userid ignored",
                    result->n_rows - result->n_users);
    int code = submit_page(run, result);
    if (code)
        sync_run_commit_failed(run, &(struct sync_result){.code = code});
    else if (run->is_list_complete)
        after_page(run);
    else if (run->n_commits < SYNC_MAX_COMMITS)
        do_step(run, step_page);
    else
        run->is_page_held = true; /* until a commit is through */
}

static void on_page(void *user, const struct axl_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        if (run->agent->status.state == SYNC_BACKOFF)
            sync_agent_set_state(run->agent, SYNC_FULL, "");
        if (result->error.outcome == AXL_OK)
            take_page(run, result);
        else if (result->error.outcome == AXL_TOO_LARGE)
            shrink_page(run, &result->error);
        else
            sync_run_retry_or_fail(run, &result->error);
    }
    sync_run_leave(run);
}

static void step_page(struct sync_run *run)
{
    run->n_pending++;
    axl_list_users(run->agent->axl, run->skip, run->page_size, on_page, run);
}

/* ---- what is gone ---- */

static int compare_seen(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

static void on_gone_committed(struct sync_run *run)
{
    struct sync_status *status = &run->agent->status;
    /* An address that one of the removed held was refused to its new owner: list once more. */
    if (status->n_refused && status->n_removed && !run->is_second_pass) {
        run->is_second_pass = true;
        run->is_list_complete = false;
        run->skip = run->n_seen = run->n_shared_uris = 0;
        sync_uris_fini(&run->uris);
        run->remove.n = run->get.n = run->n_users = 0;
        status->n_refused = status->n_listed = status->n_taken = 0;
        do_step(run, step_page);
        return;
    }
    do_step(run, step_state);
}

static void on_gone_checked(struct sync_run *run)
{
    sync_run_commit(run, false, on_gone_committed);
}

/* Those that the list shows as not ours go at once; those that it does not show are asked for by uuid first:
 * a list that is read in pages misses one when another is removed meanwhile. */
static void step_compare(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    char known[256][SYNC_UUID_TEXT + 1];
    char after[SYNC_UUID_TEXT + 1] = "";
    size_t n;
    run->remove.n = run->get.n = run->n_users = 0;
    if (run->n_seen)
        qsort(run->seen, run->n_seen, sizeof *run->seen, compare_seen);
    do {
        n = a->ops->list_known(a->node, after, known, 256);
        for (size_t i = 0; i < n; i++) {
            struct sync_seen key;
            uuid_to_bytes(key.uuid, known[i]);
            const struct sync_seen *seen =
                run->n_seen ? bsearch(&key, run->seen, run->n_seen, sizeof key, compare_seen) : NULL;
            if (!seen)
                uuid_list_add(&run->get, known[i]);
            else if (!seen->is_ours)
                uuid_list_add(&run->remove, known[i]);
        }
        if (n)
            memcpy(after, known[n - 1], sizeof after);
    } while (n == 256);
    if (run->get.n && !run->n_seen) {
        fail(run, AXL_RETRY, "the call manager lists no users at all; nothing is removed");
        return;
    }
    sync_run_fetch(run, on_gone_checked);
}

/* ---- state ---- */

static void describe(char *out, size_t room, const struct sync_status *s)
{
    snprintf(out, room, "%zu of %zu users taken, %llu rows changed, %llu removed, %llu refused", s->n_taken,
             s->n_listed, (unsigned long long)s->n_changed, (unsigned long long)s->n_removed,
             (unsigned long long)s->n_refused);
}

static void on_state(void *user, const struct sync_result *result)
{
    struct sync_run *run = user;
    if (sync_run_enter(run)) {
        struct sync_status *status = &run->agent->status;
        if (result->code) {
            sync_run_commit_failed(run, result);
        } else {
            run->agent->recorded_failure = AXL_OK;
            status->last.run = run->id;
            status->last.is_complete = status->last.is_ok = true;
            status->last.completed_ms = clock_wall_ms();
            status->last.n_users = status->n_taken;
            status->last_duration_ms = clock_monotonic_ms() - run->started_ms;
            describe(status->last.result, sizeof status->last.result, status);
            status->position = run->position;
            log_notice(loop_log(run->agent->loop), "sync: full run %llu completed in %llu ms: %s",
                       (unsigned long long)run->id, (unsigned long long)status->last_duration_ms,
                       status->last.result);
            sync_agent_connected(run->agent);
            sync_agent_shared_uris(run->agent, run->n_shared_uris, run->shares_uri);
            sync_run_finish(run, false, true);
        }
    }
    sync_run_leave(run);
}

static void step_state(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    const struct sync_commit commit = {
        .epoch = run->epoch, .run = run->id, .position = &run->position, .on_done = on_state, .user = run};
    char text[256];
    describe(text, sizeof text, &a->status);
    run->n_pending++;
    int code = a->ops->submit_state(a->node, &commit, text, true, a->status.n_taken);
    if (code) {
        run->n_pending--;
        sync_run_commit_failed(run, &(struct sync_result){.code = code});
    }
}

static void on_failure_recorded(void *user, const struct sync_result *result)
{
    struct sync_agent *a = user;
    if (result->code == ERR_CONFLICT && a->is_publisher)
        sync_agent_fenced(a, result->text ? result->text : "");
    sync_agent_run_freed(a); /* one thing less that is open */
}

/* Once per kind of failure: an outage must not write to the log of all nodes at each attempt. */
void sync_full_record_failure(struct sync_agent *a, uint64_t run_id, const struct axl_error *error)
{
    struct sync_stored *last = &a->status.last;
    const struct sync_commit commit = {
        .epoch = a->epoch, .run = run_id, .on_done = on_failure_recorded, .user = a};
    bool is_known = a->recorded_failure == error->outcome;
    last->is_ok = false;
    last->completed_ms = clock_wall_ms();
    last->run = run_id;
    snprintf(last->result, sizeof last->result, "%s", error->text);
    if (is_known || a->is_closing || !a->is_publisher)
        return;
    a->n_open++;
    if (a->ops->submit_state(a->node, &commit, error->text, false, last->n_users))
        a->n_open--;
    else
        a->recorded_failure = error->outcome;
}
