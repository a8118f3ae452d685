#include "world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct world *W;

uint64_t draw(uint64_t n)
{
    return sim_random_below(&W->random, n);
}

bool chance(unsigned percent)
{
    return draw(100) < percent;
}

void world_say(const char *format, ...)
{
    if (!W->trace)
        return;
    va_list args;
    va_start(args, format);
    printf("[%4llu.%06llu] ", (unsigned long long)(W->queue.now / SECOND),
           (unsigned long long)(W->queue.now % SECOND));
    vprintf(format, args);
    putchar('\n');
    fflush(stdout);
    va_end(args);
}

void world_bad(const char *format, ...)
{
    if (W->is_bad)
        return;
    W->is_bad = true;
    va_list args;
    va_start(args, format);
    vsnprintf(W->why, sizeof(W->why), format, args);
    va_end(args);
    world_say("BAD: %s", W->why);
    check_describe();
}

void world_mix(uint64_t v)
{
    W->digest = (W->digest ^ v) * 0x100000001b3u;
    W->digest ^= W->digest >> 29;
}

void world_schedule(struct world_event *e, struct world_node *n, unsigned tag, uint64_t after_us,
                    void (*fire)(struct world_event *e))
{
    sim_queue_remove(&W->queue, &e->timed);
    e->node = n;
    e->life = n ? n->life : 0;
    e->tag = tag;
    e->fire = fire;
    sim_queue_add(&W->queue, &e->timed, W->queue.now + after_us);
}

void world_die(bool again, const char *text)
{
    if (!W->can_die) {
        fprintf(stderr, "a process ended outside of any: %s\n", text);
        abort();
    }
    W->death_again = again;
    snprintf(W->death_text, sizeof(W->death_text), "%s", text);
    longjmp(W->death, 1);
}

/* A start after a copy of the store, a removal, a disk that failed: all that a healthy node ends for. */
static bool is_good_reason(const struct world_node *n)
{
    return strstr(W->death_text, "starting again with a new copy") || n->disk.has_failed;
}

static void bury(struct world_node *n)
{
    world_say("node %u ends: %s", n->id, W->death_text);
    if (strstr(W->death_text, "was removed from the cluster"))
        n->is_removed = true;
    else if (!is_good_reason(n))
        world_bad("node %u ends itself: %s", n->id, W->death_text);
    if (strstr(W->death_text, "new copy"))
        W->counts.n_installs++;
    world_node_end(n, false);
    /* The supervisor starts it again after a moment. */
    if (W->death_again && !n->is_removed)
        world_node_boot(n, 200 * MS + draw(1800 * MS));
}

/* Once the process has ended, or while it stands still, nothing of it happens. */
static bool is_due(struct world_event *e)
{
    struct world_node *n = e->node;
    if (!n)
        return true;
    if (!n->is_alive || n->life != e->life)
        return false;
    if (n->paused_until <= W->queue.now)
        return true;
    sim_queue_add(&W->queue, &e->timed, n->paused_until + draw(50));
    return false;
}

static void happen(struct world_event *e)
{
    world_mix(W->queue.now ^ (uint64_t)e->tag << 48 ^ (e->node ? (uint64_t)e->node->id << 56 : 0));
    W->counts.n_events++;
    W->current = e->node;
    if (setjmp(W->death) == 0) {
        W->can_die = true;
        e->fire(e);
    } else {
        W->turning = NULL;
        bury(W->current);
    }
    W->can_die = false;
    if (W->current && W->current->is_alive)
        check_step();
    W->current = NULL;
}

void world_run_until(uint64_t us)
{
    struct sim_timed *t;
    while (!W->is_bad && (t = sim_queue_pop(&W->queue, us))) {
        struct world_event *e = container_of(t, struct world_event, timed);
        if (is_due(e))
            happen(e);
    }
    W->counts.virtual_ms = (unsigned long)(W->queue.now / MS);
}

void world_init(uint64_t seed, unsigned options, enum world_mutation mutation, unsigned trace,
                const char *root)
{
    W = mem_new(struct world);
    snprintf(W->root, sizeof(W->root), "%s", root);
    W->seed = seed;
    W->options = options;
    W->mutation = mutation;
    W->trace = trace;
    sim_random_init(&W->random, seed);
    W->queue.now = 10 * SECOND;
    W->latency_us = 300;
    W->log = trace > 1 ? log_new(1, LOG_TEXT, LOG_DEBUG, "") : NULL;
    W->hashes = mem_calloc(WORLD_MAX_INDEX, sizeof(*W->hashes));
    W->leaders = mem_calloc(WORLD_MAX_TERM, sizeof(*W->leaders));
    list_init(&W->streams);
    random_bytes(W->cluster_id, sizeof(W->cluster_id));
    for (uint32_t id = 1; id <= WORLD_NODES; id++)
        world_node_init(&W->nodes[id], id);
    W->nodes[0].is_alive = true; /* where clients are */
    for (unsigned i = 0; i < WORLD_USERS; i++)
        list_init(&W->users[i].sessions);
}

void world_end(void)
{
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        world_node_end(&W->nodes[id], false);
}
