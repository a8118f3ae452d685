/* XEP-0092: software version, of the server. */
#include "protocols/xmpp/feature.h"

#define NS_VERSION "jabber:iq:version"

static void handle(struct xmpp_iq *iq)
{
    struct buf out = {0};
    buf_adds(&out, "<query xmlns='" NS_VERSION "'><name>imp</name><version>");
    iq_escape(&out, im_release(iq->shard->im));
    buf_adds(&out, "</version></query>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_VERSION, "query", IQ_SERVER, .get = true, .handle = handle, .outside = true},
    {0},
};
static const char *const features[] = {NS_VERSION, NULL};
const struct xmpp_feature feature_version = {
    .name = "version",
    .xep = "XEP-0092 1.1",
    .server_features = features,
    .handlers = handlers,
};
