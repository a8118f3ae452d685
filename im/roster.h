/* Rosters (RFC 6121 §2): reading, changing through the log, pushes. Shard's thread. */
#ifndef IM_ROSTER_H
#define IM_ROSTER_H

#include "base/arena.h"
#include "im/session.h"
#include "im/shard.h"

struct roster_item {
    const char *jid, *name; /* name "" when none */
    const char *const *groups;
    size_t n_groups;
    const char *subscription; /* "none", "to", "from", "both", "remove" */
    bool ask, approved;
    uint64_t version; /* log index of the change */
};
typedef void roster_item_fn(void *user, const struct roster_item *item);

void roster_init(struct shard *s);
void roster_fini(struct shard *s);
/* Every item of the user's roster; returns its version (log index). Items that only hold a pending request
 * are not shown. */
uint64_t roster_read(struct shard *s, uint64_t uid, roster_item_fn *each, void *user);
/* Items changed after version SINCE in the order of their changes (removed ones too, §2.6.3). ERR_NOTFOUND when SINCE is older than what is
 * kept: send all. *version: the current one. */
int roster_read_since(struct shard *s, uint64_t uid, uint64_t since, uint64_t *version, roster_item_fn *each,
                      void *user);
bool roster_can_read_since(struct shard *s, uint64_t uid, uint64_t since);
uint64_t roster_version(struct shard *s, uint64_t uid);
/* A feed event of TABLE_ROSTER: pushes to the user's interested sessions. */
void roster_on_feed(struct shard *s, const struct feed_event *event);
/* A stanza of the contact that ends or begins a subscription was delivered to U: the push of what it changed follows it
 * (RFC 6121 §3.1.6, §3.2.3, §3.3.3). */
void roster_was_told(struct user *u, const struct envelope *e);
/* Pending subscription requests as presences to a session that became available (RFC 6121 §3.1.3). */
void roster_deliver_requests(struct session *s);

/* What a contact was before it is removed (§2.5): for presence_contact_removed. */
struct roster_removal {
    uint64_t uid, contact_uid; /* contact_uid 0: not a local user */
    char *jid, *contact;       /* bare */
    bool sees, is_seen;        /* had the user, had the contact a subscription? */
    bool to, from;             /* it hears unsubscribe / unsubscribed: result of RosterRemove */
};
void roster_removal_init(struct roster_removal *r, struct shard *s, struct user *u, const char *contact);
void roster_removal_fini(struct roster_removal *r);

#endif
