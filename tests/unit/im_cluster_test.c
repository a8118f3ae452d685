/* Three nodes: relay, presence and messages between nodes, order against the log, links and nodes that go. */
#include "base/clock.h"
#include "im_fixture.h"
#include "protocols/xmpp/relay.h"
#include "store_test.h"

/* Users are at home on node (i - 1) % 3 + 1. */
static struct fix *fix;

static int setup(void **state)
{
    fix = fix_new(3, 2, 12);
    fix_set(fix, "archive.default", "never"); /* the direct way of messages */
    return 0;
}

static int teardown(void **state)
{
    fix_free(fix);
    return 0;
}

static void test_relay(void **state)
{
    /* u1 is at home on n1 and connects to n2; u2 is at home on n2 and connects to n3. */
    struct client *a = client_open(fix, 1, 2, "a"), *b = client_open(fix, 2, 3, "b");
    client_send(a, "<presence/>");
    client_send(b, "<presence/>");
    client_sync(a);
    client_sync(b);
    client_befriend(a, b, "u1@example.com", "u2@example.com");
    client_expect(a, "<presence from='u2@example.com/b'");
    client_expect(b, "<presence from='u1@example.com/a'");
    client_send(a, "<message to='u2@example.com' type='chat' id='m1'><body>over</body></message>");
    client_expect(b, "<message from='u1@example.com/a' to='u2@example.com' type='chat' "
                     "id='m1'><body>over</body></message>");
    /* A stanza beyond the window of credit, both ways. */
    char *big = mem_alloc(200001);
    memset(big, 'y', 200000);
    big[200000] = 0;
    client_send(a, "<message to='u2@example.com' type='chat' id='m2'><body>%s</body></message>", big);
    client_expect(b, "</body></message>");
    client_clear(b);
    client_send(b, "<message to='u1@example.com' type='chat' id='m3'><body>%s</body></message>", big);
    client_expect(a, "id='m3'");
    client_expect(a, "y</body></message>");
    mem_free(big);
    client_sync(b);
    client_close(a);
    client_expect(b, "<presence from='u1@example.com/a' to='u2@example.com' type='unavailable'/>");
    client_send(b, "</stream:stream>");
    client_expect(b, "</stream:stream>");
    assert_true(client_wait_end(b));
    client_close(b);
}

/* Flow control of a relayed stream costs little beside the stanzas, and never stops them. */
static void test_relay_credit(void **state)
{
    enum { N = 100, BIG = 600 };
    struct client *a = client_open(fix, 1, 2, "credit");
    client_sync(a);
    unsigned up = fix_relay_frames(fix, RELAY_UP_CREDIT), down = fix_relay_frames(fix, RELAY_DOWN_CREDIT);
    for (int i = 0; i < N; i++)
        client_send(a, "<iq type='get' id='c%d'><ping xmlns='urn:xmpp:ping'/></iq>", i);
    client_expect(a, "id='c99'");
    assert_in_range(fix_relay_frames(fix, RELAY_UP_CREDIT) - up, 0, N / 2);
    assert_int_equal(fix_relay_frames(fix, RELAY_DOWN_CREDIT), down); /* below a quarter of the window */
    for (int i = 0; i < BIG; i++)                                     /* several windows */
        client_send(
            a, "<iq type='get' id='d%d'><ping xmlns='urn:xmpp:ping'/><x xmlns='urn:example:%0200d'/></iq>", i,
            i);
    client_sync(a);
    assert_in_range(fix_relay_frames(fix, RELAY_DOWN_CREDIT) - down, 2, BIG / 10);
    client_close(a);
}

/* An edge that is drained asks the homes to close what it relays. */
static void test_relay_leave(void **state)
{
    uint64_t value;
    Imp__NodeDrain drain = IMP__NODE_DRAIN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct client *a = client_open(fix, 1, 2, "leave");
    client_sync(a);
    command.body_case = IMP__COMMAND__BODY_NODE_DRAIN;
    command.node_drain = &drain;
    drain.node = 2;
    drain.drained = true;
    assert_int_equal(fix_apply(fix, &command, &value), 0);
    client_expect(a, "<system-shutdown");
    client_expect(a, "the node of this connection is taken out of service"); /* the home's words */
    assert_true(client_wait_end(a));
    client_close(a);
    drain.drained = false;
    assert_int_equal(fix_apply(fix, &command, &value), 0);
    fix_node_up(fix, 2, true);
}

/* A link is a connection each way. When one breaks, both ends of what was relayed over the pair know. */
static void test_relay_with_one_way(void **state)
{
    struct client *b = client_open(fix, 4, 1, "sees");
    client_send(b, "<presence/>");
    for (unsigned from = 1; from <= 2; from++) {
        struct client *a = client_open(fix, 1, 2, "way");
        client_send(a, "<presence/>");
        client_sync(a);
        if (from == 1)
            client_befriend(a, b, "u1@example.com", "u4@example.com");
        client_expect(b, "<presence from='u1@example.com/way'");
        client_clear(b);
        fix_link_breaks(fix, from, from == 1 ? 2 : 1);
        assert_true(client_wait_end(a));
        client_expect(b, "<presence from='u1@example.com/way' to='u4@example.com' type='unavailable'/>");
        client_clear(b);
        client_close(a);
    }
    client_close(b);
}

/* The end of a stream is told, and the word is lost: who goes on learns it with the next that is said. */
static void test_relay_end_is_lost(void **state)
{
    struct client *b = client_open(fix, 4, 1, "b");
    client_sync(b);
    struct client *a = client_open(fix, 1, 2, "lost");
    client_send(a, "<presence/>");
    client_sync(a);
    fix_relay_goes(fix, 2, 1, FIX_RELAY_IS_LOST);
    client_close(a);
    struct client *other = client_open(fix, 3, 2, "o"); /* of n3; n2 has handled the end by then */
    client_sync(other);
    client_close(other);
    fix_relay_goes(fix, 2, 1, FIX_RELAY_ARRIVES);
    client_send(b, "<message to='u1@example.com' type='chat' id='ghost'><body>hello?</body></message>");
    client_sync(b);
    a = client_open(fix, 1, 3, "real");
    client_send(a, "<presence/>");
    client_expect(a, "id='ghost'");
    /* And the home's word. */
    fix_relay_goes(fix, 1, 3, FIX_RELAY_IS_LOST);
    struct client *in_its_place = client_open(fix, 1, 1, "real");
    client_sync(in_its_place);
    fix_relay_goes(fix, 1, 3, FIX_RELAY_ARRIVES);
    client_send(a, "<presence/>");
    assert_true(client_wait_end(a));
    client_close(a);
    client_close(in_its_place);
    client_close(b);
}

/* A credit that the link did not take is told later: the client waits for nothing else. */
static void test_relay_credit_again(void **state)
{
    enum { N = 8, BYTES = 30000 };
    struct client *a = client_open(fix, 1, 2, "slow"), *b = client_open(fix, 4, 1, "fast");
    char *big = mem_alloc(BYTES + 1);
    memset(big, 'y', BYTES);
    big[BYTES] = 0;
    client_send(a, "<presence/>");
    client_sync(a);
    fix_relay_goes(fix, 2, 1, FIX_RELAY_IS_REFUSED);
    for (int i = 0; i < N; i++)
        client_send(b, "<message to='u1@example.com' type='chat' id='r%d'><body>%s</body></message>", i, big);
    client_sync(b);
    client_expect(a, "id='r1'");
    client_read(a, 200);
    assert_false(client_has(a, "id='r7'")); /* it is beyond the window */
    fix_relay_goes(fix, 2, 1, FIX_RELAY_ARRIVES);
    client_expect(a, "id='r7'");
    mem_free(big);
    client_close(a);
    client_close(b);
}

static void test_bad_xml_over_relay(void **state)
{
    struct client *a = client_open(fix, 1, 3, "bad");
    client_send(a, "<message><body></message>");
    client_expect(a, "<not-well-formed");
    assert_true(client_wait_end(a));
    client_close(a);
}

static void test_redirect(void **state)
{
    fix_set(fix, "xmpp.wrong_node", "redirect");
    struct client *a = client_raw(fix, 1, 2);
    client_send(a, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                   "to='example.com' version='1.0'>");
    client_expect(a, "<see-other-host xmlns='urn:ietf:params:xml:ns:xmpp-streams'>n1</see-other-host>");
    assert_true(client_wait_end(a));
    client_close(a);
    fix_set(fix, "xmpp.wrong_node", "relay");
}

/* A message never overtakes the roster change its sender made before it. */
static void test_after_index(void **state)
{
    struct client *a = client_open(fix, 4, 1, "a"), *b = client_open(fix, 5, 2, "b");
    client_send(b, "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/></iq><presence/>");
    client_expect(b, "id='r'");
    client_sync(b);
    client_clear(b);
    fix_delay_apply(fix, 2, true);
    client_send(a, "<presence type='subscribe' to='u5@example.com'/>"
                   "<message to='u5@example.com' type='chat' id='after'><body>x</body></message>");
    client_sync(a);
    client_read(b, 200);
    assert_false(client_has(b, "after"));
    fix_delay_apply(fix, 2, false);
    fix_set(fix, "xmpp.offline_limit", "1000"); /* something to apply, so that it catches up */
    client_expect(b, "id='after'");
    char *request = strstr(b->in, "type='subscribe'");
    assert_non_null(request);
    assert_true(request < strstr(b->in, "id='after'"));
    client_close(a);
    client_close(b);
}

static void test_link_down(void **state)
{
    struct client *a = client_open(fix, 7, 1, "a"), *b = client_open(fix, 8, 2, "b");
    client_send(b, "<presence/>");
    client_send(a, "<presence/>");
    client_sync(a);
    client_sync(b);
    client_befriend(a, b, "u7@example.com", "u8@example.com");
    client_expect(a, "from='u8@example.com/b'");
    client_expect(b, "from='u7@example.com/a'");
    client_clear(a);
    client_clear(b);
    fix_link(fix, 1, 2, false);
    client_send(a, "<message to='u8@example.com' type='chat' id='w1'><body>1</body></message>"
                   "<message to='u8@example.com' type='chat' id='w2'><body>2</body></message>");
    client_send(b, "<presence><show>xa</show></presence>");
    client_sync(b);
    client_read(a, 300);
    assert_false(client_has(a, "error"));
    assert_false(client_has(a, "<show>xa</show>"));
    fix_link(fix, 1, 2, true);
    client_expect(b, "id='w2'");
    assert_true(strstr(b->in, "id='w1'") < strstr(b->in, "id='w2'"));
    client_expect(a, "<show>xa</show>"); /* the full set */
    assert_int_equal(client_count(a, "<show>xa</show>"), 1);
    /* While the link was down the other one left: the set does not name it. */
    fix_link(fix, 1, 2, false);
    client_close(b);
    client_sync(a);
    client_clear(a);
    client_read(a, 200);
    fix_link(fix, 1, 2, true);
    client_expect(a, "<presence from='u8@example.com/b' to='u7@example.com' type='unavailable'/>");
    client_close(a);
}

static void test_node_down(void **state)
{
    struct client *a = client_open(fix, 10, 1, "a"), *b = client_open(fix, 9, 3, "b");
    client_send(b, "<presence/>");
    client_send(a, "<presence/>");
    client_sync(a);
    client_sync(b);
    client_befriend(a, b, "u10@example.com", "u9@example.com");
    client_expect(a, "from='u9@example.com/b'");
    client_clear(a);
    /* n3 stops: its users are at home elsewhere at once, its sessions end everywhere. */
    fix_link(fix, 1, 3, false);
    client_send(a, "<message to='u9@example.com' type='chat' id='late'><body>late</body></message>");
    client_read(a, 100);
    fix_node_up(fix, 3, false);
    client_expect(a, "<presence from='u9@example.com/b' to='u10@example.com' type='unavailable'/>");
    client_expect(b, "<stream:error>");
    assert_true(client_wait_end(b));
    client_close(b);
    b = client_open(fix, 9, 1, "b");
    client_send(b, "<presence/>");
    client_expect(b, "late");
    fix_node_up(fix, 3, true);
    client_expect(b, "<stream:error>"); /* the home is n3 again */
    client_close(b);
    fix_link(fix, 1, 3, true);
    client_close(a);
}

static const char SM_ENABLE[] = "<enable xmlns='urn:xmpp:sm:3' resume='true'/>";

static struct client *open_counted(unsigned user, unsigned edge, const char *resource)
{
    struct client *c = client_open(fix, user, edge, resource);
    client_send(c, "%s", SM_ENABLE);
    client_expect(c, "<enabled ");
    client_send(c, "<presence/>");
    client_sync(c);
    return c;
}

/* BATCH tells those of a test from what an earlier one has left in the store. */
static void send_numbers(struct client *a, char batch, unsigned to, unsigned first, unsigned last)
{
    for (unsigned i = first; i <= last; i++)
        client_send(a, "<message to='u%u@example.com' type='chat' id='%c%u'><body>n</body></message>", to,
                    batch, i);
}

/* Each of 1 to N comes, and the first time not before the one ahead of it. */
static void expect_in_order(struct client *b, char batch, unsigned n)
{
    const char *before = NULL;
    for (unsigned i = 1; i <= n; i++) {
        char id[24];
        snprintf(id, sizeof id, " id='%c%u'", batch, i);
        client_expect(b, id);
    }
    for (unsigned i = 1; i <= n; i++) {
        char id[24];
        snprintf(id, sizeof id, " id='%c%u'", batch, i);
        const char *at = strstr(b->in, id);
        if (before && at < before)
            fail_msg("message %u came before message %u", i, i - 1);
        before = at;
    }
}

/* Some were with the home that dies, others waited for its link: they keep their order (RFC 6120 §10.1). */
static void test_order_after_node_down(void **state)
{
    for (unsigned user = 3; user <= 12; user += 3) { /* the next home is this node or the third one */
        char batch = (char)('a' + user);
        struct client *a = open_counted(10, 1, "a"), *b = open_counted(user, 3, "b");
        fix_lease(fix, 3, false); /* it holds what it gets */
        send_numbers(a, batch, user, 1, 5);
        client_sync(a);
        client_read(a, 50);
        fix_link(fix, 1, 3, false);
        send_numbers(a, batch, user, 6, 9); /* they wait for the link; the client is not read any more */
        client_read(a, 50);
        fix_node_up(fix, 3, false);
        client_close(b);
        b = client_open(fix, user, 1, "b");
        client_send(b, "<presence/>");
        expect_in_order(b, batch, 9);
        client_close(b);
        client_close(a);
        fix_lease(fix, 3, true);
        fix_node_up(fix, 3, true);
        fix_link(fix, 1, 3, true);
    }
}

/* The link is cut and comes back: what it may have lost goes before what waited for it. */
static void test_order_after_link_up(void **state)
{
    struct client *a = open_counted(10, 1, "a"), *b = open_counted(9, 3, "b");
    fix_link_loses(fix, 1, 3, true);
    send_numbers(a, 'u', 9, 1, 5);
    client_sync(a);
    fix_link(fix, 1, 3, false);
    fix_link_loses(fix, 1, 3, false);
    send_numbers(a, 'u', 9, 6, 9);
    client_read(a, 50);
    fix_link(fix, 1, 3, true);
    expect_in_order(b, 'u', 9);
    client_close(b);
    client_close(a);
}

/* The lease is back, and that is found while what was held is looked at. */
static void test_order_when_lease_returns(void **state)
{
    struct client *a = open_counted(10, 1, "a"), *b = open_counted(9, 3, "b");
    for (int round = 0; round < 8; round++) {
        char batch = (char)('A' + round);
        fix_lease(fix, 3, false);
        send_numbers(a, batch, 9, 1, 5);
        client_sync(a);
        fix_lease(fix, 3, true);
        fix_set(fix, "xmpp.offline_limit", "1000"); /* something to look at */
        expect_in_order(b, batch, 5);
    }
    client_close(b);
    client_close(a);
}

/* What B acknowledges of what it has got since open_counted. */
static void acknowledge(struct client *b)
{
    const char *from = strstr(b->in, "<enabled ");
    unsigned n = 0;
    for (const char *p = from; (p = strchr(p, '<')); p++)
        n += !strncmp(p, "<message ", 9) || !strncmp(p, "<presence ", 10) || !strncmp(p, "<iq ", 4);
    client_send(b, "<a xmlns='urn:xmpp:sm:3' h='%u'/>", n);
}

/* Until all that A has sent is acknowledged to it. */
static void expect_acked(struct client *a, unsigned n)
{
    char want[64];
    snprintf(want, sizeof want, "<a xmlns='urn:xmpp:sm:3' h='%u'/>", n);
    for (int i = 0; i < 50 && !client_has(a, want); i++) {
        client_send(a, "<r xmlns='urn:xmpp:sm:3'/>");
        client_read(a, 100);
    }
    client_expect(a, want);
}

/* Nothing is given twice by a home that lives, whether its answer was lost or what it answers. */
static void test_no_repeats_after_link_up(void **state)
{
    struct client *a = open_counted(10, 1, "a"), *b = open_counted(9, 3, "b");
    send_numbers(a, 'v', 9, 101, 103);
    client_expect(b, " id='v103'");
    fix_link_loses(fix, 3, 1, true);
    acknowledge(b);
    send_numbers(a, 'v', 9, 104, 105); /* these are not acknowledged yet */
    client_expect(b, " id='v105'");
    client_sync(b);
    fix_link(fix, 1, 3, false);
    fix_link_loses(fix, 3, 1, false);
    fix_link(fix, 1, 3, true);
    send_numbers(a, 'v', 9, 106, 106);
    client_expect(b, " id='v106'");
    acknowledge(b);
    expect_acked(a, 2 + 6); /* a presence and the ping of open_counted */
    assert_int_equal(client_count(b, " id='v10"), 6);
    client_close(b);
    client_close(a);
}

/* Since it enabled stream management. */
static unsigned count_stanzas(struct client *c)
{
    return client_count(c, "<message ") + client_count(c, "<presence ") + client_count(c, "<iq ");
}

/* Refused, and the error is lost with the link: what is sent again is refused again, and not taken for a
 * message that has come. */
static void test_refused_again(void **state)
{
    struct client *a = open_counted(10, 1, "a");
    fix_set(fix, "xmpp.offline_limit", "0");
    fix_link_loses(fix, 3, 1, true);
    send_numbers(a, 'r', 9, 1, 1);
    client_sync(a);
    client_read(a, 200);
    assert_false(client_has(a, " id='r1'"));
    fix_link(fix, 1, 3, false);
    fix_link_loses(fix, 3, 1, false);
    fix_link(fix, 1, 3, true);
    client_expect(a, " id='r1'"); /* the error */
    /* Until the client says that it has it, the message is not counted: the error might get lost with this
     * node. */
    client_send(a, "<r xmlns='urn:xmpp:sm:3'/>");
    client_expect(a, "<a xmlns='urn:xmpp:sm:3' h='2'/>");
    client_read(a, 100);
    assert_false(client_has(a, "<a xmlns='urn:xmpp:sm:3' h='3'/>"));
    assert_false(client_has(a, "<a xmlns='urn:xmpp:sm:3' h='4'/>"));
    client_send(a, "<a xmlns='urn:xmpp:sm:3' h='%u'/>", count_stanzas(a));
    expect_acked(a, 2 + 1 + 1);
    assert_int_equal(client_count(a, " id='r1'"), 1);
    fix_set(fix, "xmpp.offline_limit", "1000");
    client_close(a);
}

/* A message waits in memory behind one that is being stored, until its recipient leaves, or for the row. */
static void test_order_behind_stored(void **state)
{
    for (int leaves = 0; leaves < 2; leaves++) {
        char batch = leaves ? 'k' : 'j';
        struct client *a = open_counted(10, 1, "a");
        fix_delay_apply(fix, 3, true);
        send_numbers(a, batch, 9, 1, 1);
        client_sync(a);
        client_read(a, 100);
        struct client *b = client_open(fix, 9, 3, "b");
        client_send(b, "<presence/>");
        client_sync(b);
        send_numbers(a, batch, 9, 2, 5);
        client_sync(a);
        client_read(b, 100);
        assert_false(client_has(b, "<message"));
        if (leaves) {
            client_close(b);
            client_read(a, 1500); /* a tick */
        }
        fix_delay_apply(fix, 3, false);
        fix_set(fix, "xmpp.offline_limit", leaves ? "999" : "1000"); /* so that it catches up */
        if (leaves) {
            b = client_open(fix, 9, 3, "b");
            client_send(b, "<presence/>");
        }
        expect_in_order(b, batch, 5);
        client_sync(b);
        client_close(b);
        client_close(a);
    }
}

/* Both homes go. What had been stored is in the row of the sender's session, although one before it is not:
 * the next home does not deliver it once more when the client sends both again. */
static void test_stored_once_over_homes(void **state)
{
    char id[64] = "";
    struct client *a = open_counted(10, 1, "a");
    const char *enabled = strstr(strstr(a->in, "<enabled "), " id='");
    assert_int_equal(sscanf(enabled, " id='%63[^']'", id), 1);
    expect_acked(a, 2); /* the presence and the ping, which the row has then */
    fix_link_loses(fix, 1, 2, true);
    int64_t n_stored = metrics_get(fix_metrics(fix, 3), METRIC_MESSAGES_STORED);
    send_numbers(a, 'o', 8, 1, 1); /* gets lost */
    send_numbers(a, 'o', 9, 2, 2); /* is stored, if it comes before its recipient does */
    for (int i = 0; i < 500 && metrics_get(fix_metrics(fix, 3), METRIC_MESSAGES_STORED) == n_stored; i++)
        client_read(a, 20);
    client_sync(a);
    struct client *b = client_open(fix, 9, 3, "b");
    client_send(b, "<presence/>");
    client_expect(b, " id='o2'");
    client_close(b);
    fix_node_up(fix, 1, false);
    fix_node_up(fix, 3, false);
    assert_true(client_wait_end(a));
    client_close(a);
    b = client_open(fix, 9, 2, "b");
    client_send(b, "<presence/>");
    client_sync(b);
    client_clear(b);
    a = client_raw(fix, 10, 2);
    client_send(a, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                   "to='example.com' version='1.0'>");
    client_expect(a, "</stream:features>");
    client_send(a, "<resume xmlns='urn:xmpp:sm:3' previd='%s' h='0'/>", id);
    client_expect(a, "<resumed ");
    client_expect(a, " h='2'");
    send_numbers(a, 'o', 8, 1, 1);
    send_numbers(a, 'o', 9, 2, 3);
    client_expect(b, " id='o3'");
    assert_int_equal(client_count(b, " id='o2'"), 0);
    client_close(a);
    client_close(b);
    fix_link_loses(fix, 1, 2, false);
    fix_node_up(fix, 1, true);
    fix_node_up(fix, 3, true);
}

/* Two sessions are given a message and neither says that it has it. One that began later answers for nothing.
 */
static void test_later_session_is_given(void **state)
{
    fix_set(fix, "archive.default", "always");
    struct client *a = open_counted(10, 1, "a"), *p = open_counted(9, 3, "p"), *q = open_counted(9, 3, "q");
    send_numbers(a, 'l', 9, 1, 1);
    client_expect(p, " id='l1'");
    client_expect(q, " id='l1'");
    client_send(q, "</stream:stream>");
    assert_true(client_wait_end(q));
    client_close(q);
    q = open_counted(9, 3, "q");
    client_send(p, "</stream:stream>");
    assert_true(client_wait_end(p));
    client_expect(q, " id='l1'");
    fix_set(fix, "archive.default", "never");
    client_close(p);
    client_close(q);
    client_close(a);
}

static void leave(struct client *c)
{
    client_send(c, "</stream:stream>");
    assert_true(client_wait_end(c));
    client_close(c);
}

/* Who was there but was not given a message, having a lower priority (RFC 6121 §8.5.2.1.1), does not answer
 * for it either: it is given it when those that were have gone without a word. */
static void test_other_session_is_given(void **state)
{
    for (int stored = 0; stored < 2; stored++) {
        char batch = stored ? 'g' : 'h', id[16];
        snprintf(id, sizeof id, " id='%c1'", batch);
        fix_set(fix, "archive.default", stored ? "always" : "never");
        struct client *a = open_counted(10, 1, "a"), *low = open_counted(9, 3, "low");
        struct client *p = open_counted(9, 3, "p"), *q = open_counted(9, 3, "q");
        client_send(p, "<presence><priority>1</priority></presence>");
        client_send(q, "<presence><priority>1</priority></presence>");
        client_sync(p);
        client_sync(q);
        send_numbers(a, batch, 9, 1, 1);
        client_expect(p, id);
        client_expect(q, id);
        assert_false(client_has(low, id));
        leave(q);
        leave(p);
        client_expect(low, id);
        client_close(low);
        client_close(a);
    }
    fix_set(fix, "archive.default", "never");
}

/* An error that the client did not say to have is not counted; after its home was lost, the message is sent
 * and refused once more. A client that says so is told of it. */
static void test_refused_over_homes(void **state)
{
    char id[64] = "";
    struct client *a = open_counted(10, 1, "a");
    const char *enabled = strstr(strstr(a->in, "<enabled "), " id='");
    assert_int_equal(sscanf(enabled, " id='%63[^']'", id), 1);
    expect_acked(a, 2);
    send_numbers(a, 'w', 999, 1, 1); /* nobody */
    client_expect(a, " id='w1'");
    client_send(a, "<message to='@' type='chat' id='w2'><body>n</body></message>");
    client_expect(a, "<jid-malformed ");
    client_send(a, "<r xmlns='urn:xmpp:sm:3'/>");
    client_read(a, 1500); /* all that is true a second later */
    assert_false(client_has(a, "<a xmlns='urn:xmpp:sm:3' h='3'/>"));
    assert_false(client_has(a, "<a xmlns='urn:xmpp:sm:3' h='4'/>"));
    fix_node_up(fix, 1, false);
    assert_true(client_wait_end(a));
    client_close(a);
    a = client_raw(fix, 10, 2);
    client_send(a, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                   "to='example.com' version='1.0'>");
    client_expect(a, "</stream:features>");
    client_send(a, "<resume xmlns='urn:xmpp:sm:3' previd='%s' h='0'/>", id);
    client_expect(a, "<resumed ");
    client_expect(a, " h='2'");
    send_numbers(a, 'w', 999, 1, 1);
    client_expect(a, " id='w1'");
    client_send(a, "<message to='@' type='chat' id='w2'><body>n</body></message>");
    client_expect(a, "<jid-malformed ");
    client_send(a, "<a xmlns='urn:xmpp:sm:3' h='%u'/>", count_stanzas(a));
    expect_acked(a, 2 + 2);
    client_close(a);
    fix_node_up(fix, 1, true);
}

/* The log is faster than the link: a message that is stored stays behind what was sent before it (RFC 6120
 * §10.1), and a link that says nothing does not keep it for ever. */
static void test_stored_behind_direct(void **state)
{
    struct client *a = open_counted(10, 1, "a"), *b = open_counted(9, 3, "b");
    client_clear(b);
    fix_set(fix, "archive.default", "always");
    fix_link_delays(fix, 1, 3, true);
    client_send(a, "<message to='u9@example.com' type='headline' id='w1'><body>x</body></message>"
                   "<message to='u9@example.com' type='chat' id='w2'><body>x</body></message>"
                   "<message to='u9@example.com' type='headline' id='w3'><body>x</body></message>"
                   "<message to='u9@example.com' type='chat' id='w4'><body>x</body></message>");
    client_sync(a);
    client_read(b, 200);
    assert_false(client_has(b, " id='w"));
    fix_link_delays(fix, 1, 3, false);
    expect_in_order(b, 'w', 4);
    fix_link_delays(fix, 1, 3, true);
    client_send(a, "<message to='u9@example.com' type='headline' id='x1'><body>x</body></message>"
                   "<message to='u9@example.com' type='chat' id='x2'><body>x</body></message>");
    client_expect(b, " id='x2'");
    fix_link_delays(fix, 1, 3, false);
    client_expect(b, " id='x1'");
    fix_set(fix, "archive.default", "never");
    client_close(b);
    client_close(a);
}

static void assign(unsigned user, unsigned node)
{
    uint64_t uid = fix_uid(fix, user);
    Imp__UserAssign body = IMP__USER_ASSIGN__INIT;
    body.n_uids = 1;
    body.uids = &uid;
    body.node = node;
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_USER_ASSIGN;
    c.user_assign = &body;
    assert_int_equal(fix_apply(fix, &c, NULL), 0);
}

/* The new home takes nobody and delivers nothing before the old one has applied the move. */
static void test_hand_over(void **state)
{
    struct client *old = client_open(fix, 4, 1, "a"), *b = client_open(fix, 5, 2, "b");
    client_send(old, "<presence/>");
    client_sync(old);
    client_sync(b);
    fix_delay_apply(fix, 1, true);
    assign(4, 2);
    struct client *new = client_raw(fix, 4, 2);
    client_send(new, "<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' "
                     "to='example.com' version='1.0'>");
    client_expect(new, "</stream:features>");
    client_send(new,
                "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq><presence/>");
    client_send(b, "<message to='u4@example.com' type='chat' id='m1'><body>1</body></message>");
    client_sync(b);
    client_read(new, 300);
    assert_false(client_has(new, "<jid>"));
    assert_false(client_has(new, "m1"));
    client_sync(old); /* still served there */
    fix_delay_apply(fix, 1, false);
    fix_set(fix, "xmpp.offline_limit", "1000"); /* something to apply, so that it catches up */
    client_expect(old, "<reset");
    client_expect(new, "<jid>u4@example.com/");
    client_expect(new, "id='m1'");
    /* There and back at once: the session was at home elsewhere meanwhile, so it ends. */
    fix_delay_apply(fix, 2, true);
    assign(4, 3);
    assign(4, 2);
    client_sync(new);
    fix_delay_apply(fix, 2, false);
    fix_set(fix, "xmpp.offline_limit", "900");
    client_expect(new, "<reset");
    assign(4, 1);
    client_close(old);
    client_close(new);
    client_close(b);
}

/* XEP-0357: a client of USER, who is at home on n3, enables a push service that is a client of n1, and goes.
 */
static struct client *open_push_service(unsigned user)
{
    fix_set(fix, "archive.default", "always"); /* messages come to homes by the log */
    char name[16]; /* of its own: another user's may be told again when homes move */
    snprintf(name, sizeof name, "app%u", user);
    struct client *app = client_open(fix, 10, 1, name), *phone = client_open(fix, user, 3, "phone");
    client_send(
        phone,
        "<iq type='set' id='e1'><enable xmlns='urn:xmpp:push:0' jid='u10@example.com/%s' node='x'/></iq>",
        name);
    client_expect(phone, "type='result' id='e1'");
    client_close(phone);
    client_sync(app);
    client_read(app, 1200); /* a tick: what moved earlier has been looked at */
    client_clear(app);
    return app;
}

static const char PUSHED[] = "<notification xmlns='urn:xmpp:push:0'>";

static void send_to_phone(struct client *app, unsigned user)
{
    struct client *a = client_open(fix, 7, 1, "a");
    client_send(a, "<message to='u%u@example.com' type='chat'><body>wake up</body></message>", user);
    client_sync(a);
    client_read(app, 300);
    client_expect_not(app, PUSHED);
    client_close(a);
}

static void expect_one_push(struct client *app)
{
    client_expect(app, PUSHED);
    client_read(app, 1500); /* a tick */
    assert_int_equal(client_count(app, PUSHED), 1);
    client_close(app);
    fix_set(fix, "archive.default", "never");
}

/* The home is dead, and nobody knows: it is the only one that is told of the message. */
static void test_push_after_node_down(void **state)
{
    struct client *app = open_push_service(9);
    fix_link_loses(fix, 3, 1, true);
    fix_link_loses(fix, 3, 2, true);
    send_to_phone(app, 9);
    fix_link(fix, 1, 3, false);
    fix_link(fix, 2, 3, false);
    fix_node_up(fix, 3, false);
    expect_one_push(app);
    for (unsigned n = 1; n <= 2; n++) {
        fix_link_loses(fix, 3, n, false);
        fix_link(fix, n, 3, true);
    }
    fix_node_up(fix, 3, true);
}

/* The old home has not handed the user over when the message is stored: neither of the two is its home. */
static void test_push_of_arriving(void **state)
{
    struct client *app = open_push_service(12);
    fix_delay_apply(fix, 3, true);
    assign(12, 2);
    send_to_phone(app, 12);
    fix_delay_apply(fix, 3, false);
    fix_set(fix, "xmpp.offline_limit", "1000"); /* something to apply, so that it catches up */
    expect_one_push(app);
    assign(12, 3);
}

/* A client that sends and leaves at once: what it has sent behind a roster change is handled all the same. */
static void test_send_and_leave(void **state)
{
    struct client *b = client_open(fix, 2, 2, "b");
    client_send(b, "<presence/>");
    client_sync(b);
    for (unsigned edge = 1; edge <= 2; edge++) {
        struct client *a = client_open(fix, 4, edge, "a");
        client_clear(b);
        client_send(a,
                    "<iq type='set' id='s'><query xmlns='jabber:iq:roster'><item jid='u2@example.com' "
                    "name='%u'/></query>"
                    "</iq><message to='u2@example.com' type='chat' id='last%u'><body>x</body></message>",
                    edge, edge);
        client_close(a);
        char want[16];
        snprintf(want, sizeof want, "id='last%u'", edge);
        client_expect(b, want);
    }
    client_close(b);
}

static void test_flood(void **state)
{
    enum { N = 20000 };
    struct client *a = client_open(fix, 1, 1, "a"), *b = client_open(fix, 2, 2, "b");
    client_send(b, "<presence/>");
    client_sync(b);
    client_clear(b);
    unsigned next = 0;
    for (unsigned i = 0; i < N; i++) {
        client_send(a, "<message to='u2@example.com' type='chat' id='f'><body>flood %u.</body></message>", i);
        if (i % 500 == 0)
            client_read(b, 0);
    }
    client_expect(b, "flood 19999.");
    const char *end = b->in + b->n;
    for (const char *p = b->in; (p = memmem(p, (size_t)(end - p), "<body>flood ", 12)); p++) {
        unsigned nr = (unsigned)atoi(p + 12);
        if (nr != next)
            fail_msg("message %u where %u should be", nr, next);
        next++;
    }
    assert_int_equal(next, N);
    client_read(a, 50);
    assert_false(client_has(a, "error"));
    client_close(a);
    client_close(b);
}

/* A client that does not read: bounded output, nothing lost: what it did not take goes to the next session.
 */
static void test_slow_reader(void **state)
{
    enum { N = 900 };
    fix_set(fix, "xmpp.offline_limit", "100000");
    fix_set(fix, "limits.output_bytes", "524288");
    struct client *a = client_open(fix, 1, 1, "a"), *b = client_open(fix, 4, 1, "b");
    client_send(b, "<presence/>");
    client_sync(b);
    client_clear(b);
    char fill[1001];
    memset(fill, 'z', 1000);
    fill[1000] = 0;
    for (unsigned i = 0; i < N; i++)
        client_send(a, "<message to='u4@example.com' type='chat' id='s'><body>slow %u.%s</body></message>", i,
                    fill);
    client_sync(a);
    /* What the kernel has is b's; the rest comes to c. */
    struct client *c = client_open(fix, 4, 1, "b");
    client_send(c, "<presence/>");
    client_expect(c, "slow 899.");
    while (!client_wait_end(b))
        ;
    uint64_t until = clock_monotonic_ms() + 40000;
    while (client_count(b, "</message>") + client_count(c, "</message>") < N && clock_monotonic_ms() < until)
        client_read(c, 50);
    client_sync(c);
    static uint8_t seen[N];
    struct client *both[] = {b, c};
    for (int k = 0; k < 2; k++) {
        const char *end = both[k]->in + both[k]->n;
        for (const char *p = both[k]->in; p && (p = memmem(p, (size_t)(end - p), "<body>slow ", 11)); p++) {
            if (!memmem(p, (size_t)(end - p), "</message>", 10))
                break; /* cut in the middle at the end of b's stream */
            seen[atoi(p + 11)]++;
        }
    }
    unsigned n_bad = 0, first_bad = 0;
    for (unsigned i = 0; i < N; i++)
        if (seen[i] != 1 && !n_bad++)
            first_bad = i;
    if (n_bad)
        fail_msg("%u messages came not once; message %u came %u times", n_bad, first_bad, seen[first_bad]);
    assert_false(client_has(a, "error"));
    client_close(a);
    client_close(b);
    client_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_relay),
        cmocka_unit_test(test_relay_credit),
        cmocka_unit_test(test_relay_credit_again),
        cmocka_unit_test(test_relay_with_one_way),
        cmocka_unit_test(test_relay_end_is_lost),
        cmocka_unit_test(test_bad_xml_over_relay),
        cmocka_unit_test(test_redirect),
        cmocka_unit_test(test_after_index),
        cmocka_unit_test(test_link_down),
        cmocka_unit_test(test_node_down),
        cmocka_unit_test(test_hand_over),
        cmocka_unit_test(test_push_after_node_down),
        cmocka_unit_test(test_push_of_arriving),
        cmocka_unit_test(test_send_and_leave),
        cmocka_unit_test(test_order_after_node_down),
        cmocka_unit_test(test_order_after_link_up),
        cmocka_unit_test(test_order_when_lease_returns),
        cmocka_unit_test(test_no_repeats_after_link_up),
        cmocka_unit_test(test_refused_again),
        cmocka_unit_test(test_order_behind_stored),
        cmocka_unit_test(test_stored_once_over_homes),
        cmocka_unit_test(test_later_session_is_given),
        cmocka_unit_test(test_other_session_is_given),
        cmocka_unit_test(test_refused_over_homes),
        cmocka_unit_test(test_stored_behind_direct),
        cmocka_unit_test(test_flood),
        cmocka_unit_test(test_slow_reader),
        cmocka_unit_test(test_relay_leave),
    };
    if (getenv("IM_TEST"))
        cmocka_set_test_filter(getenv("IM_TEST"));
    return cmocka_run_group_tests(tests, setup, teardown);
}
