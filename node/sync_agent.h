/* The Sync Agent: keeps the users of the call manager (AXL) in the store. Works on the publisher alone.
 *
 *                    start, settings
 *   unconfigured  <------------------>  idle  --timer-->  incremental --ok--> idle
 *   stopped  <--hold / start-->          |  ^                 |  queue id changed, gap, feed lost
 *                                        |  '--complete---  full  <---'
 *   failed (401, 403; slow retry)  <-----+-----------------/   \--> back-off --timer--> full | incremental
 *
 * A full sync asks for the version, notes where the change queue stands, lists all users page by page, and
 * only after the whole list was read and committed removes, by explicit uuids, who is not there any more;
 * each of those is asked for once more by itself before. An incremental one reads the change queue. Only
 * users with imAndPresenceEnable and homeCluster are taken.
 *
 * Everything around it is reached through struct sync_ops; nothing here knows the replica. Owner: whoever
 * made it; all functions on its loop's thread. */
#ifndef NODE_SYNC_AGENT_H
#define NODE_SYNC_AGENT_H

#include "base/err.h"
#include "base/loop.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sync_agent;

enum {
    SYNC_UUID_TEXT = 36,  /* lower case, no braces */
    SYNC_MAX_BATCH = 1000 /* users or uuids in one command */
};

/* Strings are borrowed for the call that carries them; NULL is the same as "". */
struct sync_settings {
    const char *url, *user, *password; /* one of them empty: sync is off */
    const char *ca_pem;                /* empty: the system's trust store */
    const char *version;               /* of the AXL schema to try first; empty: 14.0 */
    unsigned interval_ms;              /* between two looks at the change queue; 0: 10 s */
};

struct sync_user {
    const char *uuid, *userid, *first_name, *last_name, *mail, *directory_uri;
    /* Never empty. Lists do not carry it: then it is "First Last" (or the userid) and has_display_name is
     * false, and a stored name that was known better stays as long as first and last name are what they were.
     */
    const char *display_name;
    bool has_display_name;
};

/* Where the agent stands in the change queue. queue_id "": nowhere. */
struct sync_position {
    char queue_id[64];
    uint64_t next_change;
};

/* What the store remembers of earlier runs, on whichever node. */
struct sync_stored {
    uint64_t run;
    bool is_complete; /* a full run has completed once */
    bool is_ok;       /* the last full run */
    uint64_t completed_ms, n_users;
    char result[256];
    struct sync_position position;
};

struct sync_result {
    int code;           /* 0: executed. ERR_CONFLICT: the publisher's epoch, or the run, is over */
    uint64_t n_changed; /* rows */
    uint64_t n_refused; /* users not taken, as their address is another user's */
    const char *text;   /* names the first one refused; "" or a sentence; borrowed */
};
typedef void sync_done_fn(void *user, const struct sync_result *result);

struct sync_commit {
    uint64_t epoch, run;
    const struct sync_position *position; /* stored by the same command; NULL: leave it */
    sync_done_fn *on_done;
    void *user;
};

/* What the agent needs of the node. NODE is handed through. The submit functions copy what they are given; 0:
 * on_done comes exactly once, later, in the order of submission; otherwise not at all. */
struct sync_ops {
    void (*read_settings)(void *node,
                          struct sync_settings *out); /* copied at once; the password is wiped after use */
    void (*read_stored)(void *node, struct sync_stored *out);
    /* uuids above AFTER ("": from the first) of the users that came from the call manager, ascending. Returns
     * how many, MAX at most; fewer than MAX: there are no more. */
    size_t (*list_known)(void *node, const char *after, char (*out)[SYNC_UUID_TEXT + 1], size_t max);
    int (*submit_users)(void *node, const struct sync_commit *commit, const struct sync_user *users,
                        size_t n);
    int (*submit_remove)(void *node, const struct sync_commit *commit,
                         const char (*uuids)[SYNC_UUID_TEXT + 1], size_t n);
    /* RESULT not NULL: a full run has ended, ok or not. NULL: only the position. */
    int (*submit_state)(void *node, const struct sync_commit *commit, const char *result, bool ok,
                        uint64_t n_users);
    void (*raise_alarm)(void *node, const char *name,
                        const char *text);             /* again with another text: replaces it */
    void (*clear_alarm)(void *node, const char *name); /* nothing if it is not raised */
    void (*on_change)(void *node);                     /* the status has changed; may be NULL */
};

/* For tests; 0: the default. */
struct sync_options {
    unsigned page_size;      /* 1000 */
    unsigned backoff_min_ms; /* 1 s, doubled each time */
    unsigned backoff_max_ms; /* 60 s */
    unsigned auth_retry_ms;  /* 30 min: accounts are locked after few wrong passwords */
    unsigned timeout_ms;     /* of an AXL request; 60 s */
};

struct sync_agent *sync_agent_new(struct loop *l, const struct sync_ops *ops, void *node,
                                  const struct sync_options *options);
/* on_closed (may be NULL) exactly once, later, when every request and command has ended. */
void sync_agent_close(struct sync_agent *a, void (*on_closed)(void *user), void *user);

/* This node is publisher since EPOCH: goes on where the store says that the last one stood, else with a full
 * run. */
void sync_agent_start(struct sync_agent *a, uint64_t epoch);
void sync_agent_stop(
    struct sync_agent *a); /* no longer publisher; what is submitted already is fenced by its epoch */
void sync_agent_settings_changed(struct sync_agent *a); /* axl.*; nothing happens if they are the same */

/* impcli sync start [--full]: now, also after "stop" and in back-off. ERR_UNAVAILABLE: not on this node, or
 * sync is off. impcli sync stop: until the next start. */
int sync_agent_run_now(struct sync_agent *a, bool full, struct err_ctx *err);
int sync_agent_hold(struct sync_agent *a, struct err_ctx *err);

enum sync_state {
    SYNC_STANDBY, /* not the publisher */
    SYNC_UNCONFIGURED,
    SYNC_STOPPED, /* by an administrator */
    SYNC_IDLE,
    SYNC_FULL,
    SYNC_INCREMENTAL,
    SYNC_BACKOFF,
    SYNC_FAILED, /* not without an administrator */
};
enum sync_feed { SYNC_FEED_UNKNOWN, SYNC_FEED_OK, SYNC_FEED_LOST };
const char *sync_state_text(enum sync_state state); /* "idle", "full sync", ... */
const char *sync_feed_text(enum sync_feed feed);    /* "unknown", "ok", "lost" */

/* The result of the last full run and the health of the change feed are two facts. Times: Unix ms, 0: never.
 */
struct sync_status {
    enum sync_state state;
    char reason[256]; /* of not configured, back-off, failed; else "" */

    struct sync_stored last;    /* the last full run; result "" if there was none */
    uint64_t last_duration_ms;  /* 0: not run by this process */
    uint64_t n_listed, n_taken; /* of the run under way, else of the last one here */
    uint64_t n_changed, n_removed, n_refused;

    enum sync_feed feed;
    char feed_reason[256];
    uint64_t feed_since_ms, last_poll_ms; /* successful poll */
    struct sync_position position;
    uint64_t next_in_ms; /* until the next poll or retry; 0: none planned or running */

    char ucm_release[64], axl_version[8];
    unsigned n_failures; /* in a row */
};
void sync_agent_get_status(const struct sync_agent *a, struct sync_status *out);

#endif
