/* What node links bring, from the control loop to the shards. */
#include "im/im_impl.h"
#include "im/link_frames.h"
#include "im/presence.h"
#include "im/router.h"

void im_on_envelope(void *user, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes)
{
    struct im *im = user;
    struct envelope *e;
    if (envelope_decode(&e, data, n_bytes) < 0 || !e->to_uid || e->flags & ENVELOPE_BROADCAST) {
        log_warning(im->log, "node %u sent an envelope that cannot be read", from_node);
        return;
    }
    e->from_node = from_node;
    e->epoch = epoch;
    e->epoch_here = atomic_load_explicit(&im->epoch, memory_order_relaxed);
    router_post(im_shard_of(im, e->to_uid), e);
}

struct sync_end {
    uint32_t node, generation;
    uint16_t sender;
};

static void on_sync_end(void *arg, struct shard *s)
{
    struct sync_end *end = arg;
    presence_sync_end(s, end->node, end->sender, end->generation);
    mem_free(end);
}

void im_on_presence(void *user, uint32_t from_node, uint64_t epoch, const uint8_t *data, size_t n_bytes)
{
    struct im *im = user;
    struct reader r;
    reader_init(&r, data, n_bytes);
    uint8_t kind = read_u8(&r);
    uint16_t sender = read_u16(&r);
    uint32_t generation = read_u32(&r);
    if (!r.failed && kind == PRESENCE_FRAME_END) {
        for (unsigned i = 0; i < im->n; i++) {
            struct sync_end *end = mem_new(struct sync_end);
            *end = (struct sync_end){from_node, generation, sender};
            shard_call(&im->shards[i], on_sync_end, end);
        }
        return;
    }
    struct envelope *e;
    if (r.failed || kind != PRESENCE_FRAME_RESOURCE || envelope_decode(&e, r.p, reader_left(&r)) < 0) {
        log_warning(im->log, "node %u sent a presence that cannot be read", from_node);
        return;
    }
    e->from_node = from_node;
    e->epoch = epoch;
    e->epoch_here = atomic_load_explicit(&im->epoch, memory_order_relaxed);
    e->sender = sender;
    e->generation = generation;
    e->flags |= ENVELOPE_BROADCAST;
    router_post(im_shard_of(im, e->from_uid), e);
}

static void on_shard_link_up(void *arg, struct shard *s)
{
    router_link_up(s, (uint32_t)(uintptr_t)arg);
    outside_link_up(s, (uint32_t)(uintptr_t)arg);
}

static void on_shard_link_down(void *arg, struct shard *s)
{
    router_link_down(s, (uint32_t)(uintptr_t)arg);
}

/* What it has told of its components it tells again when its next session begins. */
static void on_shard_link_in_down(void *arg, struct shard *s)
{
    outside_link_in_down(s, (uint32_t)(uintptr_t)arg);
}

void im_on_link_up(void *user, uint32_t node, uint64_t epoch)
{
    struct im *im = user;
    (void)epoch;
    for (unsigned i = 0; i < im->n; i++)
        shard_call(&im->shards[i], on_shard_link_up, (void *)(uintptr_t)node);
}

void im_on_link_down(void *user, uint32_t node)
{
    struct im *im = user;
    for (unsigned i = 0; i < im->n; i++)
        shard_call(&im->shards[i], on_shard_link_down, (void *)(uintptr_t)node);
}

void im_on_link_in_down(void *user, uint32_t node)
{
    struct im *im = user;
    for (unsigned i = 0; i < im->n; i++)
        shard_call(&im->shards[i], on_shard_link_in_down, (void *)(uintptr_t)node);
}

void im_attach_links(struct im *im, struct links *links)
{
    links_handle(links, LINK_ENVELOPE, im_on_envelope, im);
    links_handle(links, LINK_PRESENCE, im_on_presence, im);
    links_handle(links, LINK_OUTSIDE, outside_on_frame, im);
    links_watch(links, im_on_link_up, im_on_link_down, im);
    links_watch_in(links, im_on_link_in_down, im);
}
