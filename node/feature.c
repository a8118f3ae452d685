/* The features of a node: the IM core on its shards, XMPP, user sync. */
#include "node/node_impl.h"
#include "node/sync_glue.h"

static int start_presence_engine(void *user, struct err_ctx *err)
{
    struct node *n = user;
    (void)err;
    n->im_serving = true;
    return 0;
}

static void stop_presence_engine(void *user)
{
    struct node *n = user;
    n->im_serving = false;
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

int feature_start(struct node *n, struct err_ctx *err)
{
    (void)err;
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
    services_set_functions(n->services, SERVICE_SYNC_AGENT, start_sync, stop_sync, n);
    services_set_functions(n->services, SERVICE_PRESENCE_ENGINE, start_presence_engine, stop_presence_engine,
                           n);
    return 0;
}

int feature_begin(struct node *n, struct err_ctx *err)
{
    (void)n, (void)err;
    return 0;
}

void feature_stop(struct node *n)
{
    services_stop_all(n->services, clock_wall_ms());
}

void feature_on_change(struct node *n, unsigned dirty)
{
    if (dirty & DIRTY_MEMBERS)
        sync_glue_members_changed(n->sync, n->members);
    if (dirty & DIRTY_SETTINGS)
        sync_glue_settings_changed(n->sync);
}

void feature_set_certs(struct node *n)
{
    (void)n;
}
