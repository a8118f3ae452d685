/* The stanzas that nearly every client sends nearly always, without expat: elements in default namespaces,
 * UTF-8, the five named references in text. What is anything else, or is wrong in any way, is left to expat,
 * which alone decides what well-formed is; the tree is the same (tests/unit/xml_plain_test.c compares the
 * two). Internal to base/xml_*.c. */
#ifndef BASE_XML_PLAIN_H
#define BASE_XML_PLAIN_H

#include "base/xml.h"

/* Parses the element that begins at D, inside a root with DEFAULT_NS, a constant. Returns its length, and
 * *OUT: the tree in ARENA and the length of its start tag. 0: it is not plain, not whole, or beyond LIMITS;
 * ARENA may have grown. */
struct xml_plain {
    struct xml *root;
    size_t n_start_tag;
};
size_t xml_plain_parse(struct xml_plain *out, struct arena *arena, const char *default_ns,
                       const struct xml_limits *limits, const char *d, size_t n_bytes);

#endif
