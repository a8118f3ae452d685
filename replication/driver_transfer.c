/* Handing leadership over.
 *
 * The core asks the successor to take over as soon as an answer tells of everything that the successor had
 * when it answered (replication.c:485 compares with the answer, not with the leader's log). A successor that
 * lacks later entries ignores that, and the core asks once only: nobody leads on purpose for an election
 * timeout, and no command is taken meanwhile. So the core hears of a transfer only when the successor has the
 * whole log; until then nothing is added to it. */
#include "replication/driver_core.h"

#include "base/err.h"

static bool is_voter(const struct driver *d, uint64_t id)
{
    struct configuration conf;
    driver_from_core_conf(&conf, &d->r.configuration);
    return configuration_is_voter(&conf, id);
}

/* The voter that has most of the log; 0: there is no other. */
static uint64_t pick_successor(const struct driver *d)
{
    const struct raft_configuration *c = &d->r.configuration;
    uint64_t best = 0, best_match = 0, match;
    for (unsigned i = 0; i < c->n; i++) {
        uint64_t id = c->servers[i].id;
        if (id == d->config.id || !is_voter(d, id) || driver_match_index(d, id, &match))
            continue;
        if (!best || match > best_match) {
            best = id;
            best_match = match;
        }
    }
    return best;
}

static int start(struct driver *d, uint64_t id)
{
    struct raft_event event = {.type = RAFT_TRANSFER};
    event.transfer.server_id = id;
    d->successor = 0;
    return driver_try_step(d, &event);
}

bool driver_is_transferring(const struct driver *d)
{
    return d->successor || raft_transferee(&d->r);
}

void driver_pump_transfer(struct driver *d)
{
    uint64_t match;
    if (!d->successor)
        return;
    if (raft_state(&d->r) != RAFT_LEADER || !is_voter(d, d->successor) ||
        d->now - d->transfer_ms >= d->config.timing.election_ms)
        d->successor = 0;
    else if (!driver_match_index(d, d->successor, &match) && match == driver_last(d))
        start(d, d->successor);
}

int driver_transfer(struct driver *d, uint64_t now_ms, uint64_t id)
{
    int rc = 0;
    if (!driver_enter(d, now_ms))
        return ERR_CLOSED;
    if (raft_state(&d->r) != RAFT_LEADER || driver_is_transferring(d)) {
        rc = ERR_NOTLEADER;
    } else {
        uint64_t to = id ? id : pick_successor(d);
        if (!to || to == d->config.id || !is_voter(d, to)) {
            rc = ERR_NOTFOUND;
        } else if (driver_has_guard(d, DRIVER_GUARD_WHOLE_LOG)) {
            d->successor = to;
            d->transfer_ms = d->now;
            driver_pump_transfer(d);
        } else {
            rc = start(d, to) ? ERR_NOTLEADER : 0;
        }
    }
    driver_leave(d);
    return rc;
}
