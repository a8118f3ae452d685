#include "im/hooks.h"
#include "im/im_impl.h"
#include "im/user.h"

void im_add_hook(struct im *im, const struct im_hook *hook)
{
    im->hooks.list[hook->id] = hook;
    for (int kind = 0; kind < N_STANZA_KINDS; kind++) {
        if (!(hook->kinds & 1U << kind))
            continue;
        if (hook->to_user)
            im->hooks.to_user[kind] |= 1U << hook->id;
        if (hook->delivered)
            im->hooks.delivered[kind] |= 1U << hook->id;
    }
    if (hook->on_feed)
        im->hooks.on_feed |= 1U << hook->id;
}

void im_hook_on(struct user *u, enum im_hook_id id)
{
    u->hooks |= 1U << id;
}

void im_hook_off(struct user *u, enum im_hook_id id)
{
    u->hooks &= ~(1U << id);
}

static const struct im_hook *take_first(const struct im *im, uint32_t *mask)
{
    int i = __builtin_ctz(*mask);
    *mask &= *mask - 1;
    return im->hooks.list[i];
}

enum to_user im_hooks_to_user(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                              bool fan_out)
{
    uint32_t mask = s->im->hooks.to_user[e->kind] & (u ? u->hooks : UINT32_MAX);
    enum to_user what = TO_USER_GO_ON;
    while (mask && what == TO_USER_GO_ON)
        what = take_first(s->im, &mask)->to_user(s, uid, u, e, fan_out);
    return what;
}

void im_hooks_delivered(struct shard *s, uint64_t uid, struct user *u, const struct envelope *e,
                        struct session *const *to, size_t n)
{
    uint32_t mask = s->im->hooks.delivered[e->kind] & (u ? u->hooks : UINT32_MAX);
    while (mask)
        take_first(s->im, &mask)->delivered(s, uid, u, e, to, n);
}

void im_hooks_on_feed(struct shard *s, struct user *u, const struct feed_event *event)
{
    uint32_t mask = s->im->hooks.on_feed;
    while (mask)
        take_first(s->im, &mask)->on_feed(s, u, event);
}

void im_hooks_granted(struct shard *s, uint64_t of, uint64_t to_uid, const char *to, uint64_t index)
{
    for (int i = 0; i < N_IM_HOOKS; i++) {
        const struct im_hook *hook = s->im->hooks.list[i];
        if (hook && hook->granted)
            hook->granted(s, of, to_uid, to, index);
    }
}
