/* Envelopes that cannot be delivered yet: for want of a log index, of the lease, or because the addressee's
 * former home has not handed over. By addressee, in the order in which each sender sent them, whatever way
 * they took. Shard's thread; owned by the router. */
#ifndef IM_HELD_H
#define IM_HELD_H

#include "base/htab.h"
#include "im/envelope.h"

struct held {
    struct htab users;
    size_t n_bytes;
};

void held_init(struct held *h);
void held_fini(struct held *h);
bool held_is_empty(const struct held *h);
uint64_t held_key(const struct envelope *e); /* whose queue it belongs to */
bool held_has(const struct held *h, uint64_t key);
void held_add(struct held *h, struct envelope *e);
/* The next one of KEY, NULL: none; it stays in until held_take. */
struct envelope *held_first(const struct held *h, uint64_t key);
struct envelope *held_take(struct held *h, uint64_t key);
void held_put_back(struct held *h, struct envelope *e); /* as the first again */
/* Was E sent by this session, which is at home on this node, and does its client wait for it to be counted?
 */
bool held_is_of(const struct envelope *e, uint64_t session);
/* Drops what is. */
void held_forget(struct held *h, uint64_t session);
/* The keys there are, so that a walk over them does not mind what changes meanwhile; mem_free. */
uint64_t *held_keys(const struct held *h, size_t *n);

#endif
