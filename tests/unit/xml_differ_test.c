/* Attack 3, stanza smuggling: what the server takes for one stanza is the same stanza for every parser behind
 * it. Stanzas made and spoilt at random go through the server's stream parser, which has two ways of its own
 * (xml_plain, expat); what it takes, and the bytes that it would forward, must be the same tree to libxml2.
 * IMP_SEEDS=N: more of them. */
#include "base/buf.h"
#include "base/mem.h"
#include "base/xml.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HEADER                                                                                               \
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' "                                             \
    "xmlns:stream='http://etherx.jabber.org/streams' to='x' version='1.0'>"

enum { SEEDS = 60000, STANZA_MAX = 4000 };

/* ---- random ---- */

static uint64_t rnd(uint64_t *seed, uint64_t n)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed % n;
}

#define PICK(seed, list) ((list)[rnd((seed), sizeof(list) / sizeof((list)[0]))])

static void add_text(struct buf *b, uint64_t *seed)
{
    static const char *const pieces[] = {
        "a",
        "hello ",
        "&lt;",
        "&amp;",
        "&gt;",
        "&quot;",
        "&apos;",
        "&#65;",
        "&#x263a;",
        "\n",
        "\r\n",
        "\t",
        "]]",
        "]",
        ">",
        "<![CDATA[<x>]]>",
        "\xc3\xbc",
        "\xe2\x82\xac",
        "\xf0\x9f\x98\x80",
        "\xc2\x85",
        "\xe2\x80\xa8",
        "\xef\xbb\xbf",
        "\xef\xbf\xbd",
        "&#13;",
    };
    for (uint64_t i = rnd(seed, 5); i > 0; i--)
        buf_adds(b, PICK(seed, pieces));
}

static void add_attr(struct buf *b, uint64_t *seed)
{
    static const char *const names[] = {"a",   "b",   "to",    "type",    "id",      "xml:lang", "xml:space",
                                        "p:a", "q:b", "xmlns", "xmlns:p", "xmlns:q", "_x",       "a.b"};
    static const char *const values[] = {"",
                                         "1",
                                         "chat",
                                         "urn:a",
                                         "urn:b",
                                         "jabber:client",
                                         "jabber:server",
                                         "a&lt;b",
                                         "a&#10;b",
                                         " x ",
                                         "a\nb",
                                         "a\tb",
                                         "it\"s",
                                         "\xc3\xa4",
                                         "&#x41;",
                                         "http://etherx.jabber.org/streams",
                                         "x>y",
                                         "/"};
    buf_adds(b, rnd(seed, 8) ? " " : "\n ");
    buf_adds(b, PICK(seed, names));
    buf_adds(b, rnd(seed, 20) ? "='" : " = '");
    buf_adds(b, PICK(seed, values));
    buf_adds(b, "'");
}

static void add_element(struct buf *b, uint64_t *seed, unsigned depth)
{
    static const char *const names[] = {"message",      "body",     "x",  "p:x",       "q:y",
                                        "stream:error", "presence", "iq", "\xc3\xa9l", "a-b.c"};
    const char *name = PICK(seed, names);
    buf_adds(b, "<");
    buf_adds(b, name);
    for (uint64_t i = rnd(seed, 4); i > 0; i--)
        add_attr(b, seed);
    if (rnd(seed, 4) == 0) {
        buf_adds(b, rnd(seed, 2) ? "/>" : " />");
        return;
    }
    buf_adds(b, ">");
    for (uint64_t i = rnd(seed, 4); i > 0 && depth < 6; i--) {
        add_text(b, seed);
        if (rnd(seed, 2))
            add_element(b, seed, depth + 1);
    }
    add_text(b, seed);
    buf_addf(b, rnd(seed, 10) ? "</%s>" : "</%s >", name);
}

/* Now and then bytes that no text has, and pieces in the wrong places. */
static void spoil(struct buf *b, uint64_t *seed)
{
    static const char *const odd[] = {"\xc0\xaf",
                                      "\xed\xa0\x80",
                                      "\xef\xbf\xbe",
                                      "\xff",
                                      "\xe2\x82",
                                      "\xf4\x90\x80\x80",
                                      "\x01",
                                      "<",
                                      ">",
                                      "&",
                                      "'",
                                      "\"",
                                      "/",
                                      "<!--x-->",
                                      "<?x?>",
                                      "]]>",
                                      "<![CDATA[",
                                      "</message>",
                                      "<message>",
                                      " xmlns='urn:z'",
                                      " xmlns:p=''",
                                      "&x;",
                                      "\x0b",
                                      "=",
                                      "<stream:x/>",
                                      "</stream:stream>",
                                      "\xc2",
                                      "&#0;",
                                      "&#xd800;",
                                      "&#xfffe;"};
    char piece[32];
    for (uint64_t i = rnd(seed, 3); i > 0 && b->n > 2; i--) {
        size_t at = rnd(seed, b->n);
        uint64_t how = rnd(seed, 4);
        size_t n_cut = how == 0 ? 1 + rnd(seed, 4) : 0;
        size_t n = how == 1 ? 1 : how >= 2 ? strlen(strcpy(piece, PICK(seed, odd))) : 0;
        if (how == 1)
            piece[0] = (char)rnd(seed, 256);
        struct buf out = {0};
        buf_add(&out, b->data, at);
        buf_add(&out, piece, n);
        size_t from = at + n_cut < b->n ? at + n_cut : b->n;
        buf_add(&out, b->data + from, b->n - from);
        buf_fini(b);
        *b = out;
    }
}

/* ---- trees as text: names with their namespaces, attributes sorted ---- */

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_sorted(struct buf *out, char **attrs, size_t n)
{
    qsort(attrs, n, sizeof *attrs, compare_strings);
    for (size_t i = 0; i < n; i++) {
        buf_adds(out, attrs[i]);
        free(attrs[i]);
    }
}

static void show_ours(struct buf *out, const struct xml *x)
{
    char *attrs[80];
    size_t n = 0;
    buf_addf(out, "<{%s}%s", x->ns, x->name);
    for (const struct xml_attr *a = x->attrs; a; a = a->next)
        if (asprintf(&attrs[n], " {%s}%s=\"%s\"", a->ns, a->name, a->value) > 0)
            n++;
    add_sorted(out, attrs, n);
    buf_adds(out, ">");
    for (const struct xml *c = x->children; c; c = c->next) {
        if (c->name)
            show_ours(out, c);
        else
            buf_add(out, c->text, c->n_text);
    }
    buf_adds(out, "</>");
}

static void show_theirs(struct buf *out, xmlNodePtr x)
{
    char *attrs[80];
    size_t n = 0;
    buf_addf(out, "<{%s}%s", x->ns && x->ns->href ? (const char *)x->ns->href : "", x->name);
    for (xmlAttrPtr a = x->properties; a; a = a->next) {
        xmlChar *value = xmlNodeListGetString(x->doc, a->children, 1);
        if (asprintf(&attrs[n], " {%s}%s=\"%s\"", a->ns ? (const char *)a->ns->href : "", a->name,
                     value ? (char *)value : "") > 0)
            n++;
        xmlFree(value);
    }
    add_sorted(out, attrs, n);
    buf_adds(out, ">");
    for (xmlNodePtr c = x->children; c; c = c->next) {
        if (c->type == XML_ELEMENT_NODE)
            show_theirs(out, c);
        else if (c->type == XML_TEXT_NODE || c->type == XML_CDATA_SECTION_NODE)
            buf_adds(out, (const char *)c->content);
        else
            buf_addf(out, "[node of type %d]", c->type);
    }
    buf_adds(out, "</>");
}

/* As a client reads it that has this stream header; false: it does not take it. */
static bool read_by_libxml2(struct buf *out, const char *stanza, size_t n)
{
    struct buf doc = {0};
    buf_adds(&doc, HEADER);
    buf_add(&doc, stanza, n);
    buf_adds(&doc, "</stream:stream>");
    xmlParserCtxtPtr c = xmlNewParserCtxt();
    xmlDocPtr d =
        xmlCtxtReadMemory(c, doc.data, (int)doc.n, NULL, "UTF-8",
                          XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING | XML_PARSE_NOCDATA);
    bool good = d && c->wellFormed;
    xmlNodePtr root = good ? xmlDocGetRootElement(d) : NULL;
    unsigned n_children = 0;
    for (xmlNodePtr x = root ? root->children : NULL; x; x = x->next) {
        n_children++;
        if (x->type == XML_ELEMENT_NODE)
            show_theirs(out, x);
        else
            buf_addf(out, "[node of type %d]", x->type);
    }
    if (n_children != 1)
        good = false;
    xmlFreeDoc(d);
    xmlFreeParserCtxt(c);
    buf_fini(&doc);
    return good;
}

/* ---- the server ---- */

struct seen {
    unsigned n, n_forwarded;
    uint64_t seed;
};

static void fail_with(const struct seen *s, const char *what, const struct xml_stanza *st,
                      const struct buf *a, const struct buf *b)
{
    fail_msg("seed %llu: %s\nbytes: %.*s\nours:   %.*s\ntheirs: %.*s", (unsigned long long)s->seed, what,
             (int)st->n_raw, st->raw, (int)a->n, a->data, (int)b->n, b->n ? b->data : "");
}

static void on_stanza(void *user, struct xml_stanza *st)
{
    struct seen *s = user;
    struct buf ours = {0}, theirs = {0}, written = {0};
    s->n++;
    show_ours(&ours, st->root);
    buf_addc(&ours, 0);
    ours.n--;
    if (!read_by_libxml2(&theirs, st->raw, st->n_raw) || ours.n != theirs.n ||
        memcmp(ours.data, theirs.data, ours.n))
        fail_with(s, "another parser reads something else", st, &ours, &theirs);
    /* Forwarded: the raw bytes where they stand for themselves, else written anew. */
    buf_reset(&theirs);
    if (st->raw_self_contained) {
        buf_add(&written, st->raw, st->n_raw);
        s->n_forwarded++;
    } else {
        xml_write(&written, st->root, "jabber:client");
    }
    if (!read_by_libxml2(&theirs, written.data, written.n) || ours.n != theirs.n ||
        memcmp(ours.data, theirs.data, ours.n))
        fail_with(s, "what is forwarded reads as something else", st, &ours, &theirs);
    buf_fini(&ours);
    buf_fini(&theirs);
    buf_fini(&written);
}

static const struct xml_stream_events events = {.on_stanza = on_stanza};

static void attack_3_stanza_smuggling(void **state)
{
    (void)state;
    static const struct xml_limits limits = {
        .stanza_bytes = STANZA_MAX, .depth = 16, .attrs = 32, .elements = 200};
    const char *more = getenv("IMP_SEEDS");
    uint64_t n_seeds = more ? strtoull(more, NULL, 10) : SEEDS;
    struct seen s = {0};
    for (uint64_t i = 1; i <= n_seeds; i++) {
        uint64_t seed = s.seed = i * 0x9e3779b97f4a7c15u | 1;
        struct buf b = {0};
        add_element(&b, &seed, 0);
        spoil(&b, &seed);
        struct xml_stream *x = xml_stream_new(&limits, &events, &s);
        assert_int_equal(xml_stream_feed(x, HEADER, sizeof HEADER - 1), XML_OK);
        for (size_t at = 0; at < b.n;) { /* in pieces, as they may come */
            size_t n = rnd(&seed, 3) ? b.n - at : 1 + rnd(&seed, b.n - at);
            if (xml_stream_feed(x, b.data + at, n) != XML_OK)
                break;
            at += n;
        }
        xml_stream_free(x);
        buf_fini(&b);
    }
    /* Else nothing was compared. */
    assert_true(s.n > n_seeds / 10 && s.n_forwarded > n_seeds / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(attack_3_stanza_smuggling)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
