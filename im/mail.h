/* Stored messages of one user on their way: what waits to be stored, the cursor that hands rows out, what the
 * sessions were given. Shard's thread. For the files about messages. */
#ifndef IM_MAIL_H
#define IM_MAIL_H

#include "im/envelope.h"
#include "im/user.h"

/* A stored message that was written to a session; a row stays pending until the mark of it is applied. */
struct mail_ref {
    struct list link;
    uint64_t index;
    uint32_t place;
    uint64_t session, out_end;
    bool sent, marking;
    struct given given;
};

struct mailqueue {
    struct list link;  /* in shard->mail */
    struct list check; /* in shard->mail_check: something was written that may be sent now */
    struct user *user;
    unsigned n_storing; /* proposals in flight, of what nobody has, or has any more */
    unsigned n_late;    /* and of what a session has: their rows are not to be handed out */
    struct list hold;   /* struct envelope: arrived behind stored messages that are not delivered yet */
    size_t hold_bytes;
    uint64_t own_index; /* the last row that this home had stored of what came before all of HOLD */
    uint64_t at_index;  /* the cursor: last row handed out */
    uint32_t at_place;
    uint64_t backlog;   /* rows up to this log index came when nobody was there for them: they are delayed */
    bool more;          /* there may be pending rows behind the cursor */
    unsigned n_waiting; /* rows that have come and were not handed out yet, about */
    struct list refs;   /* struct mail_ref */
    unsigned n_refs, n_sent; /* of them sent, and not marked yet */
};

enum { MAIL_WINDOW_ROWS = 256, MAIL_WINDOW_BYTES = 256 << 10 /* stored messages in a session's output */ };

struct mailqueue *mail_get(struct user *u);
bool mail_is_busy(const struct user *u); /* must a new message queue behind others? */
/* Takes E: after what is on its way. */
void mail_queue(struct shard *s, struct user *u, struct envelope *e);
void mail_tick(struct mailqueue *q); /* pump, end; may free the user */
/* The user is at home elsewhere now: passes on what waits, marks what was delivered. */
void mail_leave(struct user *u);

/* cursor.c. Hands out what there is, as far as the sessions take it. May free the user. */
void mail_pump(struct mailqueue *q);
/* The cursor goes back to the first row that may be pending. */
void mail_rewind(struct mailqueue *q);
/* What is stored up to now came while nobody was there. */
void mail_note_backlog(struct mailqueue *q);
/* The session has it already, up to OUT_END of its output; 0: and its client has got it.
 * GIVEN: to whom else; may be NULL. */
void mail_was_given(struct mailqueue *q, uint64_t index, uint32_t place, uint64_t session, uint64_t out_end,
                    const struct given *given);
bool mail_is_pending(struct shard *s, uint64_t uid, uint64_t index, uint32_t place);
/* The pending message as it is delivered; NULL: it is not pending (any more). */
struct envelope *mail_read(struct shard *s, uint64_t uid, uint64_t index, uint32_t place);
/* E was stored and is for nobody (RFC 6121 §8.5.3.2.1). */
void mail_refuse(struct shard *s, const struct envelope *e);
/* Refs of sessions whose output went out. */
void mail_check_sent(struct mailqueue *q);
void mail_session_ended(struct session *s);
void mail_ref_free(struct mailqueue *q, struct mail_ref *r);

enum { PICK_MAX = 32 }; /* sessions that get a message */
/* Of message.c: the sessions that get a message to the bare JID, at most MAX; returns how many. Those with a
 * connection come first. */
size_t message_pick(const struct user *u, struct session **out, size_t max);
/* The same for E, which may name a resource. */
size_t message_pick_for(const struct user *u, const char *to, struct session **out, size_t max);
/* Is there a session that will take messages once it has caught up? */
bool message_has_behind(const struct user *u);
/* Writes E to the picked sessions. Takes E. */
void message_deliver(struct shard *s, struct envelope *e, struct session **sessions, size_t n);

#endif
