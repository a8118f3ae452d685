/* Hooks at the user: what looks at each stanza that comes to a user, at the user's home, before and after RFC
 * 6121 §8 has picked the sessions. They do not know each other; hooks.def has their order. Shard's thread.
 *
 * Each user has one bit per hook: "must be asked". It is set when the user's struct is made, and cleared by
 * the hook itself (im_hook_off) when it has seen that it has nothing to do for this user; it sets it again
 * (im_hook_on) when a row of the feed, or a session, says otherwise. So a user who does not use a feature
 * costs one test per stanza. */
#ifndef IM_HOOKS_H
#define IM_HOOKS_H

#include "im/envelope.h"
#include "im/shard.h"

struct user;
struct session;

enum im_hook_id {
#define X(ID) IM_HOOK_##ID,
#include "im/hooks.def"
#undef X
    N_IM_HOOKS
};

enum to_user {
    TO_USER_GO_ON,
    TO_USER_DROP,
    TO_USER_REFUSED, /* the same, and E was answered with router_bounce if it may be */
};

struct im_hook {
    enum im_hook_id id;
    unsigned kinds; /* 1 << STANZA_MESSAGE and so on: only these are shown to it */
    /* E has come to its addressee's home. U is NULL when nothing of the user is in memory: e->to_uid. DROP:
     * nobody else sees E, and who asked frees it. FAN_OUT: E is a
     * broadcast presence of a contact, shared by all who see it: its to and to_uid are not U's, and it is
     * never answered. May be NULL. */
    enum to_user (*to_user)(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                            bool fan_out);
    /* E was given to these sessions of U just now (N may be 0: it is being stored, or nobody takes it). May
     * be NULL. */
    void (*delivered)(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                      struct session *const *to, size_t n);
    /* A row of a table with the uid first in its key, of a user who is in memory here; not of message_index,
     * whose cursors look after themselves. May be NULL. */
    void (*on_feed)(struct shard *s, struct user *u, const struct feed_event *event);
    /* A subscription was granted at log index INDEX: user TO_UID (bare JID TO) now sees the presence of OF.
     * On the shard of who granted or asked. May be NULL. */
    void (*granted)(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, uint64_t index);
};

/* Before im_start. HOOK is static. */
void im_add_hook(struct im *im, const struct im_hook *hook);

void im_hook_on(struct user *u, enum im_hook_id id);
void im_hook_off(struct user *u, enum im_hook_id id);

/* Of the router, messages and presence. Not GO_ON: drop it. */
enum to_user im_hooks_to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                              bool fan_out);
void im_hooks_delivered(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                        struct session *const *to, size_t n);
void im_hooks_on_feed(struct shard *s, struct user *u, const struct feed_event *event);
void im_hooks_granted(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, uint64_t index);

#endif
