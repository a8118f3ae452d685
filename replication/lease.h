/* Leases (architecture: Lease): the right of an up node to act as a home, renewed by the leader four times in
 * its length; and node_down of those whose lease has run out for certain. Two state machines, one for the
 * asking and one for the granting side; time comes in as a parameter, the rest leaves through ops. Raft
 * thread.
 *
 * Why it holds: a lease runs 1.0 s from the moment the ping was SENT, by the holder's clock that goes on
 * while the machine is suspended. The granting leader submits node_down 1.5 s after its last ANSWER to that
 * node, which is later than the ping; a new leader not before 1.5 s after its election, and any answer of the
 * old leader rests on a round begun after the ping and confirmed before the new one had its majority. What
 * remains is 0.5 s for clocks that run at different speeds. */
#ifndef REPLICATION_LEASE_H
#define REPLICATION_LEASE_H

#include <stdbool.h>
#include <stdint.h>

enum { LEASE_MAX_NODES = 64, LEASE_MAX_PENDING = 4 };

/* All of them scale with the election time-out (600 ms: 250, 1000, 1500). */
struct lease_times {
    unsigned ping_ms, hold_ms, down_ms;
};
void lease_times_for(struct lease_times *out, unsigned election_ms);

/* ---- the node that asks ---- */
struct lease_holder {
    struct lease_times times;
    bool want;
    uint64_t epoch, leader_mark; /* leader_mark: changes with leader, term and connection; 0: no leader */
    uint64_t next_ping, ping_due_ms;
    uint64_t until_boot_ms;
    struct {
        uint64_t ping, sent_boot_ms;
    } sent[8];
};
/* FIRST_PING: random, so that an answer to an earlier life of this process is none to this one. */
void lease_holder_init(struct lease_holder *h, unsigned election_ms, uint64_t first_ping);
/* want: ask at all. Any change is followed by lease_holder_tick. */
void lease_holder_set(struct lease_holder *h, bool want, uint64_t epoch, uint64_t leader_mark);
/* True: send {epoch, *ping} to the leader now. */
bool lease_holder_tick(struct lease_holder *h, uint64_t now_ms, uint64_t boot_ms, uint64_t *ping);
void lease_holder_on_grant(struct lease_holder *h, uint64_t ping);
/* CLOCK_BOOTTIME ms, 0: none. */
uint64_t lease_holder_until(const struct lease_holder *h);

/* ---- the leader that grants ---- */
struct lease_node {
    uint32_t node;
    uint64_t epoch;
    bool up; /* or handing over: may hold a lease */
};
struct lease_ops {
    uint64_t (*want_round)(void *user); /* a confirmation round that begins after this call */
    void (*grant)(void *user, uint32_t node, uint64_t ping);
    /* Submit it; false: not taken, ask again later. */
    bool (*node_down)(void *user, uint32_t node, uint64_t epoch, uint64_t term);
};
struct lease_grantor {
    const struct lease_ops *ops;
    void *user;
    struct lease_times times;
    uint64_t term, elected_ms, ticked_ms;
    bool is_ready; /* an entry of this term is applied */
    unsigned n_nodes;
    struct lease_grant {
        struct lease_node row; /* as applied */
        uint64_t answered_ms;  /* 0: never in this term */
        uint64_t down_epoch;   /* node_down of this epoch is submitted in this term */
        uint64_t down_ms;      /* when */
        uint64_t down_round;   /* late: waits for this round before node_down is submitted */
        unsigned n_pending;
        struct {
            uint64_t epoch, ping, round;
        } pending[LEASE_MAX_PENDING];
    } nodes[LEASE_MAX_NODES];
};
void lease_grantor_init(struct lease_grantor *g, const struct lease_ops *ops, void *user,
                        unsigned election_ms);
void lease_grantor_lead(struct lease_grantor *g, uint64_t now_ms, uint64_t term); /* 0: no leader any more */
/* The NODE table as applied; with is_ready it must be at least as new as the first entry of this term. */
void lease_grantor_set_nodes(struct lease_grantor *g, const struct lease_node *nodes, unsigned n,
                             bool is_ready);
void lease_grantor_on_ping(struct lease_grantor *g, uint32_t node, uint64_t epoch, uint64_t ping);
void lease_grantor_on_round(struct lease_grantor *g, uint64_t now_ms, uint64_t round);
void lease_grantor_tick(struct lease_grantor *g, uint64_t now_ms);

#endif
