#include "im/fence.h"
#include "im/im_impl.h"
#include "im/router.h"
#include "im/user.h"

enum {
    FENCE_MS = 1000 /* what was sent longer ago has arrived; an answer that takes longer is not waited for */
};

struct fence {
    struct list link; /* in shard->fences, the oldest first */
    struct session *session;
    uint64_t number, since_ms, to_uid;
};

void fence_note(struct session *s, const struct envelope *e)
{
    uint64_t now = loop_now_ms(s->shard->loop);
    bool other = s->direct_ms && now - s->direct_ms < FENCE_MS && s->direct_uid != e->to_uid;
    s->direct_uid = other ? FENCE_SEVERAL : e->to_uid;
    s->direct_ms = now;
    s->fenced_uid = 0;
}

static void ask(struct session *s, const struct envelope *to)
{
    struct shard *shard = s->shard;
    struct fence *f = mem_new(struct fence);
    f->session = s;
    f->number = ++shard->n_sent;
    f->to_uid = to->to_uid;
    f->since_ms = loop_now_ms(shard->loop);
    list_append(&shard->fences, &f->link);
    s->fence = f;
    struct envelope *e =
        envelope_new(&(struct envelope_parts){.type = MESSAGE_NORMAL, .from = s->jid, .to = to->to});
    e->flags = ENVELOPE_FENCE | ENVELOPE_NO_BOUNCE;
    e->from_uid = s->user->uid;
    e->to_uid = to->to_uid;
    e->session = s->id;
    e->n_in = f->number;
    e->after_index = s->after_index;
    router_send_now(shard, e, NULL);
}

bool fence_holds(struct session *s, const struct envelope *e)
{
    if (s->fence)
        return true;
    if (!s->direct_ms || !e->to_uid || e->to_uid == s->fenced_uid)
        return false;
    if (loop_now_ms(s->shard->loop) - s->direct_ms >= FENCE_MS) {
        s->direct_ms = 0;
        return false;
    }
    uint32_t home =
        s->direct_uid == e->to_uid || s->direct_uid == FENCE_SEVERAL ? shard_home_of(s->shard, e->to_uid) : 0;
    if (!home || home == im_node_id(s->shard->im))
        return false;
    ask(s, e);
    return true;
}

void fence_answer(struct shard *s, const struct envelope *e)
{
    struct envelope *t = envelope_new(&(struct envelope_parts){.type = MESSAGE_NORMAL, .to = e->from});
    t->flags = ENVELOPE_FENCE | ENVELOPE_SETTLED | ENVELOPE_NO_BOUNCE;
    t->to_uid = e->from_uid;
    t->session = e->session;
    t->n_in = e->n_in;
    router_pass(s, t);
}

/* Nothing was sent meanwhile: it would have waited, too. */
static void pass(struct fence *f)
{
    struct session *s = f->session;
    if (s->direct_uid == FENCE_SEVERAL)
        s->fenced_uid = f->to_uid;
    else
        s->direct_ms = 0;
}

static void drop(struct fence *f)
{
    f->session->fence = NULL;
    list_remove(&f->link);
    mem_free(f);
}

bool fence_passed(struct session *s, uint64_t number)
{
    if (!s->fence || s->fence->number != number)
        return false;
    pass(s->fence);
    drop(s->fence);
    return true;
}

struct session *fence_overdue(struct shard *s)
{
    struct list *first = list_first(&s->fences);
    struct fence *f = first ? list_entry(first, struct fence, link) : NULL;
    if (!f || loop_now_ms(s->loop) - f->since_ms < FENCE_MS)
        return NULL;
    struct session *session = f->session;
    pass(f);
    drop(f);
    return session;
}

void fence_session_ended(struct session *s)
{
    if (s->fence)
        drop(s->fence);
}
