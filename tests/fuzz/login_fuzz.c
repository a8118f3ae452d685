/* Everything a client may say before it has logged in, against a real edge on a shard of its own
 * (edge_fixture.h): the stream inside TLS is a tunnel, the log answers. Input: what follows the stream
 * header; a line "\n~\n" is where the client waits for the server's answer. Whatever is said: the answer is
 * well-formed XML, nobody gets in without the password, and the connection is gone at the end. */
#include "base/tunnel.h"
#include "base/xml.h"
#include "edge_fixture.h"
#include "fuzz.h"

enum { PIECE_MS = 3, GIVE_UP_MS = 5000, GIVE_UP_TURNS = 1000 };

struct talk {
    struct loop *loop;
    struct tunnel *tunnel;
    struct timer timer;
    struct buf heard;
    bool closed;
};

static struct node *the_node; /* made once for many inputs */
static struct loop *the_loop;
static unsigned n_inputs;

static void on_data(void *user, const char *data, size_t n)
{
    struct talk *t = user;
    buf_add(&t->heard, data, n);
    tunnel_taken(t->tunnel, n);
}

static void on_room(void *user)
{
}

static void on_close(void *user, bool in_order)
{
    struct talk *t = user;
    t->closed = true;
    loop_stop(t->loop);
}

static const struct tunnel_events events = {on_data, on_room, on_close};

static void on_timer(struct timer *timer)
{
    loop_stop(container_of(timer, struct talk, timer)->loop);
}

static void pause_for(struct talk *t, unsigned ms)
{
    if (t->closed)
        return;
    timer_start(&t->timer, ms, 0);
    loop_run(t->loop);
    timer_stop(&t->timer);
}

/* base64 of "pencil", wherever it begins in a group of three bytes. */
static bool has_password(const struct buf *said)
{
    return said->n &&
           (memmem(said->data, said->n, "cGVuY2ls", 8) || memmem(said->data, said->n, "wZW5jaW", 7) ||
            memmem(said->data, said->n, "BlbmNpb", 7));
}

static void check(const struct talk *t, const struct buf *said)
{
    const struct xml_stream_events none = {0};
    struct xml_stream *x = xml_stream_new(&xml_limits_default, &none, NULL);
    if (t->heard.n)
        FUZZ_ASSERT(xml_stream_feed(x, t->heard.data, t->heard.n) == XML_OK);
    xml_stream_free(x);
    if (t->heard.n && strstr(t->heard.data, "<success"))
        FUZZ_ASSERT(has_password(said));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    static const char *const settings[] = {"limits.login_failures", "1000000", "auth.mode", "local",
                                           "xmpp.registration",     "true",    NULL};
    if (n_bytes > 30000)
        return 0;
    if (!the_node) {
        the_node = node_new(settings, 1);
        FUZZ_ASSERT(loop_new(&the_loop, "fuzz", NULL) == 0);
    }
    struct talk t = {.loop = the_loop};
    struct tunnel_facts facts = {.port = 1, .tls = true};
    n_inputs++;
    snprintf(facts.address, sizeof facts.address, "10.%u.%u.%u", n_inputs >> 16 & 255, n_inputs >> 8 & 255,
             n_inputs & 255);
    timer_init(&t.timer, the_loop, on_timer);
    struct buf said = {0};
    t.tunnel = c2s_edge_open_tunnel(the_node->edge, the_loop, &facts, &events, &t);
    tunnel_write(t.tunnel, HEADER, strlen(HEADER));
    const char *p = (const char *)data, *end = p + n_bytes;
    while (p < end && !t.closed) {
        const char *wait = memmem(p, (size_t)(end - p), "\n~\n", 3);
        size_t n = (size_t)((wait ? wait : end) - p);
        tunnel_write(t.tunnel, p, n);
        buf_add(&said, p, n);
        p = wait ? wait + 3 : end;
        pause_for(&t, PIECE_MS);
    }
    if (!t.closed)
        tunnel_write(t.tunnel, "</stream:stream>", 16);
    pause_for(&t, PIECE_MS);
    tunnel_end(t.tunnel);
    uint64_t give_up = now_ms() + GIVE_UP_MS;
    /* turns, too: a machine that stood still for seconds is no finding */
    for (unsigned turns = 0;
         c2s_edge_n_waiting(the_node->edge) > 0 && (turns < GIVE_UP_TURNS || now_ms() < give_up); turns++) {
        t.closed = false;
        pause_for(&t, 1);
    }
    FUZZ_ASSERT(c2s_edge_n_waiting(the_node->edge) == 0);
    check(&t, &said);
    buf_fini(&t.heard);
    buf_fini(&said);
    return 0;
}
