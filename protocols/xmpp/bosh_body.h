/* A BOSH request's <body/>, read from bytes that anybody may have sent. */
#ifndef XMPP_BOSH_BODY_H
#define XMPP_BOSH_BODY_H

#include "base/xml.h"
#include "protocols/xmpp/bosh.h"

struct bosh_body {
    struct arena arena;
    struct xml *root;
    struct buf payload, header;
    struct bosh_request request; /* points into this struct */
};
/* NULL, or the binding condition that refuses it (XEP-0124 §17.2). bosh_body_fini in any case. */
const char *bosh_body_read(struct bosh_body *out, const char *data, size_t n_bytes,
                           const struct xml_limits *limits);
void bosh_body_fini(struct bosh_body *b);

/* Attributes. */
const char *bosh_attr_or(const struct xml *x, const char *name, const char *otherwise);
/* 0 .. MAX; OTHERWISE when it is missing or no number. */
unsigned bosh_number(const struct xml *x, const char *name, unsigned otherwise, unsigned max);
bool bosh_is_true(const char *value); /* NULL: no */

#endif
