/* XEP-0202: entity time, of the server; always UTC, as where the node stands is nobody's business. */
#include "base/clock.h"
#include "protocols/xmpp/feature.h"

#define NS_TIME "urn:xmpp:time"

static void handle(struct xmpp_iq *iq)
{
    char now[32];
    clock_format_utc(now, clock_wall_ms(), 0);
    struct buf out = {0};
    buf_addf(&out, "<time xmlns='" NS_TIME "'><tzo>+00:00</tzo><utc>%s</utc></time>", now);
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_TIME, "time", IQ_SERVER, .get = true, .handle = handle, .outside = true},
    {0},
};
static const char *const features[] = {NS_TIME, NULL};
const struct xmpp_feature feature_time = {
    .name = "time",
    .xep = "XEP-0202 2.0",
    .server_features = features,
    .handlers = handlers,
};
