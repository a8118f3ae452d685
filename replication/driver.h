/* The driver of libraft's core: feeds it events, carries out its updates, and closes its holes (guards.c).
 *
 * Lives on the raft loop thread. It has no clock, no threads, no sockets: time comes in as monotonic
 * milliseconds that never go back, messages leave through ops->send, the log is an rlog. The same code runs
 * in the simulation.
 *
 * Contract. The owner calls
 *   driver_receive    for each message, with the sender's id from its certificate in msg->peer,
 *   driver_tick       when the time of ops->set_timer has come (never earlier),
 *   driver_log_done   after the log's on_done, on this thread,
 *   driver_applied    when applied entries are in the store.
 * Callbacks run inside these calls; they must not call the driver again (query functions are fine), but post.
 * After ops->fatal the driver does nothing any more; in the node it does not return.
 *
 * What is acknowledged when: driver_submit only says where in the log the entries went. {index, term} proves
 * nothing about their fate; a proposal is done when our own apply executes it. */
#ifndef REPLICATION_DRIVER_H
#define REPLICATION_DRIVER_H

#include "replication/configuration.h"
#include "replication/message.h"
#include "replication/rlog.h"
#include "replication/vote.h"

struct driver;

/* The points where the core is helped, numbered as in guards.c. All on, except in tests that prove their use.
 * (11 has no bit: changes and commands are submitted by different functions. 15 is patience, and a transfer
 * on each stop.) */
enum driver_guard {
    DRIVER_GUARD_SOLE_VOTER = 1 << 0,       /* 1: a single voter never leads twice in one term */
    DRIVER_GUARD_NON_VOTER_VOTE = 1 << 1,   /* 2: who does not see itself as voter votes all the same */
    DRIVER_GUARD_FORGET_LEADER = 1 << 2,    /* 3: a non-voter forgets a silent leader */
    DRIVER_GUARD_PRE_VOTE_TERM = 1 << 3,    /* 4: a refused pre-vote tells our term */
    DRIVER_GUARD_CHANGE_FIRST = 1 << 4,     /* 5: a change opens its message */
    DRIVER_GUARD_CHANGE_SYNC = 1 << 5,      /* 6: a leader's change is on its disk before anybody sees it */
    DRIVER_GUARD_ROLLBACK = 1 << 6,         /* 7: a cut change: cut record, fresh core */
    DRIVER_GUARD_BELOW_LOG = 1 << 7,        /* 8: AppendEntries that begins below our log */
    DRIVER_GUARD_STALE_REFUSAL = 1 << 8,    /* 9: late or repeated refusals */
    DRIVER_GUARD_VOTE_RESULT = 1 << 9,      /* 10: vote results unless candidate */
    DRIVER_GUARD_EMPTY_FLOOD = 1 << 10,     /* 12: repeated empty messages with a full window */
    DRIVER_GUARD_OLD_TERM_ANSWER = 1 << 11, /* 13: the answer to an older term */
    DRIVER_GUARD_INSTALL_TWICE = 1 << 12,   /* 14: InstallSnapshot during an install */
    DRIVER_GUARD_SPREAD_COMMIT = 1 << 13,   /* empty AppendEntries that spread the commit index at once */
    DRIVER_GUARD_ANSWERS = 1 << 14,         /* members answer before the membership is changed */
    DRIVER_GUARD_WHOLE_LOG =
        1 << 15, /* 16: who is asked to take over has the whole log (replication.c:485) */
    DRIVER_GUARD_ALL = (1 << 16) - 1,
};

struct driver_timing {
    unsigned election_ms, heartbeat_ms;
};
static const struct driver_timing DRIVER_DEFAULT = {600, 60}, DRIVER_LAN = {200, 20},
                                  DRIVER_WAN = {2000, 200};

/* Index, term and configuration of a durable point of the store. */
struct driver_snapshot {
    uint64_t index, term;
    uint64_t conf_index; /* of the entry that the configuration comes from */
    struct configuration conf;
};

struct driver_ops {
    /* To msg->peer, in order per peer; borrowed for the call. May fail silently: loss is normal. */
    void (*send)(void *user, const struct raft_msg *msg);
    /* Call driver_tick at this time (monotonic ms); replaces the one before. */
    void (*set_timer)(void *user, uint64_t due_ms);
    /* Entries that are committed and on our own disk, in order, each index once per life; n > 0. Types
     * BARRIER and CHANGE come too: the state machine stores index and term of all, and the configuration of a
     * CHANGE. The payloads are borrowed (blob_ref). The driver stops handing out at DRIVER_APPLY_* beyond
     * driver_applied. */
    void (*apply)(void *user, uint64_t first, const struct rlog_entry *entries, unsigned n);
    /* Role, term or leader has changed: driver_get_status. */
    void (*state)(void *user);
    /* The leader wants us to take over a snapshot at META or later. From now on nothing is applied and no
     * entry taken. Fetch a copy (DATA says of what, as snapshot_data wrote it), make it durable, end the
     * process, and start with the new snapshot and rlog_reset(its index); or, if that can be done alive,
     * driver_installed. */
    void (*install)(void *user, const struct driver_snapshot *meta, const void *data, size_t n_bytes);
    /* Data that describes our snapshot INDEX (the last given to driver_snapshot_taken or at the start); at
     * most RAFT_MSG_MAX_SNAPSHOT. */
    void (*snapshot_data)(void *user, uint64_t index, struct buf *out);
    /* A broken invariant or a dead disk. */
    void (*fatal)(void *user, const char *text);
    /* PEER says that it leads TERM, as we do: one of the two has broken a promise. Its message was dropped;
     * close its connection. May be NULL. */
    void (*second_leader)(void *user, uint64_t peer, uint64_t term);
};

enum { DRIVER_APPLY_ENTRIES = 8192, DRIVER_APPLY_BYTES = 16 << 20, DRIVER_SUBMIT_MAX = 64 };

struct driver_config {
    uint64_t id; /* of this node, never 0 */
    struct driver_timing timing;
    unsigned install_timeout_ms; /* 0: 10 min */
    unsigned max_inflight;       /* entries on the way to one follower; 0: 1024 */
    unsigned guards;             /* DRIVER_GUARD_ALL */
    bool no_pre_vote;
    unsigned seed;     /* random, for the election timer */
    struct rlog *log;  /* opened; stays the caller's; rlog_poll is called by the driver only */
    struct vote *vote; /* opened; stays the caller's */
    const struct driver_ops *ops;
    void *user;
    struct log *out; /* may be NULL */
    bool trace_core; /* what the core thinks, to OUT at debug level; for tests, one driver per process */
};

/* Writes term 1 and the first entries, CONF and n commands, into an empty log and vote file: `impnode init`.
 * No driver runs yet, the log has no thread yet. ERR_EXISTS if there is anything in it. */
int driver_bootstrap(struct rlog *log, struct vote *vote, const struct configuration *conf,
                     struct blob *const *commands, unsigned n, struct err_ctx *err);
/* After the loss of the quorum, on the log with the highest (last term, last index), all nodes stopped:
 * appends CONF and n commands at its last term + 1. The others are wiped and join again. */
int driver_force_configuration(struct rlog *log, struct vote *vote, const struct configuration *conf,
                               struct blob *const *commands, unsigned n, struct err_ctx *err);

/* SNAPSHOT: the newest durable point, NULL if there never was one. APPLIED: of the store, at least its index.
 * The log must reach from snapshot + 1 (or 1) to APPLIED. Refusals, with text and remedy: ERR_CORRUPT (log
 * shorter than the store, gap to the snapshot, vote file missing although there is a log). Callbacks may run
 * before it returns. */
int driver_start(struct driver **out, const struct driver_config *config, uint64_t now_ms,
                 const struct driver_snapshot *snapshot, uint64_t applied, struct err_ctx *err);
/* For tests: the node ends by _exit. Log and vote file stay open. */
void driver_free(struct driver *d);

/* MSG is borrowed, and may be modified. */
void driver_receive(struct driver *d, uint64_t now_ms, struct raft_msg *msg);
void driver_tick(struct driver *d, uint64_t now_ms);
/* Member ID waits for what will be committed next: it is told at once, others within 2 ms (or with the next
 * entries). */
void driver_expect_commit(struct driver *d, uint64_t id);
/* The owner submits as soon as something is committed: those entries tell the members of it, too, so nobody
 * is told before. Until called again. */
void driver_hold_commit(struct driver *d, bool more_follows);
void driver_log_done(struct driver *d, uint64_t now_ms);
/* The store has everything up to INDEX; not below the last one, not above what apply was given. */
void driver_applied(struct driver *d, uint64_t now_ms, uint64_t index);

/* Leader: appends n <= DRIVER_SUBMIT_MAX commands, each at most RLOG_MAX_ENTRY; takes references. Where they
 * went in *first and *term (may be NULL). ERR_NOTLEADER (also while a transfer runs), ERR_NOSPACE (disk low),
 * ERR_AGAIN (too much uncommitted: try after the next apply), ERR_LIMIT (n, or a payload that is empty or too
 * large). */
int driver_submit(struct driver *d, uint64_t now_ms, struct blob *const *payloads, unsigned n,
                  uint64_t *first, uint64_t *term);

/* A durable point at META was made. Entries from KEEP_FROM on stay in the log (1 .. index + 1), the others
 * may go. Ignored, with false, if a newer one exists, an install runs, or the entry is gone. */
bool driver_snapshot_taken(struct driver *d, uint64_t now_ms, const struct driver_snapshot *meta,
                           uint64_t keep_from);
/* Leader: the lowest snapshot that a follower is installing, 0: none. What it takes over is at least that,
 * and the log behind it must still be here then, or it would need another copy, and another. */
uint64_t driver_install_floor(const struct driver *d);
/* The install that ops->install began is durable and live, at META (its index at least the one asked for). */
void driver_installed(struct driver *d, uint64_t now_ms, const struct driver_snapshot *meta);

/* Membership, on the leader. One change at a time: ERR_CONFLICT while one is uncommitted. ERR_UNAVAILABLE:
 * members that must answer do not (a majority of the voters before and after; for additions and promotions
 * all). ERR_NOTLEADER, ERR_EXISTS, ERR_NOTFOUND, ERR_LIMIT; text in ERR. 0 says: submitted; the change is in
 * force when status shows it and no change is pending. */
int driver_add_standby(struct driver *d, uint64_t now_ms, uint64_t id, struct err_ctx *err);
int driver_promote(struct driver *d, uint64_t now_ms, uint64_t id,
                   struct err_ctx *err); /* ERR_AGAIN: too far behind */
int driver_demote(struct driver *d, uint64_t now_ms, uint64_t id,
                  struct err_ctx *err); /* ERR_DENIED: the leader */
int driver_remove(struct driver *d, uint64_t now_ms, uint64_t id,
                  struct err_ctx *err); /* ERR_DENIED: the leader */
/* Hands leadership to ID, 0: to the voter that has most of the log, when it has all of it; until then, and
 * until it leads, driver_submit answers ERR_AGAIN. Result is seen in ops->state, or not, within two election
 * time-outs. ERR_NOTLEADER (or another transfer is under way), ERR_NOTFOUND (no such voter). On every planned
 * stop, with a second's patience. */
int driver_transfer(struct driver *d, uint64_t now_ms, uint64_t id);

enum driver_role { DRIVER_FOLLOWER, DRIVER_CANDIDATE, DRIVER_LEADER };

struct driver_status {
    enum driver_role role;
    bool is_voter; /* as this node sees it */
    uint64_t term;
    uint64_t leader; /* 0: unknown */
    uint64_t commit; /* the core's; after a restart it starts low */
    uint64_t durable, applied, last, first, snapshot_index;
    bool
        is_term_committed; /* leader: an entry of this term is committed; needed before a read index counts */
    bool is_installing;
    bool is_transferring;
    uint64_t pending_change;   /* index of the uncommitted configuration, 0: none */
    struct configuration conf; /* the newest in the log */
    /* Leader: one per server of conf, in its order; our own is there too. */
    struct driver_peer {
        uint64_t match;    /* stored there for certain */
        uint64_t heard_ms; /* when its last answer came; 0: never in this leadership */
        bool installs;     /* a snapshot */
    } peers[CONFIGURATION_MAX];
};
void driver_get_status(const struct driver *d, struct driver_status *out);
/* The cheap ones. */
enum driver_role driver_get_role(const struct driver *d);
uint64_t driver_get_term(const struct driver *d);
uint64_t driver_get_leader(const struct driver *d);
uint64_t driver_get_commit(const struct driver *d); /* min(commit, own durable): what may be applied */
int driver_match_index(const struct driver *d, uint64_t id,
                       uint64_t *match); /* ERR_NOTLEADER, ERR_NOTFOUND */
bool driver_awaits_apply(
    const struct driver *d); /* more is committed than may be handed out before driver_applied */
/* Term of the entry at INDEX in log or snapshot, 0: unknown. */
uint64_t driver_term_of(const struct driver *d, uint64_t index);

/* Counters; see metrics. */
struct driver_stats {
    uint64_t n_append_sent, n_empty_sent, n_empty_dropped, n_commit_spread, n_rebuilt, n_below_log, n_reads,
        n_second_leader, n_elections;
};
void driver_get_stats(const struct driver *d, struct driver_stats *out);

#endif
