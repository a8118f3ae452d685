/* What a session owes a client that acknowledges (XEP-0198), whatever its protocol: which of the client's
 * stanzas are safe, and which of its own the client has got. Shard's thread; from sm_begin to session_end.
 *
 * Inbound, a stanza is settled when nothing can happen to it any more (architecture: Messages): a message
 * when it is stored or its recipient's client has it, or its sender's has the error that it came back as
 * (docs/adr/0046), anything else when it was handled. The client is told a
 * number up to which all are settled; of a session that can be resumed only as far as its row has it, too, so
 * that a new home never knows less than the client. */
#ifndef IM_SM_SESSION_H
#define IM_SM_SESSION_H

#include "im/session.h"

enum {
    SM_HASH_BYTES = 32,
    SM_WINDOW = 256 /* stanzas that are not settled, before the client is not read */
};

struct session_sm {
    struct session *session;
    struct list link;  /* in shard->sm_waiting, while something is not settled */
    struct list marks; /* in shard->marks.sessions, while the row is to be written */
    uint64_t row;      /* log index and place of the row; 0: it cannot be resumed */
    uint32_t row_place;
    bool moves; /* it ends here only: its client resumes it elsewhere, and sends again what was not counted */
    bool state_changed;       /* presence or flags are not in the row */
    bool hurried;             /* its client waits for that */
    bool marking;             /* a proposal with the row's new values is in flight */
    bool marking_state;       /* with those of presence and flags, too */
    uint64_t state_from;      /* the first stanza that changed them since the row has them; 0: none */
    uint64_t state_next;      /* the same, since the proposal in flight */
    uint64_t n_in, n_covered; /* stanzas that came; those of them that the row has */
    uint64_t n_seen;          /* came ever: after a resumption the client sends again what was not counted */
    uint64_t n_before;   /* up to here its former home may have sent, and somebody stored; 0: it had none */
    struct list waiting; /* struct unsettled, ascending */
    unsigned n_waiting;  /* of them neither settled nor refused */
    unsigned n_refused, n_parked;
    uint64_t route_index; /* the shard's when the session last sent; */
    bool mixed;           /* what waits may have left by ways that are not those of now */
    uint64_t n_out, n_acked;
    uint64_t n_marked; /* n_acked as last proposed */
    uint64_t base;     /* of session_ops.output: bytes written before counting began */
};

/* Counting begins; the session has no row yet. */
struct session_sm *sm_begin(struct session *s);
void sm_free(struct session *s); /* of session_end */
/* One more stanza of the client is being handled; false: it was before. */
bool sm_count(struct session *s);
/* Is the stanza that is being handled, a message, stored already? Of a session that goes on from its row:
 * what the client sends again is in it above what the client was told. */
bool sm_is_stored(const struct session *s);
/* The same of one that it sent before. */
bool sm_has_stored(const struct session *s, uint64_t n_in);
/* The row, if it has one. */
const Imp__SessionRow *sm_read_row(const struct session *s, struct arena *a);
/* Resumed: the client goes on behind this number, which is returned. */
uint64_t sm_roll_back(struct session *s);
/* E is on its way: its number is written into it, and it is watched until sm_settled. STORING: a proposal of
 * this node settles it. */
void sm_watch(struct session *s, struct envelope *e, bool storing);
/* The watched E leaves for its home, with its numbers. */
void sm_sent(struct session *s, const struct envelope *e);
/* Must E wait, because what the session sent to the same user before has left by another way and may not have
 * arrived? */
bool sm_must_wait(struct session *s, const struct envelope *e);
/* E has waited in the router and would go on to another node than it was sent to. True: it must not yet, and
 * goes again by itself. Takes nothing. */
bool sm_park(struct shard *s, const struct envelope *e);
/* E, which a session of this shard has sent, waits in the router. */
void sm_is_queued(struct shard *s, const struct envelope *e);
void sm_settled(struct session *s, uint64_t n_in);
/* Does the stanza still wait to be settled or refused? */
bool sm_waits(const struct session *s, uint64_t n_in);
/* The error that answers it was written; it is settled when the client has it. */
void sm_refused(struct session *s, uint64_t n_in);
/* The same of the one that is being handled, which is not watched. */
void sm_refused_now(struct session *s);
/* The client has got the session's output up to SENT. */
void sm_check_refused(struct session *s, uint64_t sent);
/* The row counts up to here; of a proposal's result. */
void sm_covered(struct session *s, uint64_t n_in);
/* Ends here, while its client may go on with it at another home. */
bool sm_moves(const struct session *s);
/* What is settled, and would be with what the row has: the client does not say again what it has switched on.
 */
uint64_t sm_n_settled(const struct session *s);
/* The same with presence and flags as they are now in the row, too. */
uint64_t sm_n_settled_with_state(const struct session *s);
/* The row is gone: only this home can still resume the session. */
void sm_row_lost(struct session *s);
/* What the client may be told; when it rises session_ops.counted is called. */
uint64_t sm_n_counted(const struct session *s);
/* The client is waiting to hear of what it sent: the row is written soon. */
void sm_want_counted(struct session *s);
/* The client has got the stanzas up to N_OUT. */
void sm_acked(struct session *s, uint64_t n_out);
/* Presence or flags have changed. */
void sm_state_changed(struct session *s);
/* The proposal with them has been answered. */
void sm_state_marked(struct session *s, bool done);

/* E came to where it is safe, or went back as an error: tells the sender's session, if it counts. */
void sm_settle(struct shard *s, const struct envelope *e);
/* Sends again what was on its way to NODE, whose link is new; 0: to a node that has gone down since. What has
 * not left this node is left alone. The tick: what nobody answers. */
void sm_send_again(struct shard *s, uint32_t node);
void sm_tick(struct shard *s);

#endif
