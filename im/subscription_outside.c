/* Subscriptions to and from addresses of external components (im/outside.h): their rosters are their own
 * business, so that one side of RFC 6121 appendix A is here. What a component says of subscriptions goes
 * through the log at the home of its addressee, and its other presences wait behind it (RFC 6120 §10.1). */
#include "im/block.h"
#include "im/im_impl.h"
#include "im/jid_rows.h"
#include "im/outside.h"
#include "im/presence.h"
#include "im/presence_impl.h"
#include "im/router.h"
#include "im/user.h"
#include "replication/fsm.h"
#include <string.h>

enum { INBOUND_MAX = 1000, WAITING_MAX = 100 };

/* A stanza that is being decided in the log, and what the same contact sent to the same user behind it. */
struct inbound {
    struct list link; /* in shard->inbound */
    struct shard *shard;
    uint64_t uid;
    char *from, *to; /* bare */
    struct envelope *envelope;
    struct list waiting; /* struct envelope */
    unsigned n_waiting;
};

static void free_inbound(struct inbound *i)
{
    struct envelope *e;
    list_for_each(e, &i->waiting, struct envelope, link)
    {
        list_remove(&e->link);
        envelope_free(e);
    }
    list_remove(&i->link);
    envelope_free(i->envelope);
    mem_free(i->from);
    mem_free(i->to);
    mem_free(i);
}

void subscription_outside_init(struct shard *s)
{
    list_init(&s->inbound);
}

void subscription_outside_fini(struct shard *s)
{
    struct inbound *i;
    list_for_each(i, &s->inbound, struct inbound, link) free_inbound(i);
}

static void send(struct shard *s, enum stanza_type type, const char *from, const char *to, uint64_t index)
{
    struct envelope *e = envelope_new(&(struct envelope_parts){.type = type, .from = from, .to = to});
    e->after_index = index;
    e->flags = ENVELOPE_NO_BOUNCE;
    router_send(s, e, NULL);
}

/* What the contact sees of the user from now on. */
static void take_effect(struct inbound *i, uint64_t flags, uint64_t index)
{
    struct shard *s = i->shard;
    if (flags & FSM_SUB_AUTO_SUBSCRIBED) {
        send(s, PRESENCE_SUBSCRIBED, i->to, i->from, index);
        presence_show(s, i->uid, 0, i->from, false, index);
    }
    if (flags & FSM_SUB_REVOKED && i->envelope->type == PRESENCE_UNSUBSCRIBE &&
        !block_matches(s, i->uid, i->from))
        presence_show(s, i->uid, 0, i->from, true, index); /* §3.3.3 */
}

static void on_done(void *user, const struct proposal_result *result)
{
    struct inbound *i = user;
    struct shard *s = i->shard;
    struct list waiting;
    struct envelope *e;
    list_init(&waiting);
    if (result->code == 0) {
        take_effect(i, result->value, result->index);
        if (result->value & FSM_SUB_ROUTE) {
            presence_deliver(s, i->envelope);
            i->envelope = NULL;
        }
    } else if (result->code != ERR_NOTFOUND) {
        router_bounce(s, i->envelope, STANZA_RESOURCE_CONSTRAINT, *result->text ? result->text : NULL);
    }
    uint64_t uid = i->uid;
    list_for_each(e, &i->waiting, struct envelope, link)
    {
        list_remove(&e->link);
        list_append(&waiting, &e->link);
    }
    free_inbound(i);
    list_for_each(e, &waiting, struct envelope, link)
    {
        list_remove(&e->link);
        presence_receive(s, e);
    }
    user_proposal_ends(s, uid);
}

static int propose(struct inbound *i)
{
    struct buf stanza = {0};
    if (i->envelope->type == PRESENCE_SUBSCRIBE)
        envelope_write(&stanza, i->envelope, NULL, NULL);
    Imp__Subscribe body = IMP__SUBSCRIBE__INIT;
    body.from = i->from;
    body.to = i->to;
    body.type = subscription_command_type(i->envelope->type);
    body.stanza = (ProtobufCBinaryData){stanza.n, (uint8_t *)stanza.data};
    Imp__Command command = IMP__COMMAND__INIT;
    command.body_case = IMP__COMMAND__BODY_SUBSCRIBE;
    command.subscribe = &body;
    int rc = shard_submit(i->shard, &command, on_done, i);
    buf_fini(&stanza);
    return rc;
}

static void begin(struct shard *s, struct envelope *e)
{
    struct inbound *i = mem_new(struct inbound);
    i->shard = s;
    i->uid = e->to_uid;
    i->from = mem_strndup(e->from, jid_bare_length(e->from)); /* §3.1.2: bare */
    i->to = mem_strndup(e->to, jid_bare_length(e->to));
    i->envelope = envelope_new(&(struct envelope_parts){.type = e->type,
                                                        .from = i->from,
                                                        .to = i->to,
                                                        .id = e->id,
                                                        .lang = e->lang,
                                                        .extra = e->extra,
                                                        .payload = e->payload});
    i->envelope->to_uid = e->to_uid;
    envelope_free(e);
    list_init(&i->waiting);
    list_append(&s->inbound, &i->link);
    user_get(s, i->uid, i->to);
    user_proposal_begins(s, i->uid);
    if (propose(i) < 0) {
        uint64_t uid = i->uid;
        router_bounce(s, i->envelope, STANZA_RESOURCE_CONSTRAINT, NULL);
        free_inbound(i);
        user_proposal_ends(s, uid);
    }
}

bool subscription_from_outside(struct shard *s, struct envelope *e)
{
    unsigned n = 0;
    struct inbound *i;
    if (e->from_uid || !outside_is(s, e->from))
        return false;
    list_for_each(i, &s->inbound, struct inbound, link)
    {
        n++;
        if (i->uid != e->to_uid || !jid_same_bare(i->from, e->from))
            continue;
        if (++i->n_waiting > WAITING_MAX) {
            router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, NULL);
            envelope_free(e);
        } else {
            list_append(&i->waiting, &e->link);
        }
        return true;
    }
    if (e->type < PRESENCE_SUBSCRIBE || e->type > PRESENCE_UNSUBSCRIBED)
        return false;
    if (n < INBOUND_MAX) {
        begin(s, e);
    } else {
        router_bounce(s, e, STANZA_RESOURCE_CONSTRAINT, NULL);
        envelope_free(e);
    }
    return true;
}

/* ---- presence of users to contacts at components ---- */

/* Calls EACH for the contacts of U at components that it has not blocked: those that see it, or that it sees.
 */
static void each_contact(struct shard *s, const struct user *u, Imp__Subscription direction,
                         presence_contact_fn *each, void *arg)
{
    bool blocks = block_has_list(s, u->uid);
    struct jid_rows rows;
    jid_rows_init(&rows, s, TABLE_ROSTER, u->uid);
    while (jid_rows_next(&rows)) {
        const Imp__RosterRow *row = jid_rows_row(&rows);
        if (row && !row->removed &&
            (row->subscription == IMP__SUBSCRIPTION__SUB_BOTH || row->subscription == direction) &&
            outside_is(s, rows.jid) && !(blocks && block_matches(s, u->uid, rows.jid)))
            each(s, u, rows.jid, arg);
    }
    jid_rows_fini(&rows);
}

void presence_each_outside(struct shard *s, const struct user *u, presence_contact_fn *each, void *arg)
{
    if (outside_has_any(s) && u->is_seen_outside)
        each_contact(s, u, IMP__SUBSCRIPTION__SUB_FROM, each, arg);
}

static void tell(struct shard *s, const struct user *u, const char *contact, void *arg)
{
    struct envelope *e = envelope_copy(arg, contact);
    e->from_uid = u->uid;
    e->to_uid = e->session = 0;
    e->flags = ENVELOPE_NO_BOUNCE;
    router_send(s, e, NULL);
}

static void probe(struct shard *s, const struct user *u, const char *contact, void *arg)
{
    (void)arg;
    send(s, PRESENCE_PROBE, u->jid, contact, 0);
}

void subscription_tell_outside(struct shard *s, struct user *u, const struct envelope *presence)
{
    presence_each_outside(s, u, tell, (void *)presence);
}

void subscription_probe_outside(struct shard *s, struct user *u)
{
    if (outside_has_any(s) && u->sees_outside)
        each_contact(s, u, IMP__SUBSCRIPTION__SUB_TO, probe, NULL);
}

void presence_probe_outside(struct shard *s, const struct user *u, const char *contact)
{
    struct arena a;
    arena_init(&a);
    const Imp__RosterRow *row = jid_row_bare(s, TABLE_ROSTER, u->uid, contact, &a);
    if (row && !row->removed &&
        (row->subscription == IMP__SUBSCRIPTION__SUB_BOTH || row->subscription == IMP__SUBSCRIPTION__SUB_TO))
        probe(s, u, contact, NULL);
    arena_fini(&a);
}
