/* XEP-0050: commands that a person fills a form for and runs. feature_adhoc.c speaks the protocol; a command
 * says what its form asks and what it does. Shard's thread. */
#ifndef XMPP_ADHOC_H
#define XMPP_ADHOC_H

#include "protocols/xmpp/feature.h"

struct adhoc_field {
    const char *var, *type, *label; /* XEP-0004 §3.3; "list-single" has OPTIONS */
    bool required;
    const char *options; /* "25|50|100" */
};

/* One run, from the submission to the answer. Ended by exactly one of adhoc_done, adhoc_fail and adhoc_form.
 */
struct adhoc_call {
    const struct adhoc_command *command;
    struct shard *shard;
    uint64_t session; /* who asks, by id; may end meanwhile */
    struct iq_later *iq;
    char id[33];
    struct arena arena;
    const struct xml *form; /* submitted; NULL: the command has no form */
    const char *who;        /* bare JID */
    uint64_t uid;           /* of a command at the own account */
    void *state;            /* the command's, in the arena */
};

struct adhoc_command {
    const char *node, *name;
    const struct adhoc_field *fields; /* ended by one without a var; NULL: it runs at once */
    /* Fills in what a field has now; NULL: nothing. */
    void (*fill)(struct xmpp_iq *iq, const struct adhoc_field *f, struct buf *out);
    void (*run)(struct adhoc_call *c);
};
/* The administrator's, at the server (XEP-0133), and everybody's at the own account; ended by one without a
 * node. */
extern const struct adhoc_command admin_commands[], user_commands[];

/* What was submitted. */
const char *adhoc_value(const struct adhoc_call *c, const char *var); /* the first one, "" when none */
size_t adhoc_values(const struct adhoc_call *c, const char *var, const char **out, size_t max);
/* The lines of a text-multi. */
const char *adhoc_text(const struct adhoc_call *c, const char *var);

void adhoc_done(struct adhoc_call *c, const char *note);
void adhoc_fail(struct adhoc_call *c, const char *note); /* done, but not as wanted: a note of type error */
/* A form of type result with these fields as XML. */
void adhoc_form(struct adhoc_call *c, const char *fields, size_t n_bytes);
void adhoc_field_begin(struct buf *out, const char *var, const char *type);
void adhoc_field_value(struct buf *out, const char *value);
void adhoc_field_end(struct buf *out);

#endif
