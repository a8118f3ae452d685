/* Streams into single elements and back (RFC 7395). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "protocols/xmpp/web_text.h"
#include <cmocka.h>
#include <string.h>

struct items {
    struct buf text; /* H[...] E[...] END */
    size_t weight;
};

static void on_item(void *user, enum web_item item, const char *data, size_t n, size_t weight)
{
    struct items *i = user;
    static const char kinds[] = "HE/";
    buf_addc(&i->text, kinds[item]);
    buf_addc(&i->text, '[');
    if (item == WEB_ELEMENT)
        web_write_element(&i->text, data, n);
    else if (item == WEB_HEADER)
        web_write_open(&i->text, data, n);
    buf_addc(&i->text, ']');
    i->weight += weight;
}

static const char stream[] =
    "<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    "xmlns:stream='http://etherx.jabber.org/streams' id='1' "
    "from='a&apos;b' version='1.0'><stream:features><a xmlns='x'/></stream:features> \n<message "
    "to=\"a>b/c\"><body>1 "
    "&gt; 0</body></message><r xmlns='urn:xmpp:sm:3'/><iq/><?xml version='1.0'?><stream:stream "
    "xmlns='jabber:client' id='2'><presence><x><y/></x></presence></stream:stream>";
static const char items[] =
    "H[<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='1' from='a&apos;b' "
    "version='1.0'/>]E[<stream:features "
    "xmlns:stream='http://etherx.jabber.org/streams'><a xmlns='x'/></stream:features>]E[<message "
    "xmlns='jabber:client' to=\"a>b/c\"><body>1 &gt; 0</body></message>]E[<r xmlns='urn:xmpp:sm:3'/>]E[<iq "
    "xmlns='jabber:client'/>]H[<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' id='2'/>]E[<presence "
    "xmlns='jabber:client'><x><y/></x></presence>]/[]";

static void splits_in_any_pieces(void **state)
{
    for (size_t step = 1; step < sizeof(stream); step++) {
        struct web_split s = {0};
        struct items got = {0};
        size_t n = sizeof(stream) - 1;
        for (size_t at = 0; at < n; at += step)
            web_split_feed(&s, stream + at, step < n - at ? step : n - at, on_item, &got);
        assert_string_equal(got.text.data, items);
        assert_int_equal(got.weight, n);
        web_split_fini(&s);
        buf_fini(&got.text);
    }
}

/* What is credited early and the weights are together what came, and the last byte of an element comes last.
 */
static void long_elements_are_credited(void **state)
{
    struct web_split s = {0};
    struct items got = {0};
    size_t early = 0, n = 0;
    web_split_feed(&s, "<a>", 3, on_item, &got);
    n += 3;
    for (int i = 0; i < 3000; i++) {
        web_split_feed(&s, "0123456789abcdefghij", 20, on_item, &got);
        n += 20;
        early += web_split_advance(&s);
    }
    assert_true(early > n - 17 * 1024);
    assert_int_equal(got.weight, 0);
    web_split_feed(&s, "</a><b/>", 8, on_item, &got);
    n += 8;
    assert_int_equal(early + got.weight, n);
    assert_true(got.weight >= 8);
    web_split_fini(&s);
    buf_fini(&got.text);
}

static void reads_errors(void **state)
{
    static const struct {
        const char *xml, *condition, *uri;
    } cases[] = {
        {"<stream:error><host-unknown xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>",
         "host-unknown", ""},
        {"<stream:error><see-other-host xmlns='x'>wss://b.example/ws</see-other-host></stream:error>",
         "see-other-host", "wss://b.example/ws"},
        {"<stream:error><see-other-host xmlns='x'>b.example:5222</see-other-host></stream:error>",
         "see-other-host", ""},
        {"<message><error/></message>", "", ""},
        {"<stream:error/>", "", ""},
        {"<stream:error></stream:error>", "", ""},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        char condition[64], uri[1024];
        web_read_error(condition, uri, cases[i].xml, strlen(cases[i].xml));
        assert_string_equal(condition, cases[i].condition);
        assert_string_equal(uri, cases[i].uri);
    }
}

static void reads_frames(void **state)
{
    static const struct {
        const char *xml;
        enum web_frame_kind kind;
        const char *condition;
    } cases[] = {
        {"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='a'/>", WEB_FRAME_OPEN, NULL},
        {"<?xml version='1.0'?><open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>", WEB_FRAME_OPEN,
         NULL}, /* §3.3.3 */
        {"<f:open xmlns:f='urn:ietf:params:xml:ns:xmpp-framing'/>", WEB_FRAME_OPEN, NULL},
        {"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>", WEB_FRAME_CLOSE, NULL},
        {"<message xmlns='jabber:client'/>", WEB_FRAME_ELEMENT, NULL},
        {"<open xmlns='jabber:client'/>", WEB_FRAME_BAD, "invalid-namespace"}, /* §3.3.2 */
        {"<close/>", WEB_FRAME_BAD, "invalid-namespace"},
        {"<other xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>", WEB_FRAME_BAD, "unsupported-stanza-type"},
        {"", WEB_FRAME_BAD, "bad-format"},
        {" <message xmlns='jabber:client'/>", WEB_FRAME_BAD, "bad-format"},
        {"\n", WEB_FRAME_BAD, "bad-format"},
        {"<message xmlns='jabber:client'>", WEB_FRAME_BAD, "not-well-formed"},
        {"<message xmlns='jabber:client'/><a/>", WEB_FRAME_BAD, "not-well-formed"},
        {"</stream:stream>", WEB_FRAME_BAD, "not-well-formed"},
        {"<stream:stream xmlns:stream='s'>", WEB_FRAME_BAD, "not-well-formed"},
        {"<c><a:b/></c>", WEB_FRAME_BAD, "not-well-formed"},
        {"<!DOCTYPE a><a/>", WEB_FRAME_BAD, "restricted-xml"}, /* attack 1 */
        {"<a><!-- --></a>", WEB_FRAME_BAD, "restricted-xml"},
        {"<a><?b c?></a>", WEB_FRAME_BAD, "restricted-xml"},
        {"<?xml version='1.0' encoding='UTF-16'?><a/>", WEB_FRAME_BAD, "unsupported-encoding"},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        struct web_frame f;
        struct arena a;
        arena_init(&a);
        web_read_frame(&f, &a, cases[i].xml, strlen(cases[i].xml), &xml_limits_default);
        assert_int_equal(f.kind, cases[i].kind);
        if (cases[i].condition)
            assert_string_equal(f.condition, cases[i].condition);
        arena_fini(&a);
    }
}

static void writes_headers(void **state)
{
    struct buf out = {0};
    web_write_header(&out, &(struct web_header){.to = "a'<&b", .version = "1.0", .lang = "de"});
    assert_string_equal(
        out.data, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                  "to='a&apos;&lt;&amp;b' version='1.0' xml:lang='de'>");
    buf_fini(&out);
    web_write_close(&out, "wss://b/");
    assert_string_equal(out.data,
                        "<close xmlns='urn:ietf:params:xml:ns:xmpp-framing' see-other-uri='wss://b/'/>");
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_in_any_pieces), cmocka_unit_test(long_elements_are_credited),
        cmocka_unit_test(reads_errors),         cmocka_unit_test(reads_frames),
        cmocka_unit_test(writes_headers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
