#include "base/xml_frame.h"

#include <string.h>

void xml_frame_init(struct xml_frame *f)
{
    *f = (struct xml_frame){0};
    xml_scan_init(&f->scan);
}

static bool is_outside(const struct xml_frame *f)
{
    return f->scan.state == XML_SCAN_TEXT || f->scan.state == XML_SCAN_PROLOG;
}

static bool is_space(const char *d, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (d[i] != ' ' && d[i] != '\t' && d[i] != '\r' && d[i] != '\n')
            return false;
    return true;
}

/* D: the tag from the byte after '<' on, or more of it. FNV-1a. */
static void read_name(struct xml_frame *f, const char *d, size_t n)
{
    for (size_t i = 0; i < n && f->in_name; i++) {
        char c = d[i];
        if (c == '>' || c == ' ' || c == '\t' || c == '\r' || c == '\n' || (c == '/' && f->name != 0))
            f->in_name = false;
        else if (c != '/')
            f->name = ((f->name ? f->name : 2166136261u) ^ (unsigned char)c) * 16777619u;
    }
}

enum token { TOKEN_INSIDE, TOKEN_WHOLE, TOKEN_REFUSED };

static enum token end_tag(struct xml_frame *f)
{
    if (f->depth == 0)
        return TOKEN_WHOLE; /* the root's */
    if (f->open[--f->depth] != f->name)
        return TOKEN_REFUSED;
    return f->depth == 0 ? TOKEN_WHOLE : TOKEN_INSIDE;
}

/* A token has ended. Is everything up to here whole? */
static enum token end_token(struct xml_frame *f, char before_end)
{
    if (f->kind == '?') {
        f->has_decl = true;
        return TOKEN_INSIDE;
    }
    if (f->kind == '!')
        return TOKEN_INSIDE; /* a CDATA section */
    if (f->kind == '/')
        return end_tag(f);
    if (!f->has_header) {
        f->has_header = true;
    } else if (before_end != '/') {
        if (f->depth == XML_FRAME_DEPTH)
            return TOKEN_REFUSED;
        f->open[f->depth++] = f->name;
    }
    return f->depth == 0 ? TOKEN_WHOLE : TOKEN_INSIDE;
}

size_t xml_frame_scan(struct xml_frame *f, unsigned max_attrs, const char *d, size_t n_bytes)
{
    size_t whole = 0;
    for (size_t i = 0; i < n_bytes;) {
        if (is_outside(f)) {
            const char *open = memchr(d + i, '<', n_bytes - i);
            size_t to = open ? (size_t)(open - d) : n_bytes;
            if (!f->has_header && !is_space(d + i, to - i))
                return n_bytes;
            if (f->depth == 0 && (f->has_header || !f->has_decl))
                whole = to;
            i = to;
            if (!open)
                break;
            f->kind = i + 1 < n_bytes ? d[i + 1] : 0;
            f->in_name = true;
            f->name = 0;
            read_name(f, d + i + 1, n_bytes - i - 1);
        } else if (f->scan.state == XML_SCAN_OPEN) {
            f->kind = d[i];
            read_name(f, d + i, n_bytes - i);
        } else if (f->in_name) {
            read_name(f, d + i, n_bytes - i);
        }
        size_t used;
        bool complete;
        if (xml_scan_token(&f->scan, max_attrs, d + i, n_bytes - i, &used, &complete) != XML_OK)
            return n_bytes;
        i += used;
        if (!complete || f->scan.state != XML_SCAN_TEXT)
            continue;
        enum token token = end_token(f, used > 1 ? d[i - 2] : f->last);
        if (token == TOKEN_REFUSED)
            return n_bytes;
        if (token == TOKEN_WHOLE)
            whole = i;
    }
    if (n_bytes)
        f->last = d[n_bytes - 1];
    return whole;
}
