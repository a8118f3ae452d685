#include "base/xml_scan.h"

#include <string.h>

enum { MAX_DECL = 128 }; /* bytes of <?xml version='1.0' encoding='UTF-8' standalone='yes'?> */

static const char CDATA_OPEN[] = "![CDATA[";

void xml_scan_init(struct xml_scan *s)
{
    *s = (struct xml_scan){.state = XML_SCAN_PROLOG, .at_start = true};
}

bool xml_scan_in_tag(const struct xml_scan *s)
{
    return s->state != XML_SCAN_PROLOG && s->state != XML_SCAN_TEXT && s->state != XML_SCAN_CDATA;
}

/* After '<'. A byte below '!' here could also make expat believe in UTF-16. */
static enum xml_error open_tag(struct xml_scan *s, char c)
{
    bool first = s->at_start;
    s->at_start = false;
    if (c == '?') {
        if (!first)
            return XML_RESTRICTED;
        s->state = XML_SCAN_DECL;
        s->n_decl = 0;
    } else if (c == '!') {
        if (first)
            return XML_RESTRICTED;
        s->state = XML_SCAN_BANG;
        s->matched = 1;
    } else if ((unsigned char)c <= ' ' || c == '<' || c == '>') {
        return XML_NOT_WELL_FORMED;
    } else {
        s->state = XML_SCAN_TAG;
        s->n_attrs = 0;
    }
    return XML_OK;
}

/* *p: the position; returns with it past what was taken. */
static enum xml_error in_tag(struct xml_scan *s, unsigned max_attrs, const char **p, const char *end)
{
    for (const char *q = *p; q < end; q++) {
        char c = *q;
        if (c == '>') {
            s->state = XML_SCAN_TEXT;
            *p = q + 1;
            return XML_OK;
        }
        if (c == '"' || c == '\'') {
            if (++s->n_attrs > max_attrs)
                return XML_TOO_BIG;
            s->state = XML_SCAN_VALUE;
            s->quote = c;
            *p = q + 1;
            return XML_OK;
        }
        if (c == '<')
            return XML_NOT_WELL_FORMED;
    }
    *p = end;
    return XML_OK;
}

static enum xml_error in_decl(struct xml_scan *s, const char **p, const char *end)
{
    for (; *p < end; (*p)++) {
        if (++s->n_decl > MAX_DECL)
            return XML_RESTRICTED;
        if (**p == '>') {
            (*p)++;
            s->state = XML_SCAN_TEXT;
            return XML_OK;
        }
    }
    return XML_OK;
}

/* "]]>" may be cut anywhere. */
static void in_cdata(struct xml_scan *s, const char **p, const char *end)
{
    for (; *p < end; (*p)++) {
        char c = **p;
        if (c == ']') {
            s->matched = s->matched < 2 ? s->matched + 1 : 2;
        } else if (c == '>' && s->matched == 2) {
            (*p)++;
            s->state = XML_SCAN_TEXT;
            return;
        } else {
            s->matched = 0;
        }
    }
}

static enum xml_error in_bang(struct xml_scan *s, char c)
{
    if (c != CDATA_OPEN[s->matched])
        return XML_RESTRICTED; /* a comment, or <!DOCTYPE */
    if (!CDATA_OPEN[++s->matched]) {
        s->state = XML_SCAN_CDATA;
        s->matched = 0;
    }
    return XML_OK;
}

static enum xml_error step(struct xml_scan *s, unsigned max_attrs, const char **p, const char *end)
{
    const char *q;
    switch (s->state) {
    case XML_SCAN_PROLOG:
    case XML_SCAN_TEXT:
        (*p)++; /* the caller found '<' */
        s->state = XML_SCAN_OPEN;
        return XML_OK;
    case XML_SCAN_OPEN:
        return open_tag(s, *(*p)++);
    case XML_SCAN_TAG:
        return in_tag(s, max_attrs, p, end);
    case XML_SCAN_VALUE:
        q = memchr(*p, s->quote, (size_t)(end - *p));
        if (q)
            s->state = XML_SCAN_TAG;
        *p = q ? q + 1 : end;
        return XML_OK;
    case XML_SCAN_DECL:
        return in_decl(s, p, end);
    case XML_SCAN_BANG:
        return in_bang(s, *(*p)++);
    case XML_SCAN_CDATA:
        in_cdata(s, p, end);
        return XML_OK;
    }
    return XML_NOT_WELL_FORMED;
}

enum xml_error xml_scan_token(struct xml_scan *s, unsigned max_attrs, const char *d, size_t n, size_t *used,
                              bool *complete)
{
    const char *p = d, *end = d + n;
    enum xml_error e = XML_OK;
    *complete = false;
    while (p < end && e == XML_OK) {
        e = step(s, max_attrs, &p, end);
        if (s->state == XML_SCAN_TEXT || s->state == XML_SCAN_CDATA) {
            *complete = true;
            break;
        }
    }
    *used = (size_t)(p - d);
    return e;
}

enum xml_error xml_scan_prolog(const char **d, size_t *n)
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
