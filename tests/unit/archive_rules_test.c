/* What is stored of messages: XEP-0313 §5.1.1, XEP-0160 §3, XEP-0334 and what has no body but belongs to a
 * conversation, found in bytes whatever way they are written. */
#include "base/mem.h"
#include "base/xml.h"
#include "im/archive.h"
#include "im/payload.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NOTHING = 0, LATER = CLASS_OFFLINE, BOTH = CLASS_OFFLINE | CLASS_ARCHIVE };

static unsigned class_of(enum stanza_type type, const char *extra, const char *inner)
{
    /* in memory of its own, so that a read past the end is seen */
    size_t n = strlen(inner);
    char *copy = mem_alloc(n ? n : 1);
    memcpy(copy, inner, n);
    unsigned c = archive_class(type, payload_look(extra, copy, n));
    mem_free(copy);
    return c;
}

static unsigned chat(const char *inner)
{
    return class_of(MESSAGE_CHAT, NULL, inner);
}

#define BODY "<body>hi</body>"
#define ACTIVE "<active xmlns='http://jabber.org/protocol/chatstates'/>"
#define HINT(name) "<" name " xmlns='urn:xmpp:hints'/>"

static void by_content(void **state)
{
    (void)state;
    static const struct {
        const char *inner;
        unsigned class;
    } rows[] = {
        {"", NOTHING},
        {"  \n ", NOTHING},
        {BODY, BOTH},
        {"<body/>", BOTH},
        {"<subject>s</subject>", BOTH},
        {"<thread>t</thread>", NOTHING},
        {ACTIVE, NOTHING},
        {"<thread>t</thread>" ACTIVE, NOTHING},
        {ACTIVE BODY, BOTH},
        {"<received xmlns='urn:xmpp:receipts' id='1'/>", BOTH},
        {"<request xmlns='urn:xmpp:receipts'/>" ACTIVE, NOTHING},
        {"<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", BOTH},
        {"<received xmlns='urn:xmpp:chat-markers:0' id='1'/>", BOTH},
        {"<acknowledged xmlns='urn:xmpp:chat-markers:0' id='1'/>", BOTH},
        {"<markable xmlns='urn:xmpp:chat-markers:0'/>", NOTHING},
        {"<reactions xmlns='urn:xmpp:reactions:0' id='1'><reaction>\xf0\x9f\x91\x8b</reaction></reactions>",
         BOTH},
        {"<reactions xmlns='urn:xmpp:reactions:0' id='1'/>", BOTH},
        {"<retract xmlns='urn:xmpp:message-retract:1' id='1'/>", BOTH | CLASS_RETRACT},
        {"<retract xmlns='urn:xmpp:message-retract:1' id='1'/>" BODY HINT("store"), BOTH | CLASS_RETRACT},
        {"<replace xmlns='urn:xmpp:message-correct:0' id='1'/>" BODY, BOTH},
        {"<reply xmlns='urn:xmpp:reply:0' to='a@b' id='1'/>" BODY, BOTH},
        {"<encrypted xmlns='urn:xmpp:omemo:2'><payload>x</payload></encrypted>", BOTH},
        {"<x xmlns='jabber:x:conference' jid='a@b'/>", BOTH},
        {"<other xmlns='urn:example'/>", LATER},
        {"<other/>", LATER},
        {"<body xmlns='urn:example'>hi</body>", LATER},
        {"<origin-id xmlns='urn:xmpp:sid:0' id='1'/>" ACTIVE, NOTHING},
        /* not of the stanza itself */
        {"<other xmlns='urn:example'><body xmlns='jabber:client'>hi</body></other>", LATER},
        {"<active xmlns='http://jabber.org/protocol/chatstates'><body xmlns='jabber:client'/></active>",
         NOTHING},
    };
    for (size_t i = 0; i < n_elements(rows); i++)
        if (chat(rows[i].inner) != rows[i].class)
            fail_msg("%s: %u, not %u", rows[i].inner, chat(rows[i].inner), rows[i].class);
}

/* XEP-0334 */
static void by_hint(void **state)
{
    (void)state;
    assert_int_equal(chat(HINT("store")), BOTH);
    assert_int_equal(chat(ACTIVE HINT("store")), BOTH);
    assert_int_equal(chat(BODY HINT("no-store")), NOTHING);
    assert_int_equal(chat(HINT("no-store") BODY HINT("store")), NOTHING);
    assert_int_equal(chat(BODY HINT("no-permanent-store")), LATER);
    assert_int_equal(chat(HINT("no-permanent-store") HINT("store")), LATER);
    assert_int_equal(chat(BODY HINT("no-copy")), BOTH);
    assert_int_equal(chat(ACTIVE HINT("no-copy")), NOTHING);
    assert_int_equal(chat("<no-store xmlns='urn:example'/>" BODY), BOTH);
    assert_int_equal(chat("<retract xmlns='urn:xmpp:message-retract:1' id='1'/>" HINT("no-store")), NOTHING);
    assert_int_equal(chat("<body><no-store xmlns='urn:xmpp:hints'/></body>"), BOTH);
}

static void by_type(void **state)
{
    (void)state;
    assert_int_equal(class_of(MESSAGE_NORMAL, NULL, BODY), BOTH);
    assert_int_equal(class_of(MESSAGE_NORMAL, NULL, ACTIVE), NOTHING);
    assert_int_equal(class_of(MESSAGE_ERROR, NULL, BODY HINT("store")), NOTHING);
    assert_int_equal(class_of(MESSAGE_GROUPCHAT, NULL, BODY HINT("store")), NOTHING);
    assert_int_equal(class_of(MESSAGE_HEADLINE, NULL, BODY), NOTHING);
    assert_int_equal(class_of(MESSAGE_HEADLINE, NULL, BODY HINT("store")), CLASS_ARCHIVE);
    assert_int_equal(class_of(MESSAGE_HEADLINE, NULL, BODY HINT("store") HINT("no-store")), NOTHING);
}

/* The same written in other ways (XML Names §6, XML §3.1, §4.1). */
static void by_any_spelling(void **state)
{
    (void)state;
    assert_int_equal(chat(BODY "<h:no-store xmlns:h='urn:xmpp:hints'/>"), NOTHING);
    assert_int_equal(chat(BODY "<h:no-store xmlns='urn:x' xmlns:h = \"urn:xmpp:hints\" />"), NOTHING);
    assert_int_equal(chat(BODY "<no-store\n\txmlns='urn:xmpp:hints'></no-store>"), NOTHING);
    assert_int_equal(chat(BODY "<no-store a='1' b=\"'>\" xmlns='urn:xmpp:hints'/>"), NOTHING);
    assert_int_equal(chat(BODY "<no-store a='xmlns=\"urn:x\"' xmlns='urn:xmpp:hints'/>"), NOTHING);
    assert_int_equal(chat(BODY "<no-store xmlns='urn:&#120;mpp&#x3A;hint&#x73;'/>"), NOTHING);
    assert_int_equal(chat(BODY "<no-store xmlns='urn:xmpp:hint'/>"), BOTH);
    assert_int_equal(chat(BODY "<no-store xmlns='urn:xmpp:hints2'/>"), BOTH);
    assert_int_equal(chat(BODY "<no-store xmlns='urn:xmpp:hints&amp;'/>"), BOTH);
    assert_int_equal(chat(BODY "<no-store xmlns:h='urn:xmpp:hints'/>"), BOTH);
    assert_int_equal(chat("<b:body xmlns:b='jabber:client'>hi</b:body>"), BOTH);
    /* a prefix of the start tag */
    const char *extra = " xmlns:c='http://jabber.org/protocol/chatstates' xmlns:h='urn:xmpp:hints' x='/>'";
    assert_int_equal(class_of(MESSAGE_CHAT, extra, "<c:active/>"), NOTHING);
    assert_int_equal(class_of(MESSAGE_CHAT, extra, BODY "<h:no-store/>"), NOTHING);
    assert_int_equal(
        class_of(MESSAGE_CHAT, extra, "<h:active xmlns:h='http://jabber.org/protocol/chatstates'/>"),
        NOTHING);
    assert_int_equal(class_of(MESSAGE_CHAT, extra, "<z:active/>"), LATER);
    /* what looks like tags */
    assert_int_equal(chat("<x xmlns='urn:example'><y a='<body>'/><z a=\"/>\"></z>&lt;body&gt;</x>" ACTIVE),
                     LATER);
    assert_int_equal(chat("<x xmlns='urn:example'><![CDATA[</x><body>]]></x>" HINT("no-store")), NOTHING);
    assert_int_equal(chat("<![CDATA[<body/>]]>" BODY "<![CDATA[<]]>" HINT("no-store")), NOTHING);
    assert_int_equal(chat("<x xmlns='urn:example'><x><x/></x><x ></x ></x>" HINT("store")), BOTH);
    assert_int_equal(chat("<composing xmlns='http://jabber.org/protocol/chatstates'><body/></composing>"),
                     NOTHING);
}

/* Bytes that are no XML never get here; they must not hurt all the same. */
static void broken_bytes(void **state)
{
    (void)state;
    static const char *const rows[] = {"<",
                                       "<a",
                                       "<a>",
                                       "</a>",
                                       "<a x='",
                                       "<>",
                                       "<!-- a -->",
                                       "<?a b?>",
                                       "<a><![CDATA[",
                                       "<a></a",
                                       "<a x=>",
                                       "&#",
                                       "<a:b/>",
                                       "<:/>",
                                       "<a xmlns='&'/>",
                                       "<a xmlns='&#;'/>",
                                       "<a xmlns='&#x;'/>"};
    for (size_t i = 0; i < n_elements(rows); i++)
        assert_int_equal(chat(rows[i]) & CLASS_ARCHIVE, 0);
}

/* Each prefix of a stanza, and each with one byte changed: no read past the end (the sanitizer tells). */
static void mutated_bytes(void **state)
{
    (void)state;
    static const char good[] =
        BODY "<h:x xmlns:h='urn:&#120;mpp:hints' a=\"<&amp;'>\"><![CDATA[</h:x>]]><y/></h:x>" ACTIVE;
    static const char with[] = "<>/'\"&;#:!? x";
    char inner[sizeof good];
    for (size_t i = 0; i < sizeof good; i++) {
        memcpy(inner, good, sizeof good);
        inner[i] = 0;
        chat(inner);
    }
    for (size_t i = 0; i < sizeof good - 1; i++) {
        for (size_t j = 0; j < sizeof with - 1; j++) {
            memcpy(inner, good, sizeof good);
            inner[i] = with[j];
            chat(inner);
        }
    }
}

/* Random well-formed content: what the scan finds is what the tree has. */
static unsigned rnd(uint64_t *seed, unsigned n)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (unsigned)(*seed % n);
}

static void add_random(struct buf *out, uint64_t *seed, int depth)
{
    static const char *const names[] = {"body", "no-store", "store", "active", "x", "retract"};
    static const char *const spaces[] = {"jabber:client", "urn:xmpp:hints",
                                         "http://jabber.org/protocol/chatstates",
                                         "urn:xmpp:message-retract:1", "urn:example"};
    for (unsigned i = rnd(seed, 4); i > 0; i--) {
        const char *name = names[rnd(seed, n_elements(names))], *ns = spaces[rnd(seed, n_elements(spaces))];
        char quote = rnd(seed, 2) ? '\'' : '"';
        bool prefixed = rnd(seed, 2), empty = rnd(seed, 2) || depth > 3;
        buf_addf(out, "<%s%s b='>%s' xmlns%s=%c%s%c%s%s", prefixed ? "p:" : "", name,
                 rnd(seed, 2) ? "\"" : "/", prefixed ? ":p" : "", quote, ns, quote, rnd(seed, 2) ? " " : "",
                 empty ? "/>" : ">");
        if (empty)
            continue;
        add_random(out, seed, depth + 1);
        buf_addf(out, "t&gt;</%s%s>", prefixed ? "p:" : "", name);
    }
}

static void as_the_tree_has_it(void **state)
{
    (void)state;
    uint64_t seed = 0x1234567;
    for (int i = 0; i < 20000; i++) {
        struct buf inner = {0}, whole = {0};
        struct arena a;
        struct xml *root;
        add_random(&inner, &seed, 0);
        buf_adds(&inner, "");
        buf_addf(&whole, "<message xmlns='jabber:client'>%s</message>", inner.n ? inner.data : "");
        arena_init(&a);
        assert_int_equal(xml_parse(&root, &a, whole.data, whole.n, &xml_limits_default, NULL), 0);
        unsigned want = 0;
        if (xml_child(root, "body", "jabber:client") || xml_child(root, "store", "urn:xmpp:hints"))
            want = BOTH;
        if (xml_child(root, "retract", "urn:xmpp:message-retract:1"))
            want = BOTH | CLASS_RETRACT;
        if (xml_child(root, "no-store", "urn:xmpp:hints"))
            want = 0;
        unsigned is = chat(inner.n ? inner.data : "");
        if ((want && is != want) || (!want && (is & CLASS_ARCHIVE)))
            fail_msg("%s: %u, not %u", inner.data, is, want);
        arena_fini(&a);
        buf_fini(&inner);
        buf_fini(&whole);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_content),         cmocka_unit_test(by_hint),      cmocka_unit_test(by_type),
        cmocka_unit_test(by_any_spelling),    cmocka_unit_test(broken_bytes), cmocka_unit_test(mutated_bytes),
        cmocka_unit_test(as_the_tree_has_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
