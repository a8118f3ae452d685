#include "protocols/xmpp/web_text.h"
#include "protocols/xmpp/c2s.h"
#include "protocols/xmpp/home.h"
#include <string.h>

enum { KEEP_BYTES = 1024, ADVANCE_BYTES = 16 << 10 };

/* ---- the splitter ---- */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool begins(const char *d, size_t n, const char *with)
{
    size_t n_with = strlen(with);
    return n >= n_with && !memcmp(d, with, n_with);
}

/* An item ends at s->at. */
static void give(struct web_split *s, enum web_item item, web_item_fn *on_item, void *user)
{
    const char *d = s->held.data + s->start;
    size_t n = s->at - s->start, weight = n + s->skipped - s->advanced;
    s->skipped = s->advanced = 0;
    s->start = s->at;
    on_item(user, item, d, n, weight);
}

/* A tag from s->start (at depth 0: of the item) was read up to s->at; TAG is its beginning. */
static void end_tag(struct web_split *s, const char *tag, web_item_fn *on_item, void *user)
{
    size_t n = (size_t)(s->held.data + s->at - tag);
    if (!s->depth && begins(tag, n, "<?")) {
        s->skipped += s->at - s->start;
        s->start = s->at;
    } else if (!s->depth && begins(tag, n, "<stream:stream")) {
        give(s, WEB_HEADER, on_item, user);
    } else if (!s->depth && begins(tag, n, "</")) {
        give(s, WEB_END, on_item, user);
    } else {
        if (tag[1] == '/')
            s->depth--;
        else if (tag[n - 2] != '/')
            s->depth++;
        if (!s->depth)
            give(s, WEB_ELEMENT, on_item, user);
    }
}

/* From where the scan stands to the end of the tag; false: it is not there yet. */
static bool scan_tag(struct web_split *s)
{
    for (; s->at < s->held.n; s->at++) {
        char c = s->held.data[s->at];
        if (s->quote) {
            if (c == s->quote)
                s->quote = 0;
        } else if (c == '"' || c == '\'') {
            s->quote = c;
        } else if (c == '>') {
            s->at++;
            return true;
        }
    }
    return false;
}

/* Text before the next tag; between items it is white space that keeps the connection alive. False: no tag.
 */
static bool scan_text(struct web_split *s)
{
    const char *from = s->held.data + s->at, *tag = memchr(from, '<', s->held.n - s->at);
    size_t n = tag ? (size_t)(tag - from) : s->held.n - s->at;
    s->at += n;
    if (!s->depth) {
        s->skipped += n;
        s->start = s->at;
    }
    return tag != NULL;
}

void web_split_feed(struct web_split *s, const char *data, size_t n_bytes, web_item_fn *on_item, void *user)
{
    buf_add(&s->held, data, n_bytes);
    while (s->at < s->held.n) {
        if (!s->in_tag) {
            if (!scan_text(s))
                break;
            s->in_tag = true;
            s->tag = s->at;
        }
        if (!scan_tag(s))
            break;
        s->in_tag = false;
        end_tag(s, s->held.data + s->tag, on_item, user);
    }
    buf_cut(&s->held, s->start);
    s->at -= s->start;
    s->tag -= s->start < s->tag ? s->start : s->tag;
    s->start = 0;
    if (!s->held.n && s->held.cap > KEEP_BYTES)
        buf_fini(&s->held);
}

size_t web_split_advance(struct web_split *s)
{
    size_t n = s->held.n + s->skipped - s->advanced;
    if (n < ADVANCE_BYTES)
        return 0;
    s->advanced += n;
    return n;
}

void web_split_fini(struct web_split *s)
{
    buf_fini(&s->held);
}

/* ---- start tags ---- */

static size_t name_end(const char *tag, size_t n)
{
    size_t i = 1;
    while (i < n && !is_space(tag[i]) && tag[i] != '>' && tag[i] != '/')
        i++;
    return i;
}

bool web_next_attr(struct web_attr *out, const char *tag, size_t n, size_t *at)
{
    size_t i = *at ? *at : name_end(tag, n);
    while (i < n && is_space(tag[i]))
        i++;
    if (i >= n || tag[i] == '>' || tag[i] == '/')
        return false;
    out->name = tag + i;
    while (i < n && tag[i] != '=' && !is_space(tag[i]))
        i++;
    out->n_name = (size_t)(tag + i - out->name);
    while (i < n && tag[i] != '"' && tag[i] != '\'')
        i++;
    if (i >= n)
        return false;
    out->quote = tag[i];
    out->value = tag + ++i;
    const char *end = memchr(out->value, out->quote, n - i);
    if (!end)
        return false;
    out->n_value = (size_t)(end - out->value);
    *at = (size_t)(end + 1 - tag);
    return true;
}

static bool is_text(const char *d, size_t n, const char *text)
{
    return strlen(text) == n && !memcmp(d, text, n);
}

static bool find_attr(struct web_attr *out, const char *tag, size_t n, const char *name)
{
    size_t at = 0;
    while (web_next_attr(out, tag, n, &at))
        if (is_text(out->name, out->n_name, name))
            return true;
    return false;
}

bool web_attr_copy(char *out, size_t n, const char *tag, size_t n_bytes, const char *name)
{
    struct web_attr a;
    if (!find_attr(&a, tag, n_bytes, name) || a.n_value >= n)
        return false;
    memcpy(out, a.value, a.n_value);
    out[a.n_value] = '\0';
    return true;
}

bool web_is_named(const char *element, size_t n, const char *name)
{
    size_t end = name_end(element, n);
    return is_text(element + 1, end - 1, name);
}

bool web_is(const char *element, size_t n, const char *name, const char *ns)
{
    struct web_attr a;
    return web_is_named(element, n, name) && find_attr(&a, element, n, "xmlns") &&
           is_text(a.value, a.n_value, ns);
}

void web_write_element(struct buf *out, const char *element, size_t n)
{
    struct web_attr a;
    size_t end = name_end(element, n);
    buf_add(out, element, end);
    if (begins(element, n, "<stream:")) {
        if (!find_attr(&a, element, n, "xmlns:stream"))
            buf_adds(out, " xmlns:stream='" NS_STREAM "'");
    } else if (!find_attr(&a, element, n, "xmlns")) {
        buf_adds(out, " xmlns='" NS_CLIENT "'");
    }
    buf_add(out, element + end, n - end);
}

void web_write_open(struct buf *out, const char *header, size_t n)
{
    struct web_attr a;
    size_t at = 0;
    buf_adds(out, "<open xmlns='" NS_FRAMING "'");
    while (web_next_attr(&a, header, n, &at)) {
        if (begins(a.name, a.n_name, "xmlns"))
            continue;
        buf_addc(out, ' ');
        buf_add(out, a.name, a.n_name);
        buf_addc(out, '=');
        buf_add(out, a.value - 1, a.n_value + 2);
    }
    buf_adds(out, "/>");
}

void web_write_close(struct buf *out, const char *uri)
{
    buf_adds(out, "<close xmlns='" NS_FRAMING "'");
    if (uri && *uri) {
        buf_adds(out, " see-other-uri='");
        buf_adds(out, uri);
        buf_addc(out, '\'');
    }
    buf_adds(out, "/>");
}

void web_read_error(char condition[64], char uri[1024], const char *element, size_t n)
{
    *condition = *uri = '\0';
    if (!web_is_named(element, n, "stream:error"))
        return;
    const char *end = element + n, *inner = memchr(element, '>', n);
    inner = inner && inner + 1 < end && inner[1] == '<' ? inner + 1 : NULL;
    size_t n_name = inner ? name_end(inner, (size_t)(end - inner)) : 0;
    if (n_name < 2 || n_name > 63)
        return;
    memcpy(condition, inner + 1, n_name - 1);
    condition[n_name - 1] = '\0';
    const char *text = memchr(inner, '>', (size_t)(end - inner));
    const char *stop = text ? memchr(text, '<', (size_t)(end - text)) : NULL;
    size_t n_text = stop ? (size_t)(stop - text - 1) : 0;
    if (strcmp(condition, "see-other-host") || !n_text || n_text > 1023)
        return;
    memcpy(uri, text + 1, n_text);
    uri[n_text] = '\0';
    if (!strstr(uri, "://"))
        *uri = '\0';
}

/* ---- from the client ---- */

static void write_attr(struct buf *out, const char *name, const char *value)
{
    if (!value)
        return;
    buf_addf(out, " %s='", name);
    xml_escape(out, value, strlen(value));
    buf_addc(out, '\'');
}

void web_write_header(struct buf *out, const struct web_header *h)
{
    buf_adds(out, "<stream:stream xmlns='" NS_CLIENT "' xmlns:stream='" NS_STREAM "'");
    write_attr(out, "to", h->to);
    write_attr(out, "from", h->from);
    write_attr(out, "version", h->version);
    write_attr(out, "xml:lang", h->lang);
    buf_addc(out, '>');
}

struct web_header web_read_header(const struct xml *x)
{
    return (struct web_header){.to = xml_attr(x, "to"),
                               .from = xml_attr(x, "from"),
                               .version = xml_attr(x, "version"),
                               .lang = xml_attr_ns(x, "lang", XML_NS_XML)};
}

static void bad(struct web_frame *out, const char *condition)
{
    out->kind = WEB_FRAME_BAD;
    out->condition = condition;
}

void web_read_frame(struct web_frame *out, struct arena *arena, const char *data, size_t n,
                    const struct xml_limits *limits)
{
    *out = (struct web_frame){.kind = WEB_FRAME_ELEMENT};
    if (!n || *data != '<') { /* §3.3.3; white space to stay alive must not be used (§3.8) */
        bad(out, "bad-format");
        return;
    }
    enum xml_error e = xml_read(&out->root, arena, data, n, limits);
    if (e != XML_OK) {
        bad(out, c2s_xml_error_condition(e));
        return;
    }
    bool open = xml_is(out->root, "open", NULL), close = xml_is(out->root, "close", NULL);
    bool framing = !strcmp(out->root->ns, NS_FRAMING);
    if (!open && !close && !framing)
        return;
    if (!framing) { /* §3.3.2 */
        bad(out, "invalid-namespace");
    } else if (!open && !close) {
        bad(out, "unsupported-stanza-type");
    } else {
        out->kind = open ? WEB_FRAME_OPEN : WEB_FRAME_CLOSE;
        out->header = web_read_header(out->root);
    }
}
