/* A store of users behind struct sync_ops, for tests of the Sync Agent: keeps addresses unique as the real
 * one does, answers later, in order, and records what was asked of it. */
#ifndef TESTS_UNIT_SYNC_STORE_H
#define TESTS_UNIT_SYNC_STORE_H

#include "base/buf.h"
#include "base/htab.h"
#include "node/sync_agent.h"

struct stored_user {
    char uuid[SYNC_UUID_TEXT + 1];
    char userid[64], display_name[128], mail[128];
    uint64_t run;
};

struct sync_store {
    struct loop *loop;
    struct sync_settings settings;
    struct sync_stored stored;
    struct stored_user **users; /* ascending by uuid */
    size_t n_users, cap_users;
    struct list commits; /* not answered yet, in order */
    struct timer answer;
    unsigned answer_ms; /* how long a commit takes */

    uint64_t epoch;    /* commits with another one are refused */
    unsigned n_fail;   /* so many commits get UNKNOWN_OUTCOME */
    unsigned n_refuse; /* so many submits are refused at once */
    unsigned n_users_commits, n_remove_commits, n_state_commits, n_waiting, max_waiting;
    size_t n_added, n_removed;
    struct buf trace;  /* "U1000 R5 S+ " ... */
    struct buf alarms; /* "+Name -Name " ... */
};

extern const struct sync_ops sync_store_ops; /* NODE is the struct sync_store */
void sync_store_init(struct sync_store *s, struct loop *l);
void sync_store_fini(struct sync_store *s);
struct stored_user *sync_store_find(struct sync_store *s, const char *userid);

#endif
