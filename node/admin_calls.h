/* What nodes ask each other for the administrator: status, hashes, sessions, services. Control loop. */
#ifndef NODE_ADMIN_CALLS_H
#define NODE_ADMIN_CALLS_H

#include "node/admin.h"

/* Answers "status", "hashes", "ranges", "services", "sessions" and "kick" for this node. */
void admin_calls_register(const struct admin_env *env);

/* Sessions of UID (0: everybody) on every node, as an array of {user, resource, node, ip, since, ...}. */
void admin_collect_sessions(struct admin_call *call, uint64_t uid,
                            void (*on_all)(struct admin_call *call, json_t *sessions));

uint32_t admin_active_home(struct admin_call *call, const Imp__UserRow *user);

/* link_call handlers in other files; user is the struct admin_env. */
link_call_fn admin_call_sessions, admin_call_kick, admin_call_status, admin_call_hashes, admin_call_ranges,
    admin_call_services;

#endif
