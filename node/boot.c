/* The steps of a start, in order, and their undoing in reverse. */
#include "base/release.h"
#include "node/admin_backup.h"
#include "node/enrol.h"
#include "node/node_impl.h"
#include "node/peers.h"
#include "node/sync_glue.h"
#include <stdio.h>
#include <string.h>

static bool is_removed(void *user, uint32_t node)
{
    struct node *n = user;
    struct key k;
    if (replica_applied_index(n->replica) < n->fence_index && node != n->id.node)
        return true; /* a recovery that is not applied yet */
    key_init(&k);
    key_u32(&k, node);
    return store_has(control_read(n), TABLE_NODE_TOMBSTONE, &k);
}

static void on_raft(void *user, struct stream *s, uint32_t node)
{
    struct node *n = user;
    member_manager_seen(n->manager, node);
    replica_accept(n->replica, s, node);
}

static void on_link(void *user, struct stream *s, uint32_t node)
{
    struct node *n = user;
    links_accept(n->links, s, node);
}

static void on_join(void *user, struct stream *s)
{
    struct node *n = user;
    join_server_accept(n->join, s, n->cert_pem);
}

static const uint8_t *key_of(void *user, uint32_t node)
{
    static const uint8_t none[32];
    struct node *n = user;
    const struct member *m = members_find(n->members, node);
    return m && memcmp(m->key_hash, none, sizeof(none)) != 0 ? m->key_hash : NULL;
}

static void on_seen(void *user, uint32_t node)
{
    struct node *n = user;
    member_manager_seen(n->manager, node);
}

static void read_member_settings(void *user, struct member_settings *out)
{
    struct node *n = user;
    struct store_txn *t = control_read(n);
    out->replace_after_s = (unsigned)setting_int(t, NULL, SETTING_REPLACE_VOTER_AFTER);
    out->move_publisher = setting_bool(t, NULL, SETTING_PUBLISHER_MOVE);
    out->move_after_s = (unsigned)setting_int(t, NULL, SETTING_PUBLISHER_MOVE_AFTER);
}

static bool identify(void *user, const struct tls_peer *peer, uint32_t *node)
{
    struct node *n = user;
    return !identity_claimed_by_peer(node, peer, n->id.cluster_id, NULL);
}

static void on_store_fatal(void *user, int code, const char *detail)
{
    struct node *n = user;
    char text[400];
    if (code == ERR_CORRUPT)
        repair_on_store_fatal(n, detail && *detail ? detail : err_text(code));
    snprintf(text, sizeof(text), "the store failed: %s", detail && *detail ? detail : err_text(code));
    node_fatal(n, true, text);
}

struct removed_letter {
    struct letter letter;
    struct node *node;
};

static void drop_removed(struct letter *letter)
{
    mem_free(container_of(letter, struct removed_letter, letter));
}

static void take_removed(struct letter *letter)
{
    struct node *n = container_of(letter, struct removed_letter, letter)->node;
    drop_removed(letter);
    n->was_told_removed = true;
    control_step(n);
}

/* Raft thread. */
static void on_removed(void *user, uint32_t by)
{
    struct node *n = user;
    struct removed_letter *x = mem_new(struct removed_letter);
    log_error(n->log, "node %u says that this node was removed from the cluster", by);
    *x = (struct removed_letter){{NULL, take_removed, drop_removed}, n};
    loop_post(n->loop, &x->letter);
}

static void on_replica_fatal(void *user, bool again, const char *text)
{
    node_fatal(user, again, text);
}

/* ---- steps ---- */

static int start_store(struct node *n, struct err_ctx *err)
{
    int rc = replica_finish_install(n->dir.path, log_category(n->log_root, "replication"), err);
    if (rc)
        return rc;
    repair_start(n);
    const char *damage = repair_known(n);
    if (damage)
        return repair_run(n, damage, err);
    char dir[DATADIR_PATH_MAX + 16];
    snprintf(dir, sizeof(dir), "%s/store", n->dir.path);
    rc = store_open(&n->store,
                    &(struct store_options){.dir = dir,
                                            .log = log_category(n->log_root, "storage"),
                                            .metrics = &n->metrics,
                                            .on_fatal = on_store_fatal,
                                            .user = n},
                    err);
    if (rc != ERR_CORRUPT)
        return rc;
    char text[256];
    snprintf(text, sizeof(text), "%s", err->text);
    return repair_run(n, text, err);
}

static int start_replica(struct node *n, struct err_ctx *err)
{
    int rc = peers_read_hints(n, &n->hints, err);
    if (rc)
        return rc;
    peers_load(n);
    enrol_address(&n->config, n->address);
    struct replica_options o = {
        .dir = n->dir.path,
        .node_id = n->id.node,
        .release = release_name(),
        .store = n->store,
        .tls_client = n->tls_raft,
        .identify = identify,
        .known = n->peers->list,
        .n_known = n->peers->n,
        .hints = n->hints->list,
        .n_hints = n->hints->n,
        .address = n->address,
        .port = (uint16_t)n->config.listen_cluster.port,
        .log = log_category(n->log_root, "replication"),
        .metrics = &n->metrics,
        .fence_index = n->fence_index,
        .on_removed = on_removed,
        .on_tables_differ = duties_on_tables_differ,
        .on_tables_equal = repair_on_tables_equal,
        .on_peer_damaged = repair_on_peer_damaged,
        .on_fatal = on_replica_fatal,
        .user = n,
    };
    memcpy(o.cluster_id, n->id.cluster_id, 16);
    memcpy(o.start_nonce, n->start_nonce, 16);
    config_election(&n->config, &o.election_ms, &o.heartbeat_ms);
    return replica_open(&n->replica, &o, err);
}

static void stop_replica(struct node *n)
{
    replica_stop(n->replica);
}

static int start_links(struct node *n, struct err_ctx *err)
{
    struct links_options lo = {
        .loop = n->loop,
        .log = log_category(n->log_root, "link"),
        .metrics = &n->metrics,
        .node_id = n->id.node,
        .release = release_name(),
        .tls_client = n->tls_link,
        .on_seen = on_seen,
        .key_of = key_of,
        .user = n,
    };
    memcpy(lo.cluster_id, n->id.cluster_id, 16);
    memcpy(lo.start_nonce, n->start_nonce, 16);
    n->links = links_new(&lo);
    n->join = join_server_new(&(struct join_server_options){
        .loop = n->loop,
        .log = log_category(n->log_root, "join"),
        .replica = n->replica,
        .reader = n->reader,
        .seal = &n->ring,
        .cluster_id = n->id.cluster_id,
        .release = release_name(),
    });
    n->manager = member_manager_new(&(struct member_manager_options){
        .loop = n->loop,
        .log = log_category(n->log_root, "members"),
        .replica = n->replica,
        .node_id = n->id.node,
        .on_trouble = duties_on_trouble,
        .read_settings = read_member_settings,
        .user = n,
    });
    keys_start(n);
    return 0;
}

static int start_plane(struct node *n, struct err_ctx *err)
{
    char address[64];
    config_listen_address(&n->config, &n->config.listen_cluster, address);
    struct plane_options o = {
        .loop = n->loop,
        .log = log_category(n->log_root, "cluster"),
        .metrics = &n->metrics,
        .address = address,
        .port = n->config.listen_cluster.port,
        .tls = n->tls_server,
        .on_raft = on_raft,
        .on_link = on_link,
        .on_join = on_join,
        .is_removed = is_removed,
        .key_of = key_of,
        .user = n,
    };
    memcpy(o.cluster_id, n->id.cluster_id, 16);
    return plane_open(&n->plane, &o, err);
}

static void stop_plane(struct node *n)
{
    plane_close(n->plane);
    n->plane = NULL;
}

static int start_admin(struct node *n, struct err_ctx *err)
{
    struct identity_cert ca;
    if (identity_read_cert(&ca, n->ca_pem, err))
        return ERR_CORRUPT;
    n->admin_env = (struct admin_env){
        .loop = n->loop,
        .log_root = n->log_root,
        .replica = n->replica,
        .links = n->links,
        .reader = n->reader,
        .seal = &n->ring,
        .services = n->services,
        .repair = n->repair,
        .watcher = &n->watcher,
        .alone = &n->alone,
        .was_removed = &n->was_told_removed,
        .begin_keys = keys_begin,
        .node = n,
        .sync = sync_glue_agent(n->sync),
        .im = n->im,
        .store = n->store,
        .backups = admin_backups_new(),
        .node_id = n->id.node,
        .node_name = n->id.name,
        .data_dir = n->dir.path,
    };
    memcpy(n->ca_fingerprint, ca.fingerprint, 32); /* until the store has been read */
    n->admin_env.ca_fingerprint = n->ca_fingerprint;
    return admin_open(&n->admin, &n->admin_env, err);
}

static void stop_admin(struct node *n)
{
    admin_backups_free(n->admin_env.backups);
    admin_close(n->admin);
    datadir_remove(&n->dir, "admin.sock");
}

static int begin_replica(struct node *n, struct err_ctx *err)
{
    int rc = replica_start(n->replica, err);
    if (!rc)
        control_begin(n);
    return rc;
}

static void remove_pid(struct node *n)
{
    datadir_remove(&n->dir, "worker.pid");
}

static int nothing(struct node *n, struct err_ctx *err)
{
    (void)n, (void)err;
    return 0;
}

static const struct step {
    const char *name;
    int (*start)(struct node *n, struct err_ctx *err);
    void (*stop)(struct node *n);
} steps[] = {
    {"pid file", nothing, remove_pid},
    {"certificates", node_tls_load, NULL},
    {"store", start_store, NULL}, /* closed by replica_stop */
    {"replication", start_replica, stop_replica},
    {"control", control_start, control_stop},
    {"links", start_links, NULL},
    {"features", feature_start, NULL},
    {"admin", start_admin, stop_admin},
    {"replica", begin_replica, NULL},
    {"scrub", duties_start_scrub, duties_stop_scrub},
    {"cluster port", start_plane, stop_plane},
    {"shards", feature_begin, feature_stop},
};

int boot_start(struct node *n, struct err_ctx *err)
{
    for (size_t i = 0; i < n_elements(steps); i++) {
        log_debug(n->log, "start: %s", steps[i].name);
        int rc = steps[i].start(n, err);
        if (rc)
            return err_prefix(err, rc, "%s", steps[i].name);
    }
    return 0;
}

void boot_stop(struct node *n)
{
    for (size_t i = n_elements(steps); i-- > 0;) {
        if (!steps[i].stop)
            continue;
        log_debug(n->log, "stop: %s", steps[i].name);
        steps[i].stop(n);
    }
}
