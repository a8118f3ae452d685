/* expat behind a wall: bytes in, trees out. Used by xml_stream.c and xml_parse; internal to base/xml_*.c.
 *
 * In stream mode the children of the root are the trees; in document mode the root is. All memory of expat is
 * counted and bounded, per reader. */
#ifndef BASE_XML_READER_H
#define BASE_XML_READER_H

#include "base/xml.h"
#include "base/xml_scan.h"
#include <stdint.h>

#define XML_READER_NS_STREAM "http://etherx.jabber.org/streams"

struct xml_reader;
struct xml_reader_events {
    void (*on_header)(void *user, const struct xml *header); /* stream mode only */
    void (*on_tree)(void *user, struct xml *root);           /* in the reader's arena */
    void (*on_end)(void *user);                              /* the root was closed */
};

/* Where the tree handed to on_tree stood, in bytes of the document, and what it used. */
struct xml_span {
    uint64_t start, end;
    size_t n_start_tag;
    bool inherited_ns; /* a namespace of the root that not every stream has */
    bool has_cdata;
};

/* ARENA: trees go there; the caller resets it between trees. */
struct xml_reader *xml_reader_new(bool stream, const struct xml_limits *limits, struct arena *arena,
                                  const struct xml_reader_events *events, void *user);
void xml_reader_free(struct xml_reader *r); /* not inside xml_reader_parse */
/* No token may be cut at the end of the bytes (xml_scan). Returns at xml_reader_halt, or when all is taken.
 */
enum xml_error xml_reader_parse(struct xml_reader *r, const char *data, size_t n, bool is_final);
void xml_reader_halt(struct xml_reader *r);                  /* from an event: nothing after it is parsed */
void xml_reader_set_quiet(struct xml_reader *r, bool quiet); /* no on_header */
void xml_reader_set_limits(struct xml_reader *r, const struct xml_limits *limits);

struct xml_span xml_reader_span(const struct xml_reader *r); /* of the tree in work, or in on_tree */
uint64_t xml_reader_position(const struct xml_reader *r); /* in an event: the end of the tag that caused it */
bool xml_reader_is_between(const struct xml_reader *r);   /* inside the root, in no child */
bool xml_reader_is_idle(const struct xml_reader *r);      /* and nothing of what comes next was taken */
bool xml_reader_has_root(const struct xml_reader *r);
/* Is the root <stream:stream/> with jabber:client as the default namespace, and does it declare no other? */
bool xml_reader_is_plain(const struct xml_reader *r);
const char *xml_reader_default_ns(const struct xml_reader *r); /* of the root */
size_t xml_reader_memory(const struct xml_reader *r);
uint64_t xml_reader_error_position(const struct xml_reader *r);

#endif
