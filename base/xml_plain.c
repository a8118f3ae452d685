#include "base/xml_plain.h"

#include <string.h>

enum {
    MAX_ATTRS = 16, /* compared with one another; more are expat's */
    MAX_NS_BYTES = 512,
    MAX_BYTES = 4096, /* of an element; is copied before it is known how long that is */
};

/* What a byte may be. */
enum {
    IS_NAME_START = 1,
    IS_NAME = 2,
    IS_VALUE = 4, /* in a quoted value */
    IS_TEXT = 8,  /* in text, whatever comes next */
    IS_WIDE = 16, /* first of several bytes */
};
#define LETTER (IS_NAME_START | IS_NAME | IS_VALUE | IS_TEXT)
#define DIGIT (IS_NAME | IS_VALUE | IS_TEXT)
#define OTHER (IS_VALUE | IS_TEXT)
static const unsigned char byte_class[256] = {
    ['\t'] = IS_TEXT,       ['\n'] = IS_TEXT,       [' ' ... '%'] = OTHER,
    ['\'' ... ','] = OTHER, ['-' ... '.'] = DIGIT,  ['/'] = OTHER,
    ['0' ... '9'] = DIGIT,  [':' ... ';'] = OTHER,  ['=' ... '@'] = OTHER,
    ['A' ... 'Z'] = LETTER, ['[' ... '\\'] = OTHER, [']'] = IS_VALUE,
    ['^'] = OTHER,          ['_'] = LETTER,         ['`'] = OTHER,
    ['a' ... 'z'] = LETTER, ['{' ... 0x7f] = OTHER, [0xc2 ... 0xf4] = IS_WIDE,
};

struct plain {
    const char *p, *end; /* in what came */
    const char *from;
    char *copy; /* the same bytes, in the arena: strings of the tree lie there */
    struct arena *arena;
    const struct xml_limits *limits;
    struct xml *current;
    unsigned depth, n_elements;
};

static bool is(const char *p, unsigned what)
{
    return byte_class[(unsigned char)*p] & what;
}

static char *copy_at(const struct plain *s, const char *p)
{
    return s->copy + (p - s->from);
}

/* The string from START to END, where a byte stands that is of no use any more. */
static const char *string_at(const struct plain *s, const char *start, const char *end)
{
    *copy_at(s, end) = '\0';
    return copy_at(s, start);
}

/* Bytes of the character at P (RFC 3629 §4); 0: none that XML allows, or cut. */
static unsigned wide(const struct plain *s, const char *at)
{
    const unsigned char *p = (const unsigned char *)at;
    unsigned n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (s->end - at < (ptrdiff_t)n)
        return 0;
    for (unsigned i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    bool refused = (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
                   (p[0] == 0xef && p[1] == 0xbf && p[2] >= 0xbe) || (p[0] == 0xf0 && p[1] < 0x90) ||
                   (p[0] == 0xf4 && p[1] > 0x8f);
    return refused ? 0 : n;
}

static bool skip_name(struct plain *s)
{
    if (s->p == s->end || !is(s->p, IS_NAME_START))
        return false;
    while (s->p < s->end && is(s->p, IS_NAME))
        s->p++;
    return s->p < s->end;
}

static bool skip_space(struct plain *s)
{
    const char *before = s->p;
    while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\t' || *s->p == '\r'))
        s->p++;
    return s->p > before;
}

/* ---- tags ---- */

/* At the quote. */
static const char *read_value(struct plain *s)
{
    char quote = *s->p++;
    const char *start = s->p;
    if (quote != '\'' && quote != '"')
        return NULL;
    while (s->p < s->end && *s->p != quote) {
        unsigned n = is(s->p, IS_VALUE) ? 1 : is(s->p, IS_WIDE) ? wide(s, s->p) : 0;
        if (!n)
            return NULL;
        s->p += n;
    }
    return s->p < s->end ? string_at(s, start, s->p++) : NULL;
}

/* Namespaces that XML itself owns are expat's to refuse. */
static bool set_ns(struct xml *x, const char *ns)
{
    static const char w3[] = "http://www.w3.org/";
    if (strncmp(ns, w3, sizeof w3 - 1) == 0 || strlen(ns) > MAX_NS_BYTES)
        return false;
    x->ns = x->parent && strcmp(x->parent->ns, ns) == 0 ? x->parent->ns : ns;
    return true;
}

struct attrs {
    unsigned n;
    const char *names[MAX_ATTRS];
    struct xml_attr **tail;
};

static bool add_attr(struct plain *s, struct xml *x, struct attrs *seen, const char *name, const char *value)
{
    for (unsigned i = 0; i < seen->n; i++)
        if (strcmp(seen->names[i], name) == 0)
            return false;
    if (seen->n == MAX_ATTRS || seen->n >= s->limits->attrs)
        return false;
    seen->names[seen->n++] = name;
    if (strcmp(name, "xmlns") == 0)
        return set_ns(x, value);
    struct xml_attr *a = arena_alloc(s->arena, sizeof *a);
    bool is_lang = strcmp(name, "xml:lang") == 0;
    *a =
        (struct xml_attr){.name = is_lang ? name + 4 : name, .ns = is_lang ? XML_NS_XML : "", .value = value};
    *seen->tail = a;
    seen->tail = &a->next;
    return true;
}

/* After the element's name. */
static bool read_attrs(struct plain *s, struct xml *x)
{
    static const char lang[] = "xml:lang";
    struct attrs seen = {.tail = &x->attrs};
    while (skip_space(s) && s->p < s->end && *s->p != '/' && *s->p != '>') {
        const char *start = s->p;
        if (s->end - s->p > (ptrdiff_t)sizeof lang && memcmp(s->p, lang, sizeof lang - 1) == 0)
            s->p += sizeof lang - 1;
        else if (!skip_name(s))
            return false;
        const char *end = s->p;
        if (*s->p != '=' || ++s->p == s->end)
            return false;
        const char *value = read_value(s);
        if (!value || !add_attr(s, x, &seen, string_at(s, start, end), value))
            return false;
    }
    return s->p < s->end;
}

static void end_element(struct plain *s)
{
    s->current = s->current->parent;
    s->depth--;
}

/* At '<'. */
static bool read_start(struct plain *s, const char *default_ns)
{
    const char *name = ++s->p;
    if (!skip_name(s) || ++s->depth > s->limits->depth || ++s->n_elements > s->limits->elements)
        return false;
    const char *end = s->p;
    struct xml *x = arena_zalloc(s->arena, sizeof *x);
    x->ns = s->current ? s->current->ns : default_ns;
    if (s->current)
        xml_append(s->current, x);
    s->current = x;
    if (!read_attrs(s, x))
        return false;
    bool is_empty = *s->p == '/';
    s->p += is_empty;
    if (s->p == s->end || *s->p++ != '>')
        return false;
    x->name = string_at(s, name, end);
    return true;
}

/* At "</". */
static bool read_end(struct plain *s)
{
    size_t n = strlen(s->current->name);
    if (s->end - s->p < (ptrdiff_t)n + 3 || memcmp(s->p + 2, s->current->name, n) != 0 || s->p[n + 2] != '>')
        return false;
    s->p += n + 3;
    return true;
}

/* ---- text ---- */

/* At '&'. Returns what it stands for; 0: it is not one of the five. */
static char read_reference(struct plain *s)
{
    static const struct {
        char text[8], n, c;
    } known[] = {
        {"&lt;", 4, '<'}, {"&gt;", 4, '>'}, {"&amp;", 5, '&'}, {"&quot;", 6, '"'}, {"&apos;", 6, '\''}};
    for (unsigned i = 0; i < sizeof known / sizeof known[0]; i++)
        if (s->end - s->p >= known[i].n && memcmp(s->p, known[i].text, (size_t)known[i].n) == 0) {
            s->p += known[i].n;
            return known[i].c;
        }
    return 0;
}

/* Up to the next tag. References are shorter than what they are written with. */
static bool read_text(struct plain *s)
{
    char *start = copy_at(s, s->p), *out = start;
    while (s->p < s->end && *s->p != '<') {
        const char *from = s->p;
        if (*from == '&') {
            char c = read_reference(s);
            if (!c)
                return false;
            *out++ = c;
            continue;
        }
        while (s->p < s->end && is(s->p, IS_TEXT))
            s->p++;
        if (s->p == from) {
            unsigned n =
                is(from, IS_WIDE) ? wide(s, from) : *from == ']' && s->end - from > 1 && from[1] != ']';
            if (!n)
                return false;
            s->p += n;
        }
        if (out != copy_at(s, from))
            memcpy(out, from, (size_t)(s->p - from));
        out += s->p - from;
    }
    if (s->p == s->end)
        return false;
    *out = '\0';
    struct xml *t = arena_zalloc(s->arena, sizeof *t);
    t->text = start;
    t->n_text = (size_t)(out - start);
    xml_append(s->current, t);
    return true;
}

size_t xml_plain_parse(struct xml_plain *out, struct arena *arena, const char *default_ns,
                       const struct xml_limits *limits, const char *d, size_t n_bytes)
{
    if (n_bytes > limits->stanza_bytes)
        n_bytes = limits->stanza_bytes;
    if (n_bytes > MAX_BYTES)
        n_bytes = MAX_BYTES;
    if (n_bytes < 4 || *d != '<' || !is(d + 1, IS_NAME_START))
        return 0;
    struct plain s = {.p = d, .end = d + n_bytes, .from = d, .arena = arena, .limits = limits};
    s.copy = arena_alloc(arena, n_bytes);
    memcpy(s.copy, d, n_bytes);
    *out = (struct xml_plain){0};
    do {
        bool is_tag = *s.p == '<';
        bool is_end = is_tag && s.p + 1 < s.end && s.p[1] == '/';
        if (is_end ? !read_end(&s) : is_tag ? !read_start(&s, default_ns) : !read_text(&s))
            return 0;
        if (!out->root) {
            out->root = s.current;
            out->n_start_tag = (size_t)(s.p - d);
        }
        if (is_end || (is_tag && s.p[-2] == '/'))
            end_element(&s);
    } while (s.current && s.p < s.end);
    return s.current ? 0 : (size_t)(s.p - d);
}
