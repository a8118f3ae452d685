/* Queries of an archive, or of what waits for delivery, under way (XEP-0313 §4, XEP-0013). Shard's thread.
 *
 * A query walks the index for the ids of one page, perhaps counts what there is besides, and then writes the
 * page as the client's output drains; each step is bounded, and the queries of a shard take turns. It refers
 * to its session by id and ends with it. What it holds: one page of ids. */
#ifndef XMPP_MAM_H
#define XMPP_MAM_H

#include "im/archive.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/rsm.h"

#define NS_MAM "urn:xmpp:mam:2"
#define NS_OFFLINE "http://jabber.org/protocol/offline"

enum {
    MAM_PAGE_MAX = 250,
    MAM_PAGE = 100 /* when the client names no size */,
    MAM_QUERIES_MAX = 8 /* of one session */
};

struct mam_request {
    const char *query_id;         /* NULL: none */
    struct archive_filter filter; /* without paging */
    struct rsm rsm;
    struct archive_id page_after, page_before; /* of RSM; archive_first, archive_last: not given */
    struct archive_id *ids;                    /* only these, ascending, if N_IDS */
    size_t n_ids;
    bool flip;    /* XEP-0313 §4.3.4 */
    bool offline; /* XEP-0013 §2.4, §2.6: the filter's messages as they are, all pages of them */
};
/* Answers IQ, now or later. Strings of REQUEST are copied. */
void mam_begin(struct xmpp_iq *iq, const struct mam_request *request);

/* feature_offline.c: what waits for the session's user and is in the archive, too, is not delivered any more; before
 * the session's next stanza is looked at. */
void offline_forget_archived(struct session *s);

/* For xmpp.c, at the end: drops the queries of a shard. */
void mam_shard_fini(struct xmpp_shard *xs);

#endif
