/* The raft thread: feeds the driver, carries out what it asks for, and once per turn of the loop moves
 * everything that depends on its state: the route to the leader, proposals, confirmation rounds, reads,
 * leases. */
#include "base/clock.h"
#include "replication/replica_impl.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SNAPSHOT_EVERY_MS = 1000 };

enum { SECOND_LEADER_EVERY_MS = 10000 };

void replica_fatal(struct replica *r, bool exit_again, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    log_error(r->log, "%s", text);
    r->options.on_fatal(r->options.user, exit_again, text);
}

static void on_kick(struct letter *letter)
{
    struct kick *k = container_of(letter, struct kick, letter);
    atomic_store(&k->is_posted, false);
    if (k->r->is_running)
        k->fn(k->r);
}

void kick_init(struct kick *k, struct replica *r, void (*fn)(struct replica *r))
{
    *k = (struct kick){.letter = {.deliver = on_kick}, .r = r, .fn = fn};
}

void kick(struct kick *k)
{
    if (!atomic_exchange(&k->is_posted, true))
        loop_post(k->r->loop, &k->letter);
}

/* ---- what the driver asks for; it must not be called from here ---- */

static void on_send(void *user, const struct raft_msg *msg)
{
    struct replica *r = user;
    uint32_t to = (uint32_t)msg->peer;
    struct buf *out = r->transport ? transport_begin(r->transport, to, FRAME_RAFT) : NULL;
    if (!out)
        return;
    raft_msg_encode(out, msg);
    transport_end(r->transport, to);
}

static void arm_driver_timer(struct replica *r)
{
    uint64_t now = replica_now_ms(r);
    timer_start(&r->driver_timer, r->driver_due_ms > now ? (unsigned)(r->driver_due_ms - now) : 0, 0);
}

static void on_set_timer(void *user, uint64_t due_ms)
{
    struct replica *r = user;
    r->driver_due_ms = due_ms;
    if (r->is_running)
        arm_driver_timer(r);
}

static void on_driver_timer(struct timer *t)
{
    struct replica *r = container_of(t, struct replica, driver_timer);
    /* Loop timers count in whole milliseconds of the turn's start; never early for the core. */
    if (replica_now_ms(r) < r->driver_due_ms)
        arm_driver_timer(r);
    else
        driver_tick(r->driver, replica_now_ms(r));
}

static void on_apply(void *user, uint64_t first, const struct rlog_entry *entries, unsigned n)
{
    struct replica *r = user;
    apply_push(r->apply, first, entries, n);
}

static void on_state(void *user)
{
    ((struct replica *)user)->state_changed = true;
}

static void on_install(void *user, const struct driver_snapshot *meta, const void *data, size_t n_bytes)
{
    install_begin(user, meta->index, false);
}

static void on_snapshot_data(void *user, uint64_t index, struct buf *out)
{
    snapshot_write_data(user, index, out);
}

static void on_driver_fatal(void *user, const char *text)
{
    struct replica *r = user;
    replica_fatal(r, true, "replication: %s", text);
    log_fatal(r->log, "%s", text);
}

static void on_second_leader(void *user, uint64_t peer, uint64_t term)
{
    struct replica *r = user;
    uint64_t now = replica_now_ms(r);
    if (!r->second_leader_ms || now >= r->second_leader_ms + SECOND_LEADER_EVERY_MS) {
        r->second_leader_ms = now;
        log_error(
            r->log,
            "node %u says that it leads term %" PRIu64
            ", as this node does: is it a copy, or has it lost its vote? Its connection is closed; if this "
            "goes on, remove it from the cluster and join it anew",
            (unsigned)peer, term);
    }
    transport_close_from(r->transport, (uint32_t)peer);
}

static const struct driver_ops ops = {
    .send = on_send,
    .set_timer = on_set_timer,
    .apply = on_apply,
    .state = on_state,
    .install = on_install,
    .snapshot_data = on_snapshot_data,
    .second_leader = on_second_leader,
    .fatal = on_driver_fatal,
};

int raft_loop_open_driver(struct replica *r, struct err_ctx *err)
{
    struct arena arena;
    struct store_position position;
    arena_init(&arena);
    store_get_position(store_read_txn(r->reader), &position, &arena);
    snapshot_start_position(r, &position, &r->snapshot);
    arena_fini(&arena);
    store_reader_reset(r->reader);
    struct driver_config config = {
        .id = r->options.node_id,
        .timing = {r->election_ms, r->heartbeat_ms},
        .guards = DRIVER_GUARD_ALL,
        .seed = (unsigned)random_u64(),
        .log = r->rlog,
        .vote = &r->vote,
        .ops = &ops,
        .user = r,
        .out = r->log,
    };
    r->driver_applied = r->snapshot.index;
    return driver_start(&r->driver, &config, replica_now_ms(r), r->snapshot.index ? &r->snapshot : NULL,
                        r->snapshot.index, err);
}

/* ---- one turn ---- */

static bool is_leader(const struct replica *r)
{
    return r->status.role == DRIVER_LEADER;
}

/* A new number for each leader, term or connection: whoever sent something the old way sends it again. */
static void find_route(struct replica *r)
{
    uint32_t leader = (uint32_t)r->status.leader;
    uint64_t generation = 0;
    bool usable = leader != 0;
    if (is_leader(r)) {
        leader = r->options.node_id;
        usable = true;
    } else if (leader == r->options.node_id) {
        usable = false;
    } else if (usable) {
        usable = transport_is_up(r->transport, leader);
        generation = transport_generation(r->transport, leader);
    }
    if (!usable) {
        r->route = 0;
        r->route_leader = 0;
        return;
    }
    if (r->route && leader == r->route_leader && r->status.term == r->route_term &&
        generation == r->route_generation)
        return;
    r->route_leader = leader;
    r->route_term = r->status.term;
    r->route_generation = generation;
    r->route = ++r->route_count;
}

static void on_new_state(struct replica *r)
{
    uint64_t now = replica_now_ms(r), term = is_leader(r) ? r->status.term : 0;
    r->members_dirty |= term != r->confirm.term; /* leases: is our term's first entry applied? */
    uint32_t voters[CONFIGURATION_MAX];
    unsigned n = 0;
    for (unsigned i = 0; i < r->status.conf.n; i++)
        if (r->status.conf.servers[i].role == CONFIGURATION_VOTER)
            voters[n++] = (uint32_t)r->status.conf.servers[i].id;
    confirm_set_voters(&r->confirm, voters, n);
    confirm_lead(&r->confirm, term);
    lease_grantor_lead(&r->grantor, now, term);
    if (!term)
        pack_clear(&r->pack); /* their proposers send them to the new leader */
    metrics_set(r->options.metrics, METRIC_RAFT_IS_LEADER, term != 0);
    metrics_set(r->options.metrics, METRIC_RAFT_TERM, (int64_t)r->status.term);
}

static void take_applied(struct replica *r)
{
    struct apply_news news;
    apply_take(r->apply, &news);
    if (news.index > r->driver_applied) {
        r->driver_applied = news.index;
        driver_applied(r->driver, replica_now_ms(r), news.index);
    }
    if (news.members_changed)
        r->members_dirty = r->state_changed = true;
    if (r->members_dirty)
        members_refresh(r);
    if (news.session_changed)
        r->state_changed = true;
    for (unsigned i = 0; i < news.n_hashes; i++)
        differ_tell(r, &news.hashes[i]);
    if (news.last.index != r->last_hash.index) {
        r->last_hash = news.last;
        r->rested_ms = replica_now_ms(r);
        r->is_rest_told = false;
    }
    barriers_on_applied(&r->barriers, news.index);
}

static void submit_packed(struct replica *r, uint64_t now)
{
    bool met = !r->pack.is_urgent && r->pack.n_commands > 1;
    while (!pack_is_empty(&r->pack)) {
        struct blob *entries[DRIVER_SUBMIT_MAX];
        uint64_t first;
        unsigned n = pack_peek(&r->pack, entries, DRIVER_SUBMIT_MAX);
        int code = driver_submit(r->driver, replica_now_ms(r), entries, n, &first, NULL);
        if (code == ERR_AGAIN)
            return; /* after the next apply */
        if (code != 0) {
            pack_clear(&r->pack);
            return;
        }
        pack_drop(&r->pack, n);
        pace_sent(&r->pace, now, first, driver_get_commit(r->driver), met);
    }
}

static void on_paced(struct timer *t)
{
    /* The turn's hook does what is due. */
}

/* The leader makes entries of its own proposals and of those that others have sent; the others send theirs to
 * it. */
static void pump_proposals(struct replica *r, uint64_t now)
{
    uint64_t wait_ms = 0;
    bool patient = false, urgent;
    if (r->route_leader != r->options.node_id) {
        wait_ms = proposer_pump(r->proposer, now, true);
        raft_frames_flush_forward(r);
    } else if (proposer_has_unsent(r->proposer, &urgent) || !pack_is_empty(&r->pack)) {
        patient = !urgent && !r->pack.is_urgent;
        wait_ms = pace_wait(&r->pace, now, driver_get_commit(r->driver), patient);
    }
    if (!wait_ms && r->route_leader == r->options.node_id) {
        proposer_pump(r->proposer, now, false);
        submit_packed(r, now);
    }
    /* Nobody waits longer for a commit because what follows is patient. */
    driver_hold_commit(r->driver, wait_ms && (!patient || wait_ms <= now + PACE_MS));
    if (wait_ms && (!timer_is_on(&r->paced) || wait_ms < r->paced_ms)) {
        r->paced_ms = wait_ms;
        timer_start(&r->paced, wait_ms > now ? (unsigned)(wait_ms - now) : 1, 0);
    }
}

static void pump_lease(struct replica *r)
{
    struct proposer_status session;
    uint64_t ping, now = replica_now_ms(r);
    proposer_get_status(r->proposer, &session);
    bool want =
        atomic_load(&r->want_lease) && !r->is_disk_low && !r->is_disk_silent && !r->is_fenced && !r->stopping;
    lease_holder_set(&r->holder, want, session.epoch, r->route);
    if (lease_holder_tick(&r->holder, now, clock_boot_ms(), &ping))
        raft_frames_ping_lease(r, session.epoch, ping);
    if (session.epoch != atomic_load_explicit(&r->lease_epoch, memory_order_relaxed)) {
        atomic_store_explicit(&r->lease_until, 0, memory_order_release);
        atomic_store_explicit(&r->lease_epoch, session.epoch, memory_order_release);
    }
    atomic_store_explicit(&r->lease_until, lease_holder_until(&r->holder), memory_order_release);
}

static void turn_once(struct replica *r)
{
    uint64_t now = replica_now_ms(r), commit = r->status.commit;
    take_applied(r);
    driver_get_status(r->driver, &r->status);
    bool changed = r->state_changed;
    r->state_changed = false;
    if (changed)
        on_new_state(r);
    if (r->status.commit != commit)
        metrics_set(r->options.metrics, METRIC_RAFT_COMMIT_INDEX, (int64_t)r->status.commit);
    find_route(r);
    proposer_set_route(r->proposer, now, r->stopping ? 0 : r->route);
    pump_proposals(r, now);
    barriers_set(&r->barriers, r->route, is_leader(r));
    pump_lease(r);
    raft_requests_pump(r, now);
    if (r->stopping)
        replica_hand_over(r);
    barriers_pump(&r->barriers, now);
    confirm_pump(&r->confirm, now, r->heartbeat_ms);
    if (changed)
        members_publish(r, true);
}

/* Reads, what did not fit into the apply window, and the leader's own first entry wait for the applied index.
 * All else is content to see it whenever the thread turns next. */
static void await_apply(struct replica *r)
{
    bool awaits = !list_is_empty(&r->barriers.waits) || !pack_is_empty(&r->pack) ||
                  driver_awaits_apply(r->driver) ||
                  (is_leader(r) && r->status.is_term_committed && apply_term(r->apply) != r->status.term);
    atomic_store(&r->awaits_apply, awaits);
    if (awaits && apply_index(r->apply) > r->driver_applied)
        kick(&r->apply_kick);
}

void raft_loop_turn(struct replica *r)
{
    /* Submitting may change the driver's state at once; twice is enough, the rest waits for the tick. */
    for (unsigned i = 0; i < 3; i++) {
        turn_once(r);
        if (!r->state_changed)
            break;
    }
    await_apply(r);
    store_reader_reset(r->reader);
}

/* ---- time ---- */

static void on_timed_out(void *user, const struct proposal_call *call, int code)
{
    feed_answer_now(call, code);
}

static void tick(struct replica *r, uint64_t now)
{
    r->ticked_ms = now;
    timer_start(&r->tick, REPLICA_TICK_MAX_MS, 0);
    proposer_tick(r->proposer, now, on_timed_out, r);
    lease_grantor_tick(&r->grantor, now);
    differ_rest(r, now);
    differ_judge(r, now);
    differ_fenced(r, now);
    apply_expire_views(r->apply, now);
    disk_watch_tick(r, now);
    clocks_check(r, now);
    if (now >= r->considered_ms + SNAPSHOT_EVERY_MS) { /* a durable point looks at once */
        r->considered_ms = now;
        snapshot_consider(r);
    }
    if (r->copy_server)
        copy_server_tick(r->copy_server, now);
    install_tick(r, now);
    members_publish(r, false);
}

static void on_tick(struct timer *t)
{
    struct replica *r = container_of(t, struct replica, tick);
    tick(r, replica_now_ms(r));
}

/* Heartbeats wake the loop more often than the tick is due: it goes along with them, and an idle node sleeps.
 */
static void on_turn(struct loop_hook *hook)
{
    struct replica *r = container_of(hook, struct replica, turn);
    if (!r->is_running)
        return;
    uint64_t now = replica_now_ms(r);
    if (now >= r->ticked_ms + REPLICA_TICK_MS)
        tick(r, now);
    raft_loop_turn(r);
}

/* ---- begin, end ---- */

static void on_log_done(struct replica *r)
{
    driver_log_done(r->driver, replica_now_ms(r));
}

static void on_nothing(struct replica *r)
{
    /* The turn's hook does what is due. */
}

void raft_loop_prepare(struct replica *r)
{
    kick_init(&r->log_kick, r, on_log_done);
    kick_init(&r->apply_kick, r, on_nothing);
    kick_init(&r->submit_kick, r, on_nothing);
    kick_init(&r->lease_kick, r, on_nothing);
    kick_init(&r->point_kick, r, snapshot_consider);
    timer_init(&r->driver_timer, r->loop, on_driver_timer);
    timer_init(&r->tick, r->loop, on_tick);
    timer_init(&r->paced, r->loop, on_paced);
    r->turn.fn = on_turn;
}

void raft_loop_begin(struct replica *r)
{
    loop_add_before_poll(r->loop, &r->turn);
    timer_start(&r->tick, REPLICA_TICK_MS, 0);
    r->is_running = true;
    arm_driver_timer(r);
    r->members_dirty = r->state_changed = true;
}

void raft_loop_end(struct replica *r)
{
    r->is_running = false;
    timer_stop(&r->driver_timer);
    timer_stop(&r->tick);
    timer_stop(&r->paced);
    loop_remove_before_poll(&r->turn);
}
