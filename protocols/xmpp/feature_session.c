/* The old session request (RFC 3921 §3): answered, of no effect; and a second bind. */
#include "protocols/xmpp/feature.h"

static void handle(struct xmpp_iq *iq)
{
    iq_result(iq, NULL, 0);
}

/* RFC 6120 §7.6.2.2: one resource for a stream. */
static void refuse_bind(struct xmpp_iq *iq)
{
    iq_error(iq, STANZA_NOT_ALLOWED, "a resource is bound");
}

static bool is_of_use(const struct c2s_home *h, enum stream_stage stage)
{
    (void)h;
    return stage == STREAM_UNBOUND;
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_BIND, "bind", IQ_SERVER | IQ_SELF, .set = true, .handle = refuse_bind},
    {NS_SESSION, "session", IQ_SERVER | IQ_SELF, .set = true, .handle = handle},
    {0},
};
const struct xmpp_feature feature_session = {
    .name = "session",
    .xep = "RFC 3921",
    .stream_feature = "<session xmlns='" NS_SESSION "'><optional/></session>",
    .stream_feature_is_on = is_of_use,
    .handlers = handlers,
};
