/* XML for XMPP streams and small documents (SOAP). expat behind one wrapper (xml_reader.c alone includes
 * expat.h).
 *
 * Never a DTD, entity declaration, processing instruction or comment: XML_RESTRICTED (RFC 6120 §11.1). Names
 * are namespace-aware. Limits are checked while bytes come in, before memory grows. Not thread-safe. */
#ifndef BASE_XML_H
#define BASE_XML_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/err.h"
#include <stdbool.h>

struct xml_attr {
    struct xml_attr *next;
    const char *name,
        *ns; /* ns "" when the attribute has no prefix; xml:lang is ns XML_NS_XML, name "lang" */
    const char *value;
};
/* An element, or text where name is NULL. Everything lives in one arena. */
struct xml {
    struct xml *parent, *next, *children, *last_child;
    const char *name, *ns;
    const char *text;
    size_t n_text;
    struct xml_attr *attrs;
};
#define XML_NS_XML "http://www.w3.org/XML/1998/namespace"

/* Look-ups: NULL when missing. ns NULL matches any. */
struct xml *xml_child(const struct xml *x, const char *name, const char *ns);
struct xml *xml_next(const struct xml *child, const char *name,
                     const char *ns); /* next sibling that matches */
struct xml *xml_first_element(const struct xml *x);
struct xml *xml_next_element(const struct xml *x);
const char *xml_attr(const struct xml *x, const char *name); /* without a prefix */
const char *xml_attr_ns(const struct xml *x, const char *name, const char *ns);
bool xml_is(const struct xml *x, const char *name, const char *ns);
/* All text directly inside, in the arena; "" when none. xml_child_text: of the child, NULL when there is no
 * such child. */
const char *xml_text(const struct xml *x, struct arena *a);
const char *xml_child_text(const struct xml *x, const char *name, const char *ns, struct arena *a);

/* Building trees; strings are copied into the arena. */
struct xml *xml_new(struct arena *a, const char *name, const char *ns);
struct xml *xml_add(struct arena *a, struct xml *parent, const char *name,
                    const char *ns); /* ns NULL: parent's */
void xml_set_attr(struct arena *a, struct xml *x, const char *name,
                  const char *value); /* value NULL removes */
void xml_add_text(struct arena *a, struct xml *x, const char *text, size_t n_bytes);
void xml_append(struct xml *parent, struct xml *child); /* same arena */
void xml_remove(struct xml *child);
struct xml *xml_copy(struct arena *a, const struct xml *x);

/* Writing. DEFAULT_NS: what the reader has as default namespace at this point ("jabber:client"; NULL: nothing
 * known, so that the root always declares its own). What XML cannot carry (control characters, bytes that are
 * not UTF-8) becomes U+FFFD. Namespaced attributes get prefixes of their own. */
void xml_write(struct buf *out, const struct xml *x, const char *default_ns);
void xml_escape(struct buf *out, const char *text, size_t n_bytes); /* for text and for attribute values */

enum xml_error {
    XML_OK,
    XML_NOT_WELL_FORMED,
    XML_RESTRICTED,    /* DTD, PI, comment */
    XML_BAD_ENCODING,  /* not UTF-8, or another encoding declared */
    XML_TOO_BIG,       /* limits below */
    XML_BAD_NAMESPACE, /* an undeclared prefix, or a declaration that XML Names forbids */
};
const char *xml_error_text(enum xml_error error); /* for logs; never NULL */

/* A namespace name is at most 512 bytes, and a tree at most 16 times the size of its source, always. */
struct xml_limits {
    size_t stanza_bytes; /* one child of the root, and the root's start tag; in a document: the whole */
    unsigned depth,
        attrs;         /* attrs per element, namespace declarations included; the stanza itself is depth 1 */
    unsigned elements; /* per stanza */
};
extern const struct xml_limits xml_limits_default; /* 256 KiB, depth 64, 64 attributes, 10,000 elements */

/* A stanza as the stream parser hands it over. Borrowed for the call: take copies, or steal the arena
 * (xml_stanza_steal). RAW is exactly the bytes of the element as received, in the arena too;
 * raw_self_contained is false when it uses a namespace declared on the stream header other than the default
 * "jabber:client", or a CDATA section, so that it must be written again from the tree. */
struct xml_stanza {
    struct xml *root;
    struct arena *arena;
    const char *raw;
    size_t n_raw;
    size_t n_start_tag; /* raw[0 .. n_start_tag) is the start tag, "<message ...>" or "<presence/>" */
    bool raw_self_contained;
};

/* Moves everything (tree and raw) to *OUT, which the caller then ends with arena_fini. */
void xml_stanza_steal(struct xml_stanza *stanza, struct arena *out);

struct xml_stream_events {
    void (*on_header)(void *user,
                      const struct xml *header); /* <stream:stream ...>; children are empty; borrowed */
    void (*on_stanza)(void *user, struct xml_stanza *stanza);
    void (*on_end)(void *user); /* </stream:stream> */
};
struct xml_stream;

/* LIMITS are copied; EVENTS are the caller's and outlive the stream. */
struct xml_stream *xml_stream_new(const struct xml_limits *limits, const struct xml_stream_events *events,
                                  void *user);
void xml_stream_set_limits(struct xml_stream *x,
                           const struct xml_limits *limits); /* e.g. higher after log-in */
void xml_stream_set_events(struct xml_stream *x, const struct xml_stream_events *events, void *user);
/* The default namespace of the stream header ("jabber:client", RFC 6120 §4.8.2); "" without one or before it.
 */
const char *xml_stream_default_ns(const struct xml_stream *x);
void xml_stream_free(struct xml_stream *x); /* also from inside an event; may be NULL */
/* Returns XML_OK or the error that ended it; after an error nothing more is parsed. An event handler may call
 * xml_stream_restart, xml_stream_stop or xml_stream_free: the rest of the bytes is then kept (restart) or
 * dropped. */
enum xml_error xml_stream_feed(struct xml_stream *x, const void *data, size_t n_bytes);
void xml_stream_restart(struct xml_stream *x); /* a new stream header is expected (RFC 6120 §4.3.3) */
void xml_stream_stop(struct xml_stream *x);    /* ignore everything from here on */
/* From an event or between two feeds: no further event; bytes that were not parsed yet, and those fed from
 * now on, are kept. With it a stream can change its handler, or its thread once xml_stream_feed has returned.
 * Resume parses what was kept. */
void xml_stream_pause(struct xml_stream *x);
enum xml_error xml_stream_resume(struct xml_stream *x);
bool xml_stream_is_idle(const struct xml_stream *x); /* between two stanzas, so that it could be parked */
/* Frees expat's memory if the parser stands between two stanzas (true); the next stanza that needs it makes a new one
 * from the stored stream header. A stream that gets plain stanzas only stays parked. */
bool xml_stream_park(struct xml_stream *x);
bool xml_stream_is_parked(const struct xml_stream *x);
/* An arena for plain stanzas that the streams of one thread share, empty outside of xml_stream_feed. NULL at first:
 * each stanza gets its own. Belongs to the caller and outlives the use. */
void xml_stream_set_scratch(struct xml_stream *x, struct arena *scratch);
size_t xml_stream_memory(const struct xml_stream *x); /* bytes held, for limits */

/* A whole document into ARENA; *out is its root. xml_parse: ERR_MALFORMED, ERR_LIMIT with detail. */
enum xml_error xml_read(struct xml **out, struct arena *arena, const void *data, size_t n_bytes,
                        const struct xml_limits *limits);
int xml_parse(struct xml **out, struct arena *arena, const void *data, size_t n_bytes,
              const struct xml_limits *limits, struct err_ctx *err);

#endif
