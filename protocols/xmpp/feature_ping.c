/* XEP-0199: ping. */
#include "protocols/xmpp/feature.h"

#define NS_PING "urn:xmpp:ping"

static void handle(struct xmpp_iq *iq)
{
    iq_result(iq, NULL, 0);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_PING, "ping", IQ_SERVER | IQ_SELF, .get = true, .handle = handle, .outside = true},
    {0},
};
static const char *const features[] = {NS_PING, NULL};
const struct xmpp_feature feature_ping = {
    .name = "ping",
    .xep = "XEP-0199 2.0.1",
    .server_features = features,
    .account_features = features,
    .handlers = handlers,
};
