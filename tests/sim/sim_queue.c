#include "sim_queue.h"

#include "base/mem.h"

/* ---- randomness: xorshift64 (Marsaglia, "Xorshift RNGs") ---- */

void sim_random_init(struct sim_random *r, uint64_t seed)
{
    r->state = seed * 2654435761u + 88172645463325252u;
    for (unsigned i = 0; i < 10; i++)
        sim_random_u64(r);
}

uint64_t sim_random_u64(struct sim_random *r)
{
    r->state ^= r->state << 13;
    r->state ^= r->state >> 7;
    r->state ^= r->state << 17;
    return r->state;
}

uint64_t sim_random_below(struct sim_random *r, uint64_t n)
{
    return (sim_random_u64(r) >> 11) % n;
}

bool sim_random_chance(struct sim_random *r, unsigned per_million)
{
    return sim_random_below(r, 1000000) < per_million;
}

/* ---- the queue: a heap by time, then by the order put ---- */

static bool is_before(const struct sim_timed *a, const struct sim_timed *b)
{
    return a->at < b->at || (a->at == b->at && a->seq < b->seq);
}

static void place(struct sim_queue *q, size_t i, struct sim_timed *e)
{
    q->heap[i] = e;
    e->slot = i + 1;
}

static void sift_up(struct sim_queue *q, size_t i, struct sim_timed *e)
{
    for (; i > 0 && is_before(e, q->heap[(i - 1) / 2]); i = (i - 1) / 2)
        place(q, i, q->heap[(i - 1) / 2]);
    place(q, i, e);
}

static void sift_down(struct sim_queue *q, size_t i, struct sim_timed *e)
{
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= q->n)
            break;
        if (child + 1 < q->n && is_before(q->heap[child + 1], q->heap[child]))
            child++;
        if (!is_before(q->heap[child], e))
            break;
        place(q, i, q->heap[child]);
        i = child;
    }
    place(q, i, e);
}

void sim_queue_add(struct sim_queue *q, struct sim_timed *e, uint64_t at)
{
    sim_queue_remove(q, e);
    e->at = at < q->now ? q->now : at;
    e->seq = q->next_seq++;
    if (q->n == q->cap) {
        q->cap = q->cap ? 2 * q->cap : 256;
        q->heap = mem_realloc(q->heap, q->cap * sizeof(struct sim_timed *));
    }
    q->n++;
    sift_up(q, q->n - 1, e);
}

void sim_queue_remove(struct sim_queue *q, struct sim_timed *e)
{
    if (!e->slot)
        return;
    size_t i = e->slot - 1;
    struct sim_timed *last = q->heap[--q->n];
    e->slot = 0;
    if (last == e)
        return;
    if (i > 0 && is_before(last, q->heap[(i - 1) / 2]))
        sift_up(q, i, last);
    else
        sift_down(q, i, last);
}

struct sim_timed *sim_queue_first(const struct sim_queue *q)
{
    return q->n ? q->heap[0] : NULL;
}

struct sim_timed *sim_queue_pop(struct sim_queue *q, uint64_t until)
{
    struct sim_timed *e = sim_queue_first(q);
    if (!e || e->at > until) {
        if (until > q->now)
            q->now = until;
        return NULL;
    }
    sim_queue_remove(q, e);
    q->now = e->at;
    return e;
}

void sim_queue_fini(struct sim_queue *q)
{
    mem_free(q->heap);
    *q = (struct sim_queue){0};
}
