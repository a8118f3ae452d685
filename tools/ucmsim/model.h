/* What the simulated call manager knows: users, and the bounded cache of changes behind listChange.
 *
 * Owner: struct sim in main.c. Not thread-safe: the web threads hold the simulator's one lock around every
 * call. */
#ifndef UCMSIM_MODEL_H
#define UCMSIM_MODEL_H

#include "base/buf.h"
#include "base/err.h"
#include "base/htab.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum field {
#define X(id, tag, listed) FIELD_##id,
#include "fields.def"
#undef X
    N_FIELDS,
};
const char *field_tag(enum field f);
bool field_is_listed(enum field f); /* part of LUser? */
bool field_is_bool(enum field f);
int field_find(const char *tag); /* index or ERR_NOTFOUND */

struct ucm_user {
    struct hnode by_userid, by_uuid;
    size_t at;             /* place in users */
    char uuid[37];         /* upper case, no braces */
    char *value[N_FIELDS]; /* NULL is the same as "" */
    char *password;
    bool locked;
    unsigned n_failures; /* wrong passwords in a row */
};

/* One change; xml is the ready content of <changedTags>, NULL when none. */
struct ucm_change {
    uint64_t id;
    char uuid[37];
    char action; /* a, u, r */
    bool do_get;
    char *xml;
};

struct ucm {
    struct ucm_user **users; /* in order of creation, which is the order that listUser gives */
    size_t n_users, cap_users;
    struct htab by_userid, by_uuid;
    char domain[256];
    char queue_id[32];
    struct ucm_change *changes; /* ring: change id i lies at i % cap_changes */
    size_t cap_changes;
    uint64_t first_change, next_change; /* [first, next) are in the cache */
    uint64_t n_removed; /* users ever removed; tells apart the uuids of a userid that came back */
};

/* cap_changes: how many changes the cache holds, at least 1. */
void ucm_init(struct ucm *u, const char *domain, size_t cap_changes);
void ucm_fini(struct ucm *u);

/* The text of a field, "" when empty. display name falls back to "First Last". */
const char *ucm_user_value(const struct ucm_user *user, enum field f, struct buf *scratch);
struct ucm_user *ucm_find(const struct ucm *u, const char *userid);
struct ucm_user *ucm_find_uuid(const struct ucm *u, const char *uuid); /* with or without braces, any case */

/* Users userNNNN from FROM to TO with made-up but always equal names. log_changes false: as if there from the
 * start. */
void ucm_make_users(struct ucm *u, unsigned from, unsigned to, bool log_changes);
/* userid,first,last,mailid,directoryUri,imAndPresenceEnable,homeCluster,password,displayName; the first line
 * may be a header naming columns by their AXL tags, in any order. */
int ucm_load_csv(struct ucm *u, const char *path, struct err_ctx *err);

/* A user with defaults; ERR_EXISTS. *out may be NULL. */
int ucm_add(struct ucm *u, struct ucm_user **out, const char *userid, struct err_ctx *err);
/* Tell the change queue of an added user, after its fields are set. */
void ucm_log_add(struct ucm *u, const struct ucm_user *user);
/* Writes one field and collects it in TAGS for ucm_log_update; TAGS may be NULL. A userid in use: ERR_EXISTS.
 */
int ucm_set(struct ucm *u, struct ucm_user *user, enum field f, const char *value, struct buf *tags,
            struct err_ctx *err);
void ucm_set_password(struct ucm_user *user, const char *password);
void ucm_log_update(struct ucm *u, const struct ucm_user *user,
                    struct buf *tags); /* nothing when tags is empty */
void ucm_remove(struct ucm *u, struct ucm_user *user);

/* ID NULL: a new random one. A new queue starts at change 1, as after an upgrade of the publisher. */
void ucm_new_queue(struct ucm *u, const char *id);
/* Forgets the oldest changes until KEEP are left: a poller that was behind sees a gap. */
void ucm_forget_changes(struct ucm *u, uint64_t keep);
const struct ucm_change *ucm_change(const struct ucm *u, uint64_t id); /* NULL when not in the cache */

/* Does TEXT match PATTERN, where % stands for any text? Without regard to case. */
bool ucm_like(const char *text, const char *pattern);

#endif
