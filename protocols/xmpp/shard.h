/* What protocols/xmpp keeps per shard. Between its files only. */
#ifndef XMPP_SHARD_H
#define XMPP_SHARD_H

#include "base/htab.h"
#include "im/shard.h"
#include "protocols/xmpp/home.h"

struct xmpp_shard {
    struct xmpp *xmpp;
    struct shard *shard;
    struct shard_watcher watcher;
    struct list active;      /* struct c2s_local whose parser is not parked, least recently looked at first */
    struct list asking;      /* struct sm: one side waits for an acknowledgement */
    uint64_t idle_checked_ms;
    struct arena scratch;    /* of plain stanzas: xml_stream_set_scratch */
    struct list unbound;     /* struct c2s_home that has bound no resource yet, oldest first */
    struct list inlined;     /* struct c2s_home in HOME_INLINE */
    uint64_t next_inline;
    struct list detached;    /* struct sm: sessions that can be resumed (sm.h) */
    struct list closing;     /* struct closing: rows of sessions that are being closed */
    struct list orphans;     /* struct sm_orphan: rows of such sessions that nobody has; */
    unsigned n_orphans_seen; /* and where the look at all rows is */
    struct key sweep;
    struct list binding;     /* struct c2s_home that waits until its user may be served here */
    struct htab relays_edge; /* struct relay_edge by id */
    struct htab relays_home; /* struct relay_home by node and id */
    struct list relays_owing; /* struct relay_edge: its home is not told yet what its client has taken */
    struct timer credit;
    uint64_t next_relay;
    struct mam_shard *mam; /* queries of archives (mam.h); NULL: none yet */
    struct service *service; /* service.h */
    struct components *components; /* component.h; NULL in tests without them */
    struct timer tick; /* 1 s */
    struct caps_cache *caps; /* made when first used (caps.h) */
    struct caps_outside *caps_outside; /* the same (caps_outside.h) */
};

/* local.c */
void c2s_local_open(struct shard *at, struct shard *target, struct stream *stream, struct xml_stream *parser,
                    struct c2s_login *login);
void c2s_local_park(struct xmpp_shard *xs); /* parsers of clients that were silent for a second */

/* relay_edge.c, relay_home.c */
void relay_edge_open(struct shard *at, uint32_t home_node, struct stream *stream, struct xml_stream *parser,
                     struct c2s_login *login);
void relay_shard_init(struct xmpp_shard *xs);
void relay_shard_fini(struct xmpp_shard *xs);
void relay_edge_stop(struct xmpp_shard *xs);
/* The node is drained: the homes are asked to close what this edge relays, so that nothing is lost on the way. */
void relay_edge_leave(struct xmpp_shard *xs);
void relay_link_down(struct xmpp_shard *xs, uint32_t node);

/* bind.c: those that waited, once more. */
void home_bind_again(struct xmpp_shard *xs);

/* home_idle.c: handshake and idle time-outs. */
void home_check_times(struct xmpp_shard *xs);

#endif
