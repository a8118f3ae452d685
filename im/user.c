#include "im/user.h"
#include "base/clock.h"
#include "im/block.h"
#include "im/homes.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/mail.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/roster.h"
#include "im/strangers.h"
#include <inttypes.h>
#include <string.h>

struct user *user_find(struct shard *s, uint64_t uid)
{
    struct hnode *node = htab_find(&s->users, &uid, sizeof uid);
    return node ? container_of(node, struct user, node) : NULL;
}

struct user *user_get(struct shard *s, uint64_t uid, const char *bare_jid)
{
    struct user *u = user_find(s, uid);
    if (u)
        return u;
    u = mem_new(struct user);
    u->shard = s;
    u->uid = uid;
    u->hooks = UINT32_MAX;
    u->jid = bare_jid ? mem_strndup(bare_jid, jid_bare_length(bare_jid)) : mem_strdup("");
    list_init(&u->sessions);
    list_init(&u->remote);
    list_init(&u->leaving);
    list_init(&u->pushes);
    list_init(&u->pushing);
    htab_add(&s->users, &u->node, &u->uid, sizeof u->uid);
    return u;
}

void user_set_avatar(struct user *u, const char *hash)
{
    static const char none[] = ""; /* most users have none */
    if (u->avatar != none)
        mem_free((char *)u->avatar);
    u->avatar = !hash ? NULL : *hash ? mem_strdup(hash) : none;
}

/* What was read is kept until it is read again: see is_known. */
void user_forget_contacts(struct user *u)
{
    u->has_subscribers = u->has_subscribed = false;
}

void user_free(struct user *u)
{
    struct remote_resource *r;
    list_for_each(r, &u->remote, struct remote_resource, link)
    {
        list_remove(&r->link);
        envelope_free(r->presence);
        mem_free(r);
    }
    message_user_freed(u);
    list_remove(&u->leaving);
    roster_user_freed(u);
    mem_free(u->subscribers);
    mem_free(u->subscribed);
    user_set_avatar(u, NULL);
    mem_free(u->jid);
    mem_free(u);
}

void user_release(struct user *u)
{
    if (!list_is_empty(&u->sessions) || !list_is_empty(&u->remote) || u->mail || u->n_in_flight)
        return;
    htab_remove(&u->shard->users, &u->node);
    user_free(u);
}

struct session *user_find_session(const struct user *u, const char *resource)
{
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link) if (strcmp(s->resource, resource) == 0) return s;
    return NULL;
}

/* ---- who sees whom ---- */

/* Reads the local users of one direction out of the roster. */
static uint64_t *read_contacts(struct user *u, bool subscribers, unsigned *n)
{
    struct shard *s = u->shard;
    uint64_t *uids = NULL;
    unsigned cap = 0;
    bool blocks = block_has_list(s, u->uid), *outside = subscribers ? &u->is_seen_outside : &u->sees_outside;
    *outside = false;
    *n = 0;
    Imp__Subscription other = subscribers ? IMP__SUBSCRIPTION__SUB_FROM : IMP__SUBSCRIPTION__SUB_TO;
    struct jid_rows rows;
    jid_rows_init(&rows, s, TABLE_ROSTER, u->uid);
    while (jid_rows_next(&rows)) {
        Imp__RosterRow *row = jid_rows_row(&rows);
        uint64_t uid;
        if (row && !row->removed &&
            (row->subscription == IMP__SUBSCRIPTION__SUB_BOTH || row->subscription == other) &&
            !(blocks && block_matches(s, u->uid, rows.jid))) {
            if (shard_find_uid(s, rows.jid, &uid) != 0) {
                *outside = true;
                continue;
            }
            if (*n == cap) {
                cap = cap ? cap * 2 : 8;
                uids = mem_realloc(uids, cap * sizeof *uids);
            }
            uids[(*n)++] = uid;
        }
    }
    jid_rows_fini(&rows);
    return *n ? mem_realloc(uids, *n * sizeof *uids) : uids;
}

/* The roster of a removed user goes in the same command. Who saw the user is kept until its sessions have
 * ended, so that their end is seen. */
static bool is_known(struct user *u)
{
    struct arena a;
    arena_init(&a);
    bool known = shard_user_row(u->shard, u->uid, &a) != NULL;
    arena_fini(&a);
    return known;
}

const uint64_t *user_subscribers(struct user *u, unsigned *n)
{
    if (!u->has_subscribers && is_known(u)) {
        mem_free(u->subscribers);
        u->subscribers = read_contacts(u, true, &u->n_subscribers);
        u->has_subscribers = true;
    }
    *n = u->n_subscribers;
    return u->subscribers;
}

const uint64_t *user_subscribed(struct user *u, unsigned *n)
{
    if (!u->has_subscribed && is_known(u)) {
        mem_free(u->subscribed);
        u->subscribed = read_contacts(u, false, &u->n_subscribed);
        u->has_subscribed = true;
    }
    *n = u->n_subscribed;
    return u->subscribed;
}

static void add_uid(struct user *u, uint64_t uid)
{
    u->subscribers = mem_realloc(u->subscribers, (u->n_subscribers + 1) * sizeof *u->subscribers);
    u->subscribers[u->n_subscribers++] = uid;
}

/* The list is read anew when it is asked for; until then it keeps up with each row, since the next one may be
 * the end of all. */
static void follow_row(struct user *u, const char *jid)
{
    struct shard *s = u->shard;
    uint64_t uid;
    unsigned at = 0;
    if (shard_find_uid(s, jid, &uid) != 0)
        return;
    bool sees = presence_is_visible(s, u->uid, jid);
    while (at < u->n_subscribers && u->subscribers[at] != uid)
        at++;
    if (sees && at == u->n_subscribers)
        add_uid(u, uid);
    else if (!sees && at < u->n_subscribers)
        u->subscribers[at] = u->subscribers[--u->n_subscribers];
}

/* ---- feed ---- */

static void close_sessions(struct user *u, enum session_reason reason)
{
    struct shard *shard = u->shard;
    uint64_t uid = u->uid;
    /* Each end may free the user: look it up again. */
    while (u && !list_is_empty(&u->sessions)) {
        struct session *s = list_entry(list_first(&u->sessions), struct session, link);
        s->ops->close(s, reason);
        session_end(s);
        u = user_find(shard, uid);
    }
}

/* Nothing of it is delivered here any more; its proposals are waited for. */
static void leave(struct shard *s, uint64_t uid)
{
    struct user *u = user_find(s, uid);
    if (!u)
        return;
    mail_leave(u);
    u = user_find(s, uid);
    if (u && u->n_in_flight && list_is_empty(&u->leaving))
        list_append(&s->leaving, &u->leaving);
}

/* The row changed: is the user still here, open, under this name, at home here and all the time? */
static void check_row(struct user *u)
{
    struct shard *s = u->shard;
    uint64_t uid = u->uid, since;
    uint32_t home = 0;
    if (list_is_empty(&u->sessions) && !u->mail && !u->n_in_flight)
        return;
    struct arena a;
    arena_init(&a);
    Imp__UserRow *row = shard_user_row(s, uid, &a);
    const char *jid = row ? shard_user_jid(s, uid, &a) : NULL;
    if (row)
        shard_place_of_row(s, row, &home, &since);
    bool has_left = row && (s->homes_lost || home != im_node_id(s->im) || since != u->since);
    u->moved = has_left;
    if (!row || !jid || strcmp(jid, u->jid) != 0)
        close_sessions(u, SESSION_REMOVED);
    else if (row->locked)
        close_sessions(u, SESSION_LOCKED);
    else if (has_left)
        close_sessions(u, SESSION_MOVED);
    if (has_left)
        leave(s, uid);
    arena_fini(&a);
}

void user_taken(struct user *u, uint64_t since)
{
    struct shard *s = u->shard;
    if (u->n_sessions == 1)
        log_debug(s->im->homes_log, "user %" PRIu64 " taken at %" PRIu64 " ms, its home since index %" PRIu64,
                  u->uid, clock_boot_ms(), since);
    u->since = since;
    u->moved = false;
}

void user_left(struct user *u)
{
    struct shard *s = u->shard;
    log_debug(s->im->homes_log, "user %" PRIu64 " left at %" PRIu64 " ms, the lease ran until %" PRIu64,
              u->uid, clock_boot_ms(), s->lease_end);
}

bool user_is_here(const struct user *u)
{
    return !u->moved && !list_is_empty(&u->sessions);
}

bool user_have_left(struct shard *s)
{
    struct user *u;
    list_for_each(u, &s->leaving, struct user, leaving)
    {
        if (u->n_in_flight)
            return false;
        list_remove(&u->leaving);
    }
    return true;
}

void user_proposal_begins(struct shard *s, uint64_t uid)
{
    user_find(s, uid)->n_in_flight++;
}

void user_proposal_ends(struct shard *s, uint64_t uid)
{
    struct user *u = user_find(s, uid);
    if (!u || !u->n_in_flight)
        return;
    if (--u->n_in_flight == 0 && !list_is_empty(&u->leaving)) {
        list_remove(&u->leaving);
        homes_touch(s);
    }
    user_release(u);
}

static struct user *find_by_key(struct shard *s, const struct key *key)
{
    struct key_reader k;
    key_read(&k, key->bytes, key->n);
    uint64_t uid = key_read_u64(&k);
    return k.failed || im_shard_of(s->im, uid) != s ? NULL : user_find(s, uid);
}

static void follow_key(struct user *u, const struct key *key)
{
    struct key_reader k;
    struct arena a;
    arena_init(&a);
    key_read(&k, key->bytes, key->n);
    key_read_u64(&k);
    const char *jid = key_read_str(&k, &a);
    if (!k.failed && (!list_is_empty(&u->sessions) || !list_is_empty(&u->remote)))
        follow_row(u, jid);
    arena_fini(&a);
}

void user_on_feed(struct shard *s, const struct feed_event *event)
{
    struct user *u = NULL;
    switch (event->table) {
    case TABLE_NODE:
    case TABLE_SETTING:
    case TABLE_DOMAIN:
    case TABLE_CLUSTER:
        return; /* not of one user */
    case TABLE_USER:
        u = find_by_key(s, &event->key);
        if (u)
            check_row(u);
        break;
    case TABLE_ROSTER:
        u = find_by_key(s, &event->key);
        if (u) {
            if (is_known(u)) {
                user_forget_contacts(u);
                follow_key(u, &event->key);
            }
            roster_on_feed(s, event);
        }
        break;
    case TABLE_MESSAGE_INDEX:
        message_on_feed(s, event);
        return;
    default:
        u = find_by_key(s, &event->key);
        break;
    }
    if (u && s->im->hooks.on_feed && event->table != TABLE_MESSAGE_INDEX && (u = find_by_key(s, &event->key)))
        im_hooks_on_feed(s, u, event);
}

/* The body of check_row may free users, so the walk is over a copy of their uids. */
void user_check_homes(struct shard *s)
{
    size_t n = 0;
    uint64_t *uids = mem_alloc((s->users.n + 1) * sizeof *uids);
    htab_for_each(node, &s->users)
    {
        struct user *u = container_of(node, struct user, node);
        if (!list_is_empty(&u->sessions) || u->mail || u->n_in_flight)
            uids[n++] = u->uid;
    }
    for (size_t i = 0; i < n; i++) {
        struct user *u = user_find(s, uids[i]);
        if (u)
            check_row(u);
    }
    s->homes_lost = false;
    mem_free(uids);
}

void user_on_reload(struct shard *s)
{
    htab_for_each(node, &s->users)
    {
        struct user *u = container_of(node, struct user, node);
        user_forget_contacts(u);
        user_set_avatar(u, NULL);
        u->hooks = UINT32_MAX;
        u->blocks = BLOCKS_UNKNOWN;
        strangers_forget(u);
    }
    user_check_homes(s);
    message_reload(s);
}
