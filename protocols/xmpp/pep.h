/* PEP (XEP-0060 as XEP-0163 needs it): what the features around it share. Shard's thread; between the files
 * of protocols/xmpp only.
 *
 * Reading is done where the asking client's home is: the store is the same everywhere. Writing is a command
 * of that home as well. What has changed is then told from the owner's shard of the same node (pep_notify).
 */
#ifndef XMPP_PEP_H
#define XMPP_PEP_H

#include "protocols/xmpp/feature.h"
#include "replication/levels.h"
#include "replication/pep.h"
#include "replication/settings.h"

#define NS_PUBSUB "http://jabber.org/protocol/pubsub"
#define NS_PUBSUB_OWNER NS_PUBSUB "#owner"
#define NS_PUBSUB_EVENT NS_PUBSUB "#event"
#define NS_PUBSUB_ERRORS NS_PUBSUB "#errors"
#define NS_DATA_FORM "jabber:x:data"

#define NODE_AVATAR_DATA "urn:xmpp:avatar:data"
#define NODE_AVATAR_METADATA "urn:xmpp:avatar:metadata"
#define NODE_BOOKMARKS "urn:xmpp:bookmarks:1"
#define NODE_BOOKMARKS_OLD "storage:bookmarks"
#define NODE_DISPLAYED "urn:xmpp:mds:displayed:0"
#define NODE_VCARD4 "urn:xmpp:vcard4"
/* Private XML (XEP-0049) lies among the nodes; clients get at it by jabber:iq:private alone. */
#define NODE_PRIVATE "jabber:iq:private"

bool pep_is_on(const struct shard *s); /* the cluster's feature level has it */

/* ---- pep_form.c: configurations as forms ---- */
/* What a node of this name is made with, when nothing else is asked for. */
void pep_config_initial(Imp__PepConfig *c, const char *node);
/* Takes the submitted form's fields into C, which is filled already. FIELDS: those it had. STRICT: an unknown
 * field is an error. 0; ERR_INVALID with a sentence in WHY; ERR_UNSUPPORTED: the unknown field. */
int pep_form_read(const struct xml *form, const char *form_type, bool strict, Imp__PepConfig *c,
                  uint32_t *fields, struct arena *a, const char **why);
void pep_form_write(struct buf *out, const Imp__PepConfig *c, const char *form_type, const char *type);

/* ---- pep_error.c ---- */
/* Refusals with a condition of XEP-0060: X(ID, stanza error, "condition", "feature"). */
#define PEP_ERRORS(X)                                                                                        \
    X(CLOSED_NODE, NOT_ALLOWED, "closed-node", NULL)                                                         \
    X(PRECONDITION, CONFLICT, "precondition-not-met", NULL)                                                  \
    X(PRESENCE, NOT_AUTHORIZED, "presence-subscription-required", NULL)                                      \
    X(NOT_IN_GROUP, NOT_AUTHORIZED, "not-in-roster-group", NULL)                                             \
    X(NOT_SUBSCRIBED, UNEXPECTED_REQUEST, "not-subscribed", NULL)                                            \
    X(INVALID_JID, BAD_REQUEST, "invalid-jid", NULL)                                                         \
    X(NODE_REQUIRED, BAD_REQUEST, "nodeid-required", NULL)                                                   \
    X(ITEM_REQUIRED, BAD_REQUEST, "item-required", NULL)                                                     \
    X(PAYLOAD_REQUIRED, BAD_REQUEST, "payload-required", NULL)                                               \
    X(INVALID_PAYLOAD, BAD_REQUEST, "invalid-payload", NULL)                                                 \
    X(INVALID_OPTIONS, BAD_REQUEST, "invalid-options", NULL)                                                 \
    X(TOO_BIG, NOT_ACCEPTABLE, "payload-too-big", NULL)                                                      \
    X(NO_OPTIONS, FEATURE_NOT_IMPLEMENTED, "unsupported", "subscription-options")                            \
    X(NO_INSTANT_NODES, NOT_ACCEPTABLE, "nodeid-required", NULL)                                             \
    X(PENDING, NOT_AUTHORIZED, "pending-subscription", NULL)
enum pep_error {
#define X(id, error, condition, feature) PEP_ERROR_##id,
    PEP_ERRORS(X)
#undef X
};
void pep_refuse(struct xmpp_iq *iq, enum pep_error error, const char *text);
void pep_refuse_later(struct iq_later *l, struct session *s, enum pep_error error, const char *text);
/* For a refusal of the state machine. */
void pep_answer_refusal(struct iq_later *l, struct session *s, const struct proposal_result *result);

/* ---- pep_access.c ---- */
const char *pep_requester(struct xmpp_iq *iq); /* bare JID; "" for the owner itself */
const char *pep_owner_jid(struct xmpp_iq *iq); /* bare JID of the account asked about */
/* The node that the request names, if it is there and may be read; NULL: refused already. */
Imp__PepNodeRow *pep_readable_node(struct xmpp_iq *iq, const char *name);
void pep_refuse_access(struct xmpp_iq *iq, enum pep_access why);
/* May the session's user read all of what OWNER has under the names? Missing nodes count as readable. */
bool pep_may_see(struct xmpp_iq *iq, uint64_t owner, const char *const *nodes);

/* ---- pep_notify.c ---- */
struct pep_change {
    uint64_t owner;
    const char *owner_jid, *node;
    const Imp__PepConfig *config;
    uint32_t number;                /* of the node, for its subscribers */
    const char *publisher;          /* full JID; NULL: not told */
    const char *const *subscribers; /* JIDs, ended by NULL, of a node that goes with them; NULL: as stored */
    const char *inner;              /* <event/> */
    size_t n_inner;
    uint64_t index; /* log index of the change */
};
/* Tells everybody who wants to know. Any shard. */
void pep_notify(struct shard *s, const struct pep_change *c);
/* <event><items node=''><item .../></items></event>; PAYLOAD NULL: without. */
void pep_event_item(struct buf *out, const char *node, const char *id, const char *publisher,
                    const void *payload, size_t n_bytes);
void pep_event_retract(struct buf *out, const char *node, const char *id);

/* ---- pep_write.c: one PepWrite, what is told of it, and the answer ---- */
struct pep_write;
/* For the account of OWNER, by the client that asks. */
struct pep_write *pep_write_new(struct c2s_home *h, uint64_t owner, const char *owner_jid);
struct arena *pep_write_arena(struct pep_write *w);
/* Strings and bytes must live until the submit; those of pep_write_arena do. CONFIG: of a new node, and what
 * FIELDS must agree with; NULL: the initial one. */
void pep_write_publish(struct pep_write *w, const char *node, const char *id, const void *payload,
                       size_t n_bytes, const Imp__PepConfig *config, uint32_t fields);
void pep_write_retract(struct pep_write *w, const char *node, const char *id, bool optional, bool notify);
void pep_write_vcard(struct pep_write *w, const void *xml, size_t n_bytes);
/* Submits and answers: RESULT (may be NULL) is the inner XML. IQ NULL: nobody waits for an answer. Ends W. */
void pep_write_submit(struct pep_write *w, struct xmpp_iq *iq, const char *result);
void pep_write_drop(struct pep_write *w);

/* ---- what certain nodes mean: pep_special.c and the files of each ---- */
/* Adds to W what else a publication means: an avatar, bookmarks, a vCard. 0, or the error (answered as TEXT
 * says). */
int pep_special_publish(struct pep_write *w, struct xmpp_iq *iq, const char *node, const char *id,
                        const struct xml *payload, const char **text);
void pep_special_retract(struct pep_write *w, struct xmpp_iq *iq, const char *node, const char *id);
/* After W: what has changed is shown elsewhere, too (presence with the avatar, bookmarks in their old form).
 */
void pep_special_done(struct session *s, struct shard *shard, const Imp__PepWrite *w, uint64_t index);
/* The same after all items of NODE have gone, or the node itself. S: of who did it; NULL: it has ended. */
void pep_special_emptied(struct session *s, struct shard *shard, uint64_t uid, const char *node,
                         uint64_t index);

/* ---- feature_pep.c ---- */
struct event_nodes;
/* The session's wishes have changed: last items of nodes that it did not want before. */
void pep_send_last(struct session *s, struct event_nodes *before);
/* The same for resource JID of a contact at a component, in the name of user OF. */
void pep_send_last_outside(struct shard *s, uint64_t of, const char *of_jid, const char *jid,
                           const struct event_nodes *wanted, const struct event_nodes *before);
/* <item/> and when it was published. */
void pep_last_event(struct buf *out, const char *node, const Imp__PepItemRow *item, bool payload);

#endif
