/* Presence of a session of this shard, as its client says it, and whom it told directly. */
#include "im/presence.h"
#include "base/clock.h"
#include "im/im_impl.h"
#include "im/message.h"
#include "im/presence_impl.h"
#include "im/roster.h"
#include "im/router.h"
#include "im/user.h"
#include <string.h>

enum { DIRECTED_MAX = 1000 };

/* Somebody who got directed presence of a session (RFC 6121 §4.6). */
struct directed {
    struct list link;
    char jid[];
};

/* ---- directed ---- */

static struct directed *find_directed(const struct session *s, const char *jid)
{
    struct directed *d;
    list_for_each(d, &s->directed, struct directed, link) if (strcmp(d->jid, jid) == 0) return d;
    return NULL;
}

bool presence_has_directed(const struct session *s, const char *jid)
{
    if (find_directed(s, jid))
        return true;
    char *bare = mem_strndup(jid, jid_bare_length(jid));
    bool found = find_directed(s, bare) != NULL;
    mem_free(bare);
    return found;
}

static void forget_directed(struct session *s, struct directed *d)
{
    list_remove(&d->link);
    s->n_directed--;
    mem_free(d);
}

bool presence_forget_directed(struct session *s, const char *jid)
{
    struct directed *d = find_directed(s, jid);
    if (d)
        forget_directed(s, d);
    return d != NULL;
}

/* D hears the end, as the client said it (E) or unsaid (NULL), and is forgotten: first, since what goes to
 * the session itself arrives before this returns. */
static void tell_end(struct session *s, struct directed *d, const struct envelope *e)
{
    list_remove(&d->link);
    s->n_directed--;
    struct envelope *c = e ? envelope_copy(e, d->jid)
                           : envelope_new(&(struct envelope_parts){
                                 .type = PRESENCE_UNAVAILABLE, .from = s->jid, .to = d->jid});
    c->flags = ENVELOPE_NO_BOUNCE;
    router_send(s->shard, c, s);
    mem_free(d);
}

/* §4.6.2: whoever got directed presence and is no subscriber hears of the end as well. */
static void end_directed(struct session *s, const struct envelope *e)
{
    struct directed *d;
    list_for_each(d, &s->directed, struct directed, link)
    {
        if (!e || !presence_is_visible(s->shard, s->user->uid, d->jid))
            tell_end(s, d, e);
        else
            forget_directed(s, d);
    }
}

void presence_end_directed(struct session *s, bool (*match)(void *user, const char *jid), void *user)
{
    struct directed *d;
    list_for_each(d, &s->directed, struct directed, link)
    {
        if (match(user, d->jid))
            tell_end(s, d, NULL);
    }
}

/* ---- what the client says ---- */

static void first_presence(struct session *s)
{
    struct session *other;
    list_for_each(other, &s->user->sessions, struct session, link) if (other != s && other->presence)
        s->ops->deliver(s, other->presence, NULL);
    presence_probe_contacts(s);
    roster_deliver_requests(s);
}

static void prepare(struct session *s, struct envelope *e)
{
    e->from_uid = s->user->uid;
    e->session = s->id;
    e->after_index = s->after_index;
    e->flags = 0;
}

static void become_unavailable(struct session *s, struct envelope *e)
{
    presence_broadcast(s->shard, s->user, e);
    end_directed(s, e);
    envelope_free(s->presence);
    s->presence = NULL;
    s->priority = 0;
}

void presence_update(struct session *s, struct envelope *e, int priority)
{
    prepare(s, e);
    bool was_available = s->presence != NULL;
    if (e->type == PRESENCE_UNAVAILABLE) {
        if (was_available)
            become_unavailable(s, e);
        else
            end_directed(s, e); /* §4.6.3 rule 3 */
        envelope_free(e);
        return;
    }
    int old_priority = s->priority;
    envelope_free(s->presence);
    s->presence = e;
    s->priority = priority;
    if (!was_available || old_priority < 0)
        s->live_ms = clock_wall_ms();
    presence_broadcast(s->shard, s->user, e);
    if (!was_available)
        first_presence(s);
    if (priority >= 0 && (!was_available || old_priority < 0))
        message_session_available(s);
}

static void add_directed(struct session *s, const char *jid)
{
    size_t n = strlen(jid) + 1;
    struct directed *d = mem_alloc(sizeof *d + n);
    memcpy(d->jid, jid, n);
    list_append(&s->directed, &d->link);
    s->n_directed++;
}

void presence_directed(struct session *s, struct envelope *e)
{
    prepare(s, e);
    if (e->type == PRESENCE_UNAVAILABLE) {
        presence_forget_directed(s, e->to);
    } else if (e->type == PRESENCE_AVAILABLE && !find_directed(s, e->to)) {
        if (s->n_directed >= DIRECTED_MAX) {
            router_bounce(s->shard, e, STANZA_RESOURCE_CONSTRAINT, "too many directed presences");
            envelope_free(e);
            return;
        }
        add_directed(s, e->to);
    }
    router_send(s->shard, e, s);
}

void presence_session_ended(struct session *s)
{
    struct envelope *last = s->presence;
    if (last) {
        s->presence = NULL; /* it hears nothing any more */
        struct envelope *e =
            envelope_new(&(struct envelope_parts){.type = PRESENCE_UNAVAILABLE, .from = s->jid});
        prepare(s, e);
        presence_broadcast(s->shard, s->user, e);
        end_directed(s, e);
        envelope_free(e);
        envelope_free(last);
    } else {
        end_directed(s, NULL);
    }
}
