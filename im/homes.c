#include "im/homes.h"
#include "base/clock.h"
#include "im/im_impl.h"
#include "im/router.h"
#include "im/user.h"

struct homes {
    struct homes_options options;
    struct handover handover;
    unsigned n_answers[N_HANDOVER_PHASES];
    uint64_t answer_index; /* the highest of the shards' answers */
};

/* ---- shard ---- */

struct answer {
    struct letter letter;
    struct homes *to;
    enum handover_phase phase;
    uint64_t index;
};

static void take_answer(struct letter *letter)
{
    struct answer *a = container_of(letter, struct answer, letter);
    struct homes *h = a->to;
    if (a->index > h->answer_index)
        h->answer_index = a->index;
    if (++h->n_answers[a->phase] == im_n_shards(h->options.im))
        handover_answered(&h->handover, loop_now_ms(h->options.loop), a->phase, h->answer_index);
    mem_free(a);
}

static void drop_answer(struct letter *letter)
{
    mem_free(container_of(letter, struct answer, letter));
}

static bool is_met(struct shard *s, enum handover_phase phase)
{
    if (s->feed_index < s->asks[phase].index)
        return false;
    return phase == HANDOVER_ROUTED || (user_have_left(s) && !router_holds_strays(s));
}

static void answer_asks(struct shard *s)
{
    for (int phase = 0; phase < N_HANDOVER_PHASES; phase++) {
        struct homes *h = s->asks[phase].from;
        if (!h || !is_met(s, phase))
            continue;
        s->asks[phase].from = NULL;
        struct answer *a = mem_new(struct answer);
        *a = (struct answer){{NULL, take_answer, drop_answer}, h, phase, s->feed_index};
        loop_post(h->options.loop, &a->letter);
    }
}

bool homes_raise_floor(struct shard *s)
{
    if (s->floor == s->next_floor || s->applied_index < s->floor_at)
        return s->floor == s->next_floor;
    s->floor = s->next_floor;
    return true;
}

/* Does something wait for a log index? Then the feed has to tell of each, also where no row has changed. */
static void follow(struct shard *s)
{
    const struct im_backend *b = im_backend(s->im);
    bool on = router_is_holding(s) || s->floor != s->next_floor;
    for (int phase = 0; phase < N_HANDOVER_PHASES; phase++)
        on |= s->asks[phase].from && s->asks[phase].index > s->feed_index;
    if (on == s->follows)
        return;
    s->follows = on;
    b->follow(b->user, s->loop, on);
}

static void on_settle(struct deferred *d)
{
    struct shard *s = container_of(d, struct shard, settle);
    if (s->feed_index < s->feed_seen)
        s->feed_index = s->feed_seen;
    homes_raise_floor(s);
    router_advance(s);
    struct shard_watcher *w;
    list_for_each(w, &s->watchers, struct shard_watcher, link) if (w->on_homes) w->on_homes(w);
    answer_asks(s);
    follow(s);
}

void homes_shard_init(struct shard *s)
{
    list_init(&s->leaving);
    list_init(&s->settle.link);
    s->settle.fn = on_settle;
    s->floor = s->next_floor = UINT64_MAX; /* until there is a struct homes */
}

void homes_touch(struct shard *s)
{
    if (list_is_empty(&s->settle.link))
        loop_defer(s->loop, &s->settle);
}

/* ---- control loop ---- */

struct call {
    struct homes *from;
    enum handover_phase phase;
    uint64_t index, at;
};

static void on_ask(void *arg, struct shard *s)
{
    struct call *c = arg;
    s->asks[c->phase] = (struct homes_ask){c->from, c->index};
    homes_touch(s);
    mem_free(c);
}

static void on_floor(void *arg, struct shard *s)
{
    struct call *c = arg;
    homes_raise_floor(s); /* the one before may count by now */
    s->next_floor = c->index;
    s->floor_at = c->at;
    homes_touch(s);
    mem_free(c);
}

static void call_shards(struct homes *h, void (*fn)(void *arg, struct shard *s), enum handover_phase phase,
                        uint64_t index, uint64_t at)
{
    for (unsigned i = 0; i < im_n_shards(h->options.im); i++) {
        struct call *c = mem_new(struct call);
        *c = (struct call){h, phase, index, at};
        shard_call(im_shard(h->options.im, i), fn, c);
    }
}

static void ask(void *user, enum handover_phase phase, uint64_t index)
{
    struct homes *h = user;
    h->n_answers[phase] = 0;
    if (phase == HANDOVER_RELEASED)
        h->answer_index = 0;
    call_shards(h, on_ask, phase, index, 0);
}

static int send_frame(void *user, uint32_t node, const void *frame, size_t n_bytes)
{
    struct homes *h = user;
    const struct im_backend *b = im_backend(h->options.im);
    return b->link_send(b->user, node, LINK_MOVED, frame, n_bytes);
}

static bool hears(void *user, uint32_t node)
{
    struct homes *h = user;
    return h->options.links ? links_hears(h->options.links, node) : h->options.hears(h->options.user, node);
}

static void set_floor(void *user, uint64_t floor, uint64_t at)
{
    call_shards(user, on_floor, HANDOVER_ROUTED, floor, at);
}

struct homes *homes_new(const struct homes_options *o)
{
    struct homes *h = mem_new(struct homes);
    h->options = *o;
    handover_init(&h->handover, im_node_id(o->im),
                  &(struct handover_ops){ask, send_frame, hears, set_floor, h});
    for (unsigned i = 0; i < im_n_shards(o->im); i++)
        im_shard(o->im, i)->floor = im_shard(o->im, i)->next_floor = 0;
    if (o->links) {
        links_handle(o->links, LINK_MOVED, homes_on_frame, h);
        links_watch(o->links, homes_on_link_up, NULL, h);
    }
    return h;
}

void homes_free(struct homes *h)
{
    mem_free(h);
}

void homes_set_members(struct homes *h, const struct members *m)
{
    struct handover_node nodes[HANDOVER_MAX_NODES];
    size_t n = 0;
    for (unsigned i = 0; m && i < m->n && n < HANDOVER_MAX_NODES; i++)
        nodes[n++] = (struct handover_node){m->list[i].id, m->list[i].epoch, m->list[i].up,
                                            m->list[i].handing_over, m->list[i].up_index};
    handover_set_nodes(&h->handover, loop_now_ms(h->options.loop), nodes, n);
}

void homes_moved(struct homes *h, uint64_t index)
{
    handover_moved(&h->handover, loop_now_ms(h->options.loop), index);
}

uint64_t homes_asked_for(const struct homes *h)
{
    return h->handover.heard > h->handover.wanted ? h->handover.heard : 0;
}

void homes_set_epoch(struct homes *h, uint64_t epoch)
{
    atomic_store(&h->options.im->epoch, epoch);
    handover_set_epoch(&h->handover, epoch);
}

void homes_on_frame(void *homes, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes)
{
    struct homes *h = homes;
    handover_on_frame(&h->handover, loop_now_ms(h->options.loop), from_node, epoch, data, n_bytes);
}

void homes_on_link_up(void *homes, uint32_t node, uint64_t epoch)
{
    struct homes *h = homes;
    (void)epoch;
    handover_link_up(&h->handover, node);
}

void homes_tick(struct homes *h)
{
    handover_tick(&h->handover, loop_now_ms(h->options.loop));
}

bool homes_have_left(const struct homes *h, uint64_t index)
{
    return h->handover.released >= index;
}
