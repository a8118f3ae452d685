/* Presence for a user of this shard: probes of one user by another, what is delivered to his sessions, and
 * who may see him. */
#include "im/block.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/presence.h"
#include "im/presence_impl.h"
#include "im/router.h"
#include "im/user.h"
#include <string.h>

/* What the prober gets: from FROM, with nothing inside. */
static void answer_mere(struct shard *s, const struct envelope *probe, enum stanza_type type,
                        const char *from, const char *id)
{
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = type, .from = from, .to = probe->from, .id = id});
    e->to_uid = probe->from_uid;
    e->flags = ENVELOPE_NO_BOUNCE;
    router_send(s, e, NULL);
}

/* RFC 6121 §4.3.2 rules 1 and 3: from the bare JID, with the probe's id. */
static void answer_bare(struct shard *s, const struct envelope *probe, enum stanza_type type)
{
    char *bare = mem_strndup(probe->to, jid_bare_length(probe->to));
    answer_mere(s, probe, type, bare, probe->id);
    mem_free(bare);
}

void presence_deny_probe(struct shard *s, const struct envelope *probe)
{
    answer_bare(s, probe, PRESENCE_UNSUBSCRIBED);
}

/* §4.3.2 rule 4; a full JID is told of that resource alone, and no details of it. */
static bool answer_for(struct shard *s, const struct envelope *probe, const struct session *session,
                       bool visible)
{
    bool full = *jid_resource(probe->to);
    if (full && strcmp(session->jid, probe->to) != 0)
        return false;
    if (visible && session->presence && !full) {
        struct envelope *e = envelope_copy(session->presence, probe->from);
        e->to_uid = probe->from_uid;
        e->flags = ENVELOPE_NO_BOUNCE;
        e->session = 0;
        router_send(s, e, NULL);
        return true;
    }
    if (!full || !(visible ? session->presence != NULL : presence_has_directed(session, probe->from)))
        return false;
    /* §4.6.6: who got directed presence may know that it still stands. */
    answer_mere(s, probe, PRESENCE_AVAILABLE, session->jid, NULL);
    return true;
}

static void answer_client_probe(struct shard *s, const struct envelope *probe)
{
    struct user *u = user_find(s, probe->to_uid);
    bool visible = probe->from_uid == probe->to_uid || presence_is_visible(s, probe->to_uid, probe->from);
    bool answered = false;
    struct session *session;
    if (u)
        list_for_each(session, &u->sessions, struct session, link) answered |=
            answer_for(s, probe, session, visible);
    if (answered)
        return;
    if (!visible)
        presence_deny_probe(s, probe);
    else if (!*jid_resource(probe->to))
        answer_bare(s, probe, PRESENCE_UNAVAILABLE);
}

/* §4.6.1: who says that it is not there any more need not hear the same. */
static void show_directed(struct session *s, const struct envelope *e)
{
    if (e->type == PRESENCE_UNAVAILABLE)
        presence_forget_directed(s, e->from);
    s->ops->deliver(s, e, NULL);
}

void presence_receive(struct shard *s, struct envelope *e)
{
    if (!subscription_from_outside(s, e))
        presence_deliver(s, e);
}

void presence_deliver(struct shard *s, struct envelope *e)
{
    struct user *u = user_find(s, e->to_uid);
    const char *resource = jid_resource(e->to);
    struct session *session;
    if (im_hooks_to_user(s, e->to_uid, u, e, false)) {
        /* gone */
    } else if (e->flags & ENVELOPE_PROBE_BACK) {
        session = session_find(s, e->session);
        if (session && session->presence)
            session->ops->deliver(session, e, NULL);
    } else if (e->type == PRESENCE_PROBE) {
        answer_client_probe(s, e);
    } else if (u && *resource) { /* §8.5.3.1, §8.5.3.2.2 */
        session = user_find_session(u, resource);
        if (session)
            show_directed(session, e);
    } else if (u) {
        bool of_roster = e->type >= PRESENCE_SUBSCRIBE && e->type <= PRESENCE_UNSUBSCRIBED;
        list_for_each(session, &u->sessions, struct session,
                      link) if (session->presence || (of_roster && session->wants_roster))
            show_directed(session, e);
        if (of_roster)
            roster_was_told(u, e);
    }
    envelope_free(e);
}

bool presence_is_visible(struct shard *s, uint64_t uid, const char *contact)
{
    return presence_is_subscribed(s, uid, contact) && !block_matches(s, uid, contact);
}

bool presence_is_subscribed(struct shard *s, uint64_t uid, const char *contact)
{
    struct arena a;
    arena_init(&a);
    Imp__RosterRow *row = jid_row_bare(s, TABLE_ROSTER, uid, contact, &a);
    bool visible = row && !row->removed &&
                   (row->subscription == IMP__SUBSCRIPTION__SUB_FROM ||
                    row->subscription == IMP__SUBSCRIPTION__SUB_BOTH);
    arena_fini(&a);
    return visible;
}

bool presence_is_shared(struct session *s, const struct envelope *e)
{
    if (!e->from_uid || e->from_uid == s->user->uid || presence_has_directed(s, e->from))
        return true;
    return presence_is_visible(s->shard, s->user->uid, e->from);
}