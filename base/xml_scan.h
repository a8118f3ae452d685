/* Finds the ends of tags in a byte stream, so that expat is never given half a tag: it would keep it and scan
 * it again with every further byte. Counts attributes and refuses what a stream must not have (RFC 6120
 * §11.1) before expat spends memory on it. Knows nothing of names; internal to base/xml_*.c. */
#ifndef BASE_XML_SCAN_H
#define BASE_XML_SCAN_H

#include "base/xml.h"

enum xml_scan_state {
    XML_SCAN_PROLOG, /* nothing but white space so far */
    XML_SCAN_TEXT,   /* outside tags */
    XML_SCAN_OPEN,   /* after '<' */
    XML_SCAN_TAG,    /* in a tag, outside quotes */
    XML_SCAN_VALUE,  /* in a quoted attribute value */
    XML_SCAN_DECL,   /* in <?xml ...?> */
    XML_SCAN_BANG,   /* in <![CDATA[ */
    XML_SCAN_CDATA,  /* in a CDATA section */
};
struct xml_scan {
    enum xml_scan_state state;
    bool at_start; /* the next '<' is the first of the document */
    char quote;
    unsigned matched; /* characters of "<![CDATA[" or "]]>" seen */
    unsigned n_attrs, n_decl;
};

void xml_scan_init(struct xml_scan *s);
/* Takes bytes from D until the token in which the scanner is ends, at most N. *used: bytes taken; *complete:
 * the scanner is outside tags again (or in CDATA), all bytes so far may be parsed. */
enum xml_error xml_scan_token(struct xml_scan *s, unsigned max_attrs, const char *d, size_t n, size_t *used,
                              bool *complete);
/* White space before a stream header is keep-alive: skipped. Anything else but '<' there is an error, and what
 * makes expat guess at UTF-16. */
enum xml_error xml_scan_prolog(const char **d, size_t *n);
/* Is it in the middle of a tag? */
bool xml_scan_in_tag(const struct xml_scan *s);

#endif
