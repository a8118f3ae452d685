/* State machines as values: the default one, and what a store of one is. */
#include "sim.h"

/* ---- the default state machine: a hash over all entries ---- */

static uint64_t mix(uint64_t hash, uint64_t v)
{
    hash ^= v + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
    return hash * 0xff51afd7ed558ccdu;
}
static void *hash_make(void *user, unsigned node)
{
    return mem_zalloc(sizeof(uint64_t));
}
static void *hash_copy(const void *machine)
{
    return mem_dup(machine, sizeof(uint64_t));
}
static void hash_apply(void *machine, uint64_t index, const struct rlog_entry *e)
{
    uint64_t *hash = machine;
    *hash = mix(mix(*hash, index), e->type);
    for (unsigned i = 0; i < e->payload->n; i++)
        *hash = mix(*hash, (uint8_t)e->payload->data[i]);
}
static uint64_t hash_hash(const void *machine)
{
    return *(const uint64_t *)machine;
}
const struct sim_machine_ops sim_hash_machine = {
    .make = hash_make, .free = mem_free, .copy = hash_copy, .apply = hash_apply, .hash = hash_hash};

/* ---- stores ---- */

void sim_store_fini(struct sim *s, struct sim_store *store)
{
    if (store->machine)
        s->machine->free(store->machine);
    store->machine = NULL;
}

void sim_store_copy(struct sim *s, struct sim_store *to, const struct sim_store *from)
{
    sim_store_fini(s, to);
    *to = *from;
    if (from->machine)
        to->machine = s->machine->copy(from->machine);
}
