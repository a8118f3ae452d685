/* Hand-over of users between homes: what connects the protocol (cluster/handover.h), on the control loop,
 * with the shards that hold the users and with the links.
 *
 * A shard answers ROUTED when it has handled the feed up to the index: sessions of users that have left are
 * closed, and what it sends goes to their new homes. It answers RELEASED when in addition no proposal of
 * theirs is in flight and nothing that came for them is still held. The floor comes to the shards as a
 * letter, so that it never overtakes the envelopes that a former home has passed on before it. */
#ifndef IM_HOMES_H
#define IM_HOMES_H

#include "cluster/handover.h"
#include "cluster/members.h"
#include "im/shard.h"

struct homes;

struct homes_options {
    struct im *im;
    struct loop *loop;                        /* the control loop */
    struct links *links;                      /* NULL in tests, which have these instead: */
    bool (*hears)(void *user, uint32_t node); /* links_hears */
    void *user;
};

/* ---- control loop ---- */
/* Between im_new and im_start: from now on users must have been handed over before they are served. */
struct homes *homes_new(const struct homes_options *o);
void homes_free(struct homes *h); /* after im_stop; when the control loop delivers nothing any more */
/* The member table, before homes_moved of the same index. */
void homes_set_members(struct homes *h, const struct members *m);
/* At INDEX, as the feed told it, or since the last call, a row of a user or a node has changed. */
void homes_moved(struct homes *h, uint64_t index);
/* A log index that another node asks about (one that has just started begins where its store is) and this one knows of
 * no change at, so that it would never say that it has got there; 0: none. Once applied: homes_moved. */
uint64_t homes_asked_for(const struct homes *h);
void homes_set_epoch(struct homes *h, uint64_t epoch); /* of this node's proposer session */
/* Registered with links by homes_new. */
void homes_on_frame(void *homes, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes);
void homes_on_link_up(void *homes, uint32_t node, uint64_t epoch);
void homes_tick(struct homes *h); /* every 200 ms or so */
/* Has this node handed over everybody who was to leave by INDEX? */
bool homes_have_left(const struct homes *h, uint64_t index);

/* ---- on the shard ---- */
void homes_shard_init(struct shard *s);
/* The feed, the floor, a proposal or a held envelope has changed: looked at once, later in this turn. */
void homes_touch(struct shard *s);
/* False: the next floor still waits for a log index. */
bool homes_raise_floor(struct shard *s);

#endif
