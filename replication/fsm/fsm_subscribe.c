/* Presence subscriptions: RFC 6121 §3 and appendix A, for both sides at once as far as they are users here.
 *
 * The state of appendix A is that of the roster row: subscription (none, to, from, both), "pending out" is
 * ask, "pending in" is a stored request. */
#include "replication/fsm/fsm_internal.h"
#include <string.h>

enum { REQUEST_BYTES_MAX = 16 * 1024 };

static void set_sees(Imp__RosterRow *r, bool sees)
{
    bool seen = fsm_is_seen(r);
    r->subscription = sees ? (seen ? IMP__SUBSCRIPTION__SUB_BOTH : IMP__SUBSCRIPTION__SUB_TO)
                           : (seen ? IMP__SUBSCRIPTION__SUB_FROM : IMP__SUBSCRIPTION__SUB_NONE);
}

static void set_is_seen(Imp__RosterRow *r, bool seen)
{
    bool sees = fsm_sees(r);
    r->subscription = sees ? (seen ? IMP__SUBSCRIPTION__SUB_BOTH : IMP__SUBSCRIPTION__SUB_TO)
                           : (seen ? IMP__SUBSCRIPTION__SUB_FROM : IMP__SUBSCRIPTION__SUB_NONE);
}

static bool is_pending_in(const Imp__RosterRow *r)
{
    return r->pending_in.len > 0;
}

static void drop_request(Imp__RosterRow *r)
{
    r->pending_in = (ProtobufCBinaryData){0};
}

/* One side of a step: an item, whether to write it, and whether the stanza goes on. */
struct side {
    struct roster_item item;
    bool changed, routed;
    bool told; /* changed by a stanza of the contact that goes to the user */
};

/* ---- the user sends it: A.2 ---- */

static void out_subscribe(struct fsm *f, struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    s->routed = true;
    if (!fsm_sees(r) && !r->ask) {
        r->ask = true;
        s->changed = true;
    }
    if (!r->in_roster) {
        r->in_roster = true;
        fsm_roster_fill_name(f, &s->item);
        s->changed = true;
    }
}

static void out_subscribed(struct fsm *f, struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    if (is_pending_in(r)) {
        drop_request(r);
        set_is_seen(r, true);
        s->routed = true;
    } else if (fsm_is_seen(r) || r->approved) {
        return;
    } else {
        r->approved = true; /* §3.4.2: before the contact has asked */
    }
    if (!r->in_roster)
        fsm_roster_fill_name(f, &s->item);
    r->in_roster = true;
    s->changed = true;
}

static void out_unsubscribe(struct fsm *f, struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    s->routed = true;
    s->changed = fsm_sees(r) || r->ask;
    set_sees(r, false);
    r->ask = false;
}

static void out_unsubscribed(struct fsm *f, struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    s->routed = is_pending_in(r) || fsm_is_seen(r);
    s->changed = s->routed || r->approved;
    drop_request(r);
    set_is_seen(r, false);
    r->approved = false; /* §3.4.2: cancels it, too */
}

/* ---- the contact's server gets it: A.3 ---- */

static uint64_t in_subscribe(struct side *s, const ProtobufCBinaryData *stanza)
{
    Imp__RosterRow *r = &s->item.row;
    if (fsm_is_seen(r))
        return FSM_SUB_AUTO_SUBSCRIBED; /* A.3.1 note 1: answered, not delivered */
    if (r->approved) {
        r->approved = false;
        drop_request(r);
        set_is_seen(r, true);
        s->changed = true;
        return FSM_SUB_AUTO_SUBSCRIBED;
    }
    if (is_pending_in(r))
        return 0;
    r->pending_in = *stanza;
    s->changed = s->routed = true;
    return 0;
}

/* True: it was waited for. */
static bool in_subscribed(struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    if (!r->ask || fsm_sees(r))
        return false;
    r->ask = false;
    set_sees(r, true);
    s->changed = s->routed = true;
    return true;
}

static void in_unsubscribe(struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    s->routed = s->changed = is_pending_in(r) || fsm_is_seen(r);
    drop_request(r);
    set_is_seen(r, false);
}

static void in_unsubscribed(struct side *s)
{
    Imp__RosterRow *r = &s->item.row;
    s->routed = s->changed = r->ask || fsm_sees(r);
    set_sees(r, false);
    r->ask = false;
}

/* ---- both ---- */

static void out_step(struct fsm *f, Imp__SubscribeType type, struct side *s)
{
    static void (*const steps[])(struct fsm *, struct side *) = {
        [IMP__SUBSCRIBE_TYPE__SUBSCRIBE] = out_subscribe,
        [IMP__SUBSCRIBE_TYPE__SUBSCRIBED] = out_subscribed,
        [IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE] = out_unsubscribe,
        [IMP__SUBSCRIBE_TYPE__UNSUBSCRIBED] = out_unsubscribed,
    };
    steps[type](f, s);
}

static uint64_t in_step(Imp__SubscribeType type, struct side *s, const ProtobufCBinaryData *stanza)
{
    switch (type) {
    case IMP__SUBSCRIBE_TYPE__SUBSCRIBE:
        return in_subscribe(s, stanza);
    case IMP__SUBSCRIBE_TYPE__SUBSCRIBED:
        in_subscribed(s);
        return 0;
    case IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE:
        in_unsubscribe(s);
        return 0;
    default:
        in_unsubscribed(s);
        return 0;
    }
}

/* Does somebody see somebody now who would not after an UNSUBSCRIBE or UNSUBSCRIBED? Asked of either side. */
static bool has_grant(Imp__SubscribeType type, const Imp__RosterRow *from, const Imp__RosterRow *to)
{
    bool unsubscribe = type == IMP__SUBSCRIBE_TYPE__UNSUBSCRIBE;
    return (from && (unsubscribe ? fsm_sees(from) : fsm_is_seen(from))) ||
           (to && (unsubscribe ? fsm_is_seen(to) : fsm_sees(to)));
}

/* What follows for presence once both sides are as they will be. */
static uint64_t effect(Imp__SubscribeType type, bool routed, bool had_grant)
{
    if (!routed || type == IMP__SUBSCRIBE_TYPE__SUBSCRIBE)
        return 0;
    if (type == IMP__SUBSCRIBE_TYPE__SUBSCRIBED)
        return FSM_SUB_GRANTED;
    return had_grant ? FSM_SUB_REVOKED : 0;
}

static uint64_t save(struct fsm *f, struct side *s, Imp__SubscribeType told)
{
    if (!s->changed)
        return 0;
    if (f->level >= LEVEL_3 && s->told) {
        s->item.row.told_index = f->in->index;
        s->item.row.told = told;
    }
    s->item.quiet = true;
    fsm_roster_save(f, &s->item);
    return FSM_SUB_CHANGED;
}

/* A side that is not a user here always passes the stanza on; what it holds is its own server's business. */
uint64_t fsm_subscription_step(struct fsm *f, Imp__SubscribeType type, const char *from,
                               const Imp__UserRow *from_user, const char *to, const Imp__UserRow *to_user,
                               const ProtobufCBinaryData *stanza)
{
    struct side a = {.routed = true}, b = {.routed = true};
    uint64_t flags = 0;
    if (from_user)
        fsm_roster_load(f, &a.item, from_user->uid, to);
    if (to_user)
        fsm_roster_load(f, &b.item, to_user->uid, from);
    bool had_grant = has_grant(type, from_user ? &a.item.row : NULL, to_user ? &b.item.row : NULL);
    if (from_user) {
        a.routed = false;
        out_step(f, type, &a);
    }
    if (a.routed && to_user) {
        b.routed = false;
        /* XEP-0191 §3.3: who is blocked asks in vain and is not told. */
        if (type != IMP__SUBSCRIBE_TYPE__SUBSCRIBE || !fsm_blocks(f, to_user->uid, from))
            flags |= in_step(type, &b, stanza);
        b.told = b.routed && type != IMP__SUBSCRIBE_TYPE__SUBSCRIBE;
        flags |= save(f, &b, type);
    }
    if (flags & FSM_SUB_AUTO_SUBSCRIBED) {
        flags |= FSM_SUB_GRANTED;
        if (from_user)
            a.told = in_subscribed(&a); /* the answer, applied at once */
        if (from_user && !a.told && f->level >= LEVEL_3) /* table 8: what changes nothing is not delivered */
            flags &= ~(uint64_t)(FSM_SUB_AUTO_SUBSCRIBED | FSM_SUB_GRANTED);
    }
    if (from_user)
        flags |= save(f, &a, IMP__SUBSCRIBE_TYPE__SUBSCRIBED);
    if (a.routed && b.routed)
        flags |= FSM_SUB_ROUTE;
    return flags | effect(type, a.routed && b.routed, had_grant);
}

static bool refuse_subscribe(struct fsm *f, const Imp__Subscribe *b, const Imp__UserRow *from,
                             const Imp__UserRow *to)
{
    struct roster_item item;
    if (from) {
        fsm_roster_load(f, &item, from->uid, b->to);
        if (!fsm_roster_has_room(f, &item))
            fsm_refuse(f, ERR_LIMIT, "the roster is full");
    }
    if (to && b->type == IMP__SUBSCRIBE_TYPE__SUBSCRIBE) {
        fsm_roster_load(f, &item, to->uid, b->from);
        if (!fsm_roster_has_room(f, &item))
            fsm_refuse(f, ERR_LIMIT, "the contact's roster is full");
    }
    return f->out->code != 0;
}

void fsm_do_subscribe(struct fsm *f, const void *body)
{
    const Imp__Subscribe *b = body;
    Imp__UserRow *from, *to;
    size_t max = FSM_JID_MAX;
    if (!fsm_is_text(b->from, 1, max) || !fsm_is_text(b->to, 1, max) || strchr(b->from, '/') ||
        strchr(b->to, '/') || !strcmp(b->from, b->to) ||
        (unsigned)b->type > IMP__SUBSCRIBE_TYPE__UNSUBSCRIBED || b->stanza.len > REQUEST_BYTES_MAX ||
        (b->type == IMP__SUBSCRIBE_TYPE__SUBSCRIBE && !b->stanza.len)) {
        fsm_refuse(f, ERR_INVALID, "this is not a subscription between two addresses");
        return;
    }
    int from_rc = fsm_find_jid(f, b->from, &from), to_rc = fsm_find_jid(f, b->to, &to);
    if (from_rc == ERR_NOTFOUND || (from_rc && to_rc)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no user %.200s", from_rc == ERR_NOTFOUND ? b->from : b->to);
        return;
    }
    /* From level 3 on: pending for ever, as for an account of another domain (§8.5.1), so that nobody learns who exists. */
    if (to_rc == ERR_NOTFOUND && f->level < LEVEL_3 &&
        (b->type == IMP__SUBSCRIBE_TYPE__SUBSCRIBE || b->type == IMP__SUBSCRIBE_TYPE__SUBSCRIBED)) {
        fsm_refuse(f, ERR_NOTFOUND, "there is no user %.200s", b->to);
        return;
    }
    if (!fsm_is_at_home(f, from ? from : to) || refuse_subscribe(f, b, from, to))
        return;
    f->out->value = fsm_subscription_step(f, b->type, b->from, from, b->to, to, &b->stanza);
}
