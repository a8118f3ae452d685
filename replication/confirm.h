/* Rounds in which a leader asks the voters "is this still your term, and am I your leader?". A round that a
 * majority confirmed proves that no other leader had been elected when it began: what reads and leases rest
 * on (the core's own leader lease looks back too far). A state machine: no clock, frames leave through ops.
 * Raft thread. */
#ifndef REPLICATION_CONFIRM_H
#define REPLICATION_CONFIRM_H

#include <stdbool.h>
#include <stdint.h>

enum { CONFIRM_MAX_VOTERS = 64 };

struct confirm_ops {
    void (*ask)(void *user, uint32_t voter, uint64_t term, uint64_t round);
    void (*confirmed)(void *user, uint64_t round); /* this one and all before it */
};
struct confirm {
    const struct confirm_ops *ops;
    void *user;
    uint32_t self;
    uint64_t term; /* that we lead in; 0: no leader */
    uint64_t begun, confirmed, wanted;
    uint64_t asked_ms;
    unsigned n_voters;
    uint32_t voters[CONFIRM_MAX_VOTERS];
    bool acked[CONFIRM_MAX_VOTERS];
};

void confirm_init(struct confirm *c, const struct confirm_ops *ops, void *user, uint32_t self);
/* Leadership in TERM began; 0: it ended. Rounds go on counting, but those begun before never complete. */
void confirm_lead(struct confirm *c, uint64_t term);
void confirm_set_voters(struct confirm *c, const uint32_t *voters, unsigned n);
/* The number of a round that will begin after this call. confirm_pump begins it. */
uint64_t confirm_want(struct confirm *c);
/* Begins the wanted round if none is under way; asks again those who have not answered for AGAIN_MS.
 * ops->confirmed may be called from here and from confirm_on_ok. */
void confirm_pump(struct confirm *c, uint64_t now_ms, unsigned again_ms);
void confirm_on_ok(struct confirm *c, uint32_t voter, uint64_t term, uint64_t round);

#endif
