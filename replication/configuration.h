/* The Raft configuration: which nodes take part, and how. A plain value, any thread.
 *
 * Encoded it is the payload of an entry of type RLOG_CHANGE, in the format that libraft 0.22.1 expects
 * (format byte, count, then id, address, role). The address that the core wants is the id in decimal; real
 * addresses live in the member table. The core decodes without bounds: nothing reaches it that
 * configuration_decode has not accepted. */
#ifndef REPLICATION_CONFIGURATION_H
#define REPLICATION_CONFIGURATION_H

#include "base/buf.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CONFIGURATION_MAX = 64, CONFIGURATION_MAX_VOTERS = 5 };

enum configuration_role {
    CONFIGURATION_STANDBY = 0, /* receives the log, has no vote */
    CONFIGURATION_VOTER = 1,
};

struct configuration {
    unsigned n;
    struct configuration_server {
        uint64_t id; /* never 0, unique, never used again after a removal */
        uint8_t role;
    } servers[CONFIGURATION_MAX];
};

/* NULL if ID is not in it. */
const struct configuration_server *configuration_find(const struct configuration *c, uint64_t id);
bool configuration_is_voter(const struct configuration *c, uint64_t id);
unsigned configuration_n_voters(const struct configuration *c);
/* ERR_EXISTS, ERR_LIMIT, ERR_INVALID (id 0). Added at the end: the core relies on the order of the others. */
int configuration_add(struct configuration *c, uint64_t id, enum configuration_role role);
int configuration_set_role(struct configuration *c, uint64_t id,
                           enum configuration_role role);       /* ERR_NOTFOUND */
int configuration_remove(struct configuration *c, uint64_t id); /* ERR_NOTFOUND */

void configuration_encode(struct buf *out, const struct configuration *c); /* appends; c->n > 0 */
/* ERR_MALFORMED; *out is then undefined. */
int configuration_decode(struct configuration *out, const void *data, size_t n_bytes);

#endif
