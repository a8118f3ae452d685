/* Frames of peers, and what leaves for them; the ops that tie the state machines to the transport. Raft
 * thread. */
#include "base/clock.h"
#include "replication/levels.h"
#include "replication/replica_impl.h"
#include <string.h>

enum {
    FORWARD_BYTES = 64 << 10,
    FORWARD_QUEUE = 8 << 20, /* no more proposals behind so much: Raft's own messages share the connection */
    FORWARD_HEAD = 20,
    HASH_AHEAD = 1 << 20, /* entries */
};

static void put_u64(uint8_t *p, uint64_t v)
{
    for (unsigned i = 0; i < 8; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static void send_two(struct replica *r, uint32_t node, enum conn_frame type, uint64_t a, uint64_t b)
{
    uint8_t body[16];
    put_u64(body, a);
    put_u64(body + 8, b);
    transport_send(r->transport, node, type, body, sizeof(body));
}

static bool is_leader(const struct replica *r)
{
    return r->status.role == DRIVER_LEADER;
}

/* ---- proposals ---- */

static bool propose_send(void *user, uint64_t epoch, uint64_t seq, const void *command, size_t n_bytes)
{
    struct replica *r = user;
    if (r->route_leader == r->options.node_id)
        return pack_add(&r->pack, clocks_time_ms(r), r->options.node_id, epoch, seq, command, n_bytes);
    if (transport_queued(r->transport, r->route_leader) > FORWARD_QUEUE)
        return false;
    buf_add_u64(&r->forward, epoch);
    buf_add_u64(&r->forward, seq);
    buf_add_u32(&r->forward, (uint32_t)n_bytes);
    buf_add(&r->forward, command, n_bytes);
    if (r->forward.n >= FORWARD_BYTES)
        raft_frames_flush_forward(r);
    return true;
}

void raft_frames_flush_forward(struct replica *r)
{
    if (r->forward.n && r->route_leader && r->route_leader != r->options.node_id)
        transport_send(r->transport, r->route_leader, FRAME_FORWARD, r->forward.data, r->forward.n);
    buf_reset(&r->forward);
}

/* Commands without a session are made by the leader itself, so that no peer can put others into the log. */
static bool pack_command(struct replica *r, Imp__Command *command)
{
    command->time_ms = clocks_time_ms(r);
    size_t n = imp__command__get_packed_size(command);
    uint8_t *bytes = mem_alloc(n);
    imp__command__pack(command, bytes);
    bool ok = pack_add(&r->pack, command->time_ms, 0, 0, 0, bytes, n);
    mem_free(bytes);
    return ok;
}

void raft_frames_add_register(struct replica *r, const struct registration *who)
{
    Imp__NodeRegister body = IMP__NODE_REGISTER__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = who->node;
    body.nonce.data = (uint8_t *)who->nonce;
    body.nonce.len = PROPOSER_NONCE;
    body.expected_epoch = who->expected_epoch;
    body.level = who->level;
    body.release = (char *)who->release;
    command.body_case = IMP__COMMAND__BODY_NODE_REGISTER;
    command.node_register = &body;
    pack_command(r, &command);
}

static bool propose_register(void *user, const uint8_t nonce[PROPOSER_NONCE], uint64_t expected_epoch)
{
    struct replica *r = user;
    struct registration who = {r->options.node_id, nonce, expected_epoch, level_known(), r->release};
    if (r->route_leader == r->options.node_id) {
        raft_frames_add_register(r, &who);
        return true;
    }
    struct buf body = {0};
    buf_add(&body, nonce, PROPOSER_NONCE);
    buf_add_u64(&body, expected_epoch);
    buf_add_u32(&body, who.level);
    buf_adds(&body, who.release);
    transport_send(r->transport, r->route_leader, FRAME_REGISTER, body.data, body.n);
    buf_fini(&body);
    return true;
}

static void draw_nonce(void *user, uint8_t nonce[PROPOSER_NONCE])
{
    random_bytes(nonce, PROPOSER_NONCE);
}

const struct proposer_ops replica_proposer_ops = {propose_send, propose_register, draw_nonce};

/* A command that cannot be decoded would end every node that applies it; it does not get into the log. */
static bool is_command(struct replica *r, const uint8_t *bytes, size_t n_bytes)
{
    ProtobufCAllocator allocator;
    arena_reset(&r->arena);
    arena_protobuf_allocator(&r->arena, &allocator);
    return imp__command__unpack(&allocator, n_bytes, bytes) != NULL;
}

static void on_forward(struct replica *r, uint32_t node, struct reader *in)
{
    driver_expect_commit(r->driver, node);
    while (reader_left(in) && is_leader(r)) {
        uint64_t epoch = read_u64(in), seq = read_u64(in);
        uint32_t n = read_u32(in);
        const uint8_t *command = n <= PROPOSER_MAX_COMMAND ? read_bytes(in, n) : NULL;
        if (in->failed || !command || epoch == 0)
            return;
        if (!is_command(r, command, n)) {
            log_error(r->log, "node %u sent a proposal that is no command", node);
            return;
        }
        if (!pack_add(&r->pack, clocks_time_ms(r), node, epoch, seq, command, n))
            return;
    }
}

static void on_register(struct replica *r, uint32_t node, struct reader *in)
{
    const uint8_t *nonce = read_bytes(in, PROPOSER_NONCE);
    uint64_t expected = read_u64(in);
    uint32_t level = read_u32(in);
    size_t n = reader_left(in);
    const void *text = read_bytes(in, n);
    char release[64] = "";
    if (in->failed || n >= sizeof(release) || !is_leader(r))
        return;
    memcpy(release, text, n);
    driver_expect_commit(r->driver, node);
    raft_frames_add_register(r, &(struct registration){node, nonce, expected, level, release});
}

/* ---- confirmation rounds ---- */

static void confirm_ask(void *user, uint32_t voter, uint64_t term, uint64_t round)
{
    send_two(user, voter, FRAME_CONFIRM, term, round);
}

static void confirm_done(void *user, uint64_t round)
{
    struct replica *r = user;
    lease_grantor_on_round(&r->grantor, replica_now_ms(r), round);
    barriers_on_round(&r->barriers, round);
}

const struct confirm_ops replica_confirm_ops = {confirm_ask, confirm_done};

static void on_confirm(struct replica *r, uint32_t node, struct reader *in)
{
    uint64_t term = read_u64(in), round = read_u64(in);
    if (!in->failed && term == driver_get_term(r->driver) && driver_get_leader(r->driver) == node)
        send_two(r, node, FRAME_CONFIRM_OK, term, round);
}

static void on_confirm_ok(struct replica *r, uint32_t node, struct reader *in)
{
    uint64_t term = read_u64(in), round = read_u64(in);
    /* We may have learnt of a newer term in this very turn. */
    if (!in->failed && driver_get_role(r->driver) == DRIVER_LEADER && driver_get_term(r->driver) == term)
        confirm_on_ok(&r->confirm, node, term, round);
}

/* ---- reads ---- */

static uint64_t commit_index(void *user)
{
    struct replica *r = user;
    driver_get_status(r->driver, &r->status);
    return is_leader(r) && r->status.is_term_committed ? r->status.commit : 0;
}

static uint64_t want_round(void *user)
{
    return confirm_want(&((struct replica *)user)->confirm);
}

static bool ask_leader(void *user, uint64_t id)
{
    struct replica *r = user;
    uint8_t body[8];
    if (!r->route_leader || r->route_leader == r->options.node_id)
        return false;
    put_u64(body, id);
    transport_send(r->transport, r->route_leader, FRAME_READ, body, sizeof(body));
    return true;
}

static void tell_reader(void *user, uint32_t node, uint64_t id, uint64_t index)
{
    send_two(user, node, FRAME_READ_INDEX, id, index);
}

static void barrier_done(void *user, struct barrier_wait *w, int code)
{
    raft_requests_barrier_done(w, code);
}

const struct barrier_ops replica_barrier_ops = {commit_index, want_round, ask_leader, tell_reader,
                                                barrier_done};

static void on_read(struct replica *r, uint32_t node, struct reader *in)
{
    uint64_t id = read_u64(in);
    if (!in->failed)
        barriers_on_read(&r->barriers, node, id);
}

static void on_read_index(struct replica *r, uint32_t node, struct reader *in)
{
    uint64_t id = read_u64(in), index = read_u64(in);
    if (!in->failed && node == r->route_leader)
        barriers_on_index(&r->barriers, id, index);
}

/* ---- leases ---- */

void raft_frames_ping_lease(struct replica *r, uint64_t epoch, uint64_t ping)
{
    if (r->route_leader == r->options.node_id)
        lease_grantor_on_ping(&r->grantor, r->options.node_id, epoch, ping);
    else
        send_two(r, r->route_leader, FRAME_LEASE_PING, epoch, ping);
}

static void lease_grant(void *user, uint32_t node, uint64_t ping)
{
    struct replica *r = user;
    uint8_t body[8];
    if (node == r->options.node_id) {
        lease_holder_on_grant(&r->holder, ping);
        return;
    }
    put_u64(body, ping);
    transport_send(r->transport, node, FRAME_LEASE, body, sizeof(body));
}

static bool lease_node_down(void *user, uint32_t node, uint64_t epoch, uint64_t term)
{
    struct replica *r = user;
    Imp__NodeDown body = IMP__NODE_DOWN__INIT;
    Imp__Command command = IMP__COMMAND__INIT;
    body.node = node;
    body.epoch = epoch;
    body.term = term;
    command.body_case = IMP__COMMAND__BODY_NODE_DOWN;
    command.node_down = &body;
    log_notice(r->log, "node %u (epoch %llu) did not renew its lease: taking it down", node,
               (unsigned long long)epoch);
    return pack_command(r, &command);
}

const struct lease_ops replica_lease_ops = {want_round, lease_grant, lease_node_down};

static void on_lease_ping(struct replica *r, uint32_t node, struct reader *in)
{
    uint64_t epoch = read_u64(in), ping = read_u64(in);
    if (!in->failed)
        lease_grantor_on_ping(&r->grantor, node, epoch, ping);
}

static void on_lease(struct replica *r, uint32_t node, struct reader *in)
{
    uint64_t ping = read_u64(in);
    if (!in->failed)
        lease_holder_on_grant(&r->holder, ping);
}

/* ---- state hashes ---- */

void raft_frames_send_hash(struct replica *r, const struct apply_hash *h)
{
    uint8_t body[24];
    put_u64(body, h->index);
    put_u64(body + 8, h->hash.lo);
    put_u64(body + 16, h->hash.hi);
    for (unsigned i = 0; i < r->status.conf.n; i++)
        if (r->status.conf.servers[i].id != r->options.node_id)
            transport_send(r->transport, (uint32_t)r->status.conf.servers[i].id, FRAME_HASH, body,
                           sizeof(body));
}

static void on_hash(struct replica *r, uint32_t node, struct reader *in)
{
    struct store_hash hash;
    uint64_t index = read_u64(in);
    hash.lo = read_u64(in);
    hash.hi = read_u64(in);
    /* An index out of reach would keep its slot for ever. */
    bool is_near = index && index < r->status.last + HASH_AHEAD;
    if (!in->failed && is_near && configuration_find(&r->status.conf, node))
        hashes_add(&r->hashes, replica_now_ms(r), node, index, &hash);
}

/* ---- all of them ---- */

static void on_raft(struct replica *r, uint32_t node, const uint8_t *body, size_t n_bytes)
{
    struct raft_msg msg;
    if (raft_msg_decode(&msg, body, n_bytes) != 0) {
        log_error(r->log, "node %u sent a malformed message", node);
        return;
    }
    msg.peer = node;
    driver_receive(r->driver, replica_now_ms(r), &msg);
    raft_msg_fini(&msg);
}

static void on_frame(void *user, uint32_t node, enum conn_frame type, const uint8_t *body, size_t n_bytes)
{
    struct replica *r = user;
    struct reader in;
    if (!r->is_running)
        return;
    reader_init(&in, body, n_bytes);
    switch (type) {
    case FRAME_RAFT:
        on_raft(r, node, body, n_bytes);
        break;
    case FRAME_FORWARD:
        on_forward(r, node, &in);
        break;
    case FRAME_REGISTER:
        on_register(r, node, &in);
        break;
    case FRAME_CONFIRM:
        on_confirm(r, node, &in);
        break;
    case FRAME_CONFIRM_OK:
        on_confirm_ok(r, node, &in);
        break;
    case FRAME_READ:
        on_read(r, node, &in);
        break;
    case FRAME_READ_INDEX:
        on_read_index(r, node, &in);
        break;
    case FRAME_LEASE_PING:
        on_lease_ping(r, node, &in);
        break;
    case FRAME_LEASE:
        on_lease(r, node, &in);
        break;
    case FRAME_HASH:
        on_hash(r, node, &in);
        break;
    case FRAME_COPY_BAD:
        log_error(r->log, "node %u says that the copy it had from here is not right", node);
        differ_doubt(r, "a copy given away was not right");
        break;
    default:
        break; /* a later release may say more */
    }
}

static void on_link(void *user, uint32_t node, bool is_up)
{
    /* The turn finds the new route. */
}

static void on_peer_seen(void *user, uint32_t node)
{
    struct replica *r = user;
    if (r->options.on_peer_seen)
        r->options.on_peer_seen(r->options.user, node);
}

static void on_copy(void *user, struct conn *c)
{
    struct replica *r = user;
    if (r->copy_server)
        copy_server_take(r->copy_server, c);
    else
        conn_abort(c);
}

static bool is_removed(void *user, uint32_t node)
{
    return members_is_removed(user, node);
}

void replica_on_second_copy(void *user, const char *text)
{
    replica_fatal(user, false,
                  "another copy of this node is running (%s): stop it, or make this one a new node", text);
}

void replica_on_removed(void *user, uint32_t by)
{
    struct replica *r = user;
    if (r->options.on_removed)
        r->options.on_removed(r->options.user, by);
}

const struct transport_ops replica_transport_ops = {on_frame,   on_link,        on_peer_seen, on_copy,
                                                    is_removed, replica_on_second_copy, replica_on_removed};
