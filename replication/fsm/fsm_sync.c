/* What the Sync Agent writes. Fenced by the publisher's epoch and the run: a former publisher's late commands
 * do nothing. */
#include "replication/fsm/fsm_internal.h"
#include <stdio.h>
#include <string.h>

enum { WORDS_MAX = 32 };
static const uint64_t GONE_MS = 30ull * 24 * 3600 * 1000; /* how long a former address answers <gone/> */

static Imp__SyncRow *get_sync(struct fsm *f)
{
    struct key k = fsm_key_none();
    Imp__SyncRow *row = store_find_row(f->txn, TABLE_SYNC, &k, f->arena);
    if (!row) {
        row = arena_alloc(f->arena, sizeof *row);
        imp__sync_row__init(row);
    }
    return row;
}

static void put_sync(struct fsm *f, const Imp__SyncRow *row)
{
    struct key k = fsm_key_none();
    store_put_row(f->txn, TABLE_SYNC, &k, row);
}

static bool is_fenced(struct fsm *f, uint64_t publisher_epoch, uint64_t run, const Imp__SyncRow *sync)
{
    if (publisher_epoch != f->cluster->publisher_epoch)
        fsm_refuse(f, ERR_CONFLICT, "the publisher's epoch is %llu",
                   (unsigned long long)f->cluster->publisher_epoch);
    else if (run < sync->run)
        fsm_refuse(f, ERR_CONFLICT, "sync run %llu has begun", (unsigned long long)sync->run);
    return f->out->code != 0;
}

static void advance(struct fsm *f, Imp__SyncRow *sync, uint64_t run, const Imp__SyncPosition *position)
{
    sync->run = run;
    if (position) {
        sync->queue_id = position->queue_id;
        sync->next_change = position->next_change;
    }
    put_sync(f, sync);
}

/* ---- users ---- */

static void refuse_user(struct fsm *f, const Imp__SyncUser *u, const char *reason)
{
    if (!f->out->value2++)
        snprintf(f->out->text, sizeof f->out->text, "%.100s: %s", u->userid, reason);
}

/* Is the address free for this user (uid 0: a new one)? */
static bool is_free(struct fsm *f, const Imp__SyncUser *u, uint64_t uid)
{
    struct key k = fsm_key_u32_str(1, u->localpart);
    uint64_t owner = fsm_find_id(f, TABLE_USER_BY_JID, &k);
    if (owner && owner != uid) {
        refuse_user(f, u, "this address is another user's");
        return false;
    }
    return true;
}

static bool is_valid(struct fsm *f, const Imp__SyncUser *u)
{
    bool valid = fsm_is_text(u->uuid, 1, 64) && fsm_is_text(u->userid, 1, FSM_TEXT_MAX) &&
                 fsm_is_text(u->localpart, 1, FSM_LOCALPART_MAX) && !strpbrk(u->localpart, "@/") &&
                 strlen(u->display_name) <= FSM_TEXT_MAX && strlen(u->first_name) <= FSM_TEXT_MAX &&
                 strlen(u->last_name) <= FSM_TEXT_MAX && strlen(u->mail) <= FSM_TEXT_MAX &&
                 strlen(u->directory_uri) <= FSM_TEXT_MAX;
    if (!valid)
        refuse_user(f, u, "its user id cannot be an address, or a field is too long");
    return valid;
}

static void take_fields(Imp__UserRow *row, const Imp__SyncUser *u)
{
    row->localpart = u->localpart;
    row->userid = u->userid;
    row->display_name = u->display_name;
    row->first_name = u->first_name;
    row->last_name = u->last_name;
    row->mail = u->mail;
    row->directory_uri = u->directory_uri;
    row->n_words = u->n_words < WORDS_MAX ? u->n_words : WORDS_MAX;
    row->words = u->words;
}

static bool same_fields(const Imp__UserRow *a, const Imp__UserRow *b)
{
    bool same = !strcmp(a->localpart, b->localpart) && !strcmp(a->userid, b->userid) &&
                !strcmp(a->display_name, b->display_name) && !strcmp(a->first_name, b->first_name) &&
                !strcmp(a->last_name, b->last_name) && !strcmp(a->mail, b->mail) &&
                !strcmp(a->directory_uri, b->directory_uri) && a->n_words == b->n_words;
    for (size_t i = 0; same && i < a->n_words; i++)
        same = !strcmp(a->words[i], b->words[i]);
    return same;
}

/* The old address answers <gone/> for a while; contacts' rosters follow by RosterRewrite. */
static void rename_user(struct fsm *f, const Imp__UserRow *old, const Imp__UserRow *now)
{
    struct key from = fsm_key_u32_str(old->domain, old->localpart);
    struct key to = fsm_key_u32_str(now->domain, now->localpart);
    Imp__UserGoneRow gone = IMP__USER_GONE_ROW__INIT;
    gone.uid = old->uid;
    gone.until_ms = f->now_ms + GONE_MS;
    store_delete(f->txn, TABLE_USER_BY_JID, &from);
    store_put_row(f->txn, TABLE_USER_GONE, &from, &gone);
    fsm_purge_finish(f, fsm_user_jid(f, now));
    store_delete(f->txn, TABLE_USER_GONE, &to); /* the call manager says who has the name now */
    fsm_put_id(f, TABLE_USER_BY_JID, &to, now->uid);
}

static void update_user(struct fsm *f, const Imp__UserRow *old, const Imp__SyncUser *u, uint64_t run)
{
    Imp__UserRow now = *old;
    take_fields(&now, u);
    if (same_fields(old, &now))
        return;
    bool renamed = strcmp(old->localpart, now.localpart) != 0;
    if (renamed && !is_free(f, u, old->uid))
        return;
    if (renamed)
        rename_user(f, old, &now);
    fsm_user_index_words(f, old, &now);
    now.run = run;
    fsm_put_user(f, &now);
    f->out->value++;
}

static void take_user(struct fsm *f, const Imp__SyncUser *u, uint64_t run)
{
    if (!is_valid(f, u))
        return;
    struct key k = fsm_key_str(u->uuid);
    const Imp__UserRow *old = fsm_find_user(f, fsm_find_id(f, TABLE_USER_BY_UUID, &k));
    if (old) {
        update_user(f, old, u, run);
        return;
    }
    if (!is_free(f, u, 0))
        return;
    Imp__UserRow row = IMP__USER_ROW__INIT;
    row.domain = 1; /* of the cluster's first domain: the call manager knows no other */
    row.uuid = u->uuid;
    row.source = IMP__USER_SOURCE__SOURCE_AXL;
    row.run = run;
    take_fields(&row, u);
    fsm_user_create(f, &row);
    f->out->value++;
}

void fsm_do_sync_users(struct fsm *f, const void *body)
{
    const Imp__SyncUsers *b = body;
    Imp__SyncRow *sync = get_sync(f);
    if (is_fenced(f, b->publisher_epoch, b->run, sync))
        return;
    if (b->n_users > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d users at once", FSM_MAX_ROWS);
        return;
    }
    advance(f, sync, b->run, b->position);
    for (size_t i = 0; i < b->n_users; i++)
        take_user(f, b->users[i], b->run);
}

void fsm_do_sync_remove(struct fsm *f, const void *body)
{
    const Imp__SyncRemove *b = body;
    Imp__SyncRow *sync = get_sync(f);
    if (is_fenced(f, b->publisher_epoch, b->run, sync))
        return;
    if (b->n_uuids > FSM_MAX_ROWS) {
        fsm_refuse(f, ERR_LIMIT, "more than %d users at once", FSM_MAX_ROWS);
        return;
    }
    advance(f, sync, b->run, b->position);
    for (size_t i = 0; i < b->n_uuids; i++) {
        struct key k = fsm_key_str(b->uuids[i]);
        const Imp__UserRow *user =
            *b->uuids[i] ? fsm_find_user(f, fsm_find_id(f, TABLE_USER_BY_UUID, &k)) : NULL;
        if (user && user->source == IMP__USER_SOURCE__SOURCE_AXL) {
            fsm_user_delete(f, user);
            f->out->value++;
        }
    }
}

/* Former addresses whose time is over. There are few of them: one per rename in a month. */
static void drop_gone(struct fsm *f)
{
    struct store_iter i;
    store_iter_init(&i, f->txn, TABLE_USER_GONE, NULL);
    for (int n = 0; n < FSM_MAX_ROWS && store_iter_next(&i); n++) {
        const Imp__UserGoneRow *row = store_iter_row(&i, f->arena);
        struct key k;
        key_init(&k);
        key_bytes(&k, i.key, i.n_key);
        if (row && row->until_ms <= f->now_ms)
            store_delete(f->txn, TABLE_USER_GONE, &k);
    }
    store_iter_fini(&i);
}

void fsm_do_sync_state(struct fsm *f, const void *body)
{
    const Imp__SyncState *b = body;
    Imp__SyncRow *sync = get_sync(f);
    if (is_fenced(f, b->publisher_epoch, b->run, sync))
        return;
    if (!fsm_is_text(b->result, 0, FSM_TEXT_MAX)) {
        fsm_refuse(f, ERR_INVALID, "the result's text is not valid");
        return;
    }
    if (b->completed) {
        sync->completed_ms = f->now_ms;
        sync->completed_ok = b->ok;
        sync->result = b->result;
        sync->n_users = b->n_users;
        sync->first_done |= b->ok;
        drop_gone(f);
    }
    advance(f, sync, b->run, b->position);
}
