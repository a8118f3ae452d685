/* One envelope to many users of this node, whichever shards own them. */
#ifndef IM_FAN_OUT_H
#define IM_FAN_OUT_H

#include "im/envelope.h"
#include "im/shard.h"

/* On the shard of these users. Keeps nothing of E. */
typedef void fan_out_fn(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e);

/* Calls FN with those of UIDS that each shard owns: for S at once, on others by a letter with a copy of E. */
void fan_out(struct shard *s, const uint64_t *uids, unsigned n, const struct envelope *e, fan_out_fn *fn);

#endif
