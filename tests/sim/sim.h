/* A deterministic simulation of up to five nodes: the real driver and the real log over simulated time, disks
 * and network. Everything is drawn from one seed; a seed that fails is a recipe.
 *
 * What can happen: power loss (unsynced writes there, gone or torn) and death of the process alone, of one
 * node or all; loss, duplicates, reordering, one-way and full cuts; slow disks; changes of the membership
 * from one voter up, also against members that do not answer; durable points with 0-5 entries kept, slow
 * installs in the running node and through a restart with a marker, interrupted at each step; transfers;
 * pre-vote on and off.
 *
 * What is checked: at every index the same term, command and state hash on every node over every life; one
 * leader, and one life of it, per term; every log opens, and is never shorter than its store; nobody says
 * that it has stored what is not on its disk, or says yes to a message of an older term; nobody is told the
 * same nothing again and again; a vote that comes too late changes nothing; the core keeps no memory when all
 * is over; after healing a leader, progress, no change that is stuck, nobody lagging. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "replication/driver.h"
#include "sim_disk.h"
#include "sim_queue.h"

enum { SIM_MAX_NODES = 5, SIM_MAX_INDEX = 40000, SIM_MAX_TERM = 8192 };

enum sim_option {
    SIM_CRASH = 1 << 0,
    SIM_MEMBERS = 1 << 1,
    SIM_SNAPSHOTS = 1 << 2,
    SIM_REORDER = 1 << 3,
    SIM_TRANSFER = 1 << 4,
    SIM_ONE_VOTER = 1 << 5, /* start with one, else with three */
    SIM_WILD = 1 << 6,      /* membership changes whoever answers */
    SIM_LOSS = 1 << 7,
    SIM_CHURN = 1 << 8, /* many membership changes, and leaders that fail right after one */
    SIM_ALL = (1 << 9) - 1,
};

struct sim;

/* The state machine under test. The default one is a hash of all commands; the real one can take its place. A
 * machine is a value: copies are durable points and what an install carries. */
struct sim_machine_ops {
    void *(*make)(void *user, unsigned node);
    void (*free)(void *machine);
    void *(*copy)(const void *machine);
    void (*apply)(void *machine, uint64_t index, const struct rlog_entry *e);
    uint64_t (*hash)(const void *machine);
    /* The next command, as somebody would propose it who sees this machine (the leader's). NULL: numbers. */
    struct blob *(*draw)(struct sim *s, const void *machine);
};
extern const struct sim_machine_ops sim_hash_machine;

struct sim_store {
    void *machine; /* NULL: there is none */
    uint64_t index, term, conf_index;
    struct configuration conf;
};

struct sim_node {
    struct sim *s;
    unsigned id;
    /* Survives crashes. */
    struct sim_disk disk;
    struct sim_store point;  /* the last durable one */
    struct sim_store marker; /* an install that a start has to finish */
    uint64_t install_seen;
    /* Of one life. */
    bool is_up, is_dead; /* dead: the process has ended itself in a callback, and is taken down soon */
    unsigned life;
    struct rlog *log;
    struct vote vote;
    struct driver *driver;
    struct sim_store live; /* what apply has made */
    uint64_t reported;     /* to driver_applied */
    uint64_t due_ms;
    unsigned disk_ms;
    bool is_point_running, is_disk_scheduled, is_done_scheduled, is_log_writing;
    uint64_t install_index;
    bool is_old_term;  /* the message that it handles is of an older term */
    struct sim_empty { /* the last empty AppendEntries to a peer */
        uint64_t at, term, prev, commit;
    } empty[SIM_MAX_NODES + 1];
};

struct sim_event;

struct sim {
    uint64_t seed;
    struct sim_random random;
    struct sim_queue queue; /* milliseconds */
    unsigned options, guards, n_steps;
    bool is_verbose;
    uint64_t now;
    struct sim_node nodes[SIM_MAX_NODES + 1]; /* from 1 */
    bool cut[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1];
    uint64_t last_arrival[SIM_MAX_NODES + 1][SIM_MAX_NODES + 1];
    unsigned loss_per_mille, dup_per_mille;
    uint64_t next_value;
    const struct sim_machine_ops *machine;
    void *machine_user;
    struct log *log;
    struct {
        uint64_t term, hash, value;
        uint32_t type;
    } * oracle;
    struct {
        unsigned node, life;
    } * leaders;
    bool is_bad;
    char why[256];
    struct sim_counts {
        unsigned long n_commits, n_elections, n_crashes, n_installs, n_points, n_changes, n_reads, n_rebuilt,
            n_below, n_messages;
    } counts;
};

enum sim_event_kind {
    SIM_MESSAGE,
    SIM_DISK,
    SIM_LOG_DONE,
    SIM_APPLIED,
    SIM_POINT,
    SIM_INSTALL,
    SIM_BOOT,
    SIM_CRASH_NOW,
};
struct sim_event {
    struct sim_timed timed;
    enum sim_event_kind kind;
    unsigned node, life, from;
    uint64_t index;
    struct buf frame;
    struct sim_store store;
};

/* sim.c: time, randomness, verdicts */
void sim_init(struct sim *s, uint64_t seed, unsigned options, unsigned guards);
void sim_fini(struct sim *s);
unsigned sim_draw(struct sim *s, unsigned n); /* 0 .. n - 1 */
void sim_bad(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_say(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct sim_event *sim_schedule(struct sim *s, enum sim_event_kind kind, struct sim_node *n,
                               unsigned after_ms);
void sim_run(struct sim *s, uint64_t until);

/* sim_node.c: one node */
void sim_store_copy(struct sim *s, struct sim_store *to, const struct sim_store *from);
void sim_store_fini(struct sim *s, struct sim_store *store);
void sim_node_init(struct sim *s, unsigned id);
void sim_node_bootstrap(struct sim_node *n, const struct configuration *conf);
void sim_node_boot(struct sim_node *n);
void sim_node_crash(struct sim_node *n, bool power);
void sim_node_fire(struct sim *s, struct sim_event *e);
void sim_node_maybe_point(struct sim_node *n);
bool sim_node_is_running(const struct sim_node *n);

/* sim_heap.c: blocks that the core holds */
void sim_heap_begin(void);
long sim_heap_blocks(void);

/* sim_scenario.c */
void sim_scenario(struct sim *s);

#endif
