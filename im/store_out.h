/* Messages on their way into the store: proposed by the sender's home when one of the two keeps it, otherwise
 * by the recipient's when nobody takes it, or when a client has not acknowledged it in time. Shard's thread.
 */
#ifndef IM_STORE_OUT_H
#define IM_STORE_OUT_H

#include "im/session.h"

/* A message of the session, for the user here that it is addressed to, or for whoever the router finds: it is
 * archived, or sent on. Takes E. */
void message_send(struct session *s, struct envelope *e);
/* What the session sends waits behind messages of it that are being stored. True: E was taken. */
bool store_out_queue(struct session *s, struct envelope *e);
/* Less of what it sent is under way: what waited for that goes on. */
void store_out_resume(struct session *s);
/* What it sent directly has arrived (im/fence.h). */
void store_out_fence(struct session *s, uint64_t number);
/* What waits because the node has too many proposals in flight. */
void store_out_tick(struct shard *s);
/* Nothing waits any more: the session ends. */
void store_out_session_ended(struct session *s);

/* The recipient's home: nobody takes it now; it comes back as an error if it is refused. Takes E. */
void store_out_away(struct shard *s, struct envelope *e);
/* Delivered to the session, which still has it among its unsent; it becomes one of the stored messages that
 * the session was given. */
void store_out_late(struct session *s, struct envelope *e);
/* E leaves the session: acknowledged, or for others. Frees it, or leaves it to its proposal. */
void store_out_drop(struct envelope *e);

#endif
