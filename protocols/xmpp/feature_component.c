/* XEP-0114 as clients see it: the components that are connected anywhere are items of the server (XEP-0030
 * §4). */
#include "im/outside.h"
#include "protocols/xmpp/feature.h"

static void add_item(void *user, const char *domain)
{
    struct buf *out = user;
    buf_adds(out, "<item jid='");
    iq_escape(out, domain);
    buf_adds(out, "'/>");
}

static void disco_items(struct xmpp_iq *iq, struct buf *out)
{
    if (iq->scope == IQ_SERVER)
        outside_list(iq->shard, add_item, out);
}

const struct xmpp_feature feature_component = {
    .name = "component",
    .xep = "XEP-0114 1.6",
    .level = 3,
    .disco_items = disco_items,
    .disco_outside = true,
};
