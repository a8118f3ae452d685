/* Time-outs of the home: no resource bound in time, silence for too long. */
#include "base/clock.h"
#include "protocols/xmpp/shard.h"
#include <string.h>

enum {
    BIND_MS = 30000,
    PING_ANSWER_MS = 60000,
    IDLE_CHECK_MS = 5000, /* all sessions are looked at; more often where the time-out is short */
};

static void ping(struct c2s_home *h)
{
    struct buf out = {0};
    char id[17];
    random_hex(id, 8);
    buf_addf(&out, "<iq type='get' id='ping-%s' from='", id);
    xml_escape(&out, h->login->domain, strlen(h->login->domain));
    buf_adds(&out, "' to='");
    xml_escape(&out, h->session.jid, strlen(h->session.jid));
    buf_adds(&out, "'><ping xmlns='urn:xmpp:ping'/></iq>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void check_idle(struct xmpp_shard *xs, uint64_t now, uint64_t idle_ms)
{
    htab_for_each(node, &xs->shard->sessions)
    {
        struct session *s = container_of(node, struct session, node);
        if (s->ops != &c2s_session_ops || s->paused)
            continue;
        struct c2s_home *h = home_of(s);
        if (!h->conn)
            continue;
        if (h->pinged && now - h->heard_ms > idle_ms + PING_ANSWER_MS) {
            home_lose(h, "connection-timeout", NULL);
        } else if (!h->pinged && now - h->heard_ms > idle_ms) {
            h->pinged = true;
            ping(h);
        }
    }
}

void home_check_times(struct xmpp_shard *xs)
{
    uint64_t now = loop_now_ms(xs->shard->loop);
    struct c2s_home *h;
    list_for_each(h, &xs->unbound, struct c2s_home, unbound)
    {
        if (now - h->since_ms < BIND_MS)
            break;
        home_fail(h, "connection-timeout", NULL);
    }
    uint64_t idle_ms = xs->shard->settings.idle_timeout_s * UINT64_C(1000);
    uint64_t every_ms = idle_ms / 20 < IDLE_CHECK_MS ? idle_ms / 20 : IDLE_CHECK_MS;
    if (idle_ms && now - xs->idle_checked_ms >= every_ms) {
        xs->idle_checked_ms = now;
        check_idle(xs, now, idle_ms);
    }
}
