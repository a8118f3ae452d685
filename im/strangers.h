/* Privacy against strangers: what reaches a user from who is not on the roster. xmpp.strangers says it for
 * everybody, the user may decide otherwise for itself (ADR 0049). Shard's thread.
 *
 * A user's decision is one item of its private XML (XEP-0049), so every node has it; a user in memory
 * remembers it, and who lets everybody in is not asked again. */
#ifndef IM_STRANGERS_H
#define IM_STRANGERS_H

#include "im/hooks.h"

/* <strangers xmlns="imp:strangers:0">none</strangers>, in the node that private XML is kept in. */
#define STRANGERS_NS "imp:strangers:0"
#define STRANGERS_NODE "jabber:iq:private"
#define STRANGERS_ITEM "strangers " STRANGERS_NS

extern const char *const strangers_names[]; /* by enum strangers; NULL at the end */
int strangers_parse(const char *name);      /* enum strangers; -1: none of them */

/* What the user has decided; NULL: nothing. */
const char *strangers_own(struct shard *s, uint64_t uid);
void strangers_forget(struct user *u);       /* it is read again */
void strangers_on_settings(struct shard *s); /* xmpp.strangers may be another one */
extern const struct im_hook strangers_hook;

#endif
