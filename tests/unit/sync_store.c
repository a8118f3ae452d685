#include "sync_store.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

struct commit {
    struct list link;
    struct sync_result result;
    sync_done_fn *on_done;
    void *user;
};

static void answer_next(struct timer *t)
{
    struct sync_store *s = container_of(t, struct sync_store, answer);
    struct list *first = list_first(&s->commits);
    if (!first)
        return;
    struct commit *c = list_entry(first, struct commit, link);
    list_remove(&c->link);
    s->n_waiting--;
    if (!list_is_empty(&s->commits))
        timer_start(&s->answer, s->answer_ms, 0);
    c->on_done(c->user, &c->result);
    mem_free(c);
}

/* Decides now, answers later. NULL: refused, or fenced, or lost; *code is what the submitter gets at once. */
static struct commit *begin(struct sync_store *s, const struct sync_commit *from, int *code)
{
    *code = 0;
    if (s->n_refuse) {
        s->n_refuse--;
        *code = ERR_LIMIT;
        return NULL;
    }
    struct commit *c = mem_new(struct commit);
    c->on_done = from->on_done;
    c->user = from->user;
    c->result.text = "";
    list_append(&s->commits, &c->link);
    if (++s->n_waiting > s->max_waiting)
        s->max_waiting = s->n_waiting;
    if (!timer_is_on(&s->answer))
        timer_start(&s->answer, s->answer_ms, 0);
    if (from->epoch != s->epoch) {
        c->result.code = ERR_CONFLICT;
        return NULL;
    }
    if (s->n_fail) {
        s->n_fail--;
        c->result.code = ERR_UNKNOWN_OUTCOME;
        return NULL;
    }
    if (from->position)
        s->stored.position = *from->position;
    return c;
}

static size_t lower_bound(const struct sync_store *s, const char *uuid)
{
    size_t low = 0, high = s->n_users;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(s->users[middle]->uuid, uuid) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct stored_user *sync_store_find(struct sync_store *s, const char *userid)
{
    for (size_t i = 0; i < s->n_users; i++)
        if (!strcmp(s->users[i]->userid, userid))
            return s->users[i];
    return NULL;
}

static struct stored_user *insert(struct sync_store *s, size_t at)
{
    if (s->n_users == s->cap_users) {
        s->cap_users = s->cap_users ? s->cap_users * 2 : 1024;
        s->users = mem_realloc(s->users, s->cap_users * sizeof *s->users);
    }
    memmove(&s->users[at + 1], &s->users[at], (s->n_users++ - at) * sizeof *s->users);
    s->n_added++;
    return s->users[at] = mem_new(struct stored_user);
}

static void put(struct sync_store *s, struct commit *c, const struct sync_user *user, uint64_t run)
{
    size_t at = lower_bound(s, user->uuid);
    bool is_there = at < s->n_users && !strcmp(s->users[at]->uuid, user->uuid);
    /* Looked for only when the address is new, and in small stores: 10,000 users would make it quadratic. */
    if ((!is_there || strcmp(s->users[at]->userid, user->userid)) && s->n_users < 3000 &&
        sync_store_find(s, user->userid)) {
        c->result.n_refused++;
        return;
    }
    struct stored_user *row = is_there ? s->users[at] : insert(s, at), old = *row;
    snprintf(row->uuid, sizeof row->uuid, "%s", user->uuid);
    snprintf(row->userid, sizeof row->userid, "%s", user->userid);
    snprintf(row->mail, sizeof row->mail, "%s", user->mail);
    if (!is_there || user->has_display_name)
        snprintf(row->display_name, sizeof row->display_name, "%s", user->display_name);
    row->run = run;
    c->result.n_changed += strcmp(old.userid, row->userid) || strcmp(old.display_name, row->display_name);
}

static int submit_users(void *node, const struct sync_commit *commit, const struct sync_user *users, size_t n)
{
    struct sync_store *s = node;
    int code;
    struct commit *c = begin(s, commit, &code);
    s->n_users_commits++;
    buf_addf(&s->trace, "U%zu%s ", n, commit->position ? "p" : "");
    for (size_t i = 0; c && i < n; i++)
        put(s, c, &users[i], commit->run);
    return code;
}

static int submit_remove(void *node, const struct sync_commit *commit,
                         const char (*uuids)[SYNC_UUID_TEXT + 1], size_t n)
{
    struct sync_store *s = node;
    int code;
    struct commit *c = begin(s, commit, &code);
    s->n_remove_commits++;
    buf_addf(&s->trace, "R%zu%s ", n, commit->position ? "p" : "");
    for (size_t i = 0; c && i < n; i++) {
        size_t at = lower_bound(s, uuids[i]);
        if (at == s->n_users || strcmp(s->users[at]->uuid, uuids[i]))
            continue;
        mem_free(s->users[at]);
        memmove(&s->users[at], &s->users[at + 1], (--s->n_users - at) * sizeof *s->users);
        s->n_removed++;
    }
    return code;
}

static int submit_state(void *node, const struct sync_commit *commit, const char *result, bool ok,
                        uint64_t n_users)
{
    struct sync_store *s = node;
    int code;
    struct commit *c = begin(s, commit, &code);
    s->n_state_commits++;
    buf_addf(&s->trace, "S%s ", !result ? "p" : ok ? "+" : "-");
    if (c && result) {
        s->stored.run = commit->run;
        s->stored.is_ok = ok;
        s->stored.is_complete |= ok;
        s->stored.n_users = n_users;
        snprintf(s->stored.result, sizeof s->stored.result, "%s", result);
    }
    return code;
}

static size_t list_known(void *node, const char *after, char (*out)[SYNC_UUID_TEXT + 1], size_t max)
{
    struct sync_store *s = node;
    size_t n = 0;
    for (size_t i = lower_bound(s, after); i < s->n_users && n < max; i++)
        if (strcmp(s->users[i]->uuid, after))
            memcpy(out[n++], s->users[i]->uuid, sizeof *out);
    return n;
}

static void read_settings(void *node, struct sync_settings *out)
{
    *out = ((struct sync_store *)node)->settings;
}

static void read_stored(void *node, struct sync_stored *out)
{
    *out = ((struct sync_store *)node)->stored;
}

static void raise_alarm(void *node, const char *name, const char *text)
{
    (void)text;
    buf_addf(&((struct sync_store *)node)->alarms, "+%s ", name);
}

static void clear_alarm(void *node, const char *name)
{
    buf_addf(&((struct sync_store *)node)->alarms, "-%s ", name);
}

const struct sync_ops sync_store_ops = {
    .read_settings = read_settings,
    .read_stored = read_stored,
    .list_known = list_known,
    .submit_users = submit_users,
    .submit_remove = submit_remove,
    .submit_state = submit_state,
    .raise_alarm = raise_alarm,
    .clear_alarm = clear_alarm,
};

void sync_store_init(struct sync_store *s, struct loop *l)
{
    *s = (struct sync_store){.loop = l, .epoch = 1};
    list_init(&s->commits);
    timer_init(&s->answer, l, answer_next);
    buf_adds(&s->trace, "");
    buf_adds(&s->alarms, "");
}

void sync_store_fini(struct sync_store *s)
{
    timer_stop(&s->answer);
    for (size_t i = 0; i < s->n_users; i++)
        mem_free(s->users[i]);
    mem_free(s->users);
    buf_fini(&s->trace);
    buf_fini(&s->alarms);
}
