/* XEP-0215: external services, from xmpp.external_services. Credentials for TURN are made from a secret
 * shared with its server: the user name is the time they end and the account, the password its HMAC. */
#include "base/base64.h"
#include "base/clock.h"
#include "im/credential.h"
#include "im/user.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/service.h"
#include "replication/settings.h"
#include <stdlib.h>
#include <string.h>

#define NS_EXTDISCO "urn:xmpp:extdisco:2"

struct external {
    char *type, *host, *port, *transport;
    bool restricted;
};

/* TYPE:HOST[:PORT][/TRANSPORT][!]; an IPv6 address stands in brackets. */
static bool parse(struct external *x, char *word)
{
    memset(x, 0, sizeof *x);
    size_t n = strlen(word);
    if (n && word[n - 1] == '!') {
        x->restricted = true;
        word[n - 1] = 0;
    }
    char *slash = strrchr(word, '/');
    if (slash) {
        *slash = 0;
        x->transport = slash + 1;
    }
    char *colon = strchr(word, ':');
    if (!colon || colon == word)
        return false;
    *colon = 0;
    x->type = word;
    x->host = colon + 1;
    if (*x->host == '[') {
        char *close = strchr(++x->host, ']');
        if (!close)
            return false;
        *close = 0;
        x->port = close[1] == ':' ? close + 2 : NULL;
    } else if ((colon = strchr(x->host, ':'))) {
        *colon = 0;
        x->port = colon + 1;
    }
    return *x->host && (!x->port || (*x->port && strspn(x->port, "0123456789") == strlen(x->port)));
}

static void add_credentials(struct buf *out, struct xmpp_iq *iq, const char *secret)
{
    uint8_t mac[CREDENTIAL_MAX_KEY];
    char password[64], expires[32];
    long long ttl = setting_int(shard_txn(iq->shard), NULL, SETTING_XMPP_TURN_TTL);
    uint64_t end_ms = clock_wall_ms() + (uint64_t)ttl * 1000;
    const char *jid = iq->home->session.user->jid;
    char *name = arena_printf(iq->arena, "%llu:%.*s", (unsigned long long)(end_ms / 1000),
                              (int)strcspn(jid, "@"), jid);
    credential_hmac(CREDENTIAL_SHA1, (const uint8_t *)secret, strlen(secret), name, strlen(name), mac);
    password[base64_encode(password, mac, credential_key_bytes(CREDENTIAL_SHA1))] = 0;
    clock_format_utc(expires, end_ms, 0);
    iq_add_attr(out, "username", name);
    iq_add_attr(out, "password", password);
    iq_add_attr(out, "expires", expires);
}

/* With TYPE and HOST (NULL: any) only those; returns how many. */
static unsigned add_services(struct buf *out, struct xmpp_iq *iq, const char *type, const char *host,
                             const char *port)
{
    unsigned n = 0;
    const char *secret = service_of(iq->shard)->secrets[XMPP_SECRET_TURN];
    const char *at = setting_string(shard_txn(iq->shard), NULL, SETTING_XMPP_EXTERNAL_SERVICES, iq->arena);
    for (char *word; service_next_word(&at, iq->arena, &word);) {
        struct external x;
        if (!parse(&x, word) || (type && strcmp(type, x.type) != 0) || (host && strcmp(host, x.host) != 0) ||
            (port && (!x.port || strcmp(port, x.port) != 0)))
            continue;
        buf_adds(out, "<service");
        iq_add_attr(out, "type", x.type);
        iq_add_attr(out, "host", x.host);
        iq_add_attr(out, "port", x.port);
        iq_add_attr(out, "transport", x.transport);
        if (x.restricted) {
            iq_add_attr(out, "restricted", "1");
            if (secret)
                add_credentials(out, iq, secret);
        }
        buf_adds(out, "/>");
        n++;
    }
    return n;
}

/* §3.1, §3.2 */
static void handle_services(struct xmpp_iq *iq)
{
    const char *type = xml_attr(iq->payload, "type");
    struct buf out = {0};
    buf_adds(&out, "<services xmlns='" NS_EXTDISCO "'");
    iq_add_attr(&out, "type", type);
    buf_addc(&out, '>');
    add_services(&out, iq, type, NULL, NULL);
    buf_adds(&out, "</services>");
    iq_result(iq, out.data, out.n);
    buf_fini(&out);
}

/* §3.3 */
static void handle_credentials(struct xmpp_iq *iq)
{
    const struct xml *service = xml_child(iq->payload, "service", NS_EXTDISCO);
    const char *type = service ? xml_attr(service, "type") : NULL;
    const char *host = service ? xml_attr(service, "host") : NULL;
    if (!type || !host) {
        iq_error(iq, STANZA_BAD_REQUEST, "a service with host and type is expected");
        return;
    }
    struct buf out = {0};
    buf_adds(&out, "<credentials xmlns='" NS_EXTDISCO "'>");
    unsigned n = add_services(&out, iq, type, host, xml_attr(service, "port"));
    buf_adds(&out, "</credentials>");
    if (n)
        iq_result(iq, out.data, out.n);
    else
        iq_error(iq, STANZA_ITEM_NOT_FOUND, NULL);
    buf_fini(&out);
}

static const struct xmpp_iq_handler handlers[] = {
    {NS_EXTDISCO, "services", IQ_SERVER | IQ_SELF, .get = true, .handle = handle_services},
    {NS_EXTDISCO, "credentials", IQ_SERVER | IQ_SELF, .get = true, .handle = handle_credentials},
    {0},
};
static const char *const features[] = {NS_EXTDISCO, NULL};
const struct xmpp_feature feature_extdisco = {
    .name = "extdisco",
    .xep = "XEP-0215 1.0.0",
    .level = 3,
    .server_features = features,
    .handlers = handlers,
};
