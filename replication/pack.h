/* Proposals into log entries, on the leader: up to 64 commands or 64 KiB per entry. What comes in while the
 * core or the log are busy waits here and so makes the next entries fuller. Raft thread; no clock. */
#ifndef REPLICATION_PACK_H
#define REPLICATION_PACK_H

#include "base/mem.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    PACK_COMMANDS = 64,
    PACK_BYTES = 64 << 10,
    PACK_MAX_BYTES = 64 << 20, /* held here; what comes above it is dropped: its proposer sends it again */
    PACK_CLOCK_MS = 10000,     /* a command's time that differs more from ours is replaced */
};

struct pack_entry;
struct pack {
    struct pack_entry *first, *last;
    unsigned n_entries, n_commands;
    size_t n_bytes;
    bool is_urgent; /* somebody waits for one of them (pace.h) */
};

void pack_init(struct pack *p);
void pack_fini(struct pack *p);
/* Adds a proposal. node 0: outside any session. False: full. WALL_MS: our Unix time. */
bool pack_add(struct pack *p, uint64_t wall_ms, uint32_t node, uint64_t epoch, uint64_t seq,
              const void *command, size_t n_bytes);
/* The encoded entries that wait, oldest first; they stay ours until pack_drop. */
unsigned pack_peek(const struct pack *p, struct blob **out, unsigned max);
void pack_drop(struct pack *p, unsigned n); /* the first n */
bool pack_is_empty(const struct pack *p);
/* A packed command that nobody is kept from going on by: a message, or marks. */
bool pack_is_patient(const void *command, size_t n_bytes);
void pack_clear(struct pack *p);

#endif
