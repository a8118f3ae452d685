/* Stream features after SASL and resource binding (RFC 6120 §7). */
#include "base/clock.h"
#include "im/address.h"
#include "protocols/xmpp/feature.h"
#include "protocols/xmpp/home.h"
#include <string.h>

void home_header_write(struct c2s_home *h, struct buf *out)
{
    char id[33];
    random_hex(id, 16);
    buf_addf(out,
             "<?xml version='1.0'?><stream:stream xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAM
             "' id='%s' from='",
             id);
    xml_escape(out, h->login->domain, strlen(h->login->domain));
    buf_adds(out, "' version='1.0' xml:lang='en'>");
}

void home_features(struct c2s_home *h)
{
    struct buf out = {0};
    buf_adds(&out, "<stream:features><bind xmlns='" NS_BIND "'/>");
    for (const struct xmpp_feature *const *f = xmpp_features; *f; f++)
        if ((*f)->stream_feature)
            buf_adds(&out, (*f)->stream_feature);
    buf_adds(&out, "</stream:features>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void answer_bound(struct c2s_home *h, const char *id)
{
    struct buf out = {0};
    buf_adds(&out, "<iq type='result' id='");
    xml_escape(&out, id, strlen(id));
    buf_adds(&out, "'><bind xmlns='" NS_BIND "'><jid>");
    xml_escape(&out, h->session.jid, strlen(h->session.jid));
    buf_adds(&out, "</jid></bind></iq>");
    home_write(h, out.data, out.n);
    buf_fini(&out);
}

static void refuse_bind(struct c2s_home *h, const struct xml *root, int code, const char *text)
{
    switch (code) {
    case ERR_CONFLICT:
        home_refuse(h, root, STANZA_CONFLICT, text);
        break;
    case ERR_LIMIT:
        home_refuse(h, root, STANZA_RESOURCE_CONSTRAINT, text);
        break;
    default:
        home_fail(h, "not-authorized", text);
        break;
    }
}

void home_bind(struct c2s_home *h, struct xml_stanza *stanza)
{
    const struct xml *root = stanza->root;
    const char *type = xml_attr(root, "type"), *id = xml_attr(root, "id");
    const struct xml *bind = xml_child(root, "bind", NS_BIND);
    if (!xml_is(root, "iq", NS_CLIENT) || !bind || !type || strcmp(type, "set") != 0 || !id) {
        /* §7.1: nothing else before a resource is bound. */
        home_fail(h, "not-authorized", "bind a resource first");
        return;
    }
    struct shard *s = h->conn->shard;
    if (shard_check_lease(s) != LEASE_HELD) {
        if (h->conn)
            home_fail(h, "resource-constraint", "this node cannot reach the cluster's majority");
        return;
    }
    const char *wanted = xml_child_text(bind, "resource", NS_BIND, stanza->arena);
    char resource[JID_PART_MAX + 1];
    if (wanted && *wanted && address_prep_resource(resource, wanted, strlen(wanted), NULL) < 0) {
        home_refuse(h, root, STANZA_BAD_REQUEST, "the resource is not valid");
        return;
    }
    struct err_ctx err = {0};
    int rc = session_open(&h->session, s, h->login->uid, wanted && *wanted ? resource : NULL,
                          &c2s_session_ops, &err);
    if (rc < 0) {
        refuse_bind(h, root, rc, err.text);
        return;
    }
    h->state = HOME_BOUND;
    list_remove(&h->unbound);
    answer_bound(h, id);
}
