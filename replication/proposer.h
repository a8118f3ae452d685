/* The proposer session of a node (architecture: Exactly once): gives sequences, keeps what is not executed
 * yet, sends it again when it may have been lost, ends it with the epoch.
 *
 * A state machine: time comes in as a parameter, everything it does goes through proposer_ops.
 * proposer_submit and proposer_get_status may be called by any thread, proposer_seen and proposer_on_rows by
 * the apply thread, the rest by the raft thread; a lock inside makes that safe. proposer_ops.send runs under
 * that lock. */
#ifndef REPLICATION_PROPOSER_H
#define REPLICATION_PROPOSER_H

#include "base/err.h"
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PROPOSER_WINDOW = 4096,           /* proposals in flight per node */
    PROPOSER_MAX_BYTES = 12 << 20,    /* of all in flight together: below what drops a peer's queue */
    PROPOSER_MAX_COMMAND = 512 << 10, /* one command; an entry has at most 1 MiB */
    PROPOSER_SILENCE_MS = 2000,       /* nothing executed for this long: send again */
    PROPOSER_NONCE = 16,
};

/* Whom to tell. Opaque here. */
struct proposal_call {
    void *to;
    void (*fn)(void);
    void *user;
};

struct proposer_ops {
    /* Hand one proposal to the leader; bytes are borrowed. False: no way now; it is tried again with the next
     * route. */
    bool (*send)(void *user, uint64_t epoch, uint64_t seq, const void *command, size_t n_bytes);
    bool (*send_register)(void *user, const uint8_t nonce[PROPOSER_NONCE], uint64_t expected_epoch);
    void (*draw_nonce)(void *user, uint8_t nonce[PROPOSER_NONCE]);
};

struct proposer;
struct proposer *proposer_new(const struct proposer_ops *ops, void *user);
void proposer_free(struct proposer *p);

/* Copies the packed command and gives it the next sequence. 0, ERR_LIMIT (window, bytes, or size),
 * ERR_UNAVAILABLE (no session, or closed). After 0 CALL comes out of proposer_seen, proposer_on_rows,
 * proposer_tick or proposer_close exactly once. *first: the raft thread must be woken to pump (nothing was
 * waiting before, or nothing that was urgent). */
int proposer_submit(struct proposer *p, uint64_t now_ms, const void *command, size_t n_bytes,
                    uint64_t deadline_ms, const struct proposal_call *call, bool *first);

/* The way to the leader. It must change (grow) with every new leader, new term, and new connection to it; 0:
 * none. */
void proposer_set_route(struct proposer *p, uint64_t now_ms, uint64_t route);
/* Sends what is not sent yet (PACED: at the pace of pace.h), or everything again where that is due. Returns
 * when to call again, 0: nothing waits for time. */
uint64_t proposer_pump(struct proposer *p, uint64_t now_ms, bool paced);

bool proposer_has_unsent(struct proposer *p, bool *urgent);

/* Told to whoever asked; code as in struct proposal_result. */
typedef void proposer_answer_fn(void *user, const struct proposal_call *call, int code);
/* Answers those past their deadline with ERR_UNKNOWN_OUTCOME (they stay in flight), and finds silence. */
void proposer_tick(struct proposer *p, uint64_t now_ms, proposer_answer_fn *answer, void *user);

/* The apply thread met a proposal of this node in the log. True: it executed, CALL is to be answered (unless
 * *answered: it had timed out). */
bool proposer_seen(struct proposer *p, uint64_t now_ms, uint64_t epoch, uint64_t seq, bool executed,
                   struct proposal_call *call, bool *answered);

/* What the store says about this node's session, read when it may have changed, in log order. epoch is that
 * of the NODE row, the rest comes from the PROPOSER row. Begins a session whose nonce is the one drawn last,
 * ends any other: what it had in flight has not been executed and never will be (ERR_UNAVAILABLE). Returns
 * whether the epoch changed. */
struct proposer_rows {
    bool is_member; /* there is a NODE row */
    uint64_t epoch;
    bool has_session;
    uint64_t session_epoch, next_seq;
    uint8_t nonce[PROPOSER_NONCE];
};
bool proposer_on_rows(struct proposer *p, uint64_t now_ms, const struct proposer_rows *rows,
                      proposer_answer_fn *answer, void *user);

/* Nothing more is taken; what is in flight is answered with CODE. */
void proposer_close(struct proposer *p, int code, proposer_answer_fn *answer, void *user);

struct proposer_status {
    uint64_t epoch; /* 0: no session */
    uint64_t next_seq, executed_seq;
    unsigned in_flight;
    uint64_t n_resent; /* rounds of sending again */
};
void proposer_get_status(struct proposer *p, struct proposer_status *out);

#endif
