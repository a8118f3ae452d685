#include "im/fan_out.h"
#include "im/im_impl.h"
#include <string.h>

struct batch {
    struct letter letter;
    struct shard *shard;
    struct envelope *envelope;
    fan_out_fn *fn;
    unsigned n;
    uint64_t uids[];
};

static void free_batch(struct batch *b)
{
    envelope_free(b->envelope);
    mem_free(b);
}

static void discard(struct letter *letter)
{
    free_batch(container_of(letter, struct batch, letter));
}

static void deliver(struct letter *letter)
{
    struct batch *b = container_of(letter, struct batch, letter);
    b->fn(b->shard, b->uids, b->n, b->envelope);
    free_batch(b);
}

static void post(struct shard *to, const uint64_t *uids, unsigned n, const struct envelope *e, fan_out_fn *fn)
{
    struct batch *b = mem_zalloc(sizeof *b + n * sizeof *b->uids);
    b->letter.deliver = deliver;
    b->letter.discard = discard;
    b->shard = to;
    b->envelope = envelope_copy(e, NULL);
    b->fn = fn;
    b->n = n;
    memcpy(b->uids, uids, n * sizeof *uids);
    loop_post(to->loop, &b->letter);
}

void fan_out(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e, fan_out_fn *fn)
{
    struct im *im = s->im;
    if (!n)
        return;
    uint64_t *mine = mem_alloc(n * sizeof *mine);
    for (unsigned k = 0; k < im->n; k++) {
        struct shard *to = &im->shards[k];
        unsigned n_mine = 0;
        for (unsigned i = 0; i < n; i++)
            if (im_shard_of(im, uids[i]) == to)
                mine[n_mine++] = uids[i];
        if (n_mine && to == s)
            fn(s, mine, n_mine, e);
        else if (n_mine)
            post(to, mine, n_mine, e, fn);
    }
    mem_free(mine);
}
