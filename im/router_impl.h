/* Between the files of the router only. */
#ifndef IM_ROUTER_IMPL_H
#define IM_ROUTER_IMPL_H

#include "im/held.h"
#include "im/im_impl.h"
#include "im/router.h"

struct peer;

struct router {
    struct list peers;
    struct held held;      /* waiting for an index, the lease or the former home */
    struct peer *again;    /* its link is new: what is sent again now goes */
    struct list *again_at; /* before this one of its queue */
    bool homes_changed;
    bool advancing, advance_again;
};

/* Takes E to where its addressee is at home. */
void router_route(struct shard *s, struct envelope *e, struct session *from);
/* Answers E, which waited for a way or for somebody to look at it, with an error, unless another copy of it has arrived
 * before. Takes E. */
void router_refuse(struct shard *s, struct envelope *e, enum stanza_error error, const char *text);
void router_refuse_outlived(struct shard *s, struct envelope *e);

static inline uint64_t router_own_epoch(const struct shard *s)
{
    const struct member *self = members_find(s->members, im_node_id(s->im));
    return self ? self->epoch : 0;
}

/* Has this node been declared down since? Then the sender's session, or what was to be done with E here,
 * ended with that epoch: others have taken over, and it would come behind what was sent later. */
static inline bool router_is_outlived(const struct shard *s, const struct envelope *e)
{
    return e->epoch_here && e->epoch_here < router_own_epoch(s);
}

/* router_arrive.c */
void router_advance_held(struct shard *s);

/* router_nodes.c */
/* E to NODE, behind what waits for it. Takes E. FROM: as of router_send. */
void router_send_to_node(struct shard *s, uint32_t node, struct envelope *e, struct session *from);
void router_advance_nodes(struct shard *s);
/* Drops what waits for a link, of that session here. */
void router_forget_queued(struct shard *s, uint64_t session);
void router_free_nodes(struct router *r);

#endif
