/* One node: what node/node.c does around node/boot.c, and stand-ins for the parts of node/ that would touch
 * the machine. */
#include "world.h"

#include "base/release.h"
#include "cluster/identity.h"
#include "cluster/plane.h"
#include "im/homes.h"
#include "node/sync_glue.h"
#include "protocols/xmpp/xmpp.h"
#include "replication/disk.h"
#include "replication/replica_impl.h"
#include "storage/scrubber.h"
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

/* ---- the disk of the log ---- */

int disk_open_directory(struct disk **out, const char *dir, struct err_ctx *err)
{
    *out = &W->current->disk.disk;
    return 0;
}

void disk_close_directory(struct disk *d)
{
    (void)d;
}

/* Segments of 16 MiB are for machines. */
WRAP(int, rlog_open, struct rlog **out, const struct rlog_config *config, struct err_ctx *err)
{
    struct rlog_config small = *config;
    small.segment_bytes = 48 << 10;
    small.batch_bytes = 24 << 10;
    small.cache_bytes = 8 << 10;
    small.ballast_bytes = 0;
    return __real_rlog_open(out, &small, err);
}

/* Of the real machine's file system nothing may depend. */
int statvfs(const char *path, struct statvfs *out)
{
    *out = (struct statvfs){.f_frsize = 4096, .f_blocks = 1 << 24, .f_bavail = 1 << 23};
    return 0;
}

static int no_sync(void *user, int fd)
{
    (void)user, (void)fd;
    return 0;
}

static void on_log_event(struct world_event *e)
{
    struct world_node *n = e->node;
    struct rlog *l = n->node->replica->rlog;
    n->is_log_scheduled = false;
    /* Writing and syncing are two events, so that a crash can come between them. */
    if (!n->is_log_writing && rlog_has_work(l)) {
        rlog_write_begin(l);
        n->is_log_writing = true;
        n->is_log_scheduled = true;
        world_schedule(&n->log_event, n, 'l', 50 + draw(n->disk_us), on_log_event);
        return;
    }
    if (n->is_log_writing) {
        n->is_log_writing = false;
        rlog_write_finish(l);
    }
    if (rlog_has_work(l))
        world_node_log_work(n);
}

void world_node_log_work(void *user)
{
    struct world_node *n = user;
    if (n->is_log_scheduled)
        return;
    n->is_log_scheduled = true;
    world_schedule(&n->log_event, n, 'l', 5 + draw(60), on_log_event);
}

/* ---- the apply thread, and the store's own ---- */

static void on_apply_event(struct world_event *e)
{
    struct world_node *n = e->node;
    n->is_apply_scheduled = false;
    if (!apply_step(n->node->replica->apply, chance(50) ? 1 : 1 + (unsigned)draw(16)))
        return;
    check_applied(n);
    n->is_apply_scheduled = true;
    world_schedule(&n->apply_event, n, 'a', 20 + draw(draw(50) ? 200 : 20 * MS), on_apply_event);
}

static void on_apply_work(void *user)
{
    struct world_node *n = user;
    if (n->is_apply_scheduled)
        return;
    n->is_apply_scheduled = true;
    world_schedule(&n->apply_event, n, 'a', 20 + draw(draw(50) ? 200 : 20 * MS), on_apply_event);
}

static void on_point_event(struct world_event *e)
{
    struct world_node *n = e->node;
    struct err_ctx err = {0};
    if (replica_applied_index(n->node->replica) > store_durable_index(n->node->store) &&
        store_make_point(n->node->store, &err))
        world_bad("node %u: a durable point: %s", n->id, err.text);
    world_schedule(&n->point_event, n, 's', 200 * MS + draw(2500 * MS), on_point_event);
}

/* ---- parts of node/ that only touch the machine, or clients ---- */

void node_fatal(struct node *n, bool again, const char *text)
{
    (void)n;
    world_die(again, text);
}
void node_notify(struct node *n, const char *format, ...)
{
    (void)n, (void)format;
}
int node_tls_load(struct node *n, struct err_ctx *err)
{
    n->tls_raft = world_tls(PLANE_RAFT_ALPN);
    n->tls_link = world_tls(LINK_ALPN);
    n->tls_server = world_tls("");
    return 0;
}
void node_tls_on_ca(struct node *n)
{
    (void)n;
}
void node_tls_on_certs(struct node *n)
{
    (void)n;
}
void node_tls_check(struct node *n)
{
    (void)n;
}
void node_tls_propose_default(struct node *n)
{
    (void)n;
}
void keys_start(struct node *n)
{
    (void)n;
}
void keys_step(struct node *n, uint64_t now_ms)
{
    (void)n, (void)now_ms;
}
void keys_current(const struct node *n, uint8_t id[SEAL_KEY_ID_BYTES])
{
    (void)n;
    memset(id, 0, SEAL_KEY_ID_BYTES);
}
int keys_begin(void *node, uint8_t key_id[SEAL_KEY_ID_BYTES], struct err_ctx *err)
{
    (void)node, (void)key_id;
    return err_set(err, ERR_UNSUPPORTED, "nodes of the simulation have no keys");
}
int identity_read_cert(struct identity_cert *out, const char *cert_pem, struct err_ctx *err)
{
    memset(out, 0, sizeof(*out));
    return 0;
}
int admin_open(struct admin **out, const struct admin_env *env, struct err_ctx *err)
{
    *out = NULL;
    return 0;
}
void admin_close(struct admin *admin)
{
    (void)admin;
}
int scrubber_start(struct scrubber **out, struct store *s, unsigned round_s,
                   void (*on_round)(void *user, unsigned n_bad, const char *text), void *user,
                   struct err_ctx *err)
{
    *out = NULL;
    return 0;
}
bool sync_glue_is_configured(struct sync_glue *g)
{
    (void)g;
    return false;
}
bool sync_glue_first_sync_done(struct sync_glue *g)
{
    (void)g;
    return false;
}
void sync_glue_set_current(struct sync_glue *g, bool current)
{
    (void)g, (void)current;
}
struct sync_agent *sync_glue_agent(struct sync_glue *g)
{
    (void)g;
    return NULL;
}

/* ---- in place of node/feature.c: the IM core, and of the protocols what is behind a log-in by XMPP ---- */

static int submit(void *user, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                  proposal_done_fn *on_done, void *done_user)
{
    return proposal_submit(((struct node *)user)->replica, command, loop, timeout_ms, on_done, done_user);
}
static void add_feed(void *user, struct loop *loop, const struct feed_handler *handler, void *feed_user)
{
    replica_add_feed(((struct node *)user)->replica, loop, handler, feed_user);
}
static void follow(void *user, struct loop *loop, bool on)
{
    replica_follow(((struct node *)user)->replica, loop, on);
}
static uint64_t lease_until(void *user, uint64_t epoch)
{
    return replica_lease_until_in(((struct node *)user)->replica, epoch);
}
static int send_frame(void *user, uint32_t node, enum link_frame type, const void *data, size_t n_bytes)
{
    return link_send(((struct node *)user)->links, node, type, data, n_bytes);
}
static bool is_congested(void *user, uint32_t node)
{
    return link_is_congested(((struct node *)user)->links, node);
}
static bool is_up(void *user, uint32_t node)
{
    return link_is_up(((struct node *)user)->links, node);
}

static int start_engine(void *user, struct err_ctx *err)
{
    struct node *n = user;
    (void)err;
    n->im_serving = n->xmpp_serving = true;
    im_set_serving(n->im, true);
    return 0;
}
static void stop_engine(void *user)
{
    struct node *n = user;
    n->im_serving = n->xmpp_serving = false;
    im_set_serving(n->im, false);
}

int feature_start(struct node *n, struct err_ctx *err)
{
    struct im_options o = {
        .node_id = n->id.node,
        .n_shards = 1,
        .release = release_name(),
        .store = n->store,
        .backend = {.user = n,
                    .submit = submit,
                    .add_feed = add_feed,
                    .follow = follow,
                    .lease_until = lease_until,
                    .link_send = send_frame,
                    .link_is_congested = is_congested,
                    .link_is_up = is_up},
        .log = n->log_root,
        .metrics = &n->metrics,
    };
    services_set_functions(n->services, SERVICE_PRESENCE_ENGINE, start_engine, stop_engine, n);
    int rc = im_new(&n->im, &o, err);
    if (rc)
        return rc;
    im_set_serving(n->im, false);
    im_attach_links(n->im, n->links);
    n->homes = homes_new(&(struct homes_options){.im = n->im, .loop = n->loop, .links = n->links});
    if (!(W->options & WORLD_PHONES))
        return 0;
    return xmpp_new(&n->xmpp, &(struct xmpp_options){.im = n->im, .links = n->links}, err);
}
int feature_begin(struct node *n, struct err_ctx *err)
{
    return im_start(n->im, err);
}
void feature_new_key(struct node *n)
{
    (void)n;
}

void feature_stop(struct node *n)
{
    (void)n;
}
void feature_on_change(struct node *n, unsigned dirty)
{
    (void)n, (void)dirty;
}

/* ---- the store and the replica of a simulation: no threads, little space ---- */

WRAP(int, store_open, struct store **out, const struct store_options *options, struct err_ctx *err)
{
    static const struct store_faults faults = {.sync = no_sync};
    struct store_options o = *options;
    o.map_bytes = 64 << 20;
    o.manual_points = true;
    o.faults = &faults;
    return __real_store_open(out, &o, err);
}

WRAP(int, replica_open, struct replica **out, const struct replica_options *options, struct err_ctx *err)
{
    struct world_node *m = W->current;
    struct replica_options o = *options;
    m->stepper = (struct replica_stepper){world_node_log_work, on_apply_work, m};
    o.stepper = &m->stepper;
    o.log_keep_bytes = 4096 << draw(5);
    return __real_replica_open(out, &o, err);
}

/* ---- a start ---- */

static struct node *make_node(struct world_node *m)
{
    struct node *n = mem_new(struct node);
    n->options.notify_fd = -1;
    config_init(&n->config);
    snprintf(n->config.name, sizeof(n->config.name), "%s", m->name);
    snprintf(n->config.address, sizeof(n->config.address), "10.0.0.%u", m->host);
    n->config.listen_cluster.port = WORLD_PORT;
    n->config.shards = 1;
    n->config.witness = m->is_witness;
    memcpy(n->id.cluster_id, W->cluster_id, 16);
    n->id.node = m->id;
    snprintf(n->id.name, sizeof(n->id.name), "%s", m->name);
    snprintf(n->dir.path, sizeof(n->dir.path), "%s", m->dir);
    random_bytes(n->start_nonce, 16);
    n->log_root = W->trace > 1 ? log_new(1, LOG_TEXT, LOG_INFO, m->name) : NULL;
    n->log = log_category(n->log_root, "node");
    return n;
}

static void on_boot(struct world_event *e)
{
    struct world_node *m = container_of(e, struct world_node, boot);
    struct err_ctx err = {0};
    if (m->is_alive || m->is_removed || !m->is_member)
        return;
    W->current = m;
    m->life++;
    m->is_alive = true;
    m->is_off = m->was_released = false;
    m->listener = NULL;
    m->is_log_writing = m->is_log_scheduled = m->is_apply_scheduled = false;
    m->stalled = NULL;
    m->committed_before = W->committed;
    m->started = W->queue.now;
    mkdir(m->dir, 0700);
    m->node = make_node(m);
    int rc = loop_new(&m->node->loop, "control", m->node->log);
    if (!rc)
        rc = boot_start(m->node, &err);
    if (rc) {
        if (!m->disk.has_failed)
            world_bad("node %u does not start: %s", m->id, *err.text ? err.text : err_text(rc));
        world_die(true, *err.text ? err.text : err_text(rc));
    }
    m->look = store_reader_new(m->node->store);
    loop_start_thread(m->node->loop);
    world_schedule(&m->point_event, m, 's', 200 * MS + draw(2500 * MS), on_point_event);
    world_say("node %u starts, life %u: applied %llu, log %llu..%llu", m->id, m->life,
              (unsigned long long)replica_applied_index(m->node->replica),
              (unsigned long long)rlog_first(m->node->replica->rlog),
              (unsigned long long)rlog_last(m->node->replica->rlog));
}

void world_node_boot(struct world_node *n, uint64_t after_us)
{
    if (!sim_queue_has(&n->boot.timed))
        world_schedule(&n->boot, NULL, 'b', after_us, on_boot);
}

/* What the process held stays in memory, unreachable for everything that happens; but the store's file is
 * unmapped. */
void world_node_end(struct world_node *n, bool power)
{
    if (!n->is_alive)
        return;
    n->is_alive = false;
    n->listener = NULL;
    n->is_off = power;
    if (n->paused_until > W->queue.now && n->is_suspended)
        n->suspended_us -= n->paused_until - W->queue.now;
    n->paused_until = 0;
    n->life++;
    world_streams_end(n, power);
    client_process_ended(n);
    if (n->node->store)
        store_close_dirty(n->node->store);
    n->node = NULL;
    if (power)
        sim_disk_lose_power(&n->disk);
}

void world_node_init(struct world_node *n, uint32_t id)
{
    n->id = id;
    snprintf(n->dir, sizeof(n->dir), "%s/%u", W->root, id);
    n->disk_us = 2 * MS;
    n->clock_base_us = draw(1000) * 3600 * SECOND + draw(SECOND);
    n->wall_offset_ms = (int64_t)draw(400) - 200;
    sim_disk_init(&n->disk, W->seed * 64 + id);
    n->disk.ignores_syncs = world_has(MUTATION_SYNC_IGNORED);
}

/* The hash of its public key: that of the one process which was made for the address. */
void world_key_of(unsigned host, uint8_t out[32])
{
    memset(out, 0, 32);
    memcpy(out, &host, sizeof(host));
    memcpy(out + 16, W->cluster_id, 16);
}

/* ---- the first of them ---- */

#define BYTES(p, n) ((ProtobufCBinaryData){(n), (uint8_t *)(p)})

void world_node_make_cluster(void)
{
    static const uint8_t sealed[32] = "the key of the authority, sealed";
    struct world_node *m = &W->nodes[1];
    snprintf(m->name, sizeof(m->name), "n1");
    uint8_t key[32];
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    Imp__CaRow ca = IMP__CA_ROW__INIT;
    Imp__Bootstrap body = IMP__BOOTSTRAP__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    struct err_ctx err = {0};
    node.id = 1;
    node.name = m->name;
    node.address = node.public_name = (char *)"10.0.0.1";
    node.cluster_port = WORLD_PORT;
    node.xmpp_port = 5222;
    node.release = (char *)release_name();
    node.state = IMP__NODE_STATE__NODE_MEMBER;
    world_key_of(1, key);
    node.public_key_hash = BYTES(key, 32);
    ca.cert_pem = (char *)"CERTIFICATE";
    ca.sealed_key = BYTES(sealed, 32);
    ca.active = true;
    body.cluster_id = BYTES(W->cluster_id, 16);
    body.domain = (char *)"example.com";
    body.node = &node;
    body.ca = &ca;
    command.time_ms = 1900000000000ull;
    command.body_case = IMP__COMMAND__BODY_BOOTSTRAP;
    command.bootstrap = &body;
    W->current = m;
    if (replica_bootstrap(m->dir, &command, &err))
        world_bad("bootstrap: %s", err.text);
    W->current = NULL;
    world_node_add(1, 1, "n1");
}

void world_node_add(uint32_t id, unsigned host, const char *name)
{
    struct world_node *n = &W->nodes[id];
    n->is_member = true;
    n->host = host;
    snprintf(n->name, sizeof(n->name), "%s", name);
    W->hosts[host] = id;
    if (id > W->n_nodes)
        W->n_nodes = id;
}

/* ---- looking at them ---- */

struct world_node *world_leader(void)
{
    struct world_node *leader = NULL;
    for (uint32_t id = 1; id <= W->n_nodes; id++) {
        struct world_node *n = &W->nodes[id];
        if (n->is_alive && driver_get_role(n->node->replica->driver) == DRIVER_LEADER &&
            (!leader ||
             driver_get_term(n->node->replica->driver) > driver_get_term(leader->node->replica->driver)))
            leader = n;
    }
    return leader;
}

unsigned world_n_alive(void)
{
    unsigned n = 0;
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        n += W->nodes[id].is_alive;
    return n;
}
