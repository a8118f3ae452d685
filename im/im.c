#include "base/clock.h"
#include "im/strangers.h"
#include "im/im_impl.h"
#include <stdio.h>
#include <unistd.h>

enum { MAX_SHARDS = 64 };

int im_new(struct im **out, const struct im_options *o, struct err_ctx *err)
{
    long n_cores = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned n = o->n_shards ? o->n_shards : n_cores > 0 ? (unsigned)n_cores : 1;
    if (n > MAX_SHARDS)
        n = MAX_SHARDS;
    struct im *im = mem_zalloc(sizeof *im + n * sizeof(struct shard));
    im->options = *o;
    im->log = log_category(o->log, "im");
    im->homes_log = log_category(o->log, "homes");
    snprintf(im->origin, sizeof im->origin, "%u.%016llx", o->node_id, (unsigned long long)random_u64());
    atomic_store(&im->serving, true);
    im_add_hook(im, &strangers_hook);
    for (; im->n < n; im->n++) {
        int rc = shard_init(&im->shards[im->n], im, im->n, err);
        if (rc < 0) {
            im_free(im);
            return rc;
        }
    }
    *out = im;
    return 0;
}

int im_start(struct im *im, struct err_ctx *err)
{
    for (unsigned i = 0; i < im->n; i++)
        if (shard_start(&im->shards[i]) < 0)
            return err_set(err, ERR_SYSTEM, "cannot start the thread of shard %u", i);
    im->started = true;
    return 0;
}

void im_stop(struct im *im)
{
    if (!im->started)
        return;
    for (unsigned i = 0; i < im->n; i++)
        shard_begin_stop(&im->shards[i]);
    for (unsigned i = 0; i < im->n; i++)
        loop_join_thread(im->shards[i].loop);
    im->started = false;
}

void im_free(struct im *im)
{
    if (!im)
        return;
    for (unsigned i = 0; i < im->n; i++)
        shard_fini(&im->shards[i]);
    mem_free(im);
}

unsigned im_n_shards(const struct im *im)
{
    return im->n;
}

struct shard *im_shard(const struct im *im, unsigned index)
{
    return (struct shard *)&im->shards[index];
}

struct shard *im_shard_of(const struct im *im, uint64_t uid)
{
    /* uids are consecutive: spread them by a multiplicative hash, so that no pattern of names meets one
     * shard. */
    return im_shard(im, (unsigned)((uid * UINT64_C(0x9e3779b97f4a7c15) >> 32) % im->n));
}

uint32_t im_node_id(const struct im *im)
{
    return im->options.node_id;
}

const char *im_release(const struct im *im)
{
    return im->options.release;
}

const struct im_backend *im_backend(const struct im *im)
{
    return &im->options.backend;
}

struct metrics *im_metrics(const struct im *im)
{
    return im->options.metrics;
}

struct log *im_log(const struct im *im)
{
    return im->options.log;
}

void im_set_serving(struct im *im, bool serving)
{
    atomic_store(&im->serving, serving);
}

bool im_is_serving(const struct im *im)
{
    return atomic_load_explicit(&im->serving, memory_order_relaxed);
}
