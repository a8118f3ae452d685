/* Messages that count (ENVELOPE_COUNTED) and came to this shard for its users not long ago. The sender's home
 * sends again what it has not heard of, when a link is new or a node has gone down; a client sends again what
 * its former home had not counted. Who was given it here is not given it twice. Shard's thread.
 *
 * A table of fixed size in which later ones overwrite earlier ones: what is not in it any more is delivered
 * again, which is allowed (architecture: Messages); nothing is ever taken for a repeat that is none. */
#ifndef IM_REPEATS_H
#define IM_REPEATS_H

#include "im/envelope.h"
#include "im/shard.h"

/* E has come to its home. True: for the second time, and its sender is told if that is still to be done.
 * Takes nothing. */
bool repeats_is_one(struct shard *s, const struct envelope *e);
/* The same of what is about to be refused before anybody has looked at it: what was taken already is not. */
bool repeats_knows(struct shard *s, const struct envelope *e);
/* It goes back; which of its sender's sessions waits for the error. It is forgotten: if the error gets lost,
 * it comes again, and is refused again. */
uint64_t repeats_refused(struct shard *s, const struct envelope *e);
/* It is safe; which of its sender's sessions waits for that. */
uint64_t repeats_settled(struct shard *s, const struct envelope *e);
/* It goes on to another home, and would be new if it came back from there. */
void repeats_forget(struct shard *s, const struct envelope *e);
void repeats_fini(struct shard *s);

#endif
