/* Timers in an intrusive binary heap, driven by one uv timer per loop. */
#include "base/loop_impl.h"
#include <assert.h>

static bool is_before(const struct timer *a, const struct timer *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->seq < b->seq;
}

static void put(struct loop *l, unsigned i, struct timer *t)
{
    l->heap[i] = t;
    t->slot = i + 1;
}

static void sift_up(struct loop *l, unsigned i, struct timer *t)
{
    while (i > 0) {
        unsigned parent = (i - 1) / 2;
        if (!is_before(t, l->heap[parent]))
            break;
        put(l, i, l->heap[parent]);
        i = parent;
    }
    put(l, i, t);
}

static void sift_down(struct loop *l, unsigned i, struct timer *t)
{
    for (unsigned child; (child = 2 * i + 1) < l->n_timers; i = child) {
        if (child + 1 < l->n_timers && is_before(l->heap[child + 1], l->heap[child]))
            child++;
        if (!is_before(l->heap[child], t))
            break;
        put(l, i, l->heap[child]);
    }
    put(l, i, t);
}

static void insert(struct loop *l, struct timer *t)
{
    if (l->n_timers == l->heap_cap) {
        l->heap_cap = l->heap_cap ? 2 * l->heap_cap : 64;
        l->heap = mem_realloc(l->heap, l->heap_cap * sizeof(*l->heap));
    }
    t->seq = ++l->timer_seq;
    sift_up(l, l->n_timers++, t);
}

void timer_init(struct timer *t, struct loop *l, void (*fn)(struct timer *t))
{
    *t = (struct timer){.fn = fn, .loop = l};
}

void timer_start(struct timer *t, unsigned after_ms, unsigned repeat_ms)
{
    struct loop *l = t->loop;
    assert(loop_is_current(l));
    timer_stop(t);
    t->due_ms = loop_now_ms(l) + after_ms;
    t->repeat_ms = repeat_ms;
    insert(l, t);
}

void timer_stop(struct timer *t)
{
    if (t->slot == 0)
        return;
    struct loop *l = t->loop;
    assert(loop_is_current(l));
    unsigned i = t->slot - 1;
    assert(i < l->n_timers && l->heap[i] == t);
    t->slot = 0;
    struct timer *last = l->heap[--l->n_timers];
    if (last == t)
        return;
    if (i > 0 && is_before(last, l->heap[(i - 1) / 2]))
        sift_up(l, i, last);
    else
        sift_down(l, i, last);
}

bool timer_is_on(const struct timer *t)
{
    return t->slot != 0;
}

void timer_run_due(struct loop *l)
{
    uint64_t now = loop_now_ms(l);
    /* A timer started from here on waits for the next turn, even with after_ms 0. */
    uint64_t last_seq = l->timer_seq;
    while (l->n_timers) {
        struct timer *t = l->heap[0];
        if (t->due_ms > now || t->seq > last_seq)
            break;
        timer_stop(t);
        if (t->repeat_ms) {
            t->due_ms += t->repeat_ms;
            if (t->due_ms <= now) /* late by a whole period: no burst to catch up */
                t->due_ms = now + t->repeat_ms;
            insert(l, t);
        }
        t->fn(t);
    }
}

static void on_clock(uv_timer_t *handle)
{
    struct loop *l = handle->data;
    l->armed_ms = 0;
    timer_run_due(l);
}

void timer_arm(struct loop *l)
{
    uint64_t due = l->n_timers ? l->heap[0]->due_ms : 0;
    if (due == l->armed_ms)
        return;
    l->armed_ms = due;
    if (due == 0) {
        uv_timer_stop(&l->clock);
        return;
    }
    uint64_t now = uv_now(&l->uv);
    uv_timer_start(&l->clock, on_clock, due > now ? due - now : 0, 0);
}
