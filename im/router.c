#include "im/router.h"
#include "im/carbons.h"
#include "im/fence.h"
#include "im/presence.h"
#include "im/repeats.h"
#include "im/router_impl.h"
#include "im/session.h"
#include "im/sm_session.h"
#include "im/store_out.h"
#include "im/user.h"
#include <string.h>

enum {
    INBOX_THROTTLE_MS = 20,
    INBOX_SOFT = 1 << 20, /* bytes in another shard's mailbox before senders are slowed */
};

void router_init(struct shard *s)
{
    s->router = mem_new(struct router);
    list_init(&s->router->peers);
    held_init(&s->router->held);
}

void router_fini(struct shard *s)
{
    struct router *r = s->router;
    if (!r)
        return;
    held_fini(&r->held);
    router_free_nodes(r);
    mem_free(r);
    s->router = NULL;
}

/* ---- to another shard ---- */

static void deliver_letter(struct letter *letter)
{
    struct envelope *e = container_of(letter, struct envelope, letter);
    struct shard *s = e->shard;
    size_t left = atomic_fetch_sub_explicit(&s->inbox_bytes, e->n_bytes, memory_order_relaxed) - e->n_bytes;
    uint64_t now = loop_now_ms(s->loop);
    if (left > INBOX_SOFT && now != s->throttled_ms && e->session && !(e->flags & ENVELOPE_THROTTLE)) {
        s->throttled_ms = now; /* this shard cannot keep up: one sender per millisecond is slowed */
        router_throttle(s, e, INBOX_THROTTLE_MS);
    }
    router_receive(s, e);
}

static void discard_letter(struct letter *letter)
{
    envelope_free(container_of(letter, struct envelope, letter));
}

void router_post(struct shard *to, struct envelope *e)
{
    e->shard = to;
    e->letter.deliver = deliver_letter;
    e->letter.discard = discard_letter;
    atomic_fetch_add_explicit(&to->inbox_bytes, e->n_bytes, memory_order_relaxed);
    loop_post(to->loop, &e->letter);
}

/* ---- where to ---- */

void router_bounce(struct shard *s, const struct envelope *e, enum stanza_error error, const char *text)
{
    struct envelope *back = envelope_bounce(e, error, text);
    if (!back) {
        sm_settle(s, e);
        return;
    }
    uint64_t waits = repeats_refused(s, e);
    if (e->n_in && waits) {
        back->flags |= ENVELOPE_REFUSED;
        back->session = waits;
        back->n_in = e->n_in;
        back->row = e->row;
        back->row_place = e->row_place;
    }
    router_send(s, back, NULL);
}

void router_refuse(struct shard *s, struct envelope *e, enum stanza_error error, const char *text)
{
    if (!repeats_knows(s, e))
        router_bounce(s, e, error, text);
    envelope_free(e);
}

void router_route(struct shard *s, struct envelope *e, struct session *from)
{
    struct shard *target = im_shard_of(s->im, e->to_uid);
    struct user *u = target == s ? user_find(s, e->to_uid) : NULL;
    uint32_t node = 0;
    if (!u || !user_is_here(u))
        node = shard_home_of(s, e->to_uid);
    if (node && node != im_node_id(s->im)) {
        router_send_to_node(s, node, e, from);
    } else if (target == s) {
        router_receive(s, e);
    } else {
        router_post(target, e);
        if (from && atomic_load_explicit(&target->inbox_bytes, memory_order_relaxed) > INBOX_SOFT)
            session_throttle(from, 10);
    }
}

/* RFC 6121 §8.5.1 for users that are not there. */
static bool resolve(struct shard *s, struct envelope *e)
{
    struct arena a;
    uint64_t uid;
    switch (shard_find_uid(s, e->to, &uid)) {
    case 0:
        e->to_uid = uid;
        return true;
    case ERR_INVALID:
        router_bounce(s, e, STANZA_REMOTE_SERVER_NOT_FOUND, NULL);
        return false;
    case ERR_CONFLICT: {
        arena_init(&a);
        const char *jid = shard_user_jid(s, uid, &a);
        router_bounce(s, e, STANZA_GONE, jid ? arena_printf(&a, "xmpp:%s", jid) : NULL);
        arena_fini(&a);
        return false;
    }
    default:
        if (e->type == PRESENCE_PROBE && strchr(e->to, '@'))
            presence_deny_probe(s, e);
        else if (e->kind != STANZA_PRESENCE)
            router_bounce(s, e, STANZA_SERVICE_UNAVAILABLE, NULL);
        return false;
    }
}

void router_refuse_outlived(struct shard *s, struct envelope *e)
{
    router_refuse(s, e, STANZA_REMOTE_SERVER_TIMEOUT, "the node of the account was taken down");
}

void router_send(struct shard *s, struct envelope *e, struct session *from)
{
    if (!from || !store_out_queue(from, e))
        router_send_now(s, e, from);
}

void router_send_now(struct shard *s, struct envelope *e, struct session *from)
{
    if (from) {
        e->session = from->id;
        from->n_fed += e->n_bytes;
        e->from_uid = from->user->uid;
        if (from->after_index > e->after_index)
            e->after_index = from->after_index;
        carbons_sent(from->user, from->id, e);
    }
    if (!e->to_uid && outside_is(s, e->to)) {
        sm_settle(s, e);
        outside_send(s, e);
        return;
    }
    if (!e->to_uid && !resolve(s, e)) {
        envelope_free(e);
        return;
    }
    e->order_index = s->feed_index;
    e->order = ++s->n_sent;
    e->epoch_here = router_own_epoch(s);
    if (from)
        fence_note(from, e);
    if (from && e->flags & ENVELOPE_COUNTED)
        sm_sent(from, e);
    router_route(s, e, from);
}

void router_send_again(struct shard *s, struct envelope *e)
{
    e->epoch_here = router_own_epoch(s);
    router_route(s, e, NULL);
}

static void on_forget(void *session, struct shard *s)
{
    router_forget_queued(s, (uintptr_t)session);
    held_forget(&s->router->held, (uintptr_t)session);
}

void router_forget(struct shard *s, uint64_t session)
{
    on_forget((void *)(uintptr_t)session, s);
    for (unsigned i = 0; i < im_n_shards(s->im); i++)
        if (im_shard(s->im, i) != s)
            shard_call(im_shard(s->im, i), on_forget, (void *)(uintptr_t)session);
}

void router_forward(struct shard *s, struct envelope *e)
{
    repeats_forget(s, e);
    if (router_is_outlived(s, e)) {
        router_refuse_outlived(s, e);
        return;
    }
    /* Each hop knows at least as much of the log as the one before; seven moves overtook it otherwise. */
    if ((e->flags & ENVELOPE_HOPS) == ENVELOPE_HOPS) {
        router_refuse(s, e, STANZA_RESOURCE_CONSTRAINT, "the account moves between nodes");
        return;
    }
    if (sm_park(s, e)) {
        envelope_free(e);
        return;
    }
    e->flags += ENVELOPE_HOP;
    router_route(s, e, NULL);
}

void router_pass(struct shard *s, struct envelope *e)
{
    router_route(s, e, NULL);
}

void router_throttle(struct shard *s, const struct envelope *e, unsigned ms)
{
    if (!e->from_uid)
        return;
    struct envelope *t = envelope_new(&(struct envelope_parts){.type = MESSAGE_NORMAL, .to = e->from});
    t->flags = ENVELOPE_THROTTLE | ENVELOPE_NO_BOUNCE;
    t->to_uid = e->from_uid;
    t->session = e->session;
    t->from_uid = ms; /* a throttle has no other use for it */
    router_route(s, t, NULL);
}

void router_advance(struct shard *s)
{
    router_advance_nodes(s);
    router_advance_held(s);
}
