/* Checks passwords of users that come from the call manager (AXL doAuthenticateUser), asked for by the shards, done on the
 * control loop. Answers may be remembered for auth.cache seconds, as a keyed hash in memory alone. */
#ifndef NODE_AUTH_H
#define NODE_AUTH_H

#include "cluster/seal.h"
#include "protocols/xmpp/c2s_edge.h"

struct auth;

struct auth_options {
    struct loop *loop; /* the control loop */
    struct log *log;
    struct store_reader *reader;
    const struct seal_ring *seal;
    const char *node_name;
};
struct auth *auth_new(const struct auth_options *o);
void auth_close(struct auth *a, void (*on_closed)(void *user), void *user);
void auth_settings_changed(struct auth *a); /* axl.*, auth.* */

/* check_password of struct c2s_edge_options; USER is the struct auth. Any shard. */
void auth_check_password(void *user, const struct c2s_password *p, struct loop *reply_to,
                         void (*on_done)(void *done_user, enum sasl_check result), void *done_user);

#endif
