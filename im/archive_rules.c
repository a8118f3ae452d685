/* What a message is, by its bytes: the direct children of the stanza are named, nothing below them is looked
 * at. The bytes came through the XML parser (base/xml.h), so they are well-formed; what is not is taken for
 * unknown content. */
#include "im/archive.h"
#include <string.h>

enum {
    KEEP = 1, /* part of a conversation: kept although there may be no body */
    UNKNOWN =
        2, /* something that is not known here: no conversation, but XEP-0160 §3 has it stored offline */
    RETRACT = 4,     /* KEEP, and takes a message back */
    STORE = 8,       /* XEP-0334 §4: kept whatever it is, */
    NO_ARCHIVE = 16, /* not permanently, */
    NO_STORE = 32,   /* not at all */
};

/* What has no line here is UNKNOWN; a line without a name speaks for the rest of its namespace. Without
 * class: says something about the message or of the moment, and is no reason to keep anything. */
struct rule {
    const char *ns, *name;
    unsigned n_ns, n_name, class;
};
#define RULE(ns, name, class)                                                                                \
    {                                                                                                        \
        ns, name, sizeof ns - 1, sizeof name - 1, class                                                      \
    }
#define ANY ""
static const struct rule rules[] = {
    RULE("http://jabber.org/protocol/chatstates", ANY, 0), /* XEP-0160 §3 */
    RULE("urn:xmpp:hints", "store", STORE),
    RULE("urn:xmpp:hints", "no-store", NO_STORE),
    RULE("urn:xmpp:hints", "no-permanent-store", NO_ARCHIVE),
    RULE("urn:xmpp:hints", "no-storage", NO_STORE), /* as it was called before version 0.2 */
    RULE("urn:xmpp:hints", "no-permanent-storage", NO_ARCHIVE),
    RULE("urn:xmpp:hints", ANY, 0),
    RULE("urn:xmpp:receipts", "received", KEEP), /* XEP-0184 */
    RULE("urn:xmpp:receipts", ANY, 0),
    RULE("urn:xmpp:chat-markers:0", "markable", 0), /* XEP-0333 */
    RULE("urn:xmpp:chat-markers:0", ANY, KEEP),
    RULE("urn:xmpp:message-correct:0", "replace", KEEP), /* XEP-0308 */
    RULE("urn:xmpp:reactions:0", "reactions", KEEP),     /* XEP-0444 */
    RULE("urn:xmpp:message-retract:1", "retract", RETRACT),
    RULE("urn:xmpp:fasten:0", "apply-to", KEEP), /* XEP-0424 before version 0.4 */
    RULE("urn:xmpp:reply:0", ANY, 0),            /* XEP-0461 */
    RULE("urn:xmpp:fallback:0", ANY, 0),
    RULE("urn:xmpp:sid:0", ANY, 0),
    RULE("urn:xmpp:delay", ANY, 0),
    RULE("urn:xmpp:carbons:2", ANY, 0),
    RULE("urn:xmpp:eme:0", ANY, 0),
    RULE("http://jabber.org/protocol/nick", ANY, 0),
    RULE("jabber:x:event", ANY, 0), /* XEP-0022: the chat states of old */
    RULE("eu.siacs.conversations.axolotl", "encrypted", KEEP),
    RULE("urn:xmpp:omemo:1", "encrypted", KEEP),
    RULE("urn:xmpp:omemo:2", "encrypted", KEEP),
    RULE("urn:xmpp:openpgp:0", "openpgp", KEEP),
    RULE("jabber:x:encrypted", "x", KEEP),
    RULE("jabber:x:oob", "x", KEEP),
    RULE("urn:xmpp:sfs:0", "file-sharing", KEEP),
    RULE("jabber:x:conference", "x", KEEP), /* XEP-0249 */
    RULE("http://jabber.org/protocol/muc#user", "x", KEEP),
};
static const struct rule of_client[] = {
    RULE("jabber:client", "body", KEEP),
    RULE("jabber:client", "subject", KEEP),
    RULE("jabber:client", "thread", 0),
};

/* ---- the bytes ---- */

struct text {
    const char *p, *end;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
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

static bool is_text(const struct text *t, const char *s, size_t n)
{
    return (size_t)(t->end - t->p) == n && memcmp(t->p, s, n) == 0;
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

/* The namespace that a start tag gives to PREFIX ("": the default one); false: it says nothing of it. */
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
 * may be whatever they are. */
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

/* Behind the element whose start tag ends at P, '>' included; NULL: it does not end. */
static const char *skip_element(const char *p, const char *end)
{
    if (p[-2] == '/')
        return p;
    for (unsigned depth = 1; (p = find_tag(p, end));) {
        bool is_end = p + 1 < end && p[1] == '/';
        const char *close = find_tag_end(p, end);
        if (!close)
            return NULL;
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

/* ---- the rules ---- */

static bool is_name(const struct rule *r, const struct text *name)
{
    return !r->n_name || is_text(name, r->name, r->n_name);
}

static unsigned class_of_client(const struct text *name)
{
    for (size_t i = 0; i < n_elements(of_client); i++)
        if (is_name(&of_client[i], name))
            return of_client[i].class;
    return UNKNOWN;
}

/* NS NULL: that of the stanza. */
static unsigned class_of(const struct text *ns, const struct text *name)
{
    if (!ns)
        return class_of_client(name);
    bool has_references = memchr(ns->p, '&', (size_t)(ns->end - ns->p));
    for (size_t i = 0; i < n_elements(rules); i++)
        if (is_namespace(ns, has_references, rules[i].ns, rules[i].n_ns) && is_name(&rules[i], name))
            return rules[i].class;
    return is_namespace(ns, has_references, of_client[0].ns, of_client[0].n_ns) ? class_of_client(name)
                                                                                : UNKNOWN;
}

static unsigned class_of_tag(const struct text *tag, const char *extra)
{
    struct text name = {tag->p, tag->p}, prefix = {tag->p, tag->p}, attributes, ns, *found = NULL;
    while (name.end < tag->end && !is_space(*name.end) && *name.end != '/')
        name.end++;
    attributes = (struct text){name.end, tag->end};
    const char *colon = memchr(name.p, ':', (size_t)(name.end - name.p));
    if (colon) {
        prefix.end = colon;
        name.p = colon + 1;
    }
    if (find_declaration(attributes, &prefix, &ns))
        found = &ns;
    else if (colon && extra && find_declaration((struct text){extra, extra + strlen(extra)}, &prefix, &ns))
        found = &ns;
    return colon && !found ? UNKNOWN : class_of(found, &name);
}

static unsigned classes_of(const char *extra, const char *p, const char *end)
{
    unsigned all = 0;
    while (p && (p = find_tag(p, end))) {
        const char *close = find_tag_end(p, end);
        if (!close || p + 1 == close || p[1] == '/' || p[1] == '!' || p[1] == '?')
            return all | UNKNOWN;
        all |= class_of_tag(&(struct text){p + 1, close}, extra);
        p = skip_element(close + 1, end);
        if (!p)
            all |= UNKNOWN;
    }
    return all;
}

unsigned archive_class(enum stanza_type type, const char *extra, const void *payload, size_t n_bytes)
{
    bool is_talk = type == MESSAGE_CHAT || type == MESSAGE_NORMAL;
    /* XEP-0334 §5: hints of an error are not its own. A room has its own archive. */
    if (!n_bytes || (!is_talk && type != MESSAGE_HEADLINE))
        return 0;
    unsigned all = classes_of(extra, payload, (const char *)payload + n_bytes), out = 0;
    if (all & NO_STORE)
        return 0;
    if (all & STORE)
        out |= CLASS_ARCHIVE | (is_talk ? CLASS_OFFLINE : 0);
    if (is_talk && (all & (KEEP | RETRACT)))
        out |= CLASS_ARCHIVE | CLASS_OFFLINE;
    if (is_talk && (all & UNKNOWN))
        out |= CLASS_OFFLINE;
    if (all & NO_ARCHIVE)
        out &= ~(unsigned)CLASS_ARCHIVE;
    if (out && (all & RETRACT))
        out |= CLASS_RETRACT;
    return out;
}
