/* Administrators: they join nodes, drain and remove them, add users, move them and the roles. */
#include "world.h"

#include "base/release.h"
#include "replication/replica_impl.h"
#include <stdio.h>
#include <string.h>

#define BYTES(p, n) ((ProtobufCBinaryData){(n), (uint8_t *)(p)})

struct world_node *world_some_node(void)
{
    unsigned n = world_n_alive(), which = n ? (unsigned)draw(n) : 0;
    for (uint32_t id = 1; n && id <= W->n_nodes; id++)
        if (W->nodes[id].is_alive && which-- == 0)
            return &W->nodes[id];
    return NULL;
}

/* ---- on a control loop ---- */

struct call {
    struct letter letter;
    struct world_node *node;
    void (*fn)(struct world_node *n, void *arg);
    void *arg;
};

static void deliver(struct letter *letter)
{
    struct call *c = container_of(letter, struct call, letter);
    c->fn(c->node, c->arg);
    mem_free(c);
}

void operator_call(struct world_node *n, void (*fn)(struct world_node *n, void *arg), void *arg)
{
    struct call *c = mem_new(struct call);
    *c = (struct call){{.deliver = deliver}, n, fn, arg};
    loop_post(n->node->loop, &c->letter);
}

int operator_propose(struct world_node *n, Imp__Command *command, proposal_done_fn *on_done, void *user)
{
    return proposal_submit(n->node->replica, command, n->node->loop, 0, on_done, user);
}

static void on_ignored(void *user, const struct proposal_result *result)
{
    (void)user, (void)result;
}

/* ---- joining: a token, then the join, then the process ---- */

struct joining {
    struct world_node *at;
    unsigned host;
    bool is_witness;
    uint8_t token[32], key[32];
};

static void on_joined(void *user, const struct proposal_result *result)
{
    struct joining *j = user;
    char name[16];
    snprintf(name, sizeof(name), "j%u", j->host);
    if (!result->code && result->value <= WORLD_NODES && !W->nodes[result->value].is_member) {
        world_node_add((uint32_t)result->value, j->host, name);
        W->nodes[result->value].is_witness = j->is_witness;
        world_say("node %u joins, host %u", (unsigned)result->value, j->host);
        W->counts.n_joins++;
        world_node_boot(&W->nodes[result->value], 10 * MS + draw(500 * MS));
    }
    mem_free(j);
}

static void on_token(void *user, const struct proposal_result *result)
{
    struct joining *j = user;
    char name[16], address[24];
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeJoin join = IMP__NODE_JOIN__INIT;
    if (result->code)
        return;
    snprintf(name, sizeof(name), "j%u", j->host);
    snprintf(address, sizeof(address), "10.0.0.%u", j->host);
    join.token_hash = BYTES(j->token, 32);
    join.public_key_hash = BYTES(j->key, 32);
    join.name = name;
    join.address = join.public_name = address;
    join.cluster_port = WORLD_PORT;
    join.xmpp_port = 5222;
    join.release = (char *)release_name();
    join.witness = j->is_witness;
    command.body_case = IMP__COMMAND__BODY_NODE_JOIN;
    command.node_join = &join;
    operator_propose(j->at, &command, on_joined, j);
}

static void join_now(struct world_node *n, void *arg)
{
    const struct members *m = n->node->members;
    if (!m || m->n >= WORLD_LIVING || W->n_nodes >= WORLD_NODES || W->n_hosts + 1 >= WORLD_HOSTS)
        return;
    struct joining *j = mem_new(struct joining);
    j->at = n;
    j->host = 2 + W->n_hosts++;
    j->is_witness = draw(8) == 0;
    random_bytes(j->token, 32);
    world_key_of(j->host, j->key);
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__TokenAdd add = IMP__TOKEN_ADD__INIT;
    add.hash = BYTES(j->token, 32);
    add.expires_ms = clock_wall_ms() + 3600 * 1000;
    command.body_case = IMP__COMMAND__BODY_TOKEN_ADD;
    command.token_add = &add;
    operator_propose(n, &command, on_token, j);
}

void operator_join(struct world_node *n)
{
    operator_call(n, join_now, NULL);
}

/* ---- users ---- */

static void on_user_added(void *user, const struct proposal_result *result)
{
    struct world_user *u = user;
    u->is_asked = false;
    if (!result->code)
        u->uid = result->value;
}

static void add_user(struct world_node *n, void *arg)
{
    struct world_user *u = arg;
    char name[16];
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__UserAdd add = IMP__USER_ADD__INIT;
    if (u->uid || u->is_asked)
        return;
    snprintf(name, sizeof(name), "u%u", (unsigned)(u - W->users));
    add.localpart = add.display_name = name;
    command.body_case = IMP__COMMAND__BODY_USER_ADD;
    command.user_add = &add;
    u->is_asked = !operator_propose(n, &command, on_user_added, u);
}

void operator_add_user(struct world_node *n, unsigned user)
{
    operator_call(n, add_user, &W->users[user]);
}

static uint32_t some_member(struct world_node *n)
{
    const struct members *m = n->node->members;
    return m && m->n ? m->list[draw(m->n)].id : 0;
}

static void assign(struct world_node *n, void *arg)
{
    unsigned user = (unsigned)draw(WORLD_USERS);
    uint64_t uid = W->users[user].uid;
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__UserAssign body = IMP__USER_ASSIGN__INIT;
    body.uids = &uid;
    body.n_uids = 1;
    body.node = some_member(n);
    command.body_case = IMP__COMMAND__BODY_USER_ASSIGN;
    command.user_assign = &body;
    if (!uid || operator_propose(n, &command, on_ignored, NULL))
        return;
    W->counts.n_moves++;
    client_come_back(user);
}

static void balance(struct world_node *n, void *arg)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__UserBalance body = IMP__USER_BALANCE__INIT;
    body.max = 100;
    command.body_case = IMP__COMMAND__BODY_USER_BALANCE;
    command.user_balance = &body;
    operator_propose(n, &command, on_ignored, NULL);
}

/* ---- nodes ---- */

static void propose_drain(struct world_node *n, uint32_t node, bool drained)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeDrain body = IMP__NODE_DRAIN__INIT;
    body.node = node;
    body.drained = drained;
    command.body_case = IMP__COMMAND__BODY_NODE_DRAIN;
    command.node_drain = &body;
    operator_propose(n, &command, on_ignored, NULL);
}

static void undrain(struct world_node *n, void *arg)
{
    propose_drain(n, (uint32_t)(uintptr_t)arg, false);
}

void operator_undrain(struct world_node *n, uint32_t node)
{
    operator_call(n, undrain, (void *)(uintptr_t)node);
}

static void drain(struct world_node *n, void *arg)
{
    propose_drain(n, some_member(n), chance(60));
}

static void on_leaving(void *user, const struct proposal_result *result)
{
    if (!result->code)
        W->counts.n_removals++;
}

/* The leader moves its users away and takes it out of the configuration, then its row goes. */
static void remove_node(struct world_node *n, void *arg)
{
    const struct members *m = n->node->members;
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__NodeLeave body = IMP__NODE_LEAVE__INIT;
    body.node = some_member(n);
    command.body_case = IMP__COMMAND__BODY_NODE_LEAVE;
    command.node_leave = &body;
    if (m && m->n > 2 && body.node && !operator_propose(n, &command, on_leaving, NULL))
        world_say("node %u is asked to leave", body.node);
}

static void set_publisher(struct world_node *n, void *arg)
{
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__PublisherSet body = IMP__PUBLISHER_SET__INIT;
    body.node = some_member(n);
    command.body_case = IMP__COMMAND__BODY_PUBLISHER_SET;
    command.publisher_set = &body;
    if (body.node)
        operator_propose(n, &command, on_ignored, NULL);
}

static void on_transferred(void *user, int code, const char *text)
{
    (void)user, (void)code, (void)text;
}

static void transfer(struct world_node *n, void *arg)
{
    replica_transfer(n->node->replica, chance(50) ? some_member(n) : 0, n->node->loop, on_transferred, NULL);
}

void operator_do_something(struct world_node *n)
{
    struct world_node *leader = world_leader();
    switch (draw(8)) {
    case 0:
        operator_join(n);
        break;
    case 1:
        operator_call(n, drain, NULL);
        break;
    case 2:
        if (W->options & WORLD_REMOVALS)
            operator_call(n, remove_node, NULL);
        break;
    case 3:
        operator_call(n, set_publisher, NULL);
        break;
    case 4:
        operator_call(n, balance, NULL);
        break;
    case 5:
        for (unsigned i = 1 + (unsigned)draw(6); i > 0; i--)
            operator_call(n, assign, NULL);
        break;
    default:
        if (leader)
            operator_call(leader, transfer, NULL);
    }
}
