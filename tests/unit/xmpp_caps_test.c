/* XEP-0115: verification strings with the vectors of §5.2 and §5.3, what is ill-formed (§5.4), the cache; and
 * the conversions of vCards. */
#include "protocols/xmpp/caps.h"
#include "protocols/xmpp/convert.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define INFO "http://jabber.org/protocol/disco#info"
#define CLIENT "<identity category='client' type='pc' name='Exodus 0.9.1'/>"
#define FEATURES                                                                                             \
    "<feature var='http://jabber.org/protocol/caps'/><feature var='http://jabber.org/protocol/disco#info'/>" \
    "<feature var='http://jabber.org/protocol/disco#items'/><feature var='http://jabber.org/protocol/muc'/>"

static struct xml *parse(struct arena *a, const char *xml)
{
    struct xml *root = NULL;
    assert_int_equal(xml_parse(&root, a, xml, strlen(xml), &xml_limits_default, NULL), 0);
    return root;
}

static int verify(const char *inner, const char *hash, char out[CAPS_VER_MAX])
{
    struct arena a;
    arena_init(&a);
    char *xml = arena_printf(&a, "<query xmlns='" INFO "'>%s</query>", inner);
    int rc = caps_verification(parse(&a, xml), hash, out);
    arena_fini(&a);
    return rc;
}

static void test_simple(void **state)
{
    char ver[CAPS_VER_MAX];
    (void)state;
    assert_int_equal(verify(CLIENT FEATURES, "sha-1", ver), 0); /* §5.2 */
    assert_string_equal(ver, "QgayPKawpkPSDYmwT/WM94uAlu0=");
    /* in any order */
    assert_int_equal(verify("<feature var='http://jabber.org/protocol/muc'/>"
                            "<feature var='http://jabber.org/protocol/disco#items'/>"
                            "<feature var='http://jabber.org/protocol/disco#info'/>"
                            "<feature var='http://jabber.org/protocol/caps'/>" CLIENT,
                            "sha-1", ver),
                     0);
    assert_string_equal(ver, "QgayPKawpkPSDYmwT/WM94uAlu0=");
    assert_int_equal(verify(CLIENT FEATURES, "md2", ver), ERR_UNSUPPORTED);
    assert_int_equal(verify(CLIENT FEATURES, "sha-512", ver), 0);
    assert_int_equal(strlen(ver), 88);
}

static void test_complex(void **state)
{
    char ver[CAPS_VER_MAX];
    (void)state;
    assert_int_equal(
        verify("<identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/>"
               "<identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/>" FEATURES
               "<x xmlns='jabber:x:data' type='result'>"
               "<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field>"
               "<field var='ip_version'><value>ipv4</value><value>ipv6</value></field>"
               "<field var='os'><value>Mac</value></field>"
               "<field var='os_version'><value>10.5.1</value></field>"
               "<field var='software'><value>Psi</value></field>"
               "<field var='software_version'><value>0.11</value></field></x>",
               "sha-1", ver),
        0); /* §5.3 */
    assert_string_equal(ver, "q07IKJEyjvHSyhy//CH0CxmKi8w=");
}

#define FORM(type)                                                                                           \
    "<x xmlns='jabber:x:data'><field var='FORM_TYPE' type='hidden'><value>" type "</value></field></x>"

static void test_ill_formed(void **state)
{
    static const char *const bad[] = {
        CLIENT CLIENT FEATURES,                                            /* §5.4 3.3 */
        CLIENT FEATURES "<feature var='http://jabber.org/protocol/muc'/>", /* 3.4 */
        CLIENT FEATURES FORM("a") FORM("a"),                               /* 3.5 */
        CLIENT
        "<x xmlns='jabber:x:data'><field var='FORM_TYPE' type='hidden'><value>a</value><value>b</value>"
        "</field></x>", /* 3.6 */
        /* what could be read in two ways, with one hash */
        "<identity category='client' type='pc' name='x&lt;urn:y+notify'/>",
        CLIENT "<feature var='a&lt;b'/>",
        CLIENT FORM("a&lt;b"),
        CLIENT FORM("urn:y+notify"),
        CLIENT "<x xmlns='jabber:x:data'><field var='FORM_TYPE' type='hidden'><value>a</value></field>"
               "<field var='urn:y+notify'/></x>",
        CLIENT "<x xmlns='jabber:x:data'><field var='FORM_TYPE' type='hidden'><value>a</value></field>"
               "<field var='b'><value>urn:y+notify</value></field></x>",
        "<identity category='http:' type='' name='b+notify'/>",
        "<identity category='client' name='no type'/>",
    };
    char ver[CAPS_VER_MAX], plain[CAPS_VER_MAX];
    (void)state;
    for (size_t i = 0; i < n_elements(bad); i++)
        if (verify(bad[i], "sha-1", ver) != ERR_INVALID)
            fail_msg("taken: %s", bad[i]);
    /* A form without a type does not count. */
    assert_int_equal(verify(CLIENT FEATURES
                            "<x xmlns='jabber:x:data'><field var='a'><value>b</value></field></x>",
                            "sha-1", ver),
                     0);
    assert_string_equal(ver, "QgayPKawpkPSDYmwT/WM94uAlu0=");
    assert_int_equal(verify("", "sha-1", plain), 0);
}

static void test_wanted(void **state)
{
    struct arena a;
    (void)state;
    arena_init(&a);
    struct xml *x =
        parse(&a, "<query xmlns='" INFO "'>" FEATURES "<feature var='urn:b+notify'/><feature var='+notify'/>"
                  "<feature var='urn:a+notify'/><feature var='urn:b+notify'/></query>");
    struct event_nodes *nodes = caps_wanted(x);
    assert_true(event_nodes_has(nodes, "urn:a"));
    assert_true(event_nodes_has(nodes, "urn:b"));
    assert_false(event_nodes_has(nodes, "urn:b+notify"));
    assert_false(event_nodes_has(nodes, ""));
    assert_false(event_nodes_has(NULL, "urn:a"));
    event_nodes_unref(nodes);
    assert_null(caps_wanted(parse(&a, "<query xmlns='" INFO "'>" FEATURES "</query>")));
    /* Bounded, however many are named. */
    struct buf many = {0};
    buf_adds(&many, "<query xmlns='" INFO "'>");
    for (int i = 0; i < 2000; i++)
        buf_addf(&many, "<feature var='urn:%050d+notify'/>", i);
    buf_adds(&many, "</query>");
    nodes = caps_wanted(parse(&a, many.data));
    char last[80];
    snprintf(last, sizeof last, "urn:%050d", 1999);
    assert_false(event_nodes_has(nodes, last));
    event_nodes_unref(nodes);
    buf_fini(&many);
    arena_fini(&a);
}

static void test_cache(void **state)
{
    struct caps_cache *c = caps_cache_new();
    const char *names[] = {"urn:a"};
    struct event_nodes *nodes = event_nodes_new(names, 1), *found;
    char ver[32];
    (void)state;
    assert_false(caps_cache_find(c, "sha-1", "v", &found));
    caps_cache_add(c, "sha-1", "v", nodes);
    event_nodes_unref(nodes);
    assert_true(caps_cache_find(c, "sha-1", "v", &found));
    assert_true(event_nodes_has(found, "urn:a"));
    assert_false(caps_cache_find(c, "sha-256", "v", &found));
    caps_cache_add(c, "sha-1", "v", NULL); /* what is known stays */
    assert_true(caps_cache_find(c, "sha-1", "v", &found));
    assert_non_null(found);
    for (int i = 0; i < CAPS_CACHE_MAX; i++) {
        snprintf(ver, sizeof ver, "%d", i);
        caps_cache_add(c, "sha-1", ver, NULL);
        if (i < CAPS_CACHE_MAX - 1) /* used again and again: it stays */
            assert_true(caps_cache_find(c, "sha-1", "v", &found));
    }
    assert_true(caps_cache_find(c, "sha-1", "v", &found));
    assert_false(caps_cache_find(c, "sha-1", "0", &found)); /* the least recently used one went */
    caps_cache_free(c);
    caps_cache_free(NULL);
}

/* There and back again gives what there was, as far as both forms have a place for it. */
static void test_vcards(void **state)
{
    static const char old[] =
        "<vCard xmlns='vcard-temp'><FN>A &amp; "
        "B</FN><N><FAMILY>B</FAMILY><GIVEN>A</GIVEN></N><NICKNAME>ab</NICKNAME>"
        "<ORG><ORGNAME>O</ORGNAME><ORGUNIT>U</ORGUNIT></ORG><ADR><HOME/><PREF/><STREET>S "
        "1</STREET><CTRY>X</CTRY></ADR>"
        "<TEL><WORK/><FAX/><NUMBER>1</NUMBER></TEL><EMAIL><HOME/><USERID>a@b.example</USERID></EMAIL>"
        "<JABBERID>a@example.com</JABBERID><GEO><LAT>1.5</LAT><LON>-2</LON></GEO>"
        "<CATEGORIES><KEYWORD>k</KEYWORD></CATEGORIES><DESC>text</DESC></vCard>";
    struct arena a;
    struct buf v4 = {0}, again = {0};
    (void)state;
    arena_init(&a);
    vcard4_from_temp(&v4, parse(&a, old));
    assert_non_null(strstr(v4.data, "<geo><uri>geo:1.5,-2</uri></geo>"));
    vcard4_to_temp(&again, parse(&a, v4.data));
    assert_string_equal(again.data, old);
    buf_reset(&v4);
    vcard4_from_temp(
        &v4, parse(&a, "<vCard xmlns='vcard-temp'><PHOTO><BINVAL>x</BINVAL></PHOTO><X-OTHER>1</X-OTHER>"
                       "<TEL/><EMAIL/><GEO/><N/></vCard>"));
    buf_reset(&again);
    vcard4_to_temp(&again, parse(&a, v4.data));
    assert_null(strstr(again.data, "PHOTO"));
    buf_fini(&v4);
    buf_fini(&again);
    arena_fini(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simple), cmocka_unit_test(test_complex), cmocka_unit_test(test_ill_formed),
        cmocka_unit_test(test_wanted), cmocka_unit_test(test_cache),   cmocka_unit_test(test_vcards),
    };
    return cmocka_run_group_tests_name("xmpp_caps", tests, NULL, NULL);
}
