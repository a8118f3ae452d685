#include "node/alarm.h"
#include "base/list.h"
#include "base/mem.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WANTED = 512 };

struct wanted {
    struct list link;
    struct alarms *alarms; /* NULL: the owner is gone */
    enum alarm_id id;
    uint32_t node;
    bool raised, notice;
    bool settled; /* the store says what we want */
    bool ends;    /* to be cleared as soon as the raise is written: the history shows that it was */
    bool in_flight, raising; /* a proposal; one that raises it */
    bool forgotten;          /* free when the proposal comes back */
    char text[256];
};
struct alarms {
    struct loop *loop;
    struct log *log;
    struct alarm_backend backend;
    struct list wanted;
    unsigned n;
};

static const struct {
    const char *name;
    uint32_t severity;
} definitions[N_ALARMS] = {
#define X(id, name, severity) {name, severity},
#include "node/alarm.def"
#undef X
};

const char *alarm_name(enum alarm_id id)
{
    return definitions[id].name;
}

struct alarms *alarms_new(struct loop *loop, struct log *log, const struct alarm_backend *backend)
{
    struct alarms *a = mem_new(struct alarms);
    a->loop = loop;
    a->log = log;
    a->backend = *backend;
    list_init(&a->wanted);
    return a;
}

static void drop(struct wanted *w)
{
    if (w->alarms) {
        w->alarms->n--;
        list_remove(&w->link);
        w->alarms = NULL;
    }
    if (w->in_flight)
        w->forgotten = true;
    else
        mem_free(w);
}

void alarms_free(struct alarms *a)
{
    if (!a)
        return;
    struct wanted *w;
    list_for_each(w, &a->wanted, struct wanted, link) drop(w);
    mem_free(a);
}

static struct wanted *find(struct alarms *a, enum alarm_id id, uint32_t node)
{
    struct wanted *w;
    list_for_each(w, &a->wanted, struct wanted,
                  link) if (w->id == id && w->node == node && !w->notice) return w;
    return NULL;
}

static struct wanted *add(struct alarms *a, enum alarm_id id, uint32_t node)
{
    if (a->n >= MAX_WANTED) {
        log_warning(a->log, "alarm %s for node %u dropped: too many are waiting", alarm_name(id), node);
        return NULL;
    }
    struct wanted *w = mem_new(struct wanted);
    w->alarms = a;
    w->id = id;
    w->node = node;
    list_append(&a->wanted, &w->link);
    a->n++;
    return w;
}

static void submit(struct alarms *a, struct wanted *w);

static void on_done(void *user, const struct proposal_result *result)
{
    struct wanted *w = user;
    w->in_flight = false;
    if (w->forgotten) {
        mem_free(w);
        return;
    }
    if (result->code)
        return; /* alarms_step tries again */
    if (w->notice) {
        drop(w);
    } else if (w->raising && w->raised) {
        /* It was written, open still or not. The node it is about clears it as well, when it is back: to
         * raise it until we happen to see it open would be a quarrel without end, where both look once a
         * second. */
        w->raised = w->settled = !w->ends;
        w->ends = false;
    }
    /* The rest is compared with the store at the next step: it may have been changed meanwhile. */
}

static void submit(struct alarms *a, struct wanted *w)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__AlarmRaise raise = IMP__ALARM_RAISE__INIT;
    Imp__AlarmClear clear = IMP__ALARM_CLEAR__INIT;
    if (w->raised || w->notice) {
        raise.name = (char *)alarm_name(w->id);
        raise.node = w->node;
        raise.severity = definitions[w->id].severity;
        raise.text = w->text;
        raise.notice = w->notice;
        command.body_case = IMP__COMMAND__BODY_ALARM_RAISE;
        command.alarm_raise = &raise;
    } else {
        clear.name = (char *)alarm_name(w->id);
        clear.node = w->node;
        command.body_case = IMP__COMMAND__BODY_ALARM_CLEAR;
        command.alarm_clear = &clear;
    }
    w->in_flight = true;
    w->raising = w->raised;
    if (a->backend.submit(a->backend.user, &command, on_done, w))
        w->in_flight = false;
}

void alarms_step(struct alarms *a)
{
    struct wanted *w;
    list_for_each(w, &a->wanted, struct wanted, link)
    {
        if (w->in_flight || w->settled)
            continue;
        if (!w->notice && a->backend.is_open(a->backend.user, alarm_name(w->id), w->node) == w->raised) {
            w->settled = !w->ends;
            if (!w->raised) {
                drop(w);
                continue;
            }
            if (!w->ends)
                continue;
            w->raised = w->ends = false;
        }
        submit(a, w);
    }
}

void alarms_raise(struct alarms *a, enum alarm_id id, uint32_t node, const char *format, ...)
{
    struct wanted *w = find(a, id, node);
    bool again = w && w->raised;
    if (!w && !(w = add(a, id, node)))
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(w->text, sizeof(w->text), format, args);
    va_end(args);
    w->ends = false;
    if (again)
        return;
    w->raised = true;
    w->settled = false;
    log_warning(a->log, "alarm %s: %s", alarm_name(id), w->text);
    alarms_step(a);
}

void alarms_clear(struct alarms *a, enum alarm_id id, uint32_t node)
{
    struct wanted *w = find(a, id, node);
    bool open = a->backend.is_open(a->backend.user, alarm_name(id), node);
    if (!w && !open)
        return;
    if (w && !w->raised)
        return;
    if (!w && !(w = add(a, id, node)))
        return;
    if (w->raised || open)
        log_notice(a->log, "alarm %s cleared%s", alarm_name(id), w->raised ? "" : " (raised earlier)");
    if (w->raised && !w->settled && !open) {
        w->ends = true;
        alarms_step(a);
        return;
    }
    w->raised = false;
    w->settled = false;
    alarms_step(a);
}

void alarms_notice(struct alarms *a, enum alarm_id id, uint32_t node, const char *format, ...)
{
    struct wanted *w = add(a, id, node);
    if (!w)
        return;
    w->notice = true;
    va_list args;
    va_start(args, format);
    vsnprintf(w->text, sizeof(w->text), format, args);
    va_end(args);
    log_notice(a->log, "%s: %s", alarm_name(id), w->text);
    alarms_step(a);
}

void alarms_forget(struct alarms *a, enum alarm_id id, uint32_t node)
{
    struct wanted *w = find(a, id, node);
    if (w)
        drop(w);
}
