/* Order from what a session sends directly to a message of it that goes through the log behind that (RFC 6120
 * §10.1). The log may be faster than the link: the message is not proposed before the recipient's home has
 * said that what went before is there, or a second has passed. Only where the home is another node, and
 * something went there within the last second. Shard's thread. */
#ifndef IM_FENCE_H
#define IM_FENCE_H

#include "im/session.h"

#define FENCE_SEVERAL UINT64_MAX

/* The session sends E, whose way is the link. */
void fence_note(struct session *s, const struct envelope *e);
/* May E, which is to be stored, not be proposed yet? It is asked for if it was not already. */
bool fence_holds(struct session *s, const struct envelope *e);
/* Answers E. Takes nothing. */
void fence_answer(struct shard *s, const struct envelope *e);
/* The answer. True: what waited in the session may go on. */
bool fence_passed(struct session *s, uint64_t number);
/* A session whose fence has waited long enough; NULL: none. */
struct session *fence_overdue(struct shard *s);
void fence_session_ended(struct session *s);

#endif
