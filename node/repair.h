/* What a node does when its own copy of the tables is wrong, and for others whose copy is.
 *
 *   found by                    on                    then
 *   a read, LMDB, SIGBUS        any thread            DIR/damaged, leadership handed over, the worker ends at
 * once a scrub, the majority       control, raft loop    DIR/damaged, fenced: no lease, no feature services;
 * a copy is taken while the node runs on, then the worker ends the start: DIR/damaged, or  control loop
 * repair_run: nothing is opened; a copy is taken from a member a store that cannot be that lets us opened
 *
 * The next start swaps the copy in. By itself (replication.auto_repair) a node gets REPAIR_A_DAY copies in 24
 * hours, counted by the TablesDiffer alarms, which every member knows; else a person says so: dbreplication
 * repair. */
#ifndef NODE_REPAIR_H
#define NODE_REPAIR_H

#include "base/err.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { REPAIR_A_DAY = 3 };

struct node;
struct repair;

/* Before the store is opened: SIGBUS is a damaged store from now on. */
void repair_start(struct node *n);
/* Is the copy known to be damaged, from an earlier life? The text, or NULL. */
const char *repair_known(struct node *n);
/* Takes a copy on the control loop, as long as that takes, and ends the process. Returns only when it cannot
 * begin. */
int repair_run(struct node *n, const char *text, struct err_ctx *err);

/* Any thread; does not return. */
void repair_on_store_fatal(struct node *n, const char *detail) __attribute__((noreturn));
/* Raft thread. */
void repair_on_peer_damaged(void *user, uint32_t node, const char *text);
void repair_on_tables_equal(void *user, uint64_t index);

/* Control loop. */
void repair_damaged(struct node *n, const char *text); /* this node's tables are wrong, and it runs */
bool repair_is_damaged(const struct node *n);
void repair_step(struct node *n);

/* For the administrator. NODE said a moment ago that its tables are damaged and that it does nothing but
 * wait: it gets a copy now. False: it did not. */
bool repair_allow(struct repair *p, uint32_t node);

#endif
