#include "im/session_admin.h"
#include "im/im_impl.h"
#include "im/user.h"
#include <string.h>

/* One question that goes through the shards one after the other and ends on the asker's loop. */
struct question {
    struct letter letter;
    struct im *im;
    struct loop *loop;
    unsigned at;
    uint64_t uid;
    char *resource; /* kick: NULL for all */
    size_t max, n, cap;
    struct session_info *infos;
    bool truncated, kick;
    session_list_fn *on_list;
    session_kick_fn *on_kick;
    void *user;
};

static void free_question(struct question *q)
{
    mem_free(q->infos);
    mem_free(q->resource);
    mem_free(q);
}

static void answer(struct letter *letter)
{
    struct question *q = container_of(letter, struct question, letter);
    if (q->kick)
        q->on_kick(q->user, q->n);
    else
        q->on_list(q->user, q->infos, q->n, q->truncated);
    free_question(q);
}

static void discard(struct letter *letter)
{
    free_question(container_of(letter, struct question, letter));
}

static void describe(struct question *q, struct shard *s, const struct session *session)
{
    if (q->n == q->max) {
        q->truncated = true;
        return;
    }
    if (q->n == q->cap) {
        q->cap = q->cap ? q->cap * 2 : 16;
        q->infos = mem_realloc(q->infos, q->cap * sizeof *q->infos);
    }
    struct session_info *info = &q->infos[q->n++];
    memset(info, 0, sizeof *info);
    info->id = session->id;
    info->uid = session->user->uid;
    info->since_ms = session->since_ms;
    info->node = im_node_id(s->im);
    info->available = session->presence != NULL;
    info->priority = session->priority;
    strncpy(info->resource, session->resource, sizeof info->resource - 1);
    session->ops->describe(session, info);
}

static void kick_user(struct question *q, struct shard *s)
{
    struct user *u;
    struct session *session;
    while ((u = user_find(s, q->uid)) && !list_is_empty(&u->sessions)) {
        session = q->resource ? user_find_session(u, q->resource)
                              : list_entry(list_first(&u->sessions), struct session, link);
        if (!session)
            return;
        session->ops->close(session, SESSION_KICKED);
        session_end(session);
        q->n++;
    }
}

static void ask_shard(void *arg, struct shard *s)
{
    struct question *q = arg;
    struct session *session;
    if (q->kick) {
        kick_user(q, s);
    } else if (q->uid) {
        struct user *u = user_find(s, q->uid);
        if (u)
            list_for_each(session, &u->sessions, struct session, link) describe(q, s, session);
    } else {
        htab_for_each(node, &s->sessions) describe(q, s, container_of(node, struct session, node));
    }
    if (!q->uid && ++q->at < q->im->n) {
        shard_call(&q->im->shards[q->at], ask_shard, q);
        return;
    }
    q->letter.deliver = answer;
    q->letter.discard = discard;
    loop_post(q->loop, &q->letter);
}

static void ask(struct question *q)
{
    shard_call(q->uid ? im_shard_of(q->im, q->uid) : &q->im->shards[0], ask_shard, q);
}

void session_admin_list(struct im *im, uint64_t uid, size_t max, struct loop *loop, session_list_fn *on_list,
                        void *user)
{
    struct question *q = mem_new(struct question);
    q->im = im;
    q->loop = loop;
    q->uid = uid;
    q->max = max;
    q->on_list = on_list;
    q->user = user;
    ask(q);
}

void session_admin_kick(struct im *im, uint64_t uid, const char *resource, struct loop *loop,
                        session_kick_fn *on_done, void *user)
{
    struct question *q = mem_new(struct question);
    q->im = im;
    q->loop = loop;
    q->uid = uid;
    q->kick = true;
    q->resource = mem_strdup(resource);
    q->on_kick = on_done;
    q->user = user;
    ask(q);
}

size_t session_admin_count(const struct im *im)
{
    return atomic_load_explicit(&((struct im *)im)->n_sessions, memory_order_relaxed);
}
