/* The ways in of WebSocket and BOSH. A byte for what follows:
 *   0, 1  a WebSocket message, before and after log-in: what it is taken for is exactly one element for the
 * shard's parser, too, and comes out of it the same (no two parsers that disagree) 2     a BOSH <body/> 3
 * BOSH requests and what happens to them, four bytes each, in virtual time: every request is answered once at
 * most, and all of them when the session has ended 4     output of a shard in two pieces */
#include "base/mem.h"
#include "fuzz.h"
#include "protocols/xmpp/bosh_body.h"
#include "protocols/xmpp/web_text.h"

#include <string.h>

/* ---- the shard's parser ---- */

struct seen {
    unsigned n_headers, n_stanzas, n_ends;
    struct buf text;
};
static void on_header(void *user, const struct xml *header)
{
    ((struct seen *)user)->n_headers++;
}
static void on_stanza(void *user, struct xml_stanza *stanza)
{
    struct seen *s = user;
    s->n_stanzas++;
    xml_write(&s->text, stanza->root, "jabber:client");
}
static void on_end(void *user)
{
    ((struct seen *)user)->n_ends++;
}
static const struct xml_stream_events shard_events = {on_header, on_stanza, on_end};

/* Feeds what the control loop would; true: all of it was taken. */
static bool feed(struct seen *s, const struct buf *text, const struct xml_limits *limits)
{
    struct xml_limits more = *limits;
    more.stanza_bytes *= 20; /* it may be longer when it is written anew */
    struct xml_stream *x = xml_stream_new(&more, &shard_events, s);
    struct buf header = {0};
    web_write_header(&header, &(struct web_header){.to = "example.com", .version = "1.0"});
    bool ok = xml_stream_feed(x, header.data, header.n) == XML_OK &&
              xml_stream_feed(x, text->data ? text->data : "", text->n) == XML_OK &&
              xml_stream_feed(x, "    ", 4) == XML_OK && /* right behind wide characters a stream is not idle yet */
              xml_stream_is_idle(x);
    xml_stream_free(x);
    buf_fini(&header);
    return ok;
}

static void fuzz_frame(const char *data, size_t n, bool late)
{
    struct xml_limits limits = xml_limits_default;
    if (!late)
        limits = (struct xml_limits){.stanza_bytes = 16384, .depth = 9, .attrs = 32, .elements = 64};
    struct web_frame f;
    struct arena a;
    arena_init(&a);
    web_read_frame(&f, &a, data, n, &limits);
    if (f.kind == WEB_FRAME_BAD)
        FUZZ_ASSERT(f.condition != NULL);
    struct buf text = {0};
    if (f.kind == WEB_FRAME_ELEMENT) {
        struct seen s = {0};
        xml_write(&text, f.root, "jabber:client");
        FUZZ_ASSERT(feed(&s, &text, &limits));
        FUZZ_ASSERT(s.n_headers == 1 && s.n_stanzas == 1 && s.n_ends == 0);
        FUZZ_ASSERT(s.text.n == text.n && !memcmp(s.text.data, text.data, text.n));
        buf_fini(&s.text);
    }
    if (f.kind == WEB_FRAME_OPEN) {
        struct seen s = {0};
        web_write_header(&text, &f.header);
        struct xml_stream *x = xml_stream_new(&xml_limits_default, &shard_events, &s);
        if (text.n < 100000)
            FUZZ_ASSERT(xml_stream_feed(x, text.data, text.n) == XML_OK && s.n_headers == 1);
        xml_stream_free(x);
    }
    buf_fini(&text);
    arena_fini(&a);
}

static void fuzz_body(const char *data, size_t n)
{
    struct bosh_body b;
    struct xml_limits limits = xml_limits_default;
    const char *bad = bosh_body_read(&b, data, n, &limits);
    if (!bad) {
        struct seen s = {0};
        unsigned n_payloads = 0;
        for (const struct xml *c = xml_first_element(b.root); c; c = xml_next_element(c))
            n_payloads++;
        FUZZ_ASSERT(feed(&s, &b.payload, &limits));
        FUZZ_ASSERT(s.n_stanzas == n_payloads && s.n_ends == 0 && s.n_headers == 1);
        buf_fini(&s.text);
    }
    bosh_body_fini(&b);
}

/* ---- BOSH in time ---- */

enum { MAX_HANDLES = 2048 };
struct table {
    uint8_t state[MAX_HANDLES]; /* 0 free, 1 waits, 2 answered, 3 gone */
    unsigned n;
    bool ended;
};

static void on_answer(void *user, void *handle, int status, const char *body, size_t n)
{
    struct table *t = user;
    size_t i = (size_t)(uintptr_t)handle - 1;
    FUZZ_ASSERT(i < t->n && t->state[i] == 1);
    t->state[i] = 2;
    if (n) {
        struct arena a;
        struct xml *root;
        arena_init(&a);
        FUZZ_ASSERT(xml_read(&root, &a, body, n, &xml_limits_default) == XML_OK);
        arena_fini(&a);
    }
}
static void on_payload(void *user, const char *data, size_t n)
{
}
static void on_restart(void *user, const char *header)
{
}
static void on_taken(void *user, size_t weight)
{
}
static void on_session_end(void *user, bool in_order)
{
    struct table *t = user;
    FUZZ_ASSERT(!t->ended);
    t->ended = true;
}
static const struct bosh_events events = {on_answer, on_payload, on_restart, on_taken, on_session_end};

static void one_step(struct bosh *b, struct table *t, const uint8_t d[4], uint64_t *now, uint64_t base)
{
    struct bosh_request r = {.payload = "", .header = "<stream:stream>"};
    *now += (uint64_t)d[2] * d[2] * 4;
    switch (d[0] % 8) {
    case 0:
    case 1:
    case 2:
    case 3:
        if (t->n == MAX_HANDLES)
            return;
        r.rid = base + d[1] % 32;
        if (d[3] & 1)
            r.payload = "<a/>", r.n_payload = 4;
        r.restart = (d[3] & 6) == 6;
        r.terminate = d[3] == 8;
        r.has_pause = (d[3] & 0x30) == 0x30;
        r.pause_s = d[3];
        t->state[t->n++] = 1;
        bosh_request(b, &r, (void *)(uintptr_t)t->n, *now);
        break;
    case 4:
        if (d[1] < t->n && t->state[d[1]] == 1) {
            t->state[d[1]] = 3;
            bosh_gone(b, (void *)(uintptr_t)(d[1] + 1));
        }
        break;
    case 5:
        bosh_output(b, "<b xmlns='c'/>", 14, 14, d[3] & 1);
        bosh_flush(b, *now);
        break;
    case 6:
        if (d[3] == 7)
            bosh_close(b, d[1] & 1 ? "remote-stream-error" : "", d[1] & 2 ? "<e/>" : NULL, *now);
        break;
    default:
        bosh_tick(b, *now);
        break;
    }
}

static void fuzz_session(const uint8_t *data, size_t n)
{
    struct table *t = mem_new(struct table);
    struct bosh b;
    uint64_t now = 1000, base = 100;
    if (n >= 2) {
        struct bosh_options o = {.wait_s = data[0] % 8,
                                 .hold = data[1] % (BOSH_MAX_HOLD + 1),
                                 .inactivity_s = 10,
                                 .acks = data[0] & 16,
                                 .legacy = data[0] & 32,
                                 .first_attributes = " sid='s'"};
        struct bosh_request first = {.rid = base, .payload = "", .header = ""};
        t->state[t->n++] = 1;
        bosh_init_session(&b, &o, &events, t, &first, (void *)(uintptr_t)t->n, now);
        for (size_t i = 2; i + 4 <= n && !t->ended; i += 4) {
            if (i % 64 == 2)
                base = b.rid > 8 ? b.rid - 8 : 1;
            one_step(&b, t, data + i, &now, base);
            FUZZ_ASSERT(b.n_held <= b.requests + 1 && b.n_kept <= b.requests);
        }
        if (t->ended)
            for (unsigned i = 0; i < t->n; i++)
                FUZZ_ASSERT(t->state[i] != 1);
        bosh_fini_session(&b);
    }
    mem_free(t);
}

/* ---- output ---- */

static void on_item(void *user, enum web_item item, const char *data, size_t n, size_t weight)
{
    struct buf *out = user;
    char condition[64], uri[1024];
    FUZZ_ASSERT(n >= 3 && data[0] == '<' && data[n - 1] == '>');
    if (item == WEB_ELEMENT)
        web_write_element(out, data, n);
    else if (item == WEB_HEADER)
        web_write_open(out, data, n);
    web_read_error(condition, uri, data, n);
}

static void fuzz_split(const char *data, size_t n)
{
    struct web_split s = {0};
    struct buf whole = {0}, pieces = {0};
    web_split_feed(&s, data, n, on_item, &whole);
    web_split_fini(&s);
    s = (struct web_split){0};
    web_split_feed(&s, data, n / 2, on_item, &pieces);
    web_split_feed(&s, data + n / 2, n - n / 2, on_item, &pieces);
    web_split_fini(&s);
    FUZZ_ASSERT(whole.n == pieces.n && (!whole.n || !memcmp(whole.data, pieces.data, whole.n)));
    buf_fini(&whole);
    buf_fini(&pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (!n_bytes)
        return 0;
    size_t n = n_bytes - 1;
    char *exact = n ? mem_dup(data + 1, n) : mem_alloc(1);
    switch (data[0] % 5) {
    case 0:
    case 1:
        fuzz_frame(exact, n, data[0] % 5 == 1);
        break;
    case 2:
        fuzz_body(exact, n);
        break;
    case 3:
        fuzz_session((const uint8_t *)exact, n);
        break;
    case 4:
        fuzz_split(exact, n);
        break;
    }
    mem_free(exact);
    return 0;
}
