#include "im_fixture.h"
#include "base/clock.h"
#include "im/homes.h"
#include "replication/levels.h"
#include "store_test.h"
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

enum { WAIT_MS = 30000 }; /* for a busy machine and ThreadSanitizer */

struct fix_node {
    struct fix *fix;
    unsigned id;
    char *dir;
    struct store *store;
    struct im *im;
    struct xmpp *xmpp;
    struct homes *homes; /* control loop */
    struct metrics metrics;
    _Atomic bool lease;
    _Atomic bool stopped;
    struct list backlog; /* struct entry copies: while stopped */
    struct {
        struct loop *loop;
        const struct feed_handler *handler;
        void *user;
    } feeds[16];
    unsigned n_feeds;
    _Atomic bool links[FIX_NODES_MAX + 1], loses[FIX_NODES_MAX + 1];
    _Atomic enum fix_relay relays[FIX_NODES_MAX + 1];
    bool delays[FIX_NODES_MAX + 1]; /* control loop: from whom; */
    struct list delayed;            /* struct frame */
    _Atomic uint64_t epoch;
    struct store_reader *reader; /* control loop */
    uint64_t applied;
};

struct fix {
    unsigned n, n_users;
    struct log *log;
    struct loop *apply, *control;
    uint64_t index;
    uint64_t *uids;
    atomic_uint n_relay[16], n_stores, n_forget;
    struct fix_node nodes[FIX_NODES_MAX + 1];
};

/* ---- the log ---- */

struct done {
    proposal_done_fn *fn;
    void *user;
    struct loop *loop;
    unsigned node;
};
struct entry {
    struct letter letter;
    struct list link;
    struct fix *fix;
    struct done done;
    bool is_forgotten;
    uint64_t index;
    size_t n;
    uint8_t data[];
};
struct feed_letter {
    struct letter letter;
    const struct feed_handler *handler;
    void *user;
    uint64_t applied;
    proposal_done_fn *done;
    void *done_user;
    struct fsm_result result;
    size_t n;
    struct feed_event events[];
};

static void deliver_feed(struct letter *letter)
{
    struct feed_letter *f = container_of(letter, struct feed_letter, letter);
    if (f->handler->on_events)
        f->handler->on_events(f->user, f->events, f->n, f->applied);
    if (f->done) {
        struct proposal_result r = {f->result.code, f->applied, f->result.value, f->result.value2,
                                    f->result.text};
        f->done(f->done_user, &r);
    }
    mem_free(f);
}

static void discard_feed(struct letter *letter)
{
    mem_free(container_of(letter, struct feed_letter, letter));
}

struct seen {
    uint64_t index;
    size_t n;
    struct feed_event events[256];
};

static void observe(void *user, enum table t, const struct key *k, bool deleted)
{
    struct seen *s = user;
    if (s->n < n_elements(s->events))
        s->events[s->n++] = (struct feed_event){s->index, t, deleted, *k};
}

static void apply_at(struct fix_node *node, const struct entry *e)
{
    struct arena a;
    arena_init(&a);
    Imp__Command *command = imp__command__unpack(NULL, e->n, e->data);
    struct seen *seen = mem_new(struct seen);
    seen->index = e->index;
    struct store_txn *t = store_begin(node->store);
    store_set_observer(t, observe, seen);
    struct fsm_result result = {0};
    struct fsm_input in = {.index = e->index, .term = 1};
    fsm_apply(t, command, &in, &a, &result);
    store_set_position(t, &(struct store_position){.applied_index = e->index, .applied_term = 1});
    struct err_ctx err = {0};
    if (store_commit(t, &err) < 0)
        log_fatal(node->fix->log, "commit: %s", err.text);
    for (unsigned i = 0; i < node->n_feeds; i++) {
        struct feed_letter *f = mem_zalloc(sizeof *f + seen->n * sizeof *f->events);
        f->letter.deliver = deliver_feed;
        f->letter.discard = discard_feed;
        f->handler = node->feeds[i].handler;
        f->user = node->feeds[i].user;
        f->applied = e->index;
        f->n = seen->n;
        memcpy(f->events, seen->events, seen->n * sizeof *f->events);
        if (e->done.node == node->id && e->done.loop == node->feeds[i].loop) {
            f->done = e->done.fn;
            f->done_user = e->done.user;
            f->result = result;
            if (e->is_forgotten)
                f->result = (struct fsm_result){.code = ERR_UNKNOWN_OUTCOME};
        }
        loop_post(node->feeds[i].loop, &f->letter);
    }
    mem_free(seen);
    imp__command__free_unpacked(command, NULL);
    arena_fini(&a);
}

static void catch_up(struct fix_node *node)
{
    struct entry *e;
    list_for_each(e, &node->backlog, struct entry, link)
    {
        list_remove(&e->link);
        apply_at(node, e);
        mem_free(e);
    }
}

/* To all nodes; those that stand still get it later. Takes E. */
static void apply_everywhere(struct fix *f, struct entry *e)
{
    e->index = ++f->index;
    for (unsigned i = 1; i <= f->n; i++) {
        struct fix_node *node = &f->nodes[i];
        if (atomic_load(&node->stopped)) {
            struct entry *copy = mem_dup(e, sizeof *e + e->n);
            list_append(&node->backlog, &copy->link);
            continue;
        }
        catch_up(node);
        apply_at(node, e);
    }
    mem_free(e);
}

static void apply_entry(struct letter *letter)
{
    struct entry *e = container_of(letter, struct entry, letter);
    apply_everywhere(e->fix, e);
}

static void discard_entry(struct letter *letter)
{
    mem_free(container_of(letter, struct entry, letter));
}

static int submit_from(struct fix *f, unsigned node, Imp__Command *command, struct loop *loop,
                       proposal_done_fn *fn, void *user)
{
    command->time_ms = clock_wall_ms();
    size_t n = imp__command__get_packed_size(command);
    struct entry *e = mem_zalloc(sizeof *e + n);
    e->letter.deliver = apply_entry;
    e->letter.discard = discard_entry;
    list_init(&e->link);
    e->fix = f;
    e->n = n;
    imp__command__pack(command, e->data);
    if (command->body_case == IMP__COMMAND__BODY_MESSAGE_STORE) {
        atomic_fetch_add(&f->n_stores, 1);
        e->is_forgotten = atomic_load(&f->n_forget) && atomic_fetch_sub(&f->n_forget, 1);
    }
    e->done = (struct done){fn, user, loop, node};
    loop_post(f->apply, &e->letter);
    return 0;
}

static int submit(void *user, Imp__Command *command, struct loop *loop, unsigned timeout_ms,
                  proposal_done_fn *on_done, void *done_user)
{
    struct fix_node *node = user;
    return submit_from(node->fix, node->id, command, loop, on_done, done_user);
}

static void add_feed(void *user, struct loop *loop, const struct feed_handler *handler, void *feed_user)
{
    struct fix_node *node = user;
    node->feeds[node->n_feeds].loop = loop;
    node->feeds[node->n_feeds].handler = handler;
    node->feeds[node->n_feeds++].user = feed_user;
}

/* The feeds of this fixture always tell everything. */
static void no_follow(void *user, struct loop *loop, bool on)
{
    (void)user, (void)loop, (void)on;
}

static uint64_t lease_until(void *user, uint64_t epoch)
{
    struct fix_node *node = user;
    return atomic_load(&node->lease) ? UINT64_MAX : 0;
}

/* ---- links ---- */

struct frame {
    struct letter letter;
    struct list link;
    struct fix_node *to;
    uint32_t from;
    uint64_t epoch;
    enum link_frame type;
    size_t n;
    uint8_t data[];
};

static void deliver_frame(struct letter *letter)
{
    struct frame *f = container_of(letter, struct frame, letter);
    if (f->to->delays[f->from]) {
        list_append(&f->to->delayed, &f->link);
        return;
    }
    if (f->type == LINK_ENVELOPE)
        im_on_envelope(f->to->im, f->from, f->epoch, f->data, f->n);
    else if (f->type == LINK_PRESENCE)
        im_on_presence(f->to->im, f->from, f->epoch, f->data, f->n);
    else if (f->type == LINK_MOVED)
        homes_on_frame(f->to->homes, f->from, f->epoch, f->data, f->n);
    else
        xmpp_on_relay(f->to->xmpp, f->from, f->epoch, f->data, f->n);
    mem_free(f);
}

static void discard_frame(struct letter *letter)
{
    mem_free(container_of(letter, struct frame, letter));
}

static int fake_link_send(void *user, uint32_t to, enum link_frame type, const void *data, size_t n)
{
    struct fix_node *node = user;
    if (!atomic_load(&node->links[to]))
        return ERR_UNAVAILABLE;
    if (type == LINK_ENVELOPE && atomic_load(&node->loses[to]))
        return 0;
    enum fix_relay relay = type == LINK_RELAY ? atomic_load(&node->relays[to]) : FIX_RELAY_ARRIVES;
    if (relay != FIX_RELAY_ARRIVES)
        return relay == FIX_RELAY_IS_LOST ? 0 : ERR_LIMIT;
    if (type == LINK_RELAY)
        atomic_fetch_add(&node->fix->n_relay[*(const uint8_t *)data & 15], 1);
    struct frame *f = mem_zalloc(sizeof *f + n);
    f->letter.deliver = deliver_frame;
    f->letter.discard = discard_frame;
    f->to = &node->fix->nodes[to];
    f->from = node->id;
    f->epoch = atomic_load(&node->epoch);
    f->type = type;
    f->n = n;
    memcpy(f->data, data, n);
    loop_post(node->fix->control, &f->letter);
    return 0;
}

static bool fake_is_congested(void *user, uint32_t to)
{
    return false;
}

static bool fake_is_up(void *user, uint32_t to)
{
    struct fix_node *node = user;
    return atomic_load(&node->links[to]);
}

/* ---- waiting for a loop ---- */

struct wait {
    struct letter letter;
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
};

static void deliver_wait(struct letter *letter)
{
    struct wait *w = container_of(letter, struct wait, letter);
    w->fn(w->arg);
    pthread_mutex_lock(&w->lock);
    w->done = true;
    pthread_cond_signal(&w->cond);
    pthread_mutex_unlock(&w->lock);
}

static void on_loop(struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct wait w = {.fn = fn, .arg = arg};
    w.letter.deliver = deliver_wait;
    pthread_mutex_init(&w.lock, NULL);
    pthread_cond_init(&w.cond, NULL);
    loop_post(l, &w.letter);
    pthread_mutex_lock(&w.lock);
    while (!w.done)
        pthread_cond_wait(&w.cond, &w.lock);
    pthread_mutex_unlock(&w.lock);
    pthread_mutex_destroy(&w.lock);
    pthread_cond_destroy(&w.cond);
}

static void nothing(void *arg)
{
}

/* Everything posted so far was applied, told to every shard, and the shards have handled it. */
static void settle(struct fix *f)
{
    for (int round = 0; round < 4; round++) {
        on_loop(f->apply, nothing, NULL);
        on_loop(f->control, nothing, NULL);
        for (unsigned i = 1; i <= f->n; i++)
            for (unsigned k = 0; f->nodes[i].im && k < im_n_shards(f->nodes[i].im); k++)
                on_loop(im_shard(f->nodes[i].im, k)->loop, nothing, NULL);
    }
}

struct applied {
    struct fix *fix;
    Imp__Command *command;
    int code;
    uint64_t value;
};

static void apply_now(void *arg)
{
    struct applied *x = arg;
    struct fix *f = x->fix;
    size_t n = imp__command__get_packed_size(x->command);
    struct entry *e = mem_zalloc(sizeof *e + n);
    list_init(&e->link);
    e->n = n;
    imp__command__pack(x->command, e->data);
    apply_everywhere(f, e);
}

/* The result, from a transaction that is thrown away. */
static void result_now(void *arg)
{
    struct applied *x = arg;
    struct arena a;
    arena_init(&a);
    struct store_txn *t = store_begin(x->fix->nodes[1].store);
    struct fsm_result result = {0};
    struct fsm_input in = {.index = x->fix->index + 1, .term = 1};
    fsm_apply(t, x->command, &in, &a, &result);
    store_abort(t);
    arena_fini(&a);
    x->code = result.code;
    x->value = result.value;
}

int fix_apply(struct fix *f, Imp__Command *command, uint64_t *value)
{
    command->time_ms = clock_wall_ms();
    struct applied x = {.fix = f, .command = command};
    on_loop(f->apply, result_now, &x);
    on_loop(f->apply, apply_now, &x);
    settle(f);
    if (value)
        *value = x.value;
    return x.code;
}

void fix_set(struct fix *f, const char *key, const char *value)
{
    Imp__SettingChange change = IMP__SETTING_CHANGE__INIT, *changes[] = {&change};
    change.key = (char *)key;
    change.value = (char *)value;
    Imp__SettingsApply body = IMP__SETTINGS_APPLY__INIT;
    body.n_changes = 1;
    body.changes = changes;
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_SETTINGS_APPLY;
    c.settings_apply = &body;
    assert_int_equal(fix_apply(f, &c, NULL), 0);
}

/* ---- rows written past the state machine: the node table ---- */

struct node_change {
    struct fix *fix;
    unsigned node;
    bool up, raise;
};

static void put_node(void *arg)
{
    struct node_change *c = arg;
    struct fix *f = c->fix;
    f->index++;
    for (unsigned i = 1; i <= f->n; i++) {
        struct fix_node *n = &f->nodes[i];
        struct arena a;
        arena_init(&a);
        struct key k;
        key_init(&k);
        key_u32(&k, c->node);
        struct store_txn *t = store_begin(n->store);
        Imp__NodeRow *row = store_find_row(t, TABLE_NODE, &k, &a), fresh = IMP__NODE_ROW__INIT;
        char name[16];
        if (!row) {
            row = &fresh;
            row->id = c->node;
            snprintf(name, sizeof name, "n%u", c->node);
            row->name = row->address = name;
            row->state = IMP__NODE_STATE__NODE_MEMBER;
            row->epoch = 1;
        }
        if (row->up != c->up)
            row->up_index = f->index;
        row->up = c->up;
        row->handing_over = false;
        if (!row->epoch)
            row->epoch = 1;
        if (c->raise)
            row->epoch++;
        atomic_store(&f->nodes[c->node].epoch, row->epoch);
        store_put_row(t, TABLE_NODE, &k, row);
        store_set_position(t, &(struct store_position){.applied_index = f->index, .applied_term = 1});
        test_commit(t);
        for (unsigned s = 0; s < n->n_feeds; s++) {
            struct feed_letter *l = mem_zalloc(sizeof *l + sizeof *l->events);
            l->letter.deliver = deliver_feed;
            l->letter.discard = discard_feed;
            l->handler = n->feeds[s].handler;
            l->user = n->feeds[s].user;
            l->applied = f->index;
            l->n = 1;
            l->events[0] = (struct feed_event){f->index, TABLE_NODE, false, k};
            loop_post(n->feeds[s].loop, &l->letter);
        }
        arena_fini(&a);
    }
}

void fix_node_up(struct fix *f, unsigned node, bool up)
{
    struct node_change c = {f, node, up, !up};
    on_loop(f->apply, put_node, &c);
    settle(f);
}

void fix_lease(struct fix *f, unsigned node, bool held)
{
    atomic_store(&f->nodes[node].lease, held);
}

void fix_delay_apply(struct fix *f, unsigned node, bool stop)
{
    atomic_store(&f->nodes[node].stopped, stop);
}

void fix_link_loses(struct fix *f, unsigned a, unsigned b, bool on)
{
    atomic_store(&f->nodes[a].loses[b], on);
}

struct delay {
    struct fix_node *to;
    unsigned from;
    bool on;
};

static void change_delay(void *arg)
{
    struct delay *d = arg;
    d->to->delays[d->from] = d->on;
    for (struct list *item; !d->on && (item = list_first(&d->to->delayed));) {
        list_remove(item);
        deliver_frame(&list_entry(item, struct frame, link)->letter);
    }
}

void fix_link_delays(struct fix *f, unsigned a, unsigned b, bool on)
{
    struct delay d = {&f->nodes[b], a, on};
    on_loop(f->control, change_delay, &d);
}

struct link_change {
    struct fix *fix;
    unsigned a, b;
    bool up;
};

static void change_link(void *arg)
{
    struct link_change *c = arg;
    struct fix_node *a = &c->fix->nodes[c->a], *b = &c->fix->nodes[c->b];
    atomic_store(&a->links[c->b], c->up);
    atomic_store(&b->links[c->a], c->up);
    if (c->up) {
        im_on_link_up(a->im, c->b, 1);
        im_on_link_up(b->im, c->a, 1);
        homes_on_link_up(a->homes, c->b, 1);
        homes_on_link_up(b->homes, c->a, 1);
    } else {
        im_on_link_down(a->im, c->b);
        im_on_link_down(b->im, c->a);
        xmpp_on_link_down(a->xmpp, c->b);
        xmpp_on_link_down(b->xmpp, c->a);
    }
}

void fix_link(struct fix *f, unsigned a, unsigned b, bool up)
{
    struct link_change c = {f, a, b, up};
    on_loop(f->control, change_link, &c);
    settle(f);
}

static void break_link(void *arg)
{
    struct link_change *c = arg;
    struct fix_node *a = &c->fix->nodes[c->a], *b = &c->fix->nodes[c->b];
    atomic_store(&a->links[c->b], false);
    im_on_link_down(a->im, c->b);
    xmpp_on_link_down(a->xmpp, c->b);
    im_on_link_in_down(b->im, c->a);
    xmpp_on_link_down(b->xmpp, c->a);
}

static void mend_link(void *arg)
{
    struct link_change *c = arg;
    struct fix_node *a = &c->fix->nodes[c->a];
    atomic_store(&a->links[c->b], true);
    im_on_link_up(a->im, c->b, 1);
    homes_on_link_up(a->homes, c->b, 1);
}

void fix_link_breaks(struct fix *f, unsigned a, unsigned b)
{
    struct link_change c = {f, a, b, false};
    on_loop(f->control, break_link, &c);
    settle(f);
    on_loop(f->control, mend_link, &c);
    settle(f);
}

void fix_relay_goes(struct fix *f, unsigned a, unsigned b, enum fix_relay how)
{
    atomic_store(&f->nodes[a].relays[b], how);
}

/* ---- the control loop's part: hand-over ---- */

static void look_at_members(struct fix_node *n, uint64_t index)
{
    if (!n->reader)
        n->reader = store_reader_new(n->store);
    store_reader_reset(n->reader);
    struct members *m = members_read(store_read_txn(n->reader), index);
    const struct member *self = members_find(m, n->id);
    homes_set_epoch(n->homes, self ? self->epoch : 0);
    homes_set_members(n->homes, m);
    homes_moved(n->homes, index);
    members_free(m);
    store_reader_reset(n->reader);
}

static void on_control_events(void *user, const struct feed_event *events, size_t n_events, uint64_t applied)
{
    bool homes = false;
    for (size_t i = 0; i < n_events; i++)
        homes |= events[i].table == TABLE_NODE || events[i].table == TABLE_USER;
    if (homes)
        look_at_members(user, applied);
}

static bool hears(void *user, uint32_t node)
{
    struct fix_node *n = user;
    return atomic_load(&n->fix->nodes[node].links[n->id]);
}

static void begin_homes(void *arg)
{
    struct fix *f = arg;
    for (unsigned i = 1; i <= f->n; i++)
        look_at_members(&f->nodes[i], f->index);
}

static void end_homes(void *arg)
{
    struct fix *f = arg;
    for (unsigned i = 1; i <= f->n; i++)
        store_reader_free(f->nodes[i].reader);
}

/* ---- beginning and end ---- */

static void bootstrap(struct fix *f)
{
    uint8_t id[16] = {1};
    Imp__NodeRow node = IMP__NODE_ROW__INIT;
    node.id = 1;
    node.name = node.address = (char *)"n1";
    Imp__CaRow ca = IMP__CA_ROW__INIT;
    ca.cert_pem = (char *)"x";
    Imp__Bootstrap body = IMP__BOOTSTRAP__INIT;
    body.cluster_id = (ProtobufCBinaryData){sizeof id, id};
    body.domain = (char *)"example.com";
    body.node = &node;
    body.ca = &ca;
    body.feature_level = level_known();
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_BOOTSTRAP;
    c.bootstrap = &body;
    assert_int_equal(fix_apply(f, &c, NULL), 0);
}

static void add_user(struct fix *f, unsigned i)
{
    char name[16], display[32];
    snprintf(name, sizeof name, "u%u", i);
    snprintf(display, sizeof display, "User %u", i);
    char *words[] = {(char *)"user", name};
    Imp__UserAdd body = IMP__USER_ADD__INIT;
    body.domain = (char *)"example.com";
    body.localpart = name;
    body.display_name = display;
    body.n_words = 2;
    body.words = words;
    Imp__Command c = IMP__COMMAND__INIT;
    c.body_case = IMP__COMMAND__BODY_USER_ADD;
    c.user_add = &body;
    assert_int_equal(fix_apply(f, &c, &f->uids[i]), 0);
    Imp__UserAssign assign = IMP__USER_ASSIGN__INIT;
    assign.n_uids = 1;
    assign.uids = &f->uids[i];
    assign.node = (i - 1) % f->n + 1;
    imp__command__init(&c);
    c.body_case = IMP__COMMAND__BODY_USER_ASSIGN;
    c.user_assign = &assign;
    assert_int_equal(fix_apply(f, &c, NULL), 0);
}

struct fix *fix_new(unsigned n_nodes, unsigned n_shards, unsigned n_users)
{
    struct fix *f = mem_new(struct fix);
    f->n = n_nodes;
    f->n_users = n_users;
    f->uids = mem_calloc(n_users + 1, sizeof *f->uids);
    f->log = log_new(2, LOG_TEXT, getenv("IM_TEST_LOG") ? LOG_DEBUG : LOG_ERROR, "");
    assert_int_equal(loop_new(&f->apply, "apply", f->log), 0);
    assert_int_equal(loop_new(&f->control, "control", f->log), 0);
    loop_start_thread(f->apply);
    loop_start_thread(f->control);
    for (unsigned i = 1; i <= n_nodes; i++) {
        struct fix_node *n = &f->nodes[i];
        n->fix = f;
        n->id = i;
        n->dir = test_dir();
        n->store = test_open(n->dir, NULL);
        atomic_store(&n->lease, true);
        list_init(&n->backlog);
        list_init(&n->delayed);
    }
    bootstrap(f);
    for (unsigned i = 1; i <= n_nodes; i++)
        fix_node_up(f, i, true);
    for (unsigned i = 1; i <= n_users; i++)
        add_user(f, i);
    for (unsigned i = 1; i <= n_nodes; i++) {
        struct fix_node *n = &f->nodes[i];
        struct err_ctx err = {0};
        struct im_options o = {.node_id = i,
                               .n_shards = n_shards,
                               .release = "test",
                               .store = n->store,
                               .log = f->log,
                               .metrics = &n->metrics,
                               .backend = {n, submit, add_feed, lease_until, fake_link_send,
                                           fake_is_congested, fake_is_up, no_follow}};
        assert_int_equal(im_new(&n->im, &o, &err), 0);
        n->homes =
            homes_new(&(struct homes_options){.im = n->im, .loop = f->control, .hears = hears, .user = n});
        static const struct feed_handler control_feed = {.on_events = on_control_events};
        add_feed(n, f->control, &control_feed, n);
        struct xmpp_options x = {.im = n->im};
        assert_int_equal(xmpp_new(&n->xmpp, &x, &err), 0);
        assert_int_equal(im_start(n->im, &err), 0);
    }
    on_loop(f->control, begin_homes, f);
    for (unsigned a = 1; a <= n_nodes; a++)
        for (unsigned b = a + 1; b <= n_nodes; b++)
            fix_link(f, a, b, true);
    settle(f);
    return f;
}

void fix_free(struct fix *f)
{
    for (unsigned i = 1; i <= f->n; i++)
        im_stop(f->nodes[i].im);
    loop_stop(f->apply);
    loop_join_thread(f->apply);
    on_loop(f->control, end_homes, f);
    loop_stop(f->control);
    loop_join_thread(f->control);
    for (unsigned i = 1; i <= f->n; i++) {
        struct fix_node *n = &f->nodes[i];
        homes_free(n->homes);
        im_free(n->im);
        xmpp_free(n->xmpp);
        store_close_dirty(n->store);
        test_dir_remove(n->dir);
    }
    loop_free(f->apply);
    loop_free(f->control);
    log_free(f->log);
    mem_free(f->uids);
    mem_free(f);
}

struct im *fix_im(struct fix *f, unsigned node)
{
    return f->nodes[node].im;
}

uint64_t fix_uid(struct fix *f, unsigned user)
{
    return f->uids[user];
}

struct metrics *fix_metrics(struct fix *f, unsigned node)
{
    return &f->nodes[node].metrics;
}

unsigned fix_relay_frames(struct fix *f, unsigned op)
{
    return atomic_load(&f->n_relay[op]);
}

void fix_forget_outcomes(struct fix *f, unsigned n)
{
    atomic_store(&f->n_forget, n);
}

unsigned fix_stores(struct fix *f)
{
    return atomic_load(&f->n_stores);
}

/* ---- clients ---- */

static void no_data(void *user, const uint8_t *data, size_t n)
{
}

static void no_close(void *user, int code, const char *detail)
{
}

static const struct stream_events no_events = {.on_data = no_data, .on_close = no_close};
static const struct xml_stream_events no_xml;

struct hand_over {
    struct fix *fix;
    unsigned user;
    int fd;
};

static void hand_over(void *arg, struct shard *s)
{
    struct hand_over *h = arg;
    struct stream *stream = stream_new(s->loop, h->fd, &no_events, NULL);
    struct xml_stream *parser = xml_stream_new(&xml_limits_default, &no_xml, NULL);
    struct c2s_login *login = c2s_login_new();
    login->uid = h->fix->uids[h->user];
    login->localpart = mem_printf("u%u", h->user);
    login->domain = mem_strdup("example.com");
    login->mechanism = mem_strdup("PLAIN");
    login->address = mem_strdup("127.0.0.1");
    c2s_hand_over(s, stream, parser, login);
    mem_free(h);
}

struct client *client_raw(struct fix *f, unsigned user, unsigned edge)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    struct client *c = mem_new(struct client);
    c->fd = fd[0];
    struct hand_over *h = mem_new(struct hand_over);
    *h = (struct hand_over){f, user, fd[1]};
    /* On a shard that is the user's or not, by turns. */
    shard_call(im_shard(f->nodes[edge].im, user / 2 % im_n_shards(f->nodes[edge].im)), hand_over, h);
    return c;
}

struct client *client_open(struct fix *f, unsigned user, unsigned edge, const char *resource)
{
    struct client *c = client_raw(f, user, edge);
    client_send(c, "<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
                   "xmlns:stream='http://etherx.jabber.org/streams' to='example.com' version='1.0'>");
    client_expect(c, "</stream:features>");
    if (resource)
        client_send(
            c,
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>%s</resource>"
            "</bind></iq>",
            resource);
    else
        client_send(c, "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>");
    client_expect(c, "</iq>");
    char *jid = strstr(c->in, "<jid>");
    assert_non_null(jid);
    sscanf(jid, "<jid>%127[^<]", c->jid);
    client_clear(c);
    return c;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    mem_free(c->in);
    mem_free(c);
}

void client_send(struct client *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    char *text = NULL;
    int n = vasprintf(&text, format, ap);
    va_end(ap);
    for (int done = 0; done < n;) {
        ssize_t k = send(c->fd, text + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (k <= 0)
            fail_msg("client: cannot send");
        done += (int)k;
    }
    free(text);
}

/* False at the end of the stream. */
static bool read_some(struct client *c, int ms)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0)
        return true;
    if (c->cap - c->n < 65536) {
        c->cap = c->cap * 2 + 131072;
        c->in = mem_realloc(c->in, c->cap);
    }
    ssize_t k = recv(c->fd, c->in + c->n, c->cap - c->n - 1, 0);
    if (k <= 0)
        return false;
    c->n += (size_t)k;
    c->in[c->n] = 0;
    return true;
}

void client_read(struct client *c, int ms)
{
    read_some(c, ms);
}

void client_befriend(struct client *a, struct client *b, const char *a_bare, const char *b_bare)
{
    client_send(a, "<presence type='subscribe' to='%s'/>", b_bare);
    client_expect(b, "type='subscribe'");
    client_send(b, "<presence type='subscribed' to='%s'/>", a_bare);
    client_expect(a, "type='subscribed'");
    client_send(b, "<presence type='subscribe' to='%s'/>", a_bare);
    client_expect(a, "type='subscribe'");
    client_send(a, "<presence type='subscribed' to='%s'/>", b_bare);
    client_expect(b, "type='subscribed'");
}

bool client_has(struct client *c, const char *text)
{
    return c->in && memmem(c->in, c->n, text, strlen(text));
}

unsigned client_count(struct client *c, const char *text)
{
    unsigned n = 0;
    size_t n_text = strlen(text);
    const char *end = c->in + c->n;
    for (const char *p = c->in; p && (p = memmem(p, (size_t)(end - p), text, n_text)); p += n_text)
        n++;
    return n;
}

void client_expect(struct client *c, const char *text)
{
    uint64_t until = clock_monotonic_ms() + WAIT_MS;
    while (!client_has(c, text)) {
        bool open = read_some(c, 50);
        if (!client_has(c, text) && (!open || clock_monotonic_ms() > until))
            fail_msg("client %s: \"%s\" did not come; it has: %s", c->jid, text, c->in ? c->in : "");
    }
}

void client_sync(struct client *c)
{
    static _Atomic unsigned n;
    char id[32];
    snprintf(id, sizeof id, "sync%u", atomic_fetch_add(&n, 1));
    client_send(c, "<iq type='get' id='%s'><ping xmlns='urn:xmpp:ping'/></iq>", id);
    client_expect(c, id);
}

void client_expect_not(struct client *c, const char *text)
{
    client_sync(c);
    if (client_has(c, text))
        fail_msg("client %s: \"%s\" came: %s", c->jid, text, c->in);
}

void client_clear(struct client *c)
{
    c->n = 0;
    if (c->in)
        c->in[0] = 0;
}

bool client_wait_end(struct client *c)
{
    uint64_t until = clock_monotonic_ms() + WAIT_MS;
    while (clock_monotonic_ms() < until)
        if (!read_some(c, 50))
            return true;
    return false;
}
