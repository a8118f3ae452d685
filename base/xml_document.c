/* XML that is there as a whole. */
#include "base/xml_reader.h"

#include <string.h>

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
    enum xml_error e = xml_scan_prolog(&d, &n_bytes);
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
