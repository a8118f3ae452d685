/* Up to five replicas in one process, each with a directory, a control loop and a listener on 127.0.0.1 of
 * its own, with certificates of one CA. */
#ifndef TESTS_REPLICA_FIXTURE_H
#define TESTS_REPLICA_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "cut_proxy.h"
#include "replication/replica.h"
#include "test_certs.h"
#include <cmocka.h>
#include <stdatomic.h>

enum { MAX_NODES = 5 };

struct tnode {
    struct cluster *c;
    uint32_t id;
    char *dir;
    struct loop *loop; /* control */
    struct listener *listener;
    unsigned port;
    struct cut_proxy *proxy; /* with cluster.cut_after: what the others are told of */
    struct tls_ctx *server, *client;
    struct tls_sni *sni;
    struct store *store;
    struct replica *_Atomic r; /* NULL: stopped */
    struct metrics metrics;
    atomic_uint n_fatal, n_exit_again, n_events, n_reloads, n_changes, n_differ, n_equal;
    _Atomic uint64_t feed_index, feed_applied; /* of the last event, and as told with it */
    char fatal[256];
    struct replica_address known[MAX_NODES];
};
struct cluster {
    char *dir;
    struct test_ca ca;
    uint8_t id[16];
    struct log *log;
    unsigned election_ms, heartbeat_ms;
    uint64_t log_keep_bytes;
    bool tell_known;  /* a node that starts is told where the others were */
    size_t cut_after; /* bytes after which connections between nodes are cut; 0: never. For nodes that join
                         later */
    struct tnode nodes[MAX_NODES + 1]; /* by id */
};

struct cluster *cluster_new(void);    /* node 1 is bootstrapped, not started */
void cluster_free(struct cluster *c); /* stops what runs, removes the directories */
struct tnode *node_start(struct cluster *c, uint32_t id);
void node_start_as(struct tnode *n, uint32_t id); /* its directory and listener, another's identity */
void node_stop(struct tnode *n);                  /* replica_stop */
void node_forget_store(struct tnode *n);          /* stopped: back at a durable point without anything */
void node_listen(struct tnode *n);
void end_loops(struct cluster *c); /* of nodes that are stopped: their threads end, their ports stay known */
/* Adds nodes 2..n through the leader and makes them voters, then waits until all have a session. */
void cluster_grow(struct cluster *c, unsigned n);

/* Waits until all running nodes have applied the same, everything that was acknowledged; then their hashes
 * are equal. */
void await_equal(struct cluster *c);
struct tnode *cluster_leader(struct cluster *c); /* waits for one that all running nodes agree on */
/* Waits until the condition holds; fails the test with WHAT after 60 s. */
#define await(condition, what)                                                                               \
    do {                                                                                                     \
        struct await_clock await_clock = await_begin();                                                      \
        while (!(condition))                                                                                 \
            await_step(&await_clock, what, __FILE__, __LINE__);                                              \
    } while (0)
struct await_clock {
    uint64_t end_ms;
};
struct await_clock await_begin(void);
void await_step(struct await_clock *clock, const char *what, const char *file, int line);

/* Submits and waits for the answer. */
struct proposal_outcome {
    int code;
    uint64_t index, value;
};
struct proposal_outcome propose(struct tnode *n, Imp__Command *command);
struct proposal_outcome propose_alarm(struct tnode *n, const char *text);
void propose_alarm_until_done(struct tnode *n, const char *text); /* again while there is no session */
int barrier(struct tnode *n, unsigned timeout_ms, uint64_t *index);
int change(struct tnode *n, enum replica_change what, uint32_t node);
int transfer(struct tnode *n, uint32_t to);
uint64_t n_alarms(struct tnode *n);             /* rows in the table */
char *alarm_text(struct tnode *n, uint64_t id); /* heap, NULL: none */
void state_hash(struct tnode *n, struct store_hash *out, uint64_t *index);

#endif
