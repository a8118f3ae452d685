/* What a shard keeps of the cluster's tables, and how it hears of changes. */
#include "im/archive.h"
#include "im/homes.h"
#include "im/im_impl.h"
#include "im/message.h"
#include "im/presence.h"
#include "im/router.h"
#include "im/sm_session.h"
#include "im/stored.h"
#include "im/strangers.h"
#include "im/user.h"
#include "replication/levels.h"
#include "replication/settings.h"
#include <string.h>

static unsigned read_level(struct store_txn *t, struct arena *a)
{
    struct key none;
    key_init(&none);
    const Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &none, a);
    return cluster && cluster->feature_level ? cluster->feature_level : LEVEL_FIRST;
}

static void read_settings(struct shard *s)
{
    struct store_txn *t = shard_txn(s);
    const struct member *self = members_find(s->members, s->im->options.node_id);
    const char *node = self ? self->name : NULL;
    struct arena a;
    arena_init(&a);
    struct im_settings *o = &s->settings;
    o->level = read_level(t, &a);
    o->redirect = strcmp(setting_string(t, node, SETTING_XMPP_WRONG_NODE, &a), "redirect") == 0;
    o->directory = setting_bool(t, node, SETTING_XMPP_DIRECTORY);
    const char *conflict = setting_string(t, node, SETTING_XMPP_CONFLICT, &a);
    o->conflict = strcmp(conflict, "refuse") == 0   ? CONFLICT_REFUSE
                  : strcmp(conflict, "rename") == 0 ? CONFLICT_RENAME
                                                    : CONFLICT_REPLACE;
    int strangers =
        o->level >= LEVEL_3 ? strangers_parse(setting_string(t, node, SETTING_XMPP_STRANGERS, &a)) : -1;
    o->strangers = strangers < 0 ? STRANGERS_ALL : (enum strangers)strangers;
    o->offline_limit = (unsigned)setting_int(t, node, SETTING_XMPP_OFFLINE_LIMIT);
    o->sessions_per_user = (unsigned)setting_int(t, node, SETTING_LIMIT_SESSIONS_USER);
    o->roster_items = (unsigned)setting_int(t, node, SETTING_LIMIT_ROSTER_ITEMS);
    o->stanza_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_STANZA_BYTES);
    o->vcard_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_VCARD_BYTES);
    o->output_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_OUTPUT_BYTES);
    o->idle_timeout_s = (unsigned)setting_int(t, node, SETTING_LIMIT_IDLE);
    o->resume_timeout_s = (unsigned)setting_int(t, node, SETTING_XMPP_RESUME_TIMEOUT);
    o->ack_timeout_s = (unsigned)setting_int(t, node, SETTING_XMPP_ACK_TIMEOUT);
    o->unacked_bytes = (unsigned)setting_int(t, node, SETTING_LIMIT_UNACKED_BYTES);
    arena_fini(&a);
    archive_forget(s);
    strangers_on_settings(s);
    outside_read_settings(s);
    struct shard_watcher *w;
    list_for_each(w, &s->watchers, struct shard_watcher, link) if (w->on_settings) w->on_settings(w);
}

static void read_domains(struct shard *s)
{
    struct store_txn *t = shard_txn(s);
    struct arena a;
    arena_init(&a);
    struct key none;
    key_init(&none);
    Imp__ClusterRow *cluster = store_find_row(t, TABLE_CLUSTER, &none, &a);
    if (cluster && !s->ids)
        s->ids = stored_ids_new(cluster->message_key.data, cluster->message_key.len);
    if (cluster && cluster->default_domain) {
        struct key k;
        key_init(&k);
        key_str(&k, cluster->default_domain);
        Imp__DomainRow *row = store_find_row(t, TABLE_DOMAIN, &k, &a);
        mem_free(s->domain);
        s->domain = mem_strdup(cluster->default_domain);
        s->default_domain = row ? row->id : 0;
    }
    arena_fini(&a);
}

/* It went or came: its users have other homes. IS: NULL: it is no member any more. */
static void note_moves(struct shard *s, const struct member *was, const struct member *is)
{
    bool ended = !is || is->epoch != was->epoch, is_up = is && is->up;
    if (was->up != is_up || (is_up && ended))
        message_untold(s, is ? is->up_index : 0, was->up && ended);
}

/* Has the epoch of one ended, and what it held with it? */
static bool read_members(struct shard *s)
{
    struct members *before = s->members;
    bool any = false;
    s->members = members_read(shard_txn(s), s->applied_index);
    for (unsigned i = 0; before && i < before->n; i++) {
        const struct member *was = &before->list[i];
        const struct member *is = members_find(s->members, was->id);
        any |= !is || is->epoch != was->epoch;
        note_moves(s, was, is);
        /* Down, or down and up again in between: what it said of its users' resources is void. */
        if (!was->up || (is && is->up && is->epoch == was->epoch))
            continue;
        if (was->id != s->im->options.node_id)
            presence_node_down(s, was->id);
        else
            s->homes_lost = true;
    }
    members_free(before);
    return any;
}

void shard_reload(struct shard *s)
{
    bool any_ended = read_members(s);
    read_domains(s);
    read_settings(s);
    user_on_reload(s);
    message_untold(s, 0, false); /* what the feed would have told meanwhile */
    router_homes_changed(s);
    if (any_ended)
        sm_send_again(s, 0);
}

/* ---- feed ---- */

/* A roster row that changed twice is pushed once, as it is now: RFC 6121 §2.6.3 wants pushes in the order of
 * their versions. */
static bool comes_again(const struct feed_event *events, size_t n, size_t at)
{
    enum { FAR = 64 };
    const struct feed_event *e = &events[at];
    if (e->table != TABLE_ROSTER)
        return false;
    for (size_t i = at + 1; i < n && i < at + FAR; i++)
        if (events[i].table == TABLE_ROSTER && events[i].key.n == e->key.n &&
            memcmp(events[i].key.bytes, e->key.bytes, e->key.n) == 0)
            return true;
    return false;
}

/* Each comes behind what its sender sent earlier and was held for the log, and before what was sent later
 * (RFC 6120 §10.1): what waits for an index below its own goes first. */
static void show_messages(struct shard *s, const struct feed_event *events, size_t n)
{
    uint64_t end = s->applied_index, at = 0;
    for (size_t i = 0; i < n; i++) {
        if (events[i].table != TABLE_MESSAGE_INDEX)
            continue;
        if (events[i].index > at && router_is_holding(s)) {
            s->applied_index = events[i].index - 1;
            router_advance(s);
            s->applied_index = end;
        }
        at = events[i].index;
        user_on_feed(s, &events[i]);
    }
}

static void on_events(void *user, const struct feed_event *events, size_t n, uint64_t applied_index)
{
    struct shard *s = user;
    shard_drop_reader(s);
    if (applied_index > s->applied_index)
        s->applied_index = applied_index;
    bool members = false, settings = false, domains = false, homes = false, any_ended = false;
    for (size_t i = 0; i < n; i++) {
        switch (events[i].table) {
        case TABLE_NODE:
            members = true;
            break;
        case TABLE_SETTING:
            settings = true;
            break;
        case TABLE_DOMAIN:
        case TABLE_CLUSTER:
            domains = true;
            break;
        case TABLE_USER:
            homes = true;
            break;
        default:
            break;
        }
    }
    if (members)
        any_ended = read_members(s);
    /* Before anything is sent: whoever gets it must know as much. */
    if (members || homes) {
        s->route_index = applied_index;
        router_homes_changed(s);
    }
    if (domains)
        read_domains(s);
    if (settings || members || domains)
        read_settings(s);
    for (size_t i = 0; i < n; i++) {
        if (events[i].table == TABLE_ARCHIVE_PREFS)
            archive_on_feed(s, &events[i]);
        else if (events[i].table != TABLE_MESSAGE_INDEX && !comes_again(events, n, i))
            user_on_feed(s, &events[i]);
    }
    if (members)
        user_check_homes(s);
    if (any_ended)
        sm_send_again(s, 0);
    /* Stored messages last: they must not go to a session whose user is at home elsewhere by now. */
    show_messages(s, events, n);
    if (s->feed_seen < applied_index)
        s->feed_seen = applied_index;
    homes_touch(s);
}

static void on_reload(void *user, uint64_t applied_index)
{
    struct shard *s = user;
    shard_drop_reader(s);
    s->applied_index = s->route_index = applied_index; /* homes may have moved */
    shard_reload(s);
    /* Batches behind the reload that was queued are not told: they are in what was read now. */
    s->feed_seen = store_reader_index(s->reader);
    homes_touch(s);
}

/* What on_events and the users' own handlers look at. */
static bool wants(void *user, enum table table, const struct key *key)
{
    struct shard *s = user;
    struct key_reader k;
    switch (table) {
    case TABLE_NODE:
    case TABLE_SETTING:
    case TABLE_DOMAIN:
    case TABLE_CLUSTER:
    case TABLE_USER:
    case TABLE_ARCHIVE_PREFS:
        return true;
    case TABLE_ROSTER:
    case TABLE_BLOCK:
    case TABLE_PEP_USER:
    case TABLE_MESSAGE_INDEX:
    case TABLE_PUSH:
        key_read(&k, key->bytes, key->n);
        return im_shard_of(s->im, key_read_u64(&k)) == s;
    default:
        return false;
    }
}

const struct feed_handler shard_feed = {on_events, on_reload, wants};
