/* Attacks on the home of a client stream, each test named by its row. */
#include "base/clock.h"
#include "im/session_admin.h"
#include "im_fixture.h"
#include "store_test.h"
#include <sys/socket.h>

static struct fix *fix;

static int setup(void **state)
{
    (void)state;
    fix = fix_new(1, 2, 8);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fix_free(fix);
    return 0;
}

/* Sends TEXT as often as the server takes it without anybody reading what it answers, MAX times at most; the
 * number of times. */
static unsigned send_without_reading(struct client *c, const char *text, unsigned max)
{
    size_t n = strlen(text);
    unsigned i = 0;
    for (uint64_t since = clock_monotonic_ms(); i < max;) {
        ssize_t sent = send(c->fd, text, n, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == (ssize_t)n) {
            i++;
            since = clock_monotonic_ms();
        } else if (sent > 0) {
            /* the rest of it, so that it stays well-formed */
            send(c->fd, text + sent, n - (size_t)sent, MSG_NOSIGNAL);
            i++;
        } else if (clock_monotonic_ms() - since > 500) {
            break; /* it is not read any more */
        }
    }
    return i;
}

/* Small requests with answers that are not read: the server stops reading before it has much to write. */
static void attack_22_answers_that_nobody_reads(void **state)
{
    (void)state;
    enum { MAX = 2000 };
    struct client *a = client_open(fix, 1, 1, "a"), *b = client_open(fix, 2, 1, "b");
    char fill[801];
    memset(fill, 'n', 800);
    fill[800] = 0;
    for (int i = 0; i < 20; i++)
        client_send(a,
                    "<iq type='set' id='s%d'><query xmlns='jabber:iq:roster'><item jid='c%d@far.example' "
                    "name='%s'/></query></iq>",
                    i, i, fill);
    client_sync(a);
    client_clear(a);
    char request[2200];
    snprintf(request, sizeof request, "<iq type='get' id='r'><query xmlns='jabber:iq:roster'/>%*s</iq>", 2000, "");
    unsigned n = send_without_reading(a, request, MAX);
    assert_true(n < MAX); /* 17 KB each: what the kernel holds, and 256 KiB of answers */
    /* Others do not feel it. */
    client_send(b, "<presence/>");
    client_sync(b);
    /* And it is only held up: who reads after all gets every answer. */
    for (uint64_t until = clock_monotonic_ms() + 20000;
         client_count(a, "</query></iq>") < n && clock_monotonic_ms() < until;)
        client_read(a, 20);
    assert_int_equal(client_count(a, "</query></iq>"), n);
    client_clear(a);
    client_sync(a);
    client_close(a);
    client_close(b);
}

/* What others send to who does not read is bounded: the stream ends, messages wait elsewhere. */
static void attack_22_slow_reader(void **state)
{
    (void)state;
    enum { N = 1500 };
    fix_set(fix, "limits.output_bytes", "262144");
    struct client *a = client_open(fix, 3, 1, "a"), *b = client_open(fix, 4, 1, "b"),
                  *c = client_open(fix, 5, 1, "c");
    client_send(b, "<presence/>");
    client_sync(b);
    client_clear(b);
    char fill[1001];
    memset(fill, 'z', 1000);
    fill[1000] = 0;
    for (unsigned i = 0; i < N; i++)
        client_send(a, "<message to='u4@example.com/b' type='headline'><body>%s</body></message>", fill);
    client_sync(a);
    client_sync(c);
    while (!client_wait_end(b))
        ;
    assert_true(client_has(b, "<policy-violation ") || client_count(b, "</message>") < N);
    client_close(a);
    client_close(b);
    client_close(c);
}

/* A tag that comes byte by byte holds up nobody, and costs no more than its length. */
static void attack_22_drip(void **state)
{
    (void)state;
    struct client *a = client_open(fix, 6, 1, "a"), *b = client_open(fix, 7, 1, "b");
    static const char text[] =
        "<message to='u7@example.com/b' type='chat'><body>drop by drop</body></message>";
    for (size_t i = 0; i < sizeof text - 1; i++) {
        client_send(a, "%c", text[i]);
        if (i % 16 == 0)
            client_sync(b);
    }
    client_expect(b, "drop by drop");
    client_close(a);
    client_close(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attack_22_answers_that_nobody_reads),
        cmocka_unit_test(attack_22_slow_reader),
        cmocka_unit_test(attack_22_drip),
    };
    return cmocka_run_group_tests_name("xmpp_attack", tests, setup, teardown);
}
