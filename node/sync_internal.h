/* Inside of the Sync Agent: the agent (sync_agent.c), one run (sync_run.c: what full and incremental share),
 * and the steps of a full (sync_full.c) and of an incremental run (sync_feed.c). */
#ifndef NODE_SYNC_INTERNAL_H
#define NODE_SYNC_INTERNAL_H

#include "base/arena.h"
#include "base/htab.h"
#include "node/sync_agent.h"
#include "protocols/axl/axl.h"

enum {
    SYNC_MAX_USERS = 500000,
    SYNC_MAX_COMMITS = 4,     /* under way at once: the next page is read while the last ones are committed */
    SYNC_MAX_FETCHES = 4,     /* getUser under way at once */
    SYNC_MAX_RETRIES = 5,     /* of one step within a full run */
    SYNC_FEED_MAX_GETS = 2000 /* changed users from which on a full run is the shorter way */
};

struct uuid_list {
    char (*items)[SYNC_UUID_TEXT + 1];
    size_t n, cap;
};
void uuid_list_add(struct uuid_list *l, const char *uuid);

/* A user of the list: its uuid as 16 bytes, and whether it is ours. */
struct sync_seen {
    uint8_t uuid[16];
    bool is_ours;
};

/* Directory URIs of a full run; zero-initialised is empty. */
struct uri_slot;
struct sync_uris {
    struct uri_slot *slots;
    size_t n_slots, n;
    uint64_t seed[2];
};
/* False: another user has this URI. An empty one is nobody's. */
bool sync_uris_add(struct sync_uris *u, const char *uri, const char *uuid);
void sync_uris_fini(struct sync_uris *u);

/* One run. It lives until the last request and command that it began has ended, also when the agent has long
 * given it up; then agent->run is not it any more and every answer is dropped. */
struct sync_run {
    struct sync_agent *agent;
    bool is_full, is_given_up;
    uint64_t id, epoch, started_ms;
    unsigned n_pending; /* AXL calls and commits that will still answer, the one being handled included */
    struct sync_position position; /* where the queue stands after this run; queue_id "": not known */

    /* users to ask for one by one, and what came of it */
    struct uuid_list get, remove;
    struct sync_user *users; /* strings in arena */
    size_t n_users;
    struct arena arena;
    size_t next_get; /* users[i] is the place for the answer to get[i] until all have come */
    unsigned n_gets; /* under way */
    void (*on_fetched)(struct sync_run *run);

    /* committing remove, then users */
    size_t next_remove, next_user;
    bool with_position; /* the last command of it carries the position */
    unsigned n_commits; /* under way */
    void (*on_committed)(struct sync_run *run);

    /* full */
    void (*step)(struct sync_run *run); /* to repeat after an error that will pass */
    unsigned n_retries, page_size;
    size_t skip;
    bool is_list_complete, is_page_held, is_second_pass;
    struct sync_seen *seen;
    size_t n_seen, cap_seen;
    struct sync_uris uris;
    size_t n_shared_uris;
    char shares_uri[64]; /* the first user found to have another's */
};

/* Unknown: an alarm of an earlier life may be open; the first good news clears it. */
enum sync_alarm_state { SYNC_ALARM_UNKNOWN, SYNC_ALARM_CLEAR, SYNC_ALARM_RAISED };
enum sync_alarm {
    SYNC_ALARM_CONNECTION,
    SYNC_ALARM_FEED,
    SYNC_ALARM_DUPLICATE,
    SYNC_ALARM_URI,
    SYNC_N_ALARMS
};

struct sync_agent {
    struct loop *loop;
    const struct sync_ops *ops;
    void *node;
    struct sync_options options;
    uint64_t epoch;
    bool is_publisher, is_held, needs_full, is_closing;
    enum sync_alarm_state alarms[SYNC_N_ALARMS];
    char *url, *user, *password, *ca_pem, *version; /* the settings in use; url NULL: sync is off */
    unsigned interval_ms;
    struct axl *axl;
    unsigned n_open; /* AXL clients and runs that are not freed yet */
    struct sync_run *run;
    struct timer timer; /* next poll, retry */
    uint64_t due_ms;
    uint64_t n_refused_full;           /* by the last full run */
    unsigned n_full_in_a_row;          /* without a look at the queue that went well in between */
    enum axl_outcome recorded_failure; /* of the last full run, in the store; AXL_OK: none */
    struct sync_status status;
    struct deferred closed;
    void (*on_closed)(void *user);
    void *on_closed_user;
};

/* ---- sync_agent.c ---- */
void sync_agent_set_state(struct sync_agent *a, enum sync_state state, const char *reason);
void sync_agent_changed(struct sync_agent *a);
void sync_agent_feed_ok(struct sync_agent *a);
void sync_agent_feed_lost(struct sync_agent *a, const char *reason);
/* A full run's finding; N 0: none. */
void sync_agent_shared_uris(struct sync_agent *a, size_t n, const char *first);
void sync_agent_connected(struct sync_agent *a); /* an answer came: the connection is in order */
/* The run is over; the agent decides what is next. NEEDS_FULL: the incremental one found out. MORE: look at
 * the queue again at once. An error with AXL_CANCELED is one of our own side. */
void sync_agent_run_done(struct sync_agent *a, bool was_full, bool needs_full, bool more);
void sync_agent_run_failed(struct sync_agent *a, bool was_full, const struct axl_error *error);
void sync_agent_fenced(struct sync_agent *a, const char *text);
void sync_agent_run_freed(struct sync_agent *a);

/* ---- sync_run.c ---- */
struct sync_run *sync_run_new(struct sync_agent *a, bool is_full);
void sync_run_give_up(struct sync_run *run); /* the agent's only way to end it early */
/* Every answer begins with sync_run_enter, which says whether it still counts, and ends with sync_run_leave.
 */
bool sync_run_enter(struct sync_run *run);
void sync_run_leave(struct sync_run *run);
/* The run is over and well. */
void sync_run_finish(struct sync_run *run, bool needs_full, bool more_to_read);
void sync_run_fail(struct sync_run *run, const struct axl_error *error);
/* An answer other than AXL_OK of a full run: tries the step again, or fails. */
void sync_run_retry_or_fail(struct sync_run *run, const struct axl_error *error);
/* A commit was refused or did not get through. */
void sync_run_commit_failed(struct sync_run *run, const struct sync_result *result);
bool sync_is_ours(const struct axl_user *user);
/* USER in the words of a command; the display name, if it must be made, lies in ARENA. */
void sync_user_from_axl(struct sync_user *out, const struct axl_user *user, struct arena *arena);
/* Asks for each of run->get: ours are added to users, others and the missing to remove. */
void sync_run_fetch(struct sync_run *run, void (*on_fetched)(struct sync_run *run));
/* Commits run->remove, then run->users, in parts. */
void sync_run_commit(struct sync_run *run, bool with_position, void (*on_committed)(struct sync_run *run));

/* ---- sync_full.c, sync_feed.c ---- */
void sync_full_start(struct sync_run *run);
void sync_full_record_failure(struct sync_agent *a, uint64_t run_id, const struct axl_error *error);
void sync_full_fini(struct sync_run *run);
void sync_feed_start(struct sync_run *run);

#endif
