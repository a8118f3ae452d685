/* The control loop's view of the store: what changed, what follows from it, and the replication watcher. */
#include "base/release.h"
#include "im/homes.h"
#include "node/enrol.h"
#include "node/node_impl.h"
#include "node/peers.h"
#include "node/sync_glue.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    TICK_MS = 200,
    BARRIER_MS = 5000,
    PROGRESS_MS = 1000,
    UPDATE_RETRY_MS = 5000,
    HAND_OVER_MS = 5000,
    REMOVED_END_MS = 500
};

struct store_txn *control_read(struct node *n)
{
    return store_read_txn(n->reader);
}

int control_submit(struct node *n, Imp__Command *command, proposal_done_fn *on_done, void *user)
{
    return proposal_submit(n->replica, command, n->loop, 0, on_done, user);
}

const struct member *control_self(const struct node *n)
{
    return members_find(n->members, n->id.node);
}

bool control_is_publisher(const struct node *n)
{
    return n->members && n->members->publisher == n->id.node;
}

/* ---- changes of the store ---- */

static void on_members(struct node *n)
{
    struct members *old = n->members;
    n->members = members_read(control_read(n), store_reader_index(n->reader));
    n->was_member |= control_self(n) != NULL;
    member_manager_set_members(n->manager, n->members);
    links_set_members(n->links, n->members);
    homes_set_members(n->homes, n->members);
    level_on_members(n, old);
    peers_on_members(n);
    members_free(old);
}

static void on_services(struct node *n)
{
    bool witness = n->config.witness;
    for (int i = 0; i < N_SERVICES; i++) {
        struct arena a;
        arena_init(&a);
        struct key k;
        key_init(&k);
        key_u32(&k, n->id.node);
        key_str(&k, service_name((enum service_id)i));
        Imp__ServiceRow *row = store_find_row(control_read(n), TABLE_SERVICE, &k, &a);
        bool allowed = !witness || service_kind((enum service_id)i) == SERVICE_KIND_NETWORK;
        services_set_active(n->services, (enum service_id)i, allowed && (!row || row->active));
        arena_fini(&a);
    }
}

static void on_changed(struct deferred *d)
{
    struct node *n = container_of(d, struct node, changed);
    unsigned dirty = n->dirty;
    n->dirty = 0;
    store_reader_reset(n->reader);
    if (dirty & DIRTY_MEMBERS)
        on_members(n);
    if (n->homes_index == UINT64_MAX)
        n->homes_index = store_reader_index(n->reader);
    if (dirty & DIRTY_HOMES)
        homes_moved(n->homes, n->homes_index);
    if (dirty & DIRTY_SERVICES)
        on_services(n);
    if (dirty & DIRTY_CA)
        node_tls_on_ca(n);
    if (dirty & (DIRTY_CERTS | DIRTY_CA))
        node_tls_on_certs(n);
    feature_on_change(n, dirty);
    control_step(n);
}

void control_touch(struct node *n, unsigned dirty)
{
    n->dirty |= dirty;
    if (list_is_empty(&n->changed.link))
        loop_defer(n->loop, &n->changed);
}

static unsigned dirt_of(enum table table)
{
    switch (table) {
    case TABLE_NODE:
    case TABLE_CLUSTER:
        return DIRTY_MEMBERS | DIRTY_HOMES;
    case TABLE_USER:
        return DIRTY_HOMES;
    case TABLE_SERVICE:
        return DIRTY_SERVICES;
    case TABLE_SETTING:
        return DIRTY_SETTINGS;
    case TABLE_CERT:
    case TABLE_DOMAIN:
        return DIRTY_CERTS;
    case TABLE_CA:
        return DIRTY_CA;
    case TABLE_SYNC:
        return DIRTY_SYNC;
    default:
        return 0;
    }
}

static void on_events(void *user, const struct feed_event *events, size_t n_events, uint64_t applied_index)
{
    struct node *n = user;
    unsigned dirty = 0;
    /* who proposed reads its own write, also later in this turn */
    if (store_reader_index(n->reader) < applied_index)
        store_reader_reset(n->reader);
    for (size_t i = 0; i < n_events; i++)
        dirty |= dirt_of(events[i].table);
    if (dirty & DIRTY_HOMES && n->homes_index != UINT64_MAX)
        n->homes_index = applied_index;
    if (dirty)
        control_touch(n, dirty);
}

static void on_reload(void *user, uint64_t applied_index)
{
    struct node *n = user;
    (void)applied_index;
    n->homes_index = UINT64_MAX; /* batches behind it are not told: whatever is read now */
    control_touch(n, DIRTY_ALL);
}

static bool wants(void *user, enum table table, const struct key *key)
{
    (void)user, (void)key;
    return dirt_of(table) != 0;
}

static void on_replica_change(void *user)
{
    control_step(user);
}

/* ---- the watcher ---- */

static void on_barrier(void *user, int code, uint64_t index)
{
    struct node *n = user;
    n->barrier_in_flight = false;
    if (!code)
        n->barrier_index = index ? index : 1;
    control_step(n);
}

static void act_on_alarms(struct node *n, unsigned before)
{
    static const struct {
        unsigned bit;
        enum alarm_id id;
    } alarms[] = {
        {WATCHER_ALARM_DELAY, ALARM_REPLICATION_DELAY},
        {WATCHER_ALARM_SYNC, ALARM_SYNC_DELAY},
        {WATCHER_ALARM_TIMEOUT, ALARM_REPLICATION_TIMEOUT},
        {WATCHER_ALARM_MISMATCH, ALARM_RELEASE_MISMATCH},
    };
    const struct watcher *w = &n->watcher;
    for (size_t i = 0; i < n_elements(alarms); i++) {
        bool now = w->alarms & alarms[i].bit, was = before & alarms[i].bit;
        if (now && !was)
            alarms_raise(n->alarms, alarms[i].id, n->id.node, "feature services of %s: %s", n->id.name,
                         *w->reason ? w->reason : "started by watcher.timeout before replication was set up");
        if (!now && was)
            alarms_clear(n->alarms, alarms[i].id, n->id.node);
    }
}

void control_clear_delays(struct node *n)
{
    static const enum alarm_id all[] = {ALARM_REPLICATION_DELAY, ALARM_SYNC_DELAY, ALARM_RELEASE_MISMATCH};
    for (size_t i = 0; i < n_elements(all); i++)
        alarms_clear(n->alarms, all[i], n->id.node);
    if (!n->watcher.timed_out)
        alarms_clear(n->alarms, ALARM_REPLICATION_TIMEOUT, n->id.node);
}

/* Alarms that somebody else raised about us while we could not speak, or an earlier life of ours. */
static void clear_old_alarms(struct node *n)
{
    struct key k;
    key_init(&k);
    key_str(&k, alarm_name(ALARM_REPLICATION_DELAY));
    key_u32(&k, n->id.node);
    if (store_has(control_read(n), TABLE_ALARM_OPEN, &k))
        n->watcher.established = true;
    alarms_clear(n->alarms, ALARM_NODE_DOWN, n->id.node);
    alarms_clear(n->alarms, ALARM_QUORUM_LOST, n->id.node);
    control_clear_delays(n);
}

static void show_progress(struct node *n, uint64_t now_ms)
{
    if (watcher_is_released(&n->watcher) || now_ms < n->progress_ms + PROGRESS_MS)
        return;
    n->progress_ms = now_ms;
    const struct replica_status *st = &n->status;
    char text[REPLICA_INSTALL_TEXT + 32];
    char copy[REPLICA_INSTALL_TEXT];
    replica_install_text(st, copy, sizeof(copy));
    if (st->installing)
        snprintf(text, sizeof(text), "copy of the store: %s", copy);
    else
        snprintf(text, sizeof(text), "%s", n->watcher.reason);
    node_notify(n, "STATUS=%s", text);
    if (n->options.show_progress) {
        printf("%s\n", text);
        fflush(stdout);
    }
}

static void on_released(struct node *n)
{
    log_notice(n->log, "replication is set up: feature services start%s",
               n->watcher.timed_out ? " (watcher.timeout)" : "");
    if (n->options.show_progress) {
        printf("replication is set up\n");
        fflush(stdout);
    }
    clear_old_alarms(n);
    if (n->certs_found.incomplete)
        control_touch(n, DIRTY_CERTS); /* what is lost now is */
}

static void step_watcher(struct node *n, uint64_t now_ms)
{
    const struct replica_status *st = &n->status;
    const struct member *self = control_self(n);
    const struct member *publisher = n->members ? members_find(n->members, n->members->publisher) : NULL;
    if (!n->barrier_index && !n->barrier_in_flight && st->leader) {
        n->barrier_in_flight = true;
        replica_barrier(n->replica, n->loop, BARRIER_MS, on_barrier, n);
    }
    struct watcher_input in = {
        .now_ms = now_ms,
        .publisher = control_is_publisher(n),
        .witness = n->config.witness,
        .member_known = self != NULL,
        .registered = st->epoch && self && self->epoch == st->epoch,
        .installing = st->installing,
        .target_index = n->barrier_index,
        .applied_index = st->applied_index,
        .commit_index = st->commit_index,
        .leader_known = st->leader != 0,
        .sync_configured = sync_glue_is_configured(n->sync),
        .first_sync_done = sync_glue_first_sync_done(n->sync),
        .release = release_name(),
        .publisher_release = publisher && *publisher->release ? publisher->release : NULL,
        .timeout_s = (unsigned)setting_int(control_read(n), n->id.name, SETTING_WATCHER_TIMEOUT),
    };
    unsigned before = n->watcher.alarms;
    bool was_released = watcher_is_released(&n->watcher);
    if (watcher_step(&n->watcher, &in)) {
        if (!repair_is_damaged(n))
            services_set_released(n->services, watcher_is_released(&n->watcher), n->watcher.reason);
        if (!watcher_is_released(&n->watcher) && before != n->watcher.alarms)
            log_warning(n->log, "feature services are held back: %s", n->watcher.reason);
        act_on_alarms(n, before);
    }
    if (!was_released && watcher_is_released(&n->watcher) && !repair_is_damaged(n))
        on_released(n);
    if (n->watcher.established) {
        n->watcher.established = false;
        alarms_notice(n->alarms, ALARM_REPLICATION_ESTABLISHED, n->id.node, "replication of %s is set up",
                      n->id.name);
    }
    show_progress(n, now_ms);
}

/* ---- this node's own row: what the others are told, up or not ---- */

static void on_updated(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    n->update_in_flight = false;
    n->update_retry_ms = loop_now_ms(n->loop) + UPDATE_RETRY_MS;
    if (result->code && result->code != ERR_UNAVAILABLE && result->code != ERR_UNKNOWN_OUTCOME)
        log_warning(n->log, "the member table could not be updated: %s", result->text);
}

static void propose_update(struct node *n, const struct member *self)
{
    const struct config *c = &n->config;
    unsigned xmpp_port = c->listen_xmpp.off ? 0 : c->listen_xmpp.port;
    char address[CONFIG_TEXT_MAX + 1];
    snprintf(address, sizeof(address), "%s", *c->address == '[' ? c->address + 1 : c->address);
    if (*c->address == '[')
        address[strcspn(address, "]")] = '\0';
    const char *public_name = *c->public_name ? c->public_name : address;
    uint8_t key_id[SEAL_KEY_ID_BYTES];
    keys_current(n, key_id);
    if (!strcmp(self->address, address) && self->cluster_port == c->listen_cluster.port &&
        (!xmpp_port || self->xmpp_port == xmpp_port) && !strcmp(self->public_name, public_name) &&
        self->has_key && !memcmp(self->key_id, key_id, sizeof(key_id)) &&
        (!n->ca_generation || self->ca_generation == n->ca_generation))
        return;
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeUpdate update = IMP__NODE_UPDATE__INIT;
    update.node = n->id.node;
    update.address = address;
    update.cluster_port = c->listen_cluster.port;
    update.public_name = (char *)c->public_name;
    update.xmpp_port = xmpp_port;
    update.key_id = (ProtobufCBinaryData){sizeof(key_id), key_id};
    update.ca_generation = n->ca_generation;
    command.body_case = IMP__COMMAND__BODY_NODE_UPDATE;
    command.node_update = &update;
    n->update_in_flight = !control_submit(n, &command, on_updated, n);
}

static void on_up(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    n->up_in_flight = false;
    if (result->code && result->code != ERR_UNAVAILABLE)
        log_warning(n->log, "not up: %s",
                    result->text && *result->text ? result->text : err_text(result->code));
    control_step(n);
}

static void propose_up(struct node *n)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeUp up = IMP__NODE_UP__INIT;
    up.node = n->id.node;
    up.epoch = n->status.epoch;
    command.body_case = IMP__COMMAND__BODY_NODE_UP;
    command.node_up = &up;
    n->up_in_flight = !control_submit(n, &command, on_up, n);
}

static void on_left(void *user, const struct proposal_result *result)
{
    struct node *n = user;
    (void)result;
    n->left_in_flight = false;
    control_step(n);
}

/* Drained, and everybody is handed over: from here on nobody waits for this node, and it needs no lease. */
static void propose_left(struct node *n)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeLeft left = IMP__NODE_LEFT__INIT;
    left.node = n->id.node;
    left.epoch = n->status.epoch;
    command.body_case = IMP__COMMAND__BODY_NODE_LEFT;
    command.node_left = &left;
    n->left_in_flight = !control_submit(n, &command, on_left, n);
}

static void step_up(struct node *n)
{
    const struct member *self = control_self(n);
    if (n->epoch != n->status.epoch) {
        n->epoch = n->status.epoch;
        homes_set_epoch(n->homes, n->epoch);
        links_set_epoch(n->links, n->epoch);
    }
    bool current = self && n->status.epoch && self->epoch == n->status.epoch;
    bool wanted = n->im_serving && current && !self->drained && !self->witness;
    replica_want_lease(n->replica, current && (self->handing_over || (wanted && self->up)));
    if (!current)
        return;
    if (self->handing_over && !n->left_in_flight && homes_have_left(n->homes, self->up_index))
        propose_left(n);
    if (wanted && !self->up && !self->handing_over && !n->up_in_flight)
        propose_up(n);
    if (!n->update_in_flight && loop_now_ms(n->loop) >= n->update_retry_ms)
        propose_update(n, self);
}

/* As the shards do it: after 5 s without the lease clients are refused, and the outage is announced. */
static void check_outage(struct node *n)
{
    enum { REFUSE_MS = 5000 };
    const struct member *self = control_self(n);
    uint64_t now = clock_boot_ms();
    bool held = replica_lease_until(n->replica) > now;
    if (held || !self || !self->up) {
        n->no_lease_ms = n->outage_since_ms = 0;
        return;
    }
    if (!n->no_lease_ms)
        n->no_lease_ms = now;
    if (!n->outage_since_ms && now - n->no_lease_ms >= REFUSE_MS)
        n->outage_since_ms = clock_wall_ms() - REFUSE_MS;
}

static void tell_all_running(struct node *n)
{
    bool running = watcher_is_released(&n->watcher) && !strcmp(services_summary(n->services), "running");
    if (running && !n->all_running_told) {
        log_notice(n->log, "all services run");
        node_notify(n, "STATUS=all services run");
    }
    n->all_running_told = running;
}

/* A leader hands over before it goes (member_policy); an answer to who asked for it gets out. */
static void check_removed(struct node *n, uint64_t now_ms)
{
    if (!n->was_told_removed && (!n->was_member || control_self(n)))
        return;
    if (!n->removed_ms)
        n->removed_ms = now_ms;
    if (now_ms - n->removed_ms < (n->status.role == REPLICA_LEADER ? HAND_OVER_MS : REMOVED_END_MS))
        return;
    node_fatal(n, false,
               "this node was removed from the cluster. Its data directory is of no use any more: delete it, "
               "and join "
               "with an empty one to take part again");
}

/* The others are in the store as lost, durably: no start finds them as members again. */
static void end_fence(struct node *n)
{
    if (!n->fence_index || n->status.snapshot_index < n->fence_index)
        return;
    n->fence_index = 0;
    datadir_remove(&n->dir, ENROL_RECOVERED);
}

void control_step(struct node *n)
{
    if (n->stopping || !n->members)
        return;
    replica_get_status(n->replica, &n->status);
    check_removed(n, clock_monotonic_ms());
    end_fence(n);
    sync_glue_set_current(n->sync,
                          n->barrier_index && n->status.applied_index >= n->barrier_index && !n->alone);
    step_watcher(n, clock_monotonic_ms());
    services_step(n->services, clock_wall_ms());
    step_up(n);
    check_outage(n);
    tell_all_running(n);
}

/* ---- life ---- */

static void answer_homes(struct node *n)
{
    uint64_t index = homes_asked_for(n->homes);
    if (!index || n->stopping || !n->members)
        return;
    store_reader_reset(n->reader);
    control_read(n);
    if (store_reader_index(n->reader) < index)
        return;
    on_members(n); /* the rows as of then */
    homes_moved(n->homes, index);
}

static void on_tick(struct timer *t)
{
    struct node *n = container_of(t, struct node, tick);
    answer_homes(n);
    homes_tick(n->homes);
    control_step(n);
    duties_step(n, clock_monotonic_ms());
}

static void on_before_poll(struct loop_hook *hook)
{
    struct node *n = container_of(hook, struct node, before_poll);
    store_reader_reset(n->reader);
}

static int submit_alarm(void *user, Imp__Command *command, proposal_done_fn *on_done, void *done_user)
{
    return control_submit(user, command, on_done, done_user);
}

static bool is_alarm_open(void *user, const char *name, uint32_t node)
{
    struct key k;
    key_init(&k);
    key_str(&k, name);
    key_u32(&k, node);
    return store_has(control_read(user), TABLE_ALARM_OPEN, &k);
}

int control_start(struct node *n, struct err_ctx *err)
{
    (void)err;
    n->reader = store_reader_new(n->store);
    n->before_poll.fn = on_before_poll;
    loop_add_before_poll(n->loop, &n->before_poll);
    n->changed.fn = on_changed;
    list_init(&n->changed.link);
    timer_init(&n->tick, n->loop, on_tick);
    n->alarms = alarms_new(n->loop, log_category(n->log_root, "alarm"),
                           &(struct alarm_backend){n, submit_alarm, is_alarm_open});
    n->services = services_new(log_category(n->log_root, "service"));
    watcher_init(&n->watcher, clock_monotonic_ms());
    services_set_released(n->services, false, n->watcher.reason);
    static const struct feed_handler feed = {on_events, on_reload, wants};
    replica_add_feed(n->replica, n->loop, &feed, n);
    replica_on_change(n->replica, n->loop, on_replica_change, n);
    return 0;
}

void control_begin(struct node *n)
{
    on_members(n);
    n->homes_index = store_reader_index(n->reader); /* the shards begin at this index or later */
    on_services(n);
    timer_start(&n->tick, TICK_MS, TICK_MS);
    control_touch(n, DIRTY_ALL);
}

void control_stop(struct node *n)
{
    timer_stop(&n->tick);
    loop_cancel_deferred(&n->changed);
    loop_remove_before_poll(&n->before_poll);
    archive_trim_free(n->archive_trim);
    n->archive_trim = NULL;
    store_reader_free(n->reader);
}
