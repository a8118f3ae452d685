/* What a full and an incremental run have in common: their life, asking for single users, committing. */
#include "base/clock.h"
#include "base/mem.h"
#include "node/sync_internal.h"
#include <assert.h>
#include <stdio.h>
#include <string.h>

void uuid_list_add(struct uuid_list *l, const char *uuid)
{
    if (l->n == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->items = mem_realloc(l->items, l->cap * sizeof *l->items);
    }
    snprintf(l->items[l->n++], sizeof *l->items, "%s", uuid);
}

struct sync_run *sync_run_new(struct sync_agent *a, bool is_full)
{
    struct sync_run *run = mem_new(struct sync_run);
    run->agent = a;
    run->is_full = is_full;
    run->epoch = a->epoch;
    run->id = a->status.last.run + (is_full ? 1 : 0);
    run->started_ms = clock_monotonic_ms();
    run->page_size = a->options.page_size;
    arena_init(&run->arena);
    a->n_open++;
    return run;
}

static void run_free(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    sync_full_fini(run);
    mem_free(run->get.items);
    mem_free(run->remove.items);
    mem_free(run->users);
    arena_fini(&run->arena);
    mem_free(run);
    sync_agent_run_freed(a);
}

void sync_run_give_up(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    assert(a->run == run);
    a->run = NULL;
    run->is_given_up = true;
    if (!run->n_pending)
        run_free(run);
}

bool sync_run_enter(struct sync_run *run)
{
    return !run->is_given_up;
}

void sync_run_leave(struct sync_run *run)
{
    if (!--run->n_pending && run->is_given_up)
        run_free(run);
}

void sync_run_finish(struct sync_run *run, bool needs_full, bool more_to_read)
{
    struct sync_agent *a = run->agent;
    bool was_full = run->is_full;
    sync_run_give_up(run);
    sync_agent_run_done(a, was_full, needs_full, more_to_read);
}

void sync_run_fail(struct sync_run *run, const struct axl_error *error)
{
    struct sync_agent *a = run->agent;
    const struct axl_error copy = *error;
    uint64_t id = run->id;
    bool is_full = run->is_full;
    sync_run_give_up(run);
    if (is_full)
        sync_full_record_failure(a, id, &copy);
    sync_agent_run_failed(a, is_full, &copy);
}

static unsigned retry_delay_ms(const struct sync_run *run, const struct axl_error *error)
{
    const struct sync_options *o = &run->agent->options;
    uint64_t ms = (uint64_t)o->backoff_min_ms << (run->n_retries - 1);
    if (ms < error->retry_after_s * 1000ull)
        ms = error->retry_after_s * 1000ull;
    return ms < o->backoff_max_ms ? (unsigned)ms : o->backoff_max_ms;
}

void sync_run_retry_or_fail(struct sync_run *run, const struct axl_error *error)
{
    struct sync_agent *a = run->agent;
    bool will_pass = error->outcome == AXL_RETRY || error->outcome == AXL_THROTTLED;
    if (!will_pass || run->n_retries >= SYNC_MAX_RETRIES) {
        sync_run_fail(run, error);
        return;
    }
    run->n_retries++;
    log_notice(loop_log(a->loop), "sync: %s; trying again", error->text);
    sync_agent_set_state(a, SYNC_BACKOFF, error->text);
    unsigned delay_ms = retry_delay_ms(run, error);
    a->due_ms = loop_now_ms(a->loop) + delay_ms;
    timer_start(&a->timer, delay_ms, 0);
}

void sync_run_commit_failed(struct sync_run *run, const struct sync_result *result)
{
    struct axl_error error = {.outcome = AXL_CANCELED};
    struct sync_agent *a = run->agent;
    if (result->code == ERR_CONFLICT) {
        sync_run_give_up(run);
        sync_agent_fenced(a, result->text ? result->text : "");
        return;
    }
    char words[320];
    snprintf(words, sizeof words, "cannot store users: %s",
             result->text && result->text[0] ? result->text : err_text(result->code));
    axl_copy_text(error.text, sizeof error.text, words);
    sync_run_fail(run, &error);
}

bool sync_is_ours(const struct axl_user *user)
{
    return user->im_and_presence && user->home_cluster;
}

void sync_user_from_axl(struct sync_user *out, const struct axl_user *user, struct arena *arena)
{
    bool both = user->first_name[0] && user->last_name[0];
    *out = (struct sync_user){.uuid = user->uuid,
                              .userid = user->userid,
                              .first_name = user->first_name,
                              .last_name = user->last_name,
                              .mail = user->mailid,
                              .directory_uri = user->directory_uri,
                              .display_name = user->display_name,
                              .has_display_name = user->display_name[0] != 0};
    if (out->has_display_name)
        return;
    if (both)
        out->display_name = arena_printf(arena, "%s %s", user->first_name, user->last_name);
    else
        out->display_name = user->first_name[0]  ? user->first_name
                            : user->last_name[0] ? user->last_name
                                                 : user->userid;
}

/* ---- asking for single users ---- */

/* The record's strings are the answer's: they are copied into the run's arena. */
static void keep_user(struct sync_run *run, size_t slot, const struct axl_user *user)
{
    struct sync_user *kept = &run->users[slot];
    sync_user_from_axl(kept, user, &run->arena);
    kept->uuid = arena_strdup(&run->arena, kept->uuid);
    kept->userid = arena_strdup(&run->arena, kept->userid);
    kept->first_name = arena_strdup(&run->arena, kept->first_name);
    kept->last_name = arena_strdup(&run->arena, kept->last_name);
    kept->mail = arena_strdup(&run->arena, kept->mail);
    kept->directory_uri = arena_strdup(&run->arena, kept->directory_uri);
    kept->display_name = arena_strdup(&run->arena, kept->display_name);
}

struct fetch {
    struct sync_run *run;
    size_t slot;
};

static void fetch_more(struct sync_run *run);

static void on_user(void *user, const struct axl_result *result)
{
    struct fetch *fetch = user;
    struct sync_run *run = fetch->run;
    size_t slot = fetch->slot;
    mem_free(fetch);
    run->n_gets--;
    if (sync_run_enter(run)) {
        const char *uuid = run->get.items[slot];
        if (result->error.outcome == AXL_NOT_FOUND) {
            uuid_list_add(&run->remove, uuid);
        } else if (result->error.outcome != AXL_OK) {
            sync_run_fail(run, &result->error);
        } else if (sync_is_ours(&result->users[0]) && !strcmp(result->users[0].uuid, uuid)) {
            keep_user(run, slot, &result->users[0]);
        } else {
            uuid_list_add(&run->remove, uuid);
        }
        if (!run->is_given_up)
            fetch_more(run);
    }
    sync_run_leave(run);
}

static void fetch_more(struct sync_run *run)
{
    while (run->next_get < run->get.n && run->n_gets < SYNC_MAX_FETCHES) {
        struct fetch *fetch = mem_new(struct fetch);
        fetch->run = run;
        fetch->slot = run->next_get++;
        run->n_gets++;
        run->n_pending++;
        axl_get_user(run->agent->axl, run->get.items[fetch->slot], on_user, fetch);
    }
    if (run->n_gets)
        return;
    /* The answers' order is the network's; what was asked for in the order of the changes is committed in it.
     */
    run->n_users = 0;
    for (size_t i = 0; i < run->get.n; i++)
        if (run->users[i].uuid)
            run->users[run->n_users++] = run->users[i];
    run->on_fetched(run);
}

void sync_run_fetch(struct sync_run *run, void (*on_fetched)(struct sync_run *run))
{
    run->on_fetched = on_fetched;
    run->next_get = run->n_users = 0;
    mem_free(run->users);
    run->users = mem_calloc(run->get.n + 1, sizeof *run->users);
    fetch_more(run);
}

/* ---- committing ---- */

static void commit_more(struct sync_run *run);

static void on_commit(void *user, const struct sync_result *result)
{
    struct sync_run *run = user;
    run->n_commits--;
    if (sync_run_enter(run)) {
        struct sync_status *status = &run->agent->status;
        if (result->code) {
            sync_run_commit_failed(run, result);
        } else {
            status->n_changed += result->n_changed;
            status->n_refused += result->n_refused;
            commit_more(run);
        }
    }
    sync_run_leave(run);
}

/* Removals first: a new user may have the address of one that goes. */
static int commit_part(struct sync_run *run)
{
    struct sync_agent *a = run->agent;
    struct sync_commit commit = {.epoch = run->epoch, .run = run->id, .on_done = on_commit, .user = run};
    size_t n_remove = run->remove.n - run->next_remove, n_users = run->n_users - run->next_user, n;
    if (n_remove) {
        n = n_remove < SYNC_MAX_BATCH ? n_remove : SYNC_MAX_BATCH;
        if (run->with_position && n == n_remove && !n_users)
            commit.position = &run->position;
        int code = a->ops->submit_remove(
            a->node, &commit, (const char(*)[SYNC_UUID_TEXT + 1]) & run->remove.items[run->next_remove], n);
        if (code)
            return code;
        run->next_remove += n;
        a->status.n_removed += n;
    } else {
        n = n_users < SYNC_MAX_BATCH ? n_users : SYNC_MAX_BATCH;
        if (run->with_position && n == n_users)
            commit.position = &run->position;
        int code = a->ops->submit_users(a->node, &commit, &run->users[run->next_user], n);
        if (code)
            return code;
        run->next_user += n;
    }
    return 0;
}

static void commit_more(struct sync_run *run)
{
    while ((run->next_remove < run->remove.n || run->next_user < run->n_users) &&
           run->n_commits < SYNC_MAX_COMMITS) {
        int code = commit_part(run);
        if (code) {
            sync_run_commit_failed(run, &(struct sync_result){.code = code});
            return;
        }
        run->n_commits++;
        run->n_pending++;
    }
    if (!run->n_commits)
        run->on_committed(run);
}

void sync_run_commit(struct sync_run *run, bool with_position, void (*on_committed)(struct sync_run *run))
{
    run->on_committed = on_committed;
    run->with_position = with_position;
    run->next_remove = run->next_user = 0;
    commit_more(run);
}
