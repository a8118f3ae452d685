/* Stream negotiation of a client up to log-in (RFC 6120 §4, §5): what an element means in a state is one
 * table. */
#include "base/clock.h"
#include "im/address.h"
#include "protocols/xmpp/c2s_edge_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_STREAMS "http://etherx.jabber.org/streams"
#define NS_TLS "urn:ietf:params:xml:ns:xmpp-tls"
#define NS_SASL "urn:ietf:params:xml:ns:xmpp-sasl"
#define NS_SASL2 "urn:xmpp:sasl:2"

/* ---- headers and features ---- */

void edge_write_header(struct edge_conn *c, const char *to)
{
    char id[33];
    struct buf out = {0};
    random_hex(id, 16); /* §4.7.3: not to be guessed */
    buf_adds(&out,
             "<?xml version='1.0'?><stream:stream xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAMS "' id='");
    buf_adds(&out, id);
    buf_adds(&out, "' from='");
    const char *from = c->domain ? c->domain : c->es->shard->domain ? c->es->shard->domain : "";
    xml_escape(&out, from, strlen(from));
    if (to) {
        buf_adds(&out, "' to='");
        xml_escape(&out, to, strlen(to));
    }
    buf_adds(&out, "' version='1.0' xml:lang='en'>");
    stream_write(c->stream, out.data, out.n);
    /* there are clients that make a new parser for the header and lose what came behind it in the same read */
    stream_end_record(c->stream);
    buf_fini(&out);
    c->header_sent = true;
}

static void write_features(struct edge_conn *c)
{
    const struct edge_offer *o = edge_offer(c);
    stream_write(c->stream, o->features, o->n_features);
}

/* 1.0 and above (§4.7.5); a later minor or major version is answered with ours. */
static bool is_version_ok(const char *version)
{
    return version && strtoul(version, NULL, 10) >= 1;
}

static void on_header_element(struct edge_conn *c, const struct xml *x)
{
    if (!xml_is(x, "stream", NULL)) {
        edge_conn_close(c, "bad-format", "the root is not a stream");
        return;
    }
    if (strcmp(x->ns, NS_STREAMS) != 0 || strcmp(xml_stream_default_ns(c->xml), NS_CLIENT) != 0) {
        edge_conn_close(c, "invalid-namespace", NULL);
        return;
    }
    const char *to = xml_attr(x, "to"), *from = xml_attr(x, "from");
    char domain[JID_PART_MAX + 1], jid[JID_MAX + 1];
    struct jid parsed;
    if (!to && c->es->shard->domain) {
        snprintf(domain, sizeof(domain), "%s", c->es->shard->domain);
    } else if (!to || address_prep_domain(domain, to, strlen(to), NULL) != 0 ||
               !shard_is_local_domain(c->es->shard, domain)) {
        edge_conn_close(c, "host-unknown", NULL);
        return;
    }
    mem_free(c->domain);
    c->domain = mem_strdup(domain);
    c2s_read_lang(c->lang, x);
    struct jid who;
    bool has_from = from && jid_parse(&who, from, strlen(from), NULL) == 0;
    if (has_from)
        jid_format_bare(jid, &who); /* §4.7.2 */
    edge_write_header(c, has_from ? jid : NULL);
    mem_free(c->from);
    c->from = NULL;
    if (has_from && jid_parse(&parsed, jid, strlen(jid), NULL) == 0 && *parsed.local) {
        if (strcmp(parsed.domain, domain) != 0) { /* XEP-0388 §2.1 */
            edge_conn_close(c, "invalid-from", "the address in 'from' is not of the domain in 'to'");
            return;
        }
        c->from = mem_strdup(parsed.local);
    }
    if (!is_version_ok(xml_attr(x, "version"))) {
        edge_conn_close(c, "unsupported-version", NULL);
        return;
    }
    write_features(c);
    c->state = stream_is_tls(c->stream) ? EDGE_SECURE : EDGE_CLEAR;
}

/* ---- elements ---- */

static void start_tls(struct edge_conn *c, const struct xml *x)
{
    edge_conn_write(c, "<proceed xmlns='" NS_TLS "'/>");
    xml_stream_stop(c->xml);
    c->after = AFTER_START_TLS;
}

/* §4.9.3.12: no stanzas before log-in. */
static void refuse_stanza(struct edge_conn *c, const struct xml *x)
{
    edge_conn_close(c, "not-authorized", NULL);
}

static void refuse_other(struct edge_conn *c, const struct xml *x)
{
    edge_conn_close(c, "unsupported-stanza-type", NULL);
}

static void refuse_order(struct edge_conn *c, const struct xml *x)
{
    edge_conn_close(c, "policy-violation", "not at this point of the negotiation");
}

/* An answer must be of the exchange's own profile. */
static void response(struct edge_conn *c, const struct xml *x)
{
    (c->sasl2 ? refuse_order : edge_response)(c, x);
}

static void response2(struct edge_conn *c, const struct xml *x)
{
    (c->sasl2 ? edge_response : refuse_order)(c, x);
}

static void abort_exchange(struct edge_conn *c, const struct xml *x)
{
    (c->sasl2 ? refuse_order : edge_abort)(c, x);
}

static void abort2(struct edge_conn *c, const struct xml *x)
{
    (c->sasl2 ? edge_abort : refuse_order)(c, x);
}

static void end_stream(struct edge_conn *c, const struct xml *x)
{
    edge_conn_write(c, "</stream:stream>");
    c->state = EDGE_CLOSING;
    stream_close(c->stream);
}

typedef void element_fn(struct edge_conn *c, const struct xml *x);

/* NULL: cannot come in that state; the parser is paused, or nothing is parsed. */
static element_fn *const table[N_EDGE_STATES][N_EDGE_ELEMENTS] = {
    [EDGE_OPENING] = {[ELEMENT_HEADER] = on_header_element},
    [EDGE_CLEAR] = {[ELEMENT_STARTTLS] = start_tls,
                    [ELEMENT_AUTH] = edge_auth_in_clear,
                    [ELEMENT_RESPONSE] = refuse_order,
                    [ELEMENT_ABORT] = refuse_order,
                    [ELEMENT_AUTHENTICATE] = refuse_other,
                    [ELEMENT_RESPONSE2] = refuse_order,
                    [ELEMENT_ABORT2] = refuse_order,
                    [ELEMENT_NEXT] = refuse_order,
                    [ELEMENT_TASK_DATA] = refuse_order,
                    [ELEMENT_STANZA] = refuse_stanza,
                    [ELEMENT_OTHER] = refuse_other,
                    [ELEMENT_END] = end_stream},
    [EDGE_SECURE] = {[ELEMENT_STARTTLS] = refuse_order,
                     [ELEMENT_AUTH] = edge_auth,
                     [ELEMENT_RESPONSE] = refuse_order,
                     [ELEMENT_ABORT] = refuse_order,
                     [ELEMENT_AUTHENTICATE] = edge_authenticate,
                     [ELEMENT_RESPONSE2] = refuse_order,
                     [ELEMENT_ABORT2] = refuse_order,
                     [ELEMENT_NEXT] = refuse_order,
                     [ELEMENT_TASK_DATA] = refuse_order,
                     [ELEMENT_STANZA] = edge_stanza,
                     [ELEMENT_OTHER] = refuse_other,
                     [ELEMENT_END] = end_stream},
    [EDGE_SASL] = {[ELEMENT_STARTTLS] = refuse_order,
                   [ELEMENT_AUTH] = refuse_order,
                   [ELEMENT_RESPONSE] = response,
                   [ELEMENT_ABORT] = abort_exchange,
                   [ELEMENT_AUTHENTICATE] = refuse_order,
                   [ELEMENT_RESPONSE2] = response2,
                   [ELEMENT_ABORT2] = abort2,
                   [ELEMENT_NEXT] = refuse_order,
                   [ELEMENT_TASK_DATA] = refuse_order,
                   [ELEMENT_STANZA] = refuse_stanza,
                   [ELEMENT_OTHER] = refuse_other,
                   [ELEMENT_END] = end_stream},
    [EDGE_TASK] = {[ELEMENT_STARTTLS] = refuse_order,
                   [ELEMENT_AUTH] = refuse_order,
                   [ELEMENT_RESPONSE] = refuse_order,
                   [ELEMENT_ABORT] = refuse_order,
                   [ELEMENT_AUTHENTICATE] = refuse_order, /* XEP-0388 §4.8 */
                   [ELEMENT_RESPONSE2] = refuse_order,
                   [ELEMENT_ABORT2] = edge_abort,
                   [ELEMENT_NEXT] = edge_next,
                   [ELEMENT_TASK_DATA] = edge_task_data,
                   [ELEMENT_STANZA] = refuse_stanza,
                   [ELEMENT_OTHER] = refuse_other,
                   [ELEMENT_END] = end_stream},
};

static void dispatch(struct edge_conn *c, enum edge_element element, const struct xml *x)
{
    element_fn *fn = table[c->state][element];
    if (fn)
        fn(c, x);
}

static enum edge_element classify(const struct xml *x)
{
    static const struct {
        const char *name, *ns;
        enum edge_element element;
    } names[] = {
        {"starttls", NS_TLS, ELEMENT_STARTTLS},  {"auth", NS_SASL, ELEMENT_AUTH},
        {"response", NS_SASL, ELEMENT_RESPONSE}, {"abort", NS_SASL, ELEMENT_ABORT},
        {"authenticate", NS_SASL2, ELEMENT_AUTHENTICATE},
        {"response", NS_SASL2, ELEMENT_RESPONSE2}, {"abort", NS_SASL2, ELEMENT_ABORT2},
        {"next", NS_SASL2, ELEMENT_NEXT}, {"task-data", NS_SASL2, ELEMENT_TASK_DATA},
        {"message", NS_CLIENT, ELEMENT_STANZA},  {"presence", NS_CLIENT, ELEMENT_STANZA},
        {"iq", NS_CLIENT, ELEMENT_STANZA},
    };
    for (size_t i = 0; i < n_elements(names); i++)
        if (xml_is(x, names[i].name, names[i].ns))
            return names[i].element;
    return ELEMENT_OTHER;
}

static void on_header(void *user, const struct xml *header)
{
    dispatch(user, ELEMENT_HEADER, header);
}

static void on_stanza(void *user, struct xml_stanza *stanza)
{
    dispatch(user, classify(stanza->root), stanza->root);
}

static void on_end(void *user)
{
    dispatch(user, ELEMENT_END, NULL);
}

const struct xml_stream_events edge_xml_events = {on_header, on_stanza, on_end};
