/* Between the files of im/ only. */
#ifndef IM_IM_IMPL_H
#define IM_IM_IMPL_H

#include "im/hooks.h"
#include "im/outside.h"
#include "im/shard.h"
#include <stdatomic.h>

struct user;

struct im {
    struct im_options options;
    struct log *log, *homes_log;
    char origin[40]; /* "node.random": begins the origin of every message stored by this life of the node */
    outside_deliver_fn *outside_deliver; /* written before im_start only */
    _Atomic bool serving;
    _Atomic uint64_t epoch; /* of this node's proposer session, as its links say it */
    _Atomic size_t n_sessions;
    _Atomic uint32_t sync_generation;
    /* Written before im_start only; bits by im_hook_id. */
    struct {
        const struct im_hook *list[N_IM_HOOKS];
        uint32_t to_user[N_STANZA_KINDS], delivered[N_STANZA_KINDS], on_feed;
    } hooks;
    bool started;
    unsigned n;
    struct shard shards[];
};

int shard_init(struct shard *s, struct im *im, unsigned index, struct err_ctx *err);
int shard_start(struct shard *s);
void shard_begin_stop(struct shard *s);
void shard_fini(struct shard *s);
void shard_drop_reader(struct shard *s);
/* shard_feed.c */
extern const struct feed_handler shard_feed; /* its user: the shard */
void shard_reload(struct shard *s);

void user_on_reload(struct shard *s);
void user_free(struct user *u);
void session_gate_changed(struct session *s);
void session_check_sent(struct shard *s);
void session_store_unacked(struct shard *s);
void router_homes_changed(struct shard *s);
bool router_is_holding(struct shard *s);
void message_check_sent(struct shard *s);
void message_tick(struct shard *s);
void message_reload(struct shard *s);
void message_user_freed(struct user *u);
void roster_user_freed(struct user *u);
void roster_tick(struct shard *s);

#endif
