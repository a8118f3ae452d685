#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

unsigned sim_draw(struct sim *s, unsigned n)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return (unsigned)((s->random >> 11) % n);
}

void sim_say(struct sim *s, const char *format, ...)
{
    if (!s->is_verbose)
        return;
    va_list args;
    va_start(args, format);
    printf("[%7llu] ", (unsigned long long)s->now);
    vprintf(format, args);
    putchar('\n');
    va_end(args);
}

void sim_bad(struct sim *s, const char *format, ...)
{
    if (s->is_bad)
        return;
    s->is_bad = true;
    va_list args;
    va_start(args, format);
    vsnprintf(s->why, sizeof(s->why), format, args);
    va_end(args);
    sim_say(s, "BAD: %s", s->why);
}

/* ---- events: a heap by time, then by the order made ---- */

static bool is_before(const struct sim_event *a, const struct sim_event *b)
{
    return a->at < b->at || (a->at == b->at && a->seq < b->seq);
}

static void sift_up(struct sim *s, size_t i)
{
    while (i > 0 && is_before(s->heap[i], s->heap[(i - 1) / 2])) {
        struct sim_event *e = s->heap[i];
        s->heap[i] = s->heap[(i - 1) / 2];
        s->heap[(i - 1) / 2] = e;
        i = (i - 1) / 2;
    }
}

static struct sim_event *pop(struct sim *s)
{
    struct sim_event *first = s->heap[0];
    s->heap[0] = s->heap[--s->n_events];
    for (size_t i = 0;;) {
        size_t least = i, left = 2 * i + 1;
        for (size_t k = left; k < left + 2 && k < s->n_events; k++)
            if (is_before(s->heap[k], s->heap[least]))
                least = k;
        if (least == i)
            return first;
        struct sim_event *e = s->heap[i];
        s->heap[i] = s->heap[least];
        s->heap[least] = e;
        i = least;
    }
}

struct sim_event *sim_schedule(struct sim *s, enum sim_event_kind kind, struct sim_node *n, unsigned after_ms)
{
    struct sim_event *e = mem_new(struct sim_event);
    e->at = s->now + after_ms;
    e->seq = s->event_seq++;
    e->kind = kind;
    e->node = n->id;
    e->life = n->life;
    if (s->n_events == s->cap_events) {
        s->cap_events = s->cap_events ? 2 * s->cap_events : 256;
        s->heap = mem_realloc(s->heap, s->cap_events * sizeof(struct sim_event *));
    }
    s->heap[s->n_events++] = e;
    sift_up(s, s->n_events - 1);
    return e;
}

static void free_event(struct sim *s, struct sim_event *e)
{
    buf_fini(&e->frame);
    sim_store_fini(s, &e->store);
    mem_free(e);
}

/* The node whose timer is due first. */
static struct sim_node *next_timer(struct sim *s, uint64_t *at)
{
    struct sim_node *who = NULL;
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        if (!sim_node_is_running(n) || !n->due_ms)
            continue;
        uint64_t due = n->due_ms < s->now ? s->now : n->due_ms;
        if (!who || due < *at) {
            who = n;
            *at = due;
        }
    }
    return who;
}

void sim_run(struct sim *s, uint64_t until)
{
    while (s->now < until && !s->is_bad) {
        uint64_t at = 0;
        struct sim_node *n = next_timer(s, &at);
        if (s->n_events && s->heap[0]->at <= until && (!n || s->heap[0]->at <= at)) {
            struct sim_event *e = pop(s);
            s->now = e->at;
            sim_node_fire(s, e);
            free_event(s, e);
        } else if (n && at <= until) {
            s->now = at;
            n->due_ms = 0;
            driver_tick(n->driver, s->now);
        } else {
            s->now = until;
        }
        for (unsigned i = 1; i <= SIM_MAX_NODES; i++)
            sim_node_maybe_point(&s->nodes[i]);
    }
}

void sim_init(struct sim *s, uint64_t seed, unsigned options, unsigned guards)
{
    memset(s, 0, sizeof(*s));
    s->seed = seed;
    s->random = seed * 2654435761u + 88172645463325252u;
    s->options = options;
    s->guards = guards;
    s->n_steps = 400;
    s->now = 1000;
    s->next_value = 1;
    s->machine = &sim_hash_machine;
    sim_heap_begin();
    s->oracle = mem_calloc(SIM_MAX_INDEX, sizeof(*s->oracle));
    s->leaders = mem_calloc(SIM_MAX_TERM, sizeof(*s->leaders));
    for (unsigned i = 0; i < 10; i++)
        sim_draw(s, 2);
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++)
        sim_node_init(s, i);
}

void sim_fini(struct sim *s)
{
    for (unsigned i = 1; i <= SIM_MAX_NODES; i++) {
        struct sim_node *n = &s->nodes[i];
        sim_node_crash(n, false);
        sim_store_fini(s, &n->point);
        sim_store_fini(s, &n->marker);
        sim_disk_fini(&n->disk);
    }
    while (s->n_events)
        free_event(s, s->heap[--s->n_events]);
    /* 14: what came with InstallSnapshot during an install. */
    if (sim_heap_blocks() != 0)
        sim_bad(s, "the core still holds %ld blocks of memory after its end", sim_heap_blocks());
    mem_free(s->heap);
    mem_free(s->oracle);
    mem_free(s->leaders);
}
