/* Who the peers are, as the store says; and the status that other threads see. Raft thread. */
#include "base/clock.h"
#include "replication/replica_impl.h"
#include <string.h>

static const struct replica_address *find_address(const struct replica_address *list, unsigned n, uint32_t node)
{
    for (unsigned i = 0; i < n; i++)
        if (list[i].node == node)
            return &list[i];
    return NULL;
}

/* What a person said; else where it was last, which after a crash may be newer than the row. */
static void add_hint(const struct replica *r, struct transport_peer *p)
{
    const struct replica_address *a = find_address(r->options.hints, r->options.n_hints, p->node);
    if (!a)
        a = find_address(r->options.known, r->options.n_known, p->node);
    if (!a)
        return;
    p->hint_address = a->address;
    p->hint_port = a->port;
}

static void take_node(struct replica *r, const Imp__NodeRow *row, struct transport_peer *peers,
                      struct lease_node *leases, unsigned *n)
{
    if (row->id == r->options.node_id && !r->options.address)
        transport_set_address(r->transport, row->address ? row->address : "", (uint16_t)row->cluster_port);
    peers[*n] = (struct transport_peer){.node = row->id, .address = row->address, .port = (uint16_t)row->cluster_port};
    add_hint(r, &peers[*n]);
    leases[*n] = (struct lease_node){row->id, row->epoch, (row->up || row->handing_over) && !row->witness};
    ++*n;
}

/* Those of whom the store says nothing. */
static unsigned add_known(struct replica *r, struct transport_peer *peers, unsigned n)
{
    unsigned n_rows = n;
    for (unsigned i = 0; i < r->options.n_known && n < TRANSPORT_MAX_PEERS; i++) {
        const struct replica_address *a = &r->options.known[i];
        bool has_row = false;
        for (unsigned k = 0; k < n_rows; k++)
            has_row |= peers[k].node == a->node;
        if (!has_row && !members_is_removed(r, a->node))
            peers[n++] = (struct transport_peer){.node = a->node, .address = a->address, .port = a->port};
    }
    return n;
}

void members_refresh(struct replica *r)
{
    enum { MAX = TRANSPORT_MAX_PEERS };
    struct transport_peer peers[MAX];
    struct lease_node leases[MAX];
    unsigned n = 0;
    struct arena arena;
    struct key prefix;
    struct store_iter i;
    arena_init(&arena);
    key_init(&prefix);
    store_reader_reset(r->reader);
    struct store_txn *t = store_read_txn(r->reader);
    store_iter_init(&i, t, TABLE_NODE, &prefix);
    while (n < MAX && store_iter_next(&i)) {
        const Imp__NodeRow *row = store_iter_row(&i, &arena);
        if (row)
            take_node(r, row, peers, leases, &n);
    }
    store_iter_fini(&i);
    struct store_position position;
    store_get_position(t, &position, &arena);
    transport_set_peers(r->transport, peers, add_known(r, peers, n));
    bool leads = r->status.role == DRIVER_LEADER;
    lease_grantor_set_nodes(&r->grantor, leases, n, leads && position.applied_term == r->status.term);
    r->members_dirty =
        leads && position.applied_term != r->status.term; /* once more, when that has been applied */
    arena_fini(&arena);
    store_reader_reset(r->reader);
}

bool members_is_removed(struct replica *r, uint32_t node)
{
    if (apply_index(r->apply) < r->options.fence_index && node != r->options.node_id)
        return true; /* a recovery that is not applied yet */
    struct key key;
    key_init(&key);
    key_u32(&key, node);
    return store_has(store_read_txn(r->reader), TABLE_NODE_TOMBSTONE, &key);
}

/* ---- status ---- */

static bool has_quorum(const struct replica *r, uint64_t now_ms)
{
    if (r->status.role != DRIVER_LEADER)
        return r->status.leader != 0;
    unsigned n = 0;
    for (unsigned i = 0; i < r->status.conf.n; i++) {
        if (r->status.conf.servers[i].role != CONFIGURATION_VOTER)
            continue;
        uint64_t heard = r->status.peers[i].heard_ms;
        n +=
            r->status.conf.servers[i].id == r->options.node_id || (heard && now_ms <= heard + r->election_ms);
    }
    return n > configuration_n_voters(&r->status.conf) / 2;
}

static enum replica_member member_of(const struct configuration *c, uint32_t node)
{
    const struct configuration_server *s = configuration_find(c, node);
    if (!s)
        return REPLICA_NOT_MEMBER;
    return s->role == CONFIGURATION_VOTER ? REPLICA_VOTER : REPLICA_STANDBY;
}

static struct replica_peer *status_peer(struct replica_status *s, uint32_t node)
{
    for (unsigned i = 0; i < s->n_peers; i++)
        if (s->peers[i].node == node)
            return &s->peers[i];
    if (s->n_peers == REPLICA_MAX_PEERS)
        return NULL;
    struct replica_peer *p = &s->peers[s->n_peers++];
    *p = (struct replica_peer){.node = node};
    return p;
}

static void fill_peers(struct replica *r, struct replica_status *out)
{
    struct transport_info links[TRANSPORT_MAX_PEERS];
    unsigned n = transport_get_info(r->transport, links, TRANSPORT_MAX_PEERS);
    for (unsigned i = 0; i < n; i++) {
        struct replica_peer *p = status_peer(out, links[i].node);
        if (!p)
            continue;
        p->connected = links[i].connected;
        p->last_heard_ms = links[i].heard_ms;
        p->ping_us = links[i].ping_us;
        p->member = member_of(&r->status.conf, p->node);
    }
    for (unsigned i = 0; i < r->status.conf.n; i++) {
        uint32_t node = (uint32_t)r->status.conf.servers[i].id;
        struct replica_peer *p = node == r->options.node_id ? NULL : status_peer(out, node);
        if (!p)
            continue;
        p->member = member_of(&r->status.conf, node);
        if (r->status.role == DRIVER_LEADER) {
            p->match_index = r->status.peers[i].match;
            p->installs = r->status.peers[i].installs;
        }
    }
}

static void fill(struct replica *r, struct replica_status *out)
{
    const struct driver_status *d = &r->status;
    struct proposer_status session;
    proposer_get_status(r->proposer, &session);
    memset(out, 0, sizeof(*out));
    out->role = d->role == DRIVER_LEADER      ? REPLICA_LEADER
                : d->role == DRIVER_CANDIDATE ? REPLICA_CANDIDATE
                                              : REPLICA_FOLLOWER;
    out->member = member_of(&d->conf, r->options.node_id);
    out->leader = (uint32_t)d->leader;
    out->term = d->term;
    out->commit_index = d->commit;
    out->applied_index = apply_index(r->apply);
    out->applied_term = apply_term(r->apply);
    out->last_index = d->last;
    out->first_index = d->first;
    out->snapshot_index = d->snapshot_index;
    out->durable_index = d->durable;
    out->installing = d->is_installing || r->install;
    install_progress(r, out);
    out->epoch = session.epoch;
    out->in_flight = session.in_flight;
    out->n_voters = configuration_n_voters(&d->conf);
    out->quorum = has_quorum(r, replica_now_ms(r));
    out->is_fenced = r->is_fenced;
    out->is_disk_low = r->is_disk_low;
    out->is_disk_silent = r->is_disk_silent;
    out->published_ms = replica_now_ms(r);
    out->is_clock_skewed = r->is_skewed;
    out->clock_ahead_ms = r->clock_ahead_ms;
    fill_peers(r, out);
    metrics_set(r->options.metrics, METRIC_PROPOSALS_IN_FLIGHT, session.in_flight);
}

/* Not part of the replica: it may be delivered after the replica was stopped. */
struct change_letter {
    struct letter letter;
    void (*on_change)(void *user);
    void *user;
};

static void drop_change(struct letter *letter)
{
    mem_free(container_of(letter, struct change_letter, letter));
}

static void tell_change(struct letter *letter)
{
    struct change_letter *x = container_of(letter, struct change_letter, letter);
    x->on_change(x->user);
    mem_free(x);
}

static void post_change(struct replica *r)
{
    struct change_letter *x = mem_new(struct change_letter);
    *x = (struct change_letter){
        {.deliver = tell_change, .discard = drop_change}, r->on_change, r->change_user};
    loop_post(r->change_loop, &x->letter);
}

/* Roles, leader, members, session: what others wait for. Indexes and times are not. */
static bool is_news(const struct replica_status *a, const struct replica_status *b)
{
    if (a->role != b->role || a->member != b->member || a->leader != b->leader || a->term != b->term ||
        a->epoch != b->epoch || a->n_voters != b->n_voters || a->quorum != b->quorum ||
        a->installing != b->installing || a->n_peers != b->n_peers || a->is_fenced != b->is_fenced ||
        a->is_disk_low != b->is_disk_low || a->is_disk_silent != b->is_disk_silent ||
        a->is_clock_skewed != b->is_clock_skewed)
        return true;
    for (unsigned i = 0; i < a->n_peers; i++)
        if (a->peers[i].node != b->peers[i].node || a->peers[i].member != b->peers[i].member ||
            a->peers[i].connected != b->peers[i].connected)
            return true;
    return false;
}

void members_publish(struct replica *r, bool notify)
{
    struct replica_status now;
    fill(r, &now);
    pthread_mutex_lock(&r->status_lock);
    bool news = notify || is_news(&now, &r->published);
    r->published = now;
    pthread_mutex_unlock(&r->status_lock);
    if (news && r->on_change)
        post_change(r);
}

void replica_get_status(struct replica *r, struct replica_status *out)
{
    pthread_mutex_lock(&r->status_lock);
    *out = r->published;
    pthread_mutex_unlock(&r->status_lock);
}
