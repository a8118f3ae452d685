/* Stored messages of one user on their way: proposals to store, the cursor that hands rows out, marks.
 * Shard's thread. For message.c and mail.c. */
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
};

struct mailqueue {
    struct list link; /* in shard->mail */
    struct user *user;
    unsigned n_storing; /* proposals in flight */
    struct list hold;   /* struct envelope: arrived behind stored messages that are not delivered yet */
    size_t hold_bytes;
    uint64_t at_index; /* the cursor: last row handed out */
    uint32_t at_place;
    bool more;        /* there may be pending rows behind the cursor */
    struct list refs; /* struct mail_ref */
    unsigned n_refs;
};

struct mailqueue *mail_get(struct user *u);
bool mail_is_busy(const struct user *u); /* must a new message queue behind others? */
/* Proposes to store E; it comes back as an error if that is refused. Takes E. */
void mail_store(struct shard *s, struct envelope *e);
/* Takes E: after what is on its way. */
void mail_queue(struct shard *s, struct user *u, struct envelope *e);
/* Hands out what there is, as far as the sessions take it. May free the user. */
void mail_pump(struct mailqueue *q);
void mail_look_at_output(struct shard *s);
void mail_check_sent(struct mailqueue *q); /* marks what has been written */
void mail_tick(struct mailqueue *q);       /* marks, pump, end; may free the user */
/* The user is at home elsewhere now: passes on what waits, marks what was delivered. */
void mail_leave(struct user *u);

/* Of message.c: the sessions that get a message to the bare JID, at most MAX; returns how many. */
size_t message_pick(const struct user *u, struct session **out, size_t max);
/* Is there a session that will take messages once it has caught up? */
bool message_has_behind(const struct user *u);
/* Writes E to the picked sessions. Takes E. */
void message_deliver(struct shard *s, struct envelope *e, struct session **sessions, size_t n);

#endif
