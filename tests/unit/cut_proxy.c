#include "cut_proxy.h"

#include "base/mem.h"
#include "base/stream.h"
#include <assert.h>
#include <stdatomic.h>

enum { HIGH_WATER = 4 << 20, LOW_WATER = 1 << 20 };

struct cut_proxy {
    struct loop *loop;
    struct listener *listener;
    unsigned port;
    size_t cut_after;
    atomic_uint n_cut;
    struct list pairs;
};

struct side {
    struct pair *pair;
    struct stream *s; /* NULL: closed */
    struct side *other;
};
struct pair {
    struct list link;
    struct cut_proxy *p;
    struct side sides[2];
    size_t n_bytes;
};

static void cut(struct pair *x)
{
    for (unsigned i = 0; i < 2; i++)
        if (x->sides[i].s)
            stream_abort(x->sides[i].s);
}

static void on_open(void *user)
{
}

static void on_data(void *user, const uint8_t *data, size_t n_bytes)
{
    struct side *from = user;
    struct pair *x = from->pair;
    x->n_bytes += n_bytes;
    if (x->n_bytes > x->p->cut_after) {
        atomic_fetch_add(&x->p->n_cut, 1);
        cut(x);
    } else if (from->other->s) {
        stream_write(from->other->s, data, n_bytes);
        if (stream_queued(from->other->s) > HIGH_WATER)
            stream_pause(from->s);
    }
}

static void on_drain(void *user)
{
    struct side *to = user;
    if (to->other->s)
        stream_resume(to->other->s);
}

static void on_close(void *user, int code, const char *detail)
{
    struct side *side = user;
    side->s = NULL;
    if (side->other->s) {
        stream_close(side->other->s);
        return;
    }
    list_remove(&side->pair->link);
    mem_free(side->pair);
}

static const struct stream_events events = {
    .on_open = on_open, .on_data = on_data, .on_drain = on_drain, .on_close = on_close};

static void on_accept(void *user, int fd)
{
    struct cut_proxy *p = user;
    struct pair *x = mem_new(struct pair);
    x->p = p;
    list_append(&p->pairs, &x->link);
    for (unsigned i = 0; i < 2; i++)
        x->sides[i] = (struct side){.pair = x, .other = &x->sides[!i]};
    x->sides[0].s = stream_new(p->loop, fd, &events, &x->sides[0]);
    x->sides[1].s = stream_connect(p->loop, "127.0.0.1", p->port, 5000, &events, &x->sides[1]);
    for (unsigned i = 0; i < 2; i++)
        stream_set_water(x->sides[i].s, LOW_WATER, HIGH_WATER);
}

struct cut_proxy *cut_proxy_new(struct loop *l, unsigned port, size_t cut_after)
{
    struct cut_proxy *p = mem_new(struct cut_proxy);
    struct err_ctx err = {0};
    p->loop = l;
    p->port = port;
    p->cut_after = cut_after;
    list_init(&p->pairs);
    int code = listener_open(&p->listener, l, "127.0.0.1", 0, false, on_accept, p, &err);
    assert(code == 0);
    (void)code;
    return p;
}

unsigned cut_proxy_port(const struct cut_proxy *p)
{
    return listener_port(p->listener);
}

unsigned cut_proxy_n_cut(const struct cut_proxy *p)
{
    return atomic_load(&((struct cut_proxy *)p)->n_cut);
}

void cut_proxy_close(struct cut_proxy *p)
{
    struct pair *x;
    listener_close(p->listener);
    list_for_each(x, &p->pairs, struct pair, link) cut(x);
}

void cut_proxy_free(struct cut_proxy *p)
{
    mem_free(p);
}
