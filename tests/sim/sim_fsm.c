/* sim_fsm SEEDS [FIRST]: the simulation of driver and log with the real state machine on top: each node has a
 * store of its own, durable points and installs are copies of it. Random commands in proposer sessions, as a
 * proposer sends them that sees the leader's store, with repeats and gaps; through crashes, leader changes
 * and installs.
 *
 * Checked beyond what sim.h says (there the hash is the store's, over all replicated tables): a proposal
 * executes at one index only, on whatever node and in whatever life. */
#include "base/arena.h"
#include "replication/fsm.h"
#include "sim.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { N_STEPS = 400, MAX_EPOCH = 64, MAX_SEQ = 512 };

struct world {
    struct sim sim;
    char root[64];
    unsigned n_dirs;
    uint64_t time_ms, term;
    uint64_t seq[SIM_MAX_NODES + 1], epoch[SIM_MAX_NODES + 1]; /* of the session as the proposer thinks */
    uint64_t executed_at[SIM_MAX_NODES + 1][MAX_EPOCH][MAX_SEQ];
    unsigned long n_executed, n_skipped, n_refused;
};

struct machine {
    struct world *w;
    char dir[96];
    struct store *store; /* NULL: not open */
    struct store_reader *reader;
    uint64_t hash, index;
};

/* ---- directories, one level deep ---- */

static void remove_dir(const char *path)
{
    char name[400];
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.' && (!e->d_name[1] || e->d_name[1] == '.'))
            continue;
        snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        if (unlink(name))
            remove_dir(name);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

/* ---- the machine ---- */

static struct machine *new_machine(struct world *w)
{
    struct machine *m = mem_new(struct machine);
    m->w = w;
    snprintf(m->dir, sizeof(m->dir), "%s/%u", w->root, w->n_dirs++);
    return m;
}

static void open_machine(struct machine *m)
{
    struct err_ctx err = {0};
    struct store_options o = {.dir = m->dir, .manual_points = true, .map_bytes = 64 << 20};
    if (m->store)
        return;
    if (store_open(&m->store, &o, &err)) {
        fprintf(stderr, "store_open: %s\n", err.text);
        exit(1);
    }
    m->reader = store_reader_new(m->store);
}

static void close_machine(struct machine *m)
{
    if (!m->store)
        return;
    struct err_ctx err = {0};
    store_reader_free(m->reader);
    if (store_close_clean(m->store, &err)) {
        fprintf(stderr, "store_close_clean: %s\n", err.text);
        exit(1);
    }
    m->store = NULL;
}

static void *fsm_make(void *user, unsigned node)
{
    return new_machine(user);
}

static void fsm_free(void *machine)
{
    struct machine *m = machine;
    if (m->store) {
        store_reader_free(m->reader);
        store_close_dirty(m->store);
    }
    remove_dir(m->dir);
    mem_free(m);
}

static void *fsm_copy(const void *machine)
{
    struct machine *from = (struct machine *)machine, *to = new_machine(from->w);
    struct err_ctx err = {0};
    uint64_t applied = 0;
    bool was_open = from->store;
    open_machine(from);
    if (store_copy(from->store, to->dir, &applied, &err)) {
        fprintf(stderr, "store_copy: %s\n", err.text);
        exit(1);
    }
    if (!was_open)
        close_machine(from);
    to->hash = from->hash;
    to->index = from->index;
    if (applied != from->index)
        sim_bad(&from->w->sim, "a copy of the store at %llu is at %llu", (unsigned long long)from->index,
                (unsigned long long)applied);
    return to;
}

static void note(struct world *w, const Imp__Proposal *p, uint64_t index, bool executed)
{
    if (!executed) {
        w->n_skipped++;
        return;
    }
    w->n_executed++;
    if (!p->node || p->node > SIM_MAX_NODES || p->epoch >= MAX_EPOCH || p->seq >= MAX_SEQ)
        return;
    uint64_t *at = &w->executed_at[p->node][p->epoch][p->seq];
    if (*at && *at != index)
        sim_bad(&w->sim, "proposal %u/%llu/%llu executes at %llu and at %llu", p->node,
                (unsigned long long)p->epoch, (unsigned long long)p->seq, (unsigned long long)*at,
                (unsigned long long)index);
    *at = index;
}

static void fsm_apply_entry(void *machine, uint64_t index, const struct rlog_entry *e)
{
    struct machine *m = machine;
    struct arena arena;
    struct err_ctx err = {0};
    struct store_hash hash;
    ProtobufCAllocator allocator;
    open_machine(m);
    arena_init(&arena);
    arena_protobuf_allocator(&arena, &allocator);
    struct store_txn *t = store_begin(m->store);
    Imp__Entry *entry = e->type == RLOG_COMMAND
                            ? imp__entry__unpack(&allocator, e->payload->n, (const uint8_t *)e->payload->data)
                            : NULL;
    for (size_t i = 0; entry && i < entry->n_proposals; i++) {
        struct fsm_input in = {.index = index, .term = e->term, .place = (uint32_t)i};
        struct fsm_result result;
        memset(&result, 0, sizeof(result));
        bool executed = fsm_execute(t, entry->proposals[i], &in, &arena, &result);
        m->w->n_refused += executed && result.code;
        note(m->w, entry->proposals[i], index, executed);
    }
    store_state_hash(t, &hash);
    struct store_position position = {.applied_index = index, .applied_term = e->term};
    store_set_position(t, &position);
    if (store_commit(t, &err))
        sim_bad(&m->w->sim, "store_commit: %s", err.text);
    arena_fini(&arena);
    store_reader_reset(m->reader);
    m->index = index;
    m->hash = hash.lo ^ hash.hi * 0x9e3779b97f4a7c15u;
    m->w->term = e->term;
}

static uint64_t fsm_hash(const void *machine)
{
    return ((const struct machine *)machine)->hash;
}

/* ---- commands ---- */

#define BYTES(p, n) ((ProtobufCBinaryData){(n), (uint8_t *)(p)})
#define BODY(CASE, member_, Type, INIT)                                                                      \
    Imp__##Type *b = arena_alloc(a, sizeof *b);                                                              \
    *b = (Imp__##Type)IMP__##INIT##__INIT;                                                                   \
    c->body_case = IMP__COMMAND__BODY_##CASE;                                                                \
    c->member_ = b

static char *draw_name(struct sim *s, struct arena *a)
{
    return arena_printf(a, "u%u", sim_draw(s, 12));
}
static char *draw_jid(struct sim *s, struct arena *a)
{
    return arena_printf(a, "u%u@example.com", sim_draw(s, 12));
}

static void make_bootstrap(struct arena *a, Imp__Command *c)
{
    static const uint8_t some[32] = "0123456789abcdef0123456789abcde";
    BODY(BOOTSTRAP, bootstrap, Bootstrap, BOOTSTRAP);
    b->node = arena_alloc(a, sizeof(*b->node));
    imp__node_row__init(b->node);
    b->node->id = 1;
    b->node->name = (char *)"n1";
    b->node->address = (char *)"10.0.0.1";
    b->node->cluster_port = 7800;
    b->node->release = (char *)"1.0";
    b->ca = arena_alloc(a, sizeof(*b->ca));
    imp__ca_row__init(b->ca);
    b->ca->cert_pem = (char *)"CERT";
    b->ca->sealed_key = BYTES(some, 32);
    b->ca->active = true;
    b->cluster_id = BYTES(some, 16);
    b->domain = (char *)"example.com";
}

static void make_register(struct world *w, struct arena *a, Imp__Command *c, uint32_t node)
{
    BODY(NODE_REGISTER, node_register, NodeRegister, NODE_REGISTER);
    uint8_t *nonce = arena_zalloc(a, 16);
    nonce[0] = (uint8_t)sim_draw(&w->sim, 200);
    b->node = node;
    b->nonce = BYTES(nonce, 16);
    b->expected_epoch = w->epoch[node];
}

static void make_node_command(struct sim *s, struct arena *a, Imp__Command *c)
{
    uint8_t *hash = arena_zalloc(a, 32), *key = arena_zalloc(a, 32);
    hash[0] = (uint8_t)sim_draw(s, 6);
    key[0] = (uint8_t)sim_draw(s, 4);
    uint32_t node = 1 + sim_draw(s, SIM_MAX_NODES);
    switch (sim_draw(s, 4)) {
    case 0: {
        BODY(TOKEN_ADD, token_add, TokenAdd, TOKEN_ADD);
        b->hash = BYTES(hash, 32);
        b->expires_ms = UINT32_MAX;
        break;
    }
    case 1: {
        BODY(NODE_JOIN, node_join, NodeJoin, NODE_JOIN);
        b->token_hash = BYTES(hash, 32);
        b->public_key_hash = BYTES(key, 32);
        b->name = arena_printf(a, "n%u", 2 + sim_draw(s, 5));
        b->address = b->name;
        b->cluster_port = 7800;
        b->release = (char *)"1.0";
        break;
    }
    case 2: {
        BODY(NODE_SEEN, node_seen, NodeSeen, NODE_SEEN);
        b->node = node;
        break;
    }
    default: {
        BODY(ALARM_RAISE, alarm_raise, AlarmRaise, ALARM_RAISE);
        b->name = (char *)"DiskLow";
        b->node = node;
        b->severity = 1;
        b->text = draw_name(s, a);
    }
    }
}

static void make_user_command(struct sim *s, struct arena *a, Imp__Command *c)
{
    uint64_t uid = 1 + sim_draw(s, 12);
    switch (sim_draw(s, 8)) {
    case 0:
    case 1: {
        BODY(USER_ADD, user_add, UserAdd, USER_ADD);
        b->localpart = draw_name(s, a);
        b->display_name = b->localpart;
        break;
    }
    case 2: {
        BODY(USER_ASSIGN, user_assign, UserAssign, USER_ASSIGN);
        b->n_uids = 1;
        b->uids = arena_alloc(a, sizeof(*b->uids));
        b->uids[0] = uid;
        b->node = sim_draw(s, 3);
        break;
    }
    case 3: {
        BODY(USER_BALANCE, user_balance, UserBalance, USER_BALANCE);
        b->max = 3;
        break;
    }
    case 4: {
        BODY(ROSTER_SET, roster_set, RosterSet, ROSTER_SET);
        b->uid = uid;
        b->contact = draw_jid(s, a);
        b->name = draw_name(s, a);
        break;
    }
    case 5: {
        BODY(SUBSCRIBE, subscribe, Subscribe, SUBSCRIBE);
        b->from = draw_jid(s, a);
        b->to = draw_jid(s, a);
        b->type = sim_draw(s, 4);
        b->stanza = BYTES("<presence/>", 11);
        break;
    }
    default: {
        BODY(MESSAGE_STORE, message_store, MessageStore, MESSAGE_STORE);
        b->to_uid = uid;
        b->from = draw_jid(s, a);
        b->to = draw_jid(s, a);
        b->stanza = BYTES("<body/>", 7);
        b->origin = arena_printf(a, "1.1.%u", sim_draw(s, 500));
    }
    }
}

enum standing { NO_CLUSTER, NO_MEMBER, NO_SESSION, IN_SESSION };

/* What the proposer of NODE knows: its session as the leader's store has it, unless it is ahead of that. */
static enum standing follow_session(struct world *w, struct machine *m, uint32_t node, struct arena *a)
{
    struct key k;
    open_machine(m);
    struct store_txn *t = store_read_txn(m->reader);
    key_init(&k);
    bool has_cluster = store_find_row(t, TABLE_CLUSTER, &k, a);
    key_u32(&k, node);
    const Imp__NodeRow *row = store_find_row(t, TABLE_NODE, &k, a);
    const Imp__ProposerRow *session = row ? store_find_row(t, TABLE_PROPOSER, &k, a) : NULL;
    uint64_t next = session && session->epoch == row->epoch ? session->next_seq : 0;
    uint64_t epoch = row ? row->epoch : 0;
    store_reader_reset(m->reader);
    if (epoch != w->epoch[node] || sim_draw(&w->sim, 3) == 0)
        w->seq[node] = next;
    w->epoch[node] = epoch;
    return !has_cluster ? NO_CLUSTER : !row ? NO_MEMBER : next ? IN_SESSION : NO_SESSION;
}

static struct blob *fsm_draw(struct sim *s, const void *machine)
{
    struct world *w = (struct world *)s;
    struct machine *m = (struct machine *)machine;
    struct arena arena, *a = &arena;
    arena_init(a);
    Imp__Command command = IMP__COMMAND__INIT, *c = &command;
    Imp__Proposal proposal = IMP__PROPOSAL__INIT, *list[] = {&proposal};
    Imp__Entry entry = {
        .base = PROTOBUF_C_MESSAGE_INIT(&imp__entry__descriptor), .n_proposals = 1, .proposals = list};
    uint32_t node = sim_draw(s, 2) ? 1 : 1 + sim_draw(s, SIM_MAX_NODES);
    proposal.command = c;
    w->time_ms += sim_draw(s, 500);
    command.time_ms = w->time_ms;
    enum standing standing = follow_session(w, m, node, a);
    if (standing == NO_MEMBER)
        standing = follow_session(w, m, node = 1, a);
    if (standing == NO_CLUSTER) {
        make_bootstrap(a, c);
    } else if (standing != IN_SESSION || sim_draw(s, 40) == 0) {
        make_register(w, a, c, node);
    } else if (sim_draw(s, 50) == 0) {
        BODY(NODE_DOWN, node_down, NodeDown, NODE_DOWN);
        b->node = node;
        b->epoch = w->epoch[node];
        b->term = w->term;
    } else {
        proposal.node = node;
        proposal.epoch = w->epoch[node];
        proposal.seq = w->seq[node]++;
        if (sim_draw(s, 4))
            make_user_command(s, a, c);
        else
            make_node_command(s, a, c);
    }
    struct blob *payload = blob_new(NULL, imp__entry__get_packed_size(&entry));
    imp__entry__pack(&entry, (uint8_t *)payload->data);
    arena_fini(a);
    return payload;
}

static const struct sim_machine_ops fsm_machine = {
    .make = fsm_make,
    .free = fsm_free,
    .copy = fsm_copy,
    .apply = fsm_apply_entry,
    .hash = fsm_hash,
    .draw = fsm_draw,
};

/* ---- */

static int run(struct world *w, uint64_t seed, const char *root)
{
    unsigned options = SIM_ALL & ~(unsigned)SIM_ONE_VOTER;
    if (seed % 2)
        options |= SIM_ONE_VOTER;
    memset(w, 0, sizeof(*w));
    snprintf(w->root, sizeof(w->root), "%s", root);
    sim_init(&w->sim, seed, options, DRIVER_GUARD_ALL & ~(unsigned)DRIVER_GUARD_ANSWERS);
    w->sim.n_steps = N_STEPS;
    w->sim.machine = &fsm_machine;
    w->sim.machine_user = w;
    w->time_ms = 1000000;
    sim_scenario(&w->sim);
    sim_fini(&w->sim);
    if (w->sim.is_bad)
        printf("seed %llu: %s\n", (unsigned long long)seed, w->sim.why);
    return w->sim.is_bad;
}

int main(int argc, char **argv)
{
    uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : 5,
             first = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    char root[] = "/dev/shm/imp-sim-XXXXXX", other[] = "/tmp/imp-sim-XXXXXX";
    const char *dir = mkdtemp(root) ? root : mkdtemp(other);
    unsigned long n_executed = 0, n_skipped = 0, n_refused = 0, n_installs = 0, n_crashes = 0;
    unsigned n_bad = 0;
    struct world *w = mem_new(struct world);
    if (!dir) {
        perror("mkdtemp");
        return 2;
    }
    for (uint64_t seed = first; seed < first + n; seed++) {
        n_bad += (unsigned)run(w, seed, dir);
        n_executed += w->n_executed;
        n_skipped += w->n_skipped;
        n_refused += w->n_refused;
        n_installs += w->sim.counts.n_installs;
        n_crashes += w->sim.counts.n_crashes;
    }
    mem_free(w);
    remove_dir(dir);
    printf("%llu seeds: %u failed; on all nodes and lives %lu executed (%lu refused), %lu skipped, %lu "
           "crashes, %lu "
           "installs\n",
           (unsigned long long)n, n_bad, n_executed, n_refused, n_skipped, n_crashes, n_installs);
    /* A run in which nothing happened proves nothing. */
    return n_bad || !n_executed || !n_skipped || n_refused * 10 > n_executed * 9;
}
