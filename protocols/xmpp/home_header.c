/* Stream headers after SASL (RFC 6120 §4.7, §4.9.3). */
#include "base/clock.h"
#include "im/address.h"
#include "protocols/xmpp/home.h"
#include <string.h>

static void write_jid(struct c2s_home *h, struct buf *out)
{
    xml_escape(out, h->login->localpart, strlen(h->login->localpart));
    buf_addc(out, '@');
    xml_escape(out, h->login->domain, strlen(h->login->domain));
}

void home_header_write(struct c2s_home *h, struct buf *out)
{
    char id[33];
    random_hex(id, 16); /* §4.7.3: not to be guessed */
    buf_addf(out,
             "<?xml version='1.0'?><stream:stream xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAM
             "' id='%s' from='",
             id);
    xml_escape(out, h->login->domain, strlen(h->login->domain));
    if (h->said_from) { /* §4.7.2: only then */
        buf_adds(out, "' to='");
        write_jid(h, out);
    }
    buf_adds(out, "' version='1.0' xml:lang='en'>");
}

/* §4.7.4; a tag that is none, or a long one, is left out. */
void c2s_read_lang(char out[C2S_LANG_MAX + 1], const struct xml *header)
{
    const char *lang = xml_attr_ns(header, "lang", XML_NS_XML);
    size_t n = lang ? strspn(lang, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-") : 0;
    bool good = n && n <= C2S_LANG_MAX && !lang[n];
    memcpy(out, good ? lang : "", good ? n : 0);
    out[good ? n : 0] = 0;
}

static bool is_domain(const struct c2s_home *h, const char *to)
{
    char domain[JID_PART_MAX + 1];
    return address_prep_domain(domain, to, strlen(to), NULL) == 0 && strcmp(domain, h->login->domain) == 0;
}

/* §4.9.3.9: who is logged in cannot call itself by another name. */
static bool is_own(const struct c2s_home *h, const char *from)
{
    struct jid jid;
    return jid_parse(&jid, from, strlen(from), NULL) == 0 && strcmp(jid.local, h->login->localpart) == 0 &&
           strcmp(jid.domain, h->login->domain) == 0;
}

/* §4.7.5: 1.0 and above; a later one is answered with ours. */
static bool is_version(const char *version)
{
    return version && version[0] >= '1' && version[0] <= '9';
}

void c2s_home_header(struct c2s_home *h, const struct xml *header)
{
    struct shard *s = h->conn->shard;
    const char *to = xml_attr(header, "to"), *from = xml_attr(header, "from");
    const char *ns = h->conn->parser ? xml_stream_default_ns(h->conn->parser) : NS_CLIENT;
    if (h->state != HOME_HEADER) {
        home_fail(h, "invalid-xml", NULL);
    } else if (!xml_is(header, "stream", NULL)) {
        home_fail(h, "bad-format", "the root is not a stream");
    } else if (strcmp(header->ns, NS_STREAM) != 0 || strcmp(ns, NS_CLIENT) != 0) {
        home_fail(h, "invalid-namespace", NULL);
    } else if (to && !is_domain(h, to)) {
        home_fail(h, "host-unknown", NULL);
    } else if (from && !is_own(h, from)) {
        home_fail(h, "invalid-from", NULL);
    } else if (!is_version(xml_attr(header, "version"))) {
        home_fail(h, "unsupported-version", NULL);
    } else if (!im_is_serving(s->im) || s->stopping) {
        home_fail(h, "resource-constraint", "this node does not serve clients now");
    } else {
        char lang[C2S_LANG_MAX + 1];
        c2s_read_lang(lang, header);
        mem_free(h->login->lang);
        h->login->lang = *lang ? mem_strdup(lang) : NULL;
        h->said_from = from != NULL;
        struct buf out = {0};
        home_header_write(h, &out);
        home_write(h, out.data, out.n);
        buf_fini(&out);
        h->state = HOME_UNBOUND;
        home_features(h, STREAM_UNBOUND);
    }
}
