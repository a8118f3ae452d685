#include "base/xml_reader.h"
#include "base/mem.h"

#include <expat.h>
#include <string.h>

/* XML forbids this byte even as a character reference, so neither a name nor a namespace can contain it: what
 * comes before it is the namespace (CVE-2022-25236). */
#define NS_SEPARATOR '\x01'

enum {
    MAX_NS_BYTES = 512, /* expat copies the namespace for every name that uses it */
    TREE_FACTOR = 16,   /* tree size to source size */
    TREE_MIN = 65536,
    EXPAT_FACTOR = 8, /* expat's memory to source size */
    EXPAT_MIN = 262144,
};

struct xml_reader {
    XML_Parser expat;
    size_t n_expat_bytes, max_expat_bytes;
    bool stream, halted, quiet;
    bool other_root; /* than xml_reader_is_plain means: its name, or a namespace that it declares */
    enum xml_error error;
    struct xml_limits limits;
    struct arena *arena;
    const struct xml_reader_events *events;
    void *user;

    uint64_t taken;        /* bytes parsed so far */
    unsigned char last[8]; /* the last of them: a character may be cut */
    size_t n_last;
    unsigned depth; /* open elements */
    unsigned n_elements;
    size_t arena_base; /* arena->n_bytes at the start of the tree */
    struct xml *current;
    struct buf text;
    struct xml_span span;

    /* Namespaces declared on the root, one string after the other, and its default. */
    struct buf root_ns;
    char *default_ns;
};

/* ---- memory ---- */

struct block {
    struct xml_reader *owner;
    size_t n_bytes;
};
_Static_assert(sizeof(struct block) == 16, "keeps malloc's alignment");

/* expat's hooks have no user pointer: whoever calls expat sets this, and sets it back (calls may nest). */
static _Thread_local struct xml_reader *allocating;

static bool may_grow(const struct xml_reader *r, size_t n_bytes)
{
    return r->n_expat_bytes <= r->max_expat_bytes && n_bytes <= r->max_expat_bytes - r->n_expat_bytes;
}

static void *hook_malloc(size_t n_bytes)
{
    struct xml_reader *r = allocating;
    if (!may_grow(r, n_bytes))
        return NULL;
    struct block *b = mem_try_alloc(sizeof(*b) + n_bytes);
    if (!b)
        return NULL;
    *b = (struct block){r, n_bytes};
    r->n_expat_bytes += n_bytes;
    return b + 1;
}

static void hook_free(void *p)
{
    if (!p)
        return;
    struct block *b = (struct block *)p - 1;
    b->owner->n_expat_bytes -= b->n_bytes;
    mem_free(b);
}

static void *hook_realloc(void *p, size_t n_bytes)
{
    if (!p)
        return hook_malloc(n_bytes);
    struct block *old = (struct block *)p - 1;
    if (n_bytes <= old->n_bytes)
        return p;
    void *q = hook_malloc(n_bytes);
    if (q) {
        memcpy(q, p, old->n_bytes);
        hook_free(p);
    }
    return q;
}

static const XML_Memory_Handling_Suite memory_suite = {hook_malloc, hook_realloc, hook_free};

/* ---- tree ---- */

static void fail(struct xml_reader *r, enum xml_error error)
{
    if (r->halted)
        return;
    r->error = error;
    xml_reader_halt(r);
}

void xml_reader_halt(struct xml_reader *r)
{
    r->halted = true;
    XML_StopParser(r->expat, XML_FALSE);
}

static unsigned tree_depth(const struct xml_reader *r)
{
    return r->stream ? r->depth - 1 : r->depth;
}

static void flush_text(struct xml_reader *r)
{
    if (r->text.n == 0)
        return;
    xml_add_text(r->arena, r->current, r->text.data, r->text.n);
    buf_reset(&r->text);
}

/* "ns<separator>local" or "local". A parent's namespace is shared: most elements have it. */
static const char *split_ns(struct xml_reader *r, const char *name, const char **local, const char *parent_ns)
{
    const char *separator = strchr(name, NS_SEPARATOR);
    *local = separator ? separator + 1 : name;
    if (!separator)
        return "";
    size_t n = (size_t)(separator - name);
    if (parent_ns && strncmp(parent_ns, name, n) == 0 && parent_ns[n] == '\0')
        return parent_ns;
    return arena_strndup(r->arena, name, n);
}

static bool is_root_ns(const struct xml_reader *r, const char *ns)
{
    for (size_t i = 0; i < r->root_ns.n; i += strlen(r->root_ns.data + i) + 1)
        if (strcmp(r->root_ns.data + i, ns) == 0)
            return true;
    return false;
}

static void add_attrs(struct xml_reader *r, struct xml *x, const char **atts)
{
    struct xml_attr **tail = &x->attrs;
    for (; *atts; atts += 2) {
        const char *local, *ns = split_ns(r, atts[0], &local, x->ns);
        size_t n_name = strlen(local) + 1, n_value = strlen(atts[1]) + 1;
        struct xml_attr *a = arena_alloc(r->arena, sizeof(*a) + n_name + n_value);
        char *strings = (char *)(a + 1);
        a->next = NULL;
        a->ns = ns;
        a->name = memcpy(strings, local, n_name);
        a->value = memcpy(strings + n_name, atts[1], n_value);
        *tail = a;
        tail = &a->next;
        if (*ns && is_root_ns(r, ns))
            r->span.inherited_ns = true;
    }
}

static struct xml *add_element(struct xml_reader *r, const char *name, const char **atts)
{
    const char *local, *parent_ns = r->current ? r->current->ns : NULL;
    const char *ns = split_ns(r, name, &local, parent_ns);
    size_t n_name = strlen(local) + 1;
    struct xml *x = arena_alloc(r->arena, sizeof(*x) + n_name);
    memset(x, 0, sizeof(*x));
    x->name = memcpy(x + 1, local, n_name);
    x->ns = ns;
    if (ns != parent_ns && is_root_ns(r, ns))
        r->span.inherited_ns = true;
    add_attrs(r, x, atts);
    if (r->current)
        xml_append(r->current, x);
    return x;
}

static size_t tree_limit(const struct xml_reader *r)
{
    return r->limits.stanza_bytes * TREE_FACTOR + TREE_MIN;
}

static void on_start_root(struct xml_reader *r, const char *name, const char **atts)
{
    struct xml *header = add_element(r, name, atts);
    /* Every stream has the default namespace jabber:client; what else the root declares does not travel with
     * raw bytes, and "no namespace" would become that default elsewhere. */
    if (strcmp(header->name, "stream") != 0 || strcmp(header->ns, XML_READER_NS_STREAM) != 0)
        r->other_root = true;
    const char *ns = r->default_ns ? r->default_ns : "";
    if (strcmp(ns, "jabber:client") != 0)
        buf_add(&r->root_ns, ns, strlen(ns) + 1);
    if (!r->quiet && r->events->on_header)
        r->events->on_header(r->user, header);
}

static void XMLCALL on_start(void *user, const char *name, const char **atts)
{
    struct xml_reader *r = user;
    if (r->halted)
        return;
    r->depth++;
    if (r->stream && r->depth == 1) {
        on_start_root(r, name, atts);
        return;
    }
    if (tree_depth(r) == 1) {
        uint64_t at = (uint64_t)XML_GetCurrentByteIndex(r->expat);
        size_t n = (size_t)XML_GetCurrentByteCount(r->expat);
        r->span = (struct xml_span){.start = at, .end = at + n, .n_start_tag = n};
        r->n_elements = 0;
        r->arena_base = r->arena->n_bytes;
    }
    if (tree_depth(r) > r->limits.depth || ++r->n_elements > r->limits.elements) {
        fail(r, XML_TOO_BIG);
        return;
    }
    if (r->current)
        flush_text(r);
    r->current = add_element(r, name, atts);
    if (r->arena->n_bytes - r->arena_base > tree_limit(r))
        fail(r, XML_TOO_BIG);
}

static void XMLCALL on_end(void *user, const char *name)
{
    struct xml_reader *r = user;
    if (r->halted)
        return;
    unsigned level = tree_depth(r);
    r->depth--;
    if (r->stream && level == 0) {
        if (r->events->on_end)
            r->events->on_end(r->user);
        return;
    }
    flush_text(r);
    struct xml *x = r->current;
    r->current = x->parent;
    if (level != 1)
        return;
    r->span.end = xml_reader_position(r);
    if (r->span.end - r->span.start > r->limits.stanza_bytes)
        fail(r, XML_TOO_BIG);
    else
        r->events->on_tree(r->user, x);
}

static void XMLCALL on_text(void *user, const char *text, int n)
{
    struct xml_reader *r = user;
    if (r->halted)
        return;
    if (r->current) {
        buf_add(&r->text, text, (size_t)n);
        return;
    }
    for (int i = 0; i < n; i++) /* between stanzas: white space only (RFC 6120 §11.7) */
        if (!strchr(" \t\r\n", text[i])) {
            fail(r, XML_NOT_WELL_FORMED);
            return;
        }
}

static void XMLCALL on_namespace(void *user, const char *prefix, const char *uri)
{
    struct xml_reader *r = user;
    if (!uri)
        uri = "";
    size_t n = strlen(uri);
    if (n > MAX_NS_BYTES) {
        fail(r, XML_TOO_BIG);
        return;
    }
    if (!r->stream || r->depth != 0)
        return;
    if (prefix) {
        buf_add(&r->root_ns, uri, n + 1);
        if (strcmp(prefix, "stream") != 0 || strcmp(uri, XML_READER_NS_STREAM) != 0)
            r->other_root = true;
    } else {
        mem_free(r->default_ns);
        r->default_ns = mem_strdup(uri);
    }
}

static void XMLCALL on_cdata(void *user)
{
    struct xml_reader *r = user;
    r->span.has_cdata = true;
}

/* xml_scan refuses these before; here so that no gap between two scanners matters. */
static void XMLCALL on_doctype(void *user, const char *name, const char *sysid, const char *pubid,
                               int internal)
{
    fail(user, XML_RESTRICTED);
}
static void XMLCALL on_pi(void *user, const char *target, const char *data)
{
    fail(user, XML_RESTRICTED);
}
static void XMLCALL on_comment(void *user, const char *data)
{
    fail(user, XML_RESTRICTED);
}

static void XMLCALL on_declaration(void *user, const char *version, const char *encoding, int standalone)
{
    if (encoding && strcasecmp(encoding, "UTF-8") != 0)
        fail(user, XML_BAD_ENCODING);
    else if (version && strcmp(version, "1.0") != 0)
        fail(user, XML_NOT_WELL_FORMED);
}

/* ---- life ---- */

void xml_reader_set_limits(struct xml_reader *r, const struct xml_limits *limits)
{
    r->limits = *limits;
    r->max_expat_bytes = limits->stanza_bytes * EXPAT_FACTOR + EXPAT_MIN;
}

struct xml_reader *xml_reader_new(bool stream, const struct xml_limits *limits, struct arena *arena,
                                  const struct xml_reader_events *events, void *user)
{
    struct xml_reader *r = mem_new(struct xml_reader), *before = allocating;
    r->stream = stream;
    r->arena = arena;
    r->events = events;
    r->user = user;
    xml_reader_set_limits(r, limits);

    static const char separator[] = {NS_SEPARATOR, '\0'};
    allocating = r;
    r->expat = XML_ParserCreate_MM("UTF-8", &memory_suite, separator);
    allocating = before;
    if (!r->expat) {
        mem_free(r);
        return NULL;
    }
    XML_SetUserData(r->expat, r);
    XML_SetElementHandler(r->expat, on_start, on_end);
    XML_SetCharacterDataHandler(r->expat, on_text);
    XML_SetStartNamespaceDeclHandler(r->expat, on_namespace);
    XML_SetStartCdataSectionHandler(r->expat, on_cdata);
    XML_SetStartDoctypeDeclHandler(r->expat, on_doctype);
    XML_SetProcessingInstructionHandler(r->expat, on_pi);
    XML_SetCommentHandler(r->expat, on_comment);
    XML_SetXmlDeclHandler(r->expat, on_declaration);
    XML_SetParamEntityParsing(r->expat, XML_PARAM_ENTITY_PARSING_NEVER);
#ifdef IMP_HAVE_EXPAT_DEFERRAL
    /* A stanza is due when its last byte is there; xml_scan does what the deferral is for. */
    XML_SetReparseDeferralEnabled(r->expat, XML_FALSE);
#endif
    return r;
}

void xml_reader_free(struct xml_reader *r)
{
    if (!r)
        return;
    XML_ParserFree(r->expat);
    buf_fini(&r->text);
    buf_fini(&r->root_ns);
    mem_free(r->default_ns);
    mem_free(r);
}

static enum xml_error map_error(enum XML_Error code)
{
    switch (code) {
    case XML_ERROR_NO_MEMORY:
#ifdef XML_ERROR_AMPLIFICATION_LIMIT_BREACH
    case XML_ERROR_AMPLIFICATION_LIMIT_BREACH:
#endif
        return XML_TOO_BIG;
    case XML_ERROR_UNKNOWN_ENCODING:
    case XML_ERROR_INCORRECT_ENCODING:
        return XML_BAD_ENCODING;
    case XML_ERROR_UNBOUND_PREFIX:
    case XML_ERROR_UNDECLARING_PREFIX:
    case XML_ERROR_RESERVED_PREFIX_XML:
    case XML_ERROR_RESERVED_PREFIX_XMLNS:
    case XML_ERROR_RESERVED_NAMESPACE_URI:
        return XML_BAD_NAMESPACE;
    case XML_ERROR_UNDEFINED_ENTITY: /* no entity can have been declared */
        return XML_RESTRICTED;
    default:
        return XML_NOT_WELL_FORMED;
    }
}

/* Is the reason that the bytes at P are not UTF-8? */
static bool is_bad_utf8(const unsigned char *p, size_t n)
{
    if (n == 0 || p[0] < 0x80)
        return false;
    size_t need = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return true;
    for (size_t i = 1; i < need && i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return true;
    return n > 1 && ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
                     (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f));
}

/* The same for the place of the error, which may be just before the bytes given last. */
static bool is_bad_utf8_at(const struct xml_reader *r, uint64_t at, const char *data, size_t n)
{
    unsigned char window[4];
    size_t n_window = 0;
    for (; n_window < sizeof(window); n_window++, at++) {
        if (at + r->n_last < r->taken || at >= r->taken + n)
            break;
        window[n_window] =
            at < r->taken ? r->last[r->n_last - (size_t)(r->taken - at)] : (unsigned char)data[at - r->taken];
    }
    return is_bad_utf8(window, n_window);
}

static void keep_last(struct xml_reader *r, const char *data, size_t n)
{
    size_t take = n < sizeof(r->last) ? n : sizeof(r->last);
    size_t keep = r->n_last + take > sizeof(r->last) ? sizeof(r->last) - take : r->n_last;
    memmove(r->last, r->last + r->n_last - keep, keep);
    memcpy(r->last + keep, data + n - take, take);
    r->n_last = keep + take;
    r->taken += n;
}

enum xml_error xml_reader_parse(struct xml_reader *r, const char *data, size_t n, bool is_final)
{
    if (n > INT32_MAX)
        return XML_TOO_BIG;
    struct xml_reader *before = allocating;
    allocating = r;
    enum XML_Status status = XML_Parse(r->expat, data, (int)n, is_final);
    allocating = before;
    if (r->halted)
        return r->error;
    if (status == XML_STATUS_ERROR) {
        r->error = map_error(XML_GetErrorCode(r->expat));
        if (r->error == XML_NOT_WELL_FORMED && is_bad_utf8_at(r, xml_reader_error_position(r), data, n))
            r->error = XML_BAD_ENCODING;
        r->halted = true;
    }
    keep_last(r, data, n);
    return r->error;
}

void xml_reader_set_quiet(struct xml_reader *r, bool quiet)
{
    r->quiet = quiet;
}

struct xml_span xml_reader_span(const struct xml_reader *r)
{
    return r->span;
}

uint64_t xml_reader_position(const struct xml_reader *r)
{
    return (uint64_t)XML_GetCurrentByteIndex(r->expat) + (uint64_t)XML_GetCurrentByteCount(r->expat);
}

uint64_t xml_reader_error_position(const struct xml_reader *r)
{
    XML_Index at = XML_GetCurrentByteIndex(r->expat);
    return at < 0 ? 0 : (uint64_t)at;
}

bool xml_reader_is_between(const struct xml_reader *r)
{
    return r->stream && r->depth == 1;
}

/* Half a character or reference there is an error that expat does not report yet; it looks at four bytes
 * before it calls a character broken. */
bool xml_reader_is_idle(const struct xml_reader *r)
{
    for (size_t i = r->n_last < 4 ? 0 : r->n_last - 4; i < r->n_last; i++)
        if (r->last[i] >= 0x80)
            return false;
    unsigned char c = r->n_last > 0 ? r->last[r->n_last - 1] : 0;
    return xml_reader_is_between(r) && (c == '>' || c == ' ' || c == '\t' || c == '\r' || c == '\n');
}

bool xml_reader_has_root(const struct xml_reader *r)
{
    return r->depth > 0;
}

bool xml_reader_is_plain(const struct xml_reader *r)
{
    return r->root_ns.n == sizeof XML_READER_NS_STREAM && !r->other_root && r->default_ns &&
           strcmp(r->default_ns, "jabber:client") == 0;
}

const char *xml_reader_default_ns(const struct xml_reader *r)
{
    return r->default_ns ? r->default_ns : "";
}

size_t xml_reader_memory(const struct xml_reader *r)
{
    return sizeof(*r) + r->n_expat_bytes + r->text.cap + r->root_ns.cap;
}
