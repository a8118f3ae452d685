#include "cluster/member_policy.h"

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

static bool is_silent(const struct replica_peer *p, uint64_t now_ms)
{
    return !p->connected && p->last_heard_ms && now_ms > p->last_heard_ms + MEMBER_SILENT_MS;
}

/* Somebody in the configuration who is no member any more. A voter goes in two steps: demoted, then removed.
 */
static struct member_step step_remove(const struct members *m, const struct replica_status *st, uint32_t self)
{
    for (unsigned i = 0; i < st->n_peers; i++) {
        const struct replica_peer *p = &st->peers[i];
        if (p->node == self || p->member == REPLICA_NOT_MEMBER || members_find(m, p->node))
            continue;
        return (struct member_step){p->member == REPLICA_VOTER ? MEMBER_DEMOTE : MEMBER_REMOVE, p->node};
    }
    return (struct member_step){MEMBER_NOTHING, 0};
}

/* A leader never removes itself: it hands over first. */
static struct member_step step_hand_over(const struct replica_status *st, uint32_t self)
{
    for (unsigned i = 0; i < st->n_peers; i++) {
        const struct replica_peer *p = &st->peers[i];
        if (p->node != self && p->member == REPLICA_VOTER && has_caught_up(st, p))
            return (struct member_step){MEMBER_HAND_OVER, p->node};
    }
    return (struct member_step){MEMBER_NOTHING, 0};
}

static const struct replica_peer *find_ready_standby(const struct members *m, const struct replica_status *st)
{
    for (unsigned i = 0; i < m->n; i++) {
        const struct replica_peer *p = find_peer(st, m->list[i].id);
        if (p && p->member == REPLICA_STANDBY && has_caught_up(st, p))
            return p;
    }
    return NULL;
}

struct member_step member_policy(const struct members *m, const struct replica_status *st, uint32_t self,
                                 uint64_t now_ms)
{
    struct member_step step = step_remove(m, st, self);
    if (step.action)
        return step;
    if (!members_find(m, self))
        return step_hand_over(st, self);
    for (unsigned i = 0; i < m->n; i++) {
        const struct replica_peer *p = find_peer(st, m->list[i].id);
        if (m->list[i].seen && m->list[i].id != self && (!p || p->member == REPLICA_NOT_MEMBER))
            return (struct member_step){MEMBER_ADD_STANDBY, m->list[i].id};
    }
    const struct replica_peer *ready = find_ready_standby(m, st);
    if (!ready)
        return step;
    if (st->n_voters < MEMBER_MAX_VOTERS)
        return (struct member_step){MEMBER_PROMOTE, ready->node};
    for (unsigned i = 0; i < st->n_peers; i++)
        if (st->peers[i].member == REPLICA_VOTER && st->peers[i].node != self &&
            is_silent(&st->peers[i], now_ms))
            return (struct member_step){MEMBER_DEMOTE, st->peers[i].node};
    return step;
}
