/* What the administrator's commands ask of all users: lists, numbers, who is there, a message to all of them.
 * Each goes through the shards of this node, which know the presence of the whole cluster, and answers the
 * call. */
#ifndef XMPP_ADMIN_LISTS_H
#define XMPP_ADMIN_LISTS_H

#include "protocols/xmpp/adhoc.h"

enum admin_which {
    ADMIN_REGISTERED,
    ADMIN_DISABLED,
    ADMIN_ONLINE,
    ADMIN_ACTIVE, /* online, and not away on every resource (XEP-0133 §4.17 leaves it to the service) */
    ADMIN_IDLE,   /* online, away or extended away on every resource */
};
/* Answers with field VAR. */
void admin_count(struct adhoc_call *c, enum admin_which which, const char *var);
/* The same with addresses, as many as max_items says. */
void admin_list(struct adhoc_call *c, enum admin_which which, const char *var);

enum { ADMIN_ADDRESSES_MAX = 16 };
/* What is known here of one user's resources. */
struct presence_facts {
    unsigned n_resources;
    struct buf resources; /* their names, each ended by a zero byte */
    uint64_t since_ms;    /* of the newest session at home here; 0: none */
    unsigned n_addresses;
    char addresses[ADMIN_ADDRESSES_MAX][64];
};
void admin_look_at(struct adhoc_call *c, uint64_t uid,
                   void (*on_seen)(struct adhoc_call *c, uint64_t uid, const struct presence_facts *p));

/* Sends TEXT to everybody who is online; recorded in the audit. */
void admin_announce(struct adhoc_call *c, const char *text);

#endif
