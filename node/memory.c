/* Gives back what log-ins, and sessions that have ended, leave behind: a log-in needs several times what a
 * session keeps (TLS, a parser, keys), so that after many of them most pages of the heap are nearly empty,
 * and malloc gives back by itself only what lies at the end of a heap. ADR 0038. */
#include "base/clock.h"
#include "node/node_impl.h"
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>

enum {
    QUIET_MS = 3000,     /* longer than an idle session keeps its parser */
    LONGEST_MS = 60000,  /* for a node that is never quiet */
    WORTH_CHANGES = 100, /* log-ins, sessions that came or went: fewer leave little */
};

/* malloc locks one thread's heap after the other while it looks through them: not on
 * a loop. */
static void trim(struct work *w)
{
    struct memory_duty *m = container_of(w, struct memory_duty, work);
    uint64_t start = clock_monotonic_us();
    malloc_trim(0);
    m->took_us = clock_monotonic_us() - start;
}

static void trimmed(struct work *w)
{
    struct memory_duty *m = container_of(w, struct memory_duty, work);
    struct node *n = container_of(m, struct node, memory);
    m->running = false;
    log_debug(n->log, "memory of past log-ins given back in %" PRIu64 " us", m->took_us);
}

void memory_step(struct node *n, uint64_t now_ms)
{
    struct memory_duty *m = &n->memory;
    int64_t n_logins = metrics_get(&n->metrics, METRIC_XMPP_LOGINS);
    int64_t n_sessions = metrics_get(&n->metrics, METRIC_XMPP_SESSIONS);
    if (n_logins != m->n_logins || n_sessions != m->n_sessions) {
        if (!m->n_changes)
            m->since_ms = now_ms;
        m->n_changes += n_logins - m->n_logins + llabs(n_sessions - m->n_sessions);
        m->n_logins = n_logins;
        m->n_sessions = n_sessions;
        m->changed_ms = now_ms;
    }
    if (m->running || m->n_changes < WORTH_CHANGES ||
        (now_ms - m->changed_ms < QUIET_MS && now_ms - m->since_ms < LONGEST_MS))
        return;
    m->n_changes = 0;
    m->running = true;
    m->work = (struct work){.work = trim, .done = trimmed};
    loop_run_work(n->loop, &m->work);
}
