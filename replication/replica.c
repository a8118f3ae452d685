/* Opening, starting and stopping a replica, and what any thread may call. */
#include "replication/levels.h"
#include "replication/replica_impl.h"

#include "base/clock.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- bootstrap ---- */

static char *path(const char *dir, const char *name)
{
    return mem_printf("%s/%s", dir, name);
}

static void on_rlog_fatal(void *user, int code, const char *text)
{
    struct replica *r = user;
    replica_fatal(r, code != ERR_CORRUPT, "%s", text);
    log_fatal(r->log, "%s", text);
}

static void on_rlog_done(void *user)
{
    struct replica *r = user;
    kick(&r->log_kick);
}

static void on_log_work(void *user)
{
    const struct replica_stepper *s = ((struct replica *)user)->options.stepper;
    s->log_work(s->user);
}

static void on_apply_work(void *user)
{
    const struct replica_stepper *s = ((struct replica *)user)->options.stepper;
    s->apply_work(s->user);
}

struct blob *replica_offline_entry(const Imp__Command *command)
{
    Imp__Proposal proposal = IMP__PROPOSAL__INIT;
    Imp__Entry entry = IMP__ENTRY__INIT;
    Imp__Proposal *proposals[] = {&proposal};
    proposal.command = (Imp__Command *)command;
    entry.proposals = proposals;
    entry.n_proposals = 1;
    struct blob *b = blob_new(NULL, imp__entry__get_packed_size(&entry));
    imp__entry__pack(&entry, (uint8_t *)b->data);
    return b;
}

static void on_bootstrap_fatal(void *user, int code, const char *text)
{
    err_set(user, code, "%s", text);
}

static void on_bootstrap_done(void *user)
{
}

int replica_bootstrap(const char *dir, const Imp__Command *bootstrap, struct err_ctx *err)
{
    struct disk *disk = NULL;
    struct rlog *log = NULL;
    struct vote vote = {0};
    struct configuration conf = {0};
    char *log_dir = path(dir, "log");
    int code = disk_open_directory(&disk, log_dir, err);
    if (code != 0)
        goto out;
    struct rlog_config config = {.disk = disk,
                                 .salt = random_u64(),
                                 .on_done = on_bootstrap_done,
                                 .on_fatal = on_bootstrap_fatal,
                                 .user = err};
    if ((code = rlog_open(&log, &config, err)) != 0 || (code = vote_open(&vote, disk, err)) != 0)
        goto out;
    configuration_add(&conf, 1, CONFIGURATION_VOTER);
    struct blob *entry = replica_offline_entry(bootstrap);
    code = driver_bootstrap(log, &vote, &conf, &entry, 1, err);
    blob_unref(entry);
out:
    rlog_close(log);
    if (disk) {
        vote_close(&vote);
        disk_close_directory(disk);
    }
    mem_free(log_dir);
    return code;
}

/* ---- open ---- */

/* Before anything of this node runs or speaks. */
static int check_cluster(struct replica *r, struct err_ctx *err)
{
    struct arena arena;
    struct key key;
    int code = 0;
    arena_init(&arena);
    key_init(&key);
    const Imp__ClusterRow *row = store_find_row(store_read_txn(r->reader), TABLE_CLUSTER, &key, &arena);
    if (row && (row->cluster_id.len != 16 || memcmp(row->cluster_id.data, r->options.cluster_id, 16) != 0))
        code = err_set(err, ERR_CONFLICT,
                       "the data in %s belongs to another cluster than this node's certificate: give "
                       "the node its own data directory, or join it anew",
                       r->dir);
    else if (row)
        code = level_refuse(row->feature_level, err);
    arena_fini(&arena);
    store_reader_reset(r->reader);
    return code;
}

static int open_log(struct replica *r, struct err_ctx *err)
{
    char *log_dir = path(r->dir, "log");
    int code = disk_open_directory(&r->disk, log_dir, err);
    mem_free(log_dir);
    if (code != 0)
        return code;
    struct rlog_config config = {.disk = r->disk,
                                 .out = r->log,
                                 .ballast_bytes = 16 << 20,
                                 .salt = random_u64(),
                                 .on_done = on_rlog_done,
                                 .on_fatal = on_rlog_fatal,
                                 .user = r};
    if (r->options.stepper)
        config.on_work = on_log_work;
    if ((code = rlog_open(&r->rlog, &config, err)) != 0)
        return code;
    return vote_open(&r->vote, r->disk, err);
}

/* The raft thread turns many times a second anyway: it is woken for what somebody waits for. */
static void on_batch(void *user, bool is_news)
{
    struct replica *r = user;
    if (is_news || atomic_load(&r->awaits_apply))
        kick(&r->apply_kick);
}

static void on_apply_fatal(void *user, bool exit_again, const char *text)
{
    replica_fatal(user, exit_again, "%s", text);
}

bool replica_identify(void *user, const struct tls_peer *peer, uint32_t *node)
{
    struct replica *r = user;
    struct arena a;
    struct key key;
    if (!r->options.identify || !r->options.identify(r->options.user, peer, node))
        return false;
    if (!r->reader)
        return peer->verified; /* no store, it is being fetched */
    arena_init(&a);
    key_init(&key);
    key_u32(&key, *node);
    const Imp__NodeRow *row = store_find_row(store_read_txn(r->reader), TABLE_NODE, &key, &a);
    bool is_known = row && row->public_key_hash.len == sizeof(peer->key_hash);
    bool ok = is_known ? !memcmp(row->public_key_hash.data, peer->key_hash, sizeof(peer->key_hash)) : peer->verified;
    arena_fini(&a);
    return ok;
}

static void make_parts(struct replica *r)
{
    r->feed = feed_new();
    r->proposer = proposer_new(&replica_proposer_ops, r);
    pack_init(&r->pack);
    struct apply_config apply = {.node = r->options.node_id,
                                 .store = r->options.store,
                                 .log = r->log,
                                 .metrics = r->options.metrics,
                                 .proposer = r->proposer,
                                 .feed = r->feed,
                                 .on_batch = on_batch,
                                 .on_work = r->options.stepper ? on_apply_work : NULL,
                                 .on_fatal = on_apply_fatal,
                                 .user = r};
    r->apply = apply_new(&apply);
    confirm_init(&r->confirm, &replica_confirm_ops, r, r->options.node_id);
    barriers_init(&r->barriers, &replica_barrier_ops, r, random_u64());
    lease_holder_init(&r->holder, r->election_ms, random_u64() >> 1);
    lease_grantor_init(&r->grantor, &replica_lease_ops, r, r->election_ms);
    hashes_init(&r->hashes, r->options.node_id);
    struct transport_config transport = {.loop = r->loop,
                                         .log = r->log,
                                         .tls = r->options.tls_client,
                                         .identify = replica_identify,
                                         .identify_user = r,
                                         .ops = &replica_transport_ops,
                                         .user = r};
    memcpy(transport.hello.cluster_id, r->options.cluster_id, 16);
    memcpy(transport.hello.nonce, r->options.start_nonce, 16);
    transport.hello.node = r->options.node_id;
    snprintf(transport.hello.address, sizeof(transport.hello.address), "%s", r->options.address ? r->options.address : "");
    transport.hello.election_ms = (uint16_t)r->election_ms;
    transport.hello.port = r->options.address ? r->options.port : 0;
    transport.hello.purpose = CONN_MESSAGES;
    snprintf(transport.hello.release, sizeof(transport.hello.release), "%s", r->release);
    r->transport = transport_new(&transport);
    r->copy_server = copy_server_new(r);
}

void replica_free(struct replica *r)
{
    if (r->driver)
        driver_free(r->driver);
    install_end(r);
    copy_server_end(r->copy_server);
    if (r->transport)
        transport_free(r->transport);
    if (r->loop)
        loop_free(r->loop);
    rlog_close(r->rlog);
    if (r->disk) {
        vote_close(&r->vote);
        disk_close_directory(r->disk);
    }
    if (r->reader)
        store_reader_free(r->reader);
    apply_free(r->apply);
    proposer_free(r->proposer);
    feed_free(r->feed);
    pack_fini(&r->pack);
    buf_fini(&r->forward);
    arena_fini(&r->arena);
    pthread_mutex_destroy(&r->status_lock);
    pthread_cond_destroy(&r->stopped_cond);
    mem_free(r->dir);
    mem_free(r->release);
    mem_free(r->damage);
    mem_free(r);
}

struct replica *replica_new(const struct replica_options *o)
{
    struct replica *r = mem_new(struct replica);
    r->options = *o;
    r->options.dir = r->dir = mem_strdup(o->dir);
    r->options.release = r->release = mem_strdup(o->release ? o->release : "");
    r->log = log_category(o->log, "raft");
    r->election_ms = o->election_ms ? o->election_ms : DRIVER_DEFAULT.election_ms;
    r->heartbeat_ms = o->heartbeat_ms ? o->heartbeat_ms : DRIVER_DEFAULT.heartbeat_ms;
    list_init(&r->changes);
    arena_init(&r->arena);
    pthread_mutex_init(&r->status_lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->stopped_cond, &attr);
    pthread_condattr_destroy(&attr);
    r->reader = o->store ? store_reader_new(o->store) : NULL; /* NULL: fetch.c */
    return r;
}

int replica_open(struct replica **out, const struct replica_options *o, struct err_ctx *err)
{
    struct replica *r = replica_new(o);
    int code;
    if ((code = loop_new(&r->loop, "raft", r->log)) != 0) {
        err_set(err, code, "cannot make the raft loop");
        goto fail;
    }
    loop_set_metrics(r->loop, o->metrics);
    raft_loop_prepare(r);
    if ((code = check_cluster(r, err)) != 0 || (code = open_log(r, err)) != 0)
        goto fail;
    make_parts(r);
    if ((code = raft_loop_open_driver(r, err)) != 0)
        goto fail;
    *out = r;
    return 0;
fail:
    replica_free(r);
    return code;
}

/* ---- start, stop ---- */

static void on_point(void *user, uint64_t applied_index)
{
    struct replica *r = user;
    kick(&r->point_kick);
}

int replica_start(struct replica *r, struct err_ctx *err)
{
    int code;
    raft_loop_begin(r);
    bool has_threads = !r->options.stepper;
    if ((has_threads && ((code = rlog_start_thread(r->rlog)) != 0 || (code = apply_start(r->apply)) != 0)) ||
        (code = loop_start_thread(r->loop)) != 0)
        return err_set(err, code, "cannot start the threads of replication");
    store_on_point(r->options.store, on_point, r);
    return 0;
}

/* Letters of the stop: first hand leadership over, then end everything on the raft thread. */
struct stop_letter {
    struct letter letter;
    struct replica *r;
};

static void tell_stopper(struct replica *r, bool *flag)
{
    pthread_mutex_lock(&r->status_lock);
    *flag = true;
    pthread_cond_signal(&r->stopped_cond);
    pthread_mutex_unlock(&r->status_lock);
}

void replica_hand_over(struct replica *r)
{
    bool leads = r->status.role == DRIVER_LEADER;
    if (leads && configuration_n_voters(&r->status.conf) > 1 && !r->status.is_transferring)
        driver_transfer(r->driver, replica_now_ms(r), 0);
    else if (!leads && r->status.leader != r->options.node_id && !r->is_handed_over)
        tell_stopper(r, &r->is_handed_over);
}

static void on_connections_gone(void *user)
{
    struct replica *r = user;
    raft_loop_end(r);
    tell_stopper(r, &r->is_stopped);
    loop_stop(r->loop);
}

static void on_unanswered(void *user, const struct proposal_call *call, int code)
{
    feed_answer_now(call, code);
}

static void on_stop(struct letter *letter)
{
    struct replica *r = container_of(letter, struct stop_letter, letter)->r;
    mem_free(container_of(letter, struct stop_letter, letter));
    atomic_store(&r->cancel_scrub, true);
    raft_requests_end(r);
    install_end(r);
    copy_server_end(r->copy_server);
    r->copy_server = NULL;
    transport_stop(r->transport, on_connections_gone, r);
}

static void on_hand_over(struct letter *letter)
{
    struct replica *r = container_of(letter, struct stop_letter, letter)->r;
    mem_free(container_of(letter, struct stop_letter, letter));
    r->stopping = true; /* the turn does the rest */
}

static void post_stop(struct replica *r, void (*deliver)(struct letter *letter))
{
    struct stop_letter *x = mem_new(struct stop_letter);
    x->letter.deliver = deliver;
    x->r = r;
    loop_post(r->loop, &x->letter);
}

/* Waits for the flag, or, with MS, so long at most. */
static void wait_stopped(struct replica *r, const bool *flag, unsigned ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ms / 1000;
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&r->status_lock);
    while (!*flag) {
        if (!ms)
            pthread_cond_wait(&r->stopped_cond, &r->status_lock);
        else if (pthread_cond_timedwait(&r->stopped_cond, &r->status_lock, &until) != 0)
            break;
    }
    pthread_mutex_unlock(&r->status_lock);
}

void replica_step_down(struct replica *r)
{
    struct replica_status status;
    replica_get_status(r, &status);
    if (status.role != REPLICA_LEADER || status.n_voters < 2 || loop_is_current(r->loop))
        return;
    post_stop(r, on_hand_over);
    wait_stopped(r, &r->is_handed_over, REPLICA_TRANSFER_MS);
}

void replica_stop(struct replica *r)
{
    struct replica_status status;
    struct err_ctx err = {0};
    store_on_point(r->options.store, NULL, NULL);
    proposer_close(r->proposer, ERR_UNKNOWN_OUTCOME, on_unanswered, r);
    replica_get_status(r, &status);
    post_stop(r, on_hand_over);
    if (status.role == REPLICA_LEADER && status.n_voters > 1)
        wait_stopped(r, &r->is_handed_over, REPLICA_TRANSFER_MS);
    post_stop(r, on_stop);
    wait_stopped(r, &r->is_stopped, 0);
    loop_join_thread(r->loop);
    rlog_close(r->rlog);
    r->rlog = NULL;
    apply_stop(r->apply);
    store_make_point(r->options.store, &err); /* also waits for on_point, which may be under way */
    store_reader_free(r->reader);
    r->reader = NULL;
    struct store *store = r->options.store;
    struct log *log = r->log;
    replica_free(r);
    if (store_close_clean(store, &err) != 0)
        log_error(log, "closing the store: %s", err.text);
}

void replica_accept(struct replica *r, struct stream *s, uint32_t node)
{
    transport_accept(r->transport, s, node);
}

/* ---- proposals, feed, small things ---- */

/* Also a node that holds everything else back may say what is wrong with it. */
static bool is_alarm(const Imp__Command *command)
{
    return command->body_case == IMP__COMMAND__BODY_ALARM_RAISE ||
           command->body_case == IMP__COMMAND__BODY_ALARM_CLEAR;
}

int proposal_submit(struct replica *r, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                    proposal_done_fn *on_done, void *user)
{
    struct proposal_call call = {feed_find(r->feed, loop), (void (*)(void))on_done, user};
    uint8_t small[1024];
    bool first;
    if (!call.to)
        return ERR_INVALID;
    if (fsm_command_level(command) > apply_level(r->apply))
        return ERR_UNSUPPORTED;
    if (atomic_load_explicit(&r->holds_proposals, memory_order_relaxed) && !is_alarm(command))
        return ERR_UNAVAILABLE;
    command->time_ms = clock_wall_ms();
    size_t n = imp__command__get_packed_size(command);
    if (n > PROPOSER_MAX_COMMAND)
        return ERR_LIMIT;
    uint8_t *bytes = n <= sizeof(small) ? small : mem_alloc(n);
    imp__command__pack(command, bytes);
    uint64_t now = clock_monotonic_ms();
    int code =
        proposer_submit(r->proposer, now, bytes, n, now + (timeout_ms ? timeout_ms : 30000), &call, &first);
    if (bytes != small)
        mem_free(bytes);
    if (code == 0) {
        metrics_add(r->options.metrics, METRIC_PROPOSALS, 1);
        if (first)
            kick(&r->submit_kick);
    }
    return code;
}

void replica_add_feed(struct replica *r, struct loop *loop, const struct feed_handler *handler, void *user)
{
    feed_add(r->feed, loop, handler, user);
}

void replica_follow(struct replica *r, struct loop *loop, bool on)
{
    feed_follow(feed_find(r->feed, loop), on);
}

void replica_on_change(struct replica *r, struct loop *loop, void (*on_change)(void *user), void *user)
{
    r->change_loop = loop;
    r->on_change = on_change;
    r->change_user = user;
}

unsigned replica_level(const struct replica *r)
{
    return apply_level(r->apply);
}

uint64_t replica_applied_index(const struct replica *r)
{
    return apply_index(r->apply);
}

struct store *replica_store(struct replica *r)
{
    return r->options.store;
}

int replica_table_hashes(struct replica *r, uint64_t index, struct store_hash hashes[N_TABLES],
                         uint64_t n_rows[N_TABLES])
{
    return apply_table_hashes(r->apply, index, hashes, n_rows);
}

int replica_view(struct replica *r, uint64_t index, struct store_view **out)
{
    return apply_view(r->apply, index, out);
}

void replica_want_lease(struct replica *r, bool want)
{
    atomic_store(&r->want_lease, want);
    if (!want)
        atomic_store(&r->lease_until, 0);
    kick(&r->lease_kick);
}

uint64_t replica_lease_until_in(const struct replica *r, uint64_t epoch)
{
    struct replica *w = (struct replica *)r;
    uint64_t until = atomic_load_explicit(&w->lease_until, memory_order_acquire);
    return atomic_load_explicit(&w->lease_epoch, memory_order_acquire) == epoch ? until : 0;
}

uint64_t replica_lease_until(const struct replica *r)
{
    return atomic_load_explicit(&((struct replica *)r)->lease_until, memory_order_acquire);
}
