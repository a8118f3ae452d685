/* One node: binding, iqs, rosters, presence, messages, as clients see them. */
#include "im_fixture.h"
#include "im/user.h"
#include "store_test.h"

static struct fix *fix;

static int setup(void **state)
{
    fix = fix_new(1, 2, 6);
    fix_set(fix, "archive.default", "never"); /* the direct way of messages */
    return 0;
}

static int teardown(void **state)
{
    fix_free(fix);
    return 0;
}

static void test_bind(void **state)
{
    struct client *a = client_open(fix, 1, 1, "desk");
    assert_string_equal(a->jid, "u1@example.com/desk");
    struct client *b = client_open(fix, 1, 1, NULL);
    assert_true(strlen(b->jid) > strlen("u1@example.com/") + 8);
    client_sync(a);
    /* The same resource again: the old session goes with a conflict. */
    struct client *c = client_open(fix, 1, 1, "desk");
    client_expect(a, "<conflict xmlns='urn:ietf:params:xml:ns:xmpp-streams'");
    assert_true(client_wait_end(a));
    client_sync(c);
    client_close(a);
    client_close(b);
    client_close(c);
}

static void test_before_bind(void **state)
{
    struct client *a = client_raw(fix, 1, 1);
    client_send(a, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                   "to='example.com' version='1.0'><message to='u2@example.com'><body>x</body></message>");
    client_expect(a, "<not-authorized");
    assert_true(client_wait_end(a));
    client_close(a);
}

static void test_server_iqs(void **state)
{
    struct client *a = client_open(fix, 1, 1, "r");
    client_send(a, "<iq type='get' id='d1' to='example.com'><query "
                   "xmlns='http://jabber.org/protocol/disco#info'/></iq>");
    client_expect(a, "<identity category='server' type='im'");
    client_expect(a, "<feature var='urn:xmpp:ping'/>");
    client_expect(a, "id='d1'");
    client_send(a, "<iq type='get' id='v1' to='example.com'><query xmlns='jabber:iq:version'/></iq>");
    client_expect(a, "<name>imp</name><version>test</version>");
    client_send(a, "<iq type='get' id='t1' to='example.com'><time xmlns='urn:xmpp:time'/></iq>");
    client_expect(a, "<utc>20");
    client_send(a, "<iq type='get' id='x1' to='example.com'><query xmlns='no:such'/></iq>");
    client_expect(a, "<service-unavailable");
    client_send(a, "<iq type='get' id='c1'><vCard xmlns='vcard-temp'/></iq>");
    client_expect(a, "<FN>User 1</FN>");
    client_clear(a);
    client_send(a, "<iq type='set' id='c2'><vCard xmlns='vcard-temp'><FN>One &amp; only</FN></vCard></iq>");
    client_expect(a, "id='c2'");
    client_send(a, "<iq type='get' id='c3'><vCard xmlns='vcard-temp'/></iq>");
    client_expect(a, "One &amp; only");
    client_clear(a);
    client_send(a, "<iq type='set' id='s1' to='example.com'><query "
                   "xmlns='jabber:iq:search'><nick>u3</nick></query></iq>");
    client_expect(a, "</iq>");
    assert_true(client_has(a, "<item jid='u3@example.com'>"));
    assert_int_equal(client_count(a, "<item "), 1);
    client_send(a, "<iq type='get' id='n1' to='nobody@example.com'><vCard xmlns='vcard-temp'/></iq>");
    client_expect(a, "id='n1'");
    client_send(a, "<iq type='get' id='f1' to='u2@elsewhere.net'><vCard xmlns='vcard-temp'/></iq>");
    client_expect(a, "<remote-server-not-found");
    client_close(a);
}

/* The event of a change that the row has long left behind, as a shard sees it that is behind the log. */
static void late_event(void *arg, struct shard *s)
{
    struct feed_event e = {.index = *(uint64_t *)arg, .table = TABLE_ROSTER};
    key_init(&e.key);
    key_u64(&e.key, fix_uid(fix, 1));
    key_str(&e.key, "u4@example.com");
    user_on_feed(s, &e);
}

static void test_roster(void **state)
{
    struct client *a = client_open(fix, 1, 1, "r1"), *b = client_open(fix, 1, 1, "r2");
    client_send(a, "<iq type='get' id='g1'><query xmlns='jabber:iq:roster' ver=''/></iq>");
    client_expect(a, "id='g1'");
    client_clear(a);
    client_send(
        b, "<iq type='set' id='s1'><query xmlns='jabber:iq:roster'><item jid='u4@example.com/x' name='Four'>"
           "<group>G</group></item></query></iq>");
    client_expect(b, "type='result' id='s1'");
    client_expect(a, "<item jid='u4@example.com' subscription='none' name='Four'><group>G</group></item>");
    client_expect_not(b, "<query xmlns='jabber:iq:roster' ver="); /* not interested */
    /* §2.6.3: no two pushes of one version */
    uint64_t early = 1;
    for (unsigned i = 0; i < im_n_shards(fix_im(fix, 1)); i++)
        shard_call(im_shard(fix_im(fix, 1), i), late_event, &early);
    client_sync(a);
    assert_int_equal(client_count(a, "<item jid='u4@example.com'"), 1);
    client_clear(a);
    client_send(a, "<iq type='get' id='g2'><query xmlns='jabber:iq:roster' ver=''/></iq>");
    client_expect(a, "</query></iq>");
    char *ver = strstr(a->in, "ver='");
    assert_non_null(ver);
    unsigned long version = strtoul(ver + 5, NULL, 10);
    client_clear(b);
    client_send(b, "<iq type='set' id='s2'><query xmlns='jabber:iq:roster'><item jid='u4@example.com' "
                   "subscription='remove'/></query></iq>");
    client_expect(b, "type='result' id='s2'");
    client_expect(a, "<item jid='u4@example.com' subscription='remove'/>");
    /* §2.6: what happened since then comes as a push behind an empty result. */
    client_clear(a);
    client_send(a, "<iq type='get' id='g3'><query xmlns='jabber:iq:roster' ver='%lu'/></iq>", version);
    client_expect(a, "id='g3'");
    client_expect(a, "subscription='remove'");
    client_send(
        a, "<iq type='set' id='e1'><query xmlns='jabber:iq:roster'><item jid='u4@example.com'><group/></item>"
           "</query></iq>");
    client_expect(a, "<not-acceptable");
    client_close(a);
    client_close(b);
}

static void test_presence(void **state)
{
    struct client *a = client_open(fix, 2, 1, "a"), *b = client_open(fix, 3, 1, "b");
    client_send(a, "<presence/>");
    client_expect(a, "from='u2@example.com/a'"); /* §4.2.2: its own, too */
    client_send(b, "<presence><priority>5</priority></presence>");
    client_expect(b, "from='u3@example.com/b'");
    client_clear(a);
    client_clear(b);
    client_befriend(a, b, "u2@example.com", "u3@example.com");
    client_expect(a, "<presence from='u3@example.com/b' to='u2@example.com'><priority>5");
    client_expect(b, "<presence from='u2@example.com/a' to='u3@example.com'/>");
    client_clear(a);
    client_clear(b);
    client_send(a, "<presence><show>away</show></presence>");
    client_expect(b, "<show>away</show>");
    /* A second session of u2 learns of u3 and of its own other resource. */
    struct client *a2 = client_open(fix, 2, 1, "a2");
    client_send(a2, "<presence/>");
    client_expect(a2, "from='u3@example.com/b'");
    client_expect(a2, "from='u2@example.com/a'");
    client_clear(b);
    client_close(a);
    client_expect(b, "<presence from='u2@example.com/a' to='u3@example.com' type='unavailable'/>");
    /* Unsubscribing ends it. */
    client_clear(b);
    client_clear(a2);
    client_send(b, "<presence type='unsubscribed' to='u2@example.com'/>");
    client_expect(a2, "<presence from='u3@example.com/b' to='u2@example.com' type='unavailable'/>");
    client_expect(a2, "type='unsubscribed'");
    client_clear(a2);
    client_send(b, "<presence><show>dnd</show></presence>");
    client_sync(b);
    client_expect_not(a2, "dnd");
    client_close(a2);
    client_close(b);
}

static void test_messages(void **state)
{
    struct client *a = client_open(fix, 4, 1, "a"), *b = client_open(fix, 5, 1, "b"),
                  *b2 = client_open(fix, 5, 1, "b2");
    client_send(b, "<presence><priority>1</priority></presence>");
    client_send(b2, "<presence><priority>0</priority></presence>");
    client_sync(b);
    client_sync(b2);
    client_clear(b);
    client_clear(b2);
    /* Bare: to the resource with the highest priority alone. */
    client_send(
        a,
        "<message to='U5@example.com' type='chat' id='m1' xml:lang='de'><body>h&#228;llo</body></message>");
    client_expect(b, "<message from='u4@example.com/a' to='u5@example.com' type='chat' id='m1' xml:lang='de'>"
                     "<body>h&#228;llo</body></message>");
    client_expect_not(b2, "m1");
    /* Full JID. */
    client_send(a, "<message to='u5@example.com/b2' id='m2'><body>x</body></message>");
    client_expect(b2, "id='m2'");
    /* No such resource: chat as if bare, normal refused, headline dropped. */
    client_send(a, "<message to='u5@example.com/no' type='chat' id='m3'><body>x</body></message>");
    client_expect(b, "id='m3'");
    client_send(a, "<message to='u5@example.com/no' id='m4'><body>x</body></message>");
    client_expect(a, "<message from='u5@example.com/no' to='u4@example.com/a' type='error' id='m4'>");
    client_send(a, "<message to='u5@example.com' type='headline' id='m5'><body>x</body></message>");
    client_expect(b, "id='m5'");
    client_expect(b2, "id='m5'");
    client_clear(a);
    client_send(a, "<message to='u5@example.com' type='groupchat' id='m6'><body>x</body></message>");
    client_expect(a, "<service-unavailable");
    client_send(a, "<message to='nobody@example.com' type='chat' id='m7'><body>x</body></message>");
    client_expect(a, "id='m7'");
    /* Namespaces declared on the stanza itself stay; forged parts go. */
    client_send(
        a, "<message xmlns:z='urn:z' z:k='1' to='u5@example.com/b' type='chat' id='m8'><z:p/></message>");
    client_expect(b, "<z:p/></message>");
    assert_true(client_has(b, "xmlns:z='urn:z' z:k='1'"));
    client_send(
        a, "<message to='u5@example.com/b' type='chat' id='m9'><body>y</body><delay xmlns='urn:xmpp:delay' "
           "from='example.com' stamp='2002-09-10T23:08:25Z'/><sent xmlns='urn:xmpp:carbons:2'/></message>");
    client_expect(b, "id='m9'><body>y</body></message>");
    /* A foreign 'from' ends the stream. */
    client_send(a, "<message from='u1@example.com' to='u5@example.com'><body>x</body></message>");
    client_expect(a, "<invalid-from");
    client_close(a);
    client_close(b);
    client_close(b2);
}

static void test_offline(void **state)
{
    struct client *a = client_open(fix, 4, 1, "a");
    for (int i = 0; i < 300; i++)
        client_send(a, "<message to='u6@example.com' type='chat' id='o%d.'><body>nr %d.</body></message>", i,
                    i);
    client_sync(a);
    struct client *b = client_open(fix, 6, 1, "b");
    client_send(b, "<presence><priority>-1</priority></presence>");
    client_expect_not(b, "<message");
    client_send(b, "<presence/>");
    client_expect(b, "nr 299.");
    const char *at = b->in;
    for (int i = 0; i < 300; i++) {
        char want[32];
        snprintf(want, sizeof want, "<body>nr %d.</body>", i);
        at = strstr(at, want);
        if (!at)
            fail_msg("%s is missing or not in order", want);
    }
    assert_int_equal(client_count(b, "<delay xmlns='urn:xmpp:delay' from='example.com'"), 300);
    /* Marked: the next session gets none of them. */
    client_close(b);
    for (int tries = 0;; tries++) {
        struct client *c = client_open(fix, 6, 1, "c");
        client_send(c, "<presence/>");
        client_sync(c);
        client_read(c, 100);
        bool none = !client_has(c, "<message");
        client_close(c);
        if (none)
            break;
        assert_true(tries < 20);
    }
    /* A typing notification is not kept; the limit is told. */
    client_send(a, "<message to='u6@example.com' type='chat' id='t1'>"
                   "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>");
    client_read(a, 1500); /* what was delivered is marked once a second */
    fix_set(fix, "xmpp.offline_limit", "1");
    client_send(a, "<message to='u6@example.com' type='chat' id='l1'><body>1</body></message>"
                   "<message to='u6@example.com' type='chat' id='l2'><body>2</body></message>");
    client_expect(a, "type='error' id='l2'");
    assert_false(client_has(a, "id='l1'"));
    fix_set(fix, "xmpp.offline_limit", "1000");
    client_close(a);
}

static void test_lock_and_kick(void **state)
{
    struct client *a = client_open(fix, 1, 1, "a");
    Imp__UserLock body = IMP__USER_LOCK__INIT;
    body.uid = fix_uid(fix, 1);
    body.locked = true;
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_USER_LOCK;
    c.user_lock = &body;
    assert_int_equal(fix_apply(fix, &c, NULL), 0);
    client_expect(a, "the account is locked");
    assert_true(client_wait_end(a));
    client_close(a);
    body.locked = false;
    fix_apply(fix, &c, NULL);
    a = client_open(fix, 1, 1, "a");
    client_sync(a);
    client_close(a);
}

static void test_lease(void **state)
{
    struct client *a = client_open(fix, 1, 1, "a"), *b = client_open(fix, 2, 1, "b");
    client_send(b, "<presence/>");
    client_sync(b);
    fix_lease(fix, 1, false);
    client_read(a, 300); /* a tick passes */
    client_send(a, "<message to='u2@example.com' type='chat'><body>held</body></message>");
    client_read(b, 300);
    assert_false(client_has(b, "held"));
    fix_lease(fix, 1, true);
    client_expect(b, "held");
    client_sync(a);
    client_close(a);
    client_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bind),       cmocka_unit_test(test_before_bind),
        cmocka_unit_test(test_server_iqs), cmocka_unit_test(test_roster),
        cmocka_unit_test(test_presence),   cmocka_unit_test(test_messages),
        cmocka_unit_test(test_offline),    cmocka_unit_test(test_lock_and_kick),
        cmocka_unit_test(test_lease),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
