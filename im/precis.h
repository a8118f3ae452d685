/* String preparation with PRECIS (RFC 8264) in the profiles of RFC 8265, over ICU. Any thread; no state.
 *
 * The result depends on ICU's version of Unicode: prepare where a string comes in (edge, proposer), never in
 * the FSM. */
#ifndef IM_PRECIS_H
#define IM_PRECIS_H

#include "base/err.h"
#include <stddef.h>

enum precis_profile {
    PRECIS_USERNAME_CASE_MAPPED, /* RFC 8265 §3.3: localparts */
    PRECIS_OPAQUE_STRING,        /* RFC 8265 §4.2: resourceparts, passwords */
};
enum { PRECIS_MAX_BYTES = 1023 }; /* of input and result (RFC 7622 §3.3, §3.4) */

/* OUT has room for PRECIS_MAX_BYTES + 1. ERR_MALFORMED: empty, too long, not UTF-8, or a character or
 * combination that the profile forbids. */
int precis_enforce(char *out, enum precis_profile profile, const char *text, size_t n_bytes,
                   struct err_ctx *err);

#endif
