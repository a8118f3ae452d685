/* Between the files of XEP-0060: requests by their element. Each answers exactly once. */
#ifndef XMPP_PUBSUB_H
#define XMPP_PUBSUB_H

#include "protocols/xmpp/pep.h"

void pubsub_subscribe(struct xmpp_iq *iq, const struct xml *x);
void pubsub_unsubscribe(struct xmpp_iq *iq, const struct xml *x);
void pubsub_subscriptions(struct xmpp_iq *iq, const struct xml *x);
void pubsub_affiliations(struct xmpp_iq *iq, const struct xml *x);
void pubsub_create(struct xmpp_iq *iq, const struct xml *x);
void pubsub_default(struct xmpp_iq *iq, const struct xml *x);
void pubsub_owner(struct xmpp_iq *iq); /* namespace pubsub#owner */

/* A node made, or configured anew. */
void pubsub_submit_node(struct xmpp_iq *iq, const char *node, Imp__PepConfig *config, bool create);

extern const char *const pubsub_affiliation_names[]; /* by Imp__PepAffiliation */

/* bookmarks.c: the node storage:bookmarks as an <item/>, made of urn:xmpp:bookmarks:1; nothing when there are
 * none. */
void bookmarks_old_item(struct shard *s, uint64_t uid, struct buf *out);

#endif
