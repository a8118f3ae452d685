/* Presence that goes to many: broadcasts to subscribers, what a session that becomes available asks of its
 * contacts, one user's resources shown to another; over all shards of the node. */
#include "im/fan_out.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/presence.h"
#include "im/presence_impl.h"
#include "im/router.h"
#include "im/user.h"
#include <string.h>

/* ---- to subscribers on this node ---- */

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

static void show_here(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e)
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

void presence_fan_out(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e)
{
    fan_out(s, uids, n, e, show_here);
}

/* RFC 6121 §4.2.2, §4.4.2, §4.5.2: to all subscribers and to the user's own available resources. */
void presence_broadcast(struct shard *s, struct user *u, struct envelope *e)
{
    deliver_to_available(u, e);
    unsigned n;
    const uint64_t *uids = user_subscribers(u, &n);
    presence_fan_out(s, uids, n, e);
    subscription_tell_outside(s, u, e);
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

void presence_probe_contacts(struct session *s)
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
    subscription_probe_outside(shard, s->user);
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
