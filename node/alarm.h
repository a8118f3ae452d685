/* Alarms of this node, raised and cleared through proposals. What is wanted is kept here and compared with
 * the store, so that an alarm which could not be written (no quorum) is written later. Control loop. */
#ifndef NODE_ALARM_H
#define NODE_ALARM_H

#include "base/loop.h"
#include "replication/replica.h"
#include <stdbool.h>

enum alarm_id {
#define X(id, name, severity) ALARM_##id,
#include "node/alarm.def"
#undef X
    N_ALARMS
};
const char *alarm_name(enum alarm_id id);

/* What alarms rest on; the real ones are proposal_submit and a look into ALARM_OPEN. Tests give their own. */
struct alarm_backend {
    void *user;
    int (*submit)(void *user, Imp__Command *command, proposal_done_fn *on_done, void *done_user);
    bool (*is_open)(void *user, const char *name, uint32_t node);
};

struct alarms;
struct alarms *alarms_new(struct loop *loop, struct log *log, const struct alarm_backend *backend);
void alarms_free(struct alarms *a); /* may be NULL */
/* NODE: whom it is about, 0: the cluster. Raising an open one again changes nothing but the text shown in the
 * log. */
void alarms_raise(struct alarms *a, enum alarm_id id, uint32_t node, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void alarms_clear(struct alarms *a, enum alarm_id id, uint32_t node);
/* A notice: written once, never open. */
void alarms_notice(struct alarms *a, enum alarm_id id, uint32_t node, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* This node no longer answers for alarms about NODE or the cluster (it lost the leadership): forgets what it
 * wanted. */
void alarms_forget(struct alarms *a, enum alarm_id id, uint32_t node);
/* Tries again what is not written yet; from a timer once a second. */
void alarms_step(struct alarms *a);

#endif
