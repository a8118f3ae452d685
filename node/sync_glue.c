#include "node/sync_glue.h"
#include "base/mem.h"
#include "im/address.h"
#include "im/directory_words.h"
#include "replication/settings.h"
#include <stdio.h>
#include <string.h>

enum { REWRITE_ROWS = 1000, REWRITE_RETRY_MS = 1000 };

/* Contacts' rosters that have to follow: until no row is left. */
struct rewrite {
    struct list link;
    char *old_jid, *new_jid, *display_name;
};

struct sync_glue {
    struct sync_glue_options o;
    struct sync_agent *agent;
    struct arena settings; /* what read_settings hands out */
    bool active, publisher, current, running;
    uint64_t publisher_epoch;
    struct list rewrites;
    bool rewriting;
    struct timer retry;
    void (*on_closed)(void *user);
    void *closed_user;
};

static struct store_txn *read_txn(struct sync_glue *g)
{
    return store_read_txn(g->o.reader);
}

/* ---- what the agent reads ---- */

static void read_settings(void *node, struct sync_settings *out)
{
    struct sync_glue *g = node;
    struct arena *a = &g->settings;
    struct store_txn *t = read_txn(g);
    const uint8_t *sealed;
    size_t n;
    arena_reset(a);
    *out = (struct sync_settings){
        .url = setting_string(t, g->o.node_name, SETTING_AXL_URL, a),
        .user = setting_string(t, g->o.node_name, SETTING_AXL_USER, a),
        .password = "",
        .ca_pem = setting_string(t, g->o.node_name, SETTING_AXL_CA, a),
        .version = setting_string(t, g->o.node_name, SETTING_AXL_VERSION, a),
        .interval_ms = (unsigned)setting_int(t, g->o.node_name, SETTING_AXL_INTERVAL) * 1000,
    };
    if (setting_sealed(t, SETTING_AXL_PASSWORD, a, &sealed, &n)) {
        struct buf plain = {0};
        struct err_ctx err = {0};
        if (seal_open(g->o.seal, "setting:axl.password", sealed, n, &plain, &err))
            log_error(g->o.log, "axl.password cannot be opened (%s): set it again with impcli settings set axl.password", err.text);
        else
            out->password = arena_strndup(a, plain.data, plain.n);
        seal_buf_fini(&plain);
    }
}

static Imp__SyncRow *sync_row(struct sync_glue *g, struct arena *a)
{
    struct key k;
    key_init(&k);
    return store_find_row(read_txn(g), TABLE_SYNC, &k, a);
}

static void read_stored(void *node, struct sync_stored *out)
{
    struct arena a;
    arena_init(&a);
    const Imp__SyncRow *row = sync_row(node, &a);
    memset(out, 0, sizeof *out);
    if (row) {
        out->run = row->run;
        out->is_complete = row->first_done;
        out->is_ok = row->completed_ok;
        out->completed_ms = row->completed_ms;
        out->n_users = row->n_users;
        snprintf(out->result, sizeof out->result, "%s", row->result);
        snprintf(out->position.queue_id, sizeof out->position.queue_id, "%s", row->queue_id);
        out->position.next_change = row->next_change;
    }
    arena_fini(&a);
}

/* Only users of the call manager have a uuid. */
static size_t list_known(void *node, const char *after, char (*out)[SYNC_UUID_TEXT + 1], size_t max)
{
    struct sync_glue *g = node;
    struct store_iter it;
    struct key prefix, from;
    struct arena a;
    size_t n = 0;
    arena_init(&a);
    key_init(&prefix);
    key_init(&from);
    key_str(&from, after);
    store_iter_init(&it, read_txn(g), TABLE_USER_BY_UUID, &prefix);
    if (*after)
        store_iter_seek(&it, &from);
    while (n < max && store_iter_next(&it)) {
        struct key_reader r;
        arena_reset(&a);
        key_read(&r, it.key, it.n_key);
        const char *uuid = key_read_str(&r, &a);
        if (!r.failed && strlen(uuid) == SYNC_UUID_TEXT && strcmp(uuid, after) > 0)
            memcpy(out[n++], uuid, SYNC_UUID_TEXT + 1);
    }
    store_iter_fini(&it);
    arena_fini(&a);
    return n;
}

static Imp__UserRow *stored_user(struct sync_glue *g, const char *uuid, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_str(&k, uuid);
    const Imp__IdRow *id = store_find_row(read_txn(g), TABLE_USER_BY_UUID, &k, a);
    if (!id)
        return NULL;
    key_init(&k);
    key_u64(&k, id->id);
    return store_find_row(read_txn(g), TABLE_USER, &k, a);
}

static const char *default_domain(struct sync_glue *g, struct arena *a)
{
    struct key k;
    key_init(&k);
    const Imp__ClusterRow *row = store_find_row(read_txn(g), TABLE_CLUSTER, &k, a);
    return row ? row->default_domain : "";
}

/* ---- rosters that follow ---- */

static void rewrite_free(struct rewrite *w)
{
    list_remove(&w->link);
    mem_free(w->old_jid);
    mem_free(w->new_jid);
    mem_free(w->display_name);
    mem_free(w);
}

static void rewrite_next(struct sync_glue *g);

static void on_rewritten(void *user, const struct proposal_result *result)
{
    struct sync_glue *g = user;
    struct rewrite *w = list_entry(list_first(&g->rewrites), struct rewrite, link);
    g->rewriting = false;
    if (result->code == ERR_UNKNOWN_OUTCOME || result->code == ERR_UNAVAILABLE) {
        timer_start(&g->retry, REWRITE_RETRY_MS, 0); /* the command may be repeated */
        return;
    }
    if (result->code)
        log_warning(g->o.log, "rosters of the contacts of %s do not follow: %s", w->new_jid, result->text);
    if (result->code || result->value == 0)
        rewrite_free(w);
    rewrite_next(g);
}

static void rewrite_next(struct sync_glue *g)
{
    struct list *first = list_first(&g->rewrites);
    if (g->rewriting || !first || !g->running)
        return;
    struct rewrite *w = list_entry(first, struct rewrite, link);
    Imp__RosterRewrite body = IMP__ROSTER_REWRITE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.old_jid = w->old_jid;
    body.new_jid = w->new_jid;
    body.display_name = w->display_name;
    body.max = REWRITE_ROWS;
    command.body_case = IMP__COMMAND__BODY_ROSTER_REWRITE;
    command.roster_rewrite = &body;
    if (proposal_submit(g->o.replica, &command, g->o.loop, 0, on_rewritten, g) == 0)
        g->rewriting = true;
    else
        timer_start(&g->retry, REWRITE_RETRY_MS, 0);
}

static void on_retry(struct timer *t)
{
    rewrite_next(container_of(t, struct sync_glue, retry));
}

static void rewrite_add(struct sync_glue *g, const char *old_local, const char *new_local, const char *domain, const char *name)
{
    struct rewrite *w = mem_new(struct rewrite);
    w->old_jid = mem_printf("%s@%s", old_local, domain);
    w->new_jid = mem_printf("%s@%s", new_local, domain);
    w->display_name = mem_strdup(name);
    list_append(&g->rewrites, &w->link);
}

/* A former publisher may have ended between a rename and the rosters: former addresses are gone through once. */
static void rewrite_resume(struct sync_glue *g)
{
    struct store_iter it;
    struct key prefix;
    struct arena a;
    arena_init(&a);
    key_init(&prefix);
    const char *domain = default_domain(g, &a);
    store_iter_init(&it, read_txn(g), TABLE_USER_GONE, &prefix);
    while (store_iter_next(&it)) {
        struct key_reader r;
        struct key k;
        key_read(&r, it.key, it.n_key);
        key_read_u32(&r);
        const char *old_local = key_read_str(&r, &a);
        const Imp__UserGoneRow *gone = store_iter_row(&it, &a);
        key_init(&k);
        key_u64(&k, gone ? gone->uid : 0);
        const Imp__UserRow *user = store_find_row(read_txn(g), TABLE_USER, &k, &a);
        if (user && !r.failed)
            rewrite_add(g, old_local, user->localpart, domain, user->display_name);
    }
    arena_fini(&a);
}

/* ---- what the agent writes ---- */

struct commit {
    struct sync_glue *glue;
    sync_done_fn *on_done;
    void *user;
    uint64_t n_invalid; /* not submitted: their user id cannot be an address */
    char invalid[160];
};

static struct commit *commit_new(struct sync_glue *g, const struct sync_commit *c)
{
    struct commit *k = mem_new(struct commit);
    k->glue = g;
    k->on_done = c->on_done;
    k->user = c->user;
    return k;
}

static void on_committed(void *user, const struct proposal_result *result)
{
    struct commit *k = user;
    struct sync_result out = {
        .code = result->code,
        .n_changed = result->value,
        .n_refused = result->value2 + k->n_invalid,
        .text = *result->text ? result->text : k->invalid,
    };
    k->on_done(k->user, &out);
    rewrite_next(k->glue);
    mem_free(k);
}

static int submit(struct sync_glue *g, Imp__Command *command, struct commit *k)
{
    int rv = proposal_submit(g->o.replica, command, g->o.loop, 0, on_committed, k);
    if (rv)
        mem_free(k);
    return rv;
}

static Imp__SyncPosition *position_of(const struct sync_commit *c, Imp__SyncPosition *space)
{
    if (!c->position)
        return NULL;
    imp__sync_position__init(space);
    space->queue_id = (char *)c->position->queue_id;
    space->next_change = c->position->next_change;
    return space;
}

static char *text(const char *s)
{
    return (char *)(s ? s : "");
}

/* Fills M; false: the user id cannot be an address. */
static bool fill_user(struct sync_glue *g, Imp__SyncUser *m, const struct sync_user *u, const char *domain, struct arena *a)
{
    char local[JID_PART_MAX + 1];
    struct err_ctx err = {0};
    imp__sync_user__init(m);
    if (address_prep_userid(local, u->userid, strlen(u->userid), &err))
        return false;
    m->uuid = text(u->uuid);
    m->userid = text(u->userid);
    m->localpart = arena_strdup(a, local);
    m->first_name = text(u->first_name);
    m->last_name = text(u->last_name);
    m->mail = text(u->mail);
    m->directory_uri = text(u->directory_uri);
    m->display_name = text(u->display_name);
    const Imp__UserRow *old = stored_user(g, m->uuid, a);
    /* a list has no display names: one that was learned by itself stays while the names it stands for do */
    if (old && !u->has_display_name && strcmp(old->first_name, m->first_name) == 0 && strcmp(old->last_name, m->last_name) == 0)
        m->display_name = old->display_name;
    m->words = arena_alloc(a, DIRECTORY_WORDS_MAX * sizeof *m->words);
    m->n_words = directory_words(
        m->words, a, (const char *const[]){m->localpart, m->display_name, m->first_name, m->last_name, NULL});
    if (old && (strcmp(old->localpart, m->localpart) != 0 || strcmp(old->display_name, m->display_name) != 0))
        rewrite_add(g, old->localpart, m->localpart, domain, m->display_name);
    return true;
}

static int submit_users(void *node, const struct sync_commit *c, const struct sync_user *users, size_t n)
{
    struct sync_glue *g = node;
    struct arena a;
    Imp__SyncPosition position;
    Imp__SyncUsers body = IMP__SYNC_USERS__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct commit *k = commit_new(g, c);
    arena_init(&a);
    const char *domain = default_domain(g, &a);
    Imp__SyncUser *list = arena_alloc(&a, (n + 1) * sizeof *list), **refs = arena_alloc(&a, (n + 1) * sizeof *refs);
    for (size_t i = 0; i < n; i++) {
        Imp__SyncUser *m = &list[body.n_users];
        if (fill_user(g, m, &users[i], domain, &a))
            refs[body.n_users++] = m;
        else if (k->n_invalid++ == 0)
            snprintf(k->invalid, sizeof k->invalid, "%.100s: its user id cannot be an address", users[i].userid);
    }
    body.publisher_epoch = c->epoch;
    body.run = c->run;
    body.users = refs;
    body.position = position_of(c, &position);
    command.body_case = IMP__COMMAND__BODY_SYNC_USERS;
    command.sync_users = &body;
    int rv = submit(g, &command, k);
    arena_fini(&a);
    return rv;
}

static int submit_remove(void *node, const struct sync_commit *c, const char (*uuids)[SYNC_UUID_TEXT + 1], size_t n)
{
    struct sync_glue *g = node;
    Imp__SyncPosition position;
    Imp__SyncRemove body = IMP__SYNC_REMOVE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    char **refs = mem_calloc(n + 1, sizeof *refs);
    for (size_t i = 0; i < n; i++)
        refs[i] = (char *)uuids[i];
    body.publisher_epoch = c->epoch;
    body.run = c->run;
    body.uuids = refs;
    body.n_uuids = n;
    body.position = position_of(c, &position);
    command.body_case = IMP__COMMAND__BODY_SYNC_REMOVE;
    command.sync_remove = &body;
    int rv = submit(g, &command, commit_new(g, c));
    mem_free(refs);
    return rv;
}

static int submit_state(void *node, const struct sync_commit *c, const char *result, bool ok, uint64_t n_users)
{
    struct sync_glue *g = node;
    Imp__SyncPosition position;
    Imp__SyncState body = IMP__SYNC_STATE__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.publisher_epoch = c->epoch;
    body.run = c->run;
    body.completed = result != NULL;
    body.ok = ok;
    body.result = text(result);
    body.n_users = n_users;
    body.position = position_of(c, &position);
    command.body_case = IMP__COMMAND__BODY_SYNC_STATE;
    command.sync_state = &body;
    return submit(g, &command, commit_new(g, c));
}

/* ---- alarms ---- */

static int alarm_of(const char *name)
{
    for (int i = 0; i < N_ALARMS; i++)
        if (strcmp(alarm_name((enum alarm_id)i), name) == 0)
            return i;
    return ERR_NOTFOUND;
}

static void raise_alarm(void *node, const char *name, const char *alarm_text)
{
    struct sync_glue *g = node;
    int id = alarm_of(name);
    if (id >= 0)
        alarms_raise(g->o.alarms, (enum alarm_id)id, g->o.node_id, "%s", alarm_text);
}

static void clear_alarm(void *node, const char *name)
{
    struct sync_glue *g = node;
    int id = alarm_of(name);
    if (id >= 0)
        alarms_clear(g->o.alarms, (enum alarm_id)id, g->o.node_id);
}

/* ---- life ---- */

static const struct sync_ops ops = {
    .read_settings = read_settings,
    .read_stored = read_stored,
    .list_known = list_known,
    .submit_users = submit_users,
    .submit_remove = submit_remove,
    .submit_state = submit_state,
    .raise_alarm = raise_alarm,
    .clear_alarm = clear_alarm,
};

struct sync_glue *sync_glue_new(const struct sync_glue_options *o)
{
    struct sync_glue *g = mem_new(struct sync_glue);
    g->o = *o;
    arena_init(&g->settings);
    list_init(&g->rewrites);
    timer_init(&g->retry, o->loop, on_retry);
    g->agent = sync_agent_new(o->loop, &ops, g, NULL);
    return g;
}

static void on_agent_closed(void *user)
{
    struct sync_glue *g = user;
    struct rewrite *w;
    list_for_each(w, &g->rewrites, struct rewrite, link) rewrite_free(w);
    arena_fini(&g->settings);
    if (g->on_closed)
        g->on_closed(g->closed_user);
    mem_free(g);
}

void sync_glue_close(struct sync_glue *g, void (*on_closed)(void *user), void *user)
{
    timer_stop(&g->retry);
    g->running = false;
    g->on_closed = on_closed;
    g->closed_user = user;
    sync_agent_close(g->agent, on_agent_closed, g);
}

struct sync_agent *sync_glue_agent(struct sync_glue *g)
{
    return g->agent;
}

static void step(struct sync_glue *g, bool new_epoch)
{
    bool run = g->active && g->publisher && g->current;
    if (g->running && (!run || new_epoch)) {
        sync_agent_stop(g->agent);
        g->running = false;
    }
    if (run && !g->running) {
        g->running = true;
        rewrite_resume(g);
        rewrite_next(g);
        sync_agent_start(g->agent, g->publisher_epoch);
    }
}

void sync_glue_set_active(struct sync_glue *g, bool active)
{
    g->active = active;
    step(g, false);
}

void sync_glue_set_current(struct sync_glue *g, bool current)
{
    if (current == g->current)
        return;
    g->current = current;
    step(g, false);
}

void sync_glue_members_changed(struct sync_glue *g, const struct members *members)
{
    bool new_epoch = members->publisher_epoch != g->publisher_epoch;
    g->publisher = members->publisher == g->o.node_id;
    g->publisher_epoch = members->publisher_epoch;
    step(g, new_epoch);
}

void sync_glue_settings_changed(struct sync_glue *g)
{
    sync_agent_settings_changed(g->agent);
}

bool sync_glue_is_configured(struct sync_glue *g)
{
    struct arena a;
    arena_init(&a);
    bool is_set = *setting_string(read_txn(g), g->o.node_name, SETTING_AXL_URL, &a) != 0;
    arena_fini(&a);
    return is_set;
}

bool sync_glue_first_sync_done(struct sync_glue *g)
{
    struct arena a;
    arena_init(&a);
    const Imp__SyncRow *row = sync_row(g, &a);
    bool done = row && row->first_done;
    arena_fini(&a);
    return done;
}
