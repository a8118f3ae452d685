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

/* The default namespace of a client's stream (RFC 6120 §4.8.2). */
static const char plain_ns[] = "jabber:client";

const struct xml_limits xml_limits_default = {
    .stanza_bytes = 262144, .depth = 64, .attrs = 64, .elements = 10000};

struct xml_stream {
    struct xml_limits limits;
    const struct xml_stream_events *events;
    void *user;
    enum xml_error error;
    bool in_feed, restart, paused, stopped, freed;
    bool halted; /* the reader, by the event under way */

    struct xml_reader *reader; /* NULL: before the first byte, or parked */
    struct xml_scan scan;
    struct arena arena; /* of the stanza in work */
    struct buf hold;    /* a tag whose end has not come yet */
    struct buf partial; /* the stanza in work, as far as it was parsed before this piece */
    struct buf header;  /* all up to the end of the root's start tag, to be parsed again after parking */
    bool has_header;
    struct buf waiting; /* came while paused */
    char *default_ns;

    const char *piece; /* what the reader is parsing, and where it stands in the document */
    uint64_t piece_at;
    size_t n_piece;
    uint64_t halted_at; /* end of the tag whose event asked for a restart or pause */
};

static void forget(struct buf *b)
{
    if (b->cap > KEEP_BYTES)
        buf_fini(b);
    else
        buf_reset(b);
}

/* ---- events of the reader ---- */

static void reset_arena(struct xml_stream *x)
{
    if (x->arena.n_bytes > KEEP_ARENA_BYTES) {
        arena_fini(&x->arena);
        arena_init(&x->arena);
    } else {
        arena_reset(&x->arena);
    }
}

/* A handler may have asked for an end; more events must not come then. After a pause at the end of the piece
 * none can, and the reader, which cannot be used again once it was halted, is kept. */
static void after_event(struct xml_stream *x)
{
    bool ends = x->restart || x->stopped || x->freed;
    if (!ends && !x->paused)
        return;
    x->halted_at = xml_reader_position(x->reader);
    if (!ends && x->halted_at == x->piece_at + x->n_piece)
        return;
    x->halted = true;
    xml_reader_halt(x->reader);
}

static void on_header(void *user, const struct xml *header)
{
    struct xml_stream *x = user;
    uint64_t end = xml_reader_position(x->reader);
    buf_add(&x->header, x->piece, (size_t)(end - x->piece_at));
    if (x->header.n > x->limits.stanza_bytes) {
        x->error = XML_TOO_BIG;
        xml_reader_halt(x->reader);
        return;
    }
    x->has_header = true;
    mem_free(x->default_ns);
    x->default_ns = mem_strdup(xml_reader_default_ns(x->reader));
    if (x->events->on_header)
        x->events->on_header(x->user, header);
    reset_arena(x);
    after_event(x);
}

/* The bytes of the tree: those of earlier pieces, then those of this one. */
static const char *collect_raw(struct xml_stream *x, const struct xml_span *span)
{
    size_t n = (size_t)(span->end - span->start);
    char *raw = arena_alloc(&x->arena, n + 1);
    size_t n_before = span->start < x->piece_at ? x->partial.n : 0;
    size_t from = span->start < x->piece_at ? 0 : (size_t)(span->start - x->piece_at);
    if (n_before)
        memcpy(raw, x->partial.data, n_before);
    memcpy(raw + n_before, x->piece + from, n - n_before);
    raw[n] = '\0';
    return raw;
}

static void on_tree(void *user, struct xml *root)
{
    struct xml_stream *x = user;
    struct xml_span span = xml_reader_span(x->reader);
    struct xml_stanza stanza = {.root = root,
                                .arena = &x->arena,
                                .raw = collect_raw(x, &span),
                                .n_raw = (size_t)(span.end - span.start),
                                .n_start_tag = span.n_start_tag,
                                .raw_self_contained = !span.inherited_ns && !span.has_cdata};
    forget(&x->partial);
    if (x->events->on_stanza)
        x->events->on_stanza(x->user, &stanza);
    reset_arena(x);
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
    if (x->reader)
        return XML_OK;
    x->reader = xml_reader_new(true, &x->limits, &x->arena, &reader_events, x);
    if (!x->reader)
        return XML_TOO_BIG;
    if (!x->has_header)
        return XML_OK;
    xml_reader_set_quiet(x->reader, true);
    enum xml_error e = xml_reader_parse(x->reader, x->header.data, x->header.n, false);
    xml_reader_set_quiet(x->reader, false);
    reset_arena(x);
    x->piece_at = x->header.n;
    return e;
}

static void drop_reader(struct xml_stream *x)
{
    xml_reader_free(x->reader);
    x->reader = NULL;
    x->piece_at = 0;
}

static void reset(struct xml_stream *x)
{
    drop_reader(x);
    xml_scan_init(&x->scan);
    reset_arena(x);
    forget(&x->partial);
    forget(&x->header);
    x->has_header = false;
    x->restart = false;
}

/* After a piece was parsed to its end: keep what will be wanted again, within the limits. */
static enum xml_error keep_rest(struct xml_stream *x)
{
    const char *end = x->piece + x->n_piece;
    if (!x->has_header) {
        buf_add(&x->header, x->piece, x->n_piece);
        return x->header.n > x->limits.stanza_bytes ? XML_TOO_BIG : XML_OK;
    }
    if (xml_reader_is_between(x->reader)) {
        if (xml_reader_memory(x->reader) > RECYCLE_BYTES && xml_reader_is_idle(x->reader))
            drop_reader(x);
        return XML_OK;
    }
    uint64_t start = xml_reader_span(x->reader).start, at = x->piece_at;
    if (at - start > x->limits.stanza_bytes)
        return XML_TOO_BIG;
    uint64_t piece_start = at - x->n_piece;
    size_t from = start > piece_start ? (size_t)(start - piece_start) : 0;
    buf_add(&x->partial, x->piece + from, (size_t)(end - x->piece) - from);
    return XML_OK;
}

/* Parses N bytes that end outside a tag. *used: less than N after a restart. */
static enum xml_error feed_piece(struct xml_stream *x, const char *d, size_t n, size_t *used)
{
    *used = n;
    if (n == 0)
        return XML_OK;
    enum xml_error e = need_reader(x);
    if (e != XML_OK)
        return e;
    x->piece = d;
    x->n_piece = n;
    x->halted = false;
    e = xml_reader_parse(x->reader, d, n, false);
    if (x->freed || x->stopped || e != XML_OK)
        return e;
    if (x->error != XML_OK)
        return x->error;
    if (x->restart) {
        *used = (size_t)(x->halted_at - x->piece_at);
        reset(x);
        return XML_OK;
    }
    if (x->paused && x->halted) { /* the same as parking, here */
        *used = (size_t)(x->halted_at - x->piece_at);
        drop_reader(x);
        x->scan = (struct xml_scan){.state = XML_SCAN_TEXT};
        return XML_OK;
    }
    x->piece_at += n;
    return keep_rest(x);
}

/* Bytes of the stanza in work that were parsed, for the limit. */
static size_t n_parsed(const struct xml_stream *x)
{
    return x->has_header ? x->partial.n : x->header.n;
}

/* Goes on with the tag in x->hold. */
static enum xml_error feed_held(struct xml_stream *x, const char *d, size_t n, size_t *used)
{
    bool complete;
    size_t ignored;
    enum xml_error e = xml_scan_token(&x->scan, x->limits.attrs, d, n, used, &complete);
    if (e != XML_OK)
        return e;
    if (x->hold.n + *used + n_parsed(x) > x->limits.stanza_bytes)
        return XML_TOO_BIG;
    buf_add(&x->hold, d, *used);
    if (!complete)
        return XML_OK;
    e = feed_piece(x, x->hold.data, x->hold.n, &ignored);
    forget(&x->hold);
    return e;
}

/* How many bytes of D can be parsed now. *e: what the scanner found right after them. */
static size_t scan_safe(struct xml_stream *x, const char *d, size_t n, enum xml_error *e)
{
    size_t i = 0, safe = 0;
    *e = XML_OK;
    while (i < n) {
        if (x->scan.state == XML_SCAN_TEXT) {
            const char *open = memchr(d + i, '<', n - i);
            if (!open)
                return n;
            i = safe = (size_t)(open - d);
        }
        size_t used;
        bool complete;
        *e = xml_scan_token(&x->scan, x->limits.attrs, d + i, n - i, &used, &complete);
        if (*e != XML_OK)
            return safe;
        i += used;
        if (complete)
            safe = i;
    }
    return safe;
}

/* White space before a stream header is keep-alive. Anything else but '<' there is an error, and what makes
 * expat guess at UTF-16. */
static enum xml_error skip_prolog(const char **d, size_t *n)
{
    while (*n > 0 && (**d == ' ' || **d == '\t' || **d == '\r' || **d == '\n')) {
        (*d)++;
        (*n)--;
    }
    if (*n == 0 || **d == '<')
        return XML_OK;
    unsigned char c = (unsigned char)**d;
    if (c == 0xef) /* U+FEFF is a character like others, not a byte order mark (RFC 6120 §11.6) */
        return XML_NOT_WELL_FORMED;
    return c == 0 || c >= 0x80 ? XML_BAD_ENCODING : XML_NOT_WELL_FORMED;
}

/* Between two stanzas of a client's stream, with nothing begun that expat would have to end? */
static bool may_be_plain(const struct xml_stream *x)
{
    return x->has_header && !x->hold.n && x->scan.state == XML_SCAN_TEXT &&
           (!x->reader || xml_reader_is_idle(x->reader)) && strcmp(x->default_ns, plain_ns) == 0;
}

/* Takes white space and one plain stanza. Returns how many bytes, 0: the rest is expat's. */
static size_t feed_plain(struct xml_stream *x, const char *d, size_t n)
{
    const char *at = d, *end = d + n;
    struct xml_plain plain;
    while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
        at++;
    size_t n_raw = xml_plain_parse(&plain, &x->arena, plain_ns, &x->limits, at, (size_t)(end - at));
    if (!n_raw) {
        reset_arena(x);
        return (size_t)(at - d);
    }
    char *raw = arena_alloc(&x->arena, n_raw + 1);
    memcpy(raw, at, n_raw);
    raw[n_raw] = '\0';
    struct xml_stanza stanza = {.root = plain.root,
                                .arena = &x->arena,
                                .raw = raw,
                                .n_raw = n_raw,
                                .n_start_tag = plain.n_start_tag,
                                .raw_self_contained = true};
    if (x->events->on_stanza)
        x->events->on_stanza(x->user, &stanza);
    reset_arena(x);
    if (x->restart)
        reset(x);
    return (size_t)(at - d) + n_raw;
}

static enum xml_error feed_some(struct xml_stream *x, const char *d, size_t n, size_t *used)
{
    if (x->hold.n)
        return feed_held(x, d, n, used);
    if (may_be_plain(x) && (*used = feed_plain(x, d, n)) > 0)
        return XML_OK;
    const char *from = d;
    enum xml_error e, found;
    if (x->scan.state == XML_SCAN_PROLOG && (e = skip_prolog(&d, &n)) != XML_OK)
        return e;
    size_t skipped = (size_t)(d - from);
    size_t safe = scan_safe(x, d, n, &found), taken;
    e = feed_piece(x, d, safe, &taken);
    *used = skipped + taken;
    if (x->paused && x->has_header &&
        taken == safe) /* by the last tag: what stands behind it will be scanned again */
        x->scan = (struct xml_scan){.state = XML_SCAN_TEXT};
    if (e != XML_OK || taken < safe || x->paused || x->stopped || x->freed)
        return e;
    if (safe > 0 && x->scan.state == XML_SCAN_PROLOG)
        return XML_OK; /* restarted by the last tag */
    if (found != XML_OK)
        return found;
    if (n - safe + n_parsed(x) > x->limits.stanza_bytes)
        return XML_TOO_BIG;
    buf_add(&x->hold, d + safe, n - safe);
    *used = skipped + n;
    return XML_OK;
}

static void destroy(struct xml_stream *x)
{
    xml_reader_free(x->reader);
    arena_fini(&x->arena);
    buf_fini(&x->hold);
    buf_fini(&x->partial);
    buf_fini(&x->header);
    buf_fini(&x->waiting);
    mem_free(x->default_ns);
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
    if (x->paused && n_bytes > 0 && !x->stopped)
        buf_add(&x->waiting, d, n_bytes);
    if (x->stopped) /* nothing will be parsed any more, but the stream may linger */
        drop_reader(x);
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
    xml_scan_init(&x->scan);
    arena_init(&x->arena);
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
    if (x->reader)
        xml_reader_set_limits(x->reader, limits);
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
    forget(&x->hold);
}

void xml_stream_stop(struct xml_stream *x)
{
    x->stopped = true;
}

void xml_stream_pause(struct xml_stream *x)
{
    x->paused = true;
}

enum xml_error xml_stream_resume(struct xml_stream *x)
{
    struct buf waiting = x->waiting;
    x->waiting = (struct buf){0};
    x->paused = false;
    enum xml_error e = xml_stream_feed(x, waiting.data, waiting.n);
    buf_fini(&waiting);
    return e;
}

bool xml_stream_is_idle(const struct xml_stream *x)
{
    return x->hold.n == 0 && x->waiting.n == 0 && x->has_header && x->error == XML_OK && !x->stopped &&
           (x->scan.state == XML_SCAN_TEXT) && (!x->reader || xml_reader_is_idle(x->reader));
}

bool xml_stream_park(struct xml_stream *x)
{
    if (x->in_feed || !xml_stream_is_idle(x))
        return false;
    drop_reader(x);
    arena_fini(&x->arena);
    arena_init(&x->arena);
    buf_fini(&x->hold);
    buf_fini(&x->partial);
    return true;
}

const char *xml_stream_default_ns(const struct xml_stream *x)
{
    return x->has_header ? x->default_ns : "";
}

size_t xml_stream_memory(const struct xml_stream *x)
{
    return sizeof(*x) + x->arena.n_bytes + x->hold.cap + x->partial.cap + x->header.cap + x->waiting.cap +
           (x->reader ? xml_reader_memory(x->reader) : 0);
}

/* ---- documents ---- */

static void take_root(void *user, struct xml *root)
{
    *(struct xml **)user = root;
}

static enum xml_error scan_document(const struct xml_limits *limits, const char *d, size_t n)
{
    struct xml_scan scan;
    xml_scan_init(&scan);
    for (size_t i = 0; i < n;) {
        if (scan.state == XML_SCAN_TEXT) {
            const char *open = memchr(d + i, '<', n - i);
            if (!open)
                break;
            i = (size_t)(open - d);
        }
        size_t used;
        bool complete;
        enum xml_error e = xml_scan_token(&scan, limits->attrs, d + i, n - i, &used, &complete);
        if (e != XML_OK)
            return e;
        i += used;
    }
    return XML_OK;
}

static enum xml_error read_document(struct xml **out, struct arena *arena, const char *d, size_t n_bytes,
                                    const struct xml_limits *limits, size_t *at)
{
    static const struct xml_reader_events events = {.on_tree = take_root};
    struct xml *root = NULL;
    *at = 0;
    if (n_bytes >= 3 && memcmp(d, "\xef\xbb\xbf", 3) == 0) {
        d += 3;
        n_bytes -= 3;
    }
    enum xml_error e = skip_prolog(&d, &n_bytes);
    if (e == XML_OK && n_bytes == 0)
        return XML_NOT_WELL_FORMED;
    if (e == XML_OK)
        e = scan_document(limits, d, n_bytes);
    if (e == XML_OK) {
        struct xml_reader *r = xml_reader_new(false, limits, arena, &events, &root);
        e = r ? xml_reader_parse(r, d, n_bytes, true) : XML_TOO_BIG;
        *at = r ? (size_t)xml_reader_error_position(r) : 0;
        xml_reader_free(r);
    }
    if (e == XML_OK)
        *out = root;
    return e;
}

enum xml_error xml_read(struct xml **out, struct arena *arena, const void *data, size_t n_bytes,
                        const struct xml_limits *limits)
{
    size_t at;
    return n_bytes > limits->stanza_bytes ? XML_TOO_BIG
                                          : read_document(out, arena, data, n_bytes, limits, &at);
}

int xml_parse(struct xml **out, struct arena *arena, const void *data, size_t n_bytes,
              const struct xml_limits *limits, struct err_ctx *err)
{
    size_t at;
    if (n_bytes > limits->stanza_bytes)
        return err_set(err, ERR_LIMIT, "document of %zu bytes, at most %zu", n_bytes, limits->stanza_bytes);
    if (n_bytes == 0)
        return err_set(err, ERR_MALFORMED, "empty document");
    enum xml_error e = read_document(out, arena, data, n_bytes, limits, &at);
    if (e == XML_OK)
        return 0;
    return err_set(err, e == XML_TOO_BIG ? ERR_LIMIT : ERR_MALFORMED, "%s (byte %zu)", xml_error_text(e), at);
}
