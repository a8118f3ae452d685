/* The instant-messaging core of a node: N shards, each a loop thread that owns all live state of the users
 * hashed to it.
 *
 * Threads: everything that takes a struct shard is called on that shard's loop. Shards talk by mailbox
 * (struct letter), refer to each other's sessions by id, never by pointer, and share nothing mutable. im_* is
 * called on the control loop. What lies below (replica, links, homes) comes as a table of functions, so that
 * tests run shards over a local store and in-memory links. */
#ifndef IM_SHARD_H
#define IM_SHARD_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/htab.h"
#include "base/list.h"
#include "base/loop.h"
#include "base/metrics.h"
#include "cluster/handover.h"
#include "cluster/home.h"
#include "cluster/link.h"
#include "replication/replica.h"
#include "storage/store.h"
#include <stdbool.h>
#include <stdint.h>

struct im;
struct shard;
struct session;
struct envelope;
struct xmpp_shard;

/* All functions: any thread. */
struct im_backend {
    void *user;
    /* proposal_submit, replica_add_feed, replica_lease_until_in, replica_follow */
    int (*submit)(void *user, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                  proposal_done_fn *on_done, void *done_user);
    void (*add_feed)(void *user, struct loop *loop, const struct feed_handler *handler, void *feed_user);
    uint64_t (*lease_until)(void *user, uint64_t epoch);
    /* link_send, link_is_congested, link_is_up */
    int (*link_send)(void *user, uint32_t node, enum link_frame type, const void *data, size_t n_bytes);
    bool (*link_is_congested)(void *user, uint32_t node);
    bool (*link_is_up)(void *user, uint32_t node);
    void (*follow)(void *user, struct loop *loop, bool on);
};

struct im_options {
    uint32_t node_id;
    unsigned n_shards; /* 0: one per core */
    const char *release;
    struct store *store;
    struct im_backend backend;
    struct log *log; /* root: categories "im" and "xmpp" are made */
    struct metrics *metrics;
};

/* Makes the shards' loops and registers their feeds: before replica_start. */
int im_new(struct im **out, const struct im_options *o, struct err_ctx *err);
/* Starts the shard threads. */
int im_start(struct im *im, struct err_ctx *err);
/* Closes all sessions (system-shutdown), ends the threads. Blocks at most 5 s. The feeds must be silent
 * afterwards: call replica_stop first or accept discarded letters. */
void im_stop(struct im *im);
void im_free(struct im *im);

unsigned im_n_shards(const struct im *im);
struct shard *im_shard(const struct im *im, unsigned index);
/* The shard of a user: fixed for the life of the process. */
struct shard *im_shard_of(const struct im *im, uint64_t uid);
uint32_t im_node_id(const struct im *im);
const char *im_release(const struct im *im);
const struct im_backend *im_backend(const struct im *im);
struct metrics *im_metrics(const struct im *im);
struct log *im_log(const struct im *im);
/* 1 once feature services may be served (default), 0: refuse new sessions and close those there are. Any
 * thread. */
void im_set_serving(struct im *im, bool serving);
bool im_is_serving(const struct im *im);

/* Input from the links: control loop. node/boot connects them with links_handle and links_watch. */
void im_on_envelope(void *im, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes);
void im_on_presence(void *im, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes);
void im_on_link_up(void *im, uint32_t node, uint64_t epoch);
void im_on_link_down(void *im, uint32_t node);
void im_on_link_in_down(void *im, uint32_t node); /* of what it sends */
/* Registers the five above. */
void im_attach_links(struct im *im, struct links *links);

/* Is this node allowed to act as home right now? */
enum shard_lease {
    LEASE_HELD,   /* yes */
    LEASE_WAIT,   /* lost for a moment: clients are not read, what came in is kept, nothing is delivered */
    LEASE_REFUSE, /* for 5 s: stanzas are answered with resource-constraint (wait) */
    LEASE_CLOSED, /* for 10 s: client streams are closed, none is accepted */
};

/* Settings as the shards use them, re-read when the setting table changes. */
enum strangers { STRANGERS_ALL, STRANGERS_MESSAGES, STRANGERS_NONE }; /* xmpp.strangers */
enum resource_conflict { CONFLICT_REPLACE, CONFLICT_REFUSE, CONFLICT_RENAME };
struct im_settings {
    unsigned level; /* the cluster's feature level */
    bool redirect;  /* xmpp.wrong_node */
    bool directory; /* xmpp.directory_search */
    enum resource_conflict conflict;
    enum strangers strangers;
    unsigned offline_limit; /* stored messages per user */
    unsigned sessions_per_user, roster_items;
    unsigned stanza_bytes, vcard_bytes, output_bytes;
    unsigned idle_timeout_s; /* 0: never */
    unsigned resume_timeout_s; /* 0: sessions are not resumed */
    unsigned ack_timeout_s, unacked_bytes;
};

/* A question of the control loop that waits for its answer (im/homes.h). */
struct homes_ask {
    struct homes *from; /* NULL: none */
    uint64_t index;
};

/* Whose messages may have been stored without a home being told (message_untold). */
struct untold {
    uint64_t since;     /* users who are at home here since this log index, or a later one; UINT64_MAX: nobody */
    uint64_t oldest_ms; /* what was stored at this time (wall clock), or later */
};

struct shard {
    struct im *im;
    unsigned index;
    struct loop *loop;
    struct log *log;
    struct store_reader *reader;
    uint64_t route_index;   /* of the last change that may have moved a home */
    uint64_t applied_index; /* the store has been seen applied up to here */
    uint64_t feed_index;    /* the feed was handled up to here, */
    uint64_t feed_seen;     /* and will be in this turn */
    uint64_t floor;         /* users that became ours up to this log index were handed over (cluster/handover.h) */
    uint64_t next_floor, floor_at; /* it, once the store is applied up to floor_at */
    struct homes_ask asks[N_HANDOVER_PHASES];
    struct deferred settle;
    bool follows; /* the feed tells of every index */
    struct list leaving; /* struct user: at home elsewhere, with proposals in flight */
    uint64_t n_sent;     /* envelopes, for their order */
    enum shard_lease lease;
    uint64_t lease_lost_ms, stop_ms;
    uint64_t lease_end; /* CLOCK_BOOTTIME ms up to which the lease was last seen to run */
    struct untold untold;
    bool homes_lost; /* this node was declared down: nobody is at home here until logged in again */
    struct im_settings settings;
    struct members *members;
    uint32_t default_domain; /* id */
    char *domain;            /* the default domain's name */
    struct stored_ids *ids;  /* im/stored.h: how ids of messages are written; NULL below level 3 */
    struct htab users;       /* struct user by uid */
    struct htab sessions;    /* struct session by id */
    uint64_t next_session;
    uint64_t n_stored; /* messages proposed to be stored, for their origin */
    unsigned n_sessions;
    struct router *router;
    struct outside *outside; /* im/outside.h */
    uint64_t next_endpoint;
    struct xmpp_shard *xmpp; /* of protocols/xmpp; not looked into here */
    struct archive_cache *archive; /* im/archive.h */
    struct buf scratch;      /* for writing one stanza; reset by its user */
    struct buf scratch_out;  /* the same, for the output of sessions */
    struct loop_hook before_poll;
    struct timer tick; /* 100 ms: lease, queues, time-outs */
    struct list mail;  /* struct mailqueue */
    struct list pushing; /* struct user: roster pushes wait (roster.c) */
    struct list inbound; /* struct inbound (subscription_outside.c) */
    struct roster_pushed *pushed; /* of late (roster.c) */
    struct list mail_check;    /* those of them that wait for output */
    struct marks *marks;       /* im/marks.h */
    struct list sm_waiting;    /* struct session_sm: of what their clients sent something is not settled */
    uint64_t sm_tick_ms;
    struct repeats_slot *repeats; /* im/repeats.h; NULL until something counts */
    struct list fences;        /* struct fence */
    struct list stalled;       /* struct session: what they send waits for the node (im/store_out.h) */
    unsigned n_sending;        /* messages of sessions here that are being stored */
    struct deferred check_sent;
    bool check_done;            /* this turn's output was looked at */
    struct list flushing;       /* struct session with messages not known to be sent, */
    struct list unacked;        /* and those whose clients acknowledge */
    uint64_t throttled_ms;      /* when a sender was last slowed because of the inbox */
    _Atomic size_t inbox_bytes; /* of envelopes posted to this shard and not taken yet */
    struct list watchers;       /* struct shard_watcher */
    unsigned n_busy;            /* connections that still write; im_stop waits for them */
    bool stopping;
};

/* Where a user is at home, seen from here. */
enum home_place {
    PLACE_NONE,      /* nowhere: unassigned, or no node is up */
    PLACE_ELSEWHERE, /* on another node */
    PLACE_ARRIVING,  /* here, but its former home has not handed it over: nothing is delivered, nobody bound */
    PLACE_HERE,
};

/* Looks at the lease now; called before anything is done for a client or a peer. */
enum shard_lease shard_check_lease(struct shard *s);
bool shard_has_lease(const struct shard *s); /* now; changes nothing */

/* The read transaction of this loop turn; ends before the loop sleeps and when a newer index must be seen.
 * Rows borrowed from it do not outlive the event that asked. */
struct store_txn *shard_txn(struct shard *s);
/* Makes the next shard_txn see at least INDEX (already applied). */
void shard_see(struct shard *s, uint64_t index);
/* Submits a command; on_done(user) on this shard's loop. The result of proposal_submit. */
int shard_submit(struct shard *s, Imp__Command *command, proposal_done_fn *on_done, void *user);
/* The outcome is unknown after TIMEOUT_MS; 0: the usual time. */
int shard_submit_for(struct shard *s, Imp__Command *command, unsigned timeout_ms, proposal_done_fn *on_done,
                     void *user);

/* Who wants to know, on the shard, what happens to it: protocols add one per shard before im_start. */
struct shard_watcher {
    struct list link;
    void (*on_lease)(struct shard_watcher *w, enum shard_lease lease); /* may be NULL */
    void (*on_settings)(struct shard_watcher *w);                      /* may be NULL */
    void (*on_homes)(struct shard_watcher *w); /* users may have moved, or arrived; may be NULL */
    void (*on_stop)(struct shard_watcher *w);                          /* close listeners; may be NULL */
};
void shard_watch(struct shard *s, struct shard_watcher *w);

/* Runs FN(arg, shard) on the shard's thread; any thread. The call is one letter. */
void shard_call(struct shard *s, void (*fn)(void *arg, struct shard *s), void *arg);

/* Domains and users as stored. */
bool shard_is_local_domain(struct shard *s, const char *domain);
/* The user with the prepared bare JID (anything after '/' is ignored): 0, ERR_NOTFOUND (no such user),
 * ERR_CONFLICT (renamed away: *uid is set), ERR_INVALID (not a local domain). */
int shard_find_uid(struct shard *s, const char *jid, uint64_t *uid);
/* "localpart@domain" of a user into ARENA; NULL when there is none. */
const char *shard_user_jid(struct shard *s, uint64_t uid, struct arena *a);
Imp__UserRow *shard_user_row(struct shard *s, uint64_t uid, struct arena *a);
/* active_home of UID as of shard_txn; 0: none. */
uint32_t shard_home_of(struct shard *s, uint64_t uid);
/* NODE: its active home. SINCE: the log index at which it became that. Both may be NULL. */
enum home_place shard_place_of(struct shard *s, uint64_t uid, uint32_t *node, uint64_t *since);
enum home_place shard_place_of_row(struct shard *s, const Imp__UserRow *row, uint32_t *node, uint64_t *since);

#endif
