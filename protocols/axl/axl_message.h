/* AXL messages: writing requests and reading answers. Pure functions, any thread; used by axl.c, and by the
 * tests that hold them against the schema. */
#ifndef PROTOCOLS_AXL_AXL_MESSAGE_H
#define PROTOCOLS_AXL_AXL_MESSAGE_H

#include "base/arena.h"
#include "base/buf.h"
#include "protocols/axl/axl.h"

/* X(ID, name): the operations used. */
#define AXL_OPERATIONS(X)                                                                                    \
    X(GET_VERSION, "getCCMVersion")                                                                          \
    X(LIST_USERS, "listUser")                                                                                \
    X(GET_USER, "getUser")                                                                                   \
    X(LIST_CHANGES, "listChange")                                                                            \
    X(AUTHENTICATE, "doAuthenticateUser")
enum axl_operation {
#define X(id, name) AXL_OP_##id,
    AXL_OPERATIONS(X)
#undef X
};
const char *axl_operation_name(enum axl_operation op);

/* The parameters of an operation; each uses its own. */
struct axl_request {
    enum axl_operation op;
    const char *uuid, *userid, *password, *queue_id;
    size_t skip, first;
    uint64_t next_change;
};

/* The SOAP body's child, for schema VERSION, appended to OUT. */
void axl_write_body(struct buf *out, const struct axl_request *request, const char *version);
/* A whole envelope around it. */
void axl_write_envelope(struct buf *out, const struct axl_request *request, const char *version);

/* Reads an answer (HTTP status and body) to OP. Everything in *out lives in ARENA. */
void axl_read_answer(struct axl_result *out, struct arena *arena, enum axl_operation op, int http_status,
                     const char *body, size_t n_body);

/* From the body of a 599: the best version that both know and that is not OLD; NULL when there is none.
 * TRIED: bit set by index of the versions tried before, updated. */
const char *axl_next_version(const char *body, const char *old, unsigned *tried);

#endif
