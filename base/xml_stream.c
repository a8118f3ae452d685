#include "base/mem.h"
#include "base/xml_plain.h"
#include "base/xml_reader.h"

#include <string.h>

enum {
    RECYCLE_BYTES =
        49152, /* expat never forgets a name it has seen: above this it is replaced between two stanzas */
    KEEP_BYTES = 4096, /* buffers up to this size are kept for the next stanza */
    KEEP_ARENA_BYTES = 16384,
};

/* The default namespace of a client's stream (RFC 6120 §4.8.2), and the header of one that declares nothing
 * else but the prefix of streams, which is nearly every one: to the reader all of them are the same. */
static const char plain_ns[] = "jabber:client";
static const char plain_header[] =
    "<stream:stream xmlns='jabber:client' xmlns:stream='" XML_READER_NS_STREAM "'>";

const struct xml_limits xml_limits_default = {
    .stanza_bytes = 262144, .depth = 64, .attrs = 64, .elements = 10000};

/* What is needed while something is being parsed; not kept by a stream that is parked. */
struct xml_work {
    struct xml_reader *reader; /* NULL: before the first byte, or not needed yet */
    struct xml_scan scan;
    struct arena arena; /* of the stanza in work */
    struct buf hold;    /* a tag whose end has not come yet */
    struct buf partial; /* the stanza in work, as far as it was parsed before this piece */
    struct buf header;  /* all up to here, until the root's start tag has ended */
    struct buf waiting; /* came while paused */

    const char *piece; /* what the reader is parsing, and where it stands in the document */
    uint64_t piece_at;
    size_t n_piece;
    uint64_t halted_at; /* end of the tag whose event asked for a restart or pause */
};

struct xml_stream {
    struct xml_limits limits;
    const struct xml_stream_events *events;
    void *user;
    struct arena *scratch; /* of the thread, for plain stanzas; NULL: none */
    struct xml_work *work; /* NULL: parked, or nothing came yet that needs it */
    char *own_header;      /* all up to the end of the root's start tag; NULL: it is plain_header */
    unsigned n_own_header;
    enum xml_error error;
    char *default_ns; /* plain_ns itself if it is that */
    bool has_header;
    bool in_feed, restart, paused, stopped, freed;
    bool halted; /* the reader, by the event under way */
};

/* ---- what a parked stream does not have ---- */

static struct xml_work *need_work(struct xml_stream *x)
{
    if (!x->work) {
        x->work = mem_new(struct xml_work);
        xml_scan_init(&x->work->scan);
        if (x->has_header)
            x->work->scan = (struct xml_scan){.state = XML_SCAN_TEXT};
    }
    return x->work;
}

static void drop_reader(struct xml_work *w)
{
    xml_reader_free(w->reader);
    w->reader = NULL;
    w->piece_at = 0;
}

static void drop_work(struct xml_stream *x)
{
    struct xml_work *w = x->work;
    if (!w)
        return;
    xml_reader_free(w->reader);
    arena_fini(&w->arena);
    buf_fini(&w->hold);
    buf_fini(&w->partial);
    buf_fini(&w->header);
    buf_fini(&w->waiting);
    mem_free(w);
    x->work = NULL;
}

static void forget_header(struct xml_stream *x)
{
    mem_free(x->own_header);
    x->own_header = NULL;
    x->n_own_header = 0;
    x->has_header = false;
}

static void set_default_ns(struct xml_stream *x, const char *ns)
{
    if (x->default_ns != plain_ns)
        mem_free(x->default_ns);
    x->default_ns = !ns ? NULL : strcmp(ns, plain_ns) == 0 ? (char *)plain_ns : mem_strdup(ns);
}

static void forget(struct buf *b)
{
    if (b->cap > KEEP_BYTES)
        buf_fini(b);
    else
        buf_reset(b);
}

/* ---- events of the reader ---- */

static void reset_arena(struct xml_work *w)
{
    if (w->arena.n_bytes > KEEP_ARENA_BYTES) {
        arena_fini(&w->arena);
        arena_init(&w->arena);
    } else {
        arena_reset(&w->arena);
    }
}

/* A handler may have asked for an end; more events must not come then. After a pause at the end of the piece
 * none can, and the reader, which cannot be used again once it was halted, is kept. */
static void after_event(struct xml_stream *x)
{
    struct xml_work *w = x->work;
    bool ends = x->restart || x->stopped || x->freed;
    if (!ends && !x->paused)
        return;
    w->halted_at = xml_reader_position(w->reader);
    if (!ends && w->halted_at == w->piece_at + w->n_piece)
        return;
    x->halted = true;
    xml_reader_halt(w->reader);
}

static void on_header(void *user, const struct xml *header)
{
    struct xml_stream *x = user;
    struct xml_work *w = x->work;
    uint64_t end = xml_reader_position(w->reader);
    buf_add(&w->header, w->piece, (size_t)(end - w->piece_at));
    if (w->header.n > x->limits.stanza_bytes) {
        x->error = XML_TOO_BIG;
        xml_reader_halt(w->reader);
        return;
    }
    x->has_header = true;
    set_default_ns(x, xml_reader_default_ns(w->reader));
    if (!xml_reader_is_plain(w->reader)) {
        x->own_header = mem_dup(w->header.data, w->header.n);
        x->n_own_header = (unsigned)w->header.n;
    }
    buf_fini(&w->header);
    if (x->events->on_header)
        x->events->on_header(x->user, header);
    reset_arena(w);
    after_event(x);
}

/* The bytes of the tree: those of earlier pieces, then those of this one. */
static const char *collect_raw(struct xml_work *w, const struct xml_span *span)
{
    size_t n = (size_t)(span->end - span->start);
    char *raw = arena_alloc(&w->arena, n + 1);
    size_t n_before = span->start < w->piece_at ? w->partial.n : 0;
    size_t from = span->start < w->piece_at ? 0 : (size_t)(span->start - w->piece_at);
    if (n_before)
        memcpy(raw, w->partial.data, n_before);
    memcpy(raw + n_before, w->piece + from, n - n_before);
    raw[n] = '\0';
    return raw;
}

static void on_tree(void *user, struct xml *root)
{
    struct xml_stream *x = user;
    struct xml_work *w = x->work;
    struct xml_span span = xml_reader_span(w->reader);
    struct xml_stanza stanza = {.root = root,
                                .arena = &w->arena,
                                .raw = collect_raw(w, &span),
                                .n_raw = (size_t)(span.end - span.start),
                                .n_start_tag = span.n_start_tag,
                                .raw_self_contained = !span.inherited_ns && !span.has_cdata};
    forget(&w->partial);
    if (x->events->on_stanza)
        x->events->on_stanza(x->user, &stanza);
    reset_arena(w);
    after_event(x);
}

static void on_end(void *user)
{
    struct xml_stream *x = user;
    x->stopped = true;
    if (x->events->on_end)
        x->events->on_end(x->user);
    after_event(x);
}

static const struct xml_reader_events reader_events = {on_header, on_tree, on_end};

void xml_stanza_steal(struct xml_stanza *stanza, struct arena *out)
{
    *out = *stanza->arena;
    arena_init(stanza->arena);
}

/* ---- feeding ---- */

/* The reader, after parking made anew and brought to where the old one was. */
static enum xml_error need_reader(struct xml_stream *x)
{
    struct xml_work *w = x->work;
    if (w->reader)
        return XML_OK;
    w->reader = xml_reader_new(true, &x->limits, &w->arena, &reader_events, x);
    if (!w->reader)
        return XML_TOO_BIG;
    if (!x->has_header)
        return XML_OK;
    const char *header = x->own_header ? x->own_header : plain_header;
    size_t n = x->own_header ? x->n_own_header : sizeof plain_header - 1;
    xml_reader_set_quiet(w->reader, true);
    enum xml_error e = xml_reader_parse(w->reader, header, n, false);
    xml_reader_set_quiet(w->reader, false);
    reset_arena(w);
    w->piece_at = n;
    return e;
}

static void reset(struct xml_stream *x)
{
    struct xml_work *w = x->work;
    forget_header(x);
    x->restart = false;
    if (!w)
        return;
    drop_reader(w);
    xml_scan_init(&w->scan);
    reset_arena(w);
    forget(&w->partial);
    forget(&w->header);
}

/* After a piece was parsed to its end: keep what will be wanted again, within the limits. */
static enum xml_error keep_rest(struct xml_stream *x)
{
    struct xml_work *w = x->work;
    const char *end = w->piece + w->n_piece;
    if (!x->has_header) {
        buf_add(&w->header, w->piece, w->n_piece);
        return w->header.n > x->limits.stanza_bytes ? XML_TOO_BIG : XML_OK;
    }
    if (xml_reader_is_between(w->reader)) {
        if (xml_reader_memory(w->reader) > RECYCLE_BYTES && xml_reader_is_idle(w->reader))
            drop_reader(w);
        return XML_OK;
    }
    uint64_t start = xml_reader_span(w->reader).start, at = w->piece_at;
    if (at - start > x->limits.stanza_bytes)
        return XML_TOO_BIG;
    uint64_t piece_start = at - w->n_piece;
    size_t from = start > piece_start ? (size_t)(start - piece_start) : 0;
    buf_add(&w->partial, w->piece + from, (size_t)(end - w->piece) - from);
    return XML_OK;
}

/* Parses N bytes that end outside a tag. *used: less than N after a restart. */
static enum xml_error feed_piece(struct xml_stream *x, const char *d, size_t n, size_t *used)
{
    struct xml_work *w = x->work;
    *used = n;
    if (n == 0)
        return XML_OK;
    enum xml_error e = need_reader(x);
    if (e != XML_OK)
        return e;
    w->piece = d;
    w->n_piece = n;
    x->halted = false;
    e = xml_reader_parse(w->reader, d, n, false);
    if (x->freed || x->stopped || e != XML_OK)
        return e;
    if (x->error != XML_OK)
        return x->error;
    if (x->restart) {
        *used = (size_t)(w->halted_at - w->piece_at);
        reset(x);
        return XML_OK;
    }
    if (x->paused && x->halted) { /* the same as parking, here */
        *used = (size_t)(w->halted_at - w->piece_at);
        drop_reader(w);
        w->scan = (struct xml_scan){.state = XML_SCAN_TEXT};
        return XML_OK;
    }
    w->piece_at += n;
    return keep_rest(x);
}

/* Bytes of the stanza in work that were parsed, for the limit. */
static size_t n_parsed(const struct xml_stream *x)
{
    return x->has_header ? x->work->partial.n : x->work->header.n;
}

/* Goes on with the tag in w->hold. */
static enum xml_error feed_held(struct xml_stream *x, const char *d, size_t n, size_t *used)
{
    struct xml_work *w = x->work;
    bool complete;
    size_t ignored;
    enum xml_error e = xml_scan_token(&w->scan, x->limits.attrs, d, n, used, &complete);
    if (e != XML_OK)
        return e;
    if (w->hold.n + *used + n_parsed(x) > x->limits.stanza_bytes)
        return XML_TOO_BIG;
    buf_add(&w->hold, d, *used);
    if (!complete)
        return XML_OK;
    e = feed_piece(x, w->hold.data, w->hold.n, &ignored);
    forget(&w->hold);
    return e;
}

/* How many bytes of D can be parsed now. *e: what the scanner found right after them. */
static size_t scan_safe(struct xml_stream *x, const char *d, size_t n, enum xml_error *e)
{
    struct xml_work *w = x->work;
    size_t i = 0, safe = 0;
    *e = XML_OK;
    while (i < n) {
        if (w->scan.state == XML_SCAN_TEXT) {
            const char *open = memchr(d + i, '<', n - i);
            if (!open)
                return n;
            i = safe = (size_t)(open - d);
        }
        size_t used;
        bool complete;
        *e = xml_scan_token(&w->scan, x->limits.attrs, d + i, n - i, &used, &complete);
        if (*e != XML_OK)
            return safe;
        i += used;
        if (complete)
            safe = i;
    }
    return safe;
}

/* Between two stanzas of a client's stream, with nothing begun that expat would have to end? */
static bool may_be_plain(const struct xml_stream *x)
{
    const struct xml_work *w = x->work;
    return x->has_header && x->default_ns == plain_ns &&
           (!w ||
            (!w->hold.n && w->scan.state == XML_SCAN_TEXT && (!w->reader || xml_reader_is_idle(w->reader))));
}

/* Between two stanzas nothing is in an arena: one that all streams of a thread share is warm. Whoever is
 * given a stanza may feed another stream, which then finds none there and makes its own. */
static void borrow_scratch(struct xml_stream *x, struct arena *out)
{
    arena_init(out);
    if (x->scratch) {
        *out = *x->scratch;
        arena_init(x->scratch);
    }
}

static void return_scratch(struct xml_stream *x, struct arena *a)
{
    if (!x->scratch || x->scratch->blocks || a->n_bytes > KEEP_ARENA_BYTES) {
        arena_fini(a);
        return;
    }
    arena_reset(a);
    *x->scratch = *a;
}

/* Takes white space and one plain stanza. Returns how many bytes, 0: the rest is expat's. */
static size_t feed_plain(struct xml_stream *x, const char *d, size_t n)
{
    const char *at = d, *end = d + n;
    struct xml_plain plain;
    struct arena arena;
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    borrow_scratch(x, &arena);
    size_t n_raw = xml_plain_parse(&plain, &arena, plain_ns, &x->limits, at, (size_t)(end - at));
    if (!n_raw) {
        return_scratch(x, &arena);
        return (size_t)(at - d);
    }
    char *raw = arena_alloc(&arena, n_raw + 1);
    memcpy(raw, at, n_raw);
    raw[n_raw] = '\0';
    struct xml_stanza stanza = {.root = plain.root,
                                .arena = &arena,
                                .raw = raw,
                                .n_raw = n_raw,
                                .n_start_tag = plain.n_start_tag,
                                .raw_self_contained = true};
    if (x->events->on_stanza)
        x->events->on_stanza(x->user, &stanza);
    return_scratch(x, &arena);
    if (x->restart)
        reset(x);
    return (size_t)(at - d) + n_raw;
}

static enum xml_error feed_some(struct xml_stream *x, const char *d, size_t n, size_t *used)
{
    if (x->work && x->work->hold.n)
        return feed_held(x, d, n, used);
    if (may_be_plain(x) && (*used = feed_plain(x, d, n)) > 0)
        return XML_OK;
    struct xml_work *w = need_work(x);
    const char *from = d;
    enum xml_error e, found;
    if (w->scan.state == XML_SCAN_PROLOG && (e = xml_scan_prolog(&d, &n)) != XML_OK)
        return e;
    size_t skipped = (size_t)(d - from);
    size_t safe = scan_safe(x, d, n, &found), taken;
    e = feed_piece(x, d, safe, &taken);
    *used = skipped + taken;
    if (x->paused && x->has_header &&
        taken == safe) /* by the last tag: what stands behind it will be scanned again */
        w->scan = (struct xml_scan){.state = XML_SCAN_TEXT};
    if (e != XML_OK || taken < safe || x->paused || x->stopped || x->freed)
        return e;
    if (safe > 0 && w->scan.state == XML_SCAN_PROLOG)
        return XML_OK; /* restarted by the last tag */
    if (found != XML_OK)
        return found;
    if (n - safe + n_parsed(x) > x->limits.stanza_bytes)
        return XML_TOO_BIG;
    buf_add(&w->hold, d + safe, n - safe);
    *used = skipped + n;
    return XML_OK;
}

static void destroy(struct xml_stream *x)
{
    drop_work(x);
    forget_header(x);
    set_default_ns(x, NULL);
    mem_free(x);
}

enum xml_error xml_stream_feed(struct xml_stream *x, const void *data, size_t n_bytes)
{
    const char *d = data;
    x->in_feed = true;
    while (n_bytes > 0 && x->error == XML_OK && !x->paused && !x->stopped && !x->freed) {
        size_t used = 0;
        x->error = feed_some(x, d, n_bytes, &used);
        d += used;
        n_bytes -= used;
    }
    x->in_feed = false;
    if (x->freed) {
        destroy(x);
        return XML_OK;
    }
    if (x->stopped) /* nothing will be parsed any more, but the stream may linger */
        drop_work(x);
    else if (x->paused && n_bytes > 0)
        buf_add(&need_work(x)->waiting, d, n_bytes);
    return x->stopped ? XML_OK : x->error;
}

/* ---- life ---- */

struct xml_stream *xml_stream_new(const struct xml_limits *limits, const struct xml_stream_events *events,
                                  void *user)
{
    struct xml_stream *x = mem_new(struct xml_stream);
    x->limits = *limits;
    x->events = events;
    x->user = user;
    return x;
}

void xml_stream_free(struct xml_stream *x)
{
    if (!x)
        return;
    if (x->in_feed)
        x->freed = true;
    else
        destroy(x);
}

void xml_stream_set_limits(struct xml_stream *x, const struct xml_limits *limits)
{
    x->limits = *limits;
    if (x->work && x->work->reader)
        xml_reader_set_limits(x->work->reader, limits);
}

void xml_stream_set_events(struct xml_stream *x, const struct xml_stream_events *events, void *user)
{
    x->events = events;
    x->user = user;
}

void xml_stream_restart(struct xml_stream *x)
{
    if (x->in_feed) {
        x->restart = true; /* done when the reader has returned */
        return;
    }
    reset(x);
    if (x->work)
        forget(&x->work->hold);
}

void xml_stream_stop(struct xml_stream *x)
{
    x->stopped = true;
    if (!x->in_feed)
        drop_work(x);
}

void xml_stream_pause(struct xml_stream *x)
{
    x->paused = true;
}

enum xml_error xml_stream_resume(struct xml_stream *x)
{
    struct buf waiting = {0};
    x->paused = false;
    if (x->work) {
        waiting = x->work->waiting;
        x->work->waiting = (struct buf){0};
    }
    enum xml_error e = xml_stream_feed(x, waiting.data, waiting.n);
    buf_fini(&waiting);
    return e;
}

void xml_stream_set_scratch(struct xml_stream *x, struct arena *scratch)
{
    x->scratch = scratch;
}

bool xml_stream_is_parked(const struct xml_stream *x)
{
    return !x->work;
}

bool xml_stream_is_idle(const struct xml_stream *x)
{
    const struct xml_work *w = x->work;
    return x->has_header && x->error == XML_OK && !x->stopped &&
           (!w || (w->hold.n == 0 && w->waiting.n == 0 && w->scan.state == XML_SCAN_TEXT &&
                   (!w->reader || xml_reader_is_idle(w->reader))));
}

bool xml_stream_park(struct xml_stream *x)
{
    if (x->in_feed || !xml_stream_is_idle(x))
        return false;
    drop_work(x);
    return true;
}

const char *xml_stream_default_ns(const struct xml_stream *x)
{
    return x->has_header ? x->default_ns : "";
}

size_t xml_stream_memory(const struct xml_stream *x)
{
    const struct xml_work *w = x->work;
    size_t n = sizeof(*x) + x->n_own_header;
    if (w)
        n += sizeof(*w) + w->arena.n_bytes + w->hold.cap + w->partial.cap + w->header.cap + w->waiting.cap +
             (w->reader ? xml_reader_memory(w->reader) : 0);
    return n;
}
