#include "base/mem.h"
#include "base/xml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define HEADER                                                                                               \
    "<?xml version='1.0'?><stream:stream to='example.com' version='1.0' xmlns='jabber:client' "              \
    "xmlns:stream='http://etherx.jabber.org/streams'>"
#define NS_STREAMS "http://etherx.jabber.org/streams"

/* Collects what a stream says, as text: "H" header, "S:raw|tree", "E" end. */
struct seen {
    struct xml_stream *stream;
    struct buf log;
    int n_stanzas, n_headers, n_ends;
    bool self_contained;
    size_t n_start_tag;
    char raw[4096], tree[4096], to[64];
    const char *restart_on, *free_on, *stop_on, *pause_on;
    struct arena stolen;
    bool steal;
};

static void on_header(void *user, const struct xml *header)
{
    struct seen *s = user;
    s->n_headers++;
    const char *to = xml_attr(header, "to");
    snprintf(s->to, sizeof(s->to), "%s", to ? to : "");
    assert_true(xml_is(header, "stream", NS_STREAMS));
}

static void on_stanza(void *user, struct xml_stanza *stanza)
{
    struct seen *s = user;
    s->n_stanzas++;
    s->self_contained = stanza->raw_self_contained;
    s->n_start_tag = stanza->n_start_tag;
    snprintf(s->raw, sizeof(s->raw), "%.*s", (int)stanza->n_raw, stanza->raw);
    buf_reset(&s->log);
    xml_write(&s->log, stanza->root, "jabber:client");
    snprintf(s->tree, sizeof(s->tree), "%s", s->log.data);
    if (s->restart_on && strcmp(stanza->root->name, s->restart_on) == 0)
        xml_stream_restart(s->stream);
    if (s->pause_on && strcmp(stanza->root->name, s->pause_on) == 0)
        xml_stream_pause(s->stream);
    if (s->stop_on && strcmp(stanza->root->name, s->stop_on) == 0)
        xml_stream_stop(s->stream);
    if (s->free_on && strcmp(stanza->root->name, s->free_on) == 0)
        xml_stream_free(s->stream);
    if (s->steal) {
        arena_fini(&s->stolen);
        xml_stanza_steal(stanza, &s->stolen);
        assert_string_equal(stanza->root->name, "message");
    }
}

static void on_end(void *user)
{
    ((struct seen *)user)->n_ends++;
}

static const struct xml_stream_events events = {on_header, on_stanza, on_end};

static void begin(struct seen *s)
{
    memset(s, 0, sizeof(*s));
    s->stream = xml_stream_new(&xml_limits_default, &events, s);
}
static void finish(struct seen *s)
{
    xml_stream_free(s->stream);
    buf_fini(&s->log);
    arena_fini(&s->stolen);
}
static enum xml_error feed(struct seen *s, const char *text)
{
    return xml_stream_feed(s->stream, text, strlen(text));
}

static void test_stream_basic(void **state)
{
    struct seen s;
    begin(&s);
    assert_int_equal(feed(&s, " \n" HEADER), XML_OK);
    assert_int_equal(s.n_headers, 1);
    assert_string_equal(s.to, "example.com");
    assert_string_equal(xml_stream_default_ns(s.stream), "jabber:client");
    const char *m =
        "<message to=\"b@example.com\" id='1'><body>a &lt; b\n&#x20AC;</body><x xmlns='y'/></message>";
    assert_int_equal(feed(&s, m), XML_OK);
    assert_int_equal(s.n_stanzas, 1);
    assert_string_equal(s.raw, m);
    assert_int_equal(s.n_start_tag, strlen("<message to=\"b@example.com\" id='1'>"));
    assert_true(s.self_contained);
    assert_string_equal(
        s.tree, "<message to='b@example.com' id='1'><body>a &lt; b\n€</body><x xmlns='y'/></message>");
    assert_int_equal(feed(&s, "  \n<presence/><iq/></stream:stream>"), XML_OK);
    assert_int_equal(s.n_stanzas, 3);
    assert_string_equal(s.raw, "<iq/>");
    assert_int_equal(s.n_start_tag, 5);
    assert_int_equal(s.n_ends, 1);
    assert_int_equal(feed(&s, "garbage after the end"), XML_OK);
    finish(&s);
}

/* Any cut gives the same, and a stanza is there with its last byte. */
static void test_stream_cut(void **state)
{
    static const char text[] = HEADER "<message to='a>b'><body>1 ]] &amp; \xe2\x82\xac</body></message>"
                                      "<iq id=\"'2'\"><![CDATA[x]</iq>]]]></iq>";
    const size_t n_first = strlen(HEADER "<message to='a>b'><body>1 ]] &amp; \xe2\x82\xac</body></message>");
    for (size_t step = 1; step < 40; step++) {
        struct seen s;
        begin(&s);
        for (size_t i = 0; i < sizeof(text) - 1; i += step) {
            size_t n = i + step < sizeof(text) - 1 ? step : sizeof(text) - 1 - i;
            assert_int_equal(xml_stream_feed(s.stream, text + i, n), XML_OK);
            assert_int_equal(s.n_stanzas >= 1, i + n >= n_first);
            if (s.n_stanzas == 1)
                assert_string_equal(s.raw,
                                    "<message to='a>b'><body>1 ]] &amp; \xe2\x82\xac</body></message>");
        }
        assert_int_equal(s.n_stanzas, 2);
        assert_string_equal(s.tree, "<iq id='&apos;2&apos;'>x]&lt;/iq&gt;]</iq>");
        assert_false(s.self_contained);
        finish(&s);
    }
}

struct bad {
    const char *text;
    enum xml_error error;
};
static void test_stream_bad(void **state)
{
    static const struct bad cases[] = {
        {"<!DOCTYPE x [<!ENTITY a 'b'>]>", XML_RESTRICTED},
        {"<?xml version='1.0'?><!DOCTYPE stream:stream SYSTEM 'file:///etc/passwd'>", XML_RESTRICTED},
        {HEADER "<!-- c -->", XML_RESTRICTED},
        {HEADER "<a><!-- c --></a>", XML_RESTRICTED},
        {HEADER "<?php x?>", XML_RESTRICTED},
        {HEADER "<a><?php x?></a>", XML_RESTRICTED},
        {HEADER "<?xml version='1.0'?>", XML_RESTRICTED},
        {HEADER "<!ENTITY a 'b'>", XML_RESTRICTED},
        {HEADER "<a>&nbsp;</a>", XML_RESTRICTED},
        {HEADER "<a>&#0;</a>", XML_NOT_WELL_FORMED},
        {HEADER "<a>&#1;</a>", XML_NOT_WELL_FORMED},
        {HEADER "<a>&#xFFFE;</a>", XML_NOT_WELL_FORMED},
        {HEADER "<a>&#xD800;</a>", XML_NOT_WELL_FORMED},
        {HEADER "<a></b>", XML_NOT_WELL_FORMED},
        {HEADER "<a b='1' b='2'/>", XML_NOT_WELL_FORMED},
        {HEADER "<a xmlns:x='u' xmlns:y='u' x:b='1' y:b='2'/>", XML_NOT_WELL_FORMED},
        {HEADER "<a <b/>", XML_NOT_WELL_FORMED},
        {HEADER "<a b='<'/>", XML_NOT_WELL_FORMED},
        {HEADER "<a>]]></a>", XML_NOT_WELL_FORMED},
        {HEADER "text<a/>", XML_NOT_WELL_FORMED},
        {HEADER "< a/>", XML_NOT_WELL_FORMED},
        {HEADER "<x:a/>", XML_BAD_NAMESPACE},
        {HEADER "<a x:b=''/>", XML_BAD_NAMESPACE},
        {HEADER "<a xmlns:xml='urn:x'/>", XML_BAD_NAMESPACE},
        {HEADER "<a xmlns:x='http://www.w3.org/XML/1998/namespace'/>", XML_BAD_NAMESPACE},
        {HEADER "<a:b:c xmlns:a='u'/>", XML_NOT_WELL_FORMED},
        {"<?xml version='1.0' encoding='ISO-8859-1'?><a>", XML_BAD_ENCODING},
        {"<?xml version='1.0' encoding='UTF-16'?><a>", XML_BAD_ENCODING},
        {"<?xml version='1.1'?><a>", XML_NOT_WELL_FORMED},
        {"\xff\xfe<", XML_BAD_ENCODING},
        {"\xfe\xff", XML_BAD_ENCODING},
        {"\xef\xbb\xbf" HEADER, XML_NOT_WELL_FORMED},
        {"GET / HTTP/1.1\r\n", XML_NOT_WELL_FORMED},
        {HEADER "<a>\xc0\xaf</a>", XML_BAD_ENCODING},         /* overlong / */
        {HEADER "<a>\xe0\x80\xaf</a>", XML_BAD_ENCODING},     /* overlong */
        {HEADER "<a>\xed\xa0\x80</a>", XML_BAD_ENCODING},     /* surrogate */
        {HEADER "<a>\xf4\x90\x80\x80</a>", XML_BAD_ENCODING}, /* above U+10FFFF */
        {HEADER "<a>\xff</a>", XML_BAD_ENCODING},
        {HEADER "<a>\x80</a>", XML_BAD_ENCODING},
        {HEADER "<a>\xc3(</a>", XML_BAD_ENCODING},
        {HEADER "<\xed\xa0\x80/>", XML_BAD_ENCODING},
        {HEADER "<a\xe0\x80\xaf=''/>", XML_BAD_ENCODING},
        {HEADER "<a b='\xc0\xaf'/>", XML_BAD_ENCODING},
        {HEADER "<a xmlns='\xc0\xaf'/>", XML_BAD_ENCODING},
        {HEADER "<a>\xef\xbf\xbe</a>", XML_NOT_WELL_FORMED}, /* U+FFFE */
        {HEADER "<a>\x01</a>", XML_NOT_WELL_FORMED},
        {HEADER "<a xmlns:x='u\x01v'/>", XML_NOT_WELL_FORMED},
        {HEADER "<a xmlns:x='u&#1;v'/>", XML_NOT_WELL_FORMED},
    };
    for (size_t i = 0; i < n_elements(cases); i++)
        for (int drip = 0; drip < 2; drip++) {
            struct seen s;
            begin(&s);
            enum xml_error e = XML_OK;
            size_t n = strlen(cases[i].text);
            if (drip)
                for (size_t k = 0; k < n && e == XML_OK; k++)
                    e = xml_stream_feed(s.stream, cases[i].text + k, 1);
            else
                e = feed(&s, cases[i].text);
            if (e != cases[i].error)
                fail_msg("case %zu (drip %d): %s: %d", i, drip, cases[i].text, e);
            assert_int_equal(feed(&s, "<a/>"), cases[i].error);
            finish(&s);
        }
}

static void test_stream_nul(void **state)
{
    static const char *const texts[] = {"<\0a\0", HEADER "<a>\0</a>", HEADER "<a b='\0'/>", HEADER "<a\0/>"};
    static const size_t n[] = {4, sizeof(HEADER) - 1 + 8, sizeof(HEADER) - 1 + 10, sizeof(HEADER) - 1 + 5};
    for (size_t i = 0; i < n_elements(texts); i++) {
        struct seen s;
        begin(&s);
        assert_int_not_equal(xml_stream_feed(s.stream, texts[i], n[i]), XML_OK);
        assert_int_equal(s.n_stanzas, 0);
        finish(&s);
    }
}

/* What was complete before the error is delivered. */
static void test_stream_order(void **state)
{
    struct seen s;
    begin(&s);
    assert_int_equal(feed(&s, HEADER "<message/><iq/><!DOCTYPE"), XML_RESTRICTED);
    assert_int_equal(s.n_stanzas, 2);
    finish(&s);
}

static enum xml_error repeat(struct seen *s, const char *text, size_t n_times, size_t *max_memory)
{
    enum xml_error e = XML_OK;
    size_t n = strlen(text), per = 4096 / n ? 4096 / n : 1;
    char *chunk = mem_alloc(n * per);
    for (size_t i = 0; i < per; i++)
        memcpy(chunk + i * n, text, n);
    for (size_t i = 0; i < n_times && e == XML_OK; i += per) {
        e = xml_stream_feed(s->stream, chunk, n * per);
        if (xml_stream_memory(s->stream) > *max_memory)
            *max_memory = xml_stream_memory(s->stream);
    }
    mem_free(chunk);
    return e;
}

static void test_stream_limits(void **state)
{
    static const struct {
        const char *start, *repeat;
        size_t times, max_memory;
    } cases[] = {
        {HEADER "<message><body>", "xxxxxxxxxxxxxxxx", 6 << 20, 3 << 20},
        {HEADER "<message a='", "xxxxxxxxxxxxxxxx", 6 << 20, 1 << 20},
        {HEADER "<message", "xxxxxxxxxxxxxxxx", 6 << 20, 1 << 20},
        {HEADER "<message ", "                ", 6 << 20, 1 << 20},
        {HEADER "<message>", "</", 1, 1 << 20},
        {"<stream:stream a='", "xxxxxxxxxxxxxxxx", 6 << 20, 1 << 20},
        {HEADER "<message><body>", "<![CDATA[xxxx]]>", 6 << 20, 3 << 20},
        {HEADER "<message>", "<a>", 100000, 1 << 20},
        {HEADER "<message>", "<a/>", 1 << 20, 4 << 20},
        {HEADER "<message>", "<a xmlns='u'/>", 1 << 20, 4 << 20},
        {HEADER "<message>", "<a b='' c='' d='' e='' f='' g='' h='' i='' j='' k='' l='' m=''/>", 1 << 20,
         6 << 20},
        {HEADER "<message>", "&lt;", 6 << 20, 3 << 20},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct seen s;
        begin(&s);
        size_t max_memory = 0;
        assert_int_equal(feed(&s, cases[i].start), XML_OK);
        enum xml_error e = repeat(&s, cases[i].repeat, cases[i].times, &max_memory);
        if (i == 4)
            e = XML_TOO_BIG; /* only that it does not crash */
        if (e != XML_TOO_BIG || max_memory > cases[i].max_memory)
            fail_msg("case %zu: %d, memory %zu", i, e, max_memory);
        finish(&s);
    }
}

/* 10^5 attributes or namespace declarations are refused before expat sees them. */
static void test_stream_attributes(void **state)
{
    for (int f = 0; f < 2; f++) {
        struct buf b = {0};
        buf_adds(&b, HEADER "<message");
        for (unsigned i = 0; i < 100000; i++) {
            char one[32];
            snprintf(one, sizeof(one), f ? " xmlns:a%u='u'" : " a%u=''", i);
            buf_adds(&b, one);
        }
        buf_adds(&b, "/>");
        struct seen s;
        begin(&s);
        assert_int_equal(xml_stream_feed(s.stream, b.data, b.n), XML_TOO_BIG);
        assert_true(xml_stream_memory(s.stream) < 100000);
        finish(&s);
        buf_fini(&b);
    }
}

/* A long namespace would be copied by expat for each name in it. */
static void test_stream_long_ns(void **state)
{
    char ns[600];
    memset(ns, 'n', sizeof(ns));
    ns[sizeof(ns) - 1] = '\0';
    struct buf b = {0};
    buf_adds(&b, HEADER);
    buf_addf(&b, "<a xmlns='%s'/>", ns);
    struct seen s;
    begin(&s);
    assert_int_equal(xml_stream_feed(s.stream, b.data, b.n), XML_TOO_BIG);
    finish(&s);
    buf_fini(&b);
}

/* expat keeps every name for ever; the reader is replaced before that is much. */
static void test_stream_names(void **state)
{
    struct seen s;
    begin(&s);
    feed(&s, HEADER);
    size_t max_memory = 0;
    for (unsigned i = 0; i < 20000; i++) {
        char text[128];
        snprintf(text, sizeof(text), "<e%u xmlns='n%u' a%u='1' xmlns:p%u='q%u' p%u:b='2'/>", i, i, i, i, i,
                 i);
        assert_int_equal(feed(&s, text), XML_OK);
        if (xml_stream_memory(s.stream) > max_memory)
            max_memory = xml_stream_memory(s.stream);
    }
    assert_int_equal(s.n_stanzas, 20000);
    assert_true(max_memory < 100000);
    finish(&s);
}

static void test_stream_self_contained(void **state)
{
    static const struct {
        const char *header, *stanza;
        bool self_contained;
    } cases[] = {
        {HEADER, "<message><x xmlns='u'><y/></x></message>", true},
        {HEADER, "<message><p:x xmlns:p='u' p:a=''/></message>", true},
        {HEADER, "<message xml:lang='en'/>", true},
        {HEADER, "<message><stream:x/></message>", false},
        {HEADER, "<message stream:a=''/>", false},
        {HEADER, "<stream:error/>", false},
        {HEADER, "<message><body><![CDATA[a]]></body></message>", false},
        {"<s:stream xmlns:s='" NS_STREAMS "' xmlns='jabber:server'>", "<message/>", false},
        {"<s:stream xmlns:s='" NS_STREAMS "'>", "<message/>", false},
        {"<s:stream xmlns:s='" NS_STREAMS "'>", "<message xmlns='jabber:client'/>", true},
        {"<s:stream xmlns:s='" NS_STREAMS "' xmlns='jabber:client' xmlns:c='jabber:client'>", "<c:message/>",
         false},
        {"<s:stream xmlns:s='" NS_STREAMS "' xmlns='jabber:client' xmlns:c='u'>", "<message><c:x/></message>",
         false},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct seen s;
        begin(&s);
        assert_int_equal(feed(&s, cases[i].header), XML_OK);
        assert_int_equal(feed(&s, cases[i].stanza), XML_OK);
        assert_int_equal(s.n_stanzas, 1);
        if (s.self_contained != cases[i].self_contained)
            fail_msg("case %zu: %s", i, cases[i].stanza);
        finish(&s);
    }
}

static void test_stream_park(void **state)
{
    struct seen s;
    begin(&s);
    assert_false(xml_stream_park(s.stream));
    feed(&s, HEADER "<message/>");
    size_t before = xml_stream_memory(s.stream);
    assert_true(xml_stream_park(s.stream));
    assert_true(xml_stream_memory(s.stream) < 1024);
    assert_true(before > 2048);
    assert_true(xml_stream_park(s.stream));
    assert_int_equal(feed(&s, "<message><stream:x/><body>b</body></message>"), XML_OK);
    assert_int_equal(s.n_headers, 1);
    assert_string_equal(s.raw, "<message><stream:x/><body>b</body></message>");
    assert_false(s.self_contained);
    feed(&s, "<mess");
    assert_false(xml_stream_park(s.stream));
    feed(&s, "age>");
    assert_false(xml_stream_park(s.stream));
    assert_int_equal(feed(&s, "</message>"), XML_OK);
    assert_string_equal(s.raw, "<message></message>");
    assert_true(xml_stream_park(s.stream));
    assert_int_equal(feed(&s, " </stream:stream>"), XML_OK);
    assert_int_equal(s.n_ends, 1);
    assert_true(xml_stream_memory(s.stream) < 1024); /* ended, though its connection may linger */
    finish(&s);
}

/* Of a client's header that declares nothing of its own nothing is kept; of others all that the parser must
 * know. */
static void test_stream_park_header(void **state)
{
    static const char own[] = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:x='urn:x' "
                              "xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>";
    static const char other[] =
        "<s:stream xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams' version='1.0'>";
    struct seen s;
    begin(&s);
    feed(&s, HEADER "<message/>");
    assert_true(xml_stream_park(s.stream));
    size_t n_plain = xml_stream_memory(s.stream);
    assert_true(n_plain < 128);
    finish(&s);
    begin(&s);
    feed(&s, own);
    assert_true(xml_stream_park(s.stream));
    assert_true(xml_stream_memory(s.stream) > n_plain);
    assert_int_equal(feed(&s, "<message><x:y/></message>"), XML_OK);
    assert_string_equal(s.raw, "<message><x:y/></message>");
    assert_int_equal(feed(&s, "<message><y:y/></message>"), XML_BAD_NAMESPACE);
    finish(&s);
    begin(&s);
    feed(&s, other);
    assert_true(xml_stream_park(s.stream));
    assert_int_equal(feed(&s, "<message><s:y/></message></s:stream>"), XML_OK);
    assert_int_equal(s.n_ends, 1);
    finish(&s);
    begin(&s);
    feed(&s, other);
    assert_true(xml_stream_park(s.stream));
    assert_int_equal(feed(&s, "</stream:stream>"), XML_NOT_WELL_FORMED);
    finish(&s);
}

/* Plain stanzas cost a parked stream nothing, and streams that share an arena may feed one another. */
static void on_stanza_feeding(void *user, struct xml_stanza *stanza)
{
    struct seen *other = user;
    assert_int_equal(feed(other, "<message id='inner'><body>b</body></message>"), XML_OK);
    assert_string_equal(other->raw, "<message id='inner'><body>b</body></message>");
    assert_string_equal(stanza->raw, "<message id='outer'/>");
    assert_string_equal(xml_attr(stanza->root, "id"), "outer");
}

static void test_stream_scratch(void **state)
{
    static const struct xml_stream_events feeding = {.on_stanza = on_stanza_feeding};
    struct arena scratch;
    arena_init(&scratch);
    struct seen s;
    begin(&s);
    feed(&s, HEADER);
    assert_true(xml_stream_park(s.stream));
    xml_stream_set_scratch(s.stream, &scratch);
    assert_int_equal(feed(&s, " <message id='1'><body>b</body></message>"), XML_OK);
    assert_string_equal(s.raw, "<message id='1'><body>b</body></message>");
    assert_true(xml_stream_is_parked(s.stream));
    struct xml_stream *outer = xml_stream_new(&xml_limits_default, &feeding, &s);
    xml_stream_set_scratch(outer, &scratch);
    assert_int_equal(
        xml_stream_feed(outer, HEADER "<message id='outer'/>", strlen(HEADER "<message id='outer'/>")),
        XML_OK);
    assert_true(xml_stream_is_parked(s.stream));
    xml_stream_free(outer);
    feed(&s, "<iq");
    assert_false(xml_stream_is_parked(s.stream));
    assert_int_equal(feed(&s, "/>"), XML_OK);
    assert_true(xml_stream_park(s.stream));
    finish(&s);
    arena_fini(&scratch);
}

/* A restart inside an event: the rest of the bytes belongs to the new stream. */
static void test_stream_restart(void **state)
{
    static const char text[] =
        HEADER "<auth/>\n<?xml version='1.0'?><stream:stream xmlns='jabber:client' to='two' "
               "xmlns:stream='" NS_STREAMS "'><iq/><auth>x</auth>" HEADER "<message/>";
    for (size_t step = 1; step < sizeof(text) + 1; step++) {
        struct seen s;
        begin(&s);
        s.restart_on = "auth";
        for (size_t i = 0; i < sizeof(text) - 1; i += step) {
            size_t n = i + step < sizeof(text) - 1 ? step : sizeof(text) - 1 - i;
            assert_int_equal(xml_stream_feed(s.stream, text + i, n), XML_OK);
        }
        assert_int_equal(s.n_headers, 3);
        assert_int_equal(s.n_stanzas, 4);
        assert_string_equal(s.raw, "<message/>");
        finish(&s);
    }
}

static void test_stream_free_and_stop(void **state)
{
    struct seen s;
    begin(&s);
    s.free_on = "bye";
    assert_int_equal(feed(&s, HEADER "<message/><bye/><message/>"), XML_OK);
    assert_int_equal(s.n_stanzas, 2);
    s.stream = NULL;
    finish(&s);
    begin(&s);
    s.stop_on = "bye";
    assert_int_equal(feed(&s, HEADER "<message/><bye/><message/><<<"), XML_OK);
    assert_int_equal(s.n_stanzas, 2);
    assert_int_equal(feed(&s, "<<<"), XML_OK);
    finish(&s);
}

/* A pause at any stanza: nothing more comes before resume, nothing is lost. */
static void test_stream_pause(void **state)
{
    static const char text[] = HEADER "<message/><wait/>\n<iq a='1'><wait/></iq><wait>x</wait><iq/>";
    for (size_t step = 1; step < sizeof(text) + 1; step++) {
        struct seen s;
        begin(&s);
        s.pause_on = "wait";
        for (size_t i = 0; i < sizeof(text) - 1; i += step) {
            size_t n = i + step < sizeof(text) - 1 ? step : sizeof(text) - 1 - i;
            assert_int_equal(xml_stream_feed(s.stream, text + i, n), XML_OK);
        }
        assert_int_equal(s.n_stanzas, 2);
        assert_int_equal(xml_stream_resume(s.stream), XML_OK);
        assert_int_equal(s.n_stanzas, 4);
        assert_string_equal(s.raw, "<wait>x</wait>");
        assert_int_equal(xml_stream_resume(s.stream), XML_OK);
        assert_int_equal(s.n_stanzas, 5);
        assert_int_equal(s.n_headers, 1);
        finish(&s);
    }
    struct seen s;
    begin(&s);
    s.restart_on = s.pause_on = "auth";
    assert_int_equal(feed(&s, HEADER "<auth/>" HEADER "<message/>"), XML_OK);
    assert_int_equal(s.n_headers, 1);
    assert_int_equal(xml_stream_resume(s.stream), XML_OK);
    assert_int_equal(s.n_headers, 2);
    assert_int_equal(s.n_stanzas, 2);
    finish(&s);
}

/* A tag that is cut behind the stanza that pauses is scanned a second time: from its beginning. */
static void test_stream_pause_before_half_a_tag(void **state)
{
    struct seen s;
    begin(&s);
    s.pause_on = "wait";
    assert_int_equal(feed(&s, HEADER "<p:wait xmlns:p='urn:p'/><iq a='"), XML_OK);
    assert_int_equal(s.n_stanzas, 1);
    assert_int_equal(xml_stream_resume(s.stream), XML_OK);
    assert_int_equal(feed(&s, "1'/>"), XML_OK);
    assert_int_equal(s.n_stanzas, 2);
    assert_string_equal(s.raw, "<iq a='1'/>");
    finish(&s);
}

static void test_stream_steal(void **state)
{
    struct seen s;
    begin(&s);
    s.steal = true;
    assert_int_equal(feed(&s, HEADER "<message><body>1</body></message><message/>"), XML_OK);
    assert_int_equal(s.n_stanzas, 2);
    assert_true(s.stolen.n_bytes > 0);
    finish(&s);
}

static struct xml *parse(struct arena *a, const char *text)
{
    struct xml *x = NULL;
    struct err_ctx err = {0};
    if (xml_parse(&x, a, text, strlen(text), &xml_limits_default, &err) != 0)
        fail_msg("%s: %s", text, err.text);
    return x;
}

static void test_tree(void **state)
{
    struct arena a;
    arena_init(&a);
    struct xml *x =
        parse(&a, "<a xmlns='n'>1<b k='v'/>2<b xmlns='m'>t</b><c xmlns:q='z' q:k='w' xml:lang='de'/></a>");
    assert_string_equal(xml_text(x, &a), "12");
    struct xml *b = xml_child(x, "b", NULL);
    assert_string_equal(xml_attr(b, "k"), "v");
    assert_ptr_equal(xml_first_element(x), b);
    b = xml_next(b, "b", NULL);
    assert_string_equal(b->ns, "m");
    assert_ptr_equal(xml_child(x, "b", "m"), b);
    assert_null(xml_child(x, "b", "k"));
    assert_string_equal(xml_child_text(x, "b", "m", &a), "t");
    assert_null(xml_child_text(x, "d", NULL, &a));
    struct xml *c = xml_next_element(b);
    assert_null(xml_attr(c, "k"));
    assert_string_equal(xml_attr_ns(c, "k", "z"), "w");
    assert_string_equal(xml_attr_ns(c, "lang", XML_NS_XML), "de");
    assert_null(xml_next_element(c));

    xml_remove(b);
    assert_null(xml_child(x, "b", "m"));
    xml_remove(c);
    xml_add_text(&a, x, "3", 1);
    assert_string_equal(xml_text(x, &a), "123");
    xml_set_attr(&a, x, "id", "1");
    xml_set_attr(&a, x, "id", "<'\n");
    xml_set_attr(&a, x, "gone", "1");
    xml_set_attr(&a, x, "gone", NULL);
    struct buf out = {0};
    xml_write(&out, x, "n");
    assert_string_equal(out.data, "<a id='&lt;&apos;&#10;'>1<b k='v'/>23</a>");
    buf_reset(&out);
    xml_write(&out, xml_copy(&a, x), NULL);
    assert_string_equal(out.data, "<a xmlns='n' id='&lt;&apos;&#10;'>1<b k='v'/>23</a>");
    buf_fini(&out);
    arena_fini(&a);
}

static void test_write(void **state)
{
    struct buf out = {0};
    static const char nasty[] = "a\x01"
                                "b\xff"
                                "c\xed\xa0\x80\xef\xbf\xbe\r\n\t<>&\"'\xf0\x9f\x98\x80";
    xml_escape(&out, nasty, sizeof(nasty) - 1);
    assert_string_equal(out.data, "a\xef\xbf\xbd"
                                  "b\xef\xbf\xbd"
                                  "c\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                                  "&#13;&#10;&#9;&lt;&gt;&amp;&quot;&apos;\xf0\x9f\x98\x80");
    buf_fini(&out);

    struct arena a;
    arena_init(&a);
    static const char *const texts[] = {
        "<a/>",
        "<a xmlns='n'><b xmlns=''><c xmlns='n'/></b></a>",
        "<a xmlns:p='q' p:x='1' xml:lang='de' y='2'><p:b/></a>",
        "<a><xml:b><c xmlns='n'/><d/></xml:b></a>",
        "<a xmlns='n'><xml:b/></a>",
        "<a>&#13;&#10; \n&#9;</a>",
        "<a b='&#13;&#10;&#9; '/>",
    };
    for (size_t i = 0; i < n_elements(texts); i++) {
        struct buf one = {0}, two = {0};
        xml_write(&one, parse(&a, texts[i]), NULL);
        xml_write(&two, parse(&a, one.data), NULL);
        assert_string_equal(one.data, two.data);
        buf_fini(&one);
        buf_fini(&two);
    }
    arena_fini(&a);
}

static void test_document(void **state)
{
    struct arena a;
    arena_init(&a);
    struct xml *x = parse(&a, "\xef\xbb\xbf\n<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<a>1</a>\n");
    assert_string_equal(xml_text(x, &a), "1");
    static const struct {
        const char *text;
        int code;
    } bad[] = {
        {"", ERR_MALFORMED},
        {"<a>", ERR_MALFORMED},
        {"<a/><b/>", ERR_MALFORMED},
        {"<a/>x", ERR_MALFORMED},
        {"<!DOCTYPE a><a/>", ERR_MALFORMED},
        {"<a><!-- --></a>", ERR_MALFORMED},
        {"<a>\xc0\x80</a>", ERR_MALFORMED},
        {"<a b='1' c='2' d='3' e='4'/>", ERR_LIMIT},
        {"<a><a><a><a/></a></a></a>", ERR_LIMIT},
        {"<a><b/><b/><b/><b/></a>", ERR_LIMIT},
        {"<a>                                                     </a>", ERR_LIMIT},
    };
    static const struct xml_limits small = {.stanza_bytes = 50, .depth = 3, .attrs = 3, .elements = 4};
    for (size_t i = 0; i < n_elements(bad); i++) {
        struct err_ctx err = {0};
        int code = xml_parse(&x, &a, bad[i].text, strlen(bad[i].text), &small, &err);
        if (code != bad[i].code)
            fail_msg("%s: %d (%s)", bad[i].text, code, err.text);
        assert_int_not_equal(err.text[0], 0);
    }
    arena_fini(&a);
}

/* One byte at a time, a tag of full size costs linear time: seconds if expat scanned it again for each byte.
 */
static void test_stream_drip(void **state)
{
    struct seen s;
    begin(&s);
    feed(&s, HEADER "<message a='");
    struct timespec t0, t1;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t0);
    for (size_t i = 0; i < 200000; i++)
        assert_int_equal(xml_stream_feed(s.stream, i % 3 ? "x" : ">", 1), XML_OK);
    assert_int_equal(feed(&s, "'/>"), XML_OK);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t1);
    assert_int_equal(s.n_stanzas, 1);
    assert_true(t1.tv_sec - t0.tv_sec < 3);
    finish(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream_basic),
        cmocka_unit_test(test_stream_cut),
        cmocka_unit_test(test_stream_bad),
        cmocka_unit_test(test_stream_nul),
        cmocka_unit_test(test_stream_order),
        cmocka_unit_test(test_stream_limits),
        cmocka_unit_test(test_stream_attributes),
        cmocka_unit_test(test_stream_long_ns),
        cmocka_unit_test(test_stream_names),
        cmocka_unit_test(test_stream_self_contained),
        cmocka_unit_test(test_stream_park),
        cmocka_unit_test(test_stream_park_header),
        cmocka_unit_test(test_stream_scratch),
        cmocka_unit_test(test_stream_restart),
        cmocka_unit_test(test_stream_free_and_stop),
        cmocka_unit_test(test_stream_steal),
        cmocka_unit_test(test_stream_drip),
        cmocka_unit_test(test_stream_pause),
        cmocka_unit_test(test_stream_pause_before_half_a_tag),
        cmocka_unit_test(test_tree),
        cmocka_unit_test(test_write),
        cmocka_unit_test(test_document),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
