/* The inside of struct replica, for the files that make it up: replica.c (open, start, stop), raft_loop.c
 * (the driver on its thread, one turn), raft_frames.c (frames of peers), raft_requests.c (what other threads
 * ask for), members.c (who the peers are, status), snapshot.c and install.c. Everything is the raft loop's
 * unless it says otherwise. */
#ifndef REPLICATION_REPLICA_IMPL_H
#define REPLICATION_REPLICA_IMPL_H

#include "base/clock.h"
#include "replication/apply.h"
#include "replication/barrier.h"
#include "replication/confirm.h"
#include "replication/driver.h"
#include "replication/feed.h"
#include "replication/hashes.h"
#include "replication/lease.h"
#include "replication/pace.h"
#include "replication/pack.h"
#include "replication/proposer.h"
#include "replication/replica.h"
#include "replication/transport.h"
#include <stdatomic.h>

enum {
    REPLICA_TICK_MS = 50,      /* when the loop is awake anyway */
    REPLICA_TICK_MAX_MS = 100, /* it wakes for that */
    REPLICA_TRANSFER_MS = 1000,
    REPLICA_CHANGE_MS = 10000,
};

/* A wake-up of the raft loop by another thread: any number of kicks before it runs is one letter. */
struct kick {
    struct letter letter;
    atomic_bool is_posted;
    struct replica *r;
    void (*fn)(struct replica *r);
};

/* disk_watch.c */
struct disk_watch {
    uint64_t full_checked_ms, handed_over_ms;
    uint64_t behind_index, behind_ms; /* leader: committed, not yet on our disk, since when; 0: nothing */
    uint64_t durable, applied, progress_ms; /* what was there when something last moved */
};

struct replica {
    struct replica_options options;
    char *dir, *release;
    char *damage; /* fetch.c: what is wrong with the store, which is not open; NULL: nothing */
    struct log *log;
    unsigned election_ms, heartbeat_ms;

    struct loop *loop;
    struct loop_hook turn;
    struct timer driver_timer, tick;
    uint64_t driver_due_ms, ticked_ms, considered_ms;
    atomic_bool awaits_apply; /* something here waits for the applied index */
    struct kick log_kick, apply_kick, submit_kick, lease_kick;
    bool is_running;

    struct disk *disk;
    struct rlog *rlog;
    struct vote vote;
    struct driver *driver;
    bool driver_ready, state_changed;
    uint64_t driver_applied;
    struct driver_status status;     /* refreshed each turn */
    struct driver_snapshot snapshot; /* newest given to the driver */

    struct transport *transport;
    struct proposer *proposer;
    struct pack pack;
    struct pace pace;   /* of the entries made of it */
    struct timer paced; /* what waits is due */
    uint64_t paced_ms;  /* when it is due */
    struct buf forward; /* proposals on their way to the leader */
    struct apply *apply;
    struct feed *feed;
    struct confirm confirm;
    struct barriers barriers;
    struct lease_holder holder;
    struct lease_grantor grantor;
    struct hashes hashes;
    struct apply_hash last_hash; /* of what was applied last */
    uint64_t rested_ms;          /* since when nothing was */
    bool is_rest_told;
    uint64_t doubted_ms;
    uint64_t fence_ms; /* leadership was last tried to be handed over */
    struct store_reader *reader;
    struct arena arena;
    bool members_dirty, is_disk_low, is_disk_silent, is_fenced, stopping, is_scrubbing;
    struct disk_watch disk_watch;
    atomic_bool holds_proposals; /* disk nearly full; any thread */
    atomic_bool cancel_scrub;
    uint64_t second_leader_ms, clocks_checked_ms, skewed_since_ms;
    bool is_skewed;
    int64_t clock_ahead_ms;  /* of the median of the members */
    int64_t clock_offset_ms; /* of that median to CLOCK_MONOTONIC */
    bool has_clock_offset;

    /* the way to the leader: a new number with each leader, term, connection */
    uint64_t route, route_count, route_term, route_generation;
    uint32_t route_leader;

    struct install *install; /* NULL: none under way */
    struct copy_server *copy_server;
    struct kick point_kick; /* the store has made a durable point */

    struct list changes; /* struct change_request; raft_requests.c */

    _Atomic uint64_t lease_until, lease_epoch; /* the epoch is changed while there is none */
    atomic_bool want_lease;

    pthread_mutex_t status_lock;
    struct replica_status published;
    struct loop *change_loop;
    void (*on_change)(void *user);
    void *change_user;

    /* stop: the control thread waits */
    pthread_cond_t stopped_cond;
    bool is_handed_over, is_stopped;
};

static inline uint64_t replica_now_ms(const struct replica *r)
{
    (void)r;
    return clock_monotonic_ms();
}

/* ---- raft_loop.c ---- */
int raft_loop_open_driver(struct replica *r, struct err_ctx *err);
void raft_loop_prepare(struct replica *r); /* once, before anything can kick */
void raft_loop_begin(struct replica *r);   /* just before the raft thread runs */
void raft_loop_turn(struct replica *r);
void raft_loop_end(struct replica *r);
void kick_init(struct kick *k, struct replica *r, void (*fn)(struct replica *r));
void kick(struct kick *k);
void replica_fatal(struct replica *r, bool exit_again, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- replica.c ---- */
struct replica *replica_new(const struct replica_options *o);
void replica_free(struct replica *r);
void replica_hand_over(struct replica *r);                       /* each turn while stopping */
struct blob *replica_offline_entry(const Imp__Command *command); /* outside any session, for a log at rest */
bool replica_identify(void *user, const struct tls_peer *peer, uint32_t *node);
void replica_on_second_copy(void *user, const char *text);
void replica_on_removed(void *user, uint32_t by);

/* ---- raft_frames.c ---- */
extern const struct transport_ops replica_transport_ops;
extern const struct proposer_ops replica_proposer_ops;
extern const struct confirm_ops replica_confirm_ops;
extern const struct barrier_ops replica_barrier_ops;
extern const struct lease_ops replica_lease_ops;
void raft_frames_flush_forward(struct replica *r);
void raft_frames_ping_lease(struct replica *r, uint64_t epoch, uint64_t ping);
void raft_frames_send_hash(struct replica *r, const struct apply_hash *h);
struct registration {
    uint32_t node;
    const uint8_t *nonce; /* PROPOSER_NONCE */
    uint64_t expected_epoch;
    uint32_t level; /* highest that the node's release knows */
    const char *release;
};
void raft_frames_add_register(struct replica *r, const struct registration *who);

/* ---- raft_requests.c ---- */
void raft_requests_pump(struct replica *r, uint64_t now_ms);
void raft_requests_end(struct replica *r);
void raft_requests_barrier_done(struct barrier_wait *w, int code);

/* ---- members.c ---- */
void members_refresh(struct replica *r);
bool members_is_removed(struct replica *r, uint32_t node);
void members_publish(struct replica *r, bool notify);

/* ---- clocks.c ---- */
void clocks_check(struct replica *r, uint64_t now_ms);
uint64_t
clocks_time_ms(struct replica *r); /* Unix time by the median of the members' clocks, a second old at most */

/* ---- disk_watch.c ---- */
void disk_watch_tick(struct replica *r, uint64_t now_ms);

/* ---- differ.c ---- */
void differ_judge(struct replica *r, uint64_t now_ms);
void differ_tell(struct replica *r, const struct apply_hash *h); /* the others, and ourselves */
void differ_rest(struct replica *r, uint64_t now_ms);
void differ_fenced(struct replica *r, uint64_t now_ms); /* who is fenced does not lead */
void differ_doubt(struct replica *r, const char *why);  /* our own rows are read again */

/* ---- snapshot.c: durable points, log compaction, and the pointer that describes them ---- */
void snapshot_start_position(struct replica *r, struct store_position *p, struct driver_snapshot *out);
void snapshot_consider(struct replica *r);
void snapshot_write_data(struct replica *r, uint64_t index, struct buf *out);

/* ---- copy_server.c, install.c ---- */
struct copy_server *copy_server_new(struct replica *r);
void copy_server_take(struct copy_server *s, struct conn *c);
void copy_server_answer(struct copy_server *s, uint32_t node, int code, const char *text);
void copy_server_tick(struct copy_server *s, uint64_t now_ms);
void copy_server_end(struct copy_server *s);
void install_begin(struct replica *r, uint64_t wanted, bool is_repair); /* a copy at WANTED or later */
void install_tick(struct replica *r, uint64_t now_ms);
void install_end(struct replica *r);
void install_progress(const struct replica *r, struct replica_status *out); /* the install_ fields */

#endif
