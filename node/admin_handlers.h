/* One handler per command of commands.def; each in node/admin_<area>.c. Control loop. */
#ifndef NODE_ADMIN_HANDLERS_H
#define NODE_ADMIN_HANDLERS_H

#include "node/admin.h"

#define X(id, area, verb, args, options, input, access, help) void admin_##id(struct admin_call *call);
#include "node/rpc/commands.def"
#undef X

#endif
