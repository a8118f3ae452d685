/* From what a client sent to an envelope: names, types and addresses checked, the sender stamped, forgeries
 * removed. */
#include "im/address.h"
#include "im/sm_session.h"
#include "im/stored.h"
#include "im/user.h"
#include "protocols/xmpp/home.h"
#include <string.h>

static int find_kind(const struct xml *root)
{
    if (strcmp(root->ns, NS_CLIENT) != 0)
        return ERR_INVALID;
    for (int i = 0; i < N_STANZA_KINDS; i++)
        if (strcmp(root->name, stanza_kind_name(i)) == 0)
            return i;
    return ERR_INVALID;
}

void home_refuse(struct c2s_home *h, const struct xml *root, enum stanza_error error, const char *text)
{
    int kind = find_kind(root);
    const char *type = xml_attr(root, "type"), *id = xml_attr(root, "id"), *to = xml_attr(root, "to");
    if (kind < 0 || (type && (strcmp(type, "error") == 0 || strcmp(type, "result") == 0)))
        return; /* RFC 6120 §8.3.1: an error is never answered with an error */
    struct buf out = {0};
    buf_addf(&out, "<%s type='error'", stanza_kind_name(kind));
    if (id) {
        buf_adds(&out, " id='");
        xml_escape(&out, id, strlen(id));
        buf_addc(&out, '\'');
    }
    char from[JID_MAX + 1]; /* §8.3.1: swapped, but never a malformed JID */
    if (to && jid_prepare(from, to, strlen(to), NULL) == 0) {
        buf_adds(&out, " from='");
        xml_escape(&out, from, strlen(from));
        buf_addc(&out, '\'');
    }
    if (h->session.jid) {
        buf_adds(&out, " to='");
        xml_escape(&out, h->session.jid, strlen(h->session.jid));
        buf_addc(&out, '\'');
    }
    buf_addc(&out, '>');
    stanza_error_write(&out, error, text);
    buf_addf(&out, "</%s>", stanza_kind_name(kind));
    home_write(h, out.data, out.n);
    buf_fini(&out);
    if (kind == STANZA_MESSAGE && h->state == HOME_BOUND)
        sm_refused_now(&h->session);
}

/* ---- forgeries ---- */

/* Is JID one that only this cluster may speak for: a local domain or an account in it? */
static bool is_ours(struct shard *s, const char *jid)
{
    char prepared[JID_MAX + 1]; /* another spelling is the same address (RFC 7622) */
    if (!jid || jid_prepare(prepared, jid, strlen(jid), NULL) < 0)
        return false;
    prepared[jid_bare_length(prepared)] = 0;
    const char *at = strchr(prepared, '@');
    return shard_is_local_domain(s, at ? at + 1 : prepared);
}

/* What a server alone may put into a stanza: delay (XEP-0203 §3), stanza-id (XEP-0359 §6), carbons (XEP-0280
 * §11), archive results (XEP-0313), occupant-id (XEP-0421). */
static bool is_forged(struct shard *s, const struct xml *x)
{
    if (strcmp(x->ns, "urn:xmpp:delay") == 0 || strcmp(x->ns, "jabber:x:delay") == 0)
        return is_ours(s, xml_attr(x, "from"));
    if (strcmp(x->ns, "urn:xmpp:sid:0") == 0 && strcmp(x->name, "stanza-id") == 0)
        return is_ours(s, xml_attr(x, "by"));
    if (strcmp(x->ns, "urn:xmpp:carbons:2") == 0)
        return strcmp(x->name, "sent") == 0 || strcmp(x->name, "received") == 0;
    if (strcmp(x->ns, "urn:xmpp:mam:2") == 0)
        return strcmp(x->name, "result") == 0;
    return strcmp(x->ns, "urn:xmpp:occupant-id:0") == 0;
}

bool stanza_strip_forged(struct shard *s, struct xml *root)
{
    bool found = false;
    for (struct xml *x = xml_first_element(root), *next; x; x = next) {
        next = xml_next_element(x);
        if (!is_forged(s, x))
            continue;
        xml_remove(x);
        found = true;
    }
    return found;
}

/* ---- payload ---- */

/* Only a start tag without a prefix can be replaced by one of ours with the rest left as it is. */
static bool is_plain(const struct xml_stanza *st)
{
    size_t n = strlen(st->root->name);
    return st->raw_self_contained && st->n_raw > n + 2 && memcmp(st->raw + 1, st->root->name, n) == 0;
}

static struct blob *raw_inner(const struct xml_stanza *st)
{
    if (st->n_start_tag < 2 || st->raw[st->n_start_tag - 2] == '/')
        return NULL;
    const char *close = memrchr(st->raw, '<', st->n_raw);
    const char *from = st->raw + st->n_start_tag;
    return close > from ? blob_new(from, (size_t)(close - from)) : NULL;
}

struct blob *stanza_inner(const struct xml *root, const char *ns)
{
    struct buf out = {0};
    for (const struct xml *x = root->children; x; x = x->next) {
        if (x->name)
            xml_write(&out, x, ns);
        else
            xml_escape(&out, x->text, x->n_text);
    }
    struct blob *b = out.n ? blob_new(out.data, out.n) : NULL;
    buf_fini(&out);
    return b;
}

/* ---- addresses and type ---- */

/* RFC 6120 §8.1.2.1: a 'from' must be the session's own full or bare JID. */
static bool is_own_from(struct c2s_home *h, const char *from)
{
    const struct session *s = &h->session;
    if (strcmp(from, s->jid) == 0 || strcmp(from, s->user->jid) == 0)
        return true;
    char prepared[JID_MAX + 1];
    return jid_prepare(prepared, from, strlen(from), NULL) == 0 &&
           (strcmp(prepared, s->jid) == 0 || strcmp(prepared, s->user->jid) == 0);
}

static bool is_well_formed_iq(const struct xml *root, int type)
{
    const struct xml *child = xml_first_element(root);
    if (!xml_attr(root, "id"))
        return false;
    if (type == IQ_GET || type == IQ_SET)
        return child && !xml_next_element(child);
    return true;
}

/* §8.1.5: of the stream, where the stanza has none. */
static const char *stanza_lang(const struct c2s_home *h, const struct xml *root)
{
    const char *lang = xml_attr_ns(root, "lang", XML_NS_XML);
    return lang ? lang : h->login->lang;
}

struct envelope *home_read_stanza(struct c2s_home *h, struct xml_stanza *stanza)
{
    struct xml *root = stanza->root;
    int kind = find_kind(root);
    if (xml_is(root, "error",
               NS_STREAM)) { /* RFC 6120 §4.9.1.1: it is over, and no error is answered by one */
        c2s_home_end(h);
        return NULL;
    }
    if (kind < 0) {
        home_fail(h, "unsupported-stanza-type", NULL);
        return NULL;
    }
    const char *from = xml_attr(root, "from"), *to = xml_attr(root, "to");
    if (from && !is_own_from(h, from)) {
        home_fail(h, "invalid-from", NULL);
        return NULL;
    }
    int type = stanza_type_parse(kind, xml_attr(root, "type"));
    if (type < 0 || (kind == STANZA_IQ && !is_well_formed_iq(root, type))) {
        home_refuse(h, root, STANZA_BAD_REQUEST, NULL);
        return NULL;
    }
    char prepared[JID_MAX + 1] = "";
    if (to && jid_prepare(prepared, to, strlen(to), NULL) < 0) {
        home_refuse(h, root, STANZA_JID_MALFORMED, NULL);
        return NULL;
    }
    bool stripped = stanza_strip_forged(h->session.shard, root);
    struct buf extra = {0};
    struct blob *payload;
    if (!stripped && is_plain(stanza)) {
        payload = raw_inner(stanza);
        stanza_extra_attributes(&extra, stanza->raw + 1, stanza->n_start_tag - 2);
    } else {
        payload = stanza_inner(root, NS_CLIENT);
    }
    struct envelope *e = envelope_new(&(struct envelope_parts){.type = (enum stanza_type)type,
                                                               .from = h->session.jid,
                                                               .to = prepared,
                                                               .id = xml_attr(root, "id"),
                                                               .lang = stanza_lang(h, root),
                                                               .extra = extra.n ? extra.data : NULL,
                                                               .payload = payload});
    e->from_uid = h->session.user->uid;
    blob_unref(payload);
    buf_fini(&extra);
    return e;
}
