/* Feature levels: what a cluster's log may contain and how it is applied (docs/schema-steps.md). The
 * cluster's level is in its row; it is raised once every member's release knows the next one, and never
 * falls. Constant, any thread. */
#ifndef REPLICATION_LEVELS_H
#define REPLICATION_LEVELS_H

#include "base/err.h"

enum {
#define X(level, release, what) LEVEL_##level = level,
#include "replication/levels.def"
#undef X
    LEVEL_FIRST = 1,
};

/* What comes with level 3: the key of messages' ids (docs/adr/0044-ids-of-messages.md). */
enum { MESSAGE_KEY_BYTES = 16 };

/* Highest that this program knows. */
unsigned level_known(void);
/* The release from which a level is known; "a newer release" for one that this program has never heard of. */
const char *level_release(unsigned level);
const char *level_what(unsigned level);
/* Can this release take part in a cluster of that level? ERR_VERSION with what to do. */
int level_refuse(unsigned level, struct err_ctx *err);
/* For who asks for something of a higher level than the cluster's: what to do about it. */
enum { LEVEL_TEXT_MAX = 160 };
void level_remedy(char out[LEVEL_TEXT_MAX], unsigned level);

#endif
