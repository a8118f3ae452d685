/* What a client is offered before it logs in: rendered once for each kind of connection and set of settings.
 */
#include "base/mem.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_TLS "urn:ietf:params:xml:ns:xmpp-tls"
#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2 "urn:xmpp:sasl:2"

enum { OFFER_TLS = 1, OFFER_EXPORTER = 2, OFFER_END_POINT = 4, OFFER_LOCAL = 8 };
_Static_assert(N_EDGE_OFFERS == 16, "one for each set of the bits above");

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* XEP-0474 §5.1: sorted by octets. */
static void add_sorted(struct buf *out, const char **names, size_t n)
{
    qsort(names, n, sizeof *names, compare);
    for (size_t i = 0; i < n; i++) {
        if (i > 0)
            buf_addc(out, '\x1e');
        buf_adds(out, names[i]);
    }
}

/* <mechanism/> of all that are offered; TOKENS: of FAST, else of the others. */
static size_t add_mechanisms(struct buf *out, const struct sasl_offer *offer, bool tokens, const char **names)
{
    const struct sasl_mechanism *m;
    size_t n = 0;
    for (unsigned i = 0; (m = sasl_mechanism_at(i)); i++) {
        if (sasl_mechanism_is_token(m) != tokens || !sasl_mechanism_is_offered(m, offer))
            continue;
        const char *name = sasl_mechanism_name(m);
        buf_addf(out, "<mechanism>%s</mechanism>", name);
        if (names)
            names[n] = name;
        n++;
    }
    return n;
}

static void add_bindings(struct buf *out, const struct sasl_offer *offer)
{
    buf_adds(out, "<sasl-channel-binding xmlns='urn:xmpp:sasl-cb:0'>"); /* XEP-0440 */
    if (offer->bind_exporter)
        buf_adds(out, "<channel-binding type='tls-exporter'/>");
    if (offer->bind_server_end_point)
        buf_adds(out, "<channel-binding type='tls-server-end-point'/>");
    buf_adds(out, "</sasl-channel-binding>");
}

static void add_sasl2(struct buf *out, struct shard *s, const struct sasl_offer *offer)
{
    buf_adds(out, "<authentication xmlns='" NS_SASL2 "'>");
    add_mechanisms(out, offer, false, NULL);
    buf_adds(out, "<inline>");
    home_inline_offer(s, out);
    if (offer->tokens) {
        buf_adds(out, "<fast xmlns='urn:xmpp:fast:0'>"); /* XEP-0484 §3.1; no 0-RTT */
        add_mechanisms(out, offer, true, NULL);
        buf_adds(out, "</fast>");
    }
    buf_adds(out, "</inline>");
    if (offer->local_passwords) /* XEP-0480 */
        buf_adds(out, "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-256</upgrade>"
                      "<upgrade xmlns='urn:xmpp:sasl:upgrade:0'>UPGR-SCRAM-SHA-512</upgrade>");
    buf_adds(out, "</authentication>");
}

/* What belongs to SASL; keeps the string that SCRAM signs (XEP-0474). */
static void add_login(struct buf *out, struct shard *s, struct edge_offer *o, const struct edge_settings *set)
{
    const struct sasl_offer *offer = &o->sasl;
    const char *names[32], *bindings[2];
    struct buf signed_list = {0};
    size_t n_bindings = 0;
    buf_adds(out, "<mechanisms xmlns='" NS_SASL "'>");
    size_t n = add_mechanisms(out, offer, false, names);
    buf_adds(out, "</mechanisms>");
    if (offer->bind_exporter)
        bindings[n_bindings++] = "tls-exporter";
    if (offer->bind_server_end_point)
        bindings[n_bindings++] = "tls-server-end-point";
    bool binds = n_bindings > 0 && offer->local_passwords && offer->tls;
    add_sorted(&signed_list, names, n); /* the same list in SASL and SASL2 */
    if (binds) {
        buf_addc(&signed_list, '\x1f');
        add_sorted(&signed_list, bindings, n_bindings);
    }
    o->advertised = buf_steal(&signed_list);
    if (set->level >= LEVEL_3 && offer->tls && n > 0) /* XEP-0388 §5: after TLS only */
        add_sasl2(out, s, offer);
    if (binds) /* §5: never without a mechanism that binds */
        add_bindings(out, offer);
}

/* XEP-0478: before log-in, elements are small and there is little time. */
static void add_limits(struct buf *out, const struct edge_settings *set)
{
    buf_addf(out,
             "<limits xmlns='urn:xmpp:stream-limits:0'><max-bytes>%u</max-bytes>"
             "<idle-seconds>%u</idle-seconds></limits>",
             set->stanza_bytes_early, set->handshake_ms / 1000);
}

/* XEP-0509 §3: a name for all the rest. */
static void add_version(struct buf *out, struct edge_offer *o)
{
    uint8_t digest[CREDENTIAL_MAX_KEY];
    credential_digest(CREDENTIAL_SHA256, out->data, out->n, digest);
    for (size_t i = 0; i < sizeof o->version / 2; i++)
        snprintf(o->version + 2 * i, 3, "%02x", digest[i]);
    buf_addf(out, "<config-version xmlns='urn:xmpp:iap:0' scheme='opaque' value='%s'/>", o->version);
}

static struct edge_offer *make(struct shard *s, const struct edge_settings *set, unsigned kind)
{
    struct edge_offer *o = mem_new(struct edge_offer);
    bool tls = kind & OFFER_TLS;
    o->sasl = (struct sasl_offer){
        .tls = tls,
        .local_passwords = kind & OFFER_LOCAL,
        .plain = true,
        .plain_in_clear = set->plain_in_clear,
        .bind_exporter = kind & OFFER_EXPORTER,
        .bind_server_end_point = kind & OFFER_END_POINT,
        .sha512 = set->sha512,
        .tokens = tls && set->level >= LEVEL_3 && set->fast_life_ms > 0,
    };
    struct buf out = {0};
    buf_adds(&out, "<stream:features>");
    if (!tls)
        buf_adds(&out, set->require_tls ? "<starttls xmlns='" NS_TLS "'><required/></starttls>"
                                        : "<starttls xmlns='" NS_TLS "'/>");
    if (tls || !set->require_tls)
        add_login(&out, s, o, set);
    if (set->level >= LEVEL_3) {
        if (tls && set->registration)
            buf_adds(&out, "<register xmlns='http://jabber.org/features/iq-register'/>"); /* XEP-0077 §9 */
        if (tls || !set->require_tls) /* RFC 6120 §5.3.1: nothing beside a required STARTTLS */
            add_limits(&out, set);
        if (tls)
            add_version(&out, o);
    }
    buf_adds(&out, "</stream:features>");
    o->n_features = out.n;
    o->features = buf_steal(&out);
    return o;
}

const struct edge_offer *edge_offer(struct edge_conn *c)
{
    struct edge_shard *es = c->es;
    const struct edge_settings *set = edge_settings(es);
    unsigned kind = 0;
    /* Local accounts come without a change of settings; that they go does not matter. */
    if (!es->has_local)
        es->has_local = !set->ask_backend || edge_has_local_passwords(es);
    if (es->has_local)
        kind |= OFFER_LOCAL;
    if (stream_is_tls(c->stream)) {
        kind |= OFFER_TLS;
        if (set->bind && stream_tls_can_bind(c->stream, TLS_BIND_EXPORTER))
            kind |= OFFER_EXPORTER;
        if (set->bind && stream_tls_can_bind(c->stream, TLS_BIND_SERVER_END_POINT))
            kind |= OFFER_END_POINT;
    }
    if (!es->offers[kind])
        es->offers[kind] = make(es->shard, set, kind);
    return es->offers[kind];
}

void edge_offers_forget(struct edge_shard *es)
{
    for (unsigned i = 0; i < N_EDGE_OFFERS; i++) {
        if (!es->offers[i])
            continue;
        mem_free(es->offers[i]->features);
        mem_free(es->offers[i]->advertised);
        mem_free(es->offers[i]);
        es->offers[i] = NULL;
    }
    es->has_local = false;
}
