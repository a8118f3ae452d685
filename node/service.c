#include "node/service.h"
#include "base/mem.h"
#include <stdio.h>
#include <string.h>

enum { RETRY_MS = 5000 };

struct definition {
    const char *name, *needs, *help;
    enum service_kind kind;
    bool optional;
};
static const struct definition definitions[N_SERVICES] = {
#define X(id, name, kind, needs, optional, help) {name, needs, help, SERVICE_KIND_##kind, optional},
#include "node/service.def"
#undef X
};

struct service {
    service_start_fn *start;
    service_stop_fn *stop;
    void *user;
    enum service_state state;
    bool inactive, halted; /* by the table; by a request */
    bool running;          /* start was called and not undone: stop is due */
    uint64_t since_ms, retry_ms;
    char reason[256];
};
struct services {
    struct service list[N_SERVICES];
    struct log *log;
    bool released;
    char held_reason[256];
    void (*on_change)(void *user, enum service_id id);
    void *user;
};

const char *service_name(enum service_id id)
{
    return definitions[id].name;
}

const char *service_help(enum service_id id)
{
    return definitions[id].help;
}

enum service_kind service_kind(enum service_id id)
{
    return definitions[id].kind;
}

bool service_is_optional(enum service_id id)
{
    return definitions[id].optional;
}

int service_find(const char *name)
{
    for (int i = 0; i < N_SERVICES; i++)
        if (!strcmp(definitions[i].name, name))
            return i;
    return ERR_NOTFOUND;
}

const char *service_state_name(enum service_state state)
{
    static const char *const names[] = {"stopped", "starting", "delayed", "started", "failed"};
    return names[state];
}

const char *service_kind_name(enum service_kind kind)
{
    return kind == SERVICE_KIND_NETWORK ? "network" : "feature";
}

struct services *services_new(struct log *log)
{
    struct services *s = mem_new(struct services);
    s->log = log;
    snprintf(s->held_reason, sizeof(s->held_reason), "waits for replication");
    return s;
}

void services_free(struct services *s)
{
    mem_free(s);
}

void services_set_functions(struct services *s, enum service_id id, service_start_fn *start,
                            service_stop_fn *stop, void *user)
{
    s->list[id].start = start;
    s->list[id].stop = stop;
    s->list[id].user = user;
}

void services_on_change(struct services *s, void (*on_change)(void *user, enum service_id id), void *user)
{
    s->on_change = on_change;
    s->user = user;
}

static void set_state(struct services *s, enum service_id id, enum service_state state, const char *reason,
                      uint64_t now_ms)
{
    struct service *x = &s->list[id];
    if (x->state == state && !strcmp(x->reason, reason))
        return;
    if (x->state != state) {
        x->since_ms = now_ms;
        log_at(s->log, state == SERVICE_STATE_FAILED ? LOG_ERROR : LOG_INFO, "service %s: %s%s%s",
               service_name(id), service_state_name(state), *reason ? ", " : "", reason);
    }
    x->state = state;
    snprintf(x->reason, sizeof(x->reason), "%s", reason);
    if (s->on_change)
        s->on_change(s->user, id);
}

void services_set_active(struct services *s, enum service_id id, bool active)
{
    s->list[id].inactive = !active && definitions[id].optional;
}

void services_set_released(struct services *s, bool released, const char *reason)
{
    s->released = released;
    snprintf(s->held_reason, sizeof(s->held_reason), "%s", reason);
}

bool services_are_released(const struct services *s)
{
    return s->released;
}

void services_set_started(struct services *s, enum service_id id, uint64_t now_ms)
{
    if (s->list[id].running)
        set_state(s, id, SERVICE_STATE_STARTED, "", now_ms);
}

void services_set_failed(struct services *s, enum service_id id, const char *reason, uint64_t now_ms)
{
    struct service *x = &s->list[id];
    if (x->running && x->stop)
        x->stop(x->user);
    x->running = false;
    x->retry_ms = now_ms + RETRY_MS;
    set_state(s, id, SERVICE_STATE_FAILED, reason, now_ms);
}

/* The first dependency of ID that is not started, or NULL. */
static const char *missing_need(const struct services *s, enum service_id id)
{
    const char *p = definitions[id].needs;
    while (*p) {
        size_t n = strcspn(p, " ");
        for (int i = 0; i < N_SERVICES; i++)
            if (strlen(definitions[i].name) == n && !memcmp(definitions[i].name, p, n) &&
                s->list[i].state != SERVICE_STATE_STARTED)
                return definitions[i].name;
        p += n + strspn(p + n, " ");
    }
    return NULL;
}

static void stop_one(struct services *s, enum service_id id, enum service_state state, const char *reason,
                     uint64_t now_ms)
{
    struct service *x = &s->list[id];
    if (x->running && x->stop)
        x->stop(x->user);
    x->running = false;
    set_state(s, id, state, reason, now_ms);
}

static void start_one(struct services *s, enum service_id id, uint64_t now_ms)
{
    struct service *x = &s->list[id];
    if (x->state == SERVICE_STATE_FAILED && now_ms < x->retry_ms)
        return;
    struct err_ctx err = {0};
    x->running = true;
    int rc = x->start ? x->start(x->user, &err) : 0;
    if (!rc) {
        set_state(s, id, SERVICE_STATE_STARTED, "", now_ms);
    } else if (rc == ERR_AGAIN) {
        set_state(s, id, SERVICE_STATE_STARTING, err.text, now_ms);
    } else {
        x->running = false;
        x->retry_ms = now_ms + RETRY_MS;
        set_state(s, id, SERVICE_STATE_FAILED, *err.text ? err.text : err_text(rc), now_ms);
    }
}

/* What should it be, and why not started? false: it should run. */
static bool is_held(const struct services *s, enum service_id id, enum service_state *state, char *reason,
                    size_t n)
{
    const struct service *x = &s->list[id];
    const char *need;
    if (x->inactive) {
        *state = SERVICE_STATE_STOPPED;
        snprintf(reason, n, "deactivated");
    } else if (x->halted) {
        *state = SERVICE_STATE_STOPPED;
        snprintf(reason, n, "stopped by an administrator");
    } else if (definitions[id].kind == SERVICE_KIND_FEATURE && !s->released) {
        *state = SERVICE_STATE_DELAYED;
        snprintf(reason, n, "%s", s->held_reason);
    } else if ((need = missing_need(s, id))) {
        *state = SERVICE_STATE_STARTING;
        snprintf(reason, n, "waits for %s", need);
    } else {
        return false;
    }
    return true;
}

void services_step(struct services *s, uint64_t now_ms)
{
    enum service_state state;
    char reason[256];
    /* Stops first, dependants before what they need; a stop makes further ones due: the table is in order. */
    for (int pass = 0; pass < 2; pass++)
        for (int i = N_SERVICES - 1; i >= 0; i--)
            if (s->list[i].running && is_held(s, (enum service_id)i, &state, reason, sizeof(reason)))
                stop_one(s, (enum service_id)i, state, reason, now_ms);
    for (int i = 0; i < N_SERVICES; i++) {
        enum service_id id = (enum service_id)i;
        if (s->list[i].running)
            continue;
        if (is_held(s, id, &state, reason, sizeof(reason)))
            set_state(s, id, state, reason, now_ms);
        else
            start_one(s, id, now_ms);
    }
}

void services_stop_all(struct services *s, uint64_t now_ms)
{
    for (int i = N_SERVICES - 1; i >= 0; i--)
        stop_one(s, (enum service_id)i, SERVICE_STATE_STOPPED, "the node stops", now_ms);
}

int services_request(struct services *s, enum service_id id, enum service_request request, uint64_t now_ms,
                     struct err_ctx *err)
{
    struct service *x = &s->list[id];
    if (!definitions[id].optional && request != SERVICE_START)
        return err_set(err, ERR_DENIED, "%s is part of the node; stop the node instead", service_name(id));
    if (x->inactive && request != SERVICE_STOP)
        return err_set(err, ERR_DENIED, "%s is deactivated; 'impcli service activate %s' first",
                       service_name(id), service_name(id));
    x->retry_ms = 0;
    if (request != SERVICE_START) {
        x->halted = true;
        services_step(s, now_ms);
    }
    if (request != SERVICE_STOP)
        x->halted = false;
    services_step(s, now_ms);
    return 0;
}

void services_get(const struct services *s, enum service_id id, struct service_status *out)
{
    const struct service *x = &s->list[id];
    *out = (struct service_status){
        .state = x->state, .reason = x->reason, .since_ms = x->since_ms, .active = !x->inactive};
}

const char *services_summary(const struct services *s)
{
    bool delayed = false, other = false;
    for (int i = 0; i < N_SERVICES; i++) {
        if (definitions[i].kind != SERVICE_KIND_FEATURE || s->list[i].inactive)
            continue;
        delayed |= s->list[i].state == SERVICE_STATE_DELAYED;
        other |= s->list[i].state != SERVICE_STATE_STARTED;
    }
    return delayed ? "delayed" : other ? "stopped" : "running";
}
