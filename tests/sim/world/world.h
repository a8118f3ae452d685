/* A deterministic simulation of whole nodes: what impnode runs between its sockets and its clients, in one
 * process, under one virtual clock. The node's own control loop, watcher, alarms, member manager, links, IM
 * core and replica (driver, log, proposer, leases, barriers, transport, installs, FSM and LMDB store) are the
 * very code of the node.
 *
 * Replaced, at the seam of a header, are only the things that touch the machine: loop.c and clock.c
 * (world_loop.c), stream.c and tls.c (world_stream.c), disk_directory.c (world_disk.c), and threads
 * (replica_stepper). A process of a node that ends itself goes back to world_run by longjmp, and its memory
 * is left behind, as after _exit: each seed runs in a process of its own.
 *
 * What can happen: world_scenario.c. What must hold at every step and at the end: world_check.c. */
#ifndef TESTS_WORLD_H
#define TESTS_WORLD_H

#include "base/loop.h"
#include "base/mem.h"
#include "im/session.h"
#include "node/node_impl.h"
#include "sim_disk.h"
#include "sim_queue.h"
#include <setjmp.h>

enum {
    WORLD_NODES = 12, /* highest id: ids are never used twice */
    WORLD_HOSTS = 32,
    WORLD_LIVING = 7, /* members at one time */
    WORLD_USERS = 10,
    WORLD_MAX_INDEX = 20000,
    WORLD_MAX_TERM = 4096,
    WORLD_MAX_OPS = 8192,
    WORLD_PORT = 7800,
    MS = 1000, /* the queue's unit is the microsecond */
    SECOND = 1000 * 1000,
};

/* A deliberate fault in the product, to see that the simulation finds it: world_mutation.c. */
enum world_mutation {
#define X(id, name, help) MUTATION_##id,
#include "world_mutations.def"
#undef X
    N_MUTATIONS,
};
const char *world_mutation_name(enum world_mutation m);

struct world_node;
struct phones;
struct mails;

/* Something that happens. NODE: whose process does it (it waits while that is paused, and never happens once
 * the process has ended), or NULL. */
struct world_event {
    struct sim_timed timed;
    struct world_node *node;
    unsigned life;
    unsigned tag; /* for the digest of the trace */
    void (*fire)(struct world_event *e);
};

struct world_node {
    uint32_t id;
    unsigned host; /* 10.0.0.host: known before the id is */
    char dir[112], name[16];
    bool is_member;  /* may be started: bootstrapped or joined */
    bool is_removed; /* ended itself, because it was */
    bool is_witness;
    /* The machine. */
    struct sim_disk disk;
    bool is_off; /* after a power loss, until it boots */
    int64_t wall_offset_ms;
    uint64_t clock_base_us, suspended_us; /* CLOCK_MONOTONIC = base + now - suspended */
    uint64_t paused_until;
    bool is_suspended;    /* not only stopped: CLOCK_MONOTONIC stands too */
    unsigned disk_us;     /* a sync takes up to so long */
    struct loop *stalled; /* one thread alone stands still */
    uint64_t stall_until;
    struct world_event boot;
    /* The process. */
    unsigned life;
    bool is_alive;
    struct node *node;
    struct replica_stepper stepper;
    struct store_reader *look; /* of the checks */
    struct listener *listener; /* of the cluster port; NULL: not open yet */
    bool is_log_writing, is_log_scheduled, is_apply_scheduled;
    uint64_t committed_before; /* the highest index that was committed anywhere when this process started */
    uint64_t started;
    bool was_released;
    struct world_event log_event, apply_event, point_event;
};

enum op_state { OP_ASKED, OP_DONE, OP_NEVER, OP_UNKNOWN };
struct world_op {
    enum op_state state;
    unsigned user; /* 1 + number, for a roster item; 0: a note */
    uint32_t node;
    uint64_t index;
};

struct world_user {
    uint64_t uid; /* 0: not there yet */
    bool is_asked;
    struct list sessions; /* struct client_session */
};

/* What a seed does besides. */
enum world_option {
    WORLD_HOMES = 1,    /* at most one home is checked, through every kind of move */
    WORLD_REMOVALS = 2, /* members are removed */
    WORLD_PHONES = 4,   /* clients speak XMPP and send each other messages: world_phone.h */
    WORLD_DIRECT = 8,   /* of some users nobody archives anything: their messages go from home to home */
    WORLD_DEFAULT = WORLD_HOMES | WORLD_REMOVALS,
};

struct world {
    uint64_t seed;
    unsigned options;
    struct sim_random random;
    struct sim_queue queue;
    enum world_mutation mutation; /* N_MUTATIONS: none */
    unsigned trace;               /* 0: silent, 1: what happens, 2: and the nodes' logs */
    char root[80];
    struct log *log;
    struct world_node nodes[WORLD_NODES + 1]; /* from 1 */
    unsigned n_nodes;                         /* ids given so far */
    uint32_t hosts[WORLD_HOSTS];              /* by the last number of the address; 0: nobody */
    unsigned n_hosts;
    struct world_node *current; /* whose code runs */
    struct loop *turning;       /* and in whose turn */
    jmp_buf death;
    bool can_die;
    char death_text[256];
    bool death_again;
    uint8_t cluster_id[16];

    /* the network */
    bool cut[WORLD_NODES + 1][WORLD_NODES + 1];
    unsigned loss_per_million, reset_per_million;
    unsigned latency_us;
    struct list streams;
    struct stream *offered; /* accepted, about to be taken */

    /* what the clients know */
    struct world_user users[WORLD_USERS];
    struct world_op ops[WORLD_MAX_OPS];
    unsigned n_ops;
    uint64_t acknowledged; /* the highest index that somebody was told of */
    struct world_event clients;
    bool is_calm; /* no more faults */
    struct phones *phones;
    struct mails *mails;

    /* the oracle */
    uint64_t committed;        /* the highest index applied anywhere, ever */
    struct store_hash *hashes; /* by index; 0: not known */
    struct {
        uint32_t node;
        unsigned life;
    } * leaders; /* by term */
    uint64_t digest;
    bool is_bad;
    char why[320];
    struct world_counts {
        unsigned long n_events, n_commits, n_elections, n_crashes, n_pauses, n_cuts, n_installs, n_acked,
            n_never, n_unknown, n_reads, n_logins, n_downs, n_joins, n_removals, n_moves, n_releases, n_slow,
            healed_ms, virtual_ms, n_mails, n_counted, n_sessions, n_resumed, n_lost_sessions, n_repeats,
            n_bounced;
    } counts;
};
/* Begins a function that the linker (--wrap) puts in the place of NAME, for callers in other files. */
#define WRAP(type, name, ...)                                                                                \
    type __real_##name(__VA_ARGS__);                                                                         \
    type __wrap_##name(__VA_ARGS__);                                                                         \
    type __wrap_##name(__VA_ARGS__)

extern struct world *W; /* the machine room: clocks and loops have no parameter to reach it by */

/* ---- world.c ---- */
void world_init(uint64_t seed, unsigned options, enum world_mutation mutation, unsigned trace,
                const char *root);
void world_end(void);
void world_run_until(uint64_t us); /* of the virtual clock */
static inline void world_run(uint64_t us)
{
    world_run_until(W->queue.now + us);
}
uint64_t draw(uint64_t n); /* 0 .. n - 1 */
bool chance(unsigned percent);
void world_bad(const char *format, ...) __attribute__((format(printf, 1, 2)));
void world_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
void world_mix(uint64_t v); /* into the digest of the trace */
void world_schedule(struct world_event *e, struct world_node *n, unsigned tag, uint64_t after_us,
                    void (*fire)(struct world_event *e));
/* The running process ends itself. */
void world_die(bool again, const char *text) __attribute__((noreturn));
static inline bool world_has(enum world_mutation m)
{
    return W->mutation == m;
}

/* ---- world_loop.c ---- */
void world_loop_wake(struct loop *l);
bool world_loop_is_of(const struct loop *l, const struct world_node *n);
uint64_t world_boot_ms(const struct world_node *n);
extern void (*const world_stream_deliver)(
    struct loop *l); /* world_stream.c: what has arrived for the loop's streams */
struct list *world_loop_ready(struct loop *l);
struct world_node *world_loop_node(struct loop *l);

/* ---- world_stream.c ---- */
struct tls_ctx *world_tls(const char *alpn);
void world_streams_end(struct world_node *n, bool power); /* the process has ended */

/* ---- world_node.c ---- */
void world_node_init(struct world_node *n, uint32_t id);
void world_node_make_cluster(void); /* the log of node 1 */
void world_node_boot(struct world_node *n, uint64_t after_us);
void world_node_end(struct world_node *n, bool power);
void world_node_add(uint32_t id, unsigned host, const char *name);
void world_key_of(unsigned host, uint8_t out[32]);
void world_node_log_work(void *n);
struct world_node *world_leader(void); /* NULL: none that runs */
unsigned world_n_alive(void);
static inline struct shard *world_shard(struct world_node *n)
{
    return im_shard(n->node->im, 0);
}

/* ---- world_client.c: what people do ---- */
void clients_begin(void); /* some of all that, all the time */
void client_process_ended(struct world_node *n);
void client_write(struct world_node *n); /* a note in the audit log: executed twice it would be there twice */
void client_read(struct world_node *n);  /* behind a barrier */
void client_log_in(struct world_node *n, unsigned user);
void client_come_back(unsigned user);                        /* it tries everywhere in a moment */
void client_set_roster(struct world_node *n, unsigned user); /* by one of the user's sessions there */
bool client_serves(const struct world_node *n, unsigned user);

/* ---- world_admin.c: what an administrator does ---- */
struct world_node *world_some_node(void); /* a process that is there; NULL: none */
void operator_call(struct world_node *n, void (*fn)(struct world_node *n, void *arg),
                   void *arg); /* on the control loop */
int operator_propose(struct world_node *n, Imp__Command *command, proposal_done_fn *on_done, void *user);
void operator_join(struct world_node *n);
void operator_add_user(struct world_node *n, unsigned user);
void operator_do_something(struct world_node *n);
void operator_undrain(struct world_node *n, uint32_t node);

/* ---- world_check.c ---- */
void check_applied(struct world_node *n);
void check_step(void);
bool check_healed(char *why, size_t n_why); /* all is well again */
void check_end(void);
void check_describe(void);

/* ---- world_scenario.c ---- */
void world_scenario(void);

#endif
