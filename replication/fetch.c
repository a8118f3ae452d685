/* A replica whose store is damaged: it neither opens store nor log, takes no part in Raft (to the others it
 * is down) and does nothing but take a fresh copy from a member that lets it. Its log and its vote stay
 * untouched on disk, so nothing is forgotten that it has acknowledged. Whether it may is for the member that
 * is asked to say (replication.auto_repair, or a person): our own tables cannot be asked. */
#include "base/htab.h"
#include "replication/install.h"
#include "replication/replica_impl.h"
#include <stdio.h>
#include <string.h>

static void on_frame(void *user, uint32_t node, enum conn_frame type, const uint8_t *body, size_t n_bytes)
{
    /* The leader does not know that there is nobody at home. */
}

static void on_link(void *user, uint32_t node, bool is_up)
{
}

static void on_peer_seen(void *user, uint32_t node)
{
}

static void on_copy(void *user, struct conn *c)
{
    conn_abort(c);
}

static bool is_removed(void *user, uint32_t node)
{
    return false;
}

static const struct transport_ops ops = {
    on_frame, on_link, on_peer_seen, on_copy, is_removed, replica_on_second_copy, replica_on_removed};

static void on_tick(struct timer *t)
{
    struct replica *r = container_of(t, struct replica, tick);
    install_tick(r, replica_now_ms(r));
    struct replica_status s = {.installing = true, .is_fenced = true};
    install_progress(r, &s);
    pthread_mutex_lock(&r->status_lock);
    r->published = s;
    pthread_mutex_unlock(&r->status_lock);
}

/* The copy must reach the begin of our log: nothing may be missing between them. */
static int wanted_index(const struct replica *r, uint64_t *out, struct err_ctx *err)
{
    struct disk *disk = NULL;
    struct rlog *log = NULL;
    struct err_ctx fatal = {0};
    int code = install_open_log(&log, &disk, r->dir, &fatal, err);
    if (code != 0)
        return code;
    *out = rlog_first(log) - 1;
    rlog_close(log);
    disk_close_directory(disk);
    return 0;
}

int replica_fetch(struct replica **out, const struct replica_options *o, struct loop *loop,
                  const struct replica_address *peers, unsigned n, const char *damage, struct err_ctx *err)
{
    struct transport_peer list[TRANSPORT_MAX_PEERS];
    struct replica *r = replica_new(o);
    uint64_t wanted = 0;
    int code = wanted_index(r, &wanted, err);
    if (code != 0) {
        replica_free(r);
        return code;
    }
    r->loop = loop;
    r->is_fenced = true;
    r->damage = mem_strdup(damage);
    struct transport_config config = {.loop = loop,
                                      .log = r->log,
                                      .tls = o->tls_client,
                                      .identify = replica_identify,
                                      .identify_user = r,
                                      .ops = &ops,
                                      .user = r};
    memcpy(config.hello.cluster_id, o->cluster_id, 16);
    memcpy(config.hello.nonce, o->start_nonce, 16);
    config.hello.node = o->node_id;
    config.hello.purpose = CONN_MESSAGES;
    snprintf(config.hello.release, sizeof(config.hello.release), "%s", r->release);
    r->transport = transport_new(&config);
    for (unsigned i = 0; i < n && i < TRANSPORT_MAX_PEERS; i++)
        list[i] = (struct transport_peer){
            .node = peers[i].node, .address = peers[i].address, .port = peers[i].port};
    transport_set_peers(r->transport, list, n < TRANSPORT_MAX_PEERS ? n : TRANSPORT_MAX_PEERS);
    timer_init(&r->tick, loop, on_tick);
    timer_start(&r->tick, REPLICA_TICK_MS, REPLICA_TICK_MS);
    r->is_running = true;
    install_begin(r, wanted, true);
    *out = r;
    return 0;
}
