#include "sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

unsigned sim_draw(struct sim *s, unsigned n)
{
    return (unsigned)sim_random_below(&s->random, n);
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

/* ---- events ---- */

struct sim_event *sim_schedule(struct sim *s, enum sim_event_kind kind, struct sim_node *n, unsigned after_ms)
{
    struct sim_event *e = mem_new(struct sim_event);
    e->kind = kind;
    e->node = n->id;
    e->life = n->life;
    sim_queue_add(&s->queue, &e->timed, s->now + after_ms);
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
        const struct sim_timed *first = sim_queue_first(&s->queue);
        if (first && first->at <= until && (!n || first->at <= at)) {
            struct sim_event *e = container_of(sim_queue_pop(&s->queue, until), struct sim_event, timed);
            s->now = e->timed.at;
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
    sim_random_init(&s->random, seed);
    s->options = options;
    s->guards = guards;
    s->n_steps = 400;
    s->now = 1000;
    s->next_value = 1;
    s->machine = &sim_hash_machine;
    sim_heap_begin();
    s->oracle = mem_calloc(SIM_MAX_INDEX, sizeof(*s->oracle));
    s->leaders = mem_calloc(SIM_MAX_TERM, sizeof(*s->leaders));
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
    for (struct sim_timed *t; (t = sim_queue_pop(&s->queue, UINT64_MAX));)
        free_event(s, container_of(t, struct sim_event, timed));
    sim_queue_fini(&s->queue);
    /* 14: what came with InstallSnapshot during an install. */
    if (sim_heap_blocks() != 0)
        sim_bad(s, "the core still holds %ld blocks of memory after its end", sim_heap_blocks());
    mem_free(s->oracle);
    mem_free(s->leaders);
}
