#include "base/mem.h"
#include "im/address.h"
#include "im/precis.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int prepare(char *out, const char *text)
{
    struct err_ctx err = {0};
    int code = jid_prepare(out, text, strlen(text), &err);
    if (code != 0) {
        assert_int_equal(code, ERR_MALFORMED);
        assert_int_not_equal(err.text[0], 0);
    }
    return code;
}

static void expect(const char *text, const char *want)
{
    char out[JID_MAX + 1], again[JID_MAX + 1];
    if (prepare(out, text) != 0)
        fail_msg("%s: refused", text);
    assert_string_equal(out, want);
    assert_int_equal(prepare(again, out), 0);
    assert_string_equal(again, out);
}

static void refuse(const char *text)
{
    char out[JID_MAX + 1];
    if (prepare(out, text) == 0)
        fail_msg("%s: taken as %s", text, out);
}

/* RFC 7622 §3.5, tables 1 and 2, by number. */
static void test_rfc7622(void **state)
{
    expect("juliet@example.com", "juliet@example.com");
    expect("juliet@example.com/foo", "juliet@example.com/foo");
    expect("juliet@example.com/foo bar", "juliet@example.com/foo bar");
    expect("juliet@example.com/foo@bar", "juliet@example.com/foo@bar");
    expect("foo\\20bar@example.com", "foo\\20bar@example.com");
    expect("fussball@example.com", "fussball@example.com");
    expect("fu\xc3\x9f"
           "ball@example.com",
           "fu\xc3\x9f"
           "ball@example.com");
    expect("\xcf\x80@example.com", "\xcf\x80@example.com");
    expect("\xce\xa3@example.com/foo", "\xcf\x83@example.com/foo"); /* 9: as 10, not as 11 */
    expect("\xcf\x83@example.com/foo", "\xcf\x83@example.com/foo");
    expect("\xcf\x82@example.com/foo", "\xcf\x82@example.com/foo");
    expect("king@example.com/\xe2\x99\x9a", "king@example.com/\xe2\x99\x9a");
    expect("example.com", "example.com");
    expect("example.com/foobar", "example.com/foobar");
    expect("a.example.com/b@example.net", "a.example.com/b@example.net");
    refuse("\"juliet\"@example.com");
    refuse("foo bar@example.com");
    refuse("juliet@example.com/ foo");
    refuse("@example.com/");
    refuse("henry\xe2\x85\xa3@example.com");
    refuse("\xe2\x99\x9a@example.com");
    refuse("juliet@");
    refuse("/foobar");
}

static void test_local(void **state)
{
    expect("User0001@Example.COM/Phone", "user0001@example.com/Phone");
    expect("a.b-c_d+e!#$%^*()=[]{}|\\;,?`~.@x", "a.b-c_d+e!#$%^*()=[]{}|\\;,?`~.@x");
    expect("\xef\xbc\xa1\xef\xbc\xa2@x", "ab@x"); /* full width */
    expect("A\xcc\x8a@x", "\xc3\xa5@x");          /* A + ring above -> NFC */
    expect("\xc3\x84rger@x", "\xc3\xa4rger@x");   /* upper-case umlaut */
    expect("\xc4\xb0@x", "i\xcc\x87@x");          /* dotted capital I */
    expect("\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d@x", "\xd7\xa9\xd7\x9c\xd7\x95\xd7\x9d@x"); /* Hebrew */
    expect("\xe3\x81\x82\xe3\x83\xbb@x", "\xe3\x81\x82\xe3\x83\xbb@x"); /* middle dot beside Hiragana */
    expect("l\xc2\xb7l@x", "l\xc2\xb7l@x");
    for (const char *c = "\"&'/:<> @"; *c; c++) {
        char text[32];
        snprintf(text, sizeof(text), "a%cb@x", *c);
        if (*c != '/' && *c != '@')
            refuse(text);
    }
    refuse("a\xef\xbc\xa0"
           "b@x"); /* full-width @ becomes one */
    refuse("a\x7f@x");
    refuse("a\x01@x");
    refuse("a\xc2\xad@x");        /* soft hyphen: default ignorable */
    refuse("a\xe2\x80\x8b@x");    /* zero-width space */
    refuse("a\xe2\x80\x8d@x");    /* ZWJ out of context */
    refuse("a\xe3\x83\xbb@x");    /* Katakana middle dot out of context */
    refuse("a\xc2\xb7@x");        /* middle dot out of context */
    refuse("\xef\xac\x81@x");     /* fi ligature */
    refuse("\xf0\x9f\x98\x80@x"); /* emoji */
    refuse("\xd9\xa1\xdb\xb1@x"); /* both kinds of Arabic digits */
    refuse("\xd7\xa9\x61@x");     /* right-to-left, then a Latin letter */
    refuse("a\xd7\xa9@x");        /* the other way round */
    refuse("1\xd7\xa9@x");        /* begins with a digit */
    refuse("\xc0\xaf@x");         /* overlong */
    refuse("\xed\xa0\x80@x");     /* surrogate */
    refuse("a\xef\xbf\xbe@x");    /* noncharacter */
    refuse("\xf3\xa0\x80\x81@x"); /* tag */
    refuse("a\xcd\xb8@x");        /* unassigned U+0378 */
}

static void test_domain(void **state)
{
    expect("a@example.com.", "a@example.com");
    expect("a@M\xc3\xbcnchen.example", "a@m\xc3\xbcnchen.example");
    expect("a@xn--mnchen-3ya.example", "a@m\xc3\xbcnchen.example");
    expect("a@XN--MNCHEN-3YA.example.", "a@m\xc3\xbcnchen.example");
    expect("a@\xef\xbd\x85xample.com", "a@example.com"); /* full-width e */
    expect("a@fa\xc3\x9f.example", "a@fa\xc3\x9f.example");
    expect("a@192.0.2.1", "a@192.0.2.1");
    expect("a@[2001:DB8::0:1]/r", "a@[2001:db8::1]/r");
    expect("localhost", "localhost");
    expect("a@b-c.d1", "a@b-c.d1");
    refuse("");
    refuse(".");
    refuse("a@.");
    refuse("a@.example");
    refuse("a@example..com");
    refuse("a@example.com..");
    refuse("a@-example.com");
    refuse("a@example-.com");
    refuse("a@exa mple.com");
    refuse("a@exa_mple.com");
    refuse("a@b@c");
    refuse("a@[::1");
    refuse("a@[]");
    refuse("a@[::g]");
    refuse("a@[::1]x");
    refuse("a@xn--a.example");        /* not an A-label */
    refuse("a@\xe2\x99\xa5.example"); /* heart: not in IDNA2008 */
    refuse("a@\xff.example");
    refuse("a@example.com/");
    char out[JID_MAX + 1];
    assert_int_not_equal(jid_prepare(out, "a@ex\0mple", 9, NULL), 0);
    assert_int_not_equal(jid_prepare(out, "a\0b@x", 5, NULL), 0);
    assert_int_not_equal(jid_prepare(out, "a@x/b\0", 6, NULL), 0);
    char label[80] = "a@";
    memset(label + 2, 'x', 64);
    refuse(label);
    label[65] = '\0';
    expect(label, label);
}

static void test_resource(void **state)
{
    expect("a@x/R\xc2\xa0S", "a@x/R S"); /* other spaces become U+0020 */
    expect("a@x/A\xcc\x8a", "a@x/\xc3\x85");
    expect("a@x/\xef\xbc\xa1", "a@x/\xef\xbc\xa1"); /* width is kept */
    expect("a@x/b ", "a@x/b ");
    expect("a@x/\xf0\x9f\x98\x80", "a@x/\xf0\x9f\x98\x80");
    expect("a@x/\xd7\xa9\x61", "a@x/\xd7\xa9\x61"); /* no rule of direction */
    refuse("a@x/\xc2\xa0"
           "b");
    refuse("a@x/b\tc");
    refuse("a@x/b\xe2\x80\x8b");
    refuse("a@x/\xe1\x84\x80"); /* old Hangul jamo */
}

static void test_lengths(void **state)
{
    char text[JID_MAX + 64];
    struct jid j;
    memset(text, 'a', 1023);
    strcpy(text + 1023, "@x/");
    memset(text + 1026, 'b', 1023);
    text[1026 + 1023] = '\0';
    assert_int_equal(jid_parse(&j, text, strlen(text), NULL), 0);
    assert_int_equal(strlen(j.local), 1023);
    assert_int_equal(strlen(j.resource), 1023);
    char out[JID_MAX + 1];
    assert_int_equal(jid_format(out, &j), strlen(text));
    assert_string_equal(out, text);
    strcat(text, "b");
    refuse(text);
    memmove(text + 1, text, 1030);
    text[1030] = '\0';
    refuse(text);
    /* grows beyond the limit by preparation: each of 500 times two bytes becomes three */
    char grow[1100];
    size_t n = 0;
    for (int i = 0; i < 500; i++) {
        grow[n++] = (char)0xc8; /* U+023A -> U+2C65 */
        grow[n++] = (char)0xba;
    }
    assert_int_equal(address_prep_local(out, grow, n, NULL), ERR_MALFORMED);
}

static void test_equal(void **state)
{
    struct jid a, b;
    assert_int_equal(jid_parse(&a, "A@x/r", 5, NULL), 0);
    assert_int_equal(jid_parse(&b, "a@X./s", 6, NULL), 0);
    assert_true(jid_bare_equal(&a, &b));
    assert_false(jid_equal(&a, &b));
    b = a;
    assert_true(jid_equal(&a, &b));
    char out[JID_MAX + 1];
    assert_int_equal(jid_format_bare(out, &a), 3);
    assert_string_equal(out, "a@x");
}

static void test_userid(void **state)
{
    static const struct {
        const char *userid, *local;
    } cases[] = {
        {"User0001", "user0001"},
        {" user ", "user"},
        {"a b", "a\\20b"},
        {"a@b.c", "a\\40b.c"},
        {"\"&'/:<>", "\\22\\26\\27\\2f\\3a\\3c\\3e"},
        {"c:\\net", "c\\3a\\net"},
        {"c\\5c", "c\\5c5c"},
        {"c\\5Cx", "c\\5c5cx"},
        {"c\\2", "c\\2"},
        {"c\\23", "c\\23"},
        {"M\xc3\x9cLLER", "m\xc3\xbcller"},
        {"", NULL},
        {"  ", NULL},
        {"a\xe2\x99\xa5", NULL},
        {"a\x01", NULL},
    };
    for (size_t i = 0; i < n_elements(cases); i++) {
        char out[JID_PART_MAX + 1];
        int code = address_prep_userid(out, cases[i].userid, strlen(cases[i].userid), NULL);
        assert_int_equal(code, cases[i].local ? 0 : ERR_MALFORMED);
        if (cases[i].local)
            assert_string_equal(out, cases[i].local);
    }
    char out[JID_PART_MAX + 1], spaces[700];
    memset(spaces, 'x', sizeof(spaces));
    memset(spaces + 1, ' ', 500);
    assert_int_equal(address_prep_userid(out, spaces, sizeof(spaces), NULL), ERR_MALFORMED);
}

static void test_password(void **state)
{
    char out[JID_PART_MAX + 1];
    assert_int_equal(address_prep_password(out, "\xc2\xa0Pa A\xcc\x8a", 8, NULL), 0);
    assert_string_equal(out, " Pa \xc3\x85"); /* other spaces, NFC, case kept */
    assert_int_equal(address_prep_password(out, "", 0, NULL), ERR_MALFORMED);
    assert_int_equal(address_prep_password(out, "a\tb", 3, NULL), ERR_MALFORMED);
}

/* Whatever is taken is stable, for every code point in three places. */
static void test_idempotent(void **state)
{
    char out[JID_PART_MAX + 1], again[JID_PART_MAX + 1], text[16];
    unsigned n_taken = 0;
    for (unsigned c = 0x80; c < 0x30000; c++) {
        if (c >= 0xd800 && c < 0xe000)
            continue;
        size_t n = 0;
        text[n++] = 'x';
        if (c < 0x800) {
            text[n++] = (char)(0xc0 | c >> 6);
        } else {
            if (c < 0x10000) {
                text[n++] = (char)(0xe0 | c >> 12);
            } else {
                text[n++] = (char)(0xf0 | c >> 18);
                text[n++] = (char)(0x80 | (c >> 12 & 63));
            }
            text[n++] = (char)(0x80 | (c >> 6 & 63));
        }
        text[n++] = (char)(0x80 | (c & 63));
        for (int profile = 0; profile < 2; profile++) {
            if (precis_enforce(out, (enum precis_profile)profile, text, n, NULL) != 0)
                continue;
            n_taken++;
            assert_int_equal(precis_enforce(again, (enum precis_profile)profile, out, strlen(out), NULL), 0);
            assert_string_equal(again, out);
        }
    }
    assert_true(n_taken > 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc7622),  cmocka_unit_test(test_local),    cmocka_unit_test(test_domain),
        cmocka_unit_test(test_resource), cmocka_unit_test(test_lengths),  cmocka_unit_test(test_equal),
        cmocka_unit_test(test_userid),   cmocka_unit_test(test_password), cmocka_unit_test(test_idempotent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
