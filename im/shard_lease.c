/* May this node act as home? */
#include "base/clock.h"
#include "im/im_impl.h"
#include "im/router.h"
#include "im/session.h"

enum { LEASE_REFUSE_MS = 5000, LEASE_CLOSE_MS = 10000 };

static void set_lease(struct shard *s, enum shard_lease lease)
{
    if (s->lease == lease)
        return;
    static const char *const names[] = {"held", "lost for a moment", "lost: refusing stanzas",
                                        "lost: closing client streams"};
    log_at(s->log, lease == LEASE_REFUSE || lease == LEASE_CLOSED ? LOG_WARNING : LOG_INFO,
           "shard %u: lease %s", s->index, names[lease]);
    s->lease = lease;
    struct session *session;
    htab_for_each(node, &s->sessions)
    {
        session = container_of(node, struct session, node);
        if (lease == LEASE_CLOSED)
            session->ops->close(session, SESSION_NO_LEASE);
        else
            session_gate_changed(session);
    }
    struct shard_watcher *w;
    list_for_each(w, &s->watchers, struct shard_watcher, link) if (w->on_lease) w->on_lease(w, lease);
    if (lease != LEASE_WAIT)
        router_advance(s);
}

/* Of the epoch that this shard has seen begin: what it holds from an earlier one is no longer its own. */
static uint64_t lease_until(const struct shard *s)
{
    const struct im_backend *b = im_backend(s->im);
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self && (self->up || self->handing_over) ? b->lease_until(b->user, self->epoch) : 0;
}

bool shard_has_lease(const struct shard *s)
{
    return !s->homes_lost && lease_until(s) > clock_boot_ms();
}

/* Should it have one? A drained node that has left, a witness, one that starts: they are not in trouble. */
static bool wants_lease(const struct shard *s)
{
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self && (self->up || self->handing_over);
}

enum shard_lease shard_check_lease(struct shard *s)
{
    uint64_t now = clock_boot_ms();
    if (shard_has_lease(s)) {
        s->lease_end = lease_until(s);
        s->lease_lost_ms = 0;
        set_lease(s, LEASE_HELD);
        return s->lease;
    }
    if (!s->lease_lost_ms || !wants_lease(s))
        s->lease_lost_ms = now;
    uint64_t for_ms = now - s->lease_lost_ms;
    if (s->lease == LEASE_CLOSED || for_ms >= LEASE_CLOSE_MS)
        set_lease(s, LEASE_CLOSED);
    else
        set_lease(s, for_ms >= LEASE_REFUSE_MS ? LEASE_REFUSE : LEASE_WAIT);
    return s->lease;
}
