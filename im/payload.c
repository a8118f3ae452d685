#include "im/payload.h"
#include <string.h>

struct tag {
    const char *name, *attrs, *end; /* END: behind the '>' */
    size_t n_name, n_attrs;
    bool closes, is_empty;
};

/* The next tag at or after P. The payload went through the parser: no comment, no CDATA section, no '<' in a
 * value, but '>' may stand in one. */
static bool next_tag(struct tag *t, const char *p, const char *end)
{
    p = memchr(p, '<', (size_t)(end - p));
    if (!p || p + 1 >= end)
        return false;
    t->closes = p[1] == '/';
    t->name = p + 1 + t->closes;
    const char *q = t->name;
    while (q < end && !strchr(" \t\r\n/>", *q))
        q++;
    t->n_name = (size_t)(q - t->name);
    t->attrs = q;
    for (char quote = 0; q < end && (quote || *q != '>'); q++) {
        if (quote)
            quote = *q == quote ? 0 : quote;
        else if (*q == '\'' || *q == '"')
            quote = *q;
    }
    if (q >= end)
        return false;
    t->is_empty = q[-1] == '/';
    t->n_attrs = (size_t)(q - t->attrs);
    t->end = q + 1;
    return true;
}

/* The raw value of attribute NAME in TEXT ("a='b' c=\"d\""); NULL: it has none. */
static const char *find_attr(const char *text, size_t n_text, const char *name, size_t n_name, size_t *n)
{
    const char *p = text, *end = text + n_text;
    while (p < end) {
        while (p < end && strchr(" \t\r\n/", *p))
            p++;
        const char *at = p;
        while (p < end && *p != '=' && !strchr(" \t\r\n", *p))
            p++;
        size_t n_at = (size_t)(p - at);
        while (p < end && *p != '\'' && *p != '"')
            p++;
        const char *close = p < end ? memchr(p + 1, *p, (size_t)(end - p - 1)) : NULL;
        if (!close)
            return NULL;
        if (n_at == n_name && memcmp(at, name, n_name) == 0) {
            *n = (size_t)(close - p - 1);
            return p + 1;
        }
        p = close + 1;
    }
    return NULL;
}

static bool is(const char *text, size_t n, const char *what)
{
    return strlen(what) == n && memcmp(text, what, n) == 0;
}

/* Namespace of the tag as declared in it, or on the stanza for a prefix. */
static const char *namespace_of(const struct envelope *e, const struct tag *t, const char **local,
                                size_t *n_local, size_t *n)
{
    const char *colon = memchr(t->name, ':', t->n_name);
    *local = colon ? colon + 1 : t->name;
    *n_local = t->n_name - (size_t)(*local - t->name);
    if (!colon)
        return find_attr(t->attrs, t->n_attrs, "xmlns", 5, n);
    char name[64];
    size_t n_prefix = (size_t)(colon - t->name);
    if (n_prefix + 6 > sizeof name)
        return NULL;
    memcpy(name, "xmlns:", 6);
    memcpy(name + 6, t->name, n_prefix);
    const char *ns = find_attr(t->attrs, t->n_attrs, name, 6 + n_prefix, n);
    return ns || !e->extra ? ns : find_attr(e->extra, strlen(e->extra), name, 6 + n_prefix, n);
}

static bool has(const char *from, const char *to, const char *what)
{
    return memmem(from, (size_t)(to - from), what, strlen(what)) != NULL;
}

/* One element directly inside the stanza; its content reaches from the tag's end to TO. */
static unsigned mark_of(const struct envelope *e, const struct tag *t, const char *to)
{
    static const struct {
        const char *ns, *name; /* NULL: any */
        unsigned mark;
    } known[] = {
        {"urn:xmpp:carbons:2", "private", PAYLOAD_PRIVATE},
        {"urn:xmpp:carbons:2", NULL, PAYLOAD_CARBON},
        {"urn:xmpp:hints", "no-copy", PAYLOAD_NO_COPY},
        {"urn:xmpp:hints", NULL, 0},
        {"http://jabber.org/protocol/chatstates", NULL, PAYLOAD_CHAT_STATE},
        {"urn:xmpp:receipts", NULL, PAYLOAD_RECEIPT},
        {"urn:xmpp:chat-markers:0", NULL, PAYLOAD_MARKER},
        {"jabber:x:conference", "x", PAYLOAD_INVITE},
        {"eu.siacs.conversations.axolotl", "encrypted", PAYLOAD_ENCRYPTED},
        {"urn:xmpp:omemo:2", "encrypted", PAYLOAD_ENCRYPTED},
        {"urn:xmpp:openpgp:0", "openpgp", PAYLOAD_ENCRYPTED},
        {"jabber:x:encrypted", "x", PAYLOAD_ENCRYPTED},
        {"http://jabber.org/protocol/pubsub#event", "event", PAYLOAD_EVENT},
        {"urn:xmpp:jingle-message:0", NULL, PAYLOAD_CALL},
        {"urn:xmpp:sid:0", NULL, 0},
        {"urn:xmpp:delay", NULL, 0},
    };
    const char *local;
    size_t n_local, n;
    const char *ns = namespace_of(e, t, &local, &n_local, &n);
    if (!ns || is(ns, n, "jabber:client")) {
        if (is(local, n_local, "body"))
            return PAYLOAD_BODY;
        return is(local, n_local, "thread") || is(local, n_local, "error") ? 0 : PAYLOAD_OTHER;
    }
    if (is(ns, n, "http://jabber.org/protocol/muc#user"))
        return PAYLOAD_MUC_USER | (has(t->end, to, "<invite") ? PAYLOAD_INVITE : 0);
    for (size_t i = 0; i < n_elements(known); i++)
        if (is(ns, n, known[i].ns) && (!known[i].name || is(local, n_local, known[i].name)))
            return known[i].mark;
    return PAYLOAD_OTHER;
}

unsigned payload_marks(const struct envelope *e)
{
    if (!e->payload)
        return 0;
    const char *p = e->payload->data, *end = p + e->payload->n;
    unsigned depth = 0, marks = 0;
    struct tag t, top;
    for (; next_tag(&t, p, end); p = t.end) {
        if (t.closes) {
            if (depth && --depth == 0)
                marks |= mark_of(e, &top, t.name);
        } else if (t.is_empty) {
            if (!depth)
                marks |= mark_of(e, &t, t.end);
        } else if (depth++ == 0) {
            top = t;
        }
    }
    return marks;
}

const char *payload_event_node(const struct envelope *e, size_t *n)
{
    if (!e->payload)
        return NULL;
    const char *p = e->payload->data, *end = p + e->payload->n;
    struct tag t;
    for (; next_tag(&t, p, end); p = t.end)
        if (!t.closes && is(t.name, t.n_name, "items"))
            return find_attr(t.attrs, t.n_attrs, "node", 4, n);
    return NULL;
}

const char *payload_body(const struct envelope *e, size_t *n)
{
    if (!e->payload)
        return NULL;
    const char *p = e->payload->data, *end = p + e->payload->n;
    unsigned depth = 0;
    struct tag t;
    for (; next_tag(&t, p, end); p = t.end) {
        if (depth == 0 && !t.closes && !t.is_empty && is(t.name, t.n_name, "body")) {
            const char *close = memchr(t.end, '<', (size_t)(end - t.end));
            size_t n_text = close ? (size_t)(close - t.end) : 0;
            /* Not in the middle of a reference or of a character. */
            if (n_text > *n) {
                n_text = *n;
                while (n_text && ((unsigned char)t.end[n_text] & 0xc0) == 0x80)
                    n_text--;
                const char *amp = memrchr(t.end, '&', n_text);
                if (amp && !memchr(amp, ';', (size_t)(t.end + n_text - amp)))
                    n_text = (size_t)(amp - t.end);
            }
            *n = n_text;
            return t.end;
        }
        if (t.closes)
            depth -= depth > 0;
        else if (!t.is_empty)
            depth++;
    }
    return NULL;
}
