/* The replication watcher: decides when a node's feature services may start. Pure: time and facts come in,
 * the decision, its reason and the wanted alarms come out; the node acts on it.
 *
 * A subscriber waits without limit until it has applied everything that was committed when it started, its
 * log is contiguous and its release equals the publisher's. The publisher waits for replication and, when
 * user sync is configured, for the first sync, but for both together only until watcher.timeout. Once
 * released, always released: the equality of releases is checked at the start, never on running services. */
#ifndef NODE_WATCHER_H
#define NODE_WATCHER_H

#include <stdbool.h>
#include <stdint.h>

enum watcher_state {
    WATCHER_REPLICATION, /* catches up */
    WATCHER_RELEASE,     /* caught up, but another release than the publisher's */
    WATCHER_SYNC,        /* the publisher waits for the first user sync */
    WATCHER_RELEASED,
};

struct watcher_input {
    uint64_t now_ms; /* CLOCK_MONOTONIC */
    bool publisher, witness;
    bool member_known;     /* this node's own row is in the store */
    bool registered;       /* the proposer session's epoch is applied */
    bool installing;       /* a snapshot is being received */
    uint64_t target_index; /* committed when it started, from a barrier that has passed; 0: not passed yet */
    uint64_t applied_index;
    uint64_t commit_index; /* as far as known here; for the reason only */
    bool leader_known;
    bool sync_configured, first_sync_done;
    const char *release, *publisher_release; /* NULL: not known */
    unsigned timeout_s;                      /* watcher.timeout */
};

/* Alarms that should be open for this node. */
enum watcher_alarm {
    WATCHER_ALARM_DELAY = 1,    /* ReplicationDelayStart */
    WATCHER_ALARM_SYNC = 2,     /* SyncDelayStart */
    WATCHER_ALARM_TIMEOUT = 4,  /* ReplicationTimeoutStart */
    WATCHER_ALARM_MISMATCH = 8, /* ReleaseMismatch */
};

struct watcher {
    enum watcher_state state;
    uint64_t started_ms, since_ms;
    bool timed_out;   /* released by the time-out, not by replication */
    unsigned alarms;  /* enum watcher_alarm */
    bool established; /* the notice ReplicationEstablished is due once: a delay ended */
    char reason[200];
};

enum { WATCHER_GRACE_MS = 3000 }; /* a delay shorter than this is a start, not an alarm */

void watcher_init(struct watcher *w, uint64_t now_ms);
/* True when state, reason or alarms changed. */
bool watcher_step(struct watcher *w, const struct watcher_input *in);
bool watcher_is_released(const struct watcher *w);
const char *watcher_state_name(enum watcher_state state);

#endif
