#include "cluster/member_policy.h"
#include <stddef.h>

static const struct member_step nothing = {MEMBER_NOTHING, 0};

static const struct replica_peer *find_peer(const struct replica_status *st, uint32_t node)
{
    for (unsigned i = 0; i < st->n_peers; i++)
        if (st->peers[i].node == node)
            return &st->peers[i];
    return NULL;
}

static bool has_caught_up(const struct replica_status *st, const struct replica_peer *p)
{
    return p->connected && p->match_index && p->match_index + MEMBER_PROMOTE_LAG >= st->last_index;
}

static bool is_silent(const struct replica_peer *p, const struct member_facts *f)
{
    uint64_t since = p->last_heard_ms > f->led_since_ms ? p->last_heard_ms : f->led_since_ms;
    return !p->connected && f->now_ms > since + f->replace_after_ms;
}

static bool stays(const struct members *m, uint32_t node)
{
    const struct member *member = members_find(m, node);
    return member && !member->leaving && !member->lost;
}

/* Somebody in the configuration who is no member any more, or shall not be. A voter goes in two steps:
 * demoted, then removed; who leaves keeps receiving the log until its users have been moved. */
static struct member_step step_remove(const struct members *m, const struct replica_status *st,
                                      const struct member_facts *f)
{
    for (unsigned i = 0; i < st->n_peers; i++) {
        const struct replica_peer *p = &st->peers[i];
        if (p->node == f->self || p->member == REPLICA_NOT_MEMBER || stays(m, p->node))
            continue;
        if (p->member == REPLICA_VOTER)
            return (struct member_step){MEMBER_DEMOTE, p->node};
        const struct member *member = members_find(m, p->node);
        if (!member || member->lost || p->node == f->evacuated)
            return (struct member_step){MEMBER_REMOVE, p->node};
    }
    return nothing;
}

/* A leader never removes itself: it hands over first. */
static struct member_step step_hand_over(const struct members *m, const struct replica_status *st,
                                         uint32_t self)
{
    for (unsigned i = 0; i < st->n_peers; i++) {
        const struct replica_peer *p = &st->peers[i];
        if (p->node != self && p->member == REPLICA_VOTER && has_caught_up(st, p) && stays(m, p->node))
            return (struct member_step){MEMBER_HAND_OVER, p->node};
    }
    return nothing;
}

static struct member_step step_add(const struct members *m, const struct replica_status *st, uint32_t self)
{
    for (unsigned i = 0; i < m->n; i++) {
        const struct replica_peer *p = find_peer(st, m->list[i].id);
        if (m->list[i].seen && m->list[i].id != self && stays(m, m->list[i].id) &&
            (!p || p->member == REPLICA_NOT_MEMBER))
            return (struct member_step){MEMBER_ADD_STANDBY, m->list[i].id};
    }
    return nothing;
}

/* Standbys that could vote at once. *first: the one to begin with. */
static unsigned count_ready(const struct members *m, const struct replica_status *st, uint32_t *first)
{
    unsigned n = 0;
    for (unsigned i = 0; i < m->n; i++) {
        const struct replica_peer *p = find_peer(st, m->list[i].id);
        if (!p || p->member != REPLICA_STANDBY || !has_caught_up(st, p) || !stays(m, p->node))
            continue;
        if (!n++)
            *first = p->node;
    }
    return n;
}

static unsigned wanted_voters(unsigned n)
{
    if (n >= MEMBER_MAX_VOTERS)
        return MEMBER_MAX_VOTERS;
    return n > 2 && n % 2 == 0 ? n - 1 : n;
}

/* Who goes back to standby when there is one voter too many: not this node, rather no witness (voting is all
 * that it is there for), the last that came. */
static const struct replica_peer *find_surplus(const struct members *m, const struct replica_status *st,
                                               uint32_t self)
{
    const struct replica_peer *found = NULL;
    bool found_witness = false;
    for (unsigned i = 0; i < st->n_peers; i++) {
        const struct replica_peer *p = &st->peers[i];
        if (p->node == self || p->member != REPLICA_VOTER)
            continue;
        const struct member *member = members_find(m, p->node);
        bool witness = member && member->witness;
        if (!found || (found_witness && !witness) || (found_witness == witness && p->node > found->node)) {
            found = p;
            found_witness = witness;
        }
    }
    return found;
}

/* A fourth voter that answers: as a standby it is worth more. One that is silent stays, it is not the number
 * that is wrong then. */
static struct member_step step_even(const struct members *m, const struct replica_status *st, uint32_t self)
{
    for (unsigned i = 0; i < st->n_peers; i++)
        if (st->peers[i].member == REPLICA_VOTER && st->peers[i].node != self && !st->peers[i].connected)
            return nothing;
    const struct replica_peer *p =
        st->n_voters > 2 && st->n_voters % 2 == 0 ? find_surplus(m, st, self) : NULL;
    return p ? (struct member_step){MEMBER_DEMOTE, p->node} : nothing;
}

struct member_step member_policy(const struct members *m, const struct replica_status *st,
                                 const struct member_facts *f)
{
    struct member_step step = step_remove(m, st, f);
    if (step.action)
        return step;
    if (!stays(m, f->self))
        return step_hand_over(m, st, f->self);
    step = step_add(m, st, f->self);
    if (step.action)
        return step;
    uint32_t first = 0;
    unsigned n_ready = count_ready(m, st, &first);
    if (n_ready && st->n_voters < wanted_voters(st->n_voters + n_ready))
        return (struct member_step){MEMBER_PROMOTE, first};
    for (unsigned i = 0; n_ready && i < st->n_peers; i++)
        if (st->peers[i].member == REPLICA_VOTER && st->peers[i].node != f->self &&
            is_silent(&st->peers[i], f))
            return (struct member_step){MEMBER_DEMOTE, st->peers[i].node};
    return step_even(m, st, f->self);
}
