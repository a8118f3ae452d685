#include "im/strangers.h"
#include "base/xml.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/presence.h"
#include "im/router.h"
#include "im/user.h"
#include "replication/levels.h"
#include "replication/pep.h"
#include <string.h>

const char *const strangers_names[] = {"all", "messages", "none", NULL};

/* Of struct user: what the user has decided. */
enum own { OWN_UNKNOWN, OWN_NOTHING, OWN_FIRST /* and enum strangers */ };

int strangers_parse(const char *name)
{
    for (int i = 0; strangers_names[i]; i++)
        if (strcmp(name, strangers_names[i]) == 0)
            return i;
    return -1;
}

static enum own parse_own(const Imp__PepItemRow *item, struct arena *a)
{
    struct xml *x;
    if (!item || xml_parse(&x, a, item->payload.data, item->payload.len, &xml_limits_default, NULL) < 0)
        return OWN_NOTHING;
    int mode = strangers_parse(xml_text(x, a));
    return mode < 0 ? OWN_NOTHING : (enum own)(OWN_FIRST + mode);
}

static enum own read_own(struct shard *s, uint64_t uid)
{
    struct store_txn *t = shard_txn(s);
    struct arena a;
    enum own own = OWN_NOTHING;
    arena_init(&a);
    if (s->settings.level >= LEVEL_3 && pep_find_user(t, uid, &a)) {
        const Imp__PepNodeRow *node = pep_find_node(t, uid, STRANGERS_NODE, &a);
        own = parse_own(node ? pep_find_item(t, uid, node, STRANGERS_ITEM, &a) : NULL, &a);
    }
    arena_fini(&a);
    return own;
}

const char *strangers_own(struct shard *s, uint64_t uid)
{
    enum own own = read_own(s, uid);
    return own == OWN_NOTHING ? NULL : strangers_names[own - OWN_FIRST];
}

/* Remembered with a user who is in memory. */
static enum strangers mode_of(struct shard *s, uint64_t uid, struct user *u)
{
    enum own own = u ? (enum own)u->strangers : OWN_UNKNOWN;
    if (own == OWN_UNKNOWN)
        own = read_own(s, uid);
    if (u)
        u->strangers = (uint8_t)own;
    return own == OWN_NOTHING ? s->settings.strangers : (enum strangers)(own - OWN_FIRST);
}

static bool is_known(struct shard *s, uint64_t uid, const char *jid)
{
    struct arena a;
    arena_init(&a);
    const Imp__RosterRow *row = jid_row_bare(s, TABLE_ROSTER, uid, jid, &a);
    bool known = row && !row->removed && (row->in_roster || row->ask || row->subscription);
    arena_fini(&a);
    return known;
}

/* Does a session share its presence with JID of its own will? A room or a partner of the moment is no
 * stranger. */
static bool is_met(const struct user *u, const char *jid)
{
    const struct session *session;
    if (u)
        list_for_each(session, &u->sessions, struct session,
                      link) if (presence_has_directed(session, jid)) return true;
    return false;
}

static bool is_kept_out(enum strangers mode, const struct envelope *e)
{
    if (e->kind == STANZA_MESSAGE)
        return mode == STRANGERS_NONE && e->type != MESSAGE_ERROR;
    return mode != STRANGERS_ALL && (e->type == PRESENCE_AVAILABLE || e->type == PRESENCE_UNAVAILABLE);
}

static enum to_user to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                            bool fan_out)
{
    if (fan_out || e->from_uid == uid || !strchr(e->from, '@'))
        return TO_USER_GO_ON;
    enum strangers mode = mode_of(s, uid, u);
    if (u && mode == STRANGERS_ALL)
        im_hook_off(u, IM_HOOK_STRANGERS);
    if (!is_kept_out(mode, e) || is_known(s, uid, e->from) || is_met(u, e->from))
        return TO_USER_GO_ON;
    if (e->kind != STANZA_PRESENCE) /* as if nobody were connected */
        router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
    return TO_USER_REFUSED;
}

/* Every change of private data changes the row of its user. */
static void on_feed(struct shard *s, struct user *u, const struct feed_event *event)
{
    (void)s;
    if (event->table == TABLE_PEP_USER)
        strangers_forget(u);
}

void strangers_forget(struct user *u)
{
    u->strangers = OWN_UNKNOWN;
    im_hook_on(u, IM_HOOK_STRANGERS);
}

void strangers_on_settings(struct shard *s)
{
    htab_for_each(node, &s->users) im_hook_on(container_of(node, struct user, node), IM_HOOK_STRANGERS);
}

const struct im_hook strangers_hook = {
    .id = IM_HOOK_STRANGERS,
    .kinds = 1 << STANZA_MESSAGE | 1 << STANZA_PRESENCE,
    .to_user = to_user,
    .on_feed = on_feed,
};
