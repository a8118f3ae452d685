/* Where the children of a stream's root end: for who keeps the bytes of an element until it is whole, because
 * that is all that a stranger's unfinished element is to cost, rather than a parser, a tree and the bytes. Of
 * names it knows whether an end tag fits. Not thread-safe. */
#ifndef BASE_XML_FRAME_H
#define BASE_XML_FRAME_H

#include "base/xml_scan.h"
#include <stdint.h>

enum { XML_FRAME_DEPTH = 16 }; /* deeper ones are given to the parser at once: it knows its limit */

struct xml_frame {
    struct xml_scan scan;
    bool has_header, has_decl, in_name;
    char kind, last;                      /* the byte after the '<' of the token in work; the last one seen */
    unsigned depth;                       /* open elements below the root */
    uint32_t name, open[XML_FRAME_DEPTH]; /* hashes: of the tag in work, of the open elements */
};

/* Before the XML declaration or the stream header. */
void xml_frame_init(struct xml_frame *f);
/* D: bytes that follow those of the calls before. Returns how many of them belong to what is whole: white
 * space, a header, elements, the root's end; or all of them when the parser has something to refuse. */
size_t xml_frame_scan(struct xml_frame *f, unsigned max_attrs, const char *d, size_t n_bytes);

#endif
