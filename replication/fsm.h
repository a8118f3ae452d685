/* The state machine: applies one command to the store. Deterministic: its results and the bytes it writes
 * depend on the log and the feature level alone (no clock, no random value, no ICU, no floats, no hash
 * order). Refusals are results. Apply thread only. */
#ifndef REPLICATION_FSM_H
#define REPLICATION_FSM_H

#include "base/arena.h"
#include "command.pb-c.h"
#include "storage/store.h"

struct fsm_input {
    uint64_t index, term; /* of the entry in our log */
    uint32_t place;       /* of the proposal in the entry */
};

/* code: ERR_OK or the reason of the refusal as an ERR_ code; text: a sentence for a person, "" when done. */
struct fsm_result {
    int code;
    uint64_t value, value2;
    char text[256];
};

/* Result flags of Subscribe. */
enum fsm_subscribe_flag {
    FSM_SUB_ROUTE = 1,           /* hand the stanza on to the contact's sessions */
    FSM_SUB_AUTO_SUBSCRIBED = 2, /* answer "subscribed" on the contact's behalf (RFC 6121 §3.1.3, §3.4) */
    /* One side now sees the other, which sends its current presence: after SUBSCRIBED, TO sees FROM; after
     * SUBSCRIBE (with AUTO_SUBSCRIBED), FROM sees TO. */
    FSM_SUB_GRANTED = 4,
    /* One side no longer sees the other, which sends unavailable: after UNSUBSCRIBE, TO to FROM; after
     * UNSUBSCRIBED, FROM to TO. */
    FSM_SUB_REVOKED = 8,
    FSM_SUB_CHANGED = 16, /* a row changed */
};

/* Result flags of PepWrite. */
enum fsm_pep_flag {
    FSM_PEP_CREATED = 1, /* a node was made */
};

/* value2 of MessageStore: was it there already; from level 3 on, where in the entry it is (value: its log index; 0
 * for a repeat that a session has recognised), and the low 32 bits of what the sender's session row counts now. */
static inline uint64_t fsm_stored_pack(uint32_t place, uint64_t n_in, bool repeat)
{
    return (uint64_t)place << 33 | (n_in & UINT32_MAX) << 1 | repeat;
}
static inline bool fsm_stored_is_repeat(uint64_t value2)
{
    return value2 & 1;
}
static inline uint32_t fsm_stored_place(uint64_t value2)
{
    return (uint32_t)(value2 >> 33);
}
static inline uint32_t fsm_stored_n_in(uint64_t value2)
{
    return (uint32_t)(value2 >> 1);
}

void fsm_apply(struct store_txn *txn, const Imp__Command *command, const struct fsm_input *in,
               struct arena *arena, struct fsm_result *out);

/* Does the proposal execute now? Applies session rules and, when it executes, the command. Returns false for
 * a no-op (repeat, gap, ended epoch); out is then untouched. */
bool fsm_execute(struct store_txn *txn, const Imp__Proposal *proposal, const struct fsm_input *in,
                 struct arena *arena, struct fsm_result *out);

/* The cluster's feature level. */
unsigned fsm_level(struct store_txn *txn, struct arena *arena);
/* The level from which the command may be proposed; UINT_MAX: this release does not know it. */
unsigned fsm_command_level(const Imp__Command *command);

#endif
