#include "im/mail.h"
#include "im/im_impl.h"
#include "im/marks.h"
#include "im/message.h"
#include "im/router.h"
#include "im/store_out.h"
#include <string.h>

enum {
    HOLD_BYTES = 4 << 20, /* of messages that wait in memory behind stored ones, or for a slow reader */
    HOLD_SOFT = 1 << 20,  /* before senders are slowed */
    HOLD_THROTTLE_MS = 50,
};

struct mailqueue *mail_get(struct user *u)
{
    if (u->mail)
        return u->mail;
    struct mailqueue *q = mem_new(struct mailqueue);
    q->user = u;
    list_init(&q->check);
    list_init(&q->hold);
    list_init(&q->refs);
    list_append(&u->shard->mail, &q->link);
    u->mail = q;
    if (list_is_empty(&u->sessions))
        shard_place_of(u->shard, u->uid, NULL, &u->since);
    return q;
}

static void free_queue(struct mailqueue *q)
{
    struct mail_ref *r;
    list_for_each(r, &q->refs, struct mail_ref, link) mem_free(r);
    struct envelope *e;
    list_for_each(e, &q->hold, struct envelope, link) envelope_free(e);
    list_remove(&q->link);
    list_remove(&q->check);
    mem_free(q);
}

void message_user_freed(struct user *u)
{
    if (u->mail)
        free_queue(u->mail);
    u->mail = NULL;
}

bool mail_is_busy(const struct user *u)
{
    const struct mailqueue *q = u->mail;
    return q && (q->n_storing || q->more || !list_is_empty(&q->hold));
}

/* Nobody to wait for, or too much to wait with: all of it becomes stored messages, in this order. */
static void store_hold(struct mailqueue *q)
{
    struct shard *s = q->user->shard;
    q->hold_bytes = 0;
    for (struct list *item; (item = list_first(&q->hold));) {
        list_remove(item);
        store_out_away(s, list_entry(item, struct envelope, link));
    }
}

static void add_to_hold(struct mailqueue *q, struct envelope *e)
{
    struct list *at = q->hold.next;
    while (e->is_back && at != &q->hold && list_entry(at, struct envelope, link)->is_back)
        at = at->next;
    list_insert_before(e->is_back ? at : &q->hold, &e->link);
}

void mail_queue(struct shard *s, struct user *u, struct envelope *e)
{
    struct mailqueue *q = mail_get(u);
    struct session *any[1];
    bool somebody = (message_pick(u, any, 1) && !any[0]->detached) || message_has_behind(u);
    if (somebody && q->hold_bytes + e->n_bytes <= HOLD_BYTES) {
        q->hold_bytes += e->n_bytes;
        if (e->after_index < s->feed_seen) /* it comes behind what is stored by now */
            e->after_index = s->feed_seen;
        add_to_hold(q, e);
        if (q->hold_bytes > HOLD_SOFT)
            router_throttle(s, e, HOLD_THROTTLE_MS);
        return;
    }
    add_to_hold(q, e);
    store_hold(q);
}

/* Rows that no client was given are the next home's; those that one was must not come a second time. */
void mail_leave(struct user *u)
{
    struct mailqueue *q = u->mail;
    if (!q)
        return;
    q->more = false;
    for (struct list *item; (item = list_first(&q->hold));) {
        list_remove(item);
        router_forward(u->shard, list_entry(item, struct envelope, link));
    }
    q->hold_bytes = 0;
    if (q->n_sent)
        marks_propose_of(q);
}

void mail_tick(struct mailqueue *q)
{
    struct user *u = q->user;
    if (q->n_refs)
        mail_check_sent(q);
    mail_pump(q);
    struct session *any[1];
    bool somebody = message_pick(u, any, 1) && !any[0]->detached;
    bool waits = !list_is_empty(&q->hold) || (q->more && somebody);
    if (!list_is_empty(&q->hold) && !somebody && !message_has_behind(u)) {
        store_hold(q);
        return;
    }
    if (waits || q->n_storing || q->n_late || q->n_refs || (q->more && !list_is_empty(&u->sessions)))
        return;
    u->mail = NULL;
    free_queue(q);
    user_release(u);
}

static void send_refusal(void *arg, struct shard *s)
{
    router_send(s, arg, NULL);
}

/* The sender's home learns of the row from the same entry of the log, there or here. The error comes behind
 * that: behind the copies for the sender's other sessions (XEP-0280 §6.1), and the count that covers it. */
void mail_refuse(struct shard *s, const struct envelope *e)
{
    struct envelope *back = envelope_bounce(e, STANZA_SERVICE_UNAVAILABLE, NULL);
    if (!back)
        return;
    back->after_index = s->applied_index;
    shard_call(s, send_refusal, back);
}
