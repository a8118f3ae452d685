/* Private to driver*.c and guards.c: the only header that sees raft.h. */
#ifndef REPLICATION_DRIVER_CORE_H
#define REPLICATION_DRIVER_CORE_H

#include "replication/deque.h"
#include "replication/driver.h"
#include <raft.h>

#if RAFT_VERSION_NUMBER != 2201
#error                                                                                                       \
    "the driver knows libraft 0.22.1: its memory rules and its holes; see docs/adr before any other version"
#endif
/* A header of the build with the old API has another struct raft than the library we made. */
_Static_assert(sizeof(struct raft) < 600, "raft.h does not belong to raft_core");
_Static_assert((int)RAFT_COMMAND == RLOG_COMMAND && (int)RAFT_BARRIER == RLOG_BARRIER &&
                   (int)RAFT_CHANGE == RLOG_CHANGE,
               "entry types are the core's");
_Static_assert((int)RAFT_STANDBY == CONFIGURATION_STANDBY && (int)RAFT_VOTER == CONFIGURATION_VOTER,
               "roles are the core's");

enum {
    DRIVER_TICK_MS = 5,   /* TIMEOUT not more often: some states make the core ask for the past */
    DRIVER_EMPTY_MS = 5,  /* guard 12 */
    DRIVER_SPREAD_MS = 2, /* how long the next entries may take that would tell of a commit anyway */
    DRIVER_UNCOMMITTED_BYTES = 32 << 20,
    DRIVER_PROMOTE_LAG = 64,
    DRIVER_PENDING_SENDS = 32,
    DRIVER_INSTALL_MS = 10 * 60 * 1000, /* an install may take so long */
    DRIVER_INSTALL_AWAY_MS = 60 * 1000, /* who has an install behind it starts again: that long */
};

/* An AppendEntries that waits for entries from the disk. */
struct driver_range {
    uint64_t prev;
    unsigned n;
};

/* What we know of another server beyond the core. */
struct driver_link {
    uint64_t id;
    uint64_t heard_ms;                           /* last AppendEntries result in this leadership, 0: none */
    uint64_t empty_ms, empty_prev, empty_commit; /* the last empty AppendEntries */
    uint64_t told;   /* commit index that the last AppendEntries could tell: not above its last entry */
    bool is_awaited; /* somebody there waits for what this leader is about to commit */
    uint64_t install_index, install_ms; /* the first InstallSnapshot of one that is under way, 0: none */
    struct deque pending;               /* struct driver_range; the first one is being read */
    struct driver_read *read;           /* under way, or NULL */
};

/* A read from the log's disk, for a link or (peer 0) for apply. Freed when it is done; driver NULL: nobody
 * waits. */
struct driver_read {
    struct rlog_read read;
    struct driver *driver;
    uint64_t peer, term;
};

/* Bytes of our own entries up to INDEX, for the bound on what is uncommitted. */
struct driver_submitted {
    uint64_t index, bytes;
};

struct driver {
    struct raft r;
    struct driver_config config;
    struct raft_tracer tracer;
    uint64_t now;

    struct driver_snapshot snapshot; /* index 0: none */
    struct driver_snapshot installing_meta;
    struct configuration conf; /* as of applied */
    uint64_t conf_index;
    uint64_t applied;  /* as the owner reported */
    uint64_t handed;   /* given to ops->apply */
    uint64_t reported; /* the core's last_stored */
    bool is_installing, is_dead, is_inside;
    struct deque handed_bytes; /* struct driver_submitted, handed and not applied */
    uint64_t n_handed_bytes;
    struct driver_read *apply_read; /* under way, or NULL */

    uint64_t heard_ms; /* from a leader of at least our term */
    uint64_t ticked_ms, timer_ms;
    uint64_t successor, transfer_ms; /* to lead as soon as it has the whole log, 0: nobody; since when */
    uint64_t spread_ms; /* when followers are told of commits at the latest, 0: nothing to tell */
    bool has_ticked, more_follows;
    struct deque submitted;
    uint64_t n_uncommitted_bytes;

    /* Of the step under way. */
    const struct raft_msg *vote_request;
    bool is_old_term_message;
    const struct rlog_entry *given; /* entries of the event, parallel to given_core */
    const struct raft_entry *given_core;
    unsigned n_given;
    void *given_batch; /* what the core would free if it did not take them */
    bool is_timeout_step;

    struct {
        int role;
        uint64_t term, leader;
    } published;
    struct driver_link links[CONFIGURATION_MAX];
    unsigned n_links;
    struct driver_stats stats;
    struct rlog_entry scratch[RAFT_MSG_SPLIT_ENTRIES];
};

/* driver.c */
bool driver_has_guard(const struct driver *d, enum driver_guard g);
void driver_fatal(struct driver *d, const char *format, ...) __attribute__((format(printf, 2, 3)));
int driver_try_step(struct driver *d, struct raft_event *event); /* a refusal of the core is returned */
void driver_step(struct driver *d, struct raft_event *event);    /* a refusal is fatal */
bool driver_enter(struct driver *d, uint64_t now_ms);            /* around every public call; false: dead */
void driver_leave(struct driver *d);
void driver_save_vote(struct driver *d);
uint64_t driver_last(const struct driver *d);
int driver_to_core_conf(struct raft_configuration *out, const struct configuration *c);
void driver_from_core_conf(struct configuration *out, const struct raft_configuration *c);

/* driver_start.c */
void driver_rebuild(struct driver *d); /* a fresh core from log and snapshot as they are now */

/* driver_apply.c */
void driver_pump(struct driver *d);
void driver_abandon_read(struct driver_read **read);

bool driver_link_installs(const struct driver *d, const struct driver_link *link);

/* driver_send.c */
struct driver_link *driver_find_link(struct driver *d, uint64_t id);
void driver_send(struct driver *d, struct raft_message *m);
void driver_spread_commit(struct driver *d, uint64_t id);
void driver_drop_pending(struct driver *d);
void driver_sync_links(struct driver *d); /* with the configuration of the core */

/* driver_members.c */
int driver_submit_entries(struct driver *d, enum rlog_type type, struct blob *const *payloads, unsigned n);

/* driver_transfer.c */
bool driver_is_transferring(const struct driver *d);
void driver_pump_transfer(struct driver *d);

/* guards.c; each says which hole it closes */
bool guards_is_sole_voter(const struct driver *d);
void guards_bump_sole_term(struct driver *d);
bool guards_accept(struct driver *d, struct raft_msg *m); /* before RECEIVE; false: drop the message */
void guards_fix_result(struct driver *d, struct raft_message *m);

#endif
