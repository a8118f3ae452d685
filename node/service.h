/* The services of a node as data: names, kinds, dependencies, states and reasons; started and stopped in
 * order. Network services start at once, feature services when the replication watcher has released them.
 * Control loop. */
#ifndef NODE_SERVICE_H
#define NODE_SERVICE_H

#include "base/err.h"
#include "base/log.h"
#include <stdbool.h>
#include <stdint.h>

enum service_id {
#define X(id, name, kind, needs, optional, help) SERVICE_##id,
#include "node/service.def"
#undef X
    N_SERVICES
};
enum service_kind { SERVICE_KIND_NETWORK, SERVICE_KIND_FEATURE };
/* DELAYED: held back by the watcher. STARTING: start() said ERR_AGAIN, or waits for a dependency. */
enum service_state {
    SERVICE_STATE_STOPPED,
    SERVICE_STATE_STARTING,
    SERVICE_STATE_DELAYED,
    SERVICE_STATE_STARTED,
    SERVICE_STATE_FAILED,
};
const char *service_name(enum service_id id);
const char *service_help(enum service_id id);
enum service_kind service_kind(enum service_id id);
bool service_is_optional(enum service_id id); /* may be deactivated */
int service_find(const char *name);           /* enum service_id, or ERR_NOTFOUND */
const char *service_state_name(enum service_state state);
const char *service_kind_name(enum service_kind kind);

struct services;
struct services *services_new(struct log *log);
void services_free(struct services *s); /* does not stop them */

/* start: 0, ERR_AGAIN (services_set_started or services_set_failed follows), or another error with text: the
 * service has failed and is tried again every 5 s. stop: at once. Without a start the service counts as
 * started. */
typedef int service_start_fn(void *user, struct err_ctx *err);
typedef void service_stop_fn(void *user);
void services_set_functions(struct services *s, enum service_id id, service_start_fn *start,
                            service_stop_fn *stop, void *user);

/* From the SERVICE table (activate, deactivate): default true. */
void services_set_active(struct services *s, enum service_id id, bool active);
/* The watcher: REASON is what a delayed service shows. */
void services_set_released(struct services *s, bool released, const char *reason);
bool services_are_released(const struct services *s);
void services_set_started(struct services *s, enum service_id id, uint64_t now_ms);
void services_set_failed(struct services *s, enum service_id id, const char *reason, uint64_t now_ms);
/* Brings every service nearer to what it should be; also from a timer, once a second. Times are Unix time. */
void services_step(struct services *s, uint64_t now_ms);
/* The whole of them, in reverse order. */
void services_stop_all(struct services *s, uint64_t now_ms);

/* impcli service start|stop|restart: until the next such request or the end of the process; not stored. A
 * stop also stops what depends on it. ERR_DENIED with text: not one that may be stopped, or deactivated. */
enum service_request { SERVICE_START, SERVICE_STOP, SERVICE_RESTART };
int services_request(struct services *s, enum service_id id, enum service_request request, uint64_t now_ms,
                     struct err_ctx *err);

struct service_status {
    enum service_state state;
    const char *reason; /* "" when started; borrowed */
    uint64_t since_ms;  /* Unix time */
    bool active;
};
void services_get(const struct services *s, enum service_id id, struct service_status *out);
/* "running" when every active feature service is started, "delayed" when one is held back, else "stopped". */
const char *services_summary(const struct services *s);
/* Called after each change of a state. One. */
void services_on_change(struct services *s, void (*on_change)(void *user, enum service_id id), void *user);

#endif
