/* Reads that must be current: up to where must this node have applied so that it has everything that was
 * committed when it was asked? The leader notes its commit index, once an entry of its own term is committed,
 * and has its term confirmed by a majority in a round begun after; a follower asks the leader. A state
 * machine; raft thread. */
#ifndef REPLICATION_BARRIER_H
#define REPLICATION_BARRIER_H

#include "base/list.h"
#include <stdbool.h>
#include <stdint.h>

enum { BARRIER_MAX_REMOTE = 4096, BARRIER_MAX_LOCAL = 16384, BARRIER_AGAIN_MS = 500 };

/* Embedded in the request of whoever waits. */
struct barrier_wait {
    struct list link;
    uint64_t deadline_ms;
    enum barrier_state { BARRIER_NEW, BARRIER_ASKED, BARRIER_ROUND, BARRIER_APPLY } state;
    uint64_t id, index, round, mark, asked_ms;
};
struct barrier_ops {
    /* What the core has committed at this very moment; 0: we do not lead, or no entry of our term is
     * committed. An index noted earlier in the turn will not do: another thread may have applied, and told,
     * what was committed since. */
    uint64_t (*commit_index)(void *user);
    uint64_t (*want_round)(void *user);
    bool (*ask_leader)(void *user, uint64_t id);                          /* false: no way to a leader now */
    void (*tell)(void *user, uint32_t node, uint64_t id, uint64_t index); /* index 0: not now */
    void (*done)(void *user, struct barrier_wait *w, int code); /* w is out of the list; w->index when 0 */
};
struct barrier_remote {
    struct list link;
    uint32_t node;
    uint64_t id, index, round;
};
struct barriers {
    const struct barrier_ops *ops;
    void *user;
    struct list waits, remotes;
    unsigned n_waits, n_remotes;
    uint64_t next_id, mark, applied;
    bool is_leader;
};

/* FIRST_ID: random. An answer of the leader may reach a later life of this process, which must not take it
 * for one of its own: the index in it is older than what is asked for there. */
void barriers_init(struct barriers *b, const struct barrier_ops *ops, void *user, uint64_t first_id);
/* mark: changes with leader, term and connection, 0: no leader. */
void barriers_set(struct barriers *b, uint64_t mark, bool is_leader);
bool barriers_add(struct barriers *b, struct barrier_wait *w, uint64_t now_ms,
                  uint64_t deadline_ms); /* false: full */
void barriers_pump(struct barriers *b,
                   uint64_t now_ms); /* asks for those that could not ask yet; time-outs */
void barriers_on_round(struct barriers *b, uint64_t round);
void barriers_on_read(struct barriers *b, uint32_t node, uint64_t id);   /* a follower asks */
void barriers_on_index(struct barriers *b, uint64_t id, uint64_t index); /* the leader's answer */
void barriers_on_applied(struct barriers *b, uint64_t applied);
void barriers_end(struct barriers *b, int code); /* all of them */

#endif
