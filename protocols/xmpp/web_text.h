/* Between the XML stream that a shard speaks (RFC 6120) and the single elements that WebSocket (RFC 7395) and
 * BOSH (XEP-0124) carry. No state but what is in the structs; any thread. */
#ifndef XMPP_WEB_TEXT_H
#define XMPP_WEB_TEXT_H

#include "base/buf.h"
#include "base/xml.h"

#define NS_FRAMING "urn:ietf:params:xml:ns:xmpp-framing"

/* ---- from the shard: our own output, well-formed, without CDATA sections and comments ---- */

enum web_item {
    WEB_HEADER,  /* <stream:stream ...> */
    WEB_ELEMENT, /* a complete child of the stream */
    WEB_END,     /* </stream:stream> */
};
/* WEIGHT: bytes of the stream up to the end of the item since the end of the last one, or web_split_advance.
 */
typedef void web_item_fn(void *user, enum web_item item, const char *data, size_t n_bytes, size_t weight);

struct web_split { /* zero-initialised is the beginning */
    struct buf held;
    size_t start, tag, at; /* of the item in work; of the tag in work; where the scan stands */
    size_t skipped;        /* white space and declarations before it */
    size_t advanced;       /* of it, credited already */
    unsigned depth;
    char quote;
    bool in_tag;
};
void web_split_feed(struct web_split *s, const char *data, size_t n_bytes, web_item_fn *on_item, void *user);
/* Bytes of a long item that is not complete, to be credited now: whoever sends it may wait for that. They do
 * not count in the item's weight any more, its last byte always does. */
size_t web_split_advance(struct web_split *s);
void web_split_fini(struct web_split *s);

/* A start tag's attributes, as they stand there. */
struct web_attr {
    const char *name, *value; /* the value still escaped */
    size_t n_name, n_value;
    char quote;
};
/* *at: 0 to begin with. False: no more. */
bool web_next_attr(struct web_attr *out, const char *tag, size_t n_bytes, size_t *at);
/* The value of an attribute of a start tag, escaped, into OUT of N; false: none, or it does not fit. */
bool web_attr_copy(char *out, size_t n, const char *tag, size_t n_bytes, const char *name);

/* Is the element NAME with xmlns NS (given on itself)? */
bool web_is(const char *element, size_t n_bytes, const char *name, const char *ns);
bool web_is_named(const char *element, size_t n_bytes, const char *name);
/* Appends it with the namespaces that it had from the stream header (RFC 7395 §3.3.3). */
void web_write_element(struct buf *out, const char *element, size_t n_bytes);
/* <open/> with the header's attributes. */
void web_write_open(struct buf *out, const char *header, size_t n_bytes);
/* <close/>; URI may be NULL. */
void web_write_close(struct buf *out, const char *uri);
/* The error's condition, "" if it is none. The content of see-other-host goes to URI if it is one
 * ("...://..."). */
void web_read_error(char condition[64], char uri[1024], const char *element, size_t n_bytes);

/* ---- from the client ---- */

/* What a stream header says; NULL where it does not. */
struct web_header {
    const char *to, *from, *version, *lang;
};
void web_write_header(struct buf *out, const struct web_header *h); /* the stream header for the shard */

enum web_frame_kind {
    WEB_FRAME_OPEN,
    WEB_FRAME_CLOSE,
    WEB_FRAME_ELEMENT,
    WEB_FRAME_BAD,
};
struct web_frame {
    enum web_frame_kind kind;
    const char *condition;    /* BAD: the stream error */
    struct web_header header; /* OPEN */
    struct xml *root;         /* ELEMENT */
};
/* One WebSocket message. Strings live in ARENA. */
void web_read_frame(struct web_frame *out, struct arena *arena, const char *data, size_t n_bytes,
                    const struct xml_limits *limits);
struct web_header web_read_header(const struct xml *x); /* attributes of <open/> or of BOSH's <body/> */

#endif
