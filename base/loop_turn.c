/* What a turn of a loop consists of, whatever drives it: mail, deferred work, hooks, output. */
#include "base/loop_impl.h"
#include <assert.h>

/* Deferred work and hooks may cause one another; after this many rounds the rest waits for the next turn,
 * before which the loop only looks at its files and does not sleep. */
enum { MAX_ROUNDS = 16 };

struct letter *loop_take_mail(struct loop *l)
{
    struct letter *in_order = NULL;
    struct letter *newest = atomic_exchange_explicit(&l->mailbox, NULL, memory_order_acquire);
    while (newest) {
        struct letter *next = newest->next;
        newest->next = in_order;
        in_order = newest;
        newest = next;
    }
    return in_order;
}

void loop_deliver_mail(struct loop *l)
{
    for (struct letter *letter = loop_take_mail(l), *next; letter; letter = next) {
        next = letter->next;
        letter->deliver(letter);
    }
}

void loop_run_deferred(struct loop *l)
{
    struct list batch;
    list_init(&batch);
    /* What is deferred meanwhile goes to the next round. */
    for (struct list *item; (item = list_first(&l->deferred));) {
        list_remove(item);
        list_append(&batch, item);
    }
    for (struct list *item; (item = list_first(&batch));) {
        list_remove(item);
        struct deferred *d = list_entry(item, struct deferred, link);
        d->fn(d);
    }
}

static void run_hooks(struct loop *l)
{
    /* A marker walks along, since a hook may remove itself or any other. */
    struct list marker;
    list_init(&marker);
    list_prepend(&l->hooks, &marker);
    while (marker.next != &l->hooks) {
        struct loop_hook *hook = list_entry(marker.next, struct loop_hook, link);
        list_remove(&marker);
        list_insert_before(hook->link.next, &marker);
        hook->fn(hook);
    }
    list_remove(&marker);
}

/* The end of a turn: deferred work, hooks, then the output of all streams. */
bool loop_settle(struct loop *l)
{
    for (int round = 0; round < MAX_ROUNDS; round++) {
        loop_run_deferred(l);
        run_hooks(l);
        if (l->streams)
            l->streams_flush(l->streams);
        if (list_is_empty(&l->deferred))
            return true;
    }
    return false;
}

void loop_set_metrics(struct loop *l, struct metrics *m)
{
    l->turns = metrics_add_loop(m, l->name);
}

void loop_add_before_poll(struct loop *l, struct loop_hook *hook)
{
    assert(loop_is_current(l));
    list_append(&l->hooks, &hook->link);
}

void loop_remove_before_poll(struct loop_hook *hook)
{
    list_remove(&hook->link);
}

void loop_defer(struct loop *l, struct deferred *d)
{
    assert(loop_is_current(l));
    if (list_is_empty(&d->link))
        list_append(&l->deferred, &d->link);
}

void loop_cancel_deferred(struct deferred *d)
{
    list_remove(&d->link);
}
