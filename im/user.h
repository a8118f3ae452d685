/* Live state of a user on its shard: sessions that are at home here, and presence of its resources at other
 * nodes. Made on demand, freed when it holds nothing. */
#ifndef IM_USER_H
#define IM_USER_H

#include "base/htab.h"
#include "base/list.h"
#include "im/envelope.h"
#include "im/session.h"
#include "im/shard.h"

/* An available resource whose home is another node. */
struct remote_resource {
    struct list link; /* in user->remote */
    uint32_t node;
    uint16_t sender;     /* shard of that node that told it */
    uint32_t generation; /* of the last full set that named it */
    uint64_t epoch;      /* of that node when it told it */
    struct envelope *presence;
};

enum user_blocks { BLOCKS_UNKNOWN, BLOCKS_NONE, BLOCKS_SOME };

struct user {
    struct hnode node; /* in shard->users by uid */
    struct shard *shard;
    uint64_t uid;
    char *jid;            /* bare */
    struct list sessions; /* struct session */
    struct list remote;   /* struct remote_resource */
    unsigned n_sessions;
    unsigned n_in_flight; /* proposals on its behalf */
    uint64_t since;       /* log index from which on it is at home here; a later one: it was away meanwhile */
    struct list leaving;  /* in shard->leaving */
    bool moved; /* its home is elsewhere: its sessions, which are being closed, do not say otherwise */
    struct mailqueue *mail;      /* stored messages on their way to sessions; NULL: nothing pending known */
    struct carbons *carbons;     /* NULL: no session has enabled them (im/carbons.h) */
    struct list pushes, pushing; /* struct held_push; in shard->pushing (roster.c) */
    uint8_t blocks; /* is there a block list? (block.c) */
    uint8_t strangers; /* what the user has decided of them (strangers.c) */
    const char *avatar; /* hash of the avatar that its presence shows; "": none; NULL: not looked up yet */
    uint32_t hooks;     /* bits by im_hook_id: those that must be asked (im/hooks.h) */
    /* Cached from the roster, dropped when a row of it changes: uids that see this user, and that it sees. */
    uint64_t *subscribers, *subscribed;
    unsigned n_subscribers, n_subscribed;
    bool has_subscribers, has_subscribed;
    bool is_seen_outside, sees_outside; /* of the same rows: are there contacts who are no users here? */
};

struct user *user_find(struct shard *s, uint64_t uid);
void user_set_avatar(struct user *u, const char *hash); /* NULL: not looked up yet; copied */
struct user *user_get(struct shard *s, uint64_t uid, const char *bare_jid); /* made when missing */
void user_release(struct user *u); /* frees it when nothing is left in it */
struct session *user_find_session(const struct user *u, const char *resource);
/* Uids of local users with a subscription from this user ("from", "both") and to it, without those that the
 * user blocks; valid until the loop's next event. */
const uint64_t *user_subscribers(struct user *u, unsigned *n);
const uint64_t *user_subscribed(struct user *u, unsigned *n);
void user_forget_contacts(struct user *u); /* they are read again */
/* Feed events of one user's rows: caches, roster pushes, lock, removal, home. */
void user_on_feed(struct shard *s, const struct feed_event *event);
/* Closes sessions of users whose active_home is no longer this node, or was another one meanwhile. */
void user_check_homes(struct shard *s);
/* Has everybody whose home is elsewhere nothing more in flight here? */
bool user_have_left(struct shard *s);
/* The first session has begun, with this node the home since log index SINCE; the last one has ended. For the
 * log, with times that all processes of a machine share: tests look for two that overlap. */
void user_taken(struct user *u, uint64_t since);
void user_left(struct user *u);
/* Sessions of U here say that this is its home, without a look at the store. */
bool user_is_here(const struct user *u);
/* Counts proposals on behalf of UID, which must have a struct user here when one begins. */
void user_proposal_begins(struct shard *s, uint64_t uid);
void user_proposal_ends(struct shard *s, uint64_t uid);

#endif
