/* What resources of contacts at external components can do (XEP-0115), as far as it decides which events of a
 * user's nodes they get (XEP-0163 §4.3). Known at the home of the user to whom they show their presence;
 * forgotten when they say that they are gone, or are no contacts any more. Shard's thread. */
#ifndef XMPP_CAPS_OUTSIDE_H
#define XMPP_CAPS_OUTSIDE_H

#include "im/hooks.h"

struct caps_outside;
void caps_outside_free(struct caps_outside *c); /* may be NULL */
/* User UID has gone: who sees it again shows its presence anew. */
void caps_outside_forget(struct shard *s, uint64_t uid);
/* Calls EACH for the resources that have shown user UID that they want events of NODE. */
void caps_outside_each(struct shard *s, uint64_t uid, const char *node,
                       void (*each)(void *arg, struct shard *s, const char *jid), void *arg);
extern const struct im_hook caps_outside_hook;

#endif
