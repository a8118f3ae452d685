/* The stream parser: however the bytes are cut the same stanzas come out; a tree that is written parses to
 * the same tree; raw bytes called self-contained mean the same in another stream. */
#include "base/mem.h"
#include "base/xml.h"
#include "base/xml_frame.h"
#include "fuzz.h"

#include <string.h>

static const struct xml_limits limits = {.stanza_bytes = 65536, .depth = 16, .attrs = 16, .elements = 500};

struct run {
    struct xml_stream *stream;
    struct buf out; /* all stanzas, written */
    unsigned n_stanzas, n_headers, n_ends;
    bool check;
};

static bool same_attrs(const struct xml *a, const struct xml *b)
{
    const struct xml_attr *p = a->attrs, *q = b->attrs;
    for (; p && q; p = p->next, q = q->next)
        if (strcmp(p->name, q->name) || strcmp(p->ns, q->ns) || strcmp(p->value, q->value))
            return false;
    return !p && !q;
}

static bool same(const struct xml *a, const struct xml *b)
{
    if (!a->name || !b->name)
        return !a->name && !b->name && a->n_text == b->n_text && memcmp(a->text, b->text, a->n_text) == 0;
    if (strcmp(a->name, b->name) || strcmp(a->ns, b->ns) || !same_attrs(a, b))
        return false;
    const struct xml *p = a->children, *q = b->children;
    for (; p && q; p = p->next, q = q->next)
        if (!same(p, q))
            return false;
    return !p && !q;
}

static void check_equal(const struct xml *x, const char *text, size_t n, const char *what)
{
    static const struct xml_limits wide = {
        .stanza_bytes = 1 << 24, .depth = 64, .attrs = 64, .elements = 10000};
    struct buf wrapped = {0};
    struct arena a;
    struct xml *again = NULL;
    struct err_ctx err = {0};
    arena_init(&a);
    buf_adds(&wrapped, "<r xmlns='jabber:client'>");
    buf_add(&wrapped, text, n);
    buf_adds(&wrapped, "</r>");
    int code = xml_parse(&again, &a, wrapped.data, wrapped.n, &wide, &err);
    if (code != 0 || !again->children || again->children->next || !same(x, again->children)) {
        fprintf(stderr, "%s differs (%s):\n%s\n", what, err.text, wrapped.data);
        abort();
    }
    arena_fini(&a);
    buf_fini(&wrapped);
}

static void on_header(void *user, const struct xml *header)
{
    struct run *r = user;
    r->n_headers++;
    xml_write(&r->out, header, NULL);
}

static void on_stanza(void *user, struct xml_stanza *stanza)
{
    struct run *r = user;
    r->n_stanzas++;
    size_t from = r->out.n;
    FUZZ_ASSERT(stanza->raw[0] == '<' && stanza->raw[stanza->n_raw - 1] == '>');
    FUZZ_ASSERT(stanza->n_start_tag <= stanza->n_raw && stanza->raw[stanza->n_start_tag - 1] == '>');
    xml_write(&r->out, stanza->root, "jabber:client");
    if (r->check) {
        check_equal(stanza->root, r->out.data + from, r->out.n - from, "written tree");
        if (stanza->raw_self_contained)
            check_equal(stanza->root, stanza->raw, stanza->n_raw, "raw");
    }
    buf_add(&r->out, stanza->raw, stanza->n_raw);
    if (strcmp(stanza->root->name, "restart") == 0)
        xml_stream_restart(r->stream);
    if (strcmp(stanza->root->name, "pause") == 0)
        xml_stream_pause(r->stream);
    if (strcmp(stanza->root->name, "stop") == 0)
        xml_stream_stop(r->stream);
}

static void on_end(void *user)
{
    ((struct run *)user)->n_ends++;
}

static const struct xml_stream_events events = {on_header, on_stanza, on_end};

static enum xml_error run(struct run *r, const uint8_t *data, size_t n, size_t step, bool park)
{
    r->stream = xml_stream_new(&limits, &events, r);
    enum xml_error e = XML_OK;
    for (size_t i = 0; i < n && e == XML_OK; i += step) {
        uint8_t *exact = mem_dup(data + i, n - i < step ? n - i : step);
        e = xml_stream_feed(r->stream, exact, n - i < step ? n - i : step);
        mem_free(exact);
        if (park)
            xml_stream_park(r->stream);
        for (unsigned n_seen = ~0u;
             e == XML_OK && n_seen != r->n_stanzas;) { /* until nothing more was kept */
            n_seen = r->n_stanzas;
            e = xml_stream_resume(r->stream);
        }
    }
    xml_stream_free(r->stream);
    return e;
}

/* The same with elements that are kept until they are whole. */
static void run_frames(struct run *r, const uint8_t *data, size_t n, size_t step)
{
    struct xml_frame frame;
    struct buf early = {0};
    xml_frame_init(&frame);
    r->stream = xml_stream_new(&limits, &events, r);
    enum xml_error e = XML_OK;
    for (size_t i = 0; i < n && e == XML_OK; i += step) {
        size_t n_piece = n - i < step ? n - i : step;
        size_t whole = xml_frame_scan(&frame, limits.attrs, (const char *)data + i, n_piece);
        FUZZ_ASSERT(whole <= n_piece);
        if (whole) {
            buf_add(&early, data + i, whole);
            e = xml_stream_feed(r->stream, early.data, early.n);
            xml_stream_park(r->stream);
            buf_reset(&early);
        }
        buf_add(&early, data + i + whole, n_piece - whole);
    }
    xml_stream_free(r->stream);
    buf_fini(&early);
}

static bool has(const uint8_t *data, size_t n, const char *word)
{
    return memmem(data, n, word, strlen(word));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (n_bytes < 1 || n_bytes > 4096)
        return 0;
    size_t step = data[0] ? data[0] : 1;
    struct run whole = {.check = true}, cut = {0};
    enum xml_error a = run(&whole, data + 1, n_bytes - 1, n_bytes, false);
    enum xml_error b = run(&cut, data + 1, n_bytes - 1, step, data[0] & 1);
    FUZZ_ASSERT((a == XML_OK) == (b == XML_OK));
    FUZZ_ASSERT(whole.n_stanzas == cut.n_stanzas && whole.n_headers == cut.n_headers);
    FUZZ_ASSERT(whole.n_ends == cut.n_ends);
    FUZZ_ASSERT(whole.out.n == cut.out.n &&
                (whole.out.n == 0 || !memcmp(whole.out.data, cut.out.data, cut.out.n)));
    /* where a new document may begin is for who restarts a stream to say, and the frames */
    if (!has(data, n_bytes, "restart") && !has(data, n_bytes, "pause") && !has(data, n_bytes, "stop")) {
        struct run framed = {0};
        run_frames(&framed, data + 1, n_bytes - 1, step);
        FUZZ_ASSERT(whole.n_stanzas == framed.n_stanzas && whole.n_headers == framed.n_headers);
        FUZZ_ASSERT(whole.n_ends == framed.n_ends && whole.out.n == framed.out.n);
        FUZZ_ASSERT(whole.out.n == 0 || !memcmp(whole.out.data, framed.out.data, framed.out.n));
        buf_fini(&framed.out);
    }
    buf_fini(&whole.out);
    buf_fini(&cut.out);
    return 0;
}
