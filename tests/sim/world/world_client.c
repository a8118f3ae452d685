/* People: who log in where their home is, write with acknowledgement, and read what must be current. Each act
 * is a letter to the loop that does it in the node. */
#include "world.h"

#include <stdio.h>
#include <string.h>

struct client_session {
    struct session session;
    struct list link;
    struct world_node *node;
    unsigned life, user;
};

/* ---- what became of a proposal ---- */

static struct world_op *new_op(struct world_node *n, unsigned user)
{
    if (W->n_ops == WORLD_MAX_OPS)
        return NULL;
    struct world_op *op = &W->ops[W->n_ops++];
    *op = (struct world_op){.state = OP_ASKED, .node = n->id, .user = user};
    return op;
}

static void settle(struct world_op *op, const struct proposal_result *result)
{
    if (op->state != OP_ASKED) {
        world_bad("proposal %u is answered twice", (unsigned)(op - W->ops));
        return;
    }
    if (result->index) { /* executed; a refusal of the state machine too */
        op->state = result->code ? OP_NEVER : OP_DONE;
        op->index = result->index;
        if (op->index > W->acknowledged)
            W->acknowledged = op->index;
    } else {
        op->state = result->code == ERR_UNKNOWN_OUTCOME ? OP_UNKNOWN : OP_NEVER;
    }
    W->counts.n_acked += op->state == OP_DONE;
    W->counts.n_never += op->state == OP_NEVER;
    W->counts.n_unknown += op->state == OP_UNKNOWN;
}

static void on_written(void *user, const struct proposal_result *result)
{
    settle(user, result);
}

static void write_note(struct world_node *n, void *arg)
{
    struct world_op *op = new_op(n, 0);
    char text[24];
    if (!op)
        return;
    snprintf(text, sizeof(text), "w%u", (unsigned)(op - W->ops));
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__Note note = IMP__NOTE__INIT;
    Imp__Audited audited = IMP__AUDITED__INIT;
    audited.node = n->id;
    audited.who = (char *)"somebody";
    audited.command = text;
    command.audited = &audited;
    command.body_case = IMP__COMMAND__BODY_NOTE;
    command.note = &note;
    if (proposal_submit(n->node->replica, &command, n->node->loop, chance(20) ? 1 + (unsigned)draw(500) : 0,
                        on_written, op))
        op->state = OP_NEVER;
}

void client_write(struct world_node *n)
{
    operator_call(n, write_note, NULL);
}

/* ---- reading ---- */

struct reading {
    struct world_node *node;
    uint64_t acknowledged; /* when it was asked for */
};

static void on_read(void *user, int code, uint64_t index)
{
    struct reading *r = user;
    struct node *n = r->node->node;
    if (code == 0) {
        W->counts.n_reads++;
        store_reader_reset(n->reader);
        store_read_txn(n->reader);
        if (store_reader_index(n->reader) < r->acknowledged)
            world_bad("a read behind a barrier on node %u sees index %llu; %llu was acknowledged before it "
                      "was asked",
                      r->node->id, (unsigned long long)store_reader_index(n->reader),
                      (unsigned long long)r->acknowledged);
    }
    mem_free(r);
}

static void read_now(struct world_node *n, void *arg)
{
    struct reading *r = mem_new(struct reading);
    *r = (struct reading){n, W->acknowledged};
    replica_barrier(n->node->replica, n->node->loop, 1 + (unsigned)draw(5000), on_read, r);
}

void client_read(struct world_node *n)
{
    operator_call(n, read_now, NULL);
}

/* ---- sessions ---- */

static void on_deliver(struct session *s, const struct envelope *e, const char *extra_xml)
{
    (void)s, (void)e, (void)extra_xml;
}
static void on_output(const struct session *s, uint64_t *written, uint64_t *sent)
{
    (void)s;
    *written = *sent = 0;
}
static size_t on_queued(const struct session *s)
{
    (void)s;
    return 0;
}
static void on_roster_push(struct session *s, const struct roster_item *item)
{
    (void)s, (void)item;
}
static void on_close(struct session *s, enum session_reason reason)
{
    struct client_session *c = container_of(s, struct client_session, session);
    world_say("user %u is logged out of node %u (%u)", c->user, c->node->id, reason);
    session_end(s);
    list_remove(&c->link); /* the struct lives on: the turn is not over */
    if (reason == SESSION_MOVED || reason == SESSION_NO_LEASE)
        client_come_back(c->user);
}
static void on_pause(struct session *s)
{
    (void)s;
}
static void on_describe(const struct session *s, struct session_info *out)
{
    (void)s, (void)out;
}
static const struct session_ops session_ops = {.deliver = on_deliver,
                                               .output = on_output,
                                               .queued = on_queued,
                                               .roster_push = on_roster_push,
                                               .close = on_close,
                                               .pause = on_pause,
                                               .resume = on_pause,
                                               .describe = on_describe};

struct act {
    struct world_node *node;
    unsigned user;
};

static struct client_session *find_session(const struct world_node *n, unsigned user)
{
    struct client_session *c;
    list_for_each(c, &W->users[user].sessions, struct client_session,
                  link) if (c->node == n && c->life == n->life) return c;
    return NULL;
}

/* As protocols/xmpp/bind.c does it. */
static void log_in(void *arg, struct shard *s)
{
    struct act *a = arg;
    struct err_ctx err = {0};
    struct world_user *u = &W->users[a->user];
    char resource[16];
    bool is_in = find_session(a->node, a->user) && !chance(10); /* a second one, or another in its place */
    if (!is_in && im_is_serving(s->im) && shard_check_lease(s) == LEASE_HELD && u->uid) {
        struct client_session *c = mem_new(struct client_session);
        c->node = a->node;
        c->life = a->node->life;
        c->user = a->user;
        list_init(&c->link);
        snprintf(resource, sizeof(resource), "r%u", (unsigned)draw(2));
        if (!session_open(&c->session, s, u->uid, resource, &session_ops, &err)) {
            list_append(&u->sessions, &c->link);
            W->counts.n_logins++;
            world_say("user %u is logged in at node %u", a->user, a->node->id);
        } else {
            mem_free(c);
        }
    }
    mem_free(a);
}

static void call_shard(struct world_node *n, unsigned user, void (*fn)(void *arg, struct shard *s))
{
    struct act *a = mem_new(struct act);
    *a = (struct act){n, user};
    shard_call(world_shard(n), fn, a);
}

void client_log_in(struct world_node *n, unsigned user)
{
    call_shard(n, user, log_in);
}

static void log_out(void *arg, struct shard *s)
{
    struct act *a = arg;
    struct client_session *c = find_session(a->node, a->user);
    if (c)
        on_close(&c->session, SESSION_SHUTDOWN);
    mem_free(a);
}

static void on_roster_set(struct session *s, struct shard *shard, void *user,
                          const struct proposal_result *result)
{
    settle(user, result);
}

static void set_roster(void *arg, struct shard *s)
{
    struct act *a = arg;
    struct client_session *c = find_session(a->node, a->user);
    struct world_op *op = c ? new_op(a->node, 1 + a->user) : NULL;
    mem_free(a);
    if (!op)
        return;
    char contact[40];
    snprintf(contact, sizeof(contact), "w%u@elsewhere.example", (unsigned)(op - W->ops));
    Imp__Command command = IMP__COMMAND__INIT;
    Imp__RosterSet set = IMP__ROSTER_SET__INIT;
    set.uid = W->users[op->user - 1].uid;
    set.contact = contact;
    set.name = contact;
    command.body_case = IMP__COMMAND__BODY_ROSTER_SET;
    command.roster_set = &set;
    if (session_submit(&c->session, &command, on_roster_set, op))
        op->state = OP_NEVER;
}

void client_set_roster(struct world_node *n, unsigned user)
{
    call_shard(n, user, set_roster);
}

void client_process_ended(struct world_node *n)
{
    for (unsigned i = 0; i < WORLD_USERS; i++) {
        struct client_session *c;
        list_for_each(c, &W->users[i].sessions, struct client_session, link) if (c->node == n)
            list_remove(&c->link);
    }
}

/* Would it act for the user if it ran now? A process that stands still may do so until its lease ends. */
bool client_serves(const struct world_node *n, unsigned user)
{
    const struct client_session *c = n->is_alive ? find_session(n, user) : NULL;
    if (!c || !session_is_open(&c->session))
        return false;
    struct world_node *before = W->current;
    W->current = (struct world_node *)n; /* whose clock counts */
    bool has_lease = shard_has_lease(c->session.shard);
    W->current = before;
    return has_lease;
}

/* ---- all the time ---- */

/* A client that does not know where it is at home. */
static void try_everywhere(unsigned user)
{
    for (uint32_t id = 1; id <= W->n_nodes; id++)
        if (W->nodes[id].is_alive)
            client_log_in(&W->nodes[id], user);
}

struct comeback {
    struct world_event event;
    unsigned user;
};

static void on_comeback(struct world_event *e)
{
    struct comeback *c = container_of(e, struct comeback, event);
    try_everywhere(c->user);
    mem_free(c);
}

void client_come_back(unsigned user)
{
    struct comeback *c = mem_new(struct comeback);
    c->user = user;
    world_schedule(&c->event, NULL, 'k', draw(chance(50) ? 3 * MS : 100 * MS), on_comeback);
}

static void act_once(void)
{
    struct world_node *n = world_some_node();
    unsigned user = (unsigned)draw(WORLD_USERS);
    if (!n)
        return;
    switch (draw(10)) {
    case 0:
    case 1:
    case 2:
        client_write(n);
        break;
    case 3:
    case 4:
        client_read(n);
        break;
    case 5:
    case 6:
        try_everywhere(user);
        break;
    case 7:
        if (W->users[user].uid)
            client_set_roster(n, user);
        else
            operator_add_user(n, user);
        break;
    case 8:
        client_set_roster(n, user);
        break;
    default:
        if (chance(20))
            call_shard(n, user, log_out);
    }
}

static void on_act(struct world_event *e)
{
    act_once();
    world_schedule(e, NULL, 'c', 1 * MS + draw(chance(50) ? 10 * MS : 60 * MS), on_act);
}

void clients_begin(void)
{
    world_schedule(&W->clients, NULL, 'c', 0, on_act);
}
