/* Presence of users whose home is another node, cached once per resource. */
#include "im/im_impl.h"
#include "im/presence.h"
#include "im/presence_impl.h"
#include "im/router.h"
#include "im/user.h"
#include <string.h>

static struct remote_resource *find_resource(struct user *u, const struct envelope *e)
{
    struct remote_resource *r;
    list_for_each(r, &u->remote, struct remote_resource,
                  link) if (r->node == e->from_node && strcmp(r->presence->from, e->from) == 0) return r;
    return NULL;
}

static bool same_string(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

static bool same_presence(const struct envelope *a, const struct envelope *b)
{
    size_t n = a->payload ? a->payload->n : 0;
    return n == (b->payload ? b->payload->n : 0) && same_string(a->lang, b->lang) &&
           same_string(a->extra, b->extra) && (n == 0 || memcmp(a->payload->data, b->payload->data, n) == 0);
}

static void tell_subscribers(struct shard *s, struct user *u, const struct envelope *e)
{
    unsigned n;
    const uint64_t *uids = user_subscribers(u, &n);
    presence_fan_out(s, uids, n, e);
}

/* The same resource at its new home may be heard of before its end at the old one is. */
static bool is_elsewhere(const struct user *u, const char *jid)
{
    const struct remote_resource *r;
    list_for_each(r, &u->remote, struct remote_resource,
                  link) if (strcmp(r->presence->from, jid) == 0) return true;
    const struct session *session = user_find_session(u, jid_resource(jid));
    return session && session->presence;
}

static void forget(struct remote_resource *r)
{
    list_remove(&r->link);
    envelope_free(r->presence);
    mem_free(r);
}

void presence_remote(struct shard *s, struct envelope *e)
{
    if (router_is_void(s, e)) {
        envelope_free(e);
        return;
    }
    struct user *u = user_get(s, e->from_uid, e->from);
    struct remote_resource *r = find_resource(u, e);
    if (e->type != PRESENCE_AVAILABLE) {
        if (r) {
            forget(r);
            if (!is_elsewhere(u, e->from))
                tell_subscribers(s, u, e);
        }
        envelope_free(e);
        user_release(u);
        return;
    }
    bool news = !r || !same_presence(r->presence, e);
    if (!r) {
        r = mem_new(struct remote_resource);
        r->node = e->from_node;
        list_append(&u->remote, &r->link);
    } else {
        envelope_free(r->presence);
    }
    r->sender = e->sender;
    r->generation = e->generation;
    r->epoch = e->epoch;
    r->presence = e;
    if (news)
        tell_subscribers(s, u, e);
}

static void gone(struct shard *s, struct user *u, struct remote_resource *r)
{
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = PRESENCE_UNAVAILABLE, .from = r->presence->from});
    forget(r);
    if (!is_elsewhere(u, e->from)) {
        tell_subscribers(s, u, e);
        /* Contacts at components hear it once, from where the user's home is now. */
        if (shard_home_of(s, u->uid) == im_node_id(s->im))
            subscription_tell_outside(s, u, e);
    }
    envelope_free(e);
}

void presence_sync_end(struct shard *s, uint32_t node, uint16_t sender, uint32_t generation)
{
    htab_for_each(at, &s->users)
    {
        struct user *u = container_of(at, struct user, node);
        struct remote_resource *r;
        list_for_each(r, &u->remote, struct remote_resource,
                      link) if (r->node == node && r->sender == sender && r->generation != generation)
            gone(s, u, r);
        user_release(u);
    }
}

void presence_node_down(struct shard *s, uint32_t node)
{
    const struct member *m = members_find(s->members, node);
    uint64_t epoch = m ? m->epoch : 0;
    htab_for_each(at, &s->users)
    {
        struct user *u = container_of(at, struct user, node);
        struct remote_resource *r;
        list_for_each(r, &u->remote, struct remote_resource,
                      link) if (r->node == node && (!m || r->epoch < epoch)) gone(s, u, r);
        user_release(u);
    }
}
