/* Nodes of a pretended cluster in one process: real shards, stores and state machine; a log that one thread
 * applies to all stores in the same order, links that are letters to a control loop, clients over socket
 * pairs. */
#ifndef UNIT_IM_FIXTURE_H
#define UNIT_IM_FIXTURE_H

#include "im/shard.h"
#include "protocols/xmpp/c2s.h"
#include "protocols/xmpp/xmpp.h"
#include <stdbool.h>
#include <stdint.h>

enum { FIX_NODES_MAX = 3 };

struct fix;

/* N nodes, all up, with N_SHARDS each; users "u1".."uN_USERS"@example.com, on node (i % n) + 1. */
struct fix *fix_new(unsigned n_nodes, unsigned n_shards, unsigned n_users);
void fix_free(struct fix *f);
struct im *fix_im(struct fix *f, unsigned node);
uint64_t fix_uid(struct fix *f, unsigned user);
struct metrics *fix_metrics(struct fix *f, unsigned node);
unsigned fix_relay_frames(struct fix *f, unsigned op); /* LINK_RELAY frames sent so far, of all nodes */

/* Applies a command on every node and waits for it; the result's code. */
int fix_apply(struct fix *f, Imp__Command *command, uint64_t *value);
void fix_set(struct fix *f, const char *key, const char *value);
/* Writes a node's row: up or down, with a raised epoch when it goes down. */
void fix_node_up(struct fix *f, unsigned node, bool up);
/* Both directions of one pair; on its end and its begin the nodes are told. */
void fix_link(struct fix *f, unsigned a, unsigned b, bool up);
/* What A sends to B from now on is on a connection that is broken, and nobody has noticed yet. */
void fix_link_loses(struct fix *f, unsigned a, unsigned b, bool on);
/* The connection on which A sends to B breaks and there is another one at once; that of B to A lives on. */
void fix_link_breaks(struct fix *f, unsigned a, unsigned b);
/* What A tells B of relayed streams is lost, or not taken by the link. */
enum fix_relay { FIX_RELAY_ARRIVES, FIX_RELAY_IS_LOST, FIX_RELAY_IS_REFUSED };
void fix_relay_goes(struct fix *f, unsigned a, unsigned b, enum fix_relay how);
/* What A sends to B arrives when that ends, and not before; one pair at a time. */
void fix_link_delays(struct fix *f, unsigned a, unsigned b, bool on);
void fix_lease(struct fix *f, unsigned node, bool held);
void fix_delay_apply(struct fix *f, unsigned node,
                     bool stop); /* the node's store stands still while stopped */

/* The next N stores of messages are executed, but who proposed them is told that the outcome is unknown. */
void fix_forget_outcomes(struct fix *f, unsigned n);
unsigned fix_stores(struct fix *f); /* stores of messages proposed so far */

/* ---- clients ---- */
struct client {
    int fd;
    char *in; /* everything received, NUL-terminated; client_clear forgets it */
    size_t n, cap;
    char jid[128];
};
/* Log-in of user USER at node EDGE, SASL left out: header, features, bind. RESOURCE NULL: chosen by the
 * server. */
struct client *client_open(struct fix *f, unsigned user, unsigned edge, const char *resource);
/* The same without header and bind. */
struct client *client_raw(struct fix *f, unsigned user, unsigned edge);
void client_close(struct client *c); /* closes the socket */
void client_send(struct client *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Waits until TEXT has come (5 s), fails the test otherwise. */
void client_expect(struct client *c, const char *text);
/* Asks a ping and waits for its answer, so that everything before was handled; then TEXT must not have come.
 */
void client_sync(struct client *c);
void client_expect_not(struct client *c, const char *text);
/* Both see each other's presence from now on. */
void client_befriend(struct client *a, struct client *b, const char *a_bare, const char *b_bare);
bool client_has(struct client *c, const char *text);
unsigned client_count(struct client *c, const char *text);
void client_clear(struct client *c);
bool client_wait_end(struct client *c); /* the server closed: everything up to it is in c->in */
/* Reads what there is, at most MS. */
void client_read(struct client *c, int ms);

#endif
