/* Subscriptions (RFC 6121 §3 and appendix A): one command changes both rosters, what follows is routed from
 * here. */
#include "im/block.h"
#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/outside.h"
#include "im/presence.h"
#include "im/presence_impl.h"
#include "im/router.h"
#include "im/user.h"
#include "replication/fsm.h"
#include <string.h>

struct subscription {
    struct envelope *envelope; /* from bare to bare */
    char *from;                /* bare */
    uint64_t from_uid, to_uid; /* to_uid 0: no such user, */
    bool outside;              /* or a contact at an external component */
};

Imp__SubscribeType subscription_command_type(enum stanza_type type)
{
    switch (type) {
    case PRESENCE_SUBSCRIBE:
        return IMP__SUBSCRIBE_TYPE__SUBSCRIBE;
    case PRESENCE_SUBSCRIBED:
        return IMP__SUBSCRIBE_TYPE__SUBSCRIBED;
    case PRESENCE_UNSUBSCRIBE:
        return IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE;
    default:
        return IMP__SUBSCRIBE_TYPE__UNSUBSCRIBED;
    }
}

static void free_subscription(struct subscription *sub)
{
    envelope_free(sub->envelope);
    mem_free(sub->from);
    mem_free(sub);
}

/* The bare JID e->to granted: "subscribed" on its behalf (§3.1.3, §3.4). */
static void answer_subscribed(struct shard *s, const struct subscription *sub, uint64_t index)
{
    struct envelope *e = envelope_new(
        &(struct envelope_parts){.type = PRESENCE_SUBSCRIBED, .from = sub->envelope->to, .to = sub->from});
    e->to_uid = sub->from_uid;
    e->from_uid = sub->to_uid;
    e->after_index = index;
    e->flags = ENVELOPE_NO_BOUNCE;
    router_send(s, e, NULL);
}

static enum stanza_error refusal(int code)
{
    switch (code) {
    case ERR_LIMIT:
        return STANZA_RESOURCE_CONSTRAINT;
    case ERR_NOTFOUND:
        return STANZA_ITEM_NOT_FOUND;
    case ERR_DENIED:
        return STANZA_NOT_ALLOWED;
    case ERR_UNAVAILABLE:
    case ERR_UNKNOWN_OUTCOME:
    case ERR_TIMEOUT:
        return STANZA_RESOURCE_CONSTRAINT;
    default:
        return STANZA_NOT_ACCEPTABLE;
    }
}

/* XEP-0191 §3.3: who is blocked sees nothing already, and a presence now would tell who is there. */
static void show_gone(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, uint64_t index)
{
    if (!block_matches(s, of, to))
        presence_show(s, of, to_uid, to, true, index);
}

static void on_done(struct session *session, struct shard *s, void *user,
                    const struct proposal_result *result)
{
    struct subscription *sub = user;
    struct envelope *e = sub->envelope;
    if (result->code != 0) {
        /* No such contact: silence (§8.5.1), so that nobody learns who exists. */
        if (result->code != ERR_NOTFOUND)
            router_bounce(s, e, refusal(result->code), *result->text ? result->text : NULL);
        free_subscription(sub);
        return;
    }
    uint64_t flags = result->value;
    bool from_grants = e->type == PRESENCE_SUBSCRIBED || e->type == PRESENCE_UNSUBSCRIBED;
    bool known = sub->to_uid || sub->outside;
    if (flags & FSM_SUB_REVOKED && known) {
        if (from_grants)
            show_gone(s, sub->from_uid, sub->to_uid, e->to, result->index);
        else if (sub->to_uid)
            show_gone(s, sub->to_uid, sub->from_uid, sub->from, result->index);
    }
    if (flags & FSM_SUB_AUTO_SUBSCRIBED)
        answer_subscribed(s, sub, result->index);
    if (flags & FSM_SUB_ROUTE && known) {
        struct envelope *c = envelope_copy(e, NULL);
        c->after_index = result->index;
        /* who asks is told that the component is not there; the request stays (§3.1.2) */
        c->flags = sub->outside && e->type == PRESENCE_SUBSCRIBE ? 0 : ENVELOPE_NO_BOUNCE;
        router_send(s, c, NULL);
    }
    if (flags & FSM_SUB_GRANTED && sub->outside && from_grants)
        presence_show(s, sub->from_uid, 0, e->to, false, result->index);
    if (flags & FSM_SUB_GRANTED && sub->to_uid) {
        if (from_grants) {
            presence_show(s, sub->from_uid, sub->to_uid, e->to, false, result->index);
            im_hooks_granted(s, sub->from_uid, sub->to_uid, e->to, result->index);
        } else {
            presence_show(s, sub->to_uid, sub->from_uid, sub->from, false, result->index);
            im_hooks_granted(s, sub->to_uid, sub->from_uid, sub->from, result->index);
        }
    }
    (void)session;
    free_subscription(sub);
}

/* The request as it is kept until the contact answers. */
static void write_stanza(struct buf *out, const struct envelope *e)
{
    if (e->type == PRESENCE_SUBSCRIBE)
        envelope_write(out, e, NULL, NULL);
}

/* §3.1.2, §3.2.1, §3.3.1, §3.4.1: from the bare JID to the bare JID. Takes STAMPED. */
static struct envelope *between_bare(const struct session *s, struct envelope *stamped, const char *to)
{
    struct envelope *e = envelope_new(&(struct envelope_parts){.type = stamped->type,
                                                               .from = s->user->jid,
                                                               .to = to,
                                                               .id = stamped->id,
                                                               .lang = stamped->lang,
                                                               .extra = stamped->extra,
                                                               .payload = stamped->payload});
    e->from_uid = s->user->uid;
    envelope_free(stamped);
    return e;
}

void presence_subscription(struct session *s, struct envelope *stamped)
{
    struct shard *shard = s->shard;
    uint64_t to_uid = 0;
    bool outside = outside_is(shard, stamped->to);
    int rc = outside ? 0 : shard_find_uid(shard, stamped->to, &to_uid);
    if (rc == ERR_INVALID || rc == ERR_CONFLICT) {
        stamped->from_uid = s->user->uid;
        router_send(shard, stamped, NULL); /* remote-server-not-found, gone */
        return;
    }
    char *to = mem_strndup(stamped->to, jid_bare_length(stamped->to));
    struct envelope *e = between_bare(s, stamped, to);
    struct subscription *sub = mem_new(struct subscription);
    sub->from = mem_strdup(s->user->jid);
    sub->from_uid = s->user->uid;
    sub->to_uid = rc == 0 ? to_uid : 0;
    sub->outside = outside;
    sub->envelope = e;
    e->to_uid = sub->to_uid;

    struct buf stanza = {0};
    write_stanza(&stanza, sub->envelope);
    Imp__Subscribe body = IMP__SUBSCRIBE__INIT;
    body.from = sub->from;
    body.to = to;
    body.type = subscription_command_type(sub->envelope->type);
    body.stanza = (ProtobufCBinaryData){stanza.n, (uint8_t *)stanza.data};
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_SUBSCRIBE;
    command.subscribe = &body;
    rc = session_submit(s, &command, on_done, sub);
    if (rc < 0) {
        router_bounce(shard, sub->envelope, STANZA_RESOURCE_CONSTRAINT, NULL);
        free_subscription(sub);
    }
    buf_fini(&stanza);
    mem_free(to);
}

static void send_type(struct shard *s, const struct roster_removal *r, enum stanza_type type, uint64_t index)
{
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = type, .from = r->jid, .to = r->contact});
    e->from_uid = r->uid;
    e->to_uid = r->contact_uid;
    e->after_index = index;
    e->flags = ENVELOPE_NO_BOUNCE;
    router_send(s, e, NULL);
}

void presence_contact_removed(struct shard *s, const struct roster_removal *r, uint64_t index)
{
    if (!r->contact_uid && !outside_is(s, r->contact))
        return;
    /* §3.2.2: first unavailable. Who was never let in learns nothing of resources. */
    if (r->is_seen)
        show_gone(s, r->uid, r->contact_uid, r->contact, index);
    if (r->to)
        send_type(s, r, PRESENCE_UNSUBSCRIBE, index);
    if (r->from)
        send_type(s, r, PRESENCE_UNSUBSCRIBED, index);
    if (r->sees && r->contact_uid)
        show_gone(s, r->contact_uid, r->uid, r->jid, index); /* §3.3.3 */
}
