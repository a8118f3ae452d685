/* What a payload carries, read without a tree. */
#include "im/payload.h"
#include "store_test.h"
#include <string.h>

static struct envelope *make(const char *payload, const char *extra)
{
    struct blob *b = payload ? blob_new(payload, strlen(payload)) : NULL;
    struct envelope *e = envelope_new(&(struct envelope_parts){
        .type = MESSAGE_CHAT, .from = "a@x/r", .to = "b@x", .payload = b, .extra = extra});
    blob_unref(b);
    return e;
}

static unsigned marks(const char *payload, const char *extra)
{
    struct envelope *e = make(payload, extra);
    unsigned m = payload_marks(e);
    envelope_free(e);
    return m;
}

static void test_marks(void **state)
{
    assert_int_equal(marks(NULL, NULL), 0);
    assert_int_equal(marks("", NULL), 0);
    assert_int_equal(marks("text", NULL), 0);
    assert_int_equal(marks("<body>x</body>", NULL), PAYLOAD_BODY);
    assert_int_equal(marks("<body/>", NULL), PAYLOAD_BODY);
    assert_int_equal(marks("<body xml:lang='a>b'>x</body><thread>t</thread>", NULL), PAYLOAD_BODY);
    assert_int_equal(marks("<private xmlns='urn:xmpp:carbons:2'/>", NULL), PAYLOAD_PRIVATE);
    assert_int_equal(marks("<private  xmlns = \"urn:xmpp:carbons:2\" ></private>", NULL), PAYLOAD_PRIVATE);
    assert_int_equal(marks("<private xmlns='urn:other'/>", NULL), PAYLOAD_OTHER);
    assert_int_equal(marks("<no-copy xmlns='urn:xmpp:hints'/><store xmlns='urn:xmpp:hints'/>", NULL),
                     PAYLOAD_NO_COPY);
    assert_int_equal(marks("<composing xmlns='http://jabber.org/protocol/chatstates'/>", NULL),
                     PAYLOAD_CHAT_STATE);
    assert_int_equal(marks("<x xmlns='jabber:x:conference' jid='r@m'/>", NULL), PAYLOAD_INVITE);
}

/* Only what stands directly inside the stanza counts. */
static void test_depth(void **state)
{
    assert_int_equal(marks("<x xmlns='u'><body>b</body><private xmlns='urn:xmpp:carbons:2'/></x>", NULL),
                     PAYLOAD_OTHER);
    assert_int_equal(marks("<x xmlns='u'><y><z/></y></x><body>b</body>", NULL), PAYLOAD_OTHER | PAYLOAD_BODY);
    assert_int_equal(marks("<x xmlns='http://jabber.org/protocol/muc#user'/>", NULL), PAYLOAD_MUC_USER);
    assert_int_equal(marks("<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@x'/></x>", NULL),
                     PAYLOAD_MUC_USER | PAYLOAD_INVITE);
}

static void test_prefixes(void **state)
{
    assert_int_equal(marks("<c:private xmlns:c='urn:xmpp:carbons:2'/>", NULL), PAYLOAD_PRIVATE);
    assert_int_equal(marks("<c:private/>", " xmlns:c='urn:xmpp:carbons:2'"), PAYLOAD_PRIVATE);
    assert_int_equal(marks("<c:x xmlns:c='u'><c:y/></c:x>", NULL), PAYLOAD_OTHER);
    assert_int_equal(marks("<c:body>x</c:body>", NULL), PAYLOAD_OTHER);
    assert_int_equal(marks("<c:body xmlns:c='jabber:client'>x</c:body>", NULL), PAYLOAD_BODY);
}

/* Marks and worth come of one look, which a copy has as well. */
static void test_one_look(void **state)
{
    struct envelope *e = make("<received xmlns='urn:xmpp:receipts'/><store xmlns='urn:xmpp:hints'/>", NULL);
    assert_false(e->is_looked_at);
    assert_int_equal(payload_marks(e), PAYLOAD_RECEIPT);
    assert_true(e->is_looked_at);
    struct envelope *copy = envelope_copy(e, "c@x");
    envelope_free(e);
    assert_true(copy->is_looked_at);
    assert_int_equal(payload_worth(copy), PAYLOAD_KEEP | PAYLOAD_STORE);
    assert_int_equal(payload_marks(copy), PAYLOAD_RECEIPT);
    envelope_free(copy);
}

static void assert_body(const char *payload, size_t max, const char *expected)
{
    struct envelope *e = make(payload, NULL);
    size_t n = max;
    const char *body = payload_body(e, &n);
    if (!expected) {
        assert_null(body);
    } else {
        assert_non_null(body);
        assert_int_equal(n, strlen(expected));
        assert_memory_equal(body, expected, n);
    }
    envelope_free(e);
}

static void test_body(void **state)
{
    assert_body("<x xmlns='u'><body>no</body></x><body>yes</body>", 100, "yes");
    assert_body("<body/>", 100, NULL);
    assert_body("<body xmlns='u'>no</body><body>yes<b/></body>", 100, "yes");
    assert_body("<body>abcdef</body>", 3, "abc");
    assert_body("<body>a&amp;b</body>", 3, "a"); /* not half a reference */
    assert_body("<body>a\xc3\xa4"
                "b</body>",
                2, "a"); /* not half a character */
    assert_body("<body>a\xc3\xa4"
                "b</body>",
                3, "a\xc3\xa4");
}

static void test_node(void **state)
{
    struct envelope *e = make("<event xmlns='http://jabber.org/protocol/pubsub#event'>"
                              "<items node='urn:n'><item id='1'/></items></event>",
                              NULL);
    size_t n;
    const char *node = payload_event_node(e, &n);
    assert_int_equal(n, 5);
    assert_memory_equal(node, "urn:n", 5);
    assert_int_equal(payload_marks(e), PAYLOAD_EVENT);
    envelope_free(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks),    cmocka_unit_test(test_depth), cmocka_unit_test(test_prefixes),
        cmocka_unit_test(test_one_look), cmocka_unit_test(test_body),  cmocka_unit_test(test_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
