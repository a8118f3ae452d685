#include "base/xml.h"

#include <string.h>

/* What to do with a byte: 0 as it is, 1 always escaped, 2 escaped in attribute values, 3 not allowed, 4
 * non-ASCII. */
enum { PLAIN, ESCAPED, IN_ATTR, FORBIDDEN, MULTIBYTE };

static int byte_kind(unsigned char c)
{
    static const unsigned char low[64] = {
        ['<'] = ESCAPED,    ['>'] = ESCAPED,    ['&'] = ESCAPED,    ['\r'] = ESCAPED,   ['\''] = IN_ATTR,
        ['"'] = IN_ATTR,    ['\t'] = IN_ATTR,   ['\n'] = IN_ATTR,   [0x00] = FORBIDDEN, [0x01] = FORBIDDEN,
        [0x02] = FORBIDDEN, [0x03] = FORBIDDEN, [0x04] = FORBIDDEN, [0x05] = FORBIDDEN, [0x06] = FORBIDDEN,
        [0x07] = FORBIDDEN, [0x08] = FORBIDDEN, [0x0b] = FORBIDDEN, [0x0c] = FORBIDDEN, [0x0e] = FORBIDDEN,
        [0x0f] = FORBIDDEN, [0x10] = FORBIDDEN, [0x11] = FORBIDDEN, [0x12] = FORBIDDEN, [0x13] = FORBIDDEN,
        [0x14] = FORBIDDEN, [0x15] = FORBIDDEN, [0x16] = FORBIDDEN, [0x17] = FORBIDDEN, [0x18] = FORBIDDEN,
        [0x19] = FORBIDDEN, [0x1a] = FORBIDDEN, [0x1b] = FORBIDDEN, [0x1c] = FORBIDDEN, [0x1d] = FORBIDDEN,
        [0x1e] = FORBIDDEN, [0x1f] = FORBIDDEN,
    };
    return c < 64 ? low[c] : c < 0x80 ? PLAIN : MULTIBYTE;
}

/* Length of the UTF-8 character at P that XML allows (XML 1.0 §2.2), 0 if it is none. */
static size_t utf8_length(const unsigned char *p, const unsigned char *end)
{
    size_t n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || (size_t)(end - p) < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    if (p[0] == 0xef && p[1] == 0xbf && p[2] >= 0xbe)
        return 0; /* U+FFFE, U+FFFF */
    return n;
}

static const char *escape_of(unsigned char c)
{
    switch (c) {
    case '<':
        return "&lt;";
    case '>':
        return "&gt;";
    case '&':
        return "&amp;";
    case '"':
        return "&quot;";
    case '\'':
        return "&apos;";
    case '\r':
        return "&#13;";
    case '\n':
        return "&#10;";
    default:
        return "&#9;";
    }
}

static void escape(struct buf *out, const char *text, size_t n_bytes, bool in_attr)
{
    const unsigned char *p = (const unsigned char *)text, *end = p + n_bytes, *from = p;
    while (p < end) {
        int kind = byte_kind(*p);
        size_t n = 1;
        const char *instead = NULL;
        if (kind == MULTIBYTE) {
            n = utf8_length(p, end);
            if (n == 0) {
                instead = "\xef\xbf\xbd";
                n = 1;
            }
        } else if (kind == FORBIDDEN) {
            instead = "\xef\xbf\xbd";
        } else if (kind == ESCAPED || (kind == IN_ATTR && in_attr)) {
            instead = escape_of(*p);
        }
        if (instead) {
            buf_add(out, from, (size_t)(p - from));
            buf_adds(out, instead);
            from = p + n;
        }
        p += n;
    }
    buf_add(out, from, (size_t)(p - from));
}

void xml_escape(struct buf *out, const char *text, size_t n_bytes)
{
    escape(out, text, n_bytes, true);
}

static void write_value(struct buf *out, const char *value)
{
    buf_adds(out, "='");
    escape(out, value, strlen(value), true);
    buf_addc(out, '\'');
}

/* Each namespaced attribute declares a prefix of its own: rare, and never wrong. */
static void write_attr(struct buf *out, const struct xml_attr *a, unsigned number)
{
    if (!*a->ns) {
        buf_addc(out, ' ');
        buf_adds(out, a->name);
    } else if (strcmp(a->ns, XML_NS_XML) == 0) {
        buf_adds(out, " xml:");
        buf_adds(out, a->name);
    } else {
        buf_addf(out, " xmlns:ns%u", number);
        write_value(out, a->ns);
        buf_addf(out, " ns%u:%s", number, a->name);
    }
    write_value(out, a->value);
}

void xml_write(struct buf *out, const struct xml *x, const char *default_ns)
{
    if (!x->name) {
        escape(out, x->text, x->n_text, false);
        return;
    }
    /* Nothing else may be bound to the namespace of "xml:", nor it be a default (XML Names §3). */
    bool is_xml_ns = strcmp(x->ns, XML_NS_XML) == 0;
    const char *prefix = is_xml_ns ? "xml:" : "", *inner_ns = is_xml_ns ? default_ns : x->ns;
    buf_addc(out, '<');
    buf_adds(out, prefix);
    buf_adds(out, x->name);
    if (!is_xml_ns && (!default_ns || (x->ns != default_ns && strcmp(x->ns, default_ns) != 0))) {
        buf_adds(out, " xmlns");
        write_value(out, x->ns);
    }
    unsigned number = 0;
    for (const struct xml_attr *a = x->attrs; a; a = a->next)
        write_attr(out, a, number++);
    if (!x->children) {
        buf_adds(out, "/>");
        return;
    }
    buf_addc(out, '>');
    for (const struct xml *c = x->children; c; c = c->next)
        xml_write(out, c, inner_ns);
    buf_adds(out, "</");
    buf_adds(out, prefix);
    buf_adds(out, x->name);
    buf_addc(out, '>');
}
