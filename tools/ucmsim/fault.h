/* Faults that a person or a test orders: which requests are answered wrongly, and how. Under the simulator's
 * lock. */
#ifndef UCMSIM_FAULT_H
#define UCMSIM_FAULT_H

#include <stdbool.h>
#include <stddef.h>

/* X(ID, name, what happens) */
#define FAULT_KINDS(X)                                                                                       \
    X(AUTH, "401", "wrong user or password")                                                                 \
    X(DENIED, "403", "the user lacks the AXL role")                                                          \
    X(THROTTLE, "503", "too many outstanding changes")                                                       \
    X(VERSION, "599", "schema version not supported; versions: those offered instead")                       \
    X(TOO_LARGE, "too-large", "\"Query request too large\"; rows: the suggested row fetch")                  \
    X(SLOW, "slow", "answers rightly, but only after ms")                                                    \
    X(CUT, "cut", "the connection is cut in the middle of the body")                                         \
    X(SOAP, "fault", "SOAP fault with code and text")                                                        \
    X(GARBAGE, "garbage", "HTTP 200 with something that is not XML")                                         \
    X(DTD, "dtd", "HTTP 200 with a document that declares entities")

enum fault_kind {
    FAULT_NONE,
#define X(id, name, help) FAULT_##id,
    FAULT_KINDS(X)
#undef X
};

struct fault {
    enum fault_kind kind;
    char operation[64]; /* "" for every operation */
    unsigned skip;      /* let that many pass first */
    int count;          /* requests still to be hit; -1 until cleared */
    unsigned ms, rows;
    int code;
    char text[256]; /* SOAP fault text; versions for 599 */
};

enum { MAX_FAULTS = 64 };
struct faults {
    struct fault list[MAX_FAULTS];
    size_t n;
    unsigned long n_served;
};

const char *fault_name(enum fault_kind kind);
enum fault_kind fault_find(const char *name);                /* FAULT_NONE if there is none */
bool fault_add(struct faults *f, const struct fault *fault); /* false: MAX_FAULTS are set */
/* The fault that hits this request, if any, is copied to *out and counted down. */
bool fault_take(struct faults *f, const char *operation, struct fault *out);
void fault_clear(struct faults *f);

#endif
