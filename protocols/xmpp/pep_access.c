/* Who asks, and what it may see (XEP-0060 §4.5, §6.5.9). */
#include "im/presence.h"
#include "im/user.h"
#include "protocols/xmpp/pep.h"
#include <string.h>

bool pep_is_on(const struct shard *s)
{
    return s->settings.level >= LEVEL_3;
}

const char *pep_requester(struct xmpp_iq *iq)
{
    const char *from = iq->envelope->from;
    if (iq->scope == IQ_SELF)
        return "";
    return iq->home ? iq->home->session.user->jid : arena_strndup(iq->arena, from, jid_bare_length(from));
}

const char *pep_owner_jid(struct xmpp_iq *iq)
{
    return iq->scope == IQ_SELF ? iq->home->session.user->jid : iq->envelope->to;
}

void pep_refuse_access(struct xmpp_iq *iq, enum pep_access why)
{
    switch (why) {
    case PEP_NO_PRESENCE:
        pep_refuse(iq, PEP_ERROR_PRESENCE, NULL);
        break;
    case PEP_NOT_IN_GROUP:
        pep_refuse(iq, PEP_ERROR_NOT_IN_GROUP, NULL);
        break;
    case PEP_MUST_ASK:
        pep_refuse(iq, PEP_ERROR_PENDING, "the owner has to approve a subscription");
        break;
    case PEP_NOT_LISTED:
        pep_refuse(iq, PEP_ERROR_CLOSED_NODE, NULL);
        break;
    default:
        iq_error(iq, STANZA_FORBIDDEN, NULL);
        break;
    }
}

Imp__PepNodeRow *pep_readable_node(struct xmpp_iq *iq, const char *name)
{
    struct store_txn *t = shard_txn(iq->shard);
    Imp__PepNodeRow *node = strcmp(name, NODE_PRIVATE) ? pep_find_node(t, iq->uid, name, iq->arena) : NULL;
    const char *who = pep_requester(iq);
    if (!node) {
        /* Strangers do not learn what there is not (XEP-0060 §6.5.9.3 against RFC 6121 §8.5.1). */
        if (*who && !presence_is_visible(iq->shard, iq->uid, who))
            pep_refuse(iq, PEP_ERROR_PRESENCE, NULL);
        else
            iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
        return NULL;
    }
    enum pep_access access = *who ? pep_check_access(t, iq->uid, node, who, iq->arena) : PEP_MAY;
    if (access == PEP_MAY)
        return node;
    pep_refuse_access(iq, access);
    return NULL;
}

bool pep_may_see(struct xmpp_iq *iq, uint64_t owner, const char *const *nodes)
{
    struct store_txn *t = shard_txn(iq->shard);
    const char *who = pep_requester(iq);
    for (; *nodes && *who; nodes++) {
        const Imp__PepNodeRow *node = pep_find_node(t, owner, *nodes, iq->arena);
        if (node && pep_check_access(t, owner, node, who, iq->arena) != PEP_MAY)
            return false;
    }
    return true;
}
