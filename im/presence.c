#include "im/presence.h"
#include "base/clock.h"
#include "im/block.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/message.h"
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

/* ---- to subscribers on this node ---- */

struct fan_out {
    struct letter letter;
    struct shard *shard;
    struct envelope *envelope;
    unsigned n;
    uint64_t uids[];
};

static void deliver_to_available(struct user *u, const struct envelope *e)
{
    struct session *s;
    list_for_each(s, &u->sessions, struct session, link) if (s->presence) s->ops->deliver(s, e, NULL);
}

/* A contact's broadcast. */
static void show_to(struct shard *s, struct user *u, const struct envelope *e)
{
    if (!im_hooks_to_user(s, u->uid, u, e, true))
        deliver_to_available(u, e);
}

static void fan_out_here(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e)
{
    bool wait = e->after_index > s->applied_index;
    for (unsigned i = 0; i < n; i++) {
        struct user *u = user_find(s, uids[i]);
        if (!u || list_is_empty(&u->sessions))
            continue;
        if (!wait) {
            show_to(s, u, e);
            continue;
        }
        struct envelope *c = envelope_copy(e, u->jid);
        c->to_uid = u->uid;
        c->flags = ENVELOPE_NO_BOUNCE;
        router_receive(s, c);
    }
}

static void deliver_fan_out(struct letter *letter)
{
    struct fan_out *f = container_of(letter, struct fan_out, letter);
    fan_out_here(f->shard, f->uids, f->n, f->envelope);
    envelope_free(f->envelope);
    mem_free(f);
}

static void discard_fan_out(struct letter *letter)
{
    struct fan_out *f = container_of(letter, struct fan_out, letter);
    envelope_free(f->envelope);
    mem_free(f);
}

void presence_fan_out(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e)
{
    struct im *im = s->im;
    uint64_t *mine = mem_alloc((n + 1) * sizeof *mine);
    for (unsigned k = 0; n && k < im->n; k++) {
        struct shard *to = &im->shards[k];
        unsigned n_mine = 0;
        for (unsigned i = 0; i < n; i++)
            if (im_shard_of(im, uids[i]) == to)
                mine[n_mine++] = uids[i];
        if (!n_mine)
            continue;
        if (to == s) {
            fan_out_here(s, mine, n_mine, e);
            continue;
        }
        struct fan_out *f = mem_zalloc(sizeof *f + n_mine * sizeof *f->uids);
        f->letter.deliver = deliver_fan_out;
        f->letter.discard = discard_fan_out;
        f->shard = to;
        f->envelope = envelope_copy(e, NULL);
        f->n = n_mine;
        memcpy(f->uids, mine, n_mine * sizeof *mine);
        loop_post(to->loop, &f->letter);
    }
    mem_free(mine);
}

/* RFC 6121 §4.2.2, §4.4.2, §4.5.2: to all subscribers and to the user's own available resources. */
static void broadcast(struct shard *s, struct user *u, struct envelope *e)
{
    deliver_to_available(u, e);
    unsigned n;
    const uint64_t *uids = user_subscribers(u, &n);
    presence_fan_out(s, uids, n, e);
    for (unsigned i = 0; s->members && i < s->members->n; i++) {
        const struct member *m = &s->members->list[i];
        if (m->id == im_node_id(s->im) || !home_can_serve(m))
            continue;
        struct envelope *c = envelope_copy(e, NULL);
        c->flags = ENVELOPE_BROADCAST;
        router_send_presence(s, m->id, c);
    }
}

/* ---- probes: what a session that becomes available sees of its contacts ---- */

struct probe {
    struct letter letter;
    struct shard *shard, *back;
    uint64_t session, uid;
    char *jid; /* bare, of who asks */
    unsigned n;
    uint64_t uids[];
};

static void answer_probe(const struct probe *p, const struct envelope *presence)
{
    struct shard *s = p->shard;
    if (p->back == s) {
        struct session *session = session_find(s, p->session);
        if (session && session->presence && !im_hooks_to_user(s, p->uid, session->user, presence, true))
            session->ops->deliver(session, presence, NULL);
        return;
    }
    struct envelope *e = envelope_copy(presence, p->jid);
    e->to_uid = p->uid;
    e->session = p->session;
    e->after_index = 0;
    e->flags = ENVELOPE_PROBE_BACK | ENVELOPE_NO_BOUNCE;
    router_post(p->back, e);
}

static void run_probe(const struct probe *p)
{
    for (unsigned i = 0; i < p->n; i++) {
        struct user *u = user_find(p->shard, p->uids[i]);
        if (!u || !presence_is_visible(p->shard, u->uid, p->jid))
            continue;
        struct session *s;
        list_for_each(s, &u->sessions, struct session, link) if (s->presence) answer_probe(p, s->presence);
        struct remote_resource *r;
        list_for_each(r, &u->remote, struct remote_resource, link) answer_probe(p, r->presence);
    }
}

static void free_probe(struct probe *p)
{
    mem_free(p->jid);
    mem_free(p);
}

static void deliver_probe(struct letter *letter)
{
    struct probe *p = container_of(letter, struct probe, letter);
    run_probe(p);
    free_probe(p);
}

static void discard_probe(struct letter *letter)
{
    free_probe(container_of(letter, struct probe, letter));
}

static void probe_contacts(struct session *s)
{
    struct shard *shard = s->shard;
    struct im *im = shard->im;
    unsigned n;
    const uint64_t *uids = user_subscribed(s->user, &n);
    for (unsigned k = 0; n && k < im->n; k++) {
        struct shard *to = &im->shards[k];
        struct probe *p = mem_zalloc(sizeof *p + n * sizeof *p->uids);
        for (unsigned i = 0; i < n; i++)
            if (im_shard_of(im, uids[i]) == to)
                p->uids[p->n++] = uids[i];
        p->letter.deliver = deliver_probe;
        p->letter.discard = discard_probe;
        p->shard = to;
        p->back = shard;
        p->session = s->id;
        p->uid = s->user->uid;
        p->jid = mem_strdup(s->user->jid);
        if (p->n && to != shard) {
            loop_post(to->loop, &p->letter);
            continue;
        }
        run_probe(p);
        free_probe(p);
    }
}

/* ---- from a session ---- */

static void first_presence(struct session *s)
{
    struct session *other;
    list_for_each(other, &s->user->sessions, struct session, link) if (other != s && other->presence)
        s->ops->deliver(s, other->presence, NULL);
    probe_contacts(s);
    roster_deliver_requests(s);
}

static void prepare(struct session *s, struct envelope *e)
{
    e->from_uid = s->user->uid;
    e->session = s->id;
    e->after_index = s->after_index;
    e->flags = 0;
}

/* §4.6.2: whoever got directed presence and is no subscriber hears of the end as well. */
static void end_directed(struct session *s, const struct envelope *e)
{
    struct directed *d;
    list_for_each(d, &s->directed, struct directed, link)
    {
        list_remove(&d->link);
        if (!e || !presence_is_visible(s->shard, s->user->uid, d->jid)) {
            struct envelope *c = e ? envelope_copy(e, d->jid)
                                   : envelope_new(&(struct envelope_parts){
                                         .type = PRESENCE_UNAVAILABLE, .from = s->jid, .to = d->jid});
            c->flags = ENVELOPE_NO_BOUNCE;
            router_send(s->shard, c, s);
        }
        mem_free(d);
    }
    s->n_directed = 0;
}

void presence_end_directed(struct session *s, bool (*match)(void *user, const char *jid), void *user)
{
    struct directed *d;
    list_for_each(d, &s->directed, struct directed, link)
    {
        if (!match(user, d->jid))
            continue;
        list_remove(&d->link);
        s->n_directed--;
        struct envelope *e = envelope_new(
            &(struct envelope_parts){.type = PRESENCE_UNAVAILABLE, .from = s->jid, .to = d->jid});
        e->flags = ENVELOPE_NO_BOUNCE;
        router_send(s->shard, e, s);
        mem_free(d);
    }
}

static void become_unavailable(struct session *s, struct envelope *e)
{
    broadcast(s->shard, s->user, e);
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
    broadcast(s->shard, s->user, e);
    if (!was_available)
        first_presence(s);
    if (priority >= 0 && (!was_available || old_priority < 0))
        message_session_available(s);
}

static struct directed *find_directed(const struct session *s, const char *jid)
{
    struct directed *d;
    list_for_each(d, &s->directed, struct directed, link) if (strcmp(d->jid, jid) == 0) return d;
    return NULL;
}

void presence_directed(struct session *s, struct envelope *e)
{
    prepare(s, e);
    struct directed *d = find_directed(s, e->to);
    if (e->type == PRESENCE_UNAVAILABLE && d) {
        list_remove(&d->link);
        s->n_directed--;
        mem_free(d);
    } else if (e->type == PRESENCE_AVAILABLE && !d) {
        if (s->n_directed >= DIRECTED_MAX) {
            router_bounce(s->shard, e, STANZA_RESOURCE_CONSTRAINT, "too many directed presences");
            envelope_free(e);
            return;
        }
        size_t n = strlen(e->to) + 1;
        d = mem_alloc(sizeof *d + n);
        memcpy(d->jid, e->to, n);
        list_append(&s->directed, &d->link);
        s->n_directed++;
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
        broadcast(s->shard, s->user, e);
        end_directed(s, e);
        envelope_free(e);
        envelope_free(last);
    } else {
        end_directed(s, NULL);
    }
}

/* ---- for a user of this shard ---- */

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

bool presence_has_directed(const struct session *s, const char *jid)
{
    if (find_directed(s, jid))
        return true;
    char *bare = mem_strndup(jid, jid_bare_length(jid));
    bool found = find_directed(s, bare) != NULL;
    mem_free(bare);
    return found;
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
    struct directed *d = e->type == PRESENCE_UNAVAILABLE ? find_directed(s, e->from) : NULL;
    if (d) {
        list_remove(&d->link);
        s->n_directed--;
        mem_free(d);
    }
    s->ops->deliver(s, e, NULL);
}

void presence_receive(struct shard *s, struct envelope *e)
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

static Imp__RosterRow *find_item(struct shard *s, uint64_t uid, const char *contact, struct arena *a)
{
    struct key k;
    key_init(&k);
    key_u64(&k, uid);
    key_str(&k, arena_strndup(a, contact, jid_bare_length(contact)));
    return store_find_row(shard_txn(s), TABLE_ROSTER, &k, a);
}

bool presence_is_visible(struct shard *s, uint64_t uid, const char *contact)
{
    return presence_is_subscribed(s, uid, contact) && !block_matches(s, uid, contact);
}

bool presence_is_subscribed(struct shard *s, uint64_t uid, const char *contact)
{
    struct arena a;
    arena_init(&a);
    Imp__RosterRow *row = find_item(s, uid, contact, &a);
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

/* ---- one user's resources to one other ---- */

struct show {
    uint64_t of, to_uid, after_index;
    bool gone;
    char *to;
};

static void show_one(struct shard *s, const struct show *w, const struct envelope *presence)
{
    struct envelope *e = w->gone ? envelope_new(&(struct envelope_parts){
                                       .type = PRESENCE_UNAVAILABLE, .from = presence->from, .to = w->to})
                                 : envelope_copy(presence, w->to);
    e->to_uid = w->to_uid;
    e->from_uid = w->of;
    e->session = 0;
    e->flags = ENVELOPE_NO_BOUNCE;
    e->after_index = w->after_index;
    router_send(s, e, NULL);
}

static void run_show(void *arg, struct shard *s)
{
    struct show *w = arg;
    struct user *u = user_find(s, w->of);
    if (u) {
        struct session *session;
        list_for_each(session, &u->sessions, struct session, link) if (session->presence)
            show_one(s, w, session->presence);
        struct remote_resource *r;
        list_for_each(r, &u->remote, struct remote_resource, link) show_one(s, w, r->presence);
    }
    mem_free(w->to);
    mem_free(w);
}

void presence_show(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, bool gone,
                   uint64_t after_index)
{
    struct show *w = mem_new(struct show);
    *w = (struct show){of, to_uid, after_index, gone, mem_strdup(to)};
    struct shard *target = im_shard_of(s->im, of);
    if (target == s)
        run_show(w, s);
    else
        shard_call(target, run_show, w);
}
