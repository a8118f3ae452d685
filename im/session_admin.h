/* Sessions as the administrator sees them: lists, kicks, counts over all shards of this node. Control loop;
 * answers on the loop given. */
#ifndef IM_SESSION_ADMIN_H
#define IM_SESSION_ADMIN_H

#include "im/session.h"
#include "im/shard.h"

/* All sessions at home here, of UID or (0) of everybody; at most MAX. INFOS is borrowed. */
typedef void session_list_fn(void *user, const struct session_info *infos, size_t n, bool truncated);
void session_admin_list(struct im *im, uint64_t uid, size_t max, struct loop *loop, session_list_fn *on_list,
                        void *user);
/* Closes sessions of UID: the one with RESOURCE, or (NULL) all. on_done tells how many. */
typedef void session_kick_fn(void *user, size_t n_closed);
void session_admin_kick(struct im *im, uint64_t uid, const char *resource, struct loop *loop,
                        session_kick_fn *on_done, void *user);
size_t session_admin_count(const struct im *im); /* any thread */

#endif
