/* The apply thread: the only writer of the store. Takes what the driver hands out (committed and on our own
 * disk), runs it through the state machine in transactions of up to 1024 commands or 5 ms, each of which also
 * stores the position, then posts feed and answers. An error in here is a bug or a dead disk and ends the
 * process. */
#ifndef REPLICATION_APPLY_H
#define REPLICATION_APPLY_H

#include "base/arena.h"
#include "replication/feed.h"
#include "replication/rlog.h"

enum {
    APPLY_COMMANDS = 1024,
    APPLY_US = 5000,
    APPLY_HASH_EVERY = 1024,
    APPLY_HASH_MS = 5000,
    APPLY_HASH_NEWS = 8,
    APPLY_HASH_POINTS = 16,
    APPLY_VIEWS = 2,
    APPLY_VIEW_MS = 60 * 1000
};

struct apply;
struct apply_config {
    uint32_t node;
    struct store *store;
    struct log *log;
    struct metrics *metrics;
    struct proposer *proposer;
    struct feed *feed;
    /* Apply thread, after a commit: apply_take soon if IS_NEWS (more than the index), or if somebody waits
     * for the index. */
    void (*on_batch)(void *user, bool is_news);
    void (*on_work)(void *user); /* without a thread: something was queued, apply_step is due; may be NULL */
    void (*on_fatal)(void *user, bool exit_again, const char *text);
    void *user;
};
/* Reads the position from the store, and gives the proposer this node's rows. */
struct apply *apply_new(const struct apply_config *config);
int apply_start(struct apply *a);
/* Without apply_start, on the owner's thread: one transaction of at most MAX entries. False: nothing was
 * queued. */
bool apply_step(struct apply *a, unsigned max);
void apply_stop(struct apply *a); /* finishes the batch under way, not the queue; joins */
void apply_free(struct apply *a);

/* Raft thread; takes references. */
void apply_push(struct apply *a, uint64_t first, const struct rlog_entry *entries, unsigned n);

/* What has come to be since the last call. Raft thread. */
struct apply_news {
    uint64_t index, term;
    bool members_changed; /* NODE or NODE_TOMBSTONE */
    bool session_changed;
    unsigned n_hashes; /* state hashes at multiples of APPLY_HASH_EVERY and where FSM time passes a multiple
                          of APPLY_HASH_MS, so at the same indexes on every node; newest last */
    struct apply_hash {
        uint64_t index;
        struct store_hash hash;
    } hashes[APPLY_HASH_NEWS], last; /* at index */
};
void apply_take(struct apply *a, struct apply_news *out);
unsigned apply_level(const struct apply *a); /* the cluster's feature level as committed; any thread */
uint64_t apply_index(const struct apply *a); /* any thread */
uint64_t apply_term(struct apply *a);        /* any thread */
/* See replica_table_hashes. Any thread. */
int apply_table_hashes(struct apply *a, uint64_t index, struct store_hash hashes[N_TABLES],
                       uint64_t n_rows[N_TABLES]);

/* The store as it was when a HashPoint with a table was applied at INDEX; a reference. ERR_NOTFOUND: there is
 * none any more. Any thread. */
int apply_view(struct apply *a, uint64_t index, struct store_view **out);
void apply_expire_views(struct apply *a,
                        uint64_t now_ms); /* those that are older than a minute; any thread */

/* This node's session as the store has it. */
void apply_read_session(struct store_txn *t, uint32_t node, struct proposer_rows *out);

#endif
