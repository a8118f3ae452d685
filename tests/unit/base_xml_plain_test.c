/* Plain stanzas: what is taken gives the tree that expat gives, and what is odd or wrong is left to expat. */
#include "base/xml.h"
#include "base/xml_plain.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct xml_limits limits = {.stanza_bytes = 3000, .depth = 4, .attrs = 8, .elements = 20};

static size_t parse(struct xml_plain *out, struct arena *a, const char *text)
{
    return xml_plain_parse(out, a, "jabber:client", &limits, text, strlen(text));
}

static void write_by_expat(struct buf *out, const char *text, size_t n_bytes)
{
    struct arena a;
    struct xml *root = NULL;
    struct buf wrapped = {0};
    arena_init(&a);
    buf_adds(&wrapped, "<r xmlns='jabber:client'>");
    buf_add(&wrapped, text, n_bytes);
    buf_adds(&wrapped, "</r>");
    assert_int_equal(xml_parse(&root, &a, wrapped.data, wrapped.n, &xml_limits_default, NULL), 0);
    xml_write(out, root->children, "jabber:client");
    arena_fini(&a);
    buf_fini(&wrapped);
}

static void test_taken(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "<a/>",
        "<presence />",
        "<message to='a@b/c' type=\"chat\" id='it\"s'>\n\t<body>1 &lt; 2 &amp;&amp; 3 &gt; 2 > 1 "
        "&quot;&apos;</body></message>",
        "<message xml:lang='de' lang='x'><body>gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x98\x80 ] "
        "]a</body></message>",
        "<iq type='get'\n id='1' ><query xmlns='jabber:iq:roster'/></iq>",
        "<iq><a xmlns='u'><b/><c xmlns=''>x<d/>y</c></a>z</iq>",
        "<m a='\xc2\x80]]>' _b='/' c-1.2='='></m>",
    };
    for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct arena a;
        struct xml_plain plain;
        struct buf out = {0}, expected = {0}, both = {0};
        arena_init(&a);
        buf_addf(&both, "%s<next/>", texts[i]);
        size_t n = parse(&plain, &a, both.data);
        assert_int_equal(n, strlen(texts[i]));
        assert_int_equal(both.data[plain.n_start_tag - 1], '>');
        xml_write(&out, plain.root, "jabber:client");
        write_by_expat(&expected, texts[i], n);
        assert_int_equal(out.n, expected.n);
        assert_memory_equal(out.data, expected.data, out.n);
        for (size_t cut = 0; cut < n; cut++) /* not whole */
            assert_int_equal(xml_plain_parse(&plain, &a, "jabber:client", &limits, texts[i], cut), 0);
        arena_fini(&a);
        buf_fini(&out);
        buf_fini(&expected);
        buf_fini(&both);
    }
}

static void test_left(void **state)
{
    (void)state;
    static const char *const texts[] = {
        /* expat knows: prefixes, sections, references, what is normalised */
        "<s:a xmlns:s='u'/>", "<a xmlns:s='u'/>", "<a s:b='1'/>", "<a><![CDATA[x]]></a>", "<a>&#65;</a>",
        "<a b='&lt;'/>", "<a b='1\n'/>", "<a>x\r</a>", "<a></a >", "<a b = '1'/>", "<\xc3\xbc/>",
        /* not well-formed, or forbidden (RFC 6120 \xc2\xa7 11.1) */
        "<a><!-- x --></a>", "<a><?x?></a>", "<!DOCTYPE a><a/>", "<a>&x;</a>", "<a>&</a>", "<a>]]></a>",
        "<a b='<'/>", "<a b='1'c='2'/>", "<a b='1' b='2'/>", "<a xmlns='u' xmlns='v'/>", "<a b/>", "<a b=1/>",
        "<a></b>", "</a>", "<a / >", "<1/>", "< a/>", "x<a/>", "<a>\x01</a>", "<a b='\x01'/>",
        "<a xmlns='http://www.w3.org/2000/xmlns/'/>", "<a xml:lang='a' xml:lang='b'/>", "<a xml:langx='a'/>",
        /* not UTF-8 */
        "<a>\xc0\x80</a>", "<a>\xc3</a>", "<a>\xe0\x80\x80</a>", "<a>\xed\xa0\x80</a>", "<a>\xef\xbf\xbe</a>",
        "<a>\xf0\x80\x80\x80</a>", "<a>\xf4\x90\x80\x80</a>", "<a>\xf5\x80\x80\x80</a>", "<a>\x80</a>",
        "<a b='\xff'/>",
        /* beyond the limits */
        "<a><b><c><d><e/></d></c></b></a>", "<a a='' b='' c='' d='' e='' f='' g='' h='' i=''/>",
        "<a><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/><b/></a>"};
    for (unsigned i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct arena a;
        struct xml_plain plain;
        arena_init(&a);
        if (parse(&plain, &a, texts[i]))
            fail_msg("taken: %s", texts[i]);
        arena_fini(&a);
    }
    struct arena a;
    struct xml_plain plain;
    char big[4000] = "<a>";
    memset(big + 3, 'x', sizeof big - 8);
    strcpy(big + sizeof big - 5, "</a>");
    arena_init(&a);
    assert_int_equal(parse(&plain, &a, big), 0);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taken),
        cmocka_unit_test(test_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
