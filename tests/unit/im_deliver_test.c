/* Carbons (XEP-0280) and client state indication (XEP-0352) as clients see them. */
#include "im_fixture.h"
#include "store_test.h"

static struct fix *fix;

static int setup(void **state)
{
    fix = fix_new(2, 2, 6);
    return 0;
}

static int teardown(void **state)
{
    fix_free(fix);
    return 0;
}

static struct client *online(unsigned user, unsigned edge, const char *resource, bool carbons)
{
    struct client *c = client_open(fix, user, edge, resource);
    client_send(c, "<presence/>");
    if (carbons) {
        client_send(c, "<iq type='set' id='carb'><enable xmlns='urn:xmpp:carbons:2'/></iq>");
        client_expect(c, "id='carb'");
    }
    client_sync(c);
    client_clear(c);
    return c;
}

static void clear(struct client *const *list)
{
    for (; *list; list++) {
        client_sync(*list);
        client_clear(*list);
    }
}

/* §7, §8: phone and tablet get copies, each exactly one, also through another edge. */
static void test_copies(void **state)
{
    struct client *desk = online(1, 1, "desk", false), *phone = online(1, 1, "phone", true),
                  *tablet = online(1, 2, "tablet", true), *peer = online(2, 2, "r", false);
    struct client *all[] = {desk, phone, tablet, peer, NULL};
    clear(all);
    client_send(desk, "<message to='u2@example.com' type='chat' id='m1'><body>hi &amp; ho</body></message>");
    client_expect(peer, "hi &amp; ho");
    client_expect(phone, "<message from='u1@example.com' to='u1@example.com/phone' type='chat'>"
                         "<sent xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>"
                         "<message xmlns='jabber:client' from='u1@example.com/desk' to='u2@example.com'");
    client_expect(tablet, "to='u1@example.com/tablet' type='chat'><sent xmlns='urn:xmpp:carbons:2'>");
    client_sync(desk);
    assert_int_equal(client_count(desk, "hi &amp; ho"), 0);
    clear(all);
    client_send(peer, "<message to='u1@example.com/desk' type='chat' id='m2'><body>answer</body></message>");
    client_expect(desk, "<body>answer</body>");
    client_expect(phone, "<received xmlns='urn:xmpp:carbons:2'>");
    client_expect(tablet, "<received xmlns='urn:xmpp:carbons:2'>");
    client_sync(phone);
    assert_int_equal(client_count(phone, "answer"), 1);
    client_sync(desk);
    assert_int_equal(client_count(desk, "answer"), 1);
    /* To the bare JID all three get it: no copy is due. */
    clear(all);
    client_send(peer, "<message to='u1@example.com' type='chat'><body>three</body></message>");
    client_expect(tablet, "three");
    client_expect(phone, "three");
    client_sync(phone);
    client_expect_not(phone, "<received");
    client_expect_not(tablet, "<received");
    /* §5: off again. */
    client_send(phone, "<iq type='set' id='off'><disable xmlns='urn:xmpp:carbons:2'/></iq>");
    client_expect(phone, "id='off'");
    clear(all);
    client_send(peer, "<message to='u1@example.com/desk' type='chat'><body>four</body></message>");
    client_expect(tablet, "four");
    client_sync(phone);
    client_expect_not(phone, "four");
    for (int i = 0; all[i]; i++)
        client_close(all[i]);
}

/* Two that are copied, one of each way: behind what goes directly, and behind what goes through the log (ADR
 * 0019: nothing orders these two). What was not copied before them never is. */
static void send_end(struct client *from, struct client *seen_by, const char *to)
{
    client_send(from,
                "<message to='%s' type='chat' id='direct'>"
                "<active xmlns='http://jabber.org/protocol/chatstates'/></message>",
                to);
    client_send(from, "<message to='%s' type='chat' id='stored'><body>end</body></message>", to);
    client_expect(seen_by, "id='direct'");
    client_expect(seen_by, "id='stored'");
}

/* §6.1, one message per rule. */
static void test_rules(void **state)
{
    struct client *desk = online(1, 1, "desk", false), *phone = online(1, 1, "phone", true),
                  *peer = online(2, 2, "r", false);
    static const struct {
        const char *attrs, *payload;
        bool received, sent;
    } rules[] = {
        {"type='chat'", "<body>b</body>", true, true},
        {"", "<body>b</body>", true, true},
        {"", "<subject>b</subject>", false, false},
        {"", "<received xmlns='urn:xmpp:receipts' id='1'/>", true, true},
        {"type='chat'", "<composing xmlns='http://jabber.org/protocol/chatstates'/>", true, true},
        {"", "<displayed xmlns='urn:xmpp:chat-markers:0' id='1'/>", true, true},
        {"type='headline'", "<body>b</body>", false, false},
        {"type='groupchat'", "<body>b</body>", false, false},
        {"type='chat'", "<body>b</body><private xmlns='urn:xmpp:carbons:2'/>", false, false},
        {"type='chat'", "<body>b</body><no-copy xmlns='urn:xmpp:hints'/>", false, false},
        {"type='chat'", "<body>b</body><x xmlns='http://jabber.org/protocol/muc#user'/>", false, true},
        {"", "<x xmlns='http://jabber.org/protocol/muc#user'><invite from='a@b'/></x>", true, true},
        {"", "<x xmlns='jabber:x:conference' jid='room@muc'/>", true, true},
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        client_clear(phone);
        client_send(peer, "<message to='u1@example.com/desk' id='in' %s>%s</message>", rules[i].attrs,
                    rules[i].payload);
        send_end(peer, phone, "u1@example.com/desk");
        assert_int_equal(client_count(phone, "id='in'"), rules[i].received);
        client_clear(phone);
        client_send(desk, "<message to='u2@example.com/r' id='out' %s>%s</message>", rules[i].attrs,
                    rules[i].payload);
        send_end(desk, phone, "u2@example.com/r");
        assert_int_equal(client_count(phone, "id='out'"), rules[i].sent);
    }
    client_close(desk);
    client_close(phone);
    client_close(peer);
}

/* §6.1: an error is copied if what it answers was. */
static void test_errors(void **state)
{
    struct client *desk = online(1, 1, "desk", false), *phone = online(1, 1, "phone", true),
                  *peer = online(2, 2, "r", false);
    client_send(desk, "<message to='u2@example.com/r' type='chat' id='copied'><body>b</body></message>");
    client_expect(phone, "id='copied'");
    client_clear(phone);
    static const char error[] = "<error type='cancel'><service-unavailable "
                                "xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>";
    client_send(peer, "<message to='u1@example.com/desk' type='error' id='stray'>%s</message>", error);
    client_send(peer, "<message to='u1@example.com/desk' type='error' id='copied'>%s</message>", error);
    client_expect(phone, "id='copied'");
    client_expect(phone, "<received xmlns='urn:xmpp:carbons:2'>");
    assert_int_equal(client_count(phone, "id='stray'"), 0);
    client_expect(desk, "id='stray'");
    client_close(desk);
    client_close(phone);
    client_close(peer);
}

/* Attack 12: what looks like a copy of the server's never comes from a client. */
static void test_forged(void **state)
{
    struct client *phone = online(1, 1, "phone", true), *peer = online(2, 2, "r", false);
    client_send(peer, "<message to='u1@example.com' type='chat'><body>forged</body>"
                      "<received xmlns='urn:xmpp:carbons:2'><forwarded xmlns='urn:xmpp:forward:0'>"
                      "<message xmlns='jabber:client' from='u3@example.com' to='u1@example.com'>"
                      "<body>never said</body></message></forwarded></received></message>");
    client_expect(phone, "forged");
    client_expect_not(phone, "never said");
    client_expect_not(phone, "carbons");
    client_close(phone);
    client_close(peer);
}

static void befriend(struct client *a, const char *a_jid, struct client *b, const char *b_jid)
{
    client_send(a, "<presence type='subscribe' to='%s'/>", b_jid);
    client_expect(b, "type='subscribe'");
    client_send(b, "<presence type='subscribed' to='%s'/>", a_jid);
    client_expect(a, "type='subscribed'");
}

/* XEP-0352: held, the last of each kept, in order, before what matters. */
static void test_csi(void **state)
{
    /* The desk sees at once what the phone does not: what it has is held at the phone. */
    struct client *phone = online(3, 1, "phone", false), *desk = online(3, 1, "desk", false),
                  *peer = online(4, 2, "r", false);
    befriend(phone, "u3@example.com", peer, "u4@example.com");
    client_sync(phone);
    client_clear(phone);
    client_send(phone, "<inactive xmlns='urn:xmpp:csi:0'/>");
    client_sync(phone);
    client_send(peer, "<presence><show>away</show></presence>");
    client_send(peer, "<presence><show>dnd</show></presence>");
    client_send(peer, "<message to='u3@example.com' type='chat'>"
                      "<composing xmlns='http://jabber.org/protocol/chatstates'/></message>");
    client_send(peer, "<message to='u3@example.com' type='chat'>"
                      "<paused xmlns='http://jabber.org/protocol/chatstates'/></message>");
    for (int i = 1; i <= 2; i++)
        client_send(peer,
                    "<message to='u3@example.com' type='headline'>"
                    "<event xmlns='http://jabber.org/protocol/pubsub#event'><items node='mood'>"
                    "<item id='i%d'/></items></event></message>",
                    i);
    client_expect(desk, "<show>dnd");
    client_expect(desk, "id='i2'");
    client_expect_not(phone, "<show>");
    client_expect_not(phone, "chatstates");
    client_expect_not(phone, "<event");
    client_send(peer, "<message to='u3@example.com' type='chat'><body>wake up</body></message>");
    client_expect(phone, "wake up");
    assert_int_equal(client_count(phone, "<show>away"), 0);
    assert_int_equal(client_count(phone, "<show>dnd"), 1);
    assert_int_equal(client_count(phone, "<composing"), 0);
    assert_int_equal(client_count(phone, "<paused"), 1);
    assert_int_equal(client_count(phone, "id='i1'"), 0);
    assert_int_equal(client_count(phone, "id='i2'"), 1);
    const char *dnd = strstr(phone->in, "<show>dnd"), *paused = strstr(phone->in, "<paused"),
               *event = strstr(phone->in, "id='i2'"), *wake = strstr(phone->in, "wake up");
    assert_true(dnd < wake && paused < event && event < wake);
    /* Still inactive; §5.1: all of it comes before the answer to what follows <active/>. */
    client_clear(phone);
    client_send(peer, "<presence><show>xa</show></presence>");
    client_expect(desk, "<show>xa");
    client_expect_not(phone, "<show>");
    client_clear(phone);
    client_send(phone, "<active xmlns='urn:xmpp:csi:0'/><iq type='get' id='pong' to='example.com'>"
                       "<ping xmlns='urn:xmpp:ping'/></iq>");
    client_expect(phone, "id='pong'");
    assert_true(strstr(phone->in, "<show>xa") &&
                strstr(phone->in, "<show>xa") < strstr(phone->in, "id='pong'"));
    client_clear(phone);
    client_send(peer, "<presence><show>chat</show></presence>");
    client_expect(phone, "<show>chat");
    client_close(phone);
    client_close(desk);
    client_close(peer);
}

/* What is held is bounded: with more it goes out. */
static void test_csi_bound(void **state)
{
    enum { N = 260 };
    struct client *phone = online(5, 1, "phone", false), *peer = online(6, 1, "r", false);
    client_send(phone, "<inactive xmlns='urn:xmpp:csi:0'/>");
    client_sync(phone);
    client_clear(phone);
    for (int i = 0; i < N; i++)
        client_send(peer,
                    "<message to='u5@example.com' type='chat' id='r%d'>"
                    "<received xmlns='urn:xmpp:receipts' id='x'/></message>",
                    i);
    client_expect(phone, "id='r199'");
    client_sync(phone);
    assert_int_equal(client_count(phone, "urn:xmpp:receipts"), 200);
    client_send(phone, "<active xmlns='urn:xmpp:csi:0'/>");
    client_expect(phone, "id='r259'");
    assert_int_equal(client_count(phone, "urn:xmpp:receipts"), N);
    client_close(phone);
    client_close(peer);
}

/* A store is proposed once, whatever is known of it, and nothing but the log remembers it (ADR 0045): it is
 * delivered once, and the sender is told that it may not have been. */
static void test_unknown_outcome(void **state)
{
    fix_set(fix, "archive.default", "always");
    struct client *a = online(1, 1, "r", false), *b = online(2, 2, "r", false);
    struct client *all[] = {a, b, NULL};
    unsigned n = fix_stores(fix);
    fix_forget_outcomes(fix, 1);
    client_send(a, "<message to='u2@example.com' type='chat' id='q1'><body>perhaps</body></message>");
    client_expect(a, "type='error' id='q1'");
    client_expect(a, "<resource-constraint");
    client_send(a, "<message to='u2@example.com' type='chat' id='q2'><body>surely</body></message>");
    client_expect(b, "surely");
    client_sync(b);
    assert_int_equal(client_count(b, "perhaps"), 1);
    client_sync(a);
    client_expect_not(a, "q2");
    assert_int_equal(fix_stores(fix), n + 2);
    for (int i = 0; all[i]; i++)
        client_close(all[i]);
    fix_set(fix, "archive.default", "never");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copies),          cmocka_unit_test(test_rules),
        cmocka_unit_test(test_errors),          cmocka_unit_test(test_forged),
        cmocka_unit_test(test_unknown_outcome), cmocka_unit_test(test_csi),
        cmocka_unit_test(test_csi_bound),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
