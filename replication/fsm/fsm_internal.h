/* What the files of the state machine share. A handler checks everything before its first write: a refusal
 * leaves the store as it was. */
#ifndef REPLICATION_FSM_INTERNAL_H
#define REPLICATION_FSM_INTERNAL_H

#include "base/mem.h"
#include "replication/fsm.h"
#include "replication/levels.h"
#include "replication/settings.h"

enum {
    FSM_MAX_ROWS = 1000, /* of one command */
    FSM_HASH_BYTES = 32,
    FSM_KEY_ID_BYTES = 8, /* public name of a cluster key; in a sealed blob after its version byte */
    FSM_NAME_MAX = 63,
    FSM_TEXT_MAX = 1023, /* names and other texts */
    /* A bare JID must be read back from a key. RFC 7622 §3.1 would allow 2047 bytes. */
    FSM_JID_MAX = KEY_STR_MAX,
    FSM_DOMAIN_MAX = 255,
    FSM_LOCALPART_MAX = FSM_JID_MAX - 1 - FSM_DOMAIN_MAX,
};

struct fsm {
    struct store_txn *txn;
    const Imp__Command *command;
    const struct fsm_input *in;
    struct arena *arena;
    struct fsm_result *out;
    uint32_t proposer; /* node of the session; 0: none, nothing is bound to a home then */
    uint64_t now_ms;   /* FSM time */
    Imp__ClusterRow *cluster;
    unsigned level; /* of the cluster: selects behaviour and row bytes */
};

#define X(case_, member, session) void fsm_do_##member(struct fsm *f, const void *body);
#include "replication/fsm/commands.def"
#undef X

void fsm_refuse(struct fsm *f, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));
void fsm_audit(struct fsm *f);
/* A step of the work that removals have left (fsm_purge.c), done with every command. */
void fsm_purge_step(struct fsm *f);

/* ---- rows: fsm_row.c ---- */
struct key fsm_key_none(void);
struct key fsm_key_u32(uint32_t v);
struct key fsm_key_u64(uint64_t v);
struct key fsm_key_u64_u64_u32(uint64_t a, uint64_t b, uint32_t c);
struct key fsm_key_u64_str(uint64_t v, const char *s);
struct key fsm_key_u32_str(uint32_t v, const char *s);
struct key fsm_key_str(const char *s);
void fsm_put_id(struct fsm *f, enum table table, const struct key *k, uint64_t id);
uint64_t fsm_find_id(struct fsm *f, enum table table, const struct key *k); /* 0: none */
void fsm_put_empty(struct fsm *f, enum table table, const struct key *k);
bool fsm_has_rows(struct fsm *f, enum table table);
uint64_t fsm_count(struct fsm *f, enum table table, const struct key *k);
void fsm_count_add(struct fsm *f, enum table table, const struct key *k, int64_t delta); /* a row of 0 goes */
void fsm_delete_prefix(struct fsm *f, enum table table, const struct key *prefix);
bool fsm_is_text(const char *s, size_t min, size_t max); /* length in bytes, no control characters */

/* ---- cluster and nodes ---- */
void fsm_put_cluster(struct fsm *f);
Imp__NodeRow *fsm_find_node(struct fsm *f, uint32_t node);
void fsm_put_node(struct fsm *f, const Imp__NodeRow *row);
void fsm_set_up(struct fsm *f, Imp__NodeRow *node, bool up);
void fsm_hand_over(struct fsm *f, Imp__NodeRow *node); /* it is not to serve any more: not up, but it may still do so */
uint32_t fsm_find_domain(struct fsm *f, const char *domain); /* "": the default; 0: none of ours */
const char *fsm_domain_name(struct fsm *f, uint32_t domain); /* NULL: none */
/* Refused (and false) when the proposer is not the active home of the user. */
bool fsm_is_at_home(struct fsm *f, const Imp__UserRow *user);
bool fsm_has_home(struct fsm *f, const Imp__UserRow *user); /* the same, without a refusal */
bool fsm_can_take_users(struct fsm *f, uint32_t except); /* some node other than EXCEPT */
void fsm_put_ca(struct fsm *f, uint32_t generation,
                const Imp__CaRow *ca); /* an active one is the only active one */
/* Refused (and false) when the secret is sealed with another than the current cluster key. */
bool fsm_is_sealed_now(struct fsm *f, const ProtobufCBinaryData *sealed);
void fsm_alarm_clear_node(struct fsm *f, uint32_t node);

/* ---- users: fsm_user.c ---- */
Imp__UserRow *fsm_find_user(struct fsm *f, uint64_t uid);
/* The user of a bare JID. 0; ERR_NOTFOUND: a domain of ours without that user; ERR_INVALID: not of ours. */
int fsm_find_jid(struct fsm *f, const char *jid, Imp__UserRow **out);
const char *fsm_user_jid(struct fsm *f, const Imp__UserRow *user);
void fsm_put_user(struct fsm *f, const Imp__UserRow *user);
/* Writes row and indexes of a new user and gives it a home. uid, created_ms and home are filled in. */
void fsm_user_create(struct fsm *f, Imp__UserRow *user);
void fsm_user_delete(struct fsm *f, const Imp__UserRow *user);
/* Words of the directory search: those of OLD go (may be NULL), those of NOW come. */
void fsm_user_index_words(struct fsm *f, const Imp__UserRow *old, const Imp__UserRow *now);
/* Are all keys that are there whole, and is one? */
bool fsm_is_credential(const Imp__CredentialRow *c);
void fsm_forget_tokens(struct fsm *f, uint64_t uid); /* fsm_login.c: after a new password, at the end */
void fsm_purge_add(struct fsm *f, uint64_t uid, const char *jid);
void fsm_purge_finish(struct fsm *f, const char *jid); /* before the address gets a new owner */

/* ---- assignment: fsm_assign.c ---- */
void fsm_set_home(struct fsm *f, Imp__UserRow *user, uint32_t home, Imp__AssignedBy by); /* puts the row */
/* Home for a user that is not in the counts yet, by the mode. */
void fsm_choose_home(struct fsm *f, uint32_t *home, Imp__AssignedBy *by);
void fsm_index_home(struct fsm *f, const Imp__UserRow *user, bool add);

/* ---- messages: fsm_message.c, fsm_message_repeat.c ---- */
/* The index row ROW of UID goes, and the body when nobody else has it. */
void fsm_message_delete(struct fsm *f, uint64_t uid, uint64_t index, uint32_t place,
                        const Imp__MessageIndexRow *row);
/* They are pending no more; returns how many were. */
unsigned fsm_message_delivered(struct fsm *f, uint64_t uid, Imp__MessageRef **refs, size_t n_refs);
/* Log index of the message for UID that came from the origin before; 0: none. */
uint64_t fsm_repeat_find(struct fsm *f, uint64_t uid, const char *origin);
void fsm_repeat_add(struct fsm *f, uint64_t uid, const char *origin);

/* ---- resumable sessions: fsm_resume.c ---- */
struct fsm_resumable {
    struct key key;
    Imp__SessionRow row;
};
/* False: there is none (any more). */
bool fsm_resumable_load(struct fsm *f, struct fsm_resumable *s, uint64_t uid, uint64_t session,
                        uint32_t place);
/* Was the client's stanza N handled for good? */
bool fsm_resumable_has(const struct fsm_resumable *s, uint64_t n);
/* Stanza N (0: none) was now, and all up to N_SETTLED. Writes the row. */
void fsm_resumable_count(struct fsm *f, struct fsm_resumable *s, uint64_t n, uint64_t n_settled);

/* ---- rosters: fsm_roster.c ---- */
struct roster_item {
    uint64_t uid;
    const char *contact;
    Imp__RosterRow row;
    bool exists;      /* a live row is there; removed ones count as none */
    bool was_removed; /* a mark of a removed item is there */
    bool quiet;       /* what a client sees of it may be as it was: then no new version */
    bool leaves_mark; /* when nothing is left in it: it was shown, so clients must hear that it went */
};
void fsm_roster_load(struct fsm *f, struct roster_item *item, uint64_t uid, const char *contact);
/* Writes it with the current version, or removes it when nothing is left in it. */
void fsm_roster_save(struct fsm *f, struct roster_item *item);
bool fsm_roster_has_room(struct fsm *f, const struct roster_item *item);
/* The item goes on the user's roster by itself: the contact's display name is its name. */
void fsm_roster_fill_name(struct fsm *f, struct roster_item *item);
static inline bool fsm_sees(const Imp__RosterRow *r) /* the user has a subscription to the contact */
{
    return r->subscription == IMP__SUBSCRIPTION__SUB_TO || r->subscription == IMP__SUBSCRIPTION__SUB_BOTH;
}
static inline bool fsm_is_seen(const Imp__RosterRow *r) /* the contact has one to the user */
{
    return r->subscription == IMP__SUBSCRIPTION__SUB_FROM || r->subscription == IMP__SUBSCRIPTION__SUB_BOTH;
}
/* fsm_block.c: does the user block this bare JID? From level 3 on. */
bool fsm_blocks(struct fsm *f, uint64_t uid, const char *jid);
unsigned fsm_block_purge(struct fsm *f, uint64_t uid, unsigned max); /* rows that went */
/* fsm_subscribe.c: one step of RFC 6121 appendix A between two bare JIDs; returns enum fsm_subscribe_flag. */
uint64_t fsm_subscription_step(struct fsm *f, Imp__SubscribeType type, const char *from,
                               const Imp__UserRow *from_user, const char *to, const Imp__UserRow *to_user,
                               const ProtobufCBinaryData *stanza);

/* ---- PEP: fsm_pep_node.c ---- */
/* What JID is on the lists of others' nodes becomes NEW_JID's, or (NULL) nobody's. Rows done, at most MAX; *N_LEFT
 * (may be NULL) is raised when there are more. */
unsigned fsm_pep_move_parties(struct fsm *f, const char *jid, const char *new_jid, unsigned max, uint64_t *n_left);
unsigned fsm_pep_purge_user(struct fsm *f, uint64_t uid, unsigned max); /* rows done */
void fsm_pep_purge_step(struct fsm *f, unsigned max); /* of nodes that were deleted or purged */

#endif
