/* Addresses: JIDs per RFC 7622, prepared where text comes in; and the user ids of a call manager. Any thread.
 *
 * Prepared text compares byte by byte. Never called by the FSM (the result depends on library versions). */
#ifndef IM_ADDRESS_H
#define IM_ADDRESS_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>

enum {
    JID_PART_MAX = 1023, /* octets of a part */
    JID_MAX = 3 * JID_PART_MAX + 2,
};

/* Prepared; an empty local or resource means there is none. May be copied by assignment. */
struct jid {
    char local[JID_PART_MAX + 1], domain[JID_PART_MAX + 1], resource[JID_PART_MAX + 1];
};

/* Untrusted text to a prepared JID. ERR_MALFORMED with detail. */
int jid_parse(struct jid *out, const char *text, size_t n_bytes, struct err_ctx *err);
/* The same without the struct: the prepared text itself. */
int jid_prepare(char out[JID_MAX + 1], const char *text, size_t n_bytes, struct err_ctx *err);
/* "local@domain/resource" and "local@domain"; return the length. */
size_t jid_format(char out[JID_MAX + 1], const struct jid *j);
size_t jid_format_bare(char out[JID_MAX + 1], const struct jid *j);
bool jid_equal(const struct jid *a, const struct jid *b);
bool jid_bare_equal(const struct jid *a, const struct jid *b);

/* Parts alone; OUT has room for JID_PART_MAX + 1. ERR_MALFORMED.
 * domain: U-labels in lower case without a trailing dot (RFC 7622 §3.2), or an IP address, IPv6 in brackets.
 */
int address_prep_local(char *out, const char *text, size_t n_bytes, struct err_ctx *err);
int address_prep_domain(char *out, const char *text, size_t n_bytes, struct err_ctx *err);
int address_prep_resource(char *out, const char *text, size_t n_bytes, struct err_ctx *err);
/* A password before it is hashed (RFC 8265 §4). */
int address_prep_password(char *out, const char *text, size_t n_bytes, struct err_ctx *err);
/* A call manager's user id as a localpart: white space around it is dropped, what a localpart cannot have is
 * escaped as XEP-0106 says ("a@b" -> "a\40b"), then prepared. */
int address_prep_userid(char *out, const char *userid, size_t n_bytes, struct err_ctx *err);

#endif
