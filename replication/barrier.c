#include "replication/barrier.h"

#include "base/err.h"
#include <string.h>

void barriers_init(struct barriers *b, const struct barrier_ops *ops, void *user, uint64_t first_id)
{
    memset(b, 0, sizeof(*b));
    b->ops = ops;
    b->user = user;
    b->next_id = first_id;
    list_init(&b->waits);
    list_init(&b->remotes);
}

static void finish(struct barriers *b, struct barrier_wait *w, int code)
{
    list_remove(&w->link);
    b->n_waits--;
    b->ops->done(b->user, w, code);
}

static void know_index(struct barriers *b, struct barrier_wait *w, uint64_t index)
{
    w->index = index;
    w->state = BARRIER_APPLY;
    if (b->applied >= index)
        finish(b, w, 0);
}

static void ask(struct barriers *b, struct barrier_wait *w, uint64_t now_ms)
{
    w->mark = b->mark;
    w->asked_ms = now_ms;
    uint64_t commit = b->ops->commit_index(b->user);
    if (commit) {
        w->index = commit;
        w->round = b->ops->want_round(b->user);
        w->state = BARRIER_ROUND;
    } else if (!b->is_leader && b->mark) {
        w->id = b->next_id++;
        if (b->ops->ask_leader(b->user, w->id))
            w->state = BARRIER_ASKED;
    }
}

void barriers_set(struct barriers *b, uint64_t mark, bool is_leader)
{
    if (mark != b->mark || is_leader != b->is_leader) {
        struct barrier_wait *w;
        list_for_each(w, &b->waits, struct barrier_wait, link) if (w->state != BARRIER_APPLY) w->state =
            BARRIER_NEW;
        struct barrier_remote *r;
        list_for_each(r, &b->remotes, struct barrier_remote, link)
        {
            b->ops->tell(b->user, r->node, r->id, 0);
            list_remove(&r->link);
            mem_free(r);
        }
        b->n_remotes = 0;
    }
    b->mark = mark;
    b->is_leader = is_leader;
}

bool barriers_add(struct barriers *b, struct barrier_wait *w, uint64_t now_ms, uint64_t deadline_ms)
{
    if (b->n_waits >= BARRIER_MAX_LOCAL)
        return false;
    *w = (struct barrier_wait){.deadline_ms = deadline_ms};
    list_append(&b->waits, &w->link);
    b->n_waits++;
    ask(b, w, now_ms);
    return true;
}

void barriers_pump(struct barriers *b, uint64_t now_ms)
{
    struct barrier_wait *w;
    list_for_each(w, &b->waits, struct barrier_wait, link)
    {
        if (now_ms >= w->deadline_ms)
            finish(b, w, w->state == BARRIER_NEW ? ERR_UNAVAILABLE : ERR_TIMEOUT);
        else if (w->state == BARRIER_NEW ||
                 (w->state == BARRIER_ASKED && now_ms >= w->asked_ms + BARRIER_AGAIN_MS))
            ask(b, w, now_ms);
    }
}

void barriers_on_round(struct barriers *b, uint64_t round)
{
    struct barrier_wait *w;
    list_for_each(w, &b->waits, struct barrier_wait, link) if (w->state == BARRIER_ROUND && w->round <= round)
        know_index(b, w, w->index);
    struct barrier_remote *r;
    list_for_each(r, &b->remotes, struct barrier_remote, link)
    {
        if (r->round > round)
            continue;
        b->ops->tell(b->user, r->node, r->id, r->index);
        list_remove(&r->link);
        b->n_remotes--;
        mem_free(r);
    }
}

void barriers_on_read(struct barriers *b, uint32_t node, uint64_t id)
{
    uint64_t commit = b->ops->commit_index(b->user);
    if (!commit || b->n_remotes >= BARRIER_MAX_REMOTE) {
        b->ops->tell(b->user, node, id, 0);
        return;
    }
    struct barrier_remote *r = mem_new(struct barrier_remote);
    r->node = node;
    r->id = id;
    r->index = commit;
    r->round = b->ops->want_round(b->user);
    list_append(&b->remotes, &r->link);
    b->n_remotes++;
}

void barriers_on_index(struct barriers *b, uint64_t id, uint64_t index)
{
    struct barrier_wait *w;
    list_for_each(w, &b->waits, struct barrier_wait, link)
    {
        if (w->state != BARRIER_ASKED || w->id != id)
            continue;
        if (index == 0)
            w->state = BARRIER_NEW; /* the next pump asks again */
        else
            know_index(b, w, index);
        return;
    }
}

void barriers_on_applied(struct barriers *b, uint64_t applied)
{
    b->applied = applied;
    struct barrier_wait *w;
    list_for_each(w, &b->waits, struct barrier_wait,
                  link) if (w->state == BARRIER_APPLY && applied >= w->index) finish(b, w, 0);
}

void barriers_end(struct barriers *b, int code)
{
    struct barrier_wait *w;
    list_for_each(w, &b->waits, struct barrier_wait, link) finish(b, w, code);
    struct barrier_remote *r;
    list_for_each(r, &b->remotes, struct barrier_remote, link)
    {
        list_remove(&r->link);
        mem_free(r);
    }
    b->n_remotes = 0;
}
