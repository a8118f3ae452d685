/* The features of a node: the IM core on its shards, XMPP, user sync. */
#include "base/admission.h"
#include "base/release.h"
#include "cluster/certs.h"
#include "im/homes.h"
#include "node/auth.h"
#include "node/node_impl.h"
#include "node/sync_glue.h"
#include "node/xmpp_glue.h"
#include "protocols/xmpp/c2s_edge.h"
#include "protocols/xmpp/component.h"
#include "protocols/xmpp/web.h"
#include "protocols/xmpp/xmpp.h"
#include "replication/levels.h"
#include <stdio.h>

/* What the edges' secret is derived for: salts of users that do not exist, tokens for fast log-ins. */
#define EDGE_SECRET "imp salts of users that do not exist"

/* ---- what the IM core rests on: any thread ---- */

static int submit(void *user, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                  proposal_done_fn *on_done, void *done_user)
{
    struct node *n = user;
    return proposal_submit(n->replica, command, loop, timeout_ms, on_done, done_user);
}

static void add_feed(void *user, struct loop *loop, const struct feed_handler *handler, void *feed_user)
{
    struct node *n = user;
    replica_add_feed(n->replica, loop, handler, feed_user);
}

static void follow(void *user, struct loop *loop, bool on)
{
    struct node *n = user;
    replica_follow(n->replica, loop, on);
}

static uint64_t lease_until(void *user, uint64_t epoch)
{
    struct node *n = user;
    return replica_lease_until_in(n->replica, epoch);
}

static int send_frame(void *user, uint32_t node, enum link_frame type, const void *data, size_t n_bytes)
{
    struct node *n = user;
    return link_send(n->links, node, type, data, n_bytes);
}

static bool is_congested(void *user, uint32_t node)
{
    struct node *n = user;
    return link_is_congested(n->links, node);
}

static bool is_up(void *user, uint32_t node)
{
    struct node *n = user;
    return link_is_up(n->links, node);
}

/* ---- services ---- */

/* Sessions exist while both run: the engine behind them and the way in. */
static void set_serving(struct node *n)
{
    im_set_serving(n->im, n->im_serving && n->xmpp_serving);
}

static int start_presence_engine(void *user, struct err_ctx *err)
{
    struct node *n = user;
    (void)err;
    n->im_serving = true;
    set_serving(n);
    return 0;
}

static void stop_presence_engine(void *user)
{
    struct node *n = user;
    n->im_serving = false;
    set_serving(n);
}

/* Clients must not see a certificate that is not their domain's: a new cluster signs one first, and who was
 * away while the keys were changed waits for the new one. */
static bool has_certificate(struct node *n)
{
    return certs_has_default(control_read(n)) && n->certs_found.has_default;
}

static int start_xmpp(void *user, struct err_ctx *err)
{
    struct node *n = user;
    n->xmpp_wanted = true;
    if (!has_certificate(n))
        return err_set(err, ERR_AGAIN, "waits for the domain's certificate");
    n->xmpp_serving = true;
    set_serving(n);
    return 0;
}

static void stop_xmpp(void *user)
{
    struct node *n = user;
    n->xmpp_wanted = n->xmpp_serving = false;
    set_serving(n);
}

static int start_sync(void *user, struct err_ctx *err)
{
    struct node *n = user;
    (void)err;
    sync_glue_set_active(n->sync, true);
    return 0;
}

static void stop_sync(void *user)
{
    struct node *n = user;
    sync_glue_set_active(n->sync, false);
}

static int start_components(void *user, struct err_ctx *err)
{
    struct node *n = user;
    (void)err;
    components_set_serving(n->components, true);
    return 0;
}

static void stop_components(void *user)
{
    struct node *n = user;
    components_set_serving(n->components, false);
}

/* ---- life ---- */

static void make_sync(struct node *n)
{
    n->sync = sync_glue_new(&(struct sync_glue_options){
        .loop = n->loop,
        .log = log_category(n->log_root, "sync"),
        .replica = n->replica,
        .reader = n->reader,
        .seal = &n->ring,
        .alarms = n->alarms,
        .node_id = n->id.node,
        .node_name = n->id.name,
    });
}

static int make_im(struct node *n, struct err_ctx *err)
{
    int rc = im_new(&n->im,
                    &(struct im_options){
                        .node_id = n->id.node,
                        .n_shards = n->config.shards,
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
                    },
                    err);
    if (rc)
        return rc;
    im_set_serving(n->im, false);
    im_attach_links(n->im, n->links);
    n->homes = homes_new(&(struct homes_options){.im = n->im, .loop = n->loop, .links = n->links});
    rc = xmpp_new(
        &n->xmpp,
        &(struct xmpp_options){.im = n->im, .admin = xmpp_glue_admin, .admin_user = n, .links = n->links},
        err);
    if (rc)
        return rc;
    char address[64];
    config_listen_address(&n->config, &n->config.listen_components, address);
    const struct config_listen *l = &n->config.listen_components;
    n->components = components_new(&(struct components_options){
        .xmpp = n->xmpp, .address = address, .port = l->off || n->config.witness ? -1 : (int)l->port});
    return 0;
}

static struct c2s_listen listen_of(struct node *n, const struct config_listen *l, char address[64])
{
    config_listen_address(&n->config, l, address);
    return (struct c2s_listen){.address = address, .port = l->off ? -1 : (int)l->port};
}

static struct store_txn *read_store(void *user)
{
    return control_read(user);
}

static void make_web(struct node *n)
{
    const struct config *c = &n->config;
    n->web = web_new(&(struct web_options){
        .loop = n->loop,
        .edge = n->edge,
        .metrics = &n->metrics,
        .log = log_category(n->log_root, "xmpp"),
        .node_name = n->id.name,
        .public_name = *c->public_name ? c->public_name : c->address,
        .https_port = c->listen_https.port,
        .read = read_store,
        .user = n,
    });
}

/* Until a cluster has the settings, everybody may come as fast as before. */
static void read_admission(struct node *n)
{
    struct arena a;
    struct store_txn *t = control_read(n);
    if (!n->members || n->members->level < LEVEL_3)
        return;
    arena_init(&a);
    admission_set(n->admission, (unsigned)setting_int(t, n->id.name, SETTING_LIMIT_NEW_CONNECTIONS),
                  setting_string(t, n->id.name, SETTING_LIMIT_NEW_CONNECTIONS_EXEMPT, &a));
    arena_fini(&a);
}

static int make_edge(struct node *n, struct err_ctx *err)
{
    char address[2][64];
    n->auth = auth_new(&(struct auth_options){
        .loop = n->loop,
        .log = log_category(n->log_root, "auth"),
        .reader = n->reader,
        .seal = &n->ring,
        .node_name = n->id.name,
    });
    if (n->config.witness)
        return 0; /* no client ever comes */
    struct c2s_edge_options o = {
        .starttls = listen_of(n, &n->config.listen_xmpp, address[0]),
        .direct_tls = listen_of(n, &n->config.listen_xmpps, address[1]),
        .node_name = n->id.name,
        .admission = n->admission,
        .check_password = auth_check_password,
        .user = n->auth,
    };
    seal_derive(o.secret, &n->ring, EDGE_SECRET);
    int rc = c2s_edge_new(&n->edge, n->im, &o, c2s_hand_over, err);
    mem_wipe(o.secret, sizeof(o.secret));
    if (!rc)
        make_web(n);
    return rc;
}

void feature_new_key(struct node *n)
{
    uint8_t secret[32];
    if (!n->edge)
        return;
    seal_derive(secret, &n->ring, EDGE_SECRET);
    c2s_edge_set_secret(n->edge, secret);
    mem_wipe(secret, sizeof secret);
}

int feature_start(struct node *n, struct err_ctx *err)
{
    n->admission = admission_new(log_category(n->log_root, "xmpp"), &n->metrics);
    health_start(n);
    make_sync(n);
    services_set_functions(n->services, SERVICE_SYNC_AGENT, start_sync, stop_sync, n);
    services_set_functions(n->services, SERVICE_PRESENCE_ENGINE, start_presence_engine, stop_presence_engine,
                           n);
    services_set_functions(n->services, SERVICE_XMPP, start_xmpp, stop_xmpp, n);
    services_set_functions(n->services, SERVICE_COMPONENTS, start_components, stop_components, n);
    int rc = make_im(n, err);
    return rc ? rc : make_edge(n, err);
}

int feature_begin(struct node *n, struct err_ctx *err)
{
    return im_start(n->im, err);
}

void feature_stop(struct node *n)
{
    services_stop_all(n->services, clock_wall_ms());
    im_stop(n->im);
}

void feature_on_change(struct node *n, unsigned dirty)
{
    if (dirty & DIRTY_MEMBERS)
        sync_glue_members_changed(n->sync, n->members);
    if (dirty & DIRTY_SETTINGS) {
        sync_glue_settings_changed(n->sync);
        auth_settings_changed(n->auth);
        xmpp_glue_settings_changed(n);
    }
    if (dirty & (DIRTY_SETTINGS | DIRTY_MEMBERS)) {
        health_settings_changed(n);
        read_admission(n);
    }
}

void feature_set_certs(struct node *n)
{
    health_set_certs(n);
    if (!n->edge || !has_certificate(n))
        return;
    c2s_edge_set_sni(n->edge, n->client_sni);
    if (n->xmpp_wanted && !n->xmpp_serving) {
        n->xmpp_serving = true;
        set_serving(n);
        services_set_started(n->services, SERVICE_XMPP, clock_wall_ms());
    }
}
