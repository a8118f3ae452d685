/* A node's copy of the replicated store: the Raft driver on its own loop thread, the log writer, the apply
 * thread, the proposer session, the change feed, snapshots and leases. raft.h is not seen from here.
 *
 * Any thread may call everything below unless it says otherwise; answers arrive by mailbox on the loop named.
 */
#ifndef REPLICATION_REPLICA_H
#define REPLICATION_REPLICA_H

#include "base/loop.h"
#include "base/metrics.h"
#include "base/stream.h"
#include "replication/fsm.h"

struct replica;

/* In place of the threads for the log and for applying: says when there is something to do, and the owner
 * does it, a step at a time, when it thinks fit (rlog_write_begin and rlog_write_finish, apply_step). For
 * simulation. */
struct replica_stepper {
    void (*log_work)(void *user);
    void (*apply_work)(void *user);
    void *user;
};

struct replica_address {
    uint32_t node;
    const char *address;
    uint16_t port;
};

struct replica_options {
    const char *dir; /* DIR/log, DIR/store, DIR/snap are below it */
    uint32_t node_id;
    uint8_t cluster_id[16];
    uint8_t start_nonce[16]; /* random per start; tells a second living copy apart */
    const char *release;
    struct store *store; /* open; closed by replica_stop */
    struct tls_ctx
        *tls_client; /* ALPN imp-raft/1, this node's certificate, the cluster's CA. NULL: a node alone */
    /* The node id that a certificate of this cluster names; false: none. Whether the peer is that node is decided here: a
     * member is known by its key, others need a verified certificate. Raft thread. */
    bool (*identify)(void *user, const struct tls_peer *peer, uint32_t *node);
    /* Members that the store may not know yet: after a crash it is back at its last durable point, and the log
     * is applied only once there is a leader, for which the voters must find each other. Used for nodes without
     * a row or tombstone; borrowed until replica_stop. */
    const struct replica_address *known;
    unsigned n_known;
    /* Where members are, too, as a person said: for when all have got other addresses. Borrowed until replica_stop. */
    const struct replica_address *hints;
    unsigned n_hints;
    /* Where this node is, which it says in its hellos; NULL: as its row says. */
    const char *address;
    uint16_t port;
    struct log *log;
    struct metrics *metrics;
    unsigned election_ms, heartbeat_ms; /* 0: 600 / 60 */
    /* A peer spoke with its certificate for the first time in this life. Raft thread. */
    void (*on_peer_seen)(void *user, uint32_t node);
    /* The member BY says that this node was removed from the cluster: it must not run on. May be NULL. Raft
     * thread. */
    void (*on_removed)(void *user, uint32_t by);
    /* State hashes were compared at INDEX and are not equal. we_differ: this node is in the minority, and has
     * given up its lease for this life (services must be fenced; `repair` makes a fresh copy); tie: nobody
     * knows who is right; else NODES are those that differ from the majority, which we share. May be NULL.
     * Raft thread. */
    void (*on_tables_differ)(void *user, uint64_t index, bool we_differ, bool tie, const uint32_t *nodes,
                             unsigned n);
    /* NODE's tables are damaged, as TEXT says (borrowed); it does nothing but ask us for a copy, until
     * replica_answer_damaged. NULL: it gets one. Raft thread. */
    void (*on_peer_damaged)(void *user, uint32_t node, const char *text);
    /* They were compared and are equal, and this node is not fenced. May be NULL. Raft thread. */
    void (*on_tables_equal)(void *user, uint64_t index);
    uint64_t fence_index;    /* until this is applied every other node counts as removed; 0: nobody does */
    uint64_t log_keep_bytes; /* of log behind a snapshot; 0: the smaller of 1 GiB and half the store, at least
                                64 MiB */
    const struct replica_stepper *stepper; /* NULL: threads */
    /* Nothing works any more (disk, broken invariant, finished install, second copy of this node): the
     * process must end; text says why. exit_again: starting again makes sense. Any thread. */
    void (*on_fatal)(void *user, bool exit_again, const char *text);
    void *user;
};

/* Writes the first entries of a new cluster's log: configuration {node 1, voter} and Bootstrap. For impnode
 * init. ERR_EXISTS if there is a log already. */
int replica_bootstrap(const char *dir, const Imp__Command *bootstrap, struct err_ctx *err);

/* impnode recover: from now on the log in DIR is that of a cluster whose only voter is NODE; all other
 * members are lost (Recover). What they have acknowledged and this log does not hold is gone; *last_index: of
 * the entry that says all this, until which nobody else may be let speak (replica_options.fence_index). The
 * node must not run. */
int replica_force_new_cluster(const char *dir, uint32_t node, uint64_t *last_index, struct err_ctx *err);

/* Opens log and vote, finishes a pending snapshot install, refuses with text what raft-level checks refuse.
 */
/* On failure the store stays the caller's. */
int replica_open(struct replica **out, const struct replica_options *o, struct err_ctx *err);
/* To be called by whoever opens the store before replica_open: swaps in a finished install (marker), if there
 * is one. */
int replica_finish_install(const char *dir, struct log *log, struct err_ctx *err);
/* The Raft configuration of a cluster of NODE alone, encoded. */
void replica_configuration_alone(struct buf *out, uint32_t node);
/* A new node's first store has been made and closed in DIR/install.tmp (REPLICA_NEW_STORE): it becomes the node's, and the
 * log begins behind P. */
#define REPLICA_NEW_STORE "install.tmp"
int replica_adopt_store(const char *dir, const struct store_position *p, struct err_ctx *err);
int replica_start(struct replica *r, struct err_ctx *err);
/* Hands leadership over (1 s at most), stops all threads, closes the store with a clean mark, frees R.
 * Proposals in flight are answered ERR_UNKNOWN_OUTCOME. Blocks; control thread; the loops that feeds were
 * added for must not be freed before it returns, and nobody may use R from then on (letters that are still
 * queued there need no R). */
void replica_stop(struct replica *r);
/* A renewed certificate or bundle, for connections to come; takes a reference of its own. Any thread. */
void replica_set_tls_client(struct replica *r, struct tls_ctx *tls_client);

/* A connection with ALPN imp-raft/1 whose certificate was verified; NODE is from the certificate. Control
 * loop: the stream moves to the raft loop. */
void replica_accept(struct replica *r, struct stream *s, uint32_t node);

/* ---- proposals ---- */
struct proposal_result {
    /* ERR_OK, a refusal of the FSM; ERR_UNKNOWN_OUTCOME: timed out or stopping, it may still execute;
     * ERR_UNAVAILABLE: the epoch ended, it has not executed and never will */
    int code;
    uint64_t index; /* log index at which it executed; 0 when it did not */
    uint64_t value, value2;
    const char *text; /* "" or a sentence; borrowed */
};
typedef void proposal_done_fn(void *user, const struct proposal_result *result);
/* COMMAND is packed before this returns; its time is filled in. 0: on_done is called exactly once, on LOOP,
 * after the feed events of the same index. ERR_LIMIT: 4096 in flight; ERR_UNAVAILABLE: no session yet,
 * stopping, or disk nearly full; on_done is then not called. Proposals of one thread execute in the order
 * submitted. timeout_ms 0: 30 s. ERR_UNSUPPORTED: the cluster's feature level is below the command's. */
int proposal_submit(struct replica *r, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                    proposal_done_fn *on_done, void *user);

/* Current reads: on_done(user, 0) on LOOP once this node has applied everything that was committed when it
 * was asked; ERR_TIMEOUT / ERR_UNAVAILABLE otherwise. */
void replica_barrier(struct replica *r, struct loop *loop, unsigned timeout_ms,
                     void (*on_done)(void *user, int code, uint64_t index), void *user);

/* ---- change feed ---- */
/* Every change of a replicated row; of MESSAGE_INDEX only new rows, where their user is at home (message_feed.h). */
struct feed_event {
    uint64_t index;
    enum table table;
    bool deleted;
    struct key key;
};
struct feed_handler {
    /* Events in log order; borrowed. Before on_done of the same indexes. LOOP's thread. Called with n 0 for
     * batches that changed nothing here, so that the applied index is known; a large batch comes in several
     * calls. */
    void (*on_events)(void *user, const struct feed_event *events, size_t n, uint64_t applied_index);
    void (*on_reload)(void *user, uint64_t applied_index); /* too many to queue: read again what you hold */
    /* Is this of use to the loop? A batch with nothing of use does not wake it, so that on_events may skip
     * indexes (see replica_follow); one that has something comes whole. NULL: all is. Apply thread: looks at
     * constant things only. */
    bool (*wants)(void *user, enum table table, const struct key *key);
};
/* Before replica_start. Every loop that submits proposals registers one handler (may have NULL functions). */
void replica_add_feed(struct replica *r, struct loop *loop, const struct feed_handler *handler, void *user);
/* ON: the loop waits for an index, and wants to hear of every batch: on_events says at once how far it has
 * come, and goes on with each batch, until switched off. LOOP's thread. */
void replica_follow(struct replica *r, struct loop *loop, bool on);

/* ---- membership: leader only, others answer ERR_NOTLEADER ---- */
enum replica_change { REPLICA_ADD_STANDBY, REPLICA_PROMOTE, REPLICA_DEMOTE, REPLICA_REMOVE };
void replica_change(struct replica *r, enum replica_change change, uint32_t node, struct loop *loop,
                    void (*on_done)(void *user, int code, const char *text), void *user);
void replica_transfer(struct replica *r, uint32_t to /* 0: the driver picks */, struct loop *loop,
                      void (*on_done)(void *user, int code, const char *text), void *user);

/* Repair, or reset: takes a fresh copy of the store from a member (the leader first) while this node goes on,
 * then ends through on_fatal(exit_again): the next start has the copy. Its log stays, as far as it goes on
 * from the copy, so that nothing is forgotten that this node has acknowledged as a voter. Status shows it as
 * installing; tried until it succeeds. Any thread. */
void replica_take_copy(struct replica *r);

/* Instead of replica_open, for a node whose store is damaged (replication/damage.h): does nothing but take a
 * copy from one of PEERS, on LOOP, which is not running yet; until that succeeds, then on_fatal(exit_again).
 * Of the options store and the callbacks but identify and on_fatal are not used; of the status installing and
 * its progress are filled. */
int replica_fetch(struct replica **out, const struct replica_options *o, struct loop *loop,
                  const struct replica_address *peers, unsigned n, const char *damage, struct err_ctx *err);
/* What on_peer_damaged asked: code 0: NODE may have a copy now; else it hears TEXT and asks again later. Any
 * thread. */
void replica_answer_damaged(struct replica *r, uint32_t node, int code, const char *text);
/* This node's own tables are not right: no lease, no leadership and no copies for others from now on. Any
 * thread. */
void replica_fence(struct replica *r);
/* Hands leadership over, if it has it, and waits for that, a second at most. Any thread but the raft thread,
 * where it does nothing. The replica only ends after it. */
void replica_step_down(struct replica *r);

/* ---- status ---- */
enum replica_role { REPLICA_FOLLOWER, REPLICA_CANDIDATE, REPLICA_LEADER };
enum replica_install { REPLICA_INSTALL_ASKING, REPLICA_INSTALL_COPYING, REPLICA_INSTALL_VERIFYING };
enum replica_member { REPLICA_NOT_MEMBER, REPLICA_STANDBY, REPLICA_VOTER };
struct replica_peer {
    uint32_t node;
    enum replica_member member;
    bool connected;
    uint64_t match_index;   /* known by the leader only, else 0 */
    bool installs;          /* it takes a copy of the store; known by the leader only */
    uint64_t last_heard_ms; /* CLOCK_MONOTONIC; 0: never */
    uint32_t ping_us;       /* round trip of the last ping frame; 0: unknown */
};
enum { REPLICA_MAX_PEERS = 64 };
struct replica_status {
    enum replica_role role;
    enum replica_member member; /* ours */
    uint32_t leader;            /* node id, 0: none known */
    uint64_t term, commit_index, applied_index, last_index, first_index, snapshot_index, durable_index;
    uint64_t applied_term;
    bool installing; /* receiving a snapshot; the next are said of it, see replica_install_text */
    enum replica_install install_step;
    uint32_t install_source;                            /* node id, 0: none at the moment */
    uint64_t install_done, install_total, install_rate; /* bytes; bytes a second, 0: not known yet */
    char install_trouble[160];                          /* why it does not go on, "" when it does */
    uint64_t epoch;                       /* of the proposer session, 0: none yet */
    unsigned in_flight;
    unsigned n_voters;
    bool is_fenced;         /* this node's tables differ from the majority's */
    bool is_disk_low;       /* less than 64 MiB free: no new proposals, no lease */
    bool is_disk_silent;    /* log or store have waited 5 s for it: no lease */
    bool is_clock_skewed;   /* our clock has been more than 10 s from the median of the members for 3 s */
    int64_t clock_ahead_ms; /* of that median */
    bool quorum; /* the leader heard a majority within an election timeout; followers: a leader is known */
    uint64_t published_ms; /* CLOCK_MONOTONIC; it grows as long as the raft thread turns */
    unsigned n_peers;
    struct replica_peer peers[REPLICA_MAX_PEERS];
};
void replica_get_status(struct replica *r, struct replica_status *out); /* a copy of the last published one */
/* Called on LOOP at each change of role, leader, membership or session epoch. One. Before replica_start. */
void replica_on_change(struct replica *r, struct loop *loop, void (*on_change)(void *user), void *user);
unsigned replica_level(const struct replica *r); /* the cluster's feature level; cheap, atomic */
/* How far an install is, for a person: "512 of 2046 MiB (25 %), 96.3 MiB/s, 16 s left". */
enum { REPLICA_INSTALL_TEXT = 320 };
void replica_install_text(const struct replica_status *status, char *out, size_t size);
uint64_t replica_applied_index(const struct replica *r); /* cheap, atomic */
struct store *replica_store(struct replica *r);
/* The hashes of all tables noted when the HashPoint at INDEX was applied here; the last 16 are kept.
 * ERR_AGAIN: not applied yet; ERR_NOTFOUND: not a HashPoint, or forgotten. */
int replica_table_hashes(struct replica *r, uint64_t index, struct store_hash hashes[N_TABLES],
                         uint64_t n_rows[N_TABLES]);

/* The store as it was when the HashPoint with a table was applied at INDEX, kept for a minute; a reference, to be given back
 * with store_view_unref. ERR_NOTFOUND: none, or no more. */
int replica_view(struct replica *r, uint64_t index, struct store_view **out);

/* ---- lease (architecture: Lease) ---- */
/* From now on ask the leader for leases for the current epoch (after node_up was proposed and applied), or
 * stop. */
void replica_want_lease(struct replica *r, bool want);
/* CLOCK_BOOTTIME ms until which this node may act as a home in EPOCH; 0: no lease. Whoever asks has applied EPOCH as the
 * current one: a lease of a later epoch says nothing about what it still holds from an earlier one. Atomic, any thread. */
uint64_t replica_lease_until_in(const struct replica *r, uint64_t epoch);
uint64_t replica_lease_until(const struct replica *r); /* of any epoch: for who only shows it */

#endif
