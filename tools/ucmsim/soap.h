/* The AXL interface: one SOAP request in, one HTTP answer out. Knows nothing of sockets. Under the
 * simulator's lock. */
#ifndef UCMSIM_SOAP_H
#define UCMSIM_SOAP_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/xml.h"
#include "fault.h"
#include "model.h"

/* X(name): the operations. Each has a function soap_op_<name> and a counter. */
#define SOAP_OPERATIONS(X)                                                                                   \
    X(getCCMVersion)                                                                                         \
    X(listUser)                                                                                              \
    X(getUser)                                                                                               \
    X(listChange)                                                                                            \
    X(doAuthenticateUser)                                                                                    \
    X(listProcessNode)                                                                                       \
    X(getLdapAuthentication)
enum soap_operation {
#define X(name) SOAP_##name,
    SOAP_OPERATIONS(X)
#undef X
        N_SOAP_OPERATIONS,
};
const char *soap_operation_name(enum soap_operation op);

struct soap {
    struct ucm *ucm;
    struct faults *faults;
    char release[51];    /* what getCCMVersion says */
    char versions[8][8]; /* schema versions served, "14.0" */
    unsigned n_versions;
    size_t max_rows;      /* of one list result; 0: bounded by max_bytes alone */
    size_t max_bytes;     /* 8 MB */
    unsigned max_changes; /* changes in one listChange answer */
    unsigned lock_after;  /* wrong passwords that lock a user; 0: never */
    unsigned long n_requests[N_SOAP_OPERATIONS], n_unknown, n_bad, n_rows, n_auth_ok, n_auth_failed;
};

struct soap_reply {
    unsigned status;
    bool is_xml;
    struct buf body;
    unsigned delay_ms; /* wait that long before answering */
    bool cut;          /* send half the body, then cut the connection */
};

void soap_init(struct soap *s, struct ucm *ucm, struct faults *faults);
/* "11.5,12.5,14.0"; ERR_INVALID. */
int soap_set_versions(struct soap *s, const char *list);
/* ACTION: the SOAPAction header or NULL. reply->body is the caller's to free. */
void soap_handle(struct soap *s, const char *request, size_t n_bytes, const char *action,
                 struct soap_reply *reply);

#endif
