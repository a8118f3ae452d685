/* The bytes came through the XML parser (base/xml.h), so they are well-formed; old rows may be whatever they
 * are: what is no XML is taken for unknown content, and never read past its end. */
#include "im/payload.h"
#include <string.h>

/* ---- the bytes ---- */

struct text {
    const char *p, *end;
};

/* An element directly inside of what is walked over. */
struct element {
    struct text prefix, name, attributes, content; /* no colon: PREFIX is empty */
    bool has_ns, is_declared;                      /* false: that of the stanza; its prefix means nothing */
    struct text ns;                                /* raw */
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_text(const struct text *t, const char *s, size_t n)
{
    return (size_t)(t->end - t->p) == n && memcmp(t->p, s, n) == 0;
}

/* The '>' that ends a tag; NULL: there is none. */
static const char *find_tag_end(const char *p, const char *end)
{
    for (; p < end && *p != '>'; p++) {
        if (*p != '\'' && *p != '"')
            continue;
        p = memchr(p + 1, *p, (size_t)(end - p - 1));
        if (!p)
            return NULL;
    }
    return p < end ? p : NULL;
}

/* The next attribute of a start tag; false at the end. */
static bool next_attribute(struct text *tag, struct text *name, struct text *value)
{
    const char *p = tag->p;
    while (p < tag->end && (is_space(*p) || *p == '/'))
        p++;
    name->p = p;
    while (p < tag->end && *p != '=' && !is_space(*p))
        p++;
    name->end = p;
    while (p < tag->end && *p != '\'' && *p != '"')
        p++;
    if (p >= tag->end)
        return false;
    const char *close = memchr(p + 1, *p, (size_t)(tag->end - p - 1));
    if (!close)
        return false;
    *value = (struct text){p + 1, close};
    tag->p = close + 1;
    return true;
}

/* The namespace that a start tag gives to PREFIX (empty: the default one); false: it says nothing of it. */
static bool find_declaration(struct text tag, const struct text *prefix, struct text *out)
{
    enum { XMLNS = 5 };
    struct text name;
    while (next_attribute(&tag, &name, out)) {
        if (name.end - name.p < XMLNS || memcmp(name.p, "xmlns", XMLNS) != 0)
            continue;
        bool is_default = name.end - name.p == XMLNS;
        if (prefix->p == prefix->end
                ? is_default
                : !is_default && name.p[XMLNS] == ':' &&
                      is_text(prefix, name.p + XMLNS + 1, (size_t)(name.end - name.p) - XMLNS - 1))
            return true;
    }
    return false;
}

/* The next '<' that begins a tag; NULL: there is none. CDATA sections are not stored as such, but old rows
 * may have them. */
static const char *find_tag(const char *p, const char *end)
{
    static const char cdata[] = "<![CDATA[";
    while ((p = memchr(p, '<', (size_t)(end - p))) && (size_t)(end - p) >= sizeof cdata - 1 &&
           memcmp(p, cdata, sizeof cdata - 1) == 0) {
        p = memmem(p, (size_t)(end - p), "]]>", 3);
        if (!p)
            return NULL;
        p += 3;
    }
    return p;
}

/* Behind the element whose start tag ends at P, '>' included; NULL: it does not end. END_TAG: where its own
 * begins. */
static const char *skip_element(const char *p, const char *end, const char **end_tag)
{
    *end_tag = p;
    if (p[-2] == '/')
        return p;
    for (unsigned depth = 1; (p = find_tag(p, end));) {
        bool is_end = p + 1 < end && p[1] == '/';
        const char *close = find_tag_end(p, end);
        if (!close)
            return NULL;
        *end_tag = p;
        if (is_end)
            depth--;
        else if (close[-1] != '/')
            depth++;
        p = close + 1;
        if (!depth)
            return p;
    }
    return NULL;
}

static void read_tag(struct element *x, const struct text *tag, const char *extra)
{
    *x = (struct element){.prefix = {tag->p, tag->p}, .name = {tag->p, tag->p}};
    while (x->name.end < tag->end && !is_space(*x->name.end) && *x->name.end != '/')
        x->name.end++;
    x->attributes = (struct text){x->name.end, tag->end};
    const char *colon = memchr(x->name.p, ':', (size_t)(x->name.end - x->name.p));
    if (colon) {
        x->prefix.end = colon;
        x->name.p = colon + 1;
    }
    x->has_ns =
        find_declaration(x->attributes, &x->prefix, &x->ns) ||
        (colon && extra && find_declaration((struct text){extra, extra + strlen(extra)}, &x->prefix, &x->ns));
    x->is_declared = x->has_ns || !colon;
}

enum step { STEP_ELEMENT, STEP_END, STEP_BROKEN };

/* The next element of REST, which is taken off it. EXTRA: what declares prefixes around it, or NULL. */
static enum step next_element(struct element *x, struct text *rest, const char *extra)
{
    const char *p = find_tag(rest->p, rest->end), *close;
    if (!p)
        return STEP_END;
    close = find_tag_end(p, rest->end);
    if (!close || p + 1 == close || p[1] == '/' || p[1] == '!' || p[1] == '?')
        return STEP_BROKEN;
    read_tag(x, &(struct text){p + 1, close}, extra);
    x->content.p = close + 1;
    rest->p = skip_element(close + 1, rest->end, &x->content.end);
    return rest->p ? STEP_ELEMENT : STEP_BROKEN;
}

/* One character of an attribute's value, references resolved; what is not ASCII is none of ours. */
static char read_character(const char **at, const char *end)
{
    static const struct {
        const char *text;
        char c;
    } entities[] = {{"&amp;", '&'}, {"&lt;", '<'}, {"&gt;", '>'}, {"&apos;", '\''}, {"&quot;", '"'}};
    const char *p = *at, *semicolon;
    if (*p != '&' || !(semicolon = memchr(p, ';', (size_t)(end - p)))) {
        ++*at;
        return *p;
    }
    *at = semicolon + 1;
    for (size_t i = 0; i < n_elements(entities); i++)
        if (strncmp(p, entities[i].text, strlen(entities[i].text)) == 0)
            return entities[i].c;
    bool hex = p[1] == '#' && p[2] == 'x';
    unsigned c = 0;
    for (p += hex ? 3 : 2; p < semicolon && c < 0x80; p++)
        c = hex ? c * 16 + (unsigned)(*p <= '9' ? *p - '0' : (*p | 0x20) - 'a' + 10)
                : c * 10 + (unsigned)(*p - '0');
    return c < 0x80 ? (char)c : '?';
}

static bool is_namespace(const struct text *value, bool has_references, const char *ns, size_t n)
{
    const char *p = value->p;
    if (!has_references)
        return is_text(value, ns, n);
    while (*ns && p < value->end && read_character(&p, value->end) == *ns)
        ns++;
    return !*ns && p == value->end;
}

/* ---- what is known ---- */

/* A line without a name speaks for the rest of its namespace. What has no KEEP and no UNKNOWN says something
 * about the message or of the moment, and is no reason to keep anything. */
struct rule {
    const char *ns, *name;
    unsigned n_ns, n_name, marks;
};
#define RULE(ns, name, marks)                                                                                \
    {                                                                                                        \
        ns, name, sizeof ns - 1, sizeof name - 1, marks                                                      \
    }
#define ANY ""
enum {
    OTHER = PAYLOAD_OTHER,
    KEEP = PAYLOAD_KEEP,
    OTHER_KEEP = OTHER | KEEP,
    UNKNOWN = PAYLOAD_UNKNOWN,
    OTHER_UNKNOWN = OTHER | UNKNOWN, /* also of what has no line here */
};
static const struct rule rules[] = {
    RULE("http://jabber.org/protocol/chatstates", ANY, PAYLOAD_CHAT_STATE), /* XEP-0160 §3 */
    RULE("urn:xmpp:receipts", "received", PAYLOAD_RECEIPT | KEEP),          /* XEP-0184 */
    RULE("urn:xmpp:receipts", ANY, PAYLOAD_RECEIPT),
    RULE("urn:xmpp:chat-markers:0", "markable", PAYLOAD_MARKER), /* XEP-0333 */
    RULE("urn:xmpp:chat-markers:0", ANY, PAYLOAD_MARKER | KEEP),
    RULE("urn:xmpp:sid:0", ANY, 0),
    RULE("urn:xmpp:hints", "no-copy", PAYLOAD_NO_COPY),
    RULE("urn:xmpp:hints", "store", PAYLOAD_STORE),
    RULE("urn:xmpp:hints", "no-store", PAYLOAD_NO_STORE),
    RULE("urn:xmpp:hints", "no-permanent-store", PAYLOAD_NO_ARCHIVE),
    RULE("urn:xmpp:hints", "no-storage", PAYLOAD_NO_STORE), /* as it was called before version 0.2 */
    RULE("urn:xmpp:hints", "no-permanent-storage", PAYLOAD_NO_ARCHIVE),
    RULE("urn:xmpp:hints", ANY, 0),
    RULE("eu.siacs.conversations.axolotl", "encrypted", PAYLOAD_ENCRYPTED | KEEP),
    RULE("urn:xmpp:omemo:1", "encrypted", PAYLOAD_ENCRYPTED | KEEP),
    RULE("urn:xmpp:omemo:2", "encrypted", PAYLOAD_ENCRYPTED | KEEP),
    RULE("urn:xmpp:openpgp:0", "openpgp", PAYLOAD_ENCRYPTED | KEEP),
    RULE("jabber:x:encrypted", "x", PAYLOAD_ENCRYPTED | KEEP),
    RULE("urn:xmpp:message-correct:0", "replace", OTHER_KEEP), /* XEP-0308 */
    RULE("urn:xmpp:reactions:0", "reactions", OTHER_KEEP),     /* XEP-0444 */
    RULE("urn:xmpp:message-retract:1", "retract", OTHER_KEEP | PAYLOAD_RETRACT),
    RULE("urn:xmpp:fasten:0", "apply-to", OTHER_KEEP), /* XEP-0424 before version 0.4 */
    RULE("urn:xmpp:reply:0", ANY, OTHER),              /* XEP-0461 */
    RULE("urn:xmpp:fallback:0", ANY, OTHER),
    RULE("urn:xmpp:eme:0", ANY, OTHER),
    RULE("urn:xmpp:delay", ANY, 0),
    RULE("urn:xmpp:carbons:2", "private", PAYLOAD_PRIVATE),
    RULE("urn:xmpp:carbons:2", ANY, PAYLOAD_CARBON),
    RULE("http://jabber.org/protocol/pubsub#event", "event", PAYLOAD_EVENT | UNKNOWN),
    RULE("urn:xmpp:jingle-message:0", ANY, PAYLOAD_CALL | UNKNOWN),
    RULE("http://jabber.org/protocol/nick", ANY, OTHER),
    RULE("jabber:x:event", ANY, OTHER), /* XEP-0022: the chat states of old */
    RULE("jabber:x:oob", "x", OTHER_KEEP),
    RULE("urn:xmpp:sfs:0", "file-sharing", OTHER_KEEP),
    RULE("jabber:x:conference", "x", PAYLOAD_INVITE | KEEP), /* XEP-0249 */
    RULE("http://jabber.org/protocol/muc#user", "x", PAYLOAD_MUC_USER | KEEP),
    RULE("http://jabber.org/protocol/muc#user", ANY, PAYLOAD_MUC_USER | UNKNOWN),
};
static const struct rule of_client[] = {
    RULE("jabber:client", "body", PAYLOAD_BODY | KEEP),
    RULE("jabber:client", "subject", OTHER_KEEP),
    RULE("jabber:client", "thread", 0),
    RULE("jabber:client", "error", UNKNOWN),
};

static bool is_name(const struct rule *r, const struct text *name)
{
    return !r->n_name || is_text(name, r->name, r->n_name);
}

static unsigned marks_of_client(const struct text *name)
{
    for (size_t i = 0; i < n_elements(of_client); i++)
        if (is_name(&of_client[i], name))
            return of_client[i].marks;
    return OTHER_UNKNOWN;
}

static bool is_of_client(const struct element *x)
{
    return x->has_ns ? is_namespace(&x->ns, memchr(x->ns.p, '&', (size_t)(x->ns.end - x->ns.p)),
                                    of_client[0].ns, of_client[0].n_ns)
                     : x->is_declared;
}

static bool has_invitation(const struct element *x)
{
    struct element in;
    struct text rest = x->content;
    while (next_element(&in, &rest, NULL) == STEP_ELEMENT)
        if (is_text(&in.name, "invite", 6))
            return true;
    return false;
}

static unsigned marks_of(const struct element *x)
{
    if (!x->has_ns)
        return x->is_declared ? marks_of_client(&x->name) : OTHER_UNKNOWN;
    bool has_references = memchr(x->ns.p, '&', (size_t)(x->ns.end - x->ns.p));
    for (size_t i = 0; i < n_elements(rules); i++) {
        if (!is_namespace(&x->ns, has_references, rules[i].ns, rules[i].n_ns) ||
            !is_name(&rules[i], &x->name))
            continue;
        bool invites = rules[i].marks & PAYLOAD_MUC_USER && has_invitation(x);
        return rules[i].marks | (invites ? PAYLOAD_INVITE : 0);
    }
    return is_of_client(x) ? marks_of_client(&x->name) : OTHER_UNKNOWN;
}

unsigned payload_look(const char *extra, const void *payload, size_t n_bytes)
{
    if (!n_bytes)
        return 0;
    struct text rest = {payload, (const char *)payload + n_bytes};
    struct element x;
    unsigned all = 0;
    enum step step;
    while ((step = next_element(&x, &rest, extra)) == STEP_ELEMENT)
        all |= marks_of(&x);
    return step == STEP_BROKEN ? all | UNKNOWN : all;
}

static unsigned look(const struct envelope *e)
{
    if (!e->payload)
        return 0;
    if (!e->is_looked_at) {
        /* The payload never changes: the envelope is no less constant for knowing what is in it. */
        struct envelope *mine = (struct envelope *)e;
        mine->seen = payload_look(e->extra, e->payload->data, e->payload->n);
        mine->is_looked_at = true;
    }
    return e->seen;
}

unsigned payload_marks(const struct envelope *e)
{
    return look(e) & PAYLOAD_MARKS;
}

unsigned payload_worth(const struct envelope *e)
{
    return look(e) & ~(unsigned)PAYLOAD_MARKS;
}

/* ---- single pieces ---- */

static bool find_child(struct element *x, struct text rest, const char *extra, const char *name)
{
    while (next_element(x, &rest, extra) == STEP_ELEMENT)
        if (is_text(&x->name, name, strlen(name)))
            return true;
    return false;
}

static struct text whole(const struct envelope *e)
{
    const struct blob *b = e->payload;
    return b ? (struct text){b->data, b->data + b->n} : (struct text){"", ""};
}

const char *payload_event_node(const struct envelope *e, size_t *n)
{
    struct element event, items;
    if (!find_child(&event, whole(e), e->extra, "event") || !find_child(&items, event.content, NULL, "items"))
        return NULL;
    struct text name, value;
    while (next_attribute(&items.attributes, &name, &value)) {
        if (!is_text(&name, "node", 4))
            continue;
        *n = (size_t)(value.end - value.p);
        return value.p;
    }
    return NULL;
}

/* At most MAX bytes of it, not in the middle of a reference or of a character. */
static size_t cut(const struct text *t, size_t max)
{
    size_t n = (size_t)(t->end - t->p);
    if (n <= max)
        return n;
    for (n = max; n && ((unsigned char)t->p[n] & 0xc0) == 0x80;)
        n--;
    const char *amp = memrchr(t->p, '&', n);
    return amp && !memchr(amp, ';', (size_t)(t->p + n - amp)) ? (size_t)(amp - t->p) : n;
}

const char *payload_body(const struct envelope *e, size_t *n)
{
    struct element x;
    struct text rest = whole(e);
    while (next_element(&x, &rest, e->extra) == STEP_ELEMENT) {
        if (!is_of_client(&x) || !is_text(&x.name, "body", 4) || x.content.p == x.content.end)
            continue;
        const char *tag = memchr(x.content.p, '<', (size_t)(x.content.end - x.content.p));
        if (tag)
            x.content.end = tag;
        *n = cut(&x.content, *n);
        return x.content.p;
    }
    return NULL;
}
