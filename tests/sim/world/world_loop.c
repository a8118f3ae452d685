/* base/loop.h and base/clock.h over the virtual clock. The turn itself, the mailbox, deferred work, hooks and
 * timers are those of base/ (loop_turn.c, timer.c); here is only when a turn comes. Each loop is a thread of
 * its node: it wakes some microseconds after it was called, sometimes much later, so that threads overtake
 * each other. */
#include "base/clock.h"
#include "base/loop_impl.h"
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sim_loop {
    struct loop loop;
    struct world_node *node;
    struct world_event turn;
    struct list ready; /* streams that have something to tell */
    bool is_started;
    uint64_t now_ms;
};

static struct sim_loop *sim(const struct loop *l)
{
    return (struct sim_loop *)l;
}

struct list *world_loop_ready(struct loop *l)
{
    return &sim(l)->ready;
}

struct world_node *world_loop_node(struct loop *l)
{
    return sim(l)->node;
}

/* ---- clocks ---- */

static const uint64_t WALL_BASE_MS = 1900000000000ull;

static uint64_t boot_us(const struct world_node *n)
{
    return W->queue.now + (n ? n->clock_base_us : 0);
}

uint64_t world_boot_ms(const struct world_node *n)
{
    return boot_us(n) / MS;
}

uint64_t clock_monotonic_us(void)
{
    return boot_us(W->current) - (W->current ? W->current->suspended_us : 0);
}
uint64_t clock_monotonic_ms(void)
{
    return clock_monotonic_us() / MS;
}
uint64_t clock_boot_ms(void)
{
    return boot_us(W->current) / MS;
}
uint64_t clock_wall_ms(void)
{
    return WALL_BASE_MS + W->queue.now / MS + (uint64_t)(W->current ? W->current->wall_offset_ms : 0);
}

void random_bytes(void *out, size_t n_bytes)
{
    for (size_t i = 0; i < n_bytes; i++)
        ((uint8_t *)out)[i] = (uint8_t)(sim_random_u64(&W->random) >> 40);
}

/* ---- turns ---- */

static void wake_at(struct sim_loop *x, uint64_t after_us);

/* When the earliest timer is due, by the queue's clock. */
static uint64_t timer_after_us(const struct sim_loop *x)
{
    uint64_t due_us = x->loop.heap[0]->due_ms * MS, now_us = clock_monotonic_us();
    return due_us > now_us ? due_us - now_us : 0;
}

static void on_turn(struct world_event *e)
{
    struct sim_loop *x = container_of(e, struct sim_loop, turn);
    struct loop *l = &x->loop;
    if (x->node->stalled == l && W->queue.now < x->node->stall_until) {
        sim_queue_add(&W->queue, &e->timed, x->node->stall_until);
        return;
    }
    W->turning = l;
    x->now_ms = clock_monotonic_ms();
    timer_run_due(l);
    world_stream_deliver(l);
    loop_deliver_mail(l);
    bool is_idle = loop_settle(l);
    W->turning = NULL;
    if (!is_idle || atomic_load(&l->mailbox) || !list_is_empty(&x->ready))
        wake_at(x, 1);
    else if (l->n_timers)
        wake_at(x, timer_after_us(x));
}

static void wake_at(struct sim_loop *x, uint64_t after_us)
{
    uint64_t at = W->queue.now + after_us;
    if (!x->is_started || x->turn.life != x->node->life)
        return;
    if (sim_queue_has(&x->turn.timed) && x->turn.timed.at <= at)
        return;
    sim_queue_add(&W->queue, &x->turn.timed, at);
}

/* As the scheduler has it. */
static uint64_t draw_latency(void)
{
    uint64_t us = 2 + draw(40);
    return draw(500) ? us : us + draw(20 * MS);
}

void world_loop_wake(struct loop *l)
{
    if (W->turning != l)
        wake_at(sim(l), draw_latency());
}

int loop_new(struct loop **out, const char *name, struct log *log)
{
    struct sim_loop *x = aligned_alloc(64, (sizeof(*x) + 63) / 64 * 64);
    memset(x, 0, sizeof(*x));
    x->loop.log = log;
    snprintf(x->loop.name, sizeof(x->loop.name), "%s", name);
    list_init(&x->loop.hooks);
    list_init(&x->loop.deferred);
    list_init(&x->ready);
    x->node = W->current;
    x->turn = (struct world_event){
        .node = x->node, .life = x->node->life, .tag = (unsigned)name[0], .fire = on_turn};
    *out = &x->loop;
    return 0;
}

int loop_start_thread(struct loop *l)
{
    sim(l)->is_started = true;
    wake_at(sim(l), draw_latency());
    return 0;
}

/* A process of the simulation ends as a whole, and its loops with it. */
static void never(const char *what)
{
    world_bad("%s: a node of the simulation does not stop in order", what);
    abort();
}

void loop_free(struct loop *l)
{
    /* Of a replica that could not be opened. */
    sim(l)->is_started = false;
}

void loop_run(struct loop *l)
{
    never("loop_run");
}

void loop_stop(struct loop *l)
{
    never("loop_stop");
}

void loop_join_thread(struct loop *l)
{
    never("loop_join_thread");
}

bool loop_is_current(const struct loop *l)
{
    return !sim(l)->is_started || W->turning == l;
}

uint64_t loop_now_ms(const struct loop *l)
{
    return W->turning == l ? sim(l)->now_ms : clock_monotonic_ms();
}

struct uv_loop_s *loop_uv(struct loop *l)
{
    return NULL;
}

struct log *loop_log(struct loop *l)
{
    return l->log;
}

void loop_post(struct loop *l, struct letter *letter)
{
    letter->next = atomic_load(&l->mailbox);
    atomic_store(&l->mailbox, letter);
    world_loop_wake(l);
}

/* ---- the pool ---- */

struct pool_work {
    struct world_event event;
    struct letter letter;
    struct loop *loop;
    struct work *work;
};

static void on_work_done(struct letter *letter)
{
    struct pool_work *p = container_of(letter, struct pool_work, letter);
    struct work *w = p->work;
    mem_free(p);
    w->handle = NULL;
    w->done(w);
}

static void on_work(struct world_event *e)
{
    struct pool_work *p = container_of(e, struct pool_work, event);
    p->work->work(p->work);
    p->letter = (struct letter){.deliver = on_work_done};
    loop_post(p->loop, &p->letter);
}

void loop_run_work(struct loop *l, struct work *w)
{
    struct pool_work *p = mem_new(struct pool_work);
    p->loop = l;
    p->work = w;
    w->handle = p;
    world_schedule(&p->event, sim(l)->node, 'w', 100 + draw(sim(l)->node->disk_us + 1), on_work);
}
